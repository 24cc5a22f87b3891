//! How well what tasks will use can be told from what they used: the cell's own estimator beside others, against one that
//! knows what is to come.
//!
//! As Bashir and others compare predictors of peaks ("Take it to the limit", EuroSys 2021): on each machine, at each
//! moment, the peak oracle is the most that the tasks that are there use together in the next day. Whoever foretells less
//! is in violation; what is foretold below the sum of limits is saved. Tasks stay where they are, for as long as it is
//! looked at; what they use is made up ([`Load`]).
//!
//! The cell's estimators are [`Estimate`] and [`foresight`], as the leader uses them; the others are written down here, from
//! the paper.

use crate::answer::{Answer, Axis, Chart, Column, Spread, Table, Value};
use crate::replay::reclaim::{LOOK, Load};
use crate::sources::loaded::Loaded;
use crate::spread::percentile;
use crate::{Error, parallel};
use borg_cell::foresight::{self, Known, Profile};
use borg_cell::reservation::{Estimate, counted};
use borg_cell::state::CellState;
use borg_proto::reclamation::{Amounts, NumberSet};
use borg_proto::{JobKind, Millis, Resources};
use borg_sim::dice::mix;

/// How far the oracle sees: a day, as in the paper.
const AHEAD: usize = 288;
/// How far predictors look back, this moment included: ten hours, as in the paper.
const BACK: usize = 120;
/// How many moments pass before: a day, and the hour that the cell's estimator remembers beside it.
const BEFORE: usize = 300;
/// How many moments are compared: a day of them.
const COMPARED: usize = 288;
/// Standard deviations above the mean of the predictor by those: 5, as in the paper.
const SIGMAS: f64 = 5.0;
/// When looking begins, in cell time: tasks are there for long.
const BEGIN: Millis = Millis::from_secs(864_000);

/// Those that are compared, as they are called.
const NAMES: [&str; 9] = [
    "limits",
    "nine tenths of limits",
    "ours, baseline",
    "ours, medium",
    "ours, aggressive",
    "ours, daily",
    "99th percentiles",
    "five sigma",
    "max predictor",
];
/// Those of the cell that go by each task's use alone.
const OURS: [NumberSet; 3] = [NumberSet::Baseline, NumberSet::Medium, NumberSet::Aggressive];
/// The one that others are measured by, beside the oracle.
const MAX_PREDICTOR: usize = 8;
/// What a cell does until it is told otherwise.
const BASELINE: usize = 2;
/// The one of the cell that foretells a day.
const DAILY: usize = 5;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The first seed of what tasks use.
    pub first_seed: u64,
    /// How many.
    pub seeds: u64,
    /// How many seeds at a time; the answer is the same for any number.
    pub threads: usize,
}

/// How one predictor did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Score {
    /// Share of moments at which less was foretold than came, in percent.
    violations: f64,
    /// By how much less, in percent of what came, at those.
    severity: f64,
    /// What was foretold below limits, in percent of limits.
    savings: f64,
}

/// Scores of all predictors and of the oracle, for processor time and memory.
type Scores = [[Score; NAMES.len() + 1]; 2];

/// A task that stays.
struct Stays {
    kind: JobKind,
    limit: Resources,
    number: u64,
}

/// Compares estimators over the tasks that are placed in a cell; `tell` hears of each seed.
///
/// # Errors
/// When nothing is placed, or the cell cannot be made of what was loaded.
pub fn estimators(
    loaded: &Loaded,
    options: &Options,
    tell: impl Fn(&str) + Sync,
) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let machines = placed(&state);
    if machines.is_empty() {
        return Err("no task is placed in the cell: there is nothing to foretell".into());
    }
    let seeds = parallel::seeds(options.first_seed, options.seeds);
    if seeds.is_empty() {
        return Err("seeds: 0; at least one is needed".into());
    }
    let scores = parallel::each(&seeds, options.threads, |seed| {
        let scores = of_seed(&machines, *seed);
        tell(&format!("seed {seed}"));
        scores
    });
    Ok(answer(loaded, seeds, &scores))
}

