//! Five Borgmasters on a network and disks of memory, in virtual time: what these tests stand on.
//!
//! Messages take 1 to 5 ms, by a generator of the test's seed; they are lost between replicas that
//! are cut off. A write to a disk takes no time. Everything repeats for a seed.

#![allow(dead_code, reason = "each test file uses its part")]

use borg_cell::fixture::{batch, user};
use borg_cell::master::{Config, Effect, Input, Master, Outcome, Performed};
use borg_cell::state::{CellState, FOUNDING};
use borg_cell::store::memory::{MemoryDisk, MemoryStore};
use borg_cell::store::{CheckpointDraft, LogStore, ReplicaIdentity};
use borg_proto::command::{Action, Command, LEVEL};
use borg_proto::peer::ShardOrders;
use borg_proto::wire::pb;
use borg_proto::{Millis, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

pub(crate) struct Replica {
    pub(crate) master: Option<(Master, MemoryStore)>,
    disk: MemoryDisk,
}

pub(crate) struct Five {
    pub(crate) now: Millis,
    pub(crate) replicas: BTreeMap<u64, Replica>,
    pub(crate) answers: BTreeMap<u64, Outcome>,
    pub(crate) reads: BTreeMap<u64, Option<u64>>,
    pub(crate) halts: Vec<(u64, String)>,
    /// Everything that any replica did, as text, when `record` is set.
    pub(crate) history: String,
    pub(crate) record: bool,
    /// Leaders seen, by term.
    pub(crate) leaders: BTreeMap<u64, BTreeSet<u64>>,
    /// Times a replica took the whole state from another.
    pub(crate) resets: BTreeMap<u64, u32>,
    /// Checkpoints that somebody waited for, by replica and index.
    pub(crate) hurried: BTreeSet<(u64, u64)>,
    pub(crate) lost_per_hundred: u64,
    pub(crate) checkpoints_to_lose: u32,
    pub(crate) diverged: Vec<(u64, ReplicaId, u64)>,
    /// Orders to each replica's shard, in order.
    pub(crate) orders: BTreeMap<u64, Vec<ShardOrders>>,
    /// Messages sent, when `capture` is set.
    pub(crate) captured: Vec<pb::RaftMessage>,
    pub(crate) capture: bool,
    seed: u64,
    random: u64,
    change: fn(&mut Config),
    wire: BTreeMap<(Millis, u64), (u64, u64, Input)>,
    sent: u64,
    cut: BTreeSet<u64>,
    next_token: u64,
}

impl Five {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, 5, |_| {})
    }

    pub(crate) fn with(seed: u64, size: u64, change: fn(&mut Config)) -> Self {
        let mut five = Self {
            now: Millis(1_000_000),
            replicas: BTreeMap::new(),
            answers: BTreeMap::new(),
            reads: BTreeMap::new(),
            halts: Vec::new(),
            history: String::new(),
            record: false,
            leaders: BTreeMap::new(),
            resets: BTreeMap::new(),
            hurried: BTreeSet::new(),
            lost_per_hundred: 0,
            checkpoints_to_lose: 0,
            diverged: Vec::new(),
            orders: BTreeMap::new(),
            captured: Vec::new(),
            capture: false,
            seed,
            random: seed | 1,
            change,
            wire: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            next_token: 1,
        };
        for id in 1..=size {
            five.replicas.insert(id, Replica { master: None, disk: founded(id, size) });
        }
        for id in 1..=size {
            five.start(id);
        }
        five
    }

    pub(crate) fn start(&mut self, id: u64) {
        let cell = borg_proto::CellName::new("lab").unwrap();
        let identity = ReplicaIdentity { cell: "lab".into(), replica: id, epoch: 1 };
        let mut config = Config::new(cell, ReplicaId(id), self.seed);
        (self.change)(&mut config);
        let replica = self.replicas.get_mut(&id).unwrap();
        let mut store = replica.disk.open(&identity).unwrap();
        let master = Master::new(config, store.recover().unwrap()).unwrap();
        replica.master = Some((master, store));
    }

    /// A replica with nothing on its disk.
    pub(crate) fn add_empty(&mut self, id: u64) {
        self.replicas.insert(id, Replica { master: None, disk: MemoryDisk::default() });
    }

    /// Begins the cell anew, as one that an older version made.
    pub(crate) fn found_at_level(&mut self, level: u32) {
        let size = self.replicas.len() as u64;
        for id in 1..=size {
            self.crash(id);
            let disk = founded_at(id, size, level);
            self.replicas.insert(id, Replica { master: None, disk });
        }
        self.wire.clear();
        self.leaders.clear();
        for id in 1..=size {
            self.start(id);
        }
    }

    pub(crate) fn crash(&mut self, id: u64) {
        self.replicas.get_mut(&id).unwrap().master = None;
    }

    /// Nothing arrives at, or comes from, this replica any more.
    pub(crate) fn cut(&mut self, id: u64) {
        self.cut.insert(id);
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn master(&self, id: u64) -> &Master {
        &self.replicas[&id].master.as_ref().unwrap().0
    }

    pub(crate) fn up(&self) -> Vec<u64> {
        self.replicas.iter().filter(|(_, r)| r.master.is_some()).map(|(id, _)| *id).collect()
    }

    /// The leader of the highest term, if a majority could know of it.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |id: &u64| self.master(*id).is_leader() && !self.cut.contains(id);
        self.up().into_iter().filter(leads).max_by_key(|id| self.master(*id).term())
    }

    pub(crate) fn input(&mut self, id: u64, inputs: Vec<Input>) {
        let replica = self.replicas.get_mut(&id).and_then(|replica| replica.master.as_mut());
        let Some((master, store)) = replica else { return };
        let effects = master.handle(self.now, inputs);
        if master.is_leader() {
            self.leaders.entry(master.term()).or_default().insert(id);
        }
        promises_come_after_writes(&effects);
        let files = store.checkpoints();
        let mut news = Vec::new();
        let mut posted = Vec::new();
        for effect in effects {
            if self.record {
                writeln!(self.history, "{} {id} {effect:?}", self.now).unwrap();
            }
            match effect {
                Effect::Persist(batch) => store.write(&batch.as_batch()).unwrap(),
                Effect::Send { to, message } => {
                    if self.capture {
                        self.captured.push(message.clone());
                    }
                    if message.snapshot.is_some() && self.checkpoints_to_lose > 0 {
                        self.checkpoints_to_lose -= 1;
                    } else {
                        posted.push((to, Input::Raft(message)));
                    }
                }
                Effect::Ask { to, ask } => {
                    posted.push((to, Input::Ask { from: ReplicaId(id), ask }))
                }
                Effect::Piece { to, piece } => {
                    posted.push((to, Input::Piece { from: ReplicaId(id), piece }));
                }
                Effect::Hurry { index } => assert!(self.hurried.insert((id, index)), "once"),
                Effect::Checkpoint(work) => match work.perform(&*files).unwrap() {
                    Performed::News(done) => news.push(Input::Checkpoint(done)),
                    Performed::Piece { to, piece } => {
                        posted.push((to, Input::Piece { from: ReplicaId(id), piece }));
                    }
                },
                Effect::Answer { token, outcome } => {
                    assert!(self.answers.insert(token, outcome).is_none(), "answered once");
                }
                Effect::ReadReady { token, index } => {
                    assert!(self.reads.insert(token, Some(index)).is_none(), "answered once");
                    assert!(master.state().applied() >= index, "a read before its entry");
                }
                Effect::ReadFailed { token } => {
                    assert!(self.reads.insert(token, None).is_none(), "answered once");
                }
                Effect::Applied { reset, .. } => {
                    *self.resets.entry(id).or_default() += u32::from(reset);
                }
                Effect::Halt { why } => self.halts.push((id, why)),
                Effect::Diverged { replica, index } => self.diverged.push((id, replica, index)),
                Effect::Orders { to, orders } => {
                    self.orders.entry(to.0).or_default().push(orders);
                }
                Effect::LeaderChanged { .. }
                | Effect::Decided { .. }
                | Effect::Undecided { .. }
                | Effect::Lent { .. } => {}
            }
        }
        for (to, input) in posted {
            let draw = next(&mut self.random);
            self.sent += 1;
            if draw % 100 >= self.lost_per_hundred {
                let at = self.now + Millis(1 + (draw >> 32) % 5);
                self.wire.insert((at, self.sent), (id, to.0, input));
            }
        }
        if !news.is_empty() {
            self.input(id, news);
        }
    }

    /// Lets one millisecond pass.
    fn step(&mut self) {
        self.now = self.now + Millis(1);
        while let Some(first) = self.wire.first_entry()
            && first.key().0 <= self.now
        {
            let (from, to, input) = first.remove();
            if !self.cut.contains(&from) && !self.cut.contains(&to) {
                self.input(to, vec![input]);
            }
        }
        // Replicas do not tick at the same moment.
        for id in self.up() {
            if (self.now.0 + id * 3).is_multiple_of(20) {
                self.input(id, vec![Input::Tick]);
            }
        }
        for (term, leaders) in &self.leaders {
            assert_eq!(leaders.len(), 1, "leaders of term {term}: {leaders:?}");
        }
    }

    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    pub(crate) fn run_until(&mut self, what: &str, most_ms: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..most_ms {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("not within {most_ms} ms: {what}");
    }

    /// A number of the test's own generator.
    pub(crate) fn draw(&mut self) -> u64 {
        next(&mut self.random)
    }

    pub(crate) fn elect(&mut self) -> u64 {
        self.run_until("a leader", 5_000, |five| five.leader().is_some());
        self.leader().unwrap()
    }

    /// Asks replica `id` to accept a job of this name.
    pub(crate) fn submit(&mut self, id: u64, name: &str) -> u64 {
        let spec = Arc::new(batch(name, 1, 100, 10 << 20));
        self.propose(id, "ann", format!("request-{name}"), Action::SubmitJob { spec })
    }

    pub(crate) fn propose(&mut self, id: u64, who: &str, request: String, action: Action) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let command =
            Command { at: Millis(0), by: user(who), request: Some(request.into()), action };
        let deadline = self.now + Millis(1_000);
        self.input(id, vec![Input::Propose { token, command, deadline }]);
        token
    }

    pub(crate) fn read(&mut self, id: u64) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let deadline = self.now + Millis(1_000);
        self.input(id, vec![Input::ReadIndex { token, deadline }]);
        token
    }

    /// Submits until a leader has accepted it.
    pub(crate) fn submit_until_accepted(&mut self, name: &str) {
        for _ in 0..20 {
            let leader = self.elect();
            let token = self.submit(leader, name);
            self.run_until("an answer", 2_000, |five| five.answers.contains_key(&token));
            if matches!(self.answers[&token], Outcome::Accepted { .. }) {
                return;
            }
        }
        panic!("nobody accepts {name}");
    }

    pub(crate) fn has_job(&self, id: u64, name: &str) -> bool {
        self.master(id).state().job_named(&format!("ann/{name}").parse().unwrap()).is_some()
    }

    /// Waits until every running replica has applied the same, and checks that it is the same.
    pub(crate) fn settle(&mut self) {
        self.run_until("replicas agree", 10_000, |five| {
            let first = five.master(five.up()[0]).state().applied();
            five.leader().is_some_and(|leader| {
                let term = five.master(leader).term();
                five.master(leader).state().leader() == Some((ReplicaId(leader), term))
            }) && five.up().iter().all(|id| five.master(*id).state().applied() == first)
        });
        let up = self.up();
        let bytes = self.master(up[0]).state().encode();
        for id in up {
            assert!(self.master(id).state().encode() == bytes, "replica {id} has another state");
            assert_eq!(self.master(id).state().audit(), []);
        }
    }
}

