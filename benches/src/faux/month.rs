//! The month of the Google trace of 2011, replayed with full decisions.

use super::peak_mib;
use crate::{Error, clock};
use borg_fauxmaster::replay::books::Counts;
use borg_fauxmaster::replay::{Replay, Settings};
use borg_fauxmaster::sources::trace::{Choices, Kind, read};
use borg_proto::Millis;
use std::path::Path;
use std::sync::Arc;

const HOUR: Millis = Millis::from_secs(3_600);
/// Between two looks at how full the cell is.
const EVERY: Millis = Millis::from_secs(300);

/// What it took.
#[derive(Debug, Clone, Copy)]
pub struct Month {
    /// What happened.
    pub counts: Counts,
    /// Processor time of reading the trace and replaying it, in seconds.
    pub took_s: f64,
    /// The most memory that this process had resident, in MiB.
    pub peak_mib: f64,
}

/// Replays the condensed trace in a directory to its end; `tell` hears how many hours are over, and of how many.
///
/// # Errors
/// When the trace cannot be read, or state and scheduler disagree.
pub fn measure(dir: &Path, mut tell: impl FnMut(u64, u64)) -> Result<Month, Error> {
    let began = clock::processor_ms()?;
    let trace = read(Kind::Google2011Jobs, dir, Choices { seed: 1, ..Choices::default() })?;
    let mut replay = Replay::new(Arc::clone(&trace.workload), Settings::new(Millis(0), EVERY))?;
    let hours = trace.ends.0.div_ceil(HOUR.0);
    for hour in 1..=hours {
        replay.run_until(Millis(HOUR.0 * hour))?;
        tell(hour, hours);
    }
    let took_s = (clock::processor_ms()? - began) / 1e3;
    Ok(Month { counts: replay.books.counts, took_s, peak_mib: peak_mib()? })
}
