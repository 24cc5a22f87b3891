//! Checkpoints as files beside the log.
//!
//! Writes one whole or not at all, takes another master's in pieces, reads one only if it is the one
//! that the head names, and clears away what no head names. The head decides which are kept; this
//! module only does files.
//!
//! Invariant: a file that the head names was synced before the head was.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use borg_cell::store::{
    Checkpoint, CheckpointDraft, CheckpointMeta, CheckpointStore, Membership, StoreError,
};
use borg_proto::Millis;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::files::{create_whole, read_whole, sync_dir};
use super::record::{Block, CheckpointRef, FORMAT, Reader, Unsealed, put_place, seal, unseal};

/// How many are named by a head. 2: if the newest turns out rotten, the one before it gives the same
/// state, but only with the log from there on. That is there when the two are closer together than
/// what compaction leaves (by default 2,000 entries); else the log is broken, and says so.
pub(super) const KEPT: usize = 2;
/// Start of the names.
const PREFIX: &str = "checkpoint-";
/// Start of the name of a file that is being received.
const PART: &str = "part-";

/// The checkpoint files of a log.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn part(&self, meta: &CheckpointMeta) -> PathBuf {
        self.dir.join(format!("{PART}{:020}-{:016x}", meta.place.index, meta.file_sum))
    }
}

impl CheckpointStore for Files {
    fn save(&self, draft: &CheckpointDraft<'_>) -> Result<CheckpointMeta, StoreError> {
        let mut front = Vec::new();
        put_place(&mut front, draft.place);
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
        front.extend_from_slice(&draft.at.0.to_le_bytes());
        let mut meta = CheckpointMeta {
            place: draft.place,
            membership: members.clone(),
            at: draft.at,
            file_bytes: 0,
            file_sum: 0,
        };
        create_whole(&self.dir, &name(&reference(&meta)), |file| {
            let mut counted = Summed { file, bytes: 0, sum: Xxh3::new() };
            seal(&mut counted, Block::Checkpoint, &[&front, draft.state])?;
            (meta.file_bytes, meta.file_sum) = (counted.bytes, counted.sum.digest());
            Ok(())
        })?;
        Ok(meta)
    }

    fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let path = self.dir.join(name(&reference(meta)));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Gone { index: meta.place.index });
            }
            Err(error) => return Err(StoreError::failed("open a checkpoint", error)),
        };
        let left = usize::try_from(meta.file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        file.read_exact_at(&mut bytes, offset)
            .map_err(|error| StoreError::failed(format!("read {}", path.display()), error))?;
        Ok(bytes)
    }

    fn received(&self, meta: &CheckpointMeta) -> Result<u64, StoreError> {
        let part = self.part(meta);
        remove_parts(&self.dir, Some(&part));
        match fs::metadata(&part) {
            Ok(found) => Ok(found.len().min(meta.file_bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(StoreError::failed(format!("look at {}", part.display()), error)),
        }
    }

    fn receive(&self, meta: &CheckpointMeta, offset: u64, piece: &[u8]) -> Result<(), StoreError> {
        let path = self.part(meta);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full { what: "take a checkpoint".into() },
            _ => StoreError::failed(format!("write {}", path.display()), error),
        };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path).map_err(failed)?;
        let here = file.metadata().map_err(failed)?.len();
        if here != offset {
            return Err(StoreError::Invalid(format!("piece at {offset}, received up to {here}")));
        }
        (&file).write_all(piece).map_err(failed)
    }

    fn finish(&self, meta: &CheckpointMeta) -> Result<Vec<u8>, StoreError> {
        let part = self.part(meta);
        let at = meta.place.index;
        let bytes = read_whole(&part, at)?;
        let whole = bytes.len() as u64 == meta.file_bytes && xxh3_64(&bytes) == meta.file_sum;
        let checkpoint = whole.then(|| parse(&part, &bytes, meta.place.index)).transpose()?;
        let Some(checkpoint) = checkpoint.filter(|found| {
            found.meta.place == meta.place && found.meta.membership == meta.membership
        }) else {
            remove_parts(&self.dir, None);
            return Err(StoreError::broken(at, "not the file that was offered"));
        };
        let failed = |error| StoreError::failed(format!("keep {}", part.display()), error);
        File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&part, self.dir.join(name(&reference(meta)))).map_err(failed)?;
        sync_dir(&self.dir)?;
        Ok(checkpoint.state.to_vec())
    }
}

/// A file whose bytes are counted and summed as they are written.
struct Summed<'a> {
    file: &'a mut File,
    bytes: u64,
    sum: Xxh3,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn reference(meta: &CheckpointMeta) -> CheckpointRef {
    CheckpointRef { place: meta.place, write: 0, sum: meta.file_sum }
}

/// Whether the file of a checkpoint was saved.
pub(super) fn is_there(dir: &Path, meta: &CheckpointMeta) -> bool {
    fs::metadata(dir.join(name(&reference(meta)))).is_ok_and(|found| found.len() == meta.file_bytes)
}

/// Removes files that are being received, except one.
fn remove_parts(dir: &Path, keep: Option<&Path>) {
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let is_part = file.file_name().to_string_lossy().starts_with(PART);
        if is_part
            && keep.is_none_or(|keep| keep != file.path())
            && let Err(error) = fs::remove_file(file.path())
        {
            tracing::warn!(%error, "cannot remove what was received of a checkpoint");
        }
    }
}

/// Reads the checkpoint that `reference` names.
pub(super) fn load(dir: &Path, reference: &CheckpointRef) -> Result<Checkpoint, StoreError> {
    let at = reference.place.index;
    let path = dir.join(name(reference));
    let bytes = read_whole(&path, at)?;
    let broken = |why: &str| StoreError::broken(at, format!("{}: {why}", path.display()));
    if xxh3_64(&bytes) != reference.sum {
        return Err(broken("not the one that was written"));
    }
    let checkpoint = parse(&path, &bytes, at)?;
    if checkpoint.meta.place != reference.place {
        return Err(broken("of another place in the log"));
    }
    Ok(checkpoint)
}

fn parse(path: &Path, bytes: &[u8], at: u64) -> Result<Checkpoint, StoreError> {
    let broken = |why: &str| StoreError::broken(at, format!("{}: {why}", path.display()));
    let (body, _) = unseal(Block::Checkpoint, bytes).map_err(|unsealed| match unsealed {
        Unsealed::Damaged(why) => broken(why),
        Unsealed::Newer(found) => {
            StoreError::Version { what: path.display().to_string(), found, supported: FORMAT }
        }
    })?;
    let (file_bytes, file_sum) = (bytes.len() as u64, xxh3_64(bytes));
    decode(Reader(body), file_bytes, file_sum).ok_or_else(|| broken("odd content"))
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

fn decode(mut body: Reader<'_>, file_bytes: u64, file_sum: u64) -> Option<Checkpoint> {
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
    let at = Millis(body.u64()?);
    let meta = CheckpointMeta { place, membership, at, file_bytes, file_sum };
    Some(Checkpoint { meta, state: Arc::from(body.0) })
}
