//! Refusals that are about packages.

use super::RejectionCode;
use borg_proto::identity::ADMIN;
use borg_proto::package::{Digest, PackageKey, PackageKind};
use borg_proto::{JobKey, UserName};

/// Why something about a package was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum PackageRejection {
    #[error("there is no package {package}")]
    Unknown { package: PackageKey },
    #[error("{field}: there is no package {package}: put it first, borgctl package put")]
    NotThere { field: String, package: PackageKey },
    #[error(
        "package {package} exists with another content, {there}: a version never changes, give this one \
         another version"
    )]
    Exists { package: PackageKey, there: Digest },
    #[error("package {package} is in use by job {job}: kill that first")]
    InUse { package: PackageKey, job: JobKey },
    #[error("package {package} is not {user}'s: only {} may put or remove it", who_may(package))]
    OfOthers { package: PackageKey, user: UserName },
    #[error("task.image: package {package} is of kind {kind}, no image: name it in task.packages")]
    NotAnImage { package: PackageKey, kind: PackageKind },
    #[error("{field}: package {package} is an image: name it in task.image")]
    IsAnImage { field: String, package: PackageKey },
    #[error(
        "task.command: [] is empty, and image {package} has neither entrypoint nor command: name the \
         program to run"
    )]
    NoEntrypoint { package: PackageKey },
}

/// Whose it is and who may do all, each once.
fn who_may(package: &PackageKey) -> String {
    let owner = package.user.as_str();
    if owner == ADMIN { owner.to_owned() } else { format!("{owner} and {ADMIN}") }
}

impl PackageRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::Unknown { .. } => RejectionCode::NotFound,
            Self::Exists { .. } => RejectionCode::AlreadyExists,
            Self::OfOthers { .. } => RejectionCode::PermissionDenied,
            Self::NotThere { .. } | Self::InUse { .. } => RejectionCode::FailedPrecondition,
            Self::NotAnImage { .. } | Self::IsAnImage { .. } | Self::NoEntrypoint { .. } => {
                RejectionCode::InvalidArgument
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_is_named_once() {
        let refused = |package: &str| {
            let (package, user) = (package.parse().unwrap(), UserName::new("bob").unwrap());
            PackageRejection::OfOthers { package, user }.to_string()
        };
        assert!(refused("ann/x:1").ends_with("only ann and admin may put or remove it"));
        assert!(refused("admin/x:1").ends_with("only admin may put or remove it"));
    }
}
