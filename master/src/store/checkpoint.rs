//! Checkpoints as files.
//!
//! Writes one whole or not at all, reads one only if it is the one that is asked for. Which are
//! kept, and for how long, is `archive`'s.
//!
//! Format 2 is a file of `blocks` whose front has the place, the cell's time, the length of the
//! state and the membership, and whose content is the state. Format 1 was one sealed block of
//! place, membership and state; it is still read. Format 3 is of backups alone: after the state comes
//! what the leader's scheduler knew beside it.
//!
//! Invariant: a state is as long as the front says, and a file long enough for it: few bytes
//! cannot ask for much memory.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use borg_cell::codec::MAX_STATE_BYTES;
use borg_cell::state::CellState;
use borg_cell::store::{Checkpoint, CheckpointDraft, CheckpointMeta, Membership, StoreError};
use borg_proto::Millis;
use borg_scheduler::recording::wire::MAX_FRAME_BYTES;

use super::blocks::{BlockReader, BlockWriter, Unreadable};
use super::fault::{Call, may};
use super::files::{Large, Pace};
use super::record::{
    Block, CheckpointRef, HEADER_BYTES, Reader, TRAILER_BYTES, Unsealed, header, put_place, unseal,
};

/// Start of the names.
pub(super) const PREFIX: &str = "checkpoint-";
/// More than LZ4 can ever make of one byte.
const MAX_RATIO: u64 = 256;
/// Longest that what a scheduler knew may be, in bytes: a recording of one frame.
const MAX_KNOWN_BYTES: u64 = MAX_FRAME_BYTES as u64 + 64;
/// Longest start of a file of format 1 that is looked at for its place and members, in bytes.
const GLANCE_BYTES: usize = 64 << 10;

/// Name of the file that `reference` means.
pub(super) fn name(reference: &CheckpointRef) -> String {
    format!("{PREFIX}{:020}-{:016x}", reference.place.index, reference.sum)
}

/// By what a log names the file of `meta`.
pub(super) fn reference(meta: &CheckpointMeta) -> CheckpointRef {
    CheckpointRef { place: meta.place, sum: meta.file_sum }
}

/// Writes a checkpoint in `dir`.
pub(super) fn write(
    dir: &Path,
    draft: &CheckpointDraft<'_>,
    pace: Pace,
) -> Result<CheckpointMeta, StoreError> {
    let file = Large::create(dir, "saving-checkpoint", pace)?;
    write_to(file, draft, &[], |meta| name(&reference(meta)))
}

/// Writes a checkpoint in `file`, with what was known beside the state if that is anything, and gives it its name.
pub(super) fn write_to(
    mut file: Large,
    draft: &CheckpointDraft<'_>,
    known: &[u8],
    name: impl FnOnce(&CheckpointMeta) -> String,
) -> Result<CheckpointMeta, StoreError> {
    let (file_bytes, file_sum) = match put(&mut file, draft, known) {
        Ok(written) => written,
        Err(error) => return Err(file.give_up(error)),
    };
    let meta = CheckpointMeta {
        place: draft.place,
        membership: draft.membership.clone(),
        at: draft.at,
        file_bytes,
        file_sum,
    };
    file.finish(&name(&meta))?;
    Ok(meta)
}

/// Writes the content of a file, with what was known beside the state if that is anything. Gives its length and its
/// last sum.
fn put(to: impl Write, draft: &CheckpointDraft<'_>, known: &[u8]) -> std::io::Result<(u64, u64)> {
    let mut front = front(draft);
    let mut kind = Block::Checkpoint;
    if !known.is_empty() {
        kind = Block::Backup;
        front.extend_from_slice(&(known.len() as u64).to_le_bytes());
    }
    let mut blocks = BlockWriter::begin(to, kind, &front)?;
    blocks.write_all(draft.state)?;
    blocks.write_all(known)?;
    blocks.finish().map(|(_, bytes, sum)| (bytes, sum))
}

/// A checkpoint file, for whoever keeps it elsewhere.
pub(super) fn file(draft: &CheckpointDraft<'_>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    put(&mut bytes, draft, &[])?;
    Ok(bytes)
}

/// Reads the checkpoint file at `path`, which `wanted` means, and verifies all of it.
pub(super) fn load(path: &Path, wanted: &CheckpointRef) -> Result<Checkpoint, StoreError> {
    let at = wanted.place.index;
    let broken = |why: &str| StoreError::broken(at, format!("{}: {why}", path.display()));
    let (checkpoint, _) = verified(path, at)?;
    if checkpoint.meta.file_sum != wanted.sum {
        return Err(broken("not the one that was written"));
    }
    if checkpoint.meta.place != wanted.place {
        return Err(broken("of another place in the log"));
    }
    Ok(checkpoint)
}

/// Reads whatever checkpoint file is at `path` and verifies all of it.
pub(super) fn load_any(path: &Path) -> Result<Checkpoint, StoreError> {
    verified(path, 0).map(|(checkpoint, _)| checkpoint)
}

/// The same, with what the scheduler knew beside the state; nothing of a file that does not have it.
pub(super) fn load_backup(path: &Path) -> Result<(Checkpoint, Vec<u8>), StoreError> {
    verified(path, 0)
}

fn verified(path: &Path, at: u64) -> Result<(Checkpoint, Vec<u8>), StoreError> {
    let broken = |why: &str| StoreError::broken(at, format!("{}: {why}", path.display()));
    read(path).map_err(|unreadable| match unreadable {
        Unreadable::Unsealed(Unsealed::Damaged(why)) => broken(why),
        Unreadable::Unsealed(Unsealed::Newer(found)) => {
            let supported = Block::Backup.format();
            StoreError::Version { what: path.display().to_string(), found, supported }
        }
        Unreadable::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            StoreError::broken(at, format!("{} is missing", path.display()))
        }
        Unreadable::Io(error) => StoreError::failed(format!("read {}", path.display()), error),
    })
}

