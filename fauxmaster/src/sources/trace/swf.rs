//! The standard workload format of parallel machines: 18 numbers a job, -1 for what is not known; lines that begin with
//! `;` tell of the machine.
//!
//! A job is as many tasks as it had processors, each of one core, started together; larger than a gang may be, they
//! start one by one. Memory of a job that tells none is what its cores have of a machine's.

use super::super::rows::{Reading, Record, Separator, Shape};
use super::super::table::TableError;
use super::super::workload::Runs;
use super::draft::{Asked, Draft, MOST_MACHINES, in_time, room};
use super::{Choices, Error};
use borg_proto::spec::{MAX_GANG, MAX_TASKS};
use borg_proto::{Millis, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const SHAPE: Shape = Shape {
    separator: Separator::Spaces,
    comment: Some(';'),
    head: false,
    columns: &[
        "job_number",
        "submit_time",
        "wait_time",
        "run_time",
        "allocated_processors",
        "average_cpu_time",
        "used_memory",
        "requested_processors",
        "requested_time",
        "requested_memory",
        "status",
        "user_id",
        "group_id",
        "executable",
        "queue",
        "partition",
        "preceding_job",
        "think_time",
    ],
};
const JOB: usize = 0;
const SUBMIT: usize = 1;
const RUN: usize = 3;
const ALLOCATED: usize = 4;
const USED_KB: usize = 6;
const REQUESTED: usize = 7;
const REQUESTED_KB: usize = 9;
const USER: usize = 11;
/// Memory for each core of a machine. 4 GiB: ours, as the format does not tell.
const RAM_PER_CORE: u64 = 4 << 30;
/// All jobs: the format has no priorities.
const PRIORITY: u64 = 100;

/// What the lines with `;` tell.
#[derive(Debug, Default)]
struct Head {
    nodes: Option<u64>,
    processors: Option<u64>,
}

impl Head {
    fn take(&mut self, comment: &str) {
        let Some((name, value)) = comment.trim_start_matches(';').split_once(':') else { return };
        let first = value.split_whitespace().next();
        let number = first.and_then(|word| word.parse().ok()).filter(|count| *count > 0);
        match name.trim() {
            "MaxNodes" => self.nodes = number,
            "MaxProcs" => self.processors = number,
            _ => {}
        }
    }
}

/// A job as the format has it.
struct Job {
    number: u64,
    at: u64,
    /// Seconds; none when it never ran.
    run: u64,
    processors: u32,
    /// KB for each processor.
    memory_kb: Option<u64>,
    user: String,
}

pub(super) fn read(path: &Path, reading: &mut Reading, choices: Choices) -> Result<Draft, Error> {
    let mut head = Head::default();
    let mut jobs = Vec::new();
    let mut numbers = BTreeSet::new();
    let mut never = 0;
    reading.table_with_comments(
        path,
        &SHAPE,
        |text| head.take(text),
        |row| {
            let Some(job) = job(row)? else {
                never += 1;
                return Ok(());
            };
            room(row, JOB, numbers.len())?;
            if !numbers.insert(job.number) {
                return Err(row.field_error(JOB, "a number that no earlier line has"));
            }
            jobs.push(job);
            Ok(())
        },
    )?;
    let mut draft = Draft::new();
    draft.tell("jobs left out, as they never ran", never);
    machines(&mut draft, &head, choices, &jobs)?;
    let begin = jobs.iter().map(|job| job.at).min().unwrap_or(0);
    for job in jobs {
        let asked = Asked {
            priority: PRIORITY,
            cpu_milli: 1_000,
            ram_bytes: job.memory_kb.map_or(RAM_PER_CORE, |kb| kb.saturating_mul(1_024)),
            disk_bytes: 0,
            apart: false,
        };
        let (at, run) = (Millis::from_secs(job.at - begin), Millis::from_secs(job.run));
        let owner = draft.user(&job.user)?;
        let gang = (2..=MAX_GANG).contains(&job.processors);
        draft.lasts(at + run);
        let (name, runs) = (format!("s{}", job.number), Runs::Each(run));
        draft.job(at, owner, name, &asked, job.processors, gang, runs)?;
    }
    Ok(draft)
}

/// A job that ran; its times and processors are what was used, or else what was asked for.
fn job(row: &Record<'_>) -> Result<Option<Job>, TableError> {
    for column in 0..SHAPE.columns.len() {
        let number: f64 = row.value(column, "a number, -1 for unknown")?;
        if !number.is_finite() {
            return Err(row.field_error(column, "a number, -1 for unknown"));
        }
    }
    let known = |column: usize, expected: &str| -> Result<Option<u32>, TableError> {
        let number: i64 = row.value(column, expected)?;
        match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) if number == -1 => Ok(None),
            Err(_) => Err(row.field_error(column, expected)),
        }
    };
    let at = known(SUBMIT, "seconds, 0 or more")?
        .ok_or_else(|| row.field_error(SUBMIT, "seconds, 0 or more"))?;
    let processors = "a number of processors, or -1";
    let processors = match known(ALLOCATED, processors)?.filter(|count| *count > 0) {
        Some(count) => Some(count),
        None => known(REQUESTED, processors)?.filter(|count| *count > 0),
    };
    if processors.is_some_and(|count| count > MAX_TASKS) {
        return Err(row.field_error(ALLOCATED, format!("at most {MAX_TASKS} processors")));
    }
    let memory = "whole KB for each processor, or -1";
    let memory_kb = match known(REQUESTED_KB, memory)?.filter(|kb| *kb > 0) {
        Some(kb) => Some(kb),
        None => known(USED_KB, memory)?.filter(|kb| *kb > 0),
    };
    let run = known(RUN, "seconds, or -1")?.filter(|run| *run > 0);
    in_time(row, SUBMIT, Millis::from_secs(at.into()))?;
    in_time(row, RUN, Millis::from_secs(run.unwrap_or(0).into()))?;
    let number = row.value(JOB, "a number of a job, from 0 on")?;
    Ok(run.zip(processors).map(|(run, processors)| Job {
        number,
        at: at.into(),
        run: run.into(),
        processors,
        memory_kb: memory_kb.map(u64::from),
        user: row.text(USER).to_owned(),
    }))
}

