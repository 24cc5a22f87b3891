//! Quota: how much each user may ask for in each band of priority.
//!
//! Quota is admission (Borg paper, section 2.5): it is checked in full when a job is submitted, by
//! the time of its entry, and never again. What runs goes on when quota ends or shrinks. `grants`
//! gives quota and takes it back, `sold` sees to it that no more prod quota is sold than the cell
//! has, `total` adds up.
//!
//! A band is open, where everybody may submit, or enforced, where a job must fit into its user's
//! quota. The free band is always open. In the open monitoring band only those submit who have
//! quota there, of whatever size, and whoever holds the privilege `monitoring`. A new cell enforces no band.
//!
//! What is used is the sum of the limits of all tasks that are not dead: a task is charged when its
//! job is accepted, when it is run again, and of a daemon when its machine comes, beyond the quota if need
//! be; it is refunded in the entry in which it is over for good; a job's end is that of
//! its last task.
//!
//! Invariants: what is used is exactly that sum, in open bands too. After a job was accepted in an
//! enforced band, what its user uses of each resource that the job asks for is within the quota.
//! Of each user and band at most one grant is in force at a time.

mod grants;
mod sold;
mod total;

pub use total::Total;

use super::turn::Turn;
use super::{CellState, Job};
use crate::rejection::{Figures, Rejection, Shortage, amounts};
use borg_proto::resources::Dimension;
use borg_proto::time::Date;
use borg_proto::{Band, JobSpec, Millis, Priority, Privilege, Resources, UserName};
use imbl::{OrdMap, OrdSet};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The level of entries from which on quota is checked, so that older logs lead to the states that
/// they always led to.
pub const QUOTA_LEVEL: u32 = 3;
/// Most pairs of user and band that have quota. 20,000: our choice; what is sold is added up over
/// all of them at each change.
pub const MAX_QUOTAS: usize = 20_000;
/// Most grants of one user in one band, present and future ones. 8: our choice, two years of
/// quarters.
pub const MAX_GRANTS: usize = 8;

/// Quota of one user in one band for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// How much the limits of all the user's live tasks in the band may come to.
    pub amount: Resources,
    /// From when on, in cell time.
    pub from: Millis,
    /// From when on no longer; `None` means for ever.
    pub until: Option<Millis>,
    /// Whether more prod quota was sold by it than the cell had, because an operator said so.
    pub oversold: bool,
}

impl Grant {
    /// Whether it counts at a moment of cell time.
    #[must_use]
    pub fn in_force(&self, at: Millis) -> bool {
        self.from <= at && !self.is_over(at)
    }

    /// Whether it counts no longer.
    #[must_use]
    pub fn is_over(&self, at: Millis) -> bool {
        self.until.is_some_and(|until| until <= at)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", amounts(&self.amount), Date(self.from))?;
        if let Some(until) = self.until {
            write!(f, " until {}", Date(until))?;
        }
        f.write_str(if self.oversold { ", oversold" } else { "" })
    }
}

/// All that is known of quota.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Quotas {
    /// Bands in which jobs need quota.
    pub(crate) enforced: OrdSet<Band>,
    /// By time, none over another; no list is empty.
    pub(crate) grants: OrdMap<(UserName, Band), Arc<Vec<Grant>>>,
    /// What is used, where anything is. Follows from the jobs.
    pub(crate) used: OrdMap<(UserName, Band), Arc<Total>>,
}

impl Quotas {
    /// Counts so many tasks that each take `asked`; of a task in an alloc that may be nothing.
    pub(crate) fn charge(&mut self, owner: (UserName, Band), asked: &Resources, tasks: u32) {
        if tasks > 0 && asked.dimensions().next().is_some() {
            Arc::make_mut(self.used.entry(owner).or_default()).add(asked, tasks);
        }
    }

    /// Counts so many such tasks less.
    pub(super) fn refund(&mut self, owner: &(UserName, Band), asked: &Resources, tasks: u32) {
        let Some(used) = self.used.get_mut(owner) else { return };
        let used = Arc::make_mut(used);
        used.take(&Total::of(asked, tasks));
        if used.is_nothing() {
            self.used.remove(owner);
        }
    }
}

impl Job {
    /// Whose quota it takes, and in which band.
    pub(crate) fn charged_to(&self) -> (UserName, Band) {
        (self.owner().clone(), self.priority().band())
    }
}

impl CellState {
    /// Whether jobs in the band need quota.
    #[must_use]
    pub fn enforces_quota(&self, band: Band) -> bool {
        self.quotas.enforced.contains(&band)
    }

    /// What was given to whom, by user and band, each by time; grants that are over are dropped at
    /// the next change of that user's quota.
    pub fn quotas(&self) -> impl Iterator<Item = (&UserName, Band, &[Grant])> {
        let grants = self.quotas.grants.iter();
        grants.map(|((user, band), grants)| (user, *band, grants.as_slice()))
    }

    /// What a user was given in a band, by time.
    #[must_use]
    pub fn quota_of(&self, user: &UserName, band: Band) -> &[Grant] {
        self.quotas.grants.get(&(user.clone(), band)).map_or(&[], |grants| grants.as_slice())
    }

