//! I15: what is lent harms no prod. The limits of prod are within each machine's capacity, and no task of prod
//! ends, or leaves its machine, because of what others use.
//!
//! Adds limits up from the jobs by itself; shares nothing with what the cell asks.

use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::state::{CellState, Version};
use borg_proto::task::EvictCause;
use borg_proto::{FailureCause, MachineId};
use std::collections::BTreeMap;

/// Whether the limits of prod fit every machine by themselves.
///
/// # Errors
/// Which machine they do not fit.
pub fn prod_fits(state: &CellState) -> Result<(), String> {
    let mut sums: BTreeMap<MachineId, (u64, u64)> = BTreeMap::new();
    for job in state.jobs().filter(|job| job.is_alive()) {
        if job.spec.alloc_set.is_some() {
            continue;
        }
        for (id, task) in state.tasks_of(job.id) {
            let placed = task.placement().map(|placed| (placed.machine, job.version_of(id.index)));
            let next = task
                .successor()
                .and_then(|next| Some((next.placement.machine, job.version(next.version)?)));
            for (machine, version) in placed.into_iter().chain(next) {
                if !version.spec.priority.is_prod() {
                    continue;
                }
                let limit = &version.spec.task.limit;
                let sum = sums.entry(machine).or_default();
                *sum = (sum.0 + limit.cpu_milli, sum.1 + limit.ram_bytes);
            }
        }
    }
    for (machine, (cpu_milli, ram_bytes)) in sums {
        let Some(machine) = state.machine(machine) else { continue };
        let has = machine.info.as_ref().map(|info| &info.capacity);
        if has.is_none_or(|has| cpu_milli > has.cpu_milli || ram_bytes > has.ram_bytes) {
            return Err(format!(
                "limits of prod on {} are {cpu_milli} millicores and {ram_bytes} bytes of {has:?}",
                machine.name
            ));
        }
    }
    Ok(())
}

/// Whether an event harms prod for the sake of others.
///
/// # Errors
/// Which task, and how.
pub fn spares_prod(event: &Event, state: &CellState) -> Result<(), String> {
    let EventKind::TaskChanged { task, change, .. } = &event.kind else { return Ok(()) };
    let Some(job) = state.job(task.job).filter(|job| job.spec.priority.is_prod()) else {
        return Ok(());
    };
    // Until its update moves it a task of a job that becomes prod stands on lent room.
    let was_prod = |number| job.version(number).is_none_or(Version::is_prod);
    if job.update().is_some_and(|update| !was_prod(update.from)) {
        return Ok(());
    }
    let short = |cause: &FailureCause| match cause {
        FailureCause::Short { limit_bytes, used_bytes, .. } => used_bytes <= limit_bytes,
        _ => false,
    };
    let harmed = match change {
        TaskChange::Evicted(cause) => matches!(cause, EvictCause::Reclaimed),
        TaskChange::Failed { cause, .. } | TaskChange::BackOff { cause, .. } => short(cause),
        TaskChange::Released
        | TaskChange::Placed { .. }
        | TaskChange::Awaits
        | TaskChange::Prepared { .. }
        | TaskChange::Preparing { .. }
        | TaskChange::Unprepared { .. }
        | TaskChange::Replaced { .. }
        | TaskChange::Up { .. }
        | TaskChange::Health(_)
        | TaskChange::Address(_)
        | TaskChange::Gone { .. }
        | TaskChange::Finished
        | TaskChange::Stopped { .. }
        | TaskChange::Updated { .. }
        | TaskChange::Killed { .. }
        | TaskChange::ParentEnded { .. }
        | TaskChange::Withdrawn
        | TaskChange::Renewed
        | TaskChange::DependencyFailed { .. } => false,
    };
    if harmed { Err(format!("{}/{} of prod: {change:?}", job.key, task.index)) } else { Ok(()) }
}
