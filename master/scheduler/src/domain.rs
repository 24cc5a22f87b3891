//! One attribute over all rows, with its values as numbers, so that a job's tasks can be counted by
//! rack, power domain or any label.

use borg_proto::MachineInfo;
use std::collections::BTreeMap;

/// Stands for "nothing is known of this machine".
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One attribute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domain {
    values: BTreeMap<String, u32>,
    /// Value of each row, [`NOWHERE`] while nothing is known of its machine.
    of: Vec<u32>,
    /// Rows of each value.
    rows: Vec<Vec<usize>>,
    /// The value of machines that lack the attribute, once there is one.
    missing: Option<u32>,
}

impl Domain {
    /// The value of a row.
    pub(crate) fn of(&self, row: usize) -> u32 {
        self.of[row]
    }

    /// Whether a value is one that machines have, and not that they lack the attribute.
    pub(crate) fn is_named(&self, value: u32) -> bool {
        value != NOWHERE && Some(value) != self.missing
    }

    /// The rows of a value, in no order.
    pub(crate) fn rows_of(&self, value: u32) -> &[usize] {
        self.rows.get(value as usize).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn grow(&mut self, rows: usize) {
        self.of.resize(rows, NOWHERE);
    }

    pub(crate) fn set(&mut self, row: usize, info: Option<&MachineInfo>, attribute: &str) {
        // A missing attribute counts as the empty text, as for constraints.
        let text = info.map(|info| info.attributes.get(attribute).map_or("", String::as_str));
        let value = text.map_or(NOWHERE, |text| self.number(text));
        let before = std::mem::replace(&mut self.of[row], value);
        if before == value {
            return;
        }
        if let Some(rows) = self.rows.get_mut(before as usize) {
            rows.retain(|other| *other != row);
        }
        if let Some(rows) = self.rows.get_mut(value as usize) {
            rows.push(row);
        }
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(value) = self.values.get(text) {
            return *value;
        }
        let next = u32::try_from(self.values.len()).expect("fewer values than machines ever seen");
        self.values.insert(text.to_owned(), next);
        if text.is_empty() {
            self.missing = Some(next);
        }
        self.rows.push(Vec::new());
        next
    }
}

/// Positions of the ones in a word.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
