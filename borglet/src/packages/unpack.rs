//! A blob becomes a directory, from which tasks see it.
//!
//! Nothing in the blob is trusted, though whoever put it looked at it: each entry is checked again
//! ([`borg_proto::layer`]), and made relative to an open directory below which no symbolic link is
//! followed and no `..` leads out. What exists already is never written to.
//!
//! Invariant: a layer has its name only when all of it is unpacked and on the disk, and the blob was what
//! its digest says.

use super::store::{Store, trouble};
use borg_proto::blobs::remove_tree;
use borg_proto::layer::{self, Entry, Kind, LayerError, MAX_ENTRIES, Rules, bad_entry};
use borg_proto::package::{Digest, Hasher, Layer};
use borglet_supervisor::Trouble;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Bytes of a file written at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Marks a directory of which nothing lower is seen; one for each way in which an overlay can be mounted
/// (Documentation/filesystems/overlayfs.rst).
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Unpacks a blob that is here, in a directory of this order's own.
pub(super) fn unpack(store: &Store, layer: Layer, order: u64) -> Result<(), Trouble> {
    let unpacked = store.layers().join(format!(".new-{}.{order}", layer.digest.hex()));
    let result = unpack_into(store, layer, &unpacked);
    if let (Err(_), Err(error)) = (&result, remove_tree(&unpacked)) {
        tracing::warn!(path = %unpacked.display(), %error, "remains of a layer");
    }
    result
}

fn unpack_into(store: &Store, layer: Layer, unpacked: &Path) -> Result<(), Trouble> {
    let disk = |action: &'static str| {
        move |error: io::Error| trouble(&format!("{action}: {error}"), &error)
    };
    remove_tree(unpacked).map_err(disk("remove an earlier attempt"))?;
    let root = unpacked.join("root");
    DirBuilder::new().mode(0o755).recursive(true).create(&root).map_err(disk("make the layer"))?;
    let file = store.blobs().open_blob(layer.digest, 0).map_err(disk("open the blob"))?;
    let file = file.ok_or_else(|| Trouble::Damaged("the blob is gone".to_owned()))?;
    fill(file, layer, &root, MAX_ENTRIES)?;
    fs::write(unpacked.join("bytes"), layer.unpacked_bytes.to_string())
        .map_err(disk("note the layer's size"))?;
    let dir = File::open(unpacked).map_err(disk("open the layer"))?;
    // All of its files at once.
    rustix::fs::syncfs(&dir).map_err(|e| disk("sync the layer")(e.into()))?;
    match fs::rename(unpacked, store.layer_dir(layer.digest)) {
        // One that is there is whole, and tasks may stand on it.
        Err(error) if is_taken(&error) => {
            remove_tree(unpacked).map_err(disk("remove a second copy"))?;
        }
        named => named.map_err(disk("name the layer"))?,
    }
    let layers = File::open(store.layers()).and_then(|dir| dir.sync_all());
    layers.map_err(disk("sync the layer's name"))
}

/// Whether a directory of that name is there, as file systems tell it.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Something went wrong with an entry.
#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("entry {entry:?}: {source}")]
    Disk { entry: PathBuf, source: io::Error },
}

impl From<FillError> for Trouble {
    fn from(error: FillError) -> Self {
        match &error {
            FillError::Layer(_) => Self::Bad(error.to_string()),
            FillError::Disk { source, .. } => trouble(&error.to_string(), source),
        }
    }
}

fn fill(file: File, layer: Layer, root: &Path, most_entries: u64) -> Result<(), Trouble> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|error| Trouble::Disk(format!("open the layer: {error}")))?;
    let own_files = !rustix::process::geteuid().is_root();
    let mut target = Target { root: dir, parent: None, own_files, implied: 0 };
    let mut blob =
        Hashing { from: BufReader::with_capacity(BUFFER_BYTES, file), hasher: Hasher::default() };
    let (mut bytes, mut entries) = (0_u64, 0);
    // As of an image, which may have all that other packages may.
    let rules = Rules { image: true, drop_lent: false };
    let walked = layer::walk(&mut blob, rules, |entry, data| {
        if let Kind::File { bytes: more } = entry.kind {
            bytes = bytes.saturating_add(more);
            if bytes > layer.unpacked_bytes {
                let why = format!(
                    "is beyond the {} bytes that the layer should have",
                    layer.unpacked_bytes
                );
                return Err(FillError::Layer(bad_entry(&entry.path, why)));
            }
        }
        target.make(entry, data).map_err(|failed| failed.about(entry))?;
        entries += 1;
        if entries + target.implied > most_entries {
            let what = "entries, with the directories on the way to them";
            return Err(FillError::Layer(LayerError::TooMuch { what, most: most_entries }));
        }
        Ok(())
    });
    // First: what is wrong with other bytes than the right ones says nothing of the package.
    let found = blob.finish().map_err(|error| Trouble::Disk(format!("read the blob: {error}")));
    match found {
        Ok(found) if found != layer.digest => {
            return Err(Trouble::Damaged(format!("the blob's bytes changed: they are {found}")));
        }
        found => drop(found?),
    }
    walked?;
    if bytes != layer.unpacked_bytes {
        let said = layer.unpacked_bytes;
        return Err(Trouble::Bad(format!("it has {bytes} bytes of files, not {said} as was said")));
    }
    Ok(())
}

