//! Replacement first: which tasks of an update are started elsewhere as the new version before they are taken
//! down.
//!
//! Whose turn has come waits for a scheduler to find a place for its successor. When that serves for as long
//! as the update wants, it is the task, and has arrived. When there is no place within [`ROOM_WITHIN`], or the
//! task may have no successor any more, it goes as any other does: within the budget.
//!
//! Invariant: what waits here is placed, and not of the new version.

use super::super::disruption::Blocked;
use super::super::turn::Turn;
use super::super::{CellState, Job, Task};
use super::effect::Judge;
use super::{Update, UpdateState};
use crate::event::{EventKind, TaskChange};
use borg_proto::update::Replacement;
use borg_proto::{JobId, Millis, TaskId};

/// How long a task waits for room for its successor. 60 s: our choice; a scheduler looks ten times a second, and
/// what ends by itself in a minute is worth to wait for.
pub(super) const ROOM_WITHIN: Millis = Millis::from_secs(60);

impl Update {
    /// The tasks that wait for a place for their successors.
    pub fn awaiting(&self) -> impl Iterator<Item = u32> {
        self.awaiting.keys().copied()
    }

    /// How many tasks are on their way, one way or the other.
    pub(super) fn under_way(&self) -> u32 {
        let awaiting = u32::try_from(self.awaiting.len()).unwrap_or(u32::MAX);
        self.moving.count().saturating_add(awaiting)
    }

    /// The first task that found no place for a successor in time: the budget alone is in its way now.
    pub(super) fn waited_in_vain(&self) -> Option<u32> {
        let mut over = self.awaiting.iter().filter(|(_, since)| since.is_none());
        over.next().map(|(index, _)| *index)
    }

    /// No task waits for a successor any longer; their turn comes again.
    pub(super) fn await_no_more(&mut self) {
        if !self.awaiting.is_empty() {
            self.awaiting.clear();
            self.place = 0;
        }
    }
}

impl Job {
    /// When the first of its tasks has waited for long enough for a place of its successor.
    pub(super) fn first_due(&self, update: &Update) -> Option<Millis> {
        let waits = |index: &u32| self.task(*index).is_some_and(|task| task.successor().is_none());
        let waiting = update.awaiting.iter().filter(|(index, _)| waits(index));
        waiting.filter_map(|(_, since)| *since).min().map(|since| since + ROOM_WITHIN)
    }

    /// What the first task that is started elsewhere waits for, for people.
    pub(super) fn told_of_awaiting(&self, update: &Update) -> Option<String> {
        let (index, since) = update.awaiting.first_key_value()?;
        let started = self.task(*index).is_some_and(|task| task.successor().is_some());
        Some(if started {
            format!("the replacement of task {index} has to serve first")
        } else if since.is_some() {
            format!("task {index} waits for room for its replacement")
        } else {
            format!("task {index} found no room for a replacement, and waits for its job's budget")
        })
    }
}

impl CellState {
    /// The version as which a task is to be started elsewhere by its job's update, if it waits for that.
    #[must_use]
    pub fn awaits_successor(&self, id: TaskId) -> Option<u32> {
        let job = self.job(id.job)?;
        let update = job.update().filter(|update| update.state == UpdateState::Rolling)?;
        let waits = update.awaiting.contains_key(&id.index)
            && job
                .task(id.index)
                .is_some_and(|task| task.placement().is_some() && task.successor().is_none());
        waits.then_some(update.to)
    }
}

impl Turn<'_> {
    /// Whether a task whose turn has come is started elsewhere first.
    pub(super) fn goes_first(&self, id: TaskId, update: &Update, judge: &Judge) -> bool {
        if !self.state.is_replaced_first(id, self.at) {
            return false;
        }
        match update.options.replacement {
            Replacement::First => true,
            Replacement::InPlace => false,
            Replacement::ForMoves => self.would_move(id, judge),
        }
    }

    /// Whether a task could not start anew where it is.
    fn would_move(&self, id: TaskId, judge: &Judge) -> bool {
        let mut copy = self.state.clone();
        Turn::new(&mut copy).renew(id, judge.to.number).is_err()
    }

    /// A task waits from now on for its successor.
    pub(super) fn await_successor(&mut self, id: TaskId, update: &mut Update) {
        // It may have one that is of no use for this.
        self.drop_successor(id, "its job is updated");
        update.awaiting.insert(id.index, Some(self.at));
        let machine = self.state.task(id).and_then(Task::placement).map(|placed| placed.machine);
        self.emit(EventKind::TaskChanged { task: id, change: TaskChange::Awaits, machine });
    }

    /// Takes out whose successor took over, or who went down meanwhile; those who found no room for long enough go
    /// within the budget.
    pub(super) fn settle_awaiting(&mut self, id: JobId, update: &mut Update) {
        self.let_go_of_awaiting(id, update);
        let waiting: Vec<(u32, Option<Millis>)> =
            update.awaiting.iter().map(|(index, since)| (*index, *since)).collect();
        for (index, since) in waiting {
            let task = TaskId { job: id, index };
            if self.state.task(task).is_some_and(|found| found.successor().is_none()) {
                self.wait_or_renew(task, since, update);
            }
        }
    }

    /// Takes out whose successor took over, or who went down meanwhile.
    pub(super) fn let_go_of_awaiting(&self, id: JobId, update: &mut Update) {
        let waiting: Vec<u32> = update.awaiting().collect();
        for index in waiting {
            let Some(found) = self.state.task(TaskId { job: id, index }) else {
                update.awaiting.remove(&index);
                continue;
            };
            if found.serves_since().is_none() || found.version == update.to {
                update.awaiting.remove(&index);
                // Whoever went down has the new version by now, or gets it when its turn comes again.
                update.place = if found.version == update.to { update.place } else { 0 };
            }
        }
    }

    fn wait_or_renew(&mut self, id: TaskId, since: Option<Millis>, update: &mut Update) {
        let may = self.state.is_replaced_first(id, self.at);
        let over = since.is_none_or(|since| since + ROOM_WITHIN <= self.at) || !may;
        if !over {
            return;
        }
        if let Err(blocked) = self.state.may_disrupt(id, self.at) {
            // As if it had begun to wait so long before the time at which it may go.
            let since = match blocked {
                Blocked::Rate { until, .. } => Some(Millis(until.0.saturating_sub(ROOM_WITHIN.0))),
                Blocked::Down { .. } => None,
            };
            update.awaiting.insert(id.index, since);
            return;
        }
        update.awaiting.remove(&id.index);
        let _stays = self.renew(id, update.to).is_ok();
        self.sets_out(id, update);
    }
}
