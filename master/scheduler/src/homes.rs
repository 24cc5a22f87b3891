//! On which row each task stands, job by job: a task is looked up several times for each placement,
//! and a map of jobs is small where one of tasks is not. Successors of tasks are few, and kept apart.
//!
//! Invariant: a job is here while at least one of its tasks stands somewhere.

use borg_proto::{JobId, TaskId};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// No row has this number.
const NOWHERE: u32 = u32::MAX;

/// What somebody is who stands on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// A task.
    Task,
    /// What is to take the place of a task that stands elsewhere.
    Successor,
}

/// Somebody who stands on a machine: a task, or its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seat {
    pub(crate) task: TaskId,
    pub(crate) role: Role,
}

impl Seat {
    /// The task itself.
    pub(crate) fn of(task: TaskId) -> Self {
        Self { task, role: Role::Task }
    }

    /// Its successor.
    pub(crate) fn after(task: TaskId) -> Self {
        Self { task, role: Role::Successor }
    }
}

/// The tasks of a job, whatever their index.
pub(crate) fn tasks_of(job: JobId) -> RangeInclusive<TaskId> {
    TaskId { job, index: 0 }..=TaskId { job, index: u32::MAX }
}

/// The rows of all tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes {
    jobs: BTreeMap<JobId, Rows>,
    successors: BTreeMap<TaskId, usize>,
}

#[derive(Debug, Clone, Default)]
struct Rows {
    /// By index of the task. Copies share those of jobs that neither changed.
    of: Arc<Vec<u32>>,
    standing: u32,
}

impl Homes {
    /// The row of somebody who stands somewhere.
    pub(crate) fn get(&self, Seat { task, role }: Seat) -> Option<usize> {
        if role == Role::Successor {
            return self.successors.get(&task).copied();
        }
        let row = *self.jobs.get(&task.job)?.of.get(slot(task))?;
        (row != NOWHERE).then_some(row as usize)
    }

    /// Somebody stands on a row; gives the one where they stood before.
    pub(crate) fn put(&mut self, Seat { task, role }: Seat, row: usize) -> Option<usize> {
        if role == Role::Successor {
            return self.successors.insert(task, row);
        }
        let rows = self.jobs.entry(task.job).or_default();
        let of = Arc::make_mut(&mut rows.of);
        if of.len() <= slot(task) {
            of.resize(slot(task) + 1, NOWHERE);
        }
        let row = u32::try_from(row).expect("there are far fewer rows than 2^32");
        let before = std::mem::replace(&mut of[slot(task)], row);
        rows.standing += u32::from(before == NOWHERE);
        (before != NOWHERE).then_some(before as usize)
    }

    /// Somebody stands nowhere any more; gives the row where they stood.
    pub(crate) fn take(&mut self, Seat { task, role }: Seat) -> Option<usize> {
        if role == Role::Successor {
            return self.successors.remove(&task);
        }
        let rows = self.jobs.get_mut(&task.job)?;
        let row = std::mem::replace(Arc::make_mut(&mut rows.of).get_mut(slot(task))?, NOWHERE);
        if row == NOWHERE {
            return None;
        }
        rows.standing -= 1;
        if rows.standing == 0 {
            self.jobs.remove(&task.job);
        }
        Some(row as usize)
    }

    /// The rows of a job's tasks and their successors, one for each that stands somewhere.
    pub(crate) fn of_job(&self, job: JobId) -> impl Iterator<Item = usize> + '_ {
        let rows = self.jobs.get(&job).into_iter().flat_map(|rows| rows.of.iter());
        let tasks = rows.filter(|row| **row != NOWHERE).map(|row| *row as usize);
        tasks.chain(self.successors.range(tasks_of(job)).map(|(_, row)| *row))
    }
}

const fn slot(task: TaskId) -> usize {
    task.index as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_kept_while_one_of_its_tasks_stands() {
        let task = |index| Seat::of(TaskId { job: JobId(7), index });
        let mut homes = Homes::default();
        assert_eq!((homes.put(task(3), 70), homes.put(task(0), 5)), (None, None));
        assert_eq!((homes.put(task(3), 71), homes.get(task(3))), (Some(70), Some(71)));
        assert_eq!((homes.get(task(1)), homes.get(task(9))), (None, None));
        assert_eq!(homes.of_job(JobId(7)).collect::<Vec<_>>(), [5, 71]);
        assert_eq!((homes.take(task(3)), homes.take(task(3))), (Some(71), None));
        assert_eq!(homes.jobs.len(), 1);
        assert_eq!((homes.take(task(0)), homes.jobs.len()), (Some(5), 0));
    }

    #[test]
    fn a_task_and_its_successor_stand_apart() {
        let task = TaskId { job: JobId(7), index: 3 };
        let mut homes = Homes::default();
        assert_eq!((homes.put(Seat::of(task), 1), homes.put(Seat::after(task), 2)), (None, None));
        assert_eq!(homes.of_job(JobId(7)).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((homes.take(Seat::of(task)), homes.get(Seat::after(task))), (Some(1), Some(2)));
        assert_eq!((homes.take(Seat::after(task)), homes.of_job(JobId(7)).count()), (Some(2), 0));
    }
}
