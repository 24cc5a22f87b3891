//! What machines report, folded into the state.
//!
//! Invariant: a report about an incarnation that is not the present one of its task changes
//! nothing.

use super::tasks::{crowd_in, crowd_out};
use super::turn::Turn;
use super::{Answer, MachineState};
use crate::event::{EventKind, TaskChange};
use borg_proto::command::Observation;
use borg_proto::task::{EvictCause, FailureCause, Phase, Placement, TaskEnd, TaskState};
use borg_proto::wire::pb;
use borg_proto::{IncarnationId, JobKind, MachineId, MachineInfo, Millis, TaskId};
use std::cmp::Reverse;
use std::sync::Arc;

/// How long an incarnation must have been placed for its end not to count as one of a row of
/// quick failures. 10 minutes: our choice, twice the longest back-off.
pub const LASTED: Millis = Millis::from_secs(600);
/// Wait after the first of a row of quick failures; doubles with each. 1 s: our choice.
pub const FIRST_BACK_OFF: Millis = Millis::from_secs(1);
/// Longest wait after a failure. 5 minutes: our choice.
pub const LONGEST_BACK_OFF: Millis = Millis::from_secs(300);
/// How often in a row a taken port costs a task no wait. 3: our choice; other ports are tried
/// each time.
pub const FREE_PORT_TRIES: u32 = 3;

impl Turn<'_> {
    /// Takes in what link shards saw, each change by itself. What does not concern the present
    /// changes nothing.
    pub(super) fn observe(&mut self, changes: &[Observation]) -> Answer {
        for change in changes {
            match change {
                Observation::MachineUp { machine, info } => self.machine_up(*machine, info),
                Observation::MachineDown { machine } => self.machine_down(*machine),
                Observation::TaskUp { id, pid, since, restarts } => {
                    let phase = Phase::Up { pid: *pid, since: *since };
                    self.task_phase(*id, phase, *restarts, None);
                }
                Observation::TaskBackOff { id, until, restarts, cause } => {
                    self.task_phase(*id, Phase::BackOff { until: *until }, *restarts, Some(cause));
                }
                Observation::TaskEnded { id, failure, .. } => {
                    self.task_ended(*id, failure.as_ref())
                }
            }
        }
        Answer::None
    }

    fn machine_up(&mut self, id: MachineId, info: &MachineInfo) {
        let Some(machine) = self.state.machine(id) else { return };
        let same = machine.info.as_deref() == Some(info);
        // What could not be written to a checkpoint must not get into the state.
        let sound = same || MachineInfo::try_from(pb::MachineInfo::from(info)).is_ok();
        if (same && machine.state == MachineState::Up) || !sound {
            return;
        }
        if !same {
            self.change_info(id, Arc::new(info.clone()));
        }
        self.set_machine_state(id, MachineState::Up);
        self.emit(EventKind::MachineChanged(id));
        self.shed(id);
    }

    /// Gives a machine other facts; its tasks may count elsewhere in the spread of their jobs.
    fn change_info(&mut self, id: MachineId, info: Arc<MachineInfo>) {
        let before = self.machine_mut(id).clone();
        let machine = self.machine_mut(id);
        machine.info = Some(info);
        let after = machine.clone();
        for task in &before.tasks {
            let job = self.job_mut(task.job);
            crowd_out(job, &before);
            crowd_in(job, &after);
        }
    }

    /// Evicts what a machine no longer has room or ports for: lowest priority first, then the
    /// youngest job.
    fn shed(&mut self, id: MachineId) {
        let machine = self.machine_mut(id);
        let range = machine.port_range();
        let tasks = machine.tasks.clone();
        let stray = |state: &super::CellState, task: TaskId| {
            let placement = state.task(task).and_then(super::Task::placement);
            placement.is_some_and(|p| p.ports.iter().any(|port| !range.contains(&u32::from(*port))))
        };
        for task in &tasks {
            if stray(self.state, *task) {
                self.evict(*task, &EvictCause::Shrunk);
            }
        }
        let mut order: Vec<_> = self.machine_mut(id).tasks.iter().copied().collect();
        order.sort_by_key(|task| {
            (self.state.job(task.job).map(super::Job::priority), Reverse(*task))
        });
        for task in order {
            let machine = self.machine_mut(id);
            let capacity = machine.info.as_ref().map(|info| &info.capacity);
            if capacity.is_some_and(|capacity| machine.used.fits_in(capacity)) {
                return;
            }
            self.evict(task, &EvictCause::Shrunk);
        }
    }

    fn machine_down(&mut self, id: MachineId) {
        let Some(machine) = self.state.machine(id) else { return };
        if machine.state == MachineState::Down {
            return;
        }
        self.set_machine_state(id, MachineState::Down);
        self.emit(EventKind::MachineChanged(id));
        self.clear_machine(id);
    }

    fn set_machine_state(&mut self, id: MachineId, to: MachineState) {
        let at = self.at;
        let machine = self.machine_mut(id);
        if machine.state != to {
            machine.state = to;
            machine.since = at;
        }
    }

    /// The placement of an incarnation, if that is the present one of its task.
    fn present(&self, id: IncarnationId) -> Option<&Placement> {
        let placement = self.state.task(id.task)?.placement()?;
        (placement.incarnation == id.number).then_some(placement)
    }

    fn task_phase(
        &mut self,
        id: IncarnationId,
        phase: Phase,
        restarts: u32,
        cause: Option<&FailureCause>,
    ) {
        let Some(old) = self.present(id) else { return };
        if old.phase == phase && old.restarts == restarts {
            return;
        }
        let placement = Placement { phase, restarts, ..old.clone() };
        let more = failures_within(&placement).saturating_sub(failures_within(old));
        let cause = cause.map(storable);
        let change = match (phase, &cause) {
            (Phase::Up { pid, .. }, _) => TaskChange::Up { pid },
            (Phase::BackOff { until }, Some(cause)) => {
                TaskChange::BackOff { until, cause: cause.clone() }
            }
            (Phase::BackOff { .. } | Phase::Starting, _) => return,
        };
        self.change_task(id.task, TaskState::Running(placement), change, |task| {
            task.failures = task.failures.saturating_add(more);
            if cause.is_some() {
                task.last_failure = cause;
            }
        });
    }

    fn task_ended(&mut self, id: IncarnationId, failure: Option<&FailureCause>) {
        let Some(placement) = self.present(id) else { return };
        let lasted = self.at.since(placement.placed_at) >= LASTED;
        let Some(spec) = self.state.job(id.task.job).map(|job| job.spec.clone()) else { return };
        match (spec.kind, failure) {
            (JobKind::Batch, None) => self.end_task(id.task, TaskEnd::Finished),
            (JobKind::Batch, Some(cause)) => {
                self.task_failed(id.task, storable(cause), lasted, Some(spec.retries))
            }
            // A service that exits at all has failed.
            (JobKind::Service, None) => {
                self.task_failed(id.task, FailureCause::Exit { code: 0 }, lasted, None)
            }
            (JobKind::Service, Some(cause)) => {
                self.task_failed(id.task, storable(cause), lasted, None)
            }
        }
    }

    /// One failure more: back to pending with a wait, or the end of task and job when it was one
    /// too many. `retries` is `None` for tasks that never give up.
    fn task_failed(&mut self, id: TaskId, cause: FailureCause, lasted: bool, retries: Option<u32>) {
        let Some(task) = self.state.task(id) else { return };
        let failures = task.failures.saturating_add(u32::from(is_own_fault(&cause)));
        let streak = if lasted { 1 } else { task.streak.saturating_add(1) };
        let last_failure = Some(cause.clone());
        let note = |task: &mut super::Task| {
            task.failures = failures;
            task.streak = streak;
            task.last_failure = last_failure;
        };
        if is_own_fault(&cause) && retries.is_some_and(|retries| failures > retries) {
            let end = TaskEnd::Failed { cause: cause.clone() };
            let (at, change) = (self.at, TaskChange::Failed { cause, again: None });
            self.change_task(id, TaskState::Dead { at, end }, change, note);
            let by = format!("the failure of task {}", id.index);
            self.end_tasks(id.job, &TaskEnd::Killed { by });
            return;
        }
        let not_before = match wait(&cause, streak) {
            Millis(0) => Millis(0),
            // The largest number stands for a wait for other jobs.
            wait => (self.at + wait).min(Millis(u64::MAX - 1)),
        };
        let to = TaskState::Pending { since: self.at, not_before };
        self.change_task(id, to, TaskChange::Failed { cause, again: Some(not_before) }, note);
    }
}

