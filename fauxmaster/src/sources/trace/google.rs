//! Tables of the public Google traces: what happened to machines and to instances of jobs, in order of time.
//!
//! Sizes are shares of the largest machine, which the traces do not tell: [`LARGEST_CPU_MILLI`] and
//! [`LARGEST_RAM_MIB`] here, as in the made-up cells.

mod lives;
mod machines;

use super::super::borg_like::{LARGEST_CPU_MILLI, LARGEST_RAM_MIB};
use super::super::rows::{Reading, Record, Shape, parts};
use super::super::table::TableError;
use super::draft::{Asked, Draft, in_time, room};
use crate::Error;
use borg_proto::Millis;
use lives::{Change, Lives};
use machines::Machines;
use std::collections::BTreeMap;
use std::path::Path;

/// Disk of the largest machine. 4 TiB: ours, as in the made-up cells.
const LARGEST_DISK: u64 = 4 << 40;
/// What a time is, in both traces.
const MICROS: &str = "microseconds, 0 or more";
/// Stands for a time after the end of the trace.
const AFTER_THE_END: u64 = (1 << 63) - 1;
/// What a size is.
const SHARE: &str = "a share of the largest machine, 0 to 1";
/// What is said of rows out of order.
const IN_ORDER: &str = "a time from that of the row before on: order the rows by time";

/// A cell's disk, memory or processor time as a share of the largest.
fn of_largest(row: &Record<'_>, column: usize, largest: u64) -> Result<Option<u64>, TableError> {
    // A millionth is as fine as the tables are; whole numbers from there on.
    let Some(share) = row.maybe::<f64>(column, SHARE)? else { return Ok(None) };
    if !(0.0..=1.0).contains(&share) {
        return Err(row.field_error(column, SHARE));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1,000,000, as was looked at above"
    )]
    let millionths = (share * 1e6).round() as u64;
    let amount = u128::from(millionths) * u128::from(largest) / 1_000_000;
    Ok(u64::try_from(amount).ok())
}

fn cpu(row: &Record<'_>, column: usize) -> Result<Option<u64>, TableError> {
    of_largest(row, column, LARGEST_CPU_MILLI)
}

fn ram(row: &Record<'_>, column: usize) -> Result<Option<u64>, TableError> {
    of_largest(row, column, LARGEST_RAM_MIB << 20)
}

/// Rows come in order of time; those after the end of the trace say nothing.
#[derive(Debug, Default)]
struct Clock {
    last: Millis,
}

impl Clock {
    /// When a row is of; none after the end.
    fn read(&mut self, row: &Record<'_>, column: usize) -> Result<Option<Millis>, TableError> {
        let micros: u64 = row.value(column, MICROS)?;
        if micros >= AFTER_THE_END {
            return Ok(None);
        }
        let at = in_time(row, column, Millis(micros / 1_000))?;
        if at < self.last {
            return Err(row.field_error(column, IN_ORDER));
        }
        self.last = at;
        Ok(Some(at))
    }
}

const MACHINES_2011: Shape = Shape::placed(&[
    "timestamp",
    "machine_id",
    "event_type",
    "platform_id",
    "capacity_cpu",
    "capacity_memory",
]);
const TASKS_2011: Shape = Shape::placed(&[
    "timestamp",
    "missing_info",
    "job_id",
    "task_index",
    "machine_id",
    "event_type",
    "user",
    "scheduling_class",
    "priority",
    "cpu_request",
    "memory_request",
    "disk_space_request",
    "different_machines_restriction",
]);
const EVENT_2011: &str = "an event, 0 to 8";

/// The trace of 2011: a folder with `machine_events` and `task_events`.
pub(super) fn of_2011(folder: &Path, reading: &mut Reading) -> Result<Draft, Error> {
    let mut draft = Draft::new();
    let mut machines = Machines::default();
    let mut clock = Clock::default();
    for path in parts(folder, "machine_events")? {
        reading.table(&path, &MACHINES_2011, |row| {
            let Some(at) = clock.read(row, 0)? else { return Ok(()) };
            let event = match row.text(2) {
                "0" => machines::Event::Add,
                "1" => machines::Event::Remove,
                "2" => machines::Event::Update,
                _ => return Err(row.field_error(2, "an event, 0 to 2")),
            };
            let capacity = machines::capacity(cpu(row, 4)?, ram(row, 5)?);
            machines.take(row, 1, at, event, capacity, [("platform", row.text(3))], &mut draft)
        })?;
    }
    machines.finish(&mut draft);
    let mut lives = Lives::default();
    let mut clock = Clock::default();
    for path in parts(folder, "task_events")? {
        reading.table(&path, &TASKS_2011, |row| {
            let Some(at) = clock.read(row, 0)? else { return Ok(()) };
            let change = match row.text(5) {
                "0" => Change::Submit,
                "1" => Change::Schedule,
                "2" | "3" | "4" | "5" | "6" => Change::End,
                "7" | "8" => Change::Update,
                _ => return Err(row.field_error(5, EVENT_2011)),
            };
            let instance = lives.instance(row, [2, 3], row.text(6))?;
            lives.take(row, 5, instance, at, change, || asked_2011(row))
        })?;
    }
    lives.finish(draft)
}

