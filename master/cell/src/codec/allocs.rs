//! Refusals about alloc sets as kinds, numbers and texts, as `outcome` carries them.

use super::outcome::Fields;
use super::quota;
use crate::rejection::AllocRejection as A;
use borg_proto::wire::WireError;

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 70..=82;

pub(super) fn refusal(of: &A) -> (u32, Vec<u64>, Vec<String>) {
    match of {
        A::NoSuchSet { set } => (70, vec![], vec![set.to_string()]),
        A::NotASet { job } => (71, vec![], vec![job.to_string()]),
        A::OfOthers { set, user } => (72, vec![], vec![set.to_string(), user.to_string()]),
        A::AboveSet { set, priority, sets } => {
            (73, vec![priority.get().into(), sets.get().into()], vec![set.to_string()])
        }
        A::SetFull { set, most } => (74, vec![(*most).into()], vec![set.to_string()]),
        A::AfterSet { set } => (75, vec![], vec![set.to_string()]),
        A::InUse { set, job } => (76, vec![], vec![set.to_string(), job.to_string()]),
        A::Beyond { set, allocs, index } => {
            (77, vec![(*allocs).into(), (*index).into()], vec![set.to_string()])
        }
        A::NotPlaced { alloc } => (78, vec![], vec![alloc.to_string()]),
        A::Elsewhere { alloc, machine } => {
            (79, vec![], vec![alloc.to_string(), machine.to_string()])
        }
        A::NoRoom { alloc, short, free, asked } => {
            let (dimension, device) = quota::dimension_number(short);
            (80, vec![dimension, *free, *asked], vec![device.to_owned(), alloc.to_string()])
        }
        A::TooSmall { alloc, short, size, used } => {
            let (dimension, device) = quota::dimension_number(short);
            (81, vec![dimension, *size, *used], vec![device.to_owned(), alloc.to_string()])
        }
        A::Fewer { set, there, asked } => {
            (82, vec![(*there).into(), (*asked).into()], vec![set.to_string()])
        }
    }
}

pub(super) fn read(kind: u32, from: &mut Fields) -> Result<A, WireError> {
    Ok(match kind {
        70 => A::NoSuchSet { set: from.name()? },
        71 => A::NotASet { job: from.name()? },
        72 => A::OfOthers { set: from.name()?, user: from.name()? },
        73 => A::AboveSet { priority: from.priority()?, sets: from.priority()?, set: from.name()? },
        74 => A::SetFull { set: from.name()?, most: from.small()? },
        75 => A::AfterSet { set: from.name()? },
        76 => A::InUse { set: from.name()?, job: from.name()? },
        77 => A::Beyond { set: from.name()?, allocs: from.small()?, index: from.small()? },
        78 => A::NotPlaced { alloc: from.name()? },
        79 => A::Elsewhere { alloc: from.name()?, machine: from.name()? },
        80 => A::NoRoom {
            short: from.dimension()?,
            free: from.number()?,
            asked: from.number()?,
            alloc: from.name()?,
        },
        81 => A::TooSmall {
            short: from.dimension()?,
            size: from.number()?,
            used: from.number()?,
            alloc: from.name()?,
        },
        82 => A::Fewer { there: from.small()?, asked: from.small()?, set: from.name()? },
        other => {
            return Err(WireError::new("kind", other, "is no refusal about alloc sets"));
        }
    })
}
