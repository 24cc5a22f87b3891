//! One member of the group of masters: agreement on the log, and the state that follows from it.
//!
//! Answers which entries are agreed, in which order, and applies them. raft-rs decides; this drives
//! it without I/O: everything of a turn goes in, one `advance` gives what is to be written, sent
//! and answered, in that order. Leaves what entries mean to `state`, keeping them to `store`, and
//! machines to `links`.
//!
//! Invariants: a vote or an acknowledgement comes after the [`Effect::Persist`] that covers it. An
//! entry that cannot be understood stops the replica; it is never skipped, and never proposed. The
//! same seed, inputs and times give the same effects.

mod checkpoints;
mod digests;
mod log;
mod logger;
mod members;
mod message;
mod office;
mod reads;
mod recovery;
pub mod replay;
mod transfer;

pub use recovery::RecoverError;

use crate::event::{Event, EventKind};
use crate::master::{CheckpointNews, Config, Effect, Outcome};
use crate::rejection::Rejection;
use crate::state::{Answer, CellState};
use crate::store::{Batch, CheckpointMeta, HardState, LogEntry, Membership, Position, Recovered};
use borg_proto::command::{Action, Command, Principal};
use borg_proto::wire::{MAX_COMMAND_BYTES, pb};
use borg_proto::{MachineId, Millis, ReplicaId, TaskId};
use digests::Digests;
use log::MemoryLog;
use message::Standing;
use office::Office;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};
use raft::{GetEntriesContext, RawNode, ReadOnlyOption, StateRole, Storage};
use reads::Reads;
use std::collections::{BTreeMap, BTreeSet};
use transfer::Transfers;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of entries that may wait for agreement on a leader. Ours: far below its memory.
const MAX_UNCOMMITTED_BYTES: u64 = 256 << 20;
/// Bytes of entries after which a checkpoint is made, however few they are, and of entries that
/// are kept before one. Ours: they stay in memory.
const CHECKPOINT_BYTES: usize = 64 << 20;
/// Bytes of entries that come while a checkpoint is being saved, from which on it is late. Ours: they stay
/// in memory as well.
const LATE_BYTES: usize = 4 * CHECKPOINT_BYTES;
/// Wait after a checkpoint that found no room on the disk. Ours.
const CHECKPOINT_PAUSE: Millis = Millis(5_000);
/// Bytes of entries that are kept for a replica that is taking a checkpoint, so that it finds the log
/// after it. Ours: they stay in memory.
const CATCH_UP_BYTES: usize = 512 << 20;

/// Bytes of entries that a look at the log gives at once. Ours: nothing is decided meanwhile.
const LOOK_BYTES: u64 = 4 << 20;

/// An atomic write that owns its parts, so that it can wait for a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedBatch {
    /// See [`Batch::checkpoint`].
    pub checkpoint: Option<CheckpointMeta>,
    /// See [`Batch::entries`].
    pub entries: Vec<LogEntry>,
    /// See [`Batch::compact_to`].
    pub compact_to: Option<u64>,
    /// See [`Batch::hard_state`].
    pub hard_state: Option<HardState>,
}

impl OwnedBatch {
    /// As a store takes it.
    #[must_use]
    pub fn as_batch(&self) -> Batch<'_> {
        Batch {
            checkpoint: self.checkpoint.as_ref(),
            entries: &self.entries,
            compact_to: self.compact_to,
            hard_state: self.hard_state,
        }
    }
}

/// Who proposed an entry, and so who hears how it went.
#[derive(Debug)]
pub(crate) enum Origin {
    Client {
        token: u64,
    },
    Scheduler {
        tasks: Vec<TaskId>,
    },
    Links {
        machines: Vec<MachineId>,
    },
    Leader,
    /// What was to happen at a time that has come.
    Alarms,
}

