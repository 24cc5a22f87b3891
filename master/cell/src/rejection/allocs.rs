//! Refusals that are about alloc sets, their allocs, and the tasks in them.

use super::{RejectionCode, in_units, noun, room};
use borg_proto::resources::Dimension;
use borg_proto::{JobKey, MachineName, Priority, TaskName, UserName};

/// Why something about an alloc set was refused. An alloc is named like a task: `user/set/index`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum AllocRejection {
    #[error("alloc_set: there is no alloc set {set}: submit it first")]
    NoSuchSet { set: JobKey },
    #[error("{job} is no alloc set")]
    NotASet { job: JobKey },
    #[error("alloc_set: {set} is not {user}'s: only its owner and admin run jobs in it")]
    OfOthers { set: JobKey, user: UserName },
    #[error(
        "priority: {priority} is above that of alloc set {set}, {sets}: a task goes when its alloc goes"
    )]
    AboveSet { set: JobKey, priority: Priority, sets: Priority },
    #[error("alloc set {set} has {most} jobs in it, the most that it may have")]
    SetFull { set: JobKey, most: u32 },
    #[error("{set} is an alloc set and never finishes: nothing can start after it")]
    AfterSet { set: JobKey },
    #[error("alloc set {set} has tasks of job {job} in it: kill those first")]
    InUse { set: JobKey, job: JobKey },
    #[error("alloc set {set} has {allocs} allocs, so there is none for task {index}")]
    Beyond { set: JobKey, allocs: u32, index: u32 },
    #[error("alloc {alloc} is not placed")]
    NotPlaced { alloc: TaskName },
    #[error("alloc {alloc} is on machine {machine}, and so are its tasks")]
    Elsewhere { alloc: TaskName, machine: MachineName },
    #[error("{}", room(&format!("alloc {alloc}"), short, *free, *asked))]
    NoRoom { alloc: TaskName, short: Dimension, free: u64, asked: u64 },
    #[error(
        "limit: alloc {alloc} would have {} {}, and its tasks may use {}",
        in_units(short, *size, false), noun(short), in_units(short, *used, true)
    )]
    TooSmall { alloc: TaskName, short: Dimension, size: u64, used: u64 },
    #[error("limit: no machine of the cell could hold an alloc of {set} of that size: choose less")]
    TooLarge { set: JobKey },
    #[error(
        "alloc set {set} has {there} allocs and cannot have {asked}: it only grows; kill single allocs \
         that no job uses"
    )]
    Fewer { set: JobKey, there: u32, asked: u32 },
    #[error("rescue: alloc set {set} keeps no data: give it keep_data, or leave rescue out")]
    KeepsNothing { set: JobKey },
    #[error("rescue: job {job} rescues in alloc set {set} already, and one is enough")]
    TwoSavers { set: JobKey, job: JobKey },
    #[error("nothing is kept of alloc {alloc}: borgctl rescue shows what is kept")]
    NothingKept { alloc: TaskName },
    #[error("no job of alloc set {set} rescues: submit one with rescue = True")]
    NoSaver { set: JobKey },
    #[error("{job} was made for data that is kept: borgctl rescue says what becomes of that")]
    RunOfData { job: JobKey },
}

impl AllocRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::NoSuchSet { .. } | Self::NothingKept { .. } => RejectionCode::NotFound,
            Self::OfOthers { .. } => RejectionCode::PermissionDenied,
            Self::NotASet { .. }
            | Self::AboveSet { .. }
            | Self::AfterSet { .. }
            | Self::Fewer { .. } => RejectionCode::InvalidArgument,
            Self::InUse { .. }
            | Self::Beyond { .. }
            | Self::NotPlaced { .. }
            | Self::Elsewhere { .. }
            | Self::TooSmall { .. }
            | Self::KeepsNothing { .. }
            | Self::TwoSavers { .. }
            | Self::NoSaver { .. }
            | Self::RunOfData { .. }
            | Self::TooLarge { .. } => RejectionCode::FailedPrecondition,
            Self::SetFull { .. } | Self::NoRoom { .. } => RejectionCode::ResourceExhausted,
        }
    }
}
