//! Quota as the API shows it.

use crate::feed::View;
use borg_cell::state::quota::{Grant, Total};
use borg_proto::names::UserName;
use borg_proto::wire::pb;
use borg_proto::{Band, Millis};
use std::collections::BTreeSet;

/// Where quota was given, and where something is used: everybody's, or one user's.
pub(super) fn list(view: &View, user: Option<&UserName>, now: Millis) -> pb::ListQuotasResponse {
    let state = &view.state;
    let given = state.quotas().map(|(user, band, _)| (user, band));
    let places: BTreeSet<(&UserName, Band)> =
        given.chain(state.used_quotas().map(|(user, band, _)| (user, band))).collect();
    let wanted = places.into_iter().filter(|(whose, _)| user.is_none_or(|user| user == *whose));
    let quota = |(user, band): (&UserName, Band)| pb::Quota {
        user: user.to_string(),
        band: pb::Band::from(band).into(),
        used: Some(used(&state.used_quota(user, band))),
        periods: state.quota_of(user, band).iter().map(period).collect(),
    };
    let enforced = Band::ALL.into_iter().filter(|band| state.enforces_quota(*band));
    pb::ListQuotasResponse {
        quotas: wanted.map(quota).collect(),
        enforced: enforced.map(|band| pb::Band::from(band).into()).collect(),
        read: Some(super::views::read_info(view)),
        now_ms: now.0,
    }
}

fn used(total: &Total) -> pb::Resources {
    (&total.amount()).into()
}

fn period(grant: &Grant) -> pb::QuotaPeriod {
    pb::QuotaPeriod {
        amount: Some((&grant.amount).into()),
        from_ms: grant.from.0,
        until_ms: grant.until.map(|until| until.0),
        oversold: grant.oversold,
    }
}