/// How a proposed entry went.
#[derive(Debug)]
pub(crate) enum Fate {
    Applied {
        index: u64,
        result: Result<Answer, Rejection>,
    },
    /// It may or may not be applied one day.
    Unknown,
    /// It was not proposed and never can be: no entry may hold it.
    Unwritable,
}

#[derive(Debug)]
struct Waiting {
    term: u64,
    deadline: Option<Millis>,
    origin: Origin,
}

/// What came out of a turn.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Persist and Send, in their order.
    pub(crate) effects: Vec<Effect>,
    pub(crate) events: Vec<Event>,
    /// Entries were applied, or the state replaced.
    pub(crate) moved: bool,
    pub(crate) reset: bool,
    /// The first entry of this replica's own term was applied.
    pub(crate) led: bool,
    pub(crate) settled: Vec<(Origin, Fate)>,
    /// What comes after answers.
    pub(crate) after: Vec<Effect>,
}

pub(crate) struct Replica {
    config: Config,
    id: u64,
    /// All replicas that may speak to this one; empty while it knows of none.
    peers: BTreeSet<u64>,
    raw: RawNode<MemoryLog>,
    state: CellState,
    /// The newest of Raft's; what of it must be durable has been handed out.
    hard: HardState,
    waiting: BTreeMap<u64, Waiting>,
    reads: Reads,
    digests: Digests,
    heard: BTreeMap<ReplicaId, Millis>,
    /// Bytes of entries applied since the last checkpoint was begun.
    uncovered_bytes: usize,
    /// The checkpoint of our own that is being written.
    saving: Option<Position>,
    /// Index of the one that was told to hurry.
    hurried: u64,
    /// Up to where the log is being compacted, a step each tick.
    compacting: u64,
    /// Whether the disk knows how far the log was agreed when the members changed last.
    members_written: bool,
    /// No checkpoint is begun before.
    next_checkpoint: Millis,
    /// Checkpoints on their way between replicas.
    transfers: Transfers,
    /// The state of a leader's checkpoint that is being stepped.
    incoming: Option<(CheckpointMeta, CellState)>,
    /// When this replica would rather not lead.
    office: Office,
    /// The level of entries that was proposed last.
    raising: u32,
    /// The entry by which the table of masters was cleared last.
    forgetting: u64,
    announced: (Option<ReplicaId>, u64),
    /// The term in which this replica proposed that it leads.
    claimed: u64,
    halted: Option<String>,
    /// How far the cell's time is ahead of this replica's clock, at the most so far.
    ahead: Millis,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.id)
            .field("hard", &self.hard)
            .finish_non_exhaustive()
    }
}

impl Replica {
    pub(crate) fn new(config: Config, recovered: &Recovered) -> Result<Self, RecoverError> {
        let id = config.replica.0;
        if id == 0 {
            return Err(RecoverError::NoId);
        }
        let (state, members) = match &recovered.checkpoint {
            Some(made) => (recovery::from_checkpoint(&config, made)?, made.meta.membership.clone()),
            None if recovered.last().index > 0 => return Err(RecoverError::NoCheckpoint),
            // It was not told anything yet: a leader sends it a checkpoint.
            None => (CellState::new(config.cell.clone()), Membership::default()),
        };
        // A checkpoint covers agreed entries only, so at least that much is agreed (etcd-io/raft
        // #300: applied beyond commit after a restart).
        let commit = recovered.hard_state.commit.max(state.applied());
        if commit > recovered.last().index {
            return Err(RecoverError::CommitBeyondLog { commit, last: recovered.last().index });
        }
        let log = MemoryLog::new(recovered, members, commit);
        let raft_config = raft::Config {
            id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: state.applied(),
            max_size_per_msg: message::MAX_BATCH_BYTES,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            ..raft::Config::default()
        };
        let raw = RawNode::new(&raft_config, log, &logger::forwarding())?;
        let hard = HardState { commit, ..recovered.hard_state };
        let mut replica = Self {
            id,
            peers: BTreeSet::new(),
            raw,
            hard,
            waiting: BTreeMap::new(),
            reads: Reads::new(id, config.seed),
            digests: Digests::new(config.replica),
            heard: BTreeMap::new(),
            uncovered_bytes: {
                let covered = recovered.checkpoint.as_ref().map_or(0, |made| made.meta.place.index);
                let after = recovered.entries.iter().filter(|entry| entry.index > covered);
                after.map(|entry| entry.data.len()).sum()
            },
            saving: None,
            hurried: 0,
            compacting: 0,
            members_written: true,
            next_checkpoint: Millis(0),
            transfers: Transfers::default(),
            incoming: None,
            office: Office::default(),
            raising: 0,
            forgetting: 0,
            announced: (None, hard.term),
            claimed: 0,
            halted: None,
            ahead: Millis(0),
            state,
            config,
        };
        if let Some(made) = &recovered.checkpoint {
            replica.transfers.keep(made.meta.clone());
        }
        replica.find_peers();
        replica.pin_election_timeout();
        Ok(replica)
    }

