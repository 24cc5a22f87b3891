//! What each idea buys: the same work with one of them switched off.

use super::scratch;
use crate::Error;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_scheduler::Config;

/// Switches, by the name that their figure has, and the configuration without.
#[must_use]
pub fn switches() -> Vec<(&'static str, Config)> {
    vec![("caches", Config { caches: false, ..Config::default() })]
}

/// How many times as long a cell of the mix takes from scratch without the idea as with everything.
/// Timed as `scratch` does; the tasks placed must be as many.
///
/// # Errors
/// When they are not, or state and scheduler disagree.
pub fn measure(machines: u32, without: Config, runs: usize) -> Result<f64, Error> {
    let with = scratch::measure(machines, Mix::BORG, Config::default(), runs)?;
    let without = scratch::measure(machines, Mix::BORG, without, runs)?;
    if with.placed != without.placed {
        return Err(format!("{} placed, {} without", with.placed, without.placed).into());
    }
    Ok(without.pass_s / with.pass_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_leaves_the_answers_as_they_are() {
        for (name, without) in switches() {
            let ratio = measure(100, without, 1).unwrap();
            assert!(ratio > 0.0, "{name}");
        }
    }
}
