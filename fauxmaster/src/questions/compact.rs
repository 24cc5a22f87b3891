//! The smallest cell that still holds a workload: compaction (Borg paper, section 5.1; the method is that of
//! Verma et al., CLUSTER'14).
//!
//! Machines are kept in an order of chance, so that the mix of shapes stays. For one order the answer is the
//! shortest prefix that holds the work, found by halving; each try begins with an empty cell and schedules
//! everything anew, so that no lucky or unlucky past is kept. Eleven orders are tried, and what nine tenths of
//! them do not exceed is the answer.
//!
//! As in the paper, a cell that is too small is doubled by copies first; a job of more tasks than half of the
//! cell has machines asks for its constraints softly; and up to 0.2 % of the tasks may wait if they are picky. What
//! is picky the paper does not say: here, what less than 1 % of the machines could take if they were empty.
//!
//! A longer prefix may rarely fail where a shorter one does not; halving does not look for that. So the number of a
//! seed depends on where the search begins, which follows from the work alone, never from other seeds.

use super::Policy;
use crate::answer::{Answer, Axis, Chart, Column, Spread, Table};
use crate::bound::machines_needed;
use crate::journal::Journal;
use crate::sources::loaded::Loaded;
use crate::spread::percentile;
use crate::work::Work;
use crate::{Driven, Error, parallel};
use borg_proto::{JobId, JobSpec, MachineInfo, TaskId};
use borg_scheduler::{Config, Scheduler, Weights};
use borg_sim::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Orders of machines that are tried (Borg paper, section 5.1).
pub const SEEDS: u64 = 11;
/// Of a thousand tasks, as many may wait if they are picky (Borg paper, section 5.1).
pub(super) const WAITING_PERMILLE: u64 = 2;
/// Copies of the cell, at most, beside the cell: where the machines do not suffice, copies of them follow in the
/// order. 3, as in the paper's study of large requests (section 5.4).
const COPIES: usize = 3;

/// How a cell is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What makes a machine the best.
    pub policy: Policy,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds.
    pub seeds: u64,
    /// How many threads.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { policy: Policy::HYBRID, first_seed: 1, seeds: SEEDS, threads: 1 }
    }
}

impl Options {
    /// The seeds in order.
    #[must_use]
    pub fn seed_list(&self) -> Vec<u64> {
        parallel::seeds(self.first_seed, self.seeds)
    }

    /// What an answer depends on, but for the seeds.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, String)> {
        vec![
            ("policy".to_owned(), self.policy.name.to_owned()),
            ("waiting_permille".to_owned(), WAITING_PERMILLE.to_string()),
        ]
    }
}

/// What one order of the machines needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the order.
    pub seed: u64,
    /// How many machines are kept.
    pub machines: usize,
    /// Tasks that wait in that cell, all of them picky.
    pub waiting: u64,
    /// How often the whole work was scheduled to find that out.
    pub tries: u32,
}

/// Machines needed, one answer for each order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// In the order of the seeds.
    pub kept: Vec<Kept>,
    /// No choice of machines holds the work with fewer; picky tasks left out. `None` when the cell does not suffice
    /// without copies.
    pub bound: Option<usize>,
}

impl Compacted {
    /// Numbers of machines in the order of the seeds.
    #[must_use]
    pub fn samples(&self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
        self.kept.iter().map(|kept| kept.machines as f64).collect()
    }

    /// What nine tenths of the orders do not exceed: of 11, the second largest.
    #[must_use]
    pub fn p90(&self) -> f64 {
        percentile(&self.samples(), 90)
    }

