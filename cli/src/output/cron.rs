//! Cron jobs in the JSON form of answers.

use super::views::job_state;
use borg_proto::wire::pb;
use serde::Serialize;

/// The ticks of a cron job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.CronInfo, documented there")]
pub struct Cron {
    pub schedule: String,
    pub next_ms: Option<u64>,
    pub paused: bool,
    pub made: u64,
    pub history: Vec<Tick>,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.CronTick, documented there")]
pub struct Tick {
    pub tick_ms: u64,
    pub at_ms: u64,
    pub job: Option<String>,
    /// `skipped` when no job was made.
    pub state: &'static str,
    pub ended_ms: Option<u64>,
    pub ordered: bool,
    pub note: String,
}

impl From<pb::CronInfo> for Cron {
    fn from(cron: pb::CronInfo) -> Self {
        Self {
            schedule: cron.schedule,
            next_ms: cron.next_ms,
            paused: cron.paused,
            made: cron.made,
            history: cron.history.into_iter().map(Tick::from).collect(),
        }
    }
}

impl From<pb::CronTick> for Tick {
    fn from(tick: pb::CronTick) -> Self {
        let made = !tick.job.is_empty();
        Self {
            state: if made { job_state(tick.state()) } else { "skipped" },
            tick_ms: tick.tick_ms,
            at_ms: tick.at_ms,
            ended_ms: tick.ended_ms,
            ordered: tick.ordered,
            note: tick.note,
            job: made.then_some(tick.job),
        }
    }
}
