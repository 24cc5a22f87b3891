//! Goes through a history entry by entry, and back.
//!
//! Where a recording covers a moment, the scheduler there knows what the real one knew, also beside the state: what
//! tasks lent, which machines were silent. Elsewhere it knows the state alone.
//!
//! Invariant: where it stands, the state is that right after the entry; how it got there makes no difference.

use super::{History, Moment, Past};
use crate::Error;
use borg_cell::event::describe;
use borg_cell::state::CellState;
use borg_proto::names::TaskName;
use borg_proto::{Millis, TaskId};
use borg_scheduler::recording::{Begin, Player, Recorded, Stop};
use borg_scheduler::{Config, Explanation, Scheduler};
use serde::Serialize;
use std::collections::BTreeSet;

/// Entries between two copies of the state that going back begins with. 1,000: ours, some ten milliseconds.
const COPY_EVERY: u64 = 1_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The entry that caused it.
    pub index: u64,
    /// Cell time, in milliseconds.
    pub at_ms: u64,
    /// As in `task.evicted`.
    pub kind: String,
    /// Of whom, as in `ann/web/3`.
    pub subject: String,
    /// More about it.
    pub detail: String,
}

/// What to stop at: a kind of event, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breakpoint {
    kind: String,
    subject: String,
}

impl Breakpoint {
    /// Of a text such as `task.evicted`, `evicted`, or `evicted=ann/web`: of a task, of any task of a job, or of a machine.
    ///
    /// # Errors
    /// When nothing is said of the kind.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (kind, subject) = text.split_once('=').unwrap_or((text, ""));
        let letters = |c: char| c.is_ascii_lowercase() || matches!(c, '.' | '-');
        if kind.is_empty() || !kind.chars().all(letters) {
            let why = "is no kind of event; there are placed, evicted, failed, up, job.submitted, machine.down and others, \
                       as in task.evicted=ann/web";
            return Err(format!("{text:?} {why}").into());
        }
        Ok(Self { kind: kind.to_owned(), subject: subject.to_owned() })
    }

    /// Whether an event is meant.
    #[must_use]
    pub fn is_met(&self, told: &Told) -> bool {
        let kind = told.kind == self.kind
            || told.kind.split_once('.').is_some_and(|(_, change)| change == self.kind);
        let rest = told.subject.strip_prefix(&self.subject);
        kind && (self.subject.is_empty()
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl std::fmt::Display for Breakpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if self.subject.is_empty() { Ok(()) } else { write!(f, "={}", self.subject) }
    }
}

/// A place in a history.
#[derive(Debug)]
pub struct Stepper<'a> {
    history: &'a History,
    past: Past,
    /// By index, in order.
    copies: Vec<Past>,
    /// What happened with the entry where it stands.
    happened: Vec<Told>,
}

impl<'a> Stepper<'a> {
    /// At the beginning.
    #[must_use]
    pub fn new(history: &'a History) -> Self {
        let past = Past::new(history);
        Self { history, copies: vec![past.clone()], past, happened: Vec::new() }
    }

    /// The state where it stands.
    #[must_use]
    pub fn state(&self) -> &CellState {
        &self.past.state
    }

