//! A state out of a checkpoint, and why a replica may not begin.
//!
//! Invariant: a state that comes out is of this cell, of these masters and of the place that the
//! checkpoint names.

use crate::master::Config;
use crate::state::CellState;
use crate::store::{Checkpoint, Membership};
use borg_proto::ReplicaId;
use raft::eraftpb::Snapshot;

/// Why a replica could not begin from what its store gave back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The replica is not among the voters, or the voters are none or too many.
    #[error("replica {replica} is not one of the masters {voters:?}")]
    NotAMember {
        /// This replica.
        replica: ReplicaId,
        /// The members.
        voters: Vec<ReplicaId>,
    },
    /// The checkpoint was made with other masters.
    #[error("the checkpoint is of masters {found:?}, configured are {expected:?}")]
    OtherMembers {
        /// In the checkpoint.
        found: Vec<u64>,
        /// Configured.
        expected: Vec<u64>,
    },
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
        "commit {commit} is beyond the last entry {last}: leave this replica stopped, the others go on"
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
    voters: &[u64],
    made: &Checkpoint,
) -> Result<CellState, RecoverError> {
    let members = Membership { voters: voters.to_vec(), ..Membership::default() };
    if made.membership != members {
        let found = made.membership.voters.clone();
        return Err(RecoverError::OtherMembers { found, expected: voters.to_vec() });
    }
    read_state(config, made.index, &made.data)
        .map_err(|why| RecoverError::Checkpoint { index: made.index, why })
}

/// The state in a leader's checkpoint, or what is wrong with it.
pub(super) fn from_snapshot(config: &Config, snapshot: &Snapshot) -> Result<CellState, String> {
    read_state(config, snapshot.get_metadata().index, &snapshot.data)
}

fn read_state(config: &Config, index: u64, data: &[u8]) -> Result<CellState, String> {
    let state = CellState::decode(data).map_err(|error| error.to_string())?;
    if *state.cell() != config.cell {
        return Err(format!("it is of cell {}, this is cell {}", state.cell(), config.cell));
    }
    if state.applied() != index {
        return Err(format!("it is of entry {}, not of {index}", state.applied()));
    }
    Ok(state)
}
