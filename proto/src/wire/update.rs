//! Updates, and sets of tasks.

use super::command::{Change, request_id};
use super::error::{At, WireError, check_range, each, required};
use super::pb;
use crate::command::Action;
use crate::indexes::{IndexSet, MAX_RANGES};
use crate::names::JobKey;
use crate::spec::MAX_TASKS;
use crate::submitted;
use crate::time::Millis;
use crate::update::{
    DEFAULT_DEADLINE, DEFAULT_MIN_HEALTHY, MAX_DEADLINE, MAX_MIN_HEALTHY, MAX_ORDER, OnFailure,
    Order, Replacement, Revision, Steer, UpdateOptions,
};
use pb::update_job::To;
use std::sync::Arc;

/// A set of indexes, or none, as ranges.
#[must_use]
pub fn write_indexes(set: Option<&IndexSet>) -> Vec<pb::IndexRange> {
    let ranges = set.map(IndexSet::ranges).unwrap_or_default();
    ranges.iter().map(|(first, last)| pb::IndexRange { first: *first, last: *last }).collect()
}

/// A set of indexes from ranges; none of them is no set.
///
/// # Errors
/// When there are too many, or one names what is no task.
pub fn read_indexes(
    field: &str,
    ranges: Vec<pb::IndexRange>,
) -> Result<Option<IndexSet>, WireError> {
    if ranges.is_empty() {
        return Ok(None);
    }
    let range =
        |range: pb::IndexRange| -> Result<(u32, u32), WireError> { Ok((range.first, range.last)) };
    let shown = ranges.len();
    let set = IndexSet::of_ranges(each(field, ranges, MAX_RANGES, range)?);
    set.map(Some).map_err(|error| {
        WireError::new(field, format!("{shown} ranges"), format!("are no set of tasks: {error}"))
    })
}

impl From<Steer> for pb::UpdateVerb {
    fn from(verb: Steer) -> Self {
        match verb {
            Steer::Pause => Self::Pause,
            Steer::Resume => Self::Resume,
            Steer::Undo => Self::Undo,
            Steer::Close => Self::Close,
        }
    }
}

pub(super) fn steer(job: &str, verb: i32) -> Result<Action, WireError> {
    let verb = match pb::UpdateVerb::try_from(verb) {
        Ok(pb::UpdateVerb::Pause) => Steer::Pause,
        Ok(pb::UpdateVerb::Resume) => Steer::Resume,
        Ok(pb::UpdateVerb::Undo) => Steer::Undo,
        Ok(pb::UpdateVerb::Close) => Steer::Close,
        Ok(pb::UpdateVerb::Unspecified) | Err(_) => {
            let why = "is none of pause, resume, undo and close";
            return Err(WireError::new("verb", verb, why));
        }
    };
    Ok(Action::SteerUpdate { job: job.parse().at("job")?, verb })
}

impl From<&UpdateOptions> for pb::UpdateOptions {
    fn from(options: &UpdateOptions) -> Self {
        use pb::update_options::{Listed, Order as Wire};
        Self {
            most: options.most.map(Into::into),
            min_healthy_ms: Some(options.min_healthy_ms.0),
            deadline_ms: Some(options.deadline_ms.0),
            canary: write_indexes(options.canary.as_ref()),
            tasks: write_indexes(options.tasks.as_ref()),
            order: match &options.order {
                Order::Ascending => None,
                Order::Descending => Some(Wire::Descending(true)),
                Order::Random(seed) => Some(Wire::Random(*seed)),
                Order::Listed(indexes) => Some(Wire::Listed(Listed { indexes: indexes.clone() })),
            },
            pause_on_failure: options.on_failure == OnFailure::Pause,
            failures: options.failures,
            close: options.close,
            replacement: match options.replacement {
                Replacement::ForMoves => pb::Replacement::Unspecified,
                Replacement::First => pb::Replacement::First,
                Replacement::InPlace => pb::Replacement::InPlace,
            }
            .into(),
        }
    }
}

