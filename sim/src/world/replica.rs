//! One simulated Borgmaster: the process, its disk, and the carrying out of effects.
//!
//! Mirrors the daemon's shells (driver, scheduler thread, shard's poller): one turn takes all that
//! arrived, effects are carried out in their order, a write takes time and holds up what comes
//! after it. The process can die between any two effects.

use super::clock::Clock;
use super::scheduling::Letter;
use super::shard::COMPARE;
use super::{Happening, PeerMessage, World, index_of, number, replica_id};
use crate::checkers::decisions::Recording;
use crate::checkers::{Invariant, lent, privileges, quota};
use crate::dice::Dice;
use crate::disk::{Reached, SimDisk, SimStore};
use crate::marks::Mark;
use borg_cell::event::{Event, EventKind};
use borg_cell::master::{
    self, CheckpointNews, CheckpointWork, Effect, Input, Master, OwnedBatch, Performed,
};
use borg_cell::rejection::Rejection;
use borg_cell::state::{CellState, FOUNDING};
use borg_cell::store::{CheckpointDraft, LogStore, ReplicaIdentity, StoreError};
use borg_linkshard::{Input as ShardInput, Shard};
use borg_proto::{MachineName, Millis, ReplicaId, TaskId};
use borg_scheduler::{Config, Scheduler, Weights};
use std::collections::{BTreeMap, VecDeque};

/// Most machines that a simulated cell gives up in a minute: few, as are its machines.
pub(crate) const DOWNS_PER_MINUTE: u32 = 20;
/// How long exclusive tasks live without news in a simulated cell, and how long its leader waits:
/// shorter than in production, as are its storms, in the same proportion.
pub(crate) const FENCE_AFTER: Millis = Millis(6_000);
pub(crate) const REPLACE_AFTER: Millis = Millis(8_000);

/// How often a master that stands still is looked at.
pub(crate) const NUDGE: Millis = Millis(20);

/// A master: what survives its process, and the process.
#[derive(Debug)]
pub(crate) struct Replica {
    /// What its log is known as: its number, in its present life.
    pub(crate) id: ReplicaId,
    /// It has no log and asks to become a master.
    pub(crate) joining: bool,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    /// Counts its processes.
    pub(crate) life: u32,
    pub(crate) process: Option<Box<Process>>,
    /// Writes take at least this long.
    pub(crate) stalled: Millis,
    /// Writes take longer and longer since then.
    pub(crate) slower_since: Option<Millis>,
    /// It stands still until then.
    pub(crate) paused_until: Millis,
    /// It dies after so many more effects.
    pub(crate) dies_after: Option<u32>,
}

/// A running Borgmaster.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) master: Master,
    store: SimStore,
    inbox: Vec<Input>,
    turn_due: bool,
    todo: VecDeque<Effect>,
    writing: Option<OwnedBatch>,
    /// How long the last write took, in microseconds.
    wrote: Option<u64>,
    /// In some worlds two.
    pub(crate) schedulers: Vec<Scheduler>,
    /// What each of these was told and decided.
    pub(crate) recordings: Vec<Recording>,
    pub(crate) letter: Letter,
    pub(crate) scheduler_due: bool,
    pub(crate) leads: bool,
    pub(crate) shard: Shard,
    pub(crate) shard_inbox: Vec<ShardInput>,
    pub(crate) shard_wakes_at: Option<Millis>,
    /// Calls of clients that wait for their outcome, by token.
    pub(crate) calls: BTreeMap<u64, super::client::Waiting>,
    pub(crate) next_token: u64,
    was_leader: Option<u64>,
}

impl Replica {
    pub(crate) fn new(dice: &mut Dice, index: usize) -> Self {
        Self {
            id: replica_id(index),
            joining: false,
            disk: SimDisk::default(),
            clock: Clock::new(dice),
            life: 0,
            process: None,
            stalled: Millis(0),
            slower_since: None,
            paused_until: Millis(0),
            dies_after: None,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.master.is_leader())
    }

    /// The process, if it is the one of this life.
    pub(crate) fn alive(&mut self, life: u32) -> Option<&mut Process> {
        self.process.as_deref_mut().filter(|_| self.life == life)
    }
}

