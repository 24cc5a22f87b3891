//! What a stretch of time does to a cell: how full it is, how long work waits, who is pushed out and why.

mod reclaimed;

use super::show::waiting;
use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Point, Series, Table, Value};
use crate::replay::books::{Books, Look, OfBand};
use crate::replay::{Replay, Settings};
use crate::sources::loaded::Loaded;
use crate::sources::workload::{Steady, Workload};
use crate::spread::{Counted, percentile};
use borg_cell::state::CellState;
use borg_proto::{Band, Millis};
use std::ops::ControlFlow;
use std::sync::Arc;

const HOUR_MS: f64 = 3_600_000.0;

/// Which stretch of time.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The load of it.
    pub load: Steady,
    /// What happens before is left out of the answer: the cell fills up meanwhile.
    pub from: Millis,
    /// How it is replayed.
    pub settings: Settings,
}

/// What became of a replay.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The answer.
    pub answer: Answer,
    /// The cell as it was in the end.
    pub state: CellState,
    /// When that was, if it was stopped before its time.
    pub stopped: Option<Millis>,
}

/// Replays a trace, or a steady workload made of the work of a cell ([`Workload::steady`]). `tell` hears how far it is, and may
/// stop it there: the answer is of the time until then.
///
/// # Errors
/// When there is no work, nothing is left to tell of, the state refuses a job, or state and scheduler disagree.
pub fn replay(
    loaded: &Loaded,
    options: &Options,
    tell: impl Fn(&str) -> ControlFlow<()>,
) -> Result<Replayed, Error> {
    let (lasts, from) = (options.load.lasts, options.from);
    if from >= lasts {
        let (from, lasts) = (hours(from), hours(lasts));
        let why =
            format!("from {from:.1} h: nothing is left of {lasts:.1} h; begin before the end");
        return Err(why.into());
    }
    let mut replay = Replay::new(workload(loaded, &options.load)?, options.settings)?;
    let mut at = Millis(0);
    let mut stopped = None;
    while at < lasts && stopped.is_none() {
        let end = if at < from { from } else { lasts };
        at = (at + options.settings.every).min(end);
        replay.run_until(at)?;
        let far = format!("{:.1} h: {} events", hours(at), replay.books.counts.events());
        stopped = tell(&far).is_break().then_some(at).filter(|at| *at < lasts);
        if at == from {
            replay.books.begin_anew();
        }
    }
    if at < from {
        let (at, from) = (hours(at), hours(from));
        return Err(
            format!("stopped at {at:.1} h: there is nothing to tell before {from:.1} h").into()
        );
    }
    let answer = answer(loaded, options, &replay, at);
    Ok(Replayed { answer, state: replay.state().clone(), stopped })
}

/// What is replayed.
fn workload(loaded: &Loaded, load: &Steady) -> Result<Arc<Workload>, Error> {
    if let Some(trace) = loaded.as_trace() {
        if load.losses_a_month > 0 {
            let why = format!(
                "losses a month: {}; machines of a trace are lost as it tells: leave it out",
                load.losses_a_month
            );
            return Err(why.into());
        }
        if load.batch_percent != 100 {
            let percent = load.batch_percent;
            let why = format!("batch work: {percent} %; a trace has its own: leave it out");
            return Err(why.into());
        }
        return Ok(Arc::clone(&trace.workload));
    }
    let work = loaded.work();
    if work.jobs.is_empty() {
        return Err("there is no work in the cell: nothing to replay".into());
    }
    Workload::steady(work, load).map(Arc::new)
}

#[expect(clippy::cast_precision_loss, reason = "told with few digits")]
fn hours(time: Millis) -> f64 {
    time.0 as f64 / HOUR_MS
}

