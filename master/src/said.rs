//! What machines said of tasks that is not in the state, as it changes all the time: what they use, how they say
//! they are, how far their packages are, and how long a start took.
//!
//! The leader knows, and other masters ask it.

use borg_cell::master::Master;
use borg_proto::IncarnationId;
use borg_proto::poll::{TaskReport, TaskStatus, Usage};
use borg_proto::reclamation::Amounts;
use borg_proto::spec::MAX_TASKS;
use borg_proto::text::{MAX_STATUS_LINE_BYTES, one_line};
use borg_proto::wire::pb;
use std::collections::BTreeMap;

/// What was said of one incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// What it uses.
    pub(crate) usage: Option<Usage>,
    /// How it says that it is; empty when it says nothing.
    pub(crate) status_line: String,
    /// How far its packages are, or how long its start took, in a sentence; empty when that is not known.
    pub(crate) note: String,
    /// What the leader believes that it needs.
    pub(crate) reserved: Option<Amounts>,
}

/// What was said of incarnations; those of which nothing was are left out.
pub(crate) type AllSaid = BTreeMap<IncarnationId, Said>;

/// What this leader was told of the tasks of a job; nothing on other masters.
pub(crate) fn of(master: &Master, ids: &[IncarnationId]) -> AllSaid {
    let said = |id: &IncarnationId| {
        let said = Said {
            usage: master.usage(*id),
            status_line: master.status_line(*id).unwrap_or_default(),
            note: master.told_of(*id).and_then(note).unwrap_or_default(),
            reserved: master.reserved(*id),
        };
        (said != Said::default()).then_some((*id, said))
    };
    ids.iter().take(MAX_TASKS as usize).filter_map(said).collect()
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
pub(crate) fn told(all: AllSaid) -> pb::LookAtTasksResponse {
    let told = |(id, said): (IncarnationId, Said)| pb::look_at_tasks_response::Task {
        id: Some((&id).into()),
        usage: said.usage.as_ref().map(Into::into),
        status_line: said.status_line,
        note: said.note,
        reserved: said.reserved.map(Into::into),
    };
    pb::LookAtTasksResponse { tasks: all.into_iter().map(told).collect() }
}

/// What another master told; what makes no sense is left out.
pub(crate) fn heard(answer: pb::LookAtTasksResponse) -> AllSaid {
    let heard = |task: pb::look_at_tasks_response::Task| {
        let id = IncarnationId::try_from(task.id?).ok()?;
        let status_line = one_line(task.status_line.as_bytes(), MAX_STATUS_LINE_BYTES);
        let (usage, reserved) = (task.usage.map(Usage::from), task.reserved.map(Amounts::from));
        Some((id, Said { usage, status_line, note: task.note, reserved }))
    };
    answer.tasks.into_iter().filter_map(heard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::{JobId, TaskId};

    #[test]
    fn what_the_leader_says_arrives_and_whatever_makes_no_sense_does_not() {
        let id = |index| IncarnationId { task: TaskId { job: JobId(7), index }, number: 1 };
        let used = Usage { ram_bytes: 4 << 20, ..Usage::default() };
        let line = Said { usage: Some(used), status_line: "well".into(), ..Said::default() };
        let fetches = Said { note: "fetching packages".into(), ..Said::default() };
        let all = AllSaid::from([(id(0), line), (id(1), fetches)]);
        let mut answer = told(all.clone());
        answer.tasks.push(pb::look_at_tasks_response::Task::default());
        assert_eq!(heard(answer), all);
    }
}
