//! What a cell lends of the room that its tasks hold.

use super::command::{Change, request_id};
use super::error::{At, WireError, check_len};
use super::pb;
use crate::command::Action;
use crate::names::shorten;
use crate::reclamation::{Amounts, Number, NumberSet};
use std::collections::BTreeMap;

pub(super) fn write(
    named: Option<NumberSet>,
    numbers: &BTreeMap<Number, u32>,
) -> pb::SetReclamation {
    pb::SetReclamation {
        named: named.map(|named| named.to_string()).unwrap_or_default(),
        numbers: numbers.iter().map(|(number, value)| (number.to_string(), *value)).collect(),
    }
}

pub(super) fn set(set: &pb::SetReclamation) -> Result<Action, WireError> {
    if set.named.is_empty() && set.numbers.is_empty() {
        let why = "is given: name a set, or numbers";
        return Err(WireError::new("named", "nothing", why));
    }
    let named = Some(&set.named).filter(|name| !name.is_empty());
    let named = named.map(|name| read_number_set(name).at("named")).transpose()?;
    Ok(Action::SetReclamation { named, numbers: read_numbers(&set.numbers).at("numbers")? })
}

/// A set of numbers by name.
///
/// # Errors
/// When there is none of that name.
pub fn read_number_set(name: &str) -> Result<NumberSet, WireError> {
    let why = format!("is no set: {}", NumberSet::ALL.map(NumberSet::name).join(", "));
    name.parse().map_err(|_| WireError::new("", format!("{:?}", shorten(name)), why))
}

/// Numbers by name.
///
/// # Errors
/// When there is none of a name, or one is out of its bounds.
pub fn read_numbers(numbers: &BTreeMap<String, u32>) -> Result<BTreeMap<Number, u32>, WireError> {
    check_len("", numbers.len(), Number::ALL.len())?;
    let read = |(name, value): (&String, &u32)| {
        let none = format!("is no number: {}", Number::ALL.map(Number::name).join(", "));
        let number: Number =
            name.parse().map_err(|_| WireError::new("", format!("{:?}", shorten(name)), none))?;
        let checked = number.check((*value).into());
        Ok((number, checked.map_err(|why| WireError::new(number.name(), *value, why))?))
    };
    numbers.iter().map(read).collect()
}

/// `None` for nothing, which is not said.
pub(super) fn write_amounts(of: Amounts) -> Option<pb::Amounts> {
    let Amounts { cpu_milli, ram_bytes, disk_bytes } = of;
    (!of.is_nothing()).then_some(pb::Amounts { cpu_milli, ram_bytes, disk_bytes })
}

/// What is not said is nothing; nothing is not said.
pub(super) fn read_amounts(of: Option<pb::Amounts>) -> Result<Amounts, WireError> {
    let Some(pb::Amounts { cpu_milli, ram_bytes, disk_bytes }) = of else {
        return Ok(Amounts::default());
    };
    let read = Amounts { cpu_milli, ram_bytes, disk_bytes };
    if read.is_nothing() {
        return Err(WireError::new("", "nothing", "is said: leave the field out"));
    }
    Ok(read)
}

impl From<Amounts> for pb::Amounts {
    fn from(of: Amounts) -> Self {
        let Amounts { cpu_milli, ram_bytes, disk_bytes } = of;
        Self { cpu_milli, ram_bytes, disk_bytes }
    }
}

impl From<pb::Amounts> for Amounts {
    fn from(of: pb::Amounts) -> Self {
        let pb::Amounts { cpu_milli, ram_bytes, disk_bytes } = of;
        Self { cpu_milli, ram_bytes, disk_bytes }
    }
}

impl TryFrom<pb::SetReclamationRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SetReclamationRequest) -> Result<Self, WireError> {
        let action = set(&pb::SetReclamation { named: r.named, numbers: r.numbers })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
