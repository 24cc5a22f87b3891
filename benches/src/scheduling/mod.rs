//! How fast the scheduler decides: the scheduler alone, one thread, on cells in this process.
//!
//! Each module measures one thing and says what exactly is timed; `borg_like` makes the cells. Every
//! change of state goes through `apply`, and is not timed. Times are processor time of this process,
//! which has one thread: what they would be on a core of its own.

pub mod ablation;
pub mod churn;
pub mod hopeless;
pub mod online;
pub mod preempt;
pub mod relaxed;
pub mod scratch;

use crate::Error;
use crate::driven::Timed;
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::{BorgLike, Mix, borg_like};
use borg_scheduler::Config;

/// Seed of all cells of the figures.
pub const SEED: u64 = 1;

/// A cell of the mix whose work is submitted and placed, and its scheduler.
///
/// # Errors
/// When state and scheduler disagree.
pub fn filled(machines: u32, mix: Mix, config: Config) -> Result<(Driven, Timed), Error> {
    let (mut cell, _) = submitted(machines, mix)?;
    let mut timed = Timed::new(&mut cell, config);
    timed.settle(&mut cell)?;
    Ok((cell, timed))
}

/// A cell of the mix whose work is submitted and not placed.
///
/// # Errors
/// When the state refuses a command.
pub fn submitted(machines: u32, mix: Mix) -> Result<(Driven, BorgLike), Error> {
    let like = borg_like(machines, mix, SEED)?;
    let mut cell = Driven::with_machines(&like.machines)?;
    for (owner, spec) in &like.jobs {
        cell.submit(owner, spec.clone())?;
    }
    Ok((cell, like))
}
