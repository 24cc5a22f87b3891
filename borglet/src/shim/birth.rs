//! The making of a task: what happens in the children of the shim.
//!
//! With namespaces the first child is pid 1 of a process table of its own; it builds the
//! container, makes the task's first process and then only collects what ends. Without, the first
//! child becomes the task. Both die with the shim.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{self, Gid, Uid};

use borg_proto::Privilege;

use super::ShimSpec;
use crate::container::program::{Pipes, become_program};
use crate::container::users::Users;
use crate::container::view::{Held, View};
use crate::container::{StartError, TaskDir, Workdir};
use crate::sys::{self, Ending};

/// `oom_score_adj` of tasks that give way: half of the machine's memory more than they use. Our choice; others have 0.
const GIVES_WAY: &str = "500";

/// What a newborn child holds.
#[derive(Debug)]
pub(super) struct Newborn<'a> {
    pub(super) spec: &'a ShimSpec,
    pub(super) dir: &'a TaskDir,
    pub(super) pipes: Pipes,
    /// To the shim: `ready`, or a `StartError`.
    pub(super) notes: File,
    /// From the shim: one byte once this process has its ids.
    pub(super) ids: File,
    /// To the shim: how the task's first process ended.
    pub(super) endings: OwnedFd,
    pub(super) shim_pid: i32,
    /// The task's own network, if it has one.
    pub(super) network: Option<OwnedFd>,
}

impl Newborn<'_> {
    /// Lives the child's life; a failure goes to the shim as a note.
    pub(super) fn live(self) -> ! {
        let Ok(mut notes) = self.notes.try_clone() else { sys::exit_now(1) };
        let born = catch_unwind(AssertUnwindSafe(|| self.grow_up()));
        let error = born.unwrap_or_else(|_| StartError::machine("set up the container", "panic"));
        error.tell(&mut notes);
        sys::exit_now(1)
    }

    /// Returns only when the task could not be started.
    fn grow_up(self) -> StartError {
        if let Err(error) = self.join_groups() {
            return error;
        }
        // A borglet may be protected from the kernel's choice when memory ends; its tasks are not. More is
        // always allowed, so only what the machine lacks can keep it from being written.
        let gives_way = if self.spec.container.gives_way { GIVES_WAY } else { "0" };
        sys::never_mind(fs::write("/proc/self/oom_score_adj", gives_way));
        if self.spec.namespaces { self.make_container() } else { self.become_plain() }
    }

    /// The task, without a container around it.
    fn become_plain(self) -> StartError {
        let container = &self.spec.container;
        if container.own_network {
            let why = "this machine cannot give tasks a network of their own: it needs namespaces";
            return StartError::machine("enter its network", why);
        }
        if container.root.is_some() || !container.packages.is_empty() {
            let why = "this machine cannot give tasks files of their own: it needs namespaces";
            return StartError::machine("show its packages", why);
        }
        let setting = match self.spec.setting(self.dir.work()) {
            Ok(setting) => setting,
            Err(error) => return error,
        };
        let Self { pipes, notes, shim_pid, .. } = self;
        become_program(&setting, pipes, notes, Some(shim_pid))
    }

    fn make_container(self) -> StartError {
        let (dir, spec) = (self.dir, self.spec);
        let view = view_of(spec, dir);
        let begun = self.await_ids().and_then(|()| self.enter_network());
        let begun = begun.and_then(|()| name_host(spec)).and_then(|()| view.begin());
        let begun = begun.and_then(|held| {
            let (may_go_on, go_on) = unistd::pipe2(OFlag::O_CLOEXEC)
                .map_err(|e| StartError::machine("make a pipe", e))?;
            // With the cgroup just joined as the root of what it sees.
            let namespaces = CloneFlags::CLONE_NEWCGROUP | spec.users.inside();
            let first = sys::clone_process(namespaces.bits(), None)
                .map_err(|e| StartError::machine("make the first process", e))?;
            Ok((held, may_go_on, go_on, first))
        });
        let (held, may_go_on, go_on, first) = match begun {
            Ok(begun) => begun,
            Err(error) => return error,
        };
        let Some(first) = first else {
            drop(go_on);
            if File::from(may_go_on).read_exact(&mut [0]).is_err() {
                // Whoever builds the container failed, and says so.
                sys::exit_now(1);
            }
            let setting = match spec.setting(dir.work()) {
                Ok(setting) => setting,
                Err(error) => return error,
            };
            let Self { pipes, notes, .. } = self;
            become_program(&setting, pipes, notes, None)
        };
        drop(may_go_on);
        match self.finish(&view, held, first.pid, go_on) {
            Ok(()) => be_init(first.pid, self.endings),
            Err(error) => error,
        }
    }

    /// Gives the first process its ids, shows it what needs them, and lets it go on. Then this process
    /// needs no rights any more.
    fn finish(
        &self,
        view: &View<'_>,
        held: Held,
        first: i32,
        go_on: OwnedFd,
    ) -> Result<(), StartError> {
        let spec = self.spec;
        let mut users = None;
        if spec.users.inside().contains(CloneFlags::CLONE_NEWUSER) {
            spec.users
                .map(Path::new("/proc"), first)
                .map_err(|e| StartError::machine("give the task its ids", e))?;
            let namespace = File::open(format!("/proc/{first}/ns/user"));
            users = Some(namespace.map_err(|e| StartError::machine("open its user namespace", e))?);
        }
        view.complete(held, users.as_ref())?;
        self.hand_over()?;
        if spec.drop_capabilities {
            // It executes nothing.
            sys::limit_capabilities(0).map_err(|e| StartError::machine("drop capabilities", e))?;
        }
        // After the last change of rights, which would undo it. Should the shim be dead already, the task
        // finds nobody to say go.
        sys::die_with_parent().map_err(|e| StartError::machine("bind to the shim", e))?;
        // A task of the same user must not reach our memory, or it could forge how it ended.
        sys::never_mind(nix::sys::prctl::set_dumpable(false));
        let told = File::from(go_on).write_all(b"g");
        told.map_err(|e| StartError::machine("let the first process go on", e))
    }

    /// Makes whom the task runs as the owner of its directory and its output, or what opens
    /// /dev/stdout by name would be refused.
    fn hand_over(&self) -> Result<(), StartError> {
        let user = self.spec.user()?;
        if matches!(self.spec.users, Users::Own { .. })
            || (user.is_none() && self.spec.users == Users::Machine)
        {
            return Ok(());
        }
        let owner = self.spec.users.on_machine(user);
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        for output in [&self.pipes.stdout, &self.pipes.stderr] {
            sys::never_mind(unistd::fchown(output, Some(uid), Some(gid)));
        }
        let work = self.dir.work();
        let trouble = |e| StartError::machine("hand the task its directory", e);
        let found = fs::symlink_metadata(&work).map_err(trouble)?;
        if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
            return Ok(());
        }
        unistd::chown(&work, Some(uid), Some(gid)).map_err(|e| trouble(e.into()))
    }

    fn join_groups(&self) -> Result<(), StartError> {
        let Some(hierarchies) = &self.spec.cgroups else { return Ok(()) };
        let groups = hierarchies.clone().driver();
        groups
            .enter(self.spec.container.id.as_str())
            .map_err(|e| StartError::machine("join the cgroup", e.in_full()))
    }

    /// Goes into the task's own network, while this process has the rights of the machine's root, to whom
    /// that belongs.
    fn enter_network(&self) -> Result<(), StartError> {
        let Some(network) = &self.network else { return Ok(()) };
        nix::sched::setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(|e| StartError::machine("enter its network", e))
    }

    /// Waits until the shim gave this process its ids, where the container as a whole has others.
    fn await_ids(&self) -> Result<(), StartError> {
        if self.spec.users.around().is_empty() {
            return Ok(());
        }
        (&self.ids).read_exact(&mut [0]).map_err(|e| StartError::machine("wait for ids", e))
    }
}

