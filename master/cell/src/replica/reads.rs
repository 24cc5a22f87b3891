//! Reads that want what is true now: which of them wait for what.
//!
//! A read is good once a majority has confirmed the leader after the read was asked for, and the
//! entries that were agreed then are applied (Raft's read index, never a lease). One question to
//! the leader serves all reads that came before it.
//!
//! Invariant: every read that was added is answered once.

use crate::master::Effect;
use borg_proto::Millis;

/// Most reads that may wait. Ours; a caller over it is refused at once.
const MAX_READS: usize = 10_000;
/// Time after which the question is asked again: it, or its answer, may have been lost.
const ASK_AGAIN: Millis = Millis(100);

#[derive(Debug)]
struct Read {
    token: u64,
    deadline: Millis,
    /// The first question that was asked after it came; 0 before.
    asked: u64,
    /// The entry that must be applied, once it is known.
    index: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Reads {
    /// Tells the questions of this start of this replica from all others.
    start: [u64; 3],
    waiting: Vec<Read>,
    questions: u64,
    asked_at: Millis,
}

impl Reads {
    pub(super) fn new(id: u64, seed: u64) -> Self {
        Self { start: [id, seed, 0], waiting: Vec::new(), questions: 0, asked_at: Millis(0) }
    }

    pub(super) fn add(&mut self, token: u64, deadline: Millis) -> bool {
        let room = self.waiting.len() < MAX_READS;
        if room {
            self.waiting.push(Read { token, deadline, asked: 0, index: None });
        }
        room
    }

    /// The question to put to the leader now, if any.
    pub(super) fn ask(&mut self, now: Millis) -> Option<Vec<u8>> {
        let new = self.waiting.iter().any(|read| read.asked == 0);
        let open = self.waiting.iter().any(|read| read.index.is_none());
        let due = new || (open && now.since(self.asked_at) >= ASK_AGAIN);
        if !due {
            return None;
        }
        if self.questions == 0 {
            self.start[2] = now.0;
        }
        self.questions += 1;
        self.asked_at = now;
        for read in self.waiting.iter_mut().filter(|read| read.asked == 0) {
            read.asked = self.questions;
        }
        Some(self.context(self.questions))
    }

    /// The leader's answer to a question.
    pub(super) fn confirmed(&mut self, context: &[u8], index: u64) {
        let Some(number) = context.last_chunk().map(|last| u64::from_le_bytes(*last)) else {
            return;
        };
        if self.context(number) != context {
            return;
        }
        let good =
            |read: &&mut Read| read.index.is_none() && read.asked != 0 && read.asked <= number;
        for read in self.waiting.iter_mut().filter(good) {
            read.index = Some(index);
        }
    }

    /// Answers what is ready.
    pub(super) fn finish(&mut self, applied: u64, effects: &mut Vec<Effect>) {
        self.waiting.retain(|read| match read.index {
            Some(index) if index <= applied => {
                effects.push(Effect::ReadReady { token: read.token, index });
                false
            }
            Some(_) | None => true,
        });
    }

    /// Answers what took too long.
    pub(super) fn expire(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.waiting.retain(|read| {
            let late = read.deadline <= now;
            if late {
                effects.push(Effect::ReadFailed { token: read.token });
            }
            !late
        });
    }

    fn context(&self, number: u64) -> Vec<u8> {
        self.start.iter().chain([&number]).flat_map(|part| part.to_le_bytes()).collect()
    }
}
