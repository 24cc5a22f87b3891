//! The life of a task, seen from the cell.
//!
//! States and edges are those of figure 2 of the Borg paper; every edge has a cause.

use crate::health::Health;
use crate::machine::MachineId;
use crate::names::shorten;
use crate::resources::TASK_ADDRESS;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Longest text that a machine may report as the cause of something, in bytes.
pub const MAX_CAUSE_BYTES: usize = 512;

/// Where a task's slot is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TaskState {
    /// Waits to be placed.
    Pending {
        /// Since when.
        since: Millis,
        /// Not placed before this moment: start-after that is not met has [`Millis`] of `u64::MAX`,
        /// back-off after failures the end of the wait, else 0.
        not_before: Millis,
    },
    /// Placed on a machine.
    Running(Placement),
    /// Over: finished, failed or killed.
    Dead {
        /// Since when.
        at: Millis,
        /// How it ended.
        end: TaskEnd,
    },
}

/// Where and as what a running task runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The machine.
    pub machine: MachineId,
    /// Which placement of the slot this is, from 1.
    pub incarnation: u32,
    /// When the placement was committed.
    pub placed_at: Millis,
    /// Port numbers, in the order of the specification's port names.
    pub ports: Vec<u16>,
    /// The devices that it has, or has a part of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceShare>,
    /// What the machine last said of it.
    pub phase: Phase,
    /// How often the machine started it again within this placement.
    pub restarts: u32,
    /// How it is by its health check, as its machine last said.
    #[serde(default)]
    pub health: Health,
    /// The address of its own that its process has, as its machine last said; only with a network of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Since when it serves, in cell time: its process runs and is healthy, if that is checked. `None`: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves_since: Option<Millis>,
}

impl Placement {
    /// Those of its ports that are its machine's: none with a network of its own.
    #[must_use]
    pub fn machine_ports(&self) -> &[u16] {
        let own = self.devices.iter().any(|share| *share.name == *TASK_ADDRESS);
        if own { &[] } else { &self.ports }
    }
}

/// A device of a machine, or a part of one, that a task has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceShare {
    /// What kind of device, as in `gpu`.
    pub name: Arc<str>,
    /// Which of them, from 0.
    pub number: u16,
    /// How much of it, in thousandths: 1000 is all.
    pub milli: u16,
}

/// How far a placed task has come on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The machine has not reported a process yet.
    Starting,
    /// A process runs.
    Up {
        /// Its process id on the machine.
        pid: u32,
        /// When it started.
        since: Millis,
    },
    /// It ended and the machine waits before it starts it again.
    BackOff {
        /// When it will be started again.
        until: Millis,
    },
}

/// How a task ended for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum TaskEnd {
    /// It exited with 0.
    Finished,
    /// It failed more often than allowed, or can never succeed.
    Failed {
        /// The last failure.
        cause: FailureCause,
    },
    /// Somebody asked for it.
    Killed {
        /// Who: a user's name.
        by: String,
    },
    /// A job that it had to wait for did not finish successfully.
    DependencyFailed {
        /// That job.
        job: String,
        /// What went wrong first, and where; empty when that was not kept.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
    },
    /// The job that its job is a child of ended.
    ParentEnded {
        /// That job.
        job: String,
    },
    /// Of a daemon: its machine left, or is none any more that the daemon runs on. The slot comes back with
    /// the machine, or with another one when that is gone for good.
    Withdrawn,
}

