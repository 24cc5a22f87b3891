//! Work on checkpoint files: what is to be done, and doing it with a store.
//!
//! The same for every shell, so that production and simulation differ only in the store behind it.
//! Leaves to the shell on which thread, and what a failure ends.

use crate::state::CellState;
use crate::store::{
    CheckpointDraft, CheckpointMeta, CheckpointStore, LogEntry, Membership, Position, StoreError,
};
use borg_proto::ReplicaId;
use borg_proto::wire::pb;

/// One thing to do with checkpoint files: in the order given, except that `Save` may take its time
/// while the others go on.
#[derive(Debug, Clone)]
pub enum CheckpointWork {
    /// Encode the state and save it: [`CheckpointNews::Saved`].
    Save {
        /// The last entry that it covers.
        place: Position,
        /// Raft's configuration there.
        membership: Membership,
        /// The state.
        state: Box<CellState>,
        /// The entries since the checkpoint before.
        log: Vec<LogEntry>,
    },
    /// Look how much of another master's file is here: [`CheckpointNews::Begun`].
    Begin {
        /// Which file.
        meta: CheckpointMeta,
    },
    /// Add a piece to it: [`CheckpointNews::Stored`].
    Store {
        /// Which file.
        meta: CheckpointMeta,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        piece: Vec<u8>,
    },
    /// Verify the file and read the state in it: [`CheckpointNews::Finished`].
    Finish {
        /// Which file.
        meta: CheckpointMeta,
    },
    /// Read a piece of a file of our own and send it; may be lost, and has no news.
    Send {
        /// To whom.
        to: ReplicaId,
        /// Which file.
        meta: CheckpointMeta,
        /// Where the piece begins.
        offset: u64,
        /// Its length in bytes.
        length: u32,
    },
}

/// What became of [`CheckpointWork`].
#[derive(Debug, Clone)]
pub enum CheckpointNews {
    /// A checkpoint of our own is on disk.
    Saved {
        /// Where it stands.
        place: Position,
        /// Its file; `None` when there was no room for it.
        meta: Option<CheckpointMeta>,
    },
    /// So much of another master's file is here; pieces go on from there.
    Begun {
        /// Which file.
        meta: CheckpointMeta,
        /// Bytes from its beginning.
        bytes: u64,
    },
    /// One more piece of it is here.
    Stored {
        /// Which file.
        meta: CheckpointMeta,
        /// Bytes from its beginning.
        bytes: u64,
    },
    /// Another master's file is here in full, or will never be.
    Finished {
        /// Which file.
        meta: CheckpointMeta,
        /// The state in it; `None` when there was no room for it, when it was not the file that was
        /// offered, or no state.
        state: Option<Box<CellState>>,
    },
}

/// What work leads to.
#[derive(Debug)]
pub enum Performed {
    /// To be told to the master.
    News(CheckpointNews),
    /// To be sent to another one.
    Piece {
        /// Whom.
        to: ReplicaId,
        /// What.
        piece: pb::CheckpointPiece,
    },
}

impl CheckpointWork {
    /// Does it. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk fails in a way that the process must not outlive.
    pub fn perform(self, files: &dyn CheckpointStore) -> Result<Performed, StoreError> {
        let news = match self {
            Self::Save { place, membership, state, log } => {
                let encoded = state.encode();
                let draft = CheckpointDraft {
                    place,
                    membership: &membership,
                    at: state.clock(),
                    state: &encoded,
                    log: &log,
                };
                CheckpointNews::Saved { place, meta: if_room(files.save(&draft))? }
            }
            Self::Begin { meta } => match if_room(files.received(&meta))? {
                Some(bytes) => CheckpointNews::Begun { meta, bytes },
                None => CheckpointNews::Finished { meta, state: None },
            },
            Self::Store { meta, offset, piece } => {
                let bytes = offset + piece.len() as u64;
                match files.receive(&meta, offset, &piece) {
                    Ok(()) => CheckpointNews::Stored { meta, bytes },
                    // It does not follow what is here, as when one before it found no room.
                    Err(StoreError::Invalid(_)) => return Self::Begin { meta }.perform(files),
                    Err(error) => {
                        if_room::<()>(Err(error))?;
                        CheckpointNews::Finished { meta, state: None }
                    }
                }
            }
            Self::Finish { meta } => {
                let state = match files.finish(&meta) {
                    Ok(bytes) => CellState::decode(&bytes)
                        .inspect_err(|error| tracing::error!(%error, "another master's checkpoint"))
                        .ok(),
                    Err(
                        error @ (StoreError::Broken { .. }
                        | StoreError::Version { .. }
                        | StoreError::Full { .. }),
                    ) => {
                        tracing::warn!(%error, "another master's checkpoint");
                        None
                    }
                    Err(error) => return Err(error),
                };
                CheckpointNews::Finished { meta, state: state.map(Box::new) }
            }
            Self::Send { to, meta, offset, length } => {
                let file = pb::CheckpointFile {
                    index: meta.place.index,
                    term: meta.place.term,
                    sum: meta.file_sum,
                };
                let length = usize::try_from(length).unwrap_or(0);
                let (data, gone) = match files.read(&meta, offset, length) {
                    Ok(data) => (data, false),
                    Err(StoreError::Gone { .. }) => (Vec::new(), true),
                    // An old file that cannot be read is no reason to end: the log stands without it.
                    Err(error) => {
                        tracing::error!(%error, "a checkpoint that another master asked for");
                        (Vec::new(), true)
                    }
                };
                let piece = pb::CheckpointPiece { file: Some(file), offset, data, gone };
                return Ok(Performed::Piece { to, piece });
            }
        };
        Ok(Performed::News(news))
    }
}

/// No room is no failure: a checkpoint is put off.
fn if_room<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error @ StoreError::Full { .. }) => {
            tracing::warn!(%error, "a checkpoint is put off");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
