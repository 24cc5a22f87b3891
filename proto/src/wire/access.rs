//! Whose tasks may be placed on machines, and machines that take none.

use super::command::{Change, request_id};
use super::error::{WireError, check_line, each};
use super::pb;
use crate::command::Action;
use crate::machine::{MAX_ACCESS_MACHINES, MAX_KEPT_FOR, MAX_REASON_BYTES};
use crate::names::{MachineName, UserName};
use std::collections::BTreeSet;

pub(super) fn texts<T: ToString>(names: impl IntoIterator<Item = T>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

pub(super) fn write_keep(machines: &[MachineName], users: &BTreeSet<UserName>) -> pb::KeepMachines {
    pb::KeepMachines { machines: texts(machines), users: texts(users) }
}

pub(super) fn write_close(machines: &[MachineName], reason: &str) -> pb::CloseMachines {
    pb::CloseMachines { machines: texts(machines), reason: reason.to_owned() }
}

pub(super) fn write_open(machines: &[MachineName]) -> pb::OpenMachines {
    pb::OpenMachines { machines: texts(machines) }
}

fn read_machines(machines: Vec<String>) -> Result<Vec<MachineName>, WireError> {
    if machines.is_empty() {
        return Err(WireError::new("machines", "nothing", "is given: name machines"));
    }
    each("machines", machines, MAX_ACCESS_MACHINES, |name| name.parse())
}

/// Users for whom machines are kept; none means everybody.
///
/// # Errors
/// When there are too many, or one is no user's name.
pub fn read_users(users: Vec<String>) -> Result<BTreeSet<UserName>, WireError> {
    let users: Vec<UserName> = each("users", users, MAX_KEPT_FOR, |name| name.parse())?;
    Ok(users.into_iter().collect())
}

/// Why a machine is closed.
///
/// # Errors
/// When it is empty, too long, or not one line.
pub fn check_reason(reason: &str) -> Result<(), WireError> {
    if reason.trim().is_empty() {
        let why = "is given: say why, for those who find it closed";
        return Err(WireError::new("reason", "nothing", why));
    }
    check_line("reason", reason, MAX_REASON_BYTES)
}

pub(super) fn keep(keep: pb::KeepMachines) -> Result<Action, WireError> {
    Ok(Action::KeepMachines {
        machines: read_machines(keep.machines)?,
        users: read_users(keep.users)?,
    })
}

pub(super) fn close(close: pb::CloseMachines) -> Result<Action, WireError> {
    check_reason(&close.reason)?;
    Ok(Action::CloseMachines { machines: read_machines(close.machines)?, reason: close.reason })
}

pub(super) fn open(open: pb::OpenMachines) -> Result<Action, WireError> {
    Ok(Action::OpenMachines { machines: read_machines(open.machines)? })
}

impl TryFrom<pb::KeepMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::KeepMachinesRequest) -> Result<Self, WireError> {
        if r.users.is_empty() != r.everybody {
            let (value, why) = match r.everybody {
                true => ("users and everybody", "are given: name users, or say everybody"),
                false => ("nobody", "is named: name users, or say everybody"),
            };
            return Err(WireError::new("users", value, why));
        }
        let action = keep(pb::KeepMachines { machines: r.machines, users: r.users })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::CloseMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::CloseMachinesRequest) -> Result<Self, WireError> {
        let action = close(pb::CloseMachines { machines: r.machines, reason: r.reason })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::OpenMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::OpenMachinesRequest) -> Result<Self, WireError> {
        let action = open(pb::OpenMachines { machines: r.machines })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
