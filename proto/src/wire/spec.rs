//! Job specifications and resources.
//!
//! Reading a specification also runs [`JobSpec::check`], so paths are the same as those that
//! `borgctl` shows before it sends anything.

use super::error::{At, WireError, check_len, check_line, check_range, each, required};
use super::update::{read_indexes, write_indexes};
use super::{pb, privilege};
use crate::names::MAX_NAME_BYTES;
use crate::network::Network;
use crate::package::MAX_TASK_PACKAGES;
use crate::priority::{AppClass, Priority};
use crate::resources::Resources;
use crate::spec::{
    Constraint, ConstraintOp, JobKind, JobSpec, MAX_BYTES, MAX_CPU_MILLI, MAX_LIST, MAX_PORTS,
    MAX_SPEC_BYTES, MAX_TASK_LABELS, MemoryLimit, SpecError, Spread, TaskLabels, TaskSpec, Volume,
};
use crate::time::Millis;
use prost::Message;
use std::sync::Arc;

/// Most of one device on a machine or in a task, in thousandths: a thousand whole ones.
const MAX_DEVICE: u64 = 1_000_000;
/// Every TCP port there is.
const ALL_PORTS: u64 = 65_536;

impl From<&Resources> for pb::Resources {
    fn from(r: &Resources) -> Self {
        Self {
            cpu_milli: r.cpu_milli,
            ram_bytes: r.ram_bytes,
            disk_bytes: r.disk_bytes,
            ports: r.ports,
            devices: r.devices.iter().map(|(name, amount)| (name.to_string(), *amount)).collect(),
        }
    }
}

impl TryFrom<pb::Resources> for Resources {
    type Error = WireError;
    fn try_from(r: pb::Resources) -> Result<Self, WireError> {
        check_range("cpu_milli", r.cpu_milli, 0, MAX_CPU_MILLI)?;
        check_range("ram_bytes", r.ram_bytes, 0, MAX_BYTES)?;
        check_range("disk_bytes", r.disk_bytes, 0, MAX_BYTES)?;
        check_range("ports", r.ports.into(), 0, ALL_PORTS)?;
        check_len("devices", r.devices.len(), MAX_LIST)?;
        for (name, amount) in &r.devices {
            check_line("devices", name, MAX_NAME_BYTES)?;
            if name.is_empty() {
                return Err(WireError::new(
                    "devices",
                    "\"\"",
                    "is not a device's name: it is empty",
                ));
            }
            check_range(&format!("devices.{name}"), *amount, 1, MAX_DEVICE)?;
        }
        Ok(Self {
            cpu_milli: r.cpu_milli,
            ram_bytes: r.ram_bytes,
            disk_bytes: r.disk_bytes,
            ports: r.ports,
            devices: r.devices.into_iter().map(|(name, amount)| (name.into(), amount)).collect(),
        })
    }
}

impl From<JobKind> for pb::JobKind {
    fn from(kind: JobKind) -> Self {
        match kind {
            JobKind::Service => Self::Service,
            JobKind::Batch => Self::Batch,
            JobKind::AllocSet => Self::AllocSet,
            JobKind::Daemon => Self::Daemon,
            JobKind::Cron => Self::Cron,
        }
    }
}

impl TryFrom<pb::JobKind> for JobKind {
    type Error = WireError;
    fn try_from(kind: pb::JobKind) -> Result<Self, WireError> {
        match kind {
            pb::JobKind::Service => Ok(Self::Service),
            pb::JobKind::Batch => Ok(Self::Batch),
            pb::JobKind::AllocSet => Ok(Self::AllocSet),
            pb::JobKind::Daemon => Ok(Self::Daemon),
            pb::JobKind::Cron => Ok(Self::Cron),
            pb::JobKind::Unspecified => {
                let why = "is given: service, batch, alloc_set, daemon or cron";
                Err(WireError::new("", "nothing", why))
            }
        }
    }
}

impl From<MemoryLimit> for pb::MemoryLimit {
    fn from(limit: MemoryLimit) -> Self {
        match limit {
            MemoryLimit::Hard => Self::Unspecified,
            MemoryLimit::Soft => Self::Soft,
        }
    }
}

impl From<pb::MemoryLimit> for MemoryLimit {
    fn from(limit: pb::MemoryLimit) -> Self {
        match limit {
            pb::MemoryLimit::Unspecified => Self::Hard,
            pb::MemoryLimit::Soft => Self::Soft,
        }
    }
}

impl From<Network> for pb::Network {
    fn from(network: Network) -> Self {
        match network {
            Network::Host => Self::Unspecified,
            Network::Own => Self::Own,
        }
    }
}

impl From<pb::Network> for Network {
    fn from(network: pb::Network) -> Self {
        match network {
            pb::Network::Unspecified => Self::Host,
            pb::Network::Own => Self::Own,
        }
    }
}

impl From<AppClass> for pb::AppClass {
    fn from(class: AppClass) -> Self {
        match class {
            AppClass::LatencySensitive => Self::LatencySensitive,
            AppClass::Batch => Self::Batch,
        }
    }
}

