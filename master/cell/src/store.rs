//! What a Borgmaster replica must still know after a crash, and the contract of whoever keeps it.
//!
//! Says what is kept (log entries, term, vote, commit, one checkpoint), what one atomic write is
//! ([`Batch`]), and when a store must refuse ([`StoreError`]). Leaves the keeping to others:
//! [`memory`] for tests and simulation, the files of `borg-master::store` for a real cell. All of
//! them pass [`conformance`]. Leaves raft's own types to `replica`.
//!
//! Invariant: after `write` has returned `Ok`, every later `recover` of the same store gives what
//! was written, or an error. Never less, silently: a replica that forgets a vote or an entry that
//! it acknowledged makes two leaders or loses a job.

pub mod conformance;
pub mod extent;
pub mod memory;

use borg_proto::{Millis, ReplicaId};
use bytes::Bytes;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// What a log entry is to Raft. The numbers are stored on disk and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A command for the state machine, or the empty entry of a new leader.
    Normal,
    /// A change of one member.
    ConfChange,
    /// A change by joint consensus.
    ConfChangeV2,
}

impl EntryKind {
    /// The number that stands for this kind on disk.
    pub fn code(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::ConfChange => 1,
            Self::ConfChangeV2 => 2,
        }
    }

    /// The kind behind a number from disk; `None` if no version that we know wrote it.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Normal),
            1 => Some(Self::ConfChange),
            2 => Some(Self::ConfChangeV2),
            3..=u8::MAX => None,
        }
    }
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Place in the log; the first entry of a cell has index 1.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// What it is to Raft.
    pub kind: EntryKind,
    /// The encoded command, opaque here. Copies share it: entries of megabytes are held by the log, the engine
    /// and a checkpoint in the making at once.
    pub data: Bytes,
}

/// Leaves the command itself out: it may be large and may hold secrets.
impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEntry")
            .field("index", &self.index)
            .field("term", &self.term)
            .field("kind", &self.kind)
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// What a replica promised in elections, and how far it knows the log to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// Newest term seen.
    pub term: u64,
    /// Replica voted for in `term`; 0 is nobody.
    pub vote: u64,
    /// Newest index known to be committed.
    pub commit: u64,
}

/// A place in the log: an index and the term of the entry there. `(0, 0)` is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of the entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Who votes and who listens, as of a checkpoint: Raft's whole configuration, so that a checkpoint
/// taken in the middle of a membership change loses nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Voters of the configuration being entered (the only voters outside a joint change).
    pub voters: Vec<u64>,
    /// Replicas that receive the log without voting.
    pub learners: Vec<u64>,
    /// Voters of the configuration being left; empty outside a joint change.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether Raft leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// A checkpoint as a log names it, and as masters offer it to each other: everything but the state,
/// which is in a file of [`CheckpointStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The last entry that it covers.
    pub place: Position,
    /// Raft's configuration there.
    pub membership: Membership,
    /// The cell's time there.
    pub at: Millis,
    /// Size of the file, in bytes.
    pub file_bytes: u64,
    /// Checksum (xxh3) over all bytes of the file.
    pub file_sum: u64,
}

/// The whole state at one place in the log; replaces every entry up to there.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// What it is of.
    pub meta: CheckpointMeta,
    /// The encoded state, opaque here.
    pub state: Arc<[u8]>,
}

/// Leaves the state itself out: it is large and may hold secrets.
impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("meta", &self.meta)
            .field("state_bytes", &self.state.len())
            .finish()
    }
}

/// What a checkpoint file is made of.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointDraft<'a> {
    /// The last entry that the state covers.
    pub place: Position,
    /// Raft's configuration there.
    pub membership: &'a Membership,
    /// The cell's time there.
    pub at: Millis,
    /// The encoded state.
    pub state: &'a [u8],
    /// The entries since the checkpoint before, up to `place`, for stores that keep history. They
    /// are agreed. Empty when they are not known.
    pub log: &'a [LogEntry],
}

/// Whom a store belongs to. All three must match when it is opened again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// Name of the cell.
    pub cell: String,
    /// Raft id of the replica; never 0, never given to another replica of the cell.
    pub replica: u64,
    /// Epoch of the cell, which grows when a cell is restored from a backup; a directory from
    /// before the restore must not come back.
    pub epoch: u64,
}

impl fmt::Display for ReplicaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replica = ReplicaId(self.replica);
        write!(f, "replica {replica} of cell {} in epoch {}", self.cell, self.epoch)
    }
}

/// One atomic durable write: all of it is there afterwards, or none. The parts take effect in the
/// order of the fields, with `hard_state` last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Batch<'a> {
    /// A state to recover from, whose file [`CheckpointStore`] holds already. If the log has an entry
    /// at its place with its term, the log stays (a checkpoint of our own). If not, it came from a
    /// leader: it replaces the whole log, which then starts after it.
    pub checkpoint: Option<&'a CheckpointMeta>,
    /// Consecutive entries. Everything stored from `entries[0].index` on is replaced by them.
    pub entries: &'a [LogEntry],
    /// Forget entries up to and with this index; a checkpoint must cover it.
    pub compact_to: Option<u64>,
    /// The new term, vote and commit.
    pub hard_state: Option<HardState>,
}

/// Everything that a store gives back. A new store gives defaults and empty lists: such a replica
/// is new to the cell, and may take part only if its id never took part before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Whose it is.
    pub identity: ReplicaIdentity,
    /// Last hard state written.
    pub hard_state: HardState,
    /// Newest usable checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The place just before the first entry: what compaction or a leader's checkpoint left.
    /// Never beyond `checkpoint`.
    pub compacted: Position,
    /// Every entry after `compacted`, consecutive.
    pub entries: Vec<LogEntry>,
}