/// Why one run of a task's program failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "failure")]
pub enum FailureCause {
    /// The program exited with another code than 0, or a service exited at all.
    Exit {
        /// The exit code.
        code: i32,
    },
    /// A signal ended the program.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It used more memory than its limit.
    OutOfMemory {
        /// The limit in bytes.
        limit_bytes: u64,
        /// The most it had in bytes.
        peak_bytes: u64,
    },
    /// It could not be started.
    Start {
        /// Why, for people.
        why: String,
    },
    /// A port that the cell handed out is in use on the machine by something else.
    PortTaken {
        /// The port.
        port: u16,
    },
    /// It has a network of its own, and its machine had no address for it just then.
    NoAddress,
    /// The machine no longer knows how it ended, as after a reboot.
    Lost,
    /// It is exclusive, and its machine heard nothing from the masters for too long.
    Fenced,
    /// It wrote more to disk than its limit.
    DiskLimit {
        /// The limit in bytes.
        limit_bytes: u64,
        /// What it had written when that was found, in bytes.
        used_bytes: u64,
    },
    /// It made more files than its disk limit is worth.
    FileLimit {
        /// How many files and directories it may have.
        limit: u64,
        /// How many it had when that was found.
        used: u64,
    },
    /// Its machine was short of memory or disk and gave up this task.
    Short {
        /// Of what.
        of: Shortage,
        /// The task's limit in bytes.
        limit_bytes: u64,
        /// What it used in bytes. More than its limit: then it is to blame.
        used_bytes: u64,
    },
    /// Its health check failed too often in a row.
    Unhealthy {
        /// What the last probe came to, for people.
        why: String,
    },
    /// Its machine has no room for its packages, or its disk failed over them: no fault of the task.
    Packages {
        /// Why, for people.
        why: String,
    },
    /// A run took longer than its job allows.
    Timeout {
        /// How long a run may take.
        after: Millis,
    },
    /// The whole job took longer than it may.
    Deadline {
        /// How long it may take.
        after: Millis,
    },
}

/// What a machine can be short of that cannot be taken from a task but by killing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// Memory.
    Memory,
    /// Room on disk.
    Disk,
}

impl FailureCause {
    /// Wraps a machine's text, shortened to [`MAX_CAUSE_BYTES`].
    #[must_use]
    pub fn start(why: &str) -> Self {
        Self::Start { why: cut(why, MAX_CAUSE_BYTES) }
    }

    /// Wraps what a probe came to, shortened to [`MAX_CAUSE_BYTES`].
    #[must_use]
    pub fn unhealthy(why: &str) -> Self {
        Self::Unhealthy { why: cut(why, MAX_CAUSE_BYTES) }
    }

    /// Wraps why a machine could not hold packages, shortened to [`MAX_CAUSE_BYTES`].
    #[must_use]
    pub fn packages(why: &str) -> Self {
        Self::Packages { why: cut(why, MAX_CAUSE_BYTES) }
    }

    /// The level of entries that this cause came with.
    #[must_use]
    pub const fn level(&self) -> u32 {
        match self {
            Self::Exit { .. }
            | Self::Signal { .. }
            | Self::OutOfMemory { .. }
            | Self::Start { .. }
            | Self::PortTaken { .. }
            | Self::Lost => 1,
            Self::Fenced => 2,
            Self::DiskLimit { .. }
            | Self::FileLimit { .. }
            | Self::Short { .. }
            | Self::Unhealthy { .. }
            | Self::Packages { .. }
            | Self::NoAddress => 5,
            Self::Timeout { .. } | Self::Deadline { .. } => 6,
        }
    }

    /// The cause in words that a cell of a level knows: one that came later is the SIGKILL that it was.
    #[must_use]
    pub fn at_level(&self, level: u32) -> Self {
        if self.level() <= level { self.clone() } else { Self::Signal { signal: SIGKILL } }
    }
}

/// Number of the signal that machines kill with, the same on all of them.
const SIGKILL: i32 = 9;

