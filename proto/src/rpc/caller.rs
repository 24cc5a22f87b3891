//! Who is calling, and whether somebody of that role may.

use super::tls::identity_of;
use crate::identity::{Identity, Role};
use crate::names::{CellName, ReplicaId, UserName};
use tonic::{Request, Status};

/// Who sent a request, from the certificate of its connection.
///
/// TLS has checked the certificate against the CA; here its name is read and its cell compared.
///
/// # Errors
/// `UNAUTHENTICATED` when there is no certificate, it names nobody, or it is another cell's.
pub fn peer_identity<T>(request: &Request<T>, own_cell: &CellName) -> Result<Identity, Status> {
    let certificates = request
        .peer_certs()
        .ok_or_else(|| Status::unauthenticated("the connection has no client certificate"))?;
    let own = certificates
        .first()
        .ok_or_else(|| Status::unauthenticated("the connection has an empty client certificate"))?;
    let identity = identity_of(own).map_err(|why| {
        Status::unauthenticated(format!("the client certificate cannot be used: {why}"))
    })?;
    if identity.cell != *own_cell {
        let text = format!("certificate for cell {}, this is cell {own_cell}", identity.cell);
        return Err(Status::unauthenticated(text));
    }
    Ok(identity)
}

/// The replica that calls.
///
/// # Errors
/// `PERMISSION_DENIED` when the caller is no master.
pub fn require_master(identity: &Identity, call: &str) -> Result<ReplicaId, Status> {
    match &identity.role {
        Role::Master(replica) => Ok(*replica),
        Role::Borglet(_) | Role::User(_) => Err(refuse(identity, call)),
    }
}

/// The user who calls.
///
/// # Errors
/// `PERMISSION_DENIED` when the caller is no user.
pub fn require_user<'a>(identity: &'a Identity, call: &str) -> Result<&'a UserName, Status> {
    match &identity.role {
        Role::User(user) => Ok(user),
        Role::Borglet(_) | Role::Master(_) => Err(refuse(identity, call)),
    }
}

fn refuse(identity: &Identity, call: &str) -> Status {
    let role = match &identity.role {
        Role::Master(_) => "master",
        Role::Borglet(_) => "borglet",
        Role::User(_) => "user",
    };
    Status::permission_denied(format!("role {role} may not call {call} ({identity})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_may_not_call_is_told_so() {
        let borglet: Identity = "borg://lab/borglet/m-1".parse().unwrap();
        let refused = require_user(&borglet, "SubmitJob").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(
            refused.message(),
            "role borglet may not call SubmitJob (borg://lab/borglet/m-1)"
        );
        assert!(require_master(&borglet, "Poll").is_err());
        let master: Identity = "borg://lab/master/2".parse().unwrap();
        assert_eq!(require_master(&master, "Poll").unwrap(), ReplicaId(2));
    }
}
