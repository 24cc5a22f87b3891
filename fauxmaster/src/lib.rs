//! Fauxmaster: questions to a cell, answered by the code that runs cells (Borg paper, section 3.1).
//!
//! A [`Driven`] cell is the production state machine on virtual time, and the production scheduler
//! decides in it: what is told here is what a cell would do, not what a model of one would. [`sources`]
//! says where cells and work come from, [`questions`] what can be asked, [`answer`] what every answer is
//! made of.
//!
//! Leaves to others: the network and the config language (`borgctl` brings checkpoints of live cells and
//! jobs from files), Raft, link shards and machines with faults (`borg-sim`).
//!
//! Invariant: an answer is a function of its inputs and seeds. No clock, randomness of the operating
//! system or order of a hash reaches one, and the number of threads does not either.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod answer;
pub mod bound;
pub mod driven;
pub mod history;
pub mod journal;
pub mod parallel;
pub mod questions;
pub mod replay;
pub mod reports;
pub mod sources;
pub mod spread;
pub mod work;

pub use driven::Driven;

/// Something that is not the fault of one field: it says what and where.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
