//! What happens when, on virtual time.
//!
//! A wheel of one slot per millisecond for what is near, a map for what is far. Things of one
//! moment happen in the order in which they were put down, so a run repeats exactly.

use borg_proto::Millis;
use std::collections::{BTreeMap, VecDeque};

/// Milliseconds that the wheel spans. 4,096: more than a held poll or a retry takes, so that
/// nearly everything goes into the wheel.
const SPAN: u64 = 4_096;

/// Things to come, in order of time. Time never goes back.
#[derive(Debug)]
pub struct Agenda<T> {
    now: u64,
    wheel: Vec<VecDeque<T>>,
    /// How many things are in the wheel.
    near: usize,
    far: BTreeMap<u64, Vec<T>>,
}

impl<T> Agenda<T> {
    /// Nothing to come, at this moment.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        let wheel = (0..SPAN).map(|_| VecDeque::new()).collect();
        Self { now: now.0, wheel, near: 0, far: BTreeMap::new() }
    }

    /// The present moment.
    #[must_use]
    pub const fn now(&self) -> Millis {
        Millis(self.now)
    }

    /// Puts something down for `delay` from now; 0 is after everything else of this moment.
    pub fn after(&mut self, delay: Millis, what: T) {
        let at = self.now.saturating_add(delay.0);
        if at - self.now < SPAN {
            self.slot(at).push_back(what);
            self.near += 1;
        } else {
            self.far.entry(at).or_default().push(what);
        }
    }

    /// The next thing that happens until `end`; time moves on to it, or to `end` if there is none.
    pub fn next(&mut self, end: Millis) -> Option<T> {
        loop {
            let now = self.now;
            if let Some(what) = self.slot(now).pop_front() {
                self.near -= 1;
                return Some(what);
            }
            if self.now >= end.0 {
                return None;
            }
            let first_far = self.far.first_key_value().map(|(at, _)| *at);
            self.now = match (self.near, first_far) {
                (0, Some(at)) => at.min(end.0),
                (0, None) => end.0,
                (_, _) => self.now + 1,
            };
            while let Some(entry) = self.far.first_entry()
                && *entry.key() < self.now + SPAN
            {
                let (at, things) = entry.remove_entry();
                self.near += things.len();
                self.slot(at).extend(things);
            }
        }
    }

    fn slot(&mut self, at: u64) -> &mut VecDeque<T> {
        let index = usize::try_from(at % SPAN).expect("the wheel fits into memory");
        &mut self.wheel[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_order_of_time_and_then_of_writing_down() {
        let mut agenda = Agenda::new(Millis(1_000));
        for (delay, what) in [(5, 'b'), (9_000, 'd'), (0, 'a'), (5, 'c'), (9_000, 'e')] {
            agenda.after(Millis(delay), what);
        }
        let mut seen = Vec::new();
        while let Some(what) = agenda.next(Millis(20_000)) {
            seen.push((agenda.now().0, what));
        }
        assert_eq!(seen, [(1_000, 'a'), (1_005, 'b'), (1_005, 'c'), (10_000, 'd'), (10_000, 'e')]);
        assert_eq!(agenda.now(), Millis(20_000));
    }

    #[test]
    fn nothing_beyond_the_end_happens() {
        let mut agenda = Agenda::new(Millis(0));
        agenda.after(Millis(10), ());
        agenda.after(Millis(100_000), ());
        assert_eq!(agenda.next(Millis(9)), None);
        assert_eq!(agenda.next(Millis(10)), Some(()));
        assert_eq!(agenda.next(Millis(99_999)), None);
        assert_eq!(agenda.next(Millis(100_000)), Some(()));
    }
}
