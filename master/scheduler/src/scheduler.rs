//! The scheduler itself: follows the cell, runs passes, remembers what it has decided.
//!
//! Invariant: `machines` and `queue` are the committed state plus the decisions whose fate is not
//! known yet. So room is not promised twice and a task is not proposed twice, whatever the order
//! of committed changes, refusals and passes.

use crate::advice::advise;
use crate::aside::Aside;
use crate::budgets::Waits;
use crate::class::Class;
use crate::explain::{self, Explanation, HeldUp, Preempting};
use crate::fit::{self, Fit};
use crate::fold::asked_by;
use crate::gang::Gangs;
use crate::homes::{Seat, tasks_of};
use crate::inside::Stuck;
use crate::lot::Lot;
use crate::machines::{Machines, Resident};
use crate::moves::Moves;
use crate::need::{ClassKey, Cohort, Need};
use crate::queue::Queue;
use crate::refusals::Refusals;
use crate::score::Weights;
use crate::standing::standings;
use crate::victims;
use borg_cell::event::{AccessChange, Event, EventKind};
use borg_cell::state::{CRASH_COOL_DOWN, CellState, Crash, Task};
use borg_proto::command::Assignment;
use borg_proto::reclamation::Amounts;
use borg_proto::task::EvictCause;
use borg_proto::{IncarnationId, JobId, JobSpec, MachineId, Millis, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a scheduler decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// What makes a machine the best, in a cell for which nobody decided otherwise.
    pub weights: Weights,
    /// Whether answers are remembered. Off, every machine is looked at for every task: the same
    /// decisions, slowly.
    pub caches: bool,
    /// Equal machines are taken in an order that follows from this; 0 is the order of their
    /// numbers, which fills them up one after another.
    pub seed: u64,
    /// Not the best of all machines but of those found first in a random order, as soon as there are so
    /// many that will do (relaxed randomization, Borg paper, section 3.4). Only to compare with; `None`
    /// looks at all.
    pub relaxed: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self { weights: Weights::default(), caches: true, seed: 0, relaxed: None }
    }
}

/// A decision whose fate is not known yet.
#[derive(Debug, Clone)]
pub(crate) struct Assumed {
    pub(crate) machine: MachineId,
    /// Who goes, tasks in allocs that go included.
    pub(crate) victims: Vec<IncarnationId>,
    /// Whether it is about the task's successor.
    pub(crate) prepares: bool,
}

/// Decides which task goes where.
#[derive(Debug, Clone)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) state: CellState,
    pub(crate) machines: Machines,
    /// Machines that do not answer just now, whatever the state says of them.
    pub(crate) silent: BTreeSet<MachineId>,
    /// What placed tasks lend of their limits, as the leader told last.
    pub(crate) lent: BTreeMap<TaskId, (u32, Amounts)>,
    pub(crate) queue: Queue,
    pub(crate) needs: BTreeMap<Cohort, Arc<Need>>,
    /// Tasks of jobs with a cap that stand on machines.
    pub(crate) placed: BTreeMap<JobId, u32>,
    /// Copies of the scheduler share those that neither used since.
    pub(crate) classes: BTreeMap<ClassKey, Arc<Class>>,
    /// Counts uses of classes.
    uses: u64,
    pub(crate) assumed: BTreeMap<TaskId, Assumed>,
    /// Version of the machines up to which parked jobs know that nothing fits.
    pub(crate) looked_at: u64,
    /// Classes that fit nowhere.
    pub(crate) lot: Lot,
    /// Parked classes that the next pass tries again whatever changed: lower priorities were about
    /// to start, which can be pushed out as soon as they are placed; or a task keeps away from
    /// machines where it failed.
    pub(crate) retry: BTreeSet<ClassKey>,
    /// Parked classes of which tasks left, or moved with their machine: what keeps them apart may
    /// keep them out no longer.
    pub(crate) loosened: BTreeSet<ClassKey>,
    /// When the first of the tasks that keep away from machines where they failed, and found no
    /// other, may go back to one. As of the last pass.
    cooled: Option<Millis>,
    /// The time of the last pass.
    pub(crate) at: Millis,
    pub(crate) gangs: Gangs,
    /// Incarnations that an assumed decision pushes out.
    pub(crate) leaving: BTreeSet<IncarnationId>,
    pub(crate) stuck: Stuck,
    pub(crate) moves: Moves,
    pub(crate) waits: Waits,
    pub(crate) refusals: Refusals,
    /// Jobs over which this scheduler panicked.
    pub(crate) aside: Aside,
}

