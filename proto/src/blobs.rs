//! Blobs as files, on masters and on machines.
//!
//! In a directory, `HEX` is a whole blob, named by the digits of its digest, `HEX.part` one that is on its way,
//! and `HEX.USER.part` one that a user sends; names that begin with a dot are on their way out. Which blobs
//! there should be is for others to say.
//!
//! Invariants: a file that has its name is whole and on the disk. A blob gets its name only when its bytes
//! have its digest. A part is written by one at a time, and one that a user sends by that user alone: nobody
//! spoils or holds up what another one sends. All files together take no more than the room that there is for
//! them. A blob that was touched is not removed as one that nobody wants.

use crate::names::UserName;
use crate::package::{Digest, Hasher, MAX_LAYER_BYTES};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// A part that nobody went on with for so long is removed. A day: our choice.
const PART_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A blob, or a piece of it, was not taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum ArrivalError {
    #[error("blob {0} is not wanted here")]
    NotWanted(Digest),
    #[error("blob {0} comes from somebody else already")]
    Busy(Digest),
    #[error("blob {digest} has another digest, {found}")]
    Wrong { digest: Digest, found: Digest },
    #[error("blob {digest} has at most {bytes} bytes, and more came")]
    TooLong { digest: Digest, bytes: u64 },
    #[error("blob {digest} has {bytes} bytes, and {have} came")]
    Short { digest: Digest, bytes: u64, have: u64 },
    #[error("blob {digest}: there is room for {room} bytes of blobs in all, and no more is left")]
    NoRoom { digest: Digest, room: u64 },
    #[error("keep blob {digest}: {source}")]
    Disk { digest: Digest, source: io::Error },
}

/// A whole blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it came.
    pub since: SystemTime,
}

/// Which part of which blob: a user's, or that of whoever has the directory.
type PartKey = (Digest, Option<UserName>);

/// A blob that may come.
#[derive(Debug)]
struct Expected {
    /// Until it is there or dropped; else only while somebody writes.
    lasting: bool,
    bytes: Option<u64>,
    have: Arc<AtomicU64>,
    busy: bool,
    cancelled: Arc<AtomicBool>,
}

/// A directory of blobs. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct BlobDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Most bytes of all files.
    room: u64,
    used: AtomicU64,
    /// Never held over anything that waits but a renaming or a look at a file's times.
    expected: Mutex<BTreeMap<PartKey, Expected>>,
    dropped: AtomicU64,
}

