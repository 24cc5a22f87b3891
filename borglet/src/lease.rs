//! The file by which exclusive tasks learn that they may go on: written by the borglet, read by
//! each task's shim.
//!
//! It holds one moment in milliseconds since boot. The borglet moves it on while it hears of the
//! masters; a shim that finds it reached ends its task, borglet or no borglet. It is never synced:
//! after a power cut there is no task for it to be true of.
//!
//! Invariant: whatever cannot be read, is torn, or is of another boot extends nothing.

use crate::procfs;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the file in a borglet's directory.
const LEASE_FILE: &str = "lease";

/// When an exclusive task ends, and where to look whether that is later by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Milliseconds since boot.
    pub until_boot_ms: u64,
    /// The borglet's file.
    pub file: PathBuf,
}

/// The file of the borglet whose directory this is.
pub(crate) fn file_in(home: &Path) -> PathBuf {
    home.join(LEASE_FILE)
}

/// Moves the end of all leases of this machine to `until_boot_ms`.
pub(crate) fn extend(file: &Path, until_boot_ms: u64) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    // In place and always of the same length: a full disk does not end tasks.
    options.open(file)?.write_all_at(line(until_boot_ms, &procfs::boot_id()).as_bytes(), 0)
}

/// Number, its complement, and the boot: half of an old line and half of a new one is no line.
fn line(until_boot_ms: u64, boot: &str) -> String {
    format!("{until_boot_ms:016x} {:016x} {boot}\n", !until_boot_ms)
}

impl Lease {
    /// Milliseconds that are left at `boot_ms`; 0 when the task must end. Looks at the file only
    /// when what is known has run out.
    pub(crate) fn left(&mut self, boot_ms: u64) -> u64 {
        if self.until_boot_ms <= boot_ms
            && let Some(until) = self.read()
        {
            self.until_boot_ms = self.until_boot_ms.max(until);
        }
        self.until_boot_ms.saturating_sub(boot_ms)
    }

    fn read(&self) -> Option<u64> {
        let boot = procfs::boot_id();
        // A write may be under way: it is over in no time.
        (0..3).find_map(|_| {
            let text = fs::read_to_string(&self.file).ok()?;
            let until = u64::from_str_radix(text.get(..16)?, 16).ok()?;
            (text == line(until, &boot)).then_some(until)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_extended_by_a_whole_line_of_this_boot_and_by_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_in(dir.path());
        let mut lease = Lease { until_boot_ms: 1_000, file: file.clone() };
        assert_eq!(lease.left(400), 600);
        assert_eq!(lease.left(1_000), 0, "there is no file");
        extend(&file, 5_000).unwrap();
        assert_eq!(lease.left(1_500), 3_500);
        extend(&file, 9_000).unwrap();
        assert_eq!(lease.left(2_000), 3_000, "it looks again only when it must");
        assert_eq!(lease.left(5_000), 4_000);
        for bad in [line(20_000, "another-boot"), line(20_000, &procfs::boot_id())[..30].into()] {
            fs::write(&file, bad).unwrap();
            assert_eq!(lease.left(9_000), 0);
        }
    }
}
