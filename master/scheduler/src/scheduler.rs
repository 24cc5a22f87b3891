//! The scheduler itself: follows the cell, runs passes, remembers what it has decided.
//!
//! Invariant: `machines` and `queue` are the committed state plus the decisions whose fate is not
//! known yet. So room is not promised twice and a task is not proposed twice, whatever the order
//! of committed changes, refusals and passes.

use crate::class::Class;
use crate::explain::{self, Explanation};
use crate::fit::{self, Fit};
use crate::machines::{Machines, Resident};
use crate::need::{ClassKey, Need};
use crate::queue::{NEVER, Queue};
use crate::score::Weights;
use crate::victims;
use borg_cell::event::{Event, EventKind};
use borg_cell::state::{CRASH_COOL_DOWN, CellState, Crash, MachineState};
use borg_proto::command::Assignment;
use borg_proto::{JobId, JobSpec, MachineId, Millis, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Classes of tasks kept beside those of waiting jobs. 4,096: our choice; a class takes some 6 KB
/// at 10,000 machines, and as much again once it had to look for victims.
const MAX_CLASSES: usize = 4096;

/// How a scheduler decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// What makes a machine the best.
    pub weights: Weights,
    /// Whether answers are remembered. Off, every machine is looked at for every task: the same
    /// decisions, slowly.
    pub caches: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { weights: Weights::default(), caches: true }
    }
}

/// A decision whose fate is not known yet.
#[derive(Debug, Clone)]
struct Assumed {
    machine: usize,
    victims: Vec<TaskId>,
}

/// Decides which task goes where.
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: Config,
    state: CellState,
    machines: Machines,
    /// Machines that do not answer just now, whatever the state says of them.
    silent: BTreeSet<MachineId>,
    queue: Queue,
    needs: BTreeMap<JobId, Arc<Need>>,
    classes: BTreeMap<ClassKey, Class>,
    /// Counts uses of classes.
    uses: u64,
    assumed: BTreeMap<TaskId, Assumed>,
    /// When the first of the tasks that keep away from machines where they failed, and found no
    /// other, may go back to one. As of the last pass.
    cooled: Option<Millis>,
    /// Incarnations that an assumed decision pushes out.
    leaving: BTreeMap<TaskId, u32>,
}

impl Scheduler {
    /// A scheduler that knows all of `state`.
    #[must_use]
    pub fn new(state: &CellState, config: Config) -> Self {
        let mut new = Self {
            config,
            state: state.clone(),
            machines: Machines::new(),
            silent: BTreeSet::new(),
            queue: Queue::default(),
            needs: BTreeMap::new(),
            classes: BTreeMap::new(),
            uses: 0,
            assumed: BTreeMap::new(),
            cooled: None,
            leaving: BTreeMap::new(),
        };
        for machine in state.machines() {
            new.settle_machine(machine.id);
        }
        for job in state.jobs().filter(|job| job.is_alive()) {
            for (task, _) in state.tasks_of(job.id) {
                new.settle(task);
            }
        }
        new
    }

