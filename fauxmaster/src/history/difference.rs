//! What is different between two states of a cell.

use borg_cell::state::{CellState, Job, Machine, Maintenance, Task};
use borg_proto::task::TaskState;
use borg_proto::{Band, Millis};
use std::collections::BTreeMap;

/// Something that is otherwise in the later state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Difference {
    /// setting, quota, privilege, package, maintenance, machine, job or task.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// As it was; empty when it was not there.
    pub then: String,
    /// As it is; empty when it is gone.
    pub now: String,
}

/// Every setting, quota, privilege, package, maintenance, machine, job and task that is different, by kind and name.
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
    compare("setting", settings(then), settings(now));
    compare("quota", quotas(then), quotas(now));
    compare("privilege", privileges(then), privileges(now));
    compare("package", packages(then), packages(now));
    compare("maintenance", maintenances(then), maintenances(now));
    compare("machine", machines(then), machines(now));
    compare("job", jobs(then), jobs(now));
    compare("task", tasks(then), tasks(now));
    all
}

fn settings(state: &CellState) -> BTreeMap<String, String> {
    let enforced = Band::ALL.iter().filter(|band| state.enforces_quota(**band));
    let all = [
        ("leader", state.leader().map(|(leader, term)| format!("master {leader}, term {term}"))),
        ("level of entries", Some(state.level().to_string())),
        ("policy", state.policy().map(|policy| policy.to_string())),
        ("reclamation", state.reclamation().map(|reclamation| reclamation.to_string())),
        (
            "safe mode",
            state.safe_mode().map(|mode| format!("{} of {} silent", mode.silent, mode.machines)),
        ),
        (
            "bands that need quota",
            Some(enforced.map(|band| band.name()).collect::<Vec<_>>().join(", ")),
        ),
    ];
    all.into_iter().filter_map(|(name, told)| Some((name.to_owned(), told?))).collect()
}

fn quotas(state: &CellState) -> BTreeMap<String, String> {
    let of_one = state.quotas().map(|(user, band, grants)| {
        let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
        (format!("{user} {band}"), grants.join("; "))
    });
    of_one.collect()
}

fn privileges(state: &CellState) -> BTreeMap<String, String> {
    let granted = state.privileges();
    let granted =
        granted.map(|(user, what, by)| (format!("{user} {what}"), format!("by {}", by.by)));
    granted.collect()
}

fn packages(state: &CellState) -> BTreeMap<String, String> {
    let told = |at: Millis| format!("put at {} ms", at.0);
    state.packages().map(|one| (one.package.key.to_string(), told(one.put_at))).collect()
}

fn maintenances(state: &CellState) -> BTreeMap<String, String> {
    let told = |one: &Maintenance| {
        let (done, left) = (one.done, one.left.len());
        format!("by {}: {done} machines done, {left} left", one.by)
    };
    state.maintenances().map(|one| (one.number.to_string(), told(one))).collect()
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
