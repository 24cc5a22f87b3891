//! The vocabulary of a cell, and how it travels.
//!
//! Every other crate speaks in these types: names, resources, job specifications, task states,
//! and the messages between Borgmaster, link shard and borglet. `wire` holds the protobuf forms
//! and the checked conversions; with the feature `rpc` the gRPC services and the TLS set-up are
//! here too. With the feature `layers`, what is in a
//! package and the files of blobs. Nothing in the default features does I/O.
//!
//! Invariant: a value of a type in this crate (outside `wire::pb`) has passed its own bounds
//! check, so the crates that decide never see an unbounded string or an impossible size.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod asked;
#[cfg(feature = "layers")]
pub mod blobs;
pub mod causes;
pub mod command;
pub mod cron;
pub mod difference;
pub mod disruption;
pub mod health;
pub mod identity;
pub mod indexes;
#[cfg(feature = "layers")]
pub mod layer;
pub mod machine;
pub mod names;
pub mod network;
pub mod package;
pub mod panics;
pub mod peer;
pub mod policy;
pub mod poll;
pub mod priority;
pub mod privilege;
pub mod reclamation;
pub mod resources;
#[cfg(feature = "rpc")]
pub mod rpc;
pub mod slots;
pub mod spec;
pub mod submitted;
pub mod task;
pub mod text;
pub mod time;
pub mod update;
pub mod wire;

pub use causes::in_full;
pub use health::Health;
pub use indexes::IndexSet;
pub use machine::{MachineId, MachineInfo};
pub use names::{
    CellName, IncarnationId, JobId, JobKey, JobName, MachineName, NameError, ReplicaId, TaskId,
    TaskName, UserName,
};
pub use network::Network;
pub use priority::{AppClass, Band, Priority};
pub use privilege::Privilege;
pub use resources::Resources;
pub use spec::{JobKind, JobSpec, TaskSpec};
pub use task::{FailureCause, TaskState};
pub use time::Millis;
