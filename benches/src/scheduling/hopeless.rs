//! The same work beside a hundred thousand tasks that fit nowhere: what they cost the others.

use super::filled;
use crate::Error;
use crate::driven::Timed;
use borg_cell::fixture::{batch, service, with_task};
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::{JobId, UserName};
use borg_scheduler::Config;
use borg_sim::dice::Dice;
use std::sync::Arc;

/// Tasks of each hopeless job.
const TASKS_PER_JOB: u32 = 10;
/// Jobs of one task that arrive in each round; as many end.
const ARRIVALS: u32 = 100;

/// What it took.
#[derive(Debug, Clone, Copy)]
pub struct Hopeless {
    /// Time with them over time without.
    pub ratio: f64,
    /// Time of one round without, in milliseconds.
    pub without_ms: f64,
    /// Time of one round with them.
    pub with_ms: f64,
    /// The pass that looks at all of them for the first time.
    pub first_ms: f64,
}

/// A filled cell of the mix; `rounds` times a hundred jobs of one task arrive and those of the round
/// before end, once beside `tasks` hopeless tasks and once without. A third of these are larger than
/// any machine, a third want an attribute that none has, both of production; a third want the largest
/// machine for themselves at the lowest priority, which may push out nobody. Ten to a job, every job of
/// a size of its own.
///
/// Timed: `follow` and `pass` of each round, in which as many tasks are placed with as without. The
/// scheduler has seen the hopeless ones once before; that pass is told apart.
///
/// # Errors
/// When state and scheduler disagree, or hope was fulfilled.
pub fn measure(machines: u32, config: Config, tasks: u32, rounds: u32) -> Result<Hopeless, Error> {
    let (mut cell, mut timed) = filled(machines, Mix::BORG, config)?;
    cell.kill_pending()?;
    // One of these on every machine that has room, so that none is empty.
    let watcher = with_task(service("watcher", machines, 10, 8 << 20), |task| {
        task.spread.push(Spread { attribute: "machine".into(), max: 1 });
    });
    cell.submit(&"watch".parse()?, Arc::new(watcher))?;
    timed.settle(&mut cell)?;
    cell.kill_pending()?;
    timed.settle(&mut cell)?;
    let without_ms = work(&mut cell.clone(), &mut timed.clone(), rounds)?;
    submit_hopeless(&mut cell, tasks)?;
    let before = cell.placed();
    timed.follow(&mut cell)?;
    timed.reset();
    timed.settle(&mut cell)?;
    let first_ms = timed.pass_ms;
    if cell.placed() != before {
        return Err(format!("{} of the hopeless tasks were placed", cell.placed() - before).into());
    }
    let with_ms = work(&mut cell, &mut timed, rounds)?;
    Ok(Hopeless { ratio: with_ms / without_ms, without_ms, with_ms, first_ms })
}

fn submit_hopeless(cell: &mut Driven, tasks: u32) -> Result<(), Error> {
    let largest = cell.state.machines().filter_map(|m| Some(&m.info.as_ref()?.capacity));
    let (cpu, ram) =
        largest.map(|r| (r.cpu_milli, r.ram_bytes)).max().ok_or("a cell without machines")?;
    let owner: UserName = "hope".parse()?;
    for n in 0..tasks / TASKS_PER_JOB {
        let (name, own) = (format!("h{n}"), u64::from(n));
        let spec = match n % 3 {
            0 => service(&name, TASKS_PER_JOB, cpu + 1 + own, 1 << 30),
            1 => with_task(service(&name, TASKS_PER_JOB, 100 + own, 1 << 30), |task| {
                task.constraints.push(Constraint {
                    attribute: "kernel".into(),
                    op: ConstraintOp::Greater,
                    values: vec![(100 + n).to_string()],
                    soft: false,
                });
            }),
            _ => {
                let mut spec = batch(&name, TASKS_PER_JOB, cpu, ram - (own << 10));
                spec.priority = borg_proto::Priority::new(0)?;
                spec
            }
        };
        cell.submit(&owner, Arc::new(spec))?;
    }
    Ok(())
}

/// Milliseconds of one round, on average.
fn work(cell: &mut Driven, timed: &mut Timed, rounds: u32) -> Result<f64, Error> {
    let owner: UserName = "work".parse()?;
    let mut dice = Dice::new(3);
    let mut here: Vec<JobId> = Vec::new();
    timed.reset();
    for round in 0..rounds {
        let over: Vec<_> = here.drain(..).flat_map(|job| cell.placed_of(job)).collect();
        cell.end(&over)?;
        for n in 0..ARRIVALS {
            let (cpu, ram) = (dice.between(1, 20) * 50, dice.between(1, 8) << 28);
            let spec = batch(&format!("w{round}-{n}"), 1, cpu, ram);
            here.push(cell.submit(&owner, Arc::new(spec))?);
        }
        timed.settle(cell)?;
        cell.wait(10);
    }
    if timed.decided != u64::from(rounds * ARRIVALS) {
        return Err(format!("{} tasks were placed", timed.decided).into());
    }
    Ok(timed.total_ms() / f64::from(rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hopeless_tasks_do_not_change_what_is_placed() {
        let found = measure(200, Config::default(), 300, 3).unwrap();
        assert!(found.ratio > 0.0 && found.with_ms > 0.0 && found.without_ms > 0.0, "{found:?}");
    }
}
