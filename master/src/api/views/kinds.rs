//! What kinds of jobs add to the view of a job: a cron job's ticks.

use super::job_state;
use borg_cell::state::{CellState, Fate, Job, Tick};
use borg_proto::wire::pb;

/// What there is to tell of a cron job, its history aside.
pub(super) fn cron_info(job: &Job) -> Option<pb::CronInfo> {
    let (ticks, cron) = (job.ticks()?, job.spec.cron.as_ref()?);
    Some(pb::CronInfo {
        schedule: cron.schedule.to_string(),
        next_ms: ticks.next.filter(|_| job.is_alive()).map(|next| next.0),
        paused: ticks.paused,
        made: ticks.made,
        history: Vec::new(),
    })
}

/// What became of its ticks, the newest first.
pub(super) fn history(state: &CellState, job: &Job) -> Vec<pb::CronTick> {
    let ticks = job.ticks().into_iter().flat_map(|ticks| ticks.history.iter().rev());
    ticks.map(|tick| told(state, tick)).collect()
}

fn told(state: &CellState, tick: &Tick) -> pb::CronTick {
    let bare = pb::CronTick {
        tick_ms: tick.tick.0,
        at_ms: tick.at.0,
        ordered: tick.ordered,
        ..pb::CronTick::default()
    };
    match &tick.fate {
        Fate::Skipped { why } => pb::CronTick { note: why.clone(), ..bare },
        Fate::Run { job, ended: Some((at, end, note)), .. } => pb::CronTick {
            job: job.to_string(),
            ended_ms: Some(at.0),
            state: job_state(*end).into(),
            note: note.clone(),
            ..bare
        },
        Fate::Run { id, job, ended: None } => {
            let run = state.job(*id);
            pb::CronTick {
                job: job.to_string(),
                state: run.map_or(pb::JobState::Unspecified, |run| job_state(run.state())).into(),
                note: run.map(|run| run.note(state)).unwrap_or_default(),
                ..bare
            }
        }
    }
}