impl Process {
    /// Whether it leads and the log says so: decisions before that come to nothing.
    fn leads_by_the_log(&self, own: ReplicaId) -> bool {
        self.master.is_leader() && self.master.state().leader() == Some((own, self.master.term()))
    }
}

impl World {
    pub(crate) fn master_clock(&self, replica: usize) -> Millis {
        self.replicas[replica].clock.now(self.now())
    }

    pub(crate) fn start_master(&mut self, index: usize) {
        let (seed, cell) = (self.dice.roll(), self.newest.cell().clone());
        let epoch = self.newest.epoch();
        if self.replicas[index].joining {
            return;
        }
        let id = self.replicas[index].id;
        let mut config = master::Config::new(cell.clone(), id, seed);
        config.checkpoint_every = self.setup.checkpoint_every;
        if self.setup.level < config.level && self.is_old_version() {
            config.level = self.setup.level;
        }
        config.trailing = self.setup.checkpoint_every / 4;
        // A few entries, so that compactions have steps.
        config.compact_bytes = 1_000;
        config.links.machine_down_after = self.setup.machine_down_after;
        config.links.downs_per_minute = DOWNS_PER_MINUTE;
        config.links.replace_after = REPLACE_AFTER;
        let tick = config.tick;
        let identity = ReplicaIdentity { cell: cell.to_string(), replica: id.0, epoch };
        let masters = self.setup.masters;
        let replica = &mut self.replicas[index];
        if replica.life == 0 {
            let all = (0..masters).map(|at| (replica_id(at), format!("master-{}:1", at + 1)));
            let state = CellState::found(cell.clone(), &all.collect::<Vec<_>>(), self.setup.level);
            replica.disk.found(
                &identity,
                &CheckpointDraft {
                    place: FOUNDING,
                    membership: &state.founding_membership(),
                    at: state.clock(),
                    state: &state.encode(),
                    log: &[],
                },
            );
        }
        let Some(mut store) = self.open_disk(index, &identity) else { return };
        let recovered = store.recover().expect("a simulated disk can be read");
        let result = self.checks.log.promises(index, recovered.hard_state);
        self.check(Invariant::OneLog, result);
        let (last, term) = (recovered.last().index, recovered.hard_state.term);
        let applied = recovered.checkpoint.as_ref().map_or(0, |made| made.meta.place.index);
        let master = match Master::new(config, recovered) {
            Ok(master) => master,
            Err(error) => {
                return self.check(
                    Invariant::Durable,
                    Err(format!("master {id} cannot start again: {error}")),
                );
            }
        };
        let now = self.now();
        let replica = &mut self.replicas[index];
        replica.life += 1;
        replica.dies_after = None;
        let clock_was_set = replica.clock.start(now);
        let second = Config { weights: Weights::worst_fit(), seed: 1, ..Config::default() };
        let second = self.setup.two_schedulers.then_some(second);
        let configs = [Config::default()].into_iter().chain(second);
        let schedulers: Vec<Scheduler> =
            configs.map(|config| Scheduler::new(master.state(), config)).collect();
        let begin = |scheduler| Recording::begin(scheduler, &master);
        let recordings = schedulers.iter().map(begin).collect();
        let process = Process {
            master,
            store,
            inbox: Vec::new(),
            turn_due: false,
            todo: VecDeque::new(),
            writing: None,
            wrote: None,
            schedulers,
            recordings,
            letter: Letter::default(),
            scheduler_due: false,
            leads: false,
            shard: Shard::new(borg_linkshard::Config {
                process: u64::from(replica.life),
                ..borg_linkshard::Config::new(cell, id)
            }),
            shard_inbox: Vec::new(),
            shard_wakes_at: None,
            calls: BTreeMap::new(),
            next_token: 1,
            was_leader: None,
        };
        replica.process = Some(Box::new(process));
        let life = replica.life;
        if clock_was_set {
            self.hit(Mark::MasterClockSet);
        }
        self.say(|| {
            let at =
                format!("entry {last} in term {term}, of which {applied} are in its checkpoint");
            format!("master {id} starts with a log up to {at}")
        });
        self.note(&[1, id.0]);
        let first = Millis(self.dice.below(tick.0));
        self.agenda.after(first, Happening::MasterTick { replica: index, life });
        self.agenda.after(COMPARE, Happening::DigestsCompared { replica: index, life });
    }

