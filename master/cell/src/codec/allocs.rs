//! Refusals about alloc sets as kinds, numbers and texts, as `outcome` carries them.

use super::outcome::Fields;
use super::quota;
use crate::rejection::AllocRejection as A;
use borg_proto::wire::WireError;

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 90..=108;

pub(super) fn refusal(of: &A) -> (u32, Vec<u64>, Vec<String>) {
    match of {
        A::NoSuchSet { set } => (90, vec![], vec![set.to_string()]),
        A::NotASet { job } => (91, vec![], vec![job.to_string()]),
        A::OfOthers { set, user } => (92, vec![], vec![set.to_string(), user.to_string()]),
        A::AboveSet { set, priority, sets } => {
            (93, vec![priority.get().into(), sets.get().into()], vec![set.to_string()])
        }
        A::SetFull { set, most } => (94, vec![(*most).into()], vec![set.to_string()]),
        A::AfterSet { set } => (95, vec![], vec![set.to_string()]),
        A::InUse { set, job } => (96, vec![], vec![set.to_string(), job.to_string()]),
        A::Beyond { set, allocs, index } => {
            (97, vec![(*allocs).into(), (*index).into()], vec![set.to_string()])
        }
        A::NotPlaced { alloc } => (98, vec![], vec![alloc.to_string()]),
        A::Elsewhere { alloc, machine } => {
            (99, vec![], vec![alloc.to_string(), machine.to_string()])
        }
        A::NoRoom { alloc, short, free, asked } => {
            let (dimension, device) = quota::dimension_number(short);
            (100, vec![dimension, *free, *asked], vec![device.to_owned(), alloc.to_string()])
        }
        A::TooSmall { alloc, short, size, used } => {
            let (dimension, device) = quota::dimension_number(short);
            (101, vec![dimension, *size, *used], vec![device.to_owned(), alloc.to_string()])
        }
        A::TooLarge { set } => (103, vec![], vec![set.to_string()]),
        A::KeepsNothing { set } => (104, vec![], vec![set.to_string()]),
        A::TwoSavers { set, job } => (105, vec![], vec![set.to_string(), job.to_string()]),
        A::NothingKept { alloc } => (106, vec![], vec![alloc.to_string()]),
        A::NoSaver { set } => (107, vec![], vec![set.to_string()]),
        A::RunOfData { job } => (108, vec![], vec![job.to_string()]),
        A::Fewer { set, there, asked } => {
            (102, vec![(*there).into(), (*asked).into()], vec![set.to_string()])
        }
    }
}

pub(super) fn read(kind: u32, from: &mut Fields) -> Result<A, WireError> {
    Ok(match kind {
        90 => A::NoSuchSet { set: from.name()? },
        91 => A::NotASet { job: from.name()? },
        92 => A::OfOthers { set: from.name()?, user: from.name()? },
        93 => A::AboveSet { priority: from.priority()?, sets: from.priority()?, set: from.name()? },
        94 => A::SetFull { set: from.name()?, most: from.small()? },
        95 => A::AfterSet { set: from.name()? },
        96 => A::InUse { set: from.name()?, job: from.name()? },
        97 => A::Beyond { set: from.name()?, allocs: from.small()?, index: from.small()? },
        98 => A::NotPlaced { alloc: from.name()? },
        99 => A::Elsewhere { alloc: from.name()?, machine: from.name()? },
        100 => A::NoRoom {
            short: from.dimension()?,
            free: from.number()?,
            asked: from.number()?,
            alloc: from.name()?,
        },
        101 => A::TooSmall {
            short: from.dimension()?,
            size: from.number()?,
            used: from.number()?,
            alloc: from.name()?,
        },
        102 => A::Fewer { there: from.small()?, asked: from.small()?, set: from.name()? },
        103 => A::TooLarge { set: from.name()? },
        104 => A::KeepsNothing { set: from.name()? },
        105 => A::TwoSavers { set: from.name()?, job: from.name()? },
        106 => A::NothingKept { alloc: from.name()? },
        107 => A::NoSaver { set: from.name()? },
        108 => A::RunOfData { job: from.name()? },
        other => {
            return Err(WireError::new("kind", other, "is no refusal about alloc sets"));
        }
    })
}
