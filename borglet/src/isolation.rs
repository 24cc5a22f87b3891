//! How well this machine can keep tasks apart, found out by looking and by trying.
//!
//! Everything works with less; what is missing is said in plain words, once, here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use borg_proto::blobs::remove_tree;
use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupLayout, Hierarchies, detect};
use crate::container::users::{self, Users};
use crate::shim;
use crate::sys;

/// Dropping capabilities needs this one (number 8, linux/capability.h).
const CAP_SETPCAP: u64 = 1 << 8;

/// What isolation to use where it is there. Less than all is for tests and for odd machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationWanted {
    /// Limits and accounts by cgroups.
    pub cgroups: bool,
    /// Own process table, mounts, host name and so on.
    pub namespaces: bool,
}

impl IsolationWanted {
    /// All that the machine can do.
    pub const FULL: Self = Self { cgroups: true, namespaces: true };
    /// As an ordinary user on a machine without cgroups.
    pub const NONE: Self = Self { cgroups: false, namespaces: false };
}

/// Whose ids the processes of tasks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserIds {
    /// The machine's own.
    Machine,
    /// Each task a range that nobody else has.
    Range,
    /// The borglet's, who is not root.
    Own,
}

/// What is in force on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Cgroups in use.
    pub cgroups: CgroupLayout,
    /// Whether we are root.
    pub root: bool,
    /// Whether tasks get namespaces and a read-only root.
    pub namespaces: bool,
    /// Whose ids tasks have.
    pub users: UserIds,
    /// Whether tasks that bring an image can be started.
    pub images: bool,
    /// Whether tasks lose the capabilities they do not need.
    pub drop_capabilities: bool,
    /// Whether the system calls of tasks are filtered.
    pub filter: bool,
    /// Whether Landlock keeps tasks in.
    pub landlock: bool,
    /// What is not there and what follows from that, in plain words; empty when all is there.
    pub missing: Vec<String>,
}

/// Finds out, and makes our own cgroups ready if they can be used.
///
/// `group` is the name of our group at the top of each hierarchy, `shim` the binary that will be
/// the shim, `scratch` a directory of ours to try things in.
pub(crate) fn probe(
    wanted: IsolationWanted,
    group: &str,
    shim: &Path,
    scratch: &Path,
) -> (Isolation, Option<Hierarchies>) {
    let root = nix::unistd::geteuid().is_root();
    let mut missing = Vec::new();
    let cgroups = match usable_cgroups(wanted, root, group) {
        Ok(hierarchies) => Some(hierarchies),
        Err(why) => {
            missing.push(format!("{why}: cpu and memory limits are not enforced"));
            missing.push("no cgroups: the number of processes is not limited".to_owned());
            None
        }
    };
    let driver = cgroups.clone().map(Hierarchies::driver);
    missing.extend(driver.iter().flat_map(|driver| driver.missing()));
    let (namespaces, users) = match usable_namespaces(wanted, root, shim, scratch) {
        Ok(users) => (true, users),
        Err(why) => {
            missing.push(format!("{why}: tasks share the host's process table"));
            missing.push(format!("{why}: tasks see the host's files and /tmp as the borglet does"));
            (false, UserIds::Machine)
        }
    };
    if namespaces && users == UserIds::Machine {
        let why =
            "no user namespaces: root in a task is root of the machine, with few capabilities";
        missing.push(why.to_owned());
    }
    if users == UserIds::Own {
        missing.push("not root: tasks run as the borglet's user, who could end them".to_owned());
    }
    let images = usable_images(namespaces, users, shim, scratch);
    missing.extend(
        images.as_ref().err().map(|why| format!("{why}: no task that brings an image runs here")),
    );
    let drop_capabilities = root && effective_capabilities() & CAP_SETPCAP != 0;
    if root && !drop_capabilities {
        missing.push("no CAP_SETPCAP: tasks keep the borglet's capabilities".to_owned());
    }
    let filter = namespaces && Path::new("/proc/sys/kernel/seccomp").exists();
    if namespaces && !filter {
        missing.push("no seccomp: tasks may make every system call".to_owned());
    }
    let version = if namespaces { sys::landlock_version() } else { 0 };
    missing.extend(missing_of_landlock(version).filter(|_| namespaces).map(str::to_owned));
    let cgroup_layout = driver.map_or(CgroupLayout::None, |driver| driver.layout());
    let isolation = Isolation {
        cgroups: cgroup_layout,
        root,
        namespaces,
        users,
        images: images.is_ok(),
        drop_capabilities,
        filter,
        landlock: version > 0,
        missing,
    };
    (isolation, cgroups)
}

