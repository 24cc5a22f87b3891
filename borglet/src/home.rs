//! The borglet's directory: whose it is, and what it must not forget.
//!
//! Leaves tasks and logs to the executor. What must not be forgotten is kept in two files, so that damage to
//! one costs nothing; damage to both does not stop the borglet, as tasks without a borglet are worse.
//!
//! Invariant: one process at a time, of one cell and one machine for ever; the fence on disk is never
//! older than an order that was obeyed.

use crate::clock;
use crate::container::TaskDir;
use crate::lease;
use crate::shim;
use borg_proto::poll::Fence;
use borg_proto::{CellName, MachineName};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directory, held by this process.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Released by the kernel however the process ends. Not inherited by tasks: closed on execute.
    _lock: Flock<File>,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another borglet runs on it.
    #[error("{} is in use by another borglet", .0.display())]
    InUse(PathBuf),
    /// It belongs to somebody else.
    #[error("{} belongs to machine {theirs}, this is machine {mine}", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// As `cell/machine`.
        theirs: String,
        /// As `cell/machine`.
        mine: String,
    },
    /// It does not belong to a borglet.
    #[error("{} is not a borglet's directory", .0.display())]
    NotOurs(PathBuf),
    /// The disk refused.
    #[error("{action} {}", .path.display())]
    Disk {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Name of the file that says whose directory it is.
const OWNER_FILE: &str = "owner.json";

/// Name of the file in a borglet's directory that holds its [`Addresses`] as JSON.
pub const ADDRESSES_FILE: &str = "addresses.json";

/// Where a borglet can be reached. Left behind when it is killed: `pid` tells whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The borglet's process id.
    pub pid: u32,
    /// Where masters poll it.
    pub listen: SocketAddr,
    /// Where `/metrics` and `/healthz` are.
    pub metrics: SocketAddr,
}

#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    cell: CellName,
    machine: MachineName,
    /// Name of our cgroups: differs from every other borglet's on the host, as several of one
    /// name may live there (one in each of two directories).
    cgroup: String,
}

/// What of a fence outlives the process.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    epoch: u64,
    term: u64,
    session: u64,
}

impl Home {
    /// Takes the directory for this machine, making it when it is not there.
    pub(crate) fn open(
        path: &Path,
        cell: &CellName,
        machine: &MachineName,
    ) -> Result<Self, HomeError> {
        // Tasks write their output there: nobody else's business. A directory that is there
        // already keeps the rights that somebody gave it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(disk("create", path))?;
        let home = Self::lock(path)?;
        // Tasks that run would not be found under another name.
        let cgroup = home
            .cgroup_of_tasks()
            .unwrap_or_else(|| format!("borg-{cell}-{machine}-{:x}", clock::session()));
        let mine = Owner { cell: cell.clone(), machine: machine.clone(), cgroup };
        match home.read::<Owner>(OWNER_FILE)? {
            None => home.write(OWNER_FILE, &mine)?,
            Some(owner) if owner.cell == mine.cell && owner.machine == mine.machine => {}
            Some(owner) => {
                return Err(HomeError::Foreign {
                    path: path.to_owned(),
                    theirs: format!("{}/{}", owner.cell, owner.machine),
                    mine: format!("{cell}/{machine}"),
                });
            }
        }
        Ok(home)
    }

