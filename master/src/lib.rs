//! A Borgmaster replica: the threads, sockets and files around the deciding crates.
//!
//! `driver` is the one thread that owns the replicated state and its log; `scheduling` the one
//! that owns the scheduler; the link shard is a task of its own. `api` and `peer_service` answer
//! calls, `changes` takes a change to the leader. Holds no decision: those are in borg-cell,
//! borg-scheduler and borg-linkshard.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api;
mod app;
mod blobs;
mod catching_up;
mod changes;
mod checkpoints;
mod clock;
mod config;
mod discovery;
mod dns;
mod driver;
mod feed;
mod freshness;
mod greeting;
mod http;
mod inbox;
mod joining;
mod last_breath;
mod lifeline;
mod main_with;
mod metrics;
mod passing;
mod past;
mod peer_service;
mod peers;
mod planning;
mod recording;
mod reserved;
mod said;
mod scheduling;
pub mod store;
mod threads;

pub use app::{App, AppError};
pub use config::{Config, Member};
pub use driver::DriverError;
pub use main_with::main_with;