/// What a version of Landlock does not enforce (landlock(7)).
fn missing_of_landlock(version: u32) -> Option<&'static str> {
    match version {
        0 => Some(
            "no Landlock: tasks may listen on ports that are not theirs, and call daemons' abstract sockets",
        ),
        1..4 => Some(
            "an old Landlock: tasks may listen on ports that are not theirs, and call daemons' abstract sockets",
        ),
        4..6 => {
            Some("an old Landlock: tasks may call the abstract sockets of the machine's daemons")
        }
        6.. => None,
    }
}

fn usable_cgroups(wanted: IsolationWanted, root: bool, group: &str) -> Result<Hierarchies, String> {
    if !wanted.cgroups {
        return Err("cgroups are switched off".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = detect(&mounts, group).ok_or("no cgroups")?;
    if !root {
        return Err("not root, so no cgroups".to_owned());
    }
    let driver = found.clone().driver();
    driver.prepare().map_err(|e| format!("cgroups cannot be used ({})", e.in_full()))?;
    Ok(found)
}

/// The only sure way to know is to make a container: kernels, containers and policies each refuse
/// in their own way.
fn usable_namespaces(
    wanted: IsolationWanted,
    root: bool,
    shim: &Path,
    scratch: &Path,
) -> Result<UserIds, String> {
    if !wanted.namespaces {
        return Err("namespaces are switched off".to_owned());
    }
    let range = Users::Range { first: users::FIRST };
    let candidates = if root {
        vec![(UserIds::Range, range), (UserIds::Machine, Users::Machine)]
    } else {
        vec![(UserIds::Own, Users::own())]
    };
    let mut first_error = None;
    for (kind, users) in candidates {
        match try_container(users, shim, scratch, false) {
            Ok(()) => return Ok(kind),
            Err(why) => drop(first_error.get_or_insert(why)),
        }
    }
    Err(first_error.unwrap_or_default())
}

/// An overlay over files that are shown with other ids is more than namespaces are: kernels before 5.19 have no
/// such overlays, and some file systems no such ids.
fn usable_images(
    namespaces: bool,
    users: UserIds,
    shim: &Path,
    scratch: &Path,
) -> Result<(), String> {
    let users = match users {
        _ if !namespaces => return Err("no namespaces".to_owned()),
        UserIds::Own => return Err("not root".to_owned()),
        UserIds::Machine => Users::Machine,
        UserIds::Range => Users::Range { first: users::FIRST },
    };
    let dir = scratch.join(".trial");
    let made = remove_tree(&dir).and_then(|()| fs::create_dir_all(dir.join(shim::TRIAL_LAYER)));
    let tried = match made {
        Ok(()) => try_container(users, shim, &dir, true),
        Err(error) => Err(format!("{}: {error}", dir.display())),
    };
    if let Err(error) = remove_tree(&dir) {
        tracing::warn!(path = %dir.display(), %error, "remains of a trial");
    }
    tried
}

fn try_container(users: Users, shim: &Path, scratch: &Path, image: bool) -> Result<(), String> {
    let what = if image { "no root of an image" } else { "no namespaces" };
    let words = serde_json::to_string(&users).map_err(|e| e.to_string())?;
    let tried = Command::new(shim)
        .arg0(shim::NAME)
        .args(["try", &words])
        .arg(scratch)
        .args(image.then_some("image"))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("the shim cannot be executed ({e})"))?;
    match String::from_utf8_lossy(&tried.stdout).trim() {
        "" if tried.status.success() => Ok(()),
        "" => Err(format!("{what} (the trial ended with {})", tried.status)),
        why => Err(format!("{what} ({why})")),
    }
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string(PathBuf::from("/proc/self/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
