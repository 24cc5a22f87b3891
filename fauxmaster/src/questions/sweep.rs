//! How many machines the work needs as one thing is varied: as curves with their spread, and what was published
//! beside them.
//!
//! Each value is compacted with the same seeds, so that a difference is told order by order: how many per cent more
//! an order of machines needs than the same order when nothing is varied. A value at which the work does not fit
//! even into the copies has no number.

use super::compact::{Options, resumed};
use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Point, Series, Table, Value};
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::{median, percentile};
use crate::variation::Parameter;
use crate::work::Work;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// What is varied.
    pub parameter: Parameter,
    /// Its values, as they are tried.
    pub values: Vec<u64>,
}

/// What one value needs.
struct Tried {
    value: u64,
    cells: usize,
    /// Machines by seed; none when they do not suffice.
    needed: Option<Vec<f64>>,
}

impl Range {
    /// The values from one to another in steps.
    ///
    /// # Errors
    /// When there is none, or one means nothing.
    pub fn new(parameter: Parameter, from: u64, to: u64, step: u64) -> Result<Self, Error> {
        let (least, most) = parameter.allowed();
        if from > to || step == 0 {
            return Err(format!("{parameter}: {from}..{to} in steps of {step} has no value: give FROM..TO with FROM not over TO, and a step of 1 or more").into());
        }
        if from < least || to > most {
            return Err(format!("{parameter}: {from}..{to} is outside {least} to {most}").into());
        }
        let step = usize::try_from(step)?;
        Ok(Self { parameter, values: (from..=to).step_by(step).collect() })
    }
}

/// Compacts the work for each value; `tell` hears of each that is done.
///
/// # Errors
/// When the work does not fit even without a variation, or state and scheduler disagree.
pub fn sweep(
    loaded: &Loaded,
    range: &Range,
    options: &Options,
    journal: &Journal,
    tell: impl Fn(u64) + Sync,
) -> Result<Answer, Error> {
    let work = loaded.work();
    let neutral = range.parameter.neutral();
    let base = needed(&[work.clone()], options, journal)?;
    let mut tried = Vec::new();
    for value in range.values.iter().copied() {
        let cells = range.parameter.cells(&work, value);
        let needed = match value == neutral {
            true => Some(base.clone()),
            false => needed(&cells, options, journal).ok(),
        };
        tried.push(Tried { value, cells: cells.len(), needed });
        tell(value);
    }
    let mut parameters = options.parameters();
    parameters.push(("parameter".to_owned(), range.parameter.to_string()));
    let values: Vec<String> = range.values.iter().map(ToString::to_string).collect();
    parameters.push(("values".to_owned(), values.join(" ")));
    Ok(Answer {
        question: "sweep".to_owned(),
        provenance: loaded.provenance(options.seed_list(), parameters),
        summary: summary(range, &base, &tried),
        tables: tables(range, &base, &tried),
        charts: charts(range, &base, &tried),
    })
}

/// Machines of all cells together, by seed.
fn needed(cells: &[Work], options: &Options, journal: &Journal) -> Result<Vec<f64>, Error> {
    let mut sums = vec![0.0; options.seed_list().len()];
    for cell in cells {
        let found = resumed(cell, options, journal, |_| {})?;
        sums.iter_mut().zip(found.samples()).for_each(|(sum, one)| *sum += one);
    }
    Ok(sums)
}

/// How many per cent more each order needs.
fn more(base: &[f64], needed: &[f64]) -> Vec<f64> {
    base.iter().zip(needed).map(|(base, needed)| (needed / base - 1.0) * 100.0).collect()
}

fn summary(range: &Range, base: &[f64], tried: &[Tried]) -> Vec<String> {
    let mut lines = vec![format!(
        "Without a variation {:.0} machines hold the work (90th percentile of {} orders).",
        percentile(base, 90),
        base.len()
    )];
    let parameter = range.parameter;
    for one in tried.iter().filter(|one| one.value != parameter.neutral()) {
        lines.push(match &one.needed {
            None => {
                format!("{parameter} {}: four times the machines do not hold the work.", one.value)
            }
            Some(needed) => {
                let more = more(base, needed);
                format!(
                    "{parameter} {}: {:+.1} % machines (median of {} orders, {:+.1} to {:+.1}).",
                    one.value,
                    median(&more),
                    more.len(),
                    percentile(&more, 0),
                    percentile(&more, 100)
                )
            }
        });
    }
    if let Some(published) = parameter.published() {
        let (least, most) = published.more;
        lines.push(format!(
            "The Borg paper, section {}, found {least} to {most} % more in Google's cells.",
            published.section
        ));
    }
    lines
}

