//! What of their limits the tasks of each machine do not need, as the leader believes, and what it told its
//! scheduler of that.
//!
//! `reservation` estimates one task, `foresight` those of a machine together, if the cell remembers what tasks used; here
//! is when each is looked at, what counts as news, and what happens when lent room is needed by whoever holds it. All of it is soft: a new leader begins with nothing, and is
//! where the one before it was as soon as its machines have reported.
//!
//! [`Lending`] decides; what machines told it is given by whoever calls: the links of a leader, or a cell in virtual
//! time, in which Fauxmaster asks what would be lent.
//!
//! Invariants: what the scheduler was told of a task is at most a minute old, or off by little. Nothing
//! is lent of an alloc, whose room is held whether it is used or not, nor of a task that keeps its limit.
//! Only tasks that are not prod are ever told to go, and few at a time.

use super::Links;
use crate::foresight::{self, Known, Profile};
use crate::reservation::{Estimate, counted};
use crate::state::{CellState, Job, Machine};
use borg_proto::command::Observation;
use borg_proto::poll::{TaskStatus, Usage};
use borg_proto::reclamation::{Amounts, Numbers};
use borg_proto::{IncarnationId, MachineId, Millis};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Within this time each machine is looked at once. Ours: as often as shards tell of use.
pub const ROUND: Millis = Millis::from_secs(5);
/// Time between two looks, each at as many machines as makes a round.
const LOOK: Millis = Millis(100);
/// What is lent on a machine is news when it moved by this part of the machine's capacity. Ours: schedulers
/// work anew on a block of machines with each piece of news.
const NEWS_PART: u64 = 32;
/// What moved by less is told after this time. Ours.
const STALE_AFTER: Millis = Millis::from_secs(60);
/// A machine of which more is used is as good as full: what would be used beyond cannot be seen. Ours.
const FULL_PERCENT: u32 = 95;
/// For so long a machine that is overdrawn must be full until some of its tasks have to go; before that its
/// borglet slows them down, or ends some when memory is short. 300 s, ours: a peak of one window of usage is
/// none that lasts.
const RECLAIM_AFTER: Millis = Millis::from_secs(300);
/// Time between two tasks that have to leave one machine. Ours: what is left shows its use in between.
const RECLAIM_NEXT: Millis = Millis::from_secs(60);
/// Most tasks that have to go in a minute in the whole cell. Ours: an error in what is believed must not move
/// the cell.
const RECLAIMS_A_MINUTE: usize = 60;

/// What the tasks of one kind on a machine may use, need, and use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Sum of limits, of what holds room of the machine.
    pub limits: Amounts,
    /// Sum of reservations.
    pub reserved: Amounts,
    /// Sum of use, as far as it is known.
    pub used: Amounts,
}

impl Sums {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            limits: self.limits.plus(other.limits),
            reserved: self.reserved.plus(other.reserved),
            used: self.used.plus(other.used),
        }
    }
}

/// What the leader believes of one machine, or of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// What it has.
    pub capacity: Amounts,
    /// Of tasks of prod.
    pub prod: Sums,
    /// Of all others.
    pub others: Sums,
    /// What surely stands on lent room: how far all limits go beyond the capacity.
    pub reclaimed: Amounts,
    /// Tasks of which no use is known.
    pub unknown: u32,
}

impl Reserved {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            capacity: self.capacity.plus(other.capacity),
            prod: self.prod.plus(other.prod),
            others: self.others.plus(other.others),
            reclaimed: self.reclaimed.plus(other.reclaimed),
            unknown: self.unknown.saturating_add(other.unknown),
        }
    }
}

/// What is believed of one incarnation.
#[derive(Debug, Clone)]
struct Belief {
    /// Which process it was: when it started by its machine's clock, and how often it was started again.
    process: (Millis, u32),
    estimate: Estimate,
    /// What it uses now: processor time at this moment, of the rest the most of the last minutes; none while that does
    /// not count.
    now: Option<Amounts>,
    /// What is reserved for it.
    reserved: Amounts,
    limit: Amounts,
    prod: bool,
    /// What the scheduler was told that it lends.
    told: Amounts,
}

