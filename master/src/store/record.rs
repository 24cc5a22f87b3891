//! The bytes on disk: sealed blocks, the chain over log entries, and the head that sums it up.
//!
//! Answers whether bytes are what was written, and whether an entry follows the one before. Leaves
//! to others where the bytes are kept. Integers are little endian.
//!
//! Invariant: an entry's link covers its content and the link before it, so that one link stands
//! for the whole log up to there; a head's checksum covers the checksum of the head before it.
//! Against accidents, not against a forger: xxh3 is no signature.

use std::io::{self, Write};

use borg_cell::store::{EntryKind, HardState, LogEntry, Position, ReplicaIdentity};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What a sealed block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Identity,
    Head,
    /// A whole checkpoint in format 1; since format 2, what stands before its blocks.
    Checkpoint,
    /// The same of a checkpoint that has more after the state: format 3 of checkpoints. Whoever reads this reads all of
    /// them; no master keeps one, so that an older build can read its directory.
    Backup,
    /// What stands before the blocks of a piece of the log.
    Segment,
}

impl Block {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Identity => b"borgownr",
            Self::Head => b"borghead",
            Self::Checkpoint | Self::Backup => b"borgckpt",
            Self::Segment => b"borgsegm",
        }
    }

    /// Format that is written. All up to it are read.
    pub(super) fn format(self) -> u32 {
        match self {
            Self::Identity | Self::Segment => 1,
            Self::Head | Self::Checkpoint => 2,
            Self::Backup => 3,
        }
    }
}

/// Why bytes are not the block they should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// Lost, cut or changed.
    Damaged(&'static str),
    /// Whole, and of a format that is not known here.
    Newer(u32),
}

/// Magic, format, checksum of these two, length of the body.
pub(super) const HEADER_BYTES: usize = 8 + 4 + 4 + 8;
/// Checksum of header and body.
pub(super) const TRAILER_BYTES: usize = 8;

/// The body of a sealed block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsealing<'a> {
    pub(super) format: u32,
    pub(super) body: &'a [u8],
    /// Checksum that ends the block.
    pub(super) sum: u64,
}

/// Writes `parts` as the body of one block; returns the checksum that ends it.
pub(super) fn seal(to: &mut impl Write, block: Block, parts: &[&[u8]]) -> io::Result<u64> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(block.magic());
    header.extend_from_slice(&block.format().to_le_bytes());
    header.extend_from_slice(&header_check(&header).to_le_bytes());
    let body_bytes: usize = parts.iter().map(|part| part.len()).sum();
    header.extend_from_slice(&(body_bytes as u64).to_le_bytes());
    let mut sum = Xxh3::new();
    for part in [header.as_slice()].iter().chain(parts) {
        sum.update(part);
        to.write_all(part)?;
    }
    to.write_all(&sum.digest().to_le_bytes())?;
    Ok(sum.digest())
}

/// Format and length of the body of the block at the start of `bytes`.
pub(super) fn header(block: Block, bytes: &[u8]) -> Result<(u32, u64), Unsealed> {
    let mut rest = Reader(bytes);
    let header = rest.take(12).ok_or(Unsealed::Damaged("cut off"))?;
    let check = rest.u32().ok_or(Unsealed::Damaged("cut off"))?;
    if header[..8] != *block.magic() || check != header_check(header) {
        return Err(Unsealed::Damaged("not a header"));
    }
    let format = Reader(&header[8..]).u32().ok_or(Unsealed::Damaged("cut off"))?;
    if !(1..=block.format()).contains(&format) {
        return Err(Unsealed::Newer(format));
    }
    Ok((format, rest.u64().ok_or(Unsealed::Damaged("cut off"))?))
}

/// The block at the start of `bytes`. What follows it is ignored.
pub(super) fn unseal(block: Block, bytes: &[u8]) -> Result<Unsealing<'_>, Unsealed> {
    let (format, length) = header(block, bytes)?;
    let mut rest = Reader(&bytes[HEADER_BYTES..]);
    let body = usize::try_from(length)
        .ok()
        .and_then(|length| rest.take(length))
        .ok_or(Unsealed::Damaged("cut off"))?;
    let sum = rest.u64().ok_or(Unsealed::Damaged("cut off"))?;
    if sum != xxh3_64(&bytes[..HEADER_BYTES + body.len()]) {
        return Err(Unsealed::Damaged("wrong checksum"));
    }
    debug_assert_eq!(bytes.len() - rest.0.len(), HEADER_BYTES + body.len() + TRAILER_BYTES);
    Ok(Unsealing { format, body, sum })
}

/// Guards magic and format by themselves: else rot in the format would pass for a newer one.
pub(super) fn header_check(header: &[u8]) -> u32 {
    let [a, b, c, d, ..] = xxh3_64(header).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A place in the log with the chain's value there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) place: Position,
    pub(super) chain: u64,
}

/// Sums up one write: what the store must hold, exactly, after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Number of the write; 0 is the creation.
    pub(super) write: u64,
    /// Checksum of the head before; 0 at the creation.
    pub(super) previous: u64,
    /// [`owner`] of the store.
    pub(super) owner: u64,
    pub(super) hard_state: HardState,
    /// Just before the first entry.
    pub(super) compacted: Link,
    /// The last entry.
    pub(super) last: Link,
    /// Newest first.
    pub(super) checkpoints: Vec<CheckpointRef>,
}

