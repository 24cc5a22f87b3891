//! A task does not go back to a machine on which it failed lately while there are machines on which
//! it did not (I20).
//!
//! Looked for by the plainest means, not by asking the scheduler.

use borg_cell::state::{CellState, Machine, MachineState};
use borg_proto::{MachineId, Millis, TaskId};
use std::collections::BTreeMap;

/// A machine that came up, or of which it changed whose tasks it takes, later than this before a
/// placement may not have been known so to whoever decided it.
const KNOWN_AFTER: Millis = Millis(10_000);

/// A task was placed on a machine. Answers also whether it kept away from one.
///
/// # Errors
/// When it failed there lately, and another machine that could take it was not tried.
pub(crate) fn placed(
    at: Millis,
    state: &CellState,
    access_changed: &BTreeMap<MachineId, Millis>,
    id: TaskId,
    on: MachineId,
) -> (Result<(), String>, bool) {
    let (Some(job), Some(task)) = (state.job(id.job), state.task(id)) else {
        return (Ok(()), false);
    };
    // A scheduler's clock may be a little ahead of the entry's.
    let tried: Vec<MachineId> =
        task.avoids(at + Millis(2_000)).map(|crash| crash.machine).collect();
    if !tried.contains(&on) {
        return (Ok(()), !tried.is_empty());
    }
    // Where it is decided by its alloc alone.
    if job.spec.alloc_set.is_some() {
        return (Ok(()), false);
    }
    let spec = job.spec_of(id.index);
    let asked = spec.asked();
    let known = |changed: &Millis| at.since(*changed) > KNOWN_AFTER;
    let fits = |machine: &&Machine| {
        machine.info.as_ref().is_some_and(|info| {
            machine.state == MachineState::Up
                && at.since(machine.since) > KNOWN_AFTER
                && access_changed.get(&machine.id).is_none_or(known)
                && machine.admits(job.owner()).is_ok()
                && asked.fits_in(&info.capacity)
                && spec.task.constraints.iter().all(|c| c.soft || c.holds(&info.attributes))
        })
    };
    let other = state.machines().filter(fits).find(|machine| !tried.contains(&machine.id));
    let result = match other {
        None => Ok(()),
        Some(other) => Err(format!(
            "task {id} goes back to machine number {}, where it failed, and {} was not tried",
            on.0, other.name
        )),
    };
    (result, false)
}
