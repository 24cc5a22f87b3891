//! Who goes next: priority down, and round robin over users inside a priority, so that one user's
//! ten thousand tasks do not starve another's one (Borg paper, section 3.2).
//!
//! Tasks of one user and priority go job by job in the order of submission, by index.
//!
//! Invariant: a task is here at most once, either ready or asleep until a moment.

use borg_proto::{JobId, Millis, Priority, TaskId, UserName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// The moment that never comes: tasks of jobs that wait for other jobs.
pub(crate) const NEVER: Millis = Millis(u64::MAX);

/// Users of one priority, each with the jobs that have ready tasks.
pub(crate) type Turns = VecDeque<(UserName, VecDeque<JobId>)>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Level {
    users: BTreeMap<UserName, BTreeSet<JobId>>,
    /// Whose turn it was the last time.
    last: Option<UserName>,
}

/// Tasks that want to be placed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    levels: BTreeMap<Reverse<Priority>, Level>,
    ready: BTreeMap<JobId, Ready>,
    asleep: BTreeMap<TaskId, (Millis, Priority, UserName)>,
    wakings: BTreeSet<(Millis, TaskId)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ready {
    priority: Priority,
    user: UserName,
    tasks: BTreeSet<u32>,
}

impl Queue {
    /// Puts a task in, or changes when it may go. It is asleep until `wake` has passed its moment.
    pub(crate) fn add(
        &mut self,
        task: TaskId,
        priority: Priority,
        user: &UserName,
        not_before: Millis,
    ) {
        self.remove(task);
        if not_before > Millis(0) {
            self.asleep.insert(task, (not_before, priority, user.clone()));
            self.wakings.insert((not_before, task));
            return;
        }
        self.make_ready(task, priority, user);
    }

    fn make_ready(&mut self, task: TaskId, priority: Priority, user: &UserName) {
        let ready = self.ready.entry(task.job).or_insert_with(|| {
            let level = self.levels.entry(Reverse(priority)).or_default();
            level.users.entry(user.clone()).or_default().insert(task.job);
            Ready { priority, user: user.clone(), tasks: BTreeSet::new() }
        });
        ready.tasks.insert(task.index);
    }

    /// Takes a task out, if it is there.
    pub(crate) fn remove(&mut self, task: TaskId) {
        if let Some((at, _, _)) = self.asleep.remove(&task) {
            self.wakings.remove(&(at, task));
        }
        let Some(ready) = self.ready.get_mut(&task.job) else { return };
        ready.tasks.remove(&task.index);
        if !ready.tasks.is_empty() {
            return;
        }
        // The level stays when it is empty: it remembers whose turn it was.
        if let Some(level) = self.levels.get_mut(&Reverse(ready.priority))
            && let Some(jobs) = level.users.get_mut(&ready.user)
        {
            jobs.remove(&task.job);
            if jobs.is_empty() {
                level.users.remove(&ready.user);
            }
        }
        self.ready.remove(&task.job);
    }

    /// Makes ready what may go at `now`.
    pub(crate) fn wake(&mut self, now: Millis) {
        while let Some((at, task)) =
            self.wakings.first().copied().filter(|(at, _)| *at <= now && *at != NEVER)
        {
            self.wakings.remove(&(at, task));
            let (_, priority, user) =
                self.asleep.remove(&task).expect("a waking belongs to a sleeper");
            self.make_ready(task, priority, &user);
        }
    }

    /// The earliest moment for which somebody sleeps.
    pub(crate) fn next_waking(&self) -> Option<Millis> {
        self.wakings.first().map(|(at, _)| *at).filter(|at| *at != NEVER)
    }

    /// The priorities that have ready tasks, highest first.
    pub(crate) fn priorities(&self) -> Vec<Priority> {
        self.levels.iter().filter(|(_, level)| !level.users.is_empty()).map(|(p, _)| p.0).collect()
    }

    /// The users of a priority in the order of their turns, beginning after the last one served.
    pub(crate) fn turns(&self, priority: Priority) -> Turns {
        let Some(level) = self.levels.get(&Reverse(priority)) else { return Turns::new() };
        let mut turns: Turns = level
            .users
            .iter()
            .map(|(user, jobs)| (user.clone(), jobs.iter().copied().collect()))
            .collect();
        if let Some(last) = &level.last {
            let first = turns.iter().position(|(user, _)| user > last).unwrap_or(0);
            turns.rotate_left(first);
        }
        turns
    }

    /// Notes that a user had a turn.
    pub(crate) fn served(&mut self, priority: Priority, user: &UserName) {
        let level = self.levels.entry(Reverse(priority)).or_default();
        if level.last.as_ref() != Some(user) {
            level.last = Some(user.clone());
        }
    }

    /// How many jobs have ready tasks.
    pub(crate) fn ready_jobs(&self) -> usize {
        self.ready.len()
    }

    /// The first ready task of a job.
    pub(crate) fn first(&self, job: JobId) -> Option<TaskId> {
        let index = *self.ready.get(&job)?.tasks.first()?;
        Some(TaskId { job, index })
    }

    /// The next ready task of the same job.
    pub(crate) fn after(&self, task: TaskId) -> Option<TaskId> {
        let later = (Bound::Excluded(task.index), Bound::Unbounded);
        let index = *self.ready.get(&task.job)?.tasks.range(later).next()?;
        Some(TaskId { job: task.job, index })
    }

    /// Every task that is here.
    #[cfg(test)]
    pub(crate) fn all(&self) -> BTreeSet<TaskId> {
        let ready = self.ready.iter().flat_map(|(job, ready)| {
            ready.tasks.iter().map(|index| TaskId { job: *job, index: *index })
        });
        ready.chain(self.asleep.keys().copied()).collect()
    }
}
