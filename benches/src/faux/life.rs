//! Where the time of a task's life goes: submitted, placed, seen up, ended, and followed all along. What the
//! driver of the cell keeps for itself, and choosing who ends, is counted with what it does.

use crate::Error;
use crate::driven::{Applying, Timed};
use crate::scheduling::churn;
use borg_fauxmaster::driven::Driven;
use borg_fauxmaster::sources::borg_like::Mix;

/// What a life costs, in microseconds for each placement.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Placements.
    pub placed: u64,
    /// Passes of the scheduler.
    pub pass_us: f64,
    /// Following of what was committed.
    pub follow_us: f64,
    /// Applying the entry that submits the job.
    pub submit_us: f64,
    /// Applying the entry that places it.
    pub place_us: f64,
    /// Applying the entry that sees it up.
    pub up_us: f64,
    /// Applying the entry that ends it.
    pub end_us: f64,
}

impl Life {
    fn of(timed: &Timed, applying: Applying) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let each = 1e3 / timed.decided.max(1) as f64;
        Self {
            placed: timed.decided,
            pass_us: timed.pass_ms * each,
            follow_us: timed.follow_ms * each,
            submit_us: applying.submit_ms * each,
            place_us: applying.place_ms * each,
            up_us: applying.up_ms * each,
            end_us: applying.end_ms * each,
        }
    }

    /// All of it.
    #[must_use]
    pub fn total_us(&self) -> f64 {
        let applying = self.submit_us + self.place_us + self.up_us + self.end_us;
        self.pass_us + self.follow_us + applying
    }

    /// Events a second: submit, placement, start and end of a task, counted each.
    #[must_use]
    pub fn events_per_s(&self) -> f64 {
        4e6 / self.total_us()
    }
}

/// `placements` decided by a scheduler that is alone with its state, in a filled cell in which as much ends as comes, see [`churn::mix`].
///
/// # Errors
/// When state and scheduler disagree.
pub fn measure(
    cell: &mut Driven,
    timed: &mut Timed,
    mix: Mix,
    placements: u64,
) -> Result<Life, Error> {
    timed.alone = true;
    churn::mix(cell, timed, mix, placements, 21)?;
    Ok(Life::of(timed, timed.applying))
}
