//! The life of jobs: accepting, ending and forgetting them, and the order that `after` asks for.
//!
//! Leaves where tasks run to `placement` and what becomes of running ones to `observe`.
//!
//! Invariants: a name is taken while its job is alive; when a job ends, whoever waited for it
//! starts or fails in the same entry; how much is alive or remembered is bounded.

use super::daemons::MAX_DAEMONS;
use super::turn::Turn;
use super::versions::noted;
use super::{Answer, Due, Job, JobEnd, JobState};
use crate::event::{EventKind, TaskChange};
use crate::rejection::{AllocRejection, KindRejection, Rejection};
use borg_proto::spec::SpecError;
use borg_proto::task::{TaskEnd, TaskState};
use borg_proto::wire::pb;
use borg_proto::{JobId, JobKey, JobKind, JobSpec, Millis, TaskId, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most slots of jobs that are alive: our choice, over the 1,500,000 tasks that the design is
/// measured at.
pub const MAX_LIVE_SLOTS: u64 = 2_000_000;
/// Most jobs that are alive: our choice; bounds what all specifications together can take.
pub const MAX_LIVE_JOBS: u64 = 100_000;
/// How many dead jobs are remembered; the oldest are forgotten first. 10,000: our choice.
pub const DEAD_JOBS_KEPT: usize = 10_000;
/// How many slots of dead jobs are remembered. 500,000: our choice, five jobs of the largest kind.
pub const DEAD_SLOTS_KEPT: u64 = 500_000;

impl Turn<'_> {
    /// Accepts a job.
    pub(super) fn submit(
        &mut self,
        user: &UserName,
        spec: &Arc<JobSpec>,
    ) -> Result<Answer, Rejection> {
        check_spec(spec)?;
        let key = spec.key(user);
        if let Some(old) = self.state.job_named(&key).filter(|old| old.is_alive()) {
            return Err(Rejection::JobAlive { job: key, state: old.state() });
        }
        let waits_for = self.awaited(&key, &spec.after)?;
        let first = self.first_tasks(user, spec);
        self.check_room(spec.kind, first)?;
        let parent = self.check_parent(user, &key, spec)?;
        let set = self.check_tenancy(user, spec)?;
        self.check_packages(user, spec)?;
        self.check_privileges(user, spec)?;
        self.check_quota(user, spec.priority, &spec.charged(), first)?;

        let id = self.accept(user, spec, waits_for);
        if let Some(set) = set {
            self.job_mut(set).tenants.insert(id);
            if spec.rescue {
                self.note_saver(set, spec);
            }
        }
        if let Some(parent) = parent {
            self.job_mut(parent).children.insert(id);
        }
        Ok(Answer::Job { id, key })
    }

    /// Takes a job in against which nothing stands, in place of a dead one of its name.
    pub(super) fn accept(
        &mut self,
        user: &UserName,
        spec: &Arc<JobSpec>,
        waits_for: BTreeSet<JobId>,
    ) -> JobId {
        let key = spec.key(user);
        if let Some(old) = self.state.job_keys.get(&key).copied() {
            self.forget(old);
        }
        let id = JobId(self.state.next_job);
        self.state.next_job += 1;
        for awaited in &waits_for {
            self.job_mut(*awaited).dependents.insert(id);
        }
        let job = Job::new(id, user, spec.clone(), waits_for, self.at);
        let slots = job.slots();
        self.charge(&job);
        self.use_packages(&job);
        self.state.pending.extend((0..slots).map(|index| TaskId { job: id, index }));
        self.state.live_slots += u64::from(slots);
        self.state.job_keys.insert(key, id);
        self.state.jobs.insert(id, Arc::new(job));
        self.emit(EventKind::JobSubmitted(id));
        self.begin_daemon(id);
        self.set_alarm(Due::Job(id));
        id
    }

    /// The jobs of `after` that have not finished yet.
    fn awaited(&self, key: &JobKey, after: &[JobKey]) -> Result<BTreeSet<JobId>, Rejection> {
        let mut awaited = BTreeSet::new();
        for name in after {
            let job = name.clone();
            if name == key {
                return Err(Rejection::AfterItself { job });
            }
            let Some(first) = self.state.job_named(name) else {
                return Err(Rejection::AfterUnknown { job });
            };
            match first.spec.kind {
                JobKind::Batch => {}
                JobKind::Service => return Err(Rejection::AfterService { job }),
                JobKind::AllocSet => return Err(AllocRejection::AfterSet { set: job }.into()),
                kind @ (JobKind::Daemon | JobKind::Cron) => {
                    return Err(KindRejection::AfterStanding { job, kind }.into());
                }
            }
            match first.state() {
                JobState::Finished => {}
                state @ (JobState::Failed | JobState::Killed) => {
                    return Err(Rejection::AfterEnded { job, state });
                }
                JobState::Waiting | JobState::Pending | JobState::Running => {
                    awaited.insert(first.id);
                }
            }
        }
        Ok(awaited)
    }

    /// How many tasks a job has when it is accepted.
    fn first_tasks(&self, user: &UserName, spec: &JobSpec) -> u32 {
        match spec.kind {
            JobKind::Service | JobKind::Batch | JobKind::AllocSet => spec.tasks,
            JobKind::Daemon => self.machines_for(user, spec),
            JobKind::Cron => 0,
        }
    }

    /// Whether one more job of the kind may live, with so many slots.
    pub(super) fn check_room(&self, kind: JobKind, slots: u32) -> Result<(), Rejection> {
        self.check_slots(slots)?;
        let (there, most) = (self.state.daemons.len() as u64, MAX_DAEMONS);
        if kind == JobKind::Daemon && there >= most {
            return Err(Rejection::CellFull { what: "daemons".to_owned(), there, most });
        }
        let live = (self.state.jobs.len() - self.state.dead_jobs.len()) as u64;
        if live >= MAX_LIVE_JOBS || self.state.next_job == u64::MAX {
            let (what, there, most) = ("jobs".to_owned(), live, MAX_LIVE_JOBS);
            return Err(Rejection::CellFull { what, there, most });
        }
        Ok(())
    }

    /// Whether so many slots more may live.
    pub(super) fn check_slots(&self, more: u32) -> Result<(), Rejection> {
        let (there, most) = (self.state.live_slots, MAX_LIVE_SLOTS);
        if there + u64::from(more) > most {
            return Err(Rejection::CellFull { what: "tasks".to_owned(), there, most });
        }
        Ok(())
    }

    /// Ends a job, or some of its tasks. Killing what is dead already is fine and does nothing.
    pub(super) fn kill(
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
        job.check_tasks(tasks)?;
        self.check_unused(job, tasks)?;
        let id = job.id;
        let end = TaskEnd::Killed { by: user.to_string() };
        if tasks.is_empty() {
            return Ok(Answer::Killed { tasks: self.end_whole(id, &end) });
        }
        let mut killed = 0;
        for index in tasks {
            let task = TaskId { job: id, index: *index };
            if self.state.task(task).is_some_and(|task| !task.is_dead()) {
                self.end_task(task, end.clone());
                killed += 1;
            }
        }
        Ok(Answer::Killed { tasks: killed })
    }

    /// Ends the jobs whose last task died in this entry, and those that this lets start or fail
    /// in turn; then what waits for jobs of which something changed goes on. A worklist, not recursion:
    /// chains of jobs may be long.
    pub(super) fn settle(&mut self) {
        loop {
            self.settle_ends();
            let Some(id) = self.stirred.pop_first() else { break };
            self.proceed(id);
        }
        self.forget_oldest();
    }

    fn settle_ends(&mut self) {
        while let Some((id, from)) = self.over.pop_front() {
            let end = self.end_job(id, from);
            self.end_children(id);
            let job = self.job_mut(id);
            let (tenants, dependents) =
                (std::mem::take(&mut job.tenants), std::mem::take(&mut job.dependents));
            let failed = self.dependency_failed(id, &end);
            // An alloc set that never began takes the jobs in it along.
            for tenant in tenants {
                self.end_whole(tenant, &failed);
            }
            for dependent in dependents {
                if end == JobEnd::Finished {
                    self.no_longer_waits(dependent, id);
                } else {
                    self.end_whole(dependent, &failed);
                }
            }
        }
    }

    fn end_job(&mut self, id: JobId, from: JobState) -> JobEnd {
        let at = self.at;
        self.release_packages(id);
        let job = self.job_mut(id);
        let end = job.verdict();
        job.ended = Some((at, end.clone()));
        if let Some(update) = job.update.take().filter(|update| update.is_under_way()) {
            let outcome = format!("the job ended in the middle of it: {}", job.state());
            job.note_outcome(update.to, &noted(&outcome));
        }
        job.forget_versions();
        let (to, slots) = (job.state(), u64::from(job.slots()));
        let waits_for = std::mem::take(&mut job.waits_for);
        let key = job.spec.alloc_set.clone();
        for awaited in waits_for {
            self.job_mut(awaited).dependents.remove(&id);
        }
        if let Some(set) = key.and_then(|key| self.state.job_keys.get(&key).copied()) {
            self.job_mut(set).tenants.remove(&id);
            if let Some(spec) = self.state.job(id).map(|job| job.spec.clone()).filter(|s| s.rescue)
            {
                self.note_saver(set, &spec);
            }
        }
        if let Some(number) = self.state.job(id).and_then(Job::rescues) {
            self.rescue_ended(number, id, &end);
        }
        self.forget_dropped(id);
        self.leave_parent(id, &end);
        self.state.daemons.remove(&id);
        self.state.live_slots -= slots;
        self.state.dead_slots += slots;
        self.state.dead_jobs.insert((at, id));
        self.set_alarm(Due::Job(id));
        self.emit(EventKind::JobChanged { job: id, from, to });
        end
    }

    fn no_longer_waits(&mut self, id: JobId, finished: JobId) {
        let job = self.job_mut(id);
        job.waits_for.remove(&finished);
        if !job.waits_for.is_empty() {
            return;
        }
        self.emit(EventKind::JobChanged {
            job: id,
            from: JobState::Waiting,
            to: JobState::Pending,
        });
        let released = |task: &super::Task| !task.is_dead() && !task.is_stopped();
        let held: Vec<TaskId> =
            self.state.tasks_of(id).filter(|(_, task)| released(task)).map(|(id, _)| id).collect();
        for task in held {
            let to = TaskState::Pending { since: self.at, not_before: Millis(0) };
            self.change_task(task, to, TaskChange::Released, |_| ());
        }
    }

    fn forget_oldest(&mut self) {
        while self.state.dead_jobs.len() > DEAD_JOBS_KEPT || self.state.dead_slots > DEAD_SLOTS_KEPT
        {
            let Some((_, oldest)) = self.state.dead_jobs.get_min().copied() else { return };
            self.forget(oldest);
        }
    }

    pub(super) fn forget(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.remove(&id) else { return };
        self.state.runs.forget(id);
        self.state.job_keys.remove(&job.key);
        self.state.dead_slots -= u64::from(job.slots());
        if let Some(at) = job.ended_at() {
            self.state.dead_jobs.remove(&(at, id));
        }
        self.set_alarm(Due::Job(id));
        self.emit(EventKind::JobForgotten(id, job.key.clone()));
    }
}

