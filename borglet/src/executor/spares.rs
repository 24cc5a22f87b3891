//! Directories of containers that are gone, emptied and kept for those to come.
//!
//! A file system gives an inode out again only some time after it was freed, and looks through all that were freed
//! lately for each new one (ext4's `recently_deleted`, where it has no journal): the more tasks end, the dearer the next
//! start. So a directory and the file of its record, which no task can reach, are handed on by renaming. So is the
//! task's own directory, if the task never touched it ([`Untouched`]).
//!
//! Invariant: a spare holds an empty record that is not in force yet, perhaps a task's directory that is as if new, and
//! nothing else. Spares are of one borglet: the next begins without any.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, IFlags, Mode, OFlags, RenameFlags};
use rustix::fs::{flistxattr_query, ioctl_getflags, renameat_with};

use super::absent_is_fine;
use crate::container::TaskDir;
use crate::tree;

/// Most directories kept. Ours: what ends within a moment and is started again.
const MOST: usize = 128;

#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    numbers: Mutex<Numbers>,
}

/// Spares are named by numbers, each of which is used once.
#[derive(Debug, Default)]
struct Numbers {
    free: Vec<u64>,
    next: u64,
}

impl Spares {
    /// Begins without any in `dir`, which is made.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        tree::remove(&dir)?;
        fs::create_dir(&dir)?;
        Ok(Self { dir, numbers: Mutex::default() })
    }

    /// Puts a spare at `root`: whether there was one. Fails with `AlreadyExists` where something is at `root`.
    pub(super) fn take(&self, root: &Path) -> io::Result<bool> {
        let Some(number) = self.numbers().free.pop() else { return Ok(false) };
        let moved = renameat_with(CWD, self.path(number), CWD, root, RenameFlags::NOREPLACE);
        match moved.map_err(io::Error::from) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                self.numbers().free.push(number);
                Err(e)
            }
            // A file system that cannot do it, or somebody took it away: a new one then.
            moved => Ok(moved.is_ok()),
        }
    }

    /// Keeps the directory of a container that is gone, logs included, or removes it.
    pub(super) fn keep_or_remove(&self, dir: &TaskDir) -> io::Result<()> {
        tree::remove(&dir.log())?;
        if !is_spare(dir)? {
            return tree::remove(&dir.root);
        }
        let number = {
            let mut numbers = self.numbers();
            numbers.next += 1;
            (numbers.free.len() < MOST).then_some(numbers.next)
        };
        let Some(number) = number else { return tree::remove(&dir.root) };
        absent_is_fine(fs::rename(&dir.root, self.path(number)))?;
        self.numbers().free.push(number);
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a task's own directory was when it was handed over: all that a task could change of it in a way that the
/// next one would notice. The time of its last change, which nobody can set, says most; where clocks of file systems
/// are coarse, the rest says it all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Untouched {
    changed: (i64, i64),
    modified: (i64, i64),
    size: u64,
    links: u64,
    owner: (u32, u32),
    mode: u32,
    flags: Option<IFlags>,
    attributes: Option<usize>,
}

impl Untouched {
    /// How it is now; `None` when that cannot be known.
    pub(super) fn of(work: &Path) -> Option<Self> {
        Self::of_open(&open(work)?)
    }

    fn of_open(work: &OwnedFd) -> Option<Self> {
        let found = File::from(work.try_clone().ok()?).metadata().ok()?;
        Some(Self {
            changed: (found.ctime(), found.ctime_nsec()),
            modified: (found.mtime(), found.mtime_nsec()),
            size: found.size(),
            links: found.nlink(),
            owner: (found.uid(), found.gid()),
            mode: found.mode(),
            // Not every file system has these.
            flags: ioctl_getflags(work).ok(),
            attributes: flistxattr_query(work).ok(),
        })
    }

    /// Whether it is still so, and nothing is in it.
    pub(super) fn still(&self, work: &Path) -> bool {
        let same = open(work).and_then(|dir| Self::of_open(&dir)).is_some_and(|now| now == *self);
        same && fs::read_dir(work).is_ok_and(|mut entries| entries.next().is_none())
    }
}

fn open(work: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(work, flags, Mode::empty()).ok()
}

