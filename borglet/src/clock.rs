//! The one place where the daemon reads a clock.

use crate::sys;
use borg_proto::Millis;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Boot time and wall clock as the process began, in milliseconds.
fn start() -> (u64, u64) {
    static START: OnceLock<(u64, u64)> = OnceLock::new();
    *START.get_or_init(|| (sys::boot_time_ms(), sys::wall_clock_ms()))
}

/// Milliseconds since the Unix epoch, as of the process's start plus what a clock has counted since
/// that goes on while the machine sleeps: a step of the wall clock moves no timer, and an exclusive
/// task does not outlive its lease in a machine that slept.
#[must_use]
pub(crate) fn now() -> Millis {
    let (boot, wall) = start();
    Millis(wall.saturating_add(sys::boot_time_ms().saturating_sub(boot)))
}

/// A moment of [`now`] as milliseconds since the machine booted: the same for every process.
#[must_use]
pub(crate) fn boot_time_of(at: Millis) -> u64 {
    let (boot, wall) = start();
    boot.saturating_add(at.0).saturating_sub(wall)
}

/// A number that differs for each start of a borglet on a machine: nanoseconds since the epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn session() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
}

/// Starts measuring how long something takes.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn stopwatch() -> Stopwatch {
    Stopwatch(Instant::now())
}

/// A measurement under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Seconds since it was started.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// Milliseconds since it was started.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
