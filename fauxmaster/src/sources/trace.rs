//! Public traces of clusters as workloads: which job came when, how long its tasks ran, which machines there were.
//!
//! What is read of each kind, in which units, and what is made of it is in `docs/formats.md`. Decisions of the
//! cluster that a trace comes from are not repeated: who was pushed out there, and came again, runs once here for as
//! long as it ran in all, as placements and evictions are to be this scheduler's.
//!
//! Leaves to others: reading rows ([`rows`](super::rows)), what happens to the work
//! ([`replay`](crate::replay)).
//!
//! Invariant: a trace is a function of its files and of [`Choices`].

mod azure;
mod draft;
mod google;
mod google2011_jobs;
mod openb;
mod swf;

pub(super) use draft::MOST_MACHINES;

use super::rows::Reading;
use super::workload::{Arrival, Workload};
use crate::Error;
use crate::work::Work;
use borg_proto::{JobSpec, Millis};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Between two moments of which the busiest is chosen. 5 minutes: our choice.
const STEP: Millis = Millis::from_secs(300);
/// A trace that is shorter than so many of them is looked at so many times.
const LOOKS: u64 = 1_000;

/// Which public format a trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tables of the Google trace of 2011: `machine_events` and `task_events`.
    Google2011,
    /// One line for each job of that trace, and tables of what is known of tasks: sizes are drawn.
    Google2011Jobs,
    /// Tables of the Google trace of 2019: `machine_events`, `instance_events`, `collection_events`.
    Google2019,
    /// Nodes and pods of the Alibaba GPU cluster of 2023.
    Openb,
    /// Requests of virtual machines in batches of a tenant, with bins of lifetimes.
    AzureV1,
    /// The standard workload format of parallel machines.
    Swf,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Google2011,
        Self::Google2011Jobs,
        Self::Google2019,
        Self::Openb,
        Self::AzureV1,
        Self::Swf,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Google2011 => "google2011",
            Self::Google2011Jobs => "google2011-jobs",
            Self::Google2019 => "google2019",
            Self::Openb => "openb",
            Self::AzureV1 => "azure-v1",
            Self::Swf => "swf",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is chosen for a trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choices {
    /// Bad rows are counted and told instead of refused.
    pub skip_bad: bool,
    /// Of what a trace does not tell exactly.
    pub seed: u64,
    /// How many machines there are, where the trace does not tell.
    pub machines: Option<u32>,
}

/// A trace that was read.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Which format it has.
    pub kind: Kind,
    /// What was chosen for it.
    pub choices: Choices,
    /// Machines, and what happens to them.
    pub workload: Arc<Workload>,
    /// The moment after the last thing that happens.
    pub ends: Millis,
    /// 64-bit hash (xxh3) of the text that was read.
    pub digest: u64,
    /// What was skipped, left out or drawn, for people.
    pub notes: Vec<String>,
}

/// Reads a trace.
///
/// # Errors
/// When a file is not of the format, with its place in it; when there are no machines, or there is no work.
pub fn read(kind: Kind, path: &Path, choices: Choices) -> Result<Trace, Error> {
    let mut reading = Reading::new(choices.skip_bad);
    let draft = match kind {
        Kind::Google2011 => google::of_2011(path, &mut reading)?,
        Kind::Google2011Jobs => google2011_jobs::read(path, &mut reading, choices.seed)?,
        Kind::Google2019 => google::of_2019(path, &mut reading)?,
        Kind::Openb => openb::read(path, &mut reading)?,
        Kind::AzureV1 => azure::read(path, &mut reading, choices)?,
        Kind::Swf => swf::read(path, &mut reading, choices)?,
    };
    if choices.machines.is_some() && !matches!(kind, Kind::AzureV1 | Kind::Swf) {
        return Err(format!(
            "a number of machines was given, and a trace of kind {kind} has its own: leave it out"
        )
        .into());
    }
    draft.finish(kind, choices, path, &reading)
}

impl Trace {
    /// What it is, for people.
    #[must_use]
    pub fn name(&self) -> String {
        let Workload { machines, arrivals, .. } = &*self.workload;
        format!("trace {}, {} machines, {} jobs", self.kind, machines.len(), arrivals.len())
    }

    /// What was chosen, by name.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, String)> {
        let Choices { skip_bad, seed, machines } = self.choices;
        let machines = machines.map(|count| ("trace_machines", count.to_string()));
        let named = [("skip_bad", skip_bad.to_string()), ("trace_seed", seed.to_string())];
        named.into_iter().chain(machines).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The moment at which most processor time is asked for, of every five minutes of the trace, or of a thousand
    /// moments of a shorter one.
    #[must_use]
    pub fn busiest(&self) -> Millis {
        let step = STEP.0.min(self.ends.0 / LOOKS).max(1);
        let steps = usize::try_from(self.ends.0 / step).unwrap_or(0) + 1;
        // The first moment that is looked at from this one on.
        let first = |at: Millis| usize::try_from(at.0.div_ceil(step)).unwrap_or(steps).min(steps);
        let mut changes = vec![0i128; steps + 1];
        for arrival in &self.workload.arrivals {
            let cpu = i128::from(arrival.spec.task.limit.cpu_milli);
            for (tasks, run) in arrival.runs.groups(arrival.spec.tasks) {
                let from = first(arrival.at);
                let to = run.map_or(steps, |run| first(arrival.at + run));
                changes[from] += cpu * i128::from(tasks);
                changes[to] -= cpu * i128::from(tasks);
            }
        }
        let (mut asked, mut most, mut at) = (0, 0, 0);
        for (number, change) in (0u64..).zip(&changes[..steps]) {
            asked += change;
            if asked > most {
                (most, at) = (asked, number);
            }
        }
        Millis(at * step)
    }

    /// Machines that are there at a moment, and the jobs that arrived and have tasks that are not over.
    #[must_use]
    pub fn work_at(&self, at: Millis) -> Work {
        let workload = &self.workload;
        let mut away = vec![false; workload.machines.len()];
        for loss in workload.losses.iter().take_while(|loss| loss.at <= at) {
            away[loss.machine] |= loss.back > at;
        }
        let machines = workload.machines.iter().zip(&away);
        let there = machines.filter(|(_, away)| !**away).map(|(machine, _)| machine.clone());
        let arrived = workload.arrivals.iter().take_while(|arrival| arrival.at <= at);
        let jobs = arrived
            .filter_map(|arrival| Some((arrival.owner.clone(), Arc::new(alive(arrival, at)?))));
        Work { machines: there.collect(), jobs: jobs.collect(), tied: 0 }
    }
}

/// A job with those tasks that are not over.
fn alive(arrival: &Arrival, at: Millis) -> Option<JobSpec> {
    let groups = arrival.runs.groups(arrival.spec.tasks);
    let lives = groups.filter(|(_, run)| run.is_none_or(|run| arrival.at + run > at));
    let tasks: u32 = lives.map(|(tasks, _)| tasks).sum();
    let name = arrival.name.parse().ok()?;
    (tasks > 0).then(|| JobSpec { name, tasks, ..JobSpec::clone(&arrival.spec) })
}

#[cfg(test)]
mod tests;