/// Every bound of a specification, its size included.
pub(super) fn check_spec(spec: &JobSpec) -> Result<(), Rejection> {
    let checked = JobSpec::try_from(pb::JobSpec::from(spec));
    checked
        .map(|_| ())
        .map_err(|e| Rejection::Spec(SpecError { field: e.field, value: e.value, why: e.why }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, service};
    use borg_proto::MachineId;

    const MIB: u64 = 1 << 20;

    fn after(name: &str, first: &[&str]) -> JobSpec {
        let mut spec = batch(name, 2, 100, 4 * MIB);
        spec.after = first.iter().map(|job| job.parse().unwrap()).collect();
        spec
    }

    fn state(cell: &Cell, job: JobId) -> JobState {
        cell.state.job(job).unwrap().state()
    }

    fn finish(cell: &mut Cell, job: JobId, machine: MachineId) {
        for index in 0..cell.state.job(job).unwrap().spec.tasks {
            let id = cell.place(job, index, machine).unwrap();
            cell.ended(id, None);
        }
    }

    #[test]
    fn a_job_starts_when_the_last_one_before_it_has_finished() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let (a, b) = (
            cell.submit("ann", batch("a", 1, 100, 4 * MIB)),
            cell.submit("ann", batch("b", 1, 100, 4 * MIB)),
        );
        let merge = cell.submit("ann", after("merge", &["ann/a", "ann/b"]));
        assert_eq!(state(&cell, merge), JobState::Waiting);
        assert_eq!(cell.state.job(merge).unwrap().note(&cell.state), "waits for ann/a, ann/b");
        assert_eq!(
            cell.place(merge, 0, machine).unwrap_err().to_string(),
            "task 3.0 waits for other jobs"
        );
        finish(&mut cell, a, machine);
        assert_eq!(state(&cell, merge), JobState::Waiting);
        finish(&mut cell, b, machine);
        assert_eq!(state(&cell, merge), JobState::Pending);
        finish(&mut cell, merge, machine);
        assert_eq!(state(&cell, merge), JobState::Finished);
    }

    #[test]
    fn a_chain_of_jobs_fails_from_its_first_link_however_long_it_is() {
        let mut cell = Cell::new();
        let first = cell.submit("ann", batch("j0", 1, 100, 4 * MIB));
        let last = (1..300)
            .map(|i| cell.submit("ann", after(&format!("j{i}"), &[&format!("ann/j{}", i - 1)])))
            .last();
        assert_eq!(cell.kill("ann", "ann/j0", &[]).unwrap(), 1);
        assert_eq!(state(&cell, first), JobState::Killed);
        assert_eq!(state(&cell, last.unwrap()), JobState::Failed);
        assert_eq!(
            cell.state.job(last.unwrap()).unwrap().note(&cell.state),
            "job ann/j298 did not finish"
        );
    }

    #[test]
    fn what_a_job_cannot_start_after_is_said_at_once() {
        let mut cell = Cell::new();
        cell.submit("ann", service("web", 1, 100, 4 * MIB));
        cell.submit("ann", batch("gone", 1, 100, 4 * MIB));
        cell.kill("ann", "ann/gone", &[]).unwrap();
        let mut refused =
            |first: &str| cell.try_submit("ann", after("merge", &[first])).unwrap_err().to_string();
        assert_eq!(refused("ann/merge"), "job ann/merge cannot start after itself");
        assert_eq!(refused("bob/web"), "there is no job bob/web to start after");
        assert_eq!(
            refused("ann/web"),
            "job ann/web is a service and never finishes: nothing can start after it"
        );
        assert_eq!(refused("ann/gone"), "job ann/gone, which it starts after, is killed");
    }

    #[test]
    fn a_name_is_free_again_when_its_job_is_dead() {
        let mut cell = Cell::new();
        let first = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let again = cell.try_submit("ann", service("web", 1, 100, 4 * MIB)).unwrap_err();
        assert_eq!(
            again.to_string(),
            "job ann/web exists and is pending: borgctl update FILE changes it"
        );
        cell.kill("ann", "ann/web", &[]).unwrap();
        let second = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        assert!(second > first);
        assert_eq!(cell.state.job(first), None);
        assert_eq!(cell.state.job_named(&"ann/web".parse().unwrap()).unwrap().id, second);
    }

    #[test]
    fn only_owner_and_admin_kill_and_some_tasks_leave_the_rest() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 3, 100, 4 * MIB));
        cell.place(job, 1, machine).unwrap();
        let refused = cell.kill("bob", "ann/web", &[]).unwrap_err();
        assert_eq!(refused.to_string(), "user bob is neither the owner of ann/web nor admin");
        assert_eq!(
            cell.kill("ann", "ann/web", &[7]).unwrap_err().to_string(),
            "job ann/web has tasks 0 to 2, not 7"
        );
        assert_eq!(cell.kill("ann", "ann/web", &[1, 1]).unwrap(), 1);
        assert!(cell.state.machine(machine).unwrap().tasks.is_empty());
        assert_eq!(state(&cell, job), JobState::Pending);
        assert_eq!(cell.kill("admin", "ann/web", &[]).unwrap(), 2);
        assert_eq!(cell.kill("admin", "ann/web", &[]).unwrap(), 0);
        assert_eq!(cell.state.job(job).unwrap().note(&cell.state), "killed by admin");
    }

    #[test]
    fn a_specification_out_of_bounds_is_refused_by_field() {
        let mut cell = Cell::new();
        let refused = cell.try_submit("ann", batch("none", 0, 100, 4 * MIB)).unwrap_err();
        assert_eq!(refused.to_string(), "tasks: 0 is outside 1 to 100000");
    }

    #[test]
    fn old_dead_jobs_are_forgotten() {
        let mut cell = Cell::new().state;
        let mut index = 0;
        let mut apply = |action| {
            index += 1;
            let by = crate::fixture::user("ann");
            let command =
                borg_proto::command::Command { at: Millis(index), by, request: None, action };
            cell.apply(index, &command).unwrap();
        };
        for i in 0..DEAD_JOBS_KEPT + 3 {
            let spec = Arc::new(batch(&format!("j{i}"), 1, 100, 4 * MIB));
            let job = spec.key(&UserName::new("ann").unwrap());
            apply(borg_proto::command::Action::SubmitJob { spec });
            apply(borg_proto::command::Action::Kill { job, tasks: Vec::new() });
        }
        assert_eq!(cell.jobs().count(), DEAD_JOBS_KEPT);
        assert_eq!(cell.jobs().next().unwrap().key.name.as_str(), "j3");
        assert_eq!(cell.audit(), []);
    }
}
