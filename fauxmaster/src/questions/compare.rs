//! Policies side by side on the same work: machines needed, what stays free in them, and what happens when the work
//! comes little by little into a cell that is tight.
//!
//! Machines needed is compaction. What stays free in a compacted cell is stranded: nothing that waits may use it. For
//! pushing out and waiting, the jobs come in an order of chance, each placed before the next, into as many machines as
//! the best of the policies needs, so that all are asked the same.
//!
//! How long somebody waits depends on who ends when, which no workload without times tells: that is for replays.

use super::Policy;
use super::compact::{Compacted, Options, order, packing, resumed};
use crate::answer::{Answer, Axis, Chart, Column, Spread, Table, Value};
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::{median, percentile};
use crate::work::Work;
use crate::{Driven, Error, parallel};
use borg_proto::{Band, Resources};
use borg_scheduler::{Config, Scheduler, Weights};
use borg_sim::dice::Dice;
use std::collections::BTreeMap;

/// Weights under a name.
pub type Candidate = (String, Weights);

/// What is told of one policy.
struct Compared {
    name: String,
    found: Compacted,
    /// Free in the compacted cells in per cent: processor time, memory; by seed.
    free: Vec<[f64; 2]>,
    arrived: Vec<Arrived>,
}

/// What came of the work when it came little by little, by the band of whom it happened to.
#[derive(Debug, Default)]
struct Arrived {
    pushed_out: BTreeMap<Band, u64>,
    pending: BTreeMap<Band, u64>,
}

/// Compares policies; `tell` hears of each that is done.
///
/// # Errors
/// When the work does not fit even into copies of the cell, or state and scheduler disagree.
pub fn compare(
    loaded: &Loaded,
    candidates: &[Candidate],
    options: &Options,
    journal: &Journal,
    tell: impl Fn(&str) + Sync,
) -> Result<Answer, Error> {
    let work = loaded.work();
    let mut all = Vec::new();
    for (name, weights) in candidates {
        let options = Options { policy: Policy { name: "given", weights: *weights }, ..*options };
        let found = resumed(&work, &options, journal, |_| {})?;
        let free = parallel::each(&found.kept, options.threads, |kept| {
            Ok::<_, Error>(free(&work, &packing(&work, *weights, kept)?))
        });
        let free = free.into_iter().collect::<Result<_, _>>()?;
        all.push(Compared { name: name.clone(), found, free, arrived: Vec::new() });
        tell(name);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of machines"
    )]
    let tight = all.iter().map(|one| one.found.p90() as usize).min().unwrap_or(0);
    for (one, (_, weights)) in all.iter_mut().zip(candidates) {
        let arrived = parallel::each(&options.seed_list(), options.threads, |seed| {
            arrive(&work, *weights, tight, *seed)
        });
        one.arrived = arrived.into_iter().collect::<Result<_, _>>()?;
    }
    let mut parameters = options.parameters();
    parameters.retain(|(name, _)| name != "policy");
    for (name, weights) in candidates {
        parameters.push((format!("policy {name}"), format!("{weights:?}")));
    }
    Ok(Answer {
        question: "compare".to_owned(),
        provenance: loaded.provenance(options.seed_list(), parameters),
        summary: summary(&all, tight),
        tables: vec![needed_table(&all), arrived_table(&all)],
        charts: vec![Chart::Boxes {
            name: "machines".to_owned(),
            title: "Machines that hold the work".to_owned(),
            y: Axis { label: "machines".to_owned(), unit: String::new() },
            boxes: all.iter().map(spread).collect(),
        }],
    })
}

