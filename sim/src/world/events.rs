//! What the cell's own events mean for checks and marks.

use super::World;
use super::replica::DOWNS_PER_MINUTE;
use crate::checkers::{Invariant, crashes, lent};
use crate::marks::Mark;
use borg_cell::event::{DataChange, Event, EventKind, TaskChange, UpdateChange};
use borg_cell::state::{CellState, JobState, MachineState, Task};
use borg_proto::task::{EvictCause, FailureCause, Phase};
use borg_proto::{IncarnationId, JobId, JobKind, MachineId, TaskId, TaskState};

impl World {
    /// A machine was taken for down.
    fn given_up(&mut self, event: &Event, state: &CellState, id: MachineId) {
        let Some(machine) = state.machine(id) else { return };
        if machine.given_up {
            return self.hit(Mark::MachineGivenUp);
        }
        let result = self.checks.downs.down(event.at, DOWNS_PER_MINUTE);
        self.check(Invariant::DownRate, result);
    }

    /// A task of a gang is placed with all that waited, and no cap is passed. `state` may be newer than
    /// the event: what it says of the job counts only while it is as of its entry.
    fn placed_together(&mut self, event: &Event, state: &CellState, task: TaskId) {
        let Some(job) = state.job(task.job).filter(|_| state.applied() == event.index) else {
            return;
        };
        if job
            .spec
            .concurrent
            .is_some_and(|most| job.counts.running >= most && job.counts.pending > 0)
        {
            self.hit(Mark::CapReached);
        }
        // Who leaves a machine moves alone.
        let moves = self.checks.disruptions.left_by(event.index, task);
        if !job.spec.gang || job.spec.tasks == 1 || moves {
            return;
        }
        self.hit(Mark::GangPlaced);
        let waited = |(_, task): &(TaskId, &Task)| matches!(task.state, TaskState::Pending { since, .. } if since < event.at);
        let left_out = state.tasks_of(task.job).find(waited).map(|(id, _)| id);
        let result = match left_out {
            None => Ok(()),
            Some(id) => {
                Err(format!("{task} of a gang is placed and {id}, which waited too, is not"))
            }
        };
        self.check(Invariant::Gangs, result);
    }

    /// Something became of ticks of a cron job.
    fn ticked(&mut self, state: &CellState, job: JobId) {
        match self.checks.ticks.take(state, job) {
            Ok(told) => {
                if told.made {
                    self.hit(Mark::CronRun);
                }
                if told.passed_over {
                    self.hit(Mark::CronOverlap);
                }
            }
            Err(why) => self.check(Invariant::Kinds, Err(why)),
        }
    }

