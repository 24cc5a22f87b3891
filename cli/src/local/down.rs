//! Taking a local cell away.

use super::{Layout, LocalCell, LocalError, Process, system};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

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
    let mut cell = LocalCell::load(&dir)?;
    // The borglets first: without them nobody starts a task again.
    stop_all(cell.borglets.iter().filter_map(|daemon| daemon.process)).await;
    let mut left = Vec::new();
    for borglet in &cell.borglets {
        if let Err(error) = borglet::destroy(&layout.data(&borglet.name)).await {
            left.push(format!("tasks of {}: {error}", borglet.name));
        }
    }
    stop_all(cell.masters.iter().filter_map(|daemon| daemon.process)).await;
    left.extend(leftovers(&cell));
    if !left.is_empty() {
        return Err(LocalError::Left(left.join("; ")));
    }
    if keep {
        for daemon in cell.masters.iter_mut().chain(&mut cell.borglets) {
            daemon.process = None;
        }
        return cell.save(&layout);
    }
    fs::remove_dir_all(&dir).map_err(system(format!("remove {}", dir.display())))
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

/// What of a cell is still there: its daemons. (Tasks, mounts and cgroups are the borglet's to
/// account for, in [`borglet::destroy`].)
#[must_use]
pub fn leftovers(cell: &LocalCell) -> Vec<String> {
    let running = cell.daemons().filter(|daemon| daemon.is_running());
    running.map(|daemon| format!("process {}", daemon.name)).collect()
}
