//! Alloc sets: room on machines that is held whether it is used or not, and the tasks of other jobs
//! in it (Borg paper, section 2.4).
//!
//! An alloc set is a job whose tasks, its allocs, run nothing: they are placed, pushed out and paid
//! for like any task. A job that names an alloc set has its task N in alloc N, wherever that is. What
//! such a task may use comes out of its alloc, and out of its user's quota only once, with the alloc;
//! ports are numbers of the machine and are counted there.
//!
//! Invariants: a task in an alloc is on the machine of its alloc, and when the alloc leaves it the
//! task does too; what the tasks in an alloc may use together is at most the alloc; an alloc set
//! outlives the jobs in it.

use super::turn::Turn;
use super::{Answer, CellState, Job, Machine, Task};
use crate::event::EventKind;
use crate::rejection::{AllocRejection, Rejection};
use borg_proto::command::AllocSize;
use borg_proto::task::{EvictCause, Placement, TaskState};
use borg_proto::{
    JobId, JobKey, JobKind, JobSpec, MachineId, Resources, TaskId, TaskName, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most live jobs in one alloc set. 64: our choice, far more than the servers, savers of logs and
/// collectors of figures that share a place in practice.
pub const MAX_TENANTS: usize = 64;

impl Job {
    /// Whether its tasks are allocs, which run nothing.
    #[must_use]
    pub fn is_alloc_set(&self) -> bool {
        self.spec.kind == JobKind::AllocSet
    }
}

impl CellState {
    /// The alloc set in which a live job's tasks run, if it names one.
    #[must_use]
    pub fn alloc_set_of(&self, job: &Job) -> Option<&Job> {
        let set = self.job_named(job.spec.alloc_set.as_ref()?)?;
        // A job that is over may name a set that was submitted again since.
        set.tenants.contains(&job.id).then_some(set)
    }

    /// The alloc in which a task of a live job runs or would run, if its job is in an alloc set
    /// that has so many.
    #[must_use]
    pub fn alloc_of(&self, task: TaskId) -> Option<TaskId> {
        let set = self.alloc_set_of(self.job(task.job)?)?;
        set.task(task.index).map(|_| TaskId { job: set.id, index: task.index })
    }

    /// The tasks of live jobs that belong in an alloc, wherever they are.
    pub fn belonging_in(&self, alloc: TaskId) -> impl Iterator<Item = (TaskId, &Task)> {
        let tenants = self.job(alloc.job).map(|set| set.tenants.iter()).into_iter().flatten();
        tenants.filter_map(move |job| {
            let id = TaskId { job: *job, index: alloc.index };
            self.task(id).map(|task| (id, task))
        })
    }

    /// What the tasks in an alloc may use together, ports aside, which are their machine's.
    #[must_use]
    pub fn used_in_alloc(&self, alloc: TaskId) -> Resources {
        let placed = self.belonging_in(alloc).filter(|(_, task)| task.placement().is_some());
        let limits =
            placed.filter_map(|(id, _)| Some(&self.job(id.job)?.task_spec(id.index).limit));
        limits.fold(Resources::default(), |sum, limit| sum.plus(limit))
    }

    /// The machine on which a task of a live job in an alloc set has room in its alloc, ports aside.
    ///
    /// # Errors
    /// Why it has none now.
    pub fn place_in_alloc(&self, job: &Job, index: u32) -> Result<MachineId, AllocRejection> {
        let (set, machine) = self.home_of(job, index)?;
        self.check_room_in(set, job, index)?;
        Ok(machine)
    }

    /// Whether a task may be on a machine as far as its alloc goes.
    pub(super) fn check_alloc(
        &self,
        job: &Job,
        index: u32,
        machine: &Machine,
    ) -> Result<(), AllocRejection> {
        if job.spec.alloc_set.is_none() {
            return Ok(());
        }
        let (set, home) = self.home_of(job, index)?;
        if home != machine.id {
            let machine = self.machine(home).unwrap_or(machine).name.clone();
            return Err(AllocRejection::Elsewhere { alloc: name(set, index), machine });
        }
        self.check_room_in(set, job, index)
    }

    /// A task's alloc set, and where its alloc is.
    fn home_of(&self, job: &Job, index: u32) -> Result<(&Job, MachineId), AllocRejection> {
        let Some(set) = self.alloc_set_of(job) else {
            return Err(AllocRejection::NotASet { job: job.key.clone() });
        };
        let Some(alloc) = set.task(index) else {
            let (set, allocs) = (set.key.clone(), set.spec.tasks);
            return Err(AllocRejection::Beyond { set, allocs, index });
        };
        match alloc.placement() {
            Some(placement) => Ok((set, placement.machine)),
            None => Err(AllocRejection::NotPlaced { alloc: name(set, index) }),
        }
    }

    fn check_room_in(&self, set: &Job, job: &Job, index: u32) -> Result<(), AllocRejection> {
        let limit = &job.task_spec(index).limit;
        let mut used = self.used_in_alloc(TaskId { job: set.id, index });
        if job.task(index).is_some_and(|task| task.placement().is_some()) {
            used = used.minus(limit);
        }
        let free = set.spec.task.limit.minus(&used);
        let Some(short) = limit.shortest(&free) else { return Ok(()) };
        let (free, asked) = (free.amount(&short), limit.amount(&short));
        Err(AllocRejection::NoRoom { alloc: name(set, index), short, free, asked })
    }
}

fn name(set: &Job, index: u32) -> TaskName {
    TaskName { job: set.key.clone(), index }
}

impl Turn<'_> {
    /// The alloc set that a new job names, if it may be in it.
    pub(super) fn check_tenancy(
        &self,
        user: &UserName,
        spec: &JobSpec,
    ) -> Result<Option<JobId>, AllocRejection> {
        let Some(key) = &spec.alloc_set else { return Ok(None) };
        let set = || key.clone();
        let Some(job) = self.state.job_named(key).filter(|job| job.is_alive()) else {
            return Err(AllocRejection::NoSuchSet { set: set() });
        };
        if !job.is_alloc_set() {
            return Err(AllocRejection::NotASet { job: set() });
        }
        if user != job.owner() && !self.state.is_admin(user) {
            return Err(AllocRejection::OfOthers { set: set(), user: user.clone() });
        }
        if spec.priority > job.priority() {
            let (priority, sets) = (spec.priority, job.priority());
            return Err(AllocRejection::AboveSet { set: set(), priority, sets });
        }
        if job.tenants.len() >= MAX_TENANTS {
            let most = u32::try_from(MAX_TENANTS).unwrap_or(u32::MAX);
            return Err(AllocRejection::SetFull { set: set(), most });
        }
        self.check_saver(job, spec)?;
        Ok(Some(job.id))
    }

    /// Allocs cannot go while tasks of other jobs belong there, nor the last ones of a set while any
    /// job is in it. None named means all.
    pub(super) fn check_unused(&self, set: &Job, allocs: &[u32]) -> Result<(), AllocRejection> {
        let alive = |job: &Job, index: &u32| job.task(*index).is_some_and(|task| !task.is_dead());
        let ending: BTreeSet<u32> =
            allocs.iter().copied().filter(|index| alive(set, index)).collect();
        let ends = allocs.is_empty() || ending.len() == set.counts.alive() as usize;
        let used = |job: &&Job| ends || ending.iter().any(|index| alive(job, index));
        let mut tenants = set.tenants.iter().filter_map(|id| self.state.job(*id));
        match tenants.find(used) {
            None => Ok(()),
            Some(job) => Err(AllocRejection::InUse { set: set.key.clone(), job: job.key.clone() }),
        }
    }

    /// Whoever is in an alloc leaves with it.
    pub(super) fn evict_tenants(&mut self, alloc: TaskId, cause: &EvictCause) {
        if !self.state.job(alloc.job).is_some_and(Job::is_alloc_set) {
            return;
        }
        let inside: Vec<TaskId> = self.state.belonging_in(alloc).map(|(id, _)| id).collect();
        for task in inside {
            self.evict(task, cause);
        }
    }

    /// Changes the size of allocs, or how many there are.
    pub(super) fn resize_allocs(
        &mut self,
        user: &UserName,
        key: &JobKey,
        allocs: Option<u32>,
        size: AllocSize,
    ) -> Result<Answer, Rejection> {
        let Some(set) = self.state.job_named(key) else {
            return Err(AllocRejection::NoSuchSet { set: key.clone() }.into());
        };
        if user != set.owner() && !self.state.is_admin(user) {
            return Err(Rejection::NotOwner { user: user.clone(), job: key.clone() });
        }
        if !set.is_alloc_set() {
            return Err(AllocRejection::NotASet { job: key.clone() }.into());
        }
        if !set.is_alive() {
            return Err(AllocRejection::NoSuchSet { set: key.clone() }.into());
        }
        let spec = resized(&set.spec, allocs, size);
        super::lives::check_spec(&spec)?;
        let (there, asked) = (set.spec.tasks, spec.tasks);
        if asked < there {
            return Err(AllocRejection::Fewer { set: key.clone(), there, asked }.into());
        }
        self.check_slots(asked - there)?;
        self.check_contents(set, &spec.task.limit)?;
        self.check_holdable(set, &spec)?;
        self.check_resized_quota(set, &spec)?;
        if spec != *set.spec {
            let id = set.id;
            self.resize(id, Arc::new(spec));
            self.emit(EventKind::AllocsResized(id));
        }
        Ok(Answer::None)
    }

    /// No alloc may become smaller than what its tasks may use.
    fn check_contents(&self, set: &Job, limit: &Resources) -> Result<(), AllocRejection> {
        if set.spec.task.limit.fits_in(limit) {
            return Ok(());
        }
        let mut used: BTreeMap<u32, Resources> = BTreeMap::new();
        for job in set.tenants.iter().filter_map(|id| self.state.job(*id)) {
            let placed = self.state.tasks_of(job.id).take(set.spec.tasks as usize);
            for (id, _) in placed.filter(|(_, task)| task.placement().is_some()) {
                let sum = used.entry(id.index).or_default();
                *sum = sum.plus(&job.task_spec(id.index).limit);
            }
        }
        for (index, used) in used {
            if let Some(short) = used.shortest(limit) {
                let (size, used) = (limit.amount(&short), used.amount(&short));
                return Err(AllocRejection::TooSmall {
                    alloc: name(set, index),
                    short,
                    size,
                    used,
                });
            }
        }
        Ok(())
    }

    /// Allocs do not become larger than any machine of the cell: all would leave, and never come back.
    fn check_holdable(&self, set: &Job, spec: &JobSpec) -> Result<(), AllocRejection> {
        let (old, asked) = (set.spec.asked(), spec.asked());
        let can_hold = |machine: &Machine| {
            machine.info.as_ref().is_some_and(|info| asked.fits_in(&info.capacity))
        };
        if asked.fits_in(&old) || self.state.machines().any(can_hold) {
            return Ok(());
        }
        Err(AllocRejection::TooLarge { set: set.key.clone() })
    }

    fn resize(&mut self, id: JobId, spec: Arc<JobSpec>) {
        let (stay, leave) = self.sort_by_fit(id, &spec);
        for alloc in leave {
            self.evict(alloc, &EvictCause::Resized);
        }
        for (alloc, placement) in &stay {
            self.leave(*alloc, &TaskState::Running(placement.clone()));
        }
        let at = self.at;
        let there = self.state.job(id).map_or(spec.tasks, |set| set.spec.tasks);
        let more = spec.tasks - there;
        self.amend(id, |set| {
            set.replace_head(spec.clone());
            set.add_slots(more, at);
        });
        self.state.live_slots += u64::from(more);
        let new = (there..spec.tasks).map(|index| TaskId { job: id, index });
        self.state.pending.extend(new);
        for (alloc, placement) in stay {
            self.enter(alloc, &TaskState::Running(placement));
        }
    }

    /// The placed allocs that fit where they are in their new size, and those that do not.
    fn sort_by_fit(&self, id: JobId, spec: &JobSpec) -> (Vec<(TaskId, Placement)>, Vec<TaskId>) {
        let Some(set) = self.state.job(id) else { return (Vec::new(), Vec::new()) };
        let (old, new) = (set.spec.asked(), spec.asked());
        // Prod on a machine that is overdrawn grows into what is its own: whoever stands on it goes later.
        let prod = set.priority().is_prod();
        let room = |machine: &Machine| match machine.overdrawn().is_nothing() || !prod {
            true => machine.free(),
            false => self.state.most_room_on(machine, prod),
        };
        let mut free: BTreeMap<MachineId, Resources> = BTreeMap::new();
        let (mut stay, mut leave) = (Vec::new(), Vec::new());
        for (alloc, task) in self.state.tasks_of(id) {
            let Some(placement) = task.placement() else { continue };
            let machine = self.state.machine(placement.machine);
            let free = free
                .entry(placement.machine)
                .or_insert_with(|| machine.map(room).unwrap_or_default());
            let without = free.plus(&old);
            // Which devices it has was decided when it was placed.
            if new.devices == old.devices && new.fits_in(&without) {
                *free = without.minus(&new);
                stay.push((alloc, placement.clone()));
            } else {
                *free = without;
                leave.push(alloc);
            }
        }
        (stay, leave)
    }
}

fn resized(spec: &JobSpec, allocs: Option<u32>, size: AllocSize) -> JobSpec {
    let mut spec = spec.clone();
    spec.tasks = allocs.unwrap_or(spec.tasks);
    let task = Arc::make_mut(&mut spec.task);
    task.limit = size.of(&task.limit);
    spec
}

#[cfg(test)]
mod tests;