impl Scheduler {
    /// A scheduler that knows all of `state`.
    #[must_use]
    pub fn new(state: &CellState, config: Config) -> Self {
        let mut new = Self::unread(state, config);
        new.read();
        new
    }

    /// A scheduler that has not looked at `state` yet: for [`Self::survive`], so that no job keeps a
    /// master from starting either.
    #[must_use]
    pub fn unread(state: &CellState, config: Config) -> Self {
        let weights = state.policy().map_or(config.weights, |policy| policy.weights).bounded();
        let config = Config { weights, ..config };
        let kept = state.machines().filter_map(|machine| machine.kept_for.as_deref());
        let named = kept.flatten().cloned().collect();
        Self {
            config,
            state: state.clone(),
            machines: Machines::new(
                config.weights,
                state.reclaims().numbers.most_percent,
                config.seed,
                named,
            ),
            lent: BTreeMap::new(),
            silent: BTreeSet::new(),
            queue: Queue::default(),
            needs: BTreeMap::new(),
            placed: BTreeMap::new(),
            classes: BTreeMap::new(),
            uses: 0,
            assumed: BTreeMap::new(),
            looked_at: 0,
            lot: Lot::default(),
            retry: BTreeSet::new(),
            loosened: BTreeSet::new(),
            cooled: None,
            at: Millis(0),
            gangs: Gangs::default(),
            leaving: BTreeSet::new(),
            stuck: Stuck::default(),
            moves: Moves::default(),
            waits: Waits::default(),
            refusals: Refusals::default(),
            aside: Aside::default(),
        }
    }

    fn read(&mut self) {
        let state = self.state.clone();
        for machine in state.machines() {
            self.settle_machine(machine.id);
        }
        for job in state.jobs().filter(|job| job.is_alive()) {
            for (task, _) in state.tasks_of(job.id) {
                self.settle(task);
            }
            self.settle_budget(job.id);
        }
    }

    /// Begins again with all of `state`, as when news was missed.
    pub fn start_afresh(&mut self, state: &CellState) {
        let mut aside = std::mem::take(&mut self.aside);
        aside.retain(|job| state.job(job).is_some());
        let (silent, lent) = (std::mem::take(&mut self.silent), std::mem::take(&mut self.lent));
        *self = Self { silent, aside, lent, ..Self::unread(state, self.config) };
        self.read();
        for machine in &self.silent {
            self.machines.set_silent(*machine, true);
        }
    }

    /// How many jobs are set aside.
    #[must_use]
    pub fn jobs_aside(&self) -> usize {
        self.aside.len()
    }

    /// From now on panics over a job.
    #[cfg(any(test, feature = "trap"))]
    pub fn trap(&mut self, job: JobId, trap: crate::Trap) {
        self.aside.set(job, trap);
    }

    /// Takes over which machines do not answer just now. They count as not up: what is placed on a machine
    /// in the time that it takes to give it up would only wait for that.
    pub fn avoid(&mut self, silent: BTreeSet<MachineId>) {
        let before = std::mem::replace(&mut self.silent, silent);
        for machine in before.symmetric_difference(&self.silent) {
            self.machines.set_silent(*machine, self.silent.contains(machine));
        }
    }

