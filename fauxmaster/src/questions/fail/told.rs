//! What is told of the loss of machines: of all losses together, and of the worst in full.

use super::outage::{Hit, Outcome, Room};
use super::{Loss, Options};
use crate::answer::{Answer, Axis, Chart, Column, Point, Series, Spread, Table, Value};
use crate::parallel;
use crate::sources::loaded::Loaded;
use crate::spread::Counted;
use borg_cell::state::CellState;
use borg_proto::{Band, JobId, Millis};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Jobs that are told of one by one; the sums count all. 200: our choice, more than a person reads.
const NAMED: usize = 200;

pub(super) fn answer(
    loaded: &Loaded,
    options: &Options,
    state: &CellState,
    lived: &[(String, Outcome)],
) -> Answer {
    let (name, worst) = &lived[0];
    let seeds = match &options.loss {
        Loss::Random { first_seed, seeds, .. } => parallel::seeds(*first_seed, *seeds),
        Loss::Machines(_) | Loss::Domain { .. } | Loss::EachDomain { .. } => Vec::new(),
    };
    let lost = match &options.loss {
        Loss::Machines(_) | Loss::Domain { .. } => name.clone(),
        Loss::EachDomain { attribute } => format!("each {attribute}"),
        Loss::Random { machines, .. } => format!("random {machines}"),
    };
    let parameters = vec![
        ("lost".to_owned(), lost),
        ("startup_ms".to_owned(), options.startup.0.to_string()),
        ("within_ms".to_owned(), options.within.0.to_string()),
    ];
    let mut tables = Vec::new();
    if lived.len() > 1 {
        tables.push(losses(lived));
    }
    tables.extend([bands(worst), jobs(state, worst), waiting(worst), rooms(worst)]);
    let mut charts = vec![down_over_time(name, worst, options.within), before_and_after(worst)];
    if lived.len() > 1 {
        charts.insert(0, spread(lived));
    }
    let mut provenance = loaded.provenance_of_scheduler(seeds, parameters);
    if state.lends() && loaded.known().is_none() {
        let note = "what tasks lend is not known: everybody is taken to need the whole limit, so less fits than in the cell";
        provenance.notes.push(note.to_owned());
    }
    Answer {
        question: "fail".to_owned(),
        provenance,
        summary: summary(options, lived),
        tables,
        charts,
    }
}

fn summary(options: &Options, lived: &[(String, Outcome)]) -> Vec<String> {
    let (name, worst) = &lived[0];
    let mut told = Vec::new();
    if lived.len() > 1 {
        let down = Counted::of(lived.iter().map(|(_, outcome)| outcome.hits.len() as u64));
        let at = |percent| down.percentile(percent).unwrap_or(0);
        told.push(format!(
            "{} losses: {} tasks down (median, {} to {}); the worst is {name}.",
            lived.len(),
            at(50),
            at(0),
            at(100)
        ));
    }
    let lost = worst.hits.values().filter(|hit| hit.lost).count();
    let pushed = worst.hits.len() - lost;
    let placed = Counted::of(worst.hits.values().filter_map(waited));
    told.push(format!(
        "{name}: {} machines and {lost} tasks go down, {pushed} others are pushed out to make room.",
        worst.machines
    ));
    if worst.over > 0 {
        told.push(format!("{} tasks of daemons are over with their machines.", worst.over));
    }
    let last = placed.percentile(100).unwrap_or(0);
    let never = worst.hits.values().filter(|hit| hit.placed.is_none()).count();
    told.push(if worst.hits.is_empty() {
        "No task has to be placed again.".to_owned()
    } else if never == 0 {
        format!("All are placed again within {:.1} s.", seconds(last))
    } else {
        let (within, placed) = (seconds(options.within.0), placed.count());
        format!("{placed} are placed again; {never} are not within {within:.0} s.")
    });
    if worst.safe_mode {
        told.push(format!(
            "So much is silent at once that the leader takes it for a fault of the network: safe mode, and {} machines \
             are not given up until an operator says so (borgctl machines give-up).",
            worst.silent
        ));
    } else if let Some(at) = worst.given_up {
        told.push(format!("The last machine is given up after {:.1} s.", seconds(at.0)));
    } else {
        told.push(format!("{} machines are not given up yet in the end.", worst.silent));
    }
    told
}

/// How long a task was down until it was placed for good.
fn waited(hit: &Hit) -> Option<u64> {
    Some(hit.placed?.since(hit.since).0)
}

/// The same until it was up.
fn was_down(hit: &Hit) -> Option<u64> {
    Some(hit.up?.since(hit.since).0)
}

#[expect(clippy::cast_precision_loss, reason = "told with few digits")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// Percentiles of times in seconds; nothing of none.
fn times(of: &Counted) -> [Value; 3] {
    [50, 99, 100].map(|percent| {
        of.percentile(percent).map_or(Value::Nothing, |ms| Value::Number(seconds(ms), 1))
    })
}

