//! What a container is: what is asked for ([`ContainerSpec`]), what runs ([`Started`]), how it
//! ended ([`ExitRecord`]), and how a process is put inside one (`view`, `program`).
//!
//! Leaves the holding of a running task to `shim` and the bookkeeping to `executor`.

mod dir;
pub(crate) mod fence;
pub(crate) mod program;
mod record;
pub(crate) mod root;
mod spec;
pub(crate) mod syscalls;
pub(crate) mod users;
pub(crate) mod view;

pub(crate) use dir::{Record, TaskDir};
pub use record::{ExitRecord, Outcome, StartError, Started};
pub use root::{ImageRoot, Shown};
pub use spec::{Bind, ContainerId, ContainerSpec, InvalidSpec, LogLimits, Prefix, User, Workdir};
