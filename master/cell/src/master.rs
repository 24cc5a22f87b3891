//! A whole Borgmaster, without its hands: replica, state and link orders behind one `handle`.
//!
//! Answers what one turn leads to. Leaves the clock, the network, the disk and the scheduler to
//! whoever calls it; `replica` decides what is agreed, `links` what the machines are told and what
//! they said.
//!
//! Invariant: effects in the order given never let anybody see what could still be lost. Whoever
//! carries them out stops at the first failure.

mod composite;
mod files;

pub use crate::replica::{OwnedBatch, RecoverError};
pub use composite::Master;
pub use files::{CheckpointNews, CheckpointWork, Performed};

use crate::event::Event;
use crate::links;
use crate::rejection::Rejection;
use crate::state::{Answer, CellState};
use borg_proto::command::{Assignment, Command, LEVEL};
use borg_proto::peer::{ShardOrders, ShardReport};
use borg_proto::reclamation::Amounts;
use borg_proto::wire::pb;
use borg_proto::{CellName, IncarnationId, Millis, ReplicaId, TaskId};

/// What a Borgmaster is told at its start. Everything but `cell`, `replica` and `seed` has
/// a default that production uses.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cell.
    pub cell: CellName,
    /// Which of the masters this is.
    pub replica: ReplicaId,
    /// Where election timeouts come from; different for each start in production.
    pub seed: u64,
    /// Newest level of entries that this build understands.
    pub level: u32,
    /// Time between two [`Input::Tick`]. 20 ms: measured in simulation.
    pub tick: Millis,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Shortest time without a leader until an election, in ticks. The longest is twice that.
    pub election_ticks: usize,
    /// Entries between two checkpoints.
    pub checkpoint_every: u64,
    /// Entries before a checkpoint that are kept, so that a replica that was away for a moment
    /// needs no checkpoint.
    pub trailing: u64,
    /// Bytes of entries that are forgotten in one turn. Engines read what they remove, so 8 MiB, ours, are
    /// some milliseconds.
    pub compact_bytes: usize,
    /// Changes waiting for agreement at most; more are answered [`Outcome::Overloaded`].
    pub in_flight: usize,
    /// What concerns machines.
    pub links: links::Config,
}

impl Config {
    /// The defaults of production.
    #[must_use]
    pub fn new(cell: CellName, replica: ReplicaId, seed: u64) -> Self {
        Self {
            cell,
            replica,
            seed,
            level: LEVEL,
            tick: Millis(20),
            heartbeat_ticks: 2,
            election_ticks: 10,
            checkpoint_every: 10_000,
            trailing: 2_000,
            compact_bytes: 8 << 20,
            in_flight: 4_096,
            links: links::Config::default(),
        }
    }
}

/// One thing that a Borgmaster hears.
#[derive(Debug, Clone)]
pub enum Input {
    /// [`Config::tick`] has passed.
    Tick,
    /// Another replica speaks. Anything may be in it.
    Raft(pb::RaftMessage),
    /// A link shard speaks; this replica's own too.
    Report(ShardReport),
    /// Somebody wants a change. Answered once, with [`Effect::Answer`].
    Propose {
        /// Chosen by the caller, for the answer.
        token: u64,
        /// What; its time is overwritten.
        command: Command,
        /// When to give up waiting.
        deadline: Millis,
    },
    /// The scheduler's decisions. Answered per task, with [`Effect::Decided`] or
    /// [`Effect::Undecided`].
    Decisions(Vec<Assignment>),
    /// Somebody wants to read what is true now. Answered once, with [`Effect::ReadReady`] or
    /// [`Effect::ReadFailed`].
    ReadIndex {
        /// Chosen by the caller, for the answer; below 2^63.
        token: u64,
        /// When to give up waiting.
        deadline: Millis,
    },
    /// Another replica asks for a piece of a checkpoint.
    Ask {
        /// Who.
        from: ReplicaId,
        /// Of which file, and which piece. Anything may be in it.
        ask: pb::CheckpointAsk,
    },
    /// A piece of a checkpoint that this replica asked for.
    Piece {
        /// From whom.
        from: ReplicaId,
        /// The piece. Anything may be in it.
        piece: pb::CheckpointPiece,
    },
    /// What became of an [`Effect::Checkpoint`].
    Checkpoint(CheckpointNews),
    /// A durable write of this replica took so long, in microseconds.
    Wrote {
        /// How long.
        micros: u64,
    },
    /// This replica is about to be stopped: if it leads, another one should.
    Retire,
    /// What another replica said of itself.
    Peer {
        /// Which replica.
        replica: ReplicaId,
        /// Median time of its durable writes, in microseconds.
        write_micros: u64,
        /// Newest level of entries that it understands.
        level: u32,
    },
    /// What another replica's state looked like (the newest of [`Status::digests`] there).
    PeerDigest {
        /// Which replica.
        replica: ReplicaId,
        /// After which entry.
        index: u64,
        /// The digest of its state there.
        digest: u128,
    },
}

