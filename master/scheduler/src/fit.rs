//! How many more tasks of a job would fit now, and what stops the next one.
//!
//! Placed one by one in a copy with the production scan, nobody pushed out, as a new job of a user
//! for whom no machine is kept.

use crate::access::Group;
use crate::class::Class;
use crate::explain::{Counted, Preempting, count, sentence};
use crate::homes::Seat;
use crate::machines::{Machines, Resident};
use crate::need::{Cohort, Need};
use crate::reasons::Rejected;
use crate::score::Weights;
use borg_proto::{JobId, JobSpec, TaskId};
use std::sync::Arc;

/// Answer to "how many more would fit".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// How many tasks fit, at most as many as were asked about.
    pub tasks: u32,
    /// How many machines could take the first one.
    pub machines: u32,
    /// Why the machines could not take one more; empty when all that were asked about fit.
    pub stopped_by: Vec<Rejected>,
    /// The same in one sentence.
    pub summary: String,
}

/// Tries `spec` in `machines`, a copy, until it fits nowhere or `most` are placed. A job in an alloc set
/// is tried as one of its own.
pub(crate) fn fit(mut machines: Machines, weights: &Weights, spec: &JobSpec, most: u32) -> Fit {
    // A job number that no job of the cell has.
    let job = JobId(u64::MAX);
    let spec = JobSpec { alloc_set: None, ..spec.clone() };
    let cohort = Cohort { job, version: 0 };
    let need = Arc::new(Need::new(cohort, Group::default(), &spec, None, &mut machines));
    let mut class = Class::new(need.clone(), &machines, weights);
    let first = count(&mut class, &machines, weights, Preempting::None, &[]);
    let mut tasks = 0;
    while tasks < most {
        let Some((_, row)) = class.best(&machines, weights, true, &[]) else { break };
        machines.add(row, Resident::proposed(Seat::of(TaskId { job, index: tasks }), need.clone()));
        class.count(&machines, weights, row, true);
        tasks += 1;
    }
    let mut stopped_by = Vec::new();
    let mut summary = format!("{tasks} of {most} tasks fit");
    if tasks < most {
        let Counted { machines, feasible, rejections } =
            count(&mut class, &machines, weights, Preempting::None, &[]);
        summary =
            format!("{summary}; for the next one, {}", sentence(machines, feasible, &rejections));
        stopped_by = rejections;
    }
    Fit { tasks, machines: first.feasible, stopped_by, summary }
}
