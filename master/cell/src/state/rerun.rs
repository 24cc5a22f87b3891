//! Running single tasks of a batch job again.
//!
//! A job that is over comes alive with just these; the others stay as they ended. Its tasks go on with the
//! next incarnation numbers, as the newest version of the job and with all of their retries, its deadline begins anew. All that is asked of a new job
//! is asked again: quota, privileges, packages, its parent.
//!
//! Invariant: only a batch job that began comes back.

use super::turn::Turn;
use super::{Answer, Due, Job, JobEnd};
use crate::event::EventKind;
use crate::rejection::{AllocRejection, KindRejection, Rejection};
use borg_proto::{JobId, JobKey, JobKind, TaskId, UserName};
use std::collections::BTreeSet;

impl Turn<'_> {
    /// Makes dead tasks of a batch job wait to be placed again.
    pub(super) fn rerun(
        &mut self,
        user: &UserName,
        key: &JobKey,
        tasks: &[u32],
    ) -> Result<Answer, Rejection> {
        let Some(job) = self.state.job_named(key) else {
            return Err(Rejection::NoSuchJob { job: key.clone() });
        };
        if user != job.owner() && !self.state.is_admin(user) {
            return Err(Rejection::NotOwner { user: user.clone(), job: key.clone() });
        }
        check_may_rerun(job, tasks)?;
        let tasks: BTreeSet<u32> = tasks.iter().copied().collect();
        let many = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let id = job.id;
        self.check_quota(job.owner(), job.priority(), &job.charged(), many)?;
        if !job.is_alive() {
            self.check_revival(job)?;
            self.revive(id);
        }
        let newest = self.state.job(id).map_or(0, |job| job.head().number);
        for index in &tasks {
            let task = TaskId { job: id, index: *index };
            self.change_version(task, newest);
            self.come_back(task);
        }
        self.set_alarm(Due::Job(id));
        Ok(Answer::Rerun { tasks: many })
    }

    /// What is asked of a job that comes alive again.
    fn check_revival(&self, job: &Job) -> Result<(), Rejection> {
        self.check_room(job.spec.kind, job.slots())?;
        self.check_parent(job.owner(), &job.key, &job.spec)?;
        self.check_tenancy(job.owner(), &job.spec)?;
        self.check_packages(job.owner(), &job.spec)?;
        self.check_privileges(job.owner(), &job.spec)
    }

    fn revive(&mut self, id: JobId) {
        let at = self.at;
        let job = self.job_mut(id);
        let (from, slots) = (job.state(), u64::from(job.slots()));
        let ended = job.ended.take().map(|(ended, _)| ended);
        job.rerun_at = Some(at);
        let (to, spec) = (job.state(), job.spec.clone());
        let copy = job.clone();
        if let Some(ended) = ended {
            self.state.dead_jobs.remove(&(ended, id));
        }
        self.state.dead_slots -= slots;
        self.state.live_slots += slots;
        self.use_packages(&copy);
        let keys = &self.state.job_keys;
        let named = |key: &Option<JobKey>| key.as_ref().and_then(|key| keys.get(key).copied());
        let (parent, set) = (named(&spec.parent), named(&spec.alloc_set));
        if let Some(parent) = parent {
            self.job_mut(parent).children.insert(id);
            self.run_revived(parent, id);
        }
        if let Some(set) = set {
            self.job_mut(set).tenants.insert(id);
        }
        self.emit(EventKind::JobChanged { job: id, from, to });
    }
}

