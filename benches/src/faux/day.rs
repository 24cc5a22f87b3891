//! A day of a cell at the arrival rate of the Borg paper, with full decisions.

use crate::{Error, clock};
use borg_fauxmaster::replay::books::Counts;
use borg_fauxmaster::replay::{Replay, Settings};
use borg_fauxmaster::sources::synthetic::synthetic;
use borg_fauxmaster::sources::workload::{Steady, Workload};
use borg_fauxmaster::work::Work;
use borg_proto::{JobKind, Millis};
use std::sync::Arc;

const MINUTE: Millis = Millis::from_secs(60);
/// From placed to up: the median of the Borg paper (section 3.2).
const STARTUP: Millis = Millis::from_secs(25);
/// Between two looks at how full the cell is.
const EVERY: Millis = Millis::from_secs(300);

/// What a stretch of time took.
#[derive(Debug, Clone, Copy)]
pub struct Day {
    /// Batch tasks that arrived each minute.
    pub tasks_a_minute: f64,
    /// What happened.
    pub counts: Counts,
    /// Processor time of all of it, filling the cell as well, in seconds.
    pub took_s: f64,
}

impl Day {
    /// Events a second of processor time.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn events_per_s(&self) -> f64 {
        self.counts.events() as f64 / self.took_s
    }
}

/// So many minutes of a made-up cell whose batch tasks run for such times that about `rate` arrive each minute;
/// `tell` hears how many minutes are over.
///
/// # Errors
/// When state and scheduler disagree.
pub fn measure(
    machines: u32,
    rate: f64,
    minutes: u64,
    mut tell: impl FnMut(u64),
) -> Result<Day, Error> {
    let work = Work::of_cell(&synthetic(machines, 1)?);
    let lasts = Millis(MINUTE.0 * minutes);
    let mut how = Steady {
        lasts: Millis(lasts.0.min(3_600_000)),
        startup: STARTUP,
        shortest: Millis::from_secs(300),
        batch_percent: 100,
        losses_a_month: 0,
        seed: 1,
    };
    // Twice, as start-ups do not shrink with run times.
    for _ in 0..2 {
        let found = tasks_a_minute(&Workload::steady(work.clone(), &how)?, how.lasts);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some minutes"
        )]
        let shortest = (how.shortest.0 as f64 * found / rate) as u64;
        how.shortest = Millis(shortest.max(1));
    }
    how.lasts = lasts;
    let workload = Arc::new(Workload::steady(work, &how)?);
    let tasks_a_minute = tasks_a_minute(&workload, lasts);
    let began = clock::processor_ms()?;
    let mut replay = Replay::new(workload, Settings::new(STARTUP, EVERY))?;
    for minute in 1..=minutes {
        replay.run_until(Millis(MINUTE.0 * minute))?;
        tell(minute);
    }
    let took_s = (clock::processor_ms()? - began) / 1e3;
    Ok(Day { tasks_a_minute, counts: replay.books.counts, took_s })
}

/// Tasks of batch jobs that arrive after the beginning.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn tasks_a_minute(workload: &Workload, lasts: Millis) -> f64 {
    let later = workload.arrivals.iter().filter(|one| one.at > Millis(0));
    let batch = later.filter(|one| one.spec.kind == JobKind::Batch);
    let tasks: u64 = batch.map(|one| u64::from(one.spec.tasks)).sum();
    tasks as f64 * MINUTE.0 as f64 / lasts.0.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cell_has_about_the_rate_that_was_asked_for() {
        let day = measure(40, 60.0, 120, |_| {}).unwrap();
        assert!((40.0..80.0).contains(&day.tasks_a_minute), "{day:?}");
        assert!(day.counts.ends > 3_000 && day.events_per_s() > 0.0, "{day:?}");
    }
}
