//! The leader's side of the link shards.
//!
//! Divides the machines over the replicas' shards, tells each shard what its machines should run,
//! folds what the shards report, and turns what differs from the state into observations for the
//! log. All of it is soft: built anew in every term from the state and the first full reports.
//! Leaves polling to the shards and the meaning of an observation to `state`.
//!
//! Invariants: machines that behave as the state says write nothing to the log. Nothing is lost
//! for good by a lost message: orders are repeated until obeyed, and a gap in the reports asks for
//! a full one. A machine is taken for down only by silence that a live shard saw in this term. An
//! exclusive task is set free only when its last incarnation surely runs no more (`lease`).

mod digest;
mod division;
mod lease;
pub mod lending;
pub mod silence;
mod view;

use crate::event::{Event, EventKind, TaskChange};
use crate::master::Effect;
use crate::state::CellState;
use borg_proto::command::Observation;
use borg_proto::peer::{MachineAck, ShardMachine, ShardOrders, ShardReport, ShardSession};
use borg_proto::poll::{MachineReport, REPLACE_AFTER, Target, TaskReport, Usage};
use borg_proto::{IncarnationId, MachineId, MachineName, Millis, ReplicaId};
use digest::Digests;
use division::{Liveness, owner};
use lease::Leases;
use lending::Lending;
pub use lending::{Reserved, Sums};
use silence::{Quiet, Silence};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use view::{Folded, Link};

/// How the leader treats machines and shards. All values are ours; the paper gives none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Silence after which a machine is down and its tasks are placed elsewhere.
    pub machine_down_after: Millis,
    /// Most machines that are taken for down in a minute, while next to none is silent: a fault of
    /// ours must not move the cell. Falls to nothing as the silent share grows to `safe_percent`.
    pub downs_per_minute: u32,
    /// When more than this share of the machines that should answer is silent or was taken for
    /// down lately, nothing moves until an operator says so (safe mode)...
    pub safe_percent: usize,
    /// ...if that is also more than this many.
    pub safe_least: usize,
    /// Safe mode is over when no more than this share is silent.
    pub calm_percent: usize,
    /// How long an exclusive task must have been alone until it is placed again. Must go with the
    /// borglets' lease; production has [`REPLACE_AFTER`] everywhere.
    pub replace_after: Millis,
    /// A replica that was not heard of for so long gives up its machines.
    pub shard_dead_after: Millis,
    /// A replica that came back gets machines after it was heard of for so long.
    pub shard_back_after: Millis,
    /// A replica that is heard of, and whose shard has not taken its division for so long, gives
    /// up its machines.
    pub shard_deaf_after: Millis,
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
            calm_percent: 25,
            replace_after: REPLACE_AFTER,
            shard_dead_after: Millis(1_000),
            shard_back_after: Millis(1_000),
            shard_deaf_after: Millis(3_000),
            shard_silent_after: Millis(1_500),
            repeat: Millis(300),
        }
    }
}