    /// Takes over committed changes. `state` is as of the last of `events`, and the events are all
    /// since the last call. It begins afresh, which is rare, when the cell has another policy, lends another
    /// part, or machines are kept for others: decisions of which the fate is not known are then looked at again, and the
    /// state refuses what does not fit.
    pub fn follow(&mut self, state: CellState, events: &[Event]) {
        let other = |event: &Event| {
            matches!(
                &event.kind,
                EventKind::PolicyChanged
                    | EventKind::ReclamationChanged
                    | EventKind::MachineAccess(_, AccessChange::Kept)
            )
        };
        if events.iter().any(other) {
            self.start_afresh(&state);
            return;
        }
        self.state = state;
        let mut machines = BTreeSet::new();
        let mut tasks = BTreeSet::new();
        let mut forgotten = BTreeSet::new();
        let mut resized = BTreeSet::new();
        for event in events {
            match &event.kind {
                EventKind::MachineAdded(id)
                | EventKind::MachineChanged(id)
                | EventKind::MachineAccess(id, _)
                | EventKind::MachineRemoved(id, _) => {
                    machines.insert(*id);
                }
                EventKind::JobSubmitted(job) => {
                    tasks.extend(self.state.tasks_of(*job).map(|(id, _)| id))
                }
                EventKind::TaskChanged { task, .. } => {
                    tasks.insert(*task);
                }
                EventKind::JobForgotten(job, _) => {
                    forgotten.insert(*job);
                }
                EventKind::PackagePut(_) | EventKind::PackageRemoved(_) => {}
                EventKind::AllocsResized(job) => {
                    resized.insert(*job);
                }
                EventKind::JobUpdated { job, change } if change.is_of_specification() => {
                    resized.insert(*job);
                }
                EventKind::JobUpdated { .. } => {}
                // A job's state follows from its tasks, which have events of their own.
                EventKind::JobChanged { .. }
                | EventKind::CronChanged(_)
                | EventKind::DataChanged { .. }
                | EventKind::MastersChanged
                | EventKind::SafeMode { .. }
                | EventKind::QuotaChanged(_)
                | EventKind::PolicyChanged
                | EventKind::ReclamationChanged
                | EventKind::Maintenance { .. }
                | EventKind::PrivilegeChanged { .. }
                | EventKind::Led { .. } => {}
            }
        }
        for machine in machines {
            self.settle_machine(machine);
            // A drain may wait longer for those who save what is there, though no room came of that.
            if self.state.machine(machine).is_some_and(|found| found.drain.is_some()) {
                self.wake_stuck_on(machine);
            }
        }
        if self.machines.has_learnt_names() {
            let state = self.state.clone();
            self.start_afresh(&state);
            return;
        }
        for job in resized {
            // What the scheduler failed over may be gone.
            self.aside.forget(job);
            self.forget_specs(job);
            tasks.extend(self.state.tasks_of(job).map(|(id, _)| id));
        }
        let jobs: BTreeSet<JobId> = tasks.iter().map(|task| task.job).collect();
        for task in tasks {
            self.refusals.forget(task);
            self.give_back(task);
        }
        for job in jobs {
            self.settle_budget(job);
        }
        for job in forgotten {
            self.machines.set_budget(job, None);
            self.aside.forget(job);
            self.gangs.forget(job);
            self.forget_needs(job);
        }
    }

    /// Lets go of the state that it followed, so that whoever applies the next entries is the only one who
    /// holds it, and changes it in place: copying what two of them share is a third of the time of a cell
    /// that is applied and followed on one thread. Until the next [`Self::follow`] it may not be asked or told
    /// anything else; what it has folded stays.
    pub fn let_go(&mut self) {
        self.state = CellState::new(self.state.cell().clone());
    }

    /// Decides where waiting tasks go, at most `max` of them but for the last gang, in the order in which
    /// they must be applied. The decisions are assumed to hold until [`Self::follow`] or [`Self::refused`] says
    /// otherwise.
    pub fn pass(&mut self, now: Millis, max: usize) -> Vec<Assignment> {
        self.at = now;
        self.settle_rates();
        // Who was stuck may be asleep after that, for a back-off that is over.
        self.wake_stuck();
        self.wake_overdue(now);
        self.queue.wake(now);
        for job in self.gangs.rested(now, &self.machines) {
            for (_, need) in self.needs.range(Cohort::all_of(job)) {
                self.queue.wake_class(&need.class);
            }
        }
        for class in std::mem::take(&mut self.retry) {
            self.wake(&class);
        }
        self.wake_parked();
        self.cooled = None;
        let mut decisions = Vec::new();
        while decisions.len() < max
            && let Some(cohort) = self.queue.next()
        {
            let before = self.aside.decides(cohort.job);
            let many = decisions.len();
            let need = self.needs[&cohort].clone();
            if self.is_held(&need) {
                self.hold(cohort);
            } else if !self.decide_turn(&need, now, &mut decisions) {
                self.park(cohort);
            } else if decisions[many..].iter().any(|decision| !decision.victims.is_empty()) {
                // Victims may leave more room than their place takes.
                self.wake_parked();
            }
            self.aside.done(before);
        }
        self.decide_moves(now, &mut decisions);
        decisions
    }

    /// Decides for one task of a job, or for a whole gang. False when nothing was found.
    fn decide_turn(
        &mut self,
        need: &Arc<Need>,
        now: Millis,
        decisions: &mut Vec<Assignment>,
    ) -> bool {
        if need.gang {
            return self.decide_gang(need, now, decisions);
        }
        let decision = self.decide_job(need, now);
        let found = decision.is_some();
        decisions.extend(decision);
        found
    }