fn asked_2011(row: &Record<'_>) -> Result<Asked, TableError> {
    let priority: u64 = row.value(8, "a priority, 0 to 11")?;
    Ok(Asked {
        priority: priority_of_2011(priority)
            .ok_or_else(|| row.field_error(8, "a priority, 0 to 11"))?,
        cpu_milli: cpu(row, 9)?.unwrap_or(0),
        ram_bytes: ram(row, 10)?.unwrap_or(0),
        disk_bytes: of_largest(row, 11, LARGEST_DISK)?.unwrap_or(0),
        apart: row.text(12) == "1",
    })
}

/// Priorities of 2011 in bands of today: 0 and 1 are free, 2 to 8 batch, 9 and 11 production, 10 monitoring.
pub(super) fn priority_of_2011(priority: u64) -> Option<u64> {
    match priority {
        0 | 1 => Some(priority),
        2..=8 => Some(100 + priority),
        9 => Some(200),
        10 => Some(360),
        11 => Some(300),
        _ => None,
    }
}

const MACHINES_2019: Shape = Shape::named(&[
    "time",
    "machine_id",
    "type",
    "capacity.cpus|capacity_cpus|cpus",
    "capacity.memory|capacity_memory|memory",
    "switch_id?",
    "platform_id?",
]);
const COLLECTIONS_2019: Shape = Shape::named(&["collection_id", "user|logical_name"]);
const INSTANCES_2019: Shape = Shape::named(&[
    "time",
    "type",
    "collection_id",
    "instance_index",
    "priority",
    "resource_request.cpus|resource_request_cpus|cpus",
    "resource_request.memory|resource_request_memory|memory",
    "alloc_collection_id?",
]);
const EVENT_2019: &str = "an event of the schema, 0 to 10 or its name";

/// The trace of 2019: a folder with `machine_events`, `instance_events`, and, if it is there, `collection_events`.
pub(super) fn of_2019(folder: &Path, reading: &mut Reading) -> Result<Draft, Error> {
    let mut draft = Draft::new();
    let mut machines = Machines::default();
    let mut clock = Clock::default();
    for path in parts(folder, "machine_events")? {
        reading.table(&path, &MACHINES_2019, |row| {
            let Some(at) = clock.read(row, 0)? else { return Ok(()) };
            let event = match row.text(2) {
                "1" | "ADD" => machines::Event::Add,
                "2" | "REMOVE" => machines::Event::Remove,
                "3" | "UPDATE" => machines::Event::Update,
                _ => return Err(row.field_error(2, "1 ADD, 2 REMOVE or 3 UPDATE")),
            };
            let capacity = machines::capacity(cpu(row, 3)?, ram(row, 4)?);
            let attributes = [("switch", row.text(5)), ("platform", row.text(6))];
            machines.take(row, 1, at, event, capacity, attributes, &mut draft)
        })?;
    }
    machines.finish(&mut draft);
    let users = users_2019(folder, reading)?;
    let mut lives = Lives::default();
    let mut clock = Clock::default();
    let mut inside = 0;
    for path in parts(folder, "instance_events")? {
        reading.table(&path, &INSTANCES_2019, |row| {
            let Some(at) = clock.read(row, 0)? else { return Ok(()) };
            let change = change_2019(row)?;
            if !matches!(row.text(7), "" | "0") {
                inside += u64::from(change == Change::Submit);
                return Ok(());
            }
            let job: u64 = row.value(2, "a number of a collection")?;
            let user = users.get(&job).map_or("", String::as_str);
            let instance = lives.instance(row, [2, 3], user)?;
            lives.take(row, 1, instance, at, change, || asked_2019(row))
        })?;
    }
    draft.tell("tasks left out, as they stood in the room of an alloc set", inside);
    lives.finish(draft)
}

/// Who owns which collection.
fn users_2019(folder: &Path, reading: &mut Reading) -> Result<BTreeMap<u64, String>, TableError> {
    let mut users = BTreeMap::new();
    let files = match parts(folder, "collection_events") {
        Err(TableError::NoTable { .. }) => return Ok(users),
        found => found?,
    };
    for path in files {
        reading.table(&path, &COLLECTIONS_2019, |row| {
            let job: u64 = row.value(0, "a number of a collection")?;
            if !users.contains_key(&job) {
                room(row, 0, users.len())?;
                users.insert(job, row.text(1).to_owned());
            }
            Ok(())
        })?;
    }
    Ok(users)
}

fn change_2019(row: &Record<'_>) -> Result<Change, TableError> {
    Ok(match row.text(1) {
        "0" | "SUBMIT" => Change::Submit,
        "1" | "QUEUE" | "2" | "ENABLE" => Change::Nothing,
        "3" | "SCHEDULE" => Change::Schedule,
        "4" | "EVICT" | "5" | "FAIL" | "6" | "FINISH" | "7" | "KILL" | "8" | "LOST" => Change::End,
        "9" | "UPDATE_PENDING" | "10" | "UPDATE_RUNNING" => Change::Update,
        _ => return Err(row.field_error(1, EVENT_2019)),
    })
}

fn asked_2019(row: &Record<'_>) -> Result<Asked, TableError> {
    let priority: u64 = row.value(4, "a priority, 0 to 450")?;
    if priority > 450 {
        return Err(row.field_error(4, "a priority, 0 to 450"));
    }
    Ok(Asked {
        priority,
        cpu_milli: cpu(row, 5)?.unwrap_or(0),
        ram_bytes: ram(row, 6)?.unwrap_or(0),
        disk_bytes: 0,
        apart: false,
    })
}
