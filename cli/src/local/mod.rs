//! A whole cell on this computer: masters and borglets as processes on loopback.
//!
//! `up` starts one, `down` takes it away; what runs is written in `cell.json` in the cell's
//! directory, so that a later command finds it. Everything is real: the same programs, mutual TLS
//! with a CA of the cell's own, logs on disk.
//!
//! Invariant: `down` leaves no process, mount, cgroup or socket of the cell, whatever state it
//! finds.

mod down;
mod process;
mod ready;
mod up;

pub use down::down;
pub use process::Process;
pub use ready::add_machines_and_wait;
pub use up::{Plan, up};

use borg_proto::in_full;
use borg_proto::names::CellName;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cell on this computer, as `cell.json` remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalCell {
    /// Its name.
    pub cell: CellName,
    /// Which store keeps the masters' logs, as the master's `--store` takes it.
    pub store: String,
    /// How its tasks are isolated, as the borglet's `--isolation` takes it.
    #[serde(default = "usual_isolation")]
    pub isolation: String,
    /// What tasks may see of this computer, as the borglet's `--volume` takes it.
    pub volumes: Vec<String>,
    /// The masters, by replica number.
    pub masters: Vec<Daemon>,
    /// The borglets.
    pub borglets: Vec<Daemon>,
}

/// What cells had before they could choose.
fn usual_isolation() -> String {
    "auto".to_owned()
}

/// One of a local cell's processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Daemon {
    /// `master-1`, `m-1`, ...
    pub name: String,
    /// Where it serves.
    pub address: String,
    /// Where it shows its metrics.
    pub metrics: String,
    /// Where a master answers DNS; cells of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// First and last port that a borglet's machine hands out to tasks.
    #[serde(default)]
    pub ports: Option<(u16, u16)>,
    /// Memory in bytes that a borglet's machine has for tasks, since it first started: what is free later on
    /// is less by what they use.
    #[serde(default)]
    pub ram_bytes: Option<u64>,
    /// The process; `None` before it was started.
    pub process: Option<Process>,
}

/// A local cell that could not be started, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is a cell in the directory already.
    #[error(
        "a cell is in {0} already: `borgctl cell status` shows it, `borgctl cell down` takes it away"
    )]
    Exists(PathBuf),
    /// The directory holds something else.
    #[error("{0} is not empty: give a directory that is, or does not exist yet")]
    NotEmpty(PathBuf),
    /// There is none.
    #[error("no cell in {0}: `borgctl cell up` starts one")]
    Missing(PathBuf),
    /// The number of masters or borglets makes no sense.
    #[error("{what}: {count} is outside {least} to {most}")]
    Count {
        /// Which option.
        what: &'static str,
        /// What was asked for.
        count: u32,
        /// Least.
        least: u32,
        /// Most.
        most: u32,
    },
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file that remembers the cell is damaged.
    #[error("{path} cannot be read: {why}; if the cell's processes are gone, remove the directory")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The cell's CA or a certificate could not be made.
    #[error("make the cell's certificates")]
    Certificates(#[from] crate::ca::CaError),
    /// A process ended while the cell was being started.
    #[error("{name} ended at its start; the end of its log:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// The last lines of its log.
        log: String,
    },
    /// The cell did not become ready.
    #[error("the cell was not ready after {seconds} s: {missing}; logs are in {logs}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What was missing.
        missing: String,
        /// Where to look.
        logs: PathBuf,
    },
    /// Something of the cell could not be taken away.
    #[error("could not take away: {0}")]
    Left(String),
}

pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> LocalError {
    let what = what.into();
    move |source| LocalError::System { what, source }
}

/// Where things are in a cell's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The layout of the cell in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Holds the directory until the result goes: one `up` or `down` at a time, or daemons would run that
    /// are written down nowhere. Waits for another one.
    fn hold(&self) -> Result<fs::File, LocalError> {
        let held = fs::File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        held.map_err(system(format!("lock {}", self.dir.display())))
    }

    /// What remembers the cell.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.dir.join("cell.json")
    }

    /// The cell's CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// Credentials of a daemon.
    #[must_use]
    pub fn credentials(&self, name: &str) -> PathBuf {
        self.dir.join("creds").join(name)
    }

    /// Credentials of a user, as `client.json` names them.
    #[must_use]
    pub fn user(&self, name: &str) -> PathBuf {
        self.dir.join("users").join(name)
    }

    /// What a daemon keeps.
    #[must_use]
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join("data").join(name)
    }

    /// Everything that a cell has in its directory.
    fn entries(&self) -> [PathBuf; 9] {
        ["cell.json", "client.json", "ca", "creds", "users", "data", "log", "jobs", "shared"]
            .map(|name| self.dir.join(name))
    }

    /// Where the demo keeps its job files.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.dir.join("jobs")
    }

    /// A daemon's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// A directory that tasks may write to, on every machine of a local cell the same.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }
}

impl LocalCell {
    /// Reads what is remembered of the cell in `dir`.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub fn load(dir: &Path) -> Result<Self, LocalError> {
        let path = Layout::new(dir).record();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LocalError::Missing(dir.to_owned()));
            }
            Err(source) => return Err(system(format!("read {}", path.display()))(source)),
        };
        serde_json::from_str(&text)
            .map_err(|error| LocalError::Record { path, why: error.to_string() })
    }

    /// Writes it down, so that a later command finds every process started so far.
    fn save(&self, layout: &Layout) -> Result<(), LocalError> {
        let path = layout.record();
        let text =
            serde_json::to_string_pretty(self).expect("names, numbers and texts have a JSON form");
        let temporary = path.with_extension("new");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(system(format!("write {}", path.display())))
    }

    /// All processes, masters first.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.masters.iter().chain(&self.borglets)
    }
}

impl Daemon {
    /// Whether its process is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Whether the process that was started for it has this id.
    fn is(&self, pid: u32) -> bool {
        self.process.is_some_and(|process| process.pid == pid)
    }
}

impl From<LocalError> for crate::exit::Failure {
    fn from(error: LocalError) -> Self {
        use crate::exit::Code;
        let code = match &error {
            LocalError::Exists(_) => Code::AlreadyExists,
            LocalError::Missing(_) => Code::NotFound,
            LocalError::Count { .. } | LocalError::NotEmpty(_) => Code::Usage,
            LocalError::System { .. }
            | LocalError::Record { .. }
            | LocalError::Certificates(_)
            | LocalError::Ended { .. }
            | LocalError::NotReady { .. }
            | LocalError::Left(_) => Code::Internal,
        };
        Self::new(code, in_full(&error))
    }
}
