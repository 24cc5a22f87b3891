//! The making of a task: what happens in the children of the shim.
//!
//! With namespaces the first child is pid 1 of a process table of its own; it builds the
//! container, makes the task's first process and then only collects what ends. Without, the first
//! child becomes the task. Both die with the shim.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::CloneFlags;
use nix::unistd;

use super::ShimSpec;
use crate::container::program::{KEPT_CAPABILITIES, Pipes, become_program};
use crate::container::view::View;
use crate::container::{ContainerSpec, ImageRoot, StartError, TaskDir, User};
use crate::sys::{self, Ending};

/// Longest host name the kernel takes.
const HOST_NAME_MAX: usize = 63;

/// What a newborn child holds.
#[derive(Debug)]
pub(super) struct Newborn<'a> {
    pub(super) spec: &'a ShimSpec,
    pub(super) dir: &'a TaskDir,
    pub(super) pipes: Pipes,
    /// To the shim: `ready`, or a `StartError`.
    pub(super) notes: File,
    /// To the shim: how the task's first process ended.
    pub(super) endings: OwnedFd,
    pub(super) shim_pid: i32,
}

impl Newborn<'_> {
    /// Lives the child's life; a failure goes to the shim as a note.
    pub(super) fn live(self) -> ! {
        let Ok(mut notes) = self.notes.try_clone() else { sys::exit_now(1) };
        let born = catch_unwind(AssertUnwindSafe(|| self.grow_up()));
        let error = born.unwrap_or_else(|_| StartError::machine("set up the container", "panic"));
        let line = serde_json::to_string(&error).unwrap_or_default();
        drop(writeln!(notes, "{line}"));
        sys::exit_now(1)
    }

    /// Returns only when the task could not be started.
    fn grow_up(self) -> StartError {
        let user = match self.isolate() {
            Ok(user) => user,
            Err(error) => return error,
        };
        let Self { spec, dir, pipes, mut notes, endings, shim_pid } = self;
        let work = dir.work();
        let container = ContainerSpec { user, ..spec.container.clone() };
        if !spec.namespaces {
            return become_program(&container, &work, pipes, &mut notes, Some(shim_pid));
        }
        match sys::clone_process(0, None) {
            Err(e) => StartError::machine("make the first process", e),
            Ok(None) => become_program(&container, &work, pipes, &mut notes, None),
            Ok(Some(first)) => be_init(first.pid, endings),
        }
    }

    /// Puts this process into the container. Says whom the task runs as.
    fn isolate(&self) -> Result<Option<User>, StartError> {
        let container = &self.spec.container;
        let mut user = container.user;
        if !self.spec.namespaces && (container.root.is_some() || !container.packages.is_empty()) {
            let why = "this machine cannot give tasks files of their own: it needs namespaces";
            return Err(StartError::machine("show its packages", why));
        }
        if let Some(hierarchies) = &self.spec.cgroups {
            let groups = hierarchies.clone().driver();
            groups
                .enter(container.id.as_str())
                .map_err(|e| StartError::machine("join the cgroup", e.in_full()))?;
        }
        if self.spec.namespaces {
            // Now, so that the group just joined is the root of what the task sees.
            nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
                .map_err(|e| StartError::machine("make a cgroup namespace", e))?;
            let name = container.id.as_str();
            unistd::sethostname(&name[..name.len().min(HOST_NAME_MAX)])
                .map_err(|e| StartError::machine("set the host name", e))?;
            let view = View {
                work: &self.dir.work(),
                binds: &container.binds,
                hidden: &self.spec.hidden,
                image: container.root.as_ref().map(|image| (image, self.dir.rootfs())),
                packages: &container.packages,
                scratch_bytes: container.ram_bytes,
            };
            view.enter()?;
            if let Some(of_image) =
                container.root.as_ref().map(ImageRoot::user).transpose()?.flatten()
            {
                std::os::unix::fs::chown(self.dir.work(), Some(of_image.uid), Some(of_image.gid))
                    .map_err(|e| StartError::machine("hand the task its directory", e))?;
                user = Some(of_image);
            }
        }
        if self.spec.drop_capabilities {
            sys::keep_capabilities(KEPT_CAPABILITIES)
                .map_err(|e| StartError::machine("drop capabilities", e))?;
        }
        if self.spec.namespaces {
            // After the last change of rights, which would undo it. Should the shim be dead
            // already, the task finds nobody to say go.
            sys::die_with_parent().map_err(|e| StartError::machine("bind to the shim", e))?;
        }
        Ok(user)
    }
}

/// Pid 1 of a container: collects what ends until the task's first process did, then ends, and
/// the kernel kills the rest. All signals are blocked, as inherited from the shim; those for the
/// task are sent to it directly.
fn be_init(first: i32, endings: OwnedFd) -> ! {
    sys::close_all_but(&endings);
    sys::never_mind(nix::sys::prctl::set_name(c"borglet-init"));
    // A task of the same user must not reach our memory, or it could forge how it ended.
    sys::never_mind(nix::sys::prctl::set_dumpable(false));
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
