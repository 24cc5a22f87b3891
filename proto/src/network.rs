//! Whose network a task is in, and its ports where that is its own (docs/adr/0025).

use crate::spec::TaskSpec;
use serde::{Deserialize, Serialize};

/// Number of the first named port of a task that has a network of its own; the others follow, so that they are
/// the same for all tasks of a job, whatever machine they are on. 8000: our choice; what people use for services
/// that need no root.
pub const FIRST_OWN_PORT: u16 = 8_000;

/// The network that a task sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its machine's, on ports that the cell hands out.
    #[default]
    Host,
    /// One of its own, with an address of its own on which every port is free. Only on machines whose
    /// operator gave a range of addresses for tasks.
    Own,
}

impl Network {
    pub(crate) const fn is_host(&self) -> bool {
        matches!(self, Self::Host)
    }

    /// Whether the task has an address of its own.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Own)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_host() { "host" } else { "own" })
    }
}

impl TaskSpec {
    /// The numbers of its named ports, in their order, where they are not the machine's.
    #[must_use]
    pub fn own_ports(&self) -> Vec<u16> {
        (FIRST_OWN_PORT..).take(self.ports.len()).collect()
    }
}
