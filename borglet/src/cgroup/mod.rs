//! Limits on, accounts of and the grip on all processes of a task: cgroups.
//!
//! One trait for the three layouts found on real machines (v1, v2, and v1 controllers beside a v2
//! tree without any); `detect` finds which one is here. Leaves to callers when to create, kill and
//! remove.
//!
//! Invariant: everything made here lies below one group of our own at the top of each hierarchy;
//! no other group is ever changed. (On v2 the root group is asked to pass its controllers down.)

mod detect;
mod files;
mod v1;
mod v2;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::Shown;

pub use detect::detect;
pub use v1::V1;
pub use v2::V2;

/// Name of the group that holds our shims; no container id can begin with an underscore.
pub const SHIMS: &str = "_shims";

/// Period over which a hard processor limit is counted, in microseconds (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;

/// What a group weighs for disks that nobody gave a weight, on v1 and v2.
const USUAL_IO_WEIGHT: u16 = 100;

/// How this machine lays out its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupLayout {
    /// None that can be used.
    None,
    /// One hierarchy per controller.
    V1,
    /// One hierarchy per controller, and a v2 tree without controllers for tracking and killing.
    Mixed,
    /// One tree with all controllers.
    V2,
}

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Share of the processors under contention, thousandths of a processor.
    pub cpu_milli: u64,
    /// Hard cap on processor use, thousandths of a processor.
    pub cpu_cap_milli: Option<u64>,
    /// Limit on memory, bytes.
    pub ram_bytes: u64,
    /// Whether that limit may be exceeded while the machine has memory. What is within it is then given
    /// back last.
    pub soft: bool,
    /// Share of disks under contention, 1 to 1000, where the kernel shares them; 100 is usual.
    pub io_weight: u16,
    /// Most processes and threads.
    pub pids_max: u32,
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its creation, milliseconds.
    pub cpu_ms: u64,
    /// Memory charged to it now, bytes, page cache included.
    pub memory_bytes: u64,
    /// The part of it that could not be given back at once: memory less inactive file pages.
    pub working_set_bytes: u64,
    /// Most memory ever charged to it, bytes.
    pub memory_peak_bytes: u64,
    /// Bytes read from and written to disks since its creation. On v1 without what the kernel wrote
    /// back later.
    pub io_bytes: u64,
    /// Reads and writes of disks since its creation.
    pub io_ops: u64,
    /// Processes and threads.
    pub threads: u32,
}

impl Usage {
    /// Page cache that could be given back at once.
    #[must_use]
    pub const fn cache_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.working_set_bytes)
    }
}

/// A cgroup could not be used as intended.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", .path.display())]
pub struct CgroupError {
    /// What was being done.
    pub action: &'static str,
    /// To which file or group.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl CgroupError {
    /// The error and its cause in one line, for records that keep no chain.
    pub fn in_full(&self) -> String {
        format!("{self}: {}", self.source)
    }
}

/// The groups of one borglet. `name` is the name of a task's group below our own.
pub trait CgroupDriver: Debug + Send + Sync {
    /// Which layout this drives.
    fn layout(&self) -> CgroupLayout;

    /// Makes our own group in each hierarchy, and the one for shims. Harmless when repeated.
    fn prepare(&self) -> Result<(), CgroupError>;

    /// What is not enforced or measured here, in plain words.
    fn missing(&self) -> Vec<String>;

    /// Makes a group with its limits, which must not be there yet.
    fn create(&self, name: &str, limits: &Limits) -> Result<(), CgroupError>;

    /// Changes the limits of a group. A memory limit below what is in use is refused.
    fn set_limits(&self, name: &str, limits: &Limits) -> Result<(), CgroupError>;

    /// Changes the share of the processors that a group has under contention, in thousandths of a processor.
    fn set_cpu_share(&self, name: &str, cpu_milli: u64) -> Result<(), CgroupError>;

    /// Caps the processor time of a group, in thousandths of a processor, or caps it no more.
    fn set_cpu_cap(&self, name: &str, cap_milli: Option<u64>) -> Result<(), CgroupError>;

    /// Processor time of the group since its creation, in microseconds: the cheapest figure of it. While
    /// it stays the same nothing in the group ran.
    fn cpu_us(&self, name: &str) -> Result<u64, CgroupError>;

    /// The directory a process should be born into (`CLONE_INTO_CGROUP`), where there is a v2 tree.
    fn birthplace(&self, name: &str) -> Result<Option<OwnedFd>, CgroupError>;

