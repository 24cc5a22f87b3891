//! When which part of a log was written: a small file beside each file of the log.
//!
//! `stdout.0000000000000000` has `stdout.0000000000000000.times`: pairs of a time in milliseconds since 1970 and
//! an offset since the task began, 8 bytes each, least byte first. What lies before the offset was written
//! before the time. The log itself stays what the task wrote and nothing else.
//!
//! Invariant: what was written a second or more after an entry has one of its own, so nothing that was written
//! at a time is taken to be older. The writer begins a new file rather than let an index grow too long.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Least time between two entries, in milliseconds: ours. People ask by the second.
const EVERY_MS: u64 = 1_000;
/// Bytes of one entry.
const ENTRY: u64 = 16;

/// Writes the index of one file of a log.
#[derive(Debug)]
pub(super) struct TimesWriter {
    file: File,
    entries: u64,
    last_ms: u64,
}

impl TimesWriter {
    pub(super) fn create(log: &Path) -> io::Result<Self> {
        let file = File::options().create_new(true).append(true).open(path_of(log))?;
        Ok(Self { file, entries: 0, last_ms: 0 })
    }

    /// Whether what is written now needs an entry. A clock that was set back counts as standing still.
    pub(super) fn needs_entry(&self, now_ms: u64) -> bool {
        self.entries == 0 || now_ms >= self.last_ms.saturating_add(EVERY_MS)
    }

    /// How large the index is.
    pub(super) fn bytes(&self) -> u64 {
        self.entries * ENTRY
    }

    /// Notes that what comes at `offset` is written now, where that is not known already.
    pub(super) fn note(&mut self, now_ms: u64, offset: u64) -> io::Result<()> {
        if !self.needs_entry(now_ms) {
            return Ok(());
        }
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&now_ms.to_le_bytes());
        entry[8..].copy_from_slice(&offset.to_le_bytes());
        self.file.write_all(&entry)?;
        (self.entries, self.last_ms) = (self.entries + 1, now_ms);
        Ok(())
    }
}

/// The index of one file of a log, for reading.
#[derive(Debug)]
pub(super) struct Times {
    file: File,
    entries: u64,
}

/// A moment and where in the log it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at_ms: u64,
    pub(super) offset: u64,
}

impl Times {
    /// `None` when the log has no index, as those of older borglets.
    pub(super) fn open(log: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path_of(log)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // An entry that is being written does not count.
        let entries = file.metadata()?.len() / ENTRY;
        Ok(Some(Self { file, entries }))
    }

    fn entry(&self, number: u64) -> io::Result<Moment> {
        let mut entry = [0; 16];
        self.file.read_exact_at(&mut entry, number * ENTRY)?;
        let [at_ms, offset] = [0, 8].map(|from| {
            let bytes: [u8; 8] = entry[from..from + 8].try_into().expect("half of 16 is 8");
            u64::from_le_bytes(bytes)
        });
        Ok(Moment { at_ms, offset })
    }

    /// How many entries there are before the first that `over` holds of, which then holds of all after it.
    fn before(&self, over: impl Fn(Moment) -> bool) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if over(self.entry(middle)?) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// From where on the log was written at `ms` or later, or up to a second before: `None` when that is where
    /// it ends.
    pub(super) fn since(&self, ms: u64) -> io::Result<Option<u64>> {
        // Its bytes may have been written until a second after it.
        let first = self.before(|moment| moment.at_ms.saturating_add(EVERY_MS) > ms)?;
        if first == self.entries { Ok(None) } else { Ok(Some(self.entry(first)?.offset)) }
    }

    /// When the byte at `offset` was written, and where the next noted moment begins.
    pub(super) fn at(&self, offset: u64) -> io::Result<(u64, Option<u64>)> {
        let next = self.before(|moment| moment.offset > offset)?;
        let at = next.checked_sub(1).map(|number| self.entry(number)).transpose()?;
        let until = if next < self.entries { Some(self.entry(next)?.offset) } else { None };
        Ok((at.map_or(0, |moment| moment.at_ms), until))
    }
}

/// The index of a log's file. Its name is none of a log's files.
pub(super) fn path_of(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".times");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_a_little_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("stdout.0");
        assert!(Times::open(&log).unwrap().is_none());
        let mut writer = TimesWriter::create(&log).unwrap();
        for (now, offset) in [(1_000, 0), (1_500, 10), (2_000, 20), (500, 30), (9_000, 40)] {
            writer.note(now, offset).unwrap();
        }
        let times = Times::open(&log).unwrap().unwrap();
        let since = |ms| times.since(ms).unwrap();
        assert_eq!([since(0), since(1_000), since(1_999)], [Some(0); 3]);
        assert_eq!([since(2_000), since(2_999)], [Some(20); 2]);
        assert_eq!([since(3_000), since(9_000), since(9_999)], [Some(40); 3]);
        assert_eq!(since(10_000), None);
        assert_eq!(times.at(5).unwrap(), (1_000, Some(20)));
        assert_eq!(times.at(20).unwrap(), (2_000, Some(40)));
        assert_eq!(times.at(99).unwrap(), (9_000, None));
    }

    #[test]
    fn half_an_entry_at_the_end_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("stdout.0");
        let mut writer = TimesWriter::create(&log).unwrap();
        writer.note(1, 0).unwrap();
        writer.file.write_all(&[1, 2, 3]).unwrap();
        assert_eq!(Times::open(&log).unwrap().unwrap().entries, 1);
    }
}
