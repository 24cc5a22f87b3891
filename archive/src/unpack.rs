//! A stream into files.

use crate::{ArchiveError, Bounds, Summary, stays_within};
use borg_proto::layer::raw::{self, RawEntry};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Bytes written at once.
const PIECE: usize = 64 << 10;

/// Writes the entries of a stream below `to` when that is a directory; when it is none, what is at the top of the
/// stream gets the name `to`, in the directory before it, which must be there. What is there already is
/// replaced, file by file.
///
/// # Errors
/// At the first entry that must not be, or cannot be written, or is too much. What was written until then
/// stays.
pub fn unpack(stream: impl Read, to: &Path, bounds: &Bounds) -> Result<Summary, ArchiveError> {
    let bad = |source| ArchiveError::Target { path: to.to_owned(), source };
    let (dir, top) =
        match File::options().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(to) {
            Ok(dir) => (dir, None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(bad(error));
            }
            Err(_) => {
                let name = to.file_name().ok_or_else(|| bad(Errno::ENOTDIR.into()))?;
                let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                let mut options = File::options();
                let dir = options.read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(parent);
                (dir.map_err(bad)?, Some(PathBuf::from(name)))
            }
        };
    let mut unpacking = Unpacking { dir: dir.into(), top, bounds, summary: Summary::default() };
    raw::each(stream, |entry, data| unpacking.one(entry, data))?;
    Ok(unpacking.summary)
}

struct Unpacking<'a> {
    dir: OwnedFd,
    /// What the first part of each name becomes.
    top: Option<PathBuf>,
    bounds: &'a Bounds,
    summary: Summary,
}

impl Unpacking<'_> {
    fn one(&mut self, entry: &RawEntry<'_>, data: &mut dyn Read) -> Result<(), ArchiveError> {
        let refuse = |why: &str| ArchiveError::Entry { name: entry.shown(), why: why.to_owned() };
        if let Some(why) = entry.unusable() {
            return Err(refuse(why));
        }
        let name = entry.path();
        let path = PathBuf::from(OsStr::from_bytes(&name));
        let parts = self.parts(&path).ok_or_else(|| refuse("leaves the directory"))?;
        let Some((last, before)) = parts.split_last() else { return Ok(()) };
        let failed = |errno: Errno| match errno {
            Errno::ELOOP | Errno::EXDEV => refuse("lies below a symbolic link"),
            errno => ArchiveError::Target { path: path.clone(), source: errno.into() },
        };
        self.summary.count(entry.bytes, self.bounds)?;
        let parent = self.parent(before).map_err(failed)?;
        let mode = Mode::from_bits_truncate(entry.header.mode().unwrap_or(0o644) & 0o777);
        match entry.header.entry_type() {
            EntryType::Directory => make_dir(&parent, last, mode).map_err(failed),
            EntryType::Symlink => {
                let target = entry.link().ok_or_else(|| refuse("is a link to nothing"))?;
                let target = Path::new(OsStr::from_bytes(&target));
                if !stays_within(&path, target) {
                    self.summary.leave_out(&path, "a link out of what is copied");
                    return Ok(());
                }
                clear(&parent, last).map_err(failed)?;
                symlinkat(target, &parent, last.as_path()).map_err(failed)
            }
            EntryType::Regular | EntryType::Continuous => {
                clear(&parent, last).map_err(failed)?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
                let how = plain(flags).mode(mode);
                let file = File::from(openat2(&parent, last.as_path(), how).map_err(failed)?);
                write(data, &file, &path)
            }
            EntryType::Link => Err(refuse("is a hard link")),
            EntryType::Char | EntryType::Block => Err(refuse("is a device")),
            EntryType::Fifo => Err(refuse("is a named pipe")),
            _other => Err(refuse("is of a kind that is not copied")),
        }
    }

    /// The parts of a name, with the new top; `None` when it leads elsewhere than down.
    fn parts(&self, path: &Path) -> Option<Vec<PathBuf>> {
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => parts.push(PathBuf::from(part)),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        if let (Some(first), Some(top)) = (parts.first_mut(), &self.top) {
            first.clone_from(top);
        }
        Some(parts)
    }

    /// Opens the directory of an entry, making what is not there.
    fn parent(&self, parts: &[PathBuf]) -> Result<OwnedFd, Errno> {
        let mut at = openat2(&self.dir, ".", plain(OFlag::O_DIRECTORY))?;
        for part in parts {
            match mkdirat(&at, part.as_path(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            at = openat2(&at, part.as_path(), plain(OFlag::O_DIRECTORY))?;
        }
        Ok(at)
    }
}

/// One part of a path, never a link.
fn plain(flags: OFlag) -> OpenHow {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)
}

fn make_dir(parent: &OwnedFd, name: &Path, mode: Mode) -> Result<(), Errno> {
    // The owner can always fill it.
    let mode = mode | Mode::S_IRWXU;
    match mkdirat(parent, name, mode) {
        Err(Errno::EEXIST) => {
            openat2(parent, name, plain(OFlag::O_DIRECTORY))?;
            Ok(())
        }
        made => made,
    }
}

/// Removes a file or link that is in the way. A directory stays, and is in the way.
fn clear(parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(found) if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
            Err(Errno::EISDIR)
        }
        Ok(_) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir),
    }
}

fn write(data: &mut dyn Read, mut file: &File, path: &Path) -> Result<(), ArchiveError> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = data.read(&mut piece).map_err(ArchiveError::Stream)?;
        if length == 0 {
            return Ok(());
        }
        let written = file.write_all(&piece[..length]);
        written.map_err(|source| ArchiveError::Target { path: path.to_owned(), source })?;
    }
}
