//! Stopping tasks and starting them again: the job stays, with its name and its quota, and in an alloc
//! with its place.
//!
//! A stopped task is pending with no time at which it may be placed. It is its owner's word, so no
//! disruption budget is asked; nor does it count as down: nobody waits for it.
//!
//! A daemon's task whose machine is away can be stopped too: it is held back when that comes.
//!
//! Invariant: only a task that may come is stopped: a pending one, or a daemon's without its machine.

use super::daemons::slot;
use super::runs::RunOver;
use super::turn::Turn;
use super::{Answer, Job, Task};
use crate::event::TaskChange;
use crate::rejection::{Rejection, UpdateRejection};
use borg_proto::task::{EvictCause, TaskState};
use borg_proto::update::within;
use borg_proto::{IndexSet, JobKey, Millis, TaskId, UserName};

/// The time that never comes.
pub(super) const NEVER: Millis = Millis(u64::MAX);

impl Task {
    /// Whether it is held back until somebody starts it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }
}

impl Turn<'_> {
    /// Takes tasks off their machines until they are started. Those that are stopped or dead already stay
    /// so.
    pub(super) fn stop_tasks(
        &mut self,
        user: &UserName,
        key: &JobKey,
        tasks: Option<&IndexSet>,
    ) -> Result<Answer, Rejection> {
        let job = self.running(user, key)?;
        let alive = chosen(job, tasks, |task| !task.is_dead())?;
        if job.spec.gang && u32::try_from(alive.len()) != Ok(job.counts.alive()) {
            return Err(UpdateRejection::GangParted { job: key.clone() }.into());
        }
        let may_come = |task: &Task| !task.is_dead() || task.is_withdrawn();
        let chosen = chosen(job, tasks, |task| may_come(task) && !task.is_stopped())?;
        for task in &chosen {
            if !self.hold_back(*task, true) {
                self.stop_task(*task, user);
            }
        }
        Ok(Answer::Killed { tasks: u32::try_from(chosen.len()).unwrap_or(u32::MAX) })
    }

    /// Says of a task without its machine whether it waits for somebody when that comes; `false` of any
    /// other.
    fn hold_back(&mut self, id: TaskId, stopped: bool) -> bool {
        let away = self.state.task(id).is_some_and(Task::is_withdrawn);
        if away && let Some(task) = slot(self.job_mut(id.job), id.index) {
            task.stopped = stopped;
        }
        away
    }

    fn stop_task(&mut self, id: TaskId, by: &UserName) {
        let placed = self.state.task(id).is_some_and(|task| task.placement().is_some());
        let lingers = placed && self.state.job(id.job).is_some_and(|job| job.spec.exclusive);
        let (by, cause) = (by.to_string(), EvictCause::Stopped { by: by.to_string() });
        if placed {
            self.note_run(id, RunOver::Evicted(cause.clone()), None);
        }
        let to = TaskState::Pending { since: self.at, not_before: NEVER };
        self.change_task(id, to, TaskChange::Stopped { by }, |task| {
            task.stopped = true;
            task.lingers |= lingers;
            if placed {
                task.last_evict = Some(cause);
            }
        });
    }

    /// Lets tasks that were stopped be placed again.
    pub(super) fn start_tasks(
        &mut self,
        user: &UserName,
        key: &JobKey,
        tasks: Option<&IndexSet>,
    ) -> Result<Answer, Rejection> {
        let job = self.running(user, key)?;
        let chosen = chosen(job, tasks, Task::is_stopped)?;
        let waits = !job.waits_for.is_empty();
        for task in &chosen {
            if self.hold_back(*task, false) {
                continue;
            }
            let not_before = if waits { NEVER } else { Millis(0) };
            let to = TaskState::Pending { since: self.at, not_before };
            self.change_task(*task, to, TaskChange::Released, |task| {
                task.stopped = false;
                task.streak = 0;
            });
        }
        Ok(Answer::Killed { tasks: u32::try_from(chosen.len()).unwrap_or(u32::MAX) })
    }
}

/// The tasks of a job that are named, or all, as far as they are `wanted`.
fn chosen(
    job: &Job,
    tasks: Option<&IndexSet>,
    wanted: impl Fn(&Task) -> bool,
) -> Result<Vec<TaskId>, Rejection> {
    within("tasks", tasks, job.slots()).map_err(Rejection::Spec)?;
    let named = |index: u32| tasks.is_none_or(|tasks| tasks.contains(index));
    let all = job.tasks.iter().zip(0..);
    let found = all.filter(|(task, index)| named(*index) && wanted(task));
    Ok(found.map(|(_, index)| TaskId { job: job.id, index }).collect())
}
