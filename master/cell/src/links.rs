//! The leader's side of the link shards.
//!
//! Divides the machines over the replicas' shards, tells each shard what its machines should run,
//! folds what the shards report, and turns what differs from the state into observations for the
//! log. All of it is soft: built anew in every term from the state and the first full reports.
//! Leaves polling to the shards and the meaning of an observation to `state`.
//!
//! Invariants: machines that behave as the state says write nothing to the log. Nothing is lost
//! for good by a lost message: orders are repeated until obeyed, and a gap in the reports asks for
//! a full one. A machine is taken for down only by silence that a live shard saw in this term.

mod division;
mod silence;
mod view;

use crate::event::{Event, EventKind, TaskChange};
use crate::master::Effect;
use crate::state::{CellState, MachineState};
use borg_proto::command::Observation;
use borg_proto::peer::{ShardMachine, ShardOrders, ShardReport, ShardSession};
use borg_proto::poll::{MachineReport, Usage};
use borg_proto::{IncarnationId, MachineId, MachineName, Millis, ReplicaId};
use division::{Liveness, owner};
use silence::Silence;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use view::{Folded, Link};

/// How the leader treats machines and shards. All values are ours; the paper gives none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Silence after which a machine is down and its tasks are placed elsewhere.
    pub machine_down_after: Millis,
    /// Most machines that are taken for down in a minute: a fault of ours must not move the cell.
    pub downs_per_minute: u32,
    /// When more than this share of the machines that were up is silent, none is taken for down...
    pub safe_percent: usize,
    /// ...if that is also more than this many.
    pub safe_least: usize,
    /// A replica that was not heard of for so long gives up its machines.
    pub shard_dead_after: Millis,
    /// A replica that came back gets machines after it was heard of for so long.
    pub shard_back_after: Millis,
    /// A shard that has not reported for so long begins anew.
    pub shard_silent_after: Millis,
    /// Orders that were not confirmed are repeated after this time.
    pub repeat: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            machine_down_after: Millis::from_secs(10),
            downs_per_minute: 60,
            safe_percent: 30,
            safe_least: 3,
            shard_dead_after: Millis(1_000),
            shard_back_after: Millis(1_000),
            shard_silent_after: Millis(1_500),
            repeat: Millis(300),
        }
    }
}

/// Most observations in one entry of the log, so that an entry stays small.
const MAX_CHANGES: usize = 1_000;
/// Most bytes of targets in one message to a shard, far below the largest that is read: the rest
/// goes into messages of their own. A single machine's always fits, see
/// [`MAX_TARGET_BYTES`](crate::state::MAX_TARGET_BYTES).
const MAX_ORDERS_BYTES: u64 = 24 << 20;
/// Time between two looks at everything.
const SWEEP: Millis = Millis(100);

/// What one machine said that the state does not say.
pub(crate) type Seen = (MachineId, Vec<Observation>);

/// The link shards as the leader sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The shards, by replica.
    pub shards: Vec<ShardStatus>,
    /// Machines that answer.
    pub answering: usize,
    /// Machines that were up and are silent.
    pub silent: usize,
    /// Whether so many are silent that none is taken for down.
    pub safe_mode: bool,
}

/// One shard as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStatus {
    /// Whose.
    pub replica: ReplicaId,
    /// Whether it has machines or may get some.
    pub live: bool,
    /// Whether it has taken its newest division.
    pub confirmed: bool,
    /// Its newest division.
    pub session: u64,
    /// How many machines it has.
    pub machines: usize,
}

/// What the leader remembers of one shard.
#[derive(Debug, Default)]
struct Shard {
    session: u64,
    confirmed: bool,
    /// The whole division is to be sent.
    whole: bool,
    sent_at: Millis,
    reported_at: Millis,
    machines: BTreeSet<MachineId>,
    /// Machines whose orders are to be sent.
    changed: BTreeSet<MachineId>,
    acks: BTreeMap<MachineName, u64>,
    resync: BTreeSet<MachineName>,
}

#[derive(Debug)]
pub(crate) struct Links {
    config: Config,
    me: ReplicaId,
    epoch: u64,
    term: u64,
    last_session: u64,
    liveness: Liveness,
    shards: BTreeMap<ReplicaId, Shard>,
    links: BTreeMap<MachineId, Link>,
    names: BTreeMap<MachineName, MachineId>,
    /// Machines whose reports may differ from the state.
    dirty: BTreeSet<MachineId>,
    usage: BTreeMap<IncarnationId, Usage>,
    silence: Silence,
    next_sweep: Millis,
    /// Machines that left the cell in this term. Their borglets have obeyed a session of the
    /// shard that they had, and obey an older one of another shard no more.
    left: BTreeSet<MachineName>,
}