/// Reads an appclass; unspecified is `None`.
pub(super) fn appclass(field: &str, value: i32) -> Result<Option<AppClass>, WireError> {
    Ok(match known(field, value)? {
        pb::AppClass::Unspecified => None,
        pb::AppClass::LatencySensitive => Some(AppClass::LatencySensitive),
        pb::AppClass::Batch => Some(AppClass::Batch),
    })
}

/// An enumeration's value that this build knows.
pub(super) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, WireError> {
    T::try_from(value)
        .map_err(|_| WireError::new(field, value, "is not a value that this version knows"))
}

/// A priority that somebody sent.
pub(super) fn priority(value: u32) -> Result<Priority, WireError> {
    Priority::new(value.into()).at("priority")
}

impl From<ConstraintOp> for pb::ConstraintOp {
    fn from(op: ConstraintOp) -> Self {
        match op {
            ConstraintOp::Equal => Self::Equal,
            ConstraintOp::NotEqual => Self::NotEqual,
            ConstraintOp::Less => Self::Less,
            ConstraintOp::LessEqual => Self::LessEqual,
            ConstraintOp::Greater => Self::Greater,
            ConstraintOp::GreaterEqual => Self::GreaterEqual,
            ConstraintOp::Present => Self::Present,
            ConstraintOp::Absent => Self::Absent,
            ConstraintOp::In => Self::In,
        }
    }
}

impl TryFrom<pb::ConstraintOp> for ConstraintOp {
    type Error = WireError;
    fn try_from(op: pb::ConstraintOp) -> Result<Self, WireError> {
        Ok(match op {
            pb::ConstraintOp::Equal => Self::Equal,
            pb::ConstraintOp::NotEqual => Self::NotEqual,
            pb::ConstraintOp::Less => Self::Less,
            pb::ConstraintOp::LessEqual => Self::LessEqual,
            pb::ConstraintOp::Greater => Self::Greater,
            pb::ConstraintOp::GreaterEqual => Self::GreaterEqual,
            pb::ConstraintOp::Present => Self::Present,
            pb::ConstraintOp::Absent => Self::Absent,
            pb::ConstraintOp::In => Self::In,
            pb::ConstraintOp::Unspecified => {
                return Err(WireError::new("", "nothing", "is given: name a comparison"));
            }
        })
    }
}

impl From<&Constraint> for pb::Constraint {
    fn from(c: &Constraint) -> Self {
        Self {
            attribute: c.attribute.clone(),
            op: pb::ConstraintOp::from(c.op).into(),
            values: c.values.clone(),
            soft: c.soft,
        }
    }
}

impl TryFrom<pb::Constraint> for Constraint {
    type Error = WireError;
    fn try_from(c: pb::Constraint) -> Result<Self, WireError> {
        let op: pb::ConstraintOp = known("op", c.op)?;
        Ok(Self {
            attribute: c.attribute,
            op: op.try_into().at("op")?,
            values: c.values,
            soft: c.soft,
        })
    }
}

impl From<&TaskSpec> for pb::TaskSpec {
    fn from(t: &TaskSpec) -> Self {
        let spread = |s: &Spread| pb::Spread { attribute: s.attribute.clone(), max: s.max };
        let volume = |v: &Volume| pb::Volume { path: v.path.clone(), writable: v.writable };
        Self {
            command: t.command.clone(),
            env: t.env.clone(),
            limit: Some((&t.limit).into()),
            ports: t.ports.iter().map(ToString::to_string).collect(),
            constraints: t.constraints.iter().map(Into::into).collect(),
            spread: t.spread.iter().map(spread).collect(),
            volumes: t.volumes.iter().map(volume).collect(),
            grace_ms: t.grace_ms.0,
            memory: pb::MemoryLimit::from(t.memory).into(),
            cpu_cap_milli: t.cpu_cap_milli,
            health: t.health.as_ref().map(Into::into),
            image: t.image.as_ref().map(ToString::to_string).unwrap_or_default(),
            packages: t.packages.iter().map(ToString::to_string).collect(),
            network: pb::Network::from(t.network).into(),
            loosen: privilege::write_all(&t.loosen),
            keeps_limit: !t.reclaim,
        }
    }
}

/// Reads a task's part without its bounds, which the caller checks.
fn unchecked(t: pb::TaskSpec) -> Result<TaskSpec, WireError> {
    Ok(TaskSpec {
        command: t.command,
        env: t.env,
        limit: required("limit", t.limit)?.try_into().at("limit")?,
        ports: each("ports", t.ports, MAX_PORTS, |p| p.parse())?,
        constraints: each("constraints", t.constraints, MAX_LIST, Constraint::try_from)?,
        spread: t
            .spread
            .into_iter()
            .map(|s| Spread { attribute: s.attribute, max: s.max })
            .collect(),
        volumes: t
            .volumes
            .into_iter()
            .map(|v| Volume { path: v.path, writable: v.writable })
            .collect(),
        grace_ms: Millis(t.grace_ms),
        memory: known::<pb::MemoryLimit>("memory", t.memory)?.into(),
        cpu_cap_milli: t.cpu_cap_milli,
        health: t.health.map(TryInto::try_into).transpose().at("health")?,
        image: (!t.image.is_empty()).then(|| t.image.parse()).transpose().at("image")?,
        packages: each("packages", t.packages, MAX_TASK_PACKAGES, |package| package.parse())?,
        network: known::<pb::Network>("network", t.network)?.into(),
        loosen: privilege::read_all("loosen", t.loosen)?,
        reclaim: !t.keeps_limit,
    })
}