    /// Opens a master's disk, unless it cannot prove that it has what it acknowledged: then the
    /// replica must not vote, and its process ends.
    fn open_disk(&mut self, index: usize, identity: &ReplicaIdentity) -> Option<SimStore> {
        let opened = self.replicas[index].disk.open(identity);
        match opened {
            Ok(store) => {
                match store.repaired() {
                    None => {}
                    Some(Reached::Nothing) => self.hit(Mark::UnsyncedWriteLost),
                    Some(Reached::Half) => self.hit(Mark::TornWriteTakenBack),
                    Some(Reached::AllButWatermark) => self.hit(Mark::TornWriteFinished),
                    Some(Reached::All) => self.hit(Mark::UnsyncedWriteKept),
                }
                Some(store)
            }
            Err(error @ StoreError::Broken { .. }) => {
                self.hit(Mark::RotFound);
                self.say(|| format!("master {} does not start: {error}", index + 1));
                self.join_anew(index);
                None
            }
            Err(error) => {
                let what = format!("master {} cannot open its disk: {error}", index + 1);
                self.check(Invariant::Durable, Err(what));
                None
            }
        }
    }

    /// Ends a master's process as signal 9 does.
    pub(crate) fn crash_master(&mut self, index: usize) {
        let Some(mut process) = self.replicas[index].process.take() else { return };
        self.note(&[2, number(index)]);
        self.say(|| format!("master {} dies", index + 1));
        let waiting = process.master.status().in_flight > 0;
        if process.master.is_leader() && waiting && !process.calls.is_empty() {
            self.hit(Mark::LeaderDiedWithProposal);
        }
        if let Some(batch) = process.writing.take() {
            let how_far = [Reached::Nothing, Reached::Half, Reached::AllButWatermark, Reached::All];
            process.store.tear(batch, *self.dice.pick(&how_far));
        }
        drop(process);
        if self.replicas.iter().all(|replica| replica.process.is_none()) {
            self.hit(Mark::AllMastersDown);
        }
    }

    pub(crate) fn master_tick(&mut self, index: usize, life: u32) {
        if self.replicas[index].alive(life).is_none() {
            return;
        }
        self.agenda.after(Millis(20), Happening::MasterTick { replica: index, life });
        self.tell_master(index, Input::Tick);
    }

    /// Puts an input into the master's queue.
    pub(crate) fn tell_master(&mut self, index: usize, input: Input) {
        let replica = &mut self.replicas[index];
        let life = replica.life;
        let Some(process) = &mut replica.process else { return };
        process.inbox.push(input);
        if !process.turn_due && process.todo.is_empty() && process.writing.is_none() {
            process.turn_due = true;
            self.agenda.after(Millis(0), Happening::MasterTurn { replica: index, life });
        }
    }

    pub(crate) fn master_turn(&mut self, index: usize, life: u32) {
        let (now, world_now) = (self.master_clock(index), self.now());
        let replica = &mut self.replicas[index];
        let paused_until = replica.paused_until;
        let Some(process) = replica.alive(life) else { return };
        if paused_until > world_now {
            let wait = NUDGE.min(paused_until - world_now);
            return self.agenda.after(wait, Happening::MasterTurn { replica: index, life });
        }
        process.turn_due = false;
        let mut inputs = std::mem::take(&mut process.inbox);
        if let Some(micros) = process.wrote.take() {
            inputs.push(Input::Wrote { micros });
        }
        let count = number(inputs.len());
        let reported = reported(&inputs);
        let effects = process.master.handle(now, inputs);
        process.todo.extend(effects);
        let (leads, term) = (process.master.is_leader(), process.master.term());
        if leads {
            let result = self.checks.election.leads(self.replicas[index].id, term);
            self.check(Invariant::OneLeader, result);
        }
        self.note(&[3, number(index), count]);
        self.look_at_views(index, &reported);
        self.perform_all(index, life);
    }

