//! The borglet's directory: whose it is, and what it must not forget.
//!
//! Leaves tasks and logs to the executor. Invariant: one process at a time, of one cell and one
//! machine for ever; the fence on disk is never older than an order that was obeyed.

use crate::clock;
use crate::lease;
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
    /// A file in it makes no sense. The borglet refuses to start: it cannot know what it obeyed.
    #[error("{} is damaged: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
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
        let cgroup = format!("borg-{cell}-{machine}-{:x}", clock::session());
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
        if !path.join(OWNER_FILE).exists() {
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
        self.write(ADDRESSES_FILE, addresses)
    }

    /// The newest order that was obeyed; the zero fence when none ever was.
    pub(crate) fn fence(&self) -> Result<Fence, HomeError> {
        let kept = self.read::<Remembered>("fence.json")?;
        Ok(kept.map_or_else(Fence::default, |kept| Fence {
            epoch: kept.epoch,
            term: kept.term,
            session: kept.session,
            generation: 0,
        }))
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
        let path = self.path.join(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(disk("read", &path))?,
        };
        match serde_json::from_slice(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(HomeError::Damaged { path, why: error.to_string() }),
        }
    }

    /// Temporary name, sync, rename, sync of the directory: the file is the old one or the new one.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        let bytes = serde_json::to_vec(value).expect("plain names and numbers become JSON");
        let (new, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let mut file = File::create(&new).map_err(disk("create", &new))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(disk("write", &new))?;
        fs::rename(&new, &path).map_err(disk("rename", &new))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(disk("sync", &self.path))
    }
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
    fn the_fence_survives_and_a_damaged_one_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let home = open(dir.path(), "m1").unwrap();
        assert_eq!(home.fence().unwrap(), Fence::default());
        home.remember(Fence { epoch: 1, term: 2, session: 3, generation: 4 }).unwrap();
        assert_eq!(home.fence().unwrap(), Fence { epoch: 1, term: 2, session: 3, generation: 0 });
        fs::write(dir.path().join("fence.json"), "{\"epoch\":").unwrap();
        assert!(home.fence().unwrap_err().to_string().contains("fence.json is damaged"));
    }
}
