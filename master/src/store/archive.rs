//! Checkpoint files and the log between them: what is on the disk, what stays, who may read it.
//!
//! Saves checkpoints while the log goes on being written, takes those of other masters in pieces,
//! lists and reads what there is. Which of them a replica starts from is said by the head, in
//! `durable`; what a file looks like, in `checkpoint` and `segment`.
//!
//! Invariants: what the head names and the newest checkpoint are never removed. From the oldest
//! checkpoint that is kept on, the pieces of the log are kept as well.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use borg_cell::store::{
    Checkpoint, CheckpointDraft, CheckpointMeta, CheckpointStore, LogEntry, StoreError,
};

use super::checkpoint;
use super::fault::{Call, may};
use super::files::{self, Pace, TEMPORARY, full_or_failed, sync_dir};
use super::keep::{Keep, Kept};
use super::record::CheckpointRef;
use super::segment::{self, Segment};

/// Start of the names of files that another master is sending.
const INCOMING: &str = "incoming-";
/// A file that is being received is synced each time that this much came, in bytes.
const SYNC_BYTES: u64 = 4 << 20;
/// Most that is read of a file at once, in bytes.
const MAX_READ_BYTES: u64 = 64 << 20;
/// Files that stay open while they are sent. 4: one for each other master.
const OPEN: usize = 4;

/// The files of one log directory.
pub(super) struct Archive {
    dir: PathBuf,
    keep: Keep,
    held: Mutex<Held>,
    /// One checkpoint is saved at a time. Taken before `receiving`, if both are.
    saving: Mutex<()>,
    /// Index of the checkpoint that somebody waits for.
    wanted: Arc<AtomicU64>,
    /// And one is received, meanwhile too.
    receiving: Mutex<Option<Incoming>>,
    /// An error after which nobody knows what is on disk; shared with the log.
    failed: AtomicBool,
    /// The directory's lock: whoever may still write there holds it.
    _lock: Arc<File>,
}

#[derive(Debug, Default)]
struct Held {
    /// By index and checksum.
    checkpoints: BTreeMap<(u64, u64), CheckpointMeta>,
    /// By last index.
    segments: BTreeMap<u64, Segment>,
    /// Files that the head names.
    named: Vec<CheckpointRef>,
    /// Being sent; an open file can be read to its end even when its name is gone.
    open: Vec<Sending>,
}

#[derive(Debug)]
struct Sending {
    key: (u64, u64),
    file: Arc<File>,
    /// Read from since the last checkpoint was made.
    used: bool,
}

/// A file that another master is sending.
#[derive(Debug)]
struct Incoming {
    key: (u64, u64),
    file: File,
    bytes: u64,
    unsynced: u64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn key(meta: &CheckpointMeta) -> (u64, u64) {
    (meta.place.index, meta.file_sum)
}

impl Archive {
    /// Looks at the files in `dir` and clears away those that were never finished.
    pub(super) fn open(dir: &Path, keep: Keep, lock: Arc<File>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::failed(format!("list {}", dir.display()), error);
        let mut held = Held::default();
        for file in fs::read_dir(dir).map_err(failed)? {
            let file = file.map_err(failed)?;
            let Ok(name) = file.file_name().into_string() else { continue };
            if name.ends_with(TEMPORARY) {
                files::remove(&file.path());
            } else if name.starts_with(checkpoint::PREFIX) {
                match checkpoint::glance(&file.path()) {
                    Some(meta) => {
                        held.checkpoints.insert(key(&meta), meta);
                    }
                    None => tracing::warn!(name, "not a checkpoint that can be read"),
                }
            } else if name.starts_with(segment::PREFIX) {
                let bytes = file.metadata().map_err(failed)?.len();
                if let Some(segment) = Segment::named(&name, bytes) {
                    held.segments.insert(segment.last, segment);
                }
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            keep,
            held: Mutex::new(held),
            saving: Mutex::new(()),
            wanted: Arc::default(),
            receiving: Mutex::new(None),
            failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while it holds the list")
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.receiving.lock().expect("no code panics while it receives a file")
    }

    /// An error if what is on disk is unknown.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::failed("use the log", "a write failed before; stop"));
        }
        Ok(())
    }

