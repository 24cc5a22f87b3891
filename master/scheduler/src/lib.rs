//! DECIDES: which task goes where, and why not.
//!
//! A [`Scheduler`] keeps its own compact index of the cell, folded from the stream of committed
//! changes, and proposes [assignments](borg_proto::command::Assignment). The state machine of the
//! cell checks each one again and accepts or refuses it, so a scheduler can be wrong but never do
//! harm, and two of them could run.
//!
//! Leaves to others: when to run a pass, carrying the decisions to the log, and everything after.
//!
//! Invariants: the machine chosen is the exact best of all machines (caches change the time, never
//! the answer); a task is proposed once until its fate is known; room is promised once; production
//! never pushes out production; the reasons that [`Scheduler::explain`] counts come from the
//! function that decides.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod advice;
mod aside;
mod budgets;
mod class;
mod crowds;
mod domain;
mod drain_plan;
mod explain;
mod filters;
mod fit;
mod fold;
mod gang;
mod holdings;
mod homes;
mod inside;
mod lent;
mod lot;
mod machines;
mod moves;
mod need;
mod parking;
mod pinned;
mod plan;
mod queue;
mod reasons;
pub mod recording;
mod refusals;
mod relaxed;
mod rooms;
mod scheduler;
mod score;
mod standing;
#[cfg(test)]
mod tests;
mod victims;

pub use advice::{Advice, Change};
pub use aside::SetAside;
#[cfg(any(test, feature = "trap"))]
pub use aside::Trap;
pub use borg_proto::policy::{MAX_WEIGHT, Weights};
pub use drain_plan::{DrainPlan, PlannedMove};
pub use explain::{Ahead, Explanation};
pub use fit::Fit;
pub use plan::{JobPlan, MOST_PLANNED, Novelty, Plan, QuotaPlan, Victim};
pub use reasons::{Reason, Rejected};
pub use scheduler::{Config, Scheduler};
pub use standing::Standing;
