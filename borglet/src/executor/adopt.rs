//! What a new borglet finds of the old one's containers.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::{Entry, Executor, Live, open_process};
use crate::container::users::Users;
use crate::container::{ContainerId, ExitRecord, Outcome, Record, StartError, Started, TaskDir};
use crate::shim::{self, ShimSpec};
use crate::{procfs, sys, tree};

/// How long a shim that has just begun may take to say what it started; 2000 times 5 ms.
const STATE_TRIES: u32 = 2_000;

/// A container found on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Which.
    pub id: ContainerId,
    /// The words of whoever started it; empty when they cannot be read any more.
    pub note: String,
    /// More of them, as bytes.
    pub words: Vec<u8>,
    /// How it is.
    pub found: Found,
}

/// How an adopted container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It runs; pid and start time are those of the process that was started.
    Running(Started),
    /// It ended while no borglet was there, or its end was not yet dealt with.
    Ended(ExitRecord),
}

impl Executor {
    /// Takes over everything that an earlier borglet left in the directory, and removes cgroups of
    /// ours that belong to nothing. Called once after [`Executor::open`], before any start.
    ///
    /// Damaged files cost no task its life as long as its shim lives: what they said is found out anew.
    /// A container of which not even that can be found out is killed and has ended: one that nobody
    /// knows of would run beside its successor.
    pub fn adopt(&self) -> io::Result<Vec<Adopted>> {
        let mut adopted = Vec::new();
        let mut known = Vec::new();
        for (id, dir) in self.directories()? {
            match self.adopt_one(&id, &dir) {
                Ok(found) => adopted.extend(found),
                Err(error) => adopted.push(self.give_up(&id, &dir, &error)),
            }
            known.push(id);
        }
        self.remove_ownerless_groups(&known);
        self.settle_networks();
        Ok(adopted)
    }

    /// Ends a container that cannot be adopted, by each means that needs nothing of its files.
    fn give_up(&self, id: &ContainerId, dir: &TaskDir, error: &io::Error) -> Adopted {
        tracing::error!(%id, %error, "cannot adopt this container: killing it");
        // The shim first, so that it starts nothing more and writes no other record.
        let shims = procfs::with_argument(shim::NAME, &dir.root);
        let orphans: Vec<i32> = shims.iter().flat_map(|pid| procfs::descendants(*pid)).collect();
        for pid in shims.into_iter().chain(orphans) {
            if let Ok(process) = sys::pidfd_open(pid) {
                sys::never_mind(sys::pidfd_signal(&process, nix::libc::SIGKILL));
            }
        }
        if let Some(groups) = &self.0.groups
            && let Err(error) = groups.kill_all(id.as_str())
        {
            tracing::error!(%id, error = %error.in_full(), "not killed");
        }
        let record = ExitRecord {
            id: id.clone(),
            outcome: Outcome::Lost { why: format!("it could not be adopted: {error}") },
            started: None,
            ended_at_ms: sys::wall_clock_ms(),
            cpu_ms: 0,
            memory_peak_bytes: 0,
        };
        super::keep(dir, &record);
        self.table().insert(
            id.clone(),
            Entry {
                live: None,
                record: Some(record.clone()),
                users: Users::Machine,
                address: None,
            },
        );
        let (note, words) = Default::default();
        Adopted { id: id.clone(), note, words, found: Found::Ended(record) }
    }

    fn adopt_one(&self, id: &ContainerId, dir: &TaskDir) -> io::Result<Option<Adopted>> {
        let record = match dir.read::<ShimSpec>()? {
            Some(record) => record,
            None => {
                // Without a directory of its own nothing of it runs.
                let runs = if dir.work().is_dir() { recover(dir) } else { None };
                let Some(started) = runs else {
                    if let Err(error) = self.remove_remains(id, dir) {
                        tracing::warn!(%id, %error, "remains of a container");
                    }
                    return Ok(None);
                };
                tracing::error!(%id, pid = started.pid, "its record is gone, and it runs: adopted");
                File::create(dir.record())?;
                dir.add_started(&started)?;
                Record::parse(b"")
            }
        };
        if record.damaged {
            tracing::error!(%id, "its record is damaged: what it said is found out anew");
        }
        let (note, words, users, address) = match record.asked {
            Some(ShimSpec { container, users, .. }) => {
                (container.note, container.words, Some(users), container.address)
            }
            None => Default::default(),
        };
        let found = self.find(id, dir).or_else(|error| {
            let started = Started { address, ..recover(dir).ok_or(error)? };
            tracing::error!(%id, pid = started.pid, "its record is damaged, and it runs: adopted");
            dir.add_started(&started)?;
            Ok::<_, io::Error>(Found::Running(started))
        })?;
        let (live, record) = match &found {
            Found::Ended(record) => (None, Some(record.clone())),
            Found::Running(started) => {
                // Gone in this very moment: then its record is there by now.
                let shim = open_process(started.shim_pid, started.shim_start_ticks).ok();
                (shim.map(|shim| Live { started: started.clone(), shim: Arc::new(shim) }), None)
            }
        };
        let users = users.unwrap_or_else(|| match &found {
            Found::Running(started) => Users::of(started.pid),
            Found::Ended(_) => Users::Machine,
        });
        self.ranges().hold(users);
        let address = match &found {
            Found::Running(started) => {
                let known = started.address.or(address);
                // Of a damaged record nothing may be left that says it.
                known.or_else(|| self.address_of(started.pid))
            }
            Found::Ended(_) => address,
        };
        let entry = Entry { live, record, users, address };
        self.table().insert(id.clone(), entry);
        Ok(Some(Adopted { id: id.clone(), note, words, found }))
    }

