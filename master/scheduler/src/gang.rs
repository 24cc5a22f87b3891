//! Gangs: all waiting tasks of such a job are decided in one pass, or none of them.
//!
//! They are placed one after the other by the same choice as all tasks; when one finds no machine, what
//! was assumed for those before it is taken back. [`fit`] does the same in a copy, for `why`.
//!
//! Invariants: what a pass proposes of a gang is all that waits of it; a gang that did not fit leaves
//! everything as it was, so it wakes nobody, itself included.

use crate::class::Class;
use crate::explain::{self, Preempting, sentence};
use crate::homes::Seat;
use crate::machines::{Machines, Resident};
use crate::need::{ClassKey, Cohort, Need};
use crate::scheduler::{Scheduler, avoided};
use crate::score::Weights;
use crate::victims;
use borg_cell::state::Crash;
use borg_proto::command::Assignment;
use borg_proto::{JobId, Millis, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a gang that did not fit is not tried again, for each of its tasks. 5 ms: our choice. Where
/// tasks end all the time there is always room for one more, and each try looks for room for all: a
/// gang that waits costs one look for a machine in that time at most, however large it is; what all of
/// them together cost a pass is bounded by [`MOST_TAKEN_BACK`].
pub(crate) const REST: Millis = Millis(5);

/// Decisions that may be taken back in one pass; gangs whose turn comes later are tried in the next
/// ones. 2,000: our choice, two gangs of the largest kind; a pass stays short however many gangs
/// nearly fit.
const MOST_TAKEN_BACK: usize = 2_000;
/// When a gang that was not tried for that is tried. 1 ms: our choice; others come first.
const SOON: Millis = Millis(1);

/// How long a gang that did not fit is not tried again when nothing came free, for each of its tasks. 200 ms:
/// our choice. As each task takes the best machine that is left, less room can make a gang fit that did not;
/// that is rare, so it is found out now and then only.
const LESS_ROOM_REST: Millis = Millis(200);

/// A gang that did not fit lately.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// Until when it is not tried at all.
    until: Millis,
    /// Until when it is not tried but for what may make it fit.
    at_length: Millis,
    /// Whether there was something that may.
    dozes: bool,
    /// How the machines were; see [`Gangs::seen`].
    seen: u64,
}

/// Gangs that did not fit lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gangs {
    rests: BTreeMap<JobId, Rest>,
    /// How many decisions the present pass took back.
    taken_back: usize,
    /// Versions of the machines that were used up by what was taken back.
    undone: u64,
}

impl Gangs {
    /// Whether a class that was woken is a gang that rests. It is tried when it has rested.
    pub(crate) fn dozes(&mut self, class: &ClassKey, now: Millis) -> bool {
        let ClassKey::Job(Cohort { job, .. }) = class else { return false };
        let Some(rest) = self.rests.get_mut(job).filter(|rest| rest.until > now) else {
            return false;
        };
        rest.dozes = true;
        true
    }

    /// What was tried since the machines had the version `before` is taken back.
    pub(crate) fn undo(&mut self, before: u64, machines: &Machines) {
        self.undone += machines.version() - before;
    }

    /// A number that is the same for as long as all machines are as they are.
    fn seen(&self, machines: &Machines) -> u64 {
        machines.version() - self.undone
    }

    /// A pass begins: gives the gangs that have rested and are to be tried.
    pub(crate) fn rested(&mut self, now: Millis, machines: &Machines) -> Vec<JobId> {
        self.taken_back = 0;
        let seen = self.seen(machines);
        let mut rested = Vec::new();
        for (job, rest) in &mut self.rests {
            if rest.ends(seen).is_some_and(|end| end <= now) {
                (rest.dozes, rest.seen) = (false, seen);
                rested.push(*job);
            }
        }
        rested
    }

    /// When the next one has.
    pub(crate) fn next_rested(&self, machines: &Machines) -> Option<Millis> {
        let seen = self.seen(machines);
        self.rests.values().filter_map(|rest| rest.ends(seen)).min()
    }

