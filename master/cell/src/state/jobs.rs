//! Jobs: what the cell remembers of each, and what follows from its tasks.
//!
//! How jobs come and go is in `lives`; what becomes of their tasks in `placement` and `observe`.
//!
//! Invariants: a job is over exactly when all its tasks are dead; of a job that waits no task is
//! placed, and it waits only for jobs that are alive.

use super::CellState;
use super::tasks::Task;
use super::updates::Update;
use super::versions::{FIRST_VERSION, Version};
use borg_proto::task::{FailureCause, Phase, Placement, TaskEnd, TaskState};
use borg_proto::{Health, JobId, JobKey, JobSpec, Millis, Priority, UserName};
use imbl::{OrdMap, Vector};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// Waits for other jobs.
    Waiting,
    /// No task is placed.
    Pending,
    /// At least one task is placed.
    Running,
    /// All tasks finished.
    Finished,
    /// A task failed for good, or a job that it had to wait for did not finish.
    Failed,
    /// Killed, wholly or in part, and over.
    Killed,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
        })
    }
}

impl fmt::Display for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::TaskFailed { index, cause } => write!(f, "task {index} failed: {cause}"),
            Self::DependencyFailed { job } => write!(f, "job {job} did not finish"),
            Self::Killed { by } => write!(f, "killed by {by}"),
        }
    }
}

/// How many tasks of a job are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Wait to be placed.
    pub pending: u32,
    /// Of those the ones that wait for no time, but for other jobs or for somebody to start them.
    pub held: u32,
    /// Placed, with or without a process.
    pub running: u32,
    /// Placed and a process runs.
    pub up: u32,
    /// Placed and serving, see [`Placement::serves_since`].
    pub serving: u32,
    /// Exited with 0.
    pub finished: u32,
    /// Failed for good, or never started because a dependency failed.
    pub failed: u32,
    /// Killed.
    pub killed: u32,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// All tasks exited with 0.
    Finished,
    /// A task failed more often than allowed.
    TaskFailed {
        /// The first such task.
        index: u32,
        /// Its last failure.
        cause: FailureCause,
    },
    /// A job that it had to wait for did not finish.
    DependencyFailed {
        /// That job, as text.
        job: String,
    },
    /// Somebody killed it or a part of it.
    Killed {
        /// Who.
        by: String,
    },
}

/// A job of the cell, with its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub key: JobKey,
    /// The specification that was accepted last: what holds for the job as a whole. What a task runs
    /// and takes is for [`Self::spec_of`] to say.
    pub spec: Arc<JobSpec>,
    /// The versions that are kept, oldest first; the last one is `spec`.
    pub(crate) versions: Vec<Arc<Version>>,
    /// How many slots are of each version. Follows from the slots.
    pub(crate) slots_of: BTreeMap<u32, u32>,
    /// The update that is open: on its way, or not closed yet.
    pub(crate) update: Option<Arc<Update>>,
    /// The highest number of an incarnation of slots that were taken out.
    pub(crate) retired: u32,
    /// When it was accepted.
    pub submitted_at: Millis,
    /// How many tasks are where.
    pub counts: TaskCounts,
    /// When and how it ended; `None` while it is alive.
    pub ended: Option<(Millis, JobEnd)>,
    /// The jobs that it still waits for.
    pub waits_for: BTreeSet<JobId>,
    /// The jobs that wait for it.
    pub dependents: BTreeSet<JobId>,
    /// Of an alloc set: the live jobs whose tasks run in its allocs.
    pub tenants: BTreeSet<JobId>,
    /// When tasks of it were disturbed on purpose, as far back as the rate of its budget counts.
    pub(crate) disrupted: Vector<Millis>,
    /// Its slots, by index. Untouched slots share one allocation.
    pub(crate) tasks: Vector<Arc<Task>>,
    /// For each entry of the specification's `spread`: placed tasks by value of its attribute.
    pub(crate) crowds: Vec<OrdMap<Arc<str>, u32>>,
}

