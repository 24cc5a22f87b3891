//! Cron jobs: when they make a batch job, and what becomes of it when the time is not right.
//!
//! `calendar` has the schedule: which minutes of UTC are ticks. Which tick is fired when, and what is
//! remembered of it, is the cell's to decide.
//!
//! Invariant: a [`Schedule`] has a tick after every moment, at most one a minute.

mod calendar;

pub use calendar::Schedule;

use crate::names::MAX_NAME_BYTES;
use crate::spec::{JobKind, JobSpec, SpecError, check_range, refuse};
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How late a tick is still fired where none is caught up on. A minute: our choice, the finest
/// schedule; it covers a change of leader.
pub const LATE: Millis = Millis::from_secs(60);
/// Most ticks that [`CatchUp::All`] catches up on, the newest ones. 10: our choice.
pub const MOST_CAUGHT_UP: usize = 10;
/// Most runs of one cron job that are alive at once, where they may overlap. 20: our choice.
pub const MOST_RUNS: usize = 20;
/// Most finished, and most failed, runs that are remembered. 100: our choice.
pub const MOST_KEPT: u32 = 100;
/// How many finished, and how many failed, runs are remembered unless it is said. 10: our choice.
pub const KEPT: u32 = 10;
/// Least time for a late start: 1 s, our choice; a cell needs as long to look at its clock.
pub const LEAST_START_BY: Millis = Millis::from_secs(1);
/// Most time for a late start: 366 days, our choice.
pub const MOST_START_BY: Millis = Millis::from_secs(366 * 86_400);
/// The variable by which a run is told of its tick: a date, as in `2027-01-31T23:59:00Z`.
pub const TICK_VARIABLE: &str = "BORG_TICK";
/// Bytes of a run's name beside its cron job's: `-` and the largest number.
const NUMBER_BYTES: usize = 11;

/// When a cron job makes batch jobs, and what happens when one should begin and the time is not right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cron {
    /// Its ticks.
    pub schedule: Schedule,
    /// What happens at a tick when the run before is not over.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens to ticks that passed while no master led.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// How long after its tick a run may still begin; `None`: for ever, or [`LATE`] where none is caught
    /// up on.
    #[serde(default)]
    pub start_by_ms: Option<Millis>,
    /// How many runs that finished are remembered, with their jobs.
    #[serde(default = "kept")]
    pub keep_finished: u32,
    /// How many other runs are remembered, with their jobs.
    #[serde(default = "kept")]
    pub keep_failed: u32,
}

const fn kept() -> u32 {
    KEPT
}

/// What happens at a tick when a run before it is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// No run begins; that is noted.
    #[default]
    Forbid,
    /// Another one begins beside it, up to [`MOST_RUNS`].
    Allow,
    /// It is killed, and another one begins.
    Replace,
}

/// What happens to ticks that passed while no master led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// They are noted as missed.
    None,
    /// The last of them is fired, the others are noted as missed.
    #[default]
    Last,
    /// All are fired, the oldest first, up to the [`MOST_CAUGHT_UP`] newest.
    All,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbid => "forbid",
            Self::Allow => "allow",
            Self::Replace => "replace",
        })
    }
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Last => "last",
            Self::All => "all",
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, overlap, catch_up, start_by_ms, keep_finished, keep_failed } = self;
        write!(f, "{schedule}, overlap {overlap}, catch_up {catch_up}")?;
        if let Some(by) = start_by_ms {
            write!(f, ", start_by {by}")?;
        }
        write!(f, ", keep {keep_finished} and {keep_failed}")
    }
}

impl Cron {
    /// A schedule with everything else as it is unless it is said.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            start_by_ms: None,
            keep_finished: KEPT,
            keep_failed: KEPT,
        }
    }

    /// How long after its tick a run may begin at the latest.
    #[must_use]
    pub fn latest_start(&self) -> Millis {
        let unsaid = match self.catch_up {
            CatchUp::None => LATE,
            CatchUp::Last | CatchUp::All => Millis(u64::MAX),
        };
        self.start_by_ms.unwrap_or(unsaid)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        if let Some(by) = self.start_by_ms {
            check_range("cron.start_by_ms", by.0, LEAST_START_BY.0, MOST_START_BY.0)?;
        }
        check_range("cron.keep_finished", self.keep_finished.into(), 0, MOST_KEPT.into())?;
        check_range("cron.keep_failed", self.keep_failed.into(), 0, MOST_KEPT.into())?;
        if self.catch_up == CatchUp::All && self.overlap != Overlap::Allow {
            let why = "begins several runs at once, which needs overlap = \"allow\"";
            return refuse("cron.catch_up", self.catch_up, why);
        }
        Ok(())
    }
}

impl JobSpec {
    /// What a cron job may be beside its schedule. The rest is said of its runs, which are batch jobs.
    pub(crate) fn check_cron(&self) -> Result<(), SpecError> {
        match (&self.cron, self.kind) {
            (None, JobKind::Cron) => {
                refuse("cron", "nothing", "is given: a cron job has a schedule")
            }
            (None, _) => Ok(()),
            (Some(cron), JobKind::Cron) => {
                cron.check()?;
                let most = MAX_NAME_BYTES - NUMBER_BYTES;
                if self.name.as_str().len() > most {
                    let why =
                        format!("is longer than {most} bytes: its runs have a number behind it");
                    return refuse("name", &self.name, why);
                }
                if !self.after.is_empty() {
                    let why =
                        "says nothing of a cron job: when its runs begin is what its schedule says";
                    return refuse("after", "given", why);
                }
                Ok(())
            }
            (Some(cron), _) => {
                refuse("cron", &cron.schedule, "is given, and the job's kind is not cron")
            }
        }
    }
}
