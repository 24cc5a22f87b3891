//! The files of packages on this machine.
//!
//! `DIR/packages/blobs/HEX` is a whole blob, `HEX.part` one that is on its way; `layers/HEX/root` is what
//! was unpacked of it, with its size in `layers/HEX/bytes`. Names that begin with a dot are on their way
//! out, or not made yet.
//!
//! Invariants: a file or directory that has its name is whole and on the disk. A blob gets its name only
//! when its bytes have its digest. Of a blob one part is written at a time.

use borg_proto::package::{Digest, Hasher};
use borglet_supervisor::{Cached, Trouble};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A part that nobody went on with for so long is removed when a borglet starts. A day: our choice.
const PART_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use the directory {} for packages", .path.display())]
pub struct StoreError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A blob, or a piece of it, was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArrivalError {
    #[error("blob {0} is not wanted here")]
    NotWanted(Digest),
    #[error("blob {0} comes from somebody else already")]
    Busy(Digest),
    #[error("blob {digest} has another digest, {found}")]
    Wrong { digest: Digest, found: Digest },
    #[error("blob {digest} has {bytes} bytes, and more came")]
    TooLong { digest: Digest, bytes: u64 },
    #[error("blob {digest} has {bytes} bytes, and {have} came")]
    Short { digest: Digest, bytes: u64, have: u64 },
    #[error("keep blob {digest}: {source}")]
    Disk { digest: Digest, source: io::Error },
}

impl ArrivalError {
    /// What is wrong with this machine, if that is it.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Disk { source, .. } => Some(trouble(&self.to_string(), source)),
            Self::NotWanted(_)
            | Self::Busy(_)
            | Self::Wrong { .. }
            | Self::TooLong { .. }
            | Self::Short { .. } => None,
        }
    }
}

/// A failure of the disk as the supervisor takes it.
pub(crate) fn trouble(why: &str, error: &io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Trouble::Full(format!("the disk is full: {why}"))
        }
        _other => Trouble::Bad(why.to_owned()),
    }
}

/// A blob that may come.
#[derive(Debug)]
struct Expected {
    bytes: u64,
    have: Arc<AtomicU64>,
    busy: bool,
    cancelled: Arc<AtomicBool>,
}

/// The files. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Never held over anything that waits but a renaming.
    expected: Mutex<BTreeMap<Digest, Expected>>,
    dropped: AtomicU64,
}

impl Store {
    /// Makes the directories, removes what is not whole, and says what is there.
    pub(crate) fn open(dir: PathBuf) -> Result<(Self, Vec<Cached>), StoreError> {
        let inner = Inner { dir, expected: Mutex::default(), dropped: AtomicU64::new(0) };
        let store = Self(Arc::new(inner));
        let dir = store.0.dir.clone();
        let found = store.take_over().map_err(|source| StoreError { path: dir, source })?;
        Ok((store, found))
    }

