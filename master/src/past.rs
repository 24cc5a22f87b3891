//! The cell as it was: states of the past for reads with `borg-at`.
//!
//! A state is made again from the newest kept checkpoint before the asked moment and the log from
//! there on: first what is kept on disk, then what the replica holds in memory. One is made at a
//! time, on a thread that may block, and the last few stay for the next question. What is kept is
//! the store's policy; here is what a reader is told when it does not reach back far enough.
//!
//! Invariant: a state that is shown is byte for byte the one that this replica had then.

mod stretch;

use crate::changes::unanswered;
use crate::clock;
use crate::driver::Turn;
use crate::inbox::Inbox;
use crate::store::{History, Kept};
use borg_cell::replica::replay;
use borg_cell::state::CellState;
use borg_cell::store::{LogEntry, Membership, StoreError};
use borg_proto::{CellName, Millis, in_full};
use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

/// Metadata of a read of the past: `index:N`, `time:MS` since 1970, or `ago:MS`.
pub(crate) const AT: &str = "borg-at";
/// States that stay in memory for the next question.
const CACHED: usize = 2;
/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time that one state may take to make: some hundred thousand entries.
const MAX_SECONDS: f64 = 20.0;
/// Entries that are asked of the replica at once: it decides nothing meanwhile.
const ENTRIES: usize = 1_000;

/// A moment of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Right after an entry of the log.
    Index(u64),
    /// After the last entry up to a time of the cell.
    Time(Millis),
}

impl Moment {
    /// Whether it surely is before another one.
    pub(crate) fn is_before(self, other: Self) -> bool {
        match (self, other) {
            (Self::Index(index), Self::Index(other)) => index < other,
            (Self::Time(time), Self::Time(other)) => time < other,
            (Self::Index(_), Self::Time(_)) | (Self::Time(_), Self::Index(_)) => false,
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not index:N, time:MS or ago:MS");
        let (kind, number) = text.split_once(':').ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        match kind {
            "index" => Ok(Self::Index(number)),
            "time" => Ok(Self::Time(Millis(number))),
            "ago" => Ok(Self::Time(Millis(clock::now().0.saturating_sub(number)))),
            _ => Err(wrong()),
        }
    }
}

/// Makes states of the past for the API of one replica.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    cell: CellName,
    history: History,
    turn: Arc<Semaphore>,
    /// One stretch is made and sent at a time: it is held in memory meanwhile.
    sends: Arc<Semaphore>,
    made: Arc<Mutex<VecDeque<(Moment, CellState)>>>,
}

/// Gives agreed entries after an index that the replica holds in memory; `None` if it holds only
/// later ones.
type Live<'a> = dyn FnMut(u64) -> Result<Option<Vec<LogEntry>>, Missing> + 'a;

/// Why there is no state to show.
#[derive(Debug)]
enum Missing {
    /// Older than what is kept, of which this is the oldest.
    TooOld { oldest: Option<(u64, Millis)> },
    /// Older than the cell.
    Unborn,
    /// Entries in the middle that this replica never had.
    Gap { after: u64 },
    /// It takes too long.
    TooLong { reached: u64 },
    /// It is more than one answer may have.
    TooMuch { reached: u64 },
    /// The replica stops.
    Unanswered,
    /// What is kept cannot be read.
    Unreadable(String),
}

impl Past {
    /// The past of `cell` that `history` keeps.
    pub(crate) fn new(cell: CellName, history: History) -> Self {
        Self {
            cell,
            history,
            turn: Arc::new(Semaphore::new(1)),
            sends: Arc::new(Semaphore::new(1)),
            made: Arc::default(),
        }
    }

