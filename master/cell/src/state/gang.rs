//! Gangs: all waiting tasks of such a job are placed by one entry, or none.
//!
//! `placement` decides of each assignment; here they stand or fall together. Tasks of a gang that run
//! already do not count: when some are lost, the lost ones are placed together again.
//!
//! Invariant: after any entry that placed a task of a gang, none of its tasks waits that waited before
//! the entry.

use super::turn::Turn;
use crate::rejection::Rejection;
use borg_proto::command::Assignment;
use borg_proto::task::TaskState;
use borg_proto::{IncarnationId, JobId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

impl Turn<'_> {
    /// Where the assignments of each gang are, but for those about tasks that leave a machine: they move one by
    /// one.
    pub(super) fn gangs(&self, assignments: &[Assignment]) -> BTreeMap<JobId, Vec<usize>> {
        let mut gangs: BTreeMap<JobId, Vec<usize>> = BTreeMap::new();
        for (at, one) in assignments.iter().enumerate() {
            if self.is_gang(one) && !self.state.leaves(one.task) {
                gangs.entry(one.task.job).or_default().push(at);
            }
        }
        gangs
    }

    /// Whether an assignment is about a task of a gang.
    pub(super) fn is_gang(&self, one: &Assignment) -> bool {
        self.state.job(one.task.job).is_some_and(|job| job.spec.gang)
    }

    /// Places all that an entry says of one gang, or nothing of it.
    pub(super) fn place_gang<'a>(
        &mut self,
        asked: impl Iterator<Item = &'a Assignment> + Clone,
    ) -> Vec<Result<IncarnationId, Rejection>> {
        // Each of them changes what the next one finds, so they are tried for real. The copy is cheap.
        let (state, events) = (self.state.clone(), self.events.len());
        let refused = match self.place_each(asked.clone()) {
            Ok(placed) => return placed.into_iter().map(Ok).collect(),
            Err(refused) => refused,
        };
        *self.state = state;
        self.events.truncate(events);
        asked.map(|_| Err(refused.clone())).collect()
    }

    fn place_each<'a>(
        &mut self,
        asked: impl Iterator<Item = &'a Assignment> + Clone,
    ) -> Result<Vec<IncarnationId>, Rejection> {
        self.check_whole(asked.clone().map(|one| one.task).collect())?;
        let place = |one: &Assignment| {
            self.place_one(one)
                .map_err(|why| Rejection::Gang { task: one.task, why: why.to_string() })
        };
        asked.map(place).collect()
    }

    /// Nobody of the gang is left out.
    fn check_whole(&self, asked: BTreeSet<TaskId>) -> Result<(), Rejection> {
        let Some(job) = asked.first().map(|task| task.job) else { return Ok(()) };
        let mut waiting = self
            .state
            .tasks_of(job)
            .filter(|(_, task)| matches!(task.state, TaskState::Pending { .. }));
        match waiting.find(|(id, _)| !asked.contains(id)) {
            Some((task, _)) => Err(Rejection::GangParted { task }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, batch, master};
    use crate::state::Answer;
    use borg_proto::command::{Action, Assignment};
    use borg_proto::{FailureCause, JobId, JobSpec, MachineId, TaskId};

    const MIB: u64 = 1 << 20;

    fn gang(cell: &mut Cell, tasks: u32) -> JobId {
        cell.submit("ann", JobSpec { gang: true, retries: 3, ..batch("gang", tasks, 400, 4 * MIB) })
    }

    fn to(job: JobId, index: u32, machine: MachineId) -> Assignment {
        Assignment::new(TaskId { job, index }, machine)
    }

    /// What came of each, as text.
    fn place(cell: &mut Cell, assignments: Vec<Assignment>) -> Vec<String> {
        let applied = cell.apply(master(), Action::Place { assignments }).unwrap();
        let Answer::Placed { results } = applied.answer else { panic!("{applied:?}") };
        let text = |result| match result {
            Ok(id) => format!("{id}"),
            Err(refused) => format!("{refused}"),
        };
        results.into_iter().map(text).collect()
    }

    fn running(cell: &Cell, job: JobId) -> u32 {
        cell.state.job(job).unwrap().counts.running
    }

    #[test]
    fn when_one_of_a_gang_is_refused_none_is_placed_and_others_of_the_entry_are() {
        let mut cell = Cell::new();
        let (one, two) = (cell.machine("m-1", 1000, 64 * MIB), cell.machine("m-2", 500, 64 * MIB));
        let gang = gang(&mut cell, 3);
        let alone = cell.submit("bob", batch("alone", 1, 500, 4 * MIB));
        let (before, events) = (cell.state.clone(), cell.events.len());
        let all = vec![to(gang, 0, two), to(gang, 1, two), to(gang, 2, one)];
        let refused = "the job is a gang, all or none, and task 1.1 was refused: machine m-2 has 100 m \
                       CPU free, task asks 400 m";
        assert_eq!(place(&mut cell, all), [refused; 3]);
        assert_eq!(cell.events.len(), events);
        assert!(before.machines().eq(cell.state.machines()) && before.jobs().eq(cell.state.jobs()));
        let mixed = vec![to(gang, 0, two), to(alone, 0, one), to(gang, 1, one), to(gang, 2, one)];
        assert_eq!(
            place(&mut cell, mixed),
            ["1.0.1", "machine m-1 has 200 m CPU free, task asks 500 m", "1.1.1", "1.2.1"],
            "a gang goes at the place of its first"
        );
    }

    #[test]
    fn victims_of_a_gang_that_is_refused_stay() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let low = cell.submit("bob", batch("low", 1, 900, 4 * MIB));
        let victim = cell.place(low, 0, machine).unwrap();
        let mut spec = JobSpec { gang: true, ..batch("gang", 3, 400, 4 * MIB) };
        spec.priority = borg_proto::Priority::new(200).unwrap();
        let gang = cell.submit("ann", spec);
        let over = |index| Assignment { victims: vec![victim], ..to(gang, index, machine) };
        let results = place(&mut cell, (0..3).map(over).collect());
        assert!(results[0].contains("task 2.2 was refused"), "{results:?}");
        assert_eq!((running(&cell, low), running(&cell, gang)), (1, 0));
    }

    #[test]
    fn nobody_of_a_gang_is_left_out_and_who_is_lost_later_goes_together_again() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 2000, 64 * MIB);
        let gang = gang(&mut cell, 4);
        assert_eq!(
            place(
                &mut cell,
                vec![to(gang, 0, machine), to(gang, 1, machine), to(gang, 3, machine)]
            ),
            ["the job is a gang, all or none, and task 1.2 waits too"; 3]
        );
        place(&mut cell, (0..4).map(|index| to(gang, index, machine)).collect());
        assert_eq!(running(&cell, gang), 4);
        for index in [1, 2] {
            let task = TaskId { job: gang, index };
            let id = cell.state.task(task).unwrap().running(task).unwrap();
            cell.ended(id, Some(FailureCause::Exit { code: 1 }));
        }
        assert_eq!(running(&cell, gang), 2);
        cell.wait(600_000);
        let alone = place(&mut cell, vec![to(gang, 1, machine)]);
        assert_eq!(alone, ["the job is a gang, all or none, and task 1.2 waits too"]);
        let both = place(&mut cell, vec![to(gang, 2, machine), to(gang, 1, machine)]);
        assert_eq!(both, ["1.2.2", "1.1.2"]);
    }

    #[test]
    fn a_gang_that_is_told_twice_in_one_entry_is_refused() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 2000, 64 * MIB);
        let gang = gang(&mut cell, 1);
        let results = place(&mut cell, vec![to(gang, 0, machine), to(gang, 0, machine)]);
        let refused =
            "the job is a gang, all or none, and task 1.0 was refused: task 1.0 is not pending";
        assert_eq!(results, [refused; 2]);
    }
}
