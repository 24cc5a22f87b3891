//! Budgets of disruption.

use super::error::{At, WireError, required};
use super::pb;
use crate::disruption::{Disruption, Rate, Share};
use crate::time::Millis;

impl From<Share> for pb::Share {
    fn from(share: Share) -> Self {
        let of = match share {
            Share::Tasks(tasks) => pb::share::Of::Tasks(tasks),
            Share::Percent(percent) => pb::share::Of::Percent(percent),
        };
        Self { of: Some(of) }
    }
}

impl TryFrom<pb::Share> for Share {
    type Error = WireError;
    fn try_from(share: pb::Share) -> Result<Self, WireError> {
        Ok(match required("", share.of)? {
            pb::share::Of::Tasks(tasks) => Self::Tasks(tasks),
            pb::share::Of::Percent(percent) => Self::Percent(percent),
        })
    }
}

impl From<&Disruption> for pb::Disruption {
    fn from(budget: &Disruption) -> Self {
        let rate = |rate: Rate| pb::disruption::Rate { tasks: rate.tasks, per_ms: rate.per_ms.0 };
        Self { most: Some(budget.most.into()), rate: budget.rate.map(rate) }
    }
}

/// Its bounds are checked with its job's.
impl TryFrom<pb::Disruption> for Disruption {
    type Error = WireError;
    fn try_from(budget: pb::Disruption) -> Result<Self, WireError> {
        let rate =
            |rate: pb::disruption::Rate| Rate { tasks: rate.tasks, per_ms: Millis(rate.per_ms) };
        Ok(Self {
            most: required("most", budget.most)?.try_into().at("most")?,
            rate: budget.rate.map(rate),
        })
    }
}
