//! The one place where a Borgmaster reads a clock.

use borg_proto::time::Millis;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, as of the process's start plus what a monotonic clock has
/// counted since: a step of the wall clock moves no timer.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn now() -> Millis {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (instant, wall) = START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
    });
    Millis(wall.saturating_add(u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX)))
}

/// Starts measuring how long something takes.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn stopwatch() -> Stopwatch {
    Stopwatch(Instant::now())
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Time since it was started.
    #[must_use]
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The same in seconds.
    #[must_use]
    pub(crate) fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}