    /// Begins again with all of `state`, as when news was missed.
    pub fn start_afresh(&mut self, state: &CellState) {
        let silent = std::mem::take(&mut self.silent);
        *self = Self::new(state, self.config);
        self.avoid(silent);
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
    /// since the last call.
    pub fn follow(&mut self, state: CellState, events: &[Event]) {
        self.state = state;
        let mut machines = BTreeSet::new();
        let mut tasks = BTreeSet::new();
        let mut forgotten = BTreeSet::new();
        for event in events {
            match &event.kind {
                EventKind::MachineAdded(id)
                | EventKind::MachineChanged(id)
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
                // A job's state follows from its tasks, which have events of their own.
                EventKind::JobChanged { .. }
                | EventKind::MastersChanged
                | EventKind::SafeMode { .. }
                | EventKind::Led { .. } => {}
            }
        }
        for machine in machines {
            self.settle_machine(machine);
        }
        for task in tasks {
            self.refused(task);
        }
        for job in forgotten {
            self.needs.remove(&job);
            self.classes.remove(&ClassKey::Job(job));
        }
    }

    /// Decides where waiting tasks go, at most `max` of them, in the order in which they must be
    /// applied. The decisions are assumed to hold until [`Self::follow`] or [`Self::refused`] says
    /// otherwise.
    pub fn pass(&mut self, now: Millis, max: usize) -> Vec<Assignment> {
        self.queue.wake(now);
        self.cooled = None;
        self.forget_old_classes();
        let mut decisions = Vec::new();
        for priority in self.queue.priorities() {
            let mut turns = self.queue.turns(priority);
            // A job that finds no machine is out for this pass: what is decided in between only
            // takes room from it.
            while let Some((user, mut jobs)) = turns.pop_front() {
                while let Some(job) = jobs.front().copied() {
                    if decisions.len() >= max {
                        return decisions;
                    }
                    let decision = self.decide_job(job, now);
                    let Some(decision) = decision else {
                        jobs.pop_front();
                        continue;
                    };
                    decisions.push(decision);
                    self.queue.served(priority, &user);
                    turns.push_back((user, jobs));
                    break;
                }
            }
        }
        decisions
    }

    /// The proposed placement of `task` did not happen: it waits again, and its room is free.
    pub fn refused(&mut self, task: TaskId) {
        let victims = self.assumed.remove(&task).map(|assumed| assumed.victims).unwrap_or_default();
        for victim in &victims {
            self.leaving.remove(victim);
        }
        self.settle(task);
        for victim in victims {
            self.settle(victim);
        }
    }

    /// The earliest moment at which a task that waits now may be placed without anything else
    /// having changed; it may have passed already.
    #[must_use]
    pub fn next_wakeup(&self, now: Millis) -> Option<Millis> {
        let next = self.queue.next_waking().into_iter().chain(self.cooled).min();
        next.map(|at| at.max(now))
    }

    /// Why a task is where it is, or is not anywhere.
    #[must_use]
    pub fn explain(&self, task: TaskId, now: Millis) -> Explanation {
        let found = self.state.task(task);
        let (Some(found), Some(job), Some(need)) =
            (found, self.state.job(task.job), self.needs.get(&task.job))
        else {
            return explain::settled(&self.state, task, found);
        };
        let TaskState::Pending { not_before, .. } = found.state else {
            return explain::settled(&self.state, task, Some(found));
        };
        let assumed =
            self.assumed.get(&task).and_then(|assumed| self.machines.name(assumed.machine));
        let mut class = Class::new(need.clone(), &self.machines);
        let crashes: Vec<Crash> = found.avoids(now).collect();
        let avoid = avoided(&crashes, &mut class, &self.machines);
        let counted = explain::count(&mut class, &self.machines, true, &avoid);
        let lingers = found.lingering(task).map(|(machine, _)| {
            let found = self.state.machine(machine);
            found.map_or_else(|| format!("machine {}", machine.0), |m| m.name.to_string())
        });
        explain::pending(
            &self.state,
            job,
            found,
            now,
            not_before,
            counted,
            assumed.map(ToString::to_string),
            lingers,
        )
    }

    /// How many more tasks of `spec`, at most `most`, would fit now as a new job without pushing
    /// anybody out, and what stops the next one.
    #[must_use]
    pub fn fit(&self, spec: &JobSpec, most: u32) -> Fit {
        fit::fit(self.machines.rooms(), &self.config.weights, spec, most)
    }

    /// Decides for the first task of a job that finds a machine. All are equal, but for where they
    /// failed.
    fn decide_job(&mut self, job: JobId, now: Millis) -> Option<Assignment> {
        let mut task = self.queue.first(job)?;
        loop {
            let decision = self.decide(task, now);
            let picky = self.state.task(task).is_some_and(|t| t.avoids(now).next().is_some());
            if decision.is_some() || !picky {
                return decision;
            }
            task = self.queue.after(task)?;
        }
    }

    fn decide(&mut self, task: TaskId, now: Millis) -> Option<Assignment> {
        let need = self.needs.get(&task.job).expect("what is queued has a need").clone();
        self.uses += 1;
        let class = match self.classes.get_mut(&need.class) {
            Some(class) => class,
            None => {
                let class = Class::new(need.clone(), &self.machines);
                self.classes.entry(need.class.clone()).or_insert(class)
            }
        };
        class.used_at = self.uses;
        let Config { weights, caches } = self.config;
        let mut victims = Vec::new();
        let crashes: Vec<Crash> =
            self.state.task(task).map(|task| task.avoids(now).collect()).unwrap_or_default();
        let avoid = avoided(&crashes, class, &self.machines);
        let m = match class.best(&self.machines, &weights, caches, &avoid) {
            Some((_, m)) => m,
            None => {
                let found = class.best_preempting(&self.machines, &weights, caches, &avoid);
                if found.is_none() {
                    let kept = crashes.iter().filter(|c| avoid.contains(&(c.machine.0 as usize)));
                    let cooled = kept.map(|crash| crash.at + CRASH_COOL_DOWN).min();
                    self.cooled = self.cooled.into_iter().chain(cooled).min();
                }
                let m = found?;
                let (chosen, _) = victims::choose(&self.machines, &need, m, &mut Vec::new())
                    .expect("the machine was found by the same choice");
                victims.extend(chosen.into_iter().map(victims::incarnation));
                debug_assert!(
                    !victims.is_empty(),
                    "a machine with room is found before victims are looked for"
                );
                m
            }
        };
        for victim in &victims {
            self.depart(victim.task);
            self.leaving.insert(victim.task, victim.number);
        }
        self.arrive(m, Resident { task, incarnation: None, need });
        self.queue.remove(task);
        self.assumed.insert(
            task,
            Assumed { machine: m, victims: victims.iter().map(|v| v.task).collect() },
        );
        let machine =
            MachineId(u32::try_from(m).expect("machines are indexed by a number of 32 bits"));
        Some(Assignment { task, machine, victims })
    }

    /// Makes index and queue say of a task what the committed state says, unless a decision is
    /// assumed that pushes it out.
    fn settle(&mut self, task: TaskId) {
        let found = self.state.task(task).map(|found| found.state.clone());
        match found {
            Some(TaskState::Running(placement)) => {
                self.queue.remove(task);
                let m = placement.machine.0 as usize;
                if self.leaving.get(&task) == Some(&placement.incarnation) {
                    return;
                }
                if self.machines.confirm(task, m, placement.incarnation) {
                    return;
                }
                self.depart(task);
                let need = self.need(task.job);
                self.arrive(m, Resident { task, incarnation: Some(placement.incarnation), need });
            }
            Some(TaskState::Pending { not_before, .. }) => {
                // Until its last incarnation is known to be over, as for who waits for other jobs.
                let lingers = self.state.task(task).is_some_and(|task| task.lingers);
                let not_before = if lingers { NEVER } else { not_before };
                if self.assumed.contains_key(&task) {
                    return;
                }
                self.depart(task);
                let need = self.need(task.job);
                let job = self.state.job(task.job).expect("a task of the state has its job there");
                self.queue.add(task, need.priority, &job.key.user, not_before);
            }
            Some(TaskState::Dead { .. }) | None => {
                self.queue.remove(task);
                self.depart(task);
            }
        }
    }

    fn settle_machine(&mut self, id: MachineId) {
        let machine = self.state.machine(id);
        let now = machine.map(|m| (&m.name, m.state == MachineState::Up, m.info.as_ref()));
        if !self.machines.set(id, now) {
            return;
        }
        // Its attributes are others: jobs with tasks there have to count their crowds again.
        for resident in self.machines.residents(id.0 as usize) {
            self.classes.remove(&resident.need.class);
        }
    }

    fn arrive(&mut self, m: usize, resident: Resident) {
        let need = resident.need.clone();
        self.machines.add(m, resident);
        if let Some(class) = self.classes.get_mut(&need.class) {
            class.count(&self.machines, m, true);
        }
    }

    fn depart(&mut self, task: TaskId) {
        let Some((m, resident)) = self.machines.remove(task) else { return };
        if let Some(class) = self.classes.get_mut(&resident.need.class) {
            class.count(&self.machines, m, false);
        }
    }

    fn need(&mut self, job: JobId) -> Arc<Need> {
        if let Some(need) = self.needs.get(&job) {
            return need.clone();
        }
        let found = self.state.job(job).expect("a task of the state has its job there");
        let need = Arc::new(Need::new(job, &found.spec, &mut self.machines));
        self.needs.insert(job, need.clone());
        need
    }

    /// Forgets the classes that were not used for the longest time. Each waiting job may keep its
    /// own, so that many jobs that fit nowhere do not push out each other's answers.
    fn forget_old_classes(&mut self) {
        let most = MAX_CLASSES + self.queue.ready_jobs();
        if self.classes.len() <= most + MAX_CLASSES {
            return;
        }
        let mut uses: Vec<u64> = self.classes.values().map(|class| class.used_at).collect();
        uses.sort_unstable();
        let oldest_kept = uses[uses.len() - most];
        self.classes.retain(|_, class| class.used_at >= oldest_kept);
    }
}

/// Where a task does not go as it failed there: of its machines those that are left when, from the
/// one that failed the longest ago on, as many are forgiven as it takes for one to be there to try.
fn avoided(crashes: &[Crash], class: &mut Class, machines: &Machines) -> Vec<usize> {
    let mut avoid: Vec<usize> = crashes.iter().map(|crash| crash.machine.0 as usize).collect();
    while !avoid.is_empty() && !class.has_others(machines, &avoid) {
        avoid.remove(0);
    }
    avoid
}

/// Everything that a scheduler has folded from the stream, for comparing two of them.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) rooms: BTreeMap<usize, [u64; 4]>,
    up: BTreeSet<usize>,
    residents: BTreeMap<TaskId, (usize, Option<u32>)>,
    queued: BTreeSet<TaskId>,
    undecided: usize,
}

#[cfg(test)]
impl Scheduler {
    pub(crate) fn contents(&self) -> Contents {
        let machines = || self.machines.known();
        let room = |m| (m, [0, 1, 2, 3].map(|column| self.machines.room(column, m, 0)));
        let residents = machines().flat_map(|m| {
            self.machines.residents(m).iter().map(move |r| (r.task, (m, r.incarnation)))
        });
        Contents {
            rooms: machines().map(room).collect(),
            up: machines().filter(|m| self.machines.is_up(*m)).collect(),
            residents: residents.collect(),
            queued: self.queue.all(),
            undecided: self.assumed.len() + self.leaving.len(),
        }
    }
}
