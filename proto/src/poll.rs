//! What a link shard and a borglet say to each other.
//!
//! Contact always starts at the shard. The answer is always the machine's full state, so that the
//! loss of any one answer costs nothing (Borg paper, section 3.3).

use crate::health::Health;
use crate::machine::MachineInfo;
use crate::names::{CellName, IncarnationId, MachineName, TaskName};
use crate::package::{Digest, Package};
use crate::priority::{AppClass, Priority};
use crate::spec::TaskSpec;
use crate::task::{FailureCause, RunEnd};
use crate::time::Millis;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::Arc;

/// How long an exclusive task lives without news from a master, counted by its machine's clock from
/// an answer that the masters are known to have heard. 30 s: ours; a cell changes its leader in
/// less than one, and each master in turn can be restarted.
pub const FENCE_AFTER: Millis = Millis::from_secs(30);
/// How much faster or slower than real time a clock may go, in thousandths. 100: ours; a kernel
/// can be told to go a tenth off its pace and no more, and chrony slews by a twelfth at most.
pub const CLOCK_DRIFT_PERMILLE: u64 = 100;
/// How long a leader waits, by its own clock, until an exclusive task that it cannot ask about has
/// surely been ended by its machine. 40 s: `FENCE_AFTER` on the slowest clock is over after 33.3 s,
/// this on the fastest not before 36.4 s; the 3 s between are for the kill. docs/adr/0009.
pub const REPLACE_AFTER: Millis = Millis::from_secs(40);
const _: () = assert!(
    REPLACE_AFTER.0 * (1000 - CLOCK_DRIFT_PERMILLE)
        > FENCE_AFTER.0 * (1000 + CLOCK_DRIFT_PERMILLE) + 3_000 * (1000 - CLOCK_DRIFT_PERMILLE)
);

/// Orders older than the newest that a borglet has obeyed are refused. Compared field by field in
/// this order. A borglet keeps the newest on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence {
    /// Grows when a cell is restored from a backup.
    pub epoch: u64,
    /// The leader's Raft term.
    pub term: u64,
    /// Grows with every new division of the machines over the shards within the term.
    pub session: u64,
    /// Grows with every change of the machine's target within the session.
    pub generation: u64,
}

/// One exchange, from the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRequest {
    /// The cell that the borglet must belong to.
    pub cell: CellName,
    /// The machine that the shard means; another machine refuses.
    pub machine: MachineName,
    /// How new the order is.
    pub fence: Fence,
    /// Names the target.
    pub digest: TargetDigest,
    /// What the machine should run. Left out when the borglet's last answer said that it already
    /// has this generation, or the same by an earlier leader.
    pub target: Option<Arc<Target>>,
    /// The report that the shard has: the borglet may hold its answer while nothing is newer.
    pub seen: ReportVersion,
    /// How long the answer may be held at most.
    pub hold: Millis,
    /// The newest answer after which a majority of the masters is known to have followed the leader
    /// that this poll is for: exclusive tasks may live for [`FENCE_AFTER`] from then on.
    pub lease: Option<AnswerStamp>,
    /// Where blobs are to be had that the machine said it wants; ordered by digest.
    pub sources: Vec<BlobSource>,
}

/// From whom a machine gets a blob: it asks nobody else, and no master at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSource {
    /// Which blob.
    pub digest: Digest,
    /// From whom.
    pub from: Holder,
}

/// Somebody who holds a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Another machine: the borglet fetches it there.
    Machine {
        /// Which, as its certificate must say.
        machine: MachineName,
        /// `host:port` of its borglet.
        address: String,
    },
    /// The master that polls: it hands the blob over.
    Master,
}

/// What a machine has of a blob that one of its tasks needs, or that it can give to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobReport {
    /// Which blob.
    pub digest: Digest,
    /// Whether it has all of it; else it wants the rest.
    pub held: bool,
    /// How many bytes of it, while it is wanted. As of some moment: alone it is no news.
    pub have: u64,
    /// Machines from which it could not be had lately; ordered.
    pub failed: Vec<MachineName>,
}

/// When a borglet gave an answer, by its own clock; given back to it, so that nobody compares the
/// clocks of two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerStamp {
    /// [`ReportVersion::session`] of the answer: another process of the borglet ignores it.
    pub session: u64,
    /// [`PollAnswer::at`].
    pub at: Millis,
}

/// Names one report of one borglet process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReportVersion {
    /// Differs for each start of the borglet.
    pub session: u64,
    /// Grows with every change of the report's states (not of its usage).
    pub number: u64,
}

/// Names a [`Target`]: equal targets of a cell have the same, whoever leads, so that what a machine has
/// already need not be sent to it again. 0 names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetDigest(pub u64);

impl TargetDigest {
    /// Whether both name the same target.
    #[must_use]
    pub fn is_known_as(self, other: Self) -> bool {
        self == other && self != Self::default()
    }
}

