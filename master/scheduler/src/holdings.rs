//! How much processor time and memory of a machine those hold who might have to go, by priority.
//!
//! Whether enough could be freed is asked of every machine when a task finds no room. To go through residents
//! costs a cache miss each; here are a few sums side by side. What they give is a bound: residents that are only about
//! to start, disruption budgets and all other resources are not looked at.
//!
//! Invariant: the sums of a row are those of its residents.

use crate::machines::Resident;
use crate::need::Need;
use crate::rooms::{CPU, Held, RAM, Rooms, held};
use borg_proto::Priority;

/// The columns that are looked at.
const COLUMNS: [usize; 2] = [CPU, RAM];

/// What all residents of one priority hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bulk {
    priority: Priority,
    residents: u32,
    held: [Held; COLUMNS.len()],
}

/// What the residents of a row hold, the lowest priority first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bulks(Vec<Bulk>);

impl Bulks {
    /// Counts a resident who came.
    pub(crate) fn add(&mut self, resident: &Resident) {
        let priority = resident.need.priority;
        let at = self.0.partition_point(|bulk| bulk.priority < priority);
        if self.0.get(at).is_none_or(|bulk| bulk.priority != priority) {
            let held = [Held::default(); COLUMNS.len()];
            self.0.insert(at, Bulk { priority, residents: 0, held });
        }
        self.0[at].residents += 1;
        self.0[at].count(resident, true);
    }

    /// Counts a resident no more, who lends what he did when he was counted.
    pub(crate) fn remove(&mut self, resident: &Resident) {
        let priority = resident.need.priority;
        let at = self.0.partition_point(|bulk| bulk.priority < priority);
        self.0[at].residents -= 1;
        self.0[at].count(resident, false);
        if self.0[at].residents == 0 {
            self.0.remove(at);
        }
    }

    /// Whether a task might find room on the row if all went whom it may push out. False is certain, true is not.
    pub(crate) fn might_yield(&self, rooms: &Rooms, row: usize, need: &Need) -> bool {
        let mut freed = [Held::default(); COLUMNS.len()];
        let go = self.0.iter().take_while(|bulk| need.priority.may_preempt(bulk.priority));
        for bulk in go {
            for (sum, held) in freed.iter_mut().zip(bulk.held) {
                sum.add(held, true);
            }
        }
        let kind = need.kind();
        COLUMNS.iter().zip(freed).all(|(column, freed)| {
            let ask = need.asks.iter().find(|(other, _)| other == column);
            ask.is_none_or(|(_, ask)| *ask <= rooms.left_with(*column, row, kind, freed))
        })
    }
}

impl Bulk {
    fn count(&mut self, resident: &Resident, came: bool) {
        let need = &resident.need;
        for (sum, column) in self.held.iter_mut().zip(COLUMNS) {
            if let Some(ask) = need.asks.iter().find(|(other, _)| *other == column) {
                sum.add(held(need.kind(), *ask, resident.lent), came);
            }
        }
    }
}