/// What stays free of the machines of a packing, in per cent.
fn free(work: &Work, packed: &super::compact::Packing) -> [f64; 2] {
    let capacity = packed.machines.iter().map(|(_, info)| &info.capacity);
    let jobs =
        work.jobs.iter().zip(&packed.places).filter(|((_, spec), _)| spec.alloc_set.is_none());
    let placed = jobs.map(|((_, spec), places)| {
        (&spec.task.limit, places.values().map(|count| u64::from(*count)).sum::<u64>())
    });
    let (capacity, placed): (Vec<_>, Vec<_>) = (capacity.collect(), placed.collect());
    [|of: &Resources| of.cpu_milli, |of: &Resources| of.ram_bytes].map(
        |of: fn(&Resources) -> u64| {
            let all: u128 = capacity.iter().map(|room| u128::from(of(room))).sum();
            let used =
                placed.iter().map(|(limit, count)| u128::from(of(limit)) * u128::from(*count));
            #[expect(clippy::cast_precision_loss, reason = "a share, told with one digit")]
            let share = all.saturating_sub(used.sum()) as f64 / all.max(1) as f64;
            share * 100.0
        },
    )
}

/// Lets the jobs come one by one, in an order of chance, into so many machines.
fn arrive(work: &Work, weights: Weights, machines: usize, seed: u64) -> Result<Arrived, Error> {
    let infos: Vec<_> =
        order(work, seed).into_iter().take(machines).map(|(_, info)| info).collect();
    let mut cell = Driven::with_machines(&infos)?;
    let mut scheduler = Scheduler::new(&cell.state, Config { weights, ..Config::default() });
    drop(cell.take_news());
    let mut jobs: Vec<_> = work.jobs.iter().collect();
    Dice::new(seed).shuffle(&mut jobs);
    // An alloc set is there before those who stand in it.
    jobs.sort_by_key(|(_, spec)| spec.alloc_set.is_some());
    let mut arrived = Arrived::default();
    for (owner, spec) in jobs {
        cell.submit(owner, spec.clone())?;
        loop {
            cell.tell(&mut scheduler);
            let decisions = scheduler.pass(cell.now(), usize::MAX);
            if decisions.is_empty() {
                break;
            }
            for victim in decisions.iter().flat_map(|decision| &decision.victims) {
                if let Some(job) = cell.state.job(victim.task.job) {
                    *arrived.pushed_out.entry(job.priority().band()).or_default() += 1;
                }
            }
            cell.place(decisions)?;
            cell.start_placed()?;
        }
    }
    for task in cell.state.pending() {
        if let Some(job) = cell.state.job(task.job) {
            *arrived.pending.entry(job.priority().band()).or_default() += 1;
        }
    }
    Ok(arrived)
}

fn summary(all: &[Compared], tight: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let first = all.first();
    for one in all {
        let more: Vec<f64> = first.map_or_else(Vec::new, |first| {
            let pairs = first.found.samples().into_iter().zip(one.found.samples());
            pairs.map(|(base, needed)| (needed / base - 1.0) * 100.0).collect()
        });
        lines.push(format!(
            "{}: {:.0} machines (90th percentile), {:+.1} % against {} (median, {:+.1} to {:+.1}).",
            one.name,
            one.found.p90(),
            median(&more),
            first.map_or("", |first| &first.name),
            percentile(&more, 0),
            percentile(&more, 100)
        ));
    }
    lines.push(format!("Pushing out and waiting are those of a cell of {tight} machines."));
    let has = |name| all.iter().any(|one| one.name == name);
    if has("hybrid") && has("best_fit") {
        lines.push(
            "The Borg paper, section 3.2, found that a hybrid packs 3 to 5 % better than best fit in Google's cells."
                .to_owned(),
        );
    }
    lines
}

#[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
fn spread(one: &Compared) -> Spread {
    let bound = one.found.bound.map(|bound| bound as f64);
    Spread { name: one.name.clone(), samples: one.found.samples(), bound }
}

fn numbers(samples: &[f64], digits: u8) -> [Value; 3] {
    [50, 0, 100].map(|part| Value::Number(percentile(samples, part), digits))
}

