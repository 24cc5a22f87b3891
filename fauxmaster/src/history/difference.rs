//! What is different between two states of a cell.

use borg_cell::state::{CellState, Job, Machine, Task};
use borg_proto::task::TaskState;
use std::collections::BTreeMap;

/// Something that is otherwise in the later state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Difference {
    /// machine, job or task.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// As it was; empty when it was not there.
    pub then: String,
    /// As it is; empty when it is gone.
    pub now: String,
}

/// Every machine, job and task that is different, by kind and name. Quota, privileges and settings are not looked at.
#[must_use]
pub fn between(then: &CellState, now: &CellState) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut compare = |what, then: BTreeMap<String, String>, now: BTreeMap<String, String>| {
        let mut names: Vec<&String> = then.keys().chain(now.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let text = |of: &BTreeMap<String, String>| of.get(name).cloned().unwrap_or_default();
            let (was, is) = (text(&then), text(&now));
            if was != is {
                all.push(Difference { what, name: name.clone(), then: was, now: is });
            }
        }
    };
    compare("machine", machines(then), machines(now));
    compare("job", jobs(then), jobs(now));
    compare("task", tasks(then), tasks(now));
    all
}

fn machines(state: &CellState) -> BTreeMap<String, String> {
    let told = |machine: &Machine| {
        let closed = if machine.closed.is_some() { ", closed" } else { "" };
        let drain = if machine.drain.is_some() { ", drained" } else { "" };
        format!("{:?}, {} tasks{closed}{drain}", machine.state, machine.tasks.len()).to_lowercase()
    };
    state.machines().map(|machine| (machine.name.to_string(), told(machine))).collect()
}

fn jobs(state: &CellState) -> BTreeMap<String, String> {
    let told = |job: &Job| {
        let update =
            job.update().map(|update| format!(", update to {}: {}", update.to, update.state));
        format!(
            "{}, version {}, {} tasks, priority {}{}",
            job.state(),
            job.head().number,
            job.slots(),
            job.priority().get(),
            update.unwrap_or_default()
        )
    };
    state.jobs().map(|job| (job.key.to_string(), told(job))).collect()
}

fn tasks(state: &CellState) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for job in state.jobs() {
        for (id, task) in state.tasks_of(job.id) {
            all.insert(format!("{}/{}", job.key, id.index), told(task, state));
        }
    }
    all
}

fn told(task: &Task, state: &CellState) -> String {
    let run = match &task.state {
        TaskState::Pending { .. } => "pending".to_owned(),
        TaskState::Dead { .. } => "over".to_owned(),
        TaskState::Running(placement) => {
            let machine = state.machine(placement.machine);
            let machine = machine.map(|machine| machine.name.to_string()).unwrap_or_default();
            let phase = match placement.phase {
                borg_proto::task::Phase::Starting => "starting",
                borg_proto::task::Phase::Up { .. } => "up",
                borg_proto::task::Phase::BackOff { .. } => "backing off",
            };
            format!("{phase} on {machine} as incarnation {}", placement.incarnation)
        }
    };
    format!("{run}, version {}", task.version)
}
