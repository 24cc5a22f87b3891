//! Checkpoints on their way between replicas.
//!
//! A leader offers a checkpoint by Raft's own message; the replica that needs it asks for the file
//! piece by piece, from the replica that offered it, and goes on where it stopped: after a lost piece,
//! a broken connection, or its own restart. Raft sees the checkpoint only when all of it is here and
//! verified. Leaves files to whoever carries out [`CheckpointWork`], and what a state means to
//! `recovery`.
//!
//! Invariants: pieces are stored in order, each once. No more than [`WINDOW`] bytes are asked for
//! beyond what the disk has taken, so neither side holds much of a file in memory.

use super::message;
use crate::master::{CheckpointWork, Effect};
use crate::state::CellState;
use crate::store::{CheckpointMeta, Position};
use borg_proto::wire::pb;
use borg_proto::{Millis, ReplicaId};
use raft::eraftpb::Message;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one piece. Ours: some milliseconds of a slow network, so that heartbeats on the same
/// connection are not late.
pub(super) const PIECE: u32 = 512 << 10;
/// Bytes asked for beyond what is stored. Ours: sixteen pieces keep a fast network busy.
const WINDOW: u64 = 16 * PIECE as u64;
/// Silence after which pieces are asked for again.
const REPEAT: Millis = Millis(500);
/// Silence after which a transfer is given up.
const GIVE_UP: Millis = Millis(10_000);
/// How long a file may be verified and read. Ours: a minute for each GiB of the largest.
const FINISHING: Millis = Millis(480_000);
/// How long an offered checkpoint may be wanted by nobody until it counts as lost. Ours.
const PATIENCE: Millis = Millis(3_000);
/// Checkpoints that may be asked for: the newest, and those that somebody may still be taking.
const OFFERED: usize = 4;

/// A checkpoint that is here, for Raft to take.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Raft's offer of it.
    pub(super) message: Message,
    pub(super) meta: CheckpointMeta,
    pub(super) state: CellState,
}

#[derive(Debug)]
struct Receiving {
    from: u64,
    meta: CheckpointMeta,
    message: Message,
    /// Where the disk has it up to; `None` until the disk has said how much of it is here.
    stored: Option<u64>,
    /// Handed to the disk up to here.
    received: u64,
    /// Asked for up to here.
    asked: u64,
    heard_at: Millis,
    asked_at: Millis,
    finishing: bool,
}

/// What this replica sends and takes.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// Newest last.
    offered: VecDeque<CheckpointMeta>,
    /// Replicas that a checkpoint was offered to, by when it counts as lost.
    sending: BTreeMap<u64, Millis>,
    receiving: Option<Receiving>,
    arrived: Option<Arrived>,
}

impl Transfers {
    /// A file that this replica has and may be asked for.
    pub(super) fn keep(&mut self, meta: CheckpointMeta) {
        self.offered.push_back(meta);
        while self.offered.len() > OFFERED {
            self.offered.pop_front();
        }
    }

    /// A checkpoint was offered to a replica.
    pub(super) fn sent(&mut self, to: u64, now: Millis) {
        self.sending.insert(to, now + PATIENCE);
    }

    /// Replicas that let an offered checkpoint lie.
    pub(super) fn lost(&mut self, now: Millis) -> Vec<u64> {
        let late: Vec<u64> =
            self.sending.iter().filter(|(_, at)| **at <= now).map(|(to, _)| *to).collect();
        late.iter().for_each(|to| {
            self.sending.remove(to);
        });
        late
    }

    /// Another replica asks for a piece of a file.
    pub(super) fn asked(
        &mut self,
        now: Millis,
        from: u64,
        ask: &pb::CheckpointAsk,
    ) -> Option<Effect> {
        if let Some(until) = self.sending.get_mut(&from) {
            *until = now + PATIENCE;
        }
        let file = ask.file.as_ref()?;
        if ask.length == 0 {
            return None;
        }
        let to = ReplicaId(from);
        Some(match self.offered.iter().find(|meta| file_of(meta) == *file) {
            Some(meta) => Effect::Checkpoint(CheckpointWork::Send {
                to,
                meta: meta.clone(),
                offset: ask.offset,
                length: ask.length.min(PIECE),
            }),
            None => Effect::Piece {
                to,
                piece: pb::CheckpointPiece {
                    file: Some(*file),
                    offset: ask.offset,
                    data: Vec::new(),
                    gone: true,
                },
            },
        })
    }

    /// A leader offers a checkpoint that this replica needs.
    pub(super) fn offer(
        &mut self,
        now: Millis,
        message: Message,
        meta: CheckpointMeta,
        out: &mut Vec<Effect>,
    ) {
        if let Some(receiving) = &mut self.receiving {
            let same = receiving.meta == meta;
            if same {
                receiving.from = message.from;
                receiving.message = message;
                return;
            }
            // One that goes on is worth more than a newer one from its beginning.
            if receiving.finishing || now.since(receiving.heard_at) < REPEAT + REPEAT {
                return;
            }
        }
        tracing::info!(
            from = message.from,
            index = meta.place.index,
            bytes = meta.file_bytes,
            "taking a checkpoint"
        );
        out.push(Effect::Checkpoint(CheckpointWork::Begin { meta: meta.clone() }));
        self.receiving = Some(Receiving {
            from: message.from,
            meta,
            message,
            stored: None,
            received: 0,
            asked: 0,
            heard_at: now,
            asked_at: now,
            finishing: false,
        });
    }