    /// The proposed placement of `task` did not happen: its room is free, and it waits again, or stands where it stood.
    /// When that happens time and again without news of the task it is not decided about for a while.
    pub fn refused(&mut self, task: TaskId) {
        if self.state.task(task).is_some_and(|found| !found.is_dead()) {
            self.refusals.note(task, self.at);
        }
        self.give_back(task);
    }

    /// Before when a pending task may not be placed, by its own back-off or for its refusals.
    pub(crate) fn not_before(&self, task: TaskId, not_before: Millis) -> Millis {
        self.refusals.of(task).map_or(not_before, |(until, _)| until.max(not_before))
    }

    /// What is said of a pending task that may not be placed yet; nothing of one that may.
    pub(crate) fn why_not_yet(
        &self,
        task: TaskId,
        found: &Task,
        not_before: Millis,
        now: Millis,
    ) -> String {
        match self.refusals.of(task) {
            Some((until, times)) if until == not_before && until > now => {
                let seconds = until.since(now).0.div_ceil(1000);
                format!(
                    "{times} decisions in a row to place it came to nothing: tried again in {seconds} s; "
                )
            }
            _ => explain::back_off(found, not_before, now),
        }
    }

    /// Takes back what is assumed of a task.
    pub(crate) fn give_back(&mut self, task: TaskId) {
        let victims = self.assumed.remove(&task).map(|assumed| assumed.victims).unwrap_or_default();
        let moved = self.moves.forget(task);
        for victim in &victims {
            self.leaving.remove(victim);
        }
        self.settle(task);
        self.settle_neighbours(task);
        if moved {
            self.settle_budget(task.job);
        }
        for victim in victims {
            self.settle(victim.task);
            self.settle_neighbours(victim.task);
            self.settle_budget(victim.task.job);
        }
    }

    /// The earliest moment at which a task that waits now may be placed without anything else
    /// having changed; it may have passed already.
    #[must_use]
    pub fn next_wakeup(&self, now: Millis) -> Option<Millis> {
        let others = self.cooled.into_iter().chain(self.gangs.next_rested(&self.machines));
        let others = others.chain(self.waits.next()).chain(self.moves.next(&self.state));
        let next = self.queue.next_waking().into_iter().chain(others).min();
        next.map(|at| at.max(now))
    }

    /// Why a task is where it is, or is not anywhere.
    #[must_use]
    pub fn explain(&self, task: TaskId, now: Millis) -> Explanation {
        let found = self.state.task(task);
        if let (Some(said), Some(found)) = (self.aside.asked(task.job), found) {
            return explain::set_aside(&self.state, task, found, said);
        }
        let (Some(found), Some(job), Some(need)) =
            (found, self.state.job(task.job), self.need_of(task))
        else {
            return explain::settled(&self.state, task, found);
        };
        if need.alloc_set.is_some() {
            return self.explain_in_alloc(task, now);
        }
        if need.pinned {
            return self.explain_pinned(task, now);
        }
        let not_before = match &found.state {
            TaskState::Pending { not_before, .. } => self.not_before(task, *not_before),
            TaskState::Running(placement) => {
                let mut told = explain::settled(&self.state, task, Some(found));
                self.tell_standing(&mut told, task, placement.machine, need);
                if self.state.leaves(task) {
                    let waits = self.why_it_stays(task, now);
                    told.summary += &format!(", which is drained; it stays for now: {waits}");
                }
                told.summary += &self.about_reclaimed(placement.machine, need);
                return told;
            }
            TaskState::Dead { .. } => return explain::settled(&self.state, task, Some(found)),
        };
        let assumed =
            self.assumed.get(&task).and_then(|assumed| self.state.machine(assumed.machine));
        let weights = self.config.weights;
        let mut class = Class::new(need.clone(), &self.machines, &weights);
        let crashes: Vec<Crash> = found.avoids(now).collect();
        let avoid = avoided(&crashes, &mut class, &self.machines, &weights);
        let preempting = Preempting::of(found, now);
        let counted = explain::count(&mut class, &self.machines, &weights, preempting, &avoid);
        let gang = self.why_gang(task.job, need, now);
        let lingers = found.lingering(task).map(|(machine, _)| self.machine_name(machine));
        let nowhere = counted.feasible == 0;
        let mut told = explain::pending(
            &self.state,
            job,
            found,
            now,
            not_before,
            counted,
            assumed.map(|machine| machine.name.to_string()),
            lingers,
            &HeldUp {
                gang,
                full: need.cap.filter(|cap| self.placed(task.job) >= *cap),
                not_yet: self.why_not_yet(task, found, not_before, now),
            },
        );
        told.ahead = self.queue.ahead(need.priority);
        told.summary += self.about_lent(need, &told.rejections);
        if nowhere && !need.gang {
            let mut copy = self.machines.clone();
            let spec = asked_by(job, job.version_of(task.index));
            told.advice = advise(&class, &mut copy, &weights, &spec, &avoid);
        } else if class.best(&self.machines, &weights, true, &avoid).is_none() {
            let within = class.best_preempting(&self.machines, &weights, true, &avoid);
            let overdue = within.is_none() && preempting == Preempting::Overdue;
            let beyond = overdue.then(|| class.best_overdue(&self.machines, &weights, &avoid));
            if let Some(row) = within.or_else(|| beyond.flatten())
                && let Some((victims, _)) = victims::choose(&self.machines, need, row, overdue)
            {
                told.victims = victims.into_iter().map(victims::incarnation).collect();
            }
        }
        told
    }

