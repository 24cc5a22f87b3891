//! The only place of `borgctl` that reads the wall clock.

use borg_proto::Millis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, since the Unix epoch. A clock set before 1970 reads as 0.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the clock, for certificates and ages"
)]
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
