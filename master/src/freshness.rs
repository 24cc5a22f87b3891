//! How old the state of this replica may be at the most.
//!
//! Asks for Raft's read index again and again: once everything up to it is applied, the state is no older than
//! the moment of asking, whoever leads and whatever this process slept through. Who serves names looks here
//! before each answer, and asks the driver nothing.
//!
//! Invariant: `age` is never less than the true age of the state that is shown at that moment.

use crate::clock;
use crate::driver::Turn;
use crate::feed::View;
use crate::inbox::Inbox;
use borg_proto::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Time between two questions. Half a second, a tenth of the age that is too old by default: our choice. Each
/// costs a heartbeat to every master.
const EVERY: Duration = Duration::from_millis(500);
/// Time to the next one when there was no answer: a leader is elected in less than a second.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question may take.
const PATIENCE: Millis = Millis(1_000);

/// When the state was last known to be new, by this process's clock; 0: never.
#[derive(Debug, Clone, Default)]
pub(crate) struct Freshness(Arc<AtomicU64>);

impl Freshness {
    /// The most that the state, looked at after this call, is behind; `None` while nothing is known, as after a
    /// start.
    pub(crate) fn age(&self, now: Millis) -> Option<Millis> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            new_at => Some(now.since(Millis(new_at))),
        }
    }

    /// Whether the state, looked at after this call, is no older than that.
    pub(crate) fn is_within(&self, now: Millis, most: Millis) -> bool {
        self.age(now).is_some_and(|age| age <= most)
    }

    /// Takes note that the state that is shown was new then.
    pub(crate) fn was_new(&self, at: Millis) {
        self.0.fetch_max(at.0, Ordering::AcqRel);
    }

    /// Keeps asking, until the driver is gone.
    pub(crate) async fn keep(self, driver: Inbox, mut view: watch::Receiver<View>) {
        loop {
            let asked_at = clock::now();
            let (reply, answer) = oneshot::channel();
            let turn = Turn::Read { deadline: asked_at + PATIENCE, reply };
            if driver.vital(turn).is_err() {
                return;
            }
            let pause = match answer.await {
                Ok(Some(index)) => {
                    if view.wait_for(|view| view.state.applied() >= index).await.is_err() {
                        return;
                    }
                    self.was_new(asked_at);
                    EVERY
                }
                Ok(None) | Err(_) => PAUSE,
            };
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_new_before_somebody_said_so_and_news_never_go_back() {
        let fresh = Freshness::default();
        assert!(!fresh.is_within(Millis(5), Millis(1_000_000)));
        fresh.was_new(Millis(1_000));
        fresh.was_new(Millis(900));
        assert_eq!(fresh.age(Millis(1_200)), Some(Millis(200)));
        assert!(fresh.is_within(Millis(6_000), Millis(5_000)));
        assert!(!fresh.is_within(Millis(6_001), Millis(5_000)));
    }
}
