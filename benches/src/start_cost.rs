//! What the start of a container costs in processor time, beside a plain fork and exec.
//!
//! The borglet's own example `start_cost` measures both one after the other; here it is run several
//! times, and the medians are taken. Containers are as complete as this user and computer allow.

use crate::Error;
use crate::figures::{median, progress};
use std::process::Command;

/// How often the example runs, and how many starts each time.
const RUNS: usize = 5;
const STARTS: &str = "100";

/// Processor time of one start and end of `/bin/true`, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StartCost {
    /// By fork and exec.
    pub plain_ms: f64,
    /// As a task is started: shim, namespaces, cgroups, records on disk.
    pub container_ms: f64,
}

/// Measures it.
///
/// # Errors
/// When the example is not built beside this program, or fails.
pub fn measure() -> Result<StartCost, Error> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("examples").join("start_cost");
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let output = Command::new(&program)
            .arg(STARTS)
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        progress(text.trim_end());
        let cost = text.lines().find_map(parse).filter(|_| output.status.success());
        runs.push(cost.ok_or_else(|| format!("{} failed: {text}", program.display()))?);
    }
    let of = |part: fn(&StartCost) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
    Ok(StartCost { plain_ms: of(|cost| cost.plain_ms), container_ms: of(|cost| cost.container_ms) })
}

fn parse(line: &str) -> Option<StartCost> {
    let after = |word: &str| {
        let (_, rest) = line.split_once(word)?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(StartCost { plain_ms: after("plain spawn ")?, container_ms: after("container ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_s_line_is_read() {
        let line = "plain spawn 0.504 ms, container 2.125 ms, its removal 0.310 ms";
        assert_eq!(parse(line), Some(StartCost { plain_ms: 0.504, container_ms: 2.125 }));
        assert_eq!(parse("Isolation { .. }"), None);
    }
}
