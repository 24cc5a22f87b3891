//! Refusals about machines that are emptied, and about disruption budgets.

use super::{RejectionCode, in_units, noun};
use crate::state::Blocked;
use borg_proto::resources::Dimension;
use borg_proto::{JobKey, MachineName, TaskId};

/// Why a machine is not drained, or a task does not leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum DrainRejection {
    #[error("task {task} is not disturbed: {blocked}")]
    Budget { task: TaskId, blocked: Blocked },
    #[error(
        "task {task} leaves no machine in safe mode: much of the cell is silent, nothing moves"
    )]
    SafeMode { task: TaskId },
    #[error("task {task} is being replaced already")]
    HasSuccessor { task: TaskId },
    #[error(
        "task {task} waits: {most} tasks of {job} are being replaced, as many as may be at once"
    )]
    Preparing { task: TaskId, job: JobKey, most: u32 },
    #[error("task {task} is on machine {machine} already: its replacement goes to another one")]
    SameMachine { task: TaskId, machine: MachineName },
    #[error("{}", too_little(*left, *of, short.as_ref()))]
    TooLittleLeft {
        left: u32,
        of: u32,
        /// What there is too little of: free, asked, which.
        short: Option<(u64, u64, Dimension)>,
    },
    #[error(
        "would leave {left} of {of} machines that take tasks, not {known}: look again, and say \
         --force-with {left} if that is right"
    )]
    OtherLeft { left: u32, of: u32, known: u32 },
    #[error("there is no maintenance {number}: borgctl drains shows those that are under way")]
    NoSuchMaintenance { number: u64 },
}

impl DrainRejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::Budget { .. }
            | Self::SafeMode { .. }
            | Self::HasSuccessor { .. }
            | Self::Preparing { .. }
            | Self::SameMachine { .. }
            | Self::TooLittleLeft { .. }
            | Self::OtherLeft { .. } => RejectionCode::FailedPrecondition,
            Self::NoSuchMaintenance { .. } => RejectionCode::NotFound,
        }
    }
}

fn too_little(left: u32, of: u32, short: Option<&(u64, u64, Dimension)>) -> String {
    let room = short.map(|(free, asked, of)| {
        let (free, asked) = (in_units(of, *free, false), in_units(of, *asked, true));
        format!(", with {free} {} free for {asked} that would have to move", noun(of))
    });
    let room = room.unwrap_or_default();
    format!(
        "would leave {left} of {of} machines that take tasks{room}: to do it all the same, say \
         --force-with {left}"
    )
}
