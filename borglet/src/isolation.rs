//! How well this machine can keep tasks apart, found out by looking and by trying.
//!
//! Everything works with less; what is missing is said in plain words, once, here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupLayout, Hierarchies, detect};
use crate::shim;

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

/// What is in force on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Cgroups in use.
    pub cgroups: CgroupLayout,
    /// Whether we are root.
    pub root: bool,
    /// Whether tasks get namespaces and a read-only root.
    pub namespaces: bool,
    /// Whether tasks lose the capabilities they do not need.
    pub drop_capabilities: bool,
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
    let namespaces = match usable_namespaces(wanted, root, shim, scratch) {
        Ok(()) => true,
        Err(why) => {
            missing.push(format!("{why}: tasks share the host's process table"));
            missing.push(format!("{why}: tasks see the host's files and /tmp as the borglet does"));
            false
        }
    };
    let drop_capabilities = root && effective_capabilities() & CAP_SETPCAP != 0;
    if root && !drop_capabilities {
        missing.push("no CAP_SETPCAP: tasks keep the borglet's capabilities".to_owned());
    }
    let layout = driver.map_or(CgroupLayout::None, |driver| driver.layout());
    (Isolation { cgroups: layout, root, namespaces, drop_capabilities, missing }, cgroups)
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
) -> Result<(), String> {
    if !wanted.namespaces {
        return Err("namespaces are switched off".to_owned());
    }
    if !root {
        return Err("not root".to_owned());
    }
    let tried = Command::new(shim)
        .arg0(shim::NAME)
        .arg("try")
        .arg(scratch)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("the shim cannot be executed ({e})"))?;
    match String::from_utf8_lossy(&tried.stdout).trim() {
        "" if tried.status.success() => Ok(()),
        "" => Err(format!("no namespaces (the trial ended with {})", tried.status)),
        why => Err(format!("no namespaces ({why})")),
    }
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string(PathBuf::from("/proc/self/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
