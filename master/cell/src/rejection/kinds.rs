//! Refusals that are about the kinds of jobs: parents, daemons, cron jobs, and running again.

use super::RejectionCode;
use crate::state::JobState;
use borg_proto::{JobKey, JobKind, MachineName, TaskId, UserName};

/// Why something that a kind of job does not do was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum KindRejection {
    #[error("parent: there is no job {parent}")]
    NoParent { parent: JobKey },
    #[error("parent: job {parent} is over: {state}")]
    ParentOver { parent: JobKey, state: JobState },
    #[error(
        "parent: {parent} is a job of another user than {user}: only one's own jobs are parents"
    )]
    ParentOfOthers { parent: JobKey, user: UserName },
    #[error("parent: job {job} cannot be its own parent")]
    OwnParent { job: JobKey },
    #[error("job {job} is a {} job and never finishes: nothing can start after it", kind.word())]
    AfterStanding { job: JobKey, kind: JobKind },
    #[error(
        "after: job {job} ends with {first}, so it cannot start after it: leave out `parent`, or this of `after`"
    )]
    AfterParent { job: JobKey, first: JobKey },
    #[error("job {job} has no tasks of its own")]
    NoTasks { job: JobKey },
    #[error("task {task} belongs on machine {home}, not on {machine}")]
    Pinned { task: TaskId, home: MachineName, machine: MachineName },
    #[error("{job} is a {} job: only batch jobs run again", kind.word())]
    RerunKind { job: JobKey, kind: JobKind },
    #[error("job {job} never began, as a job before it did not finish: submit it again")]
    NeverBegan { job: JobKey },
    #[error("task {index} of {job} is alive: only what is over runs again")]
    TaskAlive { job: JobKey, index: u32 },
    #[error("{job} is a {} job: it has no schedule", kind.word())]
    NotCron { job: JobKey, kind: JobKind },
    #[error(
        "job {job} is a cron job, which runs nothing itself: borgctl cron pause {job} lets it make no more runs, \
         cron resume lets it again, and what is done to a run is said of the run, as in {job}-1"
    )]
    IsCron { job: JobKey },
    #[error("cron job {job} is over: {state}")]
    CronOver { job: JobKey, state: JobState },
    #[error("its run {run} is not over, and overlap is forbid")]
    RunAlive { run: JobKey },
    #[error("{most} runs of {job} are alive, the most that may be")]
    ManyRuns { job: JobKey, most: u32 },
    #[error("after run {made} there is no name for another")]
    NoName { made: u64 },
}

impl KindRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::NoParent { .. } | Self::NoTasks { .. } => RejectionCode::NotFound,
            Self::ParentOfOthers { .. } => RejectionCode::PermissionDenied,
            Self::OwnParent { .. }
            | Self::AfterStanding { .. }
            | Self::AfterParent { .. }
            | Self::RerunKind { .. }
            | Self::NotCron { .. }
            | Self::IsCron { .. } => RejectionCode::InvalidArgument,
            Self::ParentOver { .. }
            | Self::Pinned { .. }
            | Self::NeverBegan { .. }
            | Self::TaskAlive { .. }
            | Self::CronOver { .. }
            | Self::RunAlive { .. } => RejectionCode::FailedPrecondition,
            Self::ManyRuns { .. } | Self::NoName { .. } => RejectionCode::ResourceExhausted,
        }
    }
}
