//! A cell as it is: what is given out to which band, what of the rest can be used, who waits and why.
//!
//! Reads the state and asks the production scheduler about tasks that wait; decides nothing.

use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Table, Value};
use crate::sources::loaded::Loaded;
use borg_cell::state::{CellState, Machine, MachineState};
use borg_proto::resources::Resources;
use borg_proto::{Band, JobId, Millis, TaskId};
use borg_scheduler::{Explanation, Reason, Scheduler};
use std::collections::BTreeMap;

/// Fields along one side of the map of machines: 5 % each.
const FIELDS: usize = 20;
/// Of how many jobs the scheduler is asked why they wait. One question looks at all machines.
const MOST_ASKED: usize = 200;

/// A resource: its name, its unit, and how much there is in that unit.
type Told = (&'static str, &'static str, fn(&Resources) -> f64);
/// What is told of.
const RESOURCES: [Told; 3] =
    [("cpu", "cores", cores), ("memory", "GiB", ram), ("disk", "GiB", disk)];

#[expect(clippy::cast_precision_loss, reason = "told with two digits")]
fn cores(of: &Resources) -> f64 {
    of.cpu_milli as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "told with two digits")]
fn ram(of: &Resources) -> f64 {
    of.ram_bytes as f64 / f64::from(1 << 30)
}

#[expect(clippy::cast_precision_loss, reason = "told with two digits")]
fn disk(of: &Resources) -> f64 {
    of.disk_bytes as f64 / f64::from(1 << 30)
}

/// What a cell looks like.
///
/// # Errors
/// When the cell cannot be made of what was loaded.
pub fn show(loaded: &Loaded) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let rooms = Rooms::of(&state);
    let bands = by_band(&state);
    // To fold a whole cell takes a while, and mostly nobody waits.
    let waiting = match state.pending_len() {
        0 => Vec::new(),
        _ => waiting(&state, &loaded.scheduler(&state)),
    };
    Ok(Answer {
        question: "show".to_owned(),
        provenance: loaded.provenance_of_scheduler(
            Vec::new(),
            vec![("most_asked".to_owned(), MOST_ASKED.to_string())],
        ),
        summary: summary(&state, &rooms),
        tables: vec![rooms.table(), table_of_bands(&bands), table_of_waiting(&waiting)],
        charts: vec![
            rooms.chart(&bands),
            machines_by_use(&state),
            Chart::Bars {
                name: "pending".to_owned(),
                title: "Pending tasks by what most machines lack for them".to_owned(),
                y: Axis { label: "tasks".to_owned(), unit: String::new() },
                parts: vec![String::new()],
                #[expect(clippy::cast_precision_loss, reason = "drawn")]
                bars: waiting.iter().map(|(why, n)| (why.clone(), vec![*n as f64])).collect(),
                stacked: false,
            },
        ],
    })
}

fn summary(state: &CellState, rooms: &Rooms) -> Vec<String> {
    let up = state.machines().filter(|machine| is_up(machine)).count();
    let placed: usize = state.machines().map(|machine| machine.tasks.len()).sum();
    let of = |n: usize| 100.0 * share(rooms.used[n], rooms.capacity[n]);
    let stranded = |n: usize| 100.0 * share(rooms.stranded[n], rooms.capacity[n]);
    vec![
        format!(
            "{} machines; {up} are up, {placed} tasks are placed, {} are pending.",
            state.machines_len(),
            state.pending_len()
        ),
        format!(
            "Limits take {:.1} % of the processors and {:.1} % of the memory; {:.1} % and {:.1} % are stranded: free \
             where another resource is scarcer.",
            of(0),
            of(1),
            stranded(0),
            stranded(1)
        ),
    ]
}

