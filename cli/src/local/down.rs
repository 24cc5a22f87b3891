//! Taking a local cell away.

use super::{Daemon, Layout, LocalCell, LocalError, Process, system};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// Where a borglet writes whose its directory is.
const OWNER_FILE: &str = "owner.json";
/// How deep below the roots of the cgroup hierarchies a borglet's own group may be.
const CGROUP_DEPTH: u32 = 2;
/// How long a daemon has to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stops every process of the cell in `dir`, its tasks included, and removes the directory unless
/// it is to be kept for `up` again.
///
/// # Errors
/// When there is no cell, or something of it is still there afterwards; then the directory stays.
pub async fn down(dir: &Path, keep: bool) -> Result<(), LocalError> {
    let dir = dir.canonicalize().map_err(|_| LocalError::Missing(dir.to_owned()))?;
    let layout = Layout::new(&dir);
    let _held = layout.hold()?;
    let mut cell = LocalCell::load(&dir)?;
    let cgroups = groups_of(&layout, &cell);
    // The borglets first: without them nobody starts a task again.
    stop_all(cell.borglets.iter().filter_map(|daemon| daemon.process)).await;
    let mut left = Vec::new();
    for borglet in &cell.borglets {
        let data = layout.data(&borglet.name);
        if !data.join(OWNER_FILE).exists() {
            continue; // it never came to run anything
        }
        if let Err(error) = borglet::destroy(&data).await {
            left.push(format!("tasks of {}: {error}", borglet.name));
        }
    }
    stop_all(cell.masters.iter().filter_map(|daemon| daemon.process)).await;
    left.extend(leftovers(&layout, &cell, &cgroups));
    if !left.is_empty() {
        return Err(LocalError::Left(left.join("; ")));
    }
    if keep {
        for daemon in cell.masters.iter_mut().chain(&mut cell.borglets) {
            daemon.process = None;
        }
        return cell.save(&layout);
    }
    for entry in layout.entries() {
        let removed =
            if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(system(format!("remove {}", entry.display()))(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    match fs::remove_dir(&dir) {
        // Somebody has put files of his own there.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed.map_err(system(format!("remove {}", dir.display()))),
    }
}

async fn stop_all(processes: impl Iterator<Item = Process>) {
    let processes: Vec<_> = processes.collect();
    for process in &processes {
        drop(process.signal(Signal::SIGTERM));
    }
    for process in &processes {
        if !process.wait_gone(PATIENCE).await {
            drop(process.signal(Signal::SIGKILL));
            process.wait_gone(PATIENCE).await;
        }
    }
}

/// What of a cell is still there: processes of it, mounts below its directory, its cgroups. Looks
/// at the system itself, not at what the cell believes.
fn leftovers(layout: &Layout, cell: &LocalCell, cgroups: &BTreeSet<String>) -> Vec<String> {
    // With the separator: a neighbour's name may begin with ours.
    let dir = format!("{}/", layout.dir().display());
    let mut left: Vec<String> = cell
        .daemons()
        .filter(|daemon| daemon.is_running())
        .map(|daemon| format!("process {}", daemon.name))
        .collect();
    left.extend(shims(&dir).into_iter().map(|pid| format!("process {pid} of a task")));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(
        mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")),
    );
    find_groups(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH, cgroups, &mut left);
    left
}

/// Processes that hold a task of a borglet below `dir`.
fn shims(dir: &str) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let pids = processes.filter_map(Result::ok).filter_map(pid);
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with(borglet::shim::NAME) && line.contains(dir)
    })
    .collect()
}

/// The names of the cgroups that the cell's borglets made; gone from disk with the directory, so
/// they are read before.
fn groups_of(layout: &Layout, cell: &LocalCell) -> BTreeSet<String> {
    let name = |borglet: &Daemon| {
        let text = fs::read_to_string(layout.data(&borglet.name).join(OWNER_FILE)).ok()?;
        let owner: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(owner.get("cgroup")?.as_str()?.to_owned())
    };
    cell.borglets.iter().filter_map(name).collect()
}

fn find_groups(at: &Path, depth: u32, names: &BTreeSet<String>, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(at) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if names.contains(name) {
            found.push(format!("cgroup {}", path.display()));
        } else if depth > 0 && path.is_dir() && !path.is_symlink() {
            find_groups(&path, depth - 1, names, found);
        }
    }
}
