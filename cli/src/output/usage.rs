//! What a task uses and how it is, in the JSON form of answers.

use borg_proto::wire::pb;
use serde::Serialize;

/// What a task uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Usage, documented there")]
pub struct Usage {
    pub cpu_milli: u64,
    pub ram_bytes: u64,
    pub cache_bytes: u64,
    pub disk_bytes: u64,
    pub io_bytes: u64,
    pub io_ops: u64,
    pub threads: u32,
    pub window: Option<Window>,
}

/// What it used in the last five minutes that are over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.UsageWindow, documented there")]
pub struct Window {
    pub since_ms: u64,
    pub cpu_milli: Range,
    pub ram_bytes: Range,
}

/// Percentiles of samples of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.UsageWindow.Range")]
pub struct Range {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

impl From<pb::Usage> for Usage {
    fn from(from: pb::Usage) -> Self {
        Self {
            cpu_milli: from.cpu_milli,
            ram_bytes: from.ram_bytes,
            cache_bytes: from.cache_bytes,
            disk_bytes: from.disk_bytes,
            io_bytes: from.io_bytes,
            io_ops: from.io_ops,
            threads: from.threads,
            window: from.window.map(|window| Window {
                since_ms: window.since_ms,
                cpu_milli: window.cpu_milli.unwrap_or_default().into(),
                ram_bytes: window.ram_bytes.unwrap_or_default().into(),
            }),
        }
    }
}

impl From<pb::usage_window::Range> for Range {
    fn from(from: pb::usage_window::Range) -> Self {
        Self { p50: from.p50, p90: from.p90, p99: from.p99, max: from.max }
    }
}

/// How a task is by its health check, as a word; `None` without one.
#[must_use]
pub fn health(health: pb::Health) -> Option<&'static str> {
    match health {
        pb::Health::Unspecified => None,
        pb::Health::Starting => Some("starting"),
        pb::Health::Healthy => Some("healthy"),
        pb::Health::Unhealthy => Some("unhealthy"),
    }
}
