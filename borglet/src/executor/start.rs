//! Starting a container: its directory, its group, its shim.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use borg_proto::Privilege;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Entry, Executor, Live, open_process};
use crate::cgroup::Limits;
use crate::container::users::Users;
use crate::container::{ContainerSpec, ExitRecord, StartError, Started, TaskDir};
use crate::isolation::UserIds;
use crate::shim::{self, Nursery, ShimSpec};
use crate::{sys, tree};

/// Share of the processors with which a container is set up, in thousandths of a processor: that of a task
/// of the lowest rank would not get it done in time beside services that want all. A processor: ours.
const STARTING_CPU_MILLI: u64 = 1_000;
/// How long a shim may take to answer. Ours: it takes milliseconds, unless the machine is ill.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Executor {
    /// Starts a container and returns once its program runs. On an error nothing of it is left.
    ///
    /// Takes a few milliseconds; 10 s at most.
    pub fn start(&self, mut spec: ContainerSpec) -> Result<Started, StartError> {
        spec.validate()?;
        let id = spec.id.clone();
        if self.quiet().contains_key(&id) {
            return Err(StartError::Exists(id));
        }
        let dir = self.dir(&id);
        match self.make_directory(&dir) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(StartError::Exists(id)),
            made => made.map_err(|e| StartError::machine("make the container's directory", e))?,
        }
        let (mut users, mut address) = (None, None);
        let started = self.give_users(&spec).and_then(|given| {
            users = Some(given);
            address = self.give_address(&dir, &mut spec)?;
            let started = self.start_in(&dir, spec, given)?;
            Ok((started, Entry { live: None, record: None, users: given, address }))
        });
        match started {
            Ok((started, entry)) => {
                // A task so short that its shim is gone already has no handle, only a record.
                let shim = open_process(started.shim_pid, started.shim_start_ticks).ok();
                let live = shim.map(|shim| Live { started: started.clone(), shim: Arc::new(shim) });
                self.table().insert(id, Entry { live, ..entry });
                Ok(started)
            }
            Err(error) => {
                let removed = self.remove_group(&id).and_then(|()| tree::remove(&dir.root));
                let removed = removed
                    .inspect_err(|e| tracing::warn!(%id, error = %e, "remains of a failed start"));
                if removed.is_ok() {
                    users.into_iter().for_each(|users| self.ranges().give_back(users));
                    self.give_back(address);
                } else if let Some(users) = users {
                    // Nobody gets its ids while something of it may run.
                    let record = ExitRecord::not_started(&id, &error, sys::wall_clock_ms());
                    let entry = Entry { live: None, record: Some(record), users, address };
                    self.table().insert(id, entry);
                }
                Err(error)
            }
        }
    }

    /// Makes a container's directory, of one that is gone where there is one.
    fn make_directory(&self, dir: &TaskDir) -> io::Result<()> {
        if self.0.spares.take(&dir.root)? {
            return Ok(());
        }
        fs::create_dir(&dir.root)?;
        // May be passed through by a task of another user on the way to its own directory, not listed.
        fs::set_permissions(&dir.root, Permissions::from_mode(0o711))
    }

    /// Whose ids a task has.
    fn give_users(&self, spec: &ContainerSpec) -> Result<Users, StartError> {
        if spec.loosen.contains(&Privilege::MachineIds) {
            let why = "the borglet is not root: this machine has no ids of its own to give";
            return if self.0.isolation.root {
                Ok(Users::Machine)
            } else {
                Err(StartError::machine("give the task the machine's ids", why))
            };
        }
        match self.0.isolation.users {
            UserIds::Machine => Ok(Users::Machine),
            UserIds::Own => Ok(Users::own()),
            UserIds::Range => {
                let first = self.ranges().take();
                let none = || StartError::machine("find ids for the task", "all are taken");
                Ok(Users::Range { first: first.ok_or_else(none)? })
            }
        }
    }

    fn start_in(
        &self,
        dir: &TaskDir,
        spec: ContainerSpec,
        users: Users,
    ) -> Result<Started, StartError> {
        let id = spec.id.clone();
        make_work(dir, &spec, users, self.0.isolation.namespaces)
            .map_err(|e| StartError::machine("make the task's directory", e))?;
        if let Some(groups) = &self.0.groups {
            let limits = Limits {
                cpu_milli: spec.cpu_milli.max(STARTING_CPU_MILLI),
                cpu_cap_milli: spec.cpu_cap_milli,
                ram_bytes: spec.ram_bytes,
                soft: spec.soft_memory,
                io_weight: spec.io_weight,
                pids_max: spec.pids_max,
            };
            groups
                .create(id.as_str(), &limits)
                .map_err(|e| StartError::machine("make the cgroup", e.in_full()))?;
        }
        let network = self.make_network(&spec)?;
        let cpu_milli = spec.cpu_milli;
        let config = &self.0.config;
        let isolation = &self.0.isolation;
        let hidden = [&config.dir].into_iter().chain(&config.hidden).cloned().collect();
        let spec = ShimSpec {
            container: spec,
            cgroups: self.0.hierarchies.clone(),
            namespaces: isolation.namespaces,
            users,
            drop_capabilities: isolation.drop_capabilities || isolation.users == UserIds::Own,
            filter: isolation.filter,
            landlock: isolation.landlock,
            hidden,
        };
        let locked =
            dir.begin(&spec).map_err(|e| StartError::machine("write down what was asked", e))?;
        let started = self.run_shim(dir, &locked, network)?;
        if let Some(groups) = &self.0.groups
            && let Err(error) = groups.set_cpu_share(id.as_str(), cpu_milli)
        {
            // It may be over and gone already; else it has more than its share.
            tracing::debug!(%id, error = error.in_full(), "share of the processors not set");
        }
        Ok(started)
    }

    fn run_shim(
        &self,
        dir: &TaskDir,
        spec: &File,
        network: Option<OwnedFd>,
    ) -> Result<Started, StartError> {
        let trouble = |e: io::Error| StartError::machine("make the shim", e);
        let (mut report, report_in) = io::pipe().map_err(trouble)?;
        self.order(dir, spec, &report_in, network.as_ref()).map_err(trouble)?;
        // The shim's ends are the only ones from here on.
        drop((report_in, network));
        let answer = read_within(&mut report, ANSWER_WITHIN).map_err(|e| {
            self.kill_silent_shim(dir);
            match e.kind() {
                ErrorKind::TimedOut => StartError::TimedOut { seconds: ANSWER_WITHIN.as_secs() },
                _other => trouble(e),
            }
        })?;
        serde_json::from_slice(&answer).unwrap_or_else(|_| {
            let said = fs::read_to_string(dir.shim_err()).unwrap_or_default();
            Err(StartError::machine("hear from the shim", format!("it said {:?}", said.trim())))
        })
    }

    /// Orders a shim of the nursery, of a new one where there is none or it died.
    fn order(
        &self,
        dir: &TaskDir,
        spec: &File,
        report: &PipeWriter,
        network: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let network = network.map(AsFd::as_fd);
        let mut nursery = self.0.nursery.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = &*nursery {
            match old.order(&dir.root, spec.as_fd(), report.as_fd(), network) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the nursery takes no orders: making another"),
            }
        }
        *nursery = None;
        let new = Nursery::open(&self.0.config.shim, self.0.hierarchies.as_ref())?;
        nursery.insert(new).order(&dir.root, spec.as_fd(), report.as_fd(), network)
    }

    /// Ends a shim that did not answer: it alone works in this directory.
    fn kill_silent_shim(&self, dir: &TaskDir) {
        for pid in crate::procfs::with_argument(shim::NAME, &dir.root) {
            if let Ok(process) = sys::pidfd_open(pid) {
                drop(sys::pidfd_signal(&process, nix::libc::SIGKILL));
            }
        }
    }
}

/// Makes the task's own directory.
fn make_work(dir: &TaskDir, spec: &ContainerSpec, users: Users, contained: bool) -> io::Result<()> {
    let work = dir.work();
    fs::DirBuilder::new().mode(0o700).create(&work)?;
    let owner = match users {
        // Only in the image can be looked up who that is: the container's first process hands the directory over.
        _ if contained && spec.root.is_some() => None,
        Users::Range { .. } => Some(users.on_machine(spec.user)),
        Users::Machine => spec.user,
        Users::Own { .. } => None,
    };
    if let Some(owner) = owner {
        chown(&work, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

/// Reads to the end, or fails with `TimedOut`.
fn read_within(pipe: &mut io::PipeReader, limit: Duration) -> io::Result<Vec<u8>> {
    let deadline = sys::monotonic() + limit;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_sub(sys::monotonic());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => return Err(io::Error::from(ErrorKind::TimedOut)),
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled?,
        };
        match pipe.read(&mut buffer)? {
            0 => return Ok(answer),
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
}
