//! Some of a job's tasks, by index: as in `0-2,7`.
//!
//! Invariant: ranges are in order, apart from each other, and at most [`MAX_RANGES`].

use crate::names::shorten;
use crate::spec::MAX_TASKS;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most ranges of one set. 1,000: our choice; a set goes into entries of the log.
pub const MAX_RANGES: usize = 1_000;

/// Some indexes of tasks, at least one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IndexSet {
    /// Each from its first to its last index.
    ranges: Vec<(u32, u32)>,
}

/// A text or list that is no set of indexes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexSetError {
    /// Not as it is written.
    #[error("{0:?} is no index of a task, nor several of them, as in 0-2,7")]
    Text(String),
    /// A range that ends before it begins.
    #[error("{0:?} ends before it begins: write the smaller index first")]
    Backwards(String),
    /// An index that no task can have.
    #[error("{0} is no index of a task: they go up to {last}", last = MAX_TASKS - 1)]
    Beyond(u64),
    /// Too many of them.
    #[error("{0} ranges of indexes are more than {MAX_RANGES}")]
    TooMany(usize),
    /// None.
    #[error("no task is named")]
    Empty,
}

impl IndexSet {
    /// The indexes of a list, in any order, repeated or not.
    ///
    /// # Errors
    /// When there is none, too many apart from each other, or one that no task can have.
    pub fn new(indexes: impl IntoIterator<Item = u32>) -> Result<Self, IndexSetError> {
        Self::of_ranges(indexes.into_iter().map(|index| (index, index)).collect())
    }

    /// The indexes of ranges, each from its first to its last.
    ///
    /// # Errors
    /// As for [`IndexSet::new`], or when a range ends before it begins.
    pub fn of_ranges(mut ranges: Vec<(u32, u32)>) -> Result<Self, IndexSetError> {
        if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
            return Err(IndexSetError::Backwards(format!("{first}-{last}")));
        }
        if let Some((_, last)) = ranges.iter().find(|(_, last)| *last >= MAX_TASKS) {
            return Err(IndexSetError::Beyond((*last).into()));
        }
        ranges.sort_unstable();
        let joined = join(ranges);
        match joined.len() {
            0 => Err(IndexSetError::Empty),
            many if many > MAX_RANGES => Err(IndexSetError::TooMany(many)),
            _ => Ok(Self { ranges: joined }),
        }
    }

    /// The ranges, in order, each from its first to its last index.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// Whether it has an index.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// The indexes, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Those below a number; `None` when there are none.
    #[must_use]
    pub fn below(&self, end: u32) -> Option<Self> {
        let ranges = self.ranges.iter().filter(|(first, _)| *first < end);
        let ranges: Vec<_> = ranges.map(|(first, last)| (*first, (*last).min(end - 1))).collect();
        (!ranges.is_empty()).then_some(Self { ranges })
    }

    /// The largest one.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.ranges.last().map_or(0, |(_, last)| *last)
    }
}

impl FromStr for IndexSet {
    type Err = IndexSetError;
    fn from_str(text: &str) -> Result<Self, IndexSetError> {
        let wrong = || IndexSetError::Text(shorten(text));
        let index = |text: &str| -> Result<u32, IndexSetError> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: u64 = digits.then(|| text.parse().ok()).flatten().ok_or_else(wrong)?;
            let index = u32::try_from(number).ok().filter(|index| *index < MAX_TASKS);
            index.ok_or(IndexSetError::Beyond(number))
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            if ranges.len() >= MAX_RANGES {
                return Err(IndexSetError::TooMany(text.split(',').count()));
            }
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (index(first)?, index(last)?);
            if first > last {
                return Err(IndexSetError::Backwards(shorten(part)));
            }
            ranges.push((first, last));
        }
        Self::of_ranges(ranges)
    }
}

/// Those that overlap or follow each other are one. They are in order.
fn join(ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            Some(_) | None => joined.push((first, last)),
        }
    }
    joined
}

/// A list of indexes as a set of them is written, however many ranges that takes.
#[must_use]
pub fn in_ranges(indexes: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = indexes.iter().map(|index| (*index, *index)).collect();
    ranges.sort_unstable();
    Ranges(&join(ranges)).to_string()
}

/// Ranges as they are written.
struct Ranges<'a>(&'a [(u32, u32)]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ranges(&self.ranges).fmt(f)
    }
}

impl TryFrom<String> for IndexSet {
    type Error = IndexSetError;
    fn try_from(text: String) -> Result<Self, IndexSetError> {
        text.parse()
    }
}

impl From<IndexSet> for String {
    fn from(set: IndexSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse::<IndexSet>().map(|set| set.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn indexes_are_put_in_order_and_joined() {
        assert_eq!(read("7,0-2"), Ok("0-2,7".to_owned()));
        assert_eq!(read("3, 1,2 ,1-2"), Ok("1-3".to_owned()));
        assert_eq!(read("99999"), Ok("99999".to_owned()));
        let set: IndexSet = "0-2,7".parse().unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 7]);
        assert_eq!((set.count(), set.last()), (4, 7));
        let below = |end| set.below(end).map(|set| set.to_string());
        assert_eq!(
            [below(9), below(7), below(2)],
            ["0-2,7", "0-2", "0-1"].map(|s| Some(s.to_owned()))
        );
        assert_eq!(below(0), None);
        assert_eq!([in_ranges(&[7, 1, 0, 2, 1]), in_ranges(&[])], ["0-2,7", ""]);
        let has: Vec<u32> = (0..9).filter(|index| set.contains(*index)).collect();
        assert_eq!(has, [0, 1, 2, 7]);
    }

    #[test]
    fn what_is_no_set_of_indexes_is_said() {
        for wrong in ["", ",", "a", "1-", "-1", "1--2", "0x1", "1.5", "1 2"] {
            assert!(read(wrong).unwrap_err().contains("as in 0-2,7"), "{wrong}");
        }
        assert_eq!(
            read("5-3").unwrap_err(),
            "\"5-3\" ends before it begins: write the smaller index first"
        );
        assert_eq!(
            read("100000").unwrap_err(),
            "100000 is no index of a task: they go up to 99999"
        );
        let apart: Vec<String> = (0..1_001).map(|n| (2 * n).to_string()).collect();
        assert_eq!(
            read(&apart.join(",")).unwrap_err(),
            "1001 ranges of indexes are more than 1000"
        );
        assert_eq!(IndexSet::new([]).unwrap_err(), IndexSetError::Empty);
        let apart: Vec<u32> = (0..1_001).map(|n| 2 * n).collect();
        assert!(in_ranges(&apart).ends_with(",1998,2000"), "a list has no bound");
    }
}
