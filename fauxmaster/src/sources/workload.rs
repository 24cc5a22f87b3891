//! Work that comes over time: which job arrives when, how long its tasks run, which machines are lost meanwhile.
//!
//! Times are counted from the beginning of the workload.
//!
//! Invariant: arrivals are in order of time.

use crate::Error;
use crate::work::Work;
use borg_proto::{JobKind, JobSpec, MachineInfo, Millis, UserName};
use borg_sim::dice::Dice;
use std::sync::Arc;

/// Doublings from the shortest run of a made-up batch task to the longest: from 5 minutes to 5 hours. Ours.
const DOUBLINGS: u64 = 6;
/// How long a lost machine is away. 30 minutes: our choice.
const AWAY: Millis = Millis::from_secs(1_800);
/// In how many days each machine is lost once, on the average, at a rate of 1. Ours.
const MONTH_DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;

/// Machines, and what happens to them.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// Names and facts of the machines.
    pub machines: Vec<(String, MachineInfo)>,
    /// Jobs, in order of time.
    pub arrivals: Vec<Arrival>,
    /// Machines that are lost, in order of time.
    pub losses: Vec<Loss>,
}

/// A job that arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When.
    pub at: Millis,
    /// Whose it is.
    pub owner: UserName,
    /// What it is; many arrivals may share one.
    pub spec: Arc<JobSpec>,
    /// Its name, unique in the workload.
    pub name: String,
    /// How long its tasks run.
    pub runs: Runs,
}

/// How long the tasks of a job run from when they are up. Whoever is pushed out begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// Until somebody stops them.
    Forever,
    /// All for so long.
    Each(Millis),
    /// Each for a time of its own, by index; those beyond the last do not end.
    ByIndex(Arc<[Millis]>),
}

impl Runs {
    /// How long the task with this index runs; `None` when it does not end.
    #[must_use]
    pub fn of(&self, index: u32) -> Option<Millis> {
        match self {
            Self::Forever => None,
            Self::Each(time) => Some(*time),
            Self::ByIndex(times) => times.get(usize::try_from(index).ok()?).copied(),
        }
    }

    /// How many of so many tasks run how long; each by itself where each has a time of its own.
    pub fn groups(&self, tasks: u32) -> impl Iterator<Item = (u32, Option<Millis>)> + '_ {
        let (alike, apart) = match self {
            Self::Forever => (Some((tasks, None)), 0),
            Self::Each(time) => (Some((tasks, Some(*time))), 0),
            Self::ByIndex(_) => (None, tasks),
        };
        alike.into_iter().chain((0..apart).map(|index| (1, self.of(index))))
    }
}

/// A machine that is taken for down, and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// When it is taken for down.
    pub at: Millis,
    /// Its place in [`Workload::machines`].
    pub machine: usize,
    /// When it is there again.
    pub back: Millis,
}

/// How a made-up workload that stays the same is made.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// How long it is.
    pub lasts: Millis,
    /// From placed to up, as it will be replayed.
    pub startup: Millis,
    /// How long tasks of batch jobs run at least; at most 64 times as long.
    pub shortest: Millis,
    /// How much of the batch work there is, in percent: of 150 every other job comes twice.
    pub batch_percent: u64,
    /// How often each machine is lost in 30 days; away for half an hour each time.
    pub losses_a_month: u64,
    /// Of run times and lost machines.
    pub seed: u64,
}

