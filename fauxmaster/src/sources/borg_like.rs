//! A cell as the published figures describe Borg's: machines in a few shapes, many small jobs and few
//! large ones, work by band, constraints and spread on some.
//!
//! | of the mix | figure | source |
//! |---|---|---|
//! | machine shapes | [`SHAPES`] | cell of 2011, google/cluster-data (CC-BY), normalised |
//! | tasks a machine | 15 | Borg paper, section 6: half of the machines have 9 or more, a tenth 25 |
//! | processor time asked for | 75 % of the cell, 70 % of it by production | paper, section 2.1 |
//! | memory asked for | 75 % of the cell, 55 % of it by production | paper, section 2.1 |
//! | other tasks that ask for under 0.1 core | 20 % | paper, section 3.2 |
//! | tasks of a job | Pareto, exponent 0.9, at most half as many as machines | ours; the paper's traces of 2019 have 0.7 for use, and jobs over half the cell are special (section 5.1) |
//! | bands, of 1,000 jobs | [`BANDS`] | ours, so that production is a third of the jobs |
//! | hard constraint | 8 % of the jobs | ours |
//! | spread over machines | every production job of several tasks | ours |
//! | spread over racks too | every fourth of those | ours |
//! | users | 200, some with far more jobs than others | ours |
//!
//! All in whole numbers from one seed: the same cell everywhere.

use super::common::job_of;
use crate::Error;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::{JobKind, JobSpec, MachineInfo, Priority, Resources, UserName};
use borg_sim::dice::Dice;
use std::sync::Arc;

/// Machine shapes of the cell of 2011 (google/cluster-data): processor time and memory in
/// ten-thousandths of the largest machine's, and how many of 12,583 machines.
pub const SHAPES: [(u64, u64, u64); 10] = [
    (10_000, 10_000, 795),
    (10_000, 5_000, 3),
    (5_000, 9_678, 5),
    (5_000, 7_490, 1_001),
    (5_000, 4_995, 6_732),
    (5_000, 2_493, 3_863),
    (5_000, 1_241, 52),
    (5_000, 616, 1),
    (5_000, 309, 5),
    (2_500, 2_498, 126),
];
/// Processor time of the largest machine, which the trace does not tell. 32 cores: our choice.
pub const LARGEST_CPU_MILLI: u64 = 32_000;
/// Memory of the largest machine. 128 GiB: our choice.
pub const LARGEST_RAM_MIB: u64 = 128 << 10;
/// Machines of a rack: our choice.
pub const RACK: u32 = 40;
/// Racks of a power domain: our choice.
pub const RACKS_OF_A_PDU: u32 = 25;
/// Priority, and how many of 1,000 jobs have it.
pub const BANDS: [(u64, u64); 6] =
    [(360, 5), (200, 250), (120, 80), (116, 65), (100, 350), (0, 250)];

/// What a cell of this kind is asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Tasks for each machine.
    pub tasks_per_machine: u32,
    /// What all tasks together ask for, in thousandths of the cell.
    pub asked_permille: u64,
    /// Jobs with a hard constraint, of 1,000.
    pub constrained_permille: u64,
    /// Whether production jobs limit how many of their tasks share a machine or rack.
    pub spread: bool,
}

impl Mix {
    /// The mix of the table above.
    pub const BORG: Self =
        Self { tasks_per_machine: 15, asked_permille: 750, constrained_permille: 80, spread: true };
}

/// Machines and jobs.
#[derive(Debug, Clone)]
pub struct BorgLike {
    /// Facts of the machines, by number.
    pub machines: Vec<MachineInfo>,
    /// Jobs and their owners, in the order in which they are submitted. Names are unique.
    pub jobs: Vec<(UserName, Arc<JobSpec>)>,
}

/// A cell of so many machines, and its work.
///
/// # Errors
/// When the mix leads to a specification that a cell would refuse.
pub fn borg_like(machines: u32, mix: Mix, seed: u64) -> Result<BorgLike, Error> {
    let mut dice = Dice::new(seed);
    let machines = machine_infos(machines, &mut dice);
    let jobs = jobs(&machines, mix, "j", &mut dice)?;
    Ok(BorgLike { machines, jobs })
}

