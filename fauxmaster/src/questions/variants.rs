//! Other forms of the same work: apart from one another, in larger requests, on other machines. What the paper's
//! studies vary (sections 5.2 to 5.5).

use super::Policy;
use super::study::{Setting, Study};
use crate::answer::Axis;
use crate::work::Work;
use borg_proto::{JobSpec, UserName};
use borg_sim::dice::Dice;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Least request of processor time when requests are bucketed: 0.5 core (Borg paper, section 5.4).
const BUCKET_CPU_MILLI: u64 = 500;
/// Least request of memory: 1 GiB.
const BUCKET_RAM_BYTES: u64 = 1 << 30;
/// Seed of the order in which jobs are dealt out to smaller cells.
const DEAL_SEED: u64 = 1;

type Job = (UserName, Arc<JobSpec>);

/// Production in a cell of its own, and all else in another (section 5.2).
#[must_use]
pub fn prod_apart(work: &Work, policy: Policy) -> Study {
    let (prod, rest) = split(work, |(_, spec)| spec.priority.is_prod());
    apart(
        work,
        policy,
        ("prod and non-prod apart".to_owned(), vec![prod, rest]),
        "Published: 20 to 30 % more machines in the median cell (section 5.2, figure 5).",
    )
}

/// Users of more than so much memory in cells of their own (section 5.2).
#[must_use]
pub fn users_apart(work: &Work, policy: Policy, over_bytes: u64) -> Study {
    let mut memory = BTreeMap::<&UserName, u64>::new();
    for (user, spec) in &work.jobs {
        let asked = spec.task.limit.ram_bytes.saturating_mul(spec.tasks.into());
        let sum = memory.entry(user).or_default();
        *sum = sum.saturating_add(asked);
    }
    memory.retain(|_, asked| *asked > over_bytes);
    let (_, rest) = split(work, |(user, _)| memory.contains_key(user));
    let mut cells = vec![rest];
    cells.extend(memory.keys().map(|large| split(work, |(user, _)| user == *large).0));
    let name = format!("{} users over {} GiB apart", memory.len(), over_bytes >> 30);
    apart(
        work,
        policy,
        (name, cells),
        "Published: 2 to 16 times as many cells and 20 to 150 % more machines where users of over 10 TiB are apart \
         (section 5.2, figure 6).",
    )
}

/// The jobs dealt out to so many cells, in an order of chance (section 5.3).
#[must_use]
pub fn smaller_cells(work: &Work, policy: Policy, cells: &[u32]) -> Study {
    let mut jobs = work.jobs.clone();
    Dice::new(DEAL_SEED).shuffle(&mut jobs);
    let setting = |many: u32| {
        let deal = |cell: u32| {
            let every = usize::try_from(many).unwrap_or(usize::MAX);
            let first = usize::try_from(cell).unwrap_or(usize::MAX);
            let some: Vec<Job> = jobs.iter().skip(first).step_by(every).cloned().collect();
            with_jobs(work, in_order(work, some))
        };
        Setting {
            name: if many == 1 { "one cell".to_owned() } else { format!("{many} cells") },
            x: f64::from(many),
            policy,
            cells: (0..many).map(deal).filter(|cell| !cell.jobs.is_empty()).collect(),
        }
    };
    let all = std::iter::once(1).chain(cells.iter().copied().filter(|many| *many != 1));
    Study {
        question: "sweep",
        title: "Machines needed, by number of cells".to_owned(),
        settings: all.map(setting).collect(),
        remarks: vec![
            "Published: smaller cells need significantly more machines (section 5.3, figure 7; no number in the text)."
                .to_owned(),
        ],
        axis: Some(Axis { label: "cells".to_owned(), unit: String::new() }),
    }
}