impl Job {
    /// How the task in one of its slots is by its health check, placed there. No verdict yet means that it is starting.
    #[must_use]
    pub fn health(&self, index: u32, placement: &Placement) -> Health {
        let up = matches!(placement.phase, Phase::Up { .. });
        match placement.health {
            _ if !up || self.task_spec(index).health.is_none() => Health::Unchecked,
            Health::Unchecked | Health::Starting => Health::Starting,
            verdict @ (Health::Healthy | Health::Unhealthy) => verdict,
        }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> JobState {
        match &self.ended {
            Some((_, JobEnd::Finished)) => JobState::Finished,
            Some((_, JobEnd::TaskFailed { .. } | JobEnd::DependencyFailed { .. })) => {
                JobState::Failed
            }
            Some((_, JobEnd::Killed { .. })) => JobState::Killed,
            None if !self.waits_for.is_empty() => JobState::Waiting,
            None if self.counts.running > 0 => JobState::Running,
            None => JobState::Pending,
        }
    }

    /// Why it waits or how it ended, for people; else empty. `state` is the state it is in.
    #[must_use]
    pub fn note(&self, state: &CellState) -> String {
        match &self.ended {
            None => {}
            Some((_, JobEnd::Finished)) => return String::new(),
            Some((
                _,
                end @ (JobEnd::TaskFailed { .. }
                | JobEnd::DependencyFailed { .. }
                | JobEnd::Killed { .. }),
            )) => {
                return end.to_string();
            }
        }
        let awaited: Vec<String> = self
            .waits_for
            .iter()
            .filter_map(|id| state.job(*id))
            .map(|job| job.key.to_string())
            .collect();
        if awaited.is_empty() { String::new() } else { format!("waits for {}", awaited.join(", ")) }
    }

    /// When it ended; `None` while it is alive.
    #[must_use]
    pub fn ended_at(&self) -> Option<Millis> {
        self.ended.as_ref().map(|(at, _)| *at)
    }

    /// Whether it can still change.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.ended.is_none()
    }

    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> &UserName {
        &self.key.user
    }

    /// Its priority.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.spec.priority
    }

    /// One of its slots.
    #[must_use]
    pub fn task(&self, index: u32) -> Option<&Task> {
        self.tasks.get(usize::try_from(index).ok()?).map(AsRef::as_ref)
    }

    /// How many of its tasks are placed where the attribute of `spec.task.spread[spread]` has
    /// `value` (for the attribute `machine`: the machine's name).
    #[must_use]
    pub fn crowd(&self, spread: usize, value: &str) -> u32 {
        self.crowds.get(spread).and_then(|crowd| crowd.get(value)).copied().unwrap_or(0)
    }
}

impl Job {
    /// A job that was just accepted: all slots alike, in one allocation.
    pub(crate) fn new(
        id: JobId,
        user: &UserName,
        spec: Arc<JobSpec>,
        waits_for: BTreeSet<JobId>,
        submitted_at: Millis,
    ) -> Self {
        let not_before = Millis(if waits_for.is_empty() { 0 } else { u64::MAX });
        let slot = Arc::new(Task::new(
            TaskState::Pending { since: submitted_at, not_before },
            FIRST_VERSION,
        ));
        let tasks = (0..spec.tasks).map(|_| slot.clone()).collect();
        let slots_of = super::versions::count(&tasks);
        let first = Version::new(FIRST_VERSION, spec.clone(), submitted_at, user.clone());
        Self {
            id,
            key: spec.key(user),
            versions: vec![Arc::new(first)],
            slots_of,
            update: None,
            retired: 0,
            submitted_at,
            counts: TaskCounts {
                pending: spec.tasks,
                held: if not_before == super::stops::NEVER { spec.tasks } else { 0 },
                ..TaskCounts::default()
            },
            ended: None,
            waits_for,
            dependents: BTreeSet::new(),
            tenants: BTreeSet::new(),
            disrupted: Vector::new(),
            tasks,
            crowds: spec.task.spread.iter().map(|_| OrdMap::new()).collect(),
            spec,
        }
    }

    /// Adds slots that were never placed at the end.
    pub(crate) fn add_slots(&mut self, more: u32, at: Millis) {
        let not_before = Millis(if self.waits_for.is_empty() { 0 } else { u64::MAX });
        let version = self.head().number;
        let slot = Arc::new(Task::new(TaskState::Pending { since: at, not_before }, version));
        self.tasks.extend((0..more).map(|_| slot.clone()));
        self.counts.pending += more;
        self.counts.held += if not_before == super::stops::NEVER { more } else { 0 };
        if more > 0 {
            *self.slots_of.entry(version).or_default() += more;
        }
    }

    /// How a job whose tasks are all dead ended: the worst of its tasks decides.
    pub(crate) fn verdict(&self) -> JobEnd {
        let mut verdict = JobEnd::Finished;
        for (task, index) in self.tasks.iter().zip(0..) {
            let TaskState::Dead { end, .. } = &task.state else { continue };
            match end {
                TaskEnd::Failed { cause } => {
                    return JobEnd::TaskFailed { index, cause: cause.clone() };
                }
                TaskEnd::DependencyFailed { job } => {
                    return JobEnd::DependencyFailed { job: job.clone() };
                }
                TaskEnd::Killed { by } if verdict == JobEnd::Finished => {
                    verdict = JobEnd::Killed { by: by.clone() };
                }
                TaskEnd::Killed { .. } | TaskEnd::Finished => {}
            }
        }
        verdict
    }
}