fn is_up(machine: &Machine) -> bool {
    machine.state == MachineState::Up
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// What machines that are up have, by resource: in all, given out by limits, and free without use.
struct Rooms {
    capacity: [f64; 3],
    used: [f64; 3],
    free: [f64; 3],
    stranded: [f64; 3],
}

impl Rooms {
    fn of(state: &CellState) -> Self {
        let mut rooms =
            Self { capacity: [0.0; 3], used: [0.0; 3], free: [0.0; 3], stranded: [0.0; 3] };
        for machine in state.machines().filter(|machine| is_up(machine)) {
            let Some(info) = &machine.info else { continue };
            let [capacity, used, free] = [&info.capacity, &machine.used, &machine.free()]
                .map(|of| RESOURCES.map(|(_, _, amount)| amount(of)));
            let stranded = stranded(free, capacity);
            for n in 0..RESOURCES.len() {
                rooms.capacity[n] += capacity[n];
                rooms.used[n] += used[n];
                rooms.free[n] += free[n];
                rooms.stranded[n] += stranded[n];
            }
        }
        rooms
    }

    fn table(&self) -> Table {
        let row = |(n, (name, unit, _)): (usize, &Told)| {
            let number = |of: f64| Value::Number(of, 1);
            vec![
                (*name).into(),
                (*unit).into(),
                number(self.capacity[n]),
                number(self.used[n]),
                number(self.free[n]),
                number(self.stranded[n]),
                number(100.0 * share(self.stranded[n], self.capacity[n])),
            ]
        };
        Table {
            name: "resources".to_owned(),
            title:
                "Machines that are up, by limits; stranded: free where another resource is scarcer"
                    .to_owned(),
            columns: vec![
                Column::plain("resource"),
                Column::plain("unit"),
                Column::plain("capacity"),
                Column::plain("limits"),
                Column::plain("free"),
                Column::plain("stranded"),
                Column::of("stranded_share", "%"),
            ],
            rows: RESOURCES.iter().enumerate().map(row).collect(),
        }
    }

    /// What each resource is given out to, in percent of what there is.
    fn chart(&self, bands: &[OfBand]) -> Chart {
        let percent = |n: usize, amount: f64| 100.0 * share(amount, self.capacity[n]);
        let bar = |(n, (name, ..)): (usize, &Told)| {
            let given = bands.iter().map(|of| percent(n, of.limits[n]));
            let rest = [self.stranded[n], self.free[n] - self.stranded[n]].map(|of| percent(n, of));
            ((*name).to_owned(), given.chain(rest).collect())
        };
        let bands = bands.iter().map(|of| of.band.to_string());
        Chart::Bars {
            name: "resources".to_owned(),
            title: "What the cell is given out to".to_owned(),
            y: Axis { label: "of all machines that are up".to_owned(), unit: "%".to_owned() },
            parts: bands.chain(["stranded", "free for use"].map(str::to_owned)).collect(),
            bars: RESOURCES.iter().enumerate().map(bar).collect(),
            stacked: true,
        }
    }
}

/// What is free on a machine and cannot be used in proportion: of each resource, how much larger its free share is than
/// the smallest.
fn stranded(free: [f64; 3], capacity: [f64; 3]) -> [f64; 3] {
    let shares = [0, 1, 2].map(|n| share(free[n], capacity[n]));
    // What a machine has nothing of strands nothing.
    let had = shares.iter().zip(capacity).filter(|(_, capacity)| *capacity > 0.0);
    let least = had.map(|(share, _)| *share).fold(1.0, f64::min);
    [0, 1, 2].map(|n| (shares[n] - least).max(0.0) * capacity[n])
}

/// What a band has.
struct OfBand {
    band: Band,
    placed: u64,
    pending: u64,
    limits: [f64; 3],
}

fn by_band(state: &CellState) -> Vec<OfBand> {
    let mut bands = Band::ALL.map(|band| OfBand { band, placed: 0, pending: 0, limits: [0.0; 3] });
    for job in state.jobs() {
        for (id, task) in state.tasks_of(job.id).filter(|(_, task)| !task.is_dead()) {
            let spec = job.spec_of(id.index);
            let of = bands.iter_mut().find(|of| of.band == spec.priority.band());
            let of = of.expect("these are all bands");
            let Some(placement) = task.placement() else {
                of.pending += 1;
                continue;
            };
            of.placed += 1;
            if state.machine(placement.machine).is_some_and(is_up) {
                let asked = spec.asked();
                for (sum, (_, _, amount)) in of.limits.iter_mut().zip(RESOURCES) {
                    *sum += amount(&asked);
                }
            }
        }
    }
    bands.into()
}

fn table_of_bands(bands: &[OfBand]) -> Table {
    let row = |of: &OfBand| {
        let [cpu, ram, disk] = of.limits.map(|sum| Value::Number(sum, 1));
        vec![of.band.to_string().into(), of.placed.into(), of.pending.into(), cpu, ram, disk]
    };
    Table {
        name: "bands".to_owned(),
        title: "Tasks by band, and their limits on machines that are up".to_owned(),
        columns: vec![
            Column::plain("band"),
            Column::plain("placed"),
            Column::plain("pending"),
            Column::of("cpu", "cores"),
            Column::of("memory", "GiB"),
            Column::of("disk", "GiB"),
        ],
        rows: bands.iter().map(row).collect(),
    }
}

/// Machines by how much of each is given out.
fn machines_by_use(state: &CellState) -> Chart {
    let mut counts = vec![vec![0u64; FIELDS]; FIELDS];
    for machine in state.machines().filter(|machine| is_up(machine)) {
        let Some(info) = &machine.info else { continue };
        let field = |used: u64, of: u64| {
            let field = u128::from(used) * FIELDS as u128 / u128::from(of.max(1));
            usize::try_from(field).unwrap_or(FIELDS).min(FIELDS - 1)
        };
        let column = field(machine.used.cpu_milli, info.capacity.cpu_milli);
        let row = field(machine.used.ram_bytes, info.capacity.ram_bytes);
        counts[row][column] += 1;
    }
    let axis = |label: &str| Axis { label: label.to_owned(), unit: "%".to_owned() };
    Chart::Heat {
        name: "machines".to_owned(),
        title: "Machines by processors and memory given out".to_owned(),
        x: axis("limits of processors"),
        y: axis("limits of memory"),
        counts,
    }
}

/// Pending tasks by reason, most first.
pub(super) fn waiting(state: &CellState, scheduler: &Scheduler) -> Vec<(String, u64)> {
    reasons(scheduler, state.pending(), state.clock())
}

/// Tasks that wait by reason, most first: the first task of each job is asked about, as all of a job are alike.
pub(super) fn reasons(
    scheduler: &Scheduler,
    tasks: impl Iterator<Item = TaskId>,
    at: Millis,
) -> Vec<(String, u64)> {
    let mut by_job = BTreeMap::<JobId, (TaskId, u64)>::new();
    for task in tasks {
        by_job.entry(task.job).or_insert((task, 0)).1 += 1;
    }
    let mut by_reason = BTreeMap::<String, u64>::new();
    for (asked, (task, count)) in by_job.into_values().enumerate() {
        let why = if asked < MOST_ASKED {
            reason(&scheduler.explain(task, at))
        } else {
            format!("not asked: only the first {MOST_ASKED} jobs are")
        };
        *by_reason.entry(why).or_default() += count;
    }
    let mut reasons: Vec<_> = by_reason.into_iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons
}

/// What stands in the way on the most machines.
fn reason(told: &Explanation) -> String {
    if told.not_before.is_some() {
        return "waits for a time or for other jobs".to_owned();
    }
    if told.all_or_none {
        return "waits for its gang: all or none".to_owned();
    }
    if told.feasible > 0 {
        return "can be placed, now or with others pushed out".to_owned();
    }
    match told.rejections.first().map(|rejected| &rejected.reason) {
        None => told.summary.clone(),
        Some(Reason::NotUp) => "machines are not up".to_owned(),
        Some(Reason::Closed) => "machines are closed".to_owned(),
        Some(Reason::Kept) => "machines are kept for others".to_owned(),
        Some(Reason::Constraint(constraint)) => format!("constraint {constraint}"),
        Some(Reason::Spread { attribute, .. }) => format!("spread over {attribute}"),
        Some(Reason::Crashed) => "failed there lately".to_owned(),
        Some(Reason::Budget { .. }) => "disruption budgets of others".to_owned(),
        Some(Reason::Short { dimension, .. }) => format!("too little {dimension}"),
        Some(Reason::TooManyTasks { .. }) => "machines have as many tasks as they may".to_owned(),
        Some(Reason::TargetFull { .. }) => "machines are told as much as they may".to_owned(),
    }
}

fn table_of_waiting(waiting: &[(String, u64)]) -> Table {
    Table {
        name: "pending".to_owned(),
        title: "Pending tasks by what most machines lack for them".to_owned(),
        columns: ["reason", "tasks"].map(Column::plain).into(),
        rows: waiting.iter().map(|(why, n)| vec![why.as_str().into(), (*n).into()]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::{info, service};
    use borg_scheduler::Config;
    use std::sync::Arc;

    /// What a table says in the row that begins with a name.
    fn row<'a>(answer: &'a Answer, table: &str, first: &str) -> &'a [Value] {
        let table = answer.tables.iter().find(|one| one.name == table).unwrap();
        table.rows.iter().find(|row| row[0] == Value::from(first)).unwrap()
    }

    fn number(value: &Value) -> f64 {
        match value {
            Value::Number(number, _) => *number,
            other => panic!("{other:?} is no number"),
        }
    }

    #[test]
    fn what_is_given_out_by_band_and_what_is_left_add_up_to_the_cell() {
        let answer = show(&Loaded::made_up(40, 1).unwrap()).unwrap();
        for (n, (name, ..)) in RESOURCES.iter().enumerate() {
            let told: Vec<f64> = row(&answer, "resources", name)[2..6].iter().map(number).collect();
            let [capacity, limits, free, stranded] = told[..] else { panic!("{told:?}") };
            assert!((limits + free - capacity).abs() < 1e-6 && stranded <= free, "{told:?}");
            let bands: f64 = Band::ALL
                .iter()
                .map(|band| number(&row(&answer, "bands", &band.to_string())[3 + n]))
                .sum();
            assert!((bands - limits).abs() < 1e-6, "{name}: {bands} of {limits}");
        }
        let Chart::Heat { counts, .. } = &answer.charts[1] else { panic!("{answer:?}") };
        assert_eq!(counts.iter().flatten().sum::<u64>(), 40);
        let Chart::Bars { bars, .. } = &answer.charts[0] else { panic!("{answer:?}") };
        for (name, parts) in bars {
            assert!((parts.iter().sum::<f64>() - 100.0).abs() < 1e-6, "{name}: {parts:?}");
        }
    }

    /// With all memory of a machine taken its processors are stranded.
    #[test]
    fn what_is_free_beside_nothing_is_stranded_and_who_waits_is_told_for_what() {
        let mut cell = crate::Driven::with_machines(&[info(4_000, 4 << 30, &[])]).unwrap();
        let owner: borg_proto::UserName = "ann".parse().unwrap();
        for spec in [service("full", 1, 1_000, 4 << 30), service("late", 2, 1_000, 4 << 30)] {
            cell.submit(&owner, Arc::new(spec)).unwrap();
        }
        cell.settle(&mut Scheduler::new(&cell.state, Config::default())).unwrap();
        let answer = show(&Loaded::cell("of the test".into(), cell.state, None)).unwrap();
        let cpu = row(&answer, "resources", "cpu");
        assert_eq!([number(&cpu[4]), number(&cpu[5])], [3.0, 3.0], "{answer:?}");
        assert_eq!(row(&answer, "pending", "too little ram")[1], Value::Count(2), "{answer:?}");
    }

    #[test]
    fn a_cell_with_nothing_in_it_can_be_shown() {
        let cell = crate::Driven::with_machines(&[]).unwrap();
        let answer = show(&Loaded::cell("of the test".into(), cell.state, None)).unwrap();
        assert!(answer.summary[0].starts_with("0 machines; 0 are up"), "{answer:?}");
        assert!(crate::reports::html::html(&answer).contains("nothing to show"));
    }
}