/// Requests of production rounded up to powers of two of half a core and a GiB (section 5.4).
#[must_use]
pub fn bucketed(work: &Work, policy: Policy) -> Study {
    let most = |of: fn(&borg_proto::Resources) -> u64| {
        work.machines.iter().map(|(_, info)| of(&info.capacity)).max().unwrap_or(u64::MAX)
    };
    let (cpu, ram) = (most(|r| r.cpu_milli), most(|r| r.ram_bytes));
    let larger = |(user, spec): &Job| {
        let mut spec = spec.clone();
        if spec.priority.is_prod() {
            let limit = &mut Arc::make_mut(&mut Arc::make_mut(&mut spec).task).limit;
            // No larger than the largest machine, as such a task could never run: the paper's lower estimate.
            limit.cpu_milli =
                bucket(limit.cpu_milli, BUCKET_CPU_MILLI).min(cpu.max(limit.cpu_milli));
            limit.ram_bytes =
                bucket(limit.ram_bytes, BUCKET_RAM_BYTES).min(ram.max(limit.ram_bytes));
        }
        (user.clone(), spec)
    };
    let cell = with_jobs(work, work.jobs.iter().map(larger).collect());
    apart(
        work,
        policy,
        ("powers of two".to_owned(), vec![cell]),
        "Published: 30 to 50 % more in the median cell (section 5.4, figure 9).",
    )
}

/// Requests of what is not production as parts of what they are, in percent: what reclamation would be worth if so much
/// of them were used and never more (section 5.5).
#[must_use]
pub fn reserved(work: &Work, policy: Policy, percents: &[u32]) -> Study {
    let setting = |percent: u32| {
        let smaller = |(user, spec): &Job| {
            let mut spec = spec.clone();
            if !spec.priority.is_prod() {
                let limit = &mut Arc::make_mut(&mut Arc::make_mut(&mut spec).task).limit;
                let part = |amount: u64, least: u64| (amount / 100 * u64::from(percent)).max(least);
                limit.cpu_milli = part(limit.cpu_milli, 10.min(limit.cpu_milli));
                limit.ram_bytes = part(limit.ram_bytes, (8 << 20).min(limit.ram_bytes));
            }
            (user.clone(), spec)
        };
        Setting {
            name: format!("{percent} % reserved"),
            x: percent.into(),
            policy,
            cells: vec![with_jobs(work, work.jobs.iter().map(smaller).collect())],
        }
    };
    let all =
        std::iter::once(100).chain(percents.iter().copied().filter(|percent| *percent != 100));
    Study {
        question: "sweep",
        title: "Machines needed, by what of its limits non-prod work has reserved".to_owned(),
        settings: all.map(setting).collect(),
        remarks: vec![
            "Published: about 20 % of the work of a median cell runs in reclaimed resources (section 5.5, figure 10)."
                .to_owned(),
        ],
        axis: Some(Axis { label: "reserved of the limits".to_owned(), unit: "%".to_owned() }),
    }
}

/// All machines of one shape, for each of the shapes that the cell has: which of them to buy. Tasks that fit on no machine
/// of a shape are left out of its cell, and told.
#[must_use]
pub fn shapes(work: &Work, policy: Policy) -> Study {
    let mut kinds = BTreeMap::<(u64, u64), Vec<&(String, borg_proto::MachineInfo)>>::new();
    for machine in &work.machines {
        let capacity = &machine.1.capacity;
        kinds.entry((capacity.cpu_milli, capacity.ram_bytes)).or_default().push(machine);
    }
    let mut settings =
        vec![Setting { name: "as it is".to_owned(), x: 0.0, policy, cells: vec![work.clone()] }];
    let mut remarks = Vec::new();
    for ((cpu, ram), some) in &kinds {
        let name = format!("{} cores, {} GiB", cpu / 1_000, ram >> 30);
        // The attributes of the cell's machines stay, so that constraints mean what they did.
        let machine = |(name, info): &(String, borg_proto::MachineInfo)| {
            let capacity = some[0].1.capacity.clone();
            (name.clone(), borg_proto::MachineInfo { capacity, ..info.clone() })
        };
        let machines: Vec<_> = work.machines.iter().map(machine).collect();
        let room = &some[0].1.capacity;
        let (fit, large): (Vec<Job>, Vec<Job>) =
            work.jobs.iter().cloned().partition(|(_, spec)| spec.task.limit.fits_in(room));
        let left: u64 = large.iter().map(|(_, spec)| u64::from(spec.tasks)).sum();
        if left > 0 {
            remarks
                .push(format!("{name}: {left} tasks are larger than such a machine and left out."));
        }
        if !fit.is_empty() {
            let cells = vec![Work { machines, jobs: fit, tied: work.tied }];
            settings.push(Setting { name, x: 0.0, policy, cells });
        }
    }
    Study {
        question: "sweep",
        title: "Machines needed, by shape of machine".to_owned(),
        settings,
        remarks,
        axis: None,
    }
}

