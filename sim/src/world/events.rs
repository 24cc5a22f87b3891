//! What the cell's own events mean for checks and marks.

use super::World;
use crate::checkers::Invariant;
use crate::marks::Mark;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::state::{CellState, JobState, MachineState};
use borg_proto::task::EvictCause;

impl World {
    /// An event of the cell, seen for the first time on any replica.
    pub(crate) fn happened(&mut self, event: &Event, state: &CellState) {
        self.say(|| {
            let (kind, subject, detail) = event.describe(state);
            format!("{} {kind} {subject} {detail}", event.index)
        });
        let result = self.checks.lifecycle.take(event, state);
        self.check(Invariant::LegalLife, result);
        match &event.kind {
            EventKind::MachineChanged(id) => {
                match state.machine(*id).map(|machine| machine.state) {
                    Some(MachineState::Down) => {
                        self.checks.down_machines.insert(*id);
                        self.hit(Mark::MachineDown);
                    }
                    Some(MachineState::Up) if self.checks.down_machines.remove(id) => {
                        self.hit(Mark::MachineBack);
                    }
                    Some(MachineState::Up | MachineState::New) | None => {}
                }
            }
            EventKind::JobSubmitted(job) => self.checks.durability.submitted(*job, event.index),
            EventKind::JobChanged { to: JobState::Failed, .. } => {
                self.hit(Mark::JobFailed);
            }
            EventKind::TaskChanged { change, .. } => match change {
                TaskChange::Evicted(EvictCause::Preempted { .. }) => self.hit(Mark::Preempted),
                TaskChange::Evicted(EvictCause::Shrunk) => self.hit(Mark::MachineShrunk),
                TaskChange::Failed { again: Some(_), .. } => self.hit(Mark::TaskRetried),
                TaskChange::BackOff { .. } => self.hit(Mark::LocalRestart),
                TaskChange::Released => self.hit(Mark::Released),
                TaskChange::DependencyFailed { .. } => self.hit(Mark::DependencyFailed),
                TaskChange::Placed { .. }
                | TaskChange::Up { .. }
                | TaskChange::Evicted(EvictCause::MachineDown | EvictCause::Drained)
                | TaskChange::Failed { again: None, .. }
                | TaskChange::Finished
                | TaskChange::Killed { .. } => {}
            },
            EventKind::MachineAdded(_)
            | EventKind::MachineRemoved(..)
            | EventKind::JobForgotten(..)
            | EventKind::JobChanged { .. }
            | EventKind::Led { .. } => {}
        }
    }
}