/// Which checkpoint file belongs to a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CheckpointRef {
    pub(super) place: Position,
    /// Checksum that ends the file: covers all of it, so it also tells apart two of one place.
    pub(super) sum: u64,
}

impl Head {
    /// The head of a store that was just made.
    pub(super) fn first(identity: &ReplicaIdentity) -> Self {
        let owner = owner(identity);
        // The chain starts from the owner, so that no record fits into another replica's log.
        let start = Link { place: Position::default(), chain: owner };
        Self {
            write: 0,
            previous: 0,
            owner,
            hard_state: HardState::default(),
            compacted: start,
            last: start,
            checkpoints: Vec::new(),
        }
    }

    /// The sealed head and its checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u64) {
        let mut body = Vec::with_capacity(256);
        for number in [
            self.write,
            self.previous,
            self.owner,
            self.hard_state.term,
            self.hard_state.vote,
            self.hard_state.commit,
        ] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        for link in [self.compacted, self.last] {
            put_place(&mut body, link.place);
            body.extend_from_slice(&link.chain.to_le_bytes());
        }
        for reference in &self.checkpoints {
            put_place(&mut body, reference.place);
            body.extend_from_slice(&reference.sum.to_le_bytes());
        }
        let mut sealed = Vec::with_capacity(body.len() + HEADER_BYTES + TRAILER_BYTES);
        let sum = seal(&mut sealed, Block::Head, &[&body]).expect("a vector takes all bytes");
        (sealed, sum)
    }

    /// The head at the start of `bytes`, and its checksum.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u64), Unsealed> {
        let Unsealing { format, body, sum } = unseal(Block::Head, bytes)?;
        let head =
            Self::decode_body(format, Reader(body)).ok_or(Unsealed::Damaged("odd length"))?;
        Ok((head, sum))
    }

    fn decode_body(format: u32, mut body: Reader<'_>) -> Option<Self> {
        let mut head = Self {
            write: body.u64()?,
            previous: body.u64()?,
            owner: body.u64()?,
            hard_state: HardState { term: body.u64()?, vote: body.u64()?, commit: body.u64()? },
            compacted: Link { place: body.place()?, chain: body.u64()? },
            last: Link { place: body.place()?, chain: body.u64()? },
            checkpoints: Vec::new(),
        };
        while !body.0.is_empty() {
            let place = body.place()?;
            if format == 1 {
                // The write that brought it, which names carried in place of the checksum.
                body.u64()?;
            }
            head.checkpoints.push(CheckpointRef { place, sum: body.u64()? });
        }
        Some(head)
    }
}

/// A number for an identity, by which records of different owners differ.
pub(super) fn owner(identity: &ReplicaIdentity) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&identity.replica.to_le_bytes());
    sum.update(&identity.epoch.to_le_bytes());
    sum.update(identity.cell.as_bytes());
    sum.digest()
}

/// The link of a log that a checkpoint replaced: covers what was there before.
pub(super) fn link_of_checkpoint(before: Link, reference: &CheckpointRef) -> Link {
    let mut bytes = before.chain.to_le_bytes().to_vec();
    put_place(&mut bytes, reference.place);
    bytes.extend_from_slice(&reference.sum.to_le_bytes());
    Link { place: reference.place, chain: xxh3_64(&bytes) }
}

/// The record of `entry`, which follows `before`, and its link.
pub(super) fn encode_entry(before: Link, entry: &LogEntry) -> (Vec<u8>, Link) {
    let place = Position { index: entry.index, term: entry.term };
    let mut record = Vec::with_capacity(8 + 16 + 1 + entry.data.len());
    record.extend_from_slice(&[0; 8]);
    put_place(&mut record, place);
    record.push(entry.kind.code());
    record.extend_from_slice(&entry.data);
    let chain = chain(before.chain, &record[8..]);
    record[..8].copy_from_slice(&chain.to_le_bytes());
    (record, Link { place, chain })
}

/// The entry in `record` and its link, if it follows `before`.
pub(super) fn decode_entry(before: Link, record: &[u8]) -> Result<(LogEntry, Link), &'static str> {
    let mut rest = Reader(record);
    let stored = rest.u64().ok_or("cut off")?;
    if stored != chain(before.chain, rest.0) {
        return Err("the chain of checksums breaks");
    }
    let place = rest.place().ok_or("cut off")?;
    if place.index != before.place.index + 1 {
        return Err("an index is left out");
    }
    let [code, data @ ..] = rest.0 else { return Err("cut off") };
    let kind = EntryKind::from_code(*code).ok_or("unknown kind of entry")?;
    let entry = LogEntry { index: place.index, term: place.term, kind, data: data.to_vec().into() };
    Ok((entry, Link { place, chain: stored }))
}

fn chain(before: u64, content: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&before.to_le_bytes());
    sum.update(content);
    sum.digest()
}

pub(super) fn put_place(to: &mut Vec<u8>, place: Position) {
    to.extend_from_slice(&place.index.to_le_bytes());
    to.extend_from_slice(&place.term.to_le_bytes());
}

/// Takes bytes from the front, and `None` when there are too few.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn place(&mut self) -> Option<Position> {
        Some(Position { index: self.u64()?, term: self.u64()? })
    }
}
