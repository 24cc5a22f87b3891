//! What the start of a container costs, beside a plain fork and exec, and how many a second there can be.
//!
//! The borglet's own example `start_cost` measures all of it, one after the other; here it is run several
//! times, and the medians are taken. Containers are as complete as this user and computer allow.

use crate::Error;
use crate::figures::{median, progress};
use std::process::Command;

/// How often the example runs, and how many starts each time.
const RUNS: usize = 5;
const STARTS: &str = "100";

/// One start and end of `/bin/true`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StartCost {
    /// Processor time by fork and exec, in milliseconds.
    pub plain_ms: f64,
    /// Processor time as a task is started (shim, namespaces, cgroups, records on disk), in milliseconds.
    pub container_ms: f64,
    /// Time of the same on the clock, in milliseconds: the median of a run.
    pub container_wall_ms: f64,
    /// Containers started, ended and removed a second, several at once.
    pub starts_per_s: f64,
}

/// Measures it.
///
/// # Errors
/// When the example is not built beside this program, or fails.
pub fn measure() -> Result<StartCost, Error> {
    let runs = (0..RUNS).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    Ok(median_of(&runs))
}

/// One run of the example.
///
/// # Errors
/// As [`measure`].
pub fn once() -> Result<StartCost, Error> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("examples").join("start_cost");
    let output = Command::new(&program)
        .arg(STARTS)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    progress(text.trim_end());
    let cost = parse(&text).filter(|_| output.status.success());
    cost.ok_or_else(|| format!("{} failed: {text}", program.display()).into())
}

/// The medians of several runs.
#[must_use]
pub fn median_of(runs: &[StartCost]) -> StartCost {
    let of = |part: fn(&StartCost) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
    StartCost {
        plain_ms: of(|cost| cost.plain_ms),
        container_ms: of(|cost| cost.container_ms),
        container_wall_ms: of(|cost| cost.container_wall_ms),
        starts_per_s: of(|cost| cost.starts_per_s),
    }
}

fn parse(text: &str) -> Option<StartCost> {
    let line = text.lines().find(|line| line.starts_with("plain spawn "))?;
    let number = |text: &str| text.split_ascii_whitespace().next()?.parse().ok();
    let (_, container) = line.split_once("container ")?;
    let (_, wall) = container.split_once('(')?;
    let rate = text.lines().find(|line| line.contains(" starts a second"))?;
    Some(StartCost {
        plain_ms: number(line.strip_prefix("plain spawn ")?)?,
        container_ms: number(container)?,
        container_wall_ms: number(wall)?,
        starts_per_s: number(rate)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_s_lines_are_read() {
        let text = "Isolation { .. }\n\
            plain spawn 0.504 ms (0.601 on the clock), container 2.125 ms (3.250 on the clock), its removal \
            0.310 ms (0.400 on the clock)\n\
            410.5 starts a second, 4 at once\n";
        let cost = StartCost {
            plain_ms: 0.504,
            container_ms: 2.125,
            container_wall_ms: 3.25,
            starts_per_s: 410.5,
        };
        assert_eq!(parse(text), Some(cost));
        assert_eq!(parse(text.lines().next().unwrap_or_default()), None);
    }

    #[test]
    fn the_median_is_taken_of_each_part() {
        let cost = |n: f64| StartCost {
            plain_ms: n,
            container_ms: 10.0 - n,
            container_wall_ms: n * n,
            starts_per_s: 400.0 + n,
        };
        assert_eq!(median_of(&[cost(3.0), cost(1.0), cost(2.0)]), cost(2.0));
    }
}
