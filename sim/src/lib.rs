//! The simulated world, and the runs of `cellsim`.
//!
//! Links the deciding crates only: masters, scheduler, link shards and supervisors run here exactly
//! as in a real cell, on virtual time, with a network, disks, machines and clients that are played.
//! Leaves real sockets, processes and files to the tests of the daemons.
//!
//! Invariant: a run is a function of its seed. Nothing here reads a clock, the operating system's
//! randomness, or the order of a hash.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod agenda;
pub mod checkers;
pub mod dice;
pub mod disk;
pub mod jobs;
pub mod journal;
pub mod marks;
pub mod network;
pub mod run;
pub mod usage;
pub mod world;

pub use checkers::{Invariant, Violation};
pub use jobs::{JobBuilder, Play, job};
pub use world::{Fault, Setup, Weather, World};
