//! What readers and watchers of this replica see: the newest state, and the stream of events.
//!
//! Answers which events a watcher gets, from where on, in order and each once. Which events there
//! are follows from the log alone, so a watcher may go on at any replica that still keeps what comes
//! after the place where it was. Leaves sending to `api::streams`.
//!
//! Invariant: from `since` on nothing is missing: what a replica was given as a whole, or has let
//! go of, it refuses to tell instead of leaving a gap.

use borg_cell::event::{self, Event};
use borg_cell::master::Status;
use borg_cell::state::CellState;
use borg_proto::Millis;
use borg_proto::wire::pb;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Entries whose events a replica keeps for watchers that come back.
const KEPT: usize = 10_000;
/// Events of them, as one entry may have thousands.
const KEPT_EVENTS: usize = 200_000;
/// Entries that a slow watcher may fall behind before it is cut off.
const SLACK: usize = 4_096;
/// Rest for each look of a watcher, which takes about 20 us of processor time, sending included: measured.
/// So all watchers together cost a twenty-fifth of a core, however many they are.
const LOOK: Duration = Duration::from_micros(500);
/// Longest time that a watcher waits for events that are there.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// The state of this replica as of a moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The cell.
    pub state: CellState,
    /// The replica.
    pub status: Status,
    /// When this view was taken.
    pub seen_at: Millis,
    /// When the leader was last heard of.
    pub heard_at: Millis,
    /// Machines that should answer and do not, as of half a second ago at most; only a leader knows.
    pub silent: Arc<Vec<pb::SilentMachine>>,
}

/// The events of some entries, as watchers get them: made once for all of them.
#[derive(Debug)]
pub(crate) struct Batch {
    first: u64,
    last: u64,
    count: usize,
    /// The events and the state after them, until somebody has told them.
    raw: Mutex<Option<(CellState, Vec<Event>)>>,
    told: OnceLock<Vec<pb::Event>>,
}

impl Batch {
    fn new(state: CellState, events: Vec<Event>) -> Option<Self> {
        let (first, last) = (events.first()?.index, events.last()?.index);
        let count = events.len();
        Some(Self {
            first,
            last,
            count,
            raw: Mutex::new(Some((state, events))),
            told: OnceLock::new(),
        })
    }

    /// The events in order. The first who asks makes them, and the state is let go.
    pub(crate) fn events(&self) -> &[pb::Event] {
        self.told.get_or_init(|| {
            let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (state, events) = raw.expect("told once");
            let told = event::describe(&events, &state);
            let told = events.iter().zip(told).map(|(event, (kind, subject, detail))| pb::Event {
                index: event.index,
                at_ms: event.at.0,
                kind,
                subject,
                detail,
            });
            told.collect()
        })
    }
}

/// The stream of events, with its recent past.
#[derive(Debug)]
pub(crate) struct Feed {
    stream: Mutex<Stream>,
    watchers: AtomicUsize,
}

#[derive(Debug)]
struct Stream {
    kept: VecDeque<Arc<Batch>>,
    kept_events: usize,
    /// All events of entries after this one are kept.
    since: u64,
    live: broadcast::Sender<Arc<Batch>>,
}

/// One who watches: gets the past that it asked for, and what follows.
#[derive(Debug)]
pub(crate) struct Watcher {
    feed: Arc<Feed>,
    past: VecDeque<Arc<Batch>>,
    live: broadcast::Receiver<Arc<Batch>>,
}

/// What a watcher asked for is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The oldest index after which events are still kept.
    pub oldest: u64,
}

/// Why a watcher gets nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It was too slow by so many entries.
    Slow(u64),
    /// This replica was given a newer state as a whole.
    Reset,
}

