//! The Google trace of 2011 condensed to a line for each job, with what its tasks were drawn from counts.
//!
//! Exact are when a job came, how long it ran, whose it was, and the machines. Drawn are:
//!
//! | of a job | drawn from | |
//! |---|---|---|
//! | priority | distinct tasks by priority; class 3 among 9 to 11, all others among 0 to 8 | ours |
//! | tasks | doublings, 600 of 1,000 jobs go on to the next; then all of a priority are scaled to its distinct tasks | ours |
//! | rounds | placements of its priority for each distinct task | the trace has crashes and evictions that come again: a job arrives again after its share of the time |
//! | sizes | as in the made-up cell, 75 % of it on the average of the month | Borg paper, section 2.1 |
//!
//! Tasks of a job run for as long as the job did, split into its rounds.

use super::super::borg_like::{LARGEST_CPU_MILLI, LARGEST_RAM_MIB, Mix, job_size, sizes};
use super::super::rows::{Reading, Record, Shape};
use super::super::table::TableError;
use super::super::workload::Runs;
use super::draft::{Asked, Draft, MOST_MACHINES, in_time, room};
use super::google::priority_of_2011;
use crate::Error;
use borg_proto::{Millis, Resources};
use borg_sim::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const JOBS: &str = "jobs_compact.csv.gz";
const MACHINES: &str = "machine-dist-cpu-memory-capacity.csv";
const PRIORITIES: &str = "priority-task-life-cycle.csv";
const JOB_SHAPE: Shape =
    Shape::named(&["job_id", "submit_us", "schedule_us", "end_us", "scheduling_class", "user_ix"]);
const MACHINE_SHAPE: Shape = Shape::named(&["cpu", "memory", "number_of_machines"]);
const PRIORITY_SHAPE: Shape =
    Shape::named(&["priority", "scheduled_task_count", "distinct_task_count"]);
/// Of 1,000 jobs with at least so many tasks, how many have twice as many: gives the 38 tasks a job of the trace.
const DOUBLES: u64 = 600;
/// Most tasks of a job before scaling, and after. Ours.
const LARGEST: u32 = 8_191;
const MOST_TASKS: u64 = 20_000;
/// From here on the number of tasks has three significant bits after its first, so that jobs share specifications.
const EXACT: u32 = 16;
/// Different sizes in a priority. 64: ours, so that jobs share specifications.
const SIZES: usize = 64;
/// Disk of every task: ours.
const DISK: u64 = 1 << 30;
/// Scheduling class of services that answer users: those are production.
const SERVING: u8 = 3;
/// From this priority of 2011 on work is production.
const PRODUCTION: u64 = 9;

/// A job as it is read.
struct Job {
    number: u64,
    user: u32,
    at: Millis,
    /// For how long it ran; none when it ran at the end of the trace.
    run: Option<Millis>,
    class: u8,
    /// Place in the priorities, tasks, and place in the sizes of all priorities: drawn.
    priority: usize,
    tasks: u32,
    size: usize,
}

/// What is counted of a priority.
struct OfPriority {
    priority: u64,
    placements: u64,
    tasks: u64,
}

pub(super) fn read(folder: &Path, reading: &mut Reading, seed: u64) -> Result<Draft, Error> {
    let mut draft = Draft::new();
    let machines = machines(&folder.join(MACHINES), reading, &mut draft)?;
    let priorities = priorities(&folder.join(PRIORITIES), reading)?;
    let mut jobs = jobs(&folder.join(JOBS), reading, &mut draft)?;
    let mut dice = Dice::new(seed);
    give_priorities(&mut jobs, &priorities, &mut dice);
    give_tasks(&mut jobs, &priorities, &mut dice);
    let sizes = draw_sizes(&jobs, &priorities, &machines, draft.end(), &mut dice);
    let mut placements = 0;
    for job in &jobs {
        let of = &priorities[job.priority];
        let (cpu_milli, ram_mib) = sizes[job.size];
        let asked = Asked {
            priority: priority_of_2011(of.priority).unwrap_or(0),
            cpu_milli,
            ram_bytes: ram_mib << 20,
            disk_bytes: DISK,
            apart: false,
        };
        let rounds = rounds(job, of, &mut dice);
        let owner = draft.user(&job.user.to_string())?;
        for round in 0..rounds {
            let name = format!("g{}-{round}", job.number);
            let (at, runs) = match job.run {
                None => (job.at, Runs::Forever),
                Some(run) => {
                    let each = Millis((run.0 / rounds).max(1));
                    (Millis(job.at.0 + round * each.0), Runs::Each(each))
                }
            };
            draft.job(at, owner.clone(), name, &asked, job.tasks, false, runs)?;
            placements += u64::from(job.tasks);
        }
    }
    draft.tell("tasks were drawn, as the trace has jobs only", placements);
    Ok(draft)
}