/// Whether nothing is in a directory but an empty record that is not in force, and a task's directory: what an
/// ended task left of its own was removed, unless untouched.
fn is_spare(dir: &TaskDir) -> io::Result<bool> {
    let entries = match fs::read_dir(&dir.root) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    let (blank, work) = (dir.blank_record(), dir.work());
    let mut found = false;
    for entry in entries {
        let entry = entry?;
        if entry.path() == work {
            continue;
        }
        if entry.path() != blank || !entry.file_type()?.is_file() || entry.metadata()?.len() > 0 {
            return Ok(false);
        }
        found = true;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at: &Path) -> TaskDir {
        let dir = TaskDir { root: at.to_owned() };
        fs::create_dir(&dir.root).unwrap();
        dir.begin(&"words").unwrap();
        fs::create_dir(dir.log()).unwrap();
        fs::write(dir.log().join("stdout"), "said").unwrap();
        dir.blank().unwrap();
        dir
    }

    #[test]
    fn what_is_handed_on_is_empty_and_never_put_over_anything() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let spares = Spares::open(at("spares")).unwrap();
        assert!(!spares.take(&at("a")).unwrap(), "there is none");
        spares.keep_or_remove(&ended(&at("a"))).unwrap();
        assert!(!at("a").exists());
        fs::create_dir(at("b")).unwrap();
        assert_eq!(spares.take(&at("b")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(spares.take(&at("c")).unwrap());
        let names: Vec<_> =
            fs::read_dir(at("c")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["record.new"]);
        assert_eq!(fs::metadata(at("c").join("record.new")).unwrap().len(), 0);
        assert!(!spares.take(&at("d")).unwrap(), "one is used once");
    }

    #[test]
    fn a_directory_with_anything_left_in_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let spares = Spares::open(home.path().join("spares")).unwrap();
        for (name, content) in [("other", ""), ("record.new", "secret")] {
            let dir = ended(&home.path().join("a"));
            fs::write(dir.root.join(name), content).unwrap();
            spares.keep_or_remove(&dir).unwrap();
            assert!(!dir.root.exists());
            assert!(!spares.take(&dir.root).unwrap(), "{name}");
        }
        // Harmless when it is gone already, and a record in force is no spare.
        spares.keep_or_remove(&TaskDir { root: home.path().join("gone") }).unwrap();
    }

    /// Each at once after it was handed over, when a coarse clock still shows the same time.
    #[test]
    fn whatever_a_task_does_to_its_directory_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        type Touch = fn(&Path);
        let touches: [Touch; 6] = [
            |_| {},
            |work| drop(fs::write(work.join("x"), "")),
            |work| fs::set_permissions(work, fs::Permissions::from_mode(0o777)).unwrap(),
            |work| {
                let then = std::time::UNIX_EPOCH;
                File::open(work).unwrap().set_modified(then).unwrap();
            },
            |work| {
                // Not every file system has these: then nothing is changed.
                let dir = open(work).unwrap();
                let flags = ioctl_getflags(&dir).unwrap_or(IFlags::empty());
                let marked = rustix::fs::ioctl_setflags(&dir, flags | IFlags::NODUMP);
                if marked.is_err() {
                    fs::write(work.join("x"), "").unwrap();
                }
            },
            |work| {
                let name = "user.x";
                let flags = rustix::fs::XattrFlags::empty();
                if rustix::fs::setxattr(work, name, b"1", flags).is_err() {
                    fs::write(work.join("x"), "").unwrap();
                }
            },
        ];
        let home = tempfile::tempdir().unwrap();
        for (number, touch) in touches.into_iter().enumerate() {
            let work = home.path().join(number.to_string());
            fs::create_dir(&work).unwrap();
            let mut before = Untouched::of(&work).unwrap();
            assert!(before.still(&work));
            touch(&work);
            if let Some(now) = Untouched::of(&work) {
                before.changed = now.changed;
            }
            assert_eq!(before.still(&work), number == 0, "{number}");
        }
    }

    #[test]
    fn no_more_than_a_bound_are_kept_and_the_next_borglet_begins_without() {
        let home = tempfile::tempdir().unwrap();
        let spares = Spares::open(home.path().join("spares")).unwrap();
        for _ in 0..MOST + 3 {
            spares.keep_or_remove(&ended(&home.path().join("a"))).unwrap();
        }
        let kept = || fs::read_dir(home.path().join("spares")).unwrap().count();
        assert_eq!(kept(), MOST);
        drop(spares);
        Spares::open(home.path().join("spares")).unwrap();
        assert_eq!(kept(), 0);
    }
}
