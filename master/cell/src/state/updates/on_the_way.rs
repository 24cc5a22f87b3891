//! Which tasks of an update are on their way, and when each of them is to be looked at by itself.
//!
//! That time is found out when the task changes, and kept in order: so an entry costs what it changes, and
//! not what an update has on its way, which of a large job are thousands.
//!
//! Invariants: what is on its way is alive, of the new version, and has not failed; its time follows from the
//! task and from the update.

use super::Update;
use crate::state::{Job, Task};
use borg_proto::Millis;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// Tasks that have the new version and have not served for long enough yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OnTheWay {
    due: OrdMap<u32, Option<Millis>>,
    times: OrdSet<(Millis, u32)>,
}

impl OnTheWay {
    /// These, at times that are not known yet.
    pub(crate) fn untimed(indexes: impl IntoIterator<Item = u32>) -> Self {
        let due = indexes.into_iter().map(|index| (index, None)).collect();
        Self { due, times: OrdSet::new() }
    }

    /// Their indexes, in order.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.due.keys().copied()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.due.len()).unwrap_or(u32::MAX)
    }

    /// The one of the lowest index.
    pub(super) fn first(&self) -> Option<u32> {
        self.due.get_min().map(|(index, _)| *index)
    }

    /// When the next of them is to be looked at.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.times.get_min().map(|(at, _)| *at)
    }

    /// Those that are to be looked at by a moment.
    fn due_by(&self, at: Millis) -> Vec<u32> {
        let due = self.times.iter().take_while(|(time, _)| *time <= at);
        due.map(|(_, index)| *index).collect()
    }

    fn set(&mut self, index: u32, at: Option<Millis>) {
        self.take(index);
        self.due.insert(index, at);
        if let Some(at) = at {
            self.times.insert((at, index));
        }
    }

    /// Takes one out, if it is there.
    fn take(&mut self, index: u32) -> bool {
        let Some(before) = self.due.remove(&index) else { return false };
        if let Some(at) = before {
            self.times.remove(&(at, index));
        }
        true
    }
}

impl Update {
    /// A task is on its way from now on.
    pub(super) fn sets_out(&mut self, index: u32, task: &Task) {
        let due = task.due_in(self);
        self.moving.set(index, due);
    }

    /// A task has changed: if it is on its way, it may be due at another time, or not be on its way any more.
    pub(super) fn look_again(&mut self, index: u32, task: Option<&Task>) {
        if !self.moving.take(index) {
            return;
        }
        let still = |task: &&Task| !task.is_dead() && !task.is_stopped() && task.version == self.to;
        if let Some(task) = task.filter(still).filter(|_| !self.failed.contains(&index)) {
            self.sets_out(index, task);
        }
    }

    /// Takes out who has arrived, and notes who took too long: these are counted, and waited for no longer.
    pub(super) fn settle(&mut self, job: &Job, at: Millis) {
        for index in self.moving.due_by(at) {
            if job.task(index).is_none_or(|task| task.serves_since().is_none()) {
                let seconds = self.deadline_s();
                self.note(index, &format!("task {index} did not serve within {seconds} s"));
            }
            self.moving.take(index);
        }
    }
}

impl Job {
    /// Finds out anew when what is on its way is due.
    pub(in crate::state) fn time_update(&mut self) {
        let Some(mut update) = self.update.clone() else { return };
        let timed = Arc::make_mut(&mut update);
        for index in timed.moving.indexes().collect::<Vec<_>>() {
            timed.look_again(index, self.task(index));
        }
        self.update = Some(update);
    }
}