fn machines(
    path: &Path,
    reading: &mut Reading,
    draft: &mut Draft,
) -> Result<Vec<Resources>, TableError> {
    const SHARE: &str = "a share of the largest machine with at most 5 digits, as 0.2493";
    let mut found = Vec::new();
    reading.table(path, &MACHINE_SHAPE, |row| {
        let share = |column: usize, largest: u64| {
            let value: f64 = row.value(column, SHARE)?;
            if !(0.0..=1.0).contains(&value) {
                return Err(row.field_error(column, SHARE));
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 100,000, as was looked at above"
            )]
            let parts = (value * 1e5).round() as u64;
            Ok(largest * parts / 100_000)
        };
        let capacity = Resources {
            cpu_milli: share(0, LARGEST_CPU_MILLI)?,
            ram_bytes: share(1, LARGEST_RAM_MIB)? << 20,
            disk_bytes: 4 << 40,
            ports: 1_000,
            ..Resources::default()
        };
        let count: usize = row.value(2, "a number of machines")?;
        if found.len().saturating_add(count) > MOST_MACHINES {
            return Err(row.field_error(2, format!("at most {MOST_MACHINES} machines in all")));
        }
        for _ in 0..count {
            draft.machine(&format!("m-{}", found.len()), capacity.clone(), BTreeMap::new());
            found.push(capacity.clone());
        }
        Ok(())
    })?;
    Ok(found)
}

fn priorities(path: &Path, reading: &mut Reading) -> Result<Vec<OfPriority>, Error> {
    let mut found = Vec::new();
    reading.table(path, &PRIORITY_SHAPE, |row| {
        let priority: u64 = row.value(0, "a priority, 0 to 11")?;
        if priority_of_2011(priority).is_none() {
            return Err(row.field_error(0, "a priority, 0 to 11"));
        }
        let [placements, tasks] =
            [1, 2].map(|column| row.value::<u32>(column, "a number of tasks"));
        found.push(OfPriority { priority, placements: placements?.into(), tasks: tasks?.into() });
        Ok(())
    })?;
    for production in [true, false] {
        let tasks = found.iter().filter(|of| (of.priority >= PRODUCTION) == production);
        if tasks.map(|of| of.tasks).sum::<u64>() == 0 {
            let range = if production { "9 to 11" } else { "0 to 8" };
            let path = path.display();
            return Err(format!("{path}: there are no tasks of priorities {range}").into());
        }
    }
    Ok(found)
}

fn jobs(path: &Path, reading: &mut Reading, draft: &mut Draft) -> Result<Vec<Job>, TableError> {
    let mut numbers = BTreeSet::new();
    let mut found = Vec::new();
    let mut never = 0;
    reading.table(path, &JOB_SHAPE, |row| {
        let number: u64 = row.value(0, "a number of a job")?;
        let at: u64 = row.value(1, "microseconds, 0 or more")?;
        let millis = |micros: u64| Millis(micros / 1_000);
        let (placed, end) = (known(row, 2)?, known(row, 3)?);
        const CLASS: &str = "a scheduling class, 0 to 3";
        let (class, user) = (row.value(4, CLASS)?, row.value(5, "a number of a user")?);
        if class > 3 {
            return Err(row.field_error(4, CLASS));
        }
        let Some(placed) = placed else {
            never += 1;
            return Ok(());
        };
        in_time(row, 2, millis(placed))?;
        in_time(row, 3, millis(end.unwrap_or(0)))?;
        if placed < at {
            return Err(row.field_error(2, "a time from submit_us on, or -1"));
        }
        if end.is_some_and(|end| end < placed) {
            return Err(row.field_error(3, "a time from schedule_us on, or -1"));
        }
        room(row, 0, numbers.len())?;
        if !numbers.insert(number) {
            return Err(row.field_error(0, "a number that no earlier line has"));
        }
        draft.lasts(millis(end.unwrap_or(placed)));
        found.push(Job {
            number,
            user,
            at: millis(at),
            run: end.map(|end| millis(end - placed).max(Millis(1))),
            class,
            priority: 0,
            tasks: 0,
            size: 0,
        });
        Ok(())
    })?;
    draft.tell("jobs left out, as they were never placed", never);
    Ok(found)
}

