//! How an update begins: everything that could be in its way is looked at before anything changes, also
//! what going back would need.

use super::super::quota::Total;
use super::super::turn::Turn;
use super::super::{Answer, Job, MAX_VERSIONS_IN_USE, Version};
use super::effect::Judge;
use super::{OnTheWay, Update, UpdateState};
use crate::event::{EventKind, UpdateChange};
use crate::rejection::{AllocRejection, KindRejection, Rejection, UpdateRejection};
use borg_proto::disruption::DEFAULT_MOST;
use borg_proto::names::shorten;
use borg_proto::spec::{SpecError, TaskLabels};
use borg_proto::task::EvictCause;
use borg_proto::update::{Revision, UpdateOptions};
use borg_proto::{JobId, JobKey, JobKind, JobSpec, Millis, TaskId, UserName};
use imbl::OrdSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An update against which nothing stands.
pub(super) struct Prepared {
    pub(super) job: JobId,
    pub(super) spec: Arc<JobSpec>,
    pub(super) by: UserName,
    pub(super) note: String,
    pub(super) restart: bool,
    pub(super) options: UpdateOptions,
    /// See [`Update::reach`].
    pub(super) reach: BTreeSet<u32>,
    /// See [`Update::why`].
    pub(super) why: String,
}

impl Job {
    /// How many of its tasks an update may have on their way at once: as many as it asks for, and no
    /// more than the disruption budget allows.
    pub(super) fn at_once(&self, update: &Update) -> u32 {
        let tasks = self.size();
        let budget = self.spec.effective_disruption().map(|budget| budget.most.of(tasks));
        let asked = update.options.most.map(|most| most.of(tasks));
        match (asked, budget) {
            (Some(asked), Some(budget)) => asked.min(budget),
            (Some(most), None) | (None, Some(most)) => most,
            (None, None) => DEFAULT_MOST.of(tasks),
        }
    }
}

impl Update {
    /// Whether another one may begin: it is done, or it goes back and somebody, or its deadline, paused
    /// it. What follows then may be what mends it, and there is nothing else to go back to.
    fn gives_way(&self) -> bool {
        match self.state {
            UpdateState::Done => true,
            UpdateState::Paused { .. } => self.goes_back(),
            UpdateState::Rolling | UpdateState::Canary => false,
        }
    }
}

