//! The cheapest mix of machine shapes that holds the work.
//!
//! A mix is tried by compaction into machines of its shapes in its shares, in an order of chance; what the machines
//! that are kept cost is its price. First each shape alone and pairs in quarters, then from the cheapest on a tenth
//! of the machines is exchanged for another shape as long as that is cheaper. Whoever finds a cheaper mix by other
//! means has found one that this search does not look at; under the bound nobody comes.
//!
//! Attributes of the machines, racks too, are those of the cell's own machines in turn.

use super::compact::{Options, WAITING_PERMILLE, order, resumed};
use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Spread, Table, Value};
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::percentile;
use crate::work::Work;
use borg_proto::Resources;
use std::collections::BTreeSet;

/// Most shapes. 6: our choice; pairs of more take too long.
pub const MOST_SHAPES: usize = 6;
/// Exchanges after the first round, at most: our choice.
const EXCHANGES: usize = 10;
/// How many per cent are exchanged.
const EXCHANGED: u64 = 10;
/// The most that one machine may cost, so that sums are told to the last unit. A thousand millions: our choice.
const MOST_COST: u64 = 1_000_000_000;
/// Most machines of a mix, as many as a made-up cell may have.
const MOST_MACHINES: usize = 100_000;
/// Parts into which the weights of the bound are cut.
const PARTS: u32 = 16;

/// Machines that can be bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// As people call it: letters, digits and underscores.
    pub name: String,
    /// What one costs, in any unit.
    pub cost: u64,
    /// What it has; ports are those of the cell's machines.
    pub capacity: Resources,
}

/// A mix, and what it costs.
struct Priced {
    /// Per cent of the machines, by shape.
    shares: Vec<u64>,
    /// By seed; none when the work does not fit.
    costs: Option<Vec<f64>>,
    machines: Vec<f64>,
}

impl Priced {
    /// What counts: what nine tenths of the orders do not exceed.
    fn p90(&self) -> f64 {
        self.costs.as_ref().map_or(f64::INFINITY, |costs| percentile(costs, 90))
    }
}

/// A search that is under way.
struct Run<'a> {
    work: &'a Work,
    shapes: &'a [Shape],
    options: &'a Options,
    journal: &'a Journal,
    priced: Vec<Priced>,
    seen: BTreeSet<Vec<u64>>,
}

/// Prices mixes; `tell` hears of each.
///
/// # Errors
/// When the shapes make no sense, no mix holds the work, or state and scheduler disagree.
pub fn price(
    loaded: &Loaded,
    shapes: &[Shape],
    options: &Options,
    journal: &Journal,
    tell: impl Fn(&str),
) -> Result<Answer, Error> {
    sound(shapes)?;
    let work = loaded.work();
    let (priced, seen) = (Vec::new(), BTreeSet::new());
    let mut run = Run { work: &work, shapes, options, journal, priced, seen };
    for shares in first_mixes(shapes.len()) {
        run.price(shares, &tell)?;
    }
    run.exchange(&tell)?;
    let mut priced = run.priced;
    priced.sort_by(|a, b| a.p90().total_cmp(&b.p90()).then_with(|| a.shares.cmp(&b.shares)));
    let best = priced.first().filter(|best| best.costs.is_some());
    let best = best.ok_or("no mix of the shapes holds the work: give a larger shape")?;
    let bound = bound(&work, shapes);
    let summary = vec![
        format!(
            "{}: {:.0} for {:.0} machines (90th percentile of {} orders).",
            name(shapes, &best.shares),
            best.p90(),
            percentile(&best.machines, 90),
            best.machines.len()
        ),
        format!(
            "No mix of these shapes costs less than {bound:.0}: {:.3} of that.",
            best.p90() / bound
        ),
    ];
    let mut parameters = options.parameters();
    parameters.extend(shapes.iter().map(|shape| {
        let Resources { cpu_milli, ram_bytes, disk_bytes, .. } = &shape.capacity;
        let told = format!("cost {} cpu {cpu_milli} ram {ram_bytes} disk {disk_bytes}", shape.cost);
        (format!("shape {}", shape.name), told)
    }));
    Ok(Answer {
        question: "price".to_owned(),
        provenance: loaded.provenance(options.seed_list(), parameters),
        summary,
        tables: vec![table(shapes, &priced)],
        charts: vec![chart(shapes, &priced, bound)],
    })
}