/// Most observations in one entry of the log, so that an entry stays small.
const MAX_CHANGES: usize = 1_000;
/// Most bytes of targets in one message to a shard, so that heartbeats on the same connection are not late:
/// the rest goes into messages of their own. A single machine's may be larger, see
/// [`MAX_TARGET_BYTES`](crate::state::MAX_TARGET_BYTES).
const MAX_ORDERS_BYTES: u64 = 1 << 20;
/// Stands for no machine: the cell hands this number out to none.
const NOBODY: MachineId = MachineId(u32::MAX);
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
    /// How many machines may be taken for down now.
    pub allowance: usize,
    /// In a cell that was restored from a backup: incarnations that run and are spared though the
    /// state does not know them.
    pub spared: usize,
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
    renewed_at: Millis,
    reported_at: Millis,
    machines: BTreeSet<MachineId>,
    /// Machines whose orders are to be sent.
    changed: BTreeSet<MachineId>,
    /// Machines whose orders are to be repeated, without the target that was sent already.
    repeated: BTreeSet<MachineId>,
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
    digests: Digests,
    names: BTreeMap<MachineName, MachineId>,
    /// Machines whose reports may differ from the state.
    dirty: BTreeSet<MachineId>,
    usage: BTreeMap<IncarnationId, Usage>,
    lending: Lending,
    silence: Silence,
    leases: Leases,
    /// What is to be said of no machine in particular.
    other: Vec<Observation>,
    next_sweep: Millis,
    /// Whether machines keep what the state does not know: see `state::restored`.
    spare: bool,
    next_judgement: Millis,
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
            silence: Silence::new(state, now),
            leases: Leases::new(now),
            other: Vec::new(),
            me,
            epoch: state.epoch(),
            term,
            last_session: 0,
            shards: BTreeMap::new(),
            links: BTreeMap::new(),
            digests: Digests::default(),
            names: BTreeMap::new(),
            dirty: BTreeSet::new(),
            usage: BTreeMap::new(),
            lending: Lending::default(),
            next_sweep: now,
            spare: state.spares(state.clock()),
            next_judgement: now,
            left: BTreeSet::new(),
            config,
        };
        for machine in state.machines() {
            links.names.insert(machine.name.clone(), machine.id);
            let link = Link::new(machine, state, now, links.spare, &mut links.digests);
            links.links.insert(machine.id, link);
            links.restand(machine.id);
        }
        links.liveness.update(&links.config, heard, now);
        links.divide(now);
        links
    }

    /// Follows what was applied.
    pub(crate) fn follow(&mut self, state: &CellState, events: &[Event], now: Millis) {
        let (mut touched, mut progressed) = (BTreeSet::new(), BTreeSet::new());
        for event in events {
            match &event.kind {
                EventKind::MachineAdded(id) | EventKind::MachineChanged(id) => {
                    touched.insert(*id);
                }
                EventKind::MachineRemoved(id, name) => self.remove(*id, name, now),
                // The target says nothing of how far its processes are.
                EventKind::TaskChanged {
                    change:
                        TaskChange::Up { .. }
                        | TaskChange::BackOff { .. }
                        | TaskChange::Preparing { .. }
                        | TaskChange::Health(_)
                        | TaskChange::Address(_),
                    machine,
                    ..
                } => progressed.extend(*machine),
                EventKind::TaskChanged { change, machine, .. } => {
                    touched.extend(*machine);
                    if let TaskChange::Placed { machine: other, .. }
                    | TaskChange::Replaced { from: other, .. } = change
                    {
                        touched.insert(*other);
                    }
                }
                EventKind::JobForgotten(id, _) => self.digests.forget(*id),
                // What tasks are told of their job, and which version they run.
                EventKind::JobUpdated { job, change } if change.is_of_specification() => {
                    let placed = state.tasks_of(*job).filter_map(|(_, task)| task.placement());
                    touched.extend(placed.map(|placement| placement.machine));
                }
                // What machines keep.
                EventKind::DataChanged { machine, .. } => drop(touched.insert(*machine)),
                EventKind::JobUpdated { .. } => {}
                EventKind::JobSubmitted(_)
                | EventKind::CronChanged(_)
                | EventKind::AllocsResized(_)
                | EventKind::JobChanged { .. }
                | EventKind::MastersChanged
                | EventKind::QuotaChanged(_)
                | EventKind::MachineAccess(..)
                | EventKind::PolicyChanged
                | EventKind::ReclamationChanged
                | EventKind::Maintenance { .. }
                | EventKind::PackagePut(_)
                | EventKind::PackageRemoved(_)
                | EventKind::PrivilegeChanged { .. }
                | EventKind::Led { .. } => {}
                // What was decided and not done before it began was undone by it.
                EventKind::SafeMode { .. } => {
                    for id in self.silence.silent() {
                        self.links.get_mut(id).expect("what is silent is linked").keep();
                    }
                }
            }
        }
        for id in progressed.difference(&touched) {
            if let Some(link) = self.links.get_mut(id) {
                link.try_again();
                debug_assert!(link.is_on_target(state), "{} has an old target", link.name);
                self.dirty.insert(*id);
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
            let mut link = Link::new(machine, state, now, self.spare, &mut self.digests);
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
            self.restand(id);
            return;
        };
        self.dirty.insert(id);
        let gone = link.retarget(machine, state, now, self.spare, &mut self.digests);
        if let Some(gone) = gone {
            for incarnation in gone {
                self.usage.remove(&incarnation);
            }
            self.shards.entry(link.shard).or_default().changed.insert(id);
        }
        self.restand(id);
    }

    /// Counts a machine as what it is now.
    fn restand(&mut self, id: MachineId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (was, is) = link.restand();
        if was != is {
            self.silence.count(id, was, false);
            self.silence.count(id, is, true);
        }
    }

    /// In a cell that was restored from a backup: ends what turned out to be over, and when the
    /// time is up everything that is still unknown. `cell_time` is what entries carry now.
    pub(crate) fn judge_strangers(&mut self, now: Millis, cell_time: Millis, state: &CellState) {
        if !self.spare || now < self.next_judgement {
            return;
        }
        self.next_judgement = now + SWEEP;
        let left: usize = self.links.values().map(Link::spared).sum();
        self.spare = state.spares(cell_time);
        if !self.spare {
            tracing::warn!(left, "restored cell: what is still unknown is spared no longer");
        }
        for (id, link) in &mut self.links {
            let Some(machine) = state.machine(*id) else { continue };
            if (!self.spare || link.strangers > 0)
                && link.renew_target(machine, state, self.spare, &mut self.digests).is_some()
            {
                self.shards.entry(link.shard).or_default().changed.insert(*id);
            }
        }
    }

    fn remove(&mut self, id: MachineId, name: &MachineName, now: Millis) {
        let Some(link) = self.links.remove(&id) else { return };
        self.silence.count(id, link.standing(), false);
        self.leases.removed(id, now);
        if self.names.get(name) == Some(&id) {
            self.names.remove(name);
        }
        self.left.insert(name.clone());
        self.dirty.remove(&id);
        self.lending.removed(id);
        for incarnation in link.incarnations() {
            self.usage.remove(&incarnation);
        }
        if let Some(shard) = self.shards.get_mut(&link.shard) {
            shard.machines.remove(&id);
            shard.changed.remove(&id);
            shard.repeated.remove(&id);
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
        self.liveness.hears(report.from, now);
        if let Some(stamp) = report.stamp {
            self.leases.reported(report.from, shard.session, stamp);
        }
        let mut touched = Vec::with_capacity(report.deltas.len());
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
                    self.lending.hears(task.id);
                }
            }
            match link.fold(now, delta) {
                Folded::News => {
                    self.dirty.insert(id);
                    touched.push(id);
                }
                Folded::Known => {}
                Folded::Gap => {
                    shard.resync.insert(name);
                    continue;
                }
            }
            shard.acks.insert(name, link.seq());
        }
        for id in report.wanting.iter().filter_map(|name| self.names.get(name)) {
            let link = self.links.get(id).filter(|link| link.shard == report.from);
            // It asks as often as it is told, and what was sent may still be on its way.
            if link.is_some_and(|link| link.is_worth_sending(now, self.config.repeat)) {
                shard.changed.insert(*id);
            }
        }
        for (id, usage) in report.usage {
            if let Some(last) = self.usage.get_mut(&id) {
                *last = usage;
                self.lending.hears(id);
            }
        }

        for id in touched {
            self.restand(id);
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
        self.notice_deaf(now);
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
        self.set_free(now, state);
        // What not all masters understand yet is said later.
        self.other.retain(|word| word.level() <= state.level());
    }

    /// A shard that does not take its division, although its replica is heard of, polls nobody:
    /// its machines go to others.
    fn notice_deaf(&mut self, now: Millis) {
        let deaf: Vec<ReplicaId> = self
            .shards
            .iter()
            .filter(|(replica, shard)| {
                **replica != self.me
                    && self.liveness.live().contains(replica)
                    && shard.session != 0
                    && !shard.confirmed
                    && now.since(shard.renewed_at) >= self.config.shard_deaf_after
            })
            .map(|(replica, _)| *replica)
            .collect();
        if deaf.is_empty() {
            return;
        }
        for replica in &deaf {
            tracing::warn!(%replica, "its shard does not take orders: its machines go to others");
            self.liveness.goes_deaf(*replica);
        }
        self.divide(now);
        for replica in deaf {
            // Without machines: only to find out when it hears again.
            self.renew(replica, now);
        }
    }

    /// Sets exclusive tasks free whose last incarnation surely runs no more.
    fn set_free(&mut self, now: Millis, state: &CellState) {
        for (machine, id) in state.lingering() {
            let gone = match self.links.get(&machine) {
                Some(link) => link.surely_gone(id, now, self.config.replace_after),
                None => self.leases.alone_for(machine, now) >= self.config.replace_after,
            };
            if gone && self.leases.says(id, now) {
                self.other.push(Observation::TaskGone { id });
            }
        }
    }

    /// Orders that a machine should have obeyed by now go out again.
    fn repeat_orders(&mut self, now: Millis) {
        for shard in self.shards.values_mut().filter(|shard| shard.confirmed) {
            for id in &shard.machines {
                let link = self.links.get_mut(id).expect("a shard's machines are linked");
                if link.overdue()
                    && now.since(link.sent_at) >= self.config.repeat + self.config.repeat
                {
                    shard.repeated.insert(*id);
                }
            }
        }
    }

    fn notice_silence(&mut self, now: Millis, state: &CellState) {
        self.other.extend(self.silence.update(&self.config, now, state));
        let quiet = self.silence.silent().iter().filter_map(|id| {
            let link = &self.links[id];
            let seen = self.shards.get(&link.shard).is_some_and(|shard| {
                shard.confirmed && now.since(shard.reported_at) < self.config.shard_silent_after
            });
            (seen && !link.is_given_up()).then(|| Quiet {
                machine: *id,
                top_priority: link.top_priority(),
                silent_for: link.silent_for(now),
            })
        });
        let quiet: Vec<Quiet> = quiet.collect();
        for id in self.silence.give_up(&self.config, now, quiet) {
            let link = self.links.get_mut(&id).expect("it was just found there");
            tracing::warn!(machine = %link.name, silent_ms = link.silent_for(now).0, "given up");
            link.give_up();
            self.dirty.insert(id);
        }
    }

    /// What differs between the reports and the state, for the log, by machine. Each machine has
    /// one batch on its way at most: the caller says how it went with `settled`.
    pub(crate) fn observe(&mut self, now: Millis, state: &CellState) -> Vec<Seen> {
        let (mut seen, mut changes) = (Vec::new(), 0);
        if !self.other.is_empty() {
            let rest = self.other.split_off(self.other.len().min(MAX_CHANGES));
            changes += self.other.len();
            seen.push((NOBODY, std::mem::replace(&mut self.other, rest)));
        }
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
                shard.repeated.remove(id);
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
        shard.renewed_at = now;
        shard.changed.clear();
        shard.repeated.clear();
        shard.acks.clear();
        shard.resync.clear();
        self.leases.renewed(replica);
        for id in shard.machines.clone() {
            self.links.get_mut(&id).expect("a shard's machines are linked").begin(now);
            self.restand(id);
        }
    }

    /// What the shards are to be told now.
    pub(crate) fn orders(&mut self, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        for replica in self.liveness.live().union(self.liveness.deaf()) {
            let Some(shard) = self.shards.get_mut(replica).filter(|shard| shard.session != 0)
            else {
                continue;
            };
            let whole =
                shard.whole || (!shard.confirmed && now.since(shard.sent_at) >= self.config.repeat);
            let lease = self.leases.news(*replica);
            let part = !shard.changed.is_empty()
                || !shard.repeated.is_empty()
                || !shard.acks.is_empty()
                || !shard.resync.is_empty()
                || lease;
            let due = whole || (shard.confirmed && part);
            if !due {
                continue;
            }
            let changed = std::mem::take(&mut shard.changed);
            let mut named = std::mem::take(&mut shard.repeated);
            named.extend(&changed);
            let which = if whole { &shard.machines } else { &named };
            let (mut parts, mut room) = (vec![Vec::new()], MAX_ORDERS_BYTES);
            for id in which {
                let link = self.links.get_mut(id).expect("a shard's machines are linked");
                link.sent_at = now;
                // A shard has most targets from the leader before, and asks for the others.
                let target = (!whole && changed.contains(id)).then(|| link.target.clone());
                if target.is_some() {
                    link.carried = Some((link.generation, now));
                }
                let bytes = if target.is_some() { link.target_bytes } else { 0 };
                if bytes > room && room < MAX_ORDERS_BYTES {
                    parts.push(Vec::new());
                    room = MAX_ORDERS_BYTES;
                }
                room = room.saturating_sub(bytes);
                parts.last_mut().expect("it begins with one").push(link.order(target));
            }
            let mut parts = parts.into_iter();
            let machines = parts.next().unwrap_or_default();
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
                acks: acks(std::mem::take(&mut shard.acks), &self.names, &self.links),
                resync: std::mem::take(&mut shard.resync).into_iter().collect(),
                confirmed: self.leases.tell(*replica),
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
                    confirmed: None,
                },
            }));
        }
        effects
    }

    /// What an incarnation last said that it uses.
    pub(crate) fn usage(&self, id: IncarnationId) -> Option<Usage> {
        self.usage.get(&id).copied()
    }

    /// What an incarnation on a machine last said of itself, if anything.
    pub(crate) fn status_line(&self, machine: MachineId, id: IncarnationId) -> Option<String> {
        self.links.get(&machine)?.status_line(id).map(ToOwned::to_owned)
    }

    /// What a machine last said of an incarnation.
    pub(crate) fn told_of(&self, machine: MachineId, id: IncarnationId) -> Option<&TaskReport> {
        self.links.get(&machine)?.told_of(id)
    }

    /// What a machine last said of itself, as far as this leader has the whole of it.
    pub(crate) fn report_of(&self, id: MachineId) -> Option<MachineReport> {
        self.links.get(&id)?.report()
    }

    /// For how long a machine is silent, if it is.
    pub(crate) fn silent_for(&self, id: MachineId, now: Millis) -> Option<Millis> {
        Some(self.links.get(&id)?.silent_for(now)).filter(|for_ms| for_ms.0 > 0)
    }

    /// Machines that should answer and do not, with how long.
    pub(crate) fn silent(&self, now: Millis) -> Vec<(MachineId, Millis)> {
        let silent = self.silence.silent().iter();
        silent.map(|id| (*id, self.links[id].silent_for(now))).collect()
    }

    /// Whether a machine of that name answers now.
    pub(crate) fn answers(&self, name: &MachineName) -> bool {
        let link = self.names.get(name).and_then(|id| self.links.get(id));
        link.is_some_and(Link::answers)
    }

    /// Whether the leader has to find out now that a majority still follows it; if so, under which
    /// name it asks.
    pub(crate) fn asks(&mut self, now: Millis, token: u64) -> bool {
        self.leases.asks(now, token)
    }

    /// A majority followed this leader after `asks`, or it could not be found out.
    pub(crate) fn asked(&mut self, token: u64, confirmed: bool) {
        self.leases.asked(token, confirmed);
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
            answering: self.silence.answering(),
            silent: self.silence.silent().len(),
            safe_mode: self.silence.safe_mode(),
            allowance: self.silence.allowance(&self.config),
            spared: self.links.values().map(Link::spared).sum(),
        }
    }
}

/// What is folded, with what the machines' orders are by now.
fn acks(
    folded: BTreeMap<MachineName, u64>,
    names: &BTreeMap<MachineName, MachineId>,
    links: &BTreeMap<MachineId, Link>,
) -> Vec<MachineAck> {
    let ack = |(machine, seq): (MachineName, u64)| {
        let generation = links.get(names.get(&machine)?)?.generation;
        Some(MachineAck { machine, seq, generation })
    };
    folded.into_iter().filter_map(ack).collect()
}

impl Link {
    fn order(&self, target: Option<Arc<Target>>) -> ShardMachine {
        ShardMachine {
            machine: self.name.clone(),
            address: self.address.to_string(),
            generation: self.generation,
            digest: self.digest,
            target,
        }
    }
}
