//! Figures: how they are said.

pub use borg_fauxmaster::spread::{median, percentile};

/// Prints one figure, `GROUP.NAME VALUE UNIT`, as `./ci figures` passes it on.
#[expect(clippy::print_stdout, reason = "figures go to standard output")]
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.3} {unit}");
}

/// Says how far a measurement is.
#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
pub fn progress(line: &str) {
    eprintln!("{line}");
}

/// The same on a terminal; nothing where the output goes elsewhere.
pub fn step(line: &str) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        progress(line);
    }
}

/// Whether one of these figures is to be measured: by the beginnings of names in `BORG_FIGURES`, separated by
/// commas; all of them where it is not set.
#[must_use]
pub fn wanted(names: &[&str]) -> bool {
    let only = std::env::var("BORG_FIGURES").unwrap_or_default();
    only.is_empty() || names.iter().any(|name| only.split(',').any(|one| name.starts_with(one)))
}

/// How busy the computer is: processes that ran or wanted to, on average over the last minute.
#[must_use]
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// A line to read about one part of what was measured, in milliseconds.
#[must_use]
pub fn part(name: &str, samples: &[f64]) -> String {
    let (p50, p99) = (median(samples), percentile(samples, 99));
    format!("  {name:<24} p50 {p50:>7.1} ms  p99 {p99:>7.1} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_sample_of_nearest_rank() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|p| percentile(&samples, p)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&samples[..30], 99), 100.0);
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }
}
