//! Production arrives in a cell that is full of batch work: somebody has to go for every task.

use super::SEED;
use crate::Error;
use crate::driven::Timed;
use crate::figures::median;
use borg_cell::fixture::{batch, service};
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::{Mix, borg_like};
use borg_proto::UserName;
use borg_scheduler::Config;
use borg_sim::dice::Dice;
use std::sync::Arc;

/// Tasks of each job of production.
const TASKS_PER_JOB: u32 = 10;

/// What it took.
#[derive(Debug, Clone, Copy)]
pub struct Preempt {
    /// The pass, in milliseconds: median.
    pub pass_ms: f64,
    /// Tasks decided.
    pub placed: u64,
    /// Tasks that have to go for them.
    pub victims: u64,
}

/// Machines as in the mix, filled with batch jobs until none fits; then `tasks` of production, ten to
/// a job, from a core to four each. Timed: one pass without a limit, `runs` times on copies of the
/// scheduler, which has followed the arrival and looked for nobody's victims before.
///
/// # Errors
/// When state and scheduler disagree.
pub fn measure(machines: u32, config: Config, tasks: u32, runs: usize) -> Result<Preempt, Error> {
    let mut cell = Driven::with_machines(&borg_like(machines, Mix::BORG, SEED)?.machines)?;
    let mut timed = Timed::new(&mut cell, config);
    let mut dice = Dice::new(SEED);
    let owner: UserName = "batch".parse()?;
    // Smaller and smaller, so that the machines end up full.
    for (n, most_cpu) in (0..).zip([4_000, 1_000, 250]) {
        let mut asked = 0;
        let room = cell.cpu_capacity() - cell.cpu_placed();
        let mut number = 0;
        while asked < room {
            let cpu = dice.between(most_cpu / 4, most_cpu);
            let spec = batch(&format!("b{n}-{number}"), 100, cpu, cpu << 21);
            asked += cpu * 100;
            number += 1;
            cell.submit(&owner, Arc::new(spec))?;
        }
        timed.settle(&mut cell)?;
        cell.kill_pending()?;
    }
    timed.settle(&mut cell)?;
    let owner: UserName = "prod".parse()?;
    for n in 0..tasks / TASKS_PER_JOB {
        let cpu = dice.between(1_000, 4_000);
        let spec = service(&format!("p{n}"), TASKS_PER_JOB, cpu, cpu << 20);
        cell.submit(&owner, Arc::new(spec))?;
    }
    timed.follow(&mut cell)?;
    timed.reset();
    let (mut times, mut last) = (Vec::new(), Preempt { pass_ms: 0.0, placed: 0, victims: 0 });
    for _ in 0..runs {
        let mut run = timed.clone();
        run.pass(&cell, usize::MAX)?;
        times.push(run.pass_ms);
        (last.placed, last.victims) = (run.decided, run.pushed_out);
    }
    Ok(Preempt { pass_ms: median(&times), ..last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_of_production_pushes_somebody_out() {
        let found = measure(100, Config::default(), 50, 2).unwrap();
        assert_eq!(found.placed, 50);
        assert!(found.victims >= 40, "{found:?}");
    }
}
