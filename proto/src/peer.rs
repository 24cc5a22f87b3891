//! What the masters say to each other besides Raft: the leader divides the machines over the
//! link shards, and the shards tell it what changed.
//!
//! Every message may be lost, doubled or reordered. Orders are absolute for the machines they
//! name; differences carry (term, session, machine, sequence) and a gap asks for a full report.

use crate::machine::MachineInfo;
use crate::names::{IncarnationId, MachineName, ReplicaId};
use crate::poll::{DataReport, Target, TargetDigest, TaskReport, Usage};
use crate::time::Millis;
use std::sync::Arc;

/// Names one division of the machines over the shards. Newer ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardSession {
    /// The cell's epoch.
    pub epoch: u64,
    /// The leader's Raft term.
    pub term: u64,
    /// Grows with every new division within the term.
    pub session: u64,
}

/// Leader to shard: which machines are yours and what they should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardOrders {
    /// The division these orders belong to.
    pub session: ShardSession,
    /// Who sends it: reports go there.
    pub leader: ReplicaId,
    /// When set, machines that are not listed are no longer this shard's.
    pub whole: bool,
    /// Machines and their targets.
    pub machines: Vec<ShardMachine>,
    /// What the leader has folded, so that the shard need not say it again.
    pub acks: Vec<MachineAck>,
    /// Machines of which the leader missed something: report them in full.
    pub resync: Vec<MachineName>,
    /// The newest stamp of the shard's after which a majority has confirmed the leader.
    pub confirmed: Option<ShardStamp>,
}

/// What the leader has of a machine, and what the machine should have by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineAck {
    /// Which machine.
    pub machine: MachineName,
    /// Everything up to this sequence number is folded.
    pub seq: u64,
    /// The generation of its orders at that moment: a shard that has an older one does not know yet what
    /// followed from its report.
    pub generation: u64,
}

/// When a shard reported, by its own clock; given back to it with [`ShardOrders::confirmed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardStamp {
    /// Differs for each start of the shard's process: another one ignores it.
    pub process: u64,
    /// Its clock.
    pub at: Millis,
}

/// One machine of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMachine {
    /// Its name.
    pub machine: MachineName,
    /// `host:port` of its borglet.
    pub address: String,
    /// Grows with every change of the target within the session.
    pub generation: u64,
    /// Names the target.
    pub digest: TargetDigest,
    /// What it should run. Left out in a whole division and in repeats: the shard may have it already, and
    /// says when it does not.
    pub target: Option<Arc<Target>>,
}

/// Shard to leader: what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardReport {
    /// The division it belongs to; the leader drops others.
    pub session: ShardSession,
    /// The replica whose shard speaks.
    pub from: ReplicaId,
    /// Only machines of which there is something to say.
    pub deltas: Vec<MachineDelta>,
    /// Usage beyond the epsilon, in a periodic summary of its own.
    pub usage: Vec<(IncarnationId, Usage)>,
    /// When it was sent; only while the shard has machines with exclusive tasks.
    pub stamp: Option<ShardStamp>,
    /// Machines of which it does not have the target.
    pub wanting: Vec<MachineName>,
}

/// What changed on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDelta {
    /// The machine.
    pub machine: MachineName,
    /// 1, 2, 3, ... within the session.
    pub seq: u64,
    /// Whether it stands alone (a full report) or builds on `seq - 1`.
    pub full: bool,
    /// Whether the machine answers. When it does not, the rest is empty.
    pub reachable: bool,
    /// Generation of the target that the machine had obeyed when it reported; 0 when none of this
    /// session. What a target of a newer generation lists may be missing from the report.
    pub obeyed: u64,
    /// The machine's facts, when they changed or `full`.
    pub info: Option<MachineInfo>,
    /// Tasks whose report changed; all when `full`. Usage in them is as of this moment.
    pub tasks: Vec<TaskReport>,
    /// Incarnations that the machine no longer has anything of. Empty when `full`.
    pub gone: Vec<IncarnationId>,
    /// All that the machine says of data, when that changed or `full`.
    pub data: Option<Vec<DataReport>>,
}