impl BlobDir {
    /// Makes the directory, or takes over what an earlier process left: removes what is of no use, and says
    /// what is there. `room` is the most bytes that all files may have.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(dir: PathBuf, room: u64) -> io::Result<(Self, Vec<Held>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let (mut found, mut used) = (Vec::new(), 0);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let about = entry.metadata()?;
            let since = about.modified()?;
            if let Ok(digest) = Digest::from_hex(&name) {
                found.push(Held { digest, bytes: about.len(), since });
            } else if part_of(&name).is_none() || is_old(since, PART_KEPT) {
                remove_tree(&entry.path())?;
                continue;
            }
            used += about.len();
        }
        let (used, expected) = (AtomicU64::new(used), Mutex::default());
        let inner = Inner { dir, room, used, expected, dropped: AtomicU64::new(0) };
        Ok((Self(Arc::new(inner)), found))
    }

    /// The file of a whole blob.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.0.dir.join(digest.hex())
    }

    /// Whether a blob is here, whole.
    #[must_use]
    pub fn holds(&self, digest: Digest) -> bool {
        self.path(digest).exists()
    }

    /// Whole blobs that are here now.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn held(&self) -> io::Result<Vec<Held>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            if let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) {
                let about = entry.metadata()?;
                found.push(Held { digest, bytes: about.len(), since: about.modified()? });
            }
        }
        Ok(found)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Most bytes of all files.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.0.room
    }

    fn part(&self, (digest, owner): &PartKey) -> PathBuf {
        let hex = digest.hex();
        self.0.dir.join(match owner {
            Some(owner) => format!("{hex}.{owner}.part"),
            None => format!("{hex}.part"),
        })
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<PartKey, Expected>> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is of a blob that is not here as a whole, of what `owner` sent.
    #[must_use]
    pub fn have(&self, digest: Digest, owner: Option<&UserName>) -> u64 {
        let part = self.part(&(digest, owner.cloned()));
        fs::metadata(part).map_or(0, |about| about.len())
    }

    /// Notes that somebody means to use a blob; false when it is not here.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn touch(&self, digest: Digest, now: SystemTime) -> io::Result<bool> {
        let _not_removed_meanwhile = self.expected();
        match File::open(self.path(digest)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            file => file?.set_modified(now).map(|()| true),
        }
    }

    /// Takes a blob off the books that nobody touched for `unused`; `None` when somebody did.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn drop_unused(&self, digest: Digest, unused: Duration) -> io::Result<Option<Dropped>> {
        let mut expected = self.expected();
        let since = fs::metadata(self.path(digest))?.modified()?;
        Ok(is_old(since, unused).then(|| self.drop_locked(&mut expected, digest)))
    }

    /// Takes parts off the books that nobody writes, or went on with for a day.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn drop_old_parts(&self) -> io::Result<Dropped> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            let Some(key) = part_of(&entry.file_name().to_string_lossy()) else { continue };
            let expected = self.expected();
            let old = match entry.metadata() {
                // It got its name meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                about => is_old(about?.modified()?, PART_KEPT),
            };
            if old && !expected.contains_key(&key) {
                out.push(self.rename_away(&entry.path()));
            }
        }
        Ok(Dropped(out))
    }

    /// A blob may come from now on, of so many bytes if that is known. Says how much of it is here. Nothing
    /// changes for one that comes already.
    pub fn expect(&self, digest: Digest, bytes: Option<u64>) -> u64 {
        let have = self.have(digest, None);
        let mut expected = self.expected();
        let blob = expected.entry((digest, None)).or_insert_with(|| Expected::new(bytes, have));
        blob.lasting = true;
        if !blob.busy {
            blob.bytes = bytes;
        }
        have
    }

    /// How much there is of blobs that are coming now.
    #[must_use]
    pub fn progress(&self) -> Vec<(Digest, u64)> {
        let have = |((digest, _), blob): (&PartKey, &Expected)| {
            let have = blob.have.load(Ordering::Relaxed);
            (blob.busy && have > 0).then_some((*digest, have))
        };
        self.expected().iter().filter_map(have).collect()
    }

    /// The right to write a blob that is expected.
    ///
    /// # Errors
    /// When it is not, or comes already.
    pub fn arrival(&self, digest: Digest) -> Result<Arrival, ArrivalError> {
        let mut expected = self.expected();
        let blob = expected.get_mut(&(digest, None)).ok_or(ArrivalError::NotWanted(digest))?;
        blob.arrival(self, (digest, None))
    }

    /// The right to write a blob that nobody expected: it is one that may come until this is dropped. What a
    /// user sends is a part of its own.
    ///
    /// # Errors
    /// When the same comes already.
    pub fn begin(
        &self,
        digest: Digest,
        owner: Option<UserName>,
        bytes: Option<u64>,
    ) -> Result<Arrival, ArrivalError> {
        let have = self.have(digest, owner.as_ref());
        let key = (digest, owner);
        let mut expected = self.expected();
        let blob = expected.entry(key.clone()).or_insert_with(|| Expected::new(bytes, have));
        if !blob.busy {
            blob.bytes = bytes;
        }
        blob.arrival(self, key)
    }

    /// Opens a whole blob at an offset; `None` when it is not here.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_blob(&self, digest: Digest, offset: u64) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset))?;
                Ok(Some(file))
            }
        }
    }

    /// Takes a blob off the books, or what there is of it. What gets its name after this is another one.
    #[must_use = "its file is still there"]
    pub fn drop_blob(&self, digest: Digest) -> Dropped {
        self.drop_locked(&mut self.expected(), digest)
    }

    fn drop_locked(&self, expected: &mut BTreeMap<PartKey, Expected>, digest: Digest) -> Dropped {
        let key = (digest, None);
        if let Some(blob) = expected.remove(&key) {
            blob.cancelled.store(true, Ordering::Relaxed);
        }
        let out = [self.path(digest), self.part(&key)].map(|from| self.rename_away(&from));
        Dropped(out.into())
    }

    /// To be called while what is expected is locked.
    fn rename_away(&self, from: &Path) -> (io::Result<()>, PathBuf) {
        let number = self.0.dropped.fetch_add(1, Ordering::Relaxed);
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let to = self.0.dir.join(format!(".{name}.{number}"));
        let bytes = fs::metadata(from).map_or(0, |about| about.len());
        let renamed = fs::rename(from, &to);
        if renamed.is_ok() {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        (renamed, to)
    }
}

impl Expected {
    fn new(bytes: Option<u64>, have: u64) -> Self {
        Self {
            lasting: false,
            bytes,
            have: Arc::new(AtomicU64::new(have)),
            busy: false,
            cancelled: Arc::new(AtomicBool::new(false)),
        }
    }

