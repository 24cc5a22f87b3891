//! A state out of a checkpoint, and why a replica may not begin.
//!
//! Invariant: a state that comes out is of this cell, of these masters and of the place that the
//! checkpoint names.

use crate::master::Config;
use crate::state::CellState;
use crate::store::Checkpoint;

/// Why a replica could not begin from what its store gave back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Replicas count from 1.
    #[error("a replica has no id")]
    NoId,
    /// A log begins with a checkpoint: of a new cell, of a backup, or of a leader.
    #[error("the log does not begin with a checkpoint")]
    NoCheckpoint,
    /// The checkpoint is not a state that this version can read.
    #[error("checkpoint at {index}: {why}")]
    Checkpoint {
        /// Its place.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// More is known to be agreed than the log holds.
    #[error(
        "commit {commit} is beyond the last entry {last}: remove the log of this replica and start it again, it joins anew"
    )]
    CommitBeyondLog {
        /// Known to be agreed.
        commit: u64,
        /// Last entry.
        last: u64,
    },
    /// Raft refuses the configuration.
    #[error("raft configuration")]
    Raft(#[from] raft::Error),
}

/// The state in a checkpoint of our own.
pub(super) fn from_checkpoint(
    config: &Config,
    made: &Checkpoint,
) -> Result<CellState, RecoverError> {
    let index = made.meta.place.index;
    let unusable = |why| RecoverError::Checkpoint { index, why };
    let state = CellState::decode(&made.state).map_err(|error| unusable(error.to_string()))?;
    check(config, index, &state).map_err(unusable)?;
    Ok(state)
}

/// Whether a state is this cell's and of the place that its checkpoint names.
pub(super) fn check(config: &Config, index: u64, state: &CellState) -> Result<(), String> {
    if *state.cell() != config.cell {
        return Err(format!("it is of cell {}, this is cell {}", state.cell(), config.cell));
    }
    if state.applied() != index {
        return Err(format!("it is of entry {}, not of {index}", state.applied()));
    }
    Ok(())
}