fn time_columns(what: &str) -> [Column; 3] {
    ["p50", "p99", "most"].map(|part| Column::of(&format!("{what}_{part}"), "s"))
}

/// Each loss, the worst first.
fn losses(lived: &[(String, Outcome)]) -> Table {
    let row = |(name, outcome): &(String, Outcome)| {
        let hits = || outcome.hits.values();
        let count = |is: fn(&Hit) -> bool| hits().filter(|hit| is(hit)).count() as u64;
        let counts = [
            outcome.machines,
            count(|hit| hit.lost),
            count(|hit| hit.lost && hit.band.is_prod()),
            count(|hit| !hit.lost),
            count(|hit| hit.placed.is_none()),
        ];
        let placed = times(&Counted::of(hits().filter_map(waited)));
        let counts = counts.into_iter().map(Value::Count);
        std::iter::once(Value::from(name.as_str())).chain(counts).chain(placed).collect()
    };
    let columns = ["lost", "machines", "tasks_down", "production", "pushed_out", "not_placed"];
    Table {
        name: "losses".to_owned(),
        title: "Each loss, the worst first: production that is not up again, all that is not, all that was down"
            .to_owned(),
        columns: columns.map(Column::plain).into_iter().chain(time_columns("placed")).collect(),
        rows: lived.iter().map(row).collect(),
    }
}

fn bands(outcome: &Outcome) -> Table {
    let row = |band: Band| {
        let hits = || outcome.hits.values().filter(move |hit| hit.band == band);
        let lost = hits().filter(|hit| hit.lost).count() as u64;
        let never = hits().filter(|hit| hit.placed.is_none()).count() as u64;
        let placed = times(&Counted::of(hits().filter_map(waited)));
        let up = times(&Counted::of(hits().filter_map(was_down)));
        let counts = [lost, hits().count() as u64 - lost, never].map(Value::Count);
        let row = std::iter::once(Value::from(band.name())).chain(counts).chain(placed).chain(up);
        (hits().next().is_some()).then(|| row.collect())
    };
    let columns = ["band", "tasks_down", "pushed_out", "not_placed"].map(Column::plain);
    let times = time_columns("placed").into_iter().chain(time_columns("up"));
    Table {
        name: "bands".to_owned(),
        title: "Tasks that go down, by band, and how long until they are placed and up again"
            .to_owned(),
        columns: columns.into_iter().chain(times).collect(),
        rows: Band::ALL.into_iter().filter_map(row).collect(),
    }
}

/// What a loss does to a job.
#[derive(Debug, Default)]
struct OfJob {
    lost: u64,
    pushed: u64,
    never: u64,
    down: Counted,
}

fn jobs(state: &CellState, outcome: &Outcome) -> Table {
    let mut by_job = BTreeMap::<JobId, OfJob>::new();
    for (task, hit) in &outcome.hits {
        let of = by_job.entry(task.job).or_default();
        of.lost += u64::from(hit.lost);
        of.pushed += u64::from(!hit.lost);
        of.never += u64::from(hit.placed.is_none());
        if let Some(ms) = was_down(hit) {
            of.down.add(ms);
        }
    }
    let all = by_job.len();
    let mut jobs: Vec<_> =
        by_job.into_iter().filter_map(|(id, of)| Some((state.job(id)?, of))).collect();
    jobs.sort_by(|(a, of_a), (b, of_b)| {
        let key = |job: &borg_cell::state::Job, of: &OfJob| {
            let tasks = u64::from(job.slots()).max(1);
            (Reverse(job.priority()), Reverse((of.lost + of.pushed) * 10_000 / tasks))
        };
        key(a, of_a).cmp(&key(b, of_b)).then_with(|| a.key.cmp(&b.key))
    });
    let row = |(job, of): &(&borg_cell::state::Job, OfJob)| {
        let tasks = u64::from(job.slots());
        let budget = job.spec.effective_disruption().map(|budget| budget.most.of(job.spec.tasks));
        #[expect(clippy::cast_precision_loss, reason = "told with few digits")]
        let share = (of.lost + of.pushed) as f64 * 100.0 / tasks.max(1) as f64;
        let budget = budget.map_or(Value::Nothing, |most| Value::Count(most.into()));
        let longest =
            of.down.percentile(100).map_or(Value::Nothing, |ms| Value::Number(seconds(ms), 1));
        vec![
            Value::Text(job.key.to_string()),
            job.priority().band().name().into(),
            tasks.into(),
            of.lost.into(),
            of.pushed.into(),
            Value::Number(share, 1),
            budget,
            of.never.into(),
            longest,
        ]
    };
    Table {
        name: "jobs".to_owned(),
        title: match all > NAMED {
            true => format!("The first {NAMED} of {all} jobs that lose tasks"),
            false => "Jobs that lose tasks".to_owned(),
        },
        columns: vec![
            Column::plain("job"),
            Column::plain("band"),
            Column::plain("tasks"),
            Column::plain("down"),
            Column::plain("pushed_out"),
            Column::of("share", "%"),
            Column::plain("budget"),
            Column::plain("not_placed"),
            Column::of("longest_down", "s"),
        ],
        rows: jobs.iter().take(NAMED).map(row).collect(),
    }
}

