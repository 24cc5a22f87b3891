//! Tasks: what the cell remembers of each slot, and the one function that changes a slot's state.
//!
//! `jobs`, `placement` and `observe` decide which change happens; [`Turn::change_task`] carries it
//! out and keeps machine, pending index, counts and events in step.
//!
//! Invariant: a slot is on at most one machine, its successor aside, and its incarnation number never falls.

use super::machines::Machine;
use super::runs::RunOver;
use super::successors::{Successor, Vain};
use super::turn::Turn;
use super::{Job, TaskCounts};
use crate::event::{EventKind, TaskChange};
use borg_proto::task::{EvictCause, FailureCause, Phase, Placement, TaskEnd, TaskState};
use borg_proto::{IncarnationId, MachineId, Millis, TaskId};
use std::sync::Arc;

/// One slot of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Where it is in its life.
    pub state: TaskState,
    /// How often it was placed so far, as a successor too; the number of its newest incarnation.
    pub incarnations: u32,
    /// How often it failed by its own fault so far, restarts by a machine included.
    pub failures: u32,
    /// Incarnations in a row that did not last [`super::observe::LASTED`]: sets the back-off.
    pub streak: u32,
    /// Why it failed the last time.
    pub last_failure: Option<FailureCause>,
    /// Why it was pushed out the last time.
    pub last_evict: Option<EvictCause>,
    /// Machine and incarnation of the last placement, so that logs of a dead task can be found.
    /// The machine may have been removed since.
    pub last_place: Option<(MachineId, u32)>,
    /// Where it failed lately, the last place last, each once; at most [`MAX_CRASHES`]. A scheduler
    /// avoids these for [`CRASH_COOL_DOWN`] while there are others to try.
    pub crashes: Vec<Crash>,
    /// Whether it is exclusive and its last incarnation may still run where it was: it is not
    /// placed until that is known to be over.
    pub lingers: bool,
    /// Of a daemon: the machine that the slot belongs to, as long as that is in the cell.
    pub pinned: Option<MachineId>,
    /// The version of its job that it runs, or is to run when it is placed next.
    pub version: u32,
    /// Whether it is held back until somebody starts it; of a daemon's without its machine, when that comes.
    pub stopped: bool,
    /// What is to take its place; only while it is placed.
    pub(crate) successor: Option<Box<Successor>>,
    /// Of its successors those that came to nothing.
    pub(crate) vain: Vain,
}

/// A failure of a task on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Where.
    pub machine: MachineId,
    /// When, in cell time.
    pub at: Millis,
}

/// How long a task keeps away from a machine on which it failed, while there are machines on which
/// it did not. 10 minutes: our choice, as long as an incarnation must last not to count as a quick
/// failure; the paper (section 4) avoids such pairings and gives no number.
pub const CRASH_COOL_DOWN: Millis = Millis::from_secs(600);
/// Most machines that a task keeps away from. 8: our choice; with so many the task is at fault.
pub const MAX_CRASHES: usize = 8;

impl Task {
    /// A slot that was never placed.
    pub(crate) fn new(state: TaskState, version: u32) -> Self {
        Self {
            state,
            incarnations: 0,
            failures: 0,
            streak: 0,
            last_failure: None,
            last_evict: None,
            last_place: None,
            crashes: Vec::new(),
            lingers: false,
            pinned: None,
            version,
            stopped: false,
            successor: None,
            vain: Vain::default(),
        }
    }

    /// Where it runs, if it does.
    #[must_use]
    pub fn placement(&self) -> Option<&Placement> {
        match &self.state {
            TaskState::Running(placement) => Some(placement),
            TaskState::Pending { .. } | TaskState::Dead { .. } => None,
        }
    }

