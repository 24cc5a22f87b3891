//! Whether a task that runs also works: what is asked of it, and what came of that.
//!
//! A machine probes its own tasks (Borg paper, section 2.6); the bounds here keep that cheap. How
//! answers become a verdict is the supervisor's: docs/adr/0023.

use crate::names::{PortName, shorten};
use crate::spec::{MAX_LIST, MAX_TEXT_BYTES, SpecError, check_range, check_text, refuse};
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest time that a task may take to become healthy: an hour, our choice.
pub const MAX_START_UP: Millis = Millis(3_600_000);
/// Least and most time between two probes: our choice. A machine probes some hundred tasks.
pub const PROBE_EVERY: (Millis, Millis) = (Millis(100), Millis(600_000));
/// Least and most time that one probe may take: our choice.
pub const PROBE_WITHIN: (Millis, Millis) = (Millis(10), Millis(60_000));
/// Most failures in a row that a task may be allowed: our choice.
pub const MAX_PROBE_FAILURES: u32 = 1_000;
/// Longest path of an HTTP probe in bytes: our choice.
pub const MAX_PATH_BYTES: usize = 1_024;

/// How a machine finds out whether a task works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// How long after its start failures do not count, as long as none succeeded; at most
    /// [`MAX_START_UP`].
    #[serde(default = "default_start_up")]
    pub grace_ms: Millis,
    /// Time from the end of one probe to the next, within [`PROBE_EVERY`].
    #[serde(default = "default_interval")]
    pub interval_ms: Millis,
    /// How long one probe may take, within [`PROBE_WITHIN`].
    #[serde(default = "default_timeout")]
    pub timeout_ms: Millis,
    /// How many failures in a row make the task unhealthy, 1 to [`MAX_PROBE_FAILURES`].
    #[serde(default = "default_failures")]
    pub failures: u32,
}

const fn default_start_up() -> Millis {
    Millis(30_000)
}

const fn default_interval() -> Millis {
    Millis(10_000)
}

const fn default_timeout() -> Millis {
    Millis(1_000)
}

const fn default_failures() -> u32 {
    3
}

impl HealthCheck {
    /// A check with the usual times: 30 s to start up, a probe each 10 s that may take 1 s, 3 failures
    /// in a row. Our choice.
    #[must_use]
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            grace_ms: default_start_up(),
            interval_ms: default_interval(),
            timeout_ms: default_timeout(),
            failures: default_failures(),
        }
    }

    /// Checks every bound. `ports` are the task's.
    ///
    /// # Errors
    /// The first field that is out of bounds, named from the job: `task.health.failures`.
    pub(crate) fn check(&self, ports: &[PortName]) -> Result<(), SpecError> {
        self.probe.check(ports)?;
        let (least, most) = PROBE_EVERY;
        check_range("task.health.grace_ms", self.grace_ms.0, 0, MAX_START_UP.0)?;
        check_range("task.health.interval_ms", self.interval_ms.0, least.0, most.0)?;
        let (least, most) = PROBE_WITHIN;
        check_range("task.health.timeout_ms", self.timeout_ms.0, least.0, most.0)?;
        let most = u64::from(MAX_PROBE_FAILURES);
        check_range("task.health.failures", self.failures.into(), 1, most)
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, grace_ms, interval_ms, timeout_ms, failures } = self;
        write!(
            f,
            "{probe}, each {} ms within {} ms, {failures} failures, {} ms to start up",
            interval_ms.0, timeout_ms.0, grace_ms.0
        )
    }
}

/// What is tried to find out whether a task works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// `GET` of a path; an answer of 200 to 399 in time is a success. Redirects are not followed.
    Http {
        /// A name of the task's ports.
        port: PortName,
        /// Begins with a slash.
        path: String,
    },
    /// A connection is accepted in time.
    Tcp {
        /// A name of the task's ports.
        port: PortName,
    },
    /// A program, run beside the task in its container, exits with 0 in time.
    Command(Vec<String>),
}