/// What is believed of the tasks of one machine.
#[derive(Debug, Clone, Default)]
struct Beliefs {
    tasks: BTreeMap<IncarnationId, Belief>,
    /// What those who stand there used, up or not; nothing in cells that do not remember.
    profiles: BTreeMap<IncarnationId, Profile>,
    sums: Reserved,
    told_at: Millis,
    /// Since when it is full.
    full_since: Option<Millis>,
}

impl Beliefs {
    /// Notes what a task uses, if the cell remembers that.
    fn note(
        &mut self,
        id: IncarnationId,
        belief: &Belief,
        profile: Option<Profile>,
        time: Millis,
        numbers: &Numbers,
    ) {
        if numbers.remember_h == 0 {
            return;
        }
        let mut profile = profile.unwrap_or_default();
        if let Some(now) = belief.now {
            profile.note(time, now.cpu_milli, now, numbers.remember_h);
        }
        self.profiles.insert(id, profile);
    }

    /// Settles what is reserved for each task: what it needs by itself, or its part of what all need together.
    fn reserve(&mut self, time: Millis, numbers: &Numbers) {
        if numbers.remember_h == 0 {
            self.tasks.values_mut().for_each(|one| one.reserved = one.estimate.reserved());
            return;
        }
        let known = self.tasks.iter().map(|(id, one)| Known {
            profile: self.profiles.get(id).filter(|_| one.now.is_some()),
            reserved: one.estimate.reserved(),
            now: one.now.unwrap_or_default(),
            limit: one.limit,
        });
        let known: Vec<Known<'_>> = known.collect();
        let reserved = foresight::reservations(&known, time, numbers.remember_h);
        self.tasks.values_mut().zip(reserved).for_each(|(one, reserved)| one.reserved = reserved);
    }
}

/// What a machine told of an incarnation that should run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// When its process started, by its machine's clock, and how often it was started again before; `None` while it
    /// is not up.
    pub up: Option<(Millis, u32)>,
    /// What it uses, as it counts for a reservation; `None` when that is not known.
    pub used: Option<Amounts>,
    /// Processor time that it uses at this moment, in millicores.
    pub cpu_milli: u64,
}

impl Told {
    /// By what the machine measured.
    #[must_use]
    pub fn of(up: Option<(Millis, u32)>, usage: Option<&Usage>) -> Self {
        let cpu_milli = usage.map_or(0, |usage| usage.cpu_milli);
        Self { up, used: usage.and_then(counted), cpu_milli }
    }
}

/// What is believed of all machines.
#[derive(Debug, Clone, Default)]
pub struct Lending {
    machines: BTreeMap<MachineId, Beliefs>,
    /// The machine that was looked at last.
    last: Option<MachineId>,
    next_look: Millis,
    /// Who said since the last look what they use.
    heard: Vec<IncarnationId>,
    /// When tasks were told to go within the last minute.
    reclaims: VecDeque<Millis>,
    /// What the scheduler has not been told yet: what tasks lend by now.
    news: Vec<(IncarnationId, Amounts)>,
}

impl Lending {
    /// An incarnation said what it uses.
    pub(super) fn hears(&mut self, id: IncarnationId) {
        self.heard.push(id);
    }

    /// A machine left the cell.
    pub fn removed(&mut self, machine: MachineId) {
        self.machines.remove(&machine);
    }

    /// What tasks lend by now, as far as that is news since this was asked last.
    pub fn take_news(&mut self) -> Vec<(IncarnationId, Amounts)> {
        std::mem::take(&mut self.news)
    }

