//! Health checks and verdicts.

use super::error::{At, WireError, check_range, each, required};
use super::pb;
use super::spec::known;
use crate::health::{Health, HealthCheck, MAX_PROBE_FAILURES, Probe};
use crate::spec::MAX_LIST;
use crate::time::Millis;
use pb::health_check as wire;

impl From<&HealthCheck> for pb::HealthCheck {
    fn from(check: &HealthCheck) -> Self {
        let probe = match &check.probe {
            Probe::Http { port, path } => {
                wire::Probe::Http(wire::Http { port: port.to_string(), path: path.clone() })
            }
            Probe::Tcp { port } => wire::Probe::Tcp(wire::Tcp { port: port.to_string() }),
            Probe::Command(words) => wire::Probe::Command(wire::Command { words: words.clone() }),
        };
        Self {
            probe: Some(probe),
            grace_ms: check.grace_ms.0,
            interval_ms: check.interval_ms.0,
            timeout_ms: check.timeout_ms.0,
            failures: check.failures,
        }
    }
}

/// Reads a check without the bounds that [`JobSpec::check`](crate::JobSpec::check) holds.
impl TryFrom<pb::HealthCheck> for HealthCheck {
    type Error = WireError;
    fn try_from(check: pb::HealthCheck) -> Result<Self, WireError> {
        let probe = match required("probe", check.probe)? {
            wire::Probe::Http(wire::Http { port, path }) => {
                Probe::Http { port: port.parse().at("probe.port")?, path }
            }
            wire::Probe::Tcp(wire::Tcp { port }) => {
                Probe::Tcp { port: port.parse().at("probe.port")? }
            }
            wire::Probe::Command(wire::Command { words }) => {
                Probe::Command(each("probe.command", words, MAX_LIST, Ok::<_, WireError>)?)
            }
        };
        check_range("failures", check.failures.into(), 1, MAX_PROBE_FAILURES.into())?;
        Ok(Self {
            probe,
            grace_ms: Millis(check.grace_ms),
            interval_ms: Millis(check.interval_ms),
            timeout_ms: Millis(check.timeout_ms),
            failures: check.failures,
        })
    }
}

impl From<Health> for pb::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Unchecked => Self::Unspecified,
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

impl From<pb::Health> for Health {
    fn from(health: pb::Health) -> Self {
        match health {
            pb::Health::Unspecified => Self::Unchecked,
            pb::Health::Starting => Self::Starting,
            pb::Health::Healthy => Self::Healthy,
            pb::Health::Unhealthy => Self::Unhealthy,
        }
    }
}

/// Reads a verdict; what is left out was not checked.
///
/// # Errors
/// When this version does not know the value.
pub fn read_health(field: &str, value: i32) -> Result<Health, WireError> {
    known::<pb::Health>(field, value).map(Health::from)
}
