//! A set of task indexes, as people write it: `0-3,7`.
//!
//! Invariant: ranges are in order, not empty, and apart; so equal sets are equal values and equal texts.

use crate::names::shorten;
use crate::spec::MAX_TASKS;
use std::fmt;
use std::str::FromStr;

/// Longest text of a set in bytes. 1 MiB: our choice; every other task of the largest job.
const MAX_TEXT: usize = 1 << 20;

/// Indexes of tasks of a job, each below [`MAX_TASKS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexSet(Vec<(u32, u32)>);

/// A text that is no set of indexes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} {why}")]
pub struct IndexSetError {
    /// The part that is wrong, shortened.
    pub part: String,
    /// What is allowed.
    pub why: String,
}

impl IndexSet {
    /// The indexes, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Whether an index is in it.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u32> for IndexSet {
    fn from_iter<I: IntoIterator<Item = u32>>(indexes: I) -> Self {
        apart(indexes.into_iter().filter(|index| *index < MAX_TASKS).map(|i| (i, i)).collect())
    }
}

/// The same indexes in ranges that are in order and do not touch.
fn apart(mut ranges: Vec<(u32, u32)>) -> IndexSet {
    ranges.sort_unstable();
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match found.last_mut() {
            Some((_, before)) if first <= *before + 1 => *before = last.max(*before),
            Some(_) | None => found.push((first, last)),
        }
    }
    IndexSet(found)
}

impl FromStr for IndexSet {
    type Err = IndexSetError;

    fn from_str(text: &str) -> Result<Self, IndexSetError> {
        let wrong = |part: &str, why: String| Err(IndexSetError { part: shorten(part), why });
        if text.len() > MAX_TEXT {
            return wrong(text, format!("is longer than {MAX_TEXT} bytes"));
        }
        let mut ranges = Vec::new();
        for part in text.trim().split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (index(first), index(last)) else {
                let most = MAX_TASKS - 1;
                return wrong(
                    part,
                    format!("is no index from 0 to {most} and no range, as in 0-3,7"),
                );
            };
            if first > last {
                return wrong(part, "goes backwards".to_owned());
            }
            ranges.push((first, last));
        }
        Ok(apart(ranges))
    }
}

fn index(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|index| *index < MAX_TASKS)
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_people_write_is_read_and_told_in_its_shortest_form() {
        let told = |text: &str| text.parse::<IndexSet>().unwrap().to_string();
        assert_eq!(told("7,0-3"), "0-3,7");
        assert_eq!(told(" 3, 1,2 ,2-4\n"), "1-4");
        assert_eq!(told("5"), "5");
        let wrong = |text: &str| text.parse::<IndexSet>().unwrap_err().to_string();
        assert_eq!(wrong(""), "\"\" is no index from 0 to 99999 and no range, as in 0-3,7");
        assert_eq!(wrong("1,x"), "\"x\" is no index from 0 to 99999 and no range, as in 0-3,7");
        assert_eq!(
            wrong("100000"),
            "\"100000\" is no index from 0 to 99999 and no range, as in 0-3,7"
        );
        assert_eq!(wrong("7-3"), "\"7-3\" goes backwards");
    }

    proptest! {
        #[test]
        fn a_set_is_its_indexes_and_its_text(indexes in proptest::collection::btree_set(0..200_u32, 0..50)) {
            let set: IndexSet = indexes.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), indexes.clone());
            prop_assert_eq!(set.len() as usize, indexes.len());
            for index in 0..200 {
                prop_assert_eq!(set.contains(index), indexes.contains(&index));
            }
            if !set.is_empty() {
                prop_assert_eq!(set.to_string().parse::<IndexSet>().unwrap(), set);
            }
        }
    }
}
