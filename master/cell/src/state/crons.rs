//! Cron jobs: which tick is fired next, the runs that were made, and what became of them.
//!
//! The next tick is a fact of the state, and its alarm is answered by an entry of the log like any other: so
//! a tick is fired once, whoever leads, and ticks that passed while nobody led are seen when somebody does. A
//! run is a batch job of its own, `NAME-N`, whose parent the cron job is; it is admitted like any job that its
//! user submits, and what stands against it is noted with the tick.
//!
//! Leaves what a schedule is to `borg_proto::cron`.
//!
//! Invariants: the next tick is one of the schedule, and there is one unless the job is paused or over; of a
//! tick at most one run is made; what is remembered of ticks is bounded.

use super::turn::Turn;
use super::{Answer, Job, JobEnd, JobState};
use crate::event::EventKind;
use crate::rejection::{KindRejection, Rejection};
use borg_proto::command::CronOrder;
use borg_proto::cron::{CatchUp, Cron, MOST_CAUGHT_UP, MOST_RUNS, Overlap, TICK_VARIABLE};
use borg_proto::task::{TaskEnd, cut};
use borg_proto::time::Date;
use borg_proto::{JobId, JobKey, JobKind, JobName, JobSpec, Millis, UserName};
use imbl::Vector;
use std::sync::Arc;

/// Most ticks without a run that are remembered. 20: our choice.
pub(super) const MOST_SKIPPED: usize = 20;
/// Longest text about a tick, in bytes: our choice.
pub const MAX_TICK_TEXT: usize = 256;
/// How many numbers are tried for a run whose name somebody has taken. 100: our choice.
const MOST_NAMES: u64 = 100;

/// What is known of a cron job's ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronState {
    /// The tick that is fired next.
    pub next: Option<Millis>,
    /// Whether no tick is fired until it is resumed.
    pub paused: bool,
    /// The number of the last run.
    pub made: u64,
    /// What became of ticks, the oldest first.
    pub history: Vector<Tick>,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// The tick; of a run that was ordered, the time of that.
    pub tick: Millis,
    /// When that was, in cell time.
    pub at: Millis,
    /// Whether somebody asked for it.
    pub ordered: bool,
    /// What it was.
    pub fate: Fate,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A run was made.
    Run {
        /// Its number.
        id: JobId,
        /// Its name.
        job: JobKey,
        /// When and how it ended, and with what note; `None` while it is alive.
        ended: Option<(Millis, JobState, String)>,
    },
    /// None was.
    Skipped {
        /// Why.
        why: String,
    },
}

impl Tick {
    /// The run of it that is alive.
    #[must_use]
    pub fn alive(&self) -> Option<JobId> {
        match &self.fate {
            Fate::Run { id, ended: None, .. } => Some(*id),
            Fate::Run { .. } | Fate::Skipped { .. } => None,
        }
    }
}

impl CronState {
    pub(crate) fn new(cron: &Cron, at: Millis) -> Self {
        let next = cron.schedule.after(at);
        Self { next, paused: false, made: 0, history: Vector::new() }
    }

    /// What it waits for, for people.
    pub(super) fn note(&self) -> String {
        match self.next {
            _ if self.paused => "paused".to_owned(),
            Some(next) => format!("next at {}", Date(next)),
            None => "no tick is left".to_owned(),
        }
    }

    /// Lets go what is too much, the oldest first.
    fn trim(&mut self, cron: &Cron) -> Vec<JobId> {
        let mut left = [cron.keep_finished as usize, cron.keep_failed as usize, MOST_SKIPPED];
        let mut gone = Vec::new();
        let mut kept = Vector::new();
        for tick in self.history.iter().rev() {
            let share = match &tick.fate {
                Fate::Run { ended: None, .. } => None,
                Fate::Run { ended: Some((_, JobState::Finished, _)), .. } => Some(0),
                Fate::Run { ended: Some(_), .. } => Some(1),
                Fate::Skipped { .. } => Some(2),
            };
            match share.map(|share| &mut left[share]) {
                Some(0) => {
                    if let Fate::Run { id, .. } = &tick.fate {
                        gone.push(*id);
                    }
                }
                Some(room) => {
                    *room -= 1;
                    kept.push_front(tick.clone());
                }
                None => kept.push_front(tick.clone()),
            }
        }
        self.history = kept;
        gone
    }
}

