//! A cell as it is: what is given to whom, what is stranded, who waits and why, and how full machines are.

use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Table, Value};
use crate::sources::loaded::Loaded;
use borg_cell::state::{CellState, Machine};
use borg_proto::{Band, Millis, Resources};
use borg_scheduler::{Config, Scheduler};
use std::collections::BTreeMap;

/// Fields of the heat map along each side.
const FIELDS: usize = 20;
/// A resource: its name, and how much of it there is.
type Shown = (&'static str, fn(&Resources) -> u64);
/// Resources that are shown.
const SHOWN: [Shown; 3] =
    [("cpu", |r| r.cpu_milli), ("memory", |r| r.ram_bytes), ("disk", |r| r.disk_bytes)];

/// Shows a cell.
///
/// # Errors
/// When the cell cannot be made of what was loaded.
pub fn show(loaded: &Loaded) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let all = capacity(&state);
    let bands = by_band(&state);
    let stranded = stranded(&state);
    let reasons = pending_reasons(&state);
    let machines = state.machines().count();
    let share = |part: u64, whole: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let percent = part as f64 * 100.0 / whole.max(1) as f64;
        percent
    };
    let used: Vec<f64> = (0..SHOWN.len())
        .map(|n| share(bands.values().map(|amounts| amounts[n]).sum(), all[n]))
        .collect();
    let waiting = state.pending_len();
    let band_rows = bands.iter().map(|(band, amounts)| {
        let mut row = vec![Value::from(band.to_string())];
        row.extend((0..SHOWN.len()).map(|n| Value::Number(share(amounts[n], all[n]), 1)));
        row
    });
    let stranded_rows = SHOWN.iter().enumerate().map(|(n, (name, _))| {
        vec![
            Value::from(*name),
            Value::Number(used[n], 1),
            Value::Number(share(stranded[n], all[n]), 1),
        ]
    });
    let percent =
        |names: &[&str]| names.iter().map(|name| Column::of(name, "%")).collect::<Vec<_>>();
    let bar = |(band, amounts): (&Band, &[u64; 3])| {
        (band.to_string(), (0..SHOWN.len()).map(|n| share(amounts[n], all[n])).collect())
    };
    Ok(Answer {
        question: "show".to_owned(),
        provenance: loaded.provenance(Vec::new(), Vec::new()),
        summary: vec![
            format!(
                "{machines} machines; limits of what is placed take {:.1} % of the processor time and {:.1} % of the memory.",
                used[0], used[1]
            ),
            format!("{waiting} tasks wait."),
        ],
        tables: vec![
            Table {
                name: "bands".to_owned(),
                title: "Limits of placed tasks, by band, of the cell".to_owned(),
                columns: [vec![Column::plain("band")], percent(&["cpu", "memory", "disk"])]
                    .concat(),
                rows: band_rows.collect(),
            },
            Table {
                name: "resources".to_owned(),
                title:
                    "Given away and stranded: free on machines on which another resource is scarcer"
                        .to_owned(),
                columns: [vec![Column::plain("resource")], percent(&["given", "stranded"])]
                    .concat(),
                rows: stranded_rows.collect(),
            },
            Table {
                name: "pending".to_owned(),
                title: "Who waits, by what stops most machines".to_owned(),
                columns: ["reason", "tasks"].map(Column::plain).into(),
                rows: reasons
                    .iter()
                    .map(|(reason, tasks)| vec![reason.as_str().into(), (*tasks).into()])
                    .collect(),
            },
        ],
        charts: vec![
            Chart::Heat {
                name: "machines".to_owned(),
                title: "Machines by how full they are".to_owned(),
                x: Axis { label: "processor time given".to_owned(), unit: "%".to_owned() },
                y: Axis { label: "memory given".to_owned(), unit: "%".to_owned() },
                counts: heat(&state),
            },
            Chart::Bars {
                name: "bands".to_owned(),
                title: "Limits of placed tasks, by band".to_owned(),
                y: Axis { label: "of the cell".to_owned(), unit: "%".to_owned() },
                parts: SHOWN.map(|(name, _)| name.to_owned()).into(),
                bars: bands.iter().rev().map(bar).collect(),
                stacked: false,
            },
            Chart::Bars {
                name: "stranded".to_owned(),
                title: "Stranded".to_owned(),
                y: Axis { label: "of the cell".to_owned(), unit: "%".to_owned() },
                parts: vec![String::new()],
                bars: (0..SHOWN.len())
                    .map(|n| (SHOWN[n].0.to_owned(), vec![share(stranded[n], all[n])]))
                    .collect(),
                stacked: false,
            },
            Chart::Bars {
                name: "pending".to_owned(),
                title: "Tasks that wait, by what stops most machines".to_owned(),
                y: Axis { label: "tasks".to_owned(), unit: String::new() },
                parts: vec![String::new()],
                #[expect(clippy::cast_precision_loss, reason = "counts of tasks are small")]
                bars: reasons
                    .iter()
                    .map(|(reason, tasks)| (reason.clone(), vec![*tasks as f64]))
                    .collect(),
                stacked: false,
            },
        ],
    })
}