    /// The entry where it stands.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.past.state.applied()
    }

    /// What happened with that entry.
    #[must_use]
    pub fn happened(&self) -> &[Told] {
        &self.happened
    }

    /// One entry further; `false` at the end.
    ///
    /// # Errors
    /// When an entry cannot be used.
    pub fn step(&mut self) -> Result<bool, Error> {
        let Some(events) = self.past.next(self.history)? else { return Ok(false) };
        let described = describe(&events, &self.past.state);
        self.happened = described
            .into_iter()
            .zip(&events)
            .map(|((kind, subject, detail), event)| Told {
                index: event.index,
                at_ms: event.at.0,
                kind,
                subject,
                detail,
            })
            .collect();
        let last = self.copies.last().map_or(0, |copy| copy.state.applied());
        if self.index() >= last + COPY_EVERY {
            self.copies.push(self.past.clone());
        }
        Ok(true)
    }

    /// To a moment, forward or back.
    ///
    /// # Errors
    /// When it is not within the history.
    pub fn go(&mut self, moment: Moment) -> Result<(), Error> {
        let index = self.history.index(moment)?;
        if index < self.index() {
            // From before it, so that what happened with it is known again.
            let before = self.copies.partition_point(|copy| copy.state.applied() < index);
            // The first copy is the beginning.
            self.past = self.copies[before.saturating_sub(1)].clone();
            self.happened.clear();
        }
        while self.index() < index && self.step()? {}
        Ok(())
    }

    /// On to the next entry with which something happens that is meant by one of these. At the end of the history: the
    /// kinds of what happened instead.
    ///
    /// # Errors
    /// As of [`Stepper::step`].
    pub fn until(&mut self, breakpoints: &[Breakpoint]) -> Result<Option<BTreeSet<String>>, Error> {
        let mut kinds = BTreeSet::new();
        while self.step()? {
            let met = |told: &Told| breakpoints.iter().any(|one| one.is_met(told));
            if self.happened.iter().any(met) {
                return Ok(None);
            }
            kinds.extend(self.happened.iter().map(|told| told.kind.clone()));
        }
        Ok(Some(kinds))
    }

    /// Why a task is where it is, as the scheduler explains it here; and whether it knows what the real one knew.
    ///
    /// # Errors
    /// When there is no such task here.
    pub fn why(&self, task: &TaskName) -> Result<(Explanation, bool), Error> {
        let state = self.state();
        let job = state
            .job_named(&task.job)
            .ok_or_else(|| format!("there is no job {} here", task.job))?;
        let id = TaskId { job: job.id, index: task.index };
        if state.task(id).is_none() {
            return Err(format!("job {} has {} tasks here", task.job, job.slots()).into());
        }
        let now = state.clock();
        Ok(match self.real_scheduler()? {
            Some(scheduler) => (scheduler.explain(id, now), true),
            None => (Scheduler::new(state, Config::default()).explain(id, now), false),
        })
    }

    /// What the real scheduler knew here beside the state, where that was recorded.
    ///
    /// # Errors
    /// When an entry of the log cannot be used.
    pub fn known(&self) -> Result<Option<Begin>, Error> {
        let scheduler = self.real_scheduler()?;
        Ok(scheduler.map(|scheduler| Begin::of(&scheduler, self.index())))
    }

    /// The scheduler with all that the real one knew here, where that was recorded.
    fn real_scheduler(&self) -> Result<Option<Scheduler>, Error> {
        let index = self.index();
        let begins = |one: &&super::Recording| match one.records.first() {
            Some(Recorded::Begin(begin)) => begin.index <= index,
            _ => false,
        };
        let Some(recording) = self.history.recordings.iter().rev().find(begins) else {
            return Ok(None);
        };
        let mut player = Player::new(self.history.start.clone(), self.history.members.clone());
        let mut log = |index: u64| self.history.entry(index).cloned();
        let mut after = false;
        for recorded in &recording.records {
            if let Recorded::Follow { index: to } | Recorded::Afresh { index: to } = recorded
                && *to > index
            {
                after = true;
                break;
            }
            match player.play(recorded, &mut log) {
                Ok(()) => {}
                Err(Stop::Differs(_) | Stop::NoEntry { .. }) => break,
                Err(stop) => return Err(stop.to_string().into()),
            }
        }
        // Of a time after its end it says nothing.
        if !after && player.state().applied() < index {
            return Ok(None);
        }
        let followed = Recorded::Follow { index };
        if player.state().applied() <= index && player.play(&followed, &mut log).is_err() {
            return Ok(None);
        }
        Ok(player.scheduler().cloned())
    }

    /// Cell time here.
    #[must_use]
    pub fn clock(&self) -> Millis {
        self.state().clock()
    }
}
