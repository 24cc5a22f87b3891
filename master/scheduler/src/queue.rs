//! Who goes next: priority down, and round robin over users inside a priority, so that one user's
//! ten thousand tasks do not starve another's one (Borg paper, section 3.2).
//!
//! Tasks of one user and priority go job by job in the order of submission, by version and index. Jobs whose
//! class fits nowhere are parked, by class: they cost nothing until somebody wakes the class. Then
//! one job of each of its users is back in its place, and the next one follows when that is through.
//!
//! Invariants: a task is here at most once, either ready or asleep until a moment; of the parked jobs
//! of a class and user that was woken, one is in its place as long as the class is awake.

use crate::explain::Ahead;
use crate::need::{ClassKey, Cohort};
use borg_proto::{JobId, Millis, Priority, TaskId, UserName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The moment that never comes: tasks of jobs that wait for other jobs.
pub(crate) const NEVER: Millis = Millis(u64::MAX);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Level {
    users: BTreeMap<UserName, BTreeSet<Cohort>>,
    /// Whose turn it was the last time.
    last: Option<UserName>,
}

static NOBODY: BTreeSet<u32> = BTreeSet::new();

/// Tasks that want to be placed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    levels: BTreeMap<Reverse<Priority>, Level>,
    ready: BTreeMap<Cohort, Ready>,
    parked: BTreeMap<ClassKey, BTreeMap<UserName, BTreeSet<Cohort>>>,
    asleep: BTreeMap<TaskId, (Millis, Cohort, Priority, UserName)>,
    wakings: BTreeSet<(Millis, TaskId)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ready {
    priority: Priority,
    user: UserName,
    tasks: BTreeSet<u32>,
    /// The class with which it was parked last.
    class: Option<ClassKey>,
    parked: bool,
}

impl Queue {
    /// Puts a task in, or changes when it may go. It is asleep until `wake` has passed its moment.
    pub(crate) fn add(
        &mut self,
        task: TaskId,
        cohort: Cohort,
        priority: Priority,
        user: &UserName,
        not_before: Millis,
    ) {
        if not_before > Millis(0) {
            self.remove(task);
            self.asleep.insert(task, (not_before, cohort, priority, user.clone()));
            self.wakings.insert((not_before, task));
            return;
        }
        if self.cohort_of(task).is_some_and(|before| before != cohort) {
            self.remove(task);
        }
        self.rouse(task);
        self.make_ready(task, cohort, priority, user);
    }

    /// Among whom a ready task is.
    fn cohort_of(&self, task: TaskId) -> Option<Cohort> {
        let mut cohorts = self.ready.range(Cohort::all_of(task.job));
        cohorts.find(|(_, ready)| ready.tasks.contains(&task.index)).map(|(cohort, _)| *cohort)
    }

    fn rouse(&mut self, task: TaskId) {
        if let Some((at, ..)) = self.asleep.remove(&task) {
            self.wakings.remove(&(at, task));
        }
    }

    fn make_ready(&mut self, task: TaskId, cohort: Cohort, priority: Priority, user: &UserName) {
        let levels = &mut self.levels;
        let ready = self.ready.entry(cohort).or_insert_with(|| {
            let level = levels.entry(Reverse(priority)).or_default();
            level.users.entry(user.clone()).or_default().insert(cohort);
            let user = user.clone();
            Ready { priority, user, tasks: BTreeSet::new(), class: None, parked: false }
        });
        ready.tasks.insert(task.index);
        if ready.parked && ready.class == Some(ClassKey::Held(cohort)) {
            self.wake_class(&ClassKey::Held(cohort));
        }
    }

    /// Takes a task out, if it is there.
    pub(crate) fn remove(&mut self, task: TaskId) {
        self.rouse(task);
        let Some(cohort) = self.cohort_of(task) else { return };
        let Some(ready) = self.ready.get_mut(&cohort) else { return };
        ready.tasks.remove(&task.index);
        if !ready.tasks.is_empty() {
            return;
        }
        let Some(ready) = self.ready.remove(&cohort) else { return };
        if ready.parked {
            self.take_from_park(cohort, &ready);
            return;
        }
        self.leave_place(cohort, &ready);
        if let Some(class) = &ready.class {
            self.wake_one(class, &ready.user);
        }
    }

    /// Takes out all tasks of a job that may go now.
    pub(crate) fn remove_ready(&mut self, job: JobId) {
        let cohorts: Vec<Cohort> = self.ready.range(Cohort::all_of(job)).map(|(c, _)| *c).collect();
        let tasks: Vec<TaskId> = cohorts.into_iter().flat_map(|c| self.ready(c)).collect();
        tasks.into_iter().for_each(|task| self.remove(task));
    }

    fn leave_place(&mut self, job: Cohort, ready: &Ready) {
        // The level stays when it is empty: it remembers whose turn it was.
        if let Some(level) = self.levels.get_mut(&Reverse(ready.priority))
            && let Some(jobs) = level.users.get_mut(&ready.user)
        {
            jobs.remove(&job);
            if jobs.is_empty() {
                level.users.remove(&ready.user);
            }
        }
    }

    fn take_from_park(&mut self, job: Cohort, ready: &Ready) {
        let Some(class) = &ready.class else { return };
        let Some(users) = self.parked.get_mut(class) else { return };
        if let Some(jobs) = users.get_mut(&ready.user) {
            jobs.remove(&job);
            if jobs.is_empty() {
                users.remove(&ready.user);
            }
        }
        if users.is_empty() {
            self.parked.remove(class);
        }
    }

    /// Takes a job out of its place until its class is woken.
    pub(crate) fn park(&mut self, job: Cohort, class: &ClassKey) {
        let Some(ready) = self.ready.get_mut(&job) else { return };
        ready.parked = true;
        ready.class = Some(class.clone());
        let ready = ready.clone();
        self.leave_place(job, &ready);
        let users = self.parked.entry(class.clone()).or_default();
        users.entry(ready.user).or_default().insert(job);
    }

    /// How many classes have parked jobs.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Whether jobs of a class are parked.
    pub(crate) fn has_parked(&self, class: &ClassKey) -> bool {
        self.parked.contains_key(class)
    }

    /// The class may fit somewhere again.
    pub(crate) fn wake_class(&mut self, class: &ClassKey) {
        let users: Vec<UserName> =
            self.parked.get(class).map(|users| users.keys().cloned().collect()).unwrap_or_default();
        for user in users {
            self.wake_one(class, &user);
        }
    }

    /// Puts the first parked job of a class and user back in its place.
    fn wake_one(&mut self, class: &ClassKey, user: &UserName) {
        let Some(users) = self.parked.get_mut(class) else { return };
        let Some(jobs) = users.get_mut(user) else { return };
        let Some(job) = jobs.pop_first() else { return };
        if jobs.is_empty() {
            users.remove(user);
        }
        if users.is_empty() {
            self.parked.remove(class);
        }
        let ready = self.ready.get_mut(&job).expect("who is parked is ready");
        ready.parked = false;
        let level = self.levels.entry(Reverse(ready.priority)).or_default();
        level.users.entry(user.clone()).or_default().insert(job);
    }

    /// Makes ready what may go at `now`.
    pub(crate) fn wake(&mut self, now: Millis) {
        while let Some((at, task)) =
            self.wakings.first().copied().filter(|(at, _)| *at <= now && *at != NEVER)
        {
            self.wakings.remove(&(at, task));
            let (_, cohort, priority, user) =
                self.asleep.remove(&task).expect("a waking belongs to a sleeper");
            self.make_ready(task, cohort, priority, &user);
        }
    }

    /// The earliest moment for which somebody sleeps.
    pub(crate) fn next_waking(&self) -> Option<Millis> {
        self.wakings.first().map(|(at, _)| *at).filter(|at| *at != NEVER)
    }

    /// The job whose turn it is: of the highest priority that has any, and of the users there of the
    /// one after the last that was served.
    pub(crate) fn next(&self) -> Option<Cohort> {
        let level = self.levels.values().find(|level| !level.users.is_empty())?;
        let after = level.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = level.users.range::<UserName, _>((after, Bound::Unbounded));
        let (_, jobs) = later.next().or_else(|| level.users.first_key_value())?;
        jobs.first().copied()
    }

    /// Notes that a job had its user's turn.
    pub(crate) fn served(&mut self, job: Cohort) {
        let Some(Ready { priority, user, .. }) = self.ready.get(&job) else { return };
        let level = self.levels.entry(Reverse(*priority)).or_default();
        if level.last.as_ref() != Some(user) {
            level.last = Some(user.clone());
        }
    }

    /// Who of a priority had the last turn.
    pub(crate) fn last_served(&self, priority: Priority) -> Option<UserName> {
        self.levels.get(&Reverse(priority))?.last.clone()
    }

    /// The last turn of a priority came to nothing: it was this user's.
    pub(crate) fn serve_again(&mut self, priority: Priority, last: Option<UserName>) {
        self.levels.entry(Reverse(priority)).or_default().last = last;
    }

    /// Whether a job has ready tasks and is not parked.
    pub(crate) fn has_turns(&self, job: JobId) -> bool {
        self.ready.range(Cohort::all_of(job)).any(|(_, ready)| !ready.parked)
    }

    /// Whether a job has ready tasks, parked or not.
    pub(crate) fn has_ready(&self, job: JobId) -> bool {
        self.ready.range(Cohort::all_of(job)).next().is_some()
    }

    /// How many tasks of a job are ready.
    pub(crate) fn ready_of(&self, job: JobId) -> usize {
        self.ready.range(Cohort::all_of(job)).map(|(_, ready)| ready.tasks.len()).sum()
    }

    /// The first ready task of a cohort.
    pub(crate) fn first(&self, cohort: Cohort) -> Option<TaskId> {
        let index = *self.ready.get(&cohort)?.tasks.first()?;
        Some(TaskId { job: cohort.job, index })
    }

    /// The ready tasks of a cohort.
    pub(crate) fn ready(&self, cohort: Cohort) -> impl ExactSizeIterator<Item = TaskId> + '_ {
        let tasks = self.ready.get(&cohort).map_or(&NOBODY, |ready| &ready.tasks);
        tasks.iter().map(move |index| TaskId { job: cohort.job, index: *index })
    }

    /// The next ready task of the same cohort.
    pub(crate) fn after(&self, cohort: Cohort, task: TaskId) -> Option<TaskId> {
        let later = (Bound::Excluded(task.index), Bound::Unbounded);
        let index = *self.ready.get(&cohort)?.tasks.range(later).next()?;
        Some(TaskId { job: task.job, index })
    }

    /// Who goes before a task of that priority: jobs that are parked do not.
    pub(crate) fn ahead(&self, priority: Priority) -> Ahead {
        let next = self.next().map(|cohort| cohort.job);
        let mut ahead = Ahead { next, ..Ahead::default() };
        for ready in self.ready.values().filter(|ready| !ready.parked) {
            if ready.priority > priority {
                ahead.higher += ready.tasks.len();
            } else if ready.priority == priority {
                ahead.equal += ready.tasks.len();
            }
        }
        ahead
    }

    /// Every task that is here.
    #[cfg(test)]
    pub(crate) fn all(&self) -> BTreeSet<TaskId> {
        let ready = self.ready.iter().flat_map(|(job, ready)| {
            ready.tasks.iter().map(|index| TaskId { job: job.job, index: *index })
        });
        ready.chain(self.asleep.keys().copied()).collect()
    }
}
