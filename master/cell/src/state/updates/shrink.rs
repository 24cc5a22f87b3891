//! Fewer tasks: the last slots of a job end and leave it.
//!
//! Invariants: no number of an incarnation is given twice, also when the job grows again later; a slot of an
//! exclusive job that takes the place of one that went is not placed before that one is surely over.

use super::super::Job;
use super::super::daemons::may_run_on;
use super::super::turn::Turn;
use borg_proto::task::{TaskEnd, TaskState};
use borg_proto::{JobId, TaskId, UserName};

impl Turn<'_> {
    /// Ends the slots from `tasks` on and takes them out of a job.
    pub(super) fn drop_slots(&mut self, id: JobId, tasks: u32, by: &UserName) {
        let there = self.state.job(id).map_or(0, Job::slots);
        let end = TaskEnd::Killed { by: by.to_string() };
        let gone: Vec<TaskId> = (tasks..there).map(|index| TaskId { job: id, index }).collect();
        for task in &gone {
            self.await_dropped(*task);
            if self.state.task(*task).is_some_and(|task| !task.is_dead()) {
                self.end_task(*task, end.clone());
            }
            self.state.runs.forget_task(*task);
        }
        if gone.is_empty() {
            return;
        }
        self.amend(id, |job| {
            for task in gone.iter().rev() {
                let Some(slot) = job.tasks.pop_back() else { break };
                debug_assert!(slot.is_dead(), "{task} was ended before it goes");
                job.counts.forget(&slot.state);
                job.retired = job.retired.max(slot.incarnations);
            }
            job.recount_versions();
        });
        self.state.live_slots -= u64::from(there - tasks);
    }

    /// Remembers which incarnation may still run when an exclusive slot is taken out of its job, if one may.
    fn await_dropped(&mut self, id: TaskId) {
        let exclusive = |job: &&Job| job.spec.exclusive;
        let Some(job) = self.state.job(id.job).filter(exclusive) else { return };
        let Some(task) = job.task(id.index) else { return };
        let may_run = match &task.state {
            TaskState::Running(_) => true,
            TaskState::Pending { .. } => task.lingers,
            TaskState::Dead { .. } => may_run_on(task),
        };
        let Some(last) = task.last_place.filter(|_| may_run) else { return };
        self.job_mut(id.job).dropped.insert(id.index, last);
        self.state.lingering.insert(id);
        self.note_emptiness(last.0);
    }

    /// Nobody takes the places of slots that were taken out of a job that is over.
    pub(in crate::state) fn forget_dropped(&mut self, id: JobId) {
        for (index, (machine, _)) in std::mem::take(&mut self.job_mut(id).dropped) {
            self.state.lingering.remove(&TaskId { job: id, index });
            self.note_emptiness(machine);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, service, user};
    use crate::state::{Answer, CellState};
    use borg_proto::command::{Action, Observation};
    use borg_proto::update::{Revision, Steer, UpdateOptions};
    use borg_proto::{IncarnationId, JobId, JobSpec, MachineId};

    const MIB: u64 = 1 << 20;

    /// A job of which no task may run twice, and where its tasks are.
    fn exclusive() -> (Cell, JobId, Vec<MachineId>, Vec<IncarnationId>) {
        let mut cell = Cell::at_level(6);
        let machines: Vec<_> =
            ["a", "b", "c"].map(|name| cell.machine(name, 1000, 64 * MIB)).to_vec();
        let job = cell.submit("ann", JobSpec { exclusive: true, ..service("db", 3, 100, 4 * MIB) });
        let placed = (0..).zip(&machines).map(|(index, machine)| {
            let id = cell.place(job, index, *machine).unwrap();
            cell.up(id);
            id
        });
        let placed = placed.collect();
        (cell, job, machines, placed)
    }

    fn scale(cell: &mut Cell, tasks: u32, close: bool) {
        let options = Box::new(UpdateOptions { close, ..UpdateOptions::default() });
        let (job, to) = ("ann/db".parse().unwrap(), Revision::Tasks(tasks));
        let done = cell.apply(user("ann"), Action::UpdateJob { job, to, options }).unwrap();
        assert!(matches!(done.answer, Answer::Version(_)));
        let decoded = CellState::decode(&cell.state.encode()).unwrap();
        assert_eq!(decoded, cell.state, "what was dropped is in a checkpoint");
    }

    /// What stands against a place elsewhere.
    fn refused(cell: &Cell, job: JobId, to: MachineId) -> String {
        cell.clone().place(job, 2, to).map_err(|refused| refused.to_string()).unwrap_err()
    }

    #[test]
    fn an_exclusive_task_that_went_is_not_there_twice_when_its_job_grows_again() {
        let (mut cell, job, machines, placed) = exclusive();
        scale(&mut cell, 2, true);
        scale(&mut cell, 3, true);
        assert!(refused(&cell, job, machines[0]).contains("may still run on"));
        // Once more, though it was never placed in between.
        scale(&mut cell, 1, true);
        scale(&mut cell, 3, true);
        assert!(refused(&cell, job, machines[0]).contains("may still run on"));
        cell.observe(Observation::TaskGone { id: placed[2] });
        let again = cell.place(job, 2, machines[0]).unwrap();
        assert!(again.number > placed[2].number);
        assert!(cell.place(job, 1, machines[0]).is_err(), "task 1 is not known to be gone");
    }

    #[test]
    fn undoing_a_shrink_waits_for_what_was_dropped_too() {
        let (mut cell, job, machines, placed) = exclusive();
        scale(&mut cell, 2, false);
        let (name, verb) = ("ann/db".parse().unwrap(), Steer::Undo);
        cell.apply(user("ann"), Action::SteerUpdate { job: name, verb }).unwrap();
        assert!(refused(&cell, job, machines[0]).contains("may still run on"));
        cell.observe(Observation::TaskGone { id: placed[2] });
        cell.place(job, 2, machines[0]).unwrap();
    }

    #[test]
    fn what_was_dropped_and_is_gone_or_whose_job_is_over_is_waited_for_no_more() {
        let (mut cell, job, machines, placed) = exclusive();
        scale(&mut cell, 1, true);
        assert_eq!(cell.state.lingering().count(), 2);
        cell.observe(Observation::TaskGone { id: placed[2] });
        assert_eq!(cell.state.lingering().collect::<Vec<_>>(), [(machines[1], placed[1])]);
        scale(&mut cell, 3, true);
        cell.place(job, 2, machines[0]).unwrap();
        scale(&mut cell, 1, true);
        cell.kill("ann", "ann/db", &[]).unwrap();
        assert_eq!(cell.state.lingering().count(), 0);
    }

    /// A machine is empty when what was dropped has ended there.
    #[test]
    fn a_drained_machine_waits_for_what_was_dropped() {
        let (mut cell, _, machines, placed) = exclusive();
        scale(&mut cell, 2, true);
        let drain = Action::DrainMachines {
            machines: vec!["c".parse().unwrap()],
            reason: "disk".into(),
            within: borg_proto::Millis(60_000),
            at_once: None,
            leaves: None,
        };
        cell.apply(user("admin"), drain).unwrap();
        let drained = |cell: &Cell| cell.state.machine(machines[2]).unwrap().is_drained();
        assert!(!drained(&cell));
        cell.observe(Observation::TaskGone { id: placed[2] });
        assert!(drained(&cell));
        scale(&mut cell, 1, true);
        let drain = Action::DrainMachines {
            machines: vec!["b".parse().unwrap()],
            reason: "disk".into(),
            within: borg_proto::Millis(60_000),
            at_once: None,
            leaves: None,
        };
        cell.apply(user("admin"), drain).unwrap();
        cell.kill("ann", "ann/db", &[]).unwrap();
        assert!(cell.state.machine(machines[1]).unwrap().is_drained(), "nobody waits for it");
    }
}
