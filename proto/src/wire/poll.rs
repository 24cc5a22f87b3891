//! The exchange of a link shard and a borglet.

use super::cause::read_run;
use super::data;
use super::error::{At, WireError, check_ordered, check_range, each, port, required};
use super::health::read_health;
use super::package::MAX_BLOBS;
use super::{pb, spec};
use crate::names::{IncarnationId, TaskName};
use crate::package::{MAX_TASK_PACKAGES, Package};
use crate::poll::{
    AnswerStamp, BlobReport, BlobSource, Fence, MachineReport, Percentiles, PollAnswer,
    PollRequest, ReportVersion, StartTime, Target, TargetDigest, TargetTask, TaskReport,
    TaskStatus, Usage, UsageWindow,
};
use crate::spec::{MAX_PORTS, MAX_TASKS};
use crate::task::MAX_CAUSE_BYTES;
use crate::text::{self, MAX_STATUS_LINE_BYTES};
use crate::time::Millis;
use pb::task_report::{BackOff, Ended, Fetching, Starting, Status, Stopping, Up};
use pb::usage_window::Range;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Most incarnations of one machine, in a target or a report: our choice; a machine of the 2019
/// Google trace ran some hundred at most.
pub const MAX_TASKS_PER_MACHINE: usize = 10_000;
/// Longest time that an answer may be held: our choice.
pub const MAX_HOLD: Millis = Millis::from_secs(60);

impl From<&Fence> for pb::Fence {
    fn from(f: &Fence) -> Self {
        Self { epoch: f.epoch, term: f.term, session: f.session, generation: f.generation }
    }
}

impl From<pb::Fence> for Fence {
    fn from(f: pb::Fence) -> Self {
        Self { epoch: f.epoch, term: f.term, session: f.session, generation: f.generation }
    }
}

impl From<&ReportVersion> for pb::ReportVersion {
    fn from(v: &ReportVersion) -> Self {
        Self { session: v.session, number: v.number }
    }
}

impl From<pb::ReportVersion> for ReportVersion {
    fn from(v: pb::ReportVersion) -> Self {
        Self { session: v.session, number: v.number }
    }
}

impl From<&Usage> for pb::Usage {
    fn from(u: &Usage) -> Self {
        Self {
            cpu_milli: u.cpu_milli,
            ram_bytes: u.ram_bytes,
            cache_bytes: u.cache_bytes,
            disk_bytes: u.disk_bytes,
            io_bytes: u.io_bytes,
            io_ops: u.io_ops,
            threads: u.threads,
            window: u.window.as_ref().map(Into::into),
        }
    }
}

impl From<pb::Usage> for Usage {
    fn from(u: pb::Usage) -> Self {
        Self {
            cpu_milli: u.cpu_milli,
            ram_bytes: u.ram_bytes,
            cache_bytes: u.cache_bytes,
            disk_bytes: u.disk_bytes,
            io_bytes: u.io_bytes,
            io_ops: u.io_ops,
            threads: u.threads,
            window: u.window.map(Into::into),
        }
    }
}

impl From<&UsageWindow> for pb::UsageWindow {
    fn from(w: &UsageWindow) -> Self {
        let range = |p: &Percentiles| Range { p50: p.p50, p90: p.p90, p99: p.p99, max: p.max };
        Self {
            since_ms: w.since.0,
            cpu_milli: Some(range(&w.cpu_milli)),
            ram_bytes: Some(range(&w.ram_bytes)),
        }
    }
}

impl From<pb::UsageWindow> for UsageWindow {
    fn from(w: pb::UsageWindow) -> Self {
        let range = |r: Option<Range>| {
            let Range { p50, p90, p99, max } = r.unwrap_or_default();
            Percentiles { p50, p90, p99, max }
        };
        Self {
            since: Millis(w.since_ms),
            cpu_milli: range(w.cpu_milli),
            ram_bytes: range(w.ram_bytes),
        }
    }
}