fn apart(
    work: &Work,
    policy: Policy,
    (name, cells): (String, Vec<Work>),
    published: &str,
) -> Study {
    let cells = cells.into_iter().filter(|cell| !cell.jobs.is_empty()).collect();
    Study {
        question: "sweep",
        title: format!("Machines needed: {name}"),
        settings: vec![
            Setting { name: "as it is".to_owned(), x: 0.0, policy, cells: vec![work.clone()] },
            Setting { name, x: 1.0, policy, cells },
        ],
        remarks: vec![published.to_owned()],
        axis: None,
    }
}

fn split(work: &Work, of_first: impl Fn(&Job) -> bool) -> (Work, Work) {
    let (first, second) = work.jobs.iter().cloned().partition(of_first);
    (with_jobs(work, first), with_jobs(work, second))
}

fn with_jobs(work: &Work, jobs: Vec<Job>) -> Work {
    Work { machines: work.machines.clone(), jobs, tied: work.tied }
}

/// Some of the jobs in the order in which the work has them.
fn in_order(work: &Work, mut some: Vec<Job>) -> Vec<Job> {
    let places: BTreeMap<(&UserName, &borg_proto::JobName), usize> =
        work.jobs.iter().enumerate().map(|(n, (user, spec))| ((user, &spec.name), n)).collect();
    some.sort_by_key(|(user, spec)| places.get(&(user, &spec.name)).copied());
    some
}

fn bucket(amount: u64, least: u64) -> u64 {
    least.saturating_mul(amount.div_ceil(least).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::super::compact::Options;
    use super::super::study;
    use super::*;
    use crate::journal::Journal;
    use crate::sources::loaded::Loaded;

    fn work() -> (Loaded, Work) {
        let loaded = Loaded::made_up(30, 2).unwrap();
        let work = loaded.work();
        (loaded, work)
    }

    #[test]
    fn buckets_are_powers_of_two_of_the_least_one() {
        let cores = [1, 500, 501, 1_000, 1_001, 3_000].map(|cpu| bucket(cpu, 500));
        assert_eq!(cores, [500, 500, 1_000, 1_000, 2_000, 4_000]);
    }

    /// Whatever is apart, all of the work is in one of the cells.
    #[test]
    fn no_variant_loses_a_task() {
        let (_, work) = work();
        let policy = Policy::HYBRID;
        let gib = 1 << 30;
        for study in [
            prod_apart(&work, policy),
            users_apart(&work, policy, 10 * gib),
            smaller_cells(&work, policy, &[2, 5]),
            bucketed(&work, policy),
            reserved(&work, policy, &[50]),
        ] {
            assert!(study.settings.len() > 1);
            for setting in &study.settings {
                let tasks: u64 = setting.cells.iter().map(Work::tasks).sum();
                assert_eq!(tasks, work.tasks(), "{}", setting.name);
            }
        }
    }

    #[test]
    fn what_is_apart_or_larger_needs_no_fewer_machines_and_what_is_smaller_no_more() {
        let (loaded, work) = work();
        let options = Options { seeds: 1, threads: 2, ..Options::default() };
        let more = |study: &Study| {
            let needs = study::run(study, &options, &Journal::none(), |_| {}).unwrap();
            let told = study::answer(&loaded, study, &options, &needs);
            assert_eq!(told.tables[0].rows.len(), study.settings.len());
            let sum = |n: usize| needs[n].machines.iter().sum::<f64>();
            sum(1) - sum(0)
        };
        assert!(more(&prod_apart(&work, Policy::HYBRID)) >= 0.0);
        assert!(more(&bucketed(&work, Policy::HYBRID)) > 0.0);
        assert!(more(&reserved(&work, Policy::HYBRID, &[40])) < 0.0);
    }
}
