//! Directories of allocs, in targets, reports and orders.

use super::error::{At, WireError, check_ordered, each};
use super::pb;
use super::poll::incarnation;
use crate::command::{Action, DataOrder};
use crate::poll::{DataReport, DataStatus, SharedData, TargetData};
use crate::task::MAX_CAUSE_BYTES;
use crate::text;
use std::num::NonZeroU64;

/// Most directories of allocs of one machine in a target or a report: our choice, as many as it may run tasks, and
/// far more than are ever kept.
const MAX_DATA: usize = 10_000;

impl From<&TargetData> for pb::TargetData {
    fn from(data: &TargetData) -> Self {
        Self { alloc: Some((&data.alloc).into()), left: data.left.map_or(0, NonZeroU64::get) }
    }
}

impl TryFrom<pb::TargetData> for TargetData {
    type Error = WireError;
    fn try_from(data: pb::TargetData) -> Result<Self, WireError> {
        Ok(Self { alloc: incarnation("alloc", data.alloc)?, left: NonZeroU64::new(data.left) })
    }
}

pub(super) fn read_targets(data: Vec<pb::TargetData>) -> Result<Vec<TargetData>, WireError> {
    let data = each("data", data, MAX_DATA, TargetData::try_from)?;
    check_ordered("data", &data, |data| data.alloc)?;
    Ok(data)
}

impl From<&SharedData> for pb::SharedData {
    fn from(data: &SharedData) -> Self {
        let (alloc, name) = (Some((&data.alloc).into()), data.name.to_string());
        Self { alloc, name, rescue: data.rescue, charged: data.charged }
    }
}

impl TryFrom<pb::SharedData> for SharedData {
    type Error = WireError;
    fn try_from(data: pb::SharedData) -> Result<Self, WireError> {
        let (alloc, name) = (incarnation("alloc", data.alloc)?, data.name.parse().at("name")?);
        Ok(Self { alloc, name, rescue: data.rescue, charged: data.charged })
    }
}

impl From<&DataReport> for pb::DataReport {
    fn from(report: &DataReport) -> Self {
        use pb::data_report::{AtRest, Status};
        let status = match &report.status {
            DataStatus::InUse => None,
            DataStatus::AtRest { bytes } => Some(Status::AtRest(AtRest { bytes: *bytes })),
            DataStatus::Gone { why } => Some(Status::Gone(why.clone())),
        };
        Self { alloc: Some((&report.alloc).into()), status }
    }
}

impl TryFrom<pb::DataReport> for DataReport {
    type Error = WireError;
    fn try_from(report: pb::DataReport) -> Result<Self, WireError> {
        use pb::data_report::Status;
        let status = match report.status {
            None => DataStatus::InUse,
            Some(Status::AtRest(at_rest)) => DataStatus::AtRest { bytes: at_rest.bytes },
            Some(Status::Gone(why)) => {
                DataStatus::Gone { why: text::one_line(why.as_bytes(), MAX_CAUSE_BYTES) }
            }
        };
        Ok(Self { alloc: incarnation("alloc", report.alloc)?, status })
    }
}

pub(super) fn read_reports(data: Vec<pb::DataReport>) -> Result<Vec<DataReport>, WireError> {
    let data = each("data", data, MAX_DATA, DataReport::try_from)?;
    check_ordered("data", &data, |data| data.alloc)?;
    Ok(data)
}

/// What becomes of data that an alloc left behind, as it is asked for.
pub(super) fn order(order: &pb::RescueData) -> Result<Action, WireError> {
    Ok(Action::RescueData {
        alloc: order.alloc.parse().at("alloc")?,
        number: NonZeroU64::new(order.number),
        order: if order.drop { DataOrder::Drop } else { DataOrder::Rescue },
    })
}

pub(super) fn write_order(
    alloc: &crate::names::TaskName,
    number: Option<NonZeroU64>,
    order: DataOrder,
) -> pb::RescueData {
    pb::RescueData {
        alloc: alloc.to_string(),
        number: number.map_or(0, NonZeroU64::get),
        drop: order == DataOrder::Drop,
    }
}