    /// From now on what is on disk is unknown.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Runs what writes. After any error but lack of room nothing may follow.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.usable()?;
        work().inspect_err(|error| match error {
            StoreError::Failed { .. } => self.fail(),
            StoreError::Full { .. }
            | StoreError::Gone { .. }
            | StoreError::Invalid(_)
            | StoreError::Broken { .. }
            | StoreError::WrongIdentity { .. }
            | StoreError::OtherStore { .. }
            | StoreError::InUse { .. }
            | StoreError::Version { .. } => {}
        })
    }

    /// Whether the file of `meta` is here.
    pub(super) fn has(&self, meta: &CheckpointMeta) -> bool {
        self.held()
            .checkpoints
            .get(&key(meta))
            .is_some_and(|held| held.place == meta.place && held.file_bytes == meta.file_bytes)
    }

    /// From now on the head names these.
    pub(super) fn name(&self, references: &[CheckpointRef]) {
        self.held().named = references.to_vec();
    }

    /// Reads and verifies the checkpoint that `reference` means.
    pub(super) fn load(&self, reference: &CheckpointRef) -> Result<Checkpoint, StoreError> {
        let loaded = checkpoint::load(&self.path(reference), reference)?;
        // Of format 1, only now the time is known.
        if let Some(held) = self.held().checkpoints.get_mut(&key(&loaded.meta)) {
            *held = loaded.meta.clone();
        }
        Ok(loaded)
    }

    /// What is kept, oldest first.
    pub(super) fn list(&self) -> Vec<Kept> {
        let held = self.held();
        held.checkpoints.values().map(|meta| held.kept(meta)).collect()
    }

    /// Shows `visit` the entries after index `after` that are kept, until it says `false` or one is
    /// missing.
    pub(super) fn log(
        &self,
        after: u64,
        visit: &mut dyn FnMut(LogEntry) -> bool,
    ) -> Result<(), StoreError> {
        let segments: Vec<Segment> =
            self.held().segments.range(after + 1..).map(|(_, segment)| segment.clone()).collect();
        let mut reached = after;
        for segment in segments {
            if segment.first > reached + 1 {
                break;
            }
            let path = self.dir.join(segment.name());
            if !segment::read(&path, &segment, reached, visit)? {
                break;
            }
            reached = reached.max(segment.last);
        }
        Ok(())
    }

    /// Files of format 1 have names by the write that brought them.
    fn path(&self, reference: &CheckpointRef) -> PathBuf {
        let path = self.dir.join(checkpoint::name(reference));
        if path.exists() {
            return path;
        }
        let start = format!("{}{:020}-", checkpoint::PREFIX, reference.place.index);
        let old = fs::read_dir(&self.dir).into_iter().flatten().flatten().find(|file| {
            let named = file.file_name().to_str().is_some_and(|name| name.starts_with(&start));
            let meant = |meta: CheckpointMeta| meta.file_sum == reference.sum;
            named && checkpoint::glance(&file.path()).is_some_and(meant)
        });
        old.map_or(path, |file| file.path())
    }

    fn part(&self, key: (u64, u64)) -> PathBuf {
        self.dir.join(format!("{INCOMING}{:020}-{:016x}", key.0, key.1))
    }

