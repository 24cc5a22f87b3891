//! A link shard: one in each Borgmaster, for a part of the cell's machines.
//!
//! `shard` decides which borglet to ask when, and what of its answer is news, `spread` from whom a machine gets
//! the blobs that it wants. `poller`, behind a
//! feature, carries the questions over gRPC. Neither knows what a job is for: that is the
//! leader's business, whose orders arrive as targets (Borg paper, section 3.3).
//!
//! Invariant: a shard holds nothing that the cell could miss. Losing one kills no task and
//! changes no state; it costs one full report per machine.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod diff;
mod parts;
#[cfg(feature = "poller")]
pub mod poller;
pub mod shard;
mod spread;

pub use diff::{Difference, difference, fold};
pub use shard::{Config, Effect, Input, PollFailure, Shard};
