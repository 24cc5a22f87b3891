//! Privileges in a checkpoint, and refusals about them as kinds, numbers and texts.

use super::outcome::Fields;
use crate::rejection::PrivilegeRejection as P;
use crate::state::CellState;
use crate::state::privileges::{GrantedPrivilege, MAX_PRIVILEGES};
use borg_proto::names::NameError;
use borg_proto::wire::{WireError, pb, read_privilege};
use borg_proto::{Millis, Privilege, UserName};

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 160..=162;

/// A privilege's number in digests and refusals: the one that it has on the wire.
pub(crate) fn privilege_number(privilege: Privilege) -> u64 {
    pb::Privilege::from(privilege) as u64
}

pub(super) fn refusal(of: &P) -> (u32, Vec<u64>, Vec<String>) {
    let about = |user: &UserName, privilege: &Privilege| {
        (vec![privilege_number(*privilege)], vec![user.to_string()])
    };
    let (kind, (numbers, texts)) = match of {
        P::NotHeld { user, privilege } => (160, about(user, privilege)),
        P::NotGranted { user, privilege } => (161, about(user, privilege)),
        P::OfAdmin => (162, (vec![], vec![])),
    };
    (kind, numbers, texts)
}

pub(super) fn read(kind: u32, from: &mut Fields) -> Result<P, WireError> {
    Ok(match kind {
        160 => P::NotHeld { user: from.name()?, privilege: privilege(from)? },
        161 => P::NotGranted { user: from.name()?, privilege: privilege(from)? },
        162 => P::OfAdmin,
        other => return Err(WireError::new("kind", other, "is no refusal about privileges")),
    })
}

fn privilege(from: &mut Fields) -> Result<Privilege, WireError> {
    let number = from.number()?;
    let privilege = i32::try_from(number).map(read_privilege);
    privilege.unwrap_or_else(|_| Err(WireError::new("numbers", number, "is no privilege")))
}

pub(super) fn write(
    (user, privilege, granted): (&UserName, Privilege, &GrantedPrivilege),
) -> pb::CheckpointPrivilege {
    pb::CheckpointPrivilege {
        user: user.to_string(),
        privilege: pb::Privilege::from(privilege).into(),
        granted_at_ms: granted.at.0,
        by: granted.by.to_string(),
    }
}

pub(super) fn read_all(
    state: &mut CellState,
    privileges: Vec<pb::CheckpointPrivilege>,
) -> Result<(), WireError> {
    if privileges.len() > MAX_PRIVILEGES {
        let many = format!("{} entries", privileges.len());
        let why = format!("are more than {MAX_PRIVILEGES}");
        return Err(WireError::new("privileges", many, why));
    }
    for (i, granted) in privileges.into_iter().enumerate() {
        let (key, granted) =
            read_granted(&granted).map_err(|e| e.within(&format!("privileges[{i}]")))?;
        state.privileges.insert(key, granted);
    }
    Ok(())
}

fn read_granted(
    from: &pb::CheckpointPrivilege,
) -> Result<((UserName, Privilege), GrantedPrivilege), WireError> {
    let name = |field: &str, text: &str| {
        text.parse().map_err(|e: NameError| WireError::from(e).within(field))
    };
    let privilege = read_privilege(from.privilege).map_err(|e| e.within("privilege"))?;
    let granted = GrantedPrivilege { at: Millis(from.granted_at_ms), by: name("by", &from.by)? };
    Ok(((name("user", &from.user)?, privilege), granted))
}
