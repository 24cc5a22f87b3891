//! DOES: a file or directory as a tar stream, and a tar stream as files, for copying into and out of a task.
//!
//! Whoever unpacks trusts neither the stream nor the directory: names that leave it, and names below a
//! symbolic link, are refused with the entry's name, whoever put the link there and whenever. Kept are files,
//! directories and links that stay within what is copied; rights are those of the mode's nine bits, less
//! those that the process's umask takes from what it makes.
//!
//! Invariant: nothing is opened but by a path below the open directory in which no link is followed.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod pack;
mod unpack;

pub use pack::pack;
pub use unpack::unpack;

use borg_proto::layer::raw::TarError;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How much one copy may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Bounds {
    /// 8 GiB in 100,000 entries: ours.
    fn default() -> Self {
        Self { bytes: 8 << 30, entries: 100_000 }
    }
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// What was left out and why, at most [`LEFT_OUT_TOLD`] of them.
    pub left_out: Vec<String>,
}

/// Most names of what was left out that are told.
pub const LEFT_OUT_TOLD: usize = 20;

impl Summary {
    fn leave_out(&mut self, path: &Path, why: &str) {
        if self.left_out.len() < LEFT_OUT_TOLD {
            // Each is a line.
            let name = path.display().to_string().replace('\n', "\\u{a}");
            self.left_out.push(format!("{name}: {why}"));
        }
    }

    fn count(&mut self, bytes: u64, bounds: &Bounds) -> Result<(), ArchiveError> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries += 1;
        if self.bytes > bounds.bytes {
            return Err(ArchiveError::TooMuch { what: "bytes", most: bounds.bytes });
        }
        if self.entries > bounds.entries {
            return Err(ArchiveError::TooMuch { what: "entries", most: bounds.entries });
        }
        Ok(())
    }
}

/// A copy that was broken off; what was written until then stays.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is nothing to copy.
    #[error("{}: {source}", .path.display())]
    Source {
        /// What was to be copied.
        path: PathBuf,
        /// Why it cannot be.
        #[source]
        source: io::Error,
    },
    /// The stream's headers are larger than those of any honest one.
    #[error(transparent)]
    Headers(TarError),
    /// The stream is no tar archive, or ends within an entry, or cannot be read or written.
    #[error("the archive breaks off: {0}")]
    Stream(#[source] io::Error),
    /// An entry that must not be.
    #[error("entry {name:?} {why}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Where it should go cannot be written.
    #[error("{}: {source}", .path.display())]
    Target {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More than is allowed.
    #[error("more than {most} {what}")]
    TooMuch {
        /// `bytes` or `entries`.
        what: &'static str,
        /// Most that is allowed.
        most: u64,
    },
}

impl From<TarError> for ArchiveError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => Self::Stream(source),
            TarError::TooMuch { .. } => Self::Headers(error),
        }
    }
}

/// Whether a link's target stays within the copied tree, seen from where the link is. A name in it may be a
/// link itself, so that `..` after one begins wherever that leads: only before all names is it known to stay.
fn stays_within(link: &Path, target: &Path) -> bool {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_));
    // The directory that holds the link, below the top of what is copied.
    let mut depth = link.components().filter(is_name).count().saturating_sub(2);
    let mut is_below = false;
    target.components().all(|part| match part {
        Component::Normal(_) => {
            is_below = true;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if depth > 0 && !is_below => {
            depth -= 1;
            true
        }
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_within_what_is_copied_or_does_not() {
        let within = |link: &str, target: &str| stays_within(Path::new(link), Path::new(target));
        assert!(within("top/a", "b") && within("top/d/a", "../b") && within("top/d/a", "./../b/c"));
        assert!(!within("top/a", "../b") && !within("top/a", "/etc/passwd"));
        assert!(!within("top/d/a", "../../b") && !within("top/a", "d/../../b"));
        assert!(!within("top", "../x") && within("top", "x"));
        assert!(!within("./top/a", "../b"), "the same name");
        // Where l leads to its own directory this is three above it.
        assert!(!within("top/d/a", "l/../b") && !within("top/x", "l/l/l/../../../etc/passwd"));
    }
}