    /// Where anything is used: the sum of the limits of the user's live tasks in the band.
    pub fn used_quotas(&self) -> impl Iterator<Item = (&UserName, Band, &Total)> {
        self.quotas.used.iter().map(|((user, band), used)| (user, *band, used.as_ref()))
    }

    /// What a user uses in a band.
    #[must_use]
    pub fn used_quota(&self, user: &UserName, band: Band) -> Total {
        let used = self.quotas.used.get(&(user.clone(), band));
        used.map(|used| used.as_ref().clone()).unwrap_or_default()
    }
}

impl Turn<'_> {
    /// Whether the user may have so many tasks more that each take `each`, by quota.
    pub(super) fn check_quota(
        &self,
        user: &UserName,
        priority: Priority,
        each: &Resources,
        tasks: u32,
    ) -> Result<(), Rejection> {
        let band = priority.band();
        let used = self.state.used_quota(user, band);
        self.check_amount(user, band, &used, &Total::of(each, tasks))
    }

    /// Whether an alloc set may have another size, by its owner's quota. One that grows in nothing
    /// always may.
    pub(super) fn check_resized_quota(&self, set: &Job, spec: &JobSpec) -> Result<(), Rejection> {
        let (user, band) = set.charged_to();
        let alive = set.counts.alive();
        let old = Total::of(&set.charged(), alive);
        let new = Total::of(&spec.charged(), alive + (spec.tasks - set.spec.tasks));
        if new.iter().all(|(dimension, amount)| amount <= old.get(dimension)) {
            return Ok(());
        }
        let mut used = self.state.used_quota(&user, band);
        used.take(&old);
        self.check_amount(&user, band, &used, &new)
    }

    /// Whether a user who uses so much may use so much more.
    pub(super) fn check_amount(
        &self,
        user: &UserName,
        band: Band,
        used: &Total,
        asked: &Total,
    ) -> Result<(), Rejection> {
        // Nothing is asked by a job in an alloc set, which is paid for.
        if self.state.level < QUOTA_LEVEL || band == Band::Free || asked.is_nothing() {
            return Ok(());
        }
        let grants = self.state.quota_of(user, band);
        let grant = grants.iter().find(|grant| grant.in_force(self.at));
        if !self.state.enforces_quota(band) {
            let anybody = band != Band::Monitoring || self.state.holds(user, Privilege::Monitoring);
            if anybody || grant.is_some() {
                return Ok(());
            }
        }
        let granted = grant.map_or_else(Total::default, |grant| Total::of(&grant.amount, 1));
        let fits = |(dimension, asked): (_, u128)| {
            used.get(dimension).saturating_add(asked) <= granted.get(dimension)
        };
        if grant.is_some() && asked.iter().all(fits) {
            return Ok(());
        }
        let dimensions: BTreeSet<&Dimension> =
            asked.iter().chain(granted.iter()).map(|(dimension, _)| dimension).collect();
        let figures = dimensions.into_iter().map(|dimension| Figures {
            dimension: dimension.clone(),
            asked: Total::number(asked.get(dimension)),
            used: Total::number(used.get(dimension)),
            most: Total::number(granted.get(dimension)),
        });
        let mut figures: Vec<Figures> = figures.collect();
        Figures::most_telling(&mut figures);
        let over = grants.iter().rfind(|grant| grant.is_over(self.at));
        let later = grants.iter().find(|grant| grant.from > self.at);
        let shortage = Box::new(Shortage {
            user: user.clone(),
            band,
            ends: grant.or(over).and_then(|grant| grant.until),
            begins: later.map(|grant| grant.from),
            figures,
        });
        Err(if grant.is_some() {
            Rejection::QuotaTooSmall(shortage)
        } else {
            Rejection::NoQuota(shortage)
        })
    }

    /// Takes a job's live tasks from its user's quota.
    pub(super) fn charge(&mut self, job: &Job) {
        let tasks = job.counts.alive();
        for (owner, each) in job.charges() {
            self.state.quotas.charge(owner, &each, tasks);
        }
    }

    /// Takes one more of a job's tasks from its user's quota, in all bands in which it may have to take it. Earlier builds
    /// took it in the newest one alone until the state was read from a checkpoint again: what that says is right, and no
    /// level of entries could make both agree.
    pub(super) fn charge_one(&mut self, job: borg_proto::JobId) {
        let Some(job) = self.state.jobs.get(&job) else { return };
        for (owner, each) in job.charges() {
            self.state.quotas.charge(owner, &each, 1);
        }
    }

    /// Gives a task that is over for good back to its user's quota.
    pub(super) fn refund(&mut self, job: borg_proto::JobId) {
        let Some(job) = self.state.jobs.get(&job) else { return };
        for (owner, each) in job.charges() {
            self.state.quotas.refund(&owner, &each, 1);
        }
    }

    /// Gives all live tasks of a job, as it was, back to its user's quota.
    pub(super) fn refund_all(&mut self, job: &Job) {
        let tasks = job.counts.alive();
        for (owner, each) in job.charges() {
            self.state.quotas.refund(&owner, &each, tasks);
        }
    }
}

#[cfg(test)]
mod tests;
