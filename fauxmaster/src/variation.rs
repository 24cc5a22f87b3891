//! The same work under other circumstances: other machines, other sizes, in cells of its own.
//!
//! Each variation gives one or more cells that hold the work between them. Every cell may draw on all machines; how
//! many it needs is for the compaction to say (Borg paper, sections 5.1 to 5.4).

use crate::work::Work;
use borg_proto::{JobKey, JobSpec, MachineInfo, Resources, UserName};
use borg_sim::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The least that processor time is rounded up to. Half a core: Borg paper, section 5.4.
const LEAST_CPU_MILLI: u64 = 500;
/// The least that memory is rounded up to. 1 GiB: Borg paper, section 5.4.
const LEAST_RAM_BYTES: u64 = 1 << 30;

/// What is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// All that a machine has, in per cent of today.
    MachineSize,
    /// Memory of a machine, in per cent of today.
    Memory,
    /// How much other work than production is put where a hundred of it are asked for.
    Overcommit,
    /// How many cells the jobs are divided among by chance.
    Cells,
    /// How many of the users with the most memory get cells of their own.
    Users,
    /// 1: production and the rest in cells of their own.
    Prod,
    /// 1: production asks for powers of two.
    Buckets,
}

/// What the paper says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// More machines, in per cent: at least, at most.
    pub more: (u32, u32),
    /// Where.
    pub section: &'static str,
}

impl Parameter {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::MachineSize,
        Self::Memory,
        Self::Overcommit,
        Self::Cells,
        Self::Users,
        Self::Prod,
        Self::Buckets,
    ];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MachineSize => "machine-size",
            Self::Memory => "memory",
            Self::Overcommit => "overcommit",
            Self::Cells => "cells",
            Self::Users => "users",
            Self::Prod => "prod",
            Self::Buckets => "buckets",
        }
    }

    /// Values that mean something.
    #[must_use]
    pub const fn allowed(self) -> (u64, u64) {
        match self {
            Self::MachineSize | Self::Memory => (10, 1_000),
            Self::Overcommit => (100, 400),
            Self::Cells => (1, 64),
            Self::Users => (0, 64),
            Self::Prod | Self::Buckets => (0, 1),
        }
    }

    /// The value that changes nothing.
    #[must_use]
    pub const fn neutral(self) -> u64 {
        match self {
            Self::MachineSize | Self::Memory | Self::Overcommit => 100,
            Self::Cells => 1,
            Self::Users | Self::Prod | Self::Buckets => 0,
        }
    }

    /// The unit of its values.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::MachineSize | Self::Memory | Self::Overcommit => "percent",
            Self::Cells | Self::Users | Self::Prod | Self::Buckets => "",
        }
    }

    /// What the paper found for Borg's cells, where it says so.
    #[must_use]
    pub const fn published(self) -> Option<Published> {
        match self {
            Self::Prod => Some(Published { more: (20, 30), section: "5.2" }),
            Self::Users => Some(Published { more: (20, 150), section: "5.2" }),
            Self::Buckets => Some(Published { more: (30, 50), section: "5.4" }),
            Self::MachineSize | Self::Memory | Self::Overcommit | Self::Cells => None,
        }
    }

    /// The cells that hold the work when this has that value. None is empty.
    #[must_use]
    pub fn cells(self, work: &Work, value: u64) -> Vec<Work> {
        if value == self.neutral() {
            return vec![work.clone()];
        }
        match self {
            Self::MachineSize => vec![machines(work, |room| scaled(room, value, 100))],
            Self::Memory => vec![machines(work, |room| {
                room.ram_bytes = part(room.ram_bytes, value, 100);
            })],
            Self::Overcommit => vec![jobs(work, |spec| {
                if !spec.priority.band().is_prod() {
                    let task = Arc::make_mut(&mut spec.task);
                    task.limit.cpu_milli = part(task.limit.cpu_milli, 100, value).max(1);
                    task.limit.ram_bytes = part(task.limit.ram_bytes, 100, value).max(LEAST_RAM);
                }
            })],
            Self::Cells => {
                let mut dice = Dice::new(value);
                let mut drawn = BTreeMap::new();
                divided(work, |home, _| {
                    *drawn.entry(home.clone()).or_insert_with(|| dice.below(value))
                })
            }
            Self::Users => {
                let large = largest_users(work, usize::try_from(value).unwrap_or(usize::MAX));
                divided(work, |home, _| large.get(&home.user).cloned())
            }
            Self::Prod => divided(work, |_, spec| spec.priority.band().is_prod()),
            Self::Buckets => vec![jobs(work, |spec| {
                if spec.priority.band().is_prod() && spec.alloc_set.is_none() {
                    let limit = &mut Arc::make_mut(&mut spec.task).limit;
                    bucketed(limit, &work.machines);
                }
            })],
        }
    }
}

/// The least memory that a task may ask for: 4 MiB, as specifications say.
const LEAST_RAM: u64 = 4 << 20;

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Parameter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of {names}"))
    }
}

