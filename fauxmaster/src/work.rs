//! Machines and the work that they have to hold, apart from one another: what packing is asked about.

use borg_cell::state::{CellState, Job};
use borg_proto::{JobKind, JobSpec, MachineInfo, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Machines and jobs.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Names and facts of the machines.
    pub machines: Vec<(String, MachineInfo)>,
    /// Jobs and their owners, in the order in which they are submitted.
    pub jobs: Vec<(UserName, Arc<JobSpec>)>,
    /// Tasks of the cell that are not part of it, as they belong to one machine each.
    pub tied: u64,
}

impl Work {
    /// The machines of a cell that answer, and its live work, jobs in the order of their submission. Left out are
    /// daemons, whose tasks belong to one machine each and say nothing about how many machines the rest needs
    /// (Borg paper, section 5.1).
    #[must_use]
    pub fn of_cell(state: &CellState) -> Self {
        let mut work = Self::default();
        for machine in state.machines() {
            if let Some(info) = &machine.info {
                work.machines.push((machine.name.to_string(), MachineInfo::clone(info)));
            }
        }
        for job in state.jobs().filter(|job| job.is_alive()) {
            let live = state.tasks_of(job.id).filter(|(_, task)| !task.is_dead()).count();
            let live = u32::try_from(live).unwrap_or(u32::MAX);
            match job.spec.kind {
                JobKind::Cron => {}
                JobKind::Daemon => work.tied += u64::from(live),
                JobKind::Service | JobKind::Batch | JobKind::AllocSet if live > 0 => {
                    work.jobs.push((job.key.user.clone(), Arc::new(as_it_runs(job, live))));
                }
                JobKind::Service | JobKind::Batch | JobKind::AllocSet => {}
            }
        }
        work
    }

    /// How many tasks there are.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.jobs.iter().map(|(_, spec)| u64::from(spec.tasks)).sum()
    }
}

/// A job with so many tasks and nothing that it waits for: only what it needs of machines.
fn as_it_runs(job: &Job, live: u32) -> JobSpec {
    let mut spec = JobSpec::clone(&job.spec);
    spec.tasks = live;
    (spec.after, spec.parent, spec.concurrent, spec.deadline_ms) = (Vec::new(), None, None, None);
    spec.task_labels = Vec::new();
    let task = Arc::make_mut(&mut spec.task);
    // Another cell knows neither the packages nor who may what.
    (task.image, task.packages, task.loosen) = (None, Vec::new(), BTreeSet::new());
    task.reclaim = true;
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::synthetic::synthetic;

    #[test]
    fn the_work_of_a_cell_is_what_lives_in_it() {
        let cell = synthetic(40, 3).unwrap();
        let work = Work::of_cell(&cell);
        assert_eq!((work.machines.len(), work.tasks(), work.tied), (40, 600, 0));
        assert_eq!(work.jobs.len(), cell.jobs().count());
    }
}
