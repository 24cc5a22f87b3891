//! How much of a job may be disturbed at once by the cell itself.
//!
//! One budget for all that is done on purpose: updates, drains, preemption, reclamation. What happens to
//! a job by itself (a lost machine, a crash) is not prevented by it, and counts (Borg paper, section 2.3
//! and 4: the cell limits the disruptions of a job). Which tasks are disturbed now is the state's to say.

use crate::names::shorten;
use crate::spec::{JobKind, JobSpec, MAX_TASKS, SpecError, check_range};
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest time over which a rate of disruptions counts: 7 days, our choice.
pub const MAX_RATE_PER: Millis = Millis::from_secs(7 * 24 * 3600);
/// Most disruptions that a rate may allow. 1,000: our choice; the state remembers the time of each.
pub const MAX_RATE_TASKS: u32 = 1_000;
/// What jobs of prod allow that serve and do not say: a tenth of their tasks. Our choice; it never takes down all
/// of a job with two tasks or more. What is below prod gives way to it at once, unless it says otherwise.
pub const DEFAULT_MOST: Share = Share::Percent(10);

/// A part of a job's tasks: a number, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Share {
    /// So many.
    Tasks(u32),
    /// So many of a hundred, rounded up: no share but 0 % means none.
    Percent(u32),
}

/// A share as it is written: `3`, or `"10%"`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a budget is a number of tasks, as in 3, or a share of them, as in \"10%\""
)]
enum Written {
    Number(u32),
    Text(String),
}

impl TryFrom<Written> for Share {
    type Error = ShareError;
    fn try_from(written: Written) -> Result<Self, ShareError> {
        match written {
            Written::Number(tasks) => Ok(Self::Tasks(tasks)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Share> for Written {
    fn from(share: Share) -> Self {
        match share {
            Share::Tasks(tasks) => Self::Number(tasks),
            Share::Percent(_) => Self::Text(share.to_string()),
        }
    }
}

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a number of tasks, as in 3, nor a share of them, as in 10%")]
pub struct ShareError(String);

impl FromStr for Share {
    type Err = ShareError;
    fn from_str(text: &str) -> Result<Self, ShareError> {
        let (number, share): (&str, fn(u32) -> Self) = match text.strip_suffix('%') {
            Some(number) => (number, Self::Percent),
            None => (text, Self::Tasks),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let read = digits.then(|| number.parse().ok()).flatten();
        read.map(share).ok_or_else(|| ShareError(shorten(text)))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tasks(tasks) => write!(f, "{tasks}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Share {
    /// How many tasks it is of so many.
    #[must_use]
    pub fn of(self, tasks: u32) -> u32 {
        match self {
            Self::Tasks(most) => most,
            Self::Percent(percent) => {
                let most = (u64::from(tasks) * u64::from(percent)).div_ceil(100);
                u32::try_from(most).unwrap_or(u32::MAX)
            }
        }
    }

    /// Whether it allows nothing, however many tasks there are.
    #[must_use]
    pub const fn is_none(self) -> bool {
        matches!(self, Self::Tasks(0) | Self::Percent(0))
    }

    /// Checks its bounds.
    ///
    /// # Errors
    /// When it is more than a job can have.
    pub fn check(self, field: &str) -> Result<(), SpecError> {
        match self {
            Self::Tasks(tasks) => check_range(field, tasks.into(), 0, MAX_TASKS.into()),
            Self::Percent(percent) => check_range(field, percent.into(), 0, 100),
        }
    }
}

/// How often a job may be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// So many tasks...
    pub tasks: u32,
    /// ...within any time of this length.
    pub per_ms: Millis,
}

/// The budget of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disruption {
    /// How many of its tasks may be down at once for the cell to take one more down.
    pub most: Share,
    /// How many tasks may be taken down within a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} ms", self.tasks, self.per_ms.0)
    }
}

impl Disruption {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        self.most.check("disruption.most")?;
        let Some(rate) = self.rate else { return Ok(()) };
        check_range("disruption.rate.tasks", rate.tasks.into(), 1, MAX_RATE_TASKS.into())?;
        check_range("disruption.rate.per_ms", rate.per_ms.0, 1, MAX_RATE_PER.0)
    }
}

impl JobSpec {
    /// The budget in force; `None`: the cell may disturb as much of it as it must.
    #[must_use]
    pub fn effective_disruption(&self) -> Option<Disruption> {
        let default = match self.kind {
            JobKind::Service | JobKind::AllocSet | JobKind::Daemon if self.priority.is_prod() => {
                Some(Disruption { most: DEFAULT_MOST, rate: None })
            }
            JobKind::Service
            | JobKind::AllocSet
            | JobKind::Daemon
            | JobKind::Batch
            | JobKind::Cron => None,
        };
        self.disruption.or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_or_a_percentage_rounded_up() {
        let of = |text: &str, tasks| text.parse::<Share>().unwrap().of(tasks);
        assert_eq!(of("3", 100), 3);
        assert_eq!((of("10%", 1), of("10%", 10), of("10%", 11)), (1, 1, 2));
        assert_eq!((of("0%", 1_000), of("0", 1_000), of("100%", 7)), (0, 0, 7));
        for wrong in ["", "%", "-1", "ten", "1.5%", "10 %", "99999999999"] {
            let error = wrong.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains("as in 10%"), "{error}");
        }
    }

    #[test]
    fn a_share_is_written_as_it_is_read() {
        for written in ["3", "\"10%\""] {
            let share: Share = serde_json::from_str(written).unwrap();
            assert_eq!(serde_json::to_string(&share).unwrap(), written);
            assert_eq!(share.to_string().parse::<Share>().unwrap(), share);
        }
        assert!(serde_json::from_str::<Share>("\"half\"").is_err());
    }

    #[test]
    fn bounds_are_named_by_field() {
        let refused = |most, rate| Disruption { most, rate }.check().unwrap_err().to_string();
        assert_eq!(refused(Share::Percent(101), None), "disruption.most: 101 is outside 0 to 100");
        let never = Rate { tasks: 0, per_ms: Millis(1_000) };
        assert_eq!(
            refused(Share::Tasks(1), Some(never)),
            "disruption.rate.tasks: 0 is outside 1 to 1000"
        );
    }
}
