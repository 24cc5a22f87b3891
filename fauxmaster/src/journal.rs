//! What was computed already, kept in a file as it comes: whoever stops a long question loses nothing.
//!
//! One line for each order of machines that was compacted: what it was asked of, and the answer. The file may be
//! asked about anything; lines of other questions are left alone.
//!
//! Invariant: an answer from the file is the one that would be computed. Its key covers the version of the code, the
//! machines, the work and the weights.

use crate::Error;
use crate::questions::compact::Kept;
use crate::work::Work;
use borg_scheduler::Weights;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

/// Answers that were found before.
#[derive(Debug, Default)]
pub struct Journal {
    known: BTreeMap<(u64, u64), Kept>,
    /// With its name.
    file: Option<(PathBuf, Mutex<File>)>,
}

impl Journal {
    /// One that knows nothing and keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One that is kept in a file, which is made if it is not there. A last line that was cut off is forgotten.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a line is not of a journal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        // Of a pipe or a device nobody knows the end.
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(format!("{}: is no plain file", path.display()).into());
        }
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(wrong)?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut known = BTreeMap::new();
        for (number, line) in (1..).zip(text[..whole].lines()) {
            let (key, kept) = parsed(line).ok_or_else(|| {
                format!(
                    "{}:{number}: expected KEY SEED MACHINES WAITING TRIES, as written by --resume",
                    path.display()
                )
            })?;
            known.insert((key, kept.seed), kept);
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(wrong)?;
        if whole < text.len() {
            file.set_len(u64::try_from(whole)?).map_err(wrong)?;
        }
        Ok(Self { known, file: Some((path.to_owned(), Mutex::new(file))) })
    }

    /// What answers about this work with these weights are kept under.
    #[must_use]
    pub fn key(&self, work: &Work, weights: Weights) -> u64 {
        // Nobody asks a journal that keeps nothing, and telling large work in full takes a while.
        if self.file.is_none() {
            return 0;
        }
        let version = env!("CARGO_PKG_VERSION");
        xxh3_64(format!("{version} {weights:?} {work:?}").as_bytes())
    }

    /// The answer for a seed, if it is known.
    #[must_use]
    pub fn find(&self, key: u64, seed: u64) -> Option<Kept> {
        self.known.get(&(key, seed)).cloned()
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, key: u64, kept: &Kept) -> Result<(), Error> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        let Kept { seed, machines, waiting, tries } = kept;
        let line = format!("{key:016x} {seed} {machines} {waiting} {tries}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).map_err(|error| {
            let path = path.display();
            format!("{path}: {error}: what was computed before is kept there").into()
        })
    }
}

fn parsed(line: &str) -> Option<(u64, Kept)> {
    let mut fields = line.split(' ');
    let key = u64::from_str_radix(fields.next()?, 16).ok()?;
    let kept = Kept {
        seed: fields.next()?.parse().ok()?,
        machines: fields.next()?.parse().ok()?,
        waiting: fields.next()?.parse().ok()?,
        tries: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some((key, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept { seed: 3, machines: 70, waiting: 1, tries: 9 };

    #[test]
    fn what_was_kept_is_found_again_and_a_line_that_was_cut_off_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume");
        Journal::open(&path).unwrap().keep(0xab, &KEPT).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}00ab 4 7")).unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.find(0xab, 3), Some(KEPT));
        assert_eq!((again.find(0xab, 4), again.find(0xac, 3)), (None, None));
        again.keep(0xab, &Kept { seed: 4, ..KEPT }).unwrap();
        assert_eq!(Journal::open(&path).unwrap().find(0xab, 4).unwrap().machines, 70);
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume");
        std::fs::write(&path, "00ab 1 2 3 4\nseed,machines\n").unwrap();
        let refused = Journal::open(&path).unwrap_err().to_string();
        assert!(refused.contains(":2: expected KEY SEED"), "{refused}");
    }

    #[test]
    fn other_work_and_other_weights_have_other_keys() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("resume")).unwrap();
        let key = |weights| journal.key(&Work::default(), weights);
        assert_ne!(key(Weights::hybrid()), key(Weights::best_fit()));
        let other = Work { tied: 1, ..Work::default() };
        assert_ne!(key(Weights::hybrid()), journal.key(&other, Weights::hybrid()));
    }
}
