//! Machines: what the cell knows of each, and adding, changing and removing them.
//!
//! Leaves what a machine reports to `observe` and what is put on it to `placement`.
//!
//! Invariant: `used`, `tasks` and `ports` are exactly the sums over the tasks placed on it.

use borg_proto::{MachineId, MachineInfo, MachineName, Millis, Resources, TaskId};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Whether a machine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MachineState {
    /// Added, never heard of.
    New,
    /// Answers.
    Up,
    /// Has not answered for too long.
    Down,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A machine of the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its number.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// `host:port` of its borglet.
    pub address: Arc<str>,
    /// Whether it answers.
    pub state: MachineState,
    /// Since when it is in that state.
    pub since: Millis,
    /// What it said of itself, once it has answered.
    pub info: Option<Arc<MachineInfo>>,
    /// Sum of the limits (and port counts) of the tasks placed on it.
    pub used: Resources,
    /// The tasks placed on it.
    pub tasks: BTreeSet<TaskId>,
    /// Ports handed out on it.
    pub ports: BTreeSet<u16>,
    /// Where the search for the next free port begins.
    pub next_port: u16,
}

impl Machine {
    /// What is left for more tasks, by limits; nothing while it never answered.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.info.as_ref().map_or_else(Resources::default, |info| info.capacity.minus(&self.used))
    }

    /// Host on which its tasks listen, once it has answered.
    #[must_use]
    pub fn task_host(&self) -> Option<&str> {
        self.info.as_ref().map(|info| info.task_host.as_str())
    }

    /// The ports that may be handed out on it; empty while it never answered.
    #[must_use]
    pub fn port_range(&self) -> Range<u32> {
        self.info.as_ref().map_or(0..0, |info| port_range(info))
    }
}

/// Ports that a machine with these facts offers: never 0, never past 65535, whatever it says.
pub(crate) fn port_range(info: &MachineInfo) -> Range<u32> {
    let first = u32::from(info.first_port.max(1));
    first..first.saturating_add(info.capacity.ports).min(u32::from(u16::MAX) + 1)
}