    /// Carries out what is left of a turn, up to a write that takes time.
    fn perform_all(&mut self, index: usize, life: u32) {
        loop {
            let replica = &mut self.replicas[index];
            if replica.alive(life).is_none() {
                return;
            }
            if replica.dies_after == Some(0) {
                replica.dies_after = None;
                self.hit(Mark::CrashInTurn);
                self.crash_master(index);
                return self.restart_later(index);
            }
            let Some(process) = replica.alive(life) else { return };
            let Some(effect) = process.todo.pop_front() else {
                return self.turn_done(index, life);
            };
            if let Some(left) = &mut replica.dies_after {
                *left -= 1;
            }
            if let Effect::Persist(batch) = effect {
                if self.begin_write(index, batch) {
                    return;
                }
            } else {
                self.perform(index, effect);
            }
        }
    }

    /// Writes, at once or later. True when the turn has to wait for it.
    fn begin_write(&mut self, index: usize, batch: OwnedBatch) -> bool {
        let life = self.replicas[index].life;
        let stalled = self.replicas[index].stalled;
        let slower = self.replicas[index].slower_since.map_or(0, |at| self.now().since(at).0 / 10);
        let latency = self.dice.below(2) + stalled.0 + slower;
        if batch.compact_to.is_some() && batch.checkpoint.is_none() {
            self.hit(Mark::CompactedInSteps);
        }
        let Some(process) = &mut self.replicas[index].process else { return true };
        process.writing = Some(batch);
        process.wrote = Some(latency * 1_000);
        if slower > 500 {
            self.hit(Mark::DiskVerySlow);
        }
        if latency == 0 {
            return !self.write(index);
        }
        self.agenda.after(Millis(latency), Happening::Persisted { replica: index, life });
        true
    }

    pub(crate) fn persisted(&mut self, index: usize, life: u32) {
        if self.replicas[index].alive(life).is_none() {
            return;
        }
        if self.write(index) {
            self.perform_all(index, life);
        }
    }

    /// Does the write that is under way. False when the process did not survive it.
    fn write(&mut self, index: usize) -> bool {
        let Some(process) = &mut self.replicas[index].process else { return false };
        let Some(batch) = process.writing.take() else { return true };
        let before = batch.entries.first().and_then(|first| {
            let made = batch.checkpoint.as_ref().map(|made| made.place);
            let installed = made.filter(|made| made.index + 1 == first.index);
            installed.map(|made| made.term).or_else(|| process.store.term_of(first.index - 1))
        });
        let Err(error) = process.store.write(&batch.as_batch()) else {
            self.checks.decisions.written(&batch.entries);
            let result = self.checks.log.written(index, &batch.as_batch(), before);
            self.check(Invariant::OneLog, result);
            return true;
        };
        self.say(|| format!("master {} cannot write: {error}", index + 1));
        if matches!(error, StoreError::Invalid(_)) {
            self.check(Invariant::Durable, Err(format!("master {}: {error}", index + 1)));
        }
        let full = self.replicas[index].disk.is_full();
        self.hit(if full { Mark::DiskFull } else { Mark::SyncFailed });
        self.crash_master(index);
        self.restart_later(index);
        false
    }

    /// Does work on checkpoint files that is due.
    pub(crate) fn file_work(&mut self, index: usize, life: u32, work: CheckpointWork) {
        let (now, paused_until) = (self.now(), self.replicas[index].paused_until);
        let Some(process) = self.replicas[index].alive(life) else { return };
        if paused_until > now {
            let wait = NUDGE.min(paused_until - now);
            let again = Happening::FileWork { replica: index, life, work: Box::new(work) };
            return self.agenda.after(wait, again);
        }
        let files = process.store.checkpoints();
        match work.perform(&*files) {
            Ok(Performed::News(CheckpointNews::Saved { place, meta: None })) => {
                self.hit(Mark::CheckpointPutOff);
                self.say(|| format!("master {} has no room for a checkpoint", index + 1));
                let news = CheckpointNews::Saved { place, meta: None };
                self.tell_master(index, Input::Checkpoint(news));
            }
            Ok(Performed::News(CheckpointNews::Finished { meta, state: None })) => {
                self.hit(Mark::TransferUseless);
                self.say(|| format!("master {} cannot use the checkpoint it received", index + 1));
                let news = CheckpointNews::Finished { meta, state: None };
                self.tell_master(index, Input::Checkpoint(news));
            }
            Ok(Performed::News(news)) => self.tell_master(index, Input::Checkpoint(news)),
            Ok(Performed::Piece { to, piece }) => {
                self.send_peer(index, index_of(to), PeerMessage::Piece(piece));
            }
            Err(error) => {
                self.say(|| format!("master {} fails at a checkpoint: {error}", index + 1));
                self.hit(Mark::SyncFailed);
                self.crash_master(index);
                self.restart_later(index);
            }
        }
    }

