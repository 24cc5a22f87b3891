//! Reading and writing the small files of a cgroup, with errors that name them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::sys::signal::Signal;

use super::CgroupError;
use crate::sys;

/// How long a removal waits for ending processes: 200 times 5 ms.
const REMOVE_TRIES: u32 = 200;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}

pub(super) fn make_dir(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(failed("create", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes in one write call, without creating or truncating.
pub(super) fn put(path: &Path, value: impl ToString) -> Result<(), CgroupError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, value.to_string().as_bytes())
    };
    write().map_err(failed("write", path))
}

/// As [`put`], where the kernel may lack the file (swap accounting, older versions).
pub(super) fn put_if_there(path: &Path, value: impl ToString) -> Result<(), CgroupError> {
    match put(path, value) {
        Err(e) if e.source.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

pub(super) fn text(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

pub(super) fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = text(path)?;
    text.trim()
        .parse()
        .map_err(|_| failed("understand", path)(io::Error::new(ErrorKind::InvalidData, text)))
}

/// The number beside `key` in a file of `key number` lines; 0 when there is none.
pub(super) fn keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    Ok(find_key(&text(path)?, key))
}

fn find_key(text: &str, key: &str) -> u64 {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key).and_then(|(_, n)| n.trim().parse().ok()).unwrap_or(0)
}

/// Sums of bytes and of operations over all devices of v2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 ...`.
pub(super) fn io_stat(path: &Path) -> Result<(u64, u64), CgroupError> {
    if !path.exists() {
        return Ok((0, 0));
    }
    let text = text(path)?;
    let sum = |keys: [&str; 2]| {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        let wanted = pairs.filter(|(key, _)| keys.contains(key));
        wanted.filter_map(|(_, n)| n.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    Ok((sum(["rbytes", "wbytes"]), sum(["rios", "wios"])))
}

/// The number behind `Total` in a file of v1's blkio; 0 where there is none.
pub(super) fn blkio_total(path: &Path) -> Result<u64, CgroupError> {
    if path.exists() { keyed(path, "Total") } else { Ok(0) }
}

pub(super) fn pids(group: &Path) -> Result<Vec<i32>, CgroupError> {
    let path = group.join("cgroup.procs");
    match text(&path) {
        Err(e) if e.source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
    }
}

/// Names of the groups below `group`, in order, without our own that begin with an underscore.
pub(super) fn groups_below(group: &Path) -> Result<Vec<String>, CgroupError> {
    let entries = match fs::read_dir(group) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", group))?,
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('_'))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes a group that is empty or about to be.
pub(super) fn remove_dir(path: &Path) -> Result<(), CgroupError> {
    for attempt in 0.. {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() != ErrorKind::ResourceBusy || attempt == REMOVE_TRIES => {
                return Err(failed("remove", path)(e));
            }
            Ok(()) => return Ok(()),
            Err(_) => sys::pause_ms(if attempt < 5 { 1 } else { 5 }),
        }
    }
    Ok(())
}

/// Kills whatever is in `group` until nothing is, for trees and kernels without `cgroup.kill`.
/// The caller stops births first where it can.
pub(super) fn kill_one_by_one(group: &Path) -> Result<(), CgroupError> {
    for _ in 0..REMOVE_TRIES {
        let pids = pids(group)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // One that ended meanwhile is what we want.
            sys::never_mind(nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                Signal::SIGKILL,
            ));
        }
        sys::pause_ms(2);
    }
    Err(failed("kill all of", group)(io::Error::from(ErrorKind::TimedOut)))
}

/// Kills all of a group in a v2 tree.
pub(super) fn kill_v2(group: &Path) -> Result<(), CgroupError> {
    match put(&group.join("cgroup.kill"), 1) {
        Err(e) if e.source.kind() == ErrorKind::NotFound && group.is_dir() => {
            // Linux before 5.14. What is frozen gives no birth, and dies when it is killed.
            put_if_there(&group.join("cgroup.freeze"), 1)?;
            kill_one_by_one(group)
        }
        Err(e) if e.source.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(find_key(text, "oom_kill"), 3);
        assert_eq!(find_key(text, "oom"), 0);
    }
}
