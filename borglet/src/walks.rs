//! What files of tasks take, found out beside the sampling: a walk may last, and nobody waits for it.
//!
//! Few walks are made at a time. A container that was walked rests for a multiple of what its walk took, so that
//! one with many files neither keeps a processor busy nor the others from being looked at.

use crate::clock::{self, Stopwatch};
use crate::container::ContainerId;
use crate::disk::{self, Taken};
use crate::tasks::Tasks;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Walks at a time. 2: our choice; one that lasts holds up no other.
const WALKS_AT_ONCE: usize = 2;
/// The disk of a container is walked at most this often, in milliseconds. Our choice.
const WALK_EVERY_MS: u64 = 5_000;
/// A walk is not repeated before so many times what it took: a fiftieth of a processor at most.
const WALK_REST: u64 = 50;
/// Longest such rest, in milliseconds: who makes its walks last must not be free of them. Our choice.
const LONGEST_REST_MS: u64 = 120_000;

/// All walks. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Walks {
    known: Arc<Mutex<BTreeMap<ContainerId, Walk>>>,
    slots: Arc<Semaphore>,
}

/// The last walk of a container that began.
#[derive(Debug, Clone, Copy)]
struct Walk {
    /// Processor time of the container when it began: what runs later may write what it did not see.
    cpu_us: u64,
    /// When it ended and what it took, in milliseconds; `None` while it is under way.
    ended: Option<(Stopwatch, u64)>,
    /// What the last one found that ended.
    taken: Taken,
}

impl Walks {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { known: Arc::default(), slots: Arc::new(Semaphore::new(WALKS_AT_ONCE)) }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Walk>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a container's files take as far as is known, and begins another walk when one is due.
    pub(crate) fn look(
        &self,
        tasks: &Tasks,
        container: &ContainerId,
        cpu_us: u64,
        tight: bool,
    ) -> Taken {
        let last = self.known().get(container).copied();
        let taken = last.map_or(Taken::default(), |walk| walk.taken);
        if is_due(last, cpu_us, tight)
            && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
        {
            self.known().insert(container.clone(), Walk { cpu_us, ended: None, taken });
            let (walks, tasks, container) = (self.clone(), tasks.clone(), container.clone());
            drop(tokio::task::spawn_blocking(move || {
                let since = clock::stopwatch();
                let processes = tasks.executor().processes(&container);
                let taken = disk::taken(&tasks.written(&container), &processes);
                if let Some(walk) = walks.known().get_mut(&container) {
                    (walk.ended, walk.taken) = (Some((clock::stopwatch(), since.millis())), taken);
                }
                drop(slot);
            }));
        }
        taken
    }

    /// Forgets all but these.
    pub(crate) fn keep(&self, running: impl Fn(&ContainerId) -> bool) {
        self.known().retain(|container, _| running(container));
    }
}

/// Where nothing ran, nothing was written. Where no time is counted nobody knows.
fn is_due(last: Option<Walk>, cpu_us: u64, tight: bool) -> bool {
    let Some(last) = last else { return true };
    let Some((at, took_ms)) = last.ended else { return false };
    let passed = at.millis();
    let rested = passed >= took_ms.saturating_mul(WALK_REST).min(LONGEST_REST_MS);
    let ran = cpu_us == 0 || cpu_us != last.cpu_us;
    ran && rested && (tight || passed >= WALK_EVERY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_due_when_something_ran_since_the_last_one_began_and_that_one_rested() {
        let ended = |took_ms| Walk {
            cpu_us: 7,
            ended: Some((clock::stopwatch(), took_ms)),
            taken: Taken::default(),
        };
        assert!(is_due(None, 7, false));
        assert!(!is_due(Some(Walk { ended: None, ..ended(0) }), 9, true), "it is under way");
        assert!(!is_due(Some(ended(0)), 7, true), "nothing ran");
        assert!(is_due(Some(ended(0)), 9, true), "the disk is tight");
        assert!(is_due(Some(ended(0)), 0, true), "nobody knows what ran");
        assert!(!is_due(Some(ended(0)), 9, false), "too soon");
        assert!(!is_due(Some(ended(1_000)), 9, true), "it lasted, so it rests");
    }
}