    /// Whose number is the 90th percentile.
    #[must_use]
    pub fn typical(&self) -> Option<&Kept> {
        let mut sorted: Vec<&Kept> = self.kept.iter().collect();
        sorted.sort_by_key(|kept| (kept.machines, kept.seed));
        let rank = (sorted.len() * 90).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

/// Where everything went in a compacted cell.
#[derive(Debug, Clone)]
pub struct Packing {
    /// The machines that are kept, in their order.
    pub machines: Vec<(String, MachineInfo)>,
    /// The jobs as they were packed: constraints of giants are soft.
    pub jobs: Vec<Arc<JobSpec>>,
    /// Of each of these jobs, how many tasks are on which machine, by its place.
    pub places: Vec<BTreeMap<usize, u32>>,
}

/// Compacts a cell, once for each seed; `tell` hears of each as it is done, in no certain order.
///
/// # Errors
/// When state and scheduler disagree, or the work does not fit even into the copies.
pub fn compact(
    work: &Work,
    options: &Options,
    tell: impl Fn(&Kept) + Sync,
) -> Result<Compacted, Error> {
    resumed(work, options, &Journal::none(), tell)
}

/// The same, but for the seeds that are known already; all others are kept as they are done.
///
/// # Errors
/// As for [`compact`], and when the file cannot be written.
pub fn resumed(
    work: &Work,
    options: &Options,
    journal: &Journal,
    tell: impl Fn(&Kept) + Sync,
) -> Result<Compacted, Error> {
    let ready = Ready::new(work, options.policy.weights);
    let key = journal.key(work, options.policy.weights);
    let found = parallel::each(&options.seed_list(), options.threads, |seed| {
        let kept = ready.known(*seed, journal, key)?;
        tell(&kept);
        Ok::<_, Error>(kept)
    });
    let kept = found.into_iter().collect::<Result<_, _>>()?;
    Ok(Compacted { kept, bound: ready.bound })
}

/// Packs the work once more into what a seed kept.
///
/// # Errors
/// When state and scheduler disagree.
pub fn packing(work: &Work, weights: Weights, kept: &Kept) -> Result<Packing, Error> {
    let ready = Ready::new(work, weights);
    let mut machines = order(work, kept.seed);
    machines.truncate(kept.machines);
    let tried = ready.fill(&machines)?;
    let places = tried.jobs.iter().map(|job| {
        let mut places = BTreeMap::new();
        for (_, task) in tried.cell.state.tasks_of(*job) {
            if let Some(placement) = task.placement() {
                *places.entry(usize::try_from(placement.machine.0).unwrap_or(0)).or_default() += 1;
            }
        }
        places
    });
    Ok(Packing { places: places.collect(), machines, jobs: ready.jobs })
}

/// The answer for people.
#[must_use]
pub fn answer(loaded: &Loaded, work: &Work, options: &Options, found: &Compacted) -> Answer {
    let p90 = found.p90();
    let all = found.samples();
    let (least, most) = (percentile(&all, 0), percentile(&all, 100));
    let bound = match found.bound {
        None => "All machines without copies do not suffice.".to_owned(),
        Some(bound) => {
            #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
            let over = p90 / bound.max(1) as f64;
            format!("No packing needs fewer than {bound}: {over:.3} of that.")
        }
    };
    let mut summary = vec![
        format!(
            "{p90:.0} of {} machines hold the work (90th percentile of {} orders, {least:.0} to {most:.0}).",
            work.machines.len(),
            all.len()
        ),
        bound,
    ];
    if work.tied > 0 {
        summary.push(format!("{} tasks of daemons are left out.", work.tied));
    }
    let row = |kept: &Kept| {
        let machines = u64::try_from(kept.machines).unwrap_or(u64::MAX);
        vec![kept.seed.into(), machines.into(), kept.waiting.into(), kept.tries.into()]
    };
    let columns = ["seed", "machines", "picky_tasks_waiting", "tries"].map(Column::plain);
    #[expect(clippy::cast_precision_loss, reason = "counts of machines are small")]
    let spread = Spread {
        name: options.policy.name.to_owned(),
        samples: all,
        bound: found.bound.map(|bound| bound as f64),
    };
    Answer {
        question: "compact".to_owned(),
        provenance: loaded.provenance(options.seed_list(), options.parameters()),
        summary,
        tables: vec![Table {
            name: "kept".to_owned(),
            title: "Machines kept, by order of chance".to_owned(),
            columns: columns.into(),
            rows: found.kept.iter().map(row).collect(),
        }],
        charts: vec![Chart::Boxes {
            name: "machines".to_owned(),
            title: "Machines that hold the work".to_owned(),
            y: Axis { label: "machines".to_owned(), unit: String::new() },
            boxes: vec![spread],
        }],
    }
}

/// The machines in an order of chance, then copies of them, in racks and power domains of their own.
pub(super) fn order(work: &Work, seed: u64) -> Vec<(String, MachineInfo)> {
    let mut dice = Dice::new(seed);
    let mut all = Vec::new();
    for copy in 0..=COPIES {
        let mut some = work.machines.clone();
        dice.shuffle(&mut some);
        for (name, machine) in some.iter_mut().filter(|_| copy > 0) {
            name.push_str(&format!("-copy{copy}"));
            for level in ["rack", "pdu"] {
                if let Some(value) = machine.attributes.get_mut(level) {
                    value.push_str(&format!("-copy{copy}"));
                }
            }
        }
        all.extend(some);
    }
    all
}

/// A workload that is ready to be packed, as often as it takes.
pub(super) struct Ready<'a> {
    work: &'a Work,
    weights: Weights,
    /// The jobs as they are submitted.
    jobs: Vec<Arc<JobSpec>>,
    picky: Vec<bool>,
    pub(super) bound: Option<usize>,
}

/// A cell in which the work was submitted and placed as far as it fits.
struct Tried {
    cell: Driven,
    jobs: Vec<JobId>,
}

impl<'a> Ready<'a> {
    pub(super) fn new(work: &'a Work, weights: Weights) -> Self {
        let half = work.machines.len() / 2;
        let soften = |spec: &Arc<JobSpec>| {
            let mut spec = spec.clone();
            let large = usize::try_from(spec.tasks).is_ok_and(|tasks| tasks > half);
            if large && spec.task.constraints.iter().any(|one| !one.soft) {
                let task = Arc::make_mut(&mut Arc::make_mut(&mut spec).task);
                task.constraints.iter_mut().for_each(|one| one.soft = true);
            }
            spec
        };
        let jobs: Vec<Arc<JobSpec>> = work.jobs.iter().map(|(_, spec)| soften(spec)).collect();
        let picky: Vec<bool> = jobs.iter().map(|spec| is_picky(spec, &work.machines)).collect();
        let machines: Vec<&MachineInfo> = work.machines.iter().map(|(_, info)| info).collect();
        let sure = jobs.iter().zip(&picky).filter(|(_, picky)| !**picky);
        let sure: Vec<&JobSpec> = sure.map(|(spec, _)| spec.as_ref()).collect();
        let bound = machines_needed(&machines, &sure);
        Self { work, weights, jobs, picky, bound }
    }

