//! What /proc says about processes, as the host sees them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// The figures of one process that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    /// Processor time in clock ticks, its own and that of its collected children.
    pub(crate) cpu_ticks: u64,
    /// Start, in clock ticks since boot: with the pid, a name for the process.
    pub(crate) start_ticks: u64,
    /// Resident memory in pages.
    pub(crate) rss_pages: u64,
}

/// Looks at process `pid`.
pub(crate) fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Field numbers as in proc_pid_stat(5), of which the state is the third. The name before it may
/// hold anything, so the fields are counted from its last parenthesis.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        start_ticks: number(22)?,
        rss_pages: number(24)?,
    })
}

/// Whom process `pid` acts as, by the machine's ids: user and group.
pub(crate) fn owner(pid: i32) -> io::Result<(u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // Real, effective, saved, and for files.
    let effective = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let ids = effective("Uid:").zip(effective("Gid:"));
    ids.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text.clone()))
}

/// The children of `pid`, which must have a single thread.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without that file.
        Err(_) => everyone().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| pid).collect(),
    }
}

/// All processes below `root`, parents before children.
pub(crate) fn descendants(root: i32) -> Vec<i32> {
    let all: Vec<(i32, Stat)> = everyone().collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| pid));
        next += 1;
    }
    found.split_off(1)
}

fn everyone() -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(pid).ok()?))
    })
}

/// Processes executed under `name` that have `path` among their arguments.
pub(crate) fn with_argument(name: &str, path: &Path) -> Vec<i32> {
    let path = path.as_os_str().as_encoded_bytes();
    let matches = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(name.as_bytes()) && words.any(|word| word == path)
    };
    everyone().map(|(pid, _)| pid).filter(matches).collect()
}

/// Names the time between two starts of the machine. Empty where /proc does not tell. Read once: it stays the
/// same while anybody can ask.
pub(crate) fn boot_id() -> String {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    BOOT_ID.get_or_init(|| read().trim().to_owned()).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_act_as_ourselves() {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        assert_eq!(owner(nix::unistd::getpid().as_raw()).unwrap(), own);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        fields[0] = "S".into();
        let stat = parse(&format!("7 (a) b (c)) {}", fields.join(" "))).unwrap();
        assert_eq!((stat.parent, stat.start_ticks, stat.rss_pages), (4, 22, 24));
        assert_eq!(stat.cpu_ticks, 14 + 15 + 16 + 17);
    }
}
