//! What happens, in words: for the people who read a trace.

use super::World;
use borg_cell::rejection::Rejection;
use borg_cell::state::Answer;
use borg_proto::command::{Action, Assignment, DataOrder};
use borg_proto::update::Revision;
use borg_proto::{IncarnationId, TaskId, TaskState};

impl World {
    /// Whom and what a run is about, before anything happens.
    pub fn introduce(&mut self) {
        let setup = &self.setup;
        let line = format!(
            "seed {}: masters 1 to {}, machines m0 to m{}, {} clients that ask by themselves; a checkpoint \
             every {} entries, machines are down after {} of silence, schedulers take up to {} ms",
            setup.seed,
            setup.masters,
            setup.machines.saturating_sub(1),
            setup.clients,
            setup.checkpoint_every,
            setup.machine_down_after,
            setup.scheduler_lag,
        );
        self.say(|| line);
    }

    /// A task as its users call it.
    pub(crate) fn name_of(&self, task: TaskId) -> String {
        match self.newest.job(task.job) {
            Some(job) => format!("{}/{}", job.key, task.index),
            None => format!("task {task} of a forgotten job"),
        }
    }

    /// Why a machine should not have an incarnation, by the furthest state.
    pub(crate) fn why_not_wanted(&self, id: IncarnationId) -> String {
        let Some(task) = self.newest.task(id.task) else {
            return "its job is forgotten".into();
        };
        if let Some(placement) = task.placement() {
            let machine = self.newest.machine(placement.machine).map(|machine| &machine.name);
            let machine =
                machine.map_or_else(|| "a machine that is gone".into(), ToString::to_string);
            return format!("it is placed on {machine} as incarnation {}", placement.incarnation);
        }
        match &task.state {
            TaskState::Pending { .. } => "it is pending".into(),
            TaskState::Running(_) => "it is placed".into(),
            TaskState::Dead { end, .. } => format!("it is dead: {end}"),
        }
    }

    /// A scheduler's decisions.
    pub(crate) fn decided(&self, decisions: &[Assignment]) -> String {
        let one = |decision: &Assignment| {
            let machine = self.newest.machine(decision.machine).map(|machine| &machine.name);
            let machine = machine.map_or_else(|| "?".into(), ToString::to_string);
            format!("{} on {machine}", self.name_of(decision.task))
        };
        let mut words: Vec<String> = decisions.iter().take(6).map(one).collect();
        if decisions.len() > words.len() {
            words.push(format!("and {} more", decisions.len() - words.len()));
        }
        words.join(", ")
    }
}

/// What a client asks for.
pub(crate) fn wanted(action: &Action) -> String {
    match action {
        Action::SubmitJob { spec } => {
            let (tasks, priority) = (spec.tasks, spec.priority);
            format!("submit {} ({:?}, {tasks} tasks, priority {priority})", spec.name, spec.kind)
        }
        Action::Kill { job, tasks } if tasks.is_empty() => format!("kill {job}"),
        Action::Kill { job, tasks } => format!("kill tasks {tasks:?} of {job}"),
        Action::Rerun { job, tasks } => format!("run tasks {tasks:?} of {job} again"),
        Action::RescueData { alloc, number, order } => {
            let word = if *order == DataOrder::Drop { "drop" } else { "rescue" };
            let of = number.map_or_else(|| "all".to_owned(), |number| format!("{number}"));
            format!("{word} {of} of what {alloc} left behind")
        }
        Action::OrderCron { job, order } => format!("{order:?} cron job {job}").to_lowercase(),
        Action::AddMachine { machine } => format!("add machine {}", machine.name),
        Action::RemoveMachine { machine } => format!("remove machine {machine}"),
        Action::GiveUp { machines, .. } => {
            let names: Vec<_> = machines.iter().map(ToString::to_string).collect();
            format!("give up {}", names.join(", "))
        }
        Action::InviteMaster { number, replaces: Some(old), .. } => {
            format!("let master {number} take the place of {old}")
        }
        Action::InviteMaster { number, .. } => format!("let master {number} join"),
        Action::JoinMaster { number, .. } => format!("join as master {number}"),
        Action::RemoveMaster { number } => format!("remove master {number}"),
        Action::SetQuota { user, band, amount, from, until, oversell } => format!(
            "give {user} quota in {band}: {amount:?} from {from:?} until {until:?}{}",
            if *oversell { ", oversold or not" } else { "" }
        ),
        Action::RemoveQuota { user, band } => format!("take the quota of {user} in {band} back"),
        Action::EnforceQuota { bands, on: true } => format!("enforce quota in {bands:?}"),
        Action::EnforceQuota { bands, on: false } => format!("open {bands:?}"),
        Action::ResizeAllocs { alloc_set, allocs, size } => {
            format!("resize {alloc_set} to {allocs:?} allocs of {size:?}")
        }
        Action::UpdateJob { job, to, .. } => {
            let what = match to {
                Revision::Spec(_) => "another specification".to_owned(),
                Revision::Version(number) => format!("version {number}"),
                Revision::Tasks(tasks) => format!("{tasks} tasks"),
                Revision::Restart => "new processes".to_owned(),
            };
            format!("update {job} to {what}")
        }
        Action::SteerUpdate { job, verb } => format!("{verb} the update of {job}"),
        Action::StopTasks { job, .. } => format!("stop tasks of {job}"),
        Action::StartTasks { job, .. } => format!("start tasks of {job}"),
        Action::ForgetMaster { .. }
        | Action::SetPolicy { .. }
        | Action::SetReclamation { .. }
        | Action::KeepMachines { .. }
        | Action::CloseMachines { .. }
        | Action::OpenMachines { .. }
        | Action::DrainMachines { .. }
        | Action::UndrainMachines { .. }
        | Action::EndMaintenance { .. }
        | Action::PutPackage { .. }
        | Action::RemovePackage { .. }
        | Action::GrantPrivilege { .. }
        | Action::RevokePrivilege { .. }
        | Action::RaiseLevel { .. }
        | Action::Settle
        | Action::Advance
        | Action::Lead { .. }
        | Action::Place { .. }
        | Action::Observe { .. } => {
            format!("{action:?}")
        }
    }
}

/// What a client is told.
pub(crate) fn outcome(result: &Result<Answer, Rejection>) -> String {
    match result {
        Ok(Answer::None) => "done".into(),
        Ok(Answer::Job { id, key }) => format!("{key} is accepted as job number {}", id.0),
        Ok(Answer::Killed { tasks }) => format!("{tasks} tasks are ended"),
        Ok(Answer::Version(number)) => format!("version {number} is in force"),
        Ok(Answer::Rerun { tasks }) => format!("{tasks} tasks wait again"),
        Ok(Answer::Machine(id)) => format!("done, machine number {}", id.0),
        Ok(Answer::Master(id)) => format!("done, master {id}"),
        Ok(Answer::Placed { results }) => format!("{} decisions taken", results.len()),
        Err(rejection) => format!("refused: {rejection}"),
    }
}