impl Probe {
    /// The port that it asks, if it asks one.
    #[must_use]
    pub const fn port(&self) -> Option<&PortName> {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } => Some(port),
            Self::Command(_) => None,
        }
    }

    fn check(&self, ports: &[PortName]) -> Result<(), SpecError> {
        if let Some(port) = self.port().filter(|port| !ports.contains(port)) {
            let why = "is no port of the task: name it in task.ports";
            return refuse("task.health.probe.port", port, why);
        }
        match self {
            Self::Http { path, .. } => check_path(path),
            Self::Tcp { .. } => Ok(()),
            Self::Command(words) => check_command(words),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { port, path } => write!(f, "http {port} {}", shorten(path)),
            Self::Tcp { port } => write!(f, "tcp {port}"),
            Self::Command(words) => write!(f, "command {}", shorten(&words.join(" "))),
        }
    }
}

/// It stands in the first line of a request, so nothing may end that line early.
fn check_path(path: &str) -> Result<(), SpecError> {
    const FIELD: &str = "task.health.probe.path";
    if path.len() > MAX_PATH_BYTES {
        return refuse(FIELD, path, format!("is longer than {MAX_PATH_BYTES} bytes"));
    }
    let plain = |c: char| c.is_ascii_graphic() && c != '#';
    if !path.starts_with('/') || !path.chars().all(plain) {
        let why = "is not a path as in \"/healthz\": it begins with a slash, and has printable ASCII only";
        return refuse(FIELD, format!("{path:?}"), why);
    }
    Ok(())
}

fn check_command(words: &[String]) -> Result<(), SpecError> {
    const FIELD: &str = "task.health.probe.command";
    if words.first().is_none_or(String::is_empty) {
        return refuse(FIELD, "[]", "is empty: name the program to run");
    }
    if words.len() > MAX_LIST || words.iter().map(String::len).sum::<usize>() > MAX_TEXT_BYTES {
        let why = format!("is more than {MAX_LIST} words or {MAX_TEXT_BYTES} bytes");
        return refuse(FIELD, format!("{} words", words.len()), why);
    }
    words.iter().try_for_each(|word| check_text(FIELD, word))
}

/// How an incarnation is by its health check.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has no health check, or no process.
    #[default]
    Unchecked,
    /// No probe succeeded yet since it started.
    Starting,
    /// The last probes did not fail too often.
    Healthy,
    /// They did: it is being ended, to be started again.
    Unhealthy,
}

impl Health {
    /// Whether callers may be sent to a task that runs.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Unchecked | Self::Healthy)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "unchecked",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut HealthCheck)) -> String {
        let port: PortName = "http".parse().unwrap();
        let mut check = HealthCheck::new(Probe::Http { port: port.clone(), path: "/h?x=1".into() });
        check.check(std::slice::from_ref(&port)).unwrap();
        change(&mut check);
        check.check(&[port]).unwrap_err().to_string()
    }

    #[test]
    fn every_bound_of_a_check_names_its_field_and_what_is_allowed() {
        let path = |text: &str| {
            let path = text.to_owned();
            refused(|c| c.probe = Probe::Http { port: "http".parse().unwrap(), path })
        };
        for bad in ["", "healthz", "/a b", "/a\r\nHost: x", "/ü", "/a#b"] {
            assert!(path(bad).starts_with("task.health.probe.path: "), "{bad:?}");
        }
        assert!(path(&format!("/{}", "x".repeat(1_024))).contains("longer than 1024 bytes"));
        let unknown = refused(|c| c.probe = Probe::Tcp { port: "htp".parse().unwrap() });
        assert_eq!(
            unknown,
            "task.health.probe.port: htp is no port of the task: name it in task.ports"
        );
        assert_eq!(refused(|c| c.failures = 0), "task.health.failures: 0 is outside 1 to 1000");
        assert!(refused(|c| c.interval_ms = Millis(99)).starts_with("task.health.interval_ms"));
        assert!(refused(|c| c.timeout_ms = Millis(60_001)).starts_with("task.health.timeout_ms"));
        assert!(refused(|c| c.grace_ms = Millis(3_600_001)).starts_with("task.health.grace_ms"));
        assert!(refused(|c| c.probe = Probe::Command(Vec::new())).contains("is empty"));
    }

    #[test]
    fn the_json_form_is_short_and_has_defaults() {
        let text = r#"{"probe": {"http": {"port": "http", "path": "/healthz"}}, "failures": 5}"#;
        let check: HealthCheck = serde_json::from_str(text).unwrap();
        assert_eq!((check.failures, check.interval_ms), (5, Millis(10_000)));
        assert!(serde_json::from_str::<HealthCheck>(r#"{"probe": {"ping": 1}}"#).is_err());
    }
}
