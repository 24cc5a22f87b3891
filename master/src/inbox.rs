//! What waits for the driver: what keeps the cell alive in one queue, what users ask in another.
//!
//! Raft messages, ticks, reports of machines and the scheduler's decisions are taken first and
//! never wait behind a user's call, nor are dropped because of one. Which call may wait, and whose
//! is next, `borg_cell::admission` decides; here is the lock around it and the waiting.
//!
//! Invariant: both queues are bounded, whatever is not taken in is counted, and a call that is not
//! taken in is refused at once.

use crate::clock;
use crate::driver::Turn;
use crate::metrics::Metrics;
use borg_cell::admission::{Queue, Room, Shed};
use borg_cell::master::Input;
use borg_proto::Millis;
use borg_proto::command::Assignment;
use borg_proto::names::UserName;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::Status;

/// Raft messages, ticks and what the master asks itself that may wait; more is dropped, whoever
/// sent it repeats himself.
const VITAL: usize = 8_192;
/// Reports of shards that may wait; more is dropped, the shard repeats itself. A queue of their
/// own, so that thousands of machines that return at once cost no Raft message.
const REPORTS: usize = 4_096;
/// Bytes of changes that may wait, of all users.
const ASKED_BYTES: usize = 256 << 20;
/// Most vital inputs of one turn.
const VITAL_PER_TURN: usize = 1_024;
/// Most reports of one turn.
const REPORTS_PER_TURN: usize = 512;
/// Most calls of one turn, so that the next vital input never waits long.
const ASKED_PER_TURN: usize = 512;

/// How long a driver with room for calls waits when nothing happens: the clock's ticks come sooner.
const FOR_EVER: Millis = Millis(60_000);

/// What users' calls may take up: so many of them, and a fixed number of bytes.
#[must_use]
pub(crate) fn room(calls: usize) -> Room {
    Room { calls, bytes: ASKED_BYTES }
}

/// The way to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Mutex<Slots>,
    /// Something came in.
    arrived: Condvar,
    /// The driver took the decisions.
    decided: Condvar,
    metrics: Metrics,
}

#[derive(Debug)]
struct Slots {
    vital: VecDeque<Turn>,
    reports: VecDeque<Turn>,
    decisions: Option<Vec<Assignment>>,
    asked: Queue<Turn>,
    /// Whether a call is worth waking the driver for: it waits, and has room for calls.
    listening: bool,
    closed: bool,
}

