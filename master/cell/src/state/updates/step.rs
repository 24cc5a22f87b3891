//! Step by step: which tasks go now, which have arrived, and whether the new version is good.
//!
//! Called at the end of every entry in which something happened to a job's tasks, and when a time has come
//! for it. Doing it again without anything new changes nothing.

use super::super::disruption::Blocked;
use super::super::observe::is_own_fault;
use super::super::turn::{Turn, take_of};
use super::super::versions::noted;
use super::super::{Job, Task};
use super::effect::Judge;
use super::{Update, UpdateState};
use crate::event::{TaskChange, UpdateChange};
use borg_proto::task::TaskState;
use borg_proto::update::OnFailure;
use borg_proto::{Health, JobId, Millis, TaskId};
use std::sync::Arc;

impl Turn<'_> {
    /// Something happened to a task: it may be what an update waits for, or what makes it bad. `from` is
    /// what the task was.
    pub(in crate::state) fn watch_update(
        &mut self,
        id: TaskId,
        from: &TaskState,
        change: &TaskChange,
    ) {
        let Some(job) = self.state.job(id.job) else { return };
        let (Some(update), Some(task)) = (job.update(), job.task(id.index)) else { return };
        if !update.is_under_way() {
            return;
        }
        let trouble = trouble(update, id.index, task, from, change);
        self.stir(id.job);
        self.touched.insert(id);
        if let Some(trouble) = trouble {
            self.note_trouble(id, trouble);
        }
    }

    /// What holds for all updates that are under way is other than before.
    pub(in crate::state) fn stir_updates(&mut self) {
        let jobs = self.state.jobs();
        let updated = jobs.filter(|job| job.update().is_some_and(Update::is_under_way));
        let updated: Vec<JobId> = updated.map(|job| job.id).collect();
        updated.into_iter().for_each(|id| self.stir(id));
    }

    /// A task's successor has taken over as another version: the update that it is of waits for it as for others.
    pub(in crate::state) fn is_on_its_way(&mut self, id: TaskId) {
        let Some(task) = self.state.task(id).cloned() else { return };
        let update = self.job_mut(id.job).update.as_mut();
        if let Some(update) = update.filter(|update| update.to == task.version) {
            Arc::make_mut(update).sets_out(id.index, &task);
        }
    }

    /// A task's successor as that version came to nothing: it may say something against an update.
    pub(in crate::state) fn trouble_with_successor(&mut self, id: TaskId, version: u32, why: &str) {
        let Some(job) = self.state.job(id.job) else { return };
        let of_it = |update: &&Update| update.to == version && !update.goes_back();
        let other = job.task(id.index).is_some_and(|task| task.version != version);
        if other && job.update().filter(of_it).is_some() {
            self.note_trouble(id, format!("task {} failed to be replaced: {why}", id.index));
        }
    }

    fn note_trouble(&mut self, id: TaskId, trouble: String) {
        if let Some(update) = &mut self.job_mut(id.job).update {
            Arc::make_mut(update).note(id.index, &trouble);
        }
    }

    /// Gives all tasks the new version that lose nothing by it: those of which the process goes on, and
    /// those that do not serve. To `tell` of each is needless where the update as a whole is told of.
    pub(in crate::state) fn sweep_update(&mut self, id: JobId, tell: bool) {
        let Some((job, mut update, mut judge)) = self.open_update(id) else { return };
        for (task, index) in job.tasks.iter().zip(0..) {
            if update.may_go(index, task) {
                self.give_freely(TaskId { job: id, index }, &mut update, &mut judge, tell);
            }
        }
        self.job_mut(id).update = Some(Arc::new(update));
    }

    /// Goes on with a job's update as far as it may.
    pub(in crate::state) fn proceed_update(&mut self, id: JobId) {
        let touched = take_of(&mut self.touched, id);
        self.look_again(id, &touched);
        self.end_stillness(id);
        let Some((job, mut update, mut judge)) = self.open_update(id) else { return };
        match update.state {
            UpdateState::Rolling | UpdateState::Canary => {}
            UpdateState::Paused { .. } | UpdateState::Done => return,
        }
        if self.state.holds_still(self.at) {
            update.passed_over = true;
            self.let_go_of_awaiting(id, &mut update);
            self.job_mut(id).update = Some(Arc::new(update));
            return;
        }
        update.settle(&job, self.at);
        if update.state == UpdateState::Rolling {
            self.settle_awaiting(id, &mut update);
        }
        let bad = !update.goes_back() && update.failures() > update.options.failures;
        if bad {
            self.job_mut(id).update = Some(Arc::new(update.clone()));
            self.give_up_update(id, &update);
            return;
        }
        if update.state == UpdateState::Rolling {
            for task in touched {
                let found = self.state.task(task).filter(|found| found.serves_since().is_none());
                if found.is_some_and(|found| update.may_go(task.index, found)) {
                    self.give_freely(task, &mut update, &mut judge, true);
                }
            }
            self.take_turns(id, &mut update, &mut judge);
            if let Some(why) = self.blocked_too_long(id, &update) {
                update.note_trouble(&why);
                self.job_mut(id).update = Some(Arc::new(update.clone()));
                self.give_up_update(id, &update);
                return;
            }
        }
        let over = update.state == UpdateState::Rolling
            && update.moving.count() == 0
            && update.awaiting.is_empty()
            && update.place >= update.places(job.slots());
        self.job_mut(id).update = Some(Arc::new(update));
        if over {
            self.arrive(id);
        }
    }

    /// What was passed over while nothing moved is made up for, and deadlines count from now on.
    fn end_stillness(&mut self, id: JobId) {
        let update = self.state.job(id).and_then(Job::update);
        let waited = update.is_some_and(|update| update.passed_over && update.is_under_way());
        if !waited || self.state.holds_still(self.at) {
            return;
        }
        let at = self.at;
        if let Some(update) = &mut self.job_mut(id).update {
            let update = Arc::make_mut(update);
            (update.passed_over, update.counts_from) = (false, at);
        }
        self.job_mut(id).time_update();
        if self.state.job(id).and_then(Job::update).is_some_and(Update::is_rolling) {
            self.sweep_update(id, true);
        }
    }

    /// Why the next task did not go, when that has lasted until its deadline.
    fn blocked_too_long(&self, id: JobId, update: &Update) -> Option<String> {
        update.blocked_due().filter(|due| *due <= self.at)?;
        let job = self.state.job(id)?;
        let tasks = job.slots();
        let next = || update.at_place(update.place, tasks);
        let has_next = update.place < update.places(tasks);
        let index = if has_next { next() } else { update.waited_in_vain() }?;
        let why = job.may_lose_one(self.at).err()?;
        Some(format!("task {index} could not go within {} s: {why}", update.deadline_s()))
    }

    fn open_update(&self, id: JobId) -> Option<(Arc<Job>, Update, Judge)> {
        let job = self.state.jobs.get(&id).filter(|job| job.is_alive())?.clone();
        let update = job.update()?.clone();
        let judge = Judge::new(&job, update.to)?;
        Some((job, update, judge))
    }

    /// Tasks changed: those that are on their way may be due at another time.
    fn look_again(&mut self, id: JobId, touched: &[TaskId]) {
        let Some(job) = self.state.jobs.get(&id).filter(|_| !touched.is_empty()).cloned() else {
            return;
        };
        let Some(update) = &mut self.job_mut(id).update else { return };
        let update = Arc::make_mut(update);
        for task in touched {
            update.look_again(task.index, job.task(task.index));
        }
    }

    /// A task has the new version and is waited for.
    pub(super) fn sets_out(&self, id: TaskId, update: &mut Update) {
        if let Some(task) = self.state.task(id) {
            update.sets_out(id.index, task);
        }
    }

    /// Gives a task the new version if it loses nothing by that.
    fn give_freely(&mut self, id: TaskId, update: &mut Update, judge: &mut Judge, tell: bool) {
        let Some(task) = self.state.task(id) else { return };
        let (placed, serves) = (task.placement().is_some(), task.serves_since().is_some());
        let waits_for_it = task.streak > 0 || task.on_its_way_since().is_some();
        if self.update_in_place(id, judge, tell) {
            if !placed && waits_for_it && !self.state.is_stopped(id) {
                self.forgive(id);
                self.sets_out(id, update);
            }
        } else if !serves && !self.state.holds_still(self.at) {
            // Where it goes is for the scheduler when its machine has no room for it.
            let _stays = self.renew(id, update.to).is_ok();
            self.sets_out(id, update);
        }
    }

    /// What failed before says nothing of the new version.
    fn forgive(&mut self, id: TaskId) {
        let Some(TaskState::Pending { .. }) = self.state.task(id).map(|task| &task.state) else {
            return;
        };
        let to = TaskState::Pending { since: self.at, not_before: Millis(0) };
        self.change_task(id, to, TaskChange::Released, |task| {
            task.streak = 0;
            task.crashes.clear();
        });
    }

    /// Lets tasks that serve go, one after another, as far as budget and order allow.
    fn take_turns(&mut self, id: JobId, update: &mut Update, judge: &mut Judge) {
        update.blocked_until = None;
        let blocked_since = update.blocked_since.take();
        let first = update.place;
        loop {
            let Some(job) = self.state.job(id) else { return };
            let (tasks, at_once) = (job.slots(), job.at_once(update));
            if update.place >= update.places(tasks) {
                if update.waited_in_vain().is_some() {
                    update.blocked_since = blocked_since.or(Some(self.at));
                }
                return;
            }
            let index = update.at_place(update.place, tasks);
            let next = index.map(|index| TaskId { job: id, index }).filter(|next| {
                self.state.task(*next).is_some_and(|task| update.may_go(next.index, task))
            });
            let Some(next) = next else {
                update.place += 1;
                continue;
            };
            if !self.update_in_place(next, judge, true) {
                let moving = update.under_way();
                // With none on its way it is the budget that is in the way, also one of zero.
                if moving > 0 && moving >= at_once {
                    return;
                }
                if self.goes_first(next, update, judge) {
                    self.await_successor(next, update);
                    update.place += 1;
                    continue;
                }
                if let Err(blocked) = self.state.may_disrupt(next, self.at) {
                    match blocked {
                        Blocked::Rate { until, .. } => update.blocked_until = Some(until),
                        Blocked::Down { .. } => {
                            let before = blocked_since.filter(|_| update.place == first);
                            update.blocked_since = before.or(Some(self.at));
                        }
                    }
                    return;
                }
                let _stays = self.renew(next, update.to).is_ok();
                self.sets_out(next, update);
            }
            update.place += 1;
        }
    }

    /// All tasks that were to go have arrived.
    fn arrive(&mut self, id: JobId) {
        let Some(update) = self.state.job(id).and_then(Job::update).cloned() else { return };
        if update.canary().is_some() {
            self.set_update_state(id, UpdateState::Canary);
            self.tell_update(id, UpdateChange::CanaryGood);
            return;
        }
        let change = if update.goes_back() { UpdateChange::RolledBack } else { UpdateChange::Done };
        self.job_mut(id).note_outcome(update.to, "done");
        self.set_update_state(id, UpdateState::Done);
        self.tell_update(id, change);
        if update.options.close {
            self.close_update(id);
        }
    }

    /// Too many tasks turned out bad, or it was in the way of its tasks for too long. One that goes back
    /// already has nowhere else to go.
    fn give_up_update(&mut self, id: JobId, update: &Update) {
        match update.options.on_failure {
            OnFailure::RollBack if !update.goes_back() => {
                let by = update.by.clone();
                self.take_back(id, &format!("rolled back: {}", update.trouble), &by);
            }
            OnFailure::RollBack | OnFailure::Pause => {
                let by = noted(&format!("the cell, as {}", update.trouble));
                self.set_update_state(id, UpdateState::Paused { by });
                self.tell_update(id, UpdateChange::Paused);
            }
        }
    }
}

