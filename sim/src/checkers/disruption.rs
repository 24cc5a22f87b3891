//! No job loses more of its tasks on purpose than its disruption budget says, by drains, updates and preemption
//! together (I18).
//!
//! Follows who serves by the events alone, and counts for each task that is pushed out on purpose how many of
//! its job are down then. What a deadline overrules is let pass: a drain whose time is over, and a task that
//! waited too long. Shares no code with the state's own count.

use borg_cell::event::{AccessChange, Event, EventKind, TaskChange};
use borg_cell::state::{CellState, Job, OVERDUE};
use borg_proto::command::SERVICES_SINCE;
use borg_proto::task::{EvictCause, Phase, TaskEnd};
use borg_proto::{JobId, JobSpec, MachineId, Millis, TaskId, TaskName, TaskState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is known of a job.
#[derive(Debug, Default)]
struct Known {
    serving: BTreeSet<u32>,
    /// Those of which a successor serves already.
    ready: BTreeSet<u32>,
    dead: BTreeSet<u32>,
    /// Of a daemon: slots that a machine gave it, and those that lost theirs.
    given: BTreeSet<u32>,
    withdrawn: BTreeSet<u32>,
    /// Stopped until somebody starts them: nobody waits for these.
    held: BTreeSet<u32>,
    /// When its tasks were pushed out on purpose while they served.
    disrupted: VecDeque<Millis>,
    /// Whether it may have had another size when an event was made than it has by now.
    resized: bool,
}

/// Who serves, who waits and what is drained, by the events alone.
#[derive(Debug, Default)]
pub struct Disruptions {
    jobs: BTreeMap<JobId, Known>,
    /// From when on each task waited that could be placed.
    waits: BTreeMap<TaskId, Millis>,
    deadlines: BTreeMap<MachineId, Millis>,
    /// The entry from which on budgets are kept to.
    since: Option<u64>,
    /// How many disruptions were looked at, of tasks that served and had a budget.
    looked_at: u64,
    /// Who left a drained machine by the newest entry that anybody did by.
    moved: (u64, BTreeSet<TaskId>),
}

impl Disruptions {
    /// Those of a cell that goes on from a backup.
    #[must_use]
    pub fn restored(state: &CellState) -> Self {
        let mut all = Self::default();
        for job in state.jobs() {
            let known = all.jobs.entry(job.id).or_default();
            for (id, task) in state.tasks_of(job.id) {
                known.given.insert(id.index);
                match &task.state {
                    TaskState::Pending { since, not_before } => {
                        if task.is_stopped() {
                            known.held.insert(id.index);
                        }
                        all.waits.insert(id, (*since).max(*not_before));
                    }
                    TaskState::Running(placed) => {
                        let up = matches!(placed.phase, Phase::Up { .. });
                        let well = up && job.health(id.index, placed).serves();
                        if job.is_alloc_set() || well {
                            known.serving.insert(id.index);
                        }
                        let next = task.successor().map(|next| next.placement.serves_since);
                        if next.flatten().is_some() {
                            known.ready.insert(id.index);
                        }
                    }
                    TaskState::Dead { end, .. } => {
                        known.dead.insert(id.index);
                        if *end == TaskEnd::Withdrawn {
                            known.withdrawn.insert(id.index);
                        }
                    }
                }
            }
        }
        for machine in state.draining() {
            let deadline = machine.drain.as_ref().map_or(Millis(0), |drain| drain.deadline);
            all.deadlines.insert(machine.id, deadline);
        }
        all
    }

    /// How many disruptions of tasks that served and had a budget were looked at.
    #[must_use]
    pub const fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Whether a task left a drained machine by that entry.
    #[must_use]
    pub fn left_by(&self, entry: u64, task: TaskId) -> bool {
        self.moved.0 == entry && self.moved.1.contains(&task)
    }

    /// Takes an event, in the order of the log. `state` may be newer.
    ///
    /// # Errors
    /// When a task was pushed out on purpose that its job could not spare.
    pub fn take(&mut self, event: &Event, state: &CellState) -> Result<(), String> {
        if self.since.is_none() && state.level() >= SERVICES_SINCE {
            self.since = Some(state.applied());
        }
        match &event.kind {
            EventKind::TaskChanged { task, change, machine } => {
                if matches!(
                    change,
                    TaskChange::Evicted(EvictCause::Drained) | TaskChange::Replaced { .. }
                ) {
                    if self.moved.0 != event.index {
                        self.moved = (event.index, BTreeSet::new());
                    }
                    self.moved.1.insert(*task);
                }
                let result = match change {
                    TaskChange::Evicted(cause) => {
                        self.pushed_out(event, state, *task, cause, *machine)
                    }
                    TaskChange::Replaced { .. } => self.replaced(event, *task),
                    _ => Ok(()),
                };
                self.follow(event.at, state, *task, change);
                return result;
            }
            EventKind::JobSubmitted(job) => {
                for (task, _) in state.tasks_of(*job) {
                    self.waits.insert(task, event.at);
                }
            }
            EventKind::JobUpdated { job, .. } => {
                // It may have more tasks than before.
                for (task, found) in state.tasks_of(*job) {
                    if matches!(found.state, TaskState::Pending { .. }) {
                        self.waits.entry(task).or_insert(event.at);
                    }
                }
            }
            EventKind::AllocsResized(job) => self.jobs.entry(*job).or_default().resized = true,
            EventKind::JobForgotten(job, _) => {
                self.jobs.remove(job);
                self.waits.retain(|task, _| task.job != *job);
            }
            EventKind::MachineAccess(id, AccessChange::Draining) => {
                let drain = state.machine(*id).and_then(|machine| machine.drain.as_ref());
                self.deadlines.insert(*id, drain.map_or(Millis(0), |drain| drain.deadline));
            }
            EventKind::MachineAccess(id, AccessChange::Undrained) => {
                self.deadlines.remove(id);
            }
            _ => {}
        }
        Ok(())
    }

    fn follow(&mut self, at: Millis, state: &CellState, task: TaskId, change: &TaskChange) {
        let job = state.job(task.job);
        let known = self.jobs.entry(task.job).or_default();
        let alloc = job.is_some_and(Job::is_alloc_set);
        let checked = job.is_some_and(|job| job.task_spec(task.index).health.is_some());
        let serves = match change {
            TaskChange::Placed { .. } => alloc,
            TaskChange::Up { .. } => !checked,
            TaskChange::Health(health) => health.serves(),
            TaskChange::Replaced { .. } => known.ready.contains(&task.index),
            TaskChange::Awaits
            | TaskChange::Prepared { .. }
            | TaskChange::Preparing { .. }
            | TaskChange::Unprepared { .. }
            | TaskChange::Address(_)
            | TaskChange::Released
            | TaskChange::Updated { .. }
            | TaskChange::Gone { .. } => known.serving.contains(&task.index),
            TaskChange::BackOff { .. }
            | TaskChange::Stopped { .. }
            | TaskChange::Evicted(_)
            | TaskChange::Failed { .. }
            | TaskChange::Finished
            | TaskChange::Killed { .. }
            | TaskChange::ParentEnded { .. }
            | TaskChange::Withdrawn
            | TaskChange::Renewed
            | TaskChange::DependencyFailed { .. } => false,
        };
        if serves {
            known.serving.insert(task.index);
        } else {
            known.serving.remove(&task.index);
        }
        match change {
            TaskChange::Preparing { serves: true } => drop(known.ready.insert(task.index)),
            TaskChange::Preparing { serves: false }
            | TaskChange::Prepared { .. }
            | TaskChange::Unprepared { .. }
            | TaskChange::Replaced { .. } => drop(known.ready.remove(&task.index)),
            _ => {}
        }
        let stops = matches!(change, TaskChange::Stopped { .. });
        let starts = matches!(change, TaskChange::Released | TaskChange::Placed { .. });
        if stops {
            known.held.insert(task.index);
        } else if starts {
            known.held.remove(&task.index);
        }
        match change {
            TaskChange::Evicted(_) | TaskChange::Released => {
                self.waits.insert(task, at);
            }
            TaskChange::Renewed => {
                self.waits.insert(task, at);
                known.dead.remove(&task.index);
                known.withdrawn.remove(&task.index);
                known.given.insert(task.index);
            }
            TaskChange::Withdrawn => {
                self.waits.remove(&task);
                known.dead.insert(task.index);
                known.withdrawn.insert(task.index);
            }
            TaskChange::Failed { again: Some(not_before), .. } => {
                self.waits.insert(task, at.max(*not_before));
            }
            TaskChange::Placed { .. }
            | TaskChange::Replaced { .. }
            | TaskChange::Stopped { .. } => {
                self.waits.remove(&task);
            }
            TaskChange::Failed { again: None, .. }
            | TaskChange::Finished
            | TaskChange::Killed { .. }
            | TaskChange::ParentEnded { .. }
            | TaskChange::DependencyFailed { .. } => {
                self.waits.remove(&task);
                known.dead.insert(task.index);
            }
            TaskChange::Up { .. }
            | TaskChange::BackOff { .. }
            | TaskChange::Health(_)
            | TaskChange::Address(_)
            | TaskChange::Awaits
            | TaskChange::Prepared { .. }
            | TaskChange::Preparing { .. }
            | TaskChange::Unprepared { .. }
            | TaskChange::Updated { .. }
            | TaskChange::Gone { .. } => {}
        }
    }

    /// A successor takes over: by choice only when it serves. Whoever was pushed out or failed waits since.
    fn replaced(&self, event: &Event, task: TaskId) -> Result<(), String> {
        let ready = self.jobs.get(&task.job).is_some_and(|job| job.ready.contains(&task.index));
        if ready || self.waits.contains_key(&task) {
            return Ok(());
        }
        Err(format!("task {task} is replaced at entry {} by what does not serve", event.index))
    }

    /// A task is pushed out, and is down from here on.
    fn pushed_out(
        &mut self,
        event: &Event,
        state: &CellState,
        task: TaskId,
        cause: &EvictCause,
        machine: Option<MachineId>,
    ) -> Result<(), String> {
        let overruled = match cause {
            EvictCause::Drained => {
                let deadline = machine.and_then(|id| self.deadlines.get(&id));
                deadline.is_none_or(|deadline| *deadline <= event.at)
            }
            EvictCause::Preempted { by } => {
                // A restored cell finds out which of two incarnations is right.
                let Ok(by) = by.parse::<TaskName>() else { return Ok(()) };
                let id =
                    state.job_named(&by.job).map(|job| TaskId { job: job.id, index: by.index });
                let since = id.and_then(|id| self.waits.get(&id));
                // It may be one that moves: then it waits for nothing.
                since.is_some_and(|since| event.at.since(*since) >= OVERDUE)
            }
            EvictCause::Updated { .. } | EvictCause::Reclaimed => false,
            // Its owner's word needs no budget.
            EvictCause::Stopped { .. }
            | EvictCause::Capped { .. }
            | EvictCause::MachineDown
            | EvictCause::Shrunk
            | EvictCause::Resized => return Ok(()),
        };
        let Some(job) = state.job(task.job) else { return Ok(()) };
        let known = self.jobs.entry(task.job).or_default();
        if !known.serving.contains(&task.index) || known.resized {
            return Ok(());
        }
        let at = event.at;
        let Some(budget) = job.spec.effective_disruption() else { return Ok(()) };
        let per = budget.rate.map_or(Millis(0), |rate| rate.per_ms);
        known.disrupted.retain(|old| at.since(*old) < per);
        let (lately, rate) = (known.disrupted.len(), budget.rate);
        if rate.is_some() {
            known.disrupted.push_back(at);
        }
        // The state may have another version by now; within a millisecond either may have been in force.
        let before = job.versions().rfind(|version| version.at < at);
        let in_force = before.into_iter().chain(job.versions().filter(|version| version.at == at));
        let room = |spec: &JobSpec| {
            let (slots, size) = if spec.kind.stands() {
                (u32::MAX, known.given.len() - known.withdrawn.len())
            } else {
                (spec.tasks, spec.tasks as usize)
            };
            let within = |indexes: &BTreeSet<u32>| indexes.range(..slots).count();
            let tasks = u32::try_from(size).unwrap_or(u32::MAX);
            let most = spec.effective_disruption().map(|budget| budget.most.of(tasks));
            let out = known.dead.union(&known.held).copied().collect();
            let alive = (size + known.withdrawn.len()).saturating_sub(within(&out));
            // Those that the job's own cap holds back are not down.
            let cap = spec.concurrent.map_or(usize::MAX, |most| most as usize);
            (alive.min(cap).saturating_sub(within(&known.serving)), most)
        };
        let rooms: Vec<_> = in_force.map(|version| room(&version.spec)).collect();
        let allowed =
            |(down, most): &(usize, Option<u32>)| most.is_none_or(|most| *down < most as usize);
        let fits = rooms.is_empty() || rooms.iter().any(allowed);
        if overruled || self.since.is_none_or(|since| event.index <= since) {
            return Ok(());
        }
        self.looked_at += 1;
        let name = format!("{}/{}", job.key, task.index);
        if !fits {
            return Err(format!(
                "{name} is pushed out ({cause}) at entry {} while so many of its job are down, and most is: \
                 {rooms:?}",
                event.index
            ));
        }
        match rate.filter(|rate| lately >= rate.tasks as usize) {
            None => Ok(()),
            Some(rate) => Err(format!(
                "{name} is pushed out ({cause}) at entry {}, and {lately} of its job were in {}, most is {}",
                event.index, rate.per_ms, rate.tasks
            )),
        }
    }
}
