//! What readers and watchers of this replica see: the newest state, and the stream of events.

use borg_cell::event::Event;
use borg_cell::master::Status;
use borg_cell::state::CellState;
use borg_proto::Millis;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Entries whose events a replica keeps for watchers that come back.
const KEPT: usize = 10_000;
/// Entries that a slow watcher may fall behind before it is cut off.
const SLACK: usize = 4_096;

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
}

/// The events of some entries, with the state right after them.
#[derive(Debug)]
pub(crate) struct Batch {
    /// State after the last event.
    pub state: CellState,
    /// In order.
    pub events: Vec<Event>,
}

/// The stream of events, with its recent past.
#[derive(Debug)]
pub(crate) struct Feed(Mutex<Stream>);

#[derive(Debug)]
struct Stream {
    kept: VecDeque<Arc<Batch>>,
    live: broadcast::Sender<Arc<Batch>>,
}

/// What a watcher gets: the past that it asked for, and what follows.
pub(crate) type Watching = (Vec<Arc<Batch>>, broadcast::Receiver<Arc<Batch>>);

/// What a watcher asked for is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The oldest index after which events are still kept.
    pub oldest: u64,
}

impl Feed {
    /// A stream without a past.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Stream { kept: VecDeque::new(), live: broadcast::channel(SLACK).0 }))
    }

    /// Adds what an entry changed. A reset empties the past and ends every watcher's stream: what
    /// lies between is not known here.
    pub(crate) fn publish(&self, state: CellState, events: Vec<Event>, reset: bool) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reset {
            stream.kept.clear();
            stream.live = broadcast::channel(SLACK).0;
        }
        if events.is_empty() {
            return;
        }
        let batch = Arc::new(Batch { state, events });
        if stream.kept.len() == KEPT {
            stream.kept.pop_front();
        }
        stream.kept.push_back(batch.clone());
        // Nobody watching is no error. Sent under the lock, so that `watch` misses nothing.
        drop(stream.live.send(batch));
    }

    /// The kept batches with events after `after`, and the stream of those that follow. `None`
    /// for `after` begins with the next event.
    ///
    /// # Errors
    /// When events after `after` are no longer kept.
    pub(crate) fn watch(&self, after: Option<u64>, applied: u64) -> Result<Watching, Forgotten> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, live) = (&stream.kept, stream.live.subscribe());
        let Some(after) = after else { return Ok((Vec::new(), live)) };
        let first = kept.front().and_then(|batch| batch.events.first()).map(|event| event.index);
        let oldest = first.map_or(applied, |index| index.saturating_sub(1));
        if after < oldest {
            return Err(Forgotten { oldest });
        }
        let newer = |batch: &&Arc<Batch>| batch.events.last().is_some_and(|e| e.index > after);
        Ok((kept.iter().filter(newer).cloned().collect(), live))
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::event::EventKind;
    use borg_proto::ReplicaId;

    fn publish(feed: &Feed, index: u64, reset: bool) {
        let kind = EventKind::Led { leader: ReplicaId(1), term: index };
        let state = CellState::new("lab".parse().expect("a name"));
        feed.publish(state, vec![Event { index, at: Millis(0), kind }], reset);
    }

    #[test]
    fn a_watcher_gets_the_past_it_asks_for_and_then_what_follows() {
        let feed = Feed::new();
        publish(&feed, 1, false);
        publish(&feed, 2, false);
        let (past, mut live) = feed.watch(Some(1), 2).unwrap();
        publish(&feed, 3, false);
        let past: Vec<u64> = past.iter().map(|batch| batch.events[0].index).collect();
        assert_eq!(past, [2]);
        assert_eq!(live.try_recv().unwrap().events[0].index, 3);
    }

    #[test]
    fn a_state_that_came_as_a_whole_ends_every_stream_instead_of_leaving_a_gap() {
        let feed = Feed::new();
        publish(&feed, 1, false);
        let (_, mut live) = feed.watch(None, 1).unwrap();
        publish(&feed, 9, true);
        assert!(matches!(live.try_recv(), Err(broadcast::error::TryRecvError::Closed)));
        assert_eq!(feed.watch(Some(1), 9).err(), Some(Forgotten { oldest: 8 }));
    }
}