    /// It was placed, or is gone.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.rests.remove(&job);
    }

    /// A gang of so many tasks did not fit.
    fn rest(&mut self, job: JobId, tasks: usize, now: Millis, machines: &Machines) {
        let after = |each: Millis| now + Millis(each.0 * tasks as u64);
        let (until, at_length) = (after(REST), after(LESS_ROOM_REST));
        let seen = self.seen(machines);
        self.rests.insert(job, Rest { until, at_length, dozes: false, seen });
    }

    /// It was not tried, as others took the time for it.
    fn put_off(&mut self, job: JobId, now: Millis, machines: &Machines) {
        let (until, seen) = (now + SOON, self.seen(machines));
        self.rests.insert(job, Rest { until, at_length: until, dozes: true, seen });
    }
}

impl Rest {
    /// When it ends, if the machines are as `seen`; `None` when nothing calls for another try.
    fn ends(&self, seen: u64) -> Option<Millis> {
        match (self.dozes, self.seen == seen) {
            (true, _) => Some(self.until),
            (false, false) => Some(self.at_length),
            (false, true) => None,
        }
    }
}

impl Scheduler {
    /// Whether a job can be decided for nothing now, whatever room there is: as many of its tasks are
    /// placed as may be at once, or some of a gang that wait are not ready.
    pub(crate) fn is_held(&self, need: &Need) -> bool {
        let job = need.job;
        need.cap.is_some_and(|cap| self.placed(job) >= cap) || (need.gang && self.unready(job) > 0)
    }

    /// How many tasks of a job with a cap stand on machines, proposed ones included.
    pub(crate) fn placed(&self, job: JobId) -> u32 {
        self.placed.get(&job).copied().unwrap_or(0)
    }

    /// How many tasks of a job wait, or are about to, but may not be decided now: for a moment, for
    /// another job, or for the fate of a decision.
    fn unready(&self, job: JobId) -> usize {
        let waiting = self.state.job(job).map_or(0, |job| job.counts.pending as usize);
        waiting.saturating_sub(self.queue.ready_of(job)) + self.leaving_of(job).count()
    }

    /// Takes a job out of the queue until one of its tasks changes.
    pub(crate) fn hold(&mut self, cohort: Cohort) {
        self.queue.park(cohort, &ClassKey::Held(cohort));
    }

    /// A task of the job came, went or changed: a job that was held may be so no more, and what is
    /// left of a gang may fit.
    pub(crate) fn release(&mut self, job: JobId) {
        for (cohort, need) in self.needs.range(Cohort::all_of(job)) {
            if !need.gang && need.cap.is_none() {
                return;
            }
            if need.gang && self.queue.has_parked(&need.class) {
                self.loosened.insert(need.class.clone());
            }
            self.queue.wake_class(&ClassKey::Held(*cohort));
        }
    }

    /// Decides for all waiting tasks of a gang, or changes nothing and says false.
    pub(crate) fn decide_gang(
        &mut self,
        need: &Arc<Need>,
        now: Millis,
        decisions: &mut Vec<Assignment>,
    ) -> bool {
        let (job, cohort) = (need.job, need.cohort);
        if self.gangs.taken_back >= MOST_TAKEN_BACK {
            self.gangs.put_off(job, now, &self.machines);
            return false;
        }
        // What others made possible is noted before what is tried here can be mistaken for it.
        self.wake_parked();
        let priority = need.priority;
        let (last, version) = (self.queue.last_served(priority), self.machines.version());
        let tasks = self.ready_gang(job);
        let before = decisions.len();
        for (task, need) in &tasks {
            let Some(decision) = self.decide(*task, need, now) else {
                let made = decisions.split_off(before);
                self.gangs.taken_back += made.len();
                self.take_back(&made, now);
                self.queue.serve_again(priority, last);
                self.gangs.undo(version, &self.machines);
                self.gangs.rest(job, tasks.len(), now, &self.machines);
                let others: BTreeSet<Cohort> = tasks.iter().map(|(_, need)| need.cohort).collect();
                others.into_iter().filter(|one| *one != cohort).for_each(|one| self.park(one));
                return false;
            };
            decisions.push(decision);
        }
        self.gangs.forget(job);
        true
    }