/// Tasks by machine of which something may be lent.
fn placed(state: &CellState) -> Vec<Vec<Stays>> {
    let of_machine = |machine: &borg_cell::state::Machine| -> Vec<Stays> {
        let tasks = machine.tasks.iter().filter_map(|task| {
            let job = state.job(task.job)?;
            // Of what stands in an alloc, and of what keeps its limit, a cell lends nothing.
            let lends = job.task_spec(task.index).reclaim && job.spec.alloc_set.is_none();
            if job.is_alloc_set() || !lends {
                return None;
            }
            let number = mix(task.job.0) ^ mix(u64::from(task.index) << 32);
            let limit = job.task_spec(task.index).limit.clone();
            Some(Stays { kind: job.spec.kind, limit, number })
        });
        tasks.collect()
    };
    state.machines().map(of_machine).filter(|tasks| !tasks.is_empty()).collect()
}

fn of_seed(machines: &[Vec<Stays>], seed: u64) -> Scores {
    let mut sums = [[Sum::default(); NAMES.len() + 1]; 2];
    for tasks in machines {
        let foretold = Foretold::of(tasks, seed);
        for (sums, of) in sums.iter_mut().zip(&foretold.of) {
            of.judge(sums);
        }
    }
    sums.map(|sums| sums.map(Sum::score))
}

/// What was foretold for one machine, of processor time and of memory.
struct Foretold {
    of: [Series; 2],
}

/// What a machine's tasks use together, and what was foretold of it, by moments.
#[derive(Default)]
struct Series {
    used: Vec<u64>,
    limits: u64,
    foretold: Vec<[u64; NAMES.len()]>,
}

/// What one task used lately.
struct Lately {
    used: Vec<[u64; 2]>,
    ours: [Estimate; OURS.len()],
    profile: Profile,
    now: Amounts,
}

impl Foretold {
    fn of(tasks: &[Stays], seed: u64) -> Self {
        let mut of = [Series::default(), Series::default()];
        let limits = tasks.iter().map(|task| Amounts::from(&task.limit));
        let limits = two(limits.fold(Amounts::default(), Amounts::plus));
        (of[0].limits, of[1].limits) = (limits[0], limits[1]);
        let mut lately: Vec<Lately> = tasks
            .iter()
            .map(|task| Lately {
                used: Vec::new(),
                profile: Profile::default(),
                now: Amounts::default(),
                ours: OURS.map(|set| {
                    Estimate::new(Amounts::from(&task.limit), Millis(0), &set.numbers())
                }),
            })
            .collect();
        let remember = NumberSet::Daily.numbers().remember_h;
        for moment in 0..BEFORE + COMPARED + AHEAD {
            let at = BEGIN + Millis(LOOK.0 * moment as u64);
            let (mut used, mut ours, mut tails) = ([0; 2], [[0; 2]; OURS.len()], [0; 2]);
            for (task, lately) in tasks.iter().zip(&mut lately) {
                let usage = Load::Mixed.usage(task.kind, &task.limit, task.number ^ mix(seed), at);
                let now = [usage.cpu_milli, usage.ram_bytes];
                lately.used.push(now);
                add(&mut used, now);
                // What comes after is looked at by the oracle alone.
                if moment >= BEFORE + COMPARED {
                    continue;
                }
                let limit = Amounts::from(&task.limit);
                let most = counted(&usage).unwrap_or_default().least(limit);
                lately.now = Amounts { cpu_milli: now[0].min(limit.cpu_milli), ..most };
                lately.profile.note(at, lately.now.cpu_milli, most, remember);
                for ((estimate, set), sum) in lately.ours.iter_mut().zip(OURS).zip(&mut ours) {
                    let reserved = estimate.look(limit, counted(&usage), at, &set.numbers());
                    add(sum, two(reserved));
                }
                if moment >= BEFORE {
                    add(&mut tails, tail(&lately.used[moment + 1 - BACK..]));
                }
            }
            let compared = (BEFORE..BEFORE + COMPARED).contains(&moment);
            let daily = if compared { daily(tasks, &lately, at, remember) } else { [0; 2] };
            for (n, series) in of.iter_mut().enumerate() {
                series.used.push(used[n]);
                if compared {
                    let sigma = sigmas(&series.used[moment + 1 - BACK..]).min(series.limits);
                    let tenths = series.limits / 10 * 9;
                    let [baseline, medium, aggressive] = ours.map(|sum| sum[n]);
                    let both = sigma.max(tails[n]);
                    series.foretold.push([
                        series.limits,
                        tenths,
                        baseline,
                        medium,
                        aggressive,
                        daily[n],
                        tails[n],
                        sigma,
                        both,
                    ]);
                }
            }
        }
        Self { of }
    }
}