impl Links {
    /// As a new leader begins. `heard` says when each other replica was last heard of.
    pub(crate) fn new(
        config: Config,
        me: ReplicaId,
        term: u64,
        state: &CellState,
        heard: &BTreeMap<ReplicaId, Millis>,
        now: Millis,
    ) -> Self {
        let mut links = Self {
            liveness: Liveness::new(me),
            silence: Silence::new(&config, now),
            me,
            epoch: state.epoch(),
            term,
            last_session: 0,
            shards: BTreeMap::new(),
            links: BTreeMap::new(),
            names: BTreeMap::new(),
            dirty: BTreeSet::new(),
            usage: BTreeMap::new(),
            next_sweep: now,
            left: BTreeSet::new(),
            config,
        };
        for machine in state.machines() {
            links.names.insert(machine.name.clone(), machine.id);
            links.links.insert(machine.id, Link::new(machine, state));
        }
        links.liveness.update(&links.config, heard, now);
        links.divide(now);
        links
    }

    /// Follows what was applied.
    pub(crate) fn follow(&mut self, state: &CellState, events: &[Event], now: Millis) {
        let mut touched = BTreeSet::new();
        for event in events {
            match &event.kind {
                EventKind::MachineAdded(id) | EventKind::MachineChanged(id) => {
                    touched.insert(*id);
                }
                EventKind::MachineRemoved(id, name) => self.remove(*id, name, now),
                EventKind::TaskChanged { change, machine, .. } => {
                    touched.extend(*machine);
                    if let TaskChange::Placed { machine, .. } = change {
                        touched.insert(*machine);
                    }
                }
                EventKind::JobSubmitted(_)
                | EventKind::JobChanged { .. }
                | EventKind::JobForgotten(..)
                | EventKind::MastersChanged
                | EventKind::Led { .. } => {}
            }
        }
        for id in touched {
            self.retarget(id, state, now);
        }
    }

    /// The state of one machine, or what is placed on it, changed.
    fn retarget(&mut self, id: MachineId, state: &CellState, now: Millis) {
        let Some(machine) = state.machine(id) else { return };
        let Some(link) = self.links.get_mut(&id) else {
            let mut link = Link::new(machine, state);
            let replica = owner(id, self.liveness.live());
            link.shard = replica;
            self.links.insert(id, link);
            self.names.insert(machine.name.clone(), id);
            let shard = self.shards.entry(replica).or_default();
            shard.machines.insert(id);
            shard.changed.insert(id);
            if self.left.remove(&machine.name) {
                self.renew(replica, now);
            }
            return;
        };
        self.dirty.insert(id);
        let gone = link.retarget(machine, state);
        if let Some(gone) = gone {
            for incarnation in gone {
                self.usage.remove(&incarnation);
            }
            self.shards.entry(link.shard).or_default().changed.insert(id);
        }
    }

    fn remove(&mut self, id: MachineId, name: &MachineName, now: Millis) {
        let Some(link) = self.links.remove(&id) else { return };
        if self.names.get(name) == Some(&id) {
            self.names.remove(name);
        }
        self.left.insert(name.clone());
        self.dirty.remove(&id);
        for incarnation in link.incarnations() {
            self.usage.remove(&incarnation);
        }
        if let Some(shard) = self.shards.get_mut(&link.shard) {
            shard.machines.remove(&id);
            shard.changed.remove(&id);
        }
        // Orders cannot take a machine away from a shard, a new division can.
        self.renew(link.shard, now);
    }

    /// The replica whose shard polls a machine.
    pub(crate) fn shard_of(&self, machine: MachineId) -> Option<ReplicaId> {
        self.links.get(&machine).map(|link| link.shard)
    }

    /// Folds what a shard reports. Reports of an older division, or of machines that are another
    /// shard's by now, say nothing.
    pub(crate) fn fold(&mut self, now: Millis, report: ShardReport) {
        let session = |number| ShardSession { epoch: self.epoch, term: self.term, session: number };
        let Some(shard) = self.shards.get_mut(&report.from) else { return };
        if shard.session == 0 || report.session != session(shard.session) {
            return;
        }
        shard.confirmed = true;
        shard.reported_at = now;
        for delta in report.deltas {
            let Some(id) = self.names.get(&delta.machine).copied() else { continue };
            let Some(link) = self.links.get_mut(&id).filter(|link| link.shard == report.from)
            else {
                continue;
            };
            let name = delta.machine.clone();
            for task in &delta.tasks {
                if link.targets(task.id) {
                    self.usage.insert(task.id, task.usage);
                }
            }
            match link.fold(now, delta) {
                Folded::News => {
                    self.dirty.insert(id);
                }
                Folded::Known => {}
                Folded::Gap => {
                    shard.resync.insert(name);
                    continue;
                }
            }
            shard.acks.insert(name, link.seq());
        }
        for (id, usage) in report.usage {
            if self.usage.contains_key(&id) {
                self.usage.insert(id, usage);
            }
        }
    }

