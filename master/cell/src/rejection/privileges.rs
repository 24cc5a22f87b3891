//! Refusals that are about privileges.

use super::RejectionCode;
use borg_proto::{Privilege, UserName};

/// Why something about a privilege was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum PrivilegeRejection {
    #[error(
        "{}: {privilege} needs the privilege {privilege}, which user {user} does not hold. Ask an \
         admin for: borgctl privilege grant {user} {privilege}", field(*privilege)
    )]
    NotHeld { user: UserName, privilege: Privilege },
    #[error("user {user} was not granted the privilege {privilege}")]
    NotGranted { user: UserName, privilege: Privilege },
    #[error("user: admin holds every privilege, whatever is granted or taken back")]
    OfAdmin,
}

/// The field that asks for it.
fn field(privilege: Privilege) -> &'static str {
    if privilege == Privilege::Reservation { "task.reclaim" } else { "task.loosen" }
}

impl PrivilegeRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::NotHeld { .. } => RejectionCode::PermissionDenied,
            Self::NotGranted { .. } => RejectionCode::NotFound,
            Self::OfAdmin => RejectionCode::InvalidArgument,
        }
    }
}