/// Whether these tasks of a job can be run again at all.
fn check_may_rerun(job: &Job, tasks: &[u32]) -> Result<(), Rejection> {
    let key = || job.key.clone();
    if job.spec.kind != JobKind::Batch {
        return Err(KindRejection::RerunKind { job: key(), kind: job.spec.kind }.into());
    }
    if job.rescues().is_some() {
        return Err(AllocRejection::RunOfData { job: key() }.into());
    }
    if let Some((_, JobEnd::DependencyFailed { .. })) = &job.ended {
        return Err(KindRejection::NeverBegan { job: key() }.into());
    }
    job.check_tasks(tasks)?;
    let alive = |index: &u32| job.task(*index).is_some_and(|task| !task.is_dead());
    match tasks.iter().copied().find(alive) {
        Some(index) => Err(KindRejection::TaskAlive { job: key(), index }.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, batch, service, user, with_task};
    use crate::rejection::Rejection;
    use crate::state::{Answer, JobState};
    use borg_proto::command::{Action, Observation};
    use borg_proto::update::Revision;
    use borg_proto::{FailureCause, JobId, JobSpec, MachineId, Millis, TaskId};

    const MIB: u64 = 1 << 20;

    fn rerun(cell: &mut Cell, who: &str, job: &str, tasks: &[u32]) -> Result<u32, Rejection> {
        let action = Action::Rerun { job: job.parse().unwrap(), tasks: tasks.to_vec() };
        let applied = cell.apply(user(who), action)?;
        let Answer::Rerun { tasks } = applied.answer else { panic!("{applied:?}") };
        Ok(tasks)
    }

    /// An array of four of which 1 and 2 have failed.
    fn array() -> (Cell, JobId, MachineId) {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let spec = JobSpec {
            max_failures: 4,
            deadline_ms: Some(Millis(100_000)),
            ..batch("array", 4, 100, 4 * MIB)
        };
        let job = cell.submit("ann", spec);
        for index in 0..4 {
            let id = cell.place(job, index, machine).unwrap();
            let failed = [1, 2].contains(&index);
            cell.ended(id, failed.then_some(FailureCause::Exit { code: 1 }));
        }
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Failed);
        (cell, job, machine)
    }

    #[test]
    fn a_job_that_is_over_comes_alive_with_just_these_tasks() {
        let (mut cell, job, machine) = array();
        cell.wait(1_000_000);
        assert_eq!(rerun(&mut cell, "ann", "ann/array", &[1, 2, 1]).unwrap(), 2);
        let found = cell.state.job(job).unwrap();
        assert_eq!(
            (found.state(), found.counts.alive(), found.counts.finished),
            (JobState::Pending, 2, 2)
        );
        assert_eq!(found.deadline(), Some(cell.now + Millis(100_000)), "it begins anew");
        for index in [1, 2] {
            let id = cell.place(job, index, machine).unwrap();
            assert_eq!(id.number, 2, "incarnations go on");
            cell.ended(id, None);
        }
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Finished);
        let ann = "ann".parse().unwrap();
        let band = cell.state.job(job).unwrap().priority().band();
        assert!(cell.state.used_quota(&ann, band).is_nothing());
    }

    /// It was killed where it ran, and its machine may be cut off.
    #[test]
    fn an_exclusive_task_runs_again_when_its_last_incarnation_is_surely_over() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let spec = JobSpec {
            exclusive: true,
            timeout_ms: Some(Millis(5_000)),
            retries: 1,
            ..batch("alone", 1, 100, 4 * MIB)
        };
        let job = cell.submit("ann", spec);
        let ran_out = cell.place(job, 0, machine).unwrap();
        cell.wait(5_000);
        cell.advance();
        cell.wait(5_000);
        let told =
            "task 1.0 is exclusive, and its last incarnation may still run on machine number 0";
        assert_eq!(cell.place(job, 0, machine).unwrap_err().to_string(), told);
        cell.observe(Observation::TaskGone { id: ran_out });
        let killed = cell.place(job, 0, machine).unwrap();
        cell.kill("ann", "ann/alone", &[]).unwrap();
        let drain = Action::DrainMachines {
            machines: vec!["m-1".parse().unwrap()],
            reason: "new disk".to_owned(),
            within: Millis(60_000),
            at_once: None,
            leaves: Some(0),
        };
        cell.apply(user("admin"), drain).unwrap();
        rerun(&mut cell, "ann", "ann/alone", &[0]).unwrap();
        assert_eq!(
            cell.state.audit(),
            [],
            "the drained machine is not empty, as it may still run there"
        );
        let machines = vec!["m-1".parse().unwrap()];
        cell.apply(user("admin"), Action::UndrainMachines { machines }).unwrap();
        assert_eq!(cell.place(job, 0, machine).unwrap_err().to_string(), told);
        cell.observe(Observation::TaskGone { id: killed });
        let third = cell.place(job, 0, machine).unwrap();
        cell.ended(third, None);
        rerun(&mut cell, "ann", "ann/alone", &[0]).unwrap();
        cell.place(job, 0, machine).unwrap();
    }

    /// What failed is run again when it is mended.
    #[test]
    fn what_runs_again_is_of_the_newest_version() {
        let (mut cell, job, machine) = array();
        let again = |cell: &mut Cell, index: u32| {
            rerun(cell, "ann", "ann/array", &[index]).unwrap();
            cell.place(job, index, machine).unwrap()
        };
        let first = again(&mut cell, 1);
        let spec = cell.state.job(job).unwrap().spec.as_ref().clone();
        let spec = with_task(spec, |task| task.command = vec!["/bin/mended".into()]);
        let to = Revision::Spec(std::sync::Arc::new(spec));
        let key = "ann/array".parse().unwrap();
        let update = Action::UpdateJob { job: key, to, options: Box::default() };
        cell.apply(user("ann"), update).unwrap();
        let running = TaskId { job, index: 1 };
        let updated = cell.state.task(running).unwrap().running(running).unwrap();
        assert!(updated.number > first.number, "what ran is updated");
        let version = |cell: &Cell, index| cell.state.job(job).unwrap().version_of(index).number;
        assert_eq!([1, 2].map(|index| version(&cell, index)), [2, 1]);
        again(&mut cell, 2);
        cell.ended(updated, None);
        let id = TaskId { job, index: 2 };
        let id = cell.state.task(id).unwrap().running(id).unwrap();
        cell.ended(id, None);
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Finished);
        again(&mut cell, 0);
        assert_eq!([0, 1, 2, 3].map(|index| version(&cell, index)), [2, 2, 2, 1]);
        assert_eq!(cell.state.job(job).unwrap().task_spec(0).command, ["/bin/mended"]);
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn what_cannot_be_run_again_is_told() {
        let (mut cell, job, machine) = array();
        let mut refused = |who: &str, job: &str, tasks: &[u32]| {
            rerun(&mut cell, who, job, tasks).unwrap_err().to_string()
        };
        assert_eq!(
            refused("bob", "ann/array", &[1]),
            "user bob is neither the owner of ann/array nor admin"
        );
        assert_eq!(refused("ann", "ann/none", &[1]), "there is no job ann/none");
        assert_eq!(refused("ann", "ann/array", &[9]), "job ann/array has tasks 0 to 3, not 9");
        rerun(&mut cell, "admin", "ann/array", &[1]).unwrap();
        let alive = rerun(&mut cell, "ann", "ann/array", &[2, 1]).unwrap_err();
        assert_eq!(alive.to_string(), "task 1 of ann/array is alive: only what is over runs again");
        rerun(&mut cell, "ann", "ann/array", &[2]).unwrap();
        assert_eq!(cell.state.job(job).unwrap().counts.alive(), 2);
        cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let kind = rerun(&mut cell, "ann", "ann/web", &[0]).unwrap_err();
        assert_eq!(kind.to_string(), "ann/web is a service job: only batch jobs run again");
        cell.submit("ann", batch("gone", 1, 100, 4 * MIB));
        let after =
            JobSpec { after: vec!["ann/gone".parse().unwrap()], ..batch("late", 1, 100, 4 * MIB) };
        cell.submit("ann", after);
        cell.kill("ann", "ann/gone", &[]).unwrap();
        let never = rerun(&mut cell, "ann", "ann/late", &[0]).unwrap_err();
        assert_eq!(
            never.to_string(),
            "job ann/late never began, as a job before it did not finish: submit it again"
        );
        let child =
            JobSpec { parent: Some("ann/web".parse().unwrap()), ..batch("child", 1, 100, 4 * MIB) };
        let child = cell.submit("ann", child);
        let id = cell.place(child, 0, machine).unwrap();
        cell.ended(id, None);
        cell.kill("ann", "ann/web", &[]).unwrap();
        let orphan = rerun(&mut cell, "ann", "ann/child", &[0]).unwrap_err();
        assert_eq!(orphan.to_string(), "parent: job ann/web is over: killed");
        assert!(cell.state.task(TaskId { job: child, index: 0 }).unwrap().is_dead());
    }
}