    /// The tasks of a job that may be decided now with what each asks for, of whatever version.
    fn ready_gang(&self, job: JobId) -> Vec<(TaskId, Arc<Need>)> {
        let needs = self.needs.range(Cohort::all_of(job)).map(|(_, need)| need);
        let ready =
            needs.flat_map(|need| self.queue.ready(need.cohort).map(|id| (id, need.clone())));
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(id, _)| *id);
        ready
    }

    fn take_back(&mut self, made: &[Assignment], now: Millis) {
        for decision in made.iter().rev() {
            self.give_back(decision.task);
        }
        // Whoever had a back-off is asleep after that, though it is over.
        self.queue.wake(now);
        self.looked_at = self.machines.version();
        self.loosened.clear();
    }

    /// Why a gang is not placed; `None` when it is none, or waits for its turn only.
    pub(crate) fn why_gang(&self, job: JobId, need: &Arc<Need>, now: Millis) -> Option<String> {
        if !need.gang {
            return None;
        }
        // By the time of the question; the queue is as of the last pass.
        let waiting = self.state.tasks_of(job).filter_map(|(id, task)| match task.state {
            TaskState::Pending { not_before, .. } => {
                let not_before = self.not_before(id, not_before);
                Some((id, not_before <= now && !task.lingers && !self.assumed.contains_key(&id)))
            }
            TaskState::Running(_) | TaskState::Dead { .. } => None,
        });
        let (tasks, unready): (Vec<_>, Vec<_>) = waiting.partition(|(_, ready)| *ready);
        let unready = unready.len() + self.leaving_of(job).count();
        if unready > 0 {
            let tasks = if unready == 1 { "task" } else { "tasks" };
            return Some(format!(
                "waits for {unready} {tasks} of its gang to be ready: all or none"
            ));
        }
        let asked = tasks.into_iter().filter_map(|(id, _)| {
            let crashes = self.state.task(id).map(|task| task.avoids(now).collect());
            Some((id, self.need_of(id)?.clone(), crashes.unwrap_or_default()))
        });
        fit(self.machines.clone(), &self.config.weights, &asked.collect::<Vec<_>>())
    }
}

/// Places tasks, each with what it asks for and where it failed, one after the other in a copy. Says what stops
/// the first that finds no machine.
fn fit(
    mut machines: Machines,
    weights: &Weights,
    tasks: &[(TaskId, Arc<Need>, Vec<Crash>)],
) -> Option<String> {
    let mut classes: BTreeMap<Cohort, Class> = BTreeMap::new();
    for (_, need, _) in tasks {
        let new = || Class::new(need.clone(), &machines, weights);
        classes.entry(need.cohort).or_insert_with(new);
    }
    for (placed, (task, need, crashes)) in tasks.iter().enumerate() {
        let class = classes.get_mut(&need.cohort)?;
        let avoid = avoided(crashes, class, &machines, weights);
        let plain = class.best(&machines, weights, true, &avoid).map(|(_, row)| row);
        let row = plain.or_else(|| class.best_preempting(&machines, weights, true, &avoid));
        let Some(row) = row else {
            let within = Preempting::WithinBudgets;
            let stops = explain::count(class, &machines, weights, within, &avoid);
            return Some(format!(
                "{placed} of {} tasks fit; it is a gang: all or none; for the next one, {}",
                tasks.len(),
                sentence(stops.machines, stops.feasible, &stops.rejections)
            ));
        };
        let (victims, _) = victims::choose(&machines, need, row, false)
            .expect("the machine was found by the same choice");
        let disturbed = victims.iter().flat_map(|victim| machines.disturbed_with(row, victim));
        let disturbed: Vec<JobId> = disturbed.collect();
        let victims: Vec<Seat> = victims.into_iter().map(Resident::seat).collect();
        disturbed.into_iter().for_each(|job| machines.spend(job));
        for victim in victims {
            for inside in machines.inside(row, victim.task) {
                machines.remove(Seat::of(inside.task));
            }
            machines.remove(victim);
        }
        machines.add(row, Resident::proposed(Seat::of(*task), need.clone()));
        classes.values_mut().for_each(|class| class.count(&machines, weights, row, true));
    }
    None
}
