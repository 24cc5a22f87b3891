//! Taking in what the committed state says: who stands where, who waits, and what each asks for.
//!
//! `Scheduler::follow` says of what there is news; here index, queue and remembered answers are brought into line
//! with the state for one task, machine or job at a time. Leaves deciding to `scheduler`.
//!
//! Invariant: what is settled is as the committed state says, but for decisions of which the fate is not known.

use crate::homes::Seat;
use crate::machines::Resident;
use crate::need::{ClassKey, Cohort, Need};
use crate::queue::NEVER;
use crate::scheduler::Scheduler;
use borg_cell::state::{Job, Successor, Task, Version};
use borg_proto::task::Placement;
use borg_proto::{IncarnationId, JobId, JobSpec, MachineId, TaskId, TaskState};
use std::sync::Arc;

/// Classes of tasks kept beside those of parked jobs. 512: our choice; a class takes some 5 KB at
/// 10,000 machines, 40 KB more once its job has tasks that it keeps apart, and making it again costs
/// one scan.
const MAX_CLASSES: usize = 512;

impl Scheduler {
    /// Makes index and queue say of a task what the committed state says, unless a decision is
    /// assumed that pushes it out.
    pub(crate) fn settle(&mut self, task: TaskId) {
        let before = self.aside.hears(task.job);
        self.settle_task(task);
        self.settle_successor(task);
        self.release(task.job);
        self.aside.done(before);
    }

    fn settle_task(&mut self, task: TaskId) {
        self.forget_lent(task);
        let found = self.state.task(task);
        let version = found.map_or(0, |found| found.version);
        let cohort = Cohort { job: task.job, version };
        match found.map(|found| &found.state) {
            Some(TaskState::Running(placement)) => {
                self.queue.remove(task);
                if self.assumed.get(&task).is_some_and(|assumed| !assumed.prepares) {
                    // It moves.
                    return;
                }
                let (id, seat) =
                    (IncarnationId { task, number: placement.incarnation }, Seat::of(task));
                if self.leaving.contains(&id) || self.machines.confirm(seat, placement, version) {
                    return;
                }
                let Placement { machine, incarnation, devices, .. } = placement.clone();
                let serves = placement.serves_since.is_some();
                self.depart(seat);
                let need = self.need(cohort);
                let row = self.machines.row_for(machine);
                let incarnation = Some(incarnation);
                let lent = self.lent_by(task, incarnation, &need);
                let role = seat.role;
                let there = Resident { task, role, incarnation, need, lent, serves, devices };
                self.arrive(row, there);
            }
            Some(TaskState::Pending { not_before, .. }) => {
                let not_before = self.not_before(task, *not_before);
                // Until its last incarnation is known to be over, as for who waits for other jobs.
                let lingers = self.state.task(task).is_some_and(|task| task.lingers);
                if self.assumed.contains_key(&task) {
                    return;
                }
                self.depart(Seat::of(task));
                if self.aside.why(task.job).is_some() {
                    return;
                }
                let need = self.need(cohort);
                let homeless = need.alloc_set.is_some() && self.home_of(task).is_err();
                let not_before = if lingers || homeless { NEVER } else { not_before };
                let job = self.state.job(task.job).expect("a task of the state has its job there");
                self.queue.add(task, cohort, need.priority, &job.key.user, not_before);
            }
            Some(TaskState::Dead { .. }) | None => {
                self.queue.remove(task);
                self.depart(Seat::of(task));
            }
        }
    }

    /// The same of a task's successor, unless a decision is assumed that makes it one.
    fn settle_successor(&mut self, task: TaskId) {
        if self.assumed.get(&task).is_some_and(|assumed| assumed.prepares) {
            return;
        }
        let seat = Seat::after(task);
        let Some(successor) = self.state.task(task).and_then(Task::successor).cloned() else {
            self.depart(seat);
            return;
        };
        let Successor { placement, version } = successor;
        let id = IncarnationId { task, number: placement.incarnation };
        if self.leaving.contains(&id) || self.machines.confirm(seat, &placement, version) {
            return;
        }
        self.depart(seat);
        let need = self.need(Cohort { job: task.job, version });
        let row = self.machines.row_for(placement.machine);
        let (incarnation, devices) = (Some(placement.incarnation), placement.devices);
        let bare = Resident::proposed(seat, need);
        self.arrive(row, Resident { incarnation, devices, ..bare });
    }

    pub(crate) fn settle_machine(&mut self, id: MachineId) {
        let machine = self.state.machine(id);
        if !self.machines.set(id, machine) {
            return;
        }
        // Jobs with tasks there have to count their crowds again.
        let Some(row) = self.machines.row(id) else { return };
        let needs: Vec<_> = self.machines.residents(row).iter().map(|r| r.need.clone()).collect();
        for need in needs {
            for need in self.related(&need) {
                self.classes.remove(&need.class);
                self.loosened.insert(need.class.clone());
            }
        }
    }

