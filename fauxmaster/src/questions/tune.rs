//! Weights of the scheduler with which the work needs the fewest machines: a search by compaction.
//!
//! From the default, one weight after the other is raised and lowered by a step; what needs fewer machines over all
//! seeds is kept, and when nothing does the step is halved. What was found is asked again with seeds that the search
//! has not seen, beside the default: only that says what it is worth.
//!
//! Weights of spread and of soft constraints are left alone unless they are named: they buy what compaction does not
//! count, so a search always finds that they are not worth it.

use super::Policy;
use super::compact::{Compacted, Options, resumed};
use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Spread, Table, Value};
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::{median, percentile};
use crate::work::Work;
use borg_proto::policy::Term;
use borg_scheduler::Weights;
use std::collections::BTreeMap;

/// The first step of a weight. 80, so that a few of them go from nothing to twice the default of the largest that is
/// searched: our choice.
const FIRST_STEP: i16 = 80;
/// The last one. 10: our choice; below, nothing that is found outlives the next seeds.
const LAST_STEP: i16 = 10;
/// What is searched when nothing is named.
pub const TERMS: [Term; 3] = [Term::Fit, Term::Strand, Term::Mix];

/// How it is searched.
#[derive(Debug, Clone)]
pub struct Search {
    /// Which weights.
    pub terms: Vec<Term>,
    /// Most weights that are tried.
    pub tries: usize,
}

/// Weights, and what they need with the seeds of the search.
struct Tried {
    weights: Weights,
    sum: f64,
    p90: f64,
}

/// A search that is under way.
struct Run<'a> {
    work: &'a Work,
    options: &'a Options,
    journal: &'a Journal,
    tried: Vec<Tried>,
}

/// Searches; `tell` hears of all weights that are tried.
///
/// # Errors
/// When the work does not fit even into copies of the cell, or state and scheduler disagree.
pub fn tune(
    loaded: &Loaded,
    search: &Search,
    options: &Options,
    journal: &Journal,
    tell: impl Fn(&Weights, f64),
) -> Result<Answer, Error> {
    let work = loaded.work();
    let mut run = Run { work: &work, options, journal, tried: Vec::new() };
    let best = run.climb(search, &tell)?;
    let held_out = Options { first_seed: options.first_seed + options.seeds, ..*options };
    let old = compacted(&work, Weights::hybrid(), &held_out, journal)?;
    let new = compacted(&work, best, &held_out, journal)?;
    let terms: Vec<String> = search.terms.iter().map(ToString::to_string).collect();
    let parameters =
        vec![("terms".to_owned(), terms.join(" ")), ("tries".to_owned(), search.tries.to_string())];
    let seeds = options.seed_list().into_iter().chain(held_out.seed_list()).collect();
    Ok(Answer {
        question: "tune".to_owned(),
        provenance: loaded.provenance(seeds, parameters),
        summary: summary(best, &run.tried, &old, &new),
        tables: vec![tried_table(&run.tried), held_out_table(&held_out, &old, &new)],
        charts: vec![Chart::Boxes {
            name: "held_out".to_owned(),
            title: "Machines that hold the work, seeds that the search has not seen".to_owned(),
            y: Axis { label: "machines".to_owned(), unit: String::new() },
            boxes: vec![spread("default", &old), spread("found", &new)],
        }],
    })
}

fn compacted(
    work: &Work,
    weights: Weights,
    options: &Options,
    journal: &Journal,
) -> Result<Compacted, Error> {
    let options = Options { policy: Policy { name: "given", weights }, ..*options };
    resumed(work, &options, journal, |_| {})
}

impl Run<'_> {
    /// The best weights that are found.
    fn climb(&mut self, search: &Search, tell: &dyn Fn(&Weights, f64)) -> Result<Weights, Error> {
        let mut best = Weights::hybrid();
        let mut least = self.sum(best, tell)?;
        let mut step = FIRST_STEP;
        while step >= LAST_STEP {
            let before = least;
            for term in &search.terms {
                for by in [step, -step] {
                    if self.tried.len() >= search.tries {
                        return Ok(best);
                    }
                    let mut other = best;
                    other.set(*term, best.get(*term).saturating_add(by));
                    let other = other.bounded();
                    let sum = self.sum(other, tell)?;
                    if sum < least {
                        (best, least) = (other, sum);
                        break;
                    }
                }
            }
            if least >= before {
                step /= 2;
            }
        }
        Ok(best)
    }

    /// Machines that weights need with all seeds together.
    fn sum(&mut self, weights: Weights, tell: &dyn Fn(&Weights, f64)) -> Result<f64, Error> {
        if let Some(known) = self.tried.iter().find(|tried| tried.weights == weights) {
            return Ok(known.sum);
        }
        let found = compacted(self.work, weights, self.options, self.journal)?;
        let (sum, p90) = (found.samples().iter().sum(), found.p90());
        tell(&weights, p90);
        self.tried.push(Tried { weights, sum, p90 });
        Ok(sum)
    }
}