/// Microseconds, or none for -1.
fn known(row: &Record<'_>, column: usize) -> Result<Option<u64>, TableError> {
    let expected = "microseconds, 0 or more, or -1";
    let micros: i64 = row.value(column, expected)?;
    match u64::try_from(micros) {
        Ok(micros) => Ok(Some(micros)),
        Err(_) if micros == -1 => Ok(None),
        Err(_) => Err(row.field_error(column, expected)),
    }
}

fn give_priorities(jobs: &mut [Job], priorities: &[OfPriority], dice: &mut Dice) {
    let of = |serving: bool| {
        let weights = priorities
            .iter()
            .map(|of| if (of.priority >= PRODUCTION) == serving { of.tasks } else { 0 });
        weights.collect::<Vec<u64>>()
    };
    let (serving, other) = (of(true), of(false));
    for job in jobs {
        job.priority = weighted(if job.class == SERVING { &serving } else { &other }, dice);
    }
}

/// A place, as often as its weight says; there is one of more than nothing.
fn weighted(weights: &[u64], dice: &mut Dice) -> usize {
    let mut at = dice.below(weights.iter().sum::<u64>().max(1));
    let found = weights.iter().position(|weight| {
        let here = at < *weight;
        at = at.saturating_sub(*weight);
        here
    });
    found.unwrap_or(0)
}

fn give_tasks(jobs: &mut [Job], priorities: &[OfPriority], dice: &mut Dice) {
    let mut drawn = vec![0; priorities.len()];
    for job in &mut *jobs {
        job.tasks = job_size(DOUBLES, LARGEST, dice);
        drawn[job.priority] += u64::from(job.tasks);
    }
    for job in jobs {
        let scaled = u64::from(job.tasks) * priorities[job.priority].tasks;
        // By chance up or down, so that small jobs are not all rounded the same way.
        let all = drawn[job.priority];
        let tasks = ((scaled + dice.below(all)) / all).clamp(1, MOST_TASKS);
        job.tasks = coarse(u32::try_from(tasks).unwrap_or(1));
        job.size = job.priority * SIZES + dice.index(SIZES);
    }
}

/// A number close to this one; there are few of them.
fn coarse(tasks: u32) -> u32 {
    if tasks < EXACT {
        return tasks;
    }
    let step = (1 << tasks.ilog2()) / 8;
    tasks - tasks % step + step / 2
}

/// [`SIZES`] sizes for each priority, by how many tasks there are of each on the average.
fn draw_sizes(
    jobs: &[Job],
    priorities: &[OfPriority],
    machines: &[Resources],
    end: Millis,
    dice: &mut Dice,
) -> Vec<(u64, u64)> {
    let mut task_ms = vec![0u128; priorities.len() * SIZES];
    for job in jobs {
        let left = end.since(job.at);
        let run = job.run.unwrap_or(left).min(left);
        task_ms[job.size] += u128::from(run.0) * u128::from(job.tasks);
    }
    let of = priorities.iter().flat_map(|of| [priority_of_2011(of.priority).unwrap_or(0); SIZES]);
    let at_a_time = task_ms.into_iter().map(|task_ms| task_ms / u128::from(end.0.max(1)));
    let tasks = at_a_time.map(|tasks| u32::try_from(tasks).unwrap_or(u32::MAX).max(1));
    sizes(&of.zip(tasks).collect::<Vec<_>>(), machines.iter(), Mix::BORG, dice)
}

/// How often a job comes: as often as a task of its priority was placed. One that is there at the end comes once.
fn rounds(job: &Job, of: &OfPriority, dice: &mut Dice) -> u64 {
    if job.run.is_none() || of.tasks == 0 {
        return 1;
    }
    ((of.placements + dice.below(of.tasks)) / of.tasks).max(1)
}