/// So many machines in the shapes of [`SHAPES`], mixed by chance, in racks by number.
fn machine_infos(count: u32, dice: &mut Dice) -> Vec<MachineInfo> {
    let shapes: u64 = SHAPES.iter().map(|shape| shape.2).sum();
    let mut infos = Vec::new();
    for number in 0..count {
        // Evenly over the machine numbers, so that every count has the published shares.
        let mut at = u64::from(number) * shapes / u64::from(count);
        let shape = SHAPES.iter().find(|shape| {
            let here = at < shape.2;
            at = at.saturating_sub(shape.2);
            here
        });
        let (cpu, ram, _) = *shape.unwrap_or(&SHAPES[4]);
        infos.push(machine_info(cpu, ram, dice));
    }
    dice.shuffle(&mut infos);
    for (number, info) in (0..).zip(&mut infos) {
        let rack: u32 = number / RACK;
        info.attributes.insert("rack".into(), format!("r{rack}"));
        info.attributes.insert("pdu".into(), format!("p{}", rack / RACKS_OF_A_PDU));
    }
    infos
}

fn machine_info(cpu: u64, ram: u64, dice: &mut Dice) -> MachineInfo {
    let text = |yes: bool| if yes { "1" } else { "0" };
    let kernel = [4, 5, 5, 5, 5, 6, 6, 6][dice.index(8)];
    let platform = if cpu == 10_000 {
        "C"
    } else if cpu == 5_000 {
        "B"
    } else {
        "A"
    };
    let attributes = [
        ("platform", platform.to_owned()),
        ("ssd", text(dice.chance(250)).to_owned()),
        ("extip", text(dice.chance(100)).to_owned()),
        ("kernel", kernel.to_string()),
    ];
    MachineInfo {
        capacity: Resources {
            cpu_milli: LARGEST_CPU_MILLI * cpu / 10_000,
            ram_bytes: (LARGEST_RAM_MIB * ram / 10_000) << 20,
            disk_bytes: (4 << 40) * cpu / 10_000,
            ports: 1_000,
            ..Resources::default()
        },
        first_port: 20_000,
        attributes: attributes.map(|(key, value)| (key.to_owned(), value)).into(),
        boot_id: String::new(),
        missing_isolation: Vec::new(),
        task_host: "m".into(),
    }
}

/// One job before its amounts are scaled.
struct Draft {
    tasks: u32,
    priority: u64,
    cpu_milli: u64,
    ram_mib: u64,
    /// Asks for under 0.1 core, and is not scaled.
    tiny: bool,
}

impl Draft {
    fn is_prod(&self) -> bool {
        self.priority >= 120
    }
}

/// The work of a cell with these machines. Names begin with `prefix`.
///
/// # Errors
/// When the mix leads to a specification that a cell would refuse.
pub fn jobs(
    machines: &[MachineInfo],
    mix: Mix,
    prefix: &str,
    dice: &mut Dice,
) -> Result<Vec<(UserName, Arc<JobSpec>)>, Error> {
    let count = u32::try_from(machines.len())?;
    let mut drafts: Vec<Draft> = job_sizes(count * mix.tasks_per_machine, (count / 2).max(1), dice)
        .into_iter()
        .map(|tasks| draft(tasks, dice))
        .collect();
    fill(&mut drafts, machines.iter().map(|info| &info.capacity), mix);
    let mut made = Vec::with_capacity(drafts.len());
    for (number, draft) in drafts.iter().enumerate() {
        // The lower of two: user 0 has 1 of 100 jobs, user 199 next to none.
        let owner = dice.below(200).min(dice.below(200));
        let spec = job_spec(format!("{prefix}{number}"), draft, mix, count, dice)?;
        made.push((format!("u{owner}").parse()?, Arc::new(spec)));
    }
    Ok(made)
}

/// Makes jobs ask for as much of these machines as the mix says.
fn fill<'a>(drafts: &mut [Draft], machines: impl Iterator<Item = &'a Resources>, mix: Mix) {
    let sums = machines.fold((0, 0), |(cpu, ram), has| (cpu + has.cpu_milli, ram + has.ram_bytes));
    let asked = |sum: u64| sum * mix.asked_permille / 1_000;
    let (cpu, ram) = (asked(sums.0), asked(sums.1) >> 20);
    // Borg paper, section 2.1.
    scale(drafts, true, cpu * 70 / 100, ram * 55 / 100);
    scale(drafts, false, cpu * 30 / 100, ram * 45 / 100);
}

