//! What was acknowledged is durable on a majority at that moment, and in the state of every later
//! leader (I2).

use crate::disk::SimDisk;
use borg_cell::state::{Answer, CellState, Job};
use borg_proto::command::Action;
use borg_proto::{JobId, JobKey, MachineId, MachineName, UserName};
use std::collections::BTreeMap;

/// What clients were told.
#[derive(Debug, Default)]
pub struct Durability {
    /// The newest entry whose outcome somebody was told.
    newest: u64,
    jobs: BTreeMap<JobKey, (JobId, u64)>,
    /// Up to which entry a job of that name was there when its death was asked for.
    kills: BTreeMap<JobKey, u64>,
    /// `None` for a machine that was removed.
    machines: BTreeMap<MachineName, (Option<MachineId>, u64)>,
    /// Entry that accepted each job, by the events.
    submitted_at: BTreeMap<JobId, u64>,
}

impl Durability {
    /// The newest entry whose outcome somebody was told.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.newest
    }

    /// Every job that the events say was accepted.
    pub fn accepted(&self) -> impl Iterator<Item = &JobId> {
        self.submitted_at.keys()
    }

    /// The events say that a job was accepted.
    pub fn submitted(&mut self, job: JobId, index: u64) {
        self.submitted_at.insert(job, index);
    }

    /// A master is about to tell somebody the outcome of the entry at `index`. With each disk, whether
    /// its log was lost.
    ///
    /// # Errors
    /// When fewer than a majority of the disks have the entry that the master has there.
    pub fn is_on_a_majority<'a>(
        &self,
        index: u64,
        teller: usize,
        disks: impl Iterator<Item = (&'a SimDisk, bool)>,
    ) -> Result<(), String> {
        let (terms, lost): (Vec<Option<u64>>, Vec<bool>) =
            disks.map(|(disk, lost)| (disk.term_at(index), lost)).unzip();
        let Some(term) = terms[teller].or_else(|| terms.iter().copied().flatten().max()) else {
            return Err(format!("entry {index} is answered and on no disk"));
        };
        // A compacted entry was agreed on; its term is not known any more.
        let same = |found: &&Option<u64>| {
            **found == Some(term) || **found == Some(0) || term == 0 && found.is_some()
        };
        // One that was lost in between had it, or else the others must be enough.
        let lost = lost.iter().filter(|lost| **lost).count();
        let there = terms.iter().filter(same).count();
        if (there + lost) * 2 > terms.len() {
            return Ok(());
        }
        Err(format!(
            "entry {index} is answered by master {} and durable on {there} of {} disks only",
            teller + 1,
            terms.len()
        ))
    }

    /// A client was told that its change was done. `asked_after` is the newest entry that anybody
    /// was told of when it was asked for: `index` may be of a repetition, long after the effect.
    pub fn acknowledge(
        &mut self,
        (asked_after, index): (u64, u64),
        user: &UserName,
        action: &Action,
        answer: &Answer,
    ) {
        self.newest = self.newest.max(index);
        match (action, answer) {
            (Action::SubmitJob { .. }, Answer::Job { id, key }) => {
                let newest = self.jobs.entry(key.clone()).or_insert((*id, index));
                if newest.0 < *id {
                    *newest = (*id, index);
                }
            }
            (Action::Kill { job, tasks }, Answer::Killed { .. })
                if tasks.is_empty() && job.user == *user =>
            {
                let newest = self.kills.entry(job.clone()).or_insert(asked_after);
                *newest = (*newest).max(asked_after);
            }
            (Action::AddMachine { machine }, Answer::Machine(id)) => {
                self.machines.insert(machine.name.clone(), (Some(*id), index));
            }
            (Action::RemoveMachine { machine }, Answer::Machine(_)) => {
                self.machines.insert(machine.clone(), (None, index));
            }
            (
                Action::SubmitJob { .. }
                | Action::Kill { .. }
                | Action::Rerun { .. }
                | Action::OrderCron { .. }
                | Action::RescueData { .. }
                | Action::AddMachine { .. }
                | Action::RemoveMachine { .. }
                | Action::InviteMaster { .. }
                | Action::JoinMaster { .. }
                | Action::RemoveMaster { .. }
                | Action::ForgetMaster { .. }
                | Action::RaiseLevel { .. }
                | Action::GiveUp { .. }
                | Action::SetQuota { .. }
                | Action::RemoveQuota { .. }
                | Action::EnforceQuota { .. }
                | Action::ResizeAllocs { .. }
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
                | Action::Settle
                | Action::Advance
                | Action::UpdateJob { .. }
                | Action::SteerUpdate { .. }
                | Action::StopTasks { .. }
                | Action::StartTasks { .. }
                | Action::Lead { .. }
                | Action::Place { .. }
                | Action::Observe { .. },
                _,
            ) => {}
        }
    }

    /// A leader's state, as of its own first entry. The admin, who alone changes machines, may be
    /// changing one of them at the moment: of that one nothing is known.
    ///
    /// # Errors
    /// What was acknowledged and is not there.
    pub fn all_kept(
        &self,
        state: &CellState,
        under_way: Option<&MachineName>,
    ) -> Result<(), String> {
        for (key, (id, index)) in &self.jobs {
            // A job of the same name may have replaced it since.
            let found = state.job_named(key).map(|job| job.id);
            if found.is_none_or(|found| found < *id) {
                return Err(format!(
                    "job {key}, number {} of entry {index}, is gone: found {found:?}",
                    id.0
                ));
            }
        }
        for (key, index) in &self.kills {
            // One whose tasks somebody ran again since lives by right.
            let lives = |job: &&Job| job.is_alive() && job.rerun_at.is_none();
            let Some(job) = state.job_named(key).filter(lives) else { continue };
            if self.submitted_at.get(&job.id).is_some_and(|at| at <= index) {
                return Err(format!("job {key} lives, although it was killed after entry {index}"));
            }
        }
        for (name, (id, index)) in &self.machines {
            let found = state.machine_named(name).map(|machine| machine.id);
            if found != *id && under_way != Some(name) {
                return Err(format!("machine {name} of entry {index} is {found:?}, not {id:?}"));
            }
        }
        if state.applied() < self.newest {
            return Err(format!(
                "the leader is at entry {}, {} was acknowledged",
                state.applied(),
                self.newest
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::Millis;
    use borg_proto::command::{Command, Principal};
    use borg_proto::identity::ADMIN;
    use borg_proto::machine::MachineAddress;

    fn m1() -> MachineName {
        "m1".parse().unwrap()
    }

    fn add() -> Action {
        Action::AddMachine { machine: MachineAddress { name: m1(), address: "m1:7000".into() } }
    }

    fn remove() -> Action {
        Action::RemoveMachine { machine: m1() }
    }

    /// A state after these actions of the admin, and what the admin was told.
    fn cell(actions: impl IntoIterator<Item = Action>) -> (CellState, Durability) {
        let mut state = CellState::new("sim".parse().unwrap());
        let mut durability = Durability::default();
        let admin: UserName = ADMIN.parse().unwrap();
        for (index, action) in (1..).zip(actions) {
            let by = Principal::User(admin.clone());
            let command = Command { at: Millis(1_000), by, request: None, action };
            let answer = state.apply(index, &command).unwrap().answer;
            durability.acknowledge((index - 1, index), &admin, &command.action, &answer);
        }
        (state, durability)
    }

    /// What is found in a state that has forgotten what the actions did.
    fn found_in(kept: impl IntoIterator<Item = Action>, told: &Durability) -> Result<(), String> {
        let (mut state, _) = cell(kept);
        while state.applied() < told.acknowledged() {
            state.skip(state.applied() + 1);
        }
        told.all_kept(&state, None)
    }

    #[test]
    fn machines_as_acknowledged_are_kept() {
        for actions in [vec![add()], vec![add(), remove()], vec![add(), remove(), add()]] {
            let (state, durability) = cell(actions);
            durability.all_kept(&state, None).unwrap();
        }
    }

    #[test]
    fn a_lost_machine_is_noticed() {
        let (_, told) = cell([add()]);
        let found = found_in([], &told).unwrap_err();
        assert!(found.contains("machine m1 of entry 1 is None"), "{found}");
    }

    #[test]
    fn an_undone_removal_is_noticed() {
        let (_, told) = cell([add(), remove()]);
        let found = found_in([add()], &told).unwrap_err();
        assert!(found.contains("machine m1 of entry 2"), "{found}");
    }

    #[test]
    fn an_older_machine_of_the_same_name_is_noticed() {
        let (_, told) = cell([add(), remove(), add()]);
        assert!(found_in([add()], &told).is_err());
    }

    #[test]
    fn nothing_is_known_of_a_machine_that_is_being_changed() {
        let (_, told) = cell([add()]);
        let (state, _) = cell([add(), remove()]);
        told.all_kept(&state, Some(&m1())).unwrap();
        told.all_kept(&state, Some(&"m2".parse().unwrap())).unwrap_err();
    }
}
