//! Cron jobs: their schedules, and what is done to them.

use super::error::{At, WireError};
use super::pb;
use super::spec::known;
use crate::command::{Action, CronOrder};
use crate::cron::{CatchUp, Cron, Overlap, Schedule};
use crate::spec::MAX_TASKS;
use crate::time::Millis;

impl From<&Cron> for pb::Cron {
    fn from(cron: &Cron) -> Self {
        Self {
            schedule: cron.schedule.to_string(),
            overlap: match cron.overlap {
                Overlap::Forbid => pb::CronOverlap::Unspecified,
                Overlap::Allow => pb::CronOverlap::Allow,
                Overlap::Replace => pb::CronOverlap::Replace,
            }
            .into(),
            catch_up: match cron.catch_up {
                CatchUp::Last => pb::CronCatchUp::Unspecified,
                CatchUp::None => pb::CronCatchUp::None,
                CatchUp::All => pb::CronCatchUp::All,
            }
            .into(),
            start_by_ms: cron.start_by_ms.map(|by| by.0),
            keep_finished: cron.keep_finished,
            keep_failed: cron.keep_failed,
        }
    }
}

impl TryFrom<pb::Cron> for Cron {
    type Error = WireError;
    fn try_from(cron: pb::Cron) -> Result<Self, WireError> {
        let schedule = cron.schedule.parse::<Schedule>();
        Ok(Self {
            schedule: schedule.map_err(|why| {
                WireError::new("schedule", &cron.schedule, format!("is no schedule: {why}"))
            })?,
            overlap: match known("overlap", cron.overlap)? {
                pb::CronOverlap::Unspecified => Overlap::Forbid,
                pb::CronOverlap::Allow => Overlap::Allow,
                pb::CronOverlap::Replace => Overlap::Replace,
            },
            catch_up: match known("catch_up", cron.catch_up)? {
                pb::CronCatchUp::Unspecified => CatchUp::Last,
                pb::CronCatchUp::None => CatchUp::None,
                pb::CronCatchUp::All => CatchUp::All,
            },
            start_by_ms: cron.start_by_ms.map(Millis),
            keep_finished: cron.keep_finished,
            keep_failed: cron.keep_failed,
        })
    }
}

pub(super) fn write_order(job: &crate::JobKey, order: CronOrder) -> pb::OrderCron {
    let order = match order {
        CronOrder::Pause => pb::CronOrder::Pause,
        CronOrder::Resume => pb::CronOrder::Resume,
        CronOrder::Run => pb::CronOrder::Run,
    };
    pb::OrderCron { job: job.to_string(), order: order.into() }
}

pub(super) fn order(order: &pb::OrderCron) -> Result<Action, WireError> {
    let wanted = match known("order", order.order)? {
        pb::CronOrder::Pause => CronOrder::Pause,
        pb::CronOrder::Resume => CronOrder::Resume,
        pb::CronOrder::Run => CronOrder::Run,
        pb::CronOrder::Unspecified => {
            return Err(WireError::new("order", "nothing", "is given: pause, resume or run"));
        }
    };
    Ok(Action::OrderCron { job: order.job.parse().at("job")?, order: wanted })
}

pub(super) fn rerun(rerun: &pb::RerunJob) -> Result<Action, WireError> {
    if rerun.tasks.is_empty() {
        return Err(WireError::new("tasks", "nothing", "is given: name the tasks to run again"));
    }
    let tasks = super::error::each("tasks", rerun.tasks.clone(), MAX_TASKS as usize, |index| {
        super::error::check_range("", index.into(), 0, (MAX_TASKS - 1).into()).map(|()| index)
    })?;
    Ok(Action::Rerun { job: rerun.job.parse().at("job")?, tasks })
}