    /// Makes room by the policy, and removes files that nothing speaks of. Nobody else may be saving;
    /// if nobody is receiving either, also what is not needed any more of a file on its way.
    fn clear(&self, nobody_receives: bool) {
        let (stay, parts_after) = {
            let mut held = self.held();
            held.open.retain_mut(|sending| std::mem::take(&mut sending.used));
            held.forget(&self.keep);
            let newest = held.checkpoints.keys().next_back().map_or(0, |key| key.0);
            let checkpoints =
                held.checkpoints.values().map(|meta| self.path(&checkpoint::reference(meta)));
            let segments = held.segments.values().map(|segment| self.dir.join(segment.name()));
            (checkpoints.chain(segments).collect::<Vec<_>>(), newest)
        };
        for file in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (path, name) = (file.path(), file.file_name());
            let Some(name) = name.to_str() else { continue };
            let ours = name.starts_with(checkpoint::PREFIX) || name.starts_with(segment::PREFIX);
            // What another master sends and this replica has passed by itself.
            let late = nobody_receives
                && name.starts_with(INCOMING)
                && name[INCOMING.len()..]
                    .split('-')
                    .next()
                    .and_then(|index| index.parse().ok())
                    .is_none_or(|index: u64| index <= parts_after);
            if (ours && !stay.contains(&path)) || late {
                files::remove(&path);
            }
        }
    }

    /// The file that is being received, opened.
    fn incoming<'a>(
        &self,
        receiving: &'a mut Option<Incoming>,
        meta: &CheckpointMeta,
    ) -> Result<&'a mut Incoming, StoreError> {
        let key = key(meta);
        if receiving.as_ref().is_none_or(|incoming| incoming.key != key) {
            *receiving = None;
            let path = self.part(key);
            for file in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let other =
                    file.file_name().to_str().is_some_and(|name| name.starts_with(INCOMING));
                if other && file.path() != path {
                    files::remove(&file.path());
                }
            }
            let open = || {
                may(Call::Create)?;
                let mut file = OpenOptions::new();
                let file = file.read(true).write(true).create(true).truncate(false).open(&path)?;
                let mut bytes = file.metadata()?.len();
                if bytes > meta.file_bytes {
                    may(Call::Resize)?;
                    file.set_len(0)?;
                    bytes = 0;
                }
                Ok(Incoming { key, file, bytes, unsynced: bytes })
            };
            *receiving = Some(open().map_err(|error| full_or_failed(&path, error))?);
        }
        Ok(receiving.as_mut().expect("it was just made"))
    }
}

impl Held {
    fn kept(&self, meta: &CheckpointMeta) -> Kept {
        let before = self.checkpoints.range(..(meta.place.index, 0)).next_back();
        let unbroken = before.is_some_and(|((index, _), _)| self.reaches(*index, meta.place.index));
        let pinned = self
            .named
            .iter()
            .any(|named| named.place.index == meta.place.index && named.sum == meta.file_sum);
        Kept { meta: meta.clone(), unbroken, pinned }
    }

    /// Whether all entries after `after` up to `to` are kept.
    fn reaches(&self, after: u64, to: u64) -> bool {
        let mut reached = after;
        for segment in self.segments.range(after + 1..).map(|(_, segment)| segment) {
            if reached >= to || segment.first > reached + 1 {
                break;
            }
            reached = reached.max(segment.last);
        }
        reached >= to
    }

    fn forget(&mut self, keep: &Keep) {
        loop {
            let kept: Vec<Kept> = self.checkpoints.values().map(|meta| self.kept(meta)).collect();
            let log_bytes = self.segments.values().map(|segment| segment.file_bytes).sum();
            let Some(gone) = keep.surplus(&kept, log_bytes) else { break };
            self.checkpoints.remove(&key(&kept[gone].meta));
            let oldest = self.checkpoints.keys().next().map_or(0, |key| key.0);
            self.segments.retain(|last, _| *last > oldest);
        }
    }
}

impl CheckpointStore for Archive {
    fn save(&self, draft: &CheckpointDraft<'_>) -> Result<CheckpointMeta, StoreError> {
        let _saving = self.saving.lock().expect("no code panics while it saves");
        self.guarded(|| {
            let contiguous = draft.log.windows(2).all(|pair| pair[1].index == pair[0].index + 1);
            let ends = draft.log.last().is_none_or(|last| last.index == draft.place.index);
            if !contiguous || !ends {
                let why = format!("the log to keep does not lead up to {}", draft.place.index);
                return Err(StoreError::Invalid(why));
            }
            // From the last entry that is kept already; what is there twice costs room only.
            let have = self.held().segments.keys().next_back().copied().unwrap_or(0);
            let new = draft.log.partition_point(|entry| entry.index <= have);
            let first_new = draft.log.get(new).map_or(0, |entry| entry.index);
            let log = if first_new == have + 1 { &draft.log[new..] } else { draft.log };
            let pace = Pace::Polite { index: draft.place.index, wanted: self.wanted.clone() };
            if let Some(segment) = segment::write(&self.dir, log, pace.clone())? {
                self.held().segments.insert(segment.last, segment);
            }
            let meta = checkpoint::write(&self.dir, draft, pace)?;
            self.held().checkpoints.insert(key(&meta), meta.clone());
            let receiving = self.receiving.try_lock();
            self.clear(receiving.is_ok_and(|receiving| receiving.is_none()));
            Ok(meta)
        })
    }

    fn hurry(&self, index: u64) {
        self.wanted.store(index, Ordering::Relaxed);
    }

