//! Who is at the other end of a connection: the name in its certificate.
//!
//! The name is a URI in the certificate's subject alternative names:
//! `borg://CELL/master/N`, `borg://CELL/borglet/MACHINE` or `borg://CELL/user/NAME`.

use crate::names::{CellName, MachineName, ReplicaId, UserName, shorten};
use std::fmt;
use std::str::FromStr;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The cell that vouches for it.
    pub cell: CellName,
    /// What it is in that cell.
    pub role: Role,
}

/// What somebody is in a cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A Borgmaster replica, by its number: whichever life it is in.
    Master(ReplicaId),
    /// The borglet of a machine.
    Borglet(MachineName),
    /// A person, or a program on behalf of one.
    User(UserName),
}

/// The user who may do everything in a cell: made by `borgctl` together with the cell's CA.
pub const ADMIN: &str = "admin";

/// A text that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "identity {0:?} is not borg://CELL/master/N, borg://CELL/borglet/MACHINE or borg://CELL/user/NAME"
)]
pub struct IdentityError(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "borg://{}/{}", self.cell, self.role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(replica) => write!(f, "master/{replica}"),
            Self::Borglet(machine) => write!(f, "borglet/{machine}"),
            Self::User(user) => write!(f, "user/{user}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        parse(text).ok_or_else(|| IdentityError(shorten(text)))
    }
}

fn parse(text: &str) -> Option<Identity> {
    let mut parts = text.strip_prefix("borg://")?.split('/');
    let cell = parts.next()?.parse().ok()?;
    let kind = parts.next()?;
    let name = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let role = match kind {
        "master" => Role::Master(ReplicaId(
            name.parse().ok().filter(|n| (1..=ReplicaId::MAX_NUMBER).contains(n))?,
        )),
        "borglet" => Role::Borglet(name.parse().ok()?),
        "user" => Role::User(name.parse().ok()?),
        _ => return None,
    };
    Some(Identity { cell, role })
}

impl Identity {
    /// The DNS name in the certificate of a server with this identity, which clients insist on:
    /// `master-1.CELL.borg`, `MACHINE.borglet.CELL.borg`. Users do not serve.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        match &self.role {
            Role::Master(replica) => Some(format!("master-{replica}.{}.borg", self.cell)),
            Role::Borglet(machine) => Some(format!("{machine}.borglet.{}.borg", self.cell)),
            Role::User(_) => None,
        }
    }
}

/// The DNS name that every master's certificate has beside its own: for clients that take any.
#[must_use]
pub fn any_master_name(cell: &CellName) -> String {
    format!("master.{cell}.borg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_text_and_back() {
        for text in ["borg://lab/master/3", "borg://lab/borglet/m-1", "borg://lab/user/ann"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for bad in [
            "borg://lab/master/0",
            "borg://lab/master/65536",
            "borg://lab/user/a/b",
            "http://lab/user/a",
            "borg://lab/robot/x",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