/// What tasks ask for, given of which priority how many there are at a time: thousandths of a core and MiB, drawn as
/// for a made-up cell, so that all of them ask for as much of the machines as the mix says.
pub(super) fn sizes<'a>(
    tasks: &[(u64, u32)],
    machines: impl Iterator<Item = &'a Resources>,
    mix: Mix,
    dice: &mut Dice,
) -> Vec<(u64, u64)> {
    let mut drafts: Vec<Draft> =
        tasks.iter().map(|(priority, tasks)| sized(*tasks, *priority, dice)).collect();
    fill(&mut drafts, machines, mix);
    drafts.into_iter().map(|draft| (draft.cpu_milli, draft.ram_mib)).collect()
}

/// Sizes of jobs with `tasks` tasks together: in each doubling 0.536 times as many jobs as in the one
/// before, which is a Pareto distribution of exponent 0.9, evenly inside a doubling.
fn job_sizes(tasks: u32, largest: u32, dice: &mut Dice) -> Vec<u32> {
    let mut sizes = Vec::new();
    let mut left = tasks;
    while left > 0 {
        let size = job_size(536, largest, dice).min(left);
        sizes.push(size);
        left -= size;
    }
    sizes
}

/// How many tasks a job has, at most `largest`: one, and a doubling more `permille` times in a thousand, again and again.
pub(super) fn job_size(permille: u64, largest: u32, dice: &mut Dice) -> u32 {
    let (mut least, mut most) = (1, 1);
    while most < largest && dice.chance(permille) {
        (least, most) = (most + 1, (most * 2 + 1).min(largest));
    }
    u32::try_from(dice.between(least.into(), most.into())).unwrap_or(1)
}

fn draft(tasks: u32, dice: &mut Dice) -> Draft {
    let mut at = dice.below(1_000);
    let band = BANDS.iter().find(|band| {
        let here = at < band.1;
        at = at.saturating_sub(band.1);
        here
    });
    sized(tasks, band.map_or(0, |band| band.0), dice)
}

fn sized(tasks: u32, priority: u64, dice: &mut Dice) -> Draft {
    // 20 % of what is not production asks for under 0.1 core (Borg paper, section 3.2).
    let tiny = priority < 120 && dice.chance(200);
    let doubled = |base: u64, dice: &mut Dice| {
        let mut amount = base;
        while amount < base << 6 && dice.chance(480) {
            amount *= 2;
        }
        // People ask for any amount, no powers of two.
        amount * dice.between(100, 199) / 100
    };
    let cpu_milli = if tiny { dice.between(10, 99) } else { doubled(100, dice) };
    // Memory goes with processor time (correlation 0.97 in the traces of 2019), but not strictly.
    let ram_mib = (cpu_milli * dice.between(1_000, 4_000) / 1_000).max(16);
    Draft { tasks, priority, cpu_milli, ram_mib, tiny }
}

/// Makes all production jobs, or all others, ask for `cpu` and `ram` together. What is tiny stays;
/// no task becomes larger than three quarters of the commonest machine.
fn scale(drafts: &mut [Draft], prod: bool, cpu: u64, ram: u64) {
    let (most_cpu, most_ram) = (LARGEST_CPU_MILLI * 3 / 8, LARGEST_RAM_MIB * 3 / 8);
    // Twice, since what was cut off at the largest is missing after the first time.
    for _ in 0..2 {
        let (mut tiny_cpu, mut large_cpu, mut all_ram) = (0, 0, 0);
        for draft in drafts.iter().filter(|draft| draft.is_prod() == prod) {
            let cpu = draft.cpu_milli * u64::from(draft.tasks);
            if draft.tiny {
                tiny_cpu += cpu
            } else {
                large_cpu += cpu
            }
            all_ram += draft.ram_mib * u64::from(draft.tasks);
        }
        let cpu = cpu.saturating_sub(tiny_cpu);
        for draft in drafts.iter_mut().filter(|draft| draft.is_prod() == prod) {
            if !draft.tiny {
                draft.cpu_milli = scaled(draft.cpu_milli, cpu, large_cpu).clamp(100, most_cpu);
            }
            draft.ram_mib = scaled(draft.ram_mib, ram, all_ram).clamp(8, most_ram);
        }
    }
}