    fn take_over(&self) -> io::Result<Vec<Cached>> {
        for dir in [self.0.dir.clone(), self.blobs(), self.layers()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.blobs())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let about = entry.metadata()?;
            match Digest::from_hex(&name) {
                Ok(digest) => {
                    let bytes = about.len();
                    found.insert(digest, Cached { digest, bytes, unpacked_bytes: 0, ready: false });
                }
                Err(_) => {
                    let age = about.modified().ok().and_then(|at| at.elapsed().ok());
                    if !name.ends_with(".part") || age.is_none_or(|age| age > PART_KEPT) {
                        fs::remove_file(entry.path())?;
                    }
                }
            }
        }
        for entry in fs::read_dir(self.layers())? {
            let entry = entry?;
            let digest = Digest::from_hex(&entry.file_name().to_string_lossy());
            let blob = digest.ok().and_then(|digest| found.get_mut(&digest));
            let bytes = fs::read_to_string(entry.path().join("bytes"));
            let bytes = bytes.ok().and_then(|text| text.trim().parse().ok());
            match (blob, bytes) {
                (Some(blob), Some(bytes)) => (blob.ready, blob.unpacked_bytes) = (true, bytes),
                (_, _) => remove_tree(&entry.path())?,
            }
        }
        Ok(found.into_values().collect())
    }

    fn blobs(&self) -> PathBuf {
        self.0.dir.join("blobs")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.0.dir.join("layers")
    }

    /// The file of a whole blob.
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn part(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{}.part", digest.hex()))
    }

    pub(super) fn layer_dir(&self, digest: Digest) -> PathBuf {
        self.layers().join(digest.hex())
    }

    /// The directory of an unpacked layer.
    pub(crate) fn layer(&self, digest: Digest) -> PathBuf {
        self.layer_dir(digest).join("root")
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<Digest, Expected>> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob may come. Says how much of it is here.
    pub(crate) fn expect(&self, digest: Digest, bytes: u64) -> u64 {
        let have = fs::metadata(self.part(digest)).map_or(0, |about| about.len());
        let expected = Expected {
            bytes,
            have: Arc::new(AtomicU64::new(have)),
            busy: false,
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        self.expected().insert(digest, expected);
        have
    }

    /// How much there is of blobs that come.
    pub(crate) fn progress(&self) -> Vec<(Digest, u64)> {
        let have = |(digest, blob): (&Digest, &Expected)| {
            let have = blob.have.load(Ordering::Relaxed);
            (blob.busy && have > 0).then_some((*digest, have))
        };
        self.expected().iter().filter_map(have).collect()
    }

    /// The right to write a blob that is expected.
    pub(crate) fn arrival(&self, digest: Digest) -> Result<Arrival, ArrivalError> {
        let mut expected = self.expected();
        let blob = expected.get_mut(&digest).ok_or(ArrivalError::NotWanted(digest))?;
        if std::mem::replace(&mut blob.busy, true) {
            return Err(ArrivalError::Busy(digest));
        }
        Ok(Arrival {
            store: self.clone(),
            digest,
            bytes: blob.bytes,
            have: blob.have.clone(),
            cancelled: blob.cancelled.clone(),
        })
    }

    /// Opens a whole blob at an offset; `None` when it is not here.
    pub(crate) fn open_blob(&self, digest: Digest, offset: u64) -> io::Result<Option<File>> {
        use std::io::{Seek, SeekFrom};
        match File::open(self.blob(digest)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset))?;
                Ok(Some(file))
            }
        }
    }

    /// Takes a blob and its layer off the books. What gets their names after this is another one.
    pub(crate) fn drop_blob(&self, digest: Digest) -> Dropped {
        let mut expected = self.expected();
        if let Some(blob) = expected.remove(&digest) {
            blob.cancelled.store(true, Ordering::Relaxed);
        }
        let number = self.0.dropped.fetch_add(1, Ordering::Relaxed);
        let mut out = Vec::new();
        for (from, to) in [
            (self.blob(digest), self.blobs()),
            (self.part(digest), self.blobs()),
            (self.layer_dir(digest), self.layers()),
        ] {
            let to = to.join(format!(".{}.{number}.{}", digest.hex(), out.len()));
            out.push((fs::rename(from, &to), to));
        }
        Dropped(out)
    }
}

/// Files that lost their names.
#[derive(Debug)]
pub(crate) struct Dropped(Vec<(io::Result<()>, PathBuf)>);