impl Turn<'_> {
    /// Begins an update. One that changes nothing is fine and does nothing.
    pub(in crate::state) fn update_job(
        &mut self,
        user: &UserName,
        key: &JobKey,
        to: &Revision,
        options: &UpdateOptions,
    ) -> Result<Answer, Rejection> {
        let prepared = self.prepare_update(user, key, to, options)?;
        let head = self.state.job_named(key).map_or(0, |job| job.head().number);
        let Some(prepared) = prepared else { return Ok(Answer::Version(head)) };
        let id = prepared.job;
        self.install(prepared);
        self.sweep_update(id, false);
        Ok(Answer::Version(head + 1))
    }

    /// Looks at everything that could be in the way; changes nothing. `None` when nothing would change.
    pub(super) fn prepare_update(
        &self,
        user: &UserName,
        key: &JobKey,
        to: &Revision,
        options: &UpdateOptions,
    ) -> Result<Option<Prepared>, Rejection> {
        let job = match to {
            Revision::Restart => self.running(user, key)?,
            Revision::Spec(_) | Revision::Version(_) | Revision::Tasks(_) => {
                self.updatable(user, key)?
            }
        };
        let (spec, note) = revised(job, to)?;
        super::super::lives::check_spec(&spec)?;
        check_fixed(job, &spec).map_err(Rejection::Spec)?;
        options.check(job.slots_under(&spec)).map_err(Rejection::Spec)?;
        if let Some(update) = job.update().filter(|update| !update.gives_way()) {
            let (from, to, by) = (update.from, update.to, update.by.clone());
            let (state, since) = (update.state.to_string(), update.since);
            let (job, back) = (key.clone(), update.goes_back());
            let refused = UpdateRejection::UnderWay { job, from, to, by, state, since, back };
            return Err(refused.into());
        }
        let restart = *to == Revision::Restart;
        let head = job.head().number;
        let everywhere = job.slots_of.keys().all(|version| *version == head);
        if *spec == *job.spec && !restart && (everywhere || matches!(to, Revision::Tasks(_))) {
            return Ok(None);
        }
        let reach = match to {
            // How many there are changes nothing for those of older versions.
            Revision::Tasks(_) => BTreeSet::from([head]),
            Revision::Spec(_) | Revision::Version(_) | Revision::Restart => BTreeSet::new(),
        };
        let (by, why, options) = (user.clone(), String::new(), options.clone());
        let id = job.id;
        let prepared = Prepared { job: id, spec, by, note, restart, options, reach, why };
        self.check_update(job, &prepared)?;
        Ok(Some(prepared))
    }

    /// A live job that a user may change, and that runs something.
    pub(in crate::state) fn updatable(
        &self,
        user: &UserName,
        key: &JobKey,
    ) -> Result<&Job, Rejection> {
        let job = || key.clone();
        let Some(found) = self.state.job_named(key) else {
            return Err(Rejection::NoSuchJob { job: job() });
        };
        if user != found.owner() && !self.state.is_admin(user) {
            return Err(Rejection::NotOwner { user: user.clone(), job: job() });
        }
        if !found.is_alive() {
            let state = found.state();
            return Err(UpdateRejection::Over { job: job(), state }.into());
        }
        if found.is_alloc_set() {
            return Err(UpdateRejection::IsSet { set: job() }.into());
        }
        if found.rescues().is_some() {
            return Err(AllocRejection::RunOfData { job: job() }.into());
        }
        Ok(found)
    }

    /// The same, with tasks of its own.
    pub(in crate::state) fn running(
        &self,
        user: &UserName,
        key: &JobKey,
    ) -> Result<&Job, Rejection> {
        let found = self.updatable(user, key)?;
        match found.spec.kind {
            JobKind::Cron => Err(KindRejection::IsCron { job: key.clone() }.into()),
            JobKind::Service | JobKind::Batch | JobKind::Daemon | JobKind::AllocSet => Ok(found),
        }
    }

    fn check_update(&self, job: &Job, asked: &Prepared) -> Result<(), Rejection> {
        let (spec, owner) = (&asked.spec, job.owner());
        if job.versions_in_use() >= MAX_VERSIONS_IN_USE || job.head().number == u32::MAX {
            let most = u32::try_from(MAX_VERSIONS_IN_USE).unwrap_or(u32::MAX);
            return Err(UpdateRejection::ManyVersions { job: job.key.clone(), most }.into());
        }
        self.check_slots(job.slots_under(spec).saturating_sub(job.slots()))?;
        if let Some(set) = self.state.alloc_set_of(job).filter(|s| spec.priority > s.priority()) {
            let (set, priority, sets) = (set.key.clone(), spec.priority, set.priority());
            return Err(AllocRejection::AboveSet { set, priority, sets }.into());
        }
        self.check_packages(owner, spec)?;
        self.check_privileges(&asked.by, spec)?;
        let after = after(job, asked, self.at);
        self.check_changed_quota(job, &after)?;
        self.check_budget(&after)
    }

    /// Whether an owner's quota allows what an update makes of a job. One that grows in nothing always
    /// may.
    fn check_changed_quota(&self, job: &Job, after: &Job) -> Result<(), Rejection> {
        let alive = |job: &Job| {
            let alive = job.tasks.iter().filter(|task| !task.is_dead()).count();
            u32::try_from(alive).unwrap_or(u32::MAX)
        };
        let total = |job: &Job| -> BTreeMap<_, Total> {
            let tasks = alive(job).saturating_add(self.machines_gained(job));
            job.charges()
                .into_iter()
                .map(|(owner, each)| (owner, Total::of(&each, tasks)))
                .collect()
        };
        let old = total(job);
        for ((user, band), new) in total(after) {
            let before = old.get(&(user.clone(), band)).cloned().unwrap_or_default();
            if new.iter().all(|(dimension, amount)| amount <= before.get(dimension)) {
                continue;
            }
            let mut used = self.state.used_quota(&user, band);
            used.take(&before);
            self.check_amount(&user, band, &used, &new)?;
        }
        Ok(())
    }

    /// Whether the tasks that would have to start anew ever may.
    fn check_budget(&self, after: &Job) -> Result<(), Rejection> {
        let Some((update, mut judge)) = after.update().zip(Judge::new(after, after.head().number))
        else {
            return Ok(());
        };
        let none = after.at_once(update) == 0;
        if !none && !after.spec.gang {
            return Ok(());
        }
        let mut restarts = 0;
        for (task, index) in after.tasks.iter().zip(0..) {
            let stands = if after.spec.gang {
                task.placement().is_some()
            } else {
                task.placement().is_some_and(|placement| placement.serves_since.is_some())
            };
            let id = TaskId { job: after.id, index };
            let anew =
                stands && update.is_left(index, task) && self.starts_anew(after, id, &mut judge);
            restarts += u32::from(anew);
        }
        let job = || after.key.clone();
        if after.spec.gang && (restarts > 0 || update.options.tasks.is_some()) {
            return Err(UpdateRejection::Gang { job: job() }.into());
        }
        if none && restarts > 0 {
            return Err(UpdateRejection::NoBudget { job: job(), tasks: restarts }.into());
        }
        Ok(())
    }

    /// Whether a placed task would have to start anew, where it is or elsewhere.
    fn starts_anew(&self, after: &Job, id: TaskId, judge: &mut Judge) -> bool {
        let from = after.version_of(id.index);
        judge.restarts(from).is_some() || self.state.stays_with(id, judge.to()).is_err()
    }

    /// Makes a version that nothing stands against the one in force.
    pub(super) fn install(&mut self, asked: Prepared) {
        let (id, at) = (asked.job, self.at);
        // What is due already is as the version says that is still in force.
        self.tick(id);
        self.drop_successors_of(id, "its job is updated");
        let Some(before) = self.state.jobs.get(&id).cloned() else { return };
        let spec = asked.spec.clone();
        let (there, wanted) = (before.slots(), before.slots_under(&spec));
        self.drop_slots(id, wanted, &asked.by);
        let more = wanted.saturating_sub(there);
        self.amend(id, |job| {
            begin(job, &asked, at);
            job.let_go_of_versions();
            job.add_slots(more, at);
        });
        self.state.live_slots += u64::from(more);
        let new = (there..wanted).map(|index| TaskId { job: id, index });
        self.state.pending.extend(new);
        if spec.task.spread != before.spec.task.spread {
            self.recount_crowds(id);
        }
        self.respect_cap(id);
        self.heed_kind(id, &before.spec);
        let change =
            if asked.why.is_empty() { UpdateChange::Begun } else { UpdateChange::RollsBack };
        self.emit(EventKind::JobUpdated { job: id, change });
        self.stir(id);
    }

    /// No more tasks of the job stand than it lets run at once: those of the largest indexes wait.
    fn respect_cap(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id).cloned() else { return };
        let Some(most) = job.spec.concurrent else { return };
        let standing = (0..job.slots())
            .rev()
            .filter(|index| job.task(*index).is_some_and(|task| task.placement().is_some()));
        let excess = job.counts.running.saturating_sub(most);
        let cause = EvictCause::Capped { most };
        for index in standing.take(usize::try_from(excess).unwrap_or(usize::MAX)) {
            self.evict(TaskId { job: id, index }, &cause);
        }
    }
}