    /// The machines whose turn it is.
    fn due(&mut self, now: Millis, state: &CellState) -> BTreeSet<MachineId> {
        let mut due = BTreeSet::new();
        if now < self.next_look {
            return due;
        }
        self.next_look = now + LOOK;
        let looks = usize::try_from(ROUND.0 / LOOK.0).unwrap_or(1);
        let many = state.machines_len().div_ceil(looks);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let turn: Vec<MachineId> = state.machines_after(after).take(many).collect();
        self.last = turn.last().copied().filter(|_| turn.len() == many);
        due.extend(turn);
        due
    }

    /// Whether one more may be told to go.
    fn may_reclaim(&mut self, now: Millis) -> bool {
        self.reclaims.retain(|at| now.since(*at) < Millis::from_secs(60));
        self.reclaims.len() < RECLAIMS_A_MINUTE
    }
}

impl Lending {
    /// Looks at the machines whose turn it is, and at those of which a task said since the last look that it uses more
    /// than was reserved. `now` only grows, `time` is cell time. Gives who has to leave a machine as lent room is used
    /// by whoever holds it.
    pub(super) fn reckon(
        &mut self,
        (now, time): (Millis, Millis),
        state: &CellState,
        told: &impl Fn(&Machine, IncarnationId) -> Told,
    ) -> Vec<IncarnationId> {
        if !state.lends() {
            self.heard.clear();
            self.lend_nothing();
            return Vec::new();
        }
        let mut due = self.due(now, state);
        due.extend(self.outgrown(state, told));
        let machines = due.into_iter().filter_map(|id| state.machine(id));
        machines.filter_map(|machine| self.look_at(machine, (now, time), state, told)).collect()
    }

    /// Machines of which a task said since the last look that it uses more than was reserved.
    fn outgrown(
        &mut self,
        state: &CellState,
        told: &impl Fn(&Machine, IncarnationId) -> Told,
    ) -> BTreeSet<MachineId> {
        let numbers = state.reclaims().numbers;
        let heard = std::mem::take(&mut self.heard);
        let outgrown = |id: IncarnationId| {
            let machine = state.machine(state.task(id.task)?.placement()?.machine)?;
            let belief = self.machines.get(&machine.id)?.tasks.get(&id)?;
            let used = told(machine, id).used?;
            let outgrown = match numbers.remember_h {
                0 => belief.estimate.is_outgrown(belief.limit, used, &numbers),
                _ => !used.least(belief.limit).fits_in(belief.reserved),
            };
            outgrown.then_some(machine.id)
        };
        heard.into_iter().filter_map(outgrown).collect()
    }

    /// The cell decided so: whatever was told to be lent is not any more.
    fn lend_nothing(&mut self) {
        for beliefs in std::mem::take(&mut self.machines).into_values() {
            let told = beliefs.tasks.into_iter().filter(|(_, belief)| !belief.told.is_nothing());
            self.news.extend(told.map(|(id, _)| (id, Amounts::default())));
        }
    }