/// As many machines as the head tells, or as was chosen; all processors shared out, the first machines have one more where
/// that does not go out evenly.
fn machines(draft: &mut Draft, head: &Head, choices: Choices, jobs: &[Job]) -> Result<(), Error> {
    let largest = jobs.iter().map(|job| u64::from(job.processors)).max().unwrap_or(1);
    let (count, processors) = match (choices.machines, head.nodes, head.processors) {
        (Some(count), _, processors) => (count.into(), processors.unwrap_or(largest)),
        (None, Some(nodes), processors) => (nodes, processors.unwrap_or(nodes)),
        (None, None, Some(processors)) => (processors, processors),
        (None, None, None) => {
            return Err(
                "the lines with ; tell neither MaxNodes nor MaxProcs: say how many machines \
                        there are with --trace-machines"
                    .into(),
            );
        }
    };
    if count > u64::try_from(MOST_MACHINES)? {
        let why = format!(
            "{count} machines are more than {MOST_MACHINES}: choose fewer with --trace-machines, \
             they share the processors"
        );
        return Err(why.into());
    }
    if count > processors {
        return Err(format!("{count} machines are more than the {processors} processors").into());
    }
    let (each, more) = (processors / count.max(1), processors % count.max(1));
    for number in 0..count {
        let cores = each + u64::from(number < more);
        let capacity = Resources {
            cpu_milli: cores.saturating_mul(1_000),
            ram_bytes: cores.saturating_mul(RAM_PER_CORE),
            ports: 1_000,
            ..Resources::default()
        };
        draft.machine(&format!("m-{number}"), capacity, BTreeMap::new());
    }
    Ok(())
}