fn tables(range: &Range, base: &[f64], tried: &[Tried]) -> Vec<Table> {
    let row = |one: &Tried| {
        let numbers = |samples: &[f64], digits: u8| {
            [50, 0, 100].map(|part| Value::Number(percentile(samples, part), digits))
        };
        let (p90, counts, more) = match &one.needed {
            None => (Value::Nothing, [const { Value::Nothing }; 3], [const { Value::Nothing }; 3]),
            Some(needed) => {
                let p90 = Value::Number(percentile(needed, 90), 0);
                (p90, numbers(needed, 0), numbers(&more(base, needed), 1))
            }
        };
        let cells = u64::try_from(one.cells).unwrap_or(u64::MAX);
        [one.value.into(), cells.into(), p90].into_iter().chain(counts).chain(more).collect()
    };
    let plain = ["cells", "machines_p90", "machines_median", "machines_least", "machines_most"];
    let more = ["more_median", "more_least", "more_most"].map(|name| Column::of(name, "percent"));
    let first = Column::of(&range.parameter.name().replace('-', "_"), range.parameter.unit());
    let columns = std::iter::once(first).chain(plain.map(Column::plain)).chain(more);
    let mut tables = vec![Table {
        name: "needed".to_owned(),
        title: format!("Machines needed by {}", range.parameter),
        columns: columns.collect(),
        rows: tried.iter().map(row).collect(),
    }];
    if let Some(published) = range.parameter.published() {
        let (least, most) = published.more;
        let numbers = [least, most].map(Value::from);
        let names = ["more_least", "more_most"].map(|name| Column::of(name, "percent"));
        tables.push(Table {
            name: "published".to_owned(),
            title: "What the Borg paper found in Google's cells".to_owned(),
            columns: std::iter::once(Column::plain("section")).chain(names).collect(),
            rows: vec![std::iter::once(published.section.into()).chain(numbers).collect()],
        });
    }
    tables
}

fn charts(range: &Range, base: &[f64], tried: &[Tried]) -> Vec<Chart> {
    let points = |of: &dyn Fn(&[f64]) -> Vec<f64>| {
        let point = |one: &Tried| {
            let samples = of(one.needed.as_deref()?);
            #[expect(clippy::cast_precision_loss, reason = "values are at most 1,000")]
            let x = one.value as f64;
            let between = Some((percentile(&samples, 0), percentile(&samples, 100)));
            Some(Point { x, y: median(&samples), between })
        };
        tried.iter().filter_map(point).collect::<Vec<_>>()
    };
    let chart = |name: &str, label: &str, unit: &str, points| Chart::Lines {
        name: name.to_owned(),
        title: format!("{label} by {}", range.parameter),
        x: Axis { label: range.parameter.to_string(), unit: range.parameter.unit().to_owned() },
        y: Axis { label: label.to_owned(), unit: unit.to_owned() },
        series: vec![Series { name: "median, least and most".to_owned(), points }],
    };
    vec![
        chart("machines", "Machines needed", "", points(&<[f64]>::to_vec)),
        chart("more", "More machines", "percent", points(&|needed| more(base, needed))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(parameter: Parameter, from: u64, to: u64, threads: usize) -> Answer {
        let loaded = Loaded::made_up(60, 1).unwrap();
        let range = Range::new(parameter, from, to, 100.min(to.max(1))).unwrap();
        let options = Options { seeds: 3, threads, ..Options::default() };
        sweep(&loaded, &range, &options, &Journal::none(), |_| {}).unwrap()
    }

    fn number(answer: &Answer, row: usize, column: usize) -> f64 {
        match answer.tables[0].rows[row][column] {
            Value::Number(number, _) => number,
            ref other => panic!("no number: {other:?}"),
        }
    }

    #[test]
    fn what_changes_nothing_needs_nothing_more_and_threads_change_nothing() {
        let answer = swept(Parameter::Prod, 0, 1, 1);
        assert_eq!(answer, swept(Parameter::Prod, 0, 1, 8));
        assert_eq!([6, 7, 8].map(|column| number(&answer, 0, column)), [0.0; 3]);
        assert!(number(&answer, 1, 6) > 0.0, "apart they need more: {answer:?}");
        assert_eq!(answer.tables[1].name, "published");
    }

    #[test]
    fn twice_the_memory_never_needs_more_machines() {
        let answer = swept(Parameter::Memory, 100, 200, 2);
        assert!(number(&answer, 1, 3) <= number(&answer, 0, 3), "{answer:?}");
    }

    #[test]
    fn a_sweep_over_nothing_or_beyond_what_means_something_is_refused() {
        let refused =
            |from, to, step| Range::new(Parameter::Cells, from, to, step).unwrap_err().to_string();
        assert!(refused(3, 2, 1).contains("has no value"));
        assert!(refused(1, 2, 0).contains("has no value"));
        assert!(refused(0, 65, 1).contains("is outside 1 to 64"));
    }
}
