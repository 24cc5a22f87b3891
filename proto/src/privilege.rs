//! What some users may and others may not: named privileges, granted by an administrator (Borg paper,
//! section 2.5).
//!
//! Two kinds. Some are about the cell: who holds one may ask the masters for more. The others loosen how a
//! machine keeps a task in: a job names those that its tasks do without (`task.loosen`), and only a user
//! who holds them may submit it. All other isolation stays as it is, and so do quota and limits.
//!
//! Invariant: the set is closed, and each one does something in a container or at a master.

use crate::names::shorten;
use crate::spec::{SpecError, refuse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// To do all that the user [`admin`](crate::identity::ADMIN) may: end and change everybody's jobs, reach
    /// into their tasks, change machines, masters, quota, policy and privileges, save backups, and submit
    /// whatever the other privileges are for.
    Admin,
    /// To submit jobs in the monitoring band without quota there, as long as that band is open.
    Monitoring,
    /// A task may listen on any TCP port, not only on those that the cell handed it. Below 1024 its user
    /// has to be root of the machine too: [`Self::MachineIds`].
    Listen,
    /// A task may make every system call but those that change the machine as a whole, which stay refused.
    /// What the kernel asks capabilities for, it still does.
    SystemCalls,
    /// A task's user ids are the machine's: its root is the machine's root with few capabilities, reads what
    /// that may read, and writes volumes as that.
    MachineIds,
    /// A task sees all devices of its machine in `/dev`; which it may open their owner and mode say, by the
    /// ids that the task has.
    Devices,
    /// A task may keep its whole limit reserved, whatever it uses (`task.reclaim` is false): nothing of it is
    /// lent to others (Borg paper, section 2.5: disabling resource estimation).
    Reservation,
}

impl Privilege {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Admin,
        Self::Monitoring,
        Self::Listen,
        Self::SystemCalls,
        Self::MachineIds,
        Self::Devices,
        Self::Reservation,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Monitoring => "monitoring",
            Self::Listen => "listen",
            Self::SystemCalls => "system-calls",
            Self::MachineIds => "machine-ids",
            Self::Devices => "devices",
            Self::Reservation => "reservation",
        }
    }

    /// What it allows, in one line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Admin => "do all that the user admin may",
            Self::Monitoring => "submit in the open monitoring band without quota there",
            Self::Listen => "tasks listen on any TCP port from 1024 on; below, with machine-ids",
            Self::SystemCalls => "tasks make every system call that does not change the machine",
            Self::MachineIds => "root in tasks is the machine's root, with few capabilities",
            Self::Devices => "tasks see all devices of the machine",
            Self::Reservation => "tasks keep their whole limit reserved: nothing of it is lent",
        }
    }

    /// Whether it loosens how a machine keeps a task in, and so may stand in `task.loosen`.
    #[must_use]
    pub const fn loosens(self) -> bool {
        match self {
            Self::Admin | Self::Monitoring | Self::Reservation => false,
            Self::Listen | Self::SystemCalls | Self::MachineIds | Self::Devices => true,
        }
    }

    /// The names of those that may stand in `task.loosen`, for people.
    #[must_use]
    pub fn names_that_loosen() -> String {
        names(Self::ALL.into_iter().filter(|privilege| privilege.loosens()))
    }
}

/// Whether a task may name these in `task.loosen`.
pub(crate) fn check_loosened(named: &BTreeSet<Privilege>) -> Result<(), SpecError> {
    match named.iter().find(|privilege| !privilege.loosens()) {
        None => Ok(()),
        Some(other) => {
            let why = format!(
                "is a privilege about the cell, no isolation of a task: allowed are {}",
                Privilege::names_that_loosen()
            );
            refuse("task.loosen", other, why)
        }
    }
}

fn names(of: impl IntoIterator<Item = Privilege>) -> String {
    of.into_iter().map(Privilege::name).collect::<Vec<_>>().join(", ")
}

/// Privileges for people: `listen, devices`; empty when there are none.
#[must_use]
pub fn list(of: &BTreeSet<Privilege>) -> String {
    names(of.iter().copied())
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Privilege {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|privilege| privilege.name() == text);
        named.ok_or_else(|| format!("{:?} is no privilege: {}", shorten(text), names(Self::ALL)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_by_its_name_and_written_alike_everywhere() {
        for privilege in Privilege::ALL {
            assert_eq!(privilege.name().parse(), Ok(privilege));
            let json = serde_json::to_string(&privilege).unwrap();
            assert_eq!(json, format!("\"{privilege}\""));
        }
        let wrong = "root".parse::<Privilege>().unwrap_err();
        assert_eq!(
            wrong,
            "\"root\" is no privilege: admin, monitoring, listen, system-calls, machine-ids, devices, \
             reservation"
        );
    }
}
