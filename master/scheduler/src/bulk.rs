//! How much processor time and memory of a machine those hold who might have to go, in a few bytes each.
//!
//! Whether enough could be freed is asked of every machine when a task finds no room. To go through residents
//! costs a cache miss each; these lie side by side. What they give is a bound: residents that are only about to
//! start, disruption budgets and all other resources are not looked at.
//!
//! Invariant: a row has one for each resident, in the same order, see [`crate::machines::Resident`].

use crate::machines::Resident;
use crate::need::Need;
use crate::rooms::{CPU, Held, RAM, Rooms, held};
use borg_proto::Priority;

/// The columns that are looked at.
const COLUMNS: [usize; 2] = [CPU, RAM];

/// What one resident holds.
#[derive(Debug, Clone, Copy)]
struct Bulk {
    priority: Priority,
    held: [Held; COLUMNS.len()],
}

impl Bulk {
    fn of(resident: &Resident) -> Self {
        let need = &resident.need;
        let held = COLUMNS.map(|column| {
            let ask = need.asks.iter().find(|(other, _)| *other == column);
            ask.map_or(Held::default(), |ask| held(need.kind(), *ask, resident.lent))
        });
        Self { priority: need.priority, held }
    }
}

/// What all residents of a row hold, in the order in which they are pushed out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bulks(Vec<Bulk>);

impl Bulks {
    pub(crate) fn insert(&mut self, at: usize, resident: &Resident) {
        self.0.insert(at, Bulk::of(resident));
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.0.remove(at);
    }

    /// A resident holds something else by now.
    pub(crate) fn set(&mut self, at: usize, resident: &Resident) {
        self.0[at] = Bulk::of(resident);
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
