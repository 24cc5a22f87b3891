//! Jobs that hang together: a child ends with its parent, a dependent fails with what it waits for, and a
//! job that stands is ended as a whole.
//!
//! A parent is a job of the same user that is alive when its child is accepted; so there are no cycles. Nobody
//! starts after a job with which it ends.
//!
//! Invariants: a live job's parent is alive; when a job ends, in whatever way, its children end in the same
//! entry, and theirs.

use super::turn::Turn;
use super::{Job, JobEnd};
use crate::rejection::{KindRejection, Rejection};
use borg_proto::command::SERVICES_SINCE;
use borg_proto::task::{TaskEnd, cut};
use borg_proto::{JobId, JobKey, JobSpec, UserName};

/// Longest account of what went wrong first, in bytes: our choice, what a checkpoint allows of a name.
const MAX_WHY_BYTES: usize = 256;

impl Job {
    /// Whether it has tasks of all these indexes.
    pub(super) fn check_tasks(&self, tasks: &[u32]) -> Result<(), Rejection> {
        let slots = self.slots();
        let Some(index) = tasks.iter().copied().find(|index| *index >= slots) else {
            return Ok(());
        };
        let job = self.key.clone();
        match slots.checked_sub(1) {
            Some(last) => Err(Rejection::NoSuchTask { job, index, last }),
            None => Err(KindRejection::NoTasks { job }.into()),
        }
    }

    /// What went wrong first: here, or in a job that it waited for.
    fn first_cause(&self, end: &JobEnd) -> String {
        let why = match end {
            JobEnd::DependencyFailed { why, .. } => why.clone(),
            JobEnd::TaskFailed { index, cause } => {
                format!("task {index} of {} failed: {cause}", self.key)
            }
            JobEnd::Killed { by } => format!("{} was killed by {by}", self.key),
            JobEnd::ParentEnded { job } => {
                format!("{} was killed as its parent {job} ended", self.key)
            }
            JobEnd::Finished => String::new(),
        };
        cut(&why, MAX_WHY_BYTES)
    }
}

