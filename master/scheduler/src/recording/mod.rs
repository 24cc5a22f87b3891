//! What a scheduler was told and what it decided: enough to take every decision again.
//!
//! A [`Scheduler`] depends on the state that it follows and on a few things beside it: which machines
//! are silent, what is lent, what was refused, and the time of each pass. [`Recorded`] is one of these, in
//! order; the state itself is the log's. [`wire`] makes bytes of them, [`Player`] takes the decisions again.
//!
//! Leaves to the shell: where the bytes are kept, and for how long.
//!
//! Invariant: the same state at a [`Begin`] and the same log, played against what was recorded from there, give
//! the same decisions, byte for byte.

mod player;
#[cfg(test)]
mod tests;
mod varint;
pub mod wire;

pub use player::{Difference, Log, Player, Stop};

use crate::{Config, Scheduler};
use borg_cell::state::CellState;
use borg_proto::command::Assignment;
use borg_proto::reclamation::Amounts;
use borg_proto::{IncarnationId, JobId, MachineId, Millis, TaskId};

/// One thing that a scheduler was told, or decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It began again from the state alone: what was recorded before is not needed from here on.
    Begin(Box<Begin>),
    /// It took over what changed up to this entry of the log.
    Follow {
        /// Which.
        index: u64,
    },
    /// It missed news, and began again with all of the state after this entry; what it knew beside the
    /// state stays.
    Afresh {
        /// Which.
        index: u64,
    },
    /// These machines do not answer just now, all others do.
    Silent {
        /// Which, in order.
        machines: Vec<MachineId>,
    },
    /// What tasks lend counts for nothing any more.
    LendNothing,
    /// What tasks lend by now, of those of which it is news.
    Lend {
        /// In the order in which it was told.
        news: Vec<(IncarnationId, Amounts)>,
    },
    /// Decisions about these tasks came to nothing.
    Refused {
        /// In the order in which it was told.
        tasks: Vec<TaskId>,
    },
    /// A pass.
    Pass {
        /// When.
        now: Millis,
        /// The most that it was to decide.
        max: u64,
        /// What came of it.
        decided: Decided,
    },
    /// Something was not recorded. What follows means nothing until the next [`Recorded::Begin`].
    Gap,
}

/// With what a scheduler began again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The newest entry of the log that the state had.
    pub index: u64,
    /// How it decides.
    pub config: Config,
    /// Machines that did not answer then, in order.
    pub silent: Vec<MachineId>,
    /// What tasks lent then, by task.
    pub lent: Vec<(IncarnationId, Amounts)>,
    /// Jobs that were set aside, with what the panic said.
    pub aside: Vec<(JobId, String)>,
}

/// What came of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// These, in the order in which they apply.
    Placed(Vec<Assignment>),
    /// It panicked over these jobs, which are set aside.
    Panicked(Vec<JobId>),
}

impl Begin {
    /// What there is to say of a scheduler that is about to begin again with the state after entry `index`.
    #[must_use]
    pub fn of(scheduler: &Scheduler, index: u64) -> Self {
        let lent = scheduler.lent.iter();
        Self {
            index,
            config: scheduler.config,
            silent: scheduler.silent.iter().copied().collect(),
            lent: lent
                .map(|(task, (number, lent))| {
                    (IncarnationId { task: *task, number: *number }, *lent)
                })
                .collect(),
            aside: scheduler.set_aside(),
        }
    }

    /// The scheduler that began so with `state`.
    #[must_use]
    pub fn scheduler(&self, state: &CellState) -> Scheduler {
        let mut scheduler = Scheduler::unread(state, self.config);
        scheduler.silent = self.silent.iter().copied().collect();
        scheduler.lent = self.lent.iter().map(|(id, lent)| (id.task, (id.number, *lent))).collect();
        scheduler.leave_out(&self.aside);
        // Jobs that make it panic now too are left out as they were then.
        drop(scheduler.survive(|scheduler| scheduler.start_afresh(state)));
        scheduler
    }
}
