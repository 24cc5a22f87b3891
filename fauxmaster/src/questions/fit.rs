//! How many more tasks of a job would fit into a cell, and what stops the next one.
//!
//! Placed one by one in a copy with the production scan; nobody is pushed out.

use borg_cell::codec::DecodeError;
use borg_cell::state::CellState;
use borg_proto::JobSpec;
use borg_scheduler::{Config, Scheduler};
use serde::Serialize;

/// How many more tasks of a job fit into a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FitReport {
    /// The job's name.
    pub job: String,
    /// How many tasks were asked about.
    pub asked: u32,
    /// How many of them fit, pushing nobody out.
    pub fit: u32,
    /// How many machines the cell has.
    pub machines: u32,
    /// How many of them could take the first task.
    pub machines_for_first: u32,
    /// What stops one more task: reason and number of machines, most frequent first.
    pub stopped_by: Vec<Stop>,
    /// The same in one sentence.
    pub summary: String,
}

/// One reason why machines take no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// In words.
    pub reason: String,
    /// On how many machines.
    pub machines: u32,
}

/// How many more tasks of `spec`, at most `most`, fit into the cell as it is. Nothing changes.
#[must_use]
pub fn fit(state: &CellState, spec: &JobSpec, most: u32) -> FitReport {
    let found = Scheduler::new(state, Config::default()).fit(spec, most);
    let stop = |rejected: &borg_scheduler::Rejected| Stop {
        reason: rejected.to_string(),
        machines: rejected.machines,
    };
    FitReport {
        job: spec.name.to_string(),
        asked: most,
        fit: found.tasks,
        machines: u32::try_from(state.machines().count()).unwrap_or(u32::MAX),
        machines_for_first: found.machines,
        stopped_by: found.stopped_by.iter().map(stop).collect(),
        summary: found.summary,
    }
}

/// Reads what a cell handed out as its checkpoint.
///
/// # Errors
/// When it cannot be read, or breaks the rules of the state.
pub fn load_checkpoint(bytes: &[u8]) -> Result<CellState, DecodeError> {
    CellState::decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::synthetic::synthetic;
    use borg_sim::job;

    #[test]
    fn what_a_cell_saved_answers_as_the_cell_does_and_says_what_stops_the_next_task() {
        let cell = synthetic(10, 1).unwrap();
        let spec = job("big").limit(8_000, 16_384).spec();
        let report = fit(&load_checkpoint(&cell.encode()).unwrap(), &spec, 1_000);
        assert_eq!(report, fit(&cell, &spec, 1_000));
        assert!(report.fit > 0 && report.fit < 1_000, "{report:?}");
        let (first, counted) = (report.stopped_by.first().unwrap(), &report.summary);
        assert!(first.machines > 0 && counted.contains("tasks fit"), "{report:?}");
    }

    #[test]
    fn a_job_that_fits_nowhere_is_told_why() {
        let spec = job("huge").limit(100, 10 << 20).spec();
        let report = fit(&synthetic(3, 1).unwrap(), &spec, 5);
        assert_eq!((report.fit, report.machines_for_first, report.machines), (0, 0, 3));
        assert!(report.summary.contains("memory"), "{report:?}");
    }

    #[test]
    fn bytes_that_are_no_checkpoint_are_refused() {
        assert!(matches!(load_checkpoint(b"hello"), Err(DecodeError::NotAState)));
    }
}
