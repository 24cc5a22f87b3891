//! Packages in a checkpoint, and refusals about them as kinds, numbers and texts.

use super::outcome::Fields;
use super::parts::missing;
use crate::rejection::PackageRejection as P;
use crate::state::PackageRecord;
use borg_proto::Millis;
use borg_proto::package::{Package, PackageKind};
use borg_proto::wire::{WireError, pb};
use std::sync::Arc;

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 110..=117;

pub(super) fn refusal(of: &P) -> (u32, Vec<u64>, Vec<String>) {
    match of {
        P::Unknown { package } => (110, vec![], vec![package.to_string()]),
        P::NotThere { field, package } => (111, vec![], vec![package.to_string(), field.clone()]),
        P::Exists { package, there } => (112, vec![], vec![package.to_string(), there.to_string()]),
        P::InUse { package, job } => (113, vec![], vec![package.to_string(), job.to_string()]),
        P::OfOthers { package, user } => (114, vec![], vec![package.to_string(), user.to_string()]),
        P::NotAnImage { package, kind } => {
            let kind = pb::PackageKind::from(*kind) as u32;
            (115, vec![kind.into()], vec![package.to_string()])
        }
        P::IsAnImage { field, package } => (116, vec![], vec![package.to_string(), field.clone()]),
        P::NoEntrypoint { package } => (117, vec![], vec![package.to_string()]),
    }
}

pub(super) fn read(number: u32, from: &mut Fields) -> Result<P, WireError> {
    let package = from.name()?;
    Ok(match number {
        110 => P::Unknown { package },
        111 => P::NotThere { package, field: from.text()? },
        112 => {
            let there = from.text()?.parse();
            P::Exists { package, there: there.map_err(|e| WireError::from(e).within("there"))? }
        }
        113 => P::InUse { package, job: from.name()? },
        114 => P::OfOthers { package, user: from.name()? },
        115 => P::NotAnImage { package, kind: kind(from.number()?)? },
        116 => P::IsAnImage { package, field: from.text()? },
        117 => P::NoEntrypoint { package },
        other => return Err(WireError::new("kind", other, "is no refusal about packages")),
    })
}

fn kind(number: u64) -> Result<PackageKind, WireError> {
    let all = [PackageKind::Image, PackageKind::Directory, PackageKind::Binary];
    let same = |kind: &PackageKind| pb::PackageKind::from(*kind) as u64 == number;
    let found = all.into_iter().find(same);
    found.ok_or_else(|| WireError::new("numbers", number, "is no kind of package"))
}

pub(super) fn write(record: &PackageRecord) -> pb::CheckpointPackage {
    let package = Some(record.package.as_ref().into());
    pb::CheckpointPackage { package, put_at_ms: record.put_at.0 }
}

pub(super) fn read_record(record: pb::CheckpointPackage) -> Result<PackageRecord, WireError> {
    let package = record.package.ok_or_else(|| missing("package"))?;
    let package = Package::try_from(package).map_err(|e| e.within("package"))?;
    Ok(PackageRecord { package: Arc::new(package), put_at: Millis(record.put_at_ms) })
}
