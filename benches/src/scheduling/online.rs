//! One task arrives in a nearly full cell in which things happen: how long it waits for its decision.

use super::filled;
use crate::Error;
use crate::driven::Timed;
use crate::figures::percentile;
use borg_cell::fixture::{batch, service};
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_proto::{JobId, UserName};
use borg_scheduler::Config;
use borg_sim::dice::Dice;
use std::collections::VecDeque;
use std::sync::Arc;

/// The mix, but nine tenths of the cell asked for.
pub const NINE_TENTHS: Mix = Mix { asked_permille: 900, ..Mix::BORG };
/// Looks of the scheduler a second: our choice, so 10 of the 100 changes a second come before each.
const LOOKS_PER_S: u64 = 10;
/// Changes before each look: half are tasks that end, half jobs of one task that arrive.
const CHANGES: u32 = 10;

/// Times of one pass with the `follow` before it, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Online {
    /// The middle one.
    pub p50_ms: f64,
    /// The one of a hundred that is longest.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Share of the cell's processor time that was allocated, in percent.
    pub allocated_pct: u64,
}

/// `looks` times: ten changes are applied, one of them the arrival of the task that counts, which is
/// of production; then the scheduler is told and makes a pass. What arrived ends again later, so the
/// cell stays as full as it was. Timed: each `follow` and `pass` pair. The ones of a cell's first
/// second are left out, as the scheduler has seen none of the shapes then.
///
/// # Errors
/// When state and scheduler disagree, or the pass did not decide.
pub fn measure(machines: u32, config: Config, looks: u32) -> Result<Online, Error> {
    let (mut cell, mut timed) = filled(machines, NINE_TENTHS, config)?;
    // Only one task shall be pending.
    cell.kill_pending()?;
    timed.settle(&mut cell)?;
    let allocated_pct = cell.cpu_placed() * 100 / cell.cpu_capacity();
    let mut around = Around { dice: Dice::new(7), jobs: VecDeque::new(), number: 0 };
    let mut times = Vec::new();
    for _ in 0..LOOKS_PER_S {
        around.look(&mut cell, &mut timed)?;
    }
    for _ in 0..looks {
        times.push(around.look(&mut cell, &mut timed)?);
    }
    Ok(Online {
        p50_ms: percentile(&times, 50),
        p99_ms: percentile(&times, 99),
        max_ms: percentile(&times, 100),
        allocated_pct,
    })
}

/// What happens around the task.
struct Around {
    dice: Dice,
    jobs: VecDeque<JobId>,
    number: u32,
}

impl Around {
    fn look(&mut self, cell: &mut Driven, timed: &mut Timed) -> Result<f64, Error> {
        let owner: UserName = "online".parse()?;
        for n in 0..CHANGES / 2 {
            // In the order in which they came.
            let over = if self.jobs.len() > 50 { self.jobs.pop_front() } else { None };
            let ended: Vec<_> = match over {
                Some(job) => cell.placed_of(job).collect(),
                None => Vec::new(),
            };
            cell.end(&ended)?;
            self.number += 1;
            let (cpu, ram) = (self.dice.between(50, 500), self.dice.between(64, 1_024) << 20);
            let name = format!("o{}", self.number);
            // The last one is the one that counts; the others went before it.
            let last = n + 1 == CHANGES / 2;
            let mut spec =
                if last { service(&name, 1, cpu, ram) } else { batch(&name, 1, cpu, ram) };
            spec.kind = borg_proto::JobKind::Batch;
            if last {
                timed.settle(cell)?;
            }
            self.jobs.push_back(cell.submit(&owner, Arc::new(spec))?);
        }
        cell.wait(1_000 / LOOKS_PER_S);
        timed.reset();
        timed.follow(cell)?;
        let decisions = timed.pass(cell, borg_fauxmaster::driven::DECISIONS)?;
        let took = timed.total_ms();
        if decisions.is_empty() {
            return Err("the task found no machine".into());
        }
        cell.place(decisions)?;
        cell.start_placed()?;
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_placed_at_each_look() {
        let online = measure(100, Config::default(), 20).unwrap();
        assert!(online.p50_ms <= online.p99_ms && online.p99_ms <= online.max_ms);
        assert!((80..=92).contains(&online.allocated_pct), "{online:?}");
    }
}
