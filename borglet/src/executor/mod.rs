//! The borglet's hands: starts, signals, watches, adopts and removes containers.
//!
//! All state is on disk or in the kernel; what is held in memory is only a table of handles, so a
//! new borglet that calls [`Executor::adopt`] knows all that the old one knew. Leaves every decision
//! (what to run, when to kill, how often to restart) to its caller.
//!
//! Calls are synchronous and short. [`Executor::start`] takes a few milliseconds and
//! [`Executor::cleanup`] may wait up to a second for dying processes: from async code call these
//! two in `spawn_blocking`. [`Executor::wait`] is async.
//!
//! Invariant: a container is known by exactly one directory, `DIR/tasks/ID`; a shim lives exactly
//! as long as somebody holds the lock on the record in it.

mod adopt;
mod enter;
mod networks;
mod spares;
mod start;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use borg_proto::text::{MAX_STATUS_LINE_BYTES, one_line};
use nix::fcntl::AT_FDCWD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub use nix::sys::signal::Signal;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde::de::IgnoredAny;

pub use crate::shim::enter::Errand;
pub use adopt::{Adopted, Found};
pub(crate) use enter::{Entered, Stdio};

use self::spares::Spares;
use crate::cgroup::{CgroupDriver, Hierarchies, Usage};
use crate::container::program::STATUS_FILE;
use crate::container::users::{Ranges, Users};
use crate::container::{ContainerId, ExitRecord, Outcome, Record, Started, TaskDir};
use crate::isolation::{Isolation, IsolationWanted, probe};
use crate::logs::{self, LogChunk, Stream};
use crate::network::{AddressRange, Addresses};
use crate::shim::Nursery;
use crate::{procfs, sys, tree};

/// How an [`Executor`] is set up.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Directory of its own; made if absent.
    pub dir: PathBuf,
    /// Name of our group at the top of each cgroup hierarchy: `borg-CELL-MACHINE`.
    pub cgroup_name: String,
    /// The binary that becomes the shim; its `main` must begin with the shim's dispatch.
    pub shim: PathBuf,
    /// Isolation to use where it is there.
    pub isolation: IsolationWanted,
    /// Directories of the host that tasks must not see into, beside `dir` (keys, say).
    pub hidden: Vec<PathBuf>,
    /// The addresses for containers with a network of their own; none: there are no such.
    pub network: Option<AddressRange>,
}

impl ExecutorConfig {
    /// Full isolation, with this very binary as shim.
    pub fn new(dir: PathBuf, cgroup_name: String) -> Self {
        Self {
            dir,
            cgroup_name,
            shim: PathBuf::from("/proc/self/exe"),
            isolation: IsolationWanted::FULL,
            hidden: Vec::new(),
            network: None,
        }
    }
}

/// The executor cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("use the directory {}", .path.display())]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another borglet works there.
    #[error("another borglet uses the directory {}", .0.display())]
    InUse(PathBuf),
    /// The cgroup's name is not a plain file name.
    #[error("cgroup name {0:?} is not letters, digits, dots and dashes")]
    CgroupName(String),
}

/// A container could not be acted upon.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// No such container here.
    #[error("no container {0}")]
    Unknown(ContainerId),
    /// It has ended.
    #[error("container {0} has ended")]
    Ended(ContainerId),
    /// It has not ended.
    #[error("container {0} still runs")]
    Running(ContainerId),
    /// The kernel refused.
    #[error("{action} container {id}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// To which container.
        id: ContainerId,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Starts and holds the containers of one machine. Cheap to clone; clones share one table.
#[derive(Debug, Clone)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ExecutorConfig,
    isolation: Isolation,
    hierarchies: Option<Hierarchies>,
    groups: Option<Box<dyn CgroupDriver>>,
    /// Where shims are made; none before the first start.
    nursery: Mutex<Option<Nursery>>,
    ranges: Mutex<Ranges>,
    /// None: no container has a network of its own here.
    addresses: Option<Mutex<Addresses>>,
    spares: Spares,
    /// What was cleaned up and never wrote a byte, and when, in milliseconds since 1970.
    quiet: Mutex<BTreeMap<ContainerId, u64>>,
    /// Never held over anything that waits.
    table: Mutex<BTreeMap<ContainerId, Entry>>,
    /// Keeps other borglets out for as long as we live.
    _lock: File,
}

#[derive(Debug, Clone)]
struct Entry {
    /// None: it ended, or never began, before we looked.
    live: Option<Live>,
    /// How it ended, once that was found out; the disk may be too full to hold it.
    record: Option<ExitRecord>,
    /// Whose ids it has.
    users: Users,
    /// Its address, if its network is its own.
    address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone)]