    fn read(
        &self,
        meta: &CheckpointMeta,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let gone = || StoreError::Gone { index: meta.place.index };
        let key = key(meta);
        let opened =
            self.held().open.iter_mut().find(|sending| sending.key == key).map(|sending| {
                sending.used = true;
                sending.file.clone()
            });
        let failed = |error| StoreError::failed(format!("read the checkpoint at {}", key.0), error);
        let file = if let Some(file) = opened {
            file
        } else {
            if !self.has(meta) {
                return Err(gone());
            }
            let path = self.path(&checkpoint::reference(meta));
            let file = match may(Call::Open).and_then(|()| File::open(path)) {
                Ok(file) => Arc::new(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(gone()),
                Err(error) => return Err(failed(error)),
            };
            let mut held = self.held();
            if held.open.len() == OPEN {
                held.open.remove(0);
            }
            held.open.push(Sending { key, file: file.clone(), used: true });
            file
        };
        let length =
            (length as u64).min(MAX_READ_BYTES).min(meta.file_bytes.saturating_sub(offset));
        let mut piece = vec![0; usize::try_from(length).expect("it was just bounded")];
        file.read_exact_at(&mut piece, offset).map_err(failed)?;
        Ok(piece)
    }

    fn received(&self, meta: &CheckpointMeta) -> Result<u64, StoreError> {
        let mut receiving = self.receiving();
        self.guarded(|| Ok(self.incoming(&mut receiving, meta)?.bytes))
    }

    fn receive(&self, meta: &CheckpointMeta, offset: u64, piece: &[u8]) -> Result<(), StoreError> {
        let mut receiving = self.receiving();
        self.guarded(|| {
            let incoming = self.incoming(&mut receiving, meta)?;
            let here = incoming.bytes;
            if offset != here || here + piece.len() as u64 > meta.file_bytes {
                let (length, all) = (piece.len(), meta.file_bytes);
                let why = format!("{length} bytes at {offset}; received are {here} of {all}");
                return Err(StoreError::Invalid(why));
            }
            let path = self.part(incoming.key);
            may(Call::Write)
                .and_then(|()| incoming.file.write_all_at(piece, offset))
                .map_err(|error| full_or_failed(&path, error))?;
            incoming.bytes += piece.len() as u64;
            incoming.unsynced += piece.len() as u64;
            if incoming.unsynced >= SYNC_BYTES {
                may(Call::Sync).and_then(|()| incoming.file.sync_data()).map_err(|error| {
                    StoreError::failed(format!("sync {}", path.display()), error)
                })?;
                incoming.unsynced = 0;
            }
            Ok(())
        })
    }

    fn finish(&self, meta: &CheckpointMeta) -> Result<Vec<u8>, StoreError> {
        let mut receiving = self.receiving();
        self.guarded(|| {
            let path = self.part(key(meta));
            let bytes = self.incoming(&mut receiving, meta)?.bytes;
            let verified = if bytes == meta.file_bytes {
                checkpoint::load(&path, &checkpoint::reference(meta))
            } else {
                let why = format!("{bytes} of {} bytes came", meta.file_bytes);
                Err(StoreError::broken(meta.place.index, why))
            };
            let verified = verified.and_then(|loaded| {
                if loaded.meta == *meta {
                    return Ok(loaded);
                }
                Err(StoreError::broken(meta.place.index, "it is not the file that was offered"))
            });
            let loaded = match verified {
                Ok(loaded) => loaded,
                Err(error) => {
                    *receiving = None;
                    files::remove(&path);
                    return Err(error);
                }
            };
            let failed = |error| StoreError::failed(format!("keep {}", path.display()), error);
            let file = &self.incoming(&mut receiving, meta)?.file;
            may(Call::Sync).and_then(|()| file.sync_all()).map_err(failed)?;
            let named = self.dir.join(checkpoint::name(&checkpoint::reference(meta)));
            files::rename(&path, &named).map_err(failed)?;
            sync_dir(&self.dir)?;
            *receiving = None;
            self.held().checkpoints.insert(key(meta), meta.clone());
            // Whoever saves clears away when it is done.
            if let Ok(_saving) = self.saving.try_lock() {
                self.clear(true);
            }
            Ok(loaded.state.to_vec())
        })
    }
}
