//! Made-up cells with work in them.
//!
//! Machines and jobs are those of [`borg_like`](super::borg_like); the production scheduler fills the
//! cell through the production state machine.

use super::borg_like::{Mix, borg_like};
use crate::{Driven, Error};
use borg_cell::state::CellState;

/// A made-up cell of so many machines whose work stands where the scheduler put it. The same numbers give
/// the same cell.
///
/// # Errors
/// When state and scheduler disagree.
pub fn synthetic(machines: u32, seed: u64) -> Result<CellState, Error> {
    let made = borg_like(machines, Mix::BORG, seed)?;
    let machines = (0..).map(|number| format!("m-{number}")).zip(&made.machines);
    Ok(Driven::filled(machines, made.jobs)?.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_cell_repeats_is_sound_and_mostly_full() {
        let cell = synthetic(40, 7).unwrap();
        assert_eq!(cell.encode(), synthetic(40, 7).unwrap().encode());
        assert_eq!(cell.audit(), []);
        let sum = |of: fn(&borg_cell::state::Machine) -> u64| cell.machines().map(of).sum::<u64>();
        let (used, all) =
            (sum(|m| m.used.cpu_milli), sum(|m| m.used.cpu_milli + m.free().cpu_milli));
        assert!((600..=800).contains(&(used * 1_000 / all)), "{used} of {all}");
    }
}