    /// Takes a directory that some borglet left, whoever it was.
    pub(crate) fn take_over(path: &Path) -> Result<Self, HomeError> {
        if !path.join(OWNER_FILE).exists() && !path.join(copy_of(OWNER_FILE)).exists() {
            return Err(HomeError::NotOurs(path.to_owned()));
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, HomeError> {
        let file = path.join("lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&file);
        let opened = opened.map_err(disk("open", &file))?;
        match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(HomeError::InUse(path.to_owned())),
            Err((_, errno)) => Err(disk("lock", &file)(errno.into())),
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the cgroups of this borglet are called.
    pub(crate) fn cgroup(&self) -> Result<String, HomeError> {
        match self.read::<Owner>(OWNER_FILE)? {
            Some(owner) => Ok(owner.cgroup),
            None => Err(HomeError::NotOurs(self.path.clone())),
        }
    }

    /// Says where this process can be reached, for whoever started it with port 0.
    pub(crate) fn publish(&self, addresses: &Addresses) -> Result<(), HomeError> {
        self.write_one(ADDRESSES_FILE, addresses)
    }

    /// The name under which tasks that are there run, as one of them was told.
    fn cgroup_of_tasks(&self) -> Option<String> {
        let tasks = fs::read_dir(self.path.join("tasks")).ok()?.filter_map(Result::ok);
        let dirs = tasks.map(|task| TaskDir { root: task.path() });
        let records = dirs.filter_map(|dir| fs::read(dir.record()).ok());
        records.filter_map(|record| shim::cgroup_in(&record)).next()
    }

    /// The newest order that was obeyed; the zero fence when none ever was, or nobody knows.
    pub(crate) fn fence(&self) -> Result<Fence, HomeError> {
        let of = |kept: Remembered| Fence {
            epoch: kept.epoch,
            term: kept.term,
            session: kept.session,
            generation: 0,
        };
        // A crash between the two leaves one that is older.
        let kept = self.copies::<Remembered>("fence.json")?;
        Ok(kept.into_iter().map(of).max().unwrap_or_default())
    }

    /// Makes a fence durable. When this fails the process must not obey the order.
    pub(crate) fn remember(&self, fence: Fence) -> Result<(), HomeError> {
        let Fence { epoch, term, session, generation: _ } = fence;
        self.write("fence.json", &Remembered { epoch, term, session })
    }

    /// Lets exclusive tasks run until a moment in milliseconds since boot.
    pub(crate) fn extend_lease(&self, until_boot_ms: u64) -> Result<(), HomeError> {
        let file = lease::file_in(&self.path);
        lease::extend(&file, until_boot_ms).map_err(disk("extend the lease", &file))
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, HomeError> {
        Ok(self.copies(name)?.into_iter().next())
    }

    /// Those of the two files of a name that are there and make sense.
    fn copies<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Vec<T>, HomeError> {
        let mut found = Vec::with_capacity(2);
        for name in [name.to_owned(), copy_of(name)] {
            let path = self.path.join(name);
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(disk("read", &path))?,
            };
            match serde_json::from_slice(&text) {
                Ok(value) => found.push(value),
                Err(error) => tracing::error!(path = %path.display(), %error, "damaged: ignored"),
            }
        }
        Ok(found)
    }

    /// Writes both files of a name.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        self.write_one(name, value)?;
        self.write_one(&copy_of(name), value)
    }

    /// Temporary name, sync, rename, sync of the directory: the file is the old one or the new one.
    fn write_one<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        let bytes = serde_json::to_vec(value).expect("plain names and numbers become JSON");
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let mut file = File::create(&new).map_err(disk("create", &new))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(disk("write", &new))?;
        fs::rename(&new, &path).map_err(disk("rename", &new))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(disk("sync", &self.path))
    }
}

/// Name of the second file.
fn copy_of(name: &str) -> String {
    format!("{name}.copy")
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Disk { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, machine: &str) -> Result<Home, HomeError> {
        Home::open(path, &"lab".parse().unwrap(), &machine.parse().unwrap())
    }

    #[test]
    fn a_directory_belongs_to_one_machine_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "m1").unwrap();
        assert!(open(dir.path(), "m1").unwrap_err().to_string().contains("in use"));
        drop(first);
        let foreign = open(dir.path(), "m2").unwrap_err().to_string();
        assert!(
            foreign.ends_with("belongs to machine lab/m1, this is machine lab/m2"),
            "{foreign}"
        );
        drop(open(dir.path(), "m1").unwrap());
        Home::take_over(dir.path()).unwrap();
        assert!(Home::take_over(Path::new("/")).is_err());
    }

    #[test]
    fn the_fence_survives_and_so_does_the_borglet_when_both_files_of_it_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = open(dir.path(), "m1").unwrap();
        assert_eq!(home.fence().unwrap(), Fence::default());
        home.remember(Fence { epoch: 1, term: 2, session: 3, generation: 4 }).unwrap();
        assert_eq!(home.fence().unwrap(), Fence { epoch: 1, term: 2, session: 3, generation: 0 });
        let newest = home.fence().unwrap();
        fs::write(dir.path().join("fence.json"), "{\"epoch\":").unwrap();
        assert_eq!(home.fence().unwrap(), newest);
        // Older than the copy, as after a restore of a part of the directory.
        let older = Remembered { epoch: 1, term: 1, session: 9 };
        fs::write(dir.path().join("fence.json"), serde_json::to_vec(&older).unwrap()).unwrap();
        assert_eq!(home.fence().unwrap(), newest);
        for name in ["fence.json", "fence.json.copy"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(home.fence().unwrap(), Fence::default());
    }
}
