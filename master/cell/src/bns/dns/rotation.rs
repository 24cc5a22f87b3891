//! Which tasks of a job are in service, and which of them comes first in an answer.
//!
//! Invariant: a job is gone through once for each version of it that somebody asks for, and what is remembered of
//! all of them is bounded: tasks by number, and of a job nothing but whether it is still the same one.

use super::super::labels::Tasks;
use super::{Wanted, serving};
use crate::state::{CellState, Job};
use borg_proto::JobId;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Tasks of jobs in service that are remembered, so that the memory is bounded. A million, 4 MB: our choice.
const MOST_REMEMBERED: usize = 1_000_000;
/// As how many tasks a job counts besides: what is remembered of it takes about as much room. A kilobyte: the room of
/// a [`Job`] that nobody has any more, whose address must not become another's.
const OF_A_JOB: usize = 250;

/// Which tasks of jobs are in service, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    /// Of jobs that were asked for.
    jobs: BTreeMap<JobId, Rotation>,
    remembered: usize,
}

/// That of one job.
#[derive(Debug)]
pub(super) struct Rotation {
    /// The job as it was when this was true: to be recognized, and not to be kept.
    as_of: Weak<Job>,
    /// Those in service.
    tasks: Arc<[u32]>,
    /// Answers that were given, of each kind by itself: clients ask for one kind after another, and would get
    /// every second task else.
    turns: [usize; 3],
}

impl Rotations {
    /// The task, if it is in service, or those of the job that are, beginning with another one each time.
    pub(super) fn order(
        &mut self,
        state: &CellState,
        tasks: Tasks<'_>,
        wanted: Wanted,
    ) -> impl Iterator<Item = u32> + use<> {
        let (found, turn) = match tasks.index {
            Some(index) => (Arc::from([index]), 0),
            None => self
                .of(state, tasks.job)
                .map_or_else(Default::default, |found| (found.tasks.clone(), found.next(wanted))),
        };
        let count = found.len();
        (0..count).map(move |place| found[(turn % count + place) % count])
    }

    /// How many jobs are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.jobs.len()
    }

    /// That of a job, as it is now.
    pub(super) fn of(&mut self, state: &CellState, job: &Job) -> Option<&mut Rotation> {
        let now = state.shared_job(job.id)?;
        let known = self.jobs.get(&job.id);
        if known.is_none_or(|known| known.as_of.as_ptr() != Arc::as_ptr(now)) {
            let turns = known.map_or([0; 3], |known| known.turns);
            let up = |index: &u32| serving(state, job, *index).is_some();
            let tasks = (0..job.slots()).filter(up).collect();
            self.remember(job.id, Rotation { as_of: Arc::downgrade(now), tasks, turns });
        }
        self.jobs.get_mut(&job.id)
    }

    fn remember(&mut self, job: JobId, rotation: Rotation) {
        let cost = rotation.cost();
        if self.remembered + cost > MOST_REMEMBERED {
            self.jobs.clear();
            self.remembered = 0;
        }
        let before = self.jobs.insert(job, rotation);
        self.remembered += cost;
        self.remembered -= before.map_or(0, |before| before.cost());
    }
}

impl Rotation {
    /// How many tasks are in service.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// What it counts among those that are remembered.
    fn cost(&self) -> usize {
        self.tasks.len() + OF_A_JOB
    }

    fn next(&mut self, wanted: Wanted) -> usize {
        let turn = match wanted {
            Wanted::A => 0,
            Wanted::Aaaa => 1,
            Wanted::Srv | Wanted::Txt | Wanted::Ns | Wanted::Soa | Wanted::Any | Wanted::Other => 2,
        };
        self.turns[turn] = self.turns[turn].wrapping_add(1);
        self.turns[turn]
    }
}