fn sound(shapes: &[Shape]) -> Result<(), Error> {
    let names: BTreeSet<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    if shapes.is_empty() || shapes.len() > MOST_SHAPES || names.len() < shapes.len() {
        return Err(format!("shapes: give 1 to {MOST_SHAPES}, each with a name of its own").into());
    }
    for shape in shapes {
        let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let Resources { cpu_milli, ram_bytes, .. } = shape.capacity;
        if shape.name.is_empty() || !shape.name.chars().all(word) {
            return Err(format!(
                "shape {:?}: a name is letters, digits and underscores",
                shape.name
            )
            .into());
        }
        if shape.cost == 0 || cpu_milli == 0 || ram_bytes == 0 {
            return Err(format!("shape {}: give a cost, cpu and ram over 0", shape.name).into());
        }
        if shape.cost > MOST_COST {
            let (name, cost) = (&shape.name, shape.cost);
            let why = "in larger units, all costs alike";
            return Err(
                format!("shape {name}: cost: {cost}, most is {MOST_COST}: give it {why}").into()
            );
        }
    }
    Ok(())
}

/// Each shape alone, and pairs in quarters.
fn first_mixes(shapes: usize) -> Vec<Vec<u64>> {
    let mix = |parts: &[(usize, u64)]| {
        let mut shares = vec![0; shapes];
        parts.iter().for_each(|(at, share)| shares[*at] = *share);
        shares
    };
    let mut all: Vec<_> = (0..shapes).map(|one| mix(&[(one, 100)])).collect();
    for one in 0..shapes {
        for other in one + 1..shapes {
            all.extend([25, 50, 75].map(|share| mix(&[(one, share), (other, 100 - share)])));
        }
    }
    all
}

impl Run<'_> {
    /// Exchanges machines of the cheapest mix as long as that makes it cheaper.
    fn exchange(&mut self, tell: &dyn Fn(&str)) -> Result<(), Error> {
        for _ in 0..EXCHANGES {
            let least =
                |run: &Self| run.priced.iter().map(Priced::p90).fold(f64::INFINITY, f64::min);
            let before = least(self);
            let best = self.priced.iter().find(|one| one.p90() <= before);
            let Some(best) = best.map(|best| best.shares.clone()) else { return Ok(()) };
            for from in (0..best.len()).filter(|from| best[*from] > 0) {
                for to in (0..best.len()).filter(|to| *to != from) {
                    let mut shares = best.clone();
                    let some = EXCHANGED.min(shares[from]);
                    (shares[from], shares[to]) = (shares[from] - some, shares[to] + some);
                    self.price(shares, tell)?;
                }
            }
            if least(self) >= before {
                return Ok(());
            }
        }
        Ok(())
    }

    fn price(&mut self, shares: Vec<u64>, tell: &dyn Fn(&str)) -> Result<(), Error> {
        if !self.seen.insert(shares.clone()) {
            return Ok(());
        }
        let bought = bought(self.work, self.shapes, &shares)?;
        let mut priced = Priced { shares, costs: None, machines: Vec::new() };
        // Too little even with copies is an answer here, not an error.
        if let Ok(found) = resumed(&bought, self.options, self.journal, |_| {}) {
            let cost = |kept: &super::compact::Kept| {
                let kept = order(&bought, kept.seed).into_iter().take(kept.machines);
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a sum of costs, told in whole units"
                )]
                let sum = kept.map(|(name, _)| cost_of(self.shapes, &name)).sum::<u64>() as f64;
                sum
            };
            priced.costs = Some(found.kept.iter().map(cost).collect());
            priced.machines = found.samples();
        }
        tell(&format!("{}: {:.0}", name(self.shapes, &priced.shares), priced.p90()));
        self.priced.push(priced);
        Ok(())
    }
}

