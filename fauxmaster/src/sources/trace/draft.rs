//! A trace while it is read: jobs of few distinct shapes, machines that come and go, what was left out.

use super::super::common::{job_of, machine_of};
use super::super::rows::{Reading, Record};
use super::super::table::TableError;
use super::super::workload::{Arrival, Loss, Runs, Workload};
use super::{Choices, Kind, Trace};
use crate::Error;
use borg_proto::spec::{MAX_TASKS, Spread};
use borg_proto::{
    JobSpec, MachineInfo, Millis, NameError, Priority, Resources, TaskSpec, UserName,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Most jobs of a trace. 5 million: our choice; the largest public one has half of that in a cell.
pub(super) const MOST_JOBS: usize = 5_000_000;
/// Most machines of a trace: our choice, ten times the largest cells.
pub(in super::super) const MOST_MACHINES: usize = 100_000;
/// Most reasons that jobs are refused for which are told apart. 20: our choice.
const REASONS: usize = 20;
/// When a machine is back that the trace never tells of again.
const NEVER: Millis = Millis(u64::MAX);

/// Latest time of a trace. Ten years: our choice; a replay of a time that is wrong would go on until then.
pub(super) const LATEST: Millis = Millis::from_secs(10 * 365 * 86_400);
/// What is said of later ones.
pub(super) const IN_TIME: &str = "a time in the first ten years";

/// That a time, which a row has in a column, is none of a trace that never ends.
pub(super) fn in_time(row: &Record<'_>, column: usize, at: Millis) -> Result<Millis, TableError> {
    if at > LATEST { Err(row.field_error(column, IN_TIME)) } else { Ok(at) }
}

/// That there are no more jobs than [`MOST_JOBS`], with this row, which names one in a column.
pub(super) fn room(row: &Record<'_>, column: usize, jobs: usize) -> Result<(), TableError> {
    if jobs < MOST_JOBS {
        return Ok(());
    }
    Err(row.field_error(column, format!("one of at most {MOST_JOBS} jobs")))
}

/// What tasks of a job ask for: what is equal here is one specification in memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    pub(super) priority: u64,
    pub(super) cpu_milli: u64,
    pub(super) ram_bytes: u64,
    pub(super) disk_bytes: u64,
    /// No two of the job on one machine.
    pub(super) apart: bool,
}

/// A trace while it is read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    machines: Vec<(String, MachineInfo)>,
    /// Machines that are away, and since when, by place.
    away: BTreeMap<usize, Millis>,
    losses: Vec<Loss>,
    arrivals: Vec<Arrival>,
    tasks: BTreeMap<Asked, Arc<TaskSpec>>,
    specs: BTreeMap<(Asked, u32, bool), Arc<JobSpec>>,
    users: BTreeMap<String, UserName>,
    /// Jobs that a cell would refuse, by reason.
    refused: BTreeMap<String, u64>,
    /// What was left out or assumed, how often.
    told: BTreeMap<String, u64>,
    ends: Millis,
}

impl Draft {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The trace goes on at least until this moment.
    pub(super) fn lasts(&mut self, until: Millis) {
        self.ends = self.ends.max(until);
    }

    /// When the trace is over, as far as is known.
    pub(super) fn end(&self) -> Millis {
        self.ends
    }

    /// Something was left out or assumed.
    pub(super) fn tell(&mut self, what: &str, times: u64) {
        if times > 0 {
            *self.told.entry(what.to_owned()).or_default() += times;
        }
    }

    /// A machine that is there from the beginning. Gives its place.
    pub(super) fn machine(
        &mut self,
        name: &str,
        capacity: Resources,
        attributes: BTreeMap<String, String>,
    ) -> usize {
        self.machines.push((name.to_owned(), machine_of(capacity, attributes)));
        self.machines.len() - 1
    }

    /// How many machines there are.
    pub(super) fn machines(&self) -> usize {
        self.machines.len()
    }

    /// A machine is not there from this moment on.
    pub(super) fn lose(&mut self, machine: usize, at: Millis) {
        self.away.entry(machine).or_insert(at);
    }

    /// A machine is there again.
    pub(super) fn regain(&mut self, machine: usize, back: Millis) {
        if let Some(at) = self.away.remove(&machine) {
            self.losses.push(Loss { at, machine, back });
        }
    }

    /// A user by a name of ours, as those of traces are scrambled.
    pub(super) fn user(&mut self, name: &str) -> Result<UserName, NameError> {
        if let Some(known) = self.users.get(name) {
            return Ok(known.clone());
        }
        let user = UserName::new(&format!("u{}", self.users.len()))?;
        self.users.insert(name.to_owned(), user.clone());
        Ok(user)
    }

    /// A job arrives; a `gang` starts all its tasks together.
    #[expect(clippy::too_many_arguments, reason = "what an arrival is made of")]
    pub(super) fn job(
        &mut self,
        at: Millis,
        owner: UserName,
        name: String,
        asked: &Asked,
        tasks: u32,
        gang: bool,
        runs: Runs,
    ) -> Result<(), Error> {
        match self.spec(asked, tasks, gang)? {
            Ok(spec) => self.arrive(Arrival { at, owner, spec, name, runs }),
            Err(why) => {
                self.refuse(why);
                Ok(())
            }
        }
    }

