//! How many machines a workload needs under several settings: policies side by side, or one parameter over a
//! range. Every setting is compacted ([`compact`](super::compact)) with the same seeds; the first is what the
//! others are compared with.

use super::Policy;
use super::compact::{Options, Ready};
use crate::answer::{Answer, Axis, Chart, Column, Point, Series, Spread, Table, Value};
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::percentile;
use crate::work::Work;
use crate::{Error, parallel};

/// A question with several settings.
#[derive(Debug, Clone)]
pub struct Study {
    /// The subcommand.
    pub question: &'static str,
    /// What is varied.
    pub title: String,
    /// The first is the baseline.
    pub settings: Vec<Setting>,
    /// What was published about it, and where; or what else to know.
    pub remarks: Vec<String>,
    /// What the number of a setting is, where settings have one.
    pub axis: Option<Axis>,
}

/// One setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its place on the axis.
    pub x: f64,
    /// What makes a machine the best.
    pub policy: Policy,
    /// The cells that the work is divided among: their sizes are added up.
    pub cells: Vec<Work>,
}

/// What a setting needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Needs {
    /// Machines in all cells together, in the order of the seeds.
    pub machines: Vec<f64>,
    /// What no packing can be under; `None` when a cell needs copies of its machines.
    pub bound: Option<usize>,
}

/// Compacts each setting for each seed, but for what the journal knows already; `tell` hears of each cell that is done,
/// in no certain order.
///
/// # Errors
/// When state and scheduler disagree, or a cell does not hold its work with all copies.
pub fn run(
    study: &Study,
    options: &Options,
    journal: &Journal,
    tell: impl Fn(&str) + Sync,
) -> Result<Vec<Needs>, Error> {
    let seeds = options.seed_list();
    let ready: Vec<(usize, Ready<'_>, u64)> = study
        .settings
        .iter()
        .enumerate()
        .flat_map(|(at, setting)| {
            let weights = setting.policy.weights;
            let ready = move |work| (at, Ready::new(work, weights), journal.key(work, weights));
            setting.cells.iter().map(ready)
        })
        .collect();
    let inputs: Vec<(usize, u64)> =
        (0..ready.len()).flat_map(|n| seeds.iter().map(move |seed| (n, *seed))).collect();
    let found = parallel::each(&inputs, options.threads, |(n, seed)| {
        let (at, ready, key) = &ready[*n];
        let kept = ready.known(*seed, journal, *key);
        tell(&format!("{}, seed {seed}", study.settings[*at].name));
        kept
    });
    let mut needs =
        vec![Needs { machines: vec![0.0; seeds.len()], bound: Some(0) }; study.settings.len()];
    for (at, ready, _) in &ready {
        let so_far = needs[*at].bound;
        needs[*at].bound = so_far.and_then(|sum| Some(sum + ready.bound?));
    }
    for ((n, seed), kept) in inputs.iter().zip(found) {
        let at = ready[*n].0;
        let kept = kept.map_err(|error| format!("{}: {error}", study.settings[at].name))?;
        let place = seeds.iter().position(|one| one == seed).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
        let machines = kept.machines as f64;
        needs[at].machines[place] += machines;
    }
    Ok(needs)
}

/// The answer for people. Each seed is compared with the same seed of the baseline.
#[must_use]
pub fn answer(loaded: &Loaded, study: &Study, options: &Options, needs: &[Needs]) -> Answer {
    let over = |needs_of: &Needs| -> Vec<f64> {
        let base = needs.first().map(|first| first.machines.as_slice()).unwrap_or_default();
        let pairs = needs_of.machines.iter().zip(base);
        pairs.map(|(machines, base)| (machines / base.max(1.0) - 1.0) * 100.0).collect()
    };
    let mut summary = Vec::new();
    for (setting, needs_of) in study.settings.iter().zip(needs) {
        let (machines, more) = (percentile(&needs_of.machines, 90), over(needs_of));
        let compared = if std::ptr::eq(needs_of, &needs[0]) {
            String::new()
        } else {
            format!(
                ": {:+.1} % (median of the seeds, {:+.1} to {:+.1})",
                percentile(&more, 50),
                percentile(&more, 0),
                percentile(&more, 100)
            )
        };
        summary.push(format!("{}: {machines:.0} machines{compared}.", setting.name));
    }
    summary.extend(study.remarks.iter().cloned());
    let row = |(setting, needs_of): (&Setting, &Needs)| {
        let more = over(needs_of);
        let machines = |percent| Value::Number(percentile(&needs_of.machines, percent), 0);
        vec![
            setting.name.as_str().into(),
            machines(90),
            machines(0),
            machines(100),
            needs_of
                .bound
                .map_or(Value::Nothing, |bound| u64::try_from(bound).unwrap_or(u64::MAX).into()),
            Value::Number(percentile(&more, 50), 1),
            Value::Number(percentile(&more, 0), 1),
            Value::Number(percentile(&more, 100), 1),
        ]
    };
    let columns = [
        ("setting", ""),
        ("machines_p90", ""),
        ("machines_least", ""),
        ("machines_most", ""),
        ("lower_bound", ""),
        ("more_median", "%"),
        ("more_least", "%"),
        ("more_most", "%"),
    ];
    let mut parameters = options.parameters();
    parameters.retain(|(name, _)| name != "policy");
    let names: Vec<&str> = study.settings.iter().map(|setting| setting.name.as_str()).collect();
    parameters.push(("settings".to_owned(), names.join(", ")));
    Answer {
        question: study.question.to_owned(),
        provenance: loaded.provenance(options.seed_list(), parameters),
        summary,
        tables: vec![Table {
            name: "settings".to_owned(),
            title: study.title.clone(),
            columns: columns.map(|(name, unit)| Column::of(name, unit)).into(),
            rows: study.settings.iter().zip(needs).map(row).collect(),
        }],
        charts: charts(study, needs),
    }
}

fn charts(study: &Study, needs: &[Needs]) -> Vec<Chart> {
    let pairs = || study.settings.iter().zip(needs);
    let y = Axis { label: "machines".to_owned(), unit: String::new() };
    #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
    let spread = |(setting, needs_of): (&Setting, &Needs)| Spread {
        name: setting.name.clone(),
        samples: needs_of.machines.clone(),
        bound: needs_of.bound.map(|bound| bound as f64),
    };
    let mut charts = vec![Chart::Boxes {
        name: "machines".to_owned(),
        title: study.title.clone(),
        y: y.clone(),
        boxes: pairs().map(spread).collect(),
    }];
    if let Some(x) = &study.axis {
        let point = |(setting, needs_of): (&Setting, &Needs)| Point {
            x: setting.x,
            y: percentile(&needs_of.machines, 50),
            between: Some((percentile(&needs_of.machines, 0), percentile(&needs_of.machines, 100))),
        };
        charts.push(Chart::Lines {
            name: "curve".to_owned(),
            title: study.title.clone(),
            x: x.clone(),
            y,
            series: vec![Series {
                name: "median, least to most of the seeds".to_owned(),
                points: pairs().map(point).collect(),
            }],
        });
    }
    charts
}