fn name_host(spec: &ShimSpec) -> Result<(), StartError> {
    unistd::sethostname(spec.container.id.host_name())
        .map_err(|e| StartError::machine("set the host name", e))
}

/// What the task sees.
fn view_of<'a>(spec: &'a ShimSpec, dir: &TaskDir) -> View<'a> {
    let container = &spec.container;
    View {
        work: dir.work(),
        binds: &container.binds,
        hidden: &spec.hidden,
        groups: spec.cgroups.as_ref().map(|groups| (groups, container.id.as_str())),
        image: container.root.as_ref().map(|image| (image, dir.rootfs())),
        workdir: match &container.workdir {
            Workdir::Private => None,
            Workdir::Path(path) => Some(path),
        },
        packages: &container.packages,
        scratch_bytes: container.ram_bytes,
        users: spec.users,
        all_devices: container.loosen.contains(&Privilege::Devices),
    }
}

/// Pid 1 of a container: collects what ends until the task's first process did, then ends, and
/// the kernel kills the rest. All signals are blocked, as inherited from the shim; those for the
/// task are sent to it directly.
fn be_init(first: i32, endings: OwnedFd) -> ! {
    sys::close_all_but(&[endings.as_fd()]);
    sys::never_mind(nix::sys::prctl::set_name(c"borglet-init"));
    loop {
        match sys::wait_any(true) {
            Ok(Some((pid, ending))) if pid == first => {
                sys::never_mind(unistd::write(&endings, &encode(ending)));
                sys::exit_now(0);
            }
            Ok(_) => {}
            Err(_) => sys::exit_now(1),
        }
    }
}

fn encode(ending: Ending) -> [u8; 5] {
    let (kind, number) = match ending {
        Ending::Code(code) => (b'c', code),
        Ending::Signal(signal) => (b's', signal),
    };
    let [a, b, c, d] = number.to_le_bytes();
    [kind, a, b, c, d]
}

/// The ending that an init reported, if it lived to do so.
pub(super) fn decode(bytes: &[u8]) -> Option<Ending> {
    let (&kind, number) = bytes.split_first()?;
    let number = i32::from_le_bytes(number.try_into().ok()?);
    match kind {
        b'c' => Some(Ending::Code(number)),
        b's' => Some(Ending::Signal(number)),
        _unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_survives_the_way_to_the_shim() {
        for ending in [Ending::Code(0), Ending::Code(255), Ending::Signal(9), Ending::Signal(40)] {
            assert_eq!(decode(&encode(ending)), Some(ending));
        }
        assert_eq!(decode(&[]), None);
    }
}