    /// Whether it is over for good.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, TaskState::Dead { .. })
    }

    /// Of a daemon: whether it is only over as long as its machine does not do.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        matches!(self.state, TaskState::Dead { end: TaskEnd::Withdrawn, .. })
    }

    /// The machines that it should keep away from at `now`, the last one last.
    pub fn avoids(&self, now: Millis) -> impl Iterator<Item = Crash> + '_ {
        self.crashes.iter().copied().filter(move |crash| now.since(crash.at) < CRASH_COOL_DOWN)
    }

    /// Notes that it failed on a machine.
    pub(super) fn crashed(&mut self, machine: MachineId, at: Millis) {
        self.crashes
            .retain(|crash| crash.machine != machine && at.since(crash.at) < CRASH_COOL_DOWN);
        if self.crashes.len() == MAX_CRASHES {
            self.crashes.remove(0);
        }
        self.crashes.push(Crash { machine, at });
    }

    /// The incarnation that may still run although the task was taken off its machine.
    #[must_use]
    pub fn lingering(&self, id: TaskId) -> Option<(MachineId, IncarnationId)> {
        let (machine, number) = self.last_place.filter(|_| self.lingers)?;
        Some((machine, IncarnationId { task: id, number }))
    }

    /// The incarnation that runs now, if one does.
    #[must_use]
    pub fn running(&self, id: TaskId) -> Option<IncarnationId> {
        self.placement().map(|placement| IncarnationId { task: id, number: placement.incarnation })
    }
}

impl TaskCounts {
    /// Tasks that are not dead.
    #[must_use]
    pub fn alive(&self) -> u32 {
        self.pending + self.running
    }

    pub(crate) fn add(&mut self, state: &TaskState) {
        self.each(state, |count| *count += 1);
    }

    /// A slot in that state is taken out.
    pub(crate) fn forget(&mut self, state: &TaskState) {
        self.subtract(state);
    }

    fn subtract(&mut self, state: &TaskState) {
        self.each(state, |count| *count -= 1);
    }

    fn each(&mut self, state: &TaskState, change: impl Fn(&mut u32)) {
        match state {
            TaskState::Pending { not_before, .. } => {
                change(&mut self.pending);
                if *not_before == super::stops::NEVER {
                    change(&mut self.held);
                }
            }
            TaskState::Running(placement) => {
                change(&mut self.running);
                if matches!(placement.phase, Phase::Up { .. }) {
                    change(&mut self.up);
                }
                if placement.serves_since.is_some() {
                    change(&mut self.serving);
                }
            }
            TaskState::Dead { end, .. } => change(match end {
                TaskEnd::Finished => &mut self.finished,
                TaskEnd::Failed { .. } | TaskEnd::DependencyFailed { .. } => &mut self.failed,
                TaskEnd::Killed { .. } | TaskEnd::ParentEnded { .. } => &mut self.killed,
                TaskEnd::Withdrawn => &mut self.withdrawn,
            }),
        }
    }
}