impl Workload {
    /// A steady cell: services of the work are there from the beginning to the end; a batch job runs for a time
    /// of its own, and another like it arrives when it should be over, its start-up counted, so that as much is
    /// asked for at any time.
    ///
    /// # Errors
    /// When tasks would run for no time, or machines be lost more often than ones that come back after half an hour
    /// can be.
    pub fn steady(work: Work, how: &Steady) -> Result<Self, Error> {
        let Steady { lasts, startup, shortest, batch_percent, losses_a_month, seed } = *how;
        if losses_a_month > MONTH_DAYS {
            return Err(
                format!("losses a month: {losses_a_month}; 0 to {MONTH_DAYS} are allowed").into()
            );
        }
        if shortest == Millis(0) {
            return Err("shortest run of a batch task: 0 ms; it has to be more than nothing".into());
        }
        let mut dice = Dice::new(seed);
        let mut arrivals = Vec::new();
        for (number, (owner, spec)) in work.jobs.into_iter().enumerate() {
            let arrival = |at, runs, name| Arrival {
                at,
                owner: owner.clone(),
                spec: spec.clone(),
                name,
                runs,
            };
            if spec.kind != JobKind::Batch {
                arrivals.push(arrival(Millis(0), Runs::Forever, format!("s{number}")));
                continue;
            }
            let number = number as u64;
            let upto = |jobs: u64| jobs.saturating_mul(batch_percent) / 100;
            for copy in upto(number)..upto(number + 1) {
                let run = run_time(shortest, &mut dice);
                // The first one is somewhere in its life as the workload begins.
                let first = dice.between(1, run.0);
                let runs = Runs::Each(Millis(first));
                arrivals.push(arrival(Millis(0), runs, format!("w{copy}-0")));
                let begins = |n| first + startup.0 + n * (run.0 + startup.0);
                let later = (0..).map(begins).take_while(|at| *at < lasts.0);
                for (n, at) in (1..).zip(later) {
                    let name = format!("w{copy}-{n}");
                    arrivals.push(arrival(Millis(at), Runs::Each(run), name));
                }
            }
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        let losses = losses(work.machines.len(), lasts, losses_a_month, &mut dice);
        Ok(Self { machines: work.machines, arrivals, losses })
    }
}

/// As many of each doubling as of any other.
fn run_time(shortest: Millis, dice: &mut Dice) -> Millis {
    let least = shortest.0.saturating_mul(1 << dice.below(DOUBLINGS));
    Millis(dice.between(least, least.saturating_mul(2)))
}

fn losses(machines: usize, lasts: Millis, a_month: u64, dice: &mut Dice) -> Vec<Loss> {
    let mut losses = Vec::new();
    if a_month == 0 {
        return losses;
    }
    let usually = MONTH_DAYS * DAY_MS / a_month;
    for machine in 0..machines {
        // Evenly from nothing to twice the usual time: the mean is what was asked for.
        let mut at = dice.between(1, 2 * usually);
        while at < lasts.0 {
            let back = Millis(at) + AWAY;
            losses.push(Loss { at: Millis(at), machine, back });
            at = back.0 + dice.between(1, 2 * usually);
        }
    }
    losses.sort_by_key(|loss| (loss.at, loss.machine));
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::synthetic::synthetic;

    const DAY: Millis = Millis(DAY_MS);
    const STARTUP: Millis = Millis(25_000);
    const STEADY: Steady = Steady {
        lasts: DAY,
        startup: STARTUP,
        shortest: Millis::from_secs(300),
        batch_percent: 100,
        losses_a_month: 3,
        seed: 5,
    };

    #[test]
    fn a_steady_workload_asks_for_as_much_at_any_time_and_repeats() {
        let work = Work::of_cell(&synthetic(40, 3).unwrap());
        let tasks = work.tasks();
        let made = Workload::steady(work.clone(), &STEADY).unwrap();
        assert!(made.arrivals.is_sorted_by_key(|arrival| arrival.at));
        let alive = |at: u64| -> u64 {
            let lives = |arrival: &&Arrival| {
                let ends =
                    arrival.runs.of(0).map_or(u64::MAX, |run| arrival.at.0 + STARTUP.0 + run.0);
                arrival.at.0 <= at && at < ends
            };
            made.arrivals.iter().filter(lives).map(|a| u64::from(a.spec.tasks)).sum()
        };
        for hour in 0..24 {
            assert_eq!(alive(hour * 3_600_000), tasks, "hour {hour}");
        }
        let again = Workload::steady(work, &STEADY).unwrap();
        let names = |made: &Workload| -> Vec<(Millis, String)> {
            made.arrivals.iter().map(|a| (a.at, a.name.clone())).collect()
        };
        assert_eq!((names(&again), again.losses), (names(&made), made.losses));
    }

    #[test]
    fn machines_are_lost_as_often_as_asked_for_and_not_twice_at_once() {
        let lost = losses(1_000, DAY, 30, &mut Dice::new(1));
        assert!((300..1_100).contains(&lost.len()), "{}", lost.len());
        let mut away = vec![Millis(0); 1_000];
        for loss in &lost {
            assert!(loss.at > away[loss.machine]);
            away[loss.machine] = loss.back;
        }
        let refused = |how| Workload::steady(Work::default(), &how).unwrap_err().to_string();
        let often = Steady { losses_a_month: 31, ..STEADY };
        assert_eq!(refused(often), "losses a month: 31; 0 to 30 are allowed");
        assert!(refused(Steady { shortest: Millis(0), ..STEADY }).contains("0 ms"));
    }
}
