//! Going through directories that a task made, which may be as deep as it pleased.
//!
//! A path may be no longer than 4 KiB, a thread's stack and a process's descriptors have an end, and a
//! directory may be a link a moment later. So a walk holds one directory at a time, opens each by its name
//! in the one above, follows nothing, and finds its way back by `..` and by the names that it came along.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// What is done on the way.
pub(crate) trait Visitor {
    /// An entry of a directory was come upon. True: it is a directory, and to be looked into.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, found: &Stat) -> io::Result<bool>;

    /// A directory was looked into, with all below it.
    fn left(&mut self, above: BorrowedFd<'_>, name: &CStr) -> io::Result<()>;
}

/// A directory on the way from the root to where the walk is.
struct Level {
    name: CString,
    /// Device and number, by which it is known again.
    is: (u64, u64),
    /// Directories in it that are to be looked into.
    ahead: Vec<CString>,
}

/// Goes through all below `root`, which is looked into itself but not told. What vanishes or cannot be
/// looked into meanwhile is passed over.
pub(crate) fn walk(root: &Path, visitor: &mut impl Visitor) -> io::Result<()> {
    let mut at = open(CWD, root)?;
    let top = Level { name: CString::default(), is: id(&at)?, ahead: ahead(&at, visitor)? };
    let mut way = vec![top];
    while let Some(here) = way.last_mut() {
        if let Some(name) = here.ahead.pop() {
            let Ok(below) = open(&at, name.as_c_str()) else { continue };
            let level = Level { name, is: id(&below)?, ahead: ahead(&below, visitor)? };
            way.push(level);
            at = below;
            continue;
        }
        let Some(done) = way.pop() else { break };
        let Some(above) = way.last() else { break };
        let depth = way.len();
        at = match same(open(&at, c".."), above.is) {
            Some(parent) => parent,
            None => find(root, &mut way)?,
        };
        // Otherwise it was moved, and what was above it too.
        if way.len() == depth {
            visitor.left(at.as_fd(), &done.name)?;
        }
    }
    Ok(())
}

/// Goes down from the root again, as far as the way that the walk came is still there.
fn find(root: &Path, way: &mut Vec<Level>) -> io::Result<OwnedFd> {
    let mut at = open(CWD, root)?;
    let mut there = 1;
    for level in way.iter().skip(1) {
        let Some(below) = same(open(&at, level.name.as_c_str()), level.is) else { break };
        at = below;
        there += 1;
    }
    way.truncate(there);
    Ok(at)
}

/// What was opened, if it is what it should be.
fn same(opened: io::Result<OwnedFd>, is: (u64, u64)) -> Option<OwnedFd> {
    opened.ok().filter(|opened| id(opened).is_ok_and(|found| found == is))
}

fn open(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn id(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(dir)?;
    Ok((found.st_dev, found.st_ino))
}

/// Tells of all entries of a directory, and gives those to be looked into.
fn ahead(dir: &OwnedFd, visitor: &mut impl Visitor) -> io::Result<Vec<CString>> {
    let mut ahead = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Of the entry itself, not of what a link leads to.
        let Ok(found) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if visitor.entry(dir.as_fd(), name, &found)? {
            ahead.push(name.to_owned());
        }
    }
    Ok(ahead)
}

pub(crate) fn is_dir(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// Removes a directory with all below it, or a file; harmless when it is gone. Directories that their owner
/// shut, a task without root's rights say, are opened again.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let found = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    if !is_dir(&found) {
        return Ok(rustix::fs::unlink(path)?);
    }
    open_up(CWD, path, &found)?;
    walk(path, &mut Removal)?;
    Ok(rustix::fs::rmdir(path)?)
}

struct Removal;

impl Visitor for Removal {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, found: &Stat) -> io::Result<bool> {
        if is_dir(found) {
            open_up(dir, name, found)?;
            return Ok(true);
        }
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        Ok(false)
    }

    fn left(&mut self, above: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)?)
    }
}

/// Gives its owner all rights to a directory. Root needs none.
fn open_up(dir: impl AsFd, name: impl rustix::path::Arg, found: &Stat) -> io::Result<()> {
    let mode = Mode::from_raw_mode(found.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::chmodat(dir, name, mode | Mode::RWXU, AtFlags::empty())?;
    }
    Ok(())
}

/// Nests `levels` directories below `top`, by descriptors, as a path would be too long.
#[cfg(test)]
pub(crate) fn nest(top: &Path, levels: usize) -> OwnedFd {
    let mut at = open(CWD, top).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, c"deeper", Mode::RWXU).unwrap();
        at = open(&at, c"deeper").unwrap();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_no_path_reaches_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let deepest = nest(&top, 2_000);
        rustix::fs::openat(&deepest, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed_and_shut_directories_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (top, kept) = (dir.path().join("top"), dir.path().join("kept"));
        fs::create_dir_all(top.join("shut/in")).unwrap();
        fs::write(top.join("shut/in/file"), "x").unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, top.join("link")).unwrap();
        for shut in ["shut/in", "shut"] {
            fs::set_permissions(top.join(shut), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        fs::write(&top, "a file").unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
    }
}
