//! How runs ended, as it stands in a checkpoint.

use super::DecodeError;
use super::parts::{missing, read_evict, write_evict};
use crate::state::CellState;
use crate::state::runs::{RUNS_KEPT, RunOver, Runs, TaskRun};
use borg_proto::task::{FailureCause, RunEnd};
use borg_proto::wire::{WireError, pb};
use borg_proto::{JobId, MachineName, Millis, TaskId};
use pb::checkpoint_run::End;
use pb::checkpoint_task::Evict;
use std::sync::Arc;

pub(super) fn write((number, run): (u64, &TaskRun)) -> pb::CheckpointRun {
    pb::CheckpointRun {
        number,
        job: run.task.job.0,
        index: run.task.index,
        incarnation: run.incarnation,
        machine: run.machine.to_string(),
        placed_ms: run.placed.0,
        at_ms: run.at.0,
        end: Some(match &run.over {
            RunOver::Finished => End::Finished(true),
            RunOver::Failed(cause) => End::Failed(cause.into()),
            RunOver::Evicted(cause) => End::Evicted(Evict { cause: Some(write_evict(cause)) }),
        }),
        told: run.told.as_deref().map(Into::into),
    }
}

pub(super) fn read(
    state: &mut CellState,
    runs: Vec<pb::CheckpointRun>,
    noted: u64,
) -> Result<(), DecodeError> {
    if runs.len() > 2 * RUNS_KEPT {
        let why = format!("are more than {}", 2 * RUNS_KEPT);
        return Err(WireError::new("runs", runs.len(), why).into());
    }
    let mut all = Runs::default();
    all.noted = noted;
    for (i, run) in runs.into_iter().enumerate() {
        let within = |error: WireError| error.within(&format!("runs[{i}]"));
        let (number, run) = read_run(run).map_err(within)?;
        let id = run.task.job;
        let job = state
            .job(id)
            .ok_or_else(|| within(WireError::new("job", id.0, "is the number of no job")))?;
        all.add(number, job.owner(), run);
    }
    state.runs = all;
    Ok(())
}

fn read_run(run: pb::CheckpointRun) -> Result<(u64, TaskRun), WireError> {
    let over = match run.end.ok_or_else(|| missing("end"))? {
        End::Finished(_) => RunOver::Finished,
        End::Failed(cause) => {
            RunOver::Failed(FailureCause::try_from(cause).map_err(|e| e.within("failed"))?)
        }
        End::Evicted(evict) => {
            RunOver::Evicted(read_evict(evict.cause.ok_or_else(|| missing("evicted"))?)?)
        }
    };
    let machine = MachineName::new(&run.machine);
    let read = TaskRun {
        task: TaskId { job: JobId(run.job), index: run.index },
        incarnation: run.incarnation,
        machine: machine.map_err(|e| WireError::from(e).within("machine"))?,
        placed: Millis(run.placed_ms),
        at: Millis(run.at_ms),
        over,
        told: run
            .told
            .map(RunEnd::try_from)
            .transpose()
            .map_err(|e| e.within("told"))?
            .map(Arc::new),
    };
    Ok((run.number, read))
}
