//! Quota: who may ask for how much in which band.
//!
//! Amounts have no bound but that of their numbers: a cell's quota is far over what any single
//! machine or task may have, and sums of them are made in wider numbers.

use super::command::{Change, request_id};
use super::error::{At, WireError, check_len, check_line, check_range, required};
use super::pb;
use crate::command::Action;
use crate::names::{MAX_NAME_BYTES, shorten};
use crate::priority::Band;
use crate::resources::Resources;
use crate::time::Millis;

/// Most kinds of devices in one amount of quota. 64: our choice; no machine has nearly as many, and the
/// state holds many amounts.
const MAX_DEVICES: usize = 64;

impl From<Band> for pb::Band {
    fn from(band: Band) -> Self {
        match band {
            Band::Free => Self::Free,
            Band::Batch => Self::Batch,
            Band::Mid => Self::Mid,
            Band::Production => Self::Production,
            Band::Monitoring => Self::Monitoring,
        }
    }
}

/// A band that somebody sent.
///
/// # Errors
/// When it is none, or one that this version does not know.
pub fn quota_band(value: i32) -> Result<Band, WireError> {
    let unknown = |_| WireError::new("", value, "is not a band that this version knows");
    match pb::Band::try_from(value).map_err(unknown)? {
        pb::Band::Free => Ok(Band::Free),
        pb::Band::Batch => Ok(Band::Batch),
        pb::Band::Mid => Ok(Band::Mid),
        pb::Band::Production => Ok(Band::Production),
        pb::Band::Monitoring => Ok(Band::Monitoring),
        pb::Band::Unspecified => Err(WireError::new("", "nothing", "is given: name a band")),
    }
}

/// An amount of quota that somebody sent.
///
/// # Errors
/// When a device has no usable name or there is none of it, or there are too many.
pub fn quota_amount(amount: pb::Resources) -> Result<Resources, WireError> {
    check_len("devices", amount.devices.len(), MAX_DEVICES)?;
    for (name, count) in &amount.devices {
        check_line("devices", name, MAX_NAME_BYTES)?;
        if name.is_empty() {
            return Err(WireError::new("devices", "\"\"", "is not a device's name: it is empty"));
        }
        check_range(&format!("devices.{}", shorten(name)), *count, 1, u64::MAX)?;
    }
    Ok(Resources {
        cpu_milli: amount.cpu_milli,
        ram_bytes: amount.ram_bytes,
        disk_bytes: amount.disk_bytes,
        ports: amount.ports,
        devices: amount.devices.into_iter().map(|(name, count)| (name.into(), count)).collect(),
    })
}

pub(super) fn set(set: pb::SetQuota) -> Result<Action, WireError> {
    Ok(Action::SetQuota {
        user: set.user.parse().at("user")?,
        band: quota_band(set.band).at("band")?,
        amount: quota_amount(required("amount", set.amount)?).at("amount")?,
        from: set.from_ms.map(Millis),
        until: set.until_ms.map(Millis),
        oversell: set.oversell,
    })
}

pub(super) fn remove(remove: &pb::RemoveQuota) -> Result<Action, WireError> {
    Ok(Action::RemoveQuota {
        user: remove.user.parse().at("user")?,
        band: quota_band(remove.band).at("band")?,
    })
}

pub(super) fn enforce(enforce: pb::EnforceQuota) -> Result<Action, WireError> {
    if enforce.bands.is_empty() {
        return Err(WireError::new("bands", "nothing", "is given: name bands"));
    }
    let bands = super::error::each("bands", enforce.bands, Band::ALL.len(), quota_band)?;
    Ok(Action::EnforceQuota { bands, on: enforce.on })
}

impl TryFrom<pb::SetQuotaRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SetQuotaRequest) -> Result<Self, WireError> {
        let (user, band, amount, oversell) = (r.user, r.band, r.amount, r.oversell);
        let (from_ms, until_ms) = (r.from_ms, r.until_ms);
        let action = set(pb::SetQuota { user, band, amount, from_ms, until_ms, oversell })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::RemoveQuotaRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RemoveQuotaRequest) -> Result<Self, WireError> {
        let action = remove(&pb::RemoveQuota { user: r.user, band: r.band })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::EnforceQuotaRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::EnforceQuotaRequest) -> Result<Self, WireError> {
        let action = enforce(pb::EnforceQuota { bands: r.bands, on: r.on })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