    pub(crate) fn arrive(&mut self, row: usize, resident: Resident) {
        let need = resident.need.clone();
        if need.cap.is_some() {
            *self.placed.entry(need.job).or_default() += 1;
        }
        self.machines.add(row, resident);
        for need in self.related(&need) {
            if let Some(class) = self.classes.get_mut(&need.class).map(Arc::make_mut) {
                class.count(&self.machines, &self.config.weights, row, true);
            }
        }
    }

    pub(crate) fn depart(&mut self, seat: Seat) {
        let Some((row, resident)) = self.machines.remove(seat) else { return };
        let task = seat.task;
        if let Some(placed) = self.placed.get_mut(&task.job) {
            *placed -= 1;
            if *placed == 0 {
                self.placed.remove(&task.job);
            }
            self.release(task.job);
        }
        for need in self.related(&resident.need) {
            if let Some(class) = self.classes.get_mut(&need.class).map(Arc::make_mut) {
                class.count(&self.machines, &self.config.weights, row, false);
                if self.queue.has_parked(&need.class) {
                    self.loosened.insert(need.class.clone());
                }
            }
        }
    }

    /// For whom it matters where a task of `need` stands: all versions of its job.
    fn related(&self, need: &Arc<Need>) -> Vec<Arc<Need>> {
        let mut cohorts = self.needs.range(Cohort::all_of(need.job));
        match (cohorts.next(), cohorts.next()) {
            (Some((_, first)), Some((_, second))) => {
                let rest = cohorts.map(|(_, need)| need);
                [first, second].into_iter().chain(rest).cloned().collect()
            }
            (Some(_) | None, _) => vec![need.clone()],
        }
    }

    pub(crate) fn need(&mut self, cohort: Cohort) -> Arc<Need> {
        if let Some(need) = self.needs.get(&cohort) {
            return need.clone();
        }
        let found = self.state.job(cohort.job).expect("a task of the state has its job there");
        let version = found.version(cohort.version).expect("the version of a task is kept");
        let spec = asked_by(found, version);
        let set = self.state.alloc_set_of(found).map(|set| set.id);
        let group = self.machines.access.group(found.owner());
        let prod = version.is_prod();
        let need = Need::new(cohort, group, &spec, set, &mut self.machines).of_version(prod);
        let need = Arc::new(if found.rescues().is_some() { need.pinned() } else { need });
        self.needs.insert(cohort, need.clone());
        need
    }

    /// What a task asks for, if that was looked at so far.
    pub(crate) fn need_of(&self, task: TaskId) -> Option<&Arc<Need>> {
        let version = self.state.task(task)?.version;
        self.needs.get(&Cohort { job: task.job, version })
    }

    /// A job has other specifications than before: what is known of the old ones goes. Its tasks have
    /// to be settled after that.
    pub(crate) fn forget_specs(&mut self, job: JobId) {
        let tasks: Vec<TaskId> = self.state.tasks_of(job).map(|(id, _)| id).collect();
        for task in tasks {
            self.depart(Seat::of(task));
            self.depart(Seat::after(task));
        }
        // Those of slots that are no more keep none of the rest parked.
        self.queue.remove_ready(job);
        self.forget_needs(job);
    }

    pub(crate) fn forget_needs(&mut self, job: JobId) {
        let cohorts: Vec<Cohort> =
            self.needs.range(Cohort::all_of(job)).map(|(cohort, _)| *cohort).collect();
        for cohort in cohorts {
            if let Some(need) = self.needs.remove(&cohort) {
                self.machines.release(&need);
            }
            self.classes.remove(&ClassKey::Job(cohort));
            self.lot.take(&ClassKey::Job(cohort));
        }
    }

    /// Forgets the classes that were not used for the longest time. Those of parked jobs stay: they
    /// know when they may fit again.
    pub(crate) fn forget_old_classes(&mut self) {
        let queue = &self.queue;
        let parked = queue.parked();
        if self.lot.len() > parked + MAX_CLASSES {
            let gone: Vec<ClassKey> = self.lot.all();
            gone.iter().filter(|key| !queue.has_parked(key)).for_each(|key| self.lot.take(key));
        }
        if self.classes.len() <= parked + 2 * MAX_CLASSES {
            return;
        }
        let mut uses: Vec<u64> = self.classes.values().map(|class| class.used_at).collect();
        uses.sort_unstable();
        let oldest_kept = uses[uses.len() - MAX_CLASSES];
        self.classes.retain(|key, class| class.used_at >= oldest_kept || queue.has_parked(key));
    }
}

/// What a version's tasks ask for: what they run and take is the version's; the rest, and how they
/// spread, is the job's.
pub(crate) fn asked_by(job: &Job, version: &Version) -> Arc<JobSpec> {
    if Arc::ptr_eq(&job.spec, &version.spec) {
        return job.spec.clone();
    }
    let mut task = version.spec.task.clone();
    if task.spread != job.spec.task.spread {
        Arc::make_mut(&mut task).spread.clone_from(&job.spec.task.spread);
    }
    Arc::new(JobSpec { task, ..job.spec.as_ref().clone() })
}
