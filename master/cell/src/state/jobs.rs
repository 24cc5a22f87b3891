//! Jobs: accepting, ending and forgetting them, and the order that `after` asks for.
//!
//! Leaves where tasks run to `placement` and what becomes of running ones to `observe`.
//!
//! Invariants: a key names at most one job; a job is over exactly when all its tasks are dead; a
//! job that waits has only pending tasks, and waits only for jobs that are alive.

use super::CellState;
use super::tasks::Task;
use borg_proto::task::FailureCause;
use borg_proto::{JobId, JobKey, JobSpec, Millis, Priority, UserName};
use imbl::{OrdMap, Vector};
use std::collections::BTreeSet;
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
    /// Placed, with or without a process.
    pub running: u32,
    /// Placed and a process runs.
    pub up: u32,
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
    /// What was submitted.
    pub spec: Arc<JobSpec>,
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
    /// Its slots, by index. Untouched slots share one allocation.
    pub(crate) tasks: Vector<Arc<Task>>,
    /// For each entry of the specification's `spread`: placed tasks by value of its attribute.
    pub(crate) crowds: Vec<OrdMap<Arc<str>, u32>>,
}

impl Job {
    /// How far it is.
    #[must_use]
    pub fn state(&self) -> JobState {
        match &self.ended {
            Some((_, JobEnd::Finished)) => JobState::Finished,
            Some((_, JobEnd::TaskFailed { .. } | JobEnd::DependencyFailed { .. })) => JobState::Failed,
            Some((_, JobEnd::Killed { .. })) => JobState::Killed,
            None if !self.waits_for.is_empty() => JobState::Waiting,
            None if self.counts.running > 0 => JobState::Running,
            None => JobState::Pending,
        }
    }

    /// Why it waits or how it ended, for people; else empty. `state` is the state it is in.
    #[must_use]
    pub fn note(&self, state: &CellState) -> String {
        if let Some((_, end)) = &self.ended {
            return end.to_string();
        }
        let awaited: Vec<String> =
            self.waits_for.iter().filter_map(|id| state.job(*id)).map(|job| job.key.to_string()).collect();
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
