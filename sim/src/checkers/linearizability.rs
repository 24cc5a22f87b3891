//! Whether a history of operations could have happened one after the other (I3).
//!
//! The search of Wing and Gong with Lowe's memory of what was tried: take any operation that no
//! other one had to precede, see whether what it was told fits the model, go on, go back. An
//! operation of unknown outcome may have happened at any time since it was asked for, or never.
//! Knows nothing of jobs: see `job_history` for the model.
//!
//! Invariant: [`Verdict::Linearizable`] only with an order in hand. The search is bounded, and a
//! search that gave up says so; whoever asks must take that for a failure.

use std::collections::BTreeSet;

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<A, R> {
    /// When it was asked for, counted in things that happened. No two are equal in a history.
    pub asked: u64,
    /// When its outcome was known, and which it was. `None` when nobody was ever told.
    pub told: Option<(u64, R)>,
    /// What was asked.
    pub what: A,
}

/// What the operations mean when they happen one after the other.
pub trait Model {
    /// What an operation asks for.
    type Asked;
    /// What it was told.
    type Told;
    /// The object.
    type State: Clone + Ord;

    /// The object after an operation that was told this; `None` when it cannot have been told that.
    /// With no word, the object after it had its effect; that it had none is the search's to try.
    fn step(
        &self,
        state: &Self::State,
        asked: &Self::Asked,
        told: Option<&Self::Told>,
    ) -> Option<Self::State>;
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything that anybody was told.
    Linearizable,
    /// There is none. The place in the history of the first operation that no order gets past.
    Impossible(usize),
    /// Nobody knows: the search came to its bound.
    GaveUp,
}

/// One place of the search.
struct Place<S> {
    state: S,
    /// Which operations have happened, a bit each.
    done: Vec<u64>,
    /// The next operation to try.
    next: usize,
}

