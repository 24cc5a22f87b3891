//! What is used and lent in a replay: over time, and for each step of a plan.

use super::{axis, hours, percent};
use crate::answer::{Chart, Column, Point, Series, Table, Value};
use crate::replay::books::Books;
use crate::replay::reclaim::{LOOK, Lent, Reclaim};
use crate::spread::median;
use borg_proto::reclamation::{Amounts, NumberSet};
use borg_proto::{Band, Millis};

/// An amount of the two that are told of.
type Of = fn(Amounts) -> u64;
const CPU: Of = |amounts| amounts.cpu_milli;
const RAM: Of = |amounts| amounts.ram_bytes;

fn capacity(lent: &Lent, of: Of) -> u64 {
    of(lent.sums.capacity)
}

fn limits(lent: &Lent, of: Of) -> f64 {
    percent(of(lent.sums.prod.plus(lent.sums.others).limits), capacity(lent, of))
}

fn reserved(lent: &Lent, of: Of) -> f64 {
    percent(of(lent.sums.prod.plus(lent.sums.others).reserved), capacity(lent, of))
}

fn used(lent: &Lent, of: Of) -> f64 {
    percent(of(lent.sums.prod.plus(lent.sums.others).used), capacity(lent, of))
}

/// Share of all limits that goes beyond what machines have.
fn beyond(lent: &Lent, of: Of) -> f64 {
    let all = of(lent.sums.prod.plus(lent.sums.others).limits);
    percent(of(lent.sums.reclaimed), all)
}

/// A plan, as a parameter of the answer.
pub(super) fn named(reclaim: &Reclaim) -> String {
    let step = |(from, set): &(Millis, NumberSet)| format!("{set} from {:.1} h", hours(*from));
    let steps: Vec<String> = reclaim.plan.iter().map(step).collect();
    format!("{}, use {}", steps.join(", "), reclaim.load.name())
}

/// A line of the summary, where anything was looked at.
pub(super) fn told(books: &Books) -> Option<String> {
    if books.lent.is_empty() {
        return None;
    }
    let median_of = |what: fn(&Lent, Of) -> f64, of| {
        median(&books.lent.iter().map(|lent| what(lent, of)).collect::<Vec<_>>())
    };
    let killed: u64 = books.bands.values().map(|of| of.out_of_memory).sum();
    let prod = books.bands.iter().filter(|(band, _)| band.is_prod());
    let prod: u64 = prod.map(|(_, of)| of.out_of_memory).sum();
    Some(format!(
        "Used is {:.1} % of the processors and {:.1} % of the memory, reserved {:.1} % and {:.1} % (medians); {:.1} % of \
         what limits promise in processors, {:.1} % in memory, is beyond what machines have. {killed} tasks ended as \
         machines ran out of memory, {prod} of them of production.",
        median_of(used, CPU),
        median_of(used, RAM),
        median_of(reserved, CPU),
        median_of(reserved, RAM),
        median_of(beyond, CPU),
        median_of(beyond, RAM)
    ))
}

/// What a rate that is seen in one look comes to until the next.
#[expect(clippy::cast_precision_loss, reason = "told with few digits")]
fn core_hours(milli: u64) -> f64 {
    milli as f64 / 1e3 * LOOK.0 as f64 / 3_600_000.0
}

/// Processor time that was wanted and not there, by band.
pub(super) fn throttled(books: &Books) -> Table {
    let row = |(n, band): (usize, &Band)| {
        let short = books.lent.iter().map(|lent| core_hours(lent.short_milli[n])).sum();
        let looks = books.lent.iter().filter(|lent| lent.short_milli[n] > 0).count() as u64;
        vec![band.to_string().into(), Value::Number(short, 1), looks.into()]
    };
    Table {
        name: "throttled".to_owned(),
        title: "Processor time that tasks wanted and did not get, by band".to_owned(),
        columns: vec![
            Column::plain("band"),
            Column::of("cpu_short", "core hours"),
            Column::plain("looks_with_any"),
        ],
        rows: Band::ALL.iter().enumerate().map(row).collect(),
    }
}

/// Each step of the plan.
pub(super) fn steps(books: &Books, reclaim: &Reclaim) -> Table {
    let next = reclaim.plan.iter().skip(1).map(|(at, _)| *at).chain([Millis(u64::MAX)]);
    let row = |((from, set), to): (&(Millis, NumberSet), Millis)| {
        let looks: Vec<&Lent> =
            books.lent.iter().filter(|lent| *from <= lent.at && lent.at < to).collect();
        let median_of = |what: fn(&Lent, Of) -> f64, of| {
            let all: Vec<f64> = looks.iter().map(|lent| what(lent, of)).collect();
            if all.is_empty() { Value::Nothing } else { Value::Number(median(&all), 1) }
        };
        let short = looks.iter().map(|lent| core_hours(lent.short_milli.iter().sum())).sum();
        let killed = books.killed.iter().filter(|at| *from <= **at && **at < to).count() as u64;
        let went = books.reclaimed.iter().filter(|at| *from <= **at && **at < to).count() as u64;
        vec![
            Value::Number(hours(*from), 1),
            Value::Text(set.to_string()),
            median_of(limits, CPU),
            median_of(reserved, CPU),
            median_of(used, CPU),
            median_of(limits, RAM),
            median_of(reserved, RAM),
            median_of(used, RAM),
            killed.into(),
            went.into(),
            Value::Number(short, 1),
        ]
    };
    let columns = [
        "cpu_limits",
        "cpu_reserved",
        "cpu_used",
        "memory_limits",
        "memory_reserved",
        "memory_used",
    ];
    Table {
        name: "reclamation".to_owned(),
        title: "What is promised, reserved and used of what machines have (medians), and what came of it".to_owned(),
        columns: [Column::of("from", "h"), Column::plain("numbers")]
            .into_iter()
            .chain(columns.map(|name| Column::of(name, "%")))
            .chain([
                Column::plain("out_of_memory"),
                Column::plain("had_to_go"),
                Column::of("cpu_short", "core hours"),
            ])
            .collect(),
        rows: reclaim.plan.iter().zip(next).map(row).collect(),
    }
}

/// One resource over time.
fn chart(books: &Books, name: &str, title: &str, of: Of) -> Chart {
    let curve = |label: &str, what: fn(&Lent, Of) -> f64| Series {
        name: label.to_owned(),
        points: books
            .lent
            .iter()
            .map(|lent| Point { x: hours(lent.at), y: what(lent, of), between: None })
            .collect(),
    };
    Chart::Lines {
        name: name.to_owned(),
        title: title.to_owned(),
        x: axis("time", "h"),
        y: axis("share of the machines that are up", "%"),
        series: vec![curve("limits", limits), curve("reserved", reserved), curve("used", used)],
    }
}

pub(super) fn charts(books: &Books) -> [Chart; 2] {
    [
        chart(books, "reclaimed_cpu", "Processors: promised, reserved, used", CPU),
        chart(books, "reclaimed_memory", "Memory: promised, reserved, used", RAM),
    ]
}