impl Job {
    /// What is known of its ticks, of a cron job.
    #[must_use]
    pub fn ticks(&self) -> Option<&CronState> {
        self.cron.as_deref()
    }

    /// When its next tick is.
    pub(super) fn cron_due(&self) -> Option<Millis> {
        self.cron.as_ref().filter(|cron| !cron.paused)?.next
    }

    /// The last thing that became of a tick of it, and what is next, for people.
    pub(crate) fn told_of_ticks(&self) -> String {
        let Some(cron) = &self.cron else { return String::new() };
        let last = cron.history.last().map(|tick| match &tick.fate {
            Fate::Run { job, ended: None, .. } => format!("made {job}; "),
            Fate::Run { job, ended: Some((_, state, _)), .. } => format!("{job} is {state}; "),
            Fate::Skipped { why } => format!("{}: {why}; ", Date(tick.tick)),
        });
        last.unwrap_or_default() + &cron.note()
    }

    /// Its runs that are alive.
    fn live_runs(&self) -> Vec<JobId> {
        let history = self.cron.iter().flat_map(|cron| cron.history.iter());
        history.filter_map(Tick::alive).collect()
    }

    /// The batch job that it makes at a tick.
    fn run_spec(&self, number: u64, tick: Millis) -> Option<JobSpec> {
        let mut spec = JobSpec {
            name: run_name(&self.key.name, number)?,
            kind: JobKind::Batch,
            parent: Some(self.key.clone()),
            cron: None,
            ..self.spec.as_ref().clone()
        };
        let env = &mut Arc::make_mut(&mut spec.task).env;
        env.entry(TICK_VARIABLE.to_owned()).or_insert_with(|| Date(tick).to_string());
        Some(spec)
    }
}

fn run_name(cron: &JobName, number: u64) -> Option<JobName> {
    format!("{cron}-{number}").parse().ok()
}