    /// What machines say to a task that leaves the one where it stands.
    pub(crate) fn places_for(&self, task: TaskId, now: Millis) -> String {
        let (Some(found), Some(need)) = (self.state.task(task), self.need_of(task)) else {
            return String::new();
        };
        let weights = self.config.weights;
        let mut class = Class::new(need.clone(), &self.machines, &weights);
        let crashes: Vec<Crash> = found.avoids(now).collect();
        let avoid = avoided(&crashes, &mut class, &self.machines, &weights);
        let within = Preempting::WithinBudgets;
        let counted = explain::count(&mut class, &self.machines, &weights, within, &avoid);
        explain::sentence(counted.machines, counted.feasible, &counted.rejections)
    }

    pub(crate) fn machine_name(&self, id: MachineId) -> String {
        let found = self.state.machine(id);
        found.map_or_else(|| format!("machine {}", id.0), |machine| machine.name.to_string())
    }

    fn tell_standing(&self, told: &mut Explanation, task: TaskId, on: MachineId, need: &Arc<Need>) {
        let weights = self.config.weights;
        // Who is about to be pushed out stands there no more, as far as the scheduler goes.
        let stands = |row: &usize| self.machines.residents(*row).iter().any(|r| r.task == task);
        if let Some(row) = self.machines.row(on).filter(stands) {
            let mut class = Class::new(need.clone(), &self.machines, &weights);
            class.count(&self.machines, &weights, row, false);
            told.standings = standings(&mut class, &self.machines, &weights, row);
        }
        let Some(job) = self.state.job(task.job) else { return };
        let name = format!("{}/{}", job.key, task.index);
        let tasks = self.state.jobs().flat_map(|job| self.state.tasks_of(job.id));
        let by_it = |other: &Task| matches!(&other.last_evict, Some(EvictCause::Preempted { by }) if *by == name);
        told.pushed_out = tasks.filter(|(_, other)| by_it(other)).map(|(id, _)| id).collect();
    }

    /// How many more tasks of `spec`, at most `most`, would fit now as a new job without pushing
    /// anybody out, and what stops the next one.
    #[must_use]
    pub fn fit(&self, spec: &JobSpec, most: u32) -> Fit {
        fit::fit(self.machines.without_residents(), &self.config.weights, spec, most)
    }

    /// The state that it has followed so far.
    #[must_use]
    pub fn state(&self) -> &CellState {
        &self.state
    }

    /// Whether tasks of a job want to be placed now.
    pub(crate) fn has_ready(&self, job: JobId) -> bool {
        self.queue.has_ready(job)
    }

    /// Whether the next pass looks at tasks of a job even if nothing changes.
    pub(crate) fn has_turns(&self, job: JobId) -> bool {
        self.queue.has_turns(job)
    }

