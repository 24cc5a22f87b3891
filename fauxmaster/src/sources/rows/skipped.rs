//! Which rows were skipped, by what was wrong.

use super::super::table::TableError;
use std::collections::BTreeMap;

/// Most kinds of wrong rows that are told apart. 20: our choice; what comes later is counted together.
const KINDS: usize = 20;

/// Rows that were skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    kinds: BTreeMap<String, Kind>,
    others: u64,
}

/// Rows that are wrong in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    rows: u64,
    first: String,
}

impl Skipped {
    /// One more.
    pub(super) fn add(&mut self, error: &TableError) {
        let kind = error.kind();
        let full = self.kinds.len() >= KINDS;
        if let Some(known) = self.kinds.get_mut(&kind) {
            known.rows += 1;
        } else if full {
            self.others += 1;
        } else {
            self.kinds.insert(kind, Kind { rows: 1, first: error.to_string() });
        }
    }

    /// How many there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.kinds.values().map(|kind| kind.rows).sum::<u64>() + self.others
    }

    /// What was wrong, how often, and the first of each kind.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let kinds = self.kinds.iter().map(|(what, kind)| {
            format!("{} rows skipped: {what}; the first: {}", kind.rows, kind.first)
        });
        let others = (self.others > 0).then(|| {
            format!("{} rows skipped that are wrong in more than {KINDS} other ways", self.others)
        });
        kinds.chain(others).collect()
    }
}
