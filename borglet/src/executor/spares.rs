//! Directories of containers that are gone, emptied and kept for those to come.
//!
//! A file system gives an inode out again only some time after it was freed, and looks through all that were freed
//! lately for each new one (ext4's `recently_deleted`, where it has no journal): the more tasks end, the dearer the next
//! start. So a directory and the file of its record, which no task can reach, are handed on by renaming. The task's own
//! directory is not: who held it open would see what the next one does.
//!
//! Invariant: a spare holds an empty record that is not in force yet, and nothing else. Spares are of one borglet: the next begins without any.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};

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
            Ok(()) => Ok(true),
            // A file system that cannot do it, or somebody took it away: a new one then.
            Err(_) => tree::remove(&self.path(number)).map(|()| false),
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

/// Whether nothing is in a directory but an empty record that is not in force.
fn is_spare(dir: &TaskDir) -> io::Result<bool> {
    let entries = match fs::read_dir(&dir.root) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    let blank = dir.blank_record();
    let mut found = false;
    for entry in entries {
        let entry = entry?;
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
