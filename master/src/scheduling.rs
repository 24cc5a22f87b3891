//! The scheduler's thread: follows the state, decides while this replica leads.
//!
//! Between the driver and the thread lies a mailbox, not a queue: news is merged, so it holds a
//! bounded amount however far the scheduler falls behind.

use crate::clock;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::planning::Copy;
use borg_cell::event::Event;
use borg_cell::state::CellState;
use borg_proto::names::TaskId;
use borg_proto::{MachineId, Millis};
use borg_scheduler::{Config, Explanation, Scheduler};
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Events that may wait. Beyond it the scheduler starts afresh from the state instead.
const EVENTS: usize = 100_000;
/// Questions that may wait; more are turned away.
const QUESTIONS: usize = 256;
/// Placements proposed at once: one entry of the log.
const BATCH: usize = 512;
/// Longest sleep between two looks at tasks whose back-off ends.
const NAP: Duration = Duration::from_millis(500);

/// What the scheduler has to look at when it next can.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letter: Mutex<Letter>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Letter {
    state: Option<CellState>,
    events: Vec<Event>,
    afresh: bool,
    /// How far the cell's time is ahead of this replica's clock.
    ahead: Millis,
    leads: Option<bool>,
    silent: Option<BTreeSet<MachineId>>,
    reconsider: Vec<TaskId>,
    questions: Vec<Question>,
    stop: bool,
}

/// Something that the scheduler is asked.
#[derive(Debug)]
enum Question {
    /// Why a task is where it is.
    Why { task: TaskId, reply: oneshot::Sender<Explanation> },
    /// For a copy of itself.
    Copy { reply: oneshot::Sender<Copy> },
}

impl Question {
    fn answer(self, scheduler: &Scheduler, now: Millis) {
        // Who has gone away needs no answer.
        match self {
            Self::Why { task, reply } => drop(reply.send(scheduler.explain(task, now))),
            Self::Copy { reply } if reply.is_closed() => {}
            Self::Copy { reply } => {
                drop(reply.send(Copy { scheduler: scheduler.clone(), now }));
            }
        }
    }
}

impl Letter {
    fn is_empty(&self) -> bool {
        self.state.is_none()
            && self.leads.is_none()
            && self.silent.is_none()
            && self.reconsider.is_empty()
            && self.questions.is_empty()
            && !self.stop
    }
}

impl Mailbox {
    fn open(&self) -> MutexGuard<'_, Letter> {
        self.letter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Letter)) {
        change(&mut self.open());
        self.arrived.notify_one();
    }

    /// The state changed. `ahead` is how far the cell's time is ahead of the clock; it only grows.
    pub(crate) fn follow(&self, state: CellState, events: &[Event], reset: bool, ahead: Millis) {
        self.put(|letter| {
            letter.ahead = letter.ahead.max(ahead);
            letter.afresh |= reset || letter.events.len() + events.len() > EVENTS;
            if letter.afresh {
                letter.events.clear();
            } else {
                letter.events.extend_from_slice(events);
            }
            letter.state = Some(state);
        });
    }

    /// This replica leads from now on, or no longer.
    pub(crate) fn lead(&self, leads: bool) {
        self.put(|letter| letter.leads = Some(leads));
    }

    /// These machines do not answer just now, all others do.
    pub(crate) fn avoid(&self, silent: BTreeSet<MachineId>) {
        self.put(|letter| letter.silent = Some(silent));
    }

    /// Decisions about these tasks came to nothing.
    pub(crate) fn reconsider(&self, tasks: Vec<TaskId>) {
        if !tasks.is_empty() {
            self.put(|letter| letter.reconsider.extend(tasks));
        }
    }

    /// Why a task is pending. `None` when too many questions wait.
    pub(crate) async fn why(&self, task: TaskId) -> Option<Explanation> {
        let (reply, answer) = oneshot::channel();
        self.ask(Question::Why { task, reply })?;
        answer.await.ok()
    }

    /// A copy of the scheduler, which has followed all that was told to it so far. `None` when too many
    /// questions wait. Whoever asks sees to it that few copies are there at a time.
    pub(crate) async fn copy(&self) -> Option<Copy> {
        let (reply, answer) = oneshot::channel();
        self.ask(Question::Copy { reply })?;
        answer.await.ok()
    }

    fn ask(&self, question: Question) -> Option<()> {
        {
            let mut letter = self.open();
            if letter.questions.len() >= QUESTIONS {
                return None;
            }
            letter.questions.push(question);
        }
        self.arrived.notify_one();
        Some(())
    }

    /// The thread ends soon.
    pub(crate) fn stop(&self) {
        self.put(|letter| letter.stop = true);
    }

    /// Takes everything that waits; waits for something at most `longest`.
    fn take(&self, longest: Duration) -> Letter {
        let letter = self.open();
        let (mut letter, _) = self
            .arrived
            .wait_timeout_while(letter, longest, |letter| letter.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *letter)
    }
}

/// Runs the scheduler until [`Mailbox::stop`].
pub(crate) fn run(
    mailbox: &Mailbox,
    state: &CellState,
    config: Config,
    decisions: &Inbox,
    metrics: &Metrics,
) {
    let mut scheduler = Scheduler::new(state, config);
    let mut leads = false;
    let mut nap = NAP;
    let mut ahead = Millis(0);
    loop {
        let letter = mailbox.take(nap);
        ahead = ahead.max(letter.ahead);
        if letter.stop {
            return;
        }
        leads = letter.leads.unwrap_or(leads);
        if let Some(state) = letter.state {
            let pending = state.pending().count();
            metrics.pending_tasks.set(i64::try_from(pending).unwrap_or(i64::MAX));
            if letter.afresh {
                scheduler.start_afresh(&state);
            } else {
                scheduler.follow(state, &letter.events);
            }
        }
        if let Some(silent) = letter.silent {
            scheduler.avoid(silent);
        }
        for task in letter.reconsider {
            scheduler.refused(task);
        }
        let now = clock::now() + ahead;
        for question in letter.questions {
            question.answer(&scheduler, now);
        }
        nap = if leads { decide(&mut scheduler, ahead, decisions, metrics) } else { NAP };
    }
}

/// One pass; returns how long to sleep unless something arrives.
fn decide(
    scheduler: &mut Scheduler,
    ahead: Millis,
    decisions: &Inbox,
    metrics: &Metrics,
) -> Duration {
    let began = clock::stopwatch();
    let now = clock::now() + ahead;
    let assignments = scheduler.pass(now, BATCH);
    metrics.pass_seconds.observe(began.seconds());
    if assignments.is_empty() {
        let wake = scheduler.next_wakeup(now).map(|at| Duration::from_millis(at.since(now).0));
        return wake.map_or(NAP, |nap| nap.clamp(Duration::from_millis(1), NAP));
    }
    metrics.placements.inc_by(u64::try_from(assignments.len()).unwrap_or(u64::MAX));
    decisions.decide(assignments);
    Duration::ZERO
}
