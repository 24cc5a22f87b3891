//! An operator who changes whose tasks go to which machines, and how the scheduler chooses.

use super::{Happening, World, client};
use crate::marks::Mark;
use borg_cell::rejection::Rejection;
use borg_proto::command::Action;
use borg_proto::policy::{Policy, Term};
use borg_proto::reclamation::{Number, NumberSet};
use borg_proto::{MachineName, Millis, UserName};
use client::Asked;
use std::collections::BTreeMap;

/// Time between two changes, in milliseconds: some forty in a storm, so that now and then one meets a
/// decision on its way.
const PAUSE: (u64, u64) = (400, 2_500);

impl World {
    pub(crate) fn begin_choices(&mut self) {
        if self.setup.choices {
            self.agenda.after(Millis(PAUSE.1), Happening::ChoiceChanges);
        }
    }

    /// The operator keeps, closes or opens a machine, or sets a weight, and comes back after a while.
    /// What holds at the end of the storm stays so.
    pub(crate) fn choice_changes(&mut self) {
        if self.faults.is_over() {
            return;
        }
        let action = self.random_choice();
        self.wish(client::ADMIN_CLIENT, Asked::Change(action));
        let pause = Millis(self.dice.between(PAUSE.0, PAUSE.1));
        self.agenda.after(pause, Happening::ChoiceChanges);
    }

    fn random_choice(&mut self) -> Action {
        let users: Vec<UserName> = self.clients.random_users().cloned().collect();
        let all: Vec<MachineName> = self.machines.iter().map(|host| host.name.clone()).collect();
        let dice = &mut self.dice;
        let machines = vec![dice.pick(&all).clone()];
        match dice.below(10) {
            0..=2 => Action::CloseMachines { machines, reason: "the operator's dice".to_owned() },
            3..=5 => Action::OpenMachines { machines: all },
            6 | 7 => {
                let some = users.into_iter().filter(|_| dice.chance(400)).take(2);
                Action::KeepMachines { machines, users: some.collect() }
            }
            // In a storm nothing would ever be lent: it is as long as a fifth of the hold.
            8 => {
                let named = dice.chance(300).then(|| *dice.pick(&NumberSet::ALL));
                let numbers = BTreeMap::from([(Number::Hold, 0), (Number::Decay, 1_000)]);
                Action::SetReclamation { named, numbers }
            }
            _ => {
                let term = *dice.pick(&Term::ALL);
                let weight = i16::try_from(dice.below(900)).expect("below 900");
                let policy = dice.chance(500).then(|| *dice.pick(&Policy::ALL));
                Action::SetPolicy { policy, weights: BTreeMap::from([(term, weight)]) }
            }
        }
    }

    /// A decision came to nothing.
    pub(crate) fn note_refused_decision(&mut self, rejection: &Rejection) {
        if let Rejection::MachineClosed { .. } | Rejection::MachineKept { .. } = rejection {
            self.hit(Mark::AccessRefused);
        }
        self.note_budget(rejection);
    }
}