impl Update {
    pub(super) fn note(&mut self, index: u32, trouble: &str) {
        self.note_trouble(trouble);
        self.failed.insert(index);
    }

    /// The first trouble is the one that is told.
    fn note_trouble(&mut self, trouble: &str) {
        if self.trouble.is_empty() {
            self.trouble = noted(trouble);
        }
    }

    pub(super) fn deadline_s(&self) -> u64 {
        self.options.deadline_ms.0.div_ceil(1_000)
    }
}

/// What a change of a task says against the new version.
fn trouble(
    update: &Update,
    index: u32,
    task: &Task,
    from: &TaskState,
    change: &TaskChange,
) -> Option<String> {
    // What was started before says nothing of it.
    let TaskState::Running(placement) = from else { return None };
    if update.goes_back() || task.version != update.to || placement.placed_at < update.begun {
        return None;
    }
    match change {
        TaskChange::BackOff { cause, .. } | TaskChange::Failed { cause, .. } => {
            is_own_fault(cause).then(|| format!("task {index} failed: {cause}"))
        }
        TaskChange::Health(Health::Unhealthy) => Some(format!("task {index} turned unhealthy")),
        TaskChange::Health(Health::Unchecked | Health::Starting | Health::Healthy)
        | TaskChange::ParentEnded { .. }
        | TaskChange::Withdrawn
        | TaskChange::Renewed
        | TaskChange::Released
        | TaskChange::Placed { .. }
        | TaskChange::Awaits
        | TaskChange::Prepared { .. }
        | TaskChange::Preparing { .. }
        | TaskChange::Unprepared { .. }
        | TaskChange::Replaced { .. }
        | TaskChange::Up { .. }
        | TaskChange::Address(_)
        | TaskChange::Evicted(_)
        | TaskChange::Gone { .. }
        | TaskChange::Finished
        | TaskChange::Killed { .. }
        | TaskChange::Stopped { .. }
        | TaskChange::Updated { .. }
        | TaskChange::DependencyFailed { .. } => None,
    }
}
