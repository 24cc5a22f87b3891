//! Takes recorded decisions again, and compares.
//!
//! The state comes from the log, entry by entry; the scheduler is the production one. What differs first is
//! told, and nothing after it: from there on the two have seen different cells.

use super::{Decided, Recorded};
use crate::Scheduler;
use borg_cell::event::Event;
use borg_cell::replica::replay::replay;
use borg_cell::state::CellState;
use borg_cell::store::{LogEntry, Membership};
use borg_proto::command::Assignment;
use borg_proto::{JobId, Millis};
use std::fmt;

/// A cell and its scheduler, played from a recording.
#[derive(Debug, Clone)]
pub struct Player {
    state: CellState,
    members: Membership,
    /// Since the scheduler followed.
    events: Vec<Event>,
    /// `None` before a beginning, and after a gap.
    scheduler: Option<Scheduler>,
    passes: u64,
    decisions: u64,
    left_out: u64,
}

/// Why a recording cannot be played on.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The log does not reach so far.
    #[error("the log ends before entry {index}, which the scheduler had followed")]
    NoEntry {
        /// The entry that is missing.
        index: u64,
    },
    /// An entry cannot be used.
    #[error("the log: {0}")]
    Entry(String),
    /// It speaks of an entry that is further back than one before.
    #[error("the recording goes back from entry {at} to entry {index}")]
    Back {
        /// Where the state is.
        at: u64,
        /// Where it is to be.
        index: u64,
    },
    /// Another decision than was recorded.
    #[error(transparent)]
    Differs(#[from] Box<Difference>),
}

/// The first decision that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which of the passes that were compared, from 1.
    pub pass: u64,
    /// The newest entry of the log that the scheduler had followed.
    pub index: u64,
    /// When the pass was.
    pub now: Millis,
    /// Which decision of the pass, from 0.
    pub at: usize,
    /// What was decided then; `None` when no more was.
    pub then: Option<Assignment>,
    /// What is decided now.
    pub again: Option<Assignment>,
    /// Jobs over which the pass panicked then and now.
    pub panicked: (Vec<JobId>, Vec<JobId>),
    /// Why the task is where it is, as the scheduler explains it now.
    pub why: String,
}

impl std::error::Error for Difference {}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, index, now, at, then, again, panicked, why } = self;
        write!(f, "pass {pass} at entry {index}, {} ms, decision {at}: ", now.0)?;
        let one = |decision: &Option<Assignment>| match decision {
            None => "nothing".to_owned(),
            Some(one) => format!(
                "{} to machine {} with {} victims",
                one.task,
                one.machine.0,
                one.victims.len()
            ),
        };
        write!(f, "then {}, now {}", one(then), one(again))?;
        if panicked.0 != panicked.1 {
            write!(f, "; it panicked over {:?} then and {:?} now", panicked.0, panicked.1)?;
        }
        if why.is_empty() { Ok(()) } else { write!(f, "; {why}") }
    }
}

/// Gives the entry of the log at an index, if it is there.
pub type Log<'a> = dyn FnMut(u64) -> Option<LogEntry> + 'a;

impl Player {
    /// Begins with a state, which must be no newer than the first beginning that is played.
    #[must_use]
    pub fn new(state: CellState, members: Membership) -> Self {
        Self {
            state,
            members,
            events: Vec::new(),
            scheduler: None,
            passes: 0,
            decisions: 0,
            left_out: 0,
        }
    }

    /// The state that was reached.
    #[must_use]
    pub fn state(&self) -> &CellState {
        &self.state
    }

    /// The scheduler; `None` before a beginning and after a gap.
    #[must_use]
    pub fn scheduler(&self) -> Option<&Scheduler> {
        self.scheduler.as_ref()
    }

    /// Passes that were compared.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Decisions that were compared.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Records that could not be played, for want of a beginning before them.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Applies the log up to entry `index`.
    ///
    /// # Errors
    /// When it is not there, cannot be used, or was passed.
    pub fn reach(&mut self, index: u64, log: &mut Log<'_>) -> Result<(), Stop> {
        let at = self.state.applied();
        if index < at {
            return Err(Stop::Back { at, index });
        }
        while self.state.applied() < index {
            let next = self.state.applied() + 1;
            let entry = log(next).ok_or(Stop::NoEntry { index: next })?;
            let events = replay(&mut self.state, &mut self.members, &entry);
            self.events.extend(events.map_err(Stop::Entry)?);
        }
        Ok(())
    }

