//! The shim: the small process that holds one task.
//!
//! It is this same binary executed again under the name [`NAME`], so that any binary that links
//! this crate can be its own shim: the first thing its `main` does is
//! `if shim::is_shim_invocation() { return shim::main() }`, before any thread exists.
//! `birth` makes the task, `watch` holds it to its end. What to do stands in the container's
//! directory; the shim decides nothing.
//!
//! Invariant: one thread, for ever; the shim splits itself and would otherwise risk locks held by
//! others. It outlives the borglet, and its task never outlives it.

mod birth;
mod hold;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use borg_proto::panics;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchies;
use crate::container::view::View;
use crate::container::{ContainerSpec, StartError, TaskDir};
use crate::sys;

/// The name (argv\[0\]) under which a binary is a shim.
pub const NAME: &str = "borglet-shim";

/// Namespaces of a container, beside the cgroup namespace, which it enters once it is in its group.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// What the borglet leaves in `spec.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub(crate) container: ContainerSpec,
    /// None: no cgroups here.
    pub(crate) cgroups: Option<Hierarchies>,
    pub(crate) namespaces: bool,
    pub(crate) drop_capabilities: bool,
    /// Directories of the host that the task must not see into.
    pub(crate) hidden: Vec<PathBuf>,
}

/// Whether this process was executed to be a shim.
pub fn is_shim_invocation() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Runs the shim. Only for a process of which [`is_shim_invocation`] holds.
pub fn main() -> ExitCode {
    panics::end_the_process();
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(verb), Some(dir)) if verb == "run" => hold::run(&TaskDir { root: dir.into() }),
        (Some(verb), Some(dir)) if verb == "try" => try_isolation(&PathBuf::from(dir)),
        (_, _) => {
            complain("a borglet starts this, not a person");
            ExitCode::from(2)
        }
    }
}

/// Where trouble is written down, once there is any.
static TROUBLE: OnceLock<PathBuf> = OnceLock::new();

/// Sends complaints, and the words of a panic, to a file in the container's directory.
fn complain_in(dir: &TaskDir) {
    if TROUBLE.set(dir.shim_err()).is_ok() {
        std::panic::set_hook(Box::new(|panic| complain(panic)));
        panics::end_the_process();
    }
}

fn complain(words: impl std::fmt::Display) {
    let Some(path) = TROUBLE.get() else {
        drop(writeln!(std::io::stderr(), "{NAME}: {words}"));
        return;
    };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    drop(file.map(|mut file| writeln!(file, "{words}")));
}

/// Finds out by doing whether containers work here: prints nothing when they do, the error when
/// not.
fn try_isolation(work: &std::path::Path) -> ExitCode {
    let attempt = || -> Result<(), StartError> {
        let child =
            sys::clone_process(NAMESPACES.bits() | CloneFlags::CLONE_NEWCGROUP.bits(), None)
                .map_err(|e| StartError::machine("make namespaces", e))?;
        if child.is_some() {
            sys::wait_any(true).map_err(|e| StartError::machine("wait", e))?;
            return Ok(());
        }
        let (image, packages) = (None, &[][..]);
        let view = View { work, binds: &[], hidden: &[], image, packages, scratch_bytes: 1 << 20 };
        let error = view.enter().err();
        say(error.as_ref());
        sys::exit_now(0);
    };
    say(attempt().err().as_ref());
    ExitCode::SUCCESS
}

fn say(error: Option<&StartError>) {
    if let Some(error) = error {
        drop(write!(std::io::stdout(), "{error}"));
        drop(std::io::stdout().flush());
    }
}