fn needed_table(all: &[Compared]) -> Table {
    let row = |one: &Compared| {
        let free = |at: usize| one.free.iter().map(|free| free[at]).collect::<Vec<_>>();
        let first = [one.name.as_str().into(), Value::Number(one.found.p90(), 0)];
        let machines = numbers(&one.found.samples(), 0);
        let stranded = [numbers(&free(0), 1), numbers(&free(1), 1)].into_iter().flatten();
        first.into_iter().chain(machines).chain(stranded).collect()
    };
    let plain = ["policy", "machines_p90", "machines_median", "machines_least", "machines_most"];
    let parts = ["median", "least", "most"];
    let stranded = ["cpu", "ram"].into_iter().flat_map(|resource| {
        parts.map(|part| Column::of(&format!("{resource}_stranded_{part}"), "percent"))
    });
    Table {
        name: "needed".to_owned(),
        title: "Machines needed, and what is stranded in them".to_owned(),
        columns: plain.map(Column::plain).into_iter().chain(stranded).collect(),
        rows: all.iter().map(row).collect(),
    }
}

fn arrived_table(all: &[Compared]) -> Table {
    let mut rows = Vec::new();
    for one in all {
        for band in Band::ALL {
            let of = |count: fn(&Arrived) -> &BTreeMap<Band, u64>| {
                #[expect(clippy::cast_precision_loss, reason = "counts of tasks are small")]
                let count = |arrived| count(arrived).get(&band).copied().unwrap_or(0) as f64;
                numbers(&one.arrived.iter().map(count).collect::<Vec<_>>(), 0)
            };
            let names = [one.name.clone(), band.to_string()].map(Value::Text);
            let counts = [of(|arrived| &arrived.pushed_out), of(|arrived| &arrived.pending)];
            rows.push(names.into_iter().chain(counts.into_iter().flatten()).collect());
        }
    }
    let columns = [
        "policy",
        "band",
        "pushed_out_median",
        "pushed_out_least",
        "pushed_out_most",
        "pending_median",
        "pending_least",
        "pending_most",
    ];
    Table {
        name: "arrivals".to_owned(),
        title: "Tasks pushed out and pending when the jobs come one by one".to_owned(),
        columns: columns.map(Column::plain).into(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(threads: usize) -> Answer {
        let loaded = Loaded::made_up(60, 1).unwrap();
        let all = [Policy::HYBRID, Policy::BEST_FIT, Policy::WORST_FIT];
        let all = all.map(|policy| (policy.name.to_owned(), policy.weights));
        let options = Options { seeds: 3, threads, ..Options::default() };
        compare(&loaded, &all, &options, &Journal::none(), |_| {}).unwrap()
    }

    #[test]
    fn policies_are_told_side_by_side_the_same_on_any_number_of_threads() {
        let answer = compared(1);
        assert_eq!(answer, compared(8));
        assert_eq!((answer.tables[0].rows.len(), answer.tables[1].rows.len()), (3, 15));
        assert!(answer.summary.iter().any(|line| line.contains("3 to 5 %")), "{answer:?}");
        assert!(answer.summary[0].contains("+0.0 % against hybrid"), "{answer:?}");
        // Nobody is pushed out by work of a lower band, so the highest never is.
        for row in answer.tables[1].rows.iter().filter(|row| row[1] == "monitoring".into()) {
            assert_eq!(row[4], Value::Number(0.0, 0), "{answer:?}");
        }
    }

    #[test]
    fn what_is_stranded_is_what_the_tasks_leave() {
        let work = crate::questions::compact::tests::work(
            1,
            vec![borg_sim::job("j").tasks(3).limit(1_000, 4).spec()],
        );
        let kept = crate::questions::compact::Kept { seed: 1, machines: 1, waiting: 0, tries: 1 };
        let [cpu, ram] = free(&work, &packing(&work, Weights::hybrid(), &kept).unwrap());
        assert!((cpu - 25.0).abs() < 0.01 && ram > 99.9, "{cpu} {ram}");
    }
}
