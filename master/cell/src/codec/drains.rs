//! Machines that are emptied and maintenances in a checkpoint, and refusals about them as kinds, numbers and
//! texts.

use super::outcome::Fields;
use super::quota;
use crate::rejection::DrainRejection as D;
use crate::state::{Blocked, CellState, Drain, MAX_MAINTENANCES, Maintenance};
use borg_proto::machine::MAX_DRAIN_MACHINES;
use borg_proto::names::NameError;
use borg_proto::wire::{WireError, check_at_once, check_drain_time, check_reason, pb};
use borg_proto::{MachineId, Millis, TaskId, UserName};
use std::sync::Arc;

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 260..=269;

pub(super) fn refusal(of: &D) -> (u32, Vec<u64>, Vec<String>) {
    let id = |task: &TaskId| vec![task.job.0, task.index.into()];
    match of {
        D::Budget { task, blocked: Blocked::Down { job, down, most } } => {
            let numbers = [id(task), vec![(*down).into(), (*most).into()]].concat();
            (260, numbers, vec![job.to_string()])
        }
        D::Budget { task, blocked: Blocked::Rate { job, tasks, per, until } } => {
            let numbers = [id(task), vec![(*tasks).into(), per.0, until.0]].concat();
            (261, numbers, vec![job.to_string()])
        }
        D::SafeMode { task } => (262, id(task), vec![]),
        D::TooLittleLeft { left, of, short: None } => {
            (263, vec![(*left).into(), (*of).into()], vec![])
        }
        D::TooLittleLeft { left, of, short: Some((free, asked, short)) } => {
            let (dimension, device) = quota::dimension_number(short);
            let numbers = vec![(*left).into(), (*of).into(), *free, *asked, dimension];
            (264, numbers, vec![device.to_owned()])
        }
        D::OtherLeft { left, of, known } => {
            (265, vec![(*left).into(), (*of).into(), (*known).into()], vec![])
        }
        D::NoSuchMaintenance { number } => (266, vec![*number], vec![]),
        D::HasSuccessor { task } => (267, id(task), vec![]),
        D::Preparing { task, job, most } => {
            (268, [id(task), vec![(*most).into()]].concat(), vec![job.to_string()])
        }
        D::SameMachine { task, machine } => (269, id(task), vec![machine.to_string()]),
    }
}

pub(super) fn read(kind: u32, from: &mut Fields) -> Result<D, WireError> {
    Ok(match kind {
        260 => {
            let task = from.task()?;
            let (down, most) = (from.small()?, from.small()?);
            D::Budget { task, blocked: Blocked::Down { job: from.name()?, down, most } }
        }
        261 => {
            let (task, tasks) = (from.task()?, from.small()?);
            let (per, until) = (Millis(from.number()?), Millis(from.number()?));
            D::Budget { task, blocked: Blocked::Rate { job: from.name()?, tasks, per, until } }
        }
        262 => D::SafeMode { task: from.task()? },
        263 => D::TooLittleLeft { left: from.small()?, of: from.small()?, short: None },
        264 => {
            let (left, of) = (from.small()?, from.small()?);
            let (free, asked) = (from.number()?, from.number()?);
            let short = Some((free, asked, from.dimension()?));
            D::TooLittleLeft { left, of, short }
        }
        265 => D::OtherLeft { left: from.small()?, of: from.small()?, known: from.small()? },
        266 => D::NoSuchMaintenance { number: from.number()? },
        267 => D::HasSuccessor { task: from.task()? },
        268 => {
            let (task, most) = (from.task()?, from.small()?);
            D::Preparing { task, job: from.name()?, most }
        }
        269 => D::SameMachine { task: from.task()?, machine: from.name()? },
        other => return Err(WireError::new("kind", other, "is no refusal about drained machines")),
    })
}

fn user(text: &str) -> Result<UserName, WireError> {
    text.parse().map_err(|error: NameError| WireError::from(error).within("by"))
}

pub(super) fn write(drain: &Drain) -> pb::CheckpointDrain {
    pb::CheckpointDrain {
        since_ms: drain.since.0,
        by: drain.by.to_string(),
        reason: drain.reason.clone(),
        deadline_ms: drain.deadline.0,
        empty_since_ms: drain.empty_since.map(|at| at.0),
        ending_until_ms: drain.ending_until.0,
        moved: drain.moved,
        forced: drain.forced,
        boot: drain.boot.as_deref().map(Into::into),
        maintenance: drain.maintenance.unwrap_or(0),
    }
}

pub(super) fn read_drain(drain: pb::CheckpointDrain) -> Result<Drain, WireError> {
    check_reason(&drain.reason)?;
    Ok(Drain {
        since: Millis(drain.since_ms),
        by: user(&drain.by)?,
        reason: drain.reason,
        deadline: Millis(drain.deadline_ms),
        empty_since: drain.empty_since_ms.map(Millis),
        ending_until: Millis(drain.ending_until_ms),
        moved: drain.moved,
        forced: drain.forced,
        boot: drain.boot.map(Into::into),
        maintenance: Some(drain.maintenance).filter(|number| *number > 0),
    })
}

pub(super) fn write_maintenance(of: &Maintenance) -> pb::CheckpointMaintenance {
    pb::CheckpointMaintenance {
        number: of.number,
        since_ms: of.since.0,
        by: of.by.to_string(),
        reason: of.reason.clone(),
        at_once: of.at_once,
        within_ms: of.within.0,
        left: of.left.iter().map(|id| id.0).collect(),
        done: of.done,
    }
}

pub(super) fn read_maintenances(
    state: &mut CellState,
    all: Vec<pb::CheckpointMaintenance>,
    last: u64,
) -> Result<(), WireError> {
    state.last_maintenance = last;
    if all.len() > MAX_MAINTENANCES {
        let many = format!("{} entries", all.len());
        return Err(WireError::new(
            "maintenances",
            many,
            format!("are more than {MAX_MAINTENANCES}"),
        ));
    }
    for (i, one) in all.into_iter().enumerate() {
        let read = read_maintenance(one).map_err(|e| e.within(&format!("maintenances[{i}]")))?;
        state.maintenances.insert(read.number, Arc::new(read));
    }
    Ok(())
}

fn read_maintenance(of: pb::CheckpointMaintenance) -> Result<Maintenance, WireError> {
    check_reason(&of.reason)?;
    check_at_once(of.at_once)?;
    check_drain_time(Millis(of.within_ms))?;
    if of.left.len() > MAX_DRAIN_MACHINES {
        let why = format!("are more than {MAX_DRAIN_MACHINES}");
        return Err(WireError::new("left", format!("{} machines", of.left.len()), why));
    }
    Ok(Maintenance {
        number: of.number,
        since: Millis(of.since_ms),
        by: user(&of.by)?,
        reason: of.reason,
        at_once: of.at_once,
        within: Millis(of.within_ms),
        left: of.left.into_iter().map(MachineId).collect(),
        done: of.done,
    })
}
