//! Machines that are emptied for maintenance.

use super::access::{check_reason, texts};
use super::command::{Change, request_id};
use super::error::{WireError, check_range, each};
use super::pb;
use crate::command::Action;
use crate::machine::{MAX_DRAIN_MACHINES, MAX_DRAIN_TIME};
use crate::names::MachineName;
use crate::time::Millis;

pub(super) fn write(
    machines: &[MachineName],
    reason: &str,
    within: Millis,
    at_once: Option<u32>,
    leaves: Option<u32>,
) -> pb::DrainMachines {
    let (machines, reason) = (texts(machines), reason.to_owned());
    pb::DrainMachines { machines, reason, within_ms: within.0, at_once, leaves }
}

pub(super) fn write_undrain(machines: &[MachineName]) -> pb::UndrainMachines {
    pb::UndrainMachines { machines: texts(machines) }
}

fn read_machines(machines: Vec<String>) -> Result<Vec<MachineName>, WireError> {
    if machines.is_empty() {
        return Err(WireError::new("machines", "nothing", "is given: name machines"));
    }
    each("machines", machines, MAX_DRAIN_MACHINES, |name| name.parse())
}

/// How many machines a maintenance takes out of service at most at a time.
///
/// # Errors
/// When it is 0, or more than a maintenance may name.
pub fn check_at_once(at_once: u32) -> Result<(), WireError> {
    check_range("at_once", at_once.into(), 1, MAX_DRAIN_MACHINES as u64)
}

/// How long a machine may take to become empty.
///
/// # Errors
/// When it is longer than [`MAX_DRAIN_TIME`].
pub fn check_drain_time(within: Millis) -> Result<(), WireError> {
    check_range("within_ms", within.0, 0, MAX_DRAIN_TIME.0)
}

pub(super) fn read(drain: pb::DrainMachines) -> Result<Action, WireError> {
    check_reason(&drain.reason)?;
    let within = Millis(drain.within_ms);
    check_drain_time(within)?;
    drain.at_once.map(check_at_once).transpose()?;
    Ok(Action::DrainMachines {
        machines: read_machines(drain.machines)?,
        reason: drain.reason,
        within,
        at_once: drain.at_once,
        leaves: drain.leaves,
    })
}

pub(super) fn undrain(undrain: pb::UndrainMachines) -> Result<Action, WireError> {
    Ok(Action::UndrainMachines { machines: read_machines(undrain.machines)? })
}

impl TryFrom<pb::DrainMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::DrainMachinesRequest) -> Result<Self, WireError> {
        let action = read(pb::DrainMachines {
            machines: r.machines,
            reason: r.reason,
            within_ms: r.within_ms,
            at_once: r.at_once,
            leaves: r.leaves,
        })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::UndrainMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::UndrainMachinesRequest) -> Result<Self, WireError> {
        let action = undrain(pb::UndrainMachines { machines: r.machines })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::EndMaintenanceRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::EndMaintenanceRequest) -> Result<Self, WireError> {
        let action = Action::EndMaintenance { number: r.number };
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
