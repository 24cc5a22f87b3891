//! borgctl: the config language, the commands, a local cell.
//!
//! `config` turns files into job specifications; `ca` makes a cell's certificates; `target` finds
//! the cell to talk to and `client` calls its masters; `commands` are what people type; `output`
//! is how answers look. Holds no decision about a cell: those are the masters'.

#![warn(missing_docs)]

pub mod ca;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
#[cfg(feature = "daemons")]
pub mod demo;
pub mod exit;
#[cfg(feature = "daemons")]
pub mod local;
pub mod output;
pub mod packages;
mod session;
pub mod target;
