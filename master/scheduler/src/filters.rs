//! Which rows meet which constraint: a bitmap for each constraint that any job has, shared by all.
//!
//! Invariant: the bit of a row is what [`Constraint::holds`] says of its machine's attributes, and 0
//! while nothing is known of the machine.

use crate::rooms::BLOCK;
use borg_proto::MachineInfo;
use borg_proto::spec::Constraint;
use std::collections::BTreeMap;

/// One constraint over all rows, whether it is meant hard or soft.
#[derive(Debug, Clone)]
struct Filter {
    constraint: Constraint,
    words: Vec<u64>,
    /// How many jobs have it.
    uses: u32,
}

/// All constraints in use, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    filters: Vec<Option<Filter>>,
    numbers: BTreeMap<Constraint, usize>,
}

impl Filters {
    /// The number of a constraint, made if it is new. `infos` are of all rows.
    pub(crate) fn number<'a>(
        &mut self,
        constraint: &Constraint,
        infos: impl Iterator<Item = Option<&'a MachineInfo>>,
    ) -> usize {
        let constraint = Constraint { soft: false, ..constraint.clone() };
        if let Some(number) = self.numbers.get(&constraint) {
            let found = self.filters[*number].as_mut();
            found.expect("a numbered filter is there").uses += 1;
            return *number;
        }
        // Machines share few values, so each value is compared once.
        let mut answers: BTreeMap<Option<&str>, bool> = BTreeMap::new();
        let mut words = Vec::new();
        for (row, info) in infos.enumerate() {
            if row % BLOCK == 0 {
                words.push(0);
            }
            let Some(info) = info else { continue };
            let value = info.attributes.get(&constraint.attribute).map(String::as_str);
            let holds = || constraint.holds(&info.attributes);
            if *answers.entry(value).or_insert_with(holds) {
                words[row / BLOCK] |= 1 << (row % BLOCK);
            }
        }
        let filter = Filter { constraint: constraint.clone(), words, uses: 1 };
        let vacant = self.filters.iter().position(Option::is_none);
        let number = vacant.unwrap_or(self.filters.len());
        match self.filters.get_mut(number) {
            Some(place) => *place = Some(filter),
            None => self.filters.push(Some(filter)),
        }
        self.numbers.insert(constraint, number);
        number
    }

    /// One job less has the constraint.
    pub(crate) fn release(&mut self, number: usize) {
        let place = &mut self.filters[number];
        let Some(filter) = place else { return };
        filter.uses -= 1;
        if filter.uses == 0 {
            self.numbers.remove(&filter.constraint);
            *place = None;
        }
    }

    /// The rows of a block that meet a constraint.
    pub(crate) fn word(&self, number: usize, b: usize) -> u64 {
        self.filters[number].as_ref().map_or(0, |filter| filter.words[b])
    }

    /// Whether a row meets a constraint.
    pub(crate) fn holds(&self, number: usize, row: usize) -> bool {
        self.word(number, row / BLOCK) >> (row % BLOCK) & 1 == 1
    }

    pub(crate) fn grow(&mut self, blocks: usize) {
        for filter in self.filters.iter_mut().flatten() {
            filter.words.resize(blocks, 0);
        }
    }

    pub(crate) fn set(&mut self, row: usize, info: Option<&MachineInfo>) {
        let bit = 1 << (row % BLOCK);
        for filter in self.filters.iter_mut().flatten() {
            let word = &mut filter.words[row / BLOCK];
            *word &= !bit;
            if info.is_some_and(|info| filter.constraint.holds(&info.attributes)) {
                *word |= bit;
            }
        }
    }
}