    /// Looks at one machine. Gives who has to leave it.
    pub fn look_at(
        &mut self,
        machine: &Machine,
        (now, time): (Millis, Millis),
        state: &CellState,
        told: &impl Fn(&Machine, IncarnationId) -> Told,
    ) -> Option<IncarnationId> {
        let numbers = state.reclaims().numbers;
        let mut beliefs = self.machines.remove(&machine.id).unwrap_or_default();
        let mut before = std::mem::take(&mut beliefs.tasks);
        let mut profiles = std::mem::take(&mut beliefs.profiles);
        let capacity = machine.info.as_ref().map(|info| Amounts::from(&info.capacity));
        let mut sums = Reserved {
            capacity: capacity.unwrap_or_default(),
            reclaimed: machine.overdrawn(),
            ..Reserved::default()
        };
        let mut uses = Amounts::default();
        for task in &machine.tasks {
            let Some(job) = state.job(task.job) else { continue };
            let Some(id) = job.task(task.index).and_then(|found| found.running(*task)) else {
                continue;
            };
            let told = told(machine, id);
            let used = told.used;
            let of_kind =
                if job.stands_as_prod(task.index) { &mut sums.prod } else { &mut sums.others };
            of_kind.used = of_kind.used.plus(used.unwrap_or_default());
            sums.unknown += u32::from(used.is_none() && !job.is_alloc_set());
            let limit = Amounts::from(&job.task_spec(task.index).limit);
            // What is beyond a limit is given back at once.
            uses = uses.plus(used.unwrap_or_default().least(limit));
            if job.spec.alloc_set.is_some() {
                continue;
            }
            of_kind.limits = of_kind.limits.plus(limit);
            let before = before.remove(&id);
            let lent = before.as_ref().map_or(Amounts::default(), |before| before.told);
            match believe(job, id, before, told, time, &numbers) {
                Some(belief) => {
                    beliefs.note(id, &belief, profiles.remove(&id), time, &numbers);
                    beliefs.tasks.insert(id, belief);
                }
                None => {
                    // Whoever is started again is the same, later.
                    beliefs.profiles.extend(profiles.remove(&id).map(|profile| (id, profile)));
                    of_kind.reserved = of_kind.reserved.plus(limit);
                    self.news.extend((!lent.is_nothing()).then_some((id, Amounts::default())));
                }
            }
        }
        beliefs.reserve(time, &numbers);
        for belief in beliefs.tasks.values() {
            let of_kind = if belief.prod { &mut sums.prod } else { &mut sums.others };
            of_kind.reserved = of_kind.reserved.plus(belief.reserved);
        }
        beliefs.sums = sums;
        self.tell(&mut beliefs, now);
        let beyond = uses.minus(sums.capacity.percent(FULL_PERCENT));
        beliefs.full_since = (!beyond.is_nothing()).then(|| beliefs.full_since.unwrap_or(now));
        let lasts = beliefs.full_since.is_some_and(|since| now.since(since) >= RECLAIM_AFTER);
        let mut goes = None;
        if lasts && !machine.overdrawn().is_nothing() && self.may_reclaim(now) {
            // The next one has to go later.
            beliefs.full_since = Some(now.since(RECLAIM_AFTER) + RECLAIM_NEXT);
            let used = |id: &IncarnationId| told(machine, *id).used.unwrap_or_default();
            goes = who_goes(machine, beyond, used, time, state);
            self.reclaims.extend(goes.map(|_| now));
        }
        self.machines.insert(machine.id, beliefs);
        goes
    }

    /// Tells the scheduler, if it is news, what the tasks of a machine lend.
    fn tell(&mut self, beliefs: &mut Beliefs, now: Millis) {
        let lends: fn(&Belief) -> Amounts = |of| of.limit.minus(of.reserved);
        let sum = |of: fn(&Belief) -> Amounts| {
            beliefs.tasks.values().map(of).fold(Amounts::default(), Amounts::plus)
        };
        let (is, told) = (sum(lends), sum(|belief| belief.told));
        let moved = is.zip(told, u64::abs_diff);
        let step = Amounts::of(beliefs.sums.capacity.each().map(|all| all / NEWS_PART));
        if moved.fits_in(step) && now.since(beliefs.told_at) < STALE_AFTER {
            return;
        }
        beliefs.told_at = now;
        for (id, belief) in &mut beliefs.tasks {
            let now = lends(belief);
            if belief.told != now {
                belief.told = now;
                self.news.push((*id, now));
            }
        }
    }

    /// What is believed of each machine that was looked at.
    pub fn reservations(&self) -> impl Iterator<Item = (MachineId, &Reserved)> {
        self.machines.iter().map(|(id, beliefs)| (*id, &beliefs.sums))
    }
}

impl Links {
    /// Looks at the machines whose turn it is. `time` is cell time.
    pub(crate) fn reckon(&mut self, now: Millis, time: Millis, state: &CellState) {
        let (links, usage) = (&self.links, &self.usage);
        let told = |machine: &Machine, id: IncarnationId| {
            let status = links.get(&machine.id).and_then(|link| link.told_of(id));
            let up = status.and_then(|report| match report.status {
                TaskStatus::Up { since, .. } => Some((since, report.restarts)),
                _ => None,
            });
            Told::of(up, usage.get(&id))
        };
        for id in self.lending.reckon((now, time), state, &told) {
            tracing::warn!(%id, "lent room is used by whoever holds it: it goes");
            self.other.push(Observation::TaskReclaimed { id });
        }
    }