    fn arrival(
        &mut self,
        dir: &BlobDir,
        (digest, owner): PartKey,
    ) -> Result<Arrival, ArrivalError> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(ArrivalError::Busy(digest));
        }
        Ok(Arrival {
            dir: dir.clone(),
            digest,
            owner,
            bytes: self.bytes,
            have: self.have.clone(),
            cancelled: self.cancelled.clone(),
        })
    }
}

/// Whose part a file of this name is, if it is one.
fn part_of(name: &str) -> Option<PartKey> {
    let name = name.strip_suffix(".part")?;
    let (hex, owner) = match name.split_once('.') {
        Some((hex, owner)) => (hex, Some(UserName::new(owner).ok()?)),
        None => (name, None),
    };
    Some((Digest::from_hex(hex).ok()?, owner))
}

fn is_old(since: SystemTime, age: Duration) -> bool {
    since.elapsed().is_ok_and(|elapsed| elapsed > age)
}

/// Files that lost their names.
#[derive(Debug)]
pub struct Dropped(Vec<(io::Result<()>, PathBuf)>);

impl Dropped {
    /// Removes them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(self) -> io::Result<()> {
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

/// Removes a file, or a directory with what is in it. That it is not there is fine.
///
/// # Errors
/// When the disk refuses.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let is_dir = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        about => about?.is_dir(),
    };
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The right to write a blob, until it is dropped.
#[derive(Debug)]
pub struct Arrival {
    dir: BlobDir,
    digest: Digest,
    owner: Option<UserName>,
    bytes: Option<u64>,
    have: Arc<AtomicU64>,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut expected = self.dir.expected();
        if let Some(blob) = expected.get_mut(&self.key())
            && Arc::ptr_eq(&blob.cancelled, &self.cancelled)
        {
            blob.busy = false;
            if !blob.lasting {
                expected.remove(&self.key());
            }
        }
    }
}

impl Arrival {
    fn key(&self) -> PartKey {
        (self.digest, self.owner.clone())
    }

    fn disk(&self) -> impl Fn(io::Error) -> ArrivalError + use<> {
        let digest = self.digest;
        move |source| ArrivalError::Disk { digest, source }
    }

    /// Opens what there is of it, to go on. Reads it once, as its digest is that of all bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(self) -> Result<Part, ArrivalError> {
        let disk = self.disk();
        let mut options = File::options();
        let path = self.dir.part(&self.key());
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
pub struct Part {
    file: File,
    hasher: Hasher,
    have: u64,
    arrival: Arrival,
}

impl Part {
    /// How many bytes there are.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// When it is not wanted any more, there are too many, or they cannot be kept.
    pub fn add(&mut self, data: &[u8]) -> Result<(), ArrivalError> {
        let Arrival { digest, bytes, .. } = self.arrival;
        if self.arrival.cancelled.load(Ordering::Relaxed) {
            return Err(ArrivalError::NotWanted(digest));
        }
        let bytes = bytes.unwrap_or(MAX_LAYER_BYTES);
        if self.have + data.len() as u64 > bytes {
            self.begin_anew()?;
            return Err(ArrivalError::TooLong { digest, bytes });
        }
        let Inner { used, room, .. } = self.arrival.dir.0.as_ref();
        let more = data.len() as u64;
        if used.fetch_add(more, Ordering::Relaxed).saturating_add(more) > *room {
            used.fetch_sub(more, Ordering::Relaxed);
            return Err(ArrivalError::NoRoom { digest, room: *room });
        }
        if let Err(error) = self.file.write_all(data) {
            used.fetch_sub(more, Ordering::Relaxed);
            // Some of it may be there: none of it counts. When that fails too, the next one that opens it looks.
            let cut = self.file.set_len(self.have);
            drop(cut.and_then(|()| self.file.seek(SeekFrom::Start(self.have))));
            return Err(self.arrival.disk()(error));
        }
        self.hasher.update(data);
        self.have += data.len() as u64;
        self.arrival.have.store(self.have, Ordering::Relaxed);
        Ok(())
    }

    /// What came is of no use.
    fn begin_anew(&mut self) -> Result<(), ArrivalError> {
        self.arrival.have.store(0, Ordering::Relaxed);
        self.arrival.dir.0.used.fetch_sub(self.have, Ordering::Relaxed);
        self.have = 0;
        self.file.set_len(0).map_err(self.arrival.disk())
    }