/// What a file says of itself, of which no more than its ends is read: enough to list it. `None` if
/// it is no checkpoint.
pub(super) fn glance(path: &Path) -> Option<CheckpointMeta> {
    let file = File::open(path).ok()?;
    let file_bytes = file.metadata().ok()?.len();
    let mut start = vec![0; usize::try_from(file_bytes).ok()?.min(GLANCE_BYTES)];
    file.read_exact_at(&mut start, 0).ok()?;
    let mut end = [0; TRAILER_BYTES];
    file.read_exact_at(&mut end, file_bytes.checked_sub(TRAILER_BYTES as u64)?).ok()?;
    let (mut meta, _) = match header(Block::Backup, &start).ok()? {
        (1, length) => {
            let whole = (HEADER_BYTES + TRAILER_BYTES) as u64;
            if length.checked_add(whole) != Some(file_bytes) {
                return None;
            }
            (old_front(&mut Reader(&start[HEADER_BYTES..]))?, 0)
        }
        (format, _) => {
            let front = unseal(Block::Backup, &start).ok()?;
            let (meta, state_bytes, _) = read_front(Reader(front.body), format)?;
            (meta, state_bytes)
        }
    };
    (meta.file_bytes, meta.file_sum) = (file_bytes, u64::from_le_bytes(end));
    Some(meta)
}

fn read(path: &Path) -> Result<(Checkpoint, Vec<u8>), Unreadable> {
    may(Call::Open)?;
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut start = [0; HEADER_BYTES];
    file.read_exact_at(&mut start, 0)?;
    if header(Block::Backup, &start)?.0 == 1 {
        drop(file);
        return Ok((read_old(path)?, Vec::new()));
    }
    let (mut blocks, format, front) = BlockReader::begin(BufReader::new(file), Block::Backup)?;
    let Some((mut meta, state_bytes, known_bytes)) = read_front(Reader(&front), format) else {
        return Unreadable::damaged("odd front");
    };
    let most = file_bytes.saturating_mul(MAX_RATIO);
    if state_bytes > MAX_STATE_BYTES.min(most) {
        return Unreadable::damaged("the state is longer than it can be");
    }
    if known_bytes > MAX_KNOWN_BYTES.min(most) {
        return Unreadable::damaged("what the scheduler knew is longer than it can be");
    }
    let as_usize = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let length = as_usize(state_bytes);
    let whole = length.saturating_add(as_usize(known_bytes));
    let mut state = Vec::with_capacity(whole);
    while blocks.next(&mut state)? {
        if state.len() > whole {
            return Unreadable::damaged("the content is longer than it says");
        }
    }
    if state.len() != whole {
        return Unreadable::damaged("the content is shorter than it says");
    }
    let known = state.split_off(length);
    meta.file_sum = blocks.finish()?;
    meta.file_bytes = file_bytes;
    Ok((Checkpoint { meta, state: Arc::from(state) }, known))
}

fn read_old(path: &Path) -> Result<Checkpoint, Unreadable> {
    let bytes = fs::read(path)?;
    let unsealed = unseal(Block::Checkpoint, &bytes)?;
    let mut body = Reader(unsealed.body);
    let Some(mut meta) = old_front(&mut body) else {
        return Unreadable::damaged("odd front");
    };
    (meta.file_bytes, meta.file_sum) = (bytes.len() as u64, unsealed.sum);
    if bytes.len() != HEADER_BYTES + unsealed.body.len() + TRAILER_BYTES {
        return Unreadable::damaged("it goes on after its end");
    }
    // The format had no time of its own; the state has one.
    if let Ok(state) = CellState::decode(body.0) {
        meta.at = state.clock();
    }
    Ok(Checkpoint { meta, state: Arc::from(body.0) })
}

fn front(draft: &CheckpointDraft<'_>) -> Vec<u8> {
    let mut front = Vec::new();
    put_place(&mut front, draft.place);
    front.extend_from_slice(&draft.at.0.to_le_bytes());
    front.extend_from_slice(&(draft.state.len() as u64).to_le_bytes());
    let members = draft.membership;
    for ids in
        [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
    {
        front.extend_from_slice(&(ids.len() as u64).to_le_bytes());
        for id in ids {
            front.extend_from_slice(&id.to_le_bytes());
        }
    }
    front.push(u8::from(members.auto_leave));
    front
}

/// All but size and sum of the file, the length of the state, and of what was known beside it.
fn read_front(mut front: Reader<'_>, format: u32) -> Option<(CheckpointMeta, u64, u64)> {
    let (place, at, state_bytes) = (front.place()?, Millis(front.u64()?), front.u64()?);
    let membership = membership(&mut front)?;
    let known_bytes = if format == Block::Backup.format() { front.u64()? } else { 0 };
    let meta = CheckpointMeta { place, membership, at, file_bytes: 0, file_sum: 0 };
    front.0.is_empty().then_some((meta, state_bytes, known_bytes))
}

fn old_front(body: &mut Reader<'_>) -> Option<CheckpointMeta> {
    let place = body.place()?;
    let membership = membership(body)?;
    Some(CheckpointMeta { place, membership, at: Millis(0), file_bytes: 0, file_sum: 0 })
}

fn membership(body: &mut Reader<'_>) -> Option<Membership> {
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
    Some(membership)
}