fn scaled(amount: u64, wanted: u64, have: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(wanted) / u128::from(have.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn job_spec(
    name: String,
    draft: &Draft,
    mix: Mix,
    machines: u32,
    dice: &mut Dice,
) -> Result<JobSpec, Error> {
    let constraints = dice.chance(mix.constrained_permille).then(|| constraint(dice));
    let mut spread = Vec::new();
    if mix.spread && draft.is_prod() && draft.tasks > 1 {
        // One on a machine where a tenth of the machines is enough for that.
        let max = (draft.tasks * 10).div_ceil(machines);
        spread.push(Spread { attribute: "machine".into(), max });
        if dice.chance(250) {
            let racks = machines.div_ceil(RACK);
            let max = (draft.tasks * 4).div_ceil(racks);
            spread.push(Spread { attribute: "rack".into(), max });
        }
    }
    let limit = Resources {
        cpu_milli: draft.cpu_milli,
        ram_bytes: draft.ram_mib << 20,
        disk_bytes: dice.between(64, 16_384) << 20,
        ..Resources::default()
    };
    let mut spec = job_of(&name, draft.tasks, limit)?;
    spec.priority = Priority::new(draft.priority)?;
    let task = Arc::make_mut(&mut spec.task);
    (task.constraints, task.spread) = (constraints.into_iter().collect(), spread);
    if draft.is_prod() {
        spec.kind = JobKind::Service;
        task.ports = vec!["http".parse()?];
    }
    spec.check()?;
    Ok(spec)
}

/// A constraint that a quarter of the machines meets, or most of them.
fn constraint(dice: &mut Dice) -> Constraint {
    let (attribute, op, value) = match dice.below(4) {
        0 => ("platform", ConstraintOp::Equal, "B"),
        1 => ("ssd", ConstraintOp::Equal, "1"),
        2 => ("kernel", ConstraintOp::GreaterEqual, "5"),
        _ => ("kernel", ConstraintOp::NotEqual, "4"),
    };
    Constraint { attribute: attribute.into(), op, values: vec![value.into()], soft: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published shares hold for what is made, whatever the size.
    #[test]
    fn the_cell_has_the_published_shares() {
        let cell = borg_like(2_000, Mix::BORG, 1).unwrap();
        let sum = |prod: bool, of: fn(&Resources) -> u64| {
            let of_job = |spec: &JobSpec| of(&spec.task.limit) * u64::from(spec.tasks);
            cell.jobs
                .iter()
                .map(|job| &job.1)
                .filter(|spec| spec.priority.is_prod() == prod)
                .map(|spec| of_job(spec))
                .sum::<u64>()
        };
        let percent = |part: u64, whole: u64| u128::from(part) * 100 / u128::from(whole);
        let has = |of: fn(&Resources) -> u64| cell.machines.iter().map(|m| of(&m.capacity)).sum();
        for (of, prod_share) in
            [((|r| r.cpu_milli) as fn(&Resources) -> u64, 70), (|r: &Resources| r.ram_bytes, 55)]
        {
            let (prod, other) = (sum(true, of), sum(false, of));
            assert!((72..=76).contains(&percent(prod + other, has(of))), "{prod} {other}");
            assert!(percent(prod, prod + other).abs_diff(prod_share) <= 2, "{prod} {other}");
        }
        let tasks: u32 = cell.jobs.iter().map(|job| job.1.tasks).sum();
        assert_eq!(tasks, 30_000);
        let jobs = cell.jobs.len();
        assert!((2_000..4_000).contains(&jobs), "{jobs} jobs");
        let ones = cell.jobs.iter().filter(|job| job.1.tasks == 1).count();
        assert!((40..50).contains(&(ones * 100 / jobs)), "{ones} of {jobs}");
        let largest = SHAPES[0].2 * 2_000 / 12_583;
        let found = cell.machines.iter().filter(|m| m.capacity.ram_bytes == 128 << 30).count();
        assert!((found as u64).abs_diff(largest) <= 1, "{found}");
    }

    #[test]
    fn the_same_seed_makes_the_same_cell_and_another_does_not() {
        let jobs = |seed| borg_like(100, Mix::BORG, seed).unwrap().jobs;
        assert_eq!(jobs(3), jobs(3));
        assert_ne!(jobs(3), jobs(4));
    }
}