impl TryFrom<pb::TaskSpec> for TaskSpec {
    type Error = WireError;
    fn try_from(t: pb::TaskSpec) -> Result<Self, WireError> {
        check_size(t.encoded_len())?;
        let task = unchecked(t)?;
        // The check names fields from the job's point of view.
        task.check().map_err(|SpecError { field, value, why }| WireError {
            field: field.strip_prefix("task.").unwrap_or(&field).to_owned(),
            value,
            why,
        })?;
        Ok(task)
    }
}

impl From<&JobSpec> for pb::JobSpec {
    fn from(j: &JobSpec) -> Self {
        Self {
            name: j.name.to_string(),
            kind: pb::JobKind::from(j.kind).into(),
            tasks: j.tasks,
            priority: j.priority.get().into(),
            appclass: j.appclass.map_or(pb::AppClass::Unspecified, Into::into).into(),
            task: Some((&*j.task).into()),
            after: j.after.iter().map(ToString::to_string).collect(),
            retries: j.retries,
            exclusive: j.exclusive,
            alloc_set: j.alloc_set.as_ref().map(ToString::to_string).unwrap_or_default(),
            gang: j.gang,
            concurrent: j.concurrent,
            parent: j.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            max_failures: j.max_failures,
            timeout_ms: j.timeout_ms.map(|time| time.0),
            deadline_ms: j.deadline_ms.map(|time| time.0),
            cron: j.cron.as_ref().map(Into::into),
            labels: j.labels.clone(),
            disruption: j.disruption.as_ref().map(Into::into),
            task_labels: j.task_labels.iter().map(write_task_labels).collect(),
            keep_data_ms: j.keep_data_ms.map_or(0, |time| time.0),
            rescue: j.rescue,
        }
    }
}

impl TryFrom<pb::JobSpec> for JobSpec {
    type Error = WireError;
    fn try_from(j: pb::JobSpec) -> Result<Self, WireError> {
        check_size(j.encoded_len())?;
        let alloc_set = (!j.alloc_set.is_empty()).then(|| j.alloc_set.parse().at("alloc_set"));
        let kind: pb::JobKind = known("kind", j.kind)?;
        let spec = Self {
            name: j.name.parse().at("name")?,
            kind: kind.try_into().at("kind")?,
            tasks: j.tasks,
            priority: priority(j.priority)?,
            appclass: appclass("appclass", j.appclass)?,
            task: Arc::new(unchecked(required("task", j.task)?).at("task")?),
            after: each("after", j.after, MAX_LIST, |job| job.parse())?,
            retries: j.retries,
            exclusive: j.exclusive,
            alloc_set: alloc_set.transpose()?,
            gang: j.gang,
            concurrent: j.concurrent,
            parent: (!j.parent.is_empty()).then(|| j.parent.parse()).transpose().at("parent")?,
            max_failures: j.max_failures,
            timeout_ms: j.timeout_ms.map(Millis),
            deadline_ms: j.deadline_ms.map(Millis),
            cron: j.cron.map(TryInto::try_into).transpose().at("cron")?,
            labels: j.labels,
            disruption: j.disruption.map(TryInto::try_into).transpose().at("disruption")?,
            task_labels: each("task_labels", j.task_labels, MAX_TASK_LABELS, read_task_labels)?,
            keep_data_ms: (j.keep_data_ms > 0).then_some(Millis(j.keep_data_ms)),
            rescue: j.rescue,
        };
        spec.check()?;
        Ok(spec)
    }
}

fn check_size(bytes: usize) -> Result<(), WireError> {
    if bytes <= MAX_SPEC_BYTES {
        return Ok(());
    }
    Err(WireError::new(
        "",
        format!("{bytes} bytes"),
        format!("is larger than a specification may be, {MAX_SPEC_BYTES}"),
    ))
}

fn write_task_labels(some: &TaskLabels) -> pb::TaskLabels {
    pb::TaskLabels {
        tasks: write_indexes(Some(&some.tasks)),
        labels: some.labels.clone().into_iter().collect(),
    }
}

/// What labels may be is checked with the job.
fn read_task_labels(some: pb::TaskLabels) -> Result<TaskLabels, WireError> {
    let tasks = required("tasks", read_indexes("tasks", some.tasks)?)?;
    Ok(TaskLabels { tasks, labels: some.labels.into_iter().collect() })
}