/// The whole set of incarnations that a machine should run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Ordered by id.
    pub tasks: Vec<TargetTask>,
    /// What is not listed goes on running: the cell was restored from a backup and may not know
    /// yet what it is.
    pub spare: bool,
    /// What ends although the rest is spared; ordered. Empty without `spare`, as everything that is
    /// not listed ends then.
    pub ends: Vec<IncarnationId>,
    /// Directories of allocs that the machine keeps; ordered by alloc. Others go when no task uses them, unless
    /// `spare`.
    pub data: Vec<TargetData>,
}

/// A directory of an alloc that a machine keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetData {
    /// Whose.
    pub alloc: IncarnationId,
    /// Set when the alloc has left the machine: what left earlier has the smaller number.
    pub left: Option<NonZeroU64>,
}

/// The directory that the tasks of an alloc share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedData {
    /// Whose. Another incarnation has another one.
    pub alloc: IncarnationId,
    /// The alloc's name, for the task's environment.
    pub name: TaskName,
    /// Whether the alloc has left, and this task saves what is there.
    pub rescue: bool,
    /// Whether what is in it counts as this task's own files, for its disk limit.
    pub charged: bool,
}

/// One incarnation that a machine should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTask {
    /// Which incarnation.
    pub id: IncarnationId,
    /// Its name for people, logs and the task's environment.
    pub name: TaskName,
    /// How many tasks the job has.
    pub tasks: u32,
    /// What to run.
    pub spec: Arc<TaskSpec>,
    /// Port numbers, in the order of `spec.ports`.
    pub ports: Vec<u16>,
    /// Priority, for the order in which a machine gives up room.
    pub priority: Priority,
    /// How the machine shares itself.
    pub appclass: AppClass,
    /// Whether the machine starts it again when it ends (a service), or reports its end (batch).
    pub restart: bool,
    /// Whether the machine ends it when it is alone for [`FENCE_AFTER`].
    pub exclusive: bool,
    /// The packages that `spec` names: the image first, if there is one, then the others in its order.
    pub packages: Vec<Arc<Package>>,
    /// The directory that it shares with the other tasks of its alloc.
    pub shared: Option<SharedData>,
}

/// The answer: everything that the machine has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollAnswer {
    /// Which report this is.
    pub version: ReportVersion,
    /// The newest order that the borglet has obeyed.
    pub obeyed: Fence,
    /// The full state.
    pub report: MachineReport,
    /// The borglet's clock when it answered; means nothing to anybody else.
    pub at: Millis,
}

impl PollAnswer {
    /// Names the moment of the answer to the borglet that gave it.
    #[must_use]
    pub const fn stamp(&self) -> AnswerStamp {
        AnswerStamp { session: self.version.session, at: self.at }
    }
}

/// The full state of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineReport {
    /// The machine itself.
    pub info: MachineInfo,
    /// Every incarnation that the machine has anything of, ordered by id.
    pub tasks: Vec<TaskReport>,
    /// Blobs that it wants, and those that it can give to others; ordered by digest.
    pub blobs: Vec<BlobReport>,
    /// What became of what allocs left behind here; ordered by alloc.
    pub data: Vec<DataReport>,
}

/// What a machine says of what an alloc left behind there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataReport {
    /// Whose.
    pub alloc: IncarnationId,
    /// How it is.
    pub status: DataStatus,
}

/// How it is with a directory of an alloc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataStatus {
    /// A task may still use it.
    InUse,
    /// No task uses it.
    AtRest {
        /// What it takes on the disk.
        bytes: u64,
    },
    /// It is not there, and never comes back.
    Gone {
        /// Why, for people; at most [`MAX_CAUSE_BYTES`](crate::task::MAX_CAUSE_BYTES).
        why: String,
    },
}

/// What a machine says of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// Which incarnation.
    pub id: IncarnationId,
    /// How far it is.
    pub status: TaskStatus,
    /// How often the machine has started it again.
    pub restarts: u32,
    /// The last failure, if any.
    pub last_failure: Option<FailureCause>,
    /// What it uses now. Not part of the report's version: usage alone wakes nobody.
    pub usage: Usage,
    /// Its ports, in the order of its specification; none when the machine does not know them.
    pub ports: Vec<u16>,
    /// What the task says of itself, at most
    /// [`MAX_STATUS_LINE_BYTES`](crate::text::MAX_STATUS_LINE_BYTES), harmless to print; empty when it says
    /// nothing. Not part of the report's version, as usage is not.
    pub status_line: String,
    /// How the last of its runs ended that did; `None` when none did that the machine remembers.
    pub last_run: Option<Arc<RunEnd>>,
    /// How it is by its health check.
    pub health: Health,
    /// How long its last start took; `None` when this process of the borglet did not start it.
    pub start: Option<StartTime>,
    /// The address of its own that its process has, if its network is its own.
    pub address: Option<Ipv4Addr>,
}