impl Turn<'_> {
    /// Fires the ticks of a cron job that have come, and lets go of what is too old of its history.
    pub(super) fn tick(&mut self, id: JobId) {
        let Some(job) = self.state.job(id) else { return };
        let (Some(cron), Some(state)) = (job.spec.cron.clone(), job.cron.clone()) else { return };
        let goes_on = job.is_alive() && job.stopped.is_none() && !state.paused;
        if let Some(next) = state.next.filter(|next| goes_on && *next <= self.at) {
            self.cron_mut(id).next = cron.schedule.after(self.at);
            for tick in self.chosen(id, &cron, next) {
                self.fire(id, &cron, tick);
            }
            self.emit(EventKind::CronChanged(id));
        }
        let gone = self.cron_mut(id).trim(&cron);
        for run in gone {
            if self.state.job(run).is_some_and(|job| !job.is_alive()) {
                self.forget(run);
            }
        }
    }

    /// Which of the ticks from `first` until now are looked at, the oldest first; the others are noted.
    fn chosen(&mut self, id: JobId, cron: &Cron, first: Millis) -> Vec<Millis> {
        let most = match cron.catch_up {
            CatchUp::None | CatchUp::Last => 1,
            CatchUp::All => MOST_CAUGHT_UP,
        };
        let schedule = &cron.schedule;
        let earlier = |tick: &Millis| schedule.until(Millis(tick.0.checked_sub(1)?));
        let ticks = std::iter::successors(schedule.until(self.at), earlier);
        let mut chosen: Vec<Millis> = ticks.take_while(|tick| *tick >= first).take(most).collect();
        chosen.reverse();
        let missed = chosen.first().and_then(earlier).filter(|last| *last >= first);
        if let Some(last) = missed {
            let until = if last > first { format!(" until {}", Date(last)) } else { String::new() };
            let why = format!("missed{until}: no master led, catch_up is {}", cron.catch_up);
            self.skip(id, first, false, why);
        }
        chosen
    }

    fn fire(&mut self, id: JobId, cron: &Cron, tick: Millis) {
        let late = self.at.since(tick);
        if late > cron.latest_start() {
            self.skip(id, tick, false, format!("missed: {} s late", late.0 / 1_000));
            return;
        }
        if let Err(why) = self.attempt(|turn| turn.make_run(id, cron, tick, false)) {
            self.skip(id, tick, false, why.to_string());
        }
    }

    fn skip(&mut self, id: JobId, tick: Millis, ordered: bool, why: String) {
        let fate = Fate::Skipped { why: cut(&why, MAX_TICK_TEXT) };
        let at = self.at;
        self.cron_mut(id).history.push_back(Tick { tick, at, ordered, fate });
    }

    /// Makes a run, if that may be. It may end others first, so it is to be attempted.
    fn make_run(
        &mut self,
        id: JobId,
        cron: &Cron,
        tick: Millis,
        ordered: bool,
    ) -> Result<(JobId, JobKey), Rejection> {
        let job = self.job_mut(id).clone();
        let (user, live) = (job.owner().clone(), job.live_runs());
        let key = |id: &JobId| self.state.job(*id).map(|job| job.key.clone());
        match cron.overlap {
            Overlap::Forbid => {
                if let Some(run) = live.first().and_then(key) {
                    return Err(KindRejection::RunAlive { run }.into());
                }
            }
            Overlap::Allow => {
                if live.len() >= MOST_RUNS {
                    let (job, most) =
                        (job.key.clone(), u32::try_from(MOST_RUNS).unwrap_or(u32::MAX));
                    return Err(KindRejection::ManyRuns { job, most }.into());
                }
            }
            Overlap::Replace => {
                for run in live {
                    self.end_whole(run, &TaskEnd::Killed { by: "the run after it".to_owned() });
                }
            }
        }
        let (number, spec) = self.next_run(id, tick)?;
        self.cron_mut(id).made = number;
        let Answer::Job { id: run, key } = self.submit(&user, &Arc::new(spec))? else {
            unreachable!("a job that is submitted is answered with its number")
        };
        let at = self.at;
        let fate = Fate::Run { id: run, job: key.clone(), ended: None };
        self.cron_mut(id).history.push_back(Tick { tick, at, ordered, fate });
        Ok((run, key))
    }

    /// The next run whose name no live job has.
    fn next_run(&self, id: JobId, tick: Millis) -> Result<(u64, JobSpec), Rejection> {
        let job = self.state.job(id);
        let made = job.and_then(Job::ticks).map_or(0, |cron| cron.made);
        let numbers = (1..=MOST_NAMES).filter_map(|more| made.checked_add(more));
        let mut taken = None;
        for number in numbers {
            let Some((job, spec)) = job.and_then(|job| Some((job, job.run_spec(number, tick)?)))
            else {
                continue;
            };
            let key = spec.key(job.owner());
            match self.state.job_named(&key).filter(|found| found.is_alive()) {
                None => return Ok((number, spec)),
                Some(found) => taken = Some((key, found.state())),
            }
        }
        match taken {
            Some((job, state)) => Err(Rejection::JobAlive { job, state }),
            None => Err(KindRejection::NoName { made }.into()),
        }
    }

    /// Notes of a run that it is over.
    pub(super) fn run_ended(&mut self, cron: JobId, run: JobId, end: &JobEnd) {
        let Some(state) = self.state.job(run).map(Job::state) else { return };
        let note = match end {
            JobEnd::Finished => String::new(),
            JobEnd::TaskFailed { .. }
            | JobEnd::DependencyFailed { .. }
            | JobEnd::Killed { .. }
            | JobEnd::ParentEnded { .. } => cut(&end.to_string(), MAX_TICK_TEXT),
        };
        self.note_run_end(cron, run, Some((self.at, state, note)));
    }

    /// Notes of a run that it is alive again.
    pub(super) fn run_revived(&mut self, cron: JobId, run: JobId) {
        self.note_run_end(cron, run, None);
    }

    fn note_run_end(&mut self, cron: JobId, run: JobId, end: Option<(Millis, JobState, String)>) {
        let is_its = |tick: &Tick| matches!(&tick.fate, Fate::Run { id, .. } if *id == run);
        let found = self.state.job(cron).and_then(Job::ticks);
        let Some(at) = found.and_then(|ticks| ticks.history.iter().position(is_its)) else {
            return;
        };
        if let Some(Tick { fate: Fate::Run { ended, .. }, .. }) =
            self.cron_mut(cron).history.get_mut(at)
        {
            *ended = end;
        }
        self.emit(EventKind::CronChanged(cron));
        // What is too much goes when all that ended in this entry is noted.
        self.stir(cron);
    }

    /// Pauses a cron job, resumes it, or makes a run of it.
    pub(super) fn order_cron(
        &mut self,
        user: &UserName,
        key: &JobKey,
        order: CronOrder,
    ) -> Result<Answer, Rejection> {
        let Some(job) = self.state.job_named(key) else {
            return Err(Rejection::NoSuchJob { job: key.clone() });
        };
        if user != job.owner() && !self.state.is_admin(user) {
            return Err(Rejection::NotOwner { user: user.clone(), job: key.clone() });
        }
        let (Some(cron), Some(ticks)) = (job.spec.cron.clone(), job.ticks()) else {
            return Err(KindRejection::NotCron { job: key.clone(), kind: job.spec.kind }.into());
        };
        if !job.is_alive() {
            return Err(KindRejection::CronOver { job: key.clone(), state: job.state() }.into());
        }
        let (id, paused) = (job.id, ticks.paused);
        let next = cron.schedule.after(self.at);
        match order {
            CronOrder::Pause if !paused => self.set_paused(id, true, None),
            CronOrder::Resume if paused => self.set_paused(id, false, next),
            CronOrder::Pause | CronOrder::Resume => {}
            CronOrder::Run => return self.order_run(id, &cron),
        }
        Ok(Answer::None)
    }

    fn set_paused(&mut self, id: JobId, paused: bool, next: Option<Millis>) {
        // A tick that is due came before.
        self.tick(id);
        let cron = self.cron_mut(id);
        (cron.paused, cron.next) = (paused, next);
        self.emit(EventKind::CronChanged(id));
        self.stir(id);
    }

    /// Makes a run now, or changes nothing.
    fn order_run(&mut self, id: JobId, cron: &Cron) -> Result<Answer, Rejection> {
        let (run, key) = self.attempt(|turn| turn.make_run(id, cron, turn.at, true))?;
        self.emit(EventKind::CronChanged(id));
        self.stir(id);
        Ok(Answer::Job { id: run, key })
    }

    /// Another schedule than `before` counts from now on.
    pub(super) fn reschedule(&mut self, id: JobId, before: &JobSpec) {
        let at = self.at;
        let job = self.job_mut(id);
        let schedule = |spec: &JobSpec| spec.cron.as_ref().map(|cron| cron.schedule.clone());
        let Some(schedule) =
            schedule(&job.spec).filter(|now| schedule(before).as_ref() != Some(now))
        else {
            return;
        };
        if let Some(cron) = &mut job.cron
            && !cron.paused
        {
            Arc::make_mut(cron).next = schedule.after(at);
        }
    }

    /// A cron job's ticks for changing.
    fn cron_mut(&mut self, id: JobId) -> &mut CronState {
        let cron = self.job_mut(id).cron.as_mut();
        Arc::make_mut(cron.expect("rules look a job's schedule up before they change its ticks"))
    }
}

#[cfg(test)]
mod tests;