/// A text, shortened to so many bytes.
#[must_use]
pub fn cut(why: &str, most: usize) -> String {
    let mut end = why.len().min(most);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].to_owned()
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self {
            Self::Exit { code } => write!(f, "exit code {code}"),
            Self::Signal { signal } => write!(f, "signal {signal}"),
            Self::OutOfMemory { limit_bytes, peak_bytes } => write!(
                f,
                "memory limit {} MiB exceeded, peak {} MiB",
                limit_bytes / MIB,
                peak_bytes.div_ceil(MIB)
            ),
            Self::Start { why } => write!(f, "cannot start: {why}"),
            Self::PortTaken { port } => write!(f, "port {port} is taken on the machine"),
            Self::NoAddress => f.write_str("no address for it is free on the machine"),
            Self::Lost => f.write_str("lost by the machine"),
            Self::Fenced => f.write_str("exclusive, and its machine was cut off from the masters"),
            Self::DiskLimit { limit_bytes, used_bytes } => write!(
                f,
                "disk limit {} MiB exceeded, used {} MiB",
                limit_bytes / MIB,
                used_bytes.div_ceil(MIB)
            ),
            Self::FileLimit { limit, used } => {
                write!(f, "limit of {limit} files exceeded, {used} were there")
            }
            Self::Short { of, limit_bytes, used_bytes } => write!(
                f,
                "machine short of {of}, used {} MiB of a limit of {} MiB",
                used_bytes.div_ceil(MIB),
                limit_bytes / MIB
            ),
            Self::Unhealthy { why } => write!(f, "unhealthy: {why}"),
            Self::Packages { why } => write!(f, "its machine cannot hold its packages: {why}"),
            Self::Timeout { after } => write!(f, "timeout after {after}"),
            Self::Deadline { after } => write!(f, "its job was not over after {after}"),
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

impl fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed { cause } => write!(f, "failed: {cause}"),
            Self::Killed { by } => write!(f, "killed by {}", shorten(by)),
            Self::DependencyFailed { job, why } => {
                write!(f, "job {} did not finish", shorten(job))?;
                if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
            }
            Self::ParentEnded { job } => write!(f, "parent {} ended", shorten(job)),
            Self::Withdrawn => f.write_str("its machine left"),
        }
    }
}

/// How one run of a task ended, as its machine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// 0 for the first start of the incarnation, then how often it was started again.
    pub run: u32,
    /// When it started, by the machine's clock; `None` when it never did.
    pub started: Option<Millis>,
    /// When it ended, by the machine's clock.
    pub ended: Millis,
    /// `None` when it exited with 0.
    pub failure: Option<FailureCause>,
    /// Processor time that it used in all, in milliseconds; 0 where that is not measured.
    pub cpu_ms: u64,
    /// Most memory that it had, in bytes; 0 where that is not measured.
    pub ram_peak_bytes: u64,
    /// Of a failed run: the end of what it wrote, at most
    /// [`MAX_LAST_LINES_BYTES`](crate::text::MAX_LAST_LINES_BYTES), harmless to print.
    pub last_lines: String,
}

/// Why a running task went back to pending without having failed by its own fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evicted")]
pub enum EvictCause {
    /// A task of higher priority needed the room.
    Preempted {
        /// That task, as `user/job/index`.
        by: String,
    },
    /// The machine did not answer for too long, or was removed.
    MachineDown,
    /// The machine is being emptied.
    Drained,
    /// The machine came back with less room than its tasks need.
    Shrunk,
    /// Its alloc, or the one that it is, was given a size for which its machine has no room.
    Resized,
    /// It stood on room that was lent, and whoever holds that room needed it for too long.
    Reclaimed,
    /// It is to be another version of its job.
    Updated {
        /// Which.
        version: u32,
    },
    /// It was stopped until somebody starts it.
    Stopped {
        /// Who said so.
        by: String,
    },
    /// Its job lets fewer tasks run at once than before.
    Capped {
        /// How many.
        most: u32,
    },
}

impl EvictCause {
    /// Whether it was an update of its job.
    #[must_use]
    pub const fn is_update(&self) -> bool {
        match self {
            Self::Updated { .. } => true,
            Self::Preempted { .. }
            | Self::MachineDown
            | Self::Drained
            | Self::Shrunk
            | Self::Resized
            | Self::Reclaimed
            | Self::Stopped { .. }
            | Self::Capped { .. } => false,
        }
    }
}

impl fmt::Display for EvictCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preempted { by } => write!(f, "preempted by {}", shorten(by)),
            Self::MachineDown => f.write_str("machine down"),
            Self::Drained => f.write_str("machine drained"),
            Self::Shrunk => f.write_str("machine has less room"),
            Self::Reclaimed => f.write_str("its room was lent and is needed by whoever holds it"),
            Self::Resized => f.write_str("machine has no room for the alloc's new size"),
            Self::Updated { version } => write!(f, "updated to version {version}"),
            Self::Stopped { by } => write!(f, "stopped by {}", shorten(by)),
            Self::Capped { most } => write!(f, "its job lets {most} tasks run at once"),
        }
    }
}
