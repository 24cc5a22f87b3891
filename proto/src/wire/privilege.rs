//! Named privileges: of users, and those that tasks loosen their isolation by.

use super::command::{Change, request_id};
use super::error::{At, WireError, each};
use super::pb;
use crate::command::Action;
use crate::names::UserName;
use crate::privilege::Privilege;
use std::collections::BTreeSet;

impl From<Privilege> for pb::Privilege {
    fn from(privilege: Privilege) -> Self {
        match privilege {
            Privilege::Admin => Self::Admin,
            Privilege::Monitoring => Self::Monitoring,
            Privilege::Listen => Self::Listen,
            Privilege::SystemCalls => Self::SystemCalls,
            Privilege::MachineIds => Self::MachineIds,
            Privilege::Devices => Self::Devices,
            Privilege::Reservation => Self::Reservation,
        }
    }
}

/// A privilege that somebody sent.
///
/// # Errors
/// When it is none, or one that this version does not know.
pub fn read_privilege(value: i32) -> Result<Privilege, WireError> {
    let unknown = |_| WireError::new("", value, "is not a privilege that this version knows");
    match pb::Privilege::try_from(value).map_err(unknown)? {
        pb::Privilege::Admin => Ok(Privilege::Admin),
        pb::Privilege::Monitoring => Ok(Privilege::Monitoring),
        pb::Privilege::Listen => Ok(Privilege::Listen),
        pb::Privilege::SystemCalls => Ok(Privilege::SystemCalls),
        pb::Privilege::MachineIds => Ok(Privilege::MachineIds),
        pb::Privilege::Devices => Ok(Privilege::Devices),
        pb::Privilege::Reservation => Ok(Privilege::Reservation),
        pb::Privilege::Unspecified => {
            Err(WireError::new("", "nothing", "is given: name a privilege"))
        }
    }
}

pub(super) fn write_all(of: &BTreeSet<Privilege>) -> Vec<i32> {
    of.iter().map(|privilege| pb::Privilege::from(*privilege).into()).collect()
}

/// Several, in any order.
pub(super) fn read_all(field: &str, values: Vec<i32>) -> Result<BTreeSet<Privilege>, WireError> {
    let read = each(field, values, Privilege::ALL.len(), read_privilege)?;
    Ok(read.into_iter().collect())
}

pub(super) fn write_grant(user: &UserName, privilege: Privilege) -> pb::GrantPrivilege {
    let privilege = pb::Privilege::from(privilege).into();
    pb::GrantPrivilege { user: user.to_string(), privilege }
}

pub(super) fn write_revoke(user: &UserName, privilege: Privilege) -> pb::RevokePrivilege {
    let privilege = pb::Privilege::from(privilege).into();
    pb::RevokePrivilege { user: user.to_string(), privilege }
}

pub(super) fn grant(of: &pb::GrantPrivilege) -> Result<Action, WireError> {
    Ok(Action::GrantPrivilege {
        user: of.user.parse().at("user")?,
        privilege: read_privilege(of.privilege).at("privilege")?,
    })
}

pub(super) fn revoke(of: &pb::RevokePrivilege) -> Result<Action, WireError> {
    Ok(Action::RevokePrivilege {
        user: of.user.parse().at("user")?,
        privilege: read_privilege(of.privilege).at("privilege")?,
    })
}

impl TryFrom<pb::GrantPrivilegeRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::GrantPrivilegeRequest) -> Result<Self, WireError> {
        let action = grant(&pb::GrantPrivilege { user: r.user, privilege: r.privilege })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::RevokePrivilegeRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RevokePrivilegeRequest) -> Result<Self, WireError> {
        let action = revoke(&pb::RevokePrivilege { user: r.user, privilege: r.privilege })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