    /// What a seed needs: as it was kept under this key, or computed now and kept.
    pub(super) fn known(&self, seed: u64, journal: &Journal, key: u64) -> Result<Kept, Error> {
        if let Some(kept) = journal.find(key, seed) {
            let all = self.work.machines.len() * (COPIES + 1);
            if !(self.bound.unwrap_or(0).max(1)..=all).contains(&kept.machines) {
                let (machines, least) = (kept.machines, self.bound.unwrap_or(1));
                return Err(format!(
                    "what was kept for seed {seed} cannot be: {machines} machines, of {least} to {all}; somebody changed the \
                     file: take another one"
                )
                .into());
            }
            return Ok(kept);
        }
        let kept = self.needed(seed)?;
        journal.keep(key, &kept)?;
        Ok(kept)
    }

    /// The shortest prefix of a seed's order that holds the work. The search begins at the lower bound and goes
    /// up in growing steps until one holds.
    pub(super) fn needed(&self, seed: u64) -> Result<Kept, Error> {
        let order = order(self.work, seed);
        let mut tries = 0;
        let mut holds = |count: usize| {
            tries += 1;
            self.holds(&order[..count])
        };
        let start = self.bound.unwrap_or(self.work.machines.len()).clamp(1, order.len());
        let (mut least, mut most, mut step) = (1, start + start / 50, (start / 25).max(1));
        let waiting = loop {
            most = most.min(order.len());
            match holds(most)? {
                Some(waiting) => break waiting,
                None if most == order.len() => {
                    return Err(self.too_little(&order)?.into());
                }
                None => (least, most, step) = (most + 1, most + step, step * 2),
            }
        };
        let mut found = (most, waiting);
        while least < found.0 {
            let middle = least.midpoint(found.0);
            match holds(middle)? {
                Some(waiting) => found = (middle, waiting),
                None => least = middle + 1,
            }
        }
        Ok(Kept { seed, machines: found.0, waiting: found.1, tries })
    }

