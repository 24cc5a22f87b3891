//! What a link shard and a borglet say to each other.
//!
//! Contact always starts at the shard. The answer is always the machine's full state, so that the
//! loss of any one answer costs nothing (Borg paper, section 3.3).

use crate::machine::MachineInfo;
use crate::names::{CellName, IncarnationId, MachineName, TaskName};
use crate::priority::{AppClass, Priority};
use crate::spec::TaskSpec;
use crate::task::FailureCause;
use crate::time::Millis;
use std::sync::Arc;

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
    /// What the machine should run. Left out when the borglet's last answer said that it already
    /// has this generation.
    pub target: Option<Arc<Target>>,
    /// The report that the shard has: the borglet may hold its answer while nothing is newer.
    pub seen: ReportVersion,
    /// How long the answer may be held at most.
    pub hold: Millis,
}

/// Names one report of one borglet process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReportVersion {
    /// Differs for each start of the borglet.
    pub session: u64,
    /// Grows with every change of the report's states (not of its usage).
    pub number: u64,
}

/// The whole set of incarnations that a machine should run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Ordered by id.
    pub tasks: Vec<TargetTask>,
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
}

/// The full state of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineReport {
    /// The machine itself.
    pub info: MachineInfo,
    /// Every incarnation that the machine has anything of, ordered by id.
    pub tasks: Vec<TaskReport>,
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
}

/// How far an incarnation is on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
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

/// What a task uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time over the last interval, in millicores.
    pub cpu_milli: u64,
    /// Memory in bytes (working set).
    pub ram_bytes: u64,
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
