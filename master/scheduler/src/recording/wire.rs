//! What was recorded, as bytes: a head, and frames that prove themselves one by one.
//!
//! A frame is what a scheduler did between two looks at its mailbox, so a file that ends in the middle of
//! one, as after a crash, is good up to it. Each frame's checksum covers the one before: a frame that is
//! altered, left out or moved ends what is believed. `docs/formats.md` has every byte.
//!
//! Invariant: no bytes make reading panic, or ask for more memory than a small multiple of their number.

use super::varint::{put, take};
use super::{Begin, Decided, Recorded};
use crate::{Config, Weights};
use borg_proto::command::Assignment;
use borg_proto::policy::Term;
use borg_proto::reclamation::Amounts;
use borg_proto::{IncarnationId, JobId, MachineId, Millis, TaskId};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What every recording begins with.
pub const MAGIC: [u8; 8] = *b"borgdeci";
/// The format that this build writes. It reads all up to this one.
pub const FORMAT: u32 = 1;
/// Longest frame that is read, in bytes: what the tasks of a cell of 2,000,000 lend.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
/// Length of a head.
pub const HEAD_BYTES: usize = 16;

/// Bytes that are not a recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Something else, or cut off in its head.
    #[error("this is no recording of decisions: its head is damaged or of something else")]
    NotARecording,
    /// Written by a later version.
    #[error(
        "the recording has format {found}, this build reads formats 1 to {FORMAT}: install a newer version"
    )]
    Newer {
        /// The format.
        found: u32,
    },
}

/// How a recording ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As its writer meant it to.
    Finished,
    /// After a whole frame: its writer went on, or died.
    Open,
    /// In a frame that is cut off or damaged: nothing from here on is believed.
    Torn {
        /// Where the frame begins, in bytes.
        at: usize,
    },
}

/// Makes the bytes of a recording, piece by piece.
#[derive(Debug, Clone)]
pub struct Writer {
    sum: u64,
}

impl Writer {
    /// A recording's head, and a writer of what follows it.
    #[must_use]
    pub fn begin() -> (Self, Vec<u8>) {
        let mut head = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        head.extend(head_check(&head));
        (Self { sum: xxh3_64(&head) }, head)
    }

    /// A frame of `records`, encoded by [`encode`], which are some.
    #[must_use]
    pub fn frame(&mut self, records: &[u8]) -> Vec<u8> {
        let length = u32::try_from(records.len()).expect("a frame is bounded");
        self.sum = chained(self.sum, length, records);
        [&length.to_le_bytes()[..], records, &self.sum.to_le_bytes()].concat()
    }

    /// The end of a recording to which nothing will be added.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.frame(&[])
    }
}

/// All that can be believed of a recording, and how it ends.
///
/// # Errors
/// When it is none, or of a newer format.
pub fn read(bytes: &[u8]) -> Result<(Vec<Recorded>, End), ReadError> {
    let mut sum = read_head(bytes)?;
    let (mut all, mut at) = (Vec::new(), HEAD_BYTES);
    while at < bytes.len() {
        let torn = End::Torn { at };
        let Some((records, next)) = frame(&bytes[at..], sum) else { return Ok((all, torn)) };
        (sum, at) = (next, at + records.len() + 12);
        if records.is_empty() {
            let end = if at == bytes.len() { End::Finished } else { torn };
            return Ok((all, end));
        }
        let Some(records) = decode(records) else { return Ok((all, torn)) };
        all.extend(records);
    }
    Ok((all, End::Open))
}

fn read_head(bytes: &[u8]) -> Result<u64, ReadError> {
    let head = bytes.get(..HEAD_BYTES).ok_or(ReadError::NotARecording)?;
    if head[..8] != MAGIC || head[12..] != head_check(&head[..12]) {
        return Err(ReadError::NotARecording);
    }
    match u32::from_le_bytes([head[8], head[9], head[10], head[11]]) {
        FORMAT => Ok(xxh3_64(head)),
        found => Err(ReadError::Newer { found }),
    }
}

/// The low half of the checksum of magic and format, so that rot is not taken for a newer format.
fn head_check(head: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh3_64(head).to_le_bytes();
    [a, b, c, d]
}

/// The records of the frame at the start, and its checksum.
fn frame(bytes: &[u8], before: u64) -> Option<(&[u8], u64)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let many = usize::try_from(length).ok().filter(|many| *many <= MAX_FRAME_BYTES)?;
    let records = rest.get(..many)?;
    let (sum, _) = rest[many..].split_first_chunk::<8>()?;
    let sum = u64::from_le_bytes(*sum);
    (sum == chained(before, length, records)).then_some((records, sum))
}

fn chained(before: u64, length: u32, records: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&before.to_le_bytes());
    sum.update(&length.to_le_bytes());
    sum.update(records);
    sum.digest()
}

/// Adds one record.
pub fn encode(to: &mut Vec<u8>, recorded: &Recorded) {
    match recorded {
        Recorded::Begin(begin) => {
            to.push(1);
            put_begin(to, begin);
        }
        Recorded::Follow { index } => {
            to.push(2);
            put(to, *index);
        }
        Recorded::Afresh { index } => {
            to.push(3);
            put(to, *index);
        }
        Recorded::Silent { machines } => {
            to.push(4);
            put_all(to, machines, |to, machine| put(to, machine.0.into()));
        }
        Recorded::LendNothing => to.push(5),
        Recorded::Lend { news } => {
            to.push(6);
            put_all(to, news, put_lent);
        }
        Recorded::Refused { tasks } => {
            to.push(7);
            put_all(to, tasks, put_task);
        }
        Recorded::Pass { now, max, decided } => {
            to.push(match decided {
                Decided::Placed(_) => 8,
                Decided::Panicked(_) => 9,
            });
            put(to, now.0);
            put(to, *max);
            match decided {
                Decided::Placed(assignments) => put_all(to, assignments, put_assignment),
                Decided::Panicked(jobs) => put_all(to, jobs, |to, job| put(to, job.0)),
            }
        }
        Recorded::Gap => to.push(10),
    }
}