/// Reads and finds the digest.
struct Hashing<R> {
    from: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl<R: Read> Hashing<R> {
    fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

/// Why an entry was not made.
enum Failed {
    Disk(io::Error),
    Refused(&'static str),
}

impl From<rustix::io::Errno> for Failed {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            rustix::io::Errno::EXIST => Self::Refused("is there twice"),
            // RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS say these.
            rustix::io::Errno::LOOP | rustix::io::Errno::XDEV | rustix::io::Errno::NOTDIR => {
                Self::Refused(
                    "escapes the package's root: what is on its way there is no directory",
                )
            }
            other => Self::Disk(other.into()),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Failed {
    fn about(self, entry: &Entry) -> FillError {
        match self {
            Self::Disk(source) => FillError::Disk { entry: entry.path.clone(), source },
            Self::Refused(why) => FillError::Layer(bad_entry(&entry.path, why)),
        }
    }
}

/// The directory that is filled.
struct Target {
    root: OwnedFd,
    /// The directory of the last entry, as the next one is mostly in the same.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Without root all files are the borglet's own.
    own_files: bool,
    /// Directories that were made because something is in them.
    implied: u64,
}

impl Target {
    fn make(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Failed> {
        if matches!(entry.kind, Kind::Opaque) {
            return self.make_opaque(&entry.path);
        }
        if entry.path.as_os_str().is_empty() {
            return self.finish_dir(&self.root.try_clone()?, entry);
        }
        let name = entry.path.file_name().unwrap_or_default().to_owned();
        let owned = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        if let Kind::HardLink { target } = &entry.kind {
            let (from, old) = self.regular_file(target)?;
            let parent = self.parent_of(&entry.path)?;
            rustix::fs::linkat(&from, &old, parent, &name, AtFlags::empty())?;
            return Ok(());
        }
        let own_files = self.own_files;
        let parent = self.parent_of(&entry.path)?;
        match &entry.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let dir = open_dir(parent, &name)?;
                self.parent = None; // it may have changed its rights
                self.finish_dir(&dir, entry)?;
            }
            Kind::File { .. } => {
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let made = rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(made);
                copy(data, &mut file)?;
                if !own_files {
                    rustix::fs::fchown(&file, owned.0, owned.1)?;
                }
                rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
                set_time(&file, entry.mtime)?;
            }
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(target, parent, &name)?;
                if !own_files {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(parent, &name, owned.0, owned.1, flags)?;
                }
            }
            Kind::Gone => {
                // What overlayfs takes for "there is nothing here". Root is not needed for this one.
                let nothing = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(
                    parent,
                    &name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    nothing,
                )?;
            }
            Kind::HardLink { .. } | Kind::Opaque => {} // dealt with above
        }
        Ok(())
    }

    fn finish_dir(&self, dir: &OwnedFd, entry: &Entry) -> Result<(), Failed> {
        let mut mode = entry.mode;
        if self.own_files {
            mode |= 0o700; // or what is in it could not be made
        } else {
            rustix::fs::fchown(
                dir,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )?;
        }
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode))?;
        Ok(())
    }

    fn make_opaque(&mut self, path: &Path) -> Result<(), Failed> {
        let dir = if path.as_os_str().is_empty() {
            self.root.try_clone()?
        } else {
            let name = path.file_name().unwrap_or_default().to_owned();
            let parent = self.parent_of(path)?;
            match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            open_dir(parent, &name)?
        };
        for name in OPAQUE {
            match rustix::fs::fsetxattr(&dir, name, b"y", XattrFlags::empty()) {
                Ok(()) => {}
                // Without root only the second, which is the one that counts then.
                Err(rustix::io::Errno::PERM) if name.starts_with("trusted.") => {}
                // As root only the first, and tmpfs before Linux 6.6 has no others.
                Err(rustix::io::Errno::OPNOTSUPP)
                    if name.starts_with("user.") && rustix::process::geteuid().is_root() => {}
                Err(error) => return Err(Failed::Disk(error.into())),
            }
        }
        Ok(())
    }

    /// The directory in which a path is, made if it is not there.
    fn parent_of(&mut self, path: &Path) -> Result<&OwnedFd, Failed> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(known, _)| known != wanted) {
            let mut at = self.root.try_clone()?;
            for name in wanted {
                at = match open_dir(&at, name) {
                    Err(rustix::io::Errno::NOENT) => {
                        rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                        self.implied += 1;
                        open_dir(&at, name)?
                    }
                    there => there?,
                };
            }
            self.parent = Some((wanted.to_owned(), at));
        }
        let (_, parent) = self.parent.as_ref().expect("it was just put there");
        Ok(parent)
    }

    /// A file of this layer, to which another name is given.
    fn regular_file(&self, path: &Path) -> Result<(OwnedFd, std::ffi::OsString), Failed> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let absent = Failed::Refused("is a hard link to what is not there yet");
        let mut parent = self.root.try_clone()?;
        for name in path.parent().unwrap_or(Path::new("")) {
            parent = match open_dir(&parent, name) {
                Err(rustix::io::Errno::NOENT) => return Err(absent),
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                    return Err(Failed::Refused(
                        "is a hard link to what is beyond something that is no directory",
                    ));
                }
                dir => dir?,
            };
        }
        let about = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
        let about = about.map_err(|_| absent)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
            return Err(Failed::Refused("is a hard link to what is no file"));
        }
        Ok((parent, name))
    }
}

fn open_dir(at: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(at, name, flags, Mode::empty(), resolve)
}

fn copy(from: &mut dyn Read, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => to.write_all(&buffer[..read])?,
        }
    }
}

fn set_time(file: &File, mtime: u64) -> io::Result<()> {
    let at = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(mtime));
    at.map_or(Ok(()), |at| file.set_modified(at))
}

#[cfg(test)]
mod tests;