    /// What is kept, oldest first.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        self.history.checkpoints()
    }

    /// The state at `moment`; `now` is the newest.
    ///
    /// # Errors
    /// OUT_OF_RANGE when it is not kept any more or in the future, UNAVAILABLE when another master may
    /// have it.
    pub(crate) async fn state(
        &self,
        moment: Moment,
        now: &CellState,
        driver: &Inbox,
    ) -> Result<CellState, Status> {
        if let Some(state) = settled(moment, now)? {
            return Ok(state);
        }
        let waited = tokio::time::timeout(PATIENCE, self.turn.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = waited else {
            return Err(Status::resource_exhausted(
                "others look at the past as well, and this master makes one state at a time: try again",
            ));
        };
        if let Some(state) = self.cached(moment) {
            return Ok(state);
        }
        let (past, driver) = (self.clone(), driver.clone());
        let making = tokio::task::spawn_blocking(move || {
            let made = past.make(moment, &mut |after| ask(&driver, after));
            drop(turn);
            made
        });
        let made = making.await.map_err(|_| Status::internal("making the state failed"))?;
        let state = made.map_err(|missing| missing.status(moment))?;
        let mut cache = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        cache.truncate(CACHED - 1);
        cache.push_front((moment, state.clone()));
        Ok(state)
    }

    fn cached(&self, moment: Moment) -> Option<CellState> {
        let cache = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        cache.iter().find(|(made, _)| *made == moment).map(|(_, state)| state.clone())
    }

    /// The newest kept checkpoint at or before a moment with its state; of a young cell, of which all of the log may
    /// be there, the state before its first entry.
    fn base(&self, moment: Moment) -> Result<(Option<Kept>, CellState), Missing> {
        let before = |kept: &Kept| match moment {
            Moment::Index(index) => kept.meta.place.index <= index,
            Moment::Time(time) => kept.meta.at <= time,
        };
        for kept in self.history.checkpoints().into_iter().rev().filter(before) {
            let bytes = self.history.state(&kept.meta).map_err(Missing::unreadable)?;
            let state = CellState::decode(&bytes)
                .map_err(|error| Missing::Unreadable(error.to_string()))?;
            // What stands beside the state may not know its time.
            if matches!(moment, Moment::Time(time) if state.clock() > time) {
                continue;
            }
            return Ok((Some(kept), state));
        }
        Ok((None, CellState::new(self.cell.clone())))
    }

    fn make(&self, moment: Moment, live: &mut Live<'_>) -> Result<CellState, Missing> {
        let (base, state) = self.base(moment)?;
        let members = base.as_ref().map(|base| base.meta.membership.clone()).unwrap_or_default();
        let mut making = Making { state, members, moment, done: false, began: clock::stopwatch() };
        let mut failed = None;
        let visit = &mut |entry: LogEntry| match making.take(&entry) {
            Ok(more) => more,
            Err(missing) => {
                failed = Some(missing);
                false
            }
        };
        let from = base.map_or(0, |base| base.meta.place.index);
        self.history.log(from, visit).map_err(Missing::unreadable)?;
        if let Some(missing) = failed {
            return Err(missing);
        }
        while !making.done {
            let after = making.state.applied();
            let Some(entries) = live(after)? else {
                return Err(self.missed(after));
            };
            if entries.is_empty() {
                // Nothing has happened since.
                break;
            }
            for entry in &entries {
                if !making.take(entry)? {
                    break;
                }
            }
        }
        if matches!(moment, Moment::Time(_)) && making.state.clock() == Millis(0) {
            // The cell was founded by then, and no entry had given it a time.
            return Err(Missing::Unborn);
        }
        Ok(making.state)
    }
}

impl Past {
    /// What follows an entry is not there.
    fn missed(&self, after: u64) -> Missing {
        let kept = self.history.checkpoints();
        let oldest = kept.first().map(|kept| (kept.meta.place.index, kept.meta.at));
        match after {
            0 => Missing::TooOld { oldest },
            _ => Missing::Gap { after },
        }
    }
}

/// A state on its way to a moment.
#[derive(Debug)]
struct Making {
    state: CellState,
    members: Membership,
    moment: Moment,
    done: bool,
    began: clock::Stopwatch,
}

impl Making {
    /// Applies the next entry; `false` when the moment is reached without it.
    fn take(&mut self, entry: &LogEntry) -> Result<bool, Missing> {
        let unreadable = Missing::Unreadable;
        self.done = match self.moment {
            Moment::Index(index) => entry.index > index,
            Moment::Time(time) => {
                replay::time_of(entry).map_err(unreadable)?.is_some_and(|at| at > time)
            }
        };
        if self.done {
            return Ok(false);
        }
        if self.began.seconds() > MAX_SECONDS {
            return Err(Missing::TooLong { reached: self.state.applied() });
        }
        replay::replay(&mut self.state, &mut self.members, entry).map_err(unreadable)?;
        self.done = self.moment == Moment::Index(entry.index);
        Ok(!self.done)
    }
}

/// The moment is now, or not yet.
fn settled(moment: Moment, now: &CellState) -> Result<Option<CellState>, Status> {
    let (index, clock) = (now.applied(), clock::now());
    let future = |what: String| {
        Status::out_of_range(format!(
            "borg-at: {what} is in the future: the newest entry here is {index}, of {} ms",
            now.clock().0
        ))
    };
    match moment {
        Moment::Index(0) => Err(Status::invalid_argument("borg-at: the first entry is 1")),
        Moment::Index(at) if at > index => Err(future(format!("entry {at}"))),
        Moment::Index(at) => Ok((at == index).then(|| now.clone())),
        Moment::Time(time) if time > clock.max(now.clock()) => {
            Err(future(format!("{} ms", time.0)))
        }
        Moment::Time(time) => Ok((time >= now.clock()).then(|| now.clone())),
    }
}