/// The work, and twice as many machines of the shapes in these shares as it asks for when nothing is lost.
///
/// # Errors
/// When that would be more than anybody looks at.
fn bought(work: &Work, shapes: &[Shape], shares: &[u64]) -> Result<Work, Error> {
    let (cpu, ram) = asked(work);
    let mean = |of: fn(&Resources) -> u64| {
        let parts = shapes.iter().zip(shares);
        parts
            .map(|(shape, share)| u128::from(of(&shape.capacity)) * u128::from(*share))
            .sum::<u128>()
    };
    let count = |asked: u128, mean: u128| (asked * 200).div_ceil(mean.max(1));
    let most = count(cpu, mean(|r| r.cpu_milli)).max(count(ram, mean(|r| r.ram_bytes)));
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(PARTS as usize);
    if most > MOST_MACHINES {
        let mix = name(shapes, shares);
        return Err(format!(
            "{mix}: {most} machines to begin with, most is {MOST_MACHINES}: give larger shapes"
        )
        .into());
    }
    let mut got = vec![0_u64; shapes.len()];
    let mut machines = Vec::with_capacity(most);
    for number in 0..most {
        let total = u64::try_from(number + 1).unwrap_or(u64::MAX);
        // The one that is furthest behind its share comes next.
        let behind = |at: &usize| (total * shares[*at]).saturating_sub(got[*at] * 100);
        let at = (0..shapes.len()).max_by_key(|at| (behind(at), usize::MAX - at)).unwrap_or(0);
        got[at] += 1;
        let (_, like) = &work.machines[number % work.machines.len()];
        let mut info = like.clone();
        let ports = info.capacity.ports;
        info.capacity = Resources { ports, ..shapes[at].capacity.clone() };
        let round = number / work.machines.len();
        for level in ["rack", "pdu"] {
            if let Some(value) = info.attributes.get_mut(level).filter(|_| round > 0) {
                value.push_str(&format!("-more{round}"));
            }
        }
        machines.push((format!("{}-{number}", shapes[at].name), info));
    }
    Ok(Work { machines, ..work.clone() })
}

fn cost_of(shapes: &[Shape], machine: &str) -> u64 {
    let shape = machine.split('-').next().unwrap_or_default();
    shapes.iter().find(|one| one.name == shape).map_or(0, |one| one.cost)
}

/// Processor time and memory that the work asks for; what stands in allocs asks for nothing of its own.
fn asked(work: &Work) -> (u128, u128) {
    let own = work.jobs.iter().map(|(_, spec)| spec).filter(|spec| spec.alloc_set.is_none());
    own.fold((0, 0), |(cpu, ram), spec| {
        let (limit, tasks) = (&spec.task.limit, u128::from(spec.tasks));
        (cpu + u128::from(limit.cpu_milli) * tasks, ram + u128::from(limit.ram_bytes) * tasks)
    })
}

/// What no mix can cost less than, even if tasks could be cut in pieces: for any weights of processor time and memory
/// each shape gives at most so much of the whole for its cost. As many tasks as may wait are taken off, each as large
/// as the largest.
#[expect(clippy::cast_precision_loss, reason = "told in whole units of cost")]
fn bound(work: &Work, shapes: &[Shape]) -> f64 {
    let (cpu, ram) = asked(work);
    let (cpu, ram) = (cpu.max(1) as f64, ram.max(1) as f64);
    let wait = (work.tasks() * WAITING_PERMILLE / 1_000) as f64;
    let of = |part: u32| {
        let weight = f64::from(part) / f64::from(PARTS);
        let share = |room: &Resources| {
            weight * room.cpu_milli as f64 / cpu + (1.0 - weight) * room.ram_bytes as f64 / ram
        };
        let largest = work.jobs.iter().map(|(_, spec)| share(&spec.task.limit)).fold(0.0, f64::max);
        let cost = |shape: &Shape| shape.cost as f64 / share(&shape.capacity);
        let least = shapes.iter().map(cost).fold(f64::INFINITY, f64::min);
        (1.0 - wait * largest).max(0.0) * least
    };
    (0..=PARTS).map(of).fold(0.0, f64::max)
}

fn name(shapes: &[Shape], shares: &[u64]) -> String {
    let some = shapes.iter().zip(shares).filter(|(_, share)| **share > 0);
    let parts: Vec<String> =
        some.map(|(shape, share)| format!("{} {share} %", shape.name)).collect();
    parts.join(", ")
}