/// The driver has stopped, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// Closes the inbox when it goes out of scope.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(Inbox);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inbox {
    /// An empty inbox with room for so many calls of users.
    #[must_use]
    pub(crate) fn new(calls: usize, metrics: Metrics) -> Self {
        let slots = Slots {
            vital: VecDeque::new(),
            reports: VecDeque::new(),
            decisions: None,
            asked: Queue::new(room(calls)),
            listening: false,
            closed: false,
        };
        Self(Arc::new(Shared {
            slots: Mutex::new(slots),
            arrived: Condvar::new(),
            decided: Condvar::new(),
            metrics,
        }))
    }

    fn open(&self) -> MutexGuard<'_, Slots> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what keeps the cell alive; when far too much of it waits already it is dropped and
    /// counted.
    ///
    /// # Errors
    /// When the driver has stopped.
    pub(crate) fn vital(&self, turn: Turn) -> Result<(), Closed> {
        {
            let mut slots = self.open();
            if slots.closed {
                return Err(Closed);
            }
            let (queue, most) = match &turn {
                Turn::Input(Input::Report(_)) => (&mut slots.reports, REPORTS),
                Turn::Input(_)
                | Turn::Propose { .. }
                | Turn::Read { .. }
                | Turn::Failed(_)
                | Turn::Look(_) => (&mut slots.vital, VITAL),
            };
            if queue.len() >= most {
                self.0.metrics.dropped_inputs.inc();
                return Ok(());
            }
            queue.push_back(turn);
        }
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Takes in the outcome of work that the driver asked for. Never dropped: there is no more of it
    /// than there was work.
    ///
    /// # Errors
    /// When the driver has stopped.
    pub(crate) fn outcome(&self, turn: Turn) -> Result<(), Closed> {
        {
            let mut slots = self.open();
            if slots.closed {
                return Err(Closed);
            }
            slots.vital.push_back(turn);
        }
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Hands over the scheduler's decisions; waits until the driver has taken those before.
    pub(crate) fn decide(&self, decisions: Vec<Assignment>) {
        let mut slots = self
            .0
            .decided
            .wait_while(self.open(), |slots| slots.decisions.is_some() && !slots.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if !slots.closed {
            slots.decisions = Some(decisions);
        }
        drop(slots);
        self.0.arrived.notify_one();
    }

    /// Lets a user's call of so many bytes wait for the driver.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED at once when it may not wait, with when to ask again; UNAVAILABLE when
    /// the driver has stopped.
    pub(crate) fn ask(&self, user: &UserName, bytes: usize, call: Turn) -> Result<(), Status> {
        let (pushed, listening) = {
            let mut slots = self.open();
            if slots.closed {
                return Err(Status::unavailable("this master is stopping"));
            }
            let pushed = slots.asked.push(clock::now(), user.clone(), bytes, call);
            self.0.metrics.waiting_calls.set(i64::try_from(slots.asked.len()).unwrap_or(i64::MAX));
            (pushed, std::mem::take(&mut slots.listening))
        };
        if listening {
            self.0.arrived.notify_one();
        }
        // The call goes away outside of the lock.
        pushed.map_err(|(shed, _)| self.shed(&shed))
    }

    /// The refusal of a call that may not wait, counted.
    pub(crate) fn shed(&self, shed: &Shed) -> Status {
        self.0.metrics.shed_calls.inc();
        borg_proto::rpc::overloaded(&shed.to_string(), shed.retry_after)
    }

    /// Waits for something and takes it: first what is vital, then as many calls as there is room for;
    /// without room it waits no longer than until there may be some again. False when the inbox is
    /// closed.
    pub(crate) fn take(&self, room: Result<usize, Millis>, turn: &mut Vec<Turn>) -> bool {
        let (room, patience) = match room {
            Ok(room) => (room, FOR_EVER),
            Err(rest) => (0, rest),
        };
        let idle = |slots: &mut Slots| {
            let none_asked = room == 0 || slots.asked.is_empty();
            let none_vital = slots.vital.is_empty() && slots.reports.is_empty();
            let idle = !slots.closed && none_vital && slots.decisions.is_none() && none_asked;
            slots.listening = idle && room > 0;
            idle
        };
        let (mut slots, _) = self
            .0
            .arrived
            .wait_timeout_while(self.open(), Duration::from_millis(patience.0), idle)
            .unwrap_or_else(PoisonError::into_inner);
        slots.listening = false;
        if slots.closed {
            return false;
        }
        let vital = slots.vital.len().min(VITAL_PER_TURN);
        turn.extend(slots.vital.drain(..vital));
        let reports = slots.reports.len().min(REPORTS_PER_TURN);
        turn.extend(slots.reports.drain(..reports));
        if let Some(decisions) = slots.decisions.take() {
            turn.push(Turn::Input(Input::Decisions(decisions)));
            self.0.decided.notify_one();
        }
        let now = clock::now();
        for _ in 0..room.min(ASKED_PER_TURN) {
            let Some(call) = slots.asked.pop(now) else { break };
            turn.push(call);
        }
        self.0.metrics.waiting_calls.set(i64::try_from(slots.asked.len()).unwrap_or(i64::MAX));
        true
    }

    /// Ends the driver, and lets go of whoever waits for it.
    fn close(&self) {
        let waiting = {
            let mut slots = self.open();
            slots.closed = true;
            slots.reports.clear();
            let asked = std::mem::replace(&mut slots.asked, Queue::new(room(0)));
            (std::mem::take(&mut slots.vital), asked)
        };
        drop(waiting);
        self.0.arrived.notify_all();
        self.0.decided.notify_all();
    }

    /// Closes this inbox when the guard goes.
    #[must_use]
    pub(crate) fn close_on_drop(&self) -> CloseOnDrop {
        CloseOnDrop(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const CALLS: usize = 1_000;

    fn inbox() -> (Inbox, Metrics) {
        let metrics = Metrics::new().0;
        (Inbox::new(CALLS, metrics.clone()), metrics)
    }

    fn call() -> Turn {
        Turn::Read { deadline: Millis(0), reply: oneshot::channel().0 }
    }

    fn kinds(turn: &[Turn]) -> Vec<String> {
        turn.iter().map(|turn| format!("{turn:?}")).collect()
    }

    #[test]
    fn a_storm_of_calls_is_shed_and_drops_nothing_that_keeps_the_cell_alive() {
        let (inbox, metrics) = inbox();
        let user = "storm".parse().unwrap();
        let refused: Vec<Status> =
            (0..10_000).filter_map(|_| inbox.ask(&user, 100, call()).err()).collect();
        assert_eq!(refused.len(), 10_000 - CALLS / 2);
        assert_eq!(metrics.shed_calls.get(), refused.len() as u64);
        assert_eq!(refused[0].code(), tonic::Code::ResourceExhausted);
        assert!(borg_proto::rpc::retry_after(&refused[0]).is_some());
        inbox.vital(Turn::Input(Input::Tick)).unwrap();
        inbox.decide(Vec::new());
        let mut turn = Vec::new();
        assert!(inbox.take(Ok(2), &mut turn));
        assert_eq!(kinds(&turn), ["Input", "Input", "Read", "Read"]);
        assert_eq!(metrics.dropped_inputs.get(), 0);
        inbox.ask(&"other".parse().unwrap(), 100, call()).unwrap();
    }

    #[test]
    fn without_room_for_calls_the_driver_still_hears_what_is_vital() {
        let (inbox, metrics) = inbox();
        inbox.ask(&"ann".parse().unwrap(), 1, call()).unwrap();
        inbox.vital(Turn::Input(Input::Tick)).unwrap();
        let mut turn = Vec::new();
        assert!(inbox.take(Err(Millis(1)), &mut turn));
        assert_eq!(kinds(&turn), ["Input"]);
        for _ in 0..=VITAL {
            inbox.vital(Turn::Input(Input::Tick)).unwrap();
        }
        assert_eq!(metrics.dropped_inputs.get(), 1);
    }

    #[test]
    fn a_call_wakes_a_driver_with_room_and_waits_for_one_without() {
        let (inbox, _) = inbox();
        let ann = "ann".parse().unwrap();
        let taken = std::thread::scope(|scope| {
            let driver = scope.spawn(|| {
                let mut turn = Vec::new();
                assert!(inbox.take(Ok(10), &mut turn));
                kinds(&turn)
            });
            while !inbox.open().listening {
                std::thread::yield_now();
            }
            inbox.ask(&ann, 1, call()).unwrap();
            driver.join().unwrap()
        });
        assert_eq!(taken, ["Read"]);
        inbox.ask(&ann, 1, call()).unwrap();
        let mut turn = Vec::new();
        assert!(inbox.take(Err(Millis(1)), &mut turn), "it looks again when there may be room");
        assert!(turn.is_empty());
        assert!(inbox.take(Ok(1), &mut turn));
        assert_eq!(kinds(&turn), ["Read"]);
    }

    #[test]
    fn closing_ends_the_driver_and_lets_go_of_whoever_waits() {
        let (inbox, _) = inbox();
        let (reply, mut answer) = oneshot::channel();
        let turn = Turn::Read { deadline: Millis(0), reply };
        inbox.ask(&"ann".parse().unwrap(), 1, turn).unwrap();
        drop(inbox.close_on_drop());
        assert!(answer.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert!(!inbox.take(Ok(10), &mut Vec::new()));
        assert_eq!(inbox.vital(Turn::Input(Input::Tick)), Err(Closed));
        inbox.decide(Vec::new());
    }
}