/// Searches for an order. `most` bounds how many different situations are looked at.
pub fn search<M: Model>(
    model: &M,
    begin: M::State,
    history: &[Operation<M::Asked, M::Told>],
    most: usize,
) -> Verdict {
    debug_assert!(history.is_sorted_by_key(|operation| operation.asked), "in order of asking");
    let mut tried = BTreeSet::new();
    let words = history.len().div_ceil(64);
    let mut path = vec![Place { state: begin, done: vec![0; words], next: 0 }];
    let mut furthest = 0;
    while let Some(place) = path.last_mut() {
        let is_done = |index: usize| place.done[index / 64] & (1 << (index % 64)) != 0;
        let waits = |index: &usize| !is_done(*index) && history[*index].told.is_some();
        let Some(first) = (0..history.len()).find(waits) else { return Verdict::Linearizable };
        furthest = furthest.max(first);
        // Whoever was asked for after something else had been told comes after that.
        let first_told = (first..history.len())
            .filter(waits)
            .filter_map(|index| history[index].told.as_ref().map(|told| told.0))
            .min()
            .unwrap_or(u64::MAX);
        let from = place.next;
        let may_be_next = |index: &usize| !is_done(*index);
        let candidate = (from..history.len())
            .take_while(|index| history[*index].asked < first_told)
            .find(may_be_next);
        let Some(index) = candidate else {
            path.pop();
            continue;
        };
        place.next = index + 1;
        let operation = &history[index];
        let told = operation.told.as_ref().map(|(_, told)| told);
        let Some(state) = model.step(&place.state, &operation.what, told) else { continue };
        let mut done = place.done.clone();
        done[index / 64] |= 1 << (index % 64);
        if tried.len() >= most {
            return Verdict::GaveUp;
        }
        if tried.insert((done.clone(), state.clone())) {
            path.push(Place { state, done, next: 0 });
        }
    }
    Verdict::Impossible(furthest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A register that is written and read.
    struct Register;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Use {
        Write(u8),
        Read,
    }

    impl Model for Register {
        type Asked = Use;
        type Told = u8;
        type State = u8;

        fn step(&self, state: &u8, asked: &Use, told: Option<&u8>) -> Option<u8> {
            match asked {
                Use::Write(value) => Some(*value),
                Use::Read => told.is_none_or(|told| told == state).then_some(*state),
            }
        }
    }

    type Uses = Vec<Operation<Use, u8>>;

    fn operation(asked: u64, told: Option<u64>, what: Use, value: u8) -> Operation<Use, u8> {
        Operation { asked, told: told.map(|at| (at, value)), what }
    }

    fn verdict(mut history: Uses) -> Verdict {
        history.sort_by_key(|operation| operation.asked);
        search(&Register, 0, &history, 100_000)
    }

    #[test]
    fn a_read_during_a_write_may_see_either_value() {
        for seen in [0, 7] {
            let found = verdict(vec![
                operation(1, Some(4), Use::Write(7), 0),
                operation(2, Some(3), Use::Read, seen),
            ]);
            assert_eq!(found, Verdict::Linearizable);
        }
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        let stale = verdict(vec![
            operation(1, Some(2), Use::Write(7), 0),
            operation(3, Some(4), Use::Read, 0),
        ]);
        assert_eq!(stale, Verdict::Impossible(1));
    }

    #[test]
    fn once_a_read_saw_a_write_no_later_read_misses_it() {
        let back = verdict(vec![
            operation(1, Some(9), Use::Write(7), 0),
            operation(2, Some(3), Use::Read, 7),
            operation(4, Some(5), Use::Read, 0),
        ]);
        assert!(matches!(back, Verdict::Impossible(_)), "{back:?}");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_have_happened_late_or_never_but_not_before_it_was_asked() {
        let lost = operation(1, None, Use::Write(7), 0);
        let read = |at, seen| operation(at, Some(at + 1), Use::Read, seen);
        assert_eq!(verdict(vec![lost.clone(), read(2, 0), read(4, 7)]), Verdict::Linearizable);
        assert_eq!(verdict(vec![lost.clone(), read(2, 0), read(4, 0)]), Verdict::Linearizable);
        let twice = verdict(vec![lost, read(2, 7), read(4, 0)]);
        assert!(matches!(twice, Verdict::Impossible(_)), "{twice:?}");
        let early = verdict(vec![read(1, 7), operation(3, None, Use::Write(7), 0)]);
        assert!(matches!(early, Verdict::Impossible(_)), "{early:?}");
    }

    #[test]
    fn a_search_that_comes_to_its_bound_says_so() {
        let mut history: Uses =
            (0..12).map(|i| operation(i, None, Use::Write(u8::try_from(i).unwrap()), 0)).collect();
        history.push(operation(20, Some(21), Use::Read, 99));
        assert_eq!(search(&Register, 0, &history, 50), Verdict::GaveUp);
    }

    /// Tries every order of every choice of the operations without outcome.
    fn by_force(state: u8, left: &Uses) -> bool {
        if left.iter().all(|operation| operation.told.is_none()) {
            return true;
        }
        (0..left.len()).any(|index| {
            let operation = &left[index];
            let must_wait = left
                .iter()
                .any(|other| other.told.as_ref().is_some_and(|(told, _)| *told < operation.asked));
            let told = operation.told.as_ref().map(|(_, told)| told);
            let Some(state) = Register.step(&state, &operation.what, told) else { return false };
            let mut rest = left.clone();
            rest.remove(index);
            !must_wait && by_force(state, &rest)
        })
    }

    prop_compose! {
        fn any_history()(
            uses in prop::collection::vec((0..16_u64, 1..8_u64, 0..3_u8, 0..3_u8, 0..5_u8), 1..7),
        ) -> Uses {
            // Moments are made different, and asking comes before telling.
            let mut history: Uses = uses.into_iter().enumerate().map(|(i, (at, took, write, value, lost))| {
                let i = u64::try_from(i).unwrap();
                let what = if write == 0 { Use::Write(value) } else { Use::Read };
                let told = (lost > 0).then_some((at + took) * 8 + i);
                operation(at * 8 + i, told, what, value)
            }).collect();
            history.sort_by_key(|operation| operation.asked);
            history
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_search_finds_what_trying_every_order_finds(history in any_history()) {
            let found = search(&Register, 0, &history, 1_000_000);
            prop_assert_eq!(found == Verdict::Linearizable, by_force(0, &history));
            prop_assert!(found != Verdict::GaveUp);
        }
    }
}