impl From<&TargetTask> for pb::TargetTask {
    fn from(t: &TargetTask) -> Self {
        Self {
            id: Some((&t.id).into()),
            name: t.name.to_string(),
            tasks: t.tasks,
            spec: Some((&*t.spec).into()),
            ports: t.ports.iter().map(|&port| port.into()).collect(),
            priority: t.priority.get().into(),
            appclass: pb::AppClass::from(t.appclass).into(),
            restart: t.restart,
            exclusive: t.exclusive,
            packages: t.packages.iter().map(|package| (&**package).into()).collect(),
            shared: t.shared.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<pb::TargetTask> for TargetTask {
    type Error = WireError;
    fn try_from(t: pb::TargetTask) -> Result<Self, WireError> {
        let id = incarnation("id", t.id)?;
        let name: TaskName = t.name.parse().at("name")?;
        if name.index != id.task.index {
            return Err(WireError::new("name", &name, format!("does not go with id {id}")));
        }
        check_range("tasks", t.tasks.into(), u64::from(name.index) + 1, MAX_TASKS.into())?;
        let task = Self {
            id,
            name,
            tasks: t.tasks,
            spec: Arc::new(required("spec", t.spec)?.try_into().at("spec")?),
            ports: each("ports", t.ports, MAX_PORTS, port)?,
            priority: spec::priority(t.priority)?,
            appclass: required("appclass", spec::appclass("appclass", t.appclass)?)?,
            restart: t.restart,
            exclusive: t.exclusive,
            packages: each("packages", t.packages, MAX_TASK_PACKAGES + 1, |package| {
                Package::try_from(package).map(Arc::new)
            })?,
            shared: t.shared.map(TryInto::try_into).transpose().at("shared")?,
        };
        if task.ports.len() != task.spec.ports.len() {
            let why = format!("are not one for each of the {} named ports", task.spec.ports.len());
            return Err(WireError::new("ports", format!("{} numbers", task.ports.len()), why));
        }
        let named = usize::from(task.spec.image.is_some()) + task.spec.packages.len();
        if task.packages.len() != named {
            let why = format!("are not one for each of the {named} that the task names");
            return Err(WireError::new(
                "packages",
                format!("{} packages", task.packages.len()),
                why,
            ));
        }
        Ok(task)
    }
}

/// A required incarnation.
pub(super) fn incarnation(
    field: &str,
    id: Option<pb::IncarnationId>,
) -> Result<IncarnationId, WireError> {
    required(field, id)?.try_into().at(field)
}

impl From<&Target> for pb::Target {
    fn from(target: &Target) -> Self {
        Self {
            tasks: target.tasks.iter().map(Into::into).collect(),
            spare: target.spare,
            ends: target.ends.iter().map(Into::into).collect(),
            data: target.data.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Target> for Target {
    type Error = WireError;
    fn try_from(target: pb::Target) -> Result<Self, WireError> {
        let tasks = each("tasks", target.tasks, MAX_TASKS_PER_MACHINE, TargetTask::try_from)?;
        check_ordered("tasks", &tasks, |task| task.id)?;
        let ends = each("ends", target.ends, MAX_TASKS_PER_MACHINE, IncarnationId::try_from)?;
        check_ordered("ends", &ends, |id| *id)?;
        if !ends.is_empty() && !target.spare {
            let many = format!("{} incarnations", ends.len());
            return Err(WireError::new("ends", many, "are named though nothing is spared"));
        }
        let data = data::read_targets(target.data)?;
        Ok(Self { tasks, spare: target.spare, ends, data })
    }
}

impl From<&PollRequest> for pb::PollRequest {
    fn from(r: &PollRequest) -> Self {
        Self {
            cell: r.cell.to_string(),
            machine: r.machine.to_string(),
            fence: Some((&r.fence).into()),
            target: r.target.as_deref().map(Into::into),
            digest: r.digest.0,
            seen: Some((&r.seen).into()),
            hold_ms: r.hold.0,
            lease: r
                .lease
                .map(|stamp| pb::AnswerStamp { session: stamp.session, at_ms: stamp.at.0 }),
            sources: r.sources.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::PollRequest> for PollRequest {
    type Error = WireError;
    fn try_from(r: pb::PollRequest) -> Result<Self, WireError> {
        check_range("hold_ms", r.hold_ms, 0, MAX_HOLD.0)?;
        let sources = each("sources", r.sources, MAX_BLOBS, BlobSource::try_from)?;
        check_ordered("sources", &sources, |source| source.digest)?;
        Ok(Self {
            cell: r.cell.parse().at("cell")?,
            machine: r.machine.parse().at("machine")?,
            fence: required("fence", r.fence)?.into(),
            target: r.target.map(Target::try_from).transpose().at("target")?.map(Arc::new),
            digest: TargetDigest(r.digest),
            seen: r.seen.map_or_else(ReportVersion::default, Into::into),
            hold: Millis(r.hold_ms),
            lease: r.lease.map(|l| AnswerStamp { session: l.session, at: Millis(l.at_ms) }),
            sources,
        })
    }
}

/// An address of a task as it goes over the wire; 0 is none.
#[must_use]
pub fn write_address(address: Option<Ipv4Addr>) -> u32 {
    address.map_or(0, Ipv4Addr::to_bits)
}

/// Reads an address of a task.
#[must_use]
pub fn read_address(address: u32) -> Option<Ipv4Addr> {
    (address != 0).then(|| Ipv4Addr::from_bits(address))
}

impl From<&TaskReport> for pb::TaskReport {
    fn from(r: &TaskReport) -> Self {
        let status = match &r.status {
            TaskStatus::Fetching { have_bytes, bytes, trouble } => Status::Fetching(Fetching {
                have_bytes: *have_bytes,
                bytes: *bytes,
                trouble: trouble.clone(),
            }),
            TaskStatus::Starting => Status::Starting(Starting {}),
            TaskStatus::Up { pid, since } => Status::Up(Up { pid: *pid, since_ms: since.0 }),
            TaskStatus::BackOff { until } => Status::BackOff(BackOff { until_ms: until.0 }),
            TaskStatus::Stopping => Status::Stopping(Stopping {}),
            TaskStatus::Ended { at, failure } => {
                Status::Ended(Ended { at_ms: at.0, failure: failure.as_ref().map(Into::into) })
            }
        };
        Self {
            id: Some((&r.id).into()),
            status: Some(status),
            restarts: r.restarts,
            last_failure: r.last_failure.as_ref().map(Into::into),
            usage: Some((&r.usage).into()),
            ports: r.ports.iter().map(|&port| port.into()).collect(),
            health: pb::Health::from(r.health).into(),
            status_line: r.status_line.clone(),
            last_run: r.last_run.as_deref().map(Into::into),
            start: r.start.map(|start| pb::task_report::StartTime {
                total_ms: start.total.0,
                packages_ms: start.packages.0,
            }),
            address: write_address(r.address),
        }
    }
}

impl TryFrom<pb::TaskReport> for TaskReport {
    type Error = WireError;
    fn try_from(r: pb::TaskReport) -> Result<Self, WireError> {
        let status = match required("status", r.status)? {
            Status::Fetching(Fetching { have_bytes, bytes, trouble }) => {
                // Another machine may have had its say in it: it is made harmless, not refused.
                let trouble = text::one_line(trouble.as_bytes(), MAX_CAUSE_BYTES);
                TaskStatus::Fetching { have_bytes, bytes, trouble }
            }
            Status::Starting(Starting {}) => TaskStatus::Starting,
            Status::Up(Up { pid, since_ms }) => TaskStatus::Up { pid, since: Millis(since_ms) },
            Status::BackOff(BackOff { until_ms }) => {
                TaskStatus::BackOff { until: Millis(until_ms) }
            }
            Status::Stopping(Stopping {}) => TaskStatus::Stopping,
            Status::Ended(Ended { at_ms, failure }) => TaskStatus::Ended {
                at: Millis(at_ms),
                failure: failure.map(TryInto::try_into).transpose().at("ended.failure")?,
            },
        };
        Ok(Self {
            id: incarnation("id", r.id)?,
            status,
            restarts: r.restarts,
            last_failure: r.last_failure.map(TryInto::try_into).transpose().at("last_failure")?,
            usage: r.usage.map_or_else(Usage::default, Into::into),
            ports: each("ports", r.ports, MAX_PORTS, port)?,
            health: read_health("health", r.health)?,
            status_line: text::one_line(r.status_line.as_bytes(), MAX_STATUS_LINE_BYTES),
            last_run: read_run(r.last_run)?,
            start: r.start.map(|start| StartTime {
                total: Millis(start.total_ms),
                packages: Millis(start.packages_ms),
            }),
            address: read_address(r.address),
        })
    }
}

impl From<&MachineReport> for pb::MachineReport {
    fn from(r: &MachineReport) -> Self {
        Self {
            info: Some((&r.info).into()),
            tasks: r.tasks.iter().map(Into::into).collect(),
            blobs: r.blobs.iter().map(Into::into).collect(),
            data: r.data.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::MachineReport> for MachineReport {
    type Error = WireError;
    fn try_from(r: pb::MachineReport) -> Result<Self, WireError> {
        let tasks = each("tasks", r.tasks, MAX_TASKS_PER_MACHINE, TaskReport::try_from)?;
        check_ordered("tasks", &tasks, |task| task.id)?;
        let blobs = each("blobs", r.blobs, MAX_BLOBS, BlobReport::try_from)?;
        check_ordered("blobs", &blobs, |blob| blob.digest)?;
        let info = required("info", r.info)?.try_into().at("info")?;
        Ok(Self { info, tasks, blobs, data: data::read_reports(r.data)? })
    }
}

impl From<&PollAnswer> for pb::PollAnswer {
    fn from(a: &PollAnswer) -> Self {
        Self {
            version: Some((&a.version).into()),
            obeyed: Some((&a.obeyed).into()),
            report: Some((&a.report).into()),
            at_ms: a.at.0,
        }
    }
}

impl TryFrom<pb::PollAnswer> for PollAnswer {
    type Error = WireError;
    fn try_from(a: pb::PollAnswer) -> Result<Self, WireError> {
        Ok(Self {
            version: required("version", a.version)?.into(),
            obeyed: required("obeyed", a.obeyed)?.into(),
            report: required("report", a.report)?.try_into().at("report")?,
            at: Millis(a.at_ms),
        })
    }
}
