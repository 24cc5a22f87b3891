//! Jobs: what the cell remembers of each, and what follows from its tasks.
//!
//! How jobs come and go is in `lives`; what becomes of their tasks in `placement` and `observe`.
//!
//! Invariants: a job is over exactly when all its tasks are dead, one that stands when it was ended; of a job that waits no task is
//! placed, and it waits only for jobs that are alive.

use super::CellState;
use super::crons::CronState;
use super::tasks::Task;
use super::updates::Update;
use super::versions::{FIRST_VERSION, Version};
use borg_proto::task::{FailureCause, Phase, Placement, TaskEnd, TaskState};
use borg_proto::{
    Health, IncarnationId, JobId, JobKey, JobSpec, MachineId, Millis, Priority, TaskId, TaskSpec,
    UserName,
};
use imbl::{OrdMap, OrdSet, Vector};
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
            Self::DependencyFailed { job, why } => {
                write!(f, "job {job} did not finish")?;
                if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
            }
            Self::Killed { by } => write!(f, "killed by {by}"),
            Self::ParentEnded { job } => write!(f, "parent {job} ended"),
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
    /// Of a daemon: without a machine.
    pub withdrawn: u32,
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
        /// What went wrong first, and where; empty when that was not kept.
        why: String,
    },
    /// Somebody killed it or a part of it.
    Killed {
        /// Who.
        by: String,
    },
    /// The job that it is a child of ended.
    ParentEnded {
        /// That job, as text.
        job: String,
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
    /// Of an exclusive job: which incarnations of slots that were taken out may still run, and where. A slot
    /// that takes such a one's place waits for that.
    pub(crate) dropped: OrdMap<u32, (MachineId, u32)>,
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
    /// The live jobs that end with it.
    pub children: BTreeSet<JobId>,
    /// When it came alive again the last time, if it did.
    pub rerun_at: Option<Millis>,
    /// Of a job that stands: how it was ended as a whole.
    pub(crate) stopped: Option<TaskEnd>,
    /// Of a cron job: its ticks.
    pub(crate) cron: Option<Arc<CronState>>,
    /// With a time-out: until when its placed tasks may run.
    pub(crate) run_out: OrdSet<(Millis, u32)>,
    /// Of a daemon: which slot belongs to a machine of the cell.
    pub(crate) homes: OrdMap<MachineId, u32>,
    /// Of a daemon: slots whose machine is gone for good.
    pub(crate) vacant: OrdSet<u32>,
    /// Of an alloc set: the last job in it that saves what its allocs leave behind.
    pub(crate) saver: Option<Arc<JobSpec>>,
    /// Of a run that saves such data: its number.
    pub(crate) rescues: Option<u64>,
    /// When tasks of it were disturbed on purpose, as far back as the rate of its budget counts.
    pub(crate) disrupted: Vector<Millis>,
    /// Slots that have a successor.
    pub(crate) succeeded: OrdSet<u32>,
    /// Its slots, by index. Untouched slots share one allocation.
    pub(crate) tasks: Vector<Arc<Task>>,
    /// For each entry of the specification's `spread`: placed tasks by value of its attribute.
    pub(crate) crowds: Vec<OrdMap<Arc<str>, u32>>,
}

