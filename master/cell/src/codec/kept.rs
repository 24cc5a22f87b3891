//! What allocs left behind, as it stands in a checkpoint.

use super::parts::{by, missing, name};
use crate::state::{CellState, Kept};
use borg_proto::wire::{WireError, pb};
use borg_proto::{IncarnationId, JobId, JobKey, JobSpec, MachineId, Millis, TaskId};
use std::sync::Arc;

/// Most that a checkpoint may have. 10,000,000: far more than bounds by machine leave.
const MAX_KEPT: usize = 10_000_000;

pub(super) fn write(kept: &Kept) -> pb::CheckpointKept {
    pb::CheckpointKept {
        number: kept.number,
        job: kept.alloc.task.job.0,
        index: kept.alloc.task.index,
        incarnation: kept.alloc.number,
        set: kept.set.to_string(),
        machine: kept.machine.0,
        since_ms: kept.since.0,
        until_ms: kept.until.0,
        bytes: kept.bytes,
        saver: kept.saver.as_deref().map(Into::into),
        run: kept.run.map_or(0, |run| run.0),
        why: kept.why.clone(),
        again_ms: kept.again.map(|at| at.0),
        overdue: kept.overdue,
    }
}

pub(super) fn read_all(
    state: &mut CellState,
    all: Vec<pb::CheckpointKept>,
    last: u64,
) -> Result<(), WireError> {
    if all.len() > MAX_KEPT {
        let many = format!("{} entries", all.len());
        return Err(WireError::new("kept", many, format!("are more than {MAX_KEPT}")));
    }
    state.last_kept = last;
    for (i, kept) in all.into_iter().enumerate() {
        let kept = read(kept).map_err(|e| e.within(&format!("kept[{i}]")))?;
        state.kept.insert(kept.number, Arc::new(kept));
    }
    Ok(())
}

fn read(kept: pb::CheckpointKept) -> Result<Kept, WireError> {
    if kept.number == 0 {
        return Err(missing("number"));
    }
    let task = TaskId { job: JobId(kept.job), index: kept.index };
    Ok(Kept {
        number: kept.number,
        alloc: IncarnationId { task, number: kept.incarnation },
        set: name::<JobKey>("set", kept.set.parse())?,
        machine: MachineId(kept.machine),
        since: Millis(kept.since_ms),
        until: Millis(kept.until_ms),
        bytes: kept.bytes,
        saver: read_saver(kept.saver)?,
        run: Some(JobId(kept.run)).filter(|run| run.0 > 0),
        why: by("why", kept.why)?,
        again: kept.again_ms.map(Millis),
        overdue: kept.overdue,
    })
}

/// A specification of a log saver.
pub(super) fn read_saver(saver: Option<pb::JobSpec>) -> Result<Option<Arc<JobSpec>>, WireError> {
    let saver = saver.map(JobSpec::try_from).transpose().map_err(|e| e.within("saver"))?;
    Ok(saver.map(Arc::new))
}