/// What the job is to become, and what is said of that version.
fn revised(job: &Job, to: &Revision) -> Result<(Arc<JobSpec>, String), Rejection> {
    Ok(match to {
        Revision::Spec(spec) => (spec.clone(), String::new()),
        Revision::Version(number) => {
            let Some(version) = job.version(*number) else {
                let kept = job.versions().map(|version| version.number).collect();
                let (job, version) = (job.key.clone(), *number);
                return Err(UpdateRejection::VersionGone { job, version, kept }.into());
            };
            (version.spec.clone(), format!("back to version {number}"))
        }
        Revision::Tasks(tasks) => {
            let mut spec = JobSpec { tasks: *tasks, ..job.spec.as_ref().clone() };
            // Labels of tasks that go, go with them.
            let labels = spec.task_labels.into_iter();
            let kept = labels.filter_map(|some| {
                let kept = some.tasks.below(*tasks)?;
                Some(TaskLabels { tasks: kept, ..some })
            });
            spec.task_labels = kept.collect();
            (Arc::new(spec), format!("{} to {tasks} tasks", job.spec.tasks))
        }
        Revision::Restart => (job.spec.clone(), "restart".to_owned()),
    })
}

/// What an update cannot change.
fn check_fixed(job: &Job, new: &JobSpec) -> Result<(), SpecError> {
    let old = &job.spec;
    let alloc_set = |spec: &JobSpec| {
        spec.alloc_set.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let parent = |spec: &JobSpec| {
        spec.parent.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let fields = [
        ("name", old.name == new.name, new.name.to_string()),
        ("kind", old.kind == new.kind, format!("{:?}", new.kind).to_lowercase()),
        ("exclusive", old.exclusive == new.exclusive, new.exclusive.to_string()),
        ("alloc_set", old.alloc_set == new.alloc_set, alloc_set(new)),
        ("gang", old.gang == new.gang, new.gang.to_string()),
        ("rescue", old.rescue == new.rescue, new.rescue.to_string()),
        ("after", old.after == new.after, format!("{} jobs", new.after.len())),
        ("parent", old.parent == new.parent, parent(new)),
    ];
    match fields.into_iter().find(|(_, same, _)| !same) {
        None => Ok(()),
        Some((field, _, value)) => Err(SpecError {
            field: field.to_owned(),
            value: shorten(&value),
            why: format!(
                "is not what job {} has, and no update changes it: submit it under another name, or kill \
                 the job first",
                job.key
            ),
        }),
    }
}

/// The job as it would be, for what is to be checked of it.
fn after(job: &Job, asked: &Prepared, at: Millis) -> Job {
    let mut after = job.clone();
    let wanted = job.slots_under(&asked.spec);
    let there = usize::try_from(wanted).unwrap_or(usize::MAX);
    after.tasks.truncate(there.min(after.tasks.len()));
    let more = wanted.saturating_sub(job.slots());
    after.recount_versions();
    begin(&mut after, asked, at);
    after.add_slots(more, at);
    after
}

/// Puts the version in force and the update in its place.
fn begin(job: &mut Job, asked: &Prepared, at: Millis) {
    let from = job.head().number;
    let to = from + 1;
    let bare = Version::new(to, asked.spec.clone(), at, asked.by.clone());
    job.update = Some(Arc::new(Update {
        from,
        to,
        by: asked.by.clone(),
        begun: at,
        options: asked.options.clone(),
        state: UpdateState::Rolling,
        since: at,
        why: asked.why.clone(),
        past_canary: false,
        reach: asked.reach.clone(),
        place: 0,
        moving: OnTheWay::default(),
        awaiting: BTreeMap::new(),
        failed: OrdSet::new(),
        trouble: String::new(),
        blocked_until: None,
        blocked_since: None,
        passed_over: false,
        counts_from: Millis(0),
    }));
    job.add_version(Version { note: asked.note.clone(), restart: asked.restart, ..bare });
}
