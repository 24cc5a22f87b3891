//! A replica that has just started does not know yet what was agreed on: its log may lack the end,
//! and it has not heard how far the log is agreed. Until it has caught up with a leader once, it
//! would answer that jobs do not exist which were accepted long ago.

use crate::clock;
use crate::driver::Turn;
use crate::feed::View;
use crate::inbox::Inbox;
use borg_proto::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tonic::Status;

/// How long one question to the leader may take.
const PATIENCE: Millis = Millis(1_000);
/// Time between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether this replica has caught up since it started. Once it has, it stays so: what it knows
/// may grow old, but never goes back.
#[derive(Debug, Clone, Default)]
pub(crate) struct CaughtUp(Arc<AtomicBool>);

impl CaughtUp {
    /// # Errors
    /// UNAVAILABLE while it has not: another master may know.
    pub(crate) fn check(&self) -> Result<(), Status> {
        if self.0.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Status::unavailable(
            "this master has just started and has not caught up with a leader yet: ask another one",
        ))
    }

    /// Asks for Raft's read index until there is one, and waits until all up to it is applied.
    pub(crate) async fn watch(self, driver: Inbox, mut view: watch::Receiver<View>) {
        loop {
            let (reply, answer) = oneshot::channel();
            let turn = Turn::Read { deadline: clock::now() + PATIENCE, reply };
            if driver.vital(turn).is_err() {
                return;
            }
            if let Ok(Some(index)) = answer.await {
                if view.wait_for(|view| view.state.applied() >= index).await.is_ok() {
                    self.0.store(true, Ordering::Release);
                }
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