    /// What tasks lend by now, as far as that is news.
    pub(crate) fn lent_news(&mut self) -> Vec<(IncarnationId, Amounts)> {
        self.lending.take_news()
    }

    /// What is reserved for an incarnation; `None` when nothing is known of it.
    pub(crate) fn reserved(&self, machine: MachineId, id: IncarnationId) -> Option<Amounts> {
        let belief = self.lending.machines.get(&machine)?.tasks.get(&id)?;
        Some(belief.reserved)
    }

    /// What is believed of each machine that was looked at.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = (MachineId, &Reserved)> {
        self.lending.reservations()
    }
}

/// What is believed of an incarnation by now; `None` when nothing of its limit may be lent.
fn believe(
    job: &Job,
    id: IncarnationId,
    before: Option<Belief>,
    told: Told,
    time: Millis,
    numbers: &Numbers,
) -> Option<Belief> {
    if job.is_alloc_set() || !job.task_spec(id.task.index).reclaim {
        return None;
    }
    let process = told.up?;
    let limit = Amounts::from(&job.task_spec(id.task.index).limit);
    let fresh = |before: Option<Belief>| {
        let placed_at = job.task(id.task.index).and_then(|task| task.placement());
        // Clocks of machines may be wrong: not before it was placed, nor later than now.
        let (since, _) = process;
        let started = placed_at.map_or(since, |placed| since.max(placed.placed_at)).min(time);
        let told = before.map(|before| before.told).unwrap_or_default();
        let estimate = Estimate::new(limit, started, numbers);
        let prod = job.stands_as_prod(id.task.index);
        Belief { process, estimate, now: None, reserved: limit, limit, prod, told }
    };
    let mut belief = match before {
        Some(before) if before.process == process => before,
        other => fresh(other),
    };
    belief.limit = limit;
    belief.prod = job.stands_as_prod(id.task.index);
    belief.estimate.look(limit, told.used, time, numbers);
    // What is used beyond a limit is given back at once.
    let used = told.used.filter(|_| belief.estimate.is_past_hold(time, numbers));
    belief.now = used.map(|used| Amounts { cpu_milli: told.cpu_milli, ..used }.least(limit));
    Some(belief)
}

/// Who leaves a machine that is full: not prod, and whoever's going makes room of what is used too much. The lowest
/// priority first, of one priority whoever makes most room, then the youngest job.
fn who_goes(
    machine: &Machine,
    beyond: Amounts,
    used: impl Fn(&IncarnationId) -> Amounts,
    time: Millis,
    state: &CellState,
) -> Option<IncarnationId> {
    let ranked = machine.tasks.iter().filter_map(|task| {
        let job = state.job(task.job)?;
        if job.stands_as_prod(task.index) || job.spec.alloc_set.is_some() {
            return None;
        }
        let id = job.task(task.index)?.running(*task)?;
        // What it uses beyond its limit is given back without its going.
        let limit = Amounts::from(&job.task_spec(task.index).limit);
        let frees = part_of(used(&id).least(limit), beyond);
        let may_go = frees > 0 && state.may_disrupt(*task, time).is_ok();
        may_go.then_some(((job.priority(), Reverse(frees), Reverse(*task)), id))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, id)| id)
}

/// How much of what is wanted would be there, in thousandths of each resource, one with the other; anything at all
/// is at least one.
fn part_of(room: Amounts, wanted: Amounts) -> u64 {
    let part = |room: u64, wanted: u64| {
        if wanted == 0 || room == 0 {
            0
        } else {
            (room.min(wanted).saturating_mul(1_000) / wanted).max(1)
        }
    };
    room.zip(wanted, part).each().iter().sum()
}

#[cfg(test)]
mod tests;