/// What the cell reserves for all when it remembers a day.
fn daily(tasks: &[Stays], lately: &[Lately], at: Millis, remember: u32) -> [u64; 2] {
    let known = tasks.iter().zip(lately).map(|(task, one)| Known {
        profile: Some(&one.profile),
        reserved: one.ours[0].reserved(),
        now: one.now,
        limit: Amounts::from(&task.limit),
    });
    let reserved = foresight::reservations(&known.collect::<Vec<_>>(), at, remember);
    two(reserved.into_iter().fold(Amounts::default(), Amounts::plus))
}

impl Series {
    /// Adds how it went on this machine.
    fn judge(&self, sums: &mut [Sum; NAMES.len() + 1]) {
        for (n, foretold) in self.foretold.iter().enumerate() {
            let ahead = &self.used[BEFORE + n..BEFORE + n + AHEAD];
            let peak = ahead.iter().copied().max().unwrap_or(0);
            for (sum, foretold) in sums.iter_mut().zip(foretold.iter().chain([&peak])) {
                sum.add(*foretold, peak, self.limits);
            }
        }
    }
}

/// Sums over machines and moments.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    moments: u64,
    violations: u64,
    severity: f64,
    savings: f64,
}

impl Sum {
    #[expect(clippy::cast_precision_loss, reason = "told with few digits")]
    fn add(&mut self, foretold: u64, peak: u64, limits: u64) {
        self.moments += 1;
        if foretold < peak {
            self.violations += 1;
            self.severity += (peak - foretold) as f64 / peak as f64;
        }
        self.savings += limits.saturating_sub(foretold) as f64 / limits.max(1) as f64;
    }

    #[expect(clippy::cast_precision_loss, reason = "told with few digits")]
    fn score(self) -> Score {
        let share =
            |part: f64, whole: u64| if whole == 0 { 0.0 } else { part * 100.0 / whole as f64 };
        Score {
            violations: share(self.violations as f64, self.moments),
            severity: share(self.severity, self.violations),
            savings: share(self.savings, self.moments),
        }
    }
}

fn two(amounts: Amounts) -> [u64; 2] {
    [amounts.cpu_milli, amounts.ram_bytes]
}

fn add(sum: &mut [u64; 2], more: [u64; 2]) {
    sum[0] += more[0];
    sum[1] += more[1];
}

/// The 99th percentile of the last ten hours of one task: of 120 samples the second largest.
fn tail(lately: &[[u64; 2]]) -> [u64; 2] {
    [0, 1].map(|n| {
        let (mut most, mut second) = (0, 0);
        for used in lately.iter().map(|used| used[n]) {
            if used > most {
                (most, second) = (used, most);
            } else {
                second = second.max(used);
            }
        }
        second
    })
}

/// Mean and five standard deviations of the last ten hours of a machine.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "amounts of a machine are far below 2^52, and not negative"
)]
fn sigmas(lately: &[u64]) -> u64 {
    let count = lately.len().max(1) as f64;
    let mean = lately.iter().map(|used| *used as f64).sum::<f64>() / count;
    let variance = lately.iter().map(|used| (*used as f64 - mean).powi(2)).sum::<f64>() / count;
    (mean + SIGMAS * variance.sqrt()).round() as u64
}