    /// What has no record never ran, or is over: logs of a container cleaned up, or a start
    /// or a cleaning that was cut short.
    fn remove_remains(&self, id: &ContainerId, dir: &TaskDir) -> io::Result<()> {
        self.remove_group(id)?;
        tree::remove(&dir.work())?;
        tree::remove(&dir.rootfs())?;
        dir.blank()?;
        let has_logs = fs::read_dir(dir.log()).is_ok_and(|mut logs| logs.next().is_some());
        if has_logs { Ok(()) } else { tree::remove(&dir.root) }
    }

    fn find(&self, id: &ContainerId, dir: &TaskDir) -> io::Result<Found> {
        for _ in 0..STATE_TRIES {
            // Asked before the end is looked for: a shim writes it down first and lets go then.
            let held = is_held(dir)?;
            let gone = || io::Error::new(ErrorKind::NotFound, "its record is gone");
            let record = dir.read::<IgnoredAny>()?.ok_or_else(gone)?;
            let Record { started, ended, damaged, .. } = record;
            if let Some(ended) = ended {
                return Ok(Found::Ended(ended));
            }
            match (held, started) {
                (true, Some(started)) if started.boot_id == procfs::boot_id() => {
                    return Ok(Found::Running(started));
                }
                (true, None) if damaged => return Err(io::Error::from(ErrorKind::InvalidData)),
                (true, None) => sys::pause_ms(5), // the shim is at work on it
                // Of a record that was made anew nobody holds the lock. Of a damaged one the machine may have
                // stopped before more was on the disk. And of another boot nothing runs, whoever may hold the
                // file for a moment.
                (_, Some(was)) => {
                    let address = was.address;
                    return match recover(dir) {
                        Some(now) => Ok(Found::Running(Started { address, ..now })),
                        None => self.find_record(id).map(Found::Ended),
                    };
                }
                (false, None) if damaged => return self.find_record(id).map(Found::Ended),
                (false, None) => return Ok(Found::Ended(never_began(id, dir))),
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "its shim holds the lock but says nothing"))
    }

    fn remove_ownerless_groups(&self, known: &[ContainerId]) {
        let Some(groups) = &self.0.groups else { return };
        let listed = groups.list().unwrap_or_default();
        for name in listed.iter().filter(|name| !known.iter().any(|id| id.as_str() == *name)) {
            let removed = groups.kill_all(name).and_then(|()| groups.remove(name));
            if let Err(error) = removed {
                tracing::warn!(group = %name, error = %error.in_full(), "cannot remove this cgroup");
            }
        }
    }
}

/// What the record said of the start, from the processes themselves; `None` when no shim works in the directory, or
/// its task is not there yet.
fn recover(dir: &TaskDir) -> Option<Started> {
    let shims = procfs::with_argument(shim::NAME, &dir.root).into_iter();
    let (shim_pid, child) =
        shims.filter_map(|shim| Some((shim, *procfs::children(shim).first()?))).next()?;
    let table = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own_table = table(&child.to_string())? != table("self")?;
    let pid = if own_table { *procfs::children(child).first()? } else { child };
    let start_ticks = procfs::stat(pid).ok()?.start_ticks;
    let age_ms = sys::boot_time_ms().saturating_sub(start_ticks * 1000 / super::ticks_per_second());
    Some(Started {
        pid,
        start_ticks,
        shim_pid,
        shim_start_ticks: procfs::stat(shim_pid).ok()?.start_ticks,
        init_pid: own_table.then_some(child),
        started_at_ms: sys::wall_clock_ms().saturating_sub(age_ms),
        boot_id: procfs::boot_id(),
        address: None,
    })
}

fn is_held(dir: &TaskDir) -> io::Result<bool> {
    let file = match File::open(dir.record()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn never_began(id: &ContainerId, dir: &TaskDir) -> ExitRecord {
    let error = StartError::machine("start", "the borglet stopped before the task began");
    let record = ExitRecord {
        id: id.clone(),
        outcome: Outcome::NotStarted(error),
        started: None,
        ended_at_ms: sys::wall_clock_ms(),
        cpu_ms: 0,
        memory_peak_bytes: 0,
    };
    super::keep(dir, &record);
    record
}
