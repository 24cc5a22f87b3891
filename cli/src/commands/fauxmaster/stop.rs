//! Questions that may be stopped in the middle, and answer as far as they came.

use crate::exit::{Code, Failure};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::ctrl_c;
use tokio::sync::oneshot;

/// Whether somebody pressed Ctrl-C.
#[derive(Debug, Clone, Default)]
pub(super) struct GoOn {
    asked_to_stop: Arc<AtomicBool>,
}

impl GoOn {
    pub(super) fn ask(&self) -> ControlFlow<()> {
        if self.asked_to_stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Works on a thread of its own; at the first Ctrl-C whoever asks is told so, and at the second nobody waits for it.
pub(super) async fn stoppable<T: Send + 'static>(
    work: impl FnOnce(&GoOn) -> T + Send + 'static,
) -> Result<T, Failure> {
    let go_on = GoOn::default();
    let asked = go_on.clone();
    let (done, mut found) = oneshot::channel();
    // Not one that the runtime waits for before the process ends.
    std::thread::spawn(move || done.send(work(&asked)).is_ok());
    let found = tokio::select! {
        found = &mut found => found,
        pressed = ctrl_c() => {
            pressed?;
            go_on.asked_to_stop.store(true, Ordering::Relaxed);
            tokio::select! {
                found = &mut found => found,
                pressed = ctrl_c() => {
                    pressed?;
                    return Err(Failure::new(Code::Stopped, "stopped twice: there is no answer"));
                }
            }
        }
    };
    found.map_err(|_| Failure::new(Code::Internal, "the question ended without an answer"))
}

/// How a question ends that was stopped and told what it had.
pub(super) fn stopped() -> Failure {
    Failure::new(Code::Stopped, "stopped: the answer is of what was computed until then")
}