    /// All bytes came: the blob gets its name if they are the right ones.
    ///
    /// # Errors
    /// When they are not, are too few, or cannot be kept.
    pub fn finish(mut self) -> Result<(), ArrivalError> {
        let Arrival { digest, bytes, .. } = self.arrival;
        if let Some(bytes) = bytes.filter(|bytes| self.have < *bytes) {
            return Err(ArrivalError::Short { digest, bytes, have: self.have });
        }
        let found = std::mem::take(&mut self.hasher).finish();
        if found != digest {
            self.begin_anew()?;
            return Err(ArrivalError::Wrong { digest, found });
        }
        let disk = self.arrival.disk();
        self.file.sync_all().map_err(&disk)?;
        let dir = &self.arrival.dir;
        {
            let mut expected = dir.expected();
            if self.arrival.cancelled.load(Ordering::Relaxed) {
                return Err(ArrivalError::NotWanted(digest));
            }
            let (part, whole) = (dir.part(&self.arrival.key()), dir.path(digest));
            // Somebody else sent it too.
            let twice = whole.exists();
            fs::rename(part, whole).map_err(&disk)?;
            if twice {
                dir.0.used.fetch_sub(self.have, Ordering::Relaxed);
            }
            expected.remove(&self.arrival.key());
        }
        File::open(&dir.0.dir).and_then(|dir| dir.sync_all()).map_err(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobDir) {
        let dir = tempfile::tempdir().unwrap();
        let (store, found) = BlobDir::open(dir.path().join("blobs"), 100).unwrap();
        assert_eq!(found, []);
        (dir, store)
    }

    /// A disk that is full for a day must not leave a room that is.
    #[test]
    fn what_could_not_be_written_takes_no_room() {
        let (dir, store) = store();
        let blob = [7; 60];
        let digest = Digest::of(&blob);
        store.expect(digest, Some(60));
        let mut part = store.arrival(digest).unwrap().open().unwrap();
        part.add(&blob[..20]).unwrap();
        let whole = std::mem::replace(&mut part.file, File::open(dir.path()).unwrap());
        for _ in 0..9 {
            let refused = part.add(&blob[20..]).unwrap_err();
            assert!(matches!(refused, ArrivalError::Disk { .. }), "{refused}");
        }
        assert_eq!(store.used(), 20);
        part.file = whole;
        part.add(&blob[20..]).unwrap();
        part.finish().unwrap();
        assert_eq!(store.used(), 60);
    }

    #[test]
    fn a_blob_that_comes_in_two_parts_gets_its_name_when_it_is_whole() {
        let (dir, store) = store();
        let digest = Digest::of(b"hello world");
        assert!(matches!(store.arrival(digest), Err(ArrivalError::NotWanted(_))));
        assert_eq!(store.expect(digest, Some(11)), 0);
        let mut part = store.arrival(digest).unwrap().open().unwrap();
        assert!(matches!(store.arrival(digest), Err(ArrivalError::Busy(_))));
        part.add(b"hello ").unwrap();
        assert!(matches!(part.finish(), Err(ArrivalError::Short { have: 6, .. })));
        assert!(store.open_blob(digest, 0).unwrap().is_none());

        // Another process of the borglet goes on.
        let (store, _) = BlobDir::open(dir.path().join("blobs"), 100).unwrap();
        assert_eq!(store.expect(digest, Some(11)), 6);
        let mut part = store.arrival(digest).unwrap().open().unwrap();
        assert_eq!(part.have(), 6);
        part.add(b"world").unwrap();
        part.finish().unwrap();
        let mut text = String::new();
        store.open_blob(digest, 6).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "world");
        let (_, found) = BlobDir::open(dir.path().join("blobs"), 100).unwrap();
        assert_eq!((found.len(), found[0].digest, found[0].bytes), (1, digest, 11));
        assert_eq!(store.used(), 11);
    }

    #[test]
    fn other_bytes_never_get_a_blobs_name_and_are_not_gone_on_with() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        store.expect(digest, Some(5));
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
        store.expect(digest, Some(5));
        let mut old = store.arrival(digest).unwrap().open().unwrap();
        old.add(b"rig").unwrap();
        store.drop_blob(digest).remove().unwrap();
        store.expect(digest, Some(5));
        let mut new = store.arrival(digest).unwrap().open().unwrap();
        assert!(matches!(old.add(b"ht"), Err(ArrivalError::NotWanted(_))));
        drop(old);
        assert!(matches!(store.arrival(digest), Err(ArrivalError::Busy(_))), "the new one's right");
        new.add(b"right").unwrap();
        new.finish().unwrap();
        store.drop_blob(digest).remove().unwrap();
        assert!(store.open_blob(digest, 0).unwrap().is_none());
    }