    /// The disk has said up to where the file is here.
    pub(super) fn begun(
        &mut self,
        now: Millis,
        meta: &CheckpointMeta,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(receiving) = self.receiving.as_mut().filter(|taking| taking.meta == *meta) else {
            return;
        };
        (receiving.received, receiving.asked, receiving.stored) = (bytes, bytes, Some(bytes));
        receiving.go_on(now, out);
    }

    /// The disk has taken a piece, up to `bytes`.
    pub(super) fn stored(
        &mut self,
        now: Millis,
        meta: &CheckpointMeta,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(receiving) = self.receiving.as_mut().filter(|taking| taking.meta == *meta) else {
            return;
        };
        // What the disk took before it was asked where to go on, it will count then.
        if receiving.stored.is_some() {
            receiving.stored = Some(bytes);
            receiving.go_on(now, out);
        }
    }

    /// A piece came.
    pub(super) fn piece(
        &mut self,
        now: Millis,
        from: u64,
        piece: pb::CheckpointPiece,
        out: &mut Vec<Effect>,
    ) {
        let Some(receiving) = &mut self.receiving else { return };
        if receiving.from != from || piece.file != Some(file_of(&receiving.meta)) {
            return;
        }
        if piece.gone {
            tracing::info!(
                from,
                index = receiving.meta.place.index,
                "the checkpoint is not kept any more"
            );
            self.receiving = None;
            return;
        }
        receiving.heard_at = now;
        let fits = piece.offset == receiving.received
            && !piece.data.is_empty()
            && receiving.received + piece.data.len() as u64 <= receiving.meta.file_bytes;
        if !fits || receiving.stored.is_none() {
            return;
        }
        receiving.received += piece.data.len() as u64;
        out.push(Effect::Checkpoint(CheckpointWork::Store {
            meta: receiving.meta.clone(),
            offset: piece.offset,
            piece: piece.data,
        }));
    }

    /// The file is whole and holds this state, or it was no good.
    pub(super) fn finished(&mut self, meta: &CheckpointMeta, state: Option<CellState>) {
        let Some(receiving) = self.receiving.take_if(|taking| taking.meta == *meta) else { return };
        let Some(state) = state else { return };
        self.keep(meta.clone());
        self.arrived = Some(Arrived { message: receiving.message, meta: receiving.meta, state });
    }

    /// What has arrived, once.
    pub(super) fn take_arrived(&mut self) -> Option<Arrived> {
        self.arrived.take()
    }

    /// Gives back what could not be used yet.
    pub(super) fn put_back(&mut self, arrived: Arrived) {
        self.arrived = Some(arrived);
    }

    /// What time alone changes.
    pub(super) fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(receiving) = &mut self.receiving else { return };
        let patience = if receiving.finishing { FINISHING } else { GIVE_UP };
        if now.since(receiving.heard_at) >= patience {
            tracing::info!(index = receiving.meta.place.index, "gave up taking a checkpoint");
            self.receiving = None;
            return;
        }
        if now.since(receiving.asked_at) < REPEAT {
            return;
        }
        if receiving.finishing || receiving.stored.is_none() {
            // The sender keeps its patience.
            receiving.ask(now, receiving.meta.file_bytes, 0, out);
        } else if now.since(receiving.heard_at) >= REPEAT {
            // Whatever was lost on the way: the disk knows from where to go on.
            receiving.stored = None;
            receiving.asked_at = now;
            out.push(Effect::Checkpoint(CheckpointWork::Begin { meta: receiving.meta.clone() }));
        }
    }
}

impl Receiving {
    /// Asks for what may be asked for; finishes what is whole.
    fn go_on(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let Some(stored) = self.stored.filter(|_| !self.finishing) else { return };
        if stored == self.meta.file_bytes {
            self.finishing = true;
            out.push(Effect::Checkpoint(CheckpointWork::Finish { meta: self.meta.clone() }));
            return self.ask(now, stored, 0, out);
        }
        while self.asked < self.meta.file_bytes && self.asked < stored + WINDOW {
            let length = u64::from(PIECE).min(self.meta.file_bytes - self.asked);
            self.ask(now, self.asked, u32::try_from(length).expect("at most a piece"), out);
            self.asked += length;
        }
    }

    fn ask(&mut self, now: Millis, offset: u64, length: u32, out: &mut Vec<Effect>) {
        self.asked_at = now;
        let file = Some(file_of(&self.meta));
        let ask = pb::CheckpointAsk { file, offset, length };
        out.push(Effect::Ask { to: ReplicaId(self.from), ask });
    }
}

fn file_of(meta: &CheckpointMeta) -> pb::CheckpointFile {
    let Position { index, term } = meta.place;
    pb::CheckpointFile { index, term, sum: meta.file_sum }
}

/// What an offer speaks of.
pub(super) fn offered(message: &Message) -> Option<CheckpointMeta> {
    message::meta_of(message.get_snapshot())
}