/// Failures of an incarnation that its machine has dealt with, or is dealing with.
fn failures_within(placement: &Placement) -> u32 {
    match placement.phase {
        Phase::BackOff { .. } => placement.restarts.saturating_add(1),
        Phase::Starting | Phase::Up { .. } => placement.restarts,
    }
}

/// Whether a failure counts towards the retries of a batch task.
fn is_own_fault(cause: &FailureCause) -> bool {
    match cause {
        FailureCause::Exit { .. }
        | FailureCause::Signal { .. }
        | FailureCause::OutOfMemory { .. }
        | FailureCause::Start { .. } => true,
        FailureCause::PortTaken { .. } | FailureCause::Lost => false,
    }
}

/// How long a task waits after its `streak`th quick failure in a row.
fn wait(cause: &FailureCause, streak: u32) -> Millis {
    let counted = match cause {
        FailureCause::PortTaken { .. } => streak.saturating_sub(FREE_PORT_TRIES),
        FailureCause::Exit { .. }
        | FailureCause::Signal { .. }
        | FailureCause::OutOfMemory { .. }
        | FailureCause::Start { .. }
        | FailureCause::Lost => streak,
    };
    let Some(doublings) = counted.checked_sub(1) else { return Millis(0) };
    let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
    Millis(FIRST_BACK_OFF.0.saturating_mul(factor)).min(LONGEST_BACK_OFF)
}

/// The cause as it can be written to a checkpoint: texts cut, absurd ports dropped.
fn storable(cause: &FailureCause) -> FailureCause {
    FailureCause::try_from(pb::FailureCause::from(cause)).unwrap_or(FailureCause::Lost)
}