    /// Does what was recorded.
    ///
    /// # Errors
    /// What stops it: the log, or another decision than was recorded.
    pub fn play(&mut self, recorded: &Recorded, log: &mut Log<'_>) -> Result<(), Stop> {
        match recorded {
            Recorded::Begin(begin) => {
                self.reach(begin.index, log)?;
                self.events.clear();
                self.scheduler = Some(begin.scheduler(&self.state));
                return Ok(());
            }
            Recorded::Gap => {
                self.scheduler = None;
                self.left_out += 1;
                return Ok(());
            }
            Recorded::Follow { index } | Recorded::Afresh { index } => self.reach(*index, log)?,
            Recorded::Silent { .. }
            | Recorded::LendNothing
            | Recorded::Lend { .. }
            | Recorded::Refused { .. }
            | Recorded::Pass { .. } => {}
        }
        let Some(scheduler) = &mut self.scheduler else {
            self.left_out += 1;
            return Ok(());
        };
        let events = match recorded {
            Recorded::Follow { .. } | Recorded::Afresh { .. } => std::mem::take(&mut self.events),
            _ => Vec::new(),
        };
        let Some(again) = perform(scheduler, &self.state, &events, recorded) else {
            return Ok(());
        };
        let Recorded::Pass { now, decided, .. } = recorded else { return Ok(()) };
        self.passes += 1;
        if let Decided::Placed(placed) = decided {
            self.decisions += placed.len() as u64;
        }
        match self.differ(*now, decided, &again) {
            None => Ok(()),
            Some(difference) => Err(Box::new(difference).into()),
        }
    }

    fn differ(&self, now: Millis, then: &Decided, again: &Decided) -> Option<Difference> {
        if then == again {
            return None;
        }
        let ((then, then_over), (again, again_over)) = (parts(then), parts(again));
        let most = then.len().max(again.len());
        let at = (0..most).find(|at| then.get(*at) != again.get(*at)).unwrap_or(most);
        let (then, again) = (then.get(at).cloned(), again.get(at).cloned());
        let task = then.as_ref().or(again.as_ref()).map(|one| one.task);
        let why = task.zip(self.scheduler.as_ref()).map(|(task, s)| s.explain(task, now).summary);
        Some(Difference {
            pass: self.passes,
            index: self.state.applied(),
            now,
            at,
            then,
            again,
            panicked: (then_over.to_vec(), again_over.to_vec()),
            why: why.unwrap_or_default(),
        })
    }
}

fn parts(decided: &Decided) -> (&[Assignment], &[JobId]) {
    match decided {
        Decided::Placed(placed) => (placed, &[]),
        Decided::Panicked(jobs) => (&[], jobs),
    }
}

/// Does with a scheduler what was recorded of one, as the shell that recorded it does. Gives what a pass decided.
fn perform(
    scheduler: &mut Scheduler,
    state: &CellState,
    events: &[Event],
    recorded: &Recorded,
) -> Option<Decided> {
    match recorded {
        // A panic sets a job aside, as it did then; nothing else is to be done about it.
        Recorded::Follow { .. } => {
            drop(scheduler.survive(|scheduler| scheduler.follow(state.clone(), events)));
        }
        Recorded::Afresh { .. } => {
            drop(scheduler.survive(|scheduler| scheduler.start_afresh(state)));
        }
        Recorded::Silent { machines } => scheduler.avoid(machines.iter().copied().collect()),
        Recorded::LendNothing => scheduler.lend_nothing(),
        Recorded::Lend { news } => scheduler.lend(news),
        Recorded::Refused { tasks } => {
            let refuse = |scheduler: &mut Scheduler| {
                tasks.iter().for_each(|task| scheduler.refused(*task));
            };
            drop(scheduler.survive(refuse));
        }
        Recorded::Pass { now, max, .. } => {
            let max = usize::try_from(*max).unwrap_or(usize::MAX);
            return Some(match scheduler.survive(|scheduler| scheduler.pass(*now, max)) {
                Ok(placed) => Decided::Placed(placed),
                Err(blamed) => Decided::Panicked(blamed.into_iter().map(|one| one.job).collect()),
            });
        }
        Recorded::Begin(_) | Recorded::Gap => {}
    }
    None
}
