//! Refusals that are about updates, and about stopping and starting tasks.

use super::RejectionCode;
use crate::state::JobState;
use borg_proto::time::Date;
use borg_proto::update::Steer;
use borg_proto::{JobKey, Millis, UserName};

/// Why something about an update was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum UpdateRejection {
    #[error("job {job} is {state}, and what is over does not change: submit it again")]
    Over { job: JobKey, state: JobState },
    #[error(
        "job {job} is on its way from version {from} to version {to} already: {by}'s update is {state} since \
         {}. Wait for it, or say {}",
        Date(*since),
        way_out(job, *back)
    )]
    UnderWay {
        job: JobKey,
        from: u32,
        to: u32,
        by: UserName,
        state: String,
        since: Millis,
        back: bool,
    },
    #[error("version {version} of {job} is not kept: there are {}", listed(kept))]
    VersionGone { job: JobKey, version: u32, kept: Vec<u32> },
    #[error(
        "disruption.most: {tasks} tasks of {job} that serve would have to start anew, and its disruption \
         budget lets none: give it one in the same update, or stop the tasks first"
    )]
    NoBudget { job: JobKey, tasks: u32 },
    #[error(
        "job {job} is a gang, all or none, and runs: its tasks cannot start anew one after another. Kill it \
         and submit it again"
    )]
    Gang { job: JobKey },
    #[error("the tasks of {job} have {most} versions already: update all of them first")]
    ManyVersions { job: JobKey, most: u32 },
    #[error("{set} is an alloc set, which has no versions: borgctl resize changes it")]
    IsSet { set: JobKey },
    #[error("job {job} is a gang, all or none: stop all of its tasks")]
    GangParted { job: JobKey },
    #[error("there is no update of {job} to {verb}")]
    NoUpdate { job: JobKey, verb: Steer },
    #[error("the update of {job} is {state}{}", not_now(job, *verb))]
    NotNow { job: JobKey, verb: Steer, state: String },
}

fn not_now(job: &JobKey, verb: Steer) -> String {
    match verb {
        Steer::Close => format!(
            ", and only one that is done is closed: let it go on, or say borgctl rollout undo {job}"
        ),
        Steer::Pause | Steer::Resume | Steer::Undo => format!(": there is nothing to {verb}"),
    }
}

/// What lets another update begin.
fn way_out(job: &JobKey, back: bool) -> String {
    if back {
        return format!("borgctl rollout pause {job} first");
    }
    format!("borgctl rollout undo {job}")
}

fn listed(kept: &[u32]) -> String {
    kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl UpdateRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::VersionGone { .. } | Self::NoUpdate { .. } => RejectionCode::NotFound,
            Self::ManyVersions { .. } => RejectionCode::ResourceExhausted,
            Self::IsSet { .. } => RejectionCode::InvalidArgument,
            Self::Over { .. }
            | Self::UnderWay { .. }
            | Self::NoBudget { .. }
            | Self::Gang { .. }
            | Self::GangParted { .. }
            | Self::NotNow { .. } => RejectionCode::FailedPrecondition,
        }
    }
}
