//! Checkpoints as files beside the log.
//!
//! Writes one whole or not at all, reads one only if it is the one that the head names, and clears
//! away what no head names. The head decides which are kept; this module only does files.
//!
//! Invariant: a file that the head names was synced before the head was.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use borg_cell::store::{Checkpoint, Membership, StoreError};

use super::files::{create_whole, read_whole};
use super::record::{Block, CheckpointRef, FORMAT, Reader, Unsealed, put_place, seal, unseal};

/// How many are kept. 2: if the newest turns out rotten, the one before it gives the same state, but
/// only with the log from there on. That is there when the two are closer together than what
/// compaction leaves (by default 2,000 entries); else the log is broken, and says so.
pub(super) const KEPT: usize = 2;
/// Start of the names.
const PREFIX: &str = "checkpoint-";

/// Writes `checkpoint`, which write number `write` brings.
pub(super) fn save(
    dir: &Path,
    write: u64,
    checkpoint: &Checkpoint,
) -> Result<CheckpointRef, StoreError> {
    let mut front = Vec::new();
    put_place(&mut front, checkpoint.position());
    let members = &checkpoint.membership;
    for ids in
        [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
    {
        front.extend_from_slice(&(ids.len() as u64).to_le_bytes());
        for id in ids {
            front.extend_from_slice(&id.to_le_bytes());
        }
    }
    front.push(u8::from(members.auto_leave));
    let mut reference = CheckpointRef { place: checkpoint.position(), write, sum: 0 };
    let mut sum = 0;
    create_whole(dir, &name(&reference), |file| {
        sum = seal(file, Block::Checkpoint, &[&front, &checkpoint.data])?;
        Ok(())
    })?;
    reference.sum = sum;
    Ok(reference)
}

/// Reads the checkpoint that `reference` names.
pub(super) fn load(dir: &Path, reference: &CheckpointRef) -> Result<Checkpoint, StoreError> {
    let at = reference.place.index;
    let path = dir.join(name(reference));
    let bytes = read_whole(&path, at)?;
    let broken = |why: &str| StoreError::broken(at, format!("{}: {why}", path.display()));
    let (body, sum) = unseal(Block::Checkpoint, &bytes).map_err(|unsealed| match unsealed {
        Unsealed::Damaged(why) => broken(why),
        Unsealed::Newer(found) => {
            StoreError::Version { what: path.display().to_string(), found, supported: FORMAT }
        }
    })?;
    if sum != reference.sum {
        return Err(broken("not the one that was written"));
    }
    let checkpoint = decode(Reader(body)).ok_or_else(|| broken("odd content"))?;
    if checkpoint.position() != reference.place {
        return Err(broken("of another place in the log"));
    }
    Ok(checkpoint)
}

/// Removes checkpoint files that are not in `keep`. A file that cannot be removed costs room and
/// nothing else, so that is only logged.
pub(super) fn remove_others(dir: &Path, keep: &[CheckpointRef]) {
    let keep: BTreeSet<String> = keep.iter().map(name).collect();
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let Ok(name) = file.file_name().into_string() else { continue };
        if name.starts_with(PREFIX)
            && !keep.contains(&name)
            && let Err(error) = fs::remove_file(file.path())
        {
            tracing::warn!(%error, name, "cannot remove an old checkpoint");
        }
    }
}

fn name(reference: &CheckpointRef) -> String {
    format!("{PREFIX}{:020}-{}", reference.place.index, reference.write)
}

fn decode(mut body: Reader<'_>) -> Option<Checkpoint> {
    let place = body.place()?;
    let mut ids = || {
        let count = body.u64()?;
        (0..count).map(|_| body.u64()).collect::<Option<Vec<_>>>()
    };
    let mut membership = Membership {
        voters: ids()?,
        learners: ids()?,
        voters_outgoing: ids()?,
        learners_next: ids()?,
        auto_leave: false,
    };
    membership.auto_leave = body.take(1)? != [0];
    Some(Checkpoint { index: place.index, term: place.term, membership, data: Arc::from(body.0) })
}
