//! A stretch of the past, to be looked at elsewhere: a state, the log after it, and what the scheduler of this master
//! was told and decided meanwhile.
//!
//! It begins with a kept checkpoint, far enough back that the recording in force at the asked moment can be played from
//! its beginning, if that is kept.

use super::{Missing, Moment, Past, ask};
use crate::inbox::Inbox;
use crate::recording::{Recording, recordings};
use crate::store::Stretch;
use borg_cell::replica::replay;
use borg_cell::store::{CheckpointDraft, LogEntry, Membership, Position};
use borg_proto::Millis;
use std::path::Path;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

/// Most bytes of entries in a stretch. 256 MiB: ours, days of a busy cell; it is held in memory.
const MAX_BYTES: usize = 256 << 20;

/// A file: its name, and what is in it.
pub(crate) type Part = (String, Vec<u8>);

impl Past {
    /// The files of the time from one moment to another; none of `to` means until now. `decisions` is the directory of
    /// recordings. Others wait for the permit until all is sent.
    ///
    /// # Errors
    /// As of [`Past::state`]; OUT_OF_RANGE when it is more than a stretch may be.
    pub(crate) async fn stretch(
        &self,
        from: Moment,
        to: Option<Moment>,
        decisions: &Path,
        driver: &Inbox,
    ) -> Result<(Vec<Part>, OwnedSemaphorePermit), Status> {
        let Ok(turn) = self.sends.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "this master sends a stretch of the past to somebody else, and sends one at a time: try again",
            ));
        };
        let (past, driver, decisions) = (self.clone(), driver.clone(), decisions.to_owned());
        let making = tokio::task::spawn_blocking(move || past.files(from, to, &decisions, &driver));
        let made = making.await.map_err(|_| Status::internal("making the stretch failed"))?;
        Ok((made.map_err(|missing| missing.status(from))?, turn))
    }

    fn files(
        &self,
        from: Moment,
        to: Option<Moment>,
        decisions: &Path,
        driver: &Inbox,
    ) -> Result<Vec<Part>, Missing> {
        let unreadable = |error: std::io::Error| Missing::Unreadable(error.to_string());
        let recordings = recordings(decisions).map_err(unreadable)?;
        let in_force = recordings.iter().rev().find(|one| is_before(one, from));
        let further_back = in_force.map(|one| Moment::Index(one.index));
        // A recording may be kept for longer than the states and the log that it needs.
        let made = further_back.map(|moment| self.entries(moment, to, driver));
        let (draft, state, entries) = match made {
            Some(Err(Missing::TooOld { .. } | Missing::Gap { .. })) | None => {
                self.entries(from, to, driver)?
            }
            Some(made) => made?,
        };
        let draft = CheckpointDraft {
            place: draft.place,
            membership: &draft.membership,
            at: draft.at,
            state: &state,
            log: &[],
        };
        let files = Stretch::files(&draft, &entries).map_err(unreadable)?;
        let mut parts: Vec<Part> =
            files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let last = entries.last().map_or(draft.place.index, |entry| entry.index);
        let meant = |one: &&Recording| draft.place.index <= one.index && one.index <= last;
        for one in recordings.iter().filter(meant) {
            let name = one.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match std::fs::read(&one.path) {
                Ok(bytes) => parts.push((name.to_owned(), bytes)),
                // Removed meanwhile, to make room.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(parts)
    }

    /// The newest kept state at or before a moment, and the entries after it.
    fn entries(
        &self,
        from: Moment,
        to: Option<Moment>,
        driver: &Inbox,
    ) -> Result<(Beginning, Vec<u8>, Vec<LogEntry>), Missing> {
        let (base, state) = self.base(from)?;
        let beginning = base.map_or_else(Beginning::default, |base| Beginning {
            place: base.meta.place,
            membership: base.meta.membership,
            at: state.clock(),
        });
        let mut taken = Taken { entries: Vec::new(), bytes: 0, to };
        let after = beginning.place.index;
        let mut failed = None;
        let mut done = false;
        let visit = &mut |entry: LogEntry| match taken.take(entry) {
            Ok(more) => {
                done = !more;
                more
            }
            Err(missing) => {
                failed = Some(missing);
                false
            }
        };
        self.history.log(after, visit).map_err(Missing::unreadable)?;
        if let Some(missing) = failed {
            return Err(missing);
        }
        while !done {
            let after = taken.entries.last().map_or(after, |entry| entry.index);
            let more = ask(driver, after)?.ok_or_else(|| self.missed(after))?;
            done = more.is_empty();
            for entry in more {
                if !taken.take(entry)? {
                    done = true;
                    break;
                }
            }
        }
        Ok((beginning, state.encode(), taken.entries))
    }
}

/// Where a stretch begins.
#[derive(Debug, Default)]
struct Beginning {
    place: Position,
    membership: Membership,
    at: Millis,
}

/// Entries on the way to the end of a stretch.
struct Taken {
    entries: Vec<LogEntry>,
    bytes: usize,
    to: Option<Moment>,
}

impl Taken {
    /// Takes the next one; `false` when the end is reached.
    fn take(&mut self, entry: LogEntry) -> Result<bool, Missing> {
        let over = match self.to {
            None => false,
            Some(Moment::Index(index)) => entry.index > index,
            Some(Moment::Time(time)) => {
                let at = replay::time_of(&entry).map_err(Missing::Unreadable)?;
                at.is_some_and(|at| at > time)
            }
        };
        if over {
            return Ok(false);
        }
        self.bytes += entry.data.len();
        if self.bytes > MAX_BYTES {
            return Err(Missing::TooMuch { reached: entry.index });
        }
        self.entries.push(entry);
        Ok(true)
    }
}

fn is_before(one: &Recording, moment: Moment) -> bool {
    match moment {
        Moment::Index(index) => one.index <= index,
        Moment::Time(time) => one.at <= time,
    }
}