impl Turn<'_> {
    /// Brings a slot into another state, and everything that follows from it: room and ports of
    /// its machine, the index of pending tasks, the job's counts, the events. `note` changes what
    /// else is remembered of the slot.
    pub(super) fn change_task(
        &mut self,
        id: TaskId,
        mut to: TaskState,
        change: TaskChange,
        note: impl FnOnce(&mut Task),
    ) {
        match &mut to {
            TaskState::Running(placement) => self.note_serving(id, placement),
            TaskState::Pending { .. } | TaskState::Dead { .. } => {
                self.drop_successor(id, "its task is taken down");
            }
        }
        let now_at = place_of(&to);
        let now_pending = matches!(to, TaskState::Pending { .. });
        let job = self.job_mut(id.job);
        let before = job.state();
        job.counts.add(&to);
        let slot = usize::try_from(id.index).ok().and_then(|index| job.tasks.get_mut(index));
        let task = Arc::make_mut(slot.expect("rules look tasks up before they change them"));
        let from = std::mem::replace(&mut task.state, to.clone());
        let lingered_at = task.last_place.filter(|_| task.lingers);
        note(task);
        // What is over for good is not placed again, so nobody waits for its last incarnation.
        task.lingers &= !task.is_dead();
        // What is only without its machine is held back when that is there again.
        task.stopped &= !task.is_dead() || task.is_withdrawn();
        let lingers = task.lingers || job.dropped.contains_key(&id.index);
        let (dead, was_dead) = (task.is_dead(), matches!(from, TaskState::Dead { .. }));
        job.counts.subtract(&from);
        let (after, alive) = (job.state(), job.counts.alive());
        let over = !job.spec.kind.stands() || job.stopped.is_some();
        let timed = job.spec.timeout_ms.is_some();

        if dead && !was_dead {
            self.refund(id.job);
        } else if was_dead && !dead {
            self.charge_one(id.job);
        }
        if timed {
            self.stir(id.job);
        }
        if place_of(&from) != now_at {
            self.leave(id, &from);
            self.enter(id, &to);
        }
        // Begins or ends to linger.
        let turned = if lingers {
            self.state.lingering.insert(id).is_none()
        } else {
            self.state.lingering.remove(&id).is_some()
        };
        if now_pending {
            self.state.pending.insert(id);
        } else {
            self.state.pending.remove(&id);
        }
        if let TaskState::Running(left) = &from
            && place_of(&from) != now_at
        {
            self.leave_data(id, left);
        }
        let machine = now_at.or(place_of(&from)).map(|(machine, _)| machine);
        self.watch_update(id, &from, &change);
        self.emit(EventKind::TaskChanged { task: id, change, machine });
        if place_of(&from) != now_at || turned {
            let last = self.state.task(id).and_then(|task| task.last_place);
            let places = [place_of(&from), now_at, last, lingered_at];
            places.into_iter().flatten().for_each(|(machine, _)| self.note_emptiness(machine));
        }
        if alive == 0 && over {
            self.over.push_back((id.job, before));
        } else if before != after {
            self.emit(EventKind::JobChanged { job: id.job, from: before, to: after });
        }
    }

    /// Sends a placed task back to pending by no fault of its own, an alloc with all that is in it. One
    /// that left with its alloc already is not placed any more.
    pub(super) fn evict(&mut self, id: TaskId, cause: &EvictCause) {
        if self.state.task(id).and_then(Task::placement).is_none() {
            return;
        }
        // Allocs run nothing.
        if self.state.job(id.job).is_some_and(|job| !job.is_alloc_set()) {
            self.note_run(id, RunOver::Evicted(cause.clone()), None);
        }
        self.evict_tenants(id, cause);
        if self.follows_evicted(id, cause) {
            return;
        }
        let lingers = self.state.job(id.job).is_some_and(|job| job.spec.exclusive);
        let to = TaskState::Pending { since: self.at, not_before: Millis(0) };
        self.change_task(id, to, TaskChange::Evicted(cause.clone()), |task| {
            task.last_evict = Some(cause.clone());
            task.lingers = lingers;
        });
    }

    /// The successor of a task that is pushed out takes its place, if it has one; not when the task is to be
    /// another version, or nothing at all.
    fn follows_evicted(&mut self, id: TaskId, cause: &EvictCause) -> bool {
        let ends = match cause {
            EvictCause::Updated { .. } | EvictCause::Stopped { .. } | EvictCause::Capped { .. } => {
                true
            }
            EvictCause::Preempted { .. }
            | EvictCause::MachineDown
            | EvictCause::Drained
            | EvictCause::Shrunk
            | EvictCause::Resized
            | EvictCause::Reclaimed => false,
        };
        let Some(task) = self.state.task(id).filter(|task| !ends && task.successor.is_some())
        else {
            return false;
        };
        let machine = task.placement().map(|placement| placement.machine);
        let change = TaskChange::Evicted(cause.clone());
        self.emit(EventKind::TaskChanged { task: id, change, machine });
        self.take_over(id, |task| task.last_evict = Some(cause.clone()))
    }

    /// The incarnation of an exclusive task that was taken off its machine surely runs no more.
    pub(super) fn task_gone(&mut self, id: IncarnationId) {
        let TaskId { job, index } = id.task;
        let found = self.state.job(job).and_then(|job| job.lingering(index));
        let Some((machine, _)) = found.filter(|(_, lingering)| *lingering == id) else { return };
        let job = self.job_mut(job);
        if job.dropped.remove(&index).is_none() {
            let slot = usize::try_from(index).ok().and_then(|index| job.tasks.get_mut(index));
            Arc::make_mut(slot.expect("the task was just found there")).lingers = false;
            let change = TaskChange::Gone { incarnation: id.number };
            self.emit(EventKind::TaskChanged { task: id.task, change, machine: Some(machine) });
        }
        self.state.lingering.remove(&id.task);
        self.note_emptiness(machine);
    }

    /// Ends a task that is alive.
    pub(super) fn end_task(&mut self, id: TaskId, end: TaskEnd) {
        let change = match &end {
            TaskEnd::Finished => TaskChange::Finished,
            TaskEnd::Failed { cause } => TaskChange::Failed { cause: cause.clone(), again: None },
            TaskEnd::Killed { by } => TaskChange::Killed { by: by.clone() },
            TaskEnd::DependencyFailed { job, .. } => {
                TaskChange::DependencyFailed { job: job.clone() }
            }
            TaskEnd::ParentEnded { job } => TaskChange::ParentEnded { job: job.clone() },
            TaskEnd::Withdrawn => TaskChange::Withdrawn,
        };
        let at = self.at;
        self.change_task(id, TaskState::Dead { at, end }, change, |_| ());
    }

    /// Ends all tasks of a job that are alive; gives their number.
    pub(super) fn end_tasks(&mut self, job: borg_proto::JobId, end: &TaskEnd) -> u32 {
        let alive: Vec<TaskId> = self
            .state
            .tasks_of(job)
            .filter(|(_, task)| !task.is_dead())
            .map(|(id, _)| id)
            .collect();
        for id in &alive {
            self.end_task(*id, end.clone());
        }
        u32::try_from(alive.len()).unwrap_or(u32::MAX)
    }

    /// Gives the room of a placed task on its machine back.
    pub(super) fn leave(&mut self, id: TaskId, from: &TaskState) {
        let TaskState::Running(placement) = from else { return };
        let at = self.at;
        let (job, machine) = self.pair(id, placement.machine);
        let version = job.version_of(id.index);
        machine.releases(version, placement);
        machine.ends_until(at + job.spec.task.grace_ms);
        machine.tasks.remove(&id);
        crowd_out(job, machine);
        if let Some(until) = job.runs_until(placement) {
            job.run_out.remove(&(until, id.index));
        }
    }

    /// Takes the room of a placed task on its machine.
    pub(super) fn enter(&mut self, id: TaskId, to: &TaskState) {
        let TaskState::Running(placement) = to else { return };
        let (job, machine) = self.pair(id, placement.machine);
        seat(job, machine, id, placement);
    }

    pub(super) fn pair(&mut self, id: TaskId, machine: MachineId) -> (&mut Job, &mut Machine) {
        let job = self.state.jobs.get_mut(&id.job).expect("the job holds the task that changes");
        let machine = self
            .state
            .machines
            .get_mut(&machine)
            .expect("placed tasks are on machines of the cell");
        (Arc::make_mut(job), Arc::make_mut(machine))
    }
}

