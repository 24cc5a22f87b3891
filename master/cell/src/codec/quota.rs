//! Quota as it stands in a checkpoint, and refusals that carry amounts.

use super::parts::missing;
use crate::rejection::{Figures, Oversold, Shortage};
use crate::state::CellState;
use crate::state::quota::{Grant, MAX_GRANTS, MAX_QUOTAS};
use borg_proto::resources::Dimension;
use borg_proto::wire::{WireError, pb, quota_amount, quota_band};
use borg_proto::{Band, Millis, UserName};
use pb::checkpoint_quota::Period;
use std::sync::Arc;

/// A band's number in digests and refusals: the one that it has on the wire.
pub(crate) fn band_number(band: Band) -> u64 {
    match band {
        Band::Free => 1,
        Band::Batch => 2,
        Band::Mid => 3,
        Band::Production => 4,
        Band::Monitoring => 5,
    }
}

/// The band of a number.
pub(super) fn read_band(number: u64) -> Result<Band, WireError> {
    let band = i32::try_from(number).map(quota_band);
    band.unwrap_or_else(|_| Err(WireError::new("numbers", number, "is no band")))
}

pub(super) fn write((user, band, grants): (&UserName, Band, &[Grant])) -> pb::CheckpointQuota {
    let period = |grant: &Grant| Period {
        amount: Some((&grant.amount).into()),
        from_ms: grant.from.0,
        until_ms: grant.until.map(|until| until.0),
        oversold: grant.oversold,
    };
    pb::CheckpointQuota {
        user: user.to_string(),
        band: pb::Band::from(band).into(),
        periods: grants.iter().map(period).collect(),
    }
}

pub(super) fn read(
    state: &mut CellState,
    quotas: Vec<pb::CheckpointQuota>,
    enforced: &[i32],
) -> Result<(), WireError> {
    let many = |field: &str, there: usize, most: usize| {
        WireError::new(field, format!("{there} entries"), format!("are more than {most}"))
    };
    if quotas.len() > MAX_QUOTAS {
        return Err(many("quotas", quotas.len(), MAX_QUOTAS));
    }
    if enforced.len() > Band::ALL.len() {
        return Err(many("enforced", enforced.len(), Band::ALL.len()));
    }
    for band in enforced {
        let band = quota_band(*band).map_err(|e| e.within("enforced"))?;
        state.quotas.enforced.insert(band);
    }
    for (i, quota) in quotas.into_iter().enumerate() {
        let within = |e: WireError| e.within(&format!("quotas[{i}]"));
        if quota.periods.len() > MAX_GRANTS {
            return Err(within(many("periods", quota.periods.len(), MAX_GRANTS)));
        }
        let user = UserName::new(&quota.user).map_err(|e| within(WireError::from(e)))?;
        let key = (user, quota_band(quota.band).map_err(within)?);
        let grants = quota.periods.into_iter().map(read_grant).collect::<Result<_, _>>();
        state.quotas.grants.insert(key, Arc::new(grants.map_err(within)?));
    }
    Ok(())
}

fn read_grant(period: Period) -> Result<Grant, WireError> {
    let amount = period.amount.ok_or_else(|| missing("amount"))?;
    Ok(Grant {
        amount: quota_amount(amount).map_err(|e| e.within("amount"))?,
        from: Millis(period.from_ms),
        until: period.until_ms.map(Millis),
        oversold: period.oversold,
    })
}

/// Numbers and texts of a refusal.
type Values = (Vec<u64>, Vec<String>);

fn time(of: Option<Millis>) -> [u64; 2] {
    [of.is_some().into(), of.map_or(0, |at| at.0)]
}

pub(super) fn shortage(of: &Shortage) -> Values {
    let mut numbers = vec![band_number(of.band)];
    numbers.extend(time(of.ends));
    numbers.extend(time(of.begins));
    let (more, mut texts) = figures(&of.figures);
    numbers.extend(more);
    texts.insert(0, of.user.to_string());
    (numbers, texts)
}

pub(super) fn oversold(of: &Oversold) -> Values {
    let (mut numbers, texts) = figures(&of.figures);
    numbers.insert(0, of.at.0);
    (numbers, texts)
}

fn figures(figures: &[Figures]) -> Values {
    let mut values = (vec![figures.len() as u64], Vec::new());
    for one in figures {
        let (dimension, device) = dimension_number(&one.dimension);
        values.0.extend([dimension, one.asked, one.used, one.most]);
        values.1.push(device.to_owned());
    }
    values
}

/// A dimension's number in refusals, and the name of its device.
pub(super) fn dimension_number(dimension: &Dimension) -> (u64, &str) {
    match dimension {
        Dimension::Cpu => (1, ""),
        Dimension::Ram => (2, ""),
        Dimension::Disk => (3, ""),
        Dimension::Ports => (4, ""),
        Dimension::Device(name) => (5, name),
    }
}
