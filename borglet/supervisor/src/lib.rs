//! What one machine does about what the cell asked of it.
//!
//! [`Supervisor::handle`] compares the target that link shards hand over with what runs, and
//! returns effects: fetch, unpack, start, terminate, kill, forget, remember, answer. It knows nothing of cells,
//! quota or scheduling, and does nothing itself: the borglet carries its effects out in order, and
//! the simulator does the same on virtual time.
//!
//! Invariants:
//! - An order older than the newest obeyed changes nothing, also after a restart: the fence is
//!   remembered (an effect that comes first) before anything of the order is done.
//! - Silence kills nothing: only a target that lacks an incarnation ends it.
//! - Everything in the target is in every report until the target drops it, so the loss of any
//!   answer costs nothing.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod data;
mod fairness;
#[cfg(test)]
mod fixture;
mod health;
mod launch;
mod measure;
mod packages;
pub mod room;
pub mod shares;
mod spare;
mod supervisor;
mod task;
#[cfg(test)]
mod tests;
mod turn;
pub mod volumes;
mod window;

pub use measure::MOST_FILES;
pub use packages::Cached;
pub use supervisor::Supervisor;
pub use turn::{
    Adopted, AdoptedState, Config, Counts, Effect, Input, Launch, MachineUse, NextRun, ProbeAt,
    ProbeFailure, Root, Run, ShownPackage, TaskUse, Trouble,
};
