//! DOES: the agent of one machine, and the shim that holds each task.
//!
//! The daemon: [`App`] puts it together, `driver` owns the supervisor, `tasks` carries its effects
//! out, `service` is what masters talk to, `sessions` carries what people do inside of tasks, `home` what must not be forgotten,
//! `volumes` is what tasks may see of the machine's files. Below it,
//! `executor` is the door to containers: it starts, signals, watches and removes them. Everything
//! else serves it: `shim` is the small process that holds one task, `container` what a container
//! is and how a process is put inside one, `cgroup` its limits, `logs` its output, `isolation`
//! what this machine can and cannot do, `network` what it takes to give a task a network of its own.

mod app;
pub mod cgroup;
mod clock;
mod command;
pub mod config;
mod config_file;
pub mod container;
mod data;
mod disk;
mod driver;
pub mod executor;
mod home;
mod housekeeping;
mod http;
pub mod isolation;
mod lease;
mod log_reader;
pub mod logs;
mod machine;
mod metrics;
pub mod network;
mod packages;
mod page;
mod probe;
mod procfs;
mod runs;
mod service;
mod sessions;
pub mod shim;
mod sys;
mod tasks;
mod tree;
mod usage;
mod volumes;
mod walks;

pub use app::{App, BuildError, RunError, destroy};
pub use command::main_with;
pub use config::Config;
pub use driver::DriverError;
pub use home::{ADDRESSES_FILE, Addresses, HomeError};
pub use machine::MachineError;
pub use tasks::TasksError;