/// The records of a frame; `None` when they make no sense.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Option<Vec<Recorded>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(record(&mut bytes)?);
    }
    Some(all)
}

fn record(from: &mut &[u8]) -> Option<Recorded> {
    let kind = byte(from)?;
    Some(match kind {
        1 => Recorded::Begin(Box::new(begin(from)?)),
        2 => Recorded::Follow { index: take(from)? },
        3 => Recorded::Afresh { index: take(from)? },
        4 => Recorded::Silent { machines: take_all(from, |from| u32_of(from).map(MachineId))? },
        5 => Recorded::LendNothing,
        6 => Recorded::Lend { news: take_all(from, lent)? },
        7 => Recorded::Refused { tasks: take_all(from, task)? },
        8 | 9 => {
            let (now, max) = (Millis(take(from)?), take(from)?);
            let decided = if kind == 8 {
                Decided::Placed(take_all(from, assignment)?)
            } else {
                Decided::Panicked(take_all(from, |from| take(from).map(JobId))?)
            };
            Recorded::Pass { now, max, decided }
        }
        10 => Recorded::Gap,
        _ => return None,
    })
}

fn put_begin(to: &mut Vec<u8>, begin: &Begin) {
    let Begin { index, config, silent, lent, aside } = begin;
    put(to, *index);
    for term in Term::ALL {
        let weight = config.weights.get(term);
        put(to, u64::from(weight.cast_unsigned()));
    }
    to.push(u8::from(config.caches));
    put(to, config.seed);
    put(to, config.relaxed.map_or(0, |enough| u64::from(enough) + 1));
    put_all(to, silent, |to, machine| put(to, machine.0.into()));
    put_all(to, lent, put_lent);
    put_all(to, aside, |to, (job, said)| {
        put(to, job.0);
        put_all(to, said.as_bytes(), |to, byte| to.push(*byte));
    });
}

fn begin(from: &mut &[u8]) -> Option<Begin> {
    let index = take(from)?;
    let mut weights = Weights::default();
    for term in Term::ALL {
        weights.set(term, u16::try_from(take(from)?).ok()?.cast_signed());
    }
    let caches = byte(from)? == 1;
    let seed = take(from)?;
    let relaxed = match take(from)? {
        0 => None,
        more => Some(u32::try_from(more - 1).ok()?),
    };
    Some(Begin {
        index,
        config: Config { weights, caches, seed, relaxed },
        silent: take_all(from, |from| u32_of(from).map(MachineId))?,
        lent: take_all(from, lent)?,
        aside: take_all(from, |from| {
            let job = JobId(take(from)?);
            Some((job, String::from_utf8(take_all(from, byte)?).ok()?))
        })?,
    })
}

fn put_task(to: &mut Vec<u8>, task: &TaskId) {
    put(to, task.job.0);
    put(to, task.index.into());
}

fn task(from: &mut &[u8]) -> Option<TaskId> {
    Some(TaskId { job: JobId(take(from)?), index: u32_of(from)? })
}

fn put_incarnation(to: &mut Vec<u8>, id: &IncarnationId) {
    put_task(to, &id.task);
    put(to, id.number.into());
}

fn incarnation(from: &mut &[u8]) -> Option<IncarnationId> {
    Some(IncarnationId { task: task(from)?, number: u32_of(from)? })
}

fn put_amounts(to: &mut Vec<u8>, amounts: &Amounts) {
    amounts.each().iter().for_each(|amount| put(to, *amount));
}

fn amounts(from: &mut &[u8]) -> Option<Amounts> {
    Some(Amounts { cpu_milli: take(from)?, ram_bytes: take(from)?, disk_bytes: take(from)? })
}

fn put_lent(to: &mut Vec<u8>, (id, lent): &(IncarnationId, Amounts)) {
    put_incarnation(to, id);
    put_amounts(to, lent);
}

fn lent(from: &mut &[u8]) -> Option<(IncarnationId, Amounts)> {
    Some((incarnation(from)?, amounts(from)?))
}

fn put_assignment(to: &mut Vec<u8>, assignment: &Assignment) {
    let Assignment { task, machine, victims, lent } = assignment;
    put_task(to, task);
    put(to, machine.0.into());
    put_all(to, victims, put_incarnation);
    put_amounts(to, lent);
}

fn assignment(from: &mut &[u8]) -> Option<Assignment> {
    Some(Assignment {
        task: task(from)?,
        machine: MachineId(u32_of(from)?),
        victims: take_all(from, incarnation)?,
        lent: amounts(from)?,
    })
}

fn put_all<T>(to: &mut Vec<u8>, all: &[T], put_one: impl Fn(&mut Vec<u8>, &T)) {
    put(to, all.len() as u64);
    all.iter().for_each(|one| put_one(to, one));
}

/// So many of something as the number before them says, and no more than there are bytes.
fn take_all<T>(from: &mut &[u8], take_one: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let many = usize::try_from(take(from)?).ok().filter(|many| *many <= from.len())?;
    // Grows as it is read: a large number with little behind it asks for no memory.
    let mut all = Vec::new();
    for _ in 0..many {
        all.push(take_one(from)?);
    }
    Some(all)
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

fn u32_of(from: &mut &[u8]) -> Option<u32> {
    u32::try_from(take(from)?).ok()
}
