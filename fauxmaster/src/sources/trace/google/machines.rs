//! Machines that come, go and come back.

use super::super::super::rows::Record;
use super::super::super::table::TableError;
use super::super::draft::{Draft, MOST_MACHINES};
use super::LARGEST_DISK;
use borg_proto::{Millis, Resources};
use std::collections::BTreeMap;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Add,
    Remove,
    Update,
}

/// A machine by its number in the trace.
#[derive(Debug, Clone, Copy)]
struct Known {
    place: usize,
    there: bool,
}

/// Machines by their numbers in the trace.
#[derive(Debug, Default)]
pub(super) struct Machines {
    known: BTreeMap<u64, Known>,
    updates: u64,
    shapeless: u64,
}

/// Room of a machine; none when the trace does not tell.
pub(super) fn capacity(cpu_milli: Option<u64>, ram_bytes: Option<u64>) -> Option<Resources> {
    Some(Resources {
        cpu_milli: cpu_milli?,
        ram_bytes: ram_bytes?,
        disk_bytes: LARGEST_DISK,
        ports: 1_000,
        ..Resources::default()
    })
}

impl Machines {
    /// One more event.
    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of a row, which two tables name differently"
    )]
    pub(super) fn take<'a>(
        &mut self,
        row: &Record<'_>,
        id: usize,
        at: Millis,
        event: Event,
        capacity: Option<Resources>,
        attributes: impl IntoIterator<Item = (&'a str, &'a str)>,
        draft: &mut Draft,
    ) -> Result<(), TableError> {
        let number: u64 = row.value(id, "a number of a machine")?;
        draft.lasts(at);
        match (event, self.known.get_mut(&number)) {
            (Event::Add, None) => {
                let Some(capacity) = capacity else {
                    self.shapeless += 1;
                    return Ok(());
                };
                if draft.machines() == MOST_MACHINES {
                    let expected = format!("one of at most {MOST_MACHINES} machines");
                    return Err(row.field_error(id, expected));
                }
                let told = attributes.into_iter().filter(|(_, value)| !value.is_empty());
                let attributes = told.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let place = draft.machine(&format!("m{number}"), capacity, attributes.collect());
                if at > Millis(0) {
                    // Nothing may be placed there before.
                    draft.lose(place, Millis(0));
                    draft.regain(place, at);
                }
                self.known.insert(number, Known { place, there: true });
            }
            (Event::Add, Some(known)) if !known.there => {
                known.there = true;
                draft.regain(known.place, at);
            }
            (Event::Add, Some(_)) => {
                return Err(row.field_error(id, "a machine that no earlier line added"));
            }
            (Event::Remove, Some(known)) if known.there => {
                known.there = false;
                draft.lose(known.place, at);
            }
            (Event::Remove, _) => return Err(row.field_error(id, "a machine that is there")),
            (Event::Update, _) => self.updates += 1,
        }
        Ok(())
    }

    /// Says what was left out.
    pub(super) fn finish(self, draft: &mut Draft) {
        draft.tell("changes of a machine's size left out: each keeps its first", self.updates);
        draft.tell("machines left out, as their size is not told", self.shapeless);
    }
}