impl Job {
    /// How the task in one of its slots is by its health check, placed there. No verdict yet means that it is starting.
    #[must_use]
    pub fn health(&self, index: u32, placement: &Placement) -> Health {
        health_of(self.task_spec(index), placement)
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> JobState {
        match &self.ended {
            Some((_, JobEnd::Finished)) => JobState::Finished,
            Some((_, JobEnd::TaskFailed { .. } | JobEnd::DependencyFailed { .. })) => {
                JobState::Failed
            }
            Some((_, JobEnd::Killed { .. } | JobEnd::ParentEnded { .. })) => JobState::Killed,
            None if self.cron.is_some() => JobState::Running,
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
                | JobEnd::ParentEnded { .. }
                | JobEnd::Killed { .. }),
            )) => {
                return end.to_string();
            }
        }
        if let Some(cron) = &self.cron {
            return cron.note();
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

    /// How many slots it has, those without a machine included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.tasks.len()).unwrap_or(u32::MAX)
    }

    /// How many tasks it has: as many as it asks for, of a daemon one for each machine.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.slots() - self.counts.withdrawn
    }

    /// How many slots it would have with another specification. How many a daemon has is not for that to say.
    #[must_use]
    pub(super) fn slots_under(&self, spec: &JobSpec) -> u32 {
        if spec.kind.stands() { self.slots() } else { spec.tasks }
    }

    /// When it began to count how long it takes: when it was submitted, or came alive again.
    #[must_use]
    pub fn began(&self) -> Millis {
        self.rerun_at.unwrap_or(self.submitted_at)
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

/// How a task that runs such a specification is by its health check, placed there.
pub(super) fn health_of(task: &TaskSpec, placement: &Placement) -> Health {
    let up = matches!(placement.phase, Phase::Up { .. });
    match placement.health {
        _ if !up || task.health.is_none() => Health::Unchecked,
        Health::Unchecked | Health::Starting => Health::Starting,
        verdict @ (Health::Healthy | Health::Unhealthy) => verdict,
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
        let slots = spec.first_slots();
        let tasks = (0..slots).map(|_| slot.clone()).collect();
        let cron = spec.cron.as_ref().map(|cron| Arc::new(CronState::new(cron, submitted_at)));
        let slots_of = super::versions::count(&tasks);
        let first = Version::new(FIRST_VERSION, spec.clone(), submitted_at, user.clone());
        Self {
            id,
            key: spec.key(user),
            versions: vec![Arc::new(first)],
            slots_of,
            update: None,
            retired: 0,
            dropped: OrdMap::new(),
            submitted_at,
            counts: TaskCounts {
                pending: slots,
                held: if not_before == super::stops::NEVER { slots } else { 0 },
                ..TaskCounts::default()
            },
            ended: None,
            waits_for,
            dependents: BTreeSet::new(),
            tenants: BTreeSet::new(),
            children: BTreeSet::new(),
            rerun_at: None,
            stopped: None,
            cron,
            run_out: OrdSet::new(),
            homes: OrdMap::new(),
            vacant: OrdSet::new(),
            saver: None,
            rescues: None,
            disrupted: Vector::new(),
            succeeded: OrdSet::new(),
            tasks,
            crowds: spec.task.spread.iter().map(|_| OrdMap::new()).collect(),
            spec,
        }
    }

    /// The incarnation of one of its slots, present or taken out, that may still run although the slot is not
    /// placed.
    #[must_use]
    pub fn lingering(&self, index: u32) -> Option<(MachineId, IncarnationId)> {
        let task = TaskId { job: self.id, index };
        match self.dropped.get(&index).copied() {
            Some((machine, number)) => Some((machine, IncarnationId { task, number })),
            None => self.task(index)?.lingering(task),
        }
    }

    /// Adds slots at the end. They were never placed; an exclusive one waits for who was in its place before.
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
        let slots = self.slots();
        let replaced = self.dropped.keys().copied().take_while(|index| *index < slots);
        for index in replaced.collect::<Vec<_>>() {
            let slot = usize::try_from(index).ok().and_then(|index| self.tasks.get_mut(index));
            if let (Some(slot), Some(last)) = (slot, self.dropped.remove(&index)) {
                let task = Arc::make_mut(slot);
                (task.incarnations, task.last_place, task.lingers) = (last.1, Some(last), true);
            }
        }
    }

    /// How a job whose tasks are all dead ended: the worst of its tasks decides. One that stands ended as it
    /// was told to.
    pub(crate) fn verdict(&self) -> JobEnd {
        let mut verdict = JobEnd::Finished;
        let tasks = self.tasks.iter().zip(0..).filter_map(|(task, index)| match &task.state {
            TaskState::Dead { end, .. } => Some((end, index)),
            TaskState::Pending { .. } | TaskState::Running(_) => None,
        });
        let ends = if self.spec.kind.stands() { None } else { Some(tasks) };
        let told = self.stopped.as_ref().map(|end| (end, 0));
        for (end, index) in ends.into_iter().flatten().chain(told) {
            match end {
                TaskEnd::Failed { cause } => {
                    return JobEnd::TaskFailed { index, cause: cause.clone() };
                }
                TaskEnd::DependencyFailed { job, why } => {
                    return JobEnd::DependencyFailed { job: job.clone(), why: why.clone() };
                }
                TaskEnd::Killed { by } if verdict == JobEnd::Finished => {
                    verdict = JobEnd::Killed { by: by.clone() };
                }
                TaskEnd::ParentEnded { job } if verdict == JobEnd::Finished => {
                    verdict = JobEnd::ParentEnded { job: job.clone() };
                }
                TaskEnd::Killed { .. }
                | TaskEnd::ParentEnded { .. }
                | TaskEnd::Withdrawn
                | TaskEnd::Finished => {}
            }
        }
        verdict
    }
}
