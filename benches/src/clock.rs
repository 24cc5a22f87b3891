//! The one place where this crate reads a clock.

use crate::Error;
use nix::sys::resource::{UsageWho, getrusage};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since some moment, for durations.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
pub fn now() -> Instant {
    Instant::now()
}

/// Unix time in milliseconds, to compare with the times that a cell on this computer tells.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
pub fn unix_ms() -> f64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Milliseconds of processor time that this process has used.
///
/// # Errors
/// When the kernel does not tell.
pub fn processor_ms() -> Result<f64, Error> {
    used_ms(UsageWho::RUSAGE_SELF)
}

/// Milliseconds of processor time that this process's children have used that were waited for, and theirs.
///
/// # Errors
/// When the kernel does not tell.
pub fn children_ms() -> Result<f64, Error> {
    used_ms(UsageWho::RUSAGE_CHILDREN)
}

fn used_ms(whose: UsageWho) -> Result<f64, Error> {
    let used = getrusage(whose)?;
    let mut total = 0.0;
    for time in [used.user_time(), used.system_time()] {
        let (seconds, rest) = (i32::try_from(time.tv_sec())?, i32::try_from(time.tv_usec())?);
        total += f64::from(seconds) * 1e3 + f64::from(rest) / 1e3;
    }
    Ok(total)
}

/// A duration in milliseconds.
#[must_use]
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A Unix time in milliseconds, as a cell tells it, to reckon with.
///
/// # Errors
/// When it lies beyond the year 2106.
pub fn told(unix_ms: u64) -> Result<f64, std::num::TryFromIntError> {
    // In two steps: there is no lossless way from `u64` to `f64`.
    let (seconds, rest) = (u32::try_from(unix_ms / 1_000)?, u32::try_from(unix_ms % 1_000)?);
    Ok(f64::from(seconds) * 1e3 + f64::from(rest))
}
