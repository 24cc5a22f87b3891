//! What kinds of jobs promise: one run of a cron job per tick, a daemon on each machine that will do, no child
//! without its parent.
//!
//! Looked at from the state alone, by the plainest means: a tick is a moment of which the history tells a run,
//! a machine will do when its attributes say so. That what is remembered is bounded and in order is for the
//! cell's own audit.

use borg_cell::state::{CellState, Fate, Job, Machine, MachineState, Task};
use borg_proto::task::TaskEnd;
use borg_proto::{JobId, JobKind, Millis, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// Runs that were made, by epoch, cron job and tick: a cell that goes on from a backup may have lost some.
#[derive(Debug, Default)]
pub struct Ticks {
    of: BTreeMap<(u64, JobId, Millis), JobId>,
    /// All runs, those that somebody asked for included.
    runs: BTreeSet<JobId>,
}

/// What came of looking at a cron job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticked {
    /// Whether a run was made that was not seen before.
    pub made: bool,
    /// Whether a tick passed without a run.
    pub passed_over: bool,
}

impl Ticks {
    /// Whether a cron job made it.
    #[must_use]
    pub fn made(&self, job: JobId) -> bool {
        self.runs.contains(&job)
    }

    /// Looks at what a cron job remembers of its ticks.
    ///
    /// # Errors
    /// When two runs were made for one tick, or one for a moment that is none.
    pub fn take(&mut self, state: &CellState, id: JobId) -> Result<Ticked, String> {
        let mut told = Ticked::default();
        let Some(job) = state.job(id) else { return Ok(told) };
        for tick in job.ticks().into_iter().flat_map(|ticks| ticks.history.iter()) {
            let Fate::Run { id: run, job: name, .. } = &tick.fate else {
                told.passed_over = true;
                continue;
            };
            self.runs.insert(*run);
            if tick.ordered {
                continue;
            }
            if !tick.tick.0.is_multiple_of(60_000) || tick.tick > tick.at {
                return Err(format!("{name} was made for {}, at {}", tick.tick, tick.at));
            }
            match self.of.insert((state.epoch(), id, tick.tick), *run) {
                None => told.made = true,
                Some(before) if before == *run => {}
                Some(before) => {
                    return Err(format!(
                        "for the tick {} of {} jobs {} and {} were made",
                        tick.tick, job.key, before.0, run.0
                    ));
                }
            }
        }
        Ok(told)
    }
}

/// A daemon that lacks a task on a machine, or a child without a parent, in words.
#[must_use]
pub fn amiss(state: &CellState) -> Option<String> {
    let alive = || state.jobs().filter(|job| job.is_alive());
    let orphan = |job: &Job| {
        let parent = job.spec.parent.as_ref()?;
        let lives = state.job_named(parent).is_some_and(Job::is_alive);
        (!lives).then(|| format!("{} is alive, and its parent {parent} is not", job.key))
    };
    let daemons = || alive().filter(|job| job.spec.kind == JobKind::Daemon);
    alive().find_map(orphan).or_else(|| daemons().find_map(|job| lacking(state, job)))
}

fn lacking(state: &CellState, job: &Job) -> Option<String> {
    let here = |machine: &Machine, task: &Task| {
        let killed = match &task.state {
            TaskState::Dead { end, .. } => *end != TaskEnd::Withdrawn,
            TaskState::Pending { .. } | TaskState::Running(_) => true,
        };
        task.pinned == Some(machine.id) && killed
    };
    let wants = |machine: &&Machine| {
        let attributes = machine.info.as_ref().map(|info| &info.attributes);
        let mut hard = job.spec.task.constraints.iter().filter(|constraint| !constraint.soft);
        machine.state == MachineState::Up
            && machine.admits(job.owner()).is_ok()
            && attributes.is_some_and(|attributes| hard.all(|one| one.holds(attributes)))
    };
    let mut machines = state.machines().filter(wants);
    let lacks = |machine: &&Machine| !state.tasks_of(job.id).any(|(_, task)| here(machine, task));
    let machine = machines.find(lacks)?;
    Some(format!("the daemon {} has no task for machine {}", job.key, machine.name))
}