/// One thing to do. To be done in the order given; each before the next is begun.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a turn has a few, and moves each of them twice")]
pub enum Effect {
    /// Write and sync. If that fails, the process must end and nothing after it may be done.
    Persist(OwnedBatch),
    /// Send to another replica; may be lost. A leader's entries leave before they are on its own
    /// disk, as Raft allows (Ongaro's thesis, 10.2.1); promises leave after.
    Send {
        /// Whom.
        to: ReplicaId,
        /// What.
        message: pb::RaftMessage,
    },
    /// Work on a checkpoint file. On a thread of its own: nothing after it waits for it.
    Checkpoint(CheckpointWork),
    /// Somebody waits for this replica's checkpoint at this index, which is being saved.
    Hurry {
        /// The index.
        index: u64,
    },
    /// Ask another replica for a piece of a checkpoint; may be lost.
    Ask {
        /// Whom.
        to: ReplicaId,
        /// For what.
        ask: pb::CheckpointAsk,
    },
    /// Answer such a question without looking at a file; may be lost.
    Piece {
        /// Whom.
        to: ReplicaId,
        /// The answer.
        piece: pb::CheckpointPiece,
    },
    /// Hand to the link shard of a replica, which may be this one; may be lost.
    Orders {
        /// Whose shard.
        to: ReplicaId,
        /// What.
        orders: ShardOrders,
    },
    /// Answers [`Input::Propose`].
    Answer {
        /// From the input.
        token: u64,
        /// How it went.
        outcome: Outcome,
    },
    /// The state changed.
    Applied {
        /// A cheap copy, as of the last event.
        state: CellState,
        /// What changed, in order.
        events: Vec<Event>,
        /// The state came as a whole from another replica, before `events`: whoever follows the
        /// stream starts again from `state`.
        reset: bool,
    },
    /// Another leader, another term, or none.
    LeaderChanged {
        /// Who leads, as far as known.
        leader: Option<ReplicaId>,
        /// The term.
        term: u64,
    },
    /// The state is now at least as new as when the read was asked for.
    ReadReady {
        /// From the input.
        token: u64,
        /// The index that had to be reached.
        index: u64,
    },
    /// No majority confirmed the leader before the read's deadline, or too many reads wait.
    ReadFailed {
        /// From the input.
        token: u64,
    },
    /// Decisions that were agreed on; those that were accepted are in the events too.
    Decided {
        /// Every task of an [`Input::Decisions`] with the incarnation placed, or why not.
        results: Vec<(TaskId, Result<IncarnationId, Rejection>)>,
    },
    /// Decisions that were dropped, or that may or may not come to pass: the scheduler looks at
    /// these tasks again.
    Undecided {
        /// Which tasks.
        tasks: Vec<TaskId>,
    },
    /// What of their limits tasks do not need by now, as this leader believes: for its scheduler.
    Lent {
        /// First in a term: what was told before counts for nothing.
        afresh: bool,
        /// By incarnation; nothing means that it lends nothing any more.
        news: Vec<(IncarnationId, Amounts)>,
    },
    /// Another replica has another state than this one after the same entry: one of them is wrong.
    /// To be shown loudly.
    Diverged {
        /// The other one.
        replica: ReplicaId,
        /// After which entry.
        index: u64,
    },
    /// This replica must not go on: it does nothing any more, and its process must end.
    Halt {
        /// Why, for people.
        why: String,
    },
}

/// How a change went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Agreed, durable on a majority, and done.
    Accepted {
        /// Its place in the log.
        index: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Agreed, and refused by the state: nothing changed.
    Refused {
        /// Its place in the log.
        index: u64,
        /// Why.
        rejection: Rejection,
    },
    /// Not done here: ask the leader.
    NotLeader {
        /// Who that is, if known.
        leader: Option<ReplicaId>,
    },
    /// No majority before the deadline, or leadership was lost: it may or may not be done. Asking
    /// again with the same request id is safe.
    Unavailable,
    /// Not done: too many changes wait. Asking again later is safe.
    Overloaded,
    /// Not done: larger than an entry may be.
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most allowed.
        limit: u64,
    },
    /// Not done: it would leave the cell without a majority.
    Unsafe {
        /// What is wrong, for people.
        why: String,
    },
    /// Not done: some master does not understand it yet.
    TooNew {
        /// Level of the entry.
        needs: u32,
        /// Level of the cell.
        has: u32,
    },
    /// Not done: no entry of the log may hold it.
    Malformed {
        /// What is wrong, for people.
        why: String,
    },
}

/// What a Borgmaster knows of itself, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which replica.
    pub replica: ReplicaId,
    /// Who leads, as far as known.
    pub leader: Option<ReplicaId>,
    /// The Raft term.
    pub term: u64,
    /// Last entry of the log.
    pub last_index: u64,
    /// Last entry known to be agreed.
    pub commit: u64,
    /// Last entry applied.
    pub applied: u64,
    /// Entry of the newest checkpoint; 0 when there is none.
    pub checkpoint: u64,
    /// Digest of the state now.
    pub digest: u128,
    /// Newest last: (index, digest) at round indexes, comparable between replicas.
    pub digests: Vec<(u64, u128)>,
    /// Replicas that were heard of since this one started.
    pub heard: Vec<ReplicaId>,
    /// Changes that wait for agreement.
    pub in_flight: usize,
    /// Why it halted, if it did.
    pub halted: Option<String>,
    /// Newest level of entries that it understands.
    pub level: u32,
    /// Median time of its durable writes, in microseconds; 0 while there are too few.
    pub write_micros: u64,
    /// The link shards, when this replica leads.
    pub links: Option<links::Status>,
}
