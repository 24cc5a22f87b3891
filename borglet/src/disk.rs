//! How much of the disk a container's own files take.
//!
//! Found by walking its directories, as most file systems offer no quota for a directory. Follows no
//! link, stays on one file system, and stops at a bound: whoever has more files than that is over any
//! limit. Files that have no name any more are counted where they are open or mapped. One that is only on
//! its way through a socket is not seen.

use crate::sys;
use crate::tree::{self, Visitor};
use rustix::fs::Stat;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Most files and directories that one walk looks at. The supervisor allows fewer, so whoever has as many
/// is over its limit.
const MOST_FILES: u64 = borglet_supervisor::MOST_FILES + 1;
/// Unit of `st_blocks`.
const BLOCK: u64 = 512;

/// What files take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Looks at all below `roots`, and at what `processes` hold open that has no name.
pub(crate) fn taken(roots: &[PathBuf], processes: &[i32]) -> Taken {
    let mut walk = Walk::default();
    for root in roots {
        walk.below(root);
    }
    for pid in processes {
        walk.nameless(*pid);
    }
    walk.taken
}

#[derive(Debug, Default)]
struct Walk {
    taken: Taken,
    /// Of files with several names, those that were counted.
    seen: BTreeSet<(u64, u64)>,
    /// File systems of the roots.
    devices: BTreeSet<u64>,
    /// How many files that are open or mapped were looked at.
    looked: u64,
}

impl Walk {
    fn below(&mut self, root: &Path) {
        let Ok(top) = fs::symlink_metadata(root) else { return };
        self.devices.insert(top.dev());
        // It may be gone, or end early: what was found by then counts.
        sys::never_mind(tree::walk(root, &mut Below { walk: self, device: top.dev() }));
    }

    /// Files of a process that have no name: what it holds open, and what it only has mapped.
    fn nameless(&mut self, pid: i32) {
        let of = Path::new("/proc").join(pid.to_string());
        let open = fs::read_dir(of.join("fd")).into_iter().flatten().filter_map(Result::ok);
        let mapped = fs::read_to_string(of.join("maps")).unwrap_or_default();
        let mapped = mapped.lines().filter(|line| line.ends_with(" (deleted)"));
        let ranges = mapped.filter_map(|line| line.split(' ').next());
        let ranges = ranges.map(|range| of.join("map_files").join(plain_range(range)));
        for path in open.map(|entry| entry.path()).chain(ranges) {
            if self.looked >= MOST_FILES {
                return;
            }
            self.looked += 1;
            // Leads to the file whatever its name was.
            let Ok(found) = fs::metadata(path) else { continue };
            let known = self.devices.contains(&found.dev());
            if found.is_file() && found.nlink() == 0 && known {
                self.count((found.dev(), found.ino()), true, found.blocks());
            }
        }
    }

    fn count(&mut self, is: (u64, u64), several: bool, blocks: u64) {
        if several && !self.seen.insert(is) {
            return;
        }
        self.taken.files += 1;
        self.taken.bytes = self.taken.bytes.saturating_add(blocks.saturating_mul(BLOCK));
    }
}

/// As the kernel names the file of a mapping: without zeros in front.
fn plain_range(range: &str) -> String {
    let plain = |end: &str| end.trim_start_matches('0').to_owned();
    range.split_once('-').map_or_else(String::new, |(a, b)| format!("{}-{}", plain(a), plain(b)))
}

struct Below<'a> {
    walk: &'a mut Walk,
    device: u64,
}

impl Visitor for Below<'_> {
    fn entry(&mut self, _dir: BorrowedFd<'_>, _name: &CStr, found: &Stat) -> io::Result<bool> {
        if self.walk.taken.files >= MOST_FILES {
            return Err(io::Error::other("more files than are counted"));
        }
        if found.st_dev != self.device {
            return Ok(false);
        }
        let dir = tree::is_dir(found);
        let several = found.st_nlink != 1 && !dir;
        let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
        self.walk.count((found.st_dev, found.st_ino), several, blocks);
        Ok(dir)
    }

    fn left(&mut self, _above: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_written_counts_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("work");
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::write(root.join("deep/er/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(root.join("deep/er/file"), root.join("again")).unwrap();
        symlink("/", root.join("away")).unwrap();
        symlink(".", root.join("deep/round")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let taken = taken(&[root], &[]);
        assert_eq!(taken.files, 6, "two directories, two files, two links");
        assert!((100_000..1_000_000).contains(&taken.bytes), "{taken:?}");
    }

    #[test]
    fn a_file_without_a_name_counts_as_long_as_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let me = i32::try_from(std::process::id()).unwrap();
        let name = root.join("secret");
        let mut open = fs::File::create(&name).unwrap();
        open.write_all(&vec![1; 300_000]).unwrap();
        open.sync_all().unwrap();
        fs::remove_file(name).unwrap();
        let with = taken(std::slice::from_ref(&root), &[me]);
        assert!(with.bytes >= 300_000, "{with:?}");
        assert_eq!(taken(&[root], &[]), Taken::default());
    }

    #[test]
    fn depth_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let deepest = tree::nest(dir.path(), 600);
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(deepest, c"file", flags, Mode::RUSR).unwrap();
        fs::File::from(file).write_all(&vec![1; 300_000]).unwrap();
        let taken = taken(&[dir.path().to_owned()], &[]);
        assert!(taken.bytes >= 300_000 && taken.files == 601, "{taken:?}");
        tree::remove(&dir.keep()).unwrap();
    }

    #[test]
    fn a_file_that_is_only_mapped_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mapped");
        fs::write(&path, vec![1; 300_000]).unwrap();
        // A process that has it mapped and not open: one that is run from it.
        let sleep = fs::canonicalize("/bin/sleep").unwrap();
        fs::copy(sleep, &path).unwrap();
        let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();
        fs::remove_file(&path).unwrap();
        let pid = i32::try_from(running.id()).unwrap();
        // Whoever waits for it to be executed may go on before its files are mapped.
        let maps = || fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        while !maps().contains("/mapped (deleted)") {
            std::thread::yield_now();
        }
        let found = taken(&[dir.path().to_owned()], &[pid]);
        running.kill().unwrap();
        running.wait().unwrap();
        // Who may not look into map_files sees nothing.
        let expected = if nix::unistd::geteuid().is_root() { 1 } else { 0 };
        assert_eq!(found.files, expected, "{found:?}");
    }
}
