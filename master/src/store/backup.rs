//! Backups: a cell at one moment, for whoever begins again from it or asks questions of it.
//!
//! A backup is a checkpoint file with more in it; how the bytes lie is `checkpoint`'s.
//!
//! Invariant: what a scheduler knew beside the state proves itself, and a backup without it is whole.

use super::{checkpoint, files};
use borg_cell::state::CellState;
use borg_cell::store::{CheckpointDraft, Position, StoreError};
use borg_scheduler::recording::wire::{End, MAX_FRAME_BYTES, Writer, encode, read};
use borg_scheduler::recording::{Begin, Recorded};
use std::path::Path;
use std::sync::Arc;

/// A cell at one moment, as a backup holds it.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The state.
    pub state: CellState,
    /// What the leader's scheduler knew beside it, such as what tasks lent; `None` where no leader was asked, or its
    /// scheduler did not answer.
    pub known: Option<Begin>,
}

impl Backup {
    /// What was known, as the bytes of a recording that is over as soon as it began; nothing if nothing was.
    #[must_use]
    pub fn known_bytes(known: Option<&Begin>) -> Vec<u8> {
        let Some(begin) = known else { return Vec::new() };
        let (mut writer, mut bytes) = Writer::begin();
        let mut record = Vec::new();
        encode(&mut record, &Recorded::Begin(Box::new(begin.clone())));
        // What is longer no reader takes, and questions can be asked without.
        if record.len() > MAX_FRAME_BYTES {
            return Vec::new();
        }
        bytes.extend(writer.frame(&record));
        bytes.extend(writer.finish());
        bytes
    }

    /// What was known, of such bytes.
    ///
    /// # Errors
    /// When they are damaged, or of a newer version.
    pub fn known_of(bytes: &[u8]) -> Result<Option<Begin>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (records, end) = read(bytes).map_err(|error| error.to_string())?;
        match (<[Recorded; 1]>::try_from(records), end) {
            (Ok([Recorded::Begin(begin)]), End::Finished) => Ok(Some(*begin)),
            _ => Err("what the scheduler knew is damaged".to_owned()),
        }
    }

    /// Writes the checkpoint file `name` of `dir`: all of it or nothing, in place of what was there. A state does not say
    /// in which term its newest entry was made, so the file says 0. Gives its length in bytes.
    ///
    /// # Errors
    /// What the disk says, with the file's path.
    pub fn save(&self, dir: &Path, name: &str) -> Result<u64, StoreError> {
        let Self { state, known } = self;
        let draft = CheckpointDraft {
            place: Position { index: state.applied(), term: 0 },
            membership: &state.founding_membership(),
            at: state.clock(),
            state: &state.encode(),
            log: &[],
        };
        let temporary = format!(".{name}.{}", std::process::id());
        let file = files::Large::create(dir, &temporary, files::Pace::Fast)?;
        let known = Self::known_bytes(known.as_ref());
        checkpoint::write_to(file, &draft, &known, |_| name.to_owned()).map(|meta| meta.file_bytes)
    }

    /// State and [`Backup::known_bytes`] in a checkpoint file of some directory, opened or not. Reads and verifies all of
    /// the file.
    ///
    /// # Errors
    /// When it is no checkpoint of a version that this build reads, or damaged.
    pub fn read(path: &Path) -> Result<(Arc<[u8]>, Vec<u8>), StoreError> {
        checkpoint::load_backup(path).map(|(loaded, known)| (loaded.state, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::state::CellState;
    use borg_proto::command::LEVEL;
    use borg_proto::reclamation::Amounts;
    use borg_proto::{CellName, IncarnationId, JobId, TaskId};
    use borg_scheduler::{Config, Scheduler};

    fn backup(lend: u32) -> Backup {
        let state = CellState::found(CellName::new("kept").unwrap(), &[], LEVEL);
        let scheduler = Scheduler::new(&state, Config::default());
        let mut begin = Begin::of(&scheduler, 7);
        let id = |index| IncarnationId { task: TaskId { job: JobId(3), index }, number: 1 };
        begin.lent = (0..lend).map(|index| (id(index), Amounts::of([10, 20, 30]))).collect();
        Backup { state, known: Some(begin) }
    }

    #[test]
    fn what_was_known_comes_back_with_the_state_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        for backup in [backup(100_000), backup(0), Backup { known: None, ..backup(0) }] {
            let bytes = backup.save(dir.path(), "it").unwrap();
            let file = dir.path().join("it");
            assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes);
            let (state, known) = Backup::read(&file).unwrap();
            assert_eq!(state[..], backup.state.encode()[..]);
            assert_eq!(Backup::known_of(&known).unwrap(), backup.known);
            let listed = checkpoint::glance(&file).unwrap();
            assert_eq!((listed.place.index, listed.file_bytes), (backup.state.applied(), bytes));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_or_a_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(3);
        backup.save(dir.path(), "it").unwrap();
        let file = dir.path().join("it");
        let bytes = std::fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::write(&file, &damaged).unwrap();
            assert!(Backup::read(&file).is_err(), "byte {at}");
            std::fs::write(&file, &bytes[..at]).unwrap();
            assert!(Backup::read(&file).is_err(), "cut to {at}");
        }
        let known = Backup::known_bytes(backup.known.as_ref());
        for at in 1..known.len() {
            assert!(Backup::known_of(&known[..at]).is_err(), "cut to {at}");
        }
    }
}
