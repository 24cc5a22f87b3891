//! How fast the simulated world runs: simulated seconds for each second of one core.
//!
//! A world is one thread that waits for nothing, so its processor time is the time that it would
//! take on a core of its own; the clock on the wall would measure who else is on this computer.
//!
//! Five masters and 50 borglets, a storm of faults, then calm until everything has settled, all
//! checkers on: what `cellsim --borglets 50` does with each seed.

use borg_benches::figures::{figure, load, median, progress};
use borg_benches::{Error, clock};
use borg_sim::run::{self, Plan};

/// Machines of the world.
const BORGLETS: usize = 50;
/// Seeds that are run, one after the other; the figure is the median.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=21;

fn main() -> Result<(), Error> {
    let plan = Plan { machines: Some(BORGLETS), ..Plan::default() };
    let mut ratios = Vec::new();
    progress(&format!("load {}", load()));
    for seed in SEEDS {
        let began = clock::processor_ms()?;
        let report = run::one(seed, &plan, None);
        let took = clock::processor_ms()? - began;
        if let Some(violation) = report.violation {
            return Err(format!("seed {seed}: {violation}; {}", plan.command(seed)).into());
        }
        let ratio = f64::from(u32::try_from(report.simulated.0)?) / took;
        progress(&format!("seed {seed}: {} events, {ratio:.0} to 1", report.events));
        ratios.push(ratio);
    }
    figure("sim.speed_ratio", median(&ratios), "ratio");
    Ok(())
}
