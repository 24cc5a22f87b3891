//! Prod quota is sold within what the cell has (Borg paper, section 2.5); lower bands are sold beyond.
//!
//! A sweep over the times at which grants begin and end: what is in force in production and
//! monitoring together, against the capacity of all machines of the cell, those that are down
//! included.

use super::{Grant, Total};
use crate::rejection::{Figures, Oversold};
use crate::state::turn::Turn;
use borg_proto::{Band, Millis, Resources, UserName};
use std::collections::BTreeMap;

/// What begins and ends at a moment.
#[derive(Debug, Default)]
struct Change<'a> {
    begins: Vec<&'a Resources>,
    ends: Vec<&'a Resources>,
}

/// What is in force, going forward in time.
#[derive(Debug, Default)]
struct Sweep<'a> {
    changes: BTreeMap<Millis, Change<'a>>,
    sum: Total,
}

impl<'a> Sweep<'a> {
    fn add(&mut self, grants: &'a [Grant]) {
        for grant in grants {
            self.changes.entry(grant.from).or_default().begins.push(&grant.amount);
            if let Some(until) = grant.until {
                self.changes.entry(until).or_default().ends.push(&grant.amount);
            }
        }
    }

    /// Goes on until a moment, this one included.
    fn go_to(&mut self, at: Millis) {
        while let Some(entry) = self.changes.first_entry().filter(|entry| *entry.key() <= at) {
            let change = entry.remove();
            change.begins.iter().for_each(|amount| self.sum.add(amount, 1));
            change.ends.iter().for_each(|amount| self.sum.subtract(amount));
        }
    }
}

impl Turn<'_> {
    /// Where more prod quota would be sold than the cell has, if `after` were what the user has in
    /// the band: the first such moment from `from` on. What raises no sum is fine however much is
    /// sold already, so that quota can be lowered in a cell that lost machines.
    pub(super) fn oversold(
        &self,
        user: &UserName,
        band: Band,
        after: &[Grant],
        from: Millis,
    ) -> Option<Oversold> {
        if !band.is_prod() {
            return None;
        }
        let mut capacity = Total::default();
        for machine in self.state.machines() {
            if let Some(info) = &machine.info {
                capacity.add(&info.capacity, 1);
            }
        }
        let (mut others, mut own, mut own_before) =
            (Sweep::default(), Sweep::default(), Sweep::default());
        for (whose, which, grants) in self.state.quotas().filter(|(_, band, _)| band.is_prod()) {
            let sweep = if (whose, which) == (user, band) { &mut own_before } else { &mut others };
            sweep.add(grants);
        }
        own.add(after);
        let moments: Vec<Millis> = others
            .changes
            .keys()
            .chain(own.changes.keys())
            .chain(own_before.changes.keys())
            .copied()
            .filter(|at| *at >= from)
            .chain([from])
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        moments.into_iter().find_map(|at| {
            others.go_to(at);
            own.go_to(at);
            own_before.go_to(at);
            let mut figures: Vec<Figures> = own
                .sum
                .iter()
                .filter(|(dimension, own)| {
                    own.saturating_add(others.sum.get(dimension)) > capacity.get(dimension)
                        && *own > own_before.sum.get(dimension)
                })
                .map(|(dimension, own)| Figures {
                    dimension: dimension.clone(),
                    asked: Total::number(own),
                    used: Total::number(others.sum.get(dimension)),
                    most: Total::number(capacity.get(dimension)),
                })
                .collect();
            Figures::most_telling(&mut figures);
            (!figures.is_empty()).then_some(Oversold { at, figures })
        })
    }
}