    pub(crate) fn state(&self) -> &CellState {
        &self.state
    }

    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0).map(ReplicaId)
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.raw.store().members()
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The cell's time now, by this replica's clock.
    pub(crate) fn cell_time(&self, now: Millis) -> Millis {
        now + self.ahead
    }

    /// The clock of a leader may have been far ahead of this replica's. The cell's time goes on
    /// from there at the pace of this one: it must not stand still until this one is as late.
    fn keep_up(&mut self, now: Millis) {
        self.ahead = self.ahead.max(self.state.clock().since(now));
    }

    pub(crate) fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// When each other replica was last heard of.
    pub(crate) fn heard(&self) -> &BTreeMap<ReplicaId, Millis> {
        &self.heard
    }

    pub(crate) fn commit(&self) -> u64 {
        self.hard.commit
    }

    pub(crate) fn last_log(&self) -> Position {
        let log = &self.raw.raft.raft_log;
        Position { index: log.last_index(), term: log.last_term() }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// At most `most` applied entries after `after`; `None` if some of them are not in memory any more.
    pub(crate) fn log_after(&self, after: u64, most: usize) -> Option<Vec<LogEntry>> {
        let low = after + 1;
        let high = (self.state.applied() + 1).min(low.saturating_add(most as u64));
        if high <= low {
            return Some(Vec::new());
        }
        let context = GetEntriesContext::empty(false);
        let entries = self.raw.store().entries(low, high, LOOK_BYTES, context).ok()?;
        Some(entries.iter().map(log::from_raft).collect())
    }

    pub(crate) fn checkpoint_index(&self) -> u64 {
        self.raw.store().checkpoint_index()
    }

    pub(crate) fn digests(&self) -> Vec<(u64, u128)> {
        self.digests.own()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn tick(&mut self, now: Millis, out: &mut Out) {
        self.raw.tick();
        self.pin_election_timeout();
        self.expire(now, out);
        self.transfers.tick(now, &mut out.after);
        for to in self.transfers.lost(now) {
            self.checkpoint_lost(to);
        }
        self.lead_members(now);
        self.spare_the_disk(now);
        self.compact(out);
        self.write_members(out);
    }

    /// Raft starts from the members at the index that is known to be agreed, and it would learn that from
    /// the group: after a change, from another one than the old one of which it would want a majority.
    fn write_members(&mut self, out: &mut Out) {
        if !std::mem::replace(&mut self.members_written, true) && self.halted.is_none() {
            let hard_state = Some(self.hard);
            out.effects.push(Effect::Persist(OwnedBatch { hard_state, ..OwnedBatch::default() }));
        }
    }

    /// Takes a message of another replica, or drops it with a word in the log.
    pub(crate) fn step(&mut self, now: Millis, message: pb::RaftMessage, out: &mut Out) {
        if let Err(refused) = self.try_step(now, message, out) {
            tracing::warn!(replica = self.id, "{refused}");
        }
    }

    fn try_step(
        &mut self,
        now: Millis,
        message: pb::RaftMessage,
        out: &mut Out,
    ) -> Result<(), message::Refused> {
        let message = message::decode(message)?;
        message::admit(&message, &self.standing())?;
        let (from, current) = (message.from, message.term >= self.term());
        if current {
            self.heard.insert(ReplicaId(from), now);
        }
        let place = message.get_snapshot().get_metadata().index;
        if message.get_msg_type() == MessageType::MsgSnapshot && current && place > self.hard.commit
        {
            // Raft hears of it when all of it is here.
            let Some(meta) = transfer::offered(&message) else {
                return Err(message::Refused("checkpoint without a file"));
            };
            self.transfers.offer(now, message, meta, &mut out.after);
            return Ok(());
        }
        self.step_raft(message);
        Ok(())
    }

    fn step_raft(&mut self, message: Message) {
        let from = message.from;
        // Errors are of messages that came too late: nothing to do about them.
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(replica = self.id, from, %error, "raft message ignored");
        }
        self.pin_election_timeout();
    }

    /// Another replica asks for a piece of a checkpoint.
    pub(crate) fn asked(
        &mut self,
        now: Millis,
        from: ReplicaId,
        ask: &pb::CheckpointAsk,
        out: &mut Out,
    ) {
        if self.is_peer(from) {
            self.heard.insert(from, now);
            out.after.extend(self.transfers.asked(now, from.0, ask));
        }
    }

    /// A piece of a checkpoint came.
    pub(crate) fn piece(
        &mut self,
        now: Millis,
        from: ReplicaId,
        piece: pb::CheckpointPiece,
        out: &mut Out,
    ) {
        self.transfers.piece(now, from.0, piece, &mut out.after);
    }

    /// What became of work on a checkpoint file.
    pub(crate) fn checkpoint_news(&mut self, now: Millis, news: CheckpointNews, out: &mut Out) {
        match news {
            CheckpointNews::Saved { place, meta: Some(meta) } => {
                self.checkpoint_saved(place, meta, out)
            }
            CheckpointNews::Saved { place, meta: None } => {
                if self.saving.take_if(|saving| *saving == place).is_some() {
                    self.next_checkpoint = now + CHECKPOINT_PAUSE;
                }
            }
            CheckpointNews::Begun { meta, bytes } => {
                self.transfers.begun(now, &meta, bytes, &mut out.after);
            }
            CheckpointNews::Stored { meta, bytes } => {
                self.transfers.stored(now, &meta, bytes, &mut out.after);
            }
            CheckpointNews::Finished { meta, state } => {
                let state = state.map(|state| *state).filter(|state| {
                    let fits = recovery::check(&self.config, meta.place.index, state);
                    if let Err(why) = &fits {
                        tracing::error!(replica = self.id, why, "a leader's checkpoint is no good");
                    }
                    fits.is_ok()
                });
                self.transfers.finished(&meta, state);
            }
        }
    }

    /// Gives Raft a checkpoint that has arrived in full.
    fn take_arrived(&mut self, now: Millis, out: &mut Out) {
        let Some(arrived) = self.transfers.take_arrived() else { return };
        if self.leads() || arrived.meta.place.index <= self.hard.commit {
            return;
        }
        let Some(leader) = self.leader() else { return self.transfers.put_back(arrived) };
        // What is agreed stays so: it does not matter which leader offered it, and in which term.
        let mut message = arrived.message;
        message.from = leader.0;
        message.term = self.term();
        self.incoming = Some((arrived.meta, arrived.state));
        self.step_raft(message);
        // On its own, so that nothing else of the turn meets a half installed state.
        self.drain(now, out);
        self.incoming = None;
    }

    /// A leader's checkpoint brings its configuration.
    fn find_members(&mut self, meta: &CheckpointMeta) {
        self.raw.mut_store().set_members(meta.membership.clone());
        self.find_peers();
    }

    fn is_peer(&self, replica: ReplicaId) -> bool {
        replica.0 != self.id && self.peers.contains(&replica.0)
    }

    /// Why an action may not even begin.
    fn gate(&self, now: Millis, action: &Action) -> Option<Outcome> {
        let raises = matches!(action, Action::RaiseLevel { .. });
        if action.level() > self.state.level() && !raises {
            return Some(Outcome::TooNew { needs: action.level(), has: self.state.level() });
        }
        self.is_unsafe(now, action)
    }

    /// Puts a command into the log if this replica leads. The answer comes in [`Out::settled`].
    pub(crate) fn propose(
        &mut self,
        now: Millis,
        action: (Principal, Option<borg_proto::command::RequestId>, Action),
        deadline: Option<Millis>,
        origin: Origin,
    ) -> Result<(), (Origin, Outcome)> {
        if !self.leads() {
            return Err((origin, Outcome::NotLeader { leader: self.leader() }));
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err((origin, Outcome::Unavailable));
        }
        if matches!(origin, Origin::Client { .. }) && self.waiting.len() >= self.config.in_flight {
            return Err((origin, Outcome::Overloaded));
        }
        let (by, request, action) = action;
        // What was done before is only told once more: whether it would be safe now is no question.
        let repeated = match (&by, &request) {
            (Principal::User(user), Some(request)) => {
                self.state.requests.get(user, request).is_some()
            }
            (Principal::User(_) | Principal::Master(_), _) => false,
        };
        if let Some(outcome) = self.gate(now, &action).filter(|_| !repeated) {
            return Err((origin, outcome));
        }
        if self.raw.raft.lead_transferee.is_some() {
            // Raft takes nothing more until the next leader is there.
            return Err((origin, Outcome::NotLeader { leader: None }));
        }
        self.keep_up(now);
        let bytes = Command { at: self.cell_time(now), by, request, action }.encode();
        if bytes.len() > MAX_COMMAND_BYTES {
            let (bytes, limit) = (bytes.len() as u64, MAX_COMMAND_BYTES as u64);
            return Err((origin, Outcome::TooLarge { bytes, limit }));
        }
        // Once agreed, an entry that cannot be read stops every replica for good.
        if let Err(error) = Command::decode(&bytes) {
            return Err((origin, Outcome::Malformed { why: error.to_string() }));
        }
        if self.raw.propose(Vec::new(), bytes).is_err() {
            return Err((origin, Outcome::Overloaded));
        }
        let waiting = Waiting { term: self.term(), deadline, origin };
        self.waiting.insert(self.last_index(), waiting);
        Ok(())
    }

    pub(crate) fn read(&mut self, token: u64, deadline: Millis, out: &mut Out) {
        if !self.reads.add(token, deadline) {
            out.after.push(Effect::ReadFailed { token });
        }
    }

    /// Median time of this replica's newest writes, in microseconds; 0 while there are too few.
    pub(crate) fn write_micros(&self) -> u64 {
        self.office.write_micros()
    }

    pub(crate) fn peer_digest(&mut self, from: ReplicaId, index: u64, digest: u128, out: &mut Out) {
        if !self.is_peer(from) {
            return;
        }
        if self.digests.compare(from, index, digest) {
            out.after.push(Effect::Diverged { replica: from, index });
        }
        let members = self.raw.store().members().voters.len();
        if let Some(index) = self.digests.outvoted(members) {
            self.halt(format!("after entry {index} a majority of the masters has another state than this one: keep its directory for a look, and start it again on an empty one, it joins anew"));
        }
    }

    /// Does all that the inputs of the turn lead to.
    pub(crate) fn advance(&mut self, now: Millis, out: &mut Out) {
        self.claim(now);
        if let Some(context) = self.reads.ask(now) {
            self.raw.read_index(context);
        }
        self.drain(now, out);
        self.take_arrived(now, out);
        self.keep_up(now);
        self.reads.finish(self.state.applied(), &mut out.after);
        self.begin_checkpoint(now, out);
        self.hurry_checkpoint(out);
    }

    /// The leader that the group has now, when it is another than last time.
    pub(crate) fn leader_changed(&mut self) -> Option<Effect> {
        let now = (self.leader(), self.term());
        if now == self.announced {
            return None;
        }
        self.announced = now;
        Some(Effect::LeaderChanged { leader: now.0, term: now.1 })
    }

    /// A new leader's first entry says so: followers of the log learn it, and all that was agreed
    /// before is known to be agreed once this is.
    fn claim(&mut self, now: Millis) {
        if !self.leads() || self.claimed == self.term() {
            return;
        }
        let action = Action::Lead { leader: self.config.replica, term: self.term() };
        let by = Principal::Master(self.config.replica);
        if self.propose(now, (by, None, action), None, Origin::Leader).is_ok() {
            self.claimed = self.term();
            self.raising = 0;
            self.forgetting = 0;
        }
    }

    fn drain(&mut self, now: Millis, out: &mut Out) {
        while self.halted.is_none() && self.raw.has_ready() {
            self.one_ready(now, out);
            self.claim(now);
        }
        let (leads, term) = (self.leads(), self.term());
        // They are ordered by index and so by term: mostly a look at the first will do.
        let fine = |waiting: &Waiting| leads && waiting.term == term && self.halted.is_none();
        if self.waiting.values().next().is_none_or(fine) {
            return;
        }
        let lost = self.waiting.iter().filter(|(_, waiting)| !fine(waiting));
        let lost: Vec<u64> = lost.map(|(index, _)| *index).collect();
        for index in lost {
            self.settle_unknown(index, out);
        }
    }

    fn one_ready(&mut self, now: Millis, out: &mut Out) {
        let mut ready = self.raw.ready();
        self.send(now, ready.take_messages(), out);
        let mut batch = OwnedBatch::default();
        if !ready.snapshot().is_empty() {
            let Some(checkpoint) = self.install(ready.snapshot(), out) else { return };
            self.raw.mut_store().install(checkpoint.clone());
            batch.checkpoint = Some(checkpoint);
        }
        self.raw.mut_store().append(ready.entries());
        batch.entries = ready.entries().iter().map(log::from_raft).collect();
        if let Some(hard) = ready.hs() {
            self.hard = HardState { term: hard.term, vote: hard.vote, commit: hard.commit };
        }
        // How far the log is agreed alone needs no write: it is learnt again from the group. (When the
        // group has changed, the next tick writes it.)
        if ready.must_sync() {
            batch.hard_state = Some(self.hard);
            out.effects.push(Effect::Persist(batch));
        }
        self.send(now, ready.take_persisted_messages(), out);
        for read in ready.take_read_states() {
            self.reads.confirmed(&read.request_ctx, read.index);
        }
        let committed = ready.take_committed_entries();
        self.apply(committed, out);
        if self.halted.is_some() {
            return;
        }
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.hard.commit = commit;
        }
        self.send(now, light.take_messages(), out);
        self.apply(light.take_committed_entries(), out);
        if self.halted.is_none() {
            self.raw.advance_apply();
        }
    }

    fn send(&mut self, now: Millis, messages: Vec<Message>, out: &mut Out) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.transfers.sent(message.to, now);
            }
            let to = ReplicaId(message.to);
            out.effects.push(Effect::Send { to, message: message::encode(message) });
        }
    }

    /// Replaces the state by a leader's.
    fn install(&mut self, snapshot: &Snapshot, out: &mut Out) -> Option<CheckpointMeta> {
        let index = snapshot.get_metadata().index;
        let incoming = self.incoming.take().filter(|(meta, _)| meta.place.index == index);
        let Some((meta, state)) = incoming else {
            self.halt(format!("raft installs a checkpoint at {index} that did not come"));
            return None;
        };
        self.state = state;
        self.find_members(&meta);
        self.uncovered_bytes = 0;
        // What was applied in this turn before is part of the new state.
        out.events.clear();
        out.moved = true;
        out.reset = true;
        Some(meta)
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut Out) {
        for entry in entries {
            if let Err(why) = self.apply_one(&entry, out) {
                self.halt(format!("log entry {}: {why}", entry.index));
                return;
            }
            for replica in self.digests.note(entry.index, self.state.digest()) {
                out.after.push(Effect::Diverged { replica, index: entry.index });
            }
        }
    }

    fn apply_one(&mut self, entry: &Entry, out: &mut Out) -> Result<(), String> {
        out.moved = true;
        match entry.get_entry_type() {
            EntryType::EntryNormal => {}
            EntryType::EntryConfChangeV2 => {
                out.events.extend(self.apply_members(entry)?);
                self.hard.commit = self.hard.commit.max(entry.index);
                self.members_written = false;
                return Ok(());
            }
            EntryType::EntryConfChange => {
                return Err(
                    "it changes the masters in a way that this version does not know".into()
                );
            }
        }
        self.uncovered_bytes += entry.data.len();
        if entry.data.is_empty() {
            self.state.skip(entry.index);
            return Ok(());
        }
        let command = Command::decode(&entry.data).map_err(|error| error.to_string())?;
        if command.action.level() > self.config.level {
            return Err(format!(
                "it is of level {}, this version understands {}: install the version of the other masters",
                command.action.level(),
                self.config.level
            ));
        }
        let result = self.state.apply(entry.index, &command).map(|applied| {
            out.events.extend(applied.events);
            applied.answer
        });
        if out.events.iter().any(|event| event.kind == EventKind::MastersChanged) {
            self.find_peers();
        }
        if let Action::Lead { leader, term } = &command.action {
            out.led |= leader.0 == self.id && *term == self.term() && self.leads();
        }
        if let Some(waiting) = self.waiting.remove(&entry.index) {
            let fate = if waiting.term == entry.term {
                Fate::Applied { index: entry.index, result }
            } else {
                Fate::Unknown
            };
            out.settled.push((waiting.origin, fate));
        }
        Ok(())
    }

    fn settle_unknown(&mut self, index: u64, out: &mut Out) {
        if let Some(waiting) = self.waiting.remove(&index) {
            out.settled.push((waiting.origin, Fate::Unknown));
        }
    }

    fn expire(&mut self, now: Millis, out: &mut Out) {
        let over = |waiting: &Waiting| waiting.deadline.is_some_and(|deadline| deadline <= now);
        let late = self.waiting.iter().filter(|(_, waiting)| over(waiting));
        for index in late.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.settle_unknown(index, out);
        }
        self.reads.expire(now, &mut out.after);
    }

    /// raft-rs draws election timeouts from the thread's random numbers; these repeat.
    fn pin_election_timeout(&mut self) {
        let mut bytes = [0; 24];
        for (part, value) in bytes.chunks_exact_mut(8).zip([self.config.seed, self.id, self.term()])
        {
            part.copy_from_slice(&value.to_le_bytes());
        }
        let shortest = self.config.election_ticks;
        let draw = usize::try_from(xxh3_64(&bytes) >> 33).expect("31 bits");
        self.raw.raft.set_randomized_election_timeout(shortest + draw % shortest);
    }

    fn standing(&self) -> Standing<'_> {
        let log = &self.raw.raft.raft_log;
        Standing {
            id: self.id,
            peers: &self.peers,
            newest_life: self.state.master_lives(),
            leader: self.raw.raft.leader_id,
            term: self.raw.raft.term,
            leads: self.leads(),
            committed: log.committed,
            committed_term: log.term(log.committed).unwrap_or(0),
            last_index: log.last_index(),
        }
    }

    fn halt(&mut self, why: String) {
        if self.halted.is_none() {
            tracing::error!(replica = self.id, %why, "replica halts");
            self.halted = Some(why);
        }
    }
}