impl Turn<'_> {
    /// The job with which a new one ends, if it may.
    pub(super) fn check_parent(
        &self,
        user: &UserName,
        key: &JobKey,
        spec: &JobSpec,
    ) -> Result<Option<JobId>, KindRejection> {
        let Some(parent) = &spec.parent else { return Ok(None) };
        let (job, parent) = (key.clone(), parent.clone());
        if parent == job {
            return Err(KindRejection::OwnParent { job });
        }
        if parent.user != *user {
            return Err(KindRejection::ParentOfOthers { parent, user: user.clone() });
        }
        match self.state.job_named(&parent) {
            None => Err(KindRejection::NoParent { parent }),
            Some(found) if found.is_alive() => match self.ends_with(found, &spec.after) {
                Some(first) => Err(KindRejection::AfterParent { job, first }),
                None => Ok(Some(found.id)),
            },
            Some(found) => Err(KindRejection::ParentOver { parent, state: found.state() }),
        }
    }

    /// Which of some jobs a live one is, or ends with.
    fn ends_with(&self, job: &Job, some: &[JobKey]) -> Option<JobKey> {
        let parent = |job: &&Job| self.state.job_named(job.spec.parent.as_ref()?);
        let mut line = std::iter::successors(Some(job), parent).filter(|_| !some.is_empty());
        line.find(|job| some.contains(&job.key)).map(|job| job.key.clone())
    }

    /// Ends a job with all of its tasks that are alive; gives their number.
    pub(super) fn end_whole(&mut self, id: JobId, end: &TaskEnd) -> u32 {
        let Some(job) = self.state.job(id).filter(|job| job.is_alive()) else { return 0 };
        if !job.spec.kind.stands() {
            return self.end_tasks(id, end);
        }
        if job.stopped.is_some() {
            return 0;
        }
        let (before, idle) = (job.state(), job.counts.alive() == 0);
        self.job_mut(id).stopped = Some(end.clone());
        if idle {
            self.over.push_back((id, before));
        }
        self.end_tasks(id, end)
    }

    /// Ends what ends with a job that is over.
    pub(super) fn end_children(&mut self, id: JobId) {
        let job = self.job_mut(id);
        let (parent, children) = (job.key.to_string(), std::mem::take(&mut job.children));
        for child in children {
            self.end_whole(child, &TaskEnd::ParentEnded { job: parent.clone() });
        }
    }

    /// A job that is over is nobody's child any more; a cron job notes how its run ended.
    pub(super) fn leave_parent(&mut self, id: JobId, end: &JobEnd) {
        let Some(parent) = self.state.job(id).and_then(|job| job.spec.parent.as_ref()) else {
            return;
        };
        let Some(parent) = self.state.job_keys.get(parent).copied() else { return };
        self.job_mut(parent).children.remove(&id);
        self.run_ended(parent, id, end);
    }

    /// How those end who waited for a job that ended so.
    pub(super) fn dependency_failed(&self, id: JobId, end: &JobEnd) -> TaskEnd {
        let Some(job) = self.state.job(id) else {
            return TaskEnd::DependencyFailed { job: String::new(), why: String::new() };
        };
        let told = self.state.level >= SERVICES_SINCE;
        let why = if told { job.first_cause(end) } else { String::new() };
        TaskEnd::DependencyFailed { job: job.key.to_string(), why }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, batch, service};
    use crate::state::JobState;
    use borg_proto::{FailureCause, JobId, JobSpec};

    const MIB: u64 = 1 << 20;

    fn child(name: &str, parent: &str) -> JobSpec {
        JobSpec { parent: Some(parent.parse().unwrap()), ..batch(name, 2, 100, 4 * MIB) }
    }

    fn note(cell: &Cell, job: JobId) -> String {
        cell.state.job(job).unwrap().note(&cell.state)
    }

    #[test]
    fn children_end_with_their_parent_in_one_entry_and_theirs_too() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let parent = cell.submit("ann", batch("parent", 1, 100, 4 * MIB));
        let first = cell.submit("ann", child("child", "ann/parent"));
        let second = cell.submit("ann", child("grandchild", "ann/child"));
        cell.place(second, 1, machine).unwrap();
        let id = cell.place(parent, 0, machine).unwrap();
        cell.ended(id, None);
        assert_eq!(cell.state.job(parent).unwrap().state(), JobState::Finished);
        for (job, told) in [(first, "parent ann/parent ended"), (second, "parent ann/child ended")]
        {
            assert_eq!(cell.state.job(job).unwrap().state(), JobState::Killed);
            assert_eq!(note(&cell, job), told);
        }
        assert!(cell.state.machine(machine).unwrap().tasks.is_empty(), "what runs is killed");
    }

    #[test]
    fn a_child_that_ended_by_itself_is_left_alone() {
        let mut cell = Cell::at_level(6);
        let parent = cell.submit("ann", service("parent", 1, 100, 4 * MIB));
        let job = cell.submit("ann", child("child", "ann/parent"));
        cell.kill("ann", "ann/child", &[]).unwrap();
        assert!(cell.state.job(parent).unwrap().is_alive());
        cell.kill("ann", "ann/parent", &[]).unwrap();
        assert_eq!(note(&cell, job), "killed by ann");
    }

    #[test]
    fn a_parent_is_a_live_job_of_the_same_user() {
        let mut cell = Cell::at_level(6);
        cell.submit("ann", batch("web", 1, 100, 4 * MIB));
        let mut refused = |user: &str, parent: &str| {
            cell.try_submit(user, child("child", parent)).unwrap_err().to_string()
        };
        assert_eq!(refused("ann", "ann/none"), "parent: there is no job ann/none");
        assert_eq!(refused("ann", "ann/child"), "parent: job ann/child cannot be its own parent");
        assert_eq!(
            refused("bob", "ann/web"),
            "parent: ann/web is a job of another user than bob: only one's own jobs are parents"
        );
        cell.kill("ann", "ann/web", &[]).unwrap();
        let refused = cell.try_submit("ann", child("child", "ann/web")).unwrap_err();
        assert_eq!(refused.to_string(), "parent: job ann/web is over: killed");
    }

    /// It would always be killed in the moment in which it could start.
    #[test]
    fn no_job_starts_after_one_with_which_it_ends() {
        let mut cell = Cell::at_level(6);
        cell.submit("ann", batch("parent", 1, 100, 4 * MIB));
        let after =
            |spec: JobSpec, first: &str| JobSpec { after: vec![first.parse().unwrap()], ..spec };
        let mut refused =
            |spec: JobSpec| cell.try_submit("ann", spec).map_err(|refused| refused.to_string());
        refused(child("child", "ann/parent")).unwrap();
        assert_eq!(
            refused(after(child("x", "ann/parent"), "ann/parent")).unwrap_err(),
            "after: job ann/x ends with ann/parent, so it cannot start after it: leave out \
             `parent`, or this of `after`"
        );
        let told = refused(after(child("x", "ann/child"), "ann/parent")).unwrap_err();
        assert!(told.starts_with("after: job ann/x ends with ann/parent"), "{told}");
        refused(after(child("sibling", "ann/parent"), "ann/child")).unwrap();
    }

    #[test]
    fn whoever_waits_is_told_what_went_wrong_first_and_where() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let after = |name: &str, first: &str| JobSpec {
            after: vec![first.parse().unwrap()],
            ..batch(name, 1, 100, 4 * MIB)
        };
        let load = cell.submit("ann", batch("load", 3, 100, 4 * MIB));
        let sort = cell.submit("ann", after("sort", "ann/load"));
        let merge = cell.submit("ann", after("merge", "ann/sort"));
        let id = cell.place(load, 2, machine).unwrap();
        cell.ended(id, Some(FailureCause::Exit { code: 7 }));
        assert_eq!(
            note(&cell, sort),
            "job ann/load did not finish: task 2 of ann/load failed: exit code 7"
        );
        assert_eq!(
            note(&cell, merge),
            "job ann/sort did not finish: task 2 of ann/load failed: exit code 7"
        );
    }
}
