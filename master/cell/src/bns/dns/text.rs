//! What is told of a job or a task in words, in service or not.

use super::serving;
use crate::state::{CellState, Job};
use borg_proto::task::{Phase, TaskState};

/// Of a task: `KEY=VALUE` each.
pub(super) fn of_task(state: &CellState, job: &Job, index: u32) -> Vec<String> {
    let mut text = vec![format!("task={}/{index}", job.key)];
    let Some(task) = job.task(index) else { return text };
    let (word, placement) = match &task.state {
        TaskState::Pending { .. } => ("pending", None),
        TaskState::Dead { .. } => ("dead", None),
        TaskState::Running(placement) => {
            let word = match placement.phase {
                Phase::Starting => "starting",
                Phase::Up { .. } => "running",
                Phase::BackOff { .. } => "back-off",
            };
            (word, Some(placement))
        }
    };
    text.push(format!("state={word}"));
    let Some(placement) = placement else { return text };
    text.push(format!("health={}", job.health(index, placement)));
    text.push(format!("in_service={}", serving(state, job, index).is_some()));
    if let Some(machine) = state.machine(placement.machine) {
        text.push(format!("machine={}", machine.name));
    }
    text.push(format!("incarnation={}", placement.incarnation));
    text
}

/// Of a job, of which so many tasks are in service.
pub(super) fn of_job(job: &Job, in_service: usize) -> Vec<String> {
    let counts = &job.counts;
    vec![
        format!("job={}", job.key),
        format!("state={}", job.state()),
        format!("tasks={}", job.spec.tasks),
        format!("pending={}", counts.pending),
        format!("running={}", counts.running),
        format!("in_service={in_service}"),
    ]
}
