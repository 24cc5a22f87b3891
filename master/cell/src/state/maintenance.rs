//! Maintenance of one machine after the other, a whole cell if need be: which are out of service, and whose
//! turn is next.
//!
//! So many machines are drained at a time. One is done when an operator undrains it, when it answers after
//! it was empty and restarted, or when it leaves the cell; then the next one's turn has come. All of that is
//! state: whoever leads goes on where the last leader was, and no client has to stay.
//!
//! A machine that is drained when its turn comes is left out: whoever drained it says when it is back.
//!
//! Invariants: a machine is out for one maintenance at most; as long as machines are left, as many are drained for a maintenance as may be at once.

use super::drains::Order;
use super::turn::Turn;
use super::{Answer, CellState, Machine};
use crate::event::EventKind;
use crate::rejection::{DrainRejection, Rejection};
use borg_proto::{MachineId, Millis, UserName};
use imbl::Vector;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most maintenances under way. 64: our choice; a cell has few operators.
pub const MAX_MAINTENANCES: usize = 64;

/// Machines that are drained one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Its number, never used again.
    pub number: u64,
    /// Since when.
    pub since: Millis,
    /// Who began it.
    pub by: UserName,
    /// Why, for people.
    pub reason: String,
    /// How many machines are out of service for it at most.
    pub at_once: u32,
    /// How long each may take to become empty.
    pub within: Millis,
    /// Those whose turn is yet to come, the next one first.
    pub left: Vector<MachineId>,
    /// How many are done.
    pub done: u32,
}

impl CellState {
    /// Maintenances under way, by number.
    pub fn maintenances(&self) -> impl Iterator<Item = &Maintenance> {
        self.maintenances.values().map(AsRef::as_ref)
    }

    /// The machines that are drained for a maintenance now.
    pub fn out_for(&self, number: u64) -> impl Iterator<Item = &Machine> {
        let part = move |machine: &&Machine| {
            machine.drain.as_ref().is_some_and(|drain| drain.maintenance == Some(number))
        };
        self.draining().filter(part)
    }
}

impl Turn<'_> {
    pub(super) fn begin_maintenance(
        &mut self,
        order: &Order<'_>,
        at_once: u32,
        machines: Vec<MachineId>,
    ) -> Result<Answer, Rejection> {
        let there = self.state.maintenances.len();
        if there >= MAX_MAINTENANCES {
            return Err(Rejection::CellFull {
                what: "maintenances".to_owned(),
                there: there as u64,
                most: MAX_MAINTENANCES as u64,
            });
        }
        let number = self.state.last_maintenance.saturating_add(1);
        self.state.last_maintenance = number;
        let mut seen = BTreeSet::new();
        let left = machines.into_iter().filter(|id| seen.insert(*id)).collect();
        let maintenance = Maintenance {
            number,
            since: self.at,
            by: order.by.clone(),
            reason: order.reason.to_owned(),
            at_once,
            within: order.within,
            left,
            done: 0,
        };
        self.state.maintenances.insert(number, Arc::new(maintenance));
        self.emit(EventKind::Maintenance { number, over: false });
        self.next_machines(number);
        Ok(Answer::None)
    }

    /// No more machines are drained for a maintenance, and those that are come back.
    pub(super) fn end_maintenance(&mut self, number: u64) -> Result<Answer, Rejection> {
        let Some(maintenance) = self.state.maintenances.get_mut(&number) else {
            return Err(DrainRejection::NoSuchMaintenance { number }.into());
        };
        Arc::make_mut(maintenance).left = Vector::new();
        let out: Vec<MachineId> = self.state.out_for(number).map(|machine| machine.id).collect();
        out.into_iter().for_each(|id| self.undrain(id));
        self.next_machines(number);
        Ok(Answer::None)
    }

    /// Machines whose turn has not come are left out.
    pub(super) fn spare_from_maintenance(&mut self, machines: &[MachineId]) {
        let machines: BTreeSet<MachineId> = machines.iter().copied().collect();
        let numbers: Vec<u64> = self.state.maintenances.keys().copied().collect();
        for number in numbers {
            let Some(maintenance) = self.state.maintenances.get_mut(&number) else { continue };
            if maintenance.left.iter().any(|id| machines.contains(id)) {
                Arc::make_mut(maintenance).left.retain(|id| !machines.contains(id));
                self.next_machines(number);
            }
        }
    }

    /// A machine that was drained for a maintenance is done.
    pub(super) fn is_back(&mut self, number: u64) {
        if let Some(maintenance) = self.state.maintenances.get_mut(&number) {
            let maintenance = Arc::make_mut(maintenance);
            maintenance.done = maintenance.done.saturating_add(1);
        }
        self.next_machines(number);
    }

    /// Drains as many as may be out of service; a maintenance with nothing left to do is over.
    fn next_machines(&mut self, number: u64) {
        let Some(mut maintenance) = self.state.maintenances.get(&number).cloned() else { return };
        let most = usize::try_from(maintenance.at_once).unwrap_or(usize::MAX);
        let mut out = self.state.out_for(number).count();
        let (by, reason) = (maintenance.by.clone(), maintenance.reason.clone());
        let order = Order {
            by: &by,
            reason: &reason,
            within: maintenance.within,
            maintenance: Some(number),
        };
        while out < most
            && let Some(id) = Arc::make_mut(&mut maintenance).left.pop_front()
        {
            // It may have left the cell meanwhile, or be out for another reason: its restart would not mean that
            // it may serve again.
            if self.state.machine(id).is_some_and(|machine| machine.drain.is_none()) {
                self.drain(id, &order);
                out += 1;
            }
        }
        if out == 0 {
            self.state.maintenances.remove(&number);
            self.emit(EventKind::Maintenance { number, over: true });
        } else {
            self.state.maintenances.insert(number, maintenance);
        }
    }
}
