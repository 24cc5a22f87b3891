//! Pieces of the log that compaction would lose, kept so that any state between two checkpoints can
//! be made again.
//!
//! Writes and reads one; which are kept is `archive`'s. A piece is a file of `blocks` whose front
//! has its first and last index, and whose content is the entries: index, term, kind, length, data.
//!
//! Invariant: the entries of a piece are consecutive and agreed.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use borg_cell::store::{EntryKind, LogEntry, StoreError};

use super::blocks::{BlockReader, BlockWriter, Unreadable};
use super::fault::{Call, may};
use super::files::{Large, Pace};
use super::record::{Block, Reader, Unsealed};

/// Start of the names.
pub(super) const PREFIX: &str = "segment-";
/// Longest entry that is read, in bytes; far more than a command may have.
const MAX_ENTRY_BYTES: u64 = 64 << 20;

/// A piece of the log on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Checksum that ends the file.
    pub(super) sum: u64,
    pub(super) file_bytes: u64,
}

impl Segment {
    /// Name of the file.
    pub(super) fn name(&self) -> String {
        format!("{PREFIX}{:020}-{:020}-{:016x}", self.first, self.last, self.sum)
    }

    /// The piece that a file name means.
    pub(super) fn named(name: &str, file_bytes: u64) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let segment = Self {
            first: parts.next()?.parse().ok()?,
            last: parts.next()?.parse().ok()?,
            sum: u64::from_str_radix(parts.next()?, 16).ok()?,
            file_bytes,
        };
        (segment.first <= segment.last && segment.name() == name).then_some(segment)
    }
}

/// Writes `entries`, which are consecutive and not none, in `dir`.
pub(super) fn write(
    dir: &Path,
    entries: &[LogEntry],
    pace: Pace,
) -> Result<Option<Segment>, StoreError> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(None) };
    let (first, last) = (first.index, last.index);
    let mut file = Large::create(dir, "saving-segment", pace)?;
    let segment = match put(&mut file, first, last, entries) {
        Ok((file_bytes, sum)) => Segment { first, last, sum, file_bytes },
        Err(error) => return Err(file.give_up(error)),
    };
    file.finish(&segment.name())?;
    Ok(Some(segment))
}

/// Writes the content of a file. Gives its length and its last sum.
fn put(to: impl Write, first: u64, last: u64, entries: &[LogEntry]) -> std::io::Result<(u64, u64)> {
    let front = [first.to_le_bytes(), last.to_le_bytes()].concat();
    let mut blocks = BlockWriter::begin(to, Block::Segment, &front)?;
    for entry in entries {
        blocks.write_all(&entry.index.to_le_bytes())?;
        blocks.write_all(&entry.term.to_le_bytes())?;
        blocks.write_all(&[entry.kind.code()])?;
        blocks.write_all(&(entry.data.len() as u64).to_le_bytes())?;
        blocks.write_all(&entry.data)?;
    }
    blocks.finish().map(|(_, bytes, sum)| (bytes, sum))
}

/// The file of a piece with the entries after an index, for whoever keeps it elsewhere; there may be none.
pub(super) fn file(after: u64, entries: &[LogEntry]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let last = entries.last().map_or(after, |entry| entry.index);
    put(&mut bytes, after + 1, last, entries)?;
    Ok(bytes)
}

/// The entries in the file of a piece that is kept elsewhere, under whatever name.
pub(super) fn read_any(path: &Path) -> Result<Vec<LogEntry>, StoreError> {
    let mut entries = Vec::new();
    let take = &mut |entry| {
        entries.push(entry);
        true
    };
    walk(path, None, 0, take).map_err(|unreadable| failed(path, 0, unreadable))?;
    Ok(entries)
}

/// Shows `visit` the entries of a piece after index `after`, in order, until it says `false`. Gives
/// whether it wants more.
pub(super) fn read(
    path: &Path,
    segment: &Segment,
    after: u64,
    visit: &mut dyn FnMut(LogEntry) -> bool,
) -> Result<bool, StoreError> {
    walk(path, Some(segment), after, visit)
        .map_err(|unreadable| failed(path, segment.first, unreadable))
}

fn failed(path: &Path, first: u64, unreadable: Unreadable) -> StoreError {
    match unreadable {
        Unreadable::Unsealed(Unsealed::Damaged(why)) => {
            StoreError::broken(first, format!("{}: {why}", path.display()))
        }
        Unreadable::Unsealed(Unsealed::Newer(found)) => {
            let supported = Block::Segment.format();
            StoreError::Version { what: path.display().to_string(), found, supported }
        }
        Unreadable::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            StoreError::Gone { index: first }
        }
        Unreadable::Io(error) => StoreError::failed(format!("read {}", path.display()), error),
    }
}

/// Goes through a file, which is `segment` where that is given.
fn walk(
    path: &Path,
    segment: Option<&Segment>,
    after: u64,
    visit: &mut dyn FnMut(LogEntry) -> bool,
) -> Result<bool, Unreadable> {
    may(Call::Open)?;
    let file = BufReader::new(File::open(path)?);
    let (mut blocks, _, front) = BlockReader::begin(file, Block::Segment)?;
    let Some((first, last)) = ends(&front) else {
        return Unreadable::damaged("its place in the log is not there");
    };
    if segment.is_some_and(|segment| (segment.first, segment.last) != (first, last)) {
        return Unreadable::damaged("of another place in the log");
    }
    let (mut held, mut next) = (Vec::new(), first);
    loop {
        let more = blocks.next(&mut held)?;
        let mut rest = Reader(&held);
        while let Some((entry, after_it)) = entry(rest)? {
            if entry.index != next {
                return Unreadable::damaged("an entry is left out");
            }
            next += 1;
            rest = after_it;
            if entry.index > after && !visit(entry) {
                return Ok(false);
            }
        }
        let done = held.len() - rest.0.len();
        held.drain(..done);
        if !more {
            break;
        }
    }
    let sum = blocks.finish()?;
    let whole = next == last.saturating_add(1) && held.is_empty();
    if !whole || segment.is_some_and(|segment| segment.sum != sum) {
        return Unreadable::damaged("it does not end where it should");
    }
    Ok(true)
}

/// The first and the last index in a front.
fn ends(front: &[u8]) -> Option<(u64, u64)> {
    let (first, rest) = front.split_first_chunk()?;
    let last = <[u8; 8]>::try_from(rest).ok()?;
    Some((u64::from_le_bytes(*first), u64::from_le_bytes(last)))
}

/// The entry at the start of `bytes`, if all of it is there, and what follows it.
fn entry(bytes: Reader<'_>) -> Result<Option<(LogEntry, Reader<'_>)>, Unreadable> {
    let mut rest = bytes;
    let (Some(place), Some(&[code]), Some(length)) = (rest.place(), rest.take(1), rest.u64())
    else {
        return Ok(None);
    };
    let Some(kind) = EntryKind::from_code(code) else {
        return Unreadable::damaged("unknown kind of entry");
    };
    if length > MAX_ENTRY_BYTES {
        return Unreadable::damaged("an entry is too long");
    }
    let length = usize::try_from(length).expect("it was just bounded");
    Ok(rest.take(length).map(|data| {
        (LogEntry { index: place.index, term: place.term, kind, data: data.to_vec().into() }, rest)
    }))
}
