//! Tasks change along the legal edges only, incarnations grow, events never go back (I22).

use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::state::{CellState, Task};
use borg_proto::{FailureCause, MachineId, Millis, TaskId, TaskState};
use std::collections::BTreeMap;

/// Where a task is, by the events alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pending,
    On(MachineId),
    Dead,
}

/// The lives of all tasks, by the events alone.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// Everything up to here was seen.
    seen: u64,
    last: (u64, Millis),
    tasks: BTreeMap<TaskId, (Place, u32)>,
    /// It went on from a backup, and may hear of the end of what it never placed.
    restored: bool,
}

impl Lifecycle {
    /// The lives of a cell that goes on from a backup.
    #[must_use]
    pub fn restored(state: &CellState) -> Self {
        let place = |task: &Task| match &task.state {
            TaskState::Pending { .. } => Place::Pending,
            TaskState::Running(placed) => Place::On(placed.machine),
            TaskState::Dead { .. } => Place::Dead,
        };
        let all = state.jobs().flat_map(|job| state.tasks_of(job.id));
        let tasks = all.map(|(id, task)| (id, (place(task), task.incarnations))).collect();
        let (seen, last) = (state.applied(), (state.applied(), state.clock()));
        Self { seen, last, tasks, restored: true }
    }

    /// Whether an event was not seen on any replica before.
    #[must_use]
    pub const fn is_news(&self, event: &Event) -> bool {
        event.index > self.seen
    }

    /// Some replica has applied everything up to this entry.
    pub fn caught_up(&mut self, index: u64) {
        self.seen = self.seen.max(index);
    }

    /// Takes an event, in order of the log.
    ///
    /// # Errors
    /// When it cannot follow what was before.
    pub fn take(&mut self, event: &Event, state: &CellState) -> Result<(), String> {
        let (index, at) = self.last;
        if event.index < index || event.at < at {
            return Err(format!("event {event:?} after entry {index} at {at}"));
        }
        self.last = (event.index, event.at);
        match &event.kind {
            // A daemon's slots begin one by one.
            EventKind::JobSubmitted(job)
                if state.job(*job).is_some_and(|job| job.spec.kind.stands()) =>
            {
                Ok(())
            }
            EventKind::JobSubmitted(job) => {
                for (task, _) in state.tasks_of(*job) {
                    if self.tasks.insert(task, (Place::Pending, 0)).is_some() {
                        return Err(format!("task {task} is submitted twice"));
                    }
                }
                Ok(())
            }
            EventKind::TaskChanged { task, change, .. } => self.step(*task, change),
            // A slot that was taken out may be there again, an exclusive one with the number of who may still run.
            EventKind::JobUpdated { job, .. } => {
                let spec = state.job(*job).map(|job| &job.spec);
                let waits = spec.is_some_and(|spec| spec.exclusive && !spec.kind.stands());
                for (task, now) in state.tasks_of(*job).filter(|(_, task)| !task.is_dead()) {
                    let known = self.tasks.entry(task).or_insert((Place::Pending, 0));
                    let waited_for = waits && now.incarnations == known.1;
                    if known.0 == Place::Dead && (now.incarnations == 0 || waited_for) {
                        known.0 = Place::Pending;
                    }
                }
                Ok(())
            }
            EventKind::MachineAdded(_)
            | EventKind::MachineChanged(_)
            | EventKind::MachineRemoved(..)
            | EventKind::JobChanged { .. }
            | EventKind::CronChanged(_)
            | EventKind::DataChanged { .. }
            | EventKind::AllocsResized(_)
            | EventKind::PackagePut(_)
            | EventKind::PackageRemoved(_)
            | EventKind::PrivilegeChanged { .. }
            | EventKind::JobForgotten(..)
            | EventKind::MastersChanged
            | EventKind::QuotaChanged(_)
            | EventKind::MachineAccess(..)
            | EventKind::PolicyChanged
            | EventKind::ReclamationChanged
            | EventKind::Maintenance { .. }
            | EventKind::SafeMode { .. }
            | EventKind::Led { .. } => Ok(()),
        }
    }

    fn step(&mut self, task: TaskId, change: &TaskChange) -> Result<(), String> {
        // A job that came and went within one turn of the fastest replica was not seen.
        let unknown = !self.tasks.contains_key(&task);
        let (place, incarnation) = *self.tasks.get(&task).unwrap_or(&(Place::Pending, 0));
        let illegal = || {
            Err(format!("task {task} is {place:?} in incarnation {incarnation}, then {change:?}"))
        };
        let next = match (place, change) {
            (Place::Pending, TaskChange::Released | TaskChange::Stopped { .. }) => {
                (Place::Pending, incarnation)
            }
            (Place::On(_), TaskChange::Stopped { .. }) => (Place::Pending, incarnation),
            (Place::Pending | Place::On(_), TaskChange::Updated { .. }) => (place, incarnation),
            (Place::Pending, TaskChange::Gone { incarnation: last })
                if *last == incarnation || (self.restored && *last > incarnation) =>
            {
                (Place::Pending, *last)
            }
            (Place::Pending, TaskChange::Placed { machine, incarnation: new })
                if *new > incarnation =>
            {
                (Place::On(*machine), *new)
            }
            (Place::On(_), TaskChange::Prepared { incarnation: new, .. }) if *new > incarnation => {
                (place, *new)
            }
            (
                Place::On(_),
                TaskChange::Awaits | TaskChange::Preparing { .. } | TaskChange::Unprepared { .. },
            ) => (place, incarnation),
            // Whoever was pushed out or failed waits for a moment, in the same entry.
            (
                Place::On(_) | Place::Pending,
                TaskChange::Replaced { from, machine, incarnation: next },
            ) if *next <= incarnation && (place == Place::On(*from) || place == Place::Pending) => {
                (Place::On(*machine), incarnation)
            }
            (
                Place::On(_),
                TaskChange::Up { .. }
                | TaskChange::BackOff { .. }
                | TaskChange::Health(_)
                | TaskChange::Address(_),
            ) => (place, incarnation),
            (Place::On(_), TaskChange::Evicted(_) | TaskChange::Failed { again: Some(_), .. }) => {
                (Place::Pending, incarnation)
            }
            (Place::Pending, TaskChange::Renewed) if unknown => (Place::Pending, incarnation),
            (Place::Dead, TaskChange::Renewed) => (Place::Pending, incarnation),
            (Place::On(_), TaskChange::Finished | TaskChange::Failed { again: None, .. })
            | (
                Place::On(_) | Place::Pending,
                TaskChange::Killed { .. }
                | TaskChange::ParentEnded { .. }
                | TaskChange::Withdrawn
                | TaskChange::Failed { cause: FailureCause::Deadline { .. }, again: None },
            )
            | (Place::Pending, TaskChange::DependencyFailed { .. }) => (Place::Dead, incarnation),
            (Place::Pending | Place::On(_) | Place::Dead, _) => return illegal(),
        };
        self.tasks.insert(task, next);
        Ok(())
    }
}
