//! Priority decides who gets placed; the appclass decides how a machine shares itself. They are
//! independent (Borg paper, sections 2.5 and 6.2).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Highest priority there is.
pub const MAX_PRIORITY: u16 = 450;

/// A job's priority, 0 to 450. Higher goes first and may preempt lower, except that production
/// never preempts production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u16);

/// The named ranges of priority: Google's 2019 cluster trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// 0 to 99: no charge, no promise.
    Free,
    /// 100 to 115: best-effort batch.
    Batch,
    /// 116 to 119: weak promises.
    Mid,
    /// 120 to 359: services that people depend on.
    Production,
    /// 360 to 450: what watches production.
    Monitoring,
}

impl Band {
    /// All bands, lowest first.
    pub const ALL: [Self; 5] =
        [Self::Free, Self::Batch, Self::Mid, Self::Production, Self::Monitoring];

    /// The priority that a job gets which asks for the band by name: its lowest.
    #[must_use]
    pub const fn default_priority(self) -> Priority {
        Priority(match self {
            Self::Free => 0,
            Self::Batch => 100,
            Self::Mid => 116,
            Self::Production => 120,
            Self::Monitoring => 360,
        })
    }

    /// Whether it is production or monitoring, whose quota is never sold beyond what the cell has
    /// (Borg paper, section 2.5).
    #[must_use]
    pub const fn is_prod(self) -> bool {
        matches!(self, Self::Production | Self::Monitoring)
    }

    /// The band's name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Batch => "batch",
            Self::Mid => "mid",
            Self::Production => "production",
            Self::Monitoring => "monitoring",
        }
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Band {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|band| band.name() == text);
        named.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("{:?} is no band: {all}", crate::names::shorten(text))
        })
    }
}

/// A number that is not a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("priority {0} is outside 0 to 450")]
pub struct PriorityError(pub u64);

impl Priority {
    /// Checks a number.
    ///
    /// # Errors
    /// When it is over 450.
    pub fn new(value: u64) -> Result<Self, PriorityError> {
        u16::try_from(value)
            .ok()
            .filter(|&v| v <= MAX_PRIORITY)
            .map(Self)
            .ok_or(PriorityError(value))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The band it lies in.
    #[must_use]
    pub const fn band(self) -> Band {
        match self.0 {
            0..=99 => Band::Free,
            100..=115 => Band::Batch,
            116..=119 => Band::Mid,
            120..=359 => Band::Production,
            _ => Band::Monitoring,
        }
    }

    /// Production and monitoring together (Borg paper, section 2.5).
    #[must_use]
    pub const fn is_prod(self) -> bool {
        self.band().is_prod()
    }

    /// Whether work of this priority may push out work of `victim`'s: strictly higher, and never
    /// production by production (Borg paper, section 2.5: it stops cascades).
    #[must_use]
    pub fn may_preempt(self, victim: Self) -> bool {
        self > victim && !(self.band() == Band::Production && victim.band() == Band::Production)
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a machine treats the task beside its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppClass {
    /// Goes first on the machine's processors.
    LatencySensitive,
    /// Takes what is left.
    Batch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_never_preempts_production_but_monitoring_may() {
        let p = |v| Priority::new(v).unwrap();
        assert!(!p(359).may_preempt(p(120)));
        assert!(p(360).may_preempt(p(359)));
        assert!(p(120).may_preempt(p(119)));
        assert!(!p(100).may_preempt(p(100)));
        assert_eq!(Priority::new(451), Err(PriorityError(451)));
    }
}
