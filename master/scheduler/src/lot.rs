//! Classes that fit nowhere, what each wants, and the blocks of machines in which it could ever fit: one sweep over
//! flat arrays finds those for which a change matters.
//!
//! Invariant: `words` has a row of `stride` words for each place, all 0 for a vacant one.

use crate::holdings::Want;
use crate::need::ClassKey;
use std::collections::BTreeMap;

/// The parking lot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lot {
    places: BTreeMap<ClassKey, usize>,
    keys: Vec<Option<(ClassKey, Want)>>,
    vacant: Vec<usize>,
    words: Vec<u64>,
    stride: usize,
}

impl Lot {
    /// A class fits nowhere; `reach` are the blocks in which it could, as bits.
    pub(crate) fn put(&mut self, key: &ClassKey, want: Want, reach: &[u64]) {
        if reach.len() > self.stride {
            self.widen(reach.len());
        }
        let place = match self.places.get(key) {
            Some(place) => {
                let known = self.keys[*place].as_ref();
                debug_assert!(
                    known.is_some_and(|(_, known)| *known == want),
                    "a class wants one thing"
                );
                *place
            }
            None => self.new_place(key, want),
        };
        let row = &mut self.words[place * self.stride..(place + 1) * self.stride];
        row.fill(0);
        row[..reach.len()].copy_from_slice(reach);
    }

    fn new_place(&mut self, key: &ClassKey, want: Want) -> usize {
        let place = self.vacant.pop().unwrap_or(self.keys.len());
        if place == self.keys.len() {
            self.keys.push(None);
            self.words.resize(self.keys.len() * self.stride, 0);
        }
        self.keys[place] = Some((key.clone(), want));
        self.places.insert(key.clone(), place);
        place
    }

    fn widen(&mut self, stride: usize) {
        let mut words = vec![0; self.keys.len() * stride];
        if self.stride > 0 {
            let rows = words.chunks_mut(stride).zip(self.words.chunks(self.stride));
            rows.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
        }
        (self.words, self.stride) = (words, stride);
    }

    /// A class is looked at again by itself.
    pub(crate) fn take(&mut self, key: &ClassKey) {
        let Some(place) = self.places.remove(key) else { return };
        self.keys[place] = None;
        self.words[place * self.stride..(place + 1) * self.stride].fill(0);
        self.vacant.push(place);
    }

    /// How many classes are here.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Every class here.
    pub(crate) fn all(&self) -> Vec<ClassKey> {
        self.places.keys().cloned().collect()
    }

    /// The classes that could fit in one of these blocks, of those for which there is hope.
    pub(crate) fn reaching(
        &self,
        blocks: &[u64],
        mut hope: impl FnMut(&Want) -> bool,
    ) -> Vec<ClassKey> {
        if self.stride == 0 {
            return Vec::new();
        }
        let rows = self.words.chunks(self.stride).zip(&self.keys);
        let meets = |row: &[u64]| row.iter().zip(blocks).any(|(reach, block)| reach & block != 0);
        let mut reaching = |(row, there): (&[u64], &Option<(ClassKey, Want)>)| {
            let (key, _) = there.as_ref().filter(|(_, want)| meets(row) && hope(want))?;
            Some(key.clone())
        };
        rows.filter_map(&mut reaching).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::need::Cohort;
    use crate::rooms::Kind;
    use borg_proto::{JobId, Priority};

    #[test]
    fn a_change_finds_the_classes_that_it_matters_to() {
        let key = |n| ClassKey::Job(Cohort { job: JobId(n), version: 1 });
        let want = Want { priority: Priority::new(100).unwrap(), kind: Kind::Rest, asks: [1, 1] };
        let large = Want { asks: [2, 1], ..want };
        let mut lot = Lot::default();
        lot.put(&key(1), want, &[0b01]);
        lot.put(&key(2), large, &[0b10]);
        lot.put(&key(3), want, &[0, 0b1]);
        lot.put(&key(4), want, &[0, 0]);
        assert_eq!(lot.reaching(&[0b10, 0], |_| true), [key(2)]);
        assert_eq!(lot.reaching(&[0b11, 0b1], |_| true), [key(1), key(2), key(3)]);
        assert_eq!(lot.reaching(&[0b11, 0b1], |want| want.fits([1, 1])), [key(1), key(3)]);
        lot.take(&key(2));
        lot.put(&key(1), want, &[0b100]);
        assert_eq!(lot.reaching(&[0b11], |_| true), []);
        lot.put(&key(5), want, &[0b10]);
        assert_eq!(lot.reaching(&[0b111], |_| true), [key(1), key(5)]);
        assert_eq!(lot.all(), [key(1), key(3), key(4), key(5)]);
    }
}