/// How many per cent more or fewer machines each order needs.
fn change(old: &Compacted, new: &Compacted) -> Vec<f64> {
    let pairs = old.samples().into_iter().zip(new.samples());
    pairs.map(|(old, new)| (new / old - 1.0) * 100.0).collect()
}

fn summary(best: Weights, tried: &[Tried], old: &Compacted, new: &Compacted) -> Vec<String> {
    let change = change(old, new);
    let changed: BTreeMap<String, i16> = Term::ALL
        .into_iter()
        .filter(|term| best.get(*term) != Weights::hybrid().get(*term))
        .map(|term| (term.to_string(), best.get(term)))
        .collect();
    let set: Vec<String> =
        changed.iter().map(|(term, weight)| format!("{term}={weight}")).collect();
    let first = match set.is_empty() {
        true => format!(
            "None of {} other weights needs fewer machines than the default.",
            tried.len() - 1
        ),
        false => format!(
            "Of {} weights tried, {} needs the fewest machines.",
            tried.len(),
            set.join(" ")
        ),
    };
    let second = format!(
        "With seeds that the search has not seen: {:.0} machines, with the default {:.0} (90th percentiles); {:+.1} % (median, {:+.1} to {:+.1}).",
        new.p90(),
        old.p90(),
        median(&change),
        percentile(&change, 0),
        percentile(&change, 100)
    );
    vec![first, second]
}

fn tried_table(tried: &[Tried]) -> Table {
    let row = |one: &Tried| {
        let weights = Term::ALL.map(|term| Value::Text(one.weights.get(term).to_string()));
        let needs = [Value::Number(one.sum, 0), Value::Number(one.p90, 0)];
        weights.into_iter().chain(needs).collect()
    };
    let terms = Term::ALL.map(|term| Column::plain(&term.to_string().replace('-', "_")));
    let needs = ["machines_of_all_seeds", "machines_p90"].map(Column::plain);
    Table {
        name: "tried".to_owned(),
        title: "Weights in the order in which they were tried".to_owned(),
        columns: terms.into_iter().chain(needs).collect(),
        rows: tried.iter().map(row).collect(),
    }
}

fn held_out_table(options: &Options, old: &Compacted, new: &Compacted) -> Table {
    let all = options.seed_list().into_iter().zip(old.samples()).zip(new.samples());
    let row = |((seed, old), new): ((u64, f64), f64)| {
        vec![seed.into(), Value::Number(old, 0), Value::Number(new, 0)]
    };
    Table {
        name: "held_out".to_owned(),
        title: "Machines needed, seeds that the search has not seen".to_owned(),
        columns: ["seed", "default", "found"].map(Column::plain).into(),
        rows: all.map(row).collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
fn spread(name: &str, found: &Compacted) -> Spread {
    let bound = found.bound.map(|bound| bound as f64);
    Spread { name: name.to_owned(), samples: found.samples(), bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned(journal: &Journal, tries: usize, threads: usize) -> Answer {
        let loaded = Loaded::made_up(40, 1).unwrap();
        let search = Search { terms: TERMS.into(), tries };
        let options = Options { seeds: 2, threads, ..Options::default() };
        tune(&loaded, &search, &options, journal, |_, _| {}).unwrap()
    }

    /// What was found is never worse on the seeds of the search than the default, which is tried first.
    #[test]
    fn a_search_that_was_stopped_goes_on_from_its_file_and_finds_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume");
        tuned(&Journal::open(&path).unwrap(), 3, 1);
        let kept = std::fs::read_to_string(&path).unwrap().lines().count();
        let resumed = tuned(&Journal::open(&path).unwrap(), 6, 8);
        assert_eq!(resumed, tuned(&Journal::none(), 6, 1));
        assert!(std::fs::read_to_string(&path).unwrap().lines().count() > kept);
        let table = &resumed.tables[0];
        assert!((2..=6).contains(&table.rows.len()));
        assert_eq!(resumed.provenance.seeds, [1, 2, 3, 4]);
        assert_eq!(resumed.tables[1].rows[0][0], 3_u64.into());
    }
}