    /// Why all machines and their copies do not hold the work.
    fn too_little(&self, order: &[(String, MachineInfo)]) -> Result<String, Error> {
        let Tried { mut cell, jobs } = self.fill(order)?;
        let picky: BTreeSet<JobId> =
            jobs.iter().zip(&self.picky).filter(|(_, picky)| **picky).map(|(id, _)| *id).collect();
        let waiting: Vec<TaskId> =
            cell.state.pending().filter(|task| !picky.contains(&task.job)).collect();
        let mut scheduler = Scheduler::new(&cell.state, self.config());
        cell.tell(&mut scheduler);
        let why = waiting.first().map(|task| {
            let key = cell.state.job(task.job).map(|job| job.key.to_string()).unwrap_or_default();
            format!("{key}/{}: {}", task.index, scheduler.explain(*task, cell.now()).summary)
        });
        Ok(format!(
            "{} machines, the cell's own and {COPIES} copies of each, do not hold the work: {} tasks wait, {}",
            order.len(),
            waiting.len(),
            why.unwrap_or_default()
        ))
    }

    fn config(&self) -> Config {
        Config { weights: self.weights, ..Config::default() }
    }

    /// Whether these machines hold the work, and how many picky tasks wait then.
    fn holds(&self, machines: &[(String, MachineInfo)]) -> Result<Option<u64>, Error> {
        let tried = self.fill(machines)?;
        let mut waiting = 0;
        let picky: BTreeMap<JobId, bool> =
            tried.jobs.iter().copied().zip(self.picky.iter().copied()).collect();
        for TaskId { job, .. } in tried.cell.state.pending() {
            if !picky.get(&job).is_some_and(|picky| *picky) {
                return Ok(None);
            }
            waiting += 1;
        }
        Ok((waiting * 1_000 <= self.work.tasks() * WAITING_PERMILLE).then_some(waiting))
    }

