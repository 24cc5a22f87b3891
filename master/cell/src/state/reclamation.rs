//! How much is lent of the room that tasks hold and do not use, and what must hold of it whatever anybody
//! believes.
//!
//! What a task needs is the leader's belief (`reservation`), and comes with each decision as an amount that is
//! lent. The state cannot check it, so it bounds what it can lead to: the limits of prod are within a
//! machine's capacity, and those of all other tasks within a share of it that the cell decides
//! ([`Number::Most`]).
//!
//! Invariant: prod never stands on lent room.

use super::turn::Turn;
use super::{Answer, CellState, Machine};
use crate::event::EventKind;
use borg_proto::Resources;
use borg_proto::command::SERVICES_SINCE;
use borg_proto::reclamation::{Amounts, MOST_PERCENT, Number, NumberSet, Reclamation};
use borg_proto::task::EvictCause;
use borg_proto::{IncarnationId, TaskId};
use std::collections::BTreeMap;

impl CellState {
    /// What was decided for this cell; `None` while nobody decided anything.
    #[must_use]
    pub fn reclamation(&self) -> Option<Reclamation> {
        self.reclamation
    }

    /// What is in force.
    #[must_use]
    pub fn reclaims(&self) -> Reclamation {
        self.reclamation.unwrap_or_default()
    }

    /// Whether anything is lent: not before all masters understand it, nor when the cell decided so.
    #[must_use]
    pub fn lends(&self) -> bool {
        self.level >= SERVICES_SINCE && self.reclaims().lends()
    }

    /// Room for one more task on a machine, for prod or for others, if so much is lent of what its tasks
    /// hold.
    pub(super) fn room_on(&self, machine: &Machine, prod: bool, lent: Amounts) -> Resources {
        let lent = if self.lends() { lent } else { Amounts::default() };
        machine.room(prod, lent, self.reclaims().numbers.most_percent)
    }

    /// The most room that one more task may ever find on a machine, whatever is lent: for what runs there
    /// already.
    pub(super) fn most_room_on(&self, machine: &Machine, prod: bool) -> Resources {
        self.room_on(machine, prod, Amounts::from(&machine.used))
    }
}

impl Machine {
    /// What is left for one more task of prod, or of others, while `lent` of what its tasks hold is not needed.
    /// The limits of prod alone stay within the capacity, those of all others within `most_percent` of it.
    #[must_use]
    pub fn room(&self, prod: bool, lent: Amounts, most_percent: u32) -> Resources {
        let Some(info) = &self.info else { return Resources::default() };
        let capacity = Amounts::from(&info.capacity);
        let (all, of_prod) = (Amounts::from(&self.used), Amounts::from(&self.used_by_prod));
        let bound = if prod {
            capacity.minus(of_prod)
        } else {
            capacity.percent(most_percent).minus(all.minus(of_prod))
        };
        let left = capacity.plus(lent.least(all)).minus(all).least(bound);
        let by_limits = info.capacity.minus(&self.used);
        Resources {
            cpu_milli: left.cpu_milli,
            ram_bytes: left.ram_bytes,
            disk_bytes: left.disk_bytes,
            ..by_limits
        }
    }

    /// How far the limits of its tasks go beyond its capacity: what surely stands on lent room.
    #[must_use]
    pub fn overdrawn(&self) -> Amounts {
        let capacity = self.info.as_ref().map(|info| Amounts::from(&info.capacity));
        Amounts::from(&self.used).minus(capacity.unwrap_or_default())
    }

    /// Whether its tasks are within what may ever be lent, were it overdrawn by no more than `overdrawn`.
    pub(super) fn is_within(&self, overdrawn: Amounts, most_percent: u32) -> bool {
        let Some(info) = &self.info else { return self.tasks.is_empty() };
        let capacity = Amounts::from(&info.capacity);
        let (all, of_prod) = (Amounts::from(&self.used), Amounts::from(&self.used_by_prod));
        let divisible = Resources::from(all);
        let rest = self.used.minus(&divisible);
        of_prod.fits_in(capacity)
            && all.minus(of_prod).fits_in(capacity.percent(most_percent))
            && self.overdrawn().fits_in(overdrawn)
            && rest.fits_in(&info.capacity)
    }

    /// Whether its tasks are within what may ever be lent in any cell.
    pub(super) fn is_sound(&self, lends: bool) -> bool {
        let overdrawn = if lends { Amounts::of([u64::MAX; 3]) } else { Amounts::default() };
        self.is_within(overdrawn, MOST_PERCENT)
    }
}

impl Turn<'_> {
    /// Chooses another set, or single numbers.
    pub(super) fn set_reclamation(
        &mut self,
        named: Option<NumberSet>,
        numbers: &BTreeMap<Number, u32>,
    ) -> Answer {
        let new = self.state.reclaims().after(named, numbers);
        if self.state.reclamation != Some(new) {
            self.state.reclamation = Some(new);
            self.emit(EventKind::ReclamationChanged);
        }
        Answer::None
    }

    /// The leader takes lent room back that a task stands on, as far as its job's budget allows. Prod stands on
    /// none.
    pub(super) fn task_reclaimed(&mut self, id: IncarnationId) {
        let TaskId { job, .. } = id.task;
        let there = self.state.task(id.task).and_then(|task| task.running(id.task)) == Some(id);
        let prod = self.state.job(job).is_none_or(|job| job.stands_as_prod(id.task.index));
        if there && !prod && self.state.may_disrupt(id.task, self.at).is_ok() {
            self.note_disruption(id.task);
            self.evict(id.task, &EvictCause::Reclaimed);
        }
    }
}

#[cfg(test)]
mod tests;