fn table(shapes: &[Shape], priced: &[Priced]) -> Table {
    let row = |one: &Priced| {
        let costs = [90, 50, 0, 100].map(|part| match &one.costs {
            Some(costs) => Value::Number(percentile(costs, part), 0),
            None => Value::Nothing,
        });
        let machines = one.costs.as_ref().map(|_| percentile(&one.machines, 90));
        let machines = machines.map_or(Value::Nothing, |count| Value::Number(count, 0));
        let shares = one.shares.iter().map(|share| Value::Count(*share));
        shares.chain([machines]).chain(costs).collect()
    };
    let shares = shapes.iter().map(|shape| Column::of(&shape.name, "percent"));
    let rest = ["machines_p90", "cost_p90", "cost_median", "cost_least", "cost_most"];
    Table {
        name: "mixes".to_owned(),
        title: "Mixes, the cheapest first; without a cost: they do not hold the work".to_owned(),
        columns: shares.chain(rest.map(Column::plain)).collect(),
        rows: priced.iter().map(row).collect(),
    }
}

fn chart(shapes: &[Shape], priced: &[Priced], bound: f64) -> Chart {
    let spread = |one: &Priced| {
        let samples = one.costs.clone()?;
        Some(Spread { name: name(shapes, &one.shares), samples, bound: Some(bound) })
    };
    Chart::Boxes {
        name: "costs".to_owned(),
        title: "What the cheapest mixes cost".to_owned(),
        y: Axis { label: "cost".to_owned(), unit: String::new() },
        boxes: priced.iter().take(5).filter_map(spread).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_sim::job;

    fn shape(name: &str, cost: u64, cpu_milli: u64, ram_gib: u64) -> Shape {
        let capacity = Resources {
            cpu_milli,
            ram_bytes: ram_gib << 30,
            disk_bytes: 1 << 40,
            ..Resources::default()
        };
        Shape { name: name.to_owned(), cost, capacity }
    }

    fn priced(shapes: &[Shape], threads: usize) -> Result<Answer, Error> {
        // Half of the tasks need much processor time, half much memory.
        let jobs = vec![
            job("cpu").tasks(40).limit(2_000, 1 << 10).spec(),
            job("ram").tasks(40).limit(500, 7 << 10).spec(),
        ];
        let loaded =
            Loaded::of_work("test".into(), crate::questions::compact::tests::work(10, jobs));
        let options = Options { seeds: 3, threads, ..Options::default() };
        price(&loaded, shapes, &options, &Journal::none(), |_| {})
    }

    #[test]
    fn the_cheaper_of_two_equal_shapes_is_bought_alone() {
        let shapes = [shape("dear", 30, 8_000, 32), shape("cheap", 20, 8_000, 32)];
        let answer = priced(&shapes, 1).unwrap();
        assert!(answer.summary[0].starts_with("cheap 100 %: "), "{answer:?}");
        assert_eq!(answer, priced(&shapes, 8).unwrap());
    }

    #[test]
    fn a_price_is_never_under_the_bound() {
        let answer = priced(&[shape("c", 10, 8_000, 8), shape("m", 10, 2_000, 32)], 2).unwrap();
        let Chart::Boxes { boxes, .. } = &answer.charts[0] else { panic!("boxes") };
        for one in boxes {
            assert!(one.samples.iter().all(|cost| *cost >= one.bound.unwrap()), "{one:?}");
        }
        assert!(boxes[0].name.contains(','), "work of two kinds wants two shapes: {answer:?}");
    }

    #[test]
    fn shapes_that_make_no_sense_and_too_small_ones_are_refused() {
        let refused = |shapes: &[Shape]| priced(shapes, 1).unwrap_err().to_string();
        assert!(refused(&[]).contains("1 to 6"));
        assert!(refused(&[shape("a-b", 1, 1, 1)]).contains("letters"));
        assert!(refused(&[shape("a", 0, 1, 1)]).contains("cost"));
        assert!(refused(&[shape("tiny", 1, 100, 1)]).contains("no mix"));
        assert!(refused(&[shape("dear", u64::MAX, 8_000, 32)]).contains("most is 1000000000"));
        let many = refused(&[shape("dust", 1, 1, 1)]);
        assert!(many.starts_with("dust 100 %: ") && many.contains("most is 100000"), "{many}");
    }
}