    fn turn_done(&mut self, index: usize, life: u32) {
        let Some(process) = self.replicas[index].alive(life) else { return };
        if !process.inbox.is_empty() && !process.turn_due {
            process.turn_due = true;
            self.agenda.after(Millis(0), Happening::MasterTurn { replica: index, life });
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Persist(_) => unreachable!("writes go through begin_write"),
            Effect::Send { to, message } => {
                self.send_peer(index, index_of(to), PeerMessage::Raft(Box::new(message)));
            }
            Effect::Checkpoint(work) => {
                // A thread of its own does it: sending is quick, the rest takes its time.
                let quick =
                    matches!(work, CheckpointWork::Send { .. } | CheckpointWork::Store { .. });
                let delay = if quick { 0 } else { self.dice.between(1, 400) };
                let life = self.replicas[index].life;
                let work = Happening::FileWork { replica: index, life, work: Box::new(work) };
                self.agenda.after(Millis(delay), work);
            }
            Effect::Hurry { .. } => self.hit(Mark::CheckpointWanted),
            Effect::Ask { to, ask } => self.send_peer(index, index_of(to), PeerMessage::Ask(ask)),
            Effect::Piece { to, piece } => {
                self.send_peer(index, index_of(to), PeerMessage::Piece(piece));
            }
            Effect::Orders { to, orders } => {
                if !orders.resync.is_empty() {
                    self.hit(Mark::DeltaGap);
                }
                if orders.whole && orders.session.session > number(self.setup.masters) {
                    self.hit(Mark::DividedAgain);
                }
                if to == self.replicas[index].id {
                    self.tell_shard(index, ShardInput::Orders(orders));
                } else {
                    self.send_peer(index, index_of(to), PeerMessage::Orders(Box::new(orders)));
                }
            }
            Effect::Answer { token, outcome } => self.call_done(index, token, outcome),
            Effect::ReadReady { token, index: at } => self.read_done(index, token, Some(at)),
            Effect::ReadFailed { token } => self.read_done(index, token, None),
            Effect::Applied { state, events, reset } => self.applied(index, state, events, reset),
            Effect::LeaderChanged { leader, term } => self.leader_changed(index, leader, term),
            Effect::Decided { results } => {
                let refused: Vec<TaskId> = results
                    .iter()
                    .filter_map(|(task, result)| result.is_err().then_some(*task))
                    .collect();
                for (task, result) in &results {
                    if let Err(why) = result {
                        self.note_refused_decision(why);
                        self.say(|| format!("placement of {task} refused: {why}"));
                        if matches!(why, Rejection::Gang { .. } | Rejection::GangParted { .. }) {
                            self.hit(Mark::GangRefused);
                        }
                    }
                }
                if !refused.is_empty() {
                    self.hit(Mark::PlacementRefused);
                    self.reconsider(index, refused);
                }
            }
            Effect::Undecided { tasks } => {
                self.hit(Mark::PlacementUndecided);
                self.reconsider(index, tasks);
            }
            Effect::Lent { afresh, news } => self.lend(index, afresh, news),
            Effect::Diverged { replica, index: at } => {
                let what =
                    format!("master {} finds that {replica} differs after entry {at}", index + 1);
                self.check(Invariant::SameState, Err(what));
            }
            Effect::Halt { why } => {
                let what = format!("master {} halts: {why}", index + 1);
                self.check(Invariant::SameState, Err(what));
            }
        }
    }

