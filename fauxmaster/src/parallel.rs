//! The same work for many inputs, on several threads.
//!
//! Invariant: results come in the order of the inputs, whatever the number of threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many seeds from the first one on; no more than there are numbers.
#[must_use]
pub fn seeds(first: u64, many: u64) -> Vec<u64> {
    (0..many).map_while(|n| first.checked_add(n)).collect()
}

/// Does `work` for each input, so many at a time.
pub fn each<I: Sync, O: Send>(
    inputs: &[I],
    threads: usize,
    work: impl Fn(&I) -> O + Sync,
) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(inputs.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, inputs.len().max(1)) {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(input) = inputs.get(at)
                {
                    let output = work(input);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, output));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_end_where_numbers_do() {
        assert_eq!(seeds(3, 2), [3, 4]);
        assert_eq!(seeds(u64::MAX, 3), [u64::MAX]);
    }

    #[test]
    fn results_come_in_the_order_of_the_inputs_on_any_number_of_threads() {
        let inputs: Vec<u64> = (0..100).collect();
        let wanted: Vec<u64> = inputs.iter().map(|n| n * n).collect();
        for threads in [0, 1, 8, 1_000] {
            assert_eq!(each(&inputs, threads, |n| n * n), wanted);
        }
        assert!(each(&[], 3, |n: &u64| *n).is_empty());
    }
}