fn answer(loaded: &Loaded, options: &Options, replay: &Replay, end: Millis) -> Answer {
    let books = &replay.books;
    let parameters = [
        ("every_ms", options.settings.every.0),
        ("from_ms", options.from.0),
        ("gather_ms", options.settings.gather.0),
        ("hours_ms", options.load.lasts.0),
        ("losses_a_month", options.load.losses_a_month),
        ("batch_percent", options.load.batch_percent),
        ("shortest_ms", options.load.shortest.0),
        ("startup_ms", options.settings.startup.0),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_string()));
    let mut parameters = parameters.to_vec();
    let mut tables = vec![counts(books), waits(books), evictions(books)];
    tables.extend(refused(books));
    tables.extend([still(replay), over_time(books)]);
    let mut charts = vec![how_full(books), who_waits(books)];
    if let Some(reclaim) = &options.settings.reclaim {
        parameters.push(("reclaim".to_owned(), reclaimed::named(reclaim)));
        tables.splice(0..0, [reclaimed::steps(books, reclaim), reclaimed::throttled(books)]);
        charts.splice(0..0, reclaimed::charts(books));
    }
    Answer {
        question: "replay".to_owned(),
        provenance: loaded.provenance(vec![options.load.seed], parameters),
        summary: summary(books, options, end),
        tables,
        charts,
    }
}

fn summary(books: &Books, options: &Options, end: Millis) -> Vec<String> {
    let counts = books.counts;
    let evictions: u64 = books.bands.iter().filter(|(band, _)| band.is_prod()).map(evicted).sum();
    let mean = |of: fn(&Look) -> f64| {
        let shares: Vec<f64> = books.looks.iter().map(of).collect();
        percentile(&shares, 50)
    };
    let mut told = vec![
        format!(
            "{:.1} hours: {} jobs submitted, {} tasks placed, {} ended, {} pushed out, {} of them of production.",
            hours(end.since(options.from)),
            counts.submits,
            counts.placements,
            counts.ends,
            counts.evictions,
            evictions
        ),
        format!(
            "Half of the time limits took {:.1} % of the processors and {:.1} % of the memory or more.",
            mean(cpu),
            mean(ram)
        ),
    ];
    told.extend(reclaimed::told(books));
    if end < options.load.lasts {
        let (end, lasts) = (hours(end), hours(options.load.lasts));
        told.push(format!(
            "Stopped at {end:.1} h of {lasts:.1} h: all this is of the time until then."
        ));
    }
    told
}

fn evicted((_, of): (&Band, &OfBand)) -> u64 {
    of.evictions.values().sum()
}

#[expect(clippy::cast_precision_loss, reason = "told with few digits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn cpu(look: &Look) -> f64 {
    percent(look.cpu_limits, look.cpu_milli)
}

fn ram(look: &Look) -> f64 {
    percent(look.ram_limits, look.ram_bytes)
}

fn counts(books: &Books) -> Table {
    let counts = books.counts;
    let rows = [
        ("jobs submitted", counts.submits),
        ("tasks placed", counts.placements),
        ("tasks up", counts.starts),
        ("tasks ended", counts.ends),
        ("tasks pushed out", counts.evictions),
        ("tasks failed", counts.failures),
        ("decisions refused", counts.refused),
        ("passes of the scheduler", counts.passes),
    ];
    Table {
        name: "counts".to_owned(),
        title: "What happened".to_owned(),
        columns: vec![Column::plain("what"), Column::plain("times")],
        rows: rows.into_iter().map(|(what, times)| vec![what.into(), times.into()]).collect(),
    }
}

fn waits(books: &Books) -> Table {
    let seconds = |waits: &Counted| -> Vec<Value> {
        #[expect(clippy::cast_precision_loss, reason = "told with few digits")]
        let told = |ms: u64| Value::Number(ms as f64 / 1e3, 1);
        let at = |percent| waits.percentile(percent).map_or(Value::Nothing, told);
        vec![Value::Count(waits.count()), at(50), at(90), at(99), at(100)]
    };
    let row = |(band, first, waits): (&Band, &str, &Counted)| {
        [vec![band.name().into(), first.into()], seconds(waits)].concat()
    };
    let both = books
        .bands
        .iter()
        .flat_map(|(band, of)| [(band, "first", &of.waits), (band, "again", &of.waits_again)]);
    Table {
        name: "waits".to_owned(),
        title:
            "From pending to placed, by band: for the first time, and after having been pushed out"
                .to_owned(),
        columns: vec![
            Column::plain("band"),
            Column::plain("placed"),
            Column::plain("tasks"),
            Column::of("p50", "s"),
            Column::of("p90", "s"),
            Column::of("p99", "s"),
            Column::of("most", "s"),
        ],
        rows: both.map(row).collect(),
    }
}