    fn leader_changed(&mut self, index: usize, leader: Option<ReplicaId>, term: u64) {
        let me = leader == Some(self.replicas[index].id);
        self.note(&[4, number(index), leader.map_or(0, |id| id.0), term]);
        let led = self.replicas[index].process.as_ref().is_some_and(|p| p.was_leader.is_some());
        self.say(|| match leader {
            Some(_) if me => format!("LEADER master {} takes office in term {term}", index + 1),
            Some(id) => format!("master {} follows master {id} in term {term}", index + 1),
            None if led => format!("master {} leads no more, term {term} begins", index + 1),
            None => format!("master {} knows no leader in term {term}", index + 1),
        });
        let own = self.replicas[index].id;
        let Some(process) = &mut self.replicas[index].process else { return };
        let before = process.was_leader;
        process.was_leader = me.then_some(term);
        process.letter.leads = Some(process.leads_by_the_log(own));
        if before.is_some() && !me {
            self.hit(Mark::LeaderSteppedDown);
        }
        if me {
            let disk = &self.replicas[index].disk;
            let result = self.checks.log.leads(term, |index| disk.term_at(index));
            self.check(Invariant::OneLog, result);
        }
        if me && self.checks.election.is_successor(term) {
            self.hit(Mark::LeaderReplaced);
        }
        self.wake_scheduler(index, Millis(1));
    }

    fn applied(&mut self, index: usize, state: CellState, events: Vec<Event>, reset: bool) {
        let (applied, digest) = (state.applied(), state.digest());
        let [low, high] = [digest & u128::from(u64::MAX), digest >> 64]
            .map(|half| u64::try_from(half).expect("64 bits"));
        self.note(&[5, number(index), applied, low, high, u64::from(reset)]);
        if reset {
            self.hit(Mark::SnapshotInstalled);
        }
        let replica = &self.replicas[index];
        let term = replica.process.as_ref().map_or(0, |process| process.master.term());
        self.checks.log.applied(term, applied, replica.disk.term_at(applied).unwrap_or(0));
        let result = self.checks.equality.seen(self.replicas[index].id, applied, digest);
        self.check(Invariant::SameState, result);
        for event in &events {
            if self.checks.lifecycle.is_news(event) {
                self.happened(event, &state);
            }
        }
        self.checks.lifecycle.caught_up(applied);
        // Its own first entry, and not one of an earlier office that it reads again after a restart.
        let led = events.iter().any(|event| matches!(event.kind, EventKind::Led { .. }));
        let office = self.replicas[index].process.as_ref().map(|process| &process.master);
        let office = office
            .filter(|master| master.is_leader())
            .map(|master| (self.replicas[index].id, master.term()));
        if office.is_some() && state.leader() == office && led {
            let under_way = self.clients.machine_under_way();
            let result = self.checks.durability.all_kept(&state, under_way);
            self.check(Invariant::Durable, result);
        }
        if applied > self.newest.applied() {
            if state.level() > self.newest.level() && self.newest.applied() > 0 {
                self.hit(Mark::LevelRaised);
            }
            if self.checks.is_time_to_audit(self.setup.machines) {
                self.check(Invariant::Lent, lent::prod_fits(&state));
                let found = state.audit();
                let result = if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) };
                self.check(Invariant::Audit, result);
            }
            self.check(Invariant::Quota, quota::admitted(&events, &state));
            self.check(Invariant::Privileges, privileges::admitted(&events, &state));
            self.newest = state.clone();
        }
        let own = self.replicas[index].id;
        let Some(process) = &mut self.replicas[index].process else { return };
        process.letter.afresh |= reset;
        if process.letter.afresh {
            process.letter.events.clear();
        } else {
            process.letter.events.extend(events);
        }
        process.letter.state = Some(state);
        if led {
            process.letter.leads = Some(process.leads_by_the_log(own));
        }
        let delay = Millis(self.dice.between(0, self.setup.scheduler_lag));
        self.wake_scheduler(index, delay);
    }
}

/// The machines of which shards report something else than usage.
fn reported(inputs: &[Input]) -> Vec<MachineName> {
    let deltas = |input: &Input| match input {
        Input::Report(report) => {
            report.deltas.iter().map(|delta| delta.machine.clone()).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    inputs.iter().flat_map(deltas).collect()
}
