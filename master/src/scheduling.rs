//! The scheduler's thread: follows the state, decides while this replica leads.
//!
//! Between the driver and the thread lies a mailbox, not a queue: news is merged, so it holds a
//! bounded amount however far the scheduler falls behind.
//!
//! Invariant: a panic of the scheduler over one job ends neither the thread nor the process; the job is
//! set aside, and that is told. Any other panic of this thread ends the process, as everywhere.

use crate::clock;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::planning::Copy;
use crate::recording::Recorder;
use borg_cell::event::Event;
use borg_cell::state::CellState;
use borg_proto::names::TaskId;
use borg_proto::panics::guarded;
use borg_proto::reclamation::Amounts;
use borg_proto::{IncarnationId, JobId, MachineId, Millis};
use borg_scheduler::recording::{Decided, Recorded};
use borg_scheduler::{Config, Explanation, Scheduler, SetAside};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Events that may wait. Beyond it the scheduler starts afresh from the state instead.
const EVENTS: usize = 100_000;
/// Questions that may wait; more are turned away.
const QUESTIONS: usize = 256;
/// Time that questions may take between two passes, however many wait. 5 ms: our choice, as long as a
/// large pass; a single question may take longer.
const ANSWERING: Duration = Duration::from_millis(5);
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
    /// What tasks lend by now; the last that was said of each counts.
    lent: BTreeMap<IncarnationId, Amounts>,
    /// What was said before of that counts for nothing.
    lent_afresh: bool,
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
    fn answer(self, scheduler: &Scheduler, now: Millis, metrics: &Metrics) {
        // Who has gone away needs no answer.
        match self {
            Self::Why { task, reply } => {
                drop(reply.send(explain(scheduler, task, now, metrics)));
            }
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
            && self.lent.is_empty()
            && !self.lent_afresh
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

    /// What tasks do not need of their limits by now, as this leader believes; `afresh`: and of all others
    /// nothing is lent.
    pub(crate) fn lend(&self, afresh: bool, news: Vec<(IncarnationId, Amounts)>) {
        self.put(|letter| {
            if afresh {
                letter.lent.clear();
                letter.lent_afresh = true;
            }
            letter.lent.extend(news);
        });
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

    /// Questions that have to wait for the next turn, before those that came meanwhile.
    fn ask_again(&self, mut questions: Vec<Question>) {
        if !questions.is_empty() {
            let mut letter = self.open();
            questions.append(&mut letter.questions);
            letter.questions = questions;
        }
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
    recorder: Recorder,
) {
    let mut scheduler = Scheduler::unread(state, config);
    // Jobs that it panics over are told of and left out; there is nothing else to be done about them.
    drop(survive(&mut scheduler, metrics, |scheduler| scheduler.start_afresh(state)));
    attend(scheduler, mailbox, decisions, metrics, recorder);
}

/// Does what the mailbox says.
fn attend(
    mut scheduler: Scheduler,
    mailbox: &Mailbox,
    decisions: &Inbox,
    metrics: &Metrics,
    mut recorder: Recorder,
) {
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
        if !leads {
            recorder.end();
        }
        if let Some(state) = letter.state {
            let pending = state.pending_len();
            metrics.pending_tasks.set(i64::try_from(pending).unwrap_or(i64::MAX));
            let leaving: usize = state.draining().map(|machine| machine.tasks.len()).sum();
            metrics.leaving_tasks.set(i64::try_from(leaving).unwrap_or(i64::MAX));
            let replacing: usize = state.machines().map(|machine| machine.successors.len()).sum();
            metrics.replacing_tasks.set(i64::try_from(replacing).unwrap_or(i64::MAX));
            metrics.forced_disruptions.set(i64::try_from(state.forced()).unwrap_or(i64::MAX));
            let index = state.applied();
            let begins = leads && recorder.begins(&state);
            if begins {
                recorder.begin(&scheduler, &state);
            } else if letter.afresh {
                recorder.record(&Recorded::Afresh { index });
            } else {
                recorder.record(&Recorded::Follow { index });
            }
            drop(survive(&mut scheduler, metrics, |scheduler| {
                if letter.afresh || begins {
                    scheduler.start_afresh(&state);
                } else {
                    scheduler.follow(state, &letter.events);
                }
            }));
        }
        if let Some(silent) = letter.silent {
            if recorder.records() {
                let machines = silent.iter().copied().collect();
                recorder.record(&Recorded::Silent { machines });
            }
            scheduler.avoid(silent);
        }
        if letter.lent_afresh || letter.leads == Some(false) {
            recorder.record(&Recorded::LendNothing);
            scheduler.lend_nothing();
        }
        if !letter.lent.is_empty() {
            let news: Vec<(IncarnationId, Amounts)> = letter.lent.into_iter().collect();
            scheduler.lend(&news);
            recorder.record(&Recorded::Lend { news });
        }
        if !letter.reconsider.is_empty() && recorder.records() {
            recorder.record(&Recorded::Refused { tasks: letter.reconsider.clone() });
        }
        // Whoever begins again meanwhile has forgotten what was decided, and the rest of these with it.
        drop(survive(&mut scheduler, metrics, |scheduler| {
            letter.reconsider.iter().for_each(|task| scheduler.refused(*task));
        }));
        let now = clock::now() + ahead;
        let began = clock::stopwatch();
        let mut questions = letter.questions.into_iter();
        for question in questions.by_ref() {
            question.answer(&scheduler, now, metrics);
            if began.elapsed() >= ANSWERING {
                break;
            }
        }
        mailbox.ask_again(questions.collect());
        nap = match leads {
            true => decide(&mut scheduler, ahead, decisions, metrics, &mut recorder),
            false => NAP,
        };
        recorder.turn();
    }
}

/// Does something with the scheduler; else the jobs over which it panicked, which are set aside now.
fn survive<T>(
    scheduler: &mut Scheduler,
    metrics: &Metrics,
    work: impl FnOnce(&mut Scheduler) -> T,
) -> Result<T, Vec<JobId>> {
    let survived = scheduler.survive(work);
    let jobs = i64::try_from(scheduler.jobs_aside()).unwrap_or(i64::MAX);
    metrics.jobs_aside.set(jobs);
    let blamed = match survived {
        Ok(done) => return Ok(done),
        Err(blamed) => blamed,
    };
    let jobs = blamed.iter().map(|one| one.job).collect();
    for SetAside { job, name, said } in blamed {
        metrics.scheduler_panics.inc();
        tracing::error!(
            job = name,
            number = job.0,
            panic = said,
            "the scheduler panicked over a job and leaves it out from now on: kill it, keep its file, \
             and report this"
        );
    }
    Err(jobs)
}

/// Answers a question. Looking changes nothing, so a panic harms nothing but the answer.
fn explain(scheduler: &Scheduler, task: TaskId, now: Millis, metrics: &Metrics) -> Explanation {
    guarded(|| scheduler.explain(task, now)).unwrap_or_else(|said| {
        metrics.scheduler_panics.inc();
        tracing::error!(%task, panic = said, "the scheduler panicked as it was asked why: report this");
        let summary = format!("cannot be explained: the scheduler failed over it ({said})");
        Explanation { summary, ..Explanation::default() }
    })
}

/// One pass; returns how long to sleep unless something arrives.
fn decide(
    scheduler: &mut Scheduler,
    ahead: Millis,
    decisions: &Inbox,
    metrics: &Metrics,
    recorder: &mut Recorder,
) -> Duration {
    let began = clock::stopwatch();
    let now = clock::now() + ahead;
    let assignments = match survive(scheduler, metrics, |scheduler| scheduler.pass(now, BATCH)) {
        Ok(assignments) => assignments,
        Err(jobs) => {
            recorder.record(&passed(now, Decided::Panicked(jobs)));
            return Duration::ZERO;
        }
    };
    metrics.pass_seconds.observe(began.seconds());
    if recorder.records() {
        recorder.record(&passed(now, Decided::Placed(assignments.clone())));
    }
    if assignments.is_empty() {
        let wake = scheduler.next_wakeup(now).map(|at| Duration::from_millis(at.since(now).0));
        return wake.map_or(NAP, |nap| nap.clamp(Duration::from_millis(1), NAP));
    }
    metrics.placements.inc_by(u64::try_from(assignments.len()).unwrap_or(u64::MAX));
    decisions.decide(assignments);
    Duration::ZERO
}

fn passed(now: Millis, decided: Decided) -> Recorded {
    Recorded::Pass { now, max: BATCH as u64, decided }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Turn;
    use borg_cell::fixture::{Cell, batch};
    use borg_cell::master::Input;
    use borg_scheduler::Trap;
    use std::collections::BTreeSet;

    const MIB: u64 = 1 << 20;

    /// A scheduler's thread that leads a cell of one machine, with a trap for a job.
    fn lead(cell: &Cell, bad: JobId, trap: Trap) -> (Inbox, Metrics, Explanation) {
        let (metrics, exposition) = Metrics::new();
        let inbox = Inbox::new(10, metrics.clone());
        let mut scheduler = Scheduler::unread(&cell.state, Config::default());
        scheduler.trap(bad, trap);
        drop(survive(&mut scheduler, &metrics, |scheduler| scheduler.start_afresh(&cell.state)));
        let mailbox = Mailbox::default();
        let why = std::thread::scope(|scope| {
            let recorder = Recorder::off(&metrics);
            scope.spawn(|| attend(scheduler, &mailbox, &inbox, &metrics, recorder));
            mailbox.lead(true);
            let mut turn = Vec::new();
            assert!(inbox.take(Ok(0), &mut turn));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let why = runtime.block_on(mailbox.why(TaskId { job: bad, index: 0 })).unwrap();
            for one in turn {
                inbox.vital(one).unwrap();
            }
            mailbox.stop();
            why
        });
        assert!(exposition.text().contains("borgmaster_jobs_aside 1"), "{}", exposition.text());
        (inbox, metrics, why)
    }

    #[test]
    fn a_panic_over_one_job_ends_no_thread_and_all_others_are_placed() {
        for trap in [Trap::Deciding, Trap::News] {
            let mut cell = Cell::new();
            cell.machine("m-1", 4000, 1 << 30);
            let jobs = ["a", "b", "c"].map(|name| cell.submit("ann", batch(name, 2, 500, 4 * MIB)));
            let (inbox, metrics, why) = lead(&cell, jobs[1], trap);
            let mut turn = Vec::new();
            inbox.take(Ok(0), &mut turn);
            let [Turn::Input(Input::Decisions(decisions))] = &turn[..] else {
                panic!("one pass is decided: {turn:?}")
            };
            let placed: Vec<JobId> = decisions.iter().map(|one| one.task.job).collect();
            assert_eq!(placed.len(), 4);
            assert_eq!(BTreeSet::from_iter(placed), BTreeSet::from([jobs[0], jobs[2]]));
            assert!(
                why.summary.starts_with("is set aside: the scheduler failed"),
                "{}",
                why.summary
            );
            assert_eq!(metrics.scheduler_panics.get(), 1);
        }
    }

    #[test]
    fn a_question_that_panics_gets_that_for_an_answer() {
        let cell = Cell::new();
        let (metrics, _) = Metrics::new();
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        let task = TaskId { job: JobId(7), index: 0 };
        scheduler.trap(task.job, Trap::Asked);
        let why = explain(&scheduler, task, Millis(0), &metrics);
        assert_eq!(
            why.summary,
            "cannot be explained: the scheduler failed over it (the trap for job 7 closed)"
        );
        assert_eq!(metrics.scheduler_panics.get(), 1);
    }
}
