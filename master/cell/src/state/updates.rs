//! Updates: a job becomes something else, its tasks one after another, without anyone noticing.
//!
//! An update is a transaction on a job that can be undone until it is closed (Borg paper, section 2.3). It leads from the version in force to a new
//! one, which is in force for the job as a whole at once. Its tasks follow: those whose process need not
//! notice at once, those that are down already at no cost, the others as many at a time as the job's
//! disruption budget and the update allow, the next only when those before have served for a while. When
//! too many of the new ones fail, they go back, as another update to what was before.
//!
//! All of it is decided here, when entries are applied: a leader has nothing to remember. `begin` says
//! what may be asked for, `step` which task goes when, `steer` what an owner may say to it, `effect` what
//! becomes of one task, `first` who is started elsewhere before, `order` who is next.
//!
//! Invariants: while an update is open its job has the versions that it leads from and to; what is on its
//! way is alive and of the new version; a job that is over has none.

mod begin;
mod effect;
mod first;
mod on_the_way;
mod order;
mod shrink;
mod steer;
mod step;

pub use effect::{Effect, MOST_TRIED, UpdatePlan};
pub(crate) use on_the_way::OnTheWay;

use super::{CellState, Job, Task};
use borg_proto::task::{Phase, TaskState};
use borg_proto::update::UpdateOptions;
use borg_proto::{Health, IndexSet, Millis, TaskId, UserName};
use imbl::OrdSet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How far an update is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateState {
    /// Tasks go.
    Rolling,
    /// The canary is good; the others wait for somebody to say so.
    Canary,
    /// No task goes until somebody says so.
    Paused {
        /// Who said it.
        by: String,
    },
    /// Every task is as it should be, and it can be undone.
    Done,
}

impl fmt::Display for UpdateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rolling => "rolling",
            Self::Canary => "waiting after its canary",
            Self::Paused { .. } => "paused",
            Self::Done => "done",
        })
    }
}

/// An update that is open: on its way, or done and not closed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The version that was in force before.
    pub from: u32,
    /// The version that it leads to.
    pub to: u32,
    /// Who asked for it.
    pub by: UserName,
    /// When, in cell time.
    pub begun: Millis,
    /// How it is done.
    pub options: UpdateOptions,
    /// How far it is.
    pub state: UpdateState,
    /// Since when it is that far, in cell time.
    pub since: Millis,
    /// Why it takes the tasks back to what they were; empty when it does not.
    pub why: String,
    /// Whether the others may follow the canary.
    pub(crate) past_canary: bool,
    /// Tasks of these versions alone are touched; none named means of all.
    pub(crate) reach: BTreeSet<u32>,
    /// How many places of the order were gone through.
    pub(crate) place: u32,
    /// Tasks that have the new version and have not served for long enough yet.
    pub(crate) moving: OnTheWay,
    /// Tasks that are to be started elsewhere before they are taken down, and since when each waits for a
    /// place there; `None` when it waited for long enough.
    pub(crate) awaiting: BTreeMap<u32, Option<Millis>>,
    /// Tasks that failed as the new version.
    pub(crate) failed: OrdSet<u32>,
    /// How the first of them did.
    pub(crate) trouble: String,
    /// When the rate of the budget lets the next task go.
    pub(crate) blocked_until: Option<Millis>,
    /// Since when the next task could not go, as too many are down.
    pub(crate) blocked_since: Option<Millis>,
    /// Whether something of it was passed over, as nothing moved in the cell.
    pub(crate) passed_over: bool,
    /// Deadlines count from here at the earliest: before it nothing moved.
    pub(crate) counts_from: Millis,
}

impl Update {
    /// Whether it takes the tasks back to what they were.
    #[must_use]
    pub fn goes_back(&self) -> bool {
        !self.why.is_empty()
    }

    /// Whether tasks are on their way, or are to go on.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        match self.state {
            UpdateState::Rolling | UpdateState::Canary | UpdateState::Paused { .. } => true,
            UpdateState::Done => false,
        }
    }

    /// Whether tasks go.
    fn is_rolling(&self) -> bool {
        self.state == UpdateState::Rolling
    }

    /// How many tasks of the new version failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        u32::try_from(self.failed.len()).unwrap_or(u32::MAX)
    }

    /// When it is decided about that the next task could not go.
    fn blocked_due(&self) -> Option<Millis> {
        let since = self.blocked_since?.max(self.counts_from);
        Some(since + self.options.deadline_ms)
    }

    /// The tasks that go alone at first, while they do.
    pub(crate) fn canary(&self) -> Option<&IndexSet> {
        self.options.canary.as_ref().filter(|_| !self.past_canary)
    }

    /// Whether a task is to have the new version and has not.
    fn is_left(&self, index: u32, task: &Task) -> bool {
        task.version != self.to
            && !task.is_dead()
            && self.options.tasks.as_ref().is_none_or(|tasks| tasks.contains(index))
            && (self.reach.is_empty() || self.reach.contains(&task.version))
    }

    /// Whether a task may be given the new version now.
    fn may_go(&self, index: u32, task: &Task) -> bool {
        self.is_left(index, task) && self.canary().is_none_or(|canary| canary.contains(index))
    }
}

