//! The directories that tasks of allocs share, as they lie on the disk.
//!
//! `data/JOB.INDEX.INCARNATION` below the borglet's directory, each of one incarnation of an alloc. Everybody may
//! write in it: it is shown to the tasks of its alloc alone, and what they make belongs to the same ids on the disk
//! where the file system maps them. Leaves which of them is kept to the supervisor.
//!
//! Invariant: a directory is there as a whole or not at all: what goes is renamed first, and removed after that.

use crate::container::Bind;
use crate::disk;
use crate::tree;
use borg_proto::poll::SharedData;
use borg_proto::{IncarnationId, JobId, TaskId};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Ends the name of what is being removed.
const GOING: &str = ".going";

/// All of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DataDirs {
    root: PathBuf,
}

impl DataDirs {
    /// Takes over what an earlier process left below the borglet's directory, and removes what it was removing.
    pub(crate) fn open(home: &Path) -> io::Result<(Self, Vec<IncarnationId>)> {
        let root = home.canonicalize()?.join("data");
        match DirBuilder::new().mode(0o711).create(&root) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&root)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(GOING) {
                tree::remove(&root.join(&*name))?;
            } else if let Some(alloc) = read_name(&name) {
                found.push(alloc);
            }
        }
        Ok((Self { root }, found))
    }

    /// Where the directory of an alloc is.
    pub(crate) fn path(&self, alloc: IncarnationId) -> PathBuf {
        let IncarnationId { task, number } = alloc;
        self.root.join(format!("{}.{}.{number}", task.job.0, task.index))
    }

    /// What a task sees of it: made if it is not there, unless it is to be saved.
    pub(crate) fn share(&self, shared: &SharedData) -> Result<Bind, String> {
        let path = self.path(shared.alloc);
        let name = &shared.name;
        if shared.rescue {
            if !path.is_dir() {
                return Err(format!("what alloc {name} left behind is not there"));
            }
        } else if let Err(error) = make(&path) {
            return Err(format!("the directory of alloc {name} cannot be made: {error}"));
        }
        Ok(Bind { path, writable: true, within: None })
    }

    /// What it takes on the disk, in bytes; `None` when it is not there.
    pub(crate) fn measure(&self, alloc: IncarnationId) -> Option<u64> {
        let path = self.path(alloc);
        path.is_dir().then(|| disk::taken(&[path], &[]).bytes)
    }

    /// Removes it with all that is in it.
    pub(crate) fn remove(&self, alloc: IncarnationId) -> io::Result<()> {
        let path = self.path(alloc);
        let mut going = path.clone().into_os_string();
        going.push(GOING);
        match fs::rename(&path, &going) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        tree::remove(Path::new(&going))
    }
}

/// Makes a directory in which everybody may write.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o777).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // Whatever the borglet's own mask takes away.
        made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o777))),
    }
}

fn read_name(name: &str) -> Option<IncarnationId> {
    let mut parts = name.split('.');
    let (job, index, number) = (parts.next()?, parts.next()?, parts.next()?);
    let task = TaskId { job: JobId(job.parse().ok()?), index: index.parse().ok()? };
    let id = IncarnationId { task, number: number.parse().ok()? };
    parts.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alloc(number: u32) -> IncarnationId {
        IncarnationId { task: TaskId { job: JobId(7), index: 2 }, number }
    }

    fn shared(number: u32, rescue: bool) -> SharedData {
        let name = "ann/room/2".parse().unwrap();
        SharedData { alloc: alloc(number), name, rescue, charged: !rescue }
    }

    #[test]
    fn a_directory_is_made_for_who_shares_it_and_never_for_who_saves_it() {
        let home = tempfile::tempdir().unwrap();
        let (dirs, found) = DataDirs::open(home.path()).unwrap();
        assert_eq!(found, []);
        let refused = dirs.share(&shared(1, true)).unwrap_err();
        assert_eq!(refused, "what alloc ann/room/2 left behind is not there");
        assert_eq!(dirs.measure(alloc(1)), None);
        let bind = dirs.share(&shared(1, false)).unwrap();
        assert_eq!(fs::metadata(&bind.path).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(bind.path.join("log"), vec![1; 10_000]).unwrap();
        assert_eq!(dirs.share(&shared(1, false)).unwrap().path, bind.path);
        assert_eq!(dirs.share(&shared(1, true)).unwrap().path, bind.path);
        assert!(dirs.measure(alloc(1)).unwrap() >= 10_000);
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_was_going_goes() {
        let home = tempfile::tempdir().unwrap();
        let (dirs, _) = DataDirs::open(home.path()).unwrap();
        for number in [1, 2] {
            dirs.share(&shared(number, false)).unwrap();
        }
        let root = home.path().join("data");
        fs::create_dir(root.join("7.2.3.going")).unwrap();
        fs::create_dir(root.join("strange")).unwrap();
        dirs.remove(alloc(1)).unwrap();
        dirs.remove(alloc(9)).unwrap();
        let (_, found) = DataDirs::open(home.path()).unwrap();
        assert_eq!(found, [alloc(2)]);
        let left: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
