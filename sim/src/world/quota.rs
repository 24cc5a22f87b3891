//! An operator who changes quota and privileges while jobs come in.

use super::{Happening, World, client};
use crate::marks::Mark;
use borg_cell::rejection::{PrivilegeRejection, Rejection};
use borg_cell::state::Answer;
use borg_proto::command::Action;
use borg_proto::{Band, Millis, Privilege, Resources, UserName};
use client::Asked;

/// Time between two changes of quota, in milliseconds: some twenty in a storm.
const PAUSE: (u64, u64) = (1_000, 5_000);

impl World {
    /// Everybody may submit in the monitoring band, so that it is not empty where nobody enforces quota.
    pub(crate) fn begin_quota(&mut self) {
        let mut users: Vec<UserName> = self.clients.random_users().cloned().collect();
        users.dedup();
        for user in users {
            let amount = Resources { cpu_milli: 1_000_000, ..Resources::default() };
            let band = Band::Monitoring;
            let (from, until, oversell) = (None, None, true);
            let action = Action::SetQuota { user, band, amount, from, until, oversell };
            self.wish(client::ADMIN_CLIENT, Asked::Change(action));
        }
        if self.setup.quotas {
            self.agenda.after(Millis(PAUSE.1), Happening::QuotaChanges);
        }
    }

    /// The operator gives, takes back, enforces or opens something, and comes back after a while.
    pub(crate) fn quota_changes(&mut self) {
        if self.faults.is_over() {
            return;
        }
        let action = self.random_quota();
        if let Some(action) = action {
            self.wish(client::ADMIN_CLIENT, Asked::Change(action));
        }
        let pause = Millis(self.dice.between(PAUSE.0, PAUSE.1));
        self.agenda.after(pause, Happening::QuotaChanges);
    }

    fn random_quota(&mut self) -> Option<Action> {
        let users: Vec<UserName> = self.clients.random_users().cloned().collect();
        if users.is_empty() {
            return None;
        }
        let now = self.now();
        let dice = &mut self.dice;
        let user = dice.pick(&users).clone();
        let band = *dice.pick(&[Band::Batch, Band::Production, Band::Production, Band::Monitoring]);
        let privilege = Privilege::Listen;
        let thrown = dice.below(10);
        let action = match thrown {
            0..=2 => Action::EnforceQuota { bands: vec![band], on: dice.chance(800) },
            3 => Action::RemoveQuota { user, band },
            _ => Action::SetQuota {
                user,
                band,
                amount: Resources {
                    cpu_milli: dice.between(5, 200) * 100,
                    ram_bytes: dice.between(5, 200) * (64 << 20),
                    ports: u32::try_from(dice.below(20)).expect("small"),
                    ..Resources::default()
                },
                from: dice.chance(300).then(|| now + Millis(dice.below(5_000))),
                until: dice.chance(500).then(|| now + Millis(dice.between(1, 20_000))),
                oversell: dice.chance(200),
            },
        };
        // As much is thrown for these: seeds that are kept go on meeting what they were kept for.
        Some(match (thrown, action) {
            (8, Action::SetQuota { user, .. }) => Action::GrantPrivilege { user, privilege },
            (9, Action::SetQuota { user, .. }) => Action::RevokePrivilege { user, privilege },
            (_, action) => action,
        })
    }

    /// A client was told that it has too little quota, or the operator that too much was sold.
    pub(crate) fn note_quota(&mut self, result: &Result<Answer, Rejection>) {
        match result {
            Err(Rejection::NoQuota(_) | Rejection::QuotaTooSmall(_)) => {
                self.hit(Mark::QuotaRefused);
            }
            Err(Rejection::Oversold(_)) => self.hit(Mark::OversoldRefused),
            Err(Rejection::Privilege(refused))
                if matches!(**refused, PrivilegeRejection::NotHeld { .. }) =>
            {
                self.hit(Mark::PrivilegeRefused);
            }
            Ok(_) | Err(_) => {}
        }
    }
}