fn part(amount: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(amount) * u128::from(by) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

fn scaled(room: &mut Resources, by: u64, of: u64) {
    room.cpu_milli = part(room.cpu_milli, by, of);
    room.ram_bytes = part(room.ram_bytes, by, of);
    room.disk_bytes = part(room.disk_bytes, by, of);
    for amount in room.devices.values_mut() {
        *amount = part(*amount, by, of);
    }
}

fn machines(work: &Work, change: impl Fn(&mut Resources)) -> Work {
    let mut work = work.clone();
    work.machines.iter_mut().for_each(|(_, info)| change(&mut info.capacity));
    work
}

fn jobs(work: &Work, change: impl Fn(&mut JobSpec)) -> Work {
    let mut work = work.clone();
    work.jobs.iter_mut().for_each(|(_, spec)| change(Arc::make_mut(spec)));
    work
}

/// Cells of the jobs for which `cell` says the same, in that order. Whoever stands in an alloc goes where that goes.
fn divided<K: Ord + Clone>(work: &Work, mut cell: impl FnMut(&JobKey, &JobSpec) -> K) -> Vec<Work> {
    let mut homes = BTreeMap::<JobKey, K>::new();
    let mut cells = BTreeMap::<K, Work>::new();
    // Alloc sets first: what is in them may come before them.
    for hosts in [true, false] {
        for (owner, spec) in work.jobs.iter().filter(|(_, spec)| spec.alloc_set.is_none() == hosts)
        {
            let home = spec.alloc_set.clone().unwrap_or_else(|| spec.key(owner));
            let which = homes.entry(home.clone()).or_insert_with(|| cell(&home, spec)).clone();
            let empty = || Work { machines: work.machines.clone(), ..Work::default() };
            let cell = cells.entry(which).or_insert_with(empty);
            cell.jobs.push((owner.clone(), spec.clone()));
        }
    }
    cells.into_values().collect()
}

/// The users who ask for the most memory, each with its own name as that of its cell.
fn largest_users(work: &Work, most: usize) -> BTreeMap<UserName, UserName> {
    let mut asked = BTreeMap::<&UserName, u128>::new();
    for (owner, spec) in work.jobs.iter().filter(|(_, spec)| spec.alloc_set.is_none()) {
        *asked.entry(owner).or_default() +=
            u128::from(spec.task.limit.ram_bytes) * u128::from(spec.tasks);
    }
    let sorted: BTreeSet<_> =
        asked.into_iter().map(|(user, ram)| (std::cmp::Reverse(ram), user)).collect();
    sorted.into_iter().take(most).map(|(_, user)| (user.clone(), user.clone())).collect()
}

/// Rounds up to powers of two. What fits on no machine then takes the smallest machine that it fits on as a whole.
fn bucketed(limit: &mut Resources, machines: &[(String, MachineInfo)]) {
    let asked = limit.clone();
    limit.cpu_milli = rounded(asked.cpu_milli, LEAST_CPU_MILLI);
    limit.ram_bytes = rounded(asked.ram_bytes, LEAST_RAM_BYTES);
    if machines.iter().any(|(_, info)| limit.fits_in(&info.capacity)) {
        return;
    }
    let able = machines.iter().map(|(_, info)| &info.capacity).filter(|room| asked.fits_in(room));
    let whole = able.min_by_key(|room| (room.ram_bytes, room.cpu_milli));
    let (cpu, ram) =
        whole.map_or((asked.cpu_milli, asked.ram_bytes), |m| (m.cpu_milli, m.ram_bytes));
    (limit.cpu_milli, limit.ram_bytes) = (cpu, ram);
}

/// The smallest of `least`, twice that, four times that and so on, that is not under the amount.
fn rounded(amount: u64, least: u64) -> u64 {
    least.saturating_mul(amount.div_ceil(least).max(1).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::loaded::Loaded;

    fn work() -> Work {
        Loaded::made_up(40, 1).unwrap().work()
    }

    /// Whatever is varied, no task is lost and none comes twice.
    #[test]
    fn the_cells_of_every_variation_hold_all_of_the_work() {
        let work = work();
        let names = |cells: &[Work]| {
            let jobs = cells.iter().flat_map(|cell| &cell.jobs);
            let mut all: Vec<_> = jobs.map(|(owner, spec)| (spec.key(owner), spec.tasks)).collect();
            all.sort();
            all
        };
        let all = names(std::slice::from_ref(&work));
        for parameter in Parameter::ALL {
            let (_, most) = parameter.allowed();
            for value in [parameter.neutral(), most] {
                let cells = parameter.cells(&work, value);
                assert_eq!(names(&cells), all, "{parameter} {value}");
                assert!(cells.iter().all(|cell| !cell.jobs.is_empty()), "{parameter} {value}");
            }
            assert_eq!(parameter.name().parse(), Ok(parameter));
        }
        assert_eq!(Parameter::Prod.cells(&work, 1).len(), 2);
        assert_eq!(Parameter::Users.cells(&work, 3).len(), 4);
    }

    #[test]
    fn amounts_are_rounded_up_to_powers_of_two_and_never_beyond_a_whole_machine() {
        for (amount, wanted) in [(1, 500), (500, 500), (501, 1_000), (1_001, 2_000), (2_000, 2_000)]
        {
            assert_eq!(rounded(amount, LEAST_CPU_MILLI), wanted);
        }
        let work = work();
        let largest = work.machines.iter().map(|(_, info)| info.capacity.cpu_milli).max().unwrap();
        let mut limit = work.machines[0].1.capacity.clone();
        (limit.cpu_milli, limit.ram_bytes, limit.ports) = (largest - 1, 1, 0);
        limit.disk_bytes = 0;
        bucketed(&mut limit, &work.machines);
        assert!(limit.cpu_milli >= largest - 1);
        assert!(work.machines.iter().any(|(_, info)| limit.fits_in(&info.capacity)));
    }
}
