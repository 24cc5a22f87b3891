//! The shim: the small process that holds one task.
//!
//! This same binary executed again under the name [`NAME`] is the `nursery`, which makes the
//! shims; so any binary that links this crate can be its own: the first thing its `main` does is
//! `if shim::is_shim_invocation() { return shim::main() }`, before any thread exists.
//! `birth` makes the task, `watch` holds it to its end. What to do stands in the container's
//! directory; the shim decides nothing.
//!
//! Invariant: one thread, for ever; the shim splits itself and would otherwise risk locks held by
//! others. It outlives the borglet, and its task never outlives it.

mod birth;
pub(crate) mod enter;
mod errand;
mod hold;
mod nursery;
mod watch;

pub(crate) use nursery::Nursery;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use borg_proto::{Privilege, panics};
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::cgroup::Hierarchies;
use crate::container::fence::Fence;
use crate::container::program::Setting;
use crate::container::users::Users;
use crate::container::view::View;
use crate::container::{ContainerSpec, ImageRoot, Record, StartError, TaskDir, User};
use crate::sys;

/// The name (argv\[0\]) under which a binary is a shim.
pub const NAME: &str = "borglet-shim";

/// Namespaces of a container, beside the cgroup namespace, which it enters once it is in its group.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// What the borglet asks for in a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub(crate) container: ContainerSpec,
    /// None: no cgroups here.
    pub(crate) cgroups: Option<Hierarchies>,
    pub(crate) namespaces: bool,
    /// Whose ids the task has.
    pub(crate) users: Users,
    pub(crate) drop_capabilities: bool,
    /// Whether its system calls are filtered.
    pub(crate) filter: bool,
    /// Whether Landlock keeps it in.
    pub(crate) landlock: bool,
    /// Directories of the host that the task must not see into.
    pub(crate) hidden: Vec<PathBuf>,
}

impl ShimSpec {
    /// Whom the task runs as. To be called in its container, where its image can be looked into.
    fn user(&self) -> Result<Option<User>, StartError> {
        match &self.container.root {
            Some(image) => image.user(),
            None => Ok(self.container.user),
        }
    }

    /// What the task's processes are started with. `work` is its own directory. To be called in its
    /// container.
    pub(crate) fn setting(&self, work: PathBuf) -> Result<Setting<'_>, StartError> {
        Ok(Setting {
            spec: &self.container,
            user: self.user()?,
            users: self.users,
            drop_capabilities: self.drop_capabilities,
            fence: self.fence(&work),
            filter: self.filter,
            work,
        })
    }

    /// What the task may do by Landlock. `work` is its own directory.
    fn fence(&self, work: &Path) -> Option<Fence> {
        let binds = self.container.binds.iter().filter(|bind| bind.writable);
        let writable = binds.map(|bind| bind.path.clone()).chain([work.to_owned()]).collect();
        // An image's own files are the task's to write.
        let writable = self.container.root.is_none().then_some(writable);
        let any_port = self.container.loosen.contains(&Privilege::Listen);
        let ports = self.container.ports.clone().filter(|_| !any_port);
        let fence = Fence { writable, ports };
        self.landlock.then_some(fence)
    }
}

/// Name of the borglet's cgroups in the bytes of a record, if they make sense.
pub(crate) fn cgroup_in(record: &[u8]) -> Option<String> {
    let asked = Record::<ShimSpec>::parse(record).asked?;
    Some(match asked.cgroups? {
        Hierarchies::V1(v1) => v1.name,
        Hierarchies::V2(v2) => v2.name,
    })
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
        (Some(verb), Some(cgroups)) if verb == "nurse" => {
            nursery::nurse(&cgroups.to_string_lossy())
        }
        (Some(verb), Some(dir)) if verb == "enter" => enter::run(&TaskDir { root: dir.into() }),
        (Some(verb), Some(users)) if verb == "try" => {
            let users = serde_json::from_str(&users.to_string_lossy());
            match (users, args.next()) {
                (Ok(users), Some(dir)) => {
                    try_isolation(users, Path::new(&dir), args.next().is_some())
                }
                (_, _) => ExitCode::from(2),
            }
        }
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

/// The directory in that of a trial which is the only layer of its image.
pub(crate) const TRIAL_LAYER: &str = "layer";

/// Finds out by doing whether containers work here with these users, with an image if that is asked for:
/// prints nothing when they do, the error when not.
fn try_isolation(users: Users, work: &Path, image: bool) -> ExitCode {
    say(try_container(users, work, image).err().as_ref());
    ExitCode::SUCCESS
}

fn try_container(users: Users, work: &Path, image: bool) -> Result<(), StartError> {
    let trouble = |step: &'static str| move |e: std::io::Error| StartError::machine(step, e);
    let (ids, ids_in) = std::io::pipe().map_err(trouble("make a pipe"))?;
    let namespaces = NAMESPACES | users.around();
    let child = sys::clone_process(namespaces.bits(), None).map_err(trouble("make namespaces"))?;
    let Some(child) = child else {
        drop(ids_in);
        let error = try_inside(users, work, image, ids).err();
        say(error.as_ref());
        sys::exit_now(0);
    };
    if !users.around().is_empty() {
        users.map(Path::new("/proc"), child.pid).map_err(trouble("give the container its ids"))?;
    }
    (&ids_in).write_all(b"i").map_err(trouble("go on"))?;
    sys::wait_any(true).map(drop).map_err(trouble("wait"))
}

fn try_inside(
    users: Users,
    work: &Path,
    image: bool,
    mut ids: impl Read,
) -> Result<(), StartError> {
    let root = ImageRoot {
        image: "of a trial".to_owned(),
        layers: vec![work.join(TRIAL_LAYER)],
        user: String::new(),
    };
    ids.read_exact(&mut [0]).map_err(|e| StartError::machine("wait for ids", e))?;
    let view = View {
        work: work.to_owned(),
        binds: &[],
        hidden: &[],
        groups: None,
        image: image.then(|| (&root, work.join("root"))),
        workdir: None,
        packages: &[],
        scratch_bytes: 1 << 20,
        users,
        all_devices: false,
    };
    let held = view.begin()?;
    let namespaces = CloneFlags::CLONE_NEWCGROUP | users.inside();
    let first = sys::clone_process(namespaces.bits(), None);
    let Some(first) = first.map_err(|e| StartError::machine("make a first process", e))? else {
        // Until it is killed with the container.
        loop {
            sys::pause_ms(u16::MAX);
        }
    };
    let mut namespace = None;
    if !users.inside().is_empty() {
        let mapped = users.map(Path::new("/proc"), first.pid);
        mapped.map_err(|e| StartError::machine("give a task its ids", e))?;
        namespace = File::open(format!("/proc/{}/ns/user", first.pid)).ok();
    }
    view.complete(held, namespace.as_ref())
}

fn say(error: Option<&StartError>) {
    if let Some(error) = error {
        drop(write!(std::io::stdout(), "{error}"));
        drop(std::io::stdout().flush());
    }
}
