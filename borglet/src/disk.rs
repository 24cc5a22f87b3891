//! How much of the disk a container's own files take.
//!
//! Found by walking its directories, as most file systems offer no quota for a directory. Follows no
//! link, stays on one file system, and stops at a bound: whoever has more files than that is over any
//! limit. Files that are open and have no name any more are counted by their descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files and directories that one walk looks at: our choice, above what any disk limit up to a
/// few TiB is worth.
const MOST_FILES: u64 = 1_000_000;
/// Deepest directory that is looked into. Ours; a path longer than the kernel takes cannot be walked.
const DEEPEST: usize = 256;
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
}

impl Walk {
    fn below(&mut self, root: &Path) {
        let Ok(top) = fs::symlink_metadata(root) else { return };
        self.devices.insert(top.dev());
        let mut left = vec![(root.to_owned(), 0)];
        while let Some((dir, depth)) = left.pop() {
            // It may be gone, or no directory any more.
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.filter_map(Result::ok) {
                if self.taken.files >= MOST_FILES {
                    return;
                }
                // Of the entry itself, not of what a link leads to.
                let Ok(found) = entry.metadata() else { continue };
                if found.dev() != top.dev() {
                    continue;
                }
                self.count(&found);
                if found.is_dir() && depth < DEEPEST {
                    left.push((entry.path(), depth + 1));
                }
            }
        }
    }

    fn nameless(&mut self, pid: i32) {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        for entry in open.filter_map(Result::ok) {
            // Leads to the open file whatever its name was.
            let Ok(found) = fs::metadata(entry.path()) else { continue };
            if found.is_file() && found.nlink() == 0 && self.devices.contains(&found.dev()) {
                self.count(&found);
            }
        }
    }

    fn count(&mut self, found: &fs::Metadata) {
        let several = found.nlink() != 1 && !found.is_dir();
        if several && !self.seen.insert((found.dev(), found.ino())) {
            return;
        }
        self.taken.files += 1;
        self.taken.bytes = self.taken.bytes.saturating_add(found.blocks().saturating_mul(BLOCK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