fn evictions(books: &Books) -> Table {
    let mut rows = Vec::new();
    for (band, of) in &books.bands {
        for (cause, times) in &of.evictions {
            #[expect(clippy::cast_precision_loss, reason = "told with few digits")]
            let rate = *times as f64 * 1e3 / (of.placed_ms as f64 / HOUR_MS).max(1e-9);
            rows.push(vec![
                band.name().into(),
                (*cause).into(),
                (*times).into(),
                Value::Number(rate, 3),
            ]);
        }
    }
    Table {
        name: "evictions".to_owned(),
        title: "Tasks pushed out, by band and cause".to_owned(),
        columns: vec![
            Column::plain("band"),
            Column::plain("cause"),
            Column::plain("tasks"),
            Column::of("rate", "per 1,000 task hours"),
        ],
        rows,
    }
}

/// Jobs that never came in, if there are any.
fn refused(books: &Books) -> Option<Table> {
    let rows = books.refused.iter().map(|(why, jobs)| vec![why.as_str().into(), (*jobs).into()]);
    (!books.refused.is_empty()).then(|| Table {
        name: "refused".to_owned(),
        title: "Jobs that the cell refused, by reason".to_owned(),
        columns: vec![Column::plain("why"), Column::plain("jobs")],
        rows: rows.collect(),
    })
}

/// Who waits at the end.
fn still(replay: &Replay) -> Table {
    let rows = waiting(replay.state(), replay.scheduler()).into_iter();
    Table {
        name: "waiting".to_owned(),
        title: "Tasks that wait at the end, by what most machines lack for them".to_owned(),
        columns: vec![Column::plain("why"), Column::plain("tasks")],
        rows: rows.map(|(why, tasks)| vec![why.into(), tasks.into()]).collect(),
    }
}

fn over_time(books: &Books) -> Table {
    let row = |look: &Look| {
        vec![
            Value::Number(hours(look.at), 3),
            look.machines.into(),
            Value::Number(cpu(look), 2),
            Value::Number(ram(look), 2),
            look.placed.into(),
            look.pending.into(),
        ]
    };
    Table {
        name: "over_time".to_owned(),
        title: "How full the cell is by limits, over time".to_owned(),
        columns: vec![
            Column::of("at", "h"),
            Column::plain("machines_up"),
            Column::of("cpu", "%"),
            Column::of("memory", "%"),
            Column::plain("placed"),
            Column::plain("pending"),
        ],
        rows: books.looks.iter().map(row).collect(),
    }
}

fn curve(name: &str, books: &Books, of: fn(&Look) -> f64) -> Series {
    let point = |look: &Look| Point { x: hours(look.at), y: of(look), between: None };
    Series { name: name.to_owned(), points: books.looks.iter().map(point).collect() }
}

fn axis(label: &str, unit: &str) -> Axis {
    Axis { label: label.to_owned(), unit: unit.to_owned() }
}

fn how_full(books: &Books) -> Chart {
    Chart::Lines {
        name: "allocated".to_owned(),
        title: "Given out by limits".to_owned(),
        x: axis("time", "h"),
        y: axis("share of the machines that are up", "%"),
        series: vec![curve("processors", books, cpu), curve("memory", books, ram)],
    }
}

fn who_waits(books: &Books) -> Chart {
    #[expect(clippy::cast_precision_loss, reason = "drawn")]
    let pending = |look: &Look| look.pending as f64;
    Chart::Lines {
        name: "pending_tasks".to_owned(),
        title: "Tasks that wait".to_owned(),
        x: axis("time", "h"),
        y: axis("tasks", ""),
        series: vec![curve("pending", books, pending)],
    }
}
