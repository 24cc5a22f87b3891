//! A stretch of a real cell's past: a state, the log after it, and what schedulers were told and decided.
//!
//! Whoever reads the files makes a [`History`] of them; [`verify`] takes all decisions again, [`stepper`] goes through it
//! entry by entry.
//!
//! Invariant: every state that is shown is the one that the cell had then, byte for byte.

pub mod difference;
pub mod stepper;
pub mod verify;

use crate::Error;
use borg_cell::event::Event;
use borg_cell::replica::replay::{replay, time_of};
use borg_cell::state::CellState;
use borg_cell::store::{LogEntry, Membership};
use borg_proto::Millis;
use borg_scheduler::recording::Recorded;
use borg_scheduler::recording::wire::{End, MAX_FRAME_BYTES, encode, read};
use xxhash_rust::xxh3::Xxh3;

/// A stretch of the past.
#[derive(Debug, Clone)]
pub struct History {
    /// The state before the first entry.
    pub start: CellState,
    /// Raft's configuration there.
    pub members: Membership,
    /// The entries that follow, without a gap.
    pub entries: Vec<LogEntry>,
    /// What schedulers were told and decided, oldest first.
    pub recordings: Vec<Recording>,
}

/// What one scheduler was told and decided.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Name of its file.
    pub name: String,
    /// What can be believed of it.
    pub records: Vec<Recorded>,
    /// How it ends.
    pub end: End,
}

/// A moment of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Right after an entry of the log.
    Index(u64),
    /// After the last entry up to a time of the cell.
    Time(Millis),
}

impl Recording {
    /// Of the bytes of a file.
    ///
    /// # Errors
    /// When they are none, of a newer format, or damaged before their end: only a last frame may be cut off, as by a
    /// master that was killed.
    pub fn of(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let (records, end) = read(bytes).map_err(|error| format!("{name}: {error}"))?;
        if let End::Torn { at } = end
            && is_whole(&bytes[at..])
        {
            return Err(format!("{name}: damaged at byte {at}: save the history again").into());
        }
        Ok(Self { name: name.to_owned(), records, end })
    }
}

impl History {
    /// The first entry that can be shown a state of: the beginning.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.start.applied()
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.entries.last().map_or(self.first(), |entry| entry.index)
    }

    /// The entry with an index.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<&LogEntry> {
        let at = index.checked_sub(self.first() + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// 64-bit hash (xxh3) of state, log and recordings.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut sum = Xxh3::new();
        sum.update(&self.start.encode());
        for entry in &self.entries {
            sum.update(&entry.index.to_le_bytes());
            sum.update(&entry.data);
        }
        let mut bytes = Vec::new();
        for recorded in self.recordings.iter().flat_map(|one| &one.records) {
            encode(&mut bytes, recorded);
            sum.update(&bytes);
            bytes.clear();
        }
        sum.digest()
    }

    /// The index that a moment means.
    ///
    /// # Errors
    /// When it is not within this stretch, or an entry cannot be read.
    pub fn index(&self, moment: Moment) -> Result<u64, Error> {
        let (first, last) = (self.first(), self.last());
        match moment {
            Moment::Index(index) if (first..=last).contains(&index) => Ok(index),
            Moment::Index(index) => {
                Err(format!("entry {index}: the history has entries {first} to {last}").into())
            }
            Moment::Time(time) if time < self.start.clock() => {
                let begin = self.start.clock().0;
                Err(format!("time {} ms: the history begins at {begin} ms", time.0).into())
            }
            Moment::Time(time) => {
                let mut found = first;
                // The first entries of a cell have no time yet.
                let mut timed = self.start.clock() > Millis(0);
                for entry in &self.entries {
                    match time_of(entry)? {
                        Some(at) if at > time => break,
                        at => timed |= at.is_some(),
                    }
                    found = entry.index;
                }
                if !timed {
                    return Err(format!("time {} ms: the cell did not exist yet", time.0).into());
                }
                Ok(found)
            }
        }
    }

    /// The state at a moment.
    ///
    /// # Errors
    /// As of [`History::index`].
    pub fn state_at(&self, moment: Moment) -> Result<CellState, Error> {
        let index = self.index(moment)?;
        let mut past = Past::new(self);
        while past.state.applied() < index {
            past.next(self)?;
        }
        Ok(past.state)
    }
}

/// Whether all bytes of a frame are there, right or wrong.
fn is_whole(frame: &[u8]) -> bool {
    let Some((length, rest)) = frame.split_first_chunk::<4>() else { return false };
    let sum = 8;
    // No frame is so long as that: its length is what is wrong.
    let absurd = |length: usize| length > MAX_FRAME_BYTES;
    usize::try_from(u32::from_le_bytes(*length))
        .is_ok_and(|length| absurd(length) || rest.len() >= length + sum)
}

/// A state on its way through a history.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) state: CellState,
    members: Membership,
}

impl Past {
    pub(crate) fn new(history: &History) -> Self {
        Self { state: history.start.clone(), members: history.members.clone() }
    }

    /// Applies the next entry; gives what happened. `None` when there is none.
    pub(crate) fn next(&mut self, history: &History) -> Result<Option<Vec<Event>>, Error> {
        let Some(entry) = history.entry(self.state.applied() + 1) else { return Ok(None) };
        let events = replay(&mut self.state, &mut self.members, entry);
        Ok(Some(events.map_err(|why| format!("entry {}: {why}", entry.index))?))
    }
}

#[cfg(test)]
pub(crate) mod tests;