    /// What time alone changes.
    pub(crate) fn tick(
        &mut self,
        now: Millis,
        state: &CellState,
        heard: &BTreeMap<ReplicaId, Millis>,
    ) {
        if self.liveness.update(&self.config, heard, now) {
            self.divide(now);
        }
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let lost: Vec<ReplicaId> = self
            .shards
            .iter()
            .filter(|(_, shard)| {
                shard.confirmed && now.since(shard.reported_at) >= self.config.shard_silent_after
            })
            .map(|(replica, _)| *replica)
            .collect();
        for replica in lost {
            if self.liveness.live().contains(&replica) {
                self.renew(replica, now);
            }
        }
        self.repeat_orders(now);
        self.notice_silence(now, state);
    }

    /// Orders that a machine should have obeyed by now go out again.
    fn repeat_orders(&mut self, now: Millis) {
        for shard in self.shards.values_mut().filter(|shard| shard.confirmed) {
            for id in &shard.machines {
                let link = self.links.get_mut(id).expect("a shard's machines are linked");
                if link.overdue()
                    && now.since(link.sent_at) >= self.config.repeat + self.config.repeat
                {
                    shard.changed.insert(*id);
                }
            }
        }
    }

    fn notice_silence(&mut self, now: Millis, state: &CellState) {
        let up = |id: &MachineId| state.machine(*id).is_some_and(|m| m.state == MachineState::Up);
        let silent: Vec<(Millis, MachineId)> = self
            .links
            .iter()
            .filter_map(|(id, link)| Some((link.silent_since()?, *id)))
            .filter(|(_, id)| up(id))
            .collect();
        let all_up =
            if silent.is_empty() { 0 } else { self.links.keys().filter(|id| up(id)).count() };
        self.silence.update(&self.config, now, silent.len(), all_up);
        for (since, id) in silent {
            let link = self.links.get_mut(&id).expect("it was just found there");
            let shard = self.shards.get(&link.shard);
            let seen = shard.is_some_and(|shard| {
                shard.confirmed && now.since(shard.reported_at) < self.config.shard_silent_after
            });
            let due = now.since(since) >= self.config.machine_down_after;
            if seen && due && !link.is_given_up() && self.silence.take() {
                link.give_up();
                self.dirty.insert(id);
            }
        }
    }

    /// What differs between the reports and the state, for the log, by machine. Each machine has
    /// one batch on its way at most: the caller says how it went with `settled`.
    pub(crate) fn observe(&mut self, now: Millis, state: &CellState) -> Vec<Seen> {
        let (mut seen, mut changes) = (Vec::new(), 0);
        let dirty: Vec<MachineId> = self.dirty.iter().copied().collect();
        for id in dirty {
            if changes >= MAX_CHANGES {
                break;
            }
            let (Some(link), Some(machine)) = (self.links.get_mut(&id), state.machine(id)) else {
                self.dirty.remove(&id);
                continue;
            };
            if link.on_its_way() {
                continue;
            }
            self.dirty.remove(&id);
            let differences = link.differences(now, machine, state);
            if !differences.is_empty() {
                changes += differences.len();
                seen.push((id, differences));
            }
        }
        seen
    }

    /// A batch of `observe` was applied, or came to nothing.
    pub(crate) fn settled(&mut self, machines: &[MachineId], applied: bool) {
        for id in machines {
            if let Some(link) = self.links.get_mut(id) {
                link.settled(applied);
                self.dirty.insert(*id);
            }
        }
    }

    /// Gives each machine to the live shard that it belongs to.
    fn divide(&mut self, now: Millis) {
        let live = self.liveness.live().clone();
        let mut touched: BTreeSet<ReplicaId> = live
            .iter()
            .filter(|replica| self.shards.get(replica).is_none_or(|s| s.session == 0))
            .copied()
            .collect();
        for (id, link) in &mut self.links {
            let to = owner(*id, &live);
            if link.shard == to {
                continue;
            }
            if let Some(shard) = self.shards.get_mut(&link.shard) {
                shard.machines.remove(id);
                shard.changed.remove(id);
                touched.insert(link.shard);
            }
            self.shards.entry(to).or_default().machines.insert(*id);
            touched.insert(to);
            link.shard = to;
        }
        for replica in touched {
            if live.contains(&replica) {
                self.renew(replica, now);
            } else if let Some(shard) = self.shards.get_mut(&replica) {
                // When it comes back it begins anew.
                *shard = Shard::default();
            }
        }
    }

