//! What kinds of jobs add to a checkpoint, a cron job's ticks above all; and refusals about them as kinds,
//! numbers and texts, as `outcome` carries them.

use super::outcome::Fields;
use super::parts::missing;
use crate::rejection::KindRejection as K;
use crate::state::{CronState, Fate, JobState, MAX_TICK_TEXT, Tick};
use borg_proto::names::NameError;
use borg_proto::wire::{WireError, pb};
use borg_proto::{JobId, JobKind, Millis};

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 280..=296;
/// Most ticks that a checkpoint may have of one cron job: finished and other runs, live ones and skipped.
const MAX_TICKS: usize = 1_000;

pub(super) fn refusal(of: &K) -> (u32, Vec<u64>, Vec<String>) {
    let kind_number = |kind: &JobKind| u64::from(pb::JobKind::from(*kind) as u32);
    match of {
        K::NoParent { parent } => (280, vec![], vec![parent.to_string()]),
        K::ParentOver { parent, state } => {
            (281, vec![], vec![parent.to_string(), state.to_string()])
        }
        K::ParentOfOthers { parent, user } => {
            (282, vec![], vec![parent.to_string(), user.to_string()])
        }
        K::OwnParent { job } => (283, vec![], vec![job.to_string()]),
        K::AfterStanding { job, kind } => (284, vec![kind_number(kind)], vec![job.to_string()]),
        K::NoTasks { job } => (285, vec![], vec![job.to_string()]),
        K::Pinned { task, home, machine } => {
            let numbers = vec![task.job.0, task.index.into()];
            (286, numbers, vec![home.to_string(), machine.to_string()])
        }
        K::RerunKind { job, kind } => (287, vec![kind_number(kind)], vec![job.to_string()]),
        K::NeverBegan { job } => (288, vec![], vec![job.to_string()]),
        K::TaskAlive { job, index } => (289, vec![(*index).into()], vec![job.to_string()]),
        K::NotCron { job, kind } => (290, vec![kind_number(kind)], vec![job.to_string()]),
        K::CronOver { job, state } => (291, vec![], vec![job.to_string(), state.to_string()]),
        K::RunAlive { run } => (292, vec![], vec![run.to_string()]),
        K::ManyRuns { job, most } => (293, vec![(*most).into()], vec![job.to_string()]),
        K::NoName { made } => (294, vec![*made], vec![]),
        K::AfterParent { job, first } => (295, vec![], vec![job.to_string(), first.to_string()]),
        K::IsCron { job } => (296, vec![], vec![job.to_string()]),
    }
}

pub(super) fn read(number: u32, from: &mut Fields) -> Result<K, WireError> {
    Ok(match number {
        280 => K::NoParent { parent: from.name()? },
        281 => K::ParentOver { parent: from.name()?, state: from.job_state()? },
        282 => K::ParentOfOthers { parent: from.name()?, user: from.name()? },
        283 => K::OwnParent { job: from.name()? },
        284 => K::AfterStanding { kind: kind(from)?, job: from.name()? },
        285 => K::NoTasks { job: from.name()? },
        286 => K::Pinned { task: from.task()?, home: from.name()?, machine: from.name()? },
        287 => K::RerunKind { kind: kind(from)?, job: from.name()? },
        288 => K::NeverBegan { job: from.name()? },
        289 => K::TaskAlive { index: from.small()?, job: from.name()? },
        290 => K::NotCron { kind: kind(from)?, job: from.name()? },
        291 => K::CronOver { job: from.name()?, state: from.job_state()? },
        292 => K::RunAlive { run: from.name()? },
        293 => K::ManyRuns { most: from.small()?, job: from.name()? },
        294 => K::NoName { made: from.number()? },
        295 => K::AfterParent { job: from.name()?, first: from.name()? },
        296 => K::IsCron { job: from.name()? },
        other => return Err(WireError::new("kind", other, "is no refusal about kinds of jobs")),
    })
}

fn kind(from: &mut Fields) -> Result<JobKind, WireError> {
    let number = from.small()?;
    let unknown = || WireError::new("numbers", number, "is no kind of job");
    let known = i32::try_from(number).ok().and_then(|number| pb::JobKind::try_from(number).ok());
    JobKind::try_from(known.ok_or_else(unknown)?)
}

pub(super) fn cron(state: &CronState) -> pb::CheckpointCron {
    pb::CheckpointCron {
        next_ms: state.next.map(|next| next.0),
        paused: state.paused,
        made: state.made,
        history: state.history.iter().map(tick).collect(),
    }
}

fn tick(tick: &Tick) -> pb::CheckpointTick {
    let (run, skipped) = match &tick.fate {
        Fate::Run { id, job, ended } => {
            let ended = ended.as_ref().map(|(at, state, note)| pb::checkpoint_tick::Ended {
                at_ms: at.0,
                state: state.to_string(),
                note: note.clone(),
            });
            (Some(pb::checkpoint_tick::Run { id: id.0, job: job.to_string(), ended }), None)
        }
        Fate::Skipped { why } => (None, Some(why.clone())),
    };
    pb::CheckpointTick {
        tick_ms: tick.tick.0,
        at_ms: tick.at.0,
        ordered: tick.ordered,
        run,
        skipped,
    }
}

pub(super) fn read_cron(from: pb::CheckpointCron) -> Result<CronState, WireError> {
    if from.history.len() > MAX_TICKS {
        let why = format!("are more than {MAX_TICKS}");
        return Err(WireError::new("history", from.history.len(), why));
    }
    let read = |(i, tick)| {
        read_tick(tick).map_err(|error: WireError| error.within(&format!("history[{i}]")))
    };
    Ok(CronState {
        next: from.next_ms.map(Millis),
        paused: from.paused,
        made: from.made,
        history: from.history.into_iter().enumerate().map(read).collect::<Result<_, _>>()?,
    })
}

fn read_tick(from: pb::CheckpointTick) -> Result<Tick, WireError> {
    let fate = match (from.run, from.skipped) {
        (Some(run), None) => Fate::Run {
            id: JobId(run.id),
            job: run.job.parse().map_err(|e: NameError| WireError::from(e).within("job"))?,
            ended: run.ended.map(read_ended).transpose()?,
        },
        (None, Some(why)) => Fate::Skipped { why: short("skipped", why)? },
        (None, None) => return Err(missing("run")),
        (Some(_), Some(why)) => return Err(WireError::new("skipped", why, "was a run too")),
    };
    Ok(Tick { tick: Millis(from.tick_ms), at: Millis(from.at_ms), ordered: from.ordered, fate })
}

fn read_ended(ended: pb::checkpoint_tick::Ended) -> Result<(Millis, JobState, String), WireError> {
    let state = super::outcome::job_state(&ended.state)?;
    Ok((Millis(ended.at_ms), state, short("note", ended.note)?))
}

fn short(field: &str, text: String) -> Result<String, WireError> {
    if text.len() <= MAX_TICK_TEXT {
        return Ok(text);
    }
    Err(WireError::new(field, text, format!("is longer than {MAX_TICK_TEXT} bytes")))
}
