//! Tasks in allocs: no machine is chosen for them, they go where their alloc is.
//!
//! They wait outside the queue until their alloc is placed and has room, and come back when their
//! alloc or one of their neighbours in it changes; when only their machine is in the way, when that
//! changes. So tasks of an alloc set that finds no room cost a pass nothing.
//!
//! Invariant: what the tasks in an alloc may use together, proposed ones included, is at most the
//! alloc.

use crate::explain::{self, Explanation};
use crate::machines::Machines;
use crate::need::{Cohort, Need};
use crate::queue::NEVER;
use crate::rooms::BLOCK;
use crate::scheduler::Scheduler;
use borg_cell::rejection::AllocRejection;
use borg_proto::command::Assignment;
use borg_proto::{JobId, MachineId, Millis, Resources, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tasks that belong on one machine, with their alloc or of a daemon, where there is no room for them, with the version of the machines
/// that they know of.
pub(crate) type Stuck = BTreeMap<MachineId, (u64, BTreeSet<TaskId>)>;

impl Scheduler {
    /// Where a task's alloc is if it has room for the task, decisions that are not committed yet
    /// included.
    pub(crate) fn home_of(&self, task: TaskId) -> Result<MachineId, Homeless> {
        let job = self.state.job(task.job).ok_or(Homeless::Undecided)?;
        let machine = self.state.place_in_alloc(job, task.index).map_err(Homeless::Refused)?;
        let alloc = self.state.alloc_of(task).ok_or(Homeless::Undecided)?;
        if self.is_leaving(alloc) {
            return Err(Homeless::Undecided);
        }
        let limit =
            |task: TaskId| self.state.job(task.job).map(|job| &job.task_spec(task.index).limit);
        let neighbours = self.state.belonging_in(alloc).filter(|(id, found)| {
            *id != task && (found.placement().is_some() || self.assumed.contains_key(id))
        });
        let used = neighbours
            .filter_map(|(id, _)| limit(id))
            .fold(Resources::default(), |sum, limit| sum.plus(limit));
        let size = limit(alloc).ok_or(Homeless::Undecided)?;
        if job.task_spec(task.index).limit.fits_in(&size.minus(&used)) {
            Ok(machine)
        } else {
            Err(Homeless::Undecided)
        }
    }

    /// Decides for the first task of a job that can go where its alloc is. Who cannot leaves the
    /// queue until something changes.
    pub(crate) fn decide_in_alloc(&mut self, need: &Arc<Need>) -> Option<Assignment> {
        while let Some(task) = self.queue.first(need.cohort) {
            if let Ok(machine) = self.home_of(task)
                && let Some(row) = self.machines.row(machine)
            {
                if self.takes(task, row) {
                    return Some(self.assume(task, need, (row, machine), Vec::new()));
                }
                let since = self.machines.version();
                // Who is here already knows of an older one.
                let stuck = self.stuck.entry(machine).or_insert((since, BTreeSet::new()));
                stuck.1.insert(task);
            }
            let user = self.state.job(need.job)?.key.user.clone();
            self.queue.add(task, need.cohort, need.priority, &user, NEVER);
        }
        None
    }

    /// Whether a row's machine takes a task that is in an alloc there, which asks it for ports alone.
    fn takes(&self, task: TaskId, row: usize) -> bool {
        let Machines { rooms, access, .. } = &self.machines;
        let Some(need) = self.need_of(task) else { return false };
        let kind = need.kind();
        let has = |(column, ask): &(usize, i32)| *ask <= rooms.left(*column, row, kind);
        rooms.is_open(row) && access.admits(need.group, row) && need.asks.iter().all(has)
    }

    /// Tasks that only their machine kept from starting try again when it has changed, or who is there.
    pub(crate) fn wake_stuck(&mut self) {
        let grown = |machine: &MachineId, since: u64| {
            let row = self.machines.row(*machine);
            let versions = row.map(|row| self.machines.versions(row / BLOCK));
            versions.is_none_or(|versions| versions.grown.max(versions.residents) > since)
        };
        let woken = self.stuck.iter().filter(|(machine, (since, _))| grown(machine, *since));
        let woken: Vec<MachineId> = woken.map(|(machine, _)| *machine).collect();
        for machine in woken {
            self.wake_stuck_on(machine);
        }
    }

    /// Those whom only this machine kept from starting try again.
    pub(crate) fn wake_stuck_on(&mut self, machine: MachineId) {
        let (_, tasks) = self.stuck.remove(&machine).unwrap_or_default();
        tasks.into_iter().for_each(|task| self.settle(task));
    }

    /// The alloc set in which a job's tasks run, or that the job is; also of tasks that are no more.
    fn set_of(&self, job: JobId) -> Option<JobId> {
        if let Some((_, need)) = self.needs.range(Cohort::all_of(job)).next() {
            return need.alloc_set.or(need.is_alloc.then_some(job));
        }
        let found = self.state.job(job)?;
        self.state.alloc_set_of(found).map(|set| set.id).or(found.is_alloc_set().then_some(job))
    }

    /// A task changed: if it is an alloc or in one, others may go there now, or no longer.
    pub(crate) fn settle_neighbours(&mut self, task: TaskId) {
        let Some(set) = self.set_of(task.job) else { return };
        let alloc = TaskId { job: set, index: task.index };
        let neighbours: Vec<TaskId> =
            self.state.belonging_in(alloc).map(|(id, _)| id).filter(|id| *id != task).collect();
        neighbours.into_iter().for_each(|id| self.settle(id));
    }

    /// Why a task in an alloc is where it is.
    pub(crate) fn explain_in_alloc(&self, task: TaskId, now: Millis) -> Explanation {
        let found = self.state.task(task);
        let mut told = explain::settled(&self.state, task, found);
        let (Some(found), Some(job)) = (found, self.state.job(task.job)) else { return told };
        let alloc = self.state.alloc_of(task);
        let name = |alloc: TaskId| {
            let set = self.state.job(alloc.job).map(|set| set.key.to_string()).unwrap_or_default();
            format!("{set}/{}", alloc.index)
        };
        let not_before = match &found.state {
            TaskState::Pending { not_before, .. } => self.not_before(task, *not_before),
            TaskState::Running(_) => {
                told.summary +=
                    &alloc.map(|id| format!(", in alloc {}", name(id))).unwrap_or_default();
                return told;
            }
            TaskState::Dead { .. } => return told,
        };
        told.ahead = self.queue.ahead(job.priority());
        if let Ok(machine) = self.home_of(task) {
            let fits = self.machines.row(machine).is_some_and(|row| self.takes(task, row));
            (told.machines, told.feasible) = (1, u32::from(fits));
        }
        told.not_before = (not_before > now).then_some(not_before);
        told.summary = if found.is_stopped() {
            explain::stopped(job)
        } else if !job.waits_for.is_empty() {
            explain::waits(&self.state, job)
        } else if let Some((machine, _)) = found.lingering(task) {
            explain::lingers(&self.machine_name(machine))
        } else if let Some(assumed) = self.assumed.get(&task) {
            format!(
                "goes to its alloc on {} as soon as the decision is committed",
                self.machine_name(assumed.machine)
            )
        } else {
            let back_off = self.why_not_yet(task, found, not_before, now);
            back_off + &self.why_homeless(task, alloc, now)
        };
        told
    }

    fn why_homeless(&self, task: TaskId, alloc: Option<TaskId>, now: Millis) -> String {
        match self.home_of(task) {
            Err(Homeless::Refused(refused @ AllocRejection::NotPlaced { .. })) => {
                let why = alloc.map(|alloc| self.explain(alloc, now).summary).unwrap_or_default();
                format!("{refused}: {why}")
            }
            Err(Homeless::Refused(refused)) => refused.to_string(),
            Err(Homeless::Undecided) => "its alloc is about to change".to_owned(),
            Ok(machine) => self.why_not_there(task, machine),
        }
    }

    /// Why a task does not start on the machine of its alloc, which has room for it.
    fn why_not_there(&self, task: TaskId, machine: MachineId) -> String {
        let name = self.machine_name(machine);
        let owner = self.state.job(task.job).map(|job| job.owner());
        let found = self.state.machine(machine);
        if let (Some(found), Some(owner)) = (found, owner)
            && let Err(refused) = found.admits(owner)
        {
            return format!("its alloc is there, but {refused}");
        }
        match self.machines.row(machine) {
            Some(row) if self.takes(task, row) => {
                format!("waits for its turn; its alloc on {name} has room")
            }
            Some(row) if self.machines.rooms.is_open(row) => {
                format!("machine {name}, where its alloc is, has too few ports or too many tasks")
            }
            _ => format!("machine {name}, where its alloc is, does not answer"),
        }
    }
}

/// Why a task in an alloc has no place just now.
pub(crate) enum Homeless {
    /// The committed state says so.
    Refused(AllocRejection),
    /// A decision that is not committed yet does.
    Undecided,
}