/// What depends on the job is checked with it.
impl TryFrom<pb::UpdateOptions> for UpdateOptions {
    type Error = WireError;
    fn try_from(options: pb::UpdateOptions) -> Result<Self, WireError> {
        use pb::update_options::Order as Wire;
        let min_healthy = options.min_healthy_ms.map_or(DEFAULT_MIN_HEALTHY, Millis);
        let deadline = options.deadline_ms.map_or(DEFAULT_DEADLINE, Millis);
        check_range("min_healthy_ms", min_healthy.0, 0, MAX_MIN_HEALTHY.0)?;
        check_range("deadline_ms", deadline.0, 1, MAX_DEADLINE.0)?;
        check_range("failures", options.failures.into(), 0, MAX_TASKS.into())?;
        let index = |index: u32| -> Result<u32, WireError> { Ok(index) };
        Ok(Self {
            most: options.most.map(TryInto::try_into).transpose().at("most")?,
            min_healthy_ms: min_healthy,
            deadline_ms: deadline,
            canary: read_indexes("canary", options.canary)?,
            tasks: read_indexes("tasks", options.tasks)?,
            order: match options.order {
                None | Some(Wire::Descending(false)) => Order::Ascending,
                Some(Wire::Descending(true)) => Order::Descending,
                Some(Wire::Random(seed)) => Order::Random(seed),
                Some(Wire::Listed(listed)) => {
                    Order::Listed(each("order", listed.indexes, MAX_ORDER, index)?)
                }
            },
            on_failure: if options.pause_on_failure {
                OnFailure::Pause
            } else {
                OnFailure::RollBack
            },
            failures: options.failures,
            close: options.close,
            replacement: match pb::Replacement::try_from(options.replacement) {
                Ok(pb::Replacement::Unspecified) => Replacement::ForMoves,
                Ok(pb::Replacement::First) => Replacement::First,
                Ok(pb::Replacement::InPlace) => Replacement::InPlace,
                Err(_) => {
                    let why = "is none of: not said, first, in place";
                    return Err(WireError::new("replacement", options.replacement, why));
                }
            },
        })
    }
}

pub(super) fn write(job: &JobKey, to: &Revision, options: &UpdateOptions) -> pb::UpdateJob {
    let to = match to {
        Revision::Spec(spec) => To::Spec(spec.as_ref().into()),
        Revision::Version(number) => To::Version(*number),
        Revision::Tasks(tasks) => To::Tasks(*tasks),
        Revision::Restart => To::Restart(true),
    };
    pb::UpdateJob { job: job.to_string(), to: Some(to), options: Some(options.into()) }
}

pub(super) fn read(asked: pb::UpdateJob) -> Result<Action, WireError> {
    let to = match required("to", asked.to)? {
        To::Spec(spec) => Revision::Spec(Arc::new(spec.try_into().at("spec")?)),
        To::Version(number) => {
            check_range("version", number.into(), 1, u32::MAX.into())?;
            Revision::Version(number)
        }
        To::Tasks(tasks) => {
            check_range("tasks", tasks.into(), 1, MAX_TASKS.into())?;
            Revision::Tasks(tasks)
        }
        To::Restart(_) => Revision::Restart,
    };
    let options = asked.options.unwrap_or_default().try_into().at("options")?;
    Ok(Action::UpdateJob { job: asked.job.parse().at("job")?, to, options: Box::new(options) })
}

/// What a caller asks a job to become: also checks of a specification what is checked of a new job's.
///
/// # Errors
/// With the field that is out of bounds.
pub fn read_update(asked: Option<pb::UpdateJob>) -> Result<Action, WireError> {
    let action = read(required("update", asked)?)?;
    if let Action::UpdateJob { to: Revision::Spec(spec), .. } = &action {
        submitted::check(spec).map_err(WireError::from).at("spec")?;
    }
    Ok(action)
}

impl TryFrom<pb::UpdateJobRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::UpdateJobRequest) -> Result<Self, WireError> {
        let action = read_update(r.update)?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::SteerUpdateRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SteerUpdateRequest) -> Result<Self, WireError> {
        let action = steer(&r.job, r.verb)?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::StopTasksRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::StopTasksRequest) -> Result<Self, WireError> {
        let (job, tasks) = (r.job.parse().at("job")?, read_indexes("tasks", r.tasks)?);
        let request = request_id("request_id", &r.request_id)?;
        Ok(Self { action: Action::StopTasks { job, tasks }, request })
    }
}

impl TryFrom<pb::StartTasksRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::StartTasksRequest) -> Result<Self, WireError> {
        let (job, tasks) = (r.job.parse().at("job")?, read_indexes("tasks", r.tasks)?);
        let request = request_id("request_id", &r.request_id)?;
        Ok(Self { action: Action::StartTasks { job, tasks }, request })
    }
}
