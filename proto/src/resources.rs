//! Resources as a vector: each dimension asked for in any amount, no slots (Borg paper, 5.4).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Thousandths of one device: a whole one is 1000, so that devices can be shared.
pub const WHOLE_DEVICE: u64 = 1000;

/// What machines count their addresses for tasks under, among the devices: a task with a network of its own
/// asks for a whole one. No job may ask for it by this name.
pub const TASK_ADDRESS: &str = "task-address";

/// An amount of every kind of room that a machine has and a task needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Processor time in thousandths of a core, normalised across machine types.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub ram_bytes: u64,
    /// Disk space in bytes.
    pub disk_bytes: u64,
    /// TCP ports, a count: which ones is decided at placement.
    pub ports: u32,
    /// Countable devices by name, in thousandths of one device; absent means none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<Arc<str>, u64>,
}

impl Resources {
    /// Whether all of this fits into `room`.
    #[must_use]
    pub fn fits_in(&self, room: &Self) -> bool {
        self.shortest(room).is_none()
    }

    /// The first dimension that does not fit into `room`, if any.
    #[must_use]
    pub fn shortest(&self, room: &Self) -> Option<Dimension> {
        if self.cpu_milli > room.cpu_milli {
            return Some(Dimension::Cpu);
        }
        if self.ram_bytes > room.ram_bytes {
            return Some(Dimension::Ram);
        }
        if self.disk_bytes > room.disk_bytes {
            return Some(Dimension::Disk);
        }
        if self.ports > room.ports {
            return Some(Dimension::Ports);
        }
        self.devices
            .iter()
            .find(|(name, amount)| **amount > room.devices.get(*name).copied().unwrap_or(0))
            .map(|(name, _)| Dimension::Device(name.clone()))
    }

    /// How much of one dimension.
    #[must_use]
    pub fn amount(&self, of: &Dimension) -> u64 {
        match of {
            Dimension::Cpu => self.cpu_milli,
            Dimension::Ram => self.ram_bytes,
            Dimension::Disk => self.disk_bytes,
            Dimension::Ports => self.ports.into(),
            Dimension::Device(name) => self.devices.get(name).copied().unwrap_or(0),
        }
    }

    /// Each dimension of which there is any, with its amount: millicores, bytes, counts, and
    /// thousandths of a device.
    pub fn dimensions(&self) -> impl Iterator<Item = (Dimension, u64)> + '_ {
        let plain = [
            (Dimension::Cpu, self.cpu_milli),
            (Dimension::Ram, self.ram_bytes),
            (Dimension::Disk, self.disk_bytes),
            (Dimension::Ports, self.ports.into()),
        ];
        let devices =
            self.devices.iter().map(|(name, amount)| (Dimension::Device(name.clone()), *amount));
        plain.into_iter().chain(devices).filter(|(_, amount)| *amount > 0)
    }

    /// The sum, stopping at the largest number instead of wrapping.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What is left after `other` is taken, at least nothing in each dimension.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// Of each dimension the larger amount.
    #[must_use]
    pub fn at_least(&self, other: &Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(&self, other: &Self, op: fn(u64, u64) -> u64) -> Self {
        let mut devices = self.devices.clone();
        for (name, amount) in &other.devices {
            let mine = devices.entry(name.clone()).or_insert(0);
            *mine = op(*mine, *amount);
        }
        devices.retain(|_, amount| *amount > 0);
        let ports = op(self.ports.into(), other.ports.into()).min(u32::MAX.into());
        Self {
            cpu_milli: op(self.cpu_milli, other.cpu_milli),
            ram_bytes: op(self.ram_bytes, other.ram_bytes),
            disk_bytes: op(self.disk_bytes, other.disk_bytes),
            ports: u32::try_from(ports).expect("clamped to u32 the line before"),
            devices,
        }
    }
}

/// One dimension of the vector, for messages to people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Processor time.
    Cpu,
    /// Memory.
    Ram,
    /// Disk space.
    Disk,
    /// TCP ports.
    Ports,
    /// A device, by name.
    Device(Arc<str>),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Ram => f.write_str("ram"),
            Self::Disk => f.write_str("disk"),
            Self::Ports => f.write_str("ports"),
            Self::Device(name) if **name == *TASK_ADDRESS => f.write_str("addresses for tasks"),
            Self::Device(name) => write!(f, "device {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(cpu_milli: u64, gpu: u64) -> Resources {
        Resources {
            cpu_milli,
            devices: BTreeMap::from([("gpu".into(), gpu)]),
            ..Default::default()
        }
    }

    #[test]
    fn the_dimension_that_is_short_is_named() {
        assert_eq!(gpu(1, 1).shortest(&gpu(1, 1)), None);
        assert_eq!(gpu(2, 1).shortest(&gpu(1, 1)), Some(Dimension::Cpu));
        assert_eq!(gpu(1, 5).shortest(&gpu(1, 1)), Some(Dimension::Device("gpu".into())));
        assert_eq!(
            gpu(1, 5)
                .shortest(&Resources { cpu_milli: 9, ..Default::default() })
                .unwrap()
                .to_string(),
            "device gpu"
        );
    }

    #[test]
    fn sums_stop_at_the_largest_number_instead_of_wrapping() {
        let huge = Resources { ram_bytes: u64::MAX, ports: u32::MAX, ..gpu(1, 1) };
        assert_eq!(huge.plus(&huge).ram_bytes, u64::MAX);
        assert_eq!(huge.plus(&huge).ports, u32::MAX);
        assert_eq!(gpu(1, 1).minus(&gpu(2, 1)), Resources::default());
    }
}