    /// Submits all of the work to an empty cell of these machines and places what fits: one pass, which goes by
    /// priority, through the state machine.
    fn fill(&self, machines: &[(String, MachineInfo)]) -> Result<Tried, Error> {
        let infos: Vec<MachineInfo> = machines.iter().map(|(_, info)| info.clone()).collect();
        let mut cell = Driven::with_machines(&infos)?;
        let mut jobs = Vec::with_capacity(self.jobs.len());
        for ((owner, _), spec) in self.work.jobs.iter().zip(&self.jobs) {
            jobs.push(cell.submit(owner, spec.clone())?);
        }
        let mut scheduler = Scheduler::new(&cell.state, self.config());
        drop(cell.take_news());
        // Allocs first, then who stands in them; nobody is pushed out by those who come later.
        loop {
            let decisions = scheduler.pass(cell.now(), usize::MAX);
            if decisions.is_empty() {
                return Ok(Tried { cell, jobs });
            }
            cell.place(decisions)?;
            cell.tell(&mut scheduler);
        }
    }
}

/// Whether less than 1 % of the machines could take a task of the job if they were empty.
fn is_picky(spec: &JobSpec, machines: &[(String, MachineInfo)]) -> bool {
    let could = |info: &MachineInfo| {
        let hard = spec.task.constraints.iter().filter(|one| !one.soft);
        spec.task.limit.fits_in(&info.capacity)
            && hard.into_iter().all(|one| one.holds(&info.attributes))
    };
    let able = machines.iter().filter(|(_, info)| could(info)).count();
    spec.alloc_set.is_none() && able * 100 < machines.len()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sources::borg_like::{Mix, borg_like};
    use crate::sources::common::{job_of, machine_of};
    use borg_proto::spec::{Constraint, ConstraintOp};
    use borg_proto::{Resources, UserName};

    fn room(cpu_milli: u64) -> Resources {
        Resources { cpu_milli, ram_bytes: 1 << 40, ..Resources::default() }
    }

    pub(in crate::questions) fn work(machines: usize, jobs: Vec<JobSpec>) -> Work {
        let machine = |n| (format!("m{n}"), machine_of(room(4_000), BTreeMap::new()));
        let owner: UserName = "all".parse().unwrap();
        Work {
            machines: (0..machines).map(machine).collect(),
            jobs: jobs.into_iter().map(|spec| (owner.clone(), Arc::new(spec))).collect(),
            tied: 0,
        }
    }

    fn core_each(tasks: u32) -> JobSpec {
        let ask = Resources { cpu_milli: 1_000, ..Resources::default() };
        job_of("j", tasks, ask).unwrap()
    }

    #[test]
    fn equal_machines_are_needed_in_proportion_copies_included() {
        for (tasks, needed, bound) in [(20, 5, Some(5)), (39, 10, Some(10)), (60, 15, None)] {
            let work = work(10, vec![core_each(tasks)]);
            for policy in Policy::ALL {
                let options = Options { policy, seeds: 3, ..Options::default() };
                let found = compact(&work, &options, |_| {}).unwrap();
                assert_eq!(found.samples(), vec![f64::from(needed); 3]);
                assert_eq!((found.p90(), found.bound), (f64::from(needed), bound));
            }
        }
    }

    #[test]
    fn the_same_on_one_thread_and_on_eight_never_under_the_bound_and_packed_as_told() {
        let made = borg_like(60, Mix::BORG, 5).unwrap();
        let machines = (0..).zip(made.machines).map(|(n, info)| (format!("m{n}"), info)).collect();
        let work = Work { machines, jobs: made.jobs, tied: 0 };
        let on = |threads| {
            let options = Options { threads, seeds: 5, ..Options::default() };
            compact(&work, &options, |_| {}).unwrap()
        };
        let found = on(1);
        assert_eq!(found, on(8));
        let bound = found.bound.unwrap();
        assert!(found.kept.iter().all(|kept| kept.machines >= bound), "{found:?}");
        let kept = found.typical().unwrap();
        assert!((found.p90() - kept.machines as f64).abs() < 0.5);
        let packed = packing(&work, Weights::hybrid(), kept).unwrap();
        let placed: u64 =
            packed.places.iter().flat_map(|of| of.values()).map(|n| u64::from(*n)).sum();
        assert_eq!((placed + kept.waiting, packed.machines.len()), (work.tasks(), kept.machines));
    }

    #[test]
    fn seeds_that_are_known_are_not_computed_again_and_the_answer_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume");
        let work = work(10, vec![core_each(20)]);
        let first = Options { seeds: 2, ..Options::default() };
        let all = Options { seeds: 4, ..Options::default() };
        resumed(&work, &first, &Journal::open(&path).unwrap(), |_| {}).unwrap();
        // Would it be computed again, the answer would be 5.
        let text = std::fs::read_to_string(&path).unwrap().replace(" 5 0 ", " 6 0 ");
        std::fs::write(&path, text).unwrap();
        let found = resumed(&work, &all, &Journal::open(&path).unwrap(), |_| {}).unwrap();
        assert_eq!(found.samples(), [6.0, 6.0, 5.0, 5.0]);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }

    /// One task of two hundred that nearly no machine can take may wait; ten of them may not.
    #[test]
    fn few_picky_tasks_may_wait_and_nobody_else() {
        let picky = |tasks| {
            let mut spec = core_each(tasks);
            spec.name = "picky".parse().unwrap();
            let one = Constraint {
                attribute: "odd".into(),
                op: ConstraintOp::Present,
                values: Vec::new(),
                soft: false,
            };
            Arc::make_mut(&mut spec.task).constraints.push(one);
            spec
        };
        let options = Options { seeds: 1, ..Options::default() };
        let needed = |tasks| {
            let work = work(200, vec![core_each(600), picky(tasks)]);
            compact(&work, &options, |_| {}).map(|found| found.kept[0].clone())
        };
        let one = needed(1).unwrap();
        assert_eq!((one.machines, one.waiting), (150, 1));
        assert!(needed(10).unwrap_err().to_string().contains("do not hold the work"));
    }
}