fn answer(loaded: &Loaded, seeds: Vec<u64>, scores: &[Scores]) -> Answer {
    let resources = ["cpu", "memory"];
    let spread = |resource: usize, one: usize, of: fn(&Score) -> f64| -> Vec<f64> {
        scores.iter().map(|scores| of(&scores[resource][one])).collect()
    };
    let median = |samples: &[f64]| percentile(samples, 50);
    let mut rows = Vec::new();
    for (resource, told) in resources.iter().enumerate() {
        let oracle = median(&spread(resource, NAMES.len(), |score| score.savings));
        for (one, name) in NAMES.iter().chain([&"peak oracle"]).enumerate() {
            let violations = spread(resource, one, |score| score.violations);
            let savings = spread(resource, one, |score| score.savings);
            let severity = median(&spread(resource, one, |score| score.severity));
            let of_oracle = median(&savings) * 100.0 / oracle.max(1e-9);
            rows.push(vec![
                (*told).into(),
                (*name).into(),
                Value::Number(median(&violations), 2),
                Value::Number(percentile(&violations, 0), 2),
                Value::Number(percentile(&violations, 100), 2),
                Value::Number(severity, 2),
                Value::Number(median(&savings), 1),
                Value::Number(of_oracle, 1),
            ]);
        }
    }
    let summary = resources.iter().enumerate().map(|(resource, told)| {
        let at = |one: usize, of: fn(&Score) -> f64| median(&spread(resource, one, of));
        let savings = |score: &Score| score.savings;
        let violations = |score: &Score| score.violations;
        format!(
            "{told}: ours saves {:.1} % of limits by baseline and {:.1} by daily, the oracle {:.1}, the max predictor {:.1}; less than \
             what came was foretold at {:.2} and {:.2} % of all moments, by the max predictor at {:.2} %.",
            at(BASELINE, savings),
            at(DAILY, savings),
            at(NAMES.len(), savings),
            at(MAX_PREDICTOR, savings),
            at(BASELINE, violations),
            at(DAILY, violations),
            at(MAX_PREDICTOR, violations)
        )
    });
    let boxes = |resource: usize| -> Vec<Spread> {
        let one = |(one, name): (usize, &&str)| Spread {
            name: (*name).to_owned(),
            samples: spread(resource, one, |score| score.savings),
            bound: None,
        };
        NAMES.iter().chain([&"peak oracle"]).enumerate().map(one).collect()
    };
    let chart = |resource: usize| Chart::Boxes {
        name: format!("savings_{}", resources[resource]),
        title: format!("What is foretold below limits: {}", resources[resource]),
        y: Axis { label: "of limits".to_owned(), unit: "%".to_owned() },
        boxes: boxes(resource),
    };
    Answer {
        question: "estimators".to_owned(),
        provenance: loaded.provenance(seeds, vec![("load".to_owned(), "mixed".to_owned())]),
        summary: summary.collect(),
        tables: vec![Table {
            name: "estimators".to_owned(),
            title: "Less foretold than came in the next day (violations), by how much, and what is saved of limits; medians over \
                    seeds"
                .to_owned(),
            columns: vec![
                Column::plain("resource"),
                Column::plain("estimator"),
                Column::of("violations", "%"),
                Column::of("least", "%"),
                Column::of("most", "%"),
                Column::of("severity", "%"),
                Column::of("savings", "%"),
                Column::of("of_the_oracle", "%"),
            ],
            rows,
        }],
        charts: vec![chart(0), chart(1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_sigmas_are_what_they_say() {
        let samples: Vec<[u64; 2]> = (1..=120).map(|n| [n, 7]).collect();
        assert_eq!(tail(&samples), [119, 7]);
        assert_eq!(sigmas(&[10; 120]), 10);
        // Half 0, half 10: a mean of 5 and a deviation of 5.
        assert_eq!(sigmas(&[[0, 10]; 60].concat()), 30);
    }

    /// The oracle is never wrong and saves the most of those that are not; limits are never wrong and save nothing.
    #[test]
    fn the_oracle_is_never_wrong_and_threads_change_nothing() {
        let loaded = Loaded::made_up(10, 1).unwrap();
        let asked = |threads| {
            estimators(&loaded, &Options { first_seed: 1, seeds: 2, threads }, |_| {}).unwrap()
        };
        let answer = asked(1);
        assert_eq!(answer, asked(4));
        let rows = &answer.tables[0].rows;
        assert_eq!(rows.len(), 2 * (NAMES.len() + 1));
        for row in rows {
            let number = |at: usize| match &row[at] {
                Value::Number(number, _) => *number,
                other => panic!("{other:?}"),
            };
            let name = &row[1];
            if *name == Value::from("peak oracle") {
                assert!(number(2) == 0.0 && number(6) > 0.0, "{row:?}");
            }
            if *name == Value::from("limits") {
                assert_eq!((number(2), number(6)), (0.0, 0.0), "{row:?}");
            }
            assert!(number(3) <= number(2) && number(2) <= number(4), "{row:?}");
        }
    }

    /// Nine tenths of what the oracle saves, and no more violations than the max predictor: of both resources.
    #[test]
    fn what_a_day_tells_saves_nearly_as_much_as_the_oracle_and_is_wrong_no_more_often_than_the_max_predictor()
     {
        let loaded = Loaded::made_up(20, 1).unwrap();
        let options = Options { first_seed: 1, seeds: 1, threads: 1 };
        let answer = estimators(&loaded, &options, |_| {}).unwrap();
        for rows in answer.tables[0].rows.chunks(NAMES.len() + 1) {
            let number = |row: usize, at: usize| match &rows[row][at] {
                Value::Number(number, _) => *number,
                other => panic!("{other:?}"),
            };
            assert!(number(DAILY, 2) <= number(MAX_PREDICTOR, 2), "{rows:?}");
            assert!(number(DAILY, 7) >= 90.0, "{rows:?}");
        }
    }
}
