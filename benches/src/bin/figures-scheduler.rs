//! The figures of the scheduler alone, on one core. `BORG_FIGURES` names some of them, by the
//! beginnings of their names and separated by commas, to measure only these.

use borg_benches::Error;
use borg_benches::figures::{figure, load, step};
use borg_benches::scheduling::borg_like::Mix;
use borg_benches::scheduling::churn::{self, Churn};
use borg_benches::scheduling::scratch::{self, Scratch};
use borg_benches::scheduling::{ablation, filled, hopeless, online, preempt};
use borg_scheduler::Config;

/// 10,000 machines: the median cell of the Borg paper (section 2.2).
const MACHINES: u32 = 10_000;
/// 100,000 machines: ten times that, 1,500,000 tasks.
const MANY: u32 = 100_000;
/// Placements that a time of churn is measured over.
const PLACEMENTS: u64 = 50_000;
/// Runs of what can be repeated on a copy.
const RUNS: usize = 3;
/// A third of the jobs with constraints, spread on all of production.
const CONSTRAINED: Mix = Mix { constrained_permille: 333, ..Mix::BORG };

fn main() -> Result<(), Error> {
    let only = std::env::var("BORG_FIGURES").unwrap_or_default();
    let wanted = |names: &[&str]| {
        only.is_empty() || names.iter().any(|n| only.split(',').any(|o| n.starts_with(o)))
    };
    step(&format!("load {}", load()));
    let config = Config::default();
    if wanted(&["scratch_10k", "mix_per_s", "fresh"]) {
        let mut found = scratch::measure(MACHINES, Mix::BORG, config, RUNS)?;
        say_scratch("scratch_10k", &found);
        let (cell, timed) = (&mut found.cell, &mut found.timed);
        say_churn("mix", &churn::mix(cell, timed, Mix::BORG, PLACEMENTS, 11)?);
        say_churn("fresh", &churn::fresh(cell, timed, 5, 2_000, 12)?);
    }
    if wanted(&["constrained"]) {
        let (mut cell, mut timed) = filled(MACHINES, CONSTRAINED, config)?;
        let found = churn::mix(&mut cell, &mut timed, CONSTRAINED, PLACEMENTS, 13)?;
        say_churn("constrained", &found);
    }
    if wanted(&["pass_p99"]) {
        let found = online::measure(MACHINES, config, 1_000)?;
        step(&format!(
            "one pending task at {} %: p50 {:.3} ms, p99 {:.3} ms, at most {:.3} ms",
            found.allocated_pct, found.p50_ms, found.p99_ms, found.max_ms
        ));
        figure("scheduler.pass_p50_ms", found.p50_ms, "ms");
        figure("scheduler.pass_p99_ms", found.p99_ms, "ms");
    }
    if wanted(&["preempt"]) {
        let found = preempt::measure(MACHINES, config, 1_000, RUNS)?;
        step(&format!("{} placed over {} victims", found.placed, found.victims));
        figure("scheduler.preempt_1000_ms", found.pass_ms, "ms");
    }
    if wanted(&["hopeless"]) {
        let found = hopeless::measure(MACHINES, config, 100_000, 20)?;
        step(&format!(
            "a round takes {:.3} ms, {:.3} ms beside 100,000 hopeless tasks, first seen in {:.0} ms",
            found.without_ms, found.with_ms, found.first_ms
        ));
        figure("scheduler.hopeless_ratio", found.ratio, "ratio");
        figure("scheduler.hopeless_first_ms", found.first_ms, "ms");
    }
    if wanted(&["without"]) {
        for (name, without) in ablation::switches() {
            let ratio = ablation::measure(MACHINES / 10, without, 1)?;
            figure(&format!("scheduler.without_{name}_ratio"), ratio, "ratio");
        }
    }
    if wanted(&["scratch_100k", "mix_100k"]) {
        let mut found = scratch::measure(MANY, Mix::BORG, config, 1)?;
        say_scratch("scratch_100k", &found);
        let (cell, timed) = (&mut found.cell, &mut found.timed);
        say_churn("mix_100k", &churn::mix(cell, timed, Mix::BORG, PLACEMENTS, 14)?);
    }
    Ok(())
}

fn say_scratch(name: &str, found: &Scratch) {
    step(&format!(
        "load {}; {} placed, {} pending, {} pushed out; as a master does {:.3} s, of which {:.3} s follow",
        load(),
        found.placed,
        found.pending,
        found.pushed_out,
        found.live_s,
        found.live_follow_s
    ));
    figure(&format!("scheduler.{name}_s"), found.pass_s, "s");
    figure(&format!("scheduler.{name}_live_s"), found.live_s, "s");
}

fn say_churn(name: &str, found: &Churn) {
    step(&format!("load {}; {} placed, {} pushed out", load(), found.placed, found.pushed_out));
    figure(&format!("scheduler.{name}_per_s"), found.per_s, "1/s");
    figure(&format!("scheduler.{name}_follow_pct"), found.follow_pct, "pct");
}