    #[test]
    fn all_blobs_together_take_no_more_than_their_room() {
        let (_dir, store) = store();
        let [first, second] = [vec![1; 60], vec![2; 41]].map(|bytes| (Digest::of(&bytes), bytes));
        for (digest, _) in [&first, &second] {
            store.expect(*digest, None);
        }
        let mut part = store.arrival(first.0).unwrap().open().unwrap();
        part.add(&first.1).unwrap();
        part.finish().unwrap();
        let mut part = store.arrival(second.0).unwrap().open().unwrap();
        let refused = part.add(&second.1).unwrap_err().to_string();
        assert!(refused.contains("there is room for 100 bytes of blobs in all"), "{refused}");
        store.drop_blob(first.0).remove().unwrap();
        part.add(&second.1).unwrap();
        part.finish().unwrap();
        assert_eq!(store.used(), 41);
    }

    fn user(name: &str) -> Option<UserName> {
        Some(UserName::new(name).unwrap())
    }

    /// What one user sends under a digest is not another one's to spoil, to hold up or to go on with.
    #[test]
    fn parts_of_users_are_their_own_and_whoever_is_whole_first_gives_the_blob_its_name() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        let open = |owner| store.begin(digest, owner, Some(5)).unwrap().open().unwrap();
        let (mut ann, mut bob) = (open(user("ann")), open(user("bob")));
        assert!(matches!(store.begin(digest, user("ann"), None), Err(ArrivalError::Busy(_))));
        ann.add(b"rig").unwrap();
        bob.add(b"wrong").unwrap();
        assert_eq!(store.have(digest, user("ann").as_ref()), 3);
        assert!(matches!(bob.finish(), Err(ArrivalError::Wrong { .. })));
        drop(ann);
        assert!(store.expected().is_empty(), "nobody writes, so nothing is remembered");
        let mut ann = open(user("ann"));
        assert_eq!(ann.have(), 3, "bob's bytes are not among them");
        let mut carol = open(user("carol"));
        for (part, rest) in [(&mut ann, &b"ht"[..]), (&mut carol, b"right")] {
            part.add(rest).unwrap();
        }
        ann.finish().unwrap();
        carol.finish().unwrap();
        assert!(store.holds(digest) && store.used() == 5, "{} bytes", store.used());
    }

    #[test]
    fn what_nobody_goes_on_with_is_removed_while_others_are_written() {
        let (dir, store) = store();
        let [old, busy, new] = [b"old", b"bus", b"new"].map(|bytes| Digest::of(bytes));
        let aged = SystemTime::UNIX_EPOCH;
        let mut begun = [old, busy, new].map(|digest| {
            let mut part = store.begin(digest, user("ann"), Some(3)).unwrap().open().unwrap();
            part.add(b"x").unwrap();
            if digest != new {
                part.file.set_modified(aged).unwrap();
            }
            Some(part)
        });
        (begun[0], begun[2]) = (None, None);
        store.drop_old_parts().unwrap().remove().unwrap();
        let left = [old, busy, new].map(|digest| store.have(digest, user("ann").as_ref()));
        assert_eq!((left, store.used()), ([0, 1, 1], 2));
        // What an earlier process did not get rid of goes when the next one begins.
        fs::write(dir.path().join("blobs").join(format!(".{}.part.3", old.hex())), b"xx").unwrap();
        let (store, _) = BlobDir::open(dir.path().join("blobs"), 100).unwrap();
        assert_eq!(store.used(), 1, "the part of a day ago goes too");
    }

    #[test]
    fn a_blob_that_somebody_means_to_use_is_not_removed_as_unused() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        let mut part = store.begin(digest, None, None).unwrap().open().unwrap();
        part.add(b"right").unwrap();
        part.finish().unwrap();
        let hour = Duration::from_secs(3600);
        let aged = SystemTime::UNIX_EPOCH;
        assert!(store.touch(digest, aged).unwrap());
        // Found old by whoever looks for such, and touched before he comes back to remove it.
        assert!(store.touch(digest, store.held().unwrap()[0].since + 1_000_000 * hour).unwrap());
        assert!(store.drop_unused(digest, hour).unwrap().is_none());
        assert!(store.touch(digest, aged).unwrap());
        store.drop_unused(digest, hour).unwrap().unwrap().remove().unwrap();
        assert!(!store.touch(digest, aged).unwrap() && store.used() == 0);
    }
}
