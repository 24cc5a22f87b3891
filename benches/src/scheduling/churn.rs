//! A cell in use: tasks end, jobs arrive, and about as much is allocated as before.

use crate::Error;
use crate::driven::{Timed, timing};
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::{Mix, jobs};
use borg_proto::{JobKind, JobSpec, Resources, UserName};
use borg_sim::dice::Dice;
use std::sync::Arc;

/// Tasks that end between two looks of the scheduler, at most. 100: our choice.
const ENDS: usize = 100;

/// What a time of churn took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Churn {
    /// Placements a second of the scheduler's time, passes and following together.
    pub per_s: f64,
    /// Of that time, the share that following took, in percent.
    pub follow_pct: f64,
    /// Placements.
    pub placed: u64,
    /// Tasks that were pushed out on the way, and are among the placements if they found room again.
    pub pushed_out: u64,
}

impl Churn {
    fn of(timed: &Timed) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let placed = timed.decided as f64;
        Self {
            per_s: placed * 1e3 / timed.total_ms(),
            follow_pct: timed.follow_ms * 100.0 / timed.total_ms(),
            placed: timed.decided,
            pushed_out: timed.pushed_out,
        }
    }
}

/// Jobs of the mix arrive at a filled cell and others end until `placements` were decided.
///
/// Before a job arrives as much ends as is allocated above what was at the start: of a service the
/// whole job, of a batch job up to 100 tasks, by chance. All of that is applied, told to the scheduler
/// in one `follow`, and placed in passes of 512 decisions that are applied and followed each; what was
/// placed is seen to run. Timed: `follow` and `pass`.
///
/// # Errors
/// When state and scheduler disagree.
pub fn mix(
    cell: &mut Driven,
    timed: &mut Timed,
    mix: Mix,
    placements: u64,
    seed: u64,
) -> Result<Churn, Error> {
    let mut dice = Dice::new(seed);
    let infos: Vec<_> = cell.state.machines().filter_map(|m| m.info.as_deref().cloned()).collect();
    let mut arrivals = jobs(&infos, mix, &format!("c{seed}-"), &mut dice)?;
    dice.shuffle(&mut arrivals);
    let level = cell.cpu_placed();
    timed.reset();
    let mut round = 0;
    'arriving: loop {
        for (owner, spec) in &arrivals {
            if timed.decided >= placements {
                break 'arriving;
            }
            while cell.cpu_placed() > level {
                timing(&mut timed.applying.end_ms, || end_something(cell, &mut dice))??;
            }
            let spec = renamed(spec, round)?;
            timing(&mut timed.applying.submit_ms, || cell.submit(owner, spec))??;
            timed.settle(cell)?;
            cell.wait(10);
        }
        round += 1;
    }
    Ok(Churn::of(timed))
}

fn renamed(spec: &Arc<JobSpec>, round: u32) -> Result<Arc<JobSpec>, Error> {
    if round == 0 {
        return Ok(spec.clone());
    }
    Ok(Arc::new(JobSpec { name: format!("{}-{round}", spec.name).parse()?, ..(**spec).clone() }))
}

/// A service is killed, or up to [`ENDS`] tasks of a batch job finish. Taken by chance so that every
/// task ends as often as any other: then the mix stays what it was.
fn end_something(cell: &mut Driven, dice: &mut Dice) -> Result<(), Error> {
    let Some(one) = cell.any_placed(dice) else { return Ok(()) };
    let Some(job) = cell.state.job(one.task.job) else { return Ok(()) };
    if job.spec.kind == JobKind::Service {
        let (key, tasks) = (job.key.clone(), job.spec.tasks);
        return if dice.below(tasks.into()) == 0 { cell.kill(key) } else { Ok(()) };
    }
    let ended: Vec<_> = cell.placed_of(one.task.job).take(ENDS).collect();
    if dice.index(ended.len()) == 0 { cell.end(&ended) } else { Ok(()) }
}

/// Jobs of one task arrive, each of a shape that no task had before, `rounds` times `each` of them at
/// once; after each round they end again. Timed: `follow` and `pass`.
///
/// # Errors
/// When state and scheduler disagree.
pub fn fresh(
    cell: &mut Driven,
    timed: &mut Timed,
    rounds: u32,
    each: u32,
    seed: u64,
) -> Result<Churn, Error> {
    let mut dice = Dice::new(seed);
    let owner: UserName = "fresh".parse()?;
    timed.reset();
    for round in 0..rounds {
        let mut came = Vec::new();
        for n in 0..each {
            let mut spec =
                borg_cell::fixture::batch(&format!("f{seed}-{round}-{n}"), 1, 1, 4 << 20);
            // Bytes to the last digit: no two are equal.
            let task = Arc::make_mut(&mut spec.task);
            task.limit = Resources {
                cpu_milli: dice.between(50, 3_000),
                ram_bytes: dice.between(64 << 20, 4 << 30),
                disk_bytes: dice.between(1 << 20, 16 << 30),
                ..Resources::default()
            };
            came.push(cell.submit(&owner, Arc::new(spec))?);
        }
        timed.settle(cell)?;
        let all: Vec<_> = came.iter().flat_map(|job| cell.placed_of(*job)).collect();
        cell.end(&all)?;
        for job in came {
            let left = cell.state.job(job).filter(|job| job.is_alive());
            if let Some(key) = left.map(|job| job.key.clone()) {
                cell.kill(key)?;
            }
        }
        cell.wait(10);
    }
    Ok(Churn::of(timed))
}

#[cfg(test)]
mod tests {
    use super::super::filled;
    use super::*;
    use borg_scheduler::Config;

    #[test]
    fn churn_keeps_the_cell_as_full_as_it_was_and_sound() {
        let (mut cell, mut timed) = filled(100, Mix::BORG, Config::default()).unwrap();
        let before = cell.cpu_placed();
        let churn = mix(&mut cell, &mut timed, Mix::BORG, 2_000, 5).unwrap();
        assert!(churn.placed >= 2_000 && churn.per_s > 0.0 && churn.follow_pct < 100.0);
        assert!(cell.cpu_placed() > before * 8 / 10, "{} of {before}", cell.cpu_placed());
        let fresh = fresh(&mut cell, &mut timed, 2, 20, 6).unwrap();
        assert!(fresh.placed >= 30, "{fresh:?}");
        assert_eq!(cell.state.audit(), []);
    }
}