/// How many tasks of an update are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Have the new version and have served for long enough, or failed, or are over.
    pub done: u32,
    /// Have the new version, not for long enough.
    pub moving: u32,
    /// Have another version.
    pub left: u32,
}

impl Job {
    /// The update that is open, if one is.
    #[must_use]
    pub fn update(&self) -> Option<&Update> {
        self.update.as_deref()
    }

    /// How many tasks its update still has to deal with.
    #[must_use]
    pub fn progress(&self, update: &Update) -> Progress {
        let moving = update.moving.count();
        let of_it = self.slots_of.get(&update.to).copied().unwrap_or(0);
        let left = self.tasks.iter().zip(0..).filter(|(task, index)| update.is_left(*index, task));
        let left = u32::try_from(left.count()).unwrap_or(u32::MAX);
        Progress { done: of_it.saturating_sub(moving), moving, left }
    }

    /// When its update goes on by itself, in cell time.
    pub(super) fn update_due(&self) -> Option<Millis> {
        let update = self.update().filter(|update| update.is_rolling())?;
        let passed_over = update.passed_over.then_some(update.since);
        let due = [
            update.moving.next_due(),
            update.blocked_until,
            update.blocked_due(),
            passed_over,
            self.first_due(update),
        ];
        due.into_iter().flatten().min()
    }

    /// What an open update waits for at a moment of cell time, for people.
    #[must_use]
    pub fn waits_for_update(&self, update: &Update, at: Millis) -> String {
        match &update.state {
            UpdateState::Done => "done: it can be undone until it is closed".to_owned(),
            UpdateState::Paused { by } => {
                let other = if update.goes_back() { ", or update it again" } else { " or undo" };
                format!("paused by {by}: resume{other}")
            }
            UpdateState::Canary => {
                let canary = update.options.canary.as_ref().map(ToString::to_string);
                format!("canary {} is good: resume or undo", canary.unwrap_or_default())
            }
            UpdateState::Rolling if update.passed_over => {
                "nothing moves: safe mode, or a cell that was just restored".to_owned()
            }
            UpdateState::Rolling => {
                let first = update.moving.first().and_then(|index| {
                    let task = self.task(index)?;
                    Some(self.told(index, task, update, at))
                });
                let first = first.or_else(|| self.told_of_awaiting(update));
                let blocked = || self.told_blocked(update, at);
                first.or_else(blocked).unwrap_or_default()
            }
        }
    }

    /// What is in the way of the next task, and until when that may last.
    fn told_blocked(&self, update: &Update, at: Millis) -> Option<String> {
        let why = self.may_lose_one(at).err()?;
        let left = update.blocked_due().map(|due| due.since(at).0);
        let until = left.map(|ms| format!("; its deadline is in {ms} ms")).unwrap_or_default();
        Some(format!("{why}{until}"))
    }

    fn told(&self, index: u32, task: &Task, update: &Update, at: Millis) -> String {
        let placement = match &task.state {
            TaskState::Pending { .. } => return format!("task {index} waits to be placed"),
            TaskState::Dead { .. } => return format!("task {index} is over"),
            TaskState::Running(placement) => placement,
        };
        if let Some(since) = placement.serves_since {
            let left = (since + update.options.min_healthy_ms).since(at);
            return format!("task {index} has to serve for another {} ms", left.0);
        }
        match (placement.phase, self.health(index, placement)) {
            (Phase::Starting, _) => format!("task {index} is starting"),
            (Phase::BackOff { .. }, _) => {
                let why = task.last_failure.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("task {index} failed: {why}")
            }
            (Phase::Up { .. }, Health::Unhealthy) => format!("task {index} is unhealthy"),
            (Phase::Up { .. }, _) => format!("task {index} is not healthy yet"),
        }
    }
}

impl Task {
    /// Since when it may be counted that a task of the new version does not serve: since it was placed,
    /// or taken down by the update. One that waited before waits on its own account.
    fn on_its_way_since(&self) -> Option<Millis> {
        match &self.state {
            TaskState::Running(placement) => Some(placement.placed_at),
            TaskState::Pending { since, not_before } => {
                let by_it = self.last_evict.as_ref().is_some_and(|cause| cause.is_update());
                (by_it && *not_before == Millis(0)).then_some(*since)
            }
            TaskState::Dead { .. } => None,
        }
    }

    fn serves_since(&self) -> Option<Millis> {
        self.placement().and_then(|placement| placement.serves_since)
    }

    /// When a task on its way has served for long enough, or took too long.
    fn due_in(&self, update: &Update) -> Option<Millis> {
        if let Some(since) = self.serves_since() {
            return Some(since + update.options.min_healthy_ms);
        }
        let since = self.on_its_way_since()?.max(update.counts_from);
        Some(since + update.options.deadline_ms)
    }
}

impl CellState {
    /// Whether a task is held back until somebody starts it.
    #[must_use]
    pub fn is_stopped(&self, id: TaskId) -> bool {
        self.task(id).is_some_and(Task::is_stopped)
    }
}

#[cfg(test)]
mod tests;
