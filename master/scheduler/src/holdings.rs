//! How much processor time and memory of a machine those hold who might have to go, by priority.
//!
//! Whether enough could be freed is asked of every machine when a task finds no room. To go through residents
//! costs a cache miss each; here are a few sums side by side. What they give is a bound: residents that are only about
//! to start, disruption budgets and all other resources are not looked at.
//!
//! Invariant: the sums of a row are those of its residents.

use crate::domain::bits;
use crate::machines::{Grown, Machines, Resident};
use crate::need::Need;
use crate::rooms::{CPU, Held, Kind, RAM, Rooms, held, rows};
use borg_proto::Priority;

/// The columns that are looked at.
const COLUMNS: [usize; 2] = [CPU, RAM];

/// Grains of each of these columns.
pub(crate) type Grains = [i32; COLUMNS.len()];

/// What decides about a bound: who may be pushed out, what room counts, and how much is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) priority: Priority,
    pub(crate) kind: Kind,
    pub(crate) asks: Grains,
}

impl Want {
    pub(crate) fn of(need: &Need) -> Self {
        let ask = |column| need.asks.iter().find(|(other, _)| *other == column);
        let asks = COLUMNS.map(|column| ask(column).map_or(0, |(_, ask)| *ask));
        Self { priority: need.priority, kind: need.kind(), asks }
    }

    /// Whether so much room would do.
    pub(crate) fn fits(&self, room: Grains) -> bool {
        self.asks.iter().zip(room).all(|(ask, room)| *ask <= room)
    }
}

/// What all residents of one priority hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holding {
    priority: Priority,
    residents: u32,
    held: [Held; COLUMNS.len()],
}

/// What the residents of a row hold, the lowest priority first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holdings(Vec<Holding>);

impl Holdings {
    /// Counts a resident who came.
    pub(crate) fn add(&mut self, resident: &Resident) {
        let priority = resident.need.priority;
        let at = self.0.partition_point(|holding| holding.priority < priority);
        if self.0.get(at).is_none_or(|holding| holding.priority != priority) {
            let held = [Held::default(); COLUMNS.len()];
            self.0.insert(at, Holding { priority, residents: 0, held });
        }
        self.0[at].residents += 1;
        self.0[at].count(resident, true);
    }

    /// Counts a resident no more, who lends what he did when he was counted.
    pub(crate) fn remove(&mut self, resident: &Resident) {
        let priority = resident.need.priority;
        let at = self.0.partition_point(|holding| holding.priority < priority);
        self.0[at].residents -= 1;
        self.0[at].count(resident, false);
        if self.0[at].residents == 0 {
            self.0.remove(at);
        }
    }

    /// The most room that somebody of a priority and kind might find on the row, if all went whom he may push out.
    pub(crate) fn most_room(
        &self,
        rooms: &Rooms,
        row: usize,
        priority: Priority,
        kind: Kind,
    ) -> Grains {
        let mut freed = [Held::default(); COLUMNS.len()];
        let go = self.0.iter().take_while(|holding| priority.may_preempt(holding.priority));
        for holding in go {
            for (sum, held) in freed.iter_mut().zip(holding.held) {
                sum.add(held, true);
            }
        }
        let [cpu, ram] = freed;
        [(CPU, cpu), (RAM, ram)].map(|(column, freed)| rooms.left_with(column, row, kind, freed))
    }
}

/// Rows on which something became possible, and how much room those who wait might find there.
#[derive(Debug)]
pub(crate) struct Hopes {
    rows: Vec<usize>,
    /// By priority and kind, as far as anybody asked.
    of: Vec<((Priority, Kind), Vec<Grains>)>,
}

impl Hopes {
    /// On what grew.
    pub(crate) fn of(machines: &Machines, grown: &Grown) -> Self {
        let words = grown.blocks.iter().enumerate();
        let blocks = words.flat_map(|(w, word)| bits(*word).map(move |b| w * 64 + b));
        let grew =
            |row: &usize| machines.grown_at(*row) > grown.since && machines.rooms.is_open(*row);
        Self { rows: blocks.flat_map(rows).filter(grew).collect(), of: Vec::new() }
    }

    /// Whether one of the rows might have room for somebody. False is certain, true is not.
    pub(crate) fn has(&mut self, machines: &Machines, want: &Want) -> bool {
        let (priority, kind) = (want.priority, want.kind);
        let found = self.of.iter().position(|(key, _)| *key == (priority, kind));
        let found = found.unwrap_or_else(|| {
            let room = |row: &usize| machines.most_room(*row, priority, kind);
            self.of.push(((priority, kind), self.rows.iter().map(room).collect()));
            self.of.len() - 1
        });
        self.of[found].1.iter().any(|room| want.fits(*room))
    }
}

impl Holding {
    fn count(&mut self, resident: &Resident, came: bool) {
        let need = &resident.need;
        for (sum, column) in self.held.iter_mut().zip(COLUMNS) {
            if let Some(ask) = need.asks.iter().find(|(other, _)| *other == column) {
                sum.add(held(need.kind(), *ask, resident.lent), came);
            }
        }
    }
}