/// What all machines have.
fn capacity(state: &CellState) -> [u64; 3] {
    let infos = || state.machines().filter_map(|machine| machine.info.as_ref());
    SHOWN.map(|(_, of)| infos().map(|info| of(&info.capacity)).sum())
}

/// Limits of placed tasks that hold room of their machine, by band.
fn by_band(state: &CellState) -> BTreeMap<Band, [u64; 3]> {
    let mut bands: BTreeMap<Band, [u64; 3]> = Band::ALL.map(|band| (band, [0; 3])).into();
    for job in state.jobs().filter(|job| job.is_alive() && job.spec.alloc_set.is_none()) {
        for (id, task) in state.tasks_of(job.id) {
            if task.placement().is_some() {
                let limit = &job.task_spec(id.index).limit;
                let sums = bands.entry(job.priority().band()).or_default();
                for (sum, (_, of)) in sums.iter_mut().zip(SHOWN) {
                    *sum += of(limit);
                }
            }
        }
    }
    bands
}

/// What is free and cannot be used in proportion: on each machine, of each resource, how much larger its free share is
/// than the smallest.
pub(crate) fn stranded(state: &CellState) -> [u64; 3] {
    let mut sums = [0; 3];
    for (machine, capacity) in known(state) {
        // In millionths of the machine.
        let free = SHOWN.map(|(_, of)| {
            let (all, used) = (of(capacity), of(&machine.used));
            u128::from(all.saturating_sub(used)) * 1_000_000 / u128::from(all.max(1))
        });
        let least = free.into_iter().min().unwrap_or(0);
        for ((sum, share), (_, of)) in sums.iter_mut().zip(free).zip(SHOWN) {
            let amount = u128::from(of(capacity)) * (share - least) / 1_000_000;
            *sum += u64::try_from(amount).unwrap_or(u64::MAX);
        }
    }
    sums
}

fn known(state: &CellState) -> impl Iterator<Item = (&Machine, &Resources)> {
    state.machines().filter_map(|machine| Some((machine, &machine.info.as_ref()?.capacity)))
}

/// Tasks that wait, by the reason for which most machines refuse the first of their job: the scheduler's own words.
fn pending_reasons(state: &CellState) -> Vec<(String, u64)> {
    let mut jobs = BTreeMap::<_, (_, u64)>::new();
    for task in state.pending() {
        jobs.entry(task.job).or_insert((task, 0)).1 += 1;
    }
    if jobs.is_empty() {
        return Vec::new();
    }
    let scheduler = Scheduler::new(state, Config::default());
    let now = state.jobs().map(|job| job.submitted_at).max().unwrap_or(Millis(0));
    let mut reasons = BTreeMap::<String, u64>::new();
    for (task, many) in jobs.into_values() {
        let told = scheduler.explain(task, now);
        let first = told.rejections.first().map(|one| one.reason.to_string());
        *reasons.entry(first.unwrap_or(told.summary)).or_default() += many;
    }
    let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons
}

fn heat(state: &CellState) -> Vec<Vec<u64>> {
    let mut counts = vec![vec![0; FIELDS]; FIELDS];
    for (machine, capacity) in known(state) {
        let field = |used: u64, all: u64| {
            let at = u128::from(used) * FIELDS as u128 / u128::from(all.max(1));
            usize::try_from(at).unwrap_or(FIELDS).min(FIELDS - 1)
        };
        let column = field(machine.used.cpu_milli, capacity.cpu_milli);
        let row = field(machine.used.ram_bytes, capacity.ram_bytes);
        counts[row][column] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_adds_up_to_what_the_machines_hold() {
        let loaded = Loaded::made_up(40, 2).unwrap();
        let state = loaded.state().unwrap();
        let bands = by_band(&state);
        for (n, (name, of)) in SHOWN.iter().enumerate() {
            let held: u64 = state.machines().map(|machine| of(&machine.used)).sum();
            assert_eq!(bands.values().map(|amounts| amounts[n]).sum::<u64>(), held, "{name}");
        }
        assert_eq!(heat(&state).iter().flatten().sum::<u64>(), 40);
        let answer = show(&loaded).unwrap();
        let waits: u64 = pending_reasons(&state).iter().map(|(_, tasks)| tasks).sum();
        assert_eq!(waits, state.pending_len() as u64);
        assert_eq!((answer.tables.len(), answer.charts.len()), (3, 4));
    }
}