    /// Moves this process into the hierarchies that [`Self::birthplace`] does not cover.
    fn enter(&self, name: &str) -> Result<(), CgroupError>;

    /// Moves process `pid` into the group, in all hierarchies.
    fn join(&self, name: &str, pid: i32) -> Result<(), CgroupError>;

    /// The processes in the group.
    fn processes(&self, name: &str) -> Result<Vec<i32>, CgroupError>;

    /// What the group uses. Figures that this layout cannot give are 0.
    fn usage(&self, name: &str) -> Result<Usage, CgroupError>;

    /// Processor time of the group since its creation in milliseconds, and the most memory ever charged to it in
    /// bytes: what is told of an end, at a fraction of the cost of all figures.
    fn totals(&self, name: &str) -> Result<(u64, u64), CgroupError>;

    /// How many processes the kernel killed here because the memory limit was reached.
    fn oom_kills(&self, name: &str) -> Result<u64, CgroupError>;

    /// A descriptor that becomes readable when the memory limit is reached and the kernel will not
    /// by itself kill the whole group.
    fn oom_notice(&self, name: &str) -> Result<Option<OwnedFd>, CgroupError>;

    /// Kills all processes of the group, also those being born meanwhile.
    fn kill_all(&self, name: &str) -> Result<(), CgroupError>;

    /// Removes the group; harmless when it is gone. Waits a moment for processes that are ending.
    fn remove(&self, name: &str) -> Result<(), CgroupError>;

    /// Names of all our groups of tasks, in order.
    fn list(&self) -> Result<Vec<String>, CgroupError>;

    /// Removes our own group once no task is left, and with it the shims' group.
    fn retire(&self) -> Result<(), CgroupError>;
}

/// Where the hierarchies are mounted and what our group is called: enough for a shim to make the
/// same driver again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hierarchies {
    /// v1 or mixed.
    V1(V1),
    /// v2.
    V2(V2),
}

impl Hierarchies {
    /// What to cover so that a task sees nothing of others' groups. Where there is one tree its own group
    /// is shown in place of that.
    pub(crate) fn of_others(&self) -> Vec<PathBuf> {
        let Self::V1(v1) = self else { return Vec::new() };
        let mut mounts: Vec<PathBuf> = v1.all().cloned().collect();
        let above = |mount: &PathBuf| mount.parent().map(Path::to_owned);
        let together = mounts.first().and_then(above).filter(|dir| {
            // A directory that is for nothing else.
            dir.ends_with("cgroup") && mounts.iter().all(|mount| mount.parent() == Some(dir))
        });
        if let Some(dir) = together {
            mounts = vec![dir];
        }
        mounts
    }

    /// The group of a task, where programs look for their limits: in place of the whole tree. On v1 there is
    /// no one place.
    pub(crate) fn own(&self, name: &str) -> Option<Shown> {
        let Self::V2(v2) = self else { return None };
        Some(Shown { source: v2.group(name), target: v2.mount.clone() })
    }

    /// The driver for them.
    pub fn driver(self) -> Box<dyn CgroupDriver> {
        match self {
            Self::V1(v1) => Box::new(v1),
            Self::V2(v2) => Box::new(v2),
        }
    }
}

/// cpu.shares for a share of the processors: 1024 per processor, within the kernel's 2 to 262144.
fn shares(cpu_milli: u64) -> u64 {
    (cpu_milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// cpu.weight of our own group, for so many processors: 100 each, within the kernel's 1 to 10000. A group
/// that nobody gave a weight has 100, as it has 1024 shares on v1.
fn weight(cpu_milli: u64) -> u64 {
    (cpu_milli / 10).clamp(1, 10_000)
}

/// cpu.weight of a task's group, which is weighed against other tasks only: finer, as tasks that are
/// small or of low priority have a hundredth of a processor.
fn task_weight(cpu_milli: u64) -> u64 {
    (cpu_milli / 2).clamp(1, 10_000)
}

/// Microseconds of processor time in each period for a hard cap; the kernel takes 1000 at least.
fn quota_us(cap_milli: u64) -> u64 {
    (cap_milli.saturating_mul(CPU_PERIOD_US) / 1000).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_stay_within_what_the_kernel_takes() {
        assert_eq!((shares(0), shares(1000), shares(u64::MAX)), (2, 1024, 262_144));
        assert_eq!((weight(0), weight(1000), weight(u64::MAX)), (1, 100, 10_000));
        assert_eq!((task_weight(1), task_weight(20), task_weight(u64::MAX)), (1, 10, 10_000));
        assert_eq!((quota_us(1), quota_us(500)), (1000, 50_000));
    }
}