impl Recovered {
    /// What a store holds before its first write.
    pub fn empty(identity: ReplicaIdentity) -> Self {
        Self {
            identity,
            hard_state: HardState::default(),
            checkpoint: None,
            compacted: Position::default(),
            entries: Vec::new(),
        }
    }

    /// The last place in the log.
    pub fn last(&self) -> Position {
        self.entries
            .last()
            .map_or(self.compacted, |last| Position { index: last.index, term: last.term })
    }
}

/// Keeper of one replica's log. Opening is each implementation's own, because it takes different
/// things; it yields a store that has already proved that it lost nothing.
pub trait LogStore: Send {
    /// What was durable when the store was opened, plus what was written since. A replica calls it
    /// once, before it takes part in anything.
    ///
    /// # Errors
    /// [`StoreError::Broken`] and [`StoreError::Failed`] when it cannot be read back in full.
    fn recover(&mut self) -> Result<Recovered, StoreError>;

    /// Writes `batch` and returns after it is durable. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] leaves the store unchanged and usable. After any other error it is
    /// unknown what is on disk: every later call fails, and the replica must stop without sending
    /// what depends on the batch.
    fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// The checkpoint files, for threads of their own: saving one must not hold up `write`.
    fn checkpoints(&self) -> Arc<dyn CheckpointStore>;
}

/// Keeper of checkpoint files. A file is whole and synced before a log names it; those that no log
/// names, and that the store does not keep as history, are cleared away when the next is named.
///
/// A file is what travels between masters, in pieces: what one reads with [`Self::read`], the other
/// gives to [`Self::receive`].
pub trait CheckpointStore: Send + Sync {
    /// Makes a file and returns after it is durable. Blocks on the disk; `write` goes on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room: nothing is left of it, and it may be tried again.
    /// Any other error is the end of the process.
    fn save(&self, draft: &CheckpointDraft<'_>) -> Result<CheckpointMeta, StoreError>;

    /// Somebody waits for the checkpoint that is being saved, or will be next, at this index: what
    /// [`Self::save`] does for others' sake it leaves out now. A store that does nothing for others' sake has
    /// nothing to do here.
    fn hurry(&self, _index: u64) {}

    /// At most `length` bytes of a file from `offset` on; fewer at its end.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when it is not kept any more.
    fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError>;

    /// How much of another master's file is here, from its beginning: what was received before, by an
    /// earlier process too. Whatever was received of other files is forgotten.
    ///
    /// # Errors
    /// When the disk fails.
    fn received(&self, meta: &CheckpointMeta) -> Result<u64, StoreError>;

    /// Adds a piece at `offset`, which is where the last one ended. Durable only after
    /// [`Self::finish`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the piece does not follow; [`StoreError::Full`].
    fn receive(&self, meta: &CheckpointMeta, offset: u64, piece: &[u8]) -> Result<(), StoreError>;

    /// Verifies a file that was received in full and makes it durable. Gives the state in it.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when it is not the file that `meta` speaks of: it is forgotten then.
    fn finish(&self, meta: &CheckpointMeta) -> Result<Vec<u8>, StoreError>;
}

/// Why a store could not be opened or used. Whatever the kind, the replica does not vote.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be proved that the store still holds what the replica acknowledged. Quarantine:
    /// the replica must neither vote nor acknowledge.
    #[error("log broken at {at}: {why}; nobody must vote by this log")]
    Broken {
        /// Index of the first entry in doubt, as well as it is known.
        at: u64,
        /// What was found.
        why: String,
    },
    /// The directory is another replica's, or of another epoch of the cell.
    #[error("data directory belongs to {found}, not to {expected}: check --dir and the replica id")]
    WrongIdentity {
        /// Owner according to the directory.
        found: ReplicaIdentity,
        /// Owner according to the caller.
        expected: ReplicaIdentity,
    },
    /// The directory was made by another storage engine than the one asked for.
    #[error("data directory was made by store {found}, not {expected}: start with --store {found}")]
    OtherStore {
        /// Engine that made it.
        found: String,
        /// Engine asked for.
        expected: String,
    },
    /// Another process, or this one, has the store open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The lock that is taken.
        path: String,
    },
    /// Written by a newer version of this program; this one would misread it.
    #[error("{what} has format {found}, newest known here is {supported}: start a newer version")]
    Version {
        /// Which file or record.
        what: String,
        /// Format found.
        found: u32,
        /// Newest format known.
        supported: u32,
    },
    /// The system or the engine refused. The process must end: what is on disk is unknown.
    #[error("{what}")]
    Failed {
        /// What was being done.
        what: String,
        /// What the system or the engine said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no room for a checkpoint; nothing is left of it. The log is not concerned.
    #[error("no room on the disk to {what}: make room; the log goes on without a new checkpoint")]
    Full {
        /// What was being done.
        what: String,
    },
    /// A checkpoint file that is not kept any more.
    #[error("the checkpoint at {index} is not kept any more")]
    Gone {
        /// Index of the last entry that it covered.
        index: u64,
    },
    /// What was asked for contradicts the log; nothing was written. A bug of the caller.
    #[error("refused batch: {0}")]
    Invalid(String),
}

impl StoreError {
    /// The system or the engine refused while doing `what`.
    pub fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }

    /// Something that was acknowledged is missing or damaged at or after index `at`.
    pub fn broken(at: u64, why: impl Into<String>) -> Self {
        Self::Broken { at, why: why.into() }
    }
}
