//! What machines said of tasks that bring packages along, for people: how far these are, and how long a start
//! took.
//!
//! Not in the state, as it changes all the time: the leader knows, and other masters ask it.

use borg_cell::master::Master;
use borg_proto::IncarnationId;
use borg_proto::poll::{TaskReport, TaskStatus};
use borg_proto::wire::pb;
use std::collections::BTreeMap;

/// Most tasks that one question may name. 10,000: our choice, a long list for a person.
pub(crate) const MOST: usize = 10_000;

/// Notes by incarnation.
pub(crate) type Notes = BTreeMap<IncarnationId, String>;

/// What the leader knows; nothing on other masters.
pub(crate) fn of(master: &Master, ids: &[IncarnationId]) -> Notes {
    let note = |id: &IncarnationId| Some((*id, note(master.told_of(*id)?)?));
    ids.iter().take(MOST).filter_map(note).collect()
}

fn note(report: &TaskReport) -> Option<String> {
    match &report.status {
        TaskStatus::Fetching { .. } => report.status.about_packages(),
        TaskStatus::Up { .. } => report.start.map(|start| start.to_string()),
        TaskStatus::Starting
        | TaskStatus::BackOff { .. }
        | TaskStatus::Stopping
        | TaskStatus::Ended { .. } => None,
    }
}

/// As another master is told.
pub(crate) fn told(notes: Notes) -> pb::TellTasksResponse {
    let told = |(id, note): (IncarnationId, String)| pb::tell_tasks_response::Told {
        id: Some((&id).into()),
        note,
    };
    pb::TellTasksResponse { tasks: notes.into_iter().map(told).collect() }
}

/// What another master told; what makes no sense is left out.
pub(crate) fn heard(answer: pb::TellTasksResponse) -> Notes {
    let heard = |told: pb::tell_tasks_response::Told| {
        Some((IncarnationId::try_from(told.id?).ok()?, told.note))
    };
    answer.tasks.into_iter().filter_map(heard).collect()
}