/// The entries that the driver's replica holds.
fn ask(driver: &Inbox, after: u64) -> Result<Option<Vec<LogEntry>>, Missing> {
    let (reply, answer) = oneshot::channel();
    let look =
        Turn::Look(Box::new(move |master| drop(reply.send(master.log_after(after, ENTRIES)))));
    driver.vital(look).map_err(|_| Missing::Unanswered)?;
    answer.blocking_recv().map_err(|_| Missing::Unanswered)
}

impl Missing {
    fn unreadable(error: StoreError) -> Self {
        Self::Unreadable(in_full(&error))
    }

    fn status(self, moment: Moment) -> Status {
        let moment = match moment {
            Moment::Index(index) => format!("entry {index}"),
            Moment::Time(time) => format!("time {} ms", time.0),
        };
        match self {
            Self::TooOld { oldest: Some((index, at)) } => Status::out_of_range(format!(
                "borg-at: {moment} is not kept any more: the oldest state here is that of entry \
                 {index}, of {} ms; other masters may keep older ones (borgctl history)",
                at.0
            )),
            Self::TooOld { oldest: None } => Status::unavailable(format!(
                "borg-at: this master has nothing of {moment}: ask another one"
            )),
            Self::Unborn => Status::out_of_range(format!(
                "borg-at: the cell did not exist at {moment}: its first entry is newer"
            )),
            Self::Gap { after } => Status::unavailable(format!(
                "borg-at: this master never had what follows entry {after}, because it took a \
                 checkpoint of the leader instead: ask another one for {moment}"
            )),
            Self::TooLong { reached } => Status::out_of_range(format!(
                "borg-at: {moment} takes more than {MAX_SECONDS} s to make ({reached} was reached): \
                 ask for a moment soon after a kept checkpoint (borgctl history)"
            )),
            Self::TooMuch { reached } => Status::out_of_range(format!(
                "from {moment} on it is too much for one answer ({reached} was reached): ask for a \
                 shorter time"
            )),
            Self::Unanswered => unanswered(),
            Self::Unreadable(why) => Status::unavailable(format!(
                "borg-at: what this master keeps of {moment} cannot be used: {why}; ask another one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Keep, Opened, StoreKind, open_keeping};
    use borg_cell::fixture::{self, batch, service};
    use borg_cell::store::conformance::identity;
    use borg_cell::store::{Batch, CheckpointDraft, EntryKind, Membership, Position};

    /// What a cell did, and every state that it had.
    struct Life {
        entries: Vec<LogEntry>,
        states: Vec<CellState>,
    }

    fn life(length: u64) -> Life {
        let mut cell = fixture::Cell::new();
        let mut states = vec![cell.state.clone()];
        let machine = cell.machine("m-1", 64_000, 1 << 40);
        for round in 0.. {
            if cell.log.len() as u64 >= length {
                break;
            }
            cell.wait(1_000);
            let job = match round % 3 {
                0 => cell.submit("ann", batch(&format!("count-{round}"), 2, 100, 4 << 20)),
                _ => cell.submit("bob", service(&format!("web-{round}"), 2, 100, 4 << 20)),
            };
            if let Ok(id) = cell.place(job, 0, machine) {
                cell.up(id);
            }
        }
        let mut state = states[0].clone();
        let entries: Vec<LogEntry> = (1..)
            .zip(&cell.log)
            .map(|(index, command)| LogEntry {
                index,
                term: 1,
                kind: EntryKind::Normal,
                data: command.encode().into(),
            })
            .collect();
        for entry in &entries {
            replay::replay(&mut state, &mut Membership::default(), entry).unwrap();
            states.push(state.clone());
        }
        assert!(state == cell.state, "the log gives the live state");
        Life { entries, states }
    }

    impl Life {
        fn save(&self, opened: &mut Opened, from: u64, to: u64) {
            let at = |index: u64| usize::try_from(index).unwrap();
            let log = &self.entries[at(from)..at(to)];
            opened.log.write(&Batch { entries: log, ..Batch::default() }).unwrap();
            let state = &self.states[at(to)];
            let draft = CheckpointDraft {
                place: Position { index: to, term: 1 },
                membership: &Membership::default(),
                at: state.clock(),
                state: &state.encode(),
                log,
            };
            let meta = opened.log.checkpoints().save(&draft).unwrap();
            let batch = Batch { checkpoint: Some(&meta), compact_to: Some(to), ..Batch::default() };
            opened.log.write(&batch).unwrap();
        }

        /// A replica that holds entries after `compacted`.
        fn live(
            &self,
            compacted: u64,
        ) -> impl FnMut(u64) -> Result<Option<Vec<LogEntry>>, Missing> {
            move |after| {
                let wanted = self.entries.iter().filter(|entry| entry.index > after).take(7);
                Ok((after >= compacted).then(|| wanted.cloned().collect()))
            }
        }
    }

    fn opened(dir: &std::path::Path, keep: Keep) -> Opened {
        open_keeping(StoreKind::Redb, dir, &identity(), keep).unwrap()
    }

    fn past(opened: &Opened) -> Past {
        Past::new("lab".parse().unwrap(), opened.history.clone())
    }

    #[test]
    fn every_moment_of_the_past_is_the_state_of_then_byte_for_byte() {
        let life = life(60);
        let dir = tempfile::tempdir().unwrap();
        // Of a young cell there is no checkpoint yet.
        let elsewhere = tempfile::tempdir().unwrap();
        let young = past(&opened(elsewhere.path(), Keep::default()));
        let state = young.make(Moment::Index(17), &mut life.live(0)).unwrap();
        assert_eq!(state.encode(), life.states[17].encode());

        let mut opened = opened(dir.path(), Keep { count: 4, ..Keep::default() });
        for to in (10..=50).step_by(10) {
            life.save(&mut opened, to - 10, to);
        }
        let past = past(&opened);
        let kept: Vec<u64> = past.kept().iter().map(|kept| kept.meta.place.index).collect();
        assert_eq!(kept, [10, 30, 40, 50], "from 10 on, nothing is missed");
        for (index, was) in life.states.iter().enumerate().skip(10) {
            let index = index as u64;
            let state = past.make(Moment::Index(index), &mut life.live(45)).unwrap();
            assert_eq!(state.encode(), was.encode(), "entry {index}");
            // Several entries have one time: the last of them counts.
            let last = life.states.iter().rfind(|state| state.clock() == was.clock()).unwrap();
            let between = Millis(was.clock().0 + 500);
            for time in [was.clock(), between] {
                let state = past.make(Moment::Time(time), &mut life.live(45)).unwrap();
                assert_eq!(state.encode(), last.encode(), "{} ms", time.0);
            }
        }
    }

    #[test]
    fn what_cannot_be_shown_is_told_with_what_can() {
        let life = life(60);
        let dir = tempfile::tempdir().unwrap();
        let mut opened = opened(dir.path(), Keep { bytes: 0, ..Keep::default() });
        for to in (10..=40).step_by(10) {
            life.save(&mut opened, to - 10, to);
        }
        let past = past(&opened);
        let told = |moment: Moment, compacted| {
            past.make(moment, &mut life.live(compacted)).unwrap_err().status(moment)
        };
        let old = told(Moment::Index(5), 40);
        assert_eq!(old.code(), tonic::Code::OutOfRange);
        assert!(
            old.message().contains("the oldest state here is that of entry 20, of 10"),
            "{old}"
        );
        let old = told(Moment::Time(Millis(1)), 40);
        assert_eq!(old.code(), tonic::Code::OutOfRange, "{old}");
        let gap = told(Moment::Index(45), 50);
        assert_eq!(gap.code(), tonic::Code::Unavailable);
        assert!(gap.message().contains("what follows entry 40"), "{gap}");

        let now = life.states.last().unwrap();
        let refused = |moment| settled(moment, now).unwrap_err();
        let future = refused(Moment::Index(now.applied() + 1));
        assert_eq!(future.code(), tonic::Code::OutOfRange);
        assert!(
            future.message().contains("is in the future: the newest entry here is"),
            "{future}"
        );
        let tomorrow = Millis(clock::now().0 + 86_400_000);
        assert_eq!(refused(Moment::Time(tomorrow)).code(), tonic::Code::OutOfRange);
        assert_eq!(refused(Moment::Index(0)).code(), tonic::Code::InvalidArgument);
        assert!(settled(Moment::Index(now.applied()), now).unwrap() == Some(now.clone()));
    }

    #[test]
    fn a_moment_in_metadata_is_one_of_three() {
        assert_eq!("index:12".parse(), Ok(Moment::Index(12)));
        assert_eq!("time:12".parse(), Ok(Moment::Time(Millis(12))));
        assert!(matches!("ago:0".parse(), Ok(Moment::Time(time)) if time <= clock::now()));
        for wrong in ["", "12", "index:", "index:-1", "yesterday:1"] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