    /// An event of the cell, seen for the first time on any replica.
    pub(crate) fn happened(&mut self, event: &Event, state: &CellState) {
        self.say(|| {
            let (kind, subject, detail) = event.describe(state);
            format!("{} {kind} {subject} {detail}", event.index)
        });
        let result = self.checks.lifecycle.take(event, state);
        self.check(Invariant::LegalLife, result);
        self.check(Invariant::Lent, lent::spares_prod(event, state));
        let result = self.checks.disruptions.take(event, state);
        self.check(Invariant::Disruption, result);
        match &event.kind {
            EventKind::MachineChanged(id) => {
                match state.machine(*id).map(|machine| machine.state) {
                    Some(MachineState::Down) => {
                        self.given_up(event, state, *id);
                        self.checks.down_machines.insert(*id);
                        self.hit(Mark::MachineDown);
                    }
                    Some(MachineState::Up) if self.checks.down_machines.remove(id) => {
                        self.hit(Mark::MachineBack);
                    }
                    Some(MachineState::Up | MachineState::New) | None => {}
                }
            }
            EventKind::TaskChanged {
                task,
                change: TaskChange::Placed { machine, incarnation },
                ..
            } => {
                // A restored cell takes what it finds running where it is.
                if state.is_of_before(IncarnationId { task: *task, number: *incarnation }) {
                    return self.hit(Mark::Adopted);
                }
                if state.alloc_of(*task).is_some() {
                    return self.hit(Mark::PlacedInAlloc);
                }
                // There is but one machine for it, whether or not it failed there.
                if state.job(task.job).is_some_and(|job| job.rescues().is_some()) {
                    return;
                }
                if state.job(task.job).is_some_and(|job| job.spec.kind == JobKind::Daemon) {
                    return self.hit(Mark::DaemonPlaced);
                }
                let (result, avoided) =
                    crashes::placed(event.at, state, &self.checks.access_changed, *task, *machine);
                if avoided {
                    self.hit(Mark::CrashAvoided);
                }
                self.check(Invariant::CrashPairs, result);
                self.placed_together(event, state, *task);
                if state.machine(*machine).is_some_and(|it| !it.overdrawn().is_nothing()) {
                    self.hit(Mark::PlacedOnLent);
                }
            }
            EventKind::MachineAccess(id, change) => {
                self.checks.access_changed.insert(*id, event.at);
                self.note_drain(state, *id, *change);
            }
            // Runs that save data are made by the cell, and nobody is told of them.
            EventKind::JobSubmitted(job)
                if state.job(*job).is_some_and(|job| job.rescues().is_some()) => {}
            EventKind::JobSubmitted(job) => self.checks.durability.submitted(*job, event.index),
            EventKind::JobChanged { to: JobState::Failed, .. } => {
                self.hit(Mark::JobFailed);
            }
            EventKind::TaskChanged { task, change: TaskChange::Up { pid }, .. } => {
                let placement = state.task(*task).and_then(|task| task.placement());
                let (pid, phase) = (*pid, placement.map(|placement| placement.phase));
                if let (Some(placement), Some(Phase::Up { pid: now, .. })) = (placement, phase)
                    && now == pid
                {
                    let id = IncarnationId { task: *task, number: placement.incarnation };
                    let result = self.checks.copies.is_said_to_run(id, pid);
                    self.check(Invariant::SingleCopy, result);
                }
            }
            EventKind::TaskChanged { change, .. } => match change {
                TaskChange::Evicted(EvictCause::Preempted { .. }) => self.hit(Mark::Preempted),
                TaskChange::Evicted(EvictCause::Shrunk) => self.hit(Mark::MachineShrunk),
                TaskChange::Evicted(EvictCause::Resized) => self.hit(Mark::AllocOutgrewMachine),
                TaskChange::BackOff { .. } => self.hit(Mark::LocalRestart),
                TaskChange::Released => self.hit(Mark::Released),
                TaskChange::DependencyFailed { .. } => self.hit(Mark::DependencyFailed),
                TaskChange::Gone { .. } => self.hit(Mark::ExclusiveFreed),
                TaskChange::ParentEnded { .. } => self.hit(Mark::ParentEnded),
                TaskChange::Withdrawn => self.hit(Mark::DaemonWithdrawn),
                TaskChange::Failed { cause: FailureCause::Timeout { .. }, .. } => {
                    self.hit(Mark::RanOut)
                }
                TaskChange::Failed { cause: FailureCause::Deadline { .. }, .. } => {
                    self.hit(Mark::Deadline)
                }
                TaskChange::Prepared { .. } => self.hit(Mark::Prepared),
                TaskChange::Replaced { .. } => self.hit(Mark::Replaced),
                TaskChange::Unprepared { .. } => self.hit(Mark::Unprepared),
                TaskChange::Renewed => self.hit(Mark::Renewed),
                TaskChange::Failed { again: Some(_), .. } => self.hit(Mark::TaskRetried),
                TaskChange::Stopped { .. }
                | TaskChange::Updated { .. }
                | TaskChange::Evicted(
                    EvictCause::Updated { .. }
                    | EvictCause::Stopped { .. }
                    | EvictCause::Capped { .. },
                )
                | TaskChange::Awaits
                | TaskChange::Preparing { .. }
                | TaskChange::Placed { .. }
                | TaskChange::Up { .. }
                | TaskChange::Health(_)
                | TaskChange::Address(_)
                | TaskChange::Evicted(
                    EvictCause::MachineDown | EvictCause::Drained | EvictCause::Reclaimed,
                )
                | TaskChange::Failed { again: None, .. }
                | TaskChange::Finished
                | TaskChange::Killed { .. } => {}
            },
            EventKind::AllocsResized(_) => self.hit(Mark::AllocsResized),
            EventKind::JobUpdated { change, .. } => match change {
                UpdateChange::Begun => self.hit(Mark::UpdateBegun),
                UpdateChange::RollsBack => self.hit(Mark::UpdateRollsBack),
                UpdateChange::Done => self.hit(Mark::UpdateDone),
                UpdateChange::RolledBack => self.hit(Mark::UpdateRolledBack),
                UpdateChange::CanaryGood => self.hit(Mark::CanaryGood),
                UpdateChange::Paused | UpdateChange::Resumed | UpdateChange::Closed => {}
            },
            EventKind::Maintenance { over, .. } => {
                if *over {
                    self.hit(Mark::MaintenanceOver);
                }
            }
            EventKind::DataChanged { change, .. } => match change {
                DataChange::Kept { .. } => self.hit(Mark::DataKept),
                DataChange::Rescued => self.hit(Mark::DataRescued),
                DataChange::NotRescued { .. }
                | DataChange::AtRest { .. }
                | DataChange::Rescuing { .. }
                | DataChange::Gone { .. } => {}
            },
            EventKind::CronChanged(job) => self.ticked(state, *job),
            EventKind::SafeMode { on, .. } => {
                let mark = if *on { Mark::SafeMode } else { Mark::SafeModeOver };
                self.hit(mark);
                self.checks.downs.safe_mode(*on);
            }
            EventKind::MachineAdded(_)
            | EventKind::MachineRemoved(..)
            | EventKind::JobForgotten(..)
            | EventKind::JobChanged { .. }
            | EventKind::MastersChanged
            | EventKind::QuotaChanged(_)
            | EventKind::PolicyChanged
            | EventKind::ReclamationChanged
            | EventKind::PackagePut(_)
            | EventKind::PackageRemoved(_)
            | EventKind::PrivilegeChanged { .. }
            | EventKind::Led { .. } => {}
        }
    }
}