impl Dropped {
    /// Removes them.
    pub(crate) fn remove(self) -> io::Result<()> {
        for (renamed, path) in self.0 {
            match renamed {
                Ok(()) => remove_tree(&path)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Removes a file, or a directory with what is in it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let is_dir = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        about => about?.is_dir(),
    };
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The right to write a blob, until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival {
    store: Store,
    digest: Digest,
    bytes: u64,
    have: Arc<AtomicU64>,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(blob) = self.store.expected().get_mut(&self.digest)
            && Arc::ptr_eq(&blob.cancelled, &self.cancelled)
        {
            blob.busy = false;
        }
    }
}

impl Arrival {
    fn disk(&self) -> impl Fn(io::Error) -> ArrivalError + use<> {
        let digest = self.digest;
        move |source| ArrivalError::Disk { digest, source }
    }

    /// Opens what there is of it, to go on. Reads it once, as its digest is that of all bytes.
    pub(crate) fn open(self) -> Result<Part, ArrivalError> {
        let disk = self.disk();
        let mut options = File::options();
        let path = self.store.part(self.digest);
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(&disk)?;
        let (mut hasher, mut have) = (Hasher::default(), 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = file.read(&mut buffer).map_err(&disk)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            have += read as u64;
        }
        self.have.store(have, Ordering::Relaxed);
        Ok(Part { file, hasher, have, arrival: self })
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    hasher: Hasher,
    have: u64,
    arrival: Arrival,
}

impl Part {
    /// How many bytes there are.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Adds the next bytes.
    pub(crate) fn add(&mut self, data: &[u8]) -> Result<(), ArrivalError> {
        let Arrival { digest, bytes, .. } = self.arrival;
        if self.arrival.cancelled.load(Ordering::Relaxed) {
            return Err(ArrivalError::NotWanted(digest));
        }
        if self.have + data.len() as u64 > bytes {
            self.begin_anew()?;
            return Err(ArrivalError::TooLong { digest, bytes });
        }
        self.file.write_all(data).map_err(self.arrival.disk())?;
        self.hasher.update(data);
        self.have += data.len() as u64;
        self.arrival.have.store(self.have, Ordering::Relaxed);
        Ok(())
    }

    /// What came is of no use.
    fn begin_anew(&mut self) -> Result<(), ArrivalError> {
        self.arrival.have.store(0, Ordering::Relaxed);
        self.file.set_len(0).map_err(self.arrival.disk())
    }

    /// All bytes came: the blob gets its name if they are the right ones.
    pub(crate) fn finish(mut self) -> Result<(), ArrivalError> {
        let Arrival { digest, bytes, .. } = self.arrival;
        if self.have < bytes {
            return Err(ArrivalError::Short { digest, bytes, have: self.have });
        }
        let found = std::mem::take(&mut self.hasher).finish();
        if found != digest {
            self.begin_anew()?;
            return Err(ArrivalError::Wrong { digest, found });
        }
        let disk = self.arrival.disk();
        self.file.sync_all().map_err(&disk)?;
        let store = &self.arrival.store;
        {
            let mut expected = store.expected();
            if self.arrival.cancelled.load(Ordering::Relaxed) {
                return Err(ArrivalError::NotWanted(digest));
            }
            fs::rename(store.part(digest), store.blob(digest)).map_err(&disk)?;
            expected.remove(&digest);
        }
        File::open(store.blobs()).and_then(|dir| dir.sync_all()).map_err(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let (store, found) = Store::open(dir.path().join("packages")).unwrap();
        assert_eq!(found, []);
        (dir, store)
    }

    #[test]
    fn a_blob_that_comes_in_two_parts_gets_its_name_when_it_is_whole() {
        let (dir, store) = store();
        let digest = Digest::of(b"hello world");
        assert!(matches!(store.arrival(digest), Err(ArrivalError::NotWanted(_))));
        assert_eq!(store.expect(digest, 11), 0);
        let mut part = store.arrival(digest).unwrap().open().unwrap();
        assert!(matches!(store.arrival(digest), Err(ArrivalError::Busy(_))));
        part.add(b"hello ").unwrap();
        assert!(matches!(part.finish(), Err(ArrivalError::Short { have: 6, .. })));
        assert!(store.open_blob(digest, 0).unwrap().is_none());

        // Another process of the borglet goes on.
        let (store, _) = Store::open(dir.path().join("packages")).unwrap();
        assert_eq!(store.expect(digest, 11), 6);
        let mut part = store.arrival(digest).unwrap().open().unwrap();
        assert_eq!(part.have(), 6);
        part.add(b"world").unwrap();
        part.finish().unwrap();
        let mut text = String::new();
        store.open_blob(digest, 6).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "world");
        let (_, found) = Store::open(dir.path().join("packages")).unwrap();
        assert_eq!(found, [Cached { digest, bytes: 11, unpacked_bytes: 0, ready: false }]);
    }

    #[test]
    fn other_bytes_never_get_a_blobs_name_and_are_not_gone_on_with() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        store.expect(digest, 5);
        for (data, why) in [(&b"wrong"[..], "another digest"), (b"much too long", "more came")] {
            let mut part = store.arrival(digest).unwrap().open().unwrap();
            assert_eq!(part.have(), 0);
            let refused = part.add(data).and_then(|()| part.finish()).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(store.open_blob(digest, 0).unwrap().is_none());
        }
    }

    #[test]
    fn what_was_dropped_while_it_came_does_not_come_back() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        store.expect(digest, 5);
        let mut old = store.arrival(digest).unwrap().open().unwrap();
        old.add(b"rig").unwrap();
        store.drop_blob(digest).remove().unwrap();
        store.expect(digest, 5);
        let mut new = store.arrival(digest).unwrap().open().unwrap();
        assert!(matches!(old.add(b"ht"), Err(ArrivalError::NotWanted(_))));
        drop(old);
        assert!(matches!(store.arrival(digest), Err(ArrivalError::Busy(_))), "the new one's right");
        new.add(b"right").unwrap();
        new.finish().unwrap();
        store.drop_blob(digest).remove().unwrap();
        assert!(store.open_blob(digest, 0).unwrap().is_none());
    }
}
