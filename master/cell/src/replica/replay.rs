//! Entries of the log on a state of the past, as the replica itself once applied them.
//!
//! Invariant: a state and the entries after it give, byte for byte, the state of a replica that
//! applied them when they were agreed.

use super::members;
use crate::event::Event;
use crate::state::CellState;
use crate::store::{EntryKind, LogEntry, Membership};
use borg_proto::Millis;
use borg_proto::command::Command;

/// The cell's time that an entry carries; `None` for one that carries none.
///
/// # Errors
/// When the entry cannot be understood.
pub fn time_of(entry: &LogEntry) -> Result<Option<Millis>, String> {
    command(entry).map(|command| command.map(|command| command.at))
}

/// Applies `entry`, which must be the one after those that `state` has; `members` is Raft's
/// configuration there. Gives what happened, as the replica told its followers then.
///
/// # Errors
/// When the entry cannot be understood, or is another one. The state is as it was.
pub fn replay(
    state: &mut CellState,
    members: &mut Membership,
    entry: &LogEntry,
) -> Result<Vec<Event>, String> {
    if entry.index != state.applied() + 1 {
        return Err(format!("entry {} does not follow {}", entry.index, state.applied()));
    }
    if entry.kind == EntryKind::ConfChangeV2 {
        *members = members::after(members, &entry.data)?;
        return Ok(state.change_members(entry.index, members));
    }
    let Some(command) = command(entry)? else {
        state.skip(entry.index);
        return Ok(Vec::new());
    };
    // A refusal is an ordinary outcome, and was one then.
    Ok(state.apply(entry.index, &command).map(|applied| applied.events).unwrap_or_default())
}

/// The command in an entry; the empty entry of a new leader has none, nor has a change of the members.
fn command(entry: &LogEntry) -> Result<Option<Command>, String> {
    match entry.kind {
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => Ok(None),
        EntryKind::Normal if entry.data.is_empty() => Ok(None),
        EntryKind::Normal => Command::decode(&entry.data)
            .map(Some)
            .map_err(|error| format!("log entry {}: {error}", entry.index)),
    }
}