/// A replica's disk as a new cell of `size` masters begins.
pub(crate) fn founded(id: u64, size: u64) -> MemoryDisk {
    founded_at(id, size, LEVEL)
}

fn founded_at(id: u64, size: u64, level: u32) -> MemoryDisk {
    let cell = borg_proto::CellName::new("lab").unwrap();
    let masters: Vec<_> = (1..=size).map(|id| (ReplicaId(id), format!("h-{id}:1"))).collect();
    let state = CellState::found(cell, &masters, level);
    let disk = MemoryDisk::default();
    let identity = ReplicaIdentity { cell: "lab".into(), replica: id, epoch: 1 };
    disk.found(
        &identity,
        &CheckpointDraft {
            place: FOUNDING,
            membership: &state.founding_membership(),
            at: state.clock(),
            state: &state.encode(),
            log: &[],
        },
    );
    disk
}

/// B1: no vote, no acknowledgement and no answer before the write of the same turn.
fn promises_come_after_writes(effects: &[Effect]) {
    let write = |effect: &Effect| matches!(effect, Effect::Persist(batch) if batch.checkpoint.is_none() || !batch.entries.is_empty());
    let Some(last_write) = effects.iter().rposition(write) else { return };
    for effect in &effects[..last_write] {
        let promise = match effect {
            Effect::Send { message, .. } => matches!(message.r#type, 4 | 6) && !message.reject,
            Effect::Answer { .. } | Effect::ReadReady { .. } | Effect::Decided { .. } => true,
            _ => false,
        };
        assert!(!promise, "{effect:?} before a write");
    }
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    random.wrapping_mul(0x2545_F491_4F6C_DD1D)
}