fn waiting(outcome: &Outcome) -> Table {
    Table {
        name: "waiting".to_owned(),
        title: "Tasks that wait in the end, by what most machines lack for them".to_owned(),
        columns: ["reason", "tasks"].map(Column::plain).into(),
        rows: outcome
            .waiting
            .iter()
            .map(|(why, n)| vec![why.as_str().into(), (*n).into()])
            .collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "told with few digits")]
fn rooms(outcome: &Outcome) -> Table {
    let row = |(when, room): (&str, &Room)| {
        let cores = |milli: u64| Value::Number(milli as f64 / 1e3, 1);
        let gib = |bytes: u64| Value::Number(bytes as f64 / f64::from(1 << 30), 1);
        vec![
            when.into(),
            room.machines.into(),
            cores(room.capacity.cpu_milli),
            cores(room.limits.cpu_milli),
            gib(room.capacity.ram_bytes),
            gib(room.limits.ram_bytes),
        ]
    };
    Table {
        name: "machines".to_owned(),
        title: "Machines that the cell takes for up, before and after".to_owned(),
        columns: vec![
            Column::plain("when"),
            Column::plain("machines"),
            Column::of("cpu", "cores"),
            Column::of("cpu_limits", "cores"),
            Column::of("memory", "GiB"),
            Column::of("memory_limits", "GiB"),
        ],
        rows: [("before", &outcome.before), ("after", &outcome.after)].map(row).into(),
    }
}

/// How many tasks are down at each moment, of production and of all others.
fn down_over_time(name: &str, outcome: &Outcome, within: Millis) -> Chart {
    let series = |label: &str, prod: bool| {
        let mut steps = BTreeMap::<Millis, i64>::new();
        for hit in outcome.hits.values().filter(|hit| hit.band.is_prod() == prod) {
            *steps.entry(hit.since).or_default() += 1;
            if let Some(up) = hit.up {
                *steps.entry(up).or_default() -= 1;
            }
        }
        let mut points = Vec::new();
        let mut down = 0;
        let mut add = |at: Millis, y: i64| {
            #[expect(clippy::cast_precision_loss, reason = "drawn")]
            points.push(Point { x: seconds(at.0), y: y as f64, between: None });
        };
        for (at, step) in steps {
            add(at, down);
            down += step;
            add(at, down);
        }
        add(within, down);
        Series { name: label.to_owned(), points }
    };
    let axis = |label: &str, unit: &str| Axis { label: label.to_owned(), unit: unit.to_owned() };
    Chart::Lines {
        name: "down".to_owned(),
        title: format!("Tasks that are down after the loss of {name}"),
        x: axis("after the loss", "s"),
        y: axis("tasks", ""),
        series: vec![series("production", true), series("others", false)],
    }
}

fn before_and_after(outcome: &Outcome) -> Chart {
    #[expect(clippy::cast_precision_loss, reason = "drawn")]
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    let bar = |(when, room): (&str, &Room)| {
        let cpu = percent(room.limits.cpu_milli, room.capacity.cpu_milli);
        let ram = percent(room.limits.ram_bytes, room.capacity.ram_bytes);
        (when.to_owned(), vec![cpu, ram])
    };
    Chart::Bars {
        name: "limits".to_owned(),
        title: "Given out by limits, of machines that the cell takes for up".to_owned(),
        y: Axis { label: "share".to_owned(), unit: "%".to_owned() },
        parts: ["cpu", "memory"].map(str::to_owned).into(),
        bars: [("before", &outcome.before), ("after", &outcome.after)].map(bar).into(),
        stacked: false,
    }
}

/// How far losses differ.
fn spread(lived: &[(String, Outcome)]) -> Chart {
    #[expect(clippy::cast_precision_loss, reason = "drawn")]
    let one = |name: &str, of: fn(&Outcome) -> usize| Spread {
        name: name.to_owned(),
        samples: lived.iter().map(|(_, outcome)| of(outcome) as f64).collect(),
        bound: None,
    };
    Chart::Boxes {
        name: "losses".to_owned(),
        title: "How far the losses differ".to_owned(),
        y: Axis { label: "tasks".to_owned(), unit: String::new() },
        boxes: vec![
            one("down", |outcome| outcome.hits.values().filter(|hit| hit.lost).count()),
            one("pushed out", |outcome| outcome.hits.values().filter(|hit| !hit.lost).count()),
            one("not placed", |outcome| {
                outcome.hits.values().filter(|hit| hit.placed.is_none()).count()
            }),
        ],
    }
}