    /// Decides for the first task of a job that finds a machine. All are equal, but for where they
    /// failed.
    fn decide_job(&mut self, need: &Arc<Need>, now: Millis) -> Option<Assignment> {
        if need.alloc_set.is_some() {
            return self.decide_in_alloc(need);
        }
        if need.pinned {
            return self.decide_pinned(need, now);
        }
        let mut task = self.queue.first(need.cohort)?;
        loop {
            let decision = self.decide(task, need, now);
            let picky = self.state.task(task).is_some_and(|t| t.avoids(now).next().is_some());
            if decision.is_some() || !picky {
                return decision;
            }
            task = self.queue.after(need.cohort, task)?;
        }
    }

    pub(crate) fn decide(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        now: Millis,
    ) -> Option<Assignment> {
        let (row, overdue) = self.choose(task, need, now)?;
        let machine = self.machines.id(row).expect("a row that was chosen is a machine's");
        let (victims, _) = victims::choose(&self.machines, need, row, overdue)
            .expect("the machine was found by the same choice");
        let victims: Vec<IncarnationId> = victims.into_iter().map(victims::incarnation).collect();
        Some(self.assume(task, need, (row, machine), victims))
    }

    /// Takes a decision for done.
    pub(crate) fn assume(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        (row, machine): (usize, MachineId),
        victims: Vec<IncarnationId>,
    ) -> Assignment {
        let mut leaving = Vec::new();
        for victim in &victims {
            leaving.push(*victim);
            leaving.extend(self.machines.inside(row, victim.task));
        }
        self.take_off(&leaving);
        let lent = self.lent_for(row, need);
        self.arrive(row, Resident::proposed(Seat::of(task), need.clone()));
        self.queue.served(need.cohort);
        self.queue.remove(task);
        let assumed = Assumed { machine, victims: leaving, prepares: false };
        self.assumed.insert(task, assumed);
        Assignment { task, machine, victims, lent }
    }

    /// Who an incarnation is, by the state.
    pub(crate) fn seat_of(&self, id: IncarnationId) -> Seat {
        if self.state.is_successor(id) { Seat::after(id.task) } else { Seat::of(id.task) }
    }

    /// Incarnations of a job that assumed decisions push out.
    pub(crate) fn leaving_of(&self, job: JobId) -> impl Iterator<Item = IncarnationId> {
        let tasks = tasks_of(job);
        let first = IncarnationId { task: *tasks.start(), number: 0 };
        let last = IncarnationId { task: *tasks.end(), number: u32::MAX };
        self.leaving.range(first..=last).copied()
    }

    /// Whether an assumed decision pushes a task out.
    pub(crate) fn is_leaving(&self, task: TaskId) -> bool {
        self.leaving_of(task.job).any(|id| id.task == task)
    }

    /// Takes tasks off their machines that a decision pushes out.
    pub(crate) fn take_off(&mut self, leaving: &[IncarnationId]) {
        for gone in leaving {
            self.depart(self.seat_of(*gone));
            self.leaving.insert(*gone);
        }
        let jobs: BTreeSet<JobId> = leaving.iter().map(|gone| gone.task.job).collect();
        jobs.into_iter().for_each(|job| self.settle_budget(job));
    }

    /// The class of a task, made if it was forgotten.
    fn class_for(&mut self, need: &Arc<Need>) {
        let weights = self.config.weights;
        // Constraints have other numbers when nobody had them for a while.
        let same = |class: &Class| class.need.hard == need.hard && class.need.soft == need.soft;
        if !self.classes.get(&need.class).is_some_and(|class| same(class)) {
            self.forget_old_classes();
            let class = Class::new(need.clone(), &self.machines, &weights);
            self.classes.insert(need.class.clone(), Arc::new(class));
        }
        let class = self.classes.get_mut(&need.class).map(Arc::make_mut);
        let class = class.expect("put there if it was not");
        self.uses += 1;
        class.used_at = self.uses;
    }

    /// The row with room that is best for a task's successor: not the one where the task is.
    pub(crate) fn choose_other(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        not: usize,
        now: Millis,
    ) -> Option<usize> {
        let Config { weights, caches, .. } = self.config;
        self.class_for(need);
        let class = self.classes.get_mut(&need.class).map(Arc::make_mut);
        let class = class.expect("put there if it was not");
        let crashes: Vec<Crash> =
            self.state.task(task).map(|task| task.avoids(now).collect()).unwrap_or_default();
        let mut avoid = avoided(&crashes, class, &self.machines, &weights);
        avoid.push(not);
        class.best(&self.machines, &weights, caches, &avoid).map(|(_, row)| row)
    }