impl Feed {
    /// A stream that begins after an entry.
    #[must_use]
    pub(crate) fn new(applied: u64) -> Self {
        let live = broadcast::channel(SLACK).0;
        let stream = Stream { kept: VecDeque::new(), kept_events: 0, since: applied, live };
        Self { stream: Mutex::new(stream), watchers: AtomicUsize::new(0) }
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what some entries changed. A reset empties the past and ends every watcher's stream:
    /// what lies between is not known here.
    pub(crate) fn publish(&self, state: CellState, events: Vec<Event>, reset: bool) {
        let mut stream = self.stream();
        if reset {
            stream.kept.clear();
            stream.kept_events = 0;
            // The first of the events may not be all of its entry's only if it was in the state.
            stream.since = events.first().map_or(state.applied(), |first| first.index - 1);
            stream.live = broadcast::channel(SLACK).0;
        }
        let Some(batch) = Batch::new(state, events) else { return };
        let batch = Arc::new(batch);
        stream.kept_events += batch.count;
        stream.kept.push_back(batch.clone());
        while stream.kept.len() > KEPT
            || (stream.kept_events > KEPT_EVENTS && stream.kept.len() > 1)
        {
            let oldest = stream.kept.pop_front().expect("longer than its bound, so not empty");
            stream.kept_events -= oldest.count;
            stream.since = oldest.last;
        }
        // Nobody watching is no error. Sent under the lock, so that `watch` misses nothing.
        drop(stream.live.send(batch));
    }

    /// Begins to watch: with the kept events after `after`, or with those that follow.
    ///
    /// # Errors
    /// When events after `after` are no longer kept.
    pub(crate) fn watch(self: &Arc<Self>, after: Option<u64>) -> Result<Watcher, Forgotten> {
        let stream = self.stream();
        let past = match after {
            None => VecDeque::new(),
            Some(after) if after < stream.since => {
                return Err(Forgotten { oldest: stream.since });
            }
            Some(after) => {
                let newer = stream.kept.partition_point(|batch| batch.last <= after);
                stream.kept.range(newer..).cloned().collect()
            }
        };
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Ok(Watcher { feed: self.clone(), past, live: stream.live.subscribe() })
    }

    /// How long a watcher rests after it got something, so that what comes meanwhile is sent
    /// together: next to nothing for a few, longer the more there are.
    fn rest(&self) -> Duration {
        let watchers = u32::try_from(self.watchers.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        LOOK.saturating_mul(watchers).min(LONGEST_REST)
    }

    /// Words each batch as it comes, so that no old state is held for watchers who may come back.
    pub(crate) async fn tell(self: Arc<Self>) {
        let subscribe = || self.stream().live.subscribe();
        let mut live = subscribe();
        loop {
            match live.recv().await {
                Ok(batch) => {
                    batch.events();
                }
                Err(RecvError::Lagged(_)) => {
                    let kept: Vec<_> = self.stream().kept.iter().cloned().collect();
                    for batch in kept {
                        batch.events();
                        tokio::task::yield_now().await;
                    }
                }
                Err(RecvError::Closed) => live = subscribe(),
            }
        }
    }
}

impl Watcher {
    /// The next batch; waits for one.
    ///
    /// # Errors
    /// When there will be none.
    pub(crate) async fn next(&mut self) -> Result<Arc<Batch>, Cut> {
        if let Some(batch) = self.past.pop_front() {
            return Ok(batch);
        }
        match self.live.recv().await {
            Ok(batch) => Ok(batch),
            Err(RecvError::Closed) => Err(Cut::Reset),
            Err(RecvError::Lagged(missed)) => Err(Cut::Slow(missed)),
        }
    }

    /// Whether a batch waits already.
    #[must_use]
    pub(crate) fn is_behind(&self) -> bool {
        !self.past.is_empty() || !self.live.is_empty()
    }

    /// How long to rest before looking again.
    #[must_use]
    pub(crate) fn rest(&self) -> Duration {
        self.feed.rest()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.feed.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far a watcher has got. An entry's events are told together, so a place is an entry, and
/// events of it that were told before are told once more to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// All events up to and of this entry were told.
    pub index: u64,
}

impl Place {
    /// The events of a batch that come after this place; afterwards it is behind them.
    pub(crate) fn pass<'a>(&mut self, batch: &'a Batch) -> &'a [pb::Event] {
        let events = batch.events();
        let told = if batch.first > self.index {
            0
        } else {
            events.partition_point(|event| event.index <= self.index)
        };
        self.index = self.index.max(batch.last);
        &events[told..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::event::EventKind;
    use borg_proto::ReplicaId;
    use proptest::prelude::*;

    fn feed() -> Arc<Feed> {
        Arc::new(Feed::new(0))
    }

    fn event(index: u64, term: u64) -> Event {
        Event { index, at: Millis(0), kind: EventKind::Led { leader: ReplicaId(1), term } }
    }

    fn publish(feed: &Feed, index: u64, reset: bool) {
        let state = CellState::new("lab".parse().expect("a name"));
        feed.publish(state, vec![event(index, index)], reset);
    }

    /// What a watcher can have without waiting.
    fn ready(watcher: &mut Watcher) -> Option<Result<Arc<Batch>, Cut>> {
        use std::task::{Context, Poll, Waker};
        let next = std::pin::pin!(watcher.next());
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(batch) => Some(batch),
            Poll::Pending => None,
        }
    }

    fn indexes(watcher: &mut Watcher, place: &mut Place) -> Vec<u64> {
        let mut got = Vec::new();
        while let Some(Ok(batch)) = ready(watcher) {
            got.extend(place.pass(&batch).iter().map(|event| event.index));
        }
        got
    }

    #[test]
    fn a_watcher_gets_the_past_it_asks_for_and_then_what_follows() {
        let feed = feed();
        publish(&feed, 1, false);
        publish(&feed, 2, false);
        let mut watcher = feed.watch(Some(1)).unwrap();
        publish(&feed, 3, false);
        assert_eq!(indexes(&mut watcher, &mut Place { index: 1 }), [2, 3]);
    }

    #[test]
    fn a_state_that_came_as_a_whole_ends_every_stream_instead_of_leaving_a_gap() {
        let feed = feed();
        publish(&feed, 1, false);
        let mut watcher = feed.watch(None).unwrap();
        publish(&feed, 9, true);
        assert_eq!(ready(&mut watcher).unwrap().unwrap_err(), Cut::Reset);
        assert_eq!(feed.watch(Some(1)).err(), Some(Forgotten { oldest: 8 }));
    }

    #[test]
    fn a_slow_watcher_is_cut_off_and_may_go_on_where_it_was() {
        let feed = feed();
        let mut watcher = feed.watch(None).unwrap();
        let last = u64::try_from(SLACK).unwrap() + 10;
        for index in 1..=last {
            publish(&feed, index, false);
        }
        assert_eq!(ready(&mut watcher).unwrap().unwrap_err(), Cut::Slow(10));
        let mut again = feed.watch(Some(0)).unwrap();
        assert!(indexes(&mut again, &mut Place { index: 0 }).into_iter().eq(1..=last));
    }

    #[test]
    fn what_is_let_go_is_refused_and_nothing_before_it_is_lost() {
        let feed = feed();
        let many =
            |index| (0..u64::try_from(KEPT_EVENTS).unwrap() / 2).map(move |n| event(index, n));
        for index in 1..=3 {
            let state = CellState::new("lab".parse().expect("a name"));
            feed.publish(state, many(index).collect(), false);
        }
        assert_eq!(feed.watch(Some(0)).err(), Some(Forgotten { oldest: 1 }));
        assert!(feed.watch(Some(1)).is_ok());
    }

    #[test]
    fn many_watchers_rest_so_that_all_of_them_cost_no_more_than_a_few() {
        let feed = feed();
        let one = feed.watch(None).unwrap();
        assert_eq!(one.rest(), LOOK);
        let others: Vec<_> = (0..399).map(|_| feed.watch(None).unwrap()).collect();
        assert_eq!(one.rest(), Duration::from_millis(200));
        let crowd: Vec<_> = (0..9_999).map(|_| feed.watch(None).unwrap()).collect();
        assert_eq!(one.rest(), LONGEST_REST);
        drop(crowd);
        drop(others);
        assert_eq!(one.rest(), LOOK);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Replica applies so many entries more, as one turn.
        Apply(usize, u64),
        /// Replica starts again from a checkpoint this far back.
        Restart(usize, u64),
        /// Replica is given the newest state as a whole.
        Install(usize),
        /// The watcher takes what there is.
        Take,
        /// The watcher's connection breaks; it goes on at a replica.
        Move(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let replica = 0_usize..3;
        prop_oneof![
            4 => (replica.clone(), 1_u64..6).prop_map(|(r, n)| Step::Apply(r, n)),
            1 => (replica.clone(), 0_u64..20).prop_map(|(r, n)| Step::Restart(r, n)),
            1 => replica.clone().prop_map(Step::Install),
            3 => Just(Step::Take),
            2 => replica.prop_map(Step::Move),
        ]
    }

    /// Some entries have no events, some several.
    fn events_of(index: u64) -> Vec<Event> {
        (0..index * 7 % 4).map(|n| event(index, n)).collect()
    }

    proptest! {
        /// However replicas divide the log into turns, restart, and are given states as a whole, and
        /// wherever a watcher goes on: it sees each event once, in order, or is refused.
        #[test]
        fn a_watcher_that_moves_between_replicas_sees_each_event_once_in_order(
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let state = || CellState::new("lab".parse().expect("a name"));
            let mut feeds = [feed(), feed(), feed()];
            let mut applied = [0_u64; 3];
            let mut place = Place { index: 0 };
            let mut watcher = feeds[0].watch(Some(0)).ok();
            let mut seen = Vec::new();
            for step in steps {
                match step {
                    Step::Apply(replica, entries) => {
                        let from = applied[replica];
                        applied[replica] += entries;
                        let events = (from + 1..=from + entries).flat_map(events_of).collect();
                        feeds[replica].publish(state(), events, false);
                    }
                    Step::Restart(replica, back) => {
                        let checkpoint = applied[replica].saturating_sub(back);
                        let events = (checkpoint + 1..=applied[replica]).flat_map(events_of);
                        feeds[replica] = Arc::new(Feed::new(checkpoint));
                        feeds[replica].publish(state(), events.collect(), false);
                    }
                    Step::Install(replica) => {
                        let newest = applied.into_iter().max().unwrap_or(0);
                        if newest > applied[replica] {
                            applied[replica] = newest + 1;
                            let events = vec![event(newest + 1, 0)];
                            // What a reset publishes begins with whole entries.
                            if events_of(newest + 1).len() == 1 {
                                feeds[replica].publish(state(), events, true);
                            } else {
                                feeds[replica] = Arc::new(Feed::new(newest + 1));
                            }
                        }
                    }
                    Step::Take => {
                        while let Some(next) = watcher.as_mut().and_then(ready) {
                            let Ok(batch) = next else {
                                watcher = None;
                                break;
                            };
                            let news = place.pass(&batch);
                            seen.extend(news.iter().map(|e| (e.index, e.detail.clone())));
                        }
                    }
                    Step::Move(replica) => watcher = feeds[replica].watch(Some(place.index)).ok(),
                }
            }
            let all = (1..=place.index).flat_map(events_of);
            let all: Vec<_> =
                all.map(|e| (e.index, e.describe(&state()).2)).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
