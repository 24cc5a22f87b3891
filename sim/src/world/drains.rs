//! An operator who drains machines and racks, and takes them back.

use super::{Happening, World, client};
use crate::marks::Mark;
use borg_cell::event::AccessChange;
use borg_cell::rejection::{DrainRejection, Rejection};
use borg_cell::state::{CellState, MachineState};
use borg_proto::command::{Action, SERVICES_SINCE};
use borg_proto::{MachineId, MachineName, Millis};
use client::Asked;

/// Time between two orders, in milliseconds: a few drains overlap.
const PAUSE: (u64, u64) = (1_500, 6_000);
/// How long a machine may take, in milliseconds: short enough for deadlines to come within a storm.
const WITHIN: (u64, u64) = (200, 25_000);

impl World {
    pub(crate) fn begin_drains(&mut self) {
        if self.setup.drains {
            self.agenda.after(Millis(PAUSE.1), Happening::DrainChanges);
        }
    }

    /// The operator drains something, or takes it back, and comes back after a while. Nothing is drained
    /// when the storm is over.
    pub(crate) fn drain_changes(&mut self) {
        let all: Vec<MachineName> = self.machines.iter().map(|host| host.name.clone()).collect();
        if self.faults.is_over() {
            self.wish(
                client::ADMIN_CLIENT,
                Asked::Change(Action::UndrainMachines { machines: all }),
            );
            return;
        }
        if self.newest.level() >= SERVICES_SINCE {
            let action = self.random_drain(all);
            self.wish(client::ADMIN_CLIENT, Asked::Change(action));
        }
        let pause = Millis(self.dice.between(PAUSE.0, PAUSE.1));
        self.agenda.after(pause, Happening::DrainChanges);
    }

    fn random_drain(&mut self, all: Vec<MachineName>) -> Action {
        let dice = &mut self.dice;
        let rack = dice.below(3);
        let of_rack =
            |(n, name): (usize, &MachineName)| (n as u64 % 3 == rack).then(|| name.clone());
        let one = dice.pick(&all).clone();
        let (machines, at_once) = match dice.below(10) {
            0..=2 => return Action::UndrainMachines { machines: all },
            3..=6 => (vec![one], None),
            7 | 8 => (all.iter().enumerate().filter_map(of_rack).collect(), None),
            _ => (all, Some(1)),
        };
        let within = Millis(dice.between(WITHIN.0, WITHIN.1));
        // Now and then the operator knows, or is wrong.
        let leaves = dice.chance(300).then(|| u32::try_from(dice.below(9)).unwrap_or(0));
        let reason = "the operator's dice".to_owned();
        Action::DrainMachines { machines, reason, within, at_once, leaves }
    }

    /// What became of a machine that is drained.
    pub(crate) fn note_drain(&mut self, state: &CellState, id: MachineId, change: AccessChange) {
        let machine = state.machine(id);
        let drain = machine.and_then(|machine| machine.drain.clone());
        let (AccessChange::Drained, Some(machine), Some(drain)) = (change, machine, drain) else {
            return;
        };
        if drain.moved > 0 {
            self.hit(Mark::DrainMoved);
        }
        if drain.forced > 0 {
            self.hit(Mark::DrainForced);
        }
        if machine.state == MachineState::Down {
            self.hit(Mark::DrainLost);
        }
    }

    /// A decision came to nothing because of a budget.
    pub(crate) fn note_budget(&mut self, rejection: &Rejection) {
        if let Rejection::Drain(why) = rejection
            && matches!(**why, DrainRejection::Budget { .. })
        {
            self.hit(Mark::BudgetRefused);
        }
    }

    /// How many disruptions of tasks that served and had a budget were looked at.
    #[must_use]
    pub fn disruptions_looked_at(&self) -> u64 {
        self.checks.disruptions.looked_at()
    }

    /// Machines that should be empty by now and are not, long after their deadline.
    pub(crate) fn late_drains(&self) -> Option<String> {
        let state = self.state();
        let late = state.draining().find(|machine| {
            let deadline = machine.drain.as_ref().map_or(Millis(0), |drain| drain.deadline);
            let may = state.safe_mode().is_none() && self.now() >= state.place_after();
            may && !state.is_vacated(machine) && self.now() > deadline + Millis(5_000)
        });
        late.map(|machine| format!("{} was to be empty at {:?}", machine.name, machine.drain))
    }
}
