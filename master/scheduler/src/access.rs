//! Which rows take whose tasks: a bitmap for each user for whom some machine is kept, and one for all
//! others. Two users that no machine is kept for are alike.
//!
//! Who is named is settled when a scheduler begins; when that changes it begins afresh. So as long as
//! no machine is kept for anybody, this costs nothing.
//!
//! Invariant: the bit of a row is what [`is_kept_from`](borg_cell::state::Machine::is_kept_from) denies
//! of its machine.

use crate::rooms::BLOCK;
use borg_proto::UserName;
use std::collections::{BTreeMap, BTreeSet};

/// Users whose tasks may go to the same machines; by number, 0 is everybody whom nobody named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Group(usize);

/// Bitmaps by group; none while no machine is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    named: BTreeMap<UserName, usize>,
    words: Vec<Vec<u64>>,
}

impl Access {
    /// No rows yet, of a cell where machines are kept for these users.
    pub(crate) fn new(named: BTreeSet<UserName>) -> Self {
        if named.is_empty() {
            return Self::default();
        }
        let words = vec![Vec::new(); named.len() + 1];
        Self { named: named.into_iter().zip(1..).collect(), words }
    }

    /// Whether any machine is kept.
    pub(crate) fn is_limited(&self) -> bool {
        !self.words.is_empty()
    }

    /// The group of a user.
    pub(crate) fn group(&self, user: &UserName) -> Group {
        Group(self.named.get(user).copied().unwrap_or(0))
    }

    pub(crate) fn grow(&mut self, blocks: usize) {
        self.words.iter_mut().for_each(|words| words.resize(blocks, 0));
    }

    /// A row is that of a machine that is kept for some, or of one for everybody, or of none.
    pub(crate) fn set(&mut self, row: usize, kept_for: Option<&BTreeSet<UserName>>) {
        let (b, bit) = (row / BLOCK, 1 << (row % BLOCK));
        for words in &mut self.words {
            words[b] = if kept_for.is_none() { words[b] | bit } else { words[b] & !bit };
        }
        for user in kept_for.into_iter().flatten() {
            if let Some(words) = self.named.get(user).and_then(|group| self.words.get_mut(*group)) {
                words[b] |= bit;
            }
        }
    }

    /// The rows of a block that take tasks of a group.
    pub(crate) fn word(&self, group: Group, b: usize) -> u64 {
        self.words.get(group.0).map_or(u64::MAX, |words| words[b])
    }

    /// Whether a row takes tasks of a group.
    pub(crate) fn admits(&self, group: Group, row: usize) -> bool {
        self.word(group, row / BLOCK) >> (row % BLOCK) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_named_nowhere_are_alike_and_kept_out_of_what_is_kept() {
        let name = |name: &str| UserName::new(name).unwrap();
        let mut access = Access::new([name("ann"), name("bob")].into());
        access.grow(1);
        access.set(0, None);
        access.set(1, Some(&[name("ann")].into()));
        access.set(2, Some(&[name("ann"), name("bob")].into()));
        let word = |user: &str| access.word(access.group(&name(user)), 0);
        assert_eq!(["ann", "bob", "cid", "dan"].map(word), [0b111, 0b101, 0b001, 0b001]);
        assert!(access.admits(access.group(&name("bob")), 2));
    }

    #[test]
    fn nothing_is_limited_while_no_machine_is_kept() {
        let mut access = Access::new(BTreeSet::new());
        access.grow(1);
        access.set(3, None);
        assert!(!access.is_limited());
        assert_eq!(access.word(access.group(&UserName::new("ann").unwrap()), 0), u64::MAX);
    }
}