    /// The row that is best for a task, with or without room, and whether its victims go beyond their
    /// disruption budgets.
    pub(crate) fn choose(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        now: Millis,
    ) -> Option<(usize, bool)> {
        let Config { weights, caches, seed, relaxed } = self.config;
        self.class_for(need);
        let class = self.classes.get_mut(&need.class).map(Arc::make_mut);
        let class = class.expect("put there if it was not");
        let crashes: Vec<Crash> =
            self.state.task(task).map(|task| task.avoids(now).collect()).unwrap_or_default();
        let avoid = avoided(&crashes, class, &self.machines, &weights);
        let plain = match relaxed {
            None => class.best(&self.machines, &weights, caches, &avoid).map(|(_, row)| row),
            Some(enough) => class.best_relaxed(&self.machines, &weights, enough, seed, &avoid),
        };
        if let Some(row) = plain {
            return Some((row, false));
        }
        let found = class.best_preempting(&self.machines, &weights, caches, &avoid);
        let overdue_at = self.state.task(task).and_then(Task::overdue_at);
        let beyond = overdue_at
            .filter(|at| found.is_none() && *at <= now)
            .and_then(|_| class.best_overdue(&self.machines, &weights, &avoid));
        if let (None, None, Some(at)) = (found, beyond, overdue_at)
            && self.machines.has_budgets_below(need.priority)
        {
            self.waits.add(at, now, need.class.clone());
        }
        if found.is_none() {
            if self.machines.may_hope(need.priority) || !avoid.is_empty() {
                self.retry.insert(need.class.clone());
            }
            let kept = |crash: &&Crash| {
                self.machines.row(crash.machine).is_some_and(|row| avoid.contains(&row))
            };
            let cooled = crashes.iter().filter(kept).map(|c| c.at + CRASH_COOL_DOWN).min();
            self.cooled = self.cooled.into_iter().chain(cooled).min();
        }
        found.map(|row| (row, false)).or_else(|| beyond.map(|row| (row, true)))
    }
}

/// Where a task does not go as it failed there: of its rows those that are left when, from the
/// one that failed the longest ago on, as many are forgiven as it takes for one to be there to try.
pub(crate) fn avoided(
    crashes: &[Crash],
    class: &mut Class,
    machines: &Machines,
    weights: &Weights,
) -> Vec<usize> {
    let mut avoid: Vec<usize> =
        crashes.iter().filter_map(|crash| machines.row(crash.machine)).collect();
    while !avoid.is_empty() && !class.has_others(machines, weights, &avoid) {
        avoid.remove(0);
    }
    avoid
}

/// Everything that a scheduler has folded from the stream, for comparing two of them.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) rooms: BTreeMap<MachineId, [[u64; 4]; 2]>,
    open: BTreeSet<MachineId>,
    residents: BTreeMap<Seat, (MachineId, Option<u32>)>,
    holdings: BTreeMap<MachineId, crate::holdings::Holdings>,
    queued: BTreeSet<TaskId>,
    placed: BTreeMap<JobId, u32>,
    undecided: usize,
}

#[cfg(test)]
impl Scheduler {
    /// How often a machine was looked for.
    pub(crate) fn uses(&self) -> u64 {
        self.uses
    }

    pub(crate) fn contents(&self) -> Contents {
        use crate::rooms::{CPU, DISK, Kind, PORTS, RAM, amount};
        let machines = || self.machines.known().map(|row| (row, self.machines.id(row).unwrap()));
        let left = |column, row, kind| amount(column, self.machines.rooms.left(column, row, kind));
        let rooms = |row| {
            [Kind::Prod, Kind::Rest]
                .map(|kind| [CPU, RAM, DISK, PORTS].map(|column| left(column, row, kind)))
        };
        let room = |(row, id)| (id, rooms(row));
        let residents = machines().flat_map(|(row, id)| {
            self.machines.residents(row).iter().map(move |r| (r.seat(), (id, r.incarnation)))
        });
        let open = machines().filter(|(row, _)| self.machines.rooms.is_open(*row));
        Contents {
            rooms: machines().map(room).collect(),
            open: open.map(|(_, id)| id).collect(),
            residents: residents.collect(),
            holdings: machines()
                .map(|(row, id)| (id, self.machines.holdings(row).clone()))
                .collect(),
            queued: self.queue.all(),
            placed: self.placed.clone(),
            undecided: self.assumed.len() + self.leaving.len(),
        }
    }
}
