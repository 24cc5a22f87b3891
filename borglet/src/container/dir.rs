//! The directory of one container, where shim and borglet meet.
//!
//! `spec.json` what was asked, with a lock on it as long as the shim lives (and from before the
//! shim exists, by the borglet), `state.json` once it runs, `exit.json` once it ended, `words` what
//! the borglet wants to know of it later, `work/` the task's own directory, `rootfs/` what it changed in its
//! image, `hosts` its table of hosts if its network is its own, `log/` its output, `shim.err` what a shim in trouble said.
//! Invariant: a `.json` file is whole or absent, whenever a process stops. When the machine stops, one that was
//! written in its last seconds may be empty.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Extension of a file that is not whole yet.
const TEMPORARY: &str = "json.new";

/// Paths inside one container's directory.
#[derive(Debug, Clone)]
pub(crate) struct TaskDir {
    pub(crate) root: PathBuf,
}

impl TaskDir {
    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.root.join("exit.json")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Of a container that runs an image: what it changed in it, and where it is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Of a container with a network of its own: what it sees as its table of hosts.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }

    pub(crate) fn words(&self) -> PathBuf {
        self.root.join("words")
    }

    pub(crate) fn shim_err(&self) -> PathBuf {
        self.root.join("shim.err")
    }
}

/// Reads a file written by [`write_whole`]; `None` when there is none.
pub(crate) fn read_whole<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
    }
}

/// Writes `value` under a temporary name and renames it into place; with `durable` it is on the
/// disk before it gets its name.
pub(crate) fn write_whole(path: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let file = write_temporary(path, value)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(path.with_extension(TEMPORARY), path)
}

/// Writes `value` so that nobody ever sees the file without the lock on it, which lasts as long as
/// the returned file, or what inherits it, is open.
pub(crate) fn write_locked(path: &Path, value: &impl Serialize) -> io::Result<File> {
    let file = write_temporary(path, value)?;
    file.try_lock()?;
    fs::rename(path.with_extension(TEMPORARY), path)?;
    Ok(file)
}

fn write_temporary(path: &Path, value: &impl Serialize) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path.with_extension(TEMPORARY))?;
    file.write_all(&serde_json::to_vec(value)?)?;
    Ok(file)
}
