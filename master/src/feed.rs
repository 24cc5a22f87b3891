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
pub(crate) struct Feed {
    kept: Mutex<VecDeque<Arc<Batch>>>,
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
        Self { kept: Mutex::default(), live: broadcast::channel(SLACK).0 }
    }

    /// Adds what an entry changed. A reset empties the past: what lies between is not known here.
    pub(crate) fn publish(&self, state: CellState, events: Vec<Event>, reset: bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if reset {
            kept.clear();
        }
        if events.is_empty() {
            return;
        }
        let batch = Arc::new(Batch { state, events });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(batch.clone());
        // Nobody watching is no error. Sent under the lock, so that `watch` misses nothing.
        drop(self.live.send(batch));
    }

    /// The kept batches with events after `after`, and the stream of those that follow. `None`
    /// for `after` begins with the next event.
    ///
    /// # Errors
    /// When events after `after` are no longer kept.
    pub(crate) fn watch(&self, after: Option<u64>, applied: u64) -> Result<Watching, Forgotten> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
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