struct Live {
    started: Started,
    /// Readable when the shim has ended, which it does after writing the exit record.
    shim: Arc<OwnedFd>,
}

impl Executor {
    /// Takes the directory, finds out what isolation there is and makes our cgroups ready. Call
    /// [`Self::adopt`] next.
    pub fn open(config: ExecutorConfig) -> Result<Self, OpenError> {
        let safe = config.cgroup_name.parse::<ContainerId>().is_ok();
        if !safe {
            return Err(OpenError::CgroupName(config.cgroup_name));
        }
        let bad_dir = |path: &PathBuf| {
            let path = path.clone();
            move |source| OpenError::Dir { path, source }
        };
        let mut config = config;
        fs::create_dir_all(config.dir.join("tasks")).map_err(bad_dir(&config.dir))?;
        config.dir = config.dir.canonicalize().map_err(bad_dir(&config.dir))?;
        let lock = config.dir.join("executor.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock);
        let lock = file.map_err(bad_dir(&lock))?;
        lock.try_lock().map_err(|_| OpenError::InUse(config.dir.clone()))?;
        let (isolation, hierarchies) =
            probe(config.isolation, &config.cgroup_name, &config.shim, &config.dir);
        let groups = hierarchies.clone().map(Hierarchies::driver);
        let table = Mutex::new(BTreeMap::new());
        let (nursery, ranges) = (Mutex::default(), Mutex::default());
        let apart = isolation.root && isolation.namespaces;
        let range = config.network.filter(|_| apart);
        let addresses = range.map(|range| Mutex::new(Addresses::new(range)));
        let spares = config.dir.join("spares");
        let spares = Spares::open(spares.clone()).map_err(bad_dir(&spares))?;
        let inner = Inner {
            config,
            isolation,
            hierarchies,
            groups,
            nursery,
            ranges,
            addresses,
            spares,
            quiet: Mutex::default(),
            table,
            _lock: lock,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// What isolation is in force, and what is missing.
    pub fn isolation(&self) -> &Isolation {
        &self.0.isolation
    }

    /// All containers that were started or adopted and not cleaned up, in order.
    pub fn ids(&self) -> Vec<ContainerId> {
        self.table().keys().cloned().collect()
    }

    /// Sends `signal` to the first process of the container.
    pub fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), ActError> {
        let live = self.live(id)?;
        let Started { pid, start_ticks, .. } = live.started;
        let sent = open_process(pid, start_ticks)
            .and_then(|process| sys::pidfd_signal(&process, signal as i32));
        sent.map_err(|source| match source.raw_os_error() {
            Some(nix::libc::ESRCH) => ActError::Ended(id.clone()),
            Some(_) | None => ActError::Failed { action: "signal", id: id.clone(), source },
        })
    }

    /// Kills all processes of the container. Returns at once; [`Self::wait`] tells when they are
    /// gone. Harmless when it has ended.
    pub fn kill(&self, id: &ContainerId) -> Result<(), ActError> {
        let live = match self.live(id) {
            Err(ActError::Ended(_)) => return Ok(()),
            live => live?,
        };
        let failed = |source| ActError::Failed { action: "kill", id: id.clone(), source };
        if let Some(groups) = &self.0.groups {
            groups.kill_all(id.as_str()).map_err(|e| failed(e.source))?;
        }
        // The shim knows what else there is to kill.
        match sys::pidfd_signal(&live.shim, Signal::SIGTERM as i32) {
            Err(e) if e.raw_os_error() != Some(nix::libc::ESRCH) => Err(failed(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits for the end of the container. Any number of waiters may wait; one that was started,
    /// or ended, under an earlier borglet is waited for in the same way.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitRecord, ActError> {
        let failed = |source| ActError::Failed { action: "wait for", id: id.clone(), source };
        let entry = self.entry(id)?;
        if let Some(live) = entry.live {
            let shim = live.shim.try_clone().map_err(failed)?;
            let shim = sys::watch_readable(shim).map_err(failed)?;
            drop(shim.readable().await.map_err(failed)?);
        }
        // Reads files, and kills what is left when the shim was killed.
        let (executor, of) = (self.clone(), id.clone());
        let record = tokio::task::spawn_blocking(move || executor.record(&of)).await;
        record.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
    }

    /// What the container uses. Without cgroups only its first process and that one's collected
    /// children are counted.
    pub fn usage(&self, id: &ContainerId) -> Result<Usage, ActError> {
        let failed = |source| ActError::Failed { action: "measure", id: id.clone(), source };
        if let Some(groups) = &self.0.groups {
            self.entry(id)?;
            return groups.usage(id.as_str()).map_err(|e| failed(e.source));
        }
        let live = self.live(id)?;
        let stat = procfs::stat(live.started.pid).map_err(failed)?;
        let memory_bytes = stat.rss_pages * page_bytes();
        Ok(Usage {
            cpu_ms: stat.cpu_ticks * 1000 / ticks_per_second(),
            memory_bytes,
            working_set_bytes: memory_bytes,
            memory_peak_bytes: memory_bytes,
            ..Usage::default()
        })
    }

    /// Processor time of the container so far, in microseconds: cheap, and while it stays the same
    /// nothing in the container ran. 0 without cgroups.
    pub fn cpu_us(&self, id: &ContainerId) -> Result<u64, ActError> {
        let failed = |source| ActError::Failed { action: "measure", id: id.clone(), source };
        let Some(groups) = &self.0.groups else { return Ok(0) };
        groups.cpu_us(id.as_str()).map_err(|e| failed(e.source))
    }

    /// Caps the processor time of a container, in thousandths of a processor, or caps it no more.
    /// Nothing happens without cgroups.
    pub fn cap_cpu(&self, id: &ContainerId, cap_milli: Option<u64>) -> Result<(), ActError> {
        let failed = |source| ActError::Failed { action: "cap", id: id.clone(), source };
        self.live(id)?;
        let Some(groups) = &self.0.groups else { return Ok(()) };
        groups.set_cpu_cap(id.as_str(), cap_milli).map_err(|e| failed(e.source))
    }

    /// Sets what a container weighs when all want processors, in thousandths of one. Nothing happens without
    /// cgroups.
    pub fn share_cpu(&self, id: &ContainerId, cpu_milli: u64) -> Result<(), ActError> {
        let failed = |source| ActError::Failed { action: "weigh", id: id.clone(), source };
        self.live(id)?;
        let Some(groups) = &self.0.groups else { return Ok(()) };
        groups.set_cpu_share(id.as_str(), cpu_milli).map_err(|e| failed(e.source))
    }

    /// Where the container writes to disk, logs aside.
    #[must_use]
    pub fn written(&self, id: &ContainerId) -> Vec<PathBuf> {
        let dir = self.dir(id);
        // Of an image's root what the task changed.
        let changed = dir.rootfs().join("upper");
        [dir.work(), changed].into_iter().filter(|path| path.is_dir()).collect()
    }

    /// The container's processes; none without cgroups.
    pub fn processes(&self, id: &ContainerId) -> Vec<i32> {
        let groups = self.0.groups.as_ref();
        groups.and_then(|groups| groups.processes(id.as_str()).ok()).unwrap_or_default()
    }

    /// Puts the record of how a container ended on the disk for good, where a shim only wrote it. Nothing is to be
    /// done for one that was cleaned up.
    pub fn sync_record(&self, id: &ContainerId) -> Result<(), ActError> {
        let synced = File::open(self.dir(id).record()).and_then(|record| record.sync_all());
        absent_is_fine(synced).map_err(|source| ActError::Failed {
            action: "sync the record of",
            id: id.clone(),
            source,
        })
    }

    /// Removes an ended container from the machine and from the table: processes that may be left,
    /// cgroup, files; all but its logs. Its id cannot be used again while these exist.
    pub fn cleanup(&self, id: &ContainerId) -> Result<(), ActError> {
        let entry = self.entry(id)?;
        if entry.live.as_ref().is_some_and(|live| !ended(&live.shim)) {
            return Err(ActError::Running(id.clone()));
        }
        let failed = |source| ActError::Failed { action: "clean up", id: id.clone(), source };
        self.remove_group(id).map_err(failed)?;
        let dir = self.dir(id);
        let quiet = !dir.log().exists();
        tree::remove(&dir.work()).map_err(&failed)?;
        tree::remove(&dir.rootfs()).map_err(&failed)?;
        for file in [dir.hosts(), dir.shim_err()] {
            absent_is_fine(fs::remove_file(file)).map_err(&failed)?;
        }
        // The record last: as long as it is there, an adoption finds the rest.
        dir.blank().map_err(&failed)?;
        if quiet {
            self.quiet().insert(id.clone(), sys::wall_clock_ms());
            self.0.spares.keep_or_remove(&dir).map_err(failed)?;
        } else {
            // From now on its logs are kept: see `kept_logs`.
            let (now, flag) = (TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink);
            let marked = utimensat(AT_FDCWD, &dir.log(), &now, &now, flag);
            marked.map_err(|error| failed(error.into()))?;
        }
        self.table().remove(id);
        self.ranges().give_back(entry.users);
        self.give_back(entry.address);
        Ok(())
    }

    /// Removes the logs of a container that was cleaned up.
    pub fn remove_logs(&self, id: &ContainerId) -> Result<(), ActError> {
        if self.table().contains_key(id) {
            return Err(ActError::Running(id.clone()));
        }
        if self.quiet().remove(id).is_some() {
            return Ok(());
        }
        self.0.spares.keep_or_remove(&self.dir(id)).map_err(|source| ActError::Failed {
            action: "remove logs of",
            id: id.clone(),
            source,
        })
    }

    /// Containers of which only the logs are left, or the knowledge that they wrote none, with the time since
    /// when that is so in milliseconds since 1970, for whoever decides how long logs are kept.
    pub fn kept_logs(&self) -> io::Result<Vec<(ContainerId, u64)>> {
        let mut kept = Vec::new();
        for (id, dir) in self.directories()? {
            if dir.record().exists() || self.table().contains_key(&id) {
                continue;
            }
            // Without logs it is just being made.
            let Ok(changed) = fs::metadata(dir.log()).and_then(|log| log.modified()) else {
                continue;
            };
            let since = changed.duration_since(std::time::UNIX_EPOCH).ok();
            kept.push((id, since.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))));
        }
        kept.extend(self.quiet().iter().map(|(id, since)| (id.clone(), *since)));
        kept.sort();
        Ok(kept)
    }

    /// Reads at most `max` bytes of a container's output from `offset` on, while it runs and as long
    /// as its logs are kept. To follow, ask again from `next_offset`; `u64::MAX` finds the end.
    pub fn read_log(
        &self,
        id: &ContainerId,
        stream: Stream,
        offset: u64,
        max: usize,
    ) -> Result<LogChunk, ActError> {
        self.look_at_log(id, |dir| logs::read(dir, stream, offset, max))
    }

    /// What a container says of itself, harmless to print; empty when that is nothing, or cannot be read. The file
    /// is the task's to make: it is read only when it is a plain file, and waited for by nobody.
    pub fn status_line(&self, id: &ContainerId) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let work = sys::open_plain(None, &c_path(&self.dir(id).work())?)?;
            let file = sys::open_plain_to_read(&work, &c_path(STATUS_FILE.as_ref())?)?;
            let mut line = Vec::new();
            if file.metadata()?.is_file() {
                file.take(4 * MAX_STATUS_LINE_BYTES as u64).read_to_end(&mut line)?;
            }
            Ok(line)
        };
        one_line(&read().unwrap_or_default(), MAX_STATUS_LINE_BYTES)
    }

    /// Where a container's output of a time begins: see [`logs::since`].
    pub fn log_since(&self, id: &ContainerId, stream: Stream, ms: u64) -> Result<u64, ActError> {
        self.look_at_log(id, |dir| logs::since(dir, stream, ms))
    }

    /// Where the last lines of a container's output begin, and how many: see [`logs::last_lines`].
    pub fn log_last_lines(
        &self,
        id: &ContainerId,
        stream: Stream,
        lines: u64,
    ) -> Result<(u64, u64), ActError> {
        self.look_at_log(id, |dir| logs::last_lines(dir, stream, lines))
    }

    /// When a piece of a container's output was written: see [`logs::segment`].
    pub fn log_segment(
        &self,
        id: &ContainerId,
        stream: Stream,
        offset: u64,
    ) -> Result<Option<(u64, u64)>, ActError> {
        self.look_at_log(id, |dir| logs::segment(dir, stream, offset))
    }

    fn look_at_log<T>(
        &self,
        id: &ContainerId,
        look: impl FnOnce(&std::path::Path) -> io::Result<T>,
    ) -> Result<T, ActError> {
        let dir = self.dir(id);
        // One that wrote nothing and is gone has an empty log, and no directory.
        if !self.quiet().contains_key(id) && !dir.root.is_dir() {
            return Err(ActError::Unknown(id.clone()));
        }
        let failed =
            |source| ActError::Failed { action: "read the log of", id: id.clone(), source };
        look(&dir.log()).map_err(failed)
    }

    /// Removes our own cgroups, for a machine that leaves the cell. Fails while a container exists.
    pub fn retire(&self) -> io::Result<()> {
        self.0.groups.as_ref().map_or(Ok(()), |groups| groups.retire().map_err(|e| e.source))
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quiet(&self) -> MutexGuard<'_, BTreeMap<ContainerId, u64>> {
        self.0.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.0.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self, id: &ContainerId) -> TaskDir {
        TaskDir { root: self.0.config.dir.join("tasks").join(id.as_str()) }
    }

    fn directories(&self) -> io::Result<Vec<(ContainerId, TaskDir)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.0.config.dir.join("tasks"))? {
            let entry = entry?;
            match entry.file_name().into_string().map(ContainerId::try_from) {
                Ok(Ok(id)) => found.push((id, TaskDir { root: entry.path() })),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(path = %entry.path().display(), "not a container's directory");
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    fn entry(&self, id: &ContainerId) -> Result<Entry, ActError> {
        self.table().get(id).cloned().ok_or_else(|| ActError::Unknown(id.clone()))
    }

    fn live(&self, id: &ContainerId) -> Result<Live, ActError> {
        self.entry(id)?.live.ok_or_else(|| ActError::Ended(id.clone()))
    }

    /// The exit record of a container whose shim is gone: the same for every caller.
    fn record(&self, id: &ContainerId) -> io::Result<ExitRecord> {
        if let Some(record) = self.table().get(id).and_then(|entry| entry.record.clone()) {
            return Ok(record);
        }
        let record = self.find_record(id)?;
        match self.table().get_mut(id) {
            Some(entry) => Ok(entry.record.get_or_insert(record).clone()),
            None => Ok(record),
        }
    }

    /// If the shim left no record, it was killed or the disk was full: then nothing of the task
    /// may stay, and the record made here says so.
    fn find_record(&self, id: &ContainerId) -> io::Result<ExitRecord> {
        let dir = self.dir(id);
        let record = dir.read::<IgnoredAny>();
        let record =
            record.inspect_err(|e| tracing::warn!(%id, error = %e, "its record cannot be read"));
        let (started, ended) = match record {
            Ok(Some(Record { started, ended, .. })) => (started, ended),
            // What is not readable any more tells nothing of the start.
            Ok(None) | Err(_) => (None, None),
        };
        if let Some(ended) = ended {
            return Ok(ended);
        }
        let same_boot = started.as_ref().is_none_or(|was| was.boot_id == procfs::boot_id());
        let why = match (same_boot, fs::read_to_string(dir.shim_err())) {
            (false, _) => "the machine restarted".to_owned(),
            (true, Ok(said)) if !said.trim().is_empty() => format!("its shim said {}", said.trim()),
            (true, Ok(_) | Err(_)) => "its shim was killed".to_owned(),
        };
        let totals = self.0.groups.as_ref().and_then(|groups| groups.totals(id.as_str()).ok());
        let (cpu_ms, memory_peak_bytes) = totals.unwrap_or_default();
        if let (true, Some(groups)) = (same_boot, &self.0.groups) {
            groups.kill_all(id.as_str()).map_err(|e| e.source)?;
        }
        let record = ExitRecord {
            id: id.clone(),
            outcome: Outcome::Lost { why },
            started,
            ended_at_ms: sys::wall_clock_ms(),
            cpu_ms,
            memory_peak_bytes,
        };
        keep(&dir, &record);
        Ok(record)
    }

    fn remove_group(&self, id: &ContainerId) -> io::Result<()> {
        let Some(groups) = &self.0.groups else { return Ok(()) };
        let removed = groups.kill_all(id.as_str()).and_then(|()| groups.remove(id.as_str()));
        removed.map_err(|e| e.source)
    }
}

/// Writes a record down for the next borglet. On a full disk that one makes its own.
fn keep(dir: &TaskDir, record: &ExitRecord) {
    if let Err(error) = dir.add_ended(record, true) {
        tracing::warn!(id = %record.id, %error, "its exit record is not kept");
    }
}

/// A handle on the process that was `pid` and started at `start_ticks`, or ESRCH.
fn open_process(pid: i32, start_ticks: u64) -> io::Result<OwnedFd> {
    let process = sys::pidfd_open(pid)?;
    // Checked after the handle exists: from here on the handle cannot change its meaning.
    if procfs::stat(pid).is_ok_and(|stat| stat.start_ticks == start_ticks) {
        Ok(process)
    } else {
        Err(io::Error::from_raw_os_error(nix::libc::ESRCH))
    }
}

fn c_path(path: &std::path::Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn ended(process: &OwnedFd) -> bool {
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100)
}