/// How long a start took, from the order on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartTime {
    /// Until its process was there.
    pub total: Millis,
    /// Of that until its packages were there.
    pub packages: Millis,
}

impl std::fmt::Display for StartTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { total, packages } = self;
        write!(f, "started in {} ms, of which packages {} ms", total.0, packages.0)
    }
}

/// How far an incarnation is on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// Its packages are on their way.
    Fetching {
        /// How many bytes of them are there.
        have_bytes: u64,
        /// Of how many.
        bytes: u64,
        /// What goes wrong, for people; empty when nothing does.
        trouble: String,
    },
    /// Being set up.
    Starting,
    /// Its process runs.
    Up {
        /// Process id on the machine.
        pid: u32,
        /// When it started.
        since: Millis,
    },
    /// It failed and will be started again.
    BackOff {
        /// When.
        until: Millis,
    },
    /// Being stopped.
    Stopping,
    /// Over; the machine will not start it again by itself.
    Ended {
        /// When.
        at: Millis,
        /// `None` when it exited with 0.
        failure: Option<FailureCause>,
    },
}

impl TaskStatus {
    /// How far its packages are, in words; `None` when it does not wait for them.
    #[must_use]
    pub fn about_packages(&self) -> Option<String> {
        const MIB: u64 = 1 << 20;
        let Self::Fetching { have_bytes, bytes, trouble } = self else { return None };
        let (have, of) = (have_bytes / MIB, bytes.div_ceil(MIB));
        Some(match trouble.as_str() {
            // All is here: only what is not unpacked yet keeps it.
            "" if have_bytes >= bytes => format!("unpacking packages: {of} MiB"),
            "" => format!("fetching packages: {have} of {of} MiB"),
            trouble => format!("fetching packages: {have} of {of} MiB; {trouble}"),
        })
    }
}

/// What a task uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time over the last interval, in millicores.
    pub cpu_milli: u64,
    /// Memory in bytes (working set).
    pub ram_bytes: u64,
    /// Page cache in bytes that could be given back at once; beside `ram_bytes`.
    pub cache_bytes: u64,
    /// What its own files take on disk, in bytes.
    pub disk_bytes: u64,
    /// Bytes read from and written to disks, a second.
    pub io_bytes: u64,
    /// Reads and writes of disks, a second.
    pub io_ops: u64,
    /// Processes and threads.
    pub threads: u32,
    /// The last window that is over; `None` until there is one.
    pub window: Option<UsageWindow>,
}

/// What a task used in one window of [`USAGE_WINDOW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageWindow {
    /// When it began, by the machine's clock.
    pub since: Millis,
    /// Processor time in millicores.
    pub cpu_milli: Percentiles,
    /// Working set in bytes.
    pub ram_bytes: Percentiles,
}

/// Length of a window of usage. 300 s: the 2019 Google trace (and the Borg paper, section 5).
pub const USAGE_WINDOW: Millis = Millis::from_secs(300);

/// How samples of one second were spread: each is the least sample that so many were not above. Memory is
/// rounded up to 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Percentiles {
    /// Half of the samples were not above this.
    pub p50: u64,
    /// Nine tenths were not.
    pub p90: u64,
    /// All but a hundredth were not.
    pub p99: u64,
    /// None was.
    pub max: u64,
}

/// Why a borglet refused to be polled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollRefusal {
    /// Another cell's shard asked.
    #[error("this borglet belongs to cell {mine}, asked by cell {asked}")]
    Cell {
        /// The cell in the request.
        asked: CellName,
        /// The borglet's.
        mine: CellName,
    },
    /// The shard meant another machine.
    #[error("this is machine {mine}, asked was {asked}")]
    Machine {
        /// The machine in the request.
        asked: MachineName,
        /// The borglet's.
        mine: MachineName,
    },
    /// The order is older than one that was obeyed.
    #[error("stale order {asked:?}, already obeyed {obeyed:?}")]
    Stale {
        /// The fence in the request.
        asked: Fence,
        /// The newest obeyed.
        obeyed: Fence,
    },
    /// The order names a generation that the borglet lacks, without its target.
    #[error("no target for {asked:?}")]
    TargetMissing {
        /// The fence in the request.
        asked: Fence,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_how_far_packages_are() {
        let told = |have_bytes: u64, trouble: &str| {
            let (bytes, trouble) = ((76 << 20) - 1, trouble.to_owned());
            TaskStatus::Fetching { have_bytes, bytes, trouble }.about_packages().unwrap()
        };
        assert_eq!(told(5 << 20, ""), "fetching packages: 5 of 76 MiB");
        assert_eq!(told(0, "no way"), "fetching packages: 0 of 76 MiB; no way");
        assert_eq!(told((76 << 20) - 1, ""), "unpacking packages: 76 MiB");
        assert_eq!(TaskStatus::Starting.about_packages(), None);
    }
}