    /// A new division for one shard: it reports its machines in full.
    fn renew(&mut self, replica: ReplicaId, now: Millis) {
        self.last_session += 1;
        let shard = self.shards.entry(replica).or_default();
        shard.session = self.last_session;
        shard.confirmed = false;
        shard.whole = true;
        shard.reported_at = now;
        shard.changed.clear();
        shard.acks.clear();
        shard.resync.clear();
        for id in &shard.machines {
            self.links.get_mut(id).expect("a shard's machines are linked").begin();
        }
    }

    /// What the shards are to be told now.
    pub(crate) fn orders(&mut self, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        for replica in self.liveness.live() {
            let Some(shard) = self.shards.get_mut(replica).filter(|shard| shard.session != 0)
            else {
                continue;
            };
            let whole =
                shard.whole || (!shard.confirmed && now.since(shard.sent_at) >= self.config.repeat);
            let part =
                !shard.changed.is_empty() || !shard.acks.is_empty() || !shard.resync.is_empty();
            let due = whole || (shard.confirmed && part);
            if !due {
                continue;
            }
            let changed = std::mem::take(&mut shard.changed);
            let which = if whole { &shard.machines } else { &changed };
            let (mut parts, mut room) = (vec![Vec::new()], MAX_ORDERS_BYTES);
            for id in which {
                let link = self.links.get_mut(id).expect("a shard's machines are linked");
                link.sent_at = now;
                if link.target_bytes > room {
                    parts.push(Vec::new());
                    room = MAX_ORDERS_BYTES;
                }
                room = room.saturating_sub(link.target_bytes);
                parts.last_mut().expect("it begins with one").push(link.order());
            }
            let mut parts = parts.into_iter();
            let mut machines = parts.next().unwrap_or_default();
            if whole {
                // A division names all machines of the shard; orders for these follow.
                machines.extend(parts.as_slice().iter().flatten().map(without_target));
            }
            if whole {
                shard.whole = false;
                shard.sent_at = now;
            }
            let session =
                ShardSession { epoch: self.epoch, term: self.term, session: shard.session };
            let orders = ShardOrders {
                session,
                leader: self.me,
                whole,
                machines,
                acks: std::mem::take(&mut shard.acks).into_iter().collect(),
                resync: std::mem::take(&mut shard.resync).into_iter().collect(),
            };
            effects.push(Effect::Orders { to: *replica, orders });
            let leader = self.me;
            effects.extend(parts.map(|machines| Effect::Orders {
                to: *replica,
                orders: ShardOrders {
                    session,
                    leader,
                    whole: false,
                    machines,
                    acks: Vec::new(),
                    resync: Vec::new(),
                },
            }));
        }
        effects
    }

    /// What an incarnation last said that it uses.
    pub(crate) fn usage(&self, id: IncarnationId) -> Option<Usage> {
        self.usage.get(&id).copied()
    }

    /// What a machine last said of itself, as far as this leader has the whole of it.
    pub(crate) fn report_of(&self, id: MachineId) -> Option<MachineReport> {
        self.links.get(&id)?.report()
    }

    /// Since when a machine is silent, if it is.
    pub(crate) fn silent_since(&self, id: MachineId) -> Option<Millis> {
        self.links.get(&id)?.silent_since()
    }

    pub(crate) fn status(&self) -> Status {
        let shard = |(replica, shard): (&ReplicaId, &Shard)| ShardStatus {
            replica: *replica,
            live: self.liveness.live().contains(replica),
            confirmed: shard.confirmed,
            session: shard.session,
            machines: shard.machines.len(),
        };
        Status {
            shards: self.shards.iter().map(shard).collect(),
            answering: self.links.values().filter(|link| link.answers()).count(),
            silent: self.silence.silent(),
            safe_mode: self.silence.safe_mode(),
        }
    }
}

/// Names a machine whose orders are still to come: it is not asked before them.
fn without_target(order: &ShardMachine) -> ShardMachine {
    let (machine, address) = (order.machine.clone(), order.address.clone());
    ShardMachine { machine, address, generation: 0, target: Arc::default() }
}

impl Link {
    fn order(&self) -> ShardMachine {
        ShardMachine {
            machine: self.name.clone(),
            address: self.address.to_string(),
            generation: self.generation,
            target: self.target.clone(),
        }
    }
}