    /// A cell would refuse a job. Reasons have values in them: only so many are told apart.
    fn refuse(&mut self, why: String) {
        let known = self.refused.contains_key(&why) || self.refused.len() < REASONS;
        let why = if known { why } else { "other reasons".to_owned() };
        *self.refused.entry(why).or_default() += 1;
    }

    /// A job arrives.
    pub(super) fn arrive(&mut self, arrival: Arrival) -> Result<(), Error> {
        if self.arrivals.len() == MOST_JOBS {
            return Err(
                format!("the trace has more than {MOST_JOBS} jobs: read a part of it").into()
            );
        }
        self.lasts(arrival.at);
        self.arrivals.push(arrival);
        Ok(())
    }

    /// The specification of such a job, or why a cell would refuse it.
    fn spec(
        &mut self,
        asked: &Asked,
        tasks: u32,
        gang: bool,
    ) -> Result<Result<Arc<JobSpec>, String>, Error> {
        if !(1..=MAX_TASKS).contains(&tasks) {
            return Ok(Err(format!("not 1 to {MAX_TASKS} tasks")));
        }
        let key = (asked.clone(), tasks, gang);
        if let Some(known) = self.specs.get(&key) {
            return Ok(Ok(Arc::clone(known)));
        }
        let limit = Resources {
            cpu_milli: asked.cpu_milli,
            ram_bytes: asked.ram_bytes,
            disk_bytes: asked.disk_bytes,
            ..Resources::default()
        };
        let mut spec = job_of("job", tasks, limit)?;
        spec.priority = Priority::new(asked.priority)?;
        spec.gang = gang;
        if asked.apart {
            let task = Arc::make_mut(&mut spec.task);
            task.spread = vec![Spread { attribute: "machine".to_owned(), max: 1 }];
        }
        let task = self.tasks.entry(asked.clone()).or_insert_with(|| Arc::clone(&spec.task));
        spec.task = Arc::clone(task);
        if let Err(error) = spec.check() {
            return Ok(Err(error.to_string()));
        }
        let spec = Arc::new(spec);
        self.specs.insert(key, Arc::clone(&spec));
        Ok(Ok(spec))
    }

    /// The trace as a workload.
    ///
    /// # Errors
    /// When there is no machine or no job in it.
    pub(super) fn finish(
        mut self,
        kind: Kind,
        choices: Choices,
        path: &Path,
        reading: &Reading,
    ) -> Result<Trace, Error> {
        for (machine, at) in std::mem::take(&mut self.away) {
            self.losses.push(Loss { at, machine, back: NEVER });
        }
        self.losses.sort_by_key(|loss| (loss.at, loss.machine));
        self.arrivals.sort_by_key(|arrival| arrival.at);
        let mut notes = reading.skipped.told();
        let missing = match (self.machines.is_empty(), self.arrivals.is_empty()) {
            (true, _) => Some("machine"),
            (_, true) => Some("job"),
            (false, false) => None,
        };
        if let Some(what) = missing {
            let skipped: String = notes.iter().map(|note| format!("; {note}")).collect();
            let rows = reading.rows;
            return Err(format!(
                "{}: there is no {what} in the trace, {rows} rows were read{skipped}",
                path.display()
            )
            .into());
        }
        let large = too_large(&self.machines, &self.arrivals);
        self.tell("tasks asked for more than any machine has: they stay pending", large);
        let refused = self.refused.iter();
        notes.extend(
            refused
                .map(|(why, jobs)| format!("{jobs} jobs left out, as a cell refuses them: {why}")),
        );
        notes.extend(self.told.iter().map(|(what, times)| format!("{times} {what}")));
        let workload =
            Workload { machines: self.machines, arrivals: self.arrivals, losses: self.losses };
        Ok(Trace {
            kind,
            choices,
            workload: Arc::new(workload),
            ends: Millis(self.ends.0 + 1),
            digest: reading.digest(),
            notes,
        })
    }
}

/// How many tasks ask for more of something than any machine has.
fn too_large(machines: &[(String, MachineInfo)], arrivals: &[Arrival]) -> u64 {
    let mut most = Resources::default();
    for (_, info) in machines {
        let has = &info.capacity;
        most.cpu_milli = most.cpu_milli.max(has.cpu_milli);
        most.ram_bytes = most.ram_bytes.max(has.ram_bytes);
        most.disk_bytes = most.disk_bytes.max(has.disk_bytes);
        for (device, amount) in &has.devices {
            let known = most.devices.entry(device.clone()).or_default();
            *known = (*known).max(*amount);
        }
    }
    let large = |limit: &Resources| {
        limit.cpu_milli > most.cpu_milli
            || limit.ram_bytes > most.ram_bytes
            || limit.disk_bytes > most.disk_bytes
            || limit.devices.iter().any(|(device, asked)| most.devices.get(device) < Some(asked))
    };
    let too_large = arrivals.iter().filter(|arrival| large(&arrival.spec.task.limit));
    too_large.map(|arrival| u64::from(arrival.spec.tasks)).sum()
}
