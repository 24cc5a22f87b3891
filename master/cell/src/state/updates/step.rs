//! Step by step: which tasks go now, which have arrived, and whether the new version is good.
//!
//! Called at the end of every entry in which something happened to a job's tasks, and when a time has come
//! for it. Doing it again without anything new changes nothing.

use super::super::disruption::Blocked;
use super::super::observe::is_own_fault;
use super::super::turn::Turn;
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
        let serves = task.placement().is_some_and(|placement| placement.serves_since.is_some());
        let down = !serves && update.is_left(id.index, task);
        let trouble = trouble(update, id.index, task, from, change);
        self.stir(id.job);
        if down {
            self.downed.insert(id);
        }
        if let Some(trouble) = trouble {
            self.note_trouble(id, trouble);
        }
    }

    /// A task's successor has taken over as another version: the update that it is of waits for it as for others.
    pub(in crate::state) fn is_on_its_way(&mut self, id: TaskId) {
        let version = self.state.task(id).map_or(0, |task| task.version);
        if let Some(update) = self.job_mut(id.job).update.as_mut().filter(|u| u.to == version) {
            Arc::make_mut(update).moving.insert(id.index);
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
            Arc::make_mut(update).note(id.index, trouble);
        }
    }

    /// Gives all tasks the new version that lose nothing by it: those of which the process goes on, and
    /// those that do not serve.
    pub(in crate::state) fn sweep_update(&mut self, id: JobId) {
        let Some((job, mut update, mut judge)) = self.open_update(id) else { return };
        for (task, index) in job.tasks.iter().zip(0..) {
            if update.may_go(index, task) {
                self.give_freely(TaskId { job: id, index }, &mut update, &mut judge, false);
            }
        }
        self.job_mut(id).update = Some(Arc::new(update));
    }

    /// Goes on with a job's update as far as it may.
    pub(in crate::state) fn proceed_update(&mut self, id: JobId) {
        let downed = self.take_downed(id);
        let Some((job, mut update, mut judge)) = self.open_update(id) else { return };
        match update.state {
            UpdateState::Rolling | UpdateState::Canary => {}
            UpdateState::Paused { .. } | UpdateState::Done => return,
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
            for task in downed {
                if self.state.task(task).is_some_and(|found| update.may_go(task.index, found)) {
                    self.give_freely(task, &mut update, &mut judge, true);
                }
            }
            self.take_turns(id, &mut update, &mut judge);
        }
        let over = update.state == UpdateState::Rolling
            && update.moving.is_empty()
            && update.awaiting.is_empty()
            && update.place >= update.places(job.slots());
        self.job_mut(id).update = Some(Arc::new(update));
        if over {
            self.arrive(id);
        }
    }

    fn open_update(&self, id: JobId) -> Option<(Arc<Job>, Update, Judge)> {
        let job = self.state.jobs.get(&id).filter(|job| job.is_alive())?.clone();
        let update = job.update()?.clone();
        let judge = Judge::new(&job, update.to)?;
        Some((job, update, judge))
    }

    fn take_downed(&mut self, id: JobId) -> Vec<TaskId> {
        let (first, last) = (TaskId { job: id, index: 0 }, TaskId { job: id, index: u32::MAX });
        let found: Vec<TaskId> = self.downed.range(first..=last).copied().collect();
        for task in &found {
            self.downed.remove(task);
        }
        found
    }

    /// Gives a task the new version if it loses nothing by that.
    fn give_freely(&mut self, id: TaskId, update: &mut Update, judge: &mut Judge, tell: bool) {
        let Some(task) = self.state.task(id) else { return };
        let (placed, serves) = (task.placement().is_some(), task.serves_since().is_some());
        let waits_for_it = task.streak > 0 || task.on_its_way_since().is_some();
        if self.update_in_place(id, judge, tell) {
            if !placed && waits_for_it && !self.state.is_stopped(id) {
                update.moving.insert(id.index);
                self.forgive(id);
            }
        } else if !serves {
            // Where it goes is for the scheduler when its machine has no room for it.
            let _stays = self.renew(id, update.to).is_ok();
            update.moving.insert(id.index);
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
        loop {
            let Some(job) = self.state.job(id) else { return };
            let (tasks, at_once) = (job.slots(), job.at_once(update));
            if update.place >= update.places(tasks) {
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
                if update.under_way() >= at_once {
                    return;
                }
                if self.goes_first(next, update, judge) {
                    self.await_successor(next, update);
                    update.place += 1;
                    continue;
                }
                if let Err(blocked) = self.state.may_disrupt(next, self.at) {
                    update.blocked_until = match blocked {
                        Blocked::Rate { until, .. } => Some(until),
                        Blocked::Down { .. } => None,
                    };
                    return;
                }
                let _stays = self.renew(next, update.to).is_ok();
                update.moving.insert(next.index);
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

    /// Too many tasks turned out bad.
    fn give_up_update(&mut self, id: JobId, update: &Update) {
        match update.options.on_failure {
            OnFailure::RollBack => {
                let by = update.by.clone();
                self.take_back(id, &format!("rolled back: {}", update.trouble), &by);
            }
            OnFailure::Pause => {
                let by = noted(&format!("the cell, as {}", update.trouble));
                self.set_update_state(id, UpdateState::Paused { by });
                self.tell_update(id, UpdateChange::Paused);
            }
        }
    }
}

impl Update {
    fn note(&mut self, index: u32, trouble: String) {
        if self.failed.is_empty() {
            self.trouble = noted(&trouble);
        }
        self.failed.insert(index);
    }

    /// Takes out who has arrived, and notes who took too long.
    fn settle(&mut self, job: &Job, at: Millis) {
        let moving = std::mem::take(&mut self.moving);
        for index in moving {
            let Some(task) = job.task(index).filter(|task| !task.is_dead()) else { continue };
            if task.is_stopped() || task.version != self.to {
                continue;
            }
            let due = task.due_in(self, index).is_some_and(|due| due <= at);
            if due && task.serves_since().is_some() {
                continue;
            }
            if due {
                let seconds = self.options.deadline_ms.0.div_ceil(1_000);
                self.note(index, format!("task {index} did not serve within {seconds} s"));
            }
            self.moving.insert(index);
        }
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
