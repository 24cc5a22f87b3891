//! Giving quota and taking it back, and where it is enforced.
//!
//! For the time of a new grant it takes the place of what was there; of what reaches out of that time
//! the rest stays. So next quarter's quota can be given without losing this quarter's.

use super::{Grant, MAX_GRANTS, MAX_QUOTAS};
use crate::event::{EventKind, QuotaChange};
use crate::rejection::Rejection;
use crate::state::Answer;
use crate::state::turn::Turn;
use borg_proto::{Band, Millis, UserName};
use std::sync::Arc;

/// What a grant leaves of the others: those before it, those after it, and it; by time.
fn cut(grants: &[Grant], new: Grant, now: Millis) -> Vec<Grant> {
    let mut kept = Vec::new();
    for old in grants.iter().filter(|old| !old.is_over(now)) {
        let before = old.until.map_or(new.from, |until| until.min(new.from));
        if old.from < before && now < before {
            kept.push(Grant { until: Some(before), ..old.clone() });
        }
        let Some(after) = new.until.map(|until| until.max(old.from)) else { continue };
        if old.until.is_none_or(|until| after < until) {
            kept.push(Grant { from: after, ..old.clone() });
        }
    }
    kept.push(new);
    kept.sort_by_key(|grant| grant.from);
    kept
}

impl Turn<'_> {
    /// Gives a user quota. `new` says what is asked for; it begins now at the earliest.
    pub(in crate::state) fn set_quota(
        &mut self,
        user: &UserName,
        band: Band,
        new: Grant,
    ) -> Result<Answer, Rejection> {
        needs_no_quota(band)?;
        let now = self.at;
        let (from, allowed) = (new.from.max(now), new.oversold);
        if let Some(until) = new.until.filter(|until| *until <= from) {
            return Err(Rejection::QuotaOver { from, until, now });
        }
        let new = Grant { from, oversold: false, ..new };
        let key = (user.clone(), band);
        let full = |what: &str, there: usize, most: usize| Rejection::CellFull {
            what: what.to_owned(),
            there: there as u64,
            most: most as u64,
        };
        let there = self.state.quotas.grants.len();
        if there >= MAX_QUOTAS && !self.state.quotas.grants.contains_key(&key) {
            return Err(full("users with quota", there, MAX_QUOTAS));
        }
        let mut after = cut(self.state.quota_of(user, band), new, now);
        if after.len() > MAX_GRANTS {
            return Err(full("grants of this user in this band", after.len() - 1, MAX_GRANTS));
        }
        if let Some(oversold) = self.oversold(user, band, &after, from) {
            if !allowed {
                return Err(Rejection::Oversold(Box::new(oversold)));
            }
            let new = after.iter_mut().find(|grant| grant.from == from);
            new.expect("the new grant is among those after it").oversold = true;
        }
        self.state.quotas.grants.insert(key, Arc::new(after));
        self.tell(QuotaChange::Set { user: user.clone(), band });
        Ok(Answer::None)
    }

    /// Takes all quota of a user in a band back.
    pub(in crate::state) fn remove_quota(
        &mut self,
        user: &UserName,
        band: Band,
    ) -> Result<Answer, Rejection> {
        if self.state.quotas.grants.remove(&(user.clone(), band)).is_none() {
            return Err(Rejection::NoSuchQuota { user: user.clone(), band });
        }
        self.tell(QuotaChange::Removed { user: user.clone(), band });
        Ok(Answer::None)
    }

    /// Says where jobs need quota, or no longer.
    pub(in crate::state) fn enforce_quota(
        &mut self,
        bands: &[Band],
        on: bool,
    ) -> Result<Answer, Rejection> {
        bands.iter().try_for_each(|band| needs_no_quota(*band))?;
        for band in bands {
            let enforced = &mut self.state.quotas.enforced;
            let before =
                if on { enforced.insert(*band).is_some() } else { enforced.remove(band).is_none() };
            if !before {
                self.tell(QuotaChange::Enforced { band: *band, on });
            }
        }
        Ok(Answer::None)
    }

    fn tell(&mut self, change: QuotaChange) {
        self.emit(EventKind::QuotaChanged(change));
    }
}

/// Everybody has endless quota at priority 0 (Borg paper, section 2.5); with us in the whole band.
fn needs_no_quota(band: Band) -> Result<(), Rejection> {
    if band == Band::Free { Err(Rejection::FreeBand) } else { Ok(()) }
}
