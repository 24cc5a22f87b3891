//! What tasks lend of the room that they hold, as the scheduler knows it.
//!
//! The leader believes (`borg_cell::links`), and tells what is news; here it is kept by task, as silence is by
//! machine: soft, and outside the state. `rooms` counts it for whoever may stand on it. A decision that needs
//! it carries how much it counted on, so that the state can check it.
//!
//! Invariant: what is kept of a task is of the incarnation that the followed state has; a resident lends what
//! is kept of it.

use crate::need::Need;
use crate::reasons::{Amount, Reason, Rejected, noun};
use crate::rooms::{Kind, LENT};
use crate::scheduler::Scheduler;
use borg_cell::state::Machine;
use borg_proto::reclamation::Amounts;
use borg_proto::resources::Dimension;
use borg_proto::{IncarnationId, MachineId, TaskId};

impl Scheduler {
    /// Takes over what tasks do not need of their limits by now; of others it is as before.
    pub fn lend(&mut self, news: &[(IncarnationId, Amounts)]) {
        for (id, lent) in news {
            if self.state.task(id.task).and_then(|task| task.running(id.task)) != Some(*id) {
                continue;
            }
            if lent.is_nothing() {
                self.lent.remove(&id.task);
            } else {
                self.lent.insert(id.task, (id.number, *lent));
            }
            if self.state.lends() {
                self.machines.lend(*id, *lent);
            }
        }
    }

    /// Forgets all of it: nobody leads, or another leader believes something else.
    pub fn lend_nothing(&mut self) {
        for (task, (number, _)) in std::mem::take(&mut self.lent) {
            self.machines.lend(IncarnationId { task, number }, Amounts::default());
        }
    }

    /// What an incarnation lends that is about to be counted where it stands.
    pub(crate) fn lent_by(&self, task: TaskId, incarnation: Option<u32>, need: &Need) -> Amounts {
        let kept = self.lent.get(&task).filter(|(number, _)| Some(*number) == incarnation);
        match kept {
            Some((_, lent)) if self.state.lends() => need.lends(*lent),
            Some(_) | None => Amounts::default(),
        }
    }

    /// What a decision for a row has to say of what is lent there: nothing if free room is enough.
    pub(crate) fn lent_for(&self, row: usize, need: &Need) -> Amounts {
        let rooms = &self.machines.rooms;
        let mut asks = need.asks.iter().filter(|(column, _)| LENT.contains(column));
        if asks.any(|(column, ask)| *ask > rooms.left_by_limits(*column, row)) {
            self.machines.lent(row)
        } else {
            Amounts::default()
        }
    }

    /// By what the room was counted that a task found too little of, in a cell in which that differs.
    pub(crate) fn about_lent(&self, need: &Need, rejections: &[Rejected]) -> &'static str {
        let of_room = |rejected: &Rejected| match &rejected.reason {
            Reason::Short { dimension, .. } => {
                matches!(dimension, Dimension::Cpu | Dimension::Ram | Dimension::Disk)
            }
            Reason::NotUp
            | Reason::Closed
            | Reason::Kept
            | Reason::Constraint(_)
            | Reason::Spread { .. }
            | Reason::Crashed
            | Reason::Budget { .. }
            | Reason::TooManyTasks { .. }
            | Reason::TargetFull { .. } => false,
        };
        if !self.state.lends() || self.lent.is_empty() || !rejections.iter().any(of_room) {
            return "";
        }
        match need.kind() {
            Kind::Prod => "; it is of prod, so room is counted by limits",
            Kind::Rest => "; it is not of prod, so room is counted by reservations",
        }
    }

    /// That a task that is not of prod stands on a machine of which more is promised than it has; or nothing.
    pub(crate) fn about_reclaimed(&self, machine: MachineId, need: &Need) -> String {
        let overdrawn = self.state.machine(machine).map(Machine::overdrawn).unwrap_or_default();
        if overdrawn.is_nothing() || need.kind() == Kind::Prod {
            return String::new();
        }
        let Amounts { cpu_milli, ram_bytes, disk_bytes } = overdrawn;
        let parts = [
            (Dimension::Cpu, cpu_milli),
            (Dimension::Ram, ram_bytes),
            (Dimension::Disk, disk_bytes),
        ];
        let parts = parts.iter().filter(|(_, amount)| *amount > 0);
        let parts: Vec<String> =
            parts.map(|(of, amount)| format!("{} of {}", Amount(of, *amount), noun(of))).collect();
        format!("; reclaimed room: the limits there exceed the machine by {}", parts.join(", "))
    }

    /// A task stands nowhere any more, or as another incarnation.
    pub(crate) fn forget_lent(&mut self, task: TaskId) {
        let running = self.state.task(task).and_then(|found| found.running(task));
        let kept = self.lent.get(&task).map(|(number, _)| *number);
        if kept.is_some() && kept != running.map(|id| id.number) {
            self.lent.remove(&task);
        }
    }
}
