//! Single containers beside other runtimes, in the same minute.

use super::runtimes::{Runtime, RuntimeCost};
use crate::Error;
use crate::figures::{load, median, progress};
use crate::start_cost::{self, StartCost};

/// How often each is measured, in turns.
const ROUNDS: usize = 5;
/// Runtimes that ours is compared with.
const OTHERS: [&str; 2] = ["runc", "crun"];

/// What was found.
#[derive(Debug)]
pub struct Starts {
    /// Ours.
    pub own: StartCost,
    /// Of each other that is installed: its name and milliseconds of processor.
    pub others: Vec<(&'static str, f64)>,
}

/// Measures ours and those of the others that are installed, in turns; tells the ratios.
///
/// # Errors
/// When one of them fails.
pub fn measure() -> Result<Starts, Error> {
    let mut others = Vec::new();
    for name in OTHERS {
        match Runtime::find(name)? {
            Some(runtime) => others.push((name, runtime, Vec::new(), Vec::new())),
            None => progress(&format!("{name} is not installed")),
        }
    }
    let mut own = Vec::new();
    for round in 1..=ROUNDS {
        own.push(start_cost::once()?);
        for (name, runtime, cpu, wall) in &mut others {
            let cost = runtime.sample()?;
            let RuntimeCost { cpu_ms, wall_ms } = cost;
            progress(&format!(
                "load {}; round {round}: {name} {cpu_ms:.3} ms ({wall_ms:.3} on the clock)",
                load()
            ));
            cpu.push(cpu_ms);
            wall.push(wall_ms);
        }
    }
    let own = start_cost::median_of(&own);
    let ratio = |ms: f64| ms / own.container_ms;
    progress(&format!("a container costs {:.1} times a plain spawn", 1.0 / ratio(own.plain_ms)));
    let told = |(name, _, cpu, wall): (_, _, Vec<f64>, Vec<f64>)| {
        let (cpu, wall) = (median(&cpu), median(&wall));
        let on_clock = wall / own.container_wall_ms;
        progress(&format!(
            "{name} costs {:.1} times ours of processor, {on_clock:.1} on the clock",
            ratio(cpu)
        ));
        (name, cpu)
    };
    Ok(Starts { own, others: others.into_iter().map(told).collect() })
}
