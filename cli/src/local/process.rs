//! One process of a local cell: started, recognised and ended by id and start time, never by name.

use super::{LocalError, system};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A process that can be told apart from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl Process {
    /// Starts this program under another name (`borgmaster`, `borglet`) in the background, with
    /// its output going to `log`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn spawn<A: AsRef<OsStr>>(
        name: &str,
        args: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self, LocalError> {
        let failed = |what: &str| system(format!("{what} {name}"));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(failed("open the log of"))?;
        let errors = log.try_clone().map_err(failed("open the log of"))?;
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let child = Command::new(program)
            .arg0(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .current_dir("/")
            .spawn()
            .map_err(failed("start"))?;
        let pid = child.id();
        let start_ticks = stat(pid).map_err(failed("look at"))?.start_ticks;
        // Reaped here when it ends, so that it does not stay as a zombie of a long-lived parent.
        std::thread::spawn(move || {
            let mut child = child;
            drop(child.wait());
        });
        Ok(Self { pid, start_ticks })
    }

    /// The process that now has this id, if any.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        stat(pid)
            .ok()
            .filter(|stat| !stat.over)
            .map(|stat| Self { pid, start_ticks: stat.start_ticks })
    }

    /// Whether it is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Sends a signal, unless it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it is gone; false when it is still there after `longest`.
    pub async fn wait_gone(&self, longest: Duration) -> bool {
        let polled = async {
            while self.is_running() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(longest, polled).await.is_ok()
    }
}

struct Stat {
    start_ticks: u64,
    /// A zombie or dead: it runs nothing any more.
    over: bool,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let odd = || io::Error::other(format!("/proc/{pid}/stat is not as documented"));
    // The name, in parentheses, may contain anything; the fields after it are plain.
    let (_, rest) = text.rsplit_once(") ").ok_or_else(odd)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let start_ticks = fields.get(19).and_then(|field| field.parse().ok()).ok_or_else(odd)?;
    Ok(Stat { start_ticks, over: matches!(fields.first(), Some(&"Z" | &"X")) })
}
