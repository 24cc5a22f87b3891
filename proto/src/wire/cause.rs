//! Incarnations and why they failed.

use super::error::{At, WireError, check_range, port};
use super::pb;
use crate::names::{IncarnationId, JobId, ReplicaId, TaskId};
use crate::spec::MAX_TASKS;
use crate::task::{FailureCause, RunEnd, Shortage};
use crate::text::{self, MAX_LAST_LINES_BYTES};
use crate::time::Millis;
use pb::failure_cause::{Kind, OutOfMemory, OverLimit};
use std::sync::Arc;

impl From<&IncarnationId> for pb::IncarnationId {
    fn from(id: &IncarnationId) -> Self {
        Self { job: id.task.job.0, index: id.task.index, number: id.number }
    }
}

impl TryFrom<pb::IncarnationId> for IncarnationId {
    type Error = WireError;
    fn try_from(id: pb::IncarnationId) -> Result<Self, WireError> {
        check_range("number", id.number.into(), 1, u32::MAX.into())?;
        Ok(Self { task: task_id(id.job, id.index)?, number: id.number })
    }
}

/// A task's slot from its parts.
pub(super) fn task_id(job: u64, index: u32) -> Result<TaskId, WireError> {
    check_range("index", index.into(), 0, (MAX_TASKS - 1).into())?;
    Ok(TaskId { job: JobId(job), index })
}

/// A replica's number: 1 and up.
pub(super) fn replica(value: u64) -> Result<ReplicaId, WireError> {
    check_range("", value, 1, u64::MAX)?;
    Ok(ReplicaId(value))
}

impl From<&RunEnd> for pb::RunEnd {
    fn from(end: &RunEnd) -> Self {
        Self {
            run: end.run,
            started_ms: end.started.map(|at| at.0),
            ended_ms: end.ended.0,
            failure: end.failure.as_ref().map(Into::into),
            cpu_ms: end.cpu_ms,
            ram_peak_bytes: end.ram_peak_bytes,
            last_lines: end.last_lines.clone(),
        }
    }
}

impl TryFrom<pb::RunEnd> for RunEnd {
    type Error = WireError;
    fn try_from(end: pb::RunEnd) -> Result<Self, WireError> {
        Ok(Self {
            run: end.run,
            started: end.started_ms.map(Millis),
            ended: Millis(end.ended_ms),
            failure: end.failure.map(TryInto::try_into).transpose().at("failure")?,
            cpu_ms: end.cpu_ms,
            ram_peak_bytes: end.ram_peak_bytes,
            // A machine's text: it is cut and made harmless, not refused.
            last_lines: text::last_lines(end.last_lines.as_bytes(), MAX_LAST_LINES_BYTES),
        })
    }
}

/// How a run ended, where that is told.
pub(super) fn read_run(end: Option<pb::RunEnd>) -> Result<Option<Arc<RunEnd>>, WireError> {
    end.map(RunEnd::try_from).transpose().at("run").map(|end| end.map(Arc::new))
}

impl From<&FailureCause> for pb::FailureCause {
    fn from(cause: &FailureCause) -> Self {
        let kind = match cause {
            FailureCause::Exit { code } => Kind::ExitCode(*code),
            FailureCause::Signal { signal } => Kind::Signal(*signal),
            FailureCause::OutOfMemory { limit_bytes, peak_bytes } => {
                Kind::OutOfMemory(OutOfMemory {
                    limit_bytes: *limit_bytes,
                    peak_bytes: *peak_bytes,
                })
            }
            FailureCause::Start { why } => Kind::Start(why.clone()),
            FailureCause::PortTaken { port } => Kind::PortTaken((*port).into()),
            FailureCause::NoAddress => Kind::NoAddress(true),
            FailureCause::Lost => Kind::Lost(true),
            FailureCause::Fenced => Kind::Fenced(true),
            FailureCause::DiskLimit { limit_bytes, used_bytes } => {
                Kind::DiskLimit(OverLimit { limit: *limit_bytes, used: *used_bytes })
            }
            FailureCause::FileLimit { limit, used } => {
                Kind::FileLimit(OverLimit { limit: *limit, used: *used })
            }
            FailureCause::Short { of, limit_bytes, used_bytes } => {
                let over = OverLimit { limit: *limit_bytes, used: *used_bytes };
                match of {
                    Shortage::Memory => Kind::MemoryShort(over),
                    Shortage::Disk => Kind::DiskShort(over),
                }
            }
            FailureCause::Unhealthy { why } => Kind::Unhealthy(why.clone()),
            FailureCause::Packages { why } => Kind::Packages(why.clone()),
            FailureCause::Timeout { after } => Kind::TimeoutMs(after.0),
            FailureCause::Deadline { after } => Kind::DeadlineMs(after.0),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::FailureCause> for FailureCause {
    type Error = WireError;
    fn try_from(cause: pb::FailureCause) -> Result<Self, WireError> {
        Ok(match super::error::required("kind", cause.kind)? {
            Kind::ExitCode(code) => Self::Exit { code },
            Kind::Signal(signal) => Self::Signal { signal },
            Kind::OutOfMemory(OutOfMemory { limit_bytes, peak_bytes }) => {
                Self::OutOfMemory { limit_bytes, peak_bytes }
            }
            // A machine's text may be of any length: it is cut, not refused.
            Kind::Start(why) => Self::start(&why),
            Kind::PortTaken(value) => Self::PortTaken { port: port(value).at("port_taken")? },
            Kind::NoAddress(true) => Self::NoAddress,
            Kind::Lost(true) => Self::Lost,
            Kind::Fenced(true) => Self::Fenced,
            Kind::DiskLimit(OverLimit { limit, used }) => {
                Self::DiskLimit { limit_bytes: limit, used_bytes: used }
            }
            Kind::FileLimit(OverLimit { limit, used }) => Self::FileLimit { limit, used },
            Kind::MemoryShort(over) => short(Shortage::Memory, over),
            Kind::DiskShort(over) => short(Shortage::Disk, over),
            Kind::Unhealthy(why) => Self::unhealthy(&why),
            Kind::Packages(why) => Self::packages(&why),
            Kind::TimeoutMs(after) => Self::Timeout { after: Millis(after) },
            Kind::DeadlineMs(after) => Self::Deadline { after: Millis(after) },
            Kind::Fenced(false) => return Err(WireError::new("fenced", "false", "is never sent")),
            Kind::NoAddress(false) => {
                return Err(WireError::new("no_address", "false", "is never sent"));
            }
            Kind::Lost(false) => return Err(WireError::new("lost", "false", "is never sent")),
        })
    }
}

fn short(of: Shortage, over: OverLimit) -> FailureCause {
    FailureCause::Short { of, limit_bytes: over.limit, used_bytes: over.used }
}