fn place_of(state: &TaskState) -> Option<(MachineId, u32)> {
    match state {
        TaskState::Running(placement) => Some((placement.machine, placement.incarnation)),
        TaskState::Pending { .. } | TaskState::Dead { .. } => None,
    }
}

/// Takes the room of a placed task on its machine.
pub(crate) fn seat(job: &mut Job, machine: &mut Machine, id: TaskId, placement: &Placement) {
    let version = job.version_of(id.index);
    machine.holds(version, placement);
    machine.tasks.insert(id);
    crowd_in(job, machine);
    if let Some(until) = job.runs_until(placement) {
        job.run_out.insert((until, id.index));
    }
}

/// Counts one more task of the job where the machine is.
pub(super) fn crowd_in(job: &mut Job, machine: &Machine) {
    for (spread, crowd) in job.spec.task.spread.iter().zip(&mut job.crowds) {
        *crowd.entry(machine.attribute(&spread.attribute).into()).or_insert(0) += 1;
    }
}

/// Counts one task of the job less where the machine is.
pub(super) fn crowd_out(job: &mut Job, machine: &Machine) {
    for (spread, crowd) in job.spec.task.spread.iter().zip(&mut job.crowds) {
        let value = machine.attribute(&spread.attribute);
        let there = crowd.get(value).copied().unwrap_or(0);
        if there > 1 {
            crowd.insert(value.into(), there - 1);
        } else {
            crowd.remove(value);
        }
    }
}
