//! Tasks that belong to a machine, those of daemons and runs that save what is there: no other is looked at.
//!
//! The cell says which machine that is; here room is made for it there as for any other task, by pushing out
//! lower priorities if need be. A task for which there is none leaves the queue until its machine changes, as
//! those in allocs do.

use crate::explain::{self, Explanation};
use crate::inside::Stuck;
use crate::machines::Machines;
use crate::need::Need;
use crate::queue::NEVER;
use crate::scheduler::Scheduler;
use crate::victims;
use borg_cell::rejection::Rejection;
use borg_cell::state::{MachineState, Task};
use borg_proto::command::Assignment;
use borg_proto::{IncarnationId, MachineId, Millis, TaskId, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Scheduler {
    /// Decides for the first task of such a job for which there is room on its machine.
    pub(crate) fn decide_pinned(&mut self, need: &Arc<Need>, now: Millis) -> Option<Assignment> {
        while let Some(task) = self.queue.first(need.cohort) {
            let job = self.state.job(need.job)?;
            let (user, home) = (job.key.user.clone(), job.home(task.index));
            let slot = job.task(task.index);
            let overdue = slot.is_some_and(|slot| slot.is_overdue(now));
            let overdue_at = slot.and_then(Task::overdue_at);
            let mut again = NEVER;
            if let Some(machine) = home {
                let found = self.row_for(need, machine);
                let victims = found.and_then(|row| Some((row, self.make_way(need, row, overdue)?)));
                if let Some((row, victims)) = victims {
                    return Some(self.assume(task, need, (row, machine), victims));
                }
                // Held off by disruption budgets alone it waits only for so long.
                let beyond =
                    found.filter(|_| !overdue).and_then(|row| self.make_way(need, row, true));
                again = beyond.and(overdue_at).unwrap_or(NEVER);
                note(&mut self.stuck, machine, self.machines.version(), task);
            }
            self.queue.add(task, need.cohort, need.priority, &user, again);
        }
        None
    }

    /// A machine's row, if it takes new tasks of such a job, and meets what they ask of it.
    fn row_for(&self, need: &Need, machine: MachineId) -> Option<usize> {
        let Machines { rooms, access, filters, .. } = &self.machines;
        let row = self.machines.row(machine)?;
        let (job, found) = (self.state.job(need.job)?, self.state.machine(machine)?);
        // What is saved on a drained machine is saved there: the state says for how long.
        let open = match job.rescues() {
            Some(_) => found.state == MachineState::Up && self.state.admits(job, found).is_ok(),
            None => rooms.is_open(row) && access.admits(need.group, row),
        };
        let meets = need.hard.iter().all(|filter| filters.holds(*filter, row));
        (open && meets).then_some(row)
    }

    /// Who has to go for a task on a row, if that is enough: within disruption budgets, and beyond them only
    /// when that is not enough and it is overdue.
    fn make_way(&self, need: &Need, row: usize, overdue: bool) -> Option<Vec<IncarnationId>> {
        let choose = |overdue| victims::choose(&self.machines, need, row, overdue);
        let (victims, _) = choose(false).or_else(|| choose(true).filter(|_| overdue))?;
        Some(victims.into_iter().map(victims::incarnation).collect())
    }

    /// Why such a task is on its machine, or not yet.
    pub(crate) fn explain_pinned(&self, task: TaskId, now: Millis) -> Explanation {
        let found = self.state.task(task);
        let mut told = explain::settled(&self.state, task, found);
        let (Some(found), Some(job), Some(need)) =
            (found, self.state.job(task.job), self.need_of(task))
        else {
            return told;
        };
        let Some(home) = found.pinned else { return told };
        let not_before = match &found.state {
            TaskState::Pending { not_before, .. } => self.not_before(task, *not_before),
            TaskState::Running(_) => {
                told.summary += match job.rescues() {
                    Some(_) => ", where the data is that it saves",
                    None => ", where it belongs, as each machine has one",
                };
                return told;
            }
            TaskState::Dead { .. } => return told,
        };
        let victims = self.row_for(need, home);
        let victims = victims.and_then(|row| self.make_way(need, row, found.is_overdue(now)));
        told.ahead = self.queue.ahead(job.priority());
        (told.machines, told.feasible) = (1, u32::from(victims.is_some()));
        told.not_before = (not_before > now).then_some(not_before);
        let name = self.machine_name(home);
        told.summary = if !job.waits_for.is_empty() {
            explain::waits(&self.state, job)
        } else if self.assumed.contains_key(&task) {
            format!("goes to {name}, where it belongs, as soon as the decision is committed")
        } else if victims.is_some() {
            let back_off = self.why_not_yet(task, found, not_before, now);
            format!("{back_off}waits for its turn on {name}, where it belongs")
        } else {
            self.why_not_yet(task, found, not_before, now) + &self.why_not_home(task, home)
        };
        told.victims = victims.unwrap_or_default();
        told
    }

    fn why_not_home(&self, task: TaskId, home: MachineId) -> String {
        let name = self.machine_name(home);
        let (Some(job), Some(machine)) = (self.state.job(task.job), self.state.machine(home))
        else {
            return format!("belongs on {name}, which is gone");
        };
        if let Err(refused) = self.state.admits(job, machine) {
            return format!("belongs there, but {refused}");
        }
        let (free, asked) = (machine.free(), job.spec_of(task.index).asked());
        match asked.shortest(&free) {
            Some(short) => {
                let (free, asked) = (free.amount(&short), asked.amount(&short));
                let refused =
                    Rejection::NoRoom { machine: machine.name.clone(), short, free, asked };
                format!("belongs there, but {refused}, and nobody there may be pushed out for it")
            }
            None => format!("belongs on {name}, which does not answer or takes no more tasks"),
        }
    }
}

/// Notes that a task waits for its machine to change.
fn note(stuck: &mut Stuck, machine: MachineId, since: u64, task: TaskId) {
    // Who is here already knows of an older version.
    stuck.entry(machine).or_insert((since, BTreeSet::new())).1.insert(task);
}
