//! The figures of the scheduler: alone on one core, then end to end in a cell of five masters.
//! `BORG_FIGURES` names some of them, by the beginnings of their names and separated by commas, to
//! measure only these. `committed,quick` places little in a cell of a hundred machines: to see that it
//! works. `BORGCTL` names the program that starts the masters, else it is the one beside this one.

use borg_benches::committed::{self, Wish};
use borg_benches::figures::{figure, load, step, wanted};
use borg_benches::local_cell::LocalCell;
use borg_benches::scheduling::churn::{self, Churn};
use borg_benches::scheduling::scratch::{self, Scratch};
use borg_benches::scheduling::{ablation, filled, hopeless, online, preempt, relaxed};
use borg_benches::{Error, fill, machines};
use borg_fauxmaster::sources::borg_like::Mix;
use borg_scheduler::Config;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// 10,000 machines: the median cell of the Borg paper (section 2.2).
const MACHINES: u32 = 10_000;
/// 100,000 machines: ten times that, 1,500,000 tasks.
const MANY: u32 = 100_000;
/// Placements that a time of churn is measured over.
const PLACEMENTS: u64 = 50_000;
/// Runs of what can be repeated on a copy.
const RUNS: usize = 3;
/// Machines that are enough, where not all are looked at: a hundredth and a tenth of the cell.
const RELAXED: [u32; 2] = [100, 1_000];
/// A third of the jobs with constraints, spread on all of production.
const CONSTRAINED: Mix = Mix { constrained_permille: 333, ..Mix::BORG };

/// Machines of the cell of five masters: as in the tests of Kubernetes' scheduler.
const MACHINES_OF_A_CELL: u32 = 5_000;
/// Tasks that are placed there for one figure.
const TASKS: u32 = 20_000;
/// Jobs of one task that are placed there.
const JOBS: u32 = 10_000;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, ca, address, count] = args.as_slice()
        && mode == "machines"
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(async {
            let credentials = machines::credentials(Path::new(ca))?;
            machines::serve(&credentials, TcpListener::bind(address).await?, count.parse()?).await
        });
    }
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
    if wanted(&["relaxed"]) {
        for enough in RELAXED {
            let [exact, relaxed] = relaxed::measure(MACHINES, enough, RUNS)?;
            step(&format!(
                "exact: {:.0} tasks a second, {} without a place; the best of {enough} that will do: {:.0} \
                 a second, {} without",
                exact.per_s, exact.pending, relaxed.per_s, relaxed.pending
            ));
            figure(
                &format!("scheduler.relaxed_{enough}_ratio"),
                relaxed.per_s / exact.per_s,
                "ratio",
            );
        }
    }
    if wanted(&["scratch_100k", "mix_100k"]) {
        let mut found = scratch::measure(MANY, Mix::BORG, config, 1)?;
        say_scratch("scratch_100k", &found);
        let (cell, timed) = (&mut found.cell, &mut found.timed);
        say_churn("mix_100k", &churn::mix(cell, timed, Mix::BORG, PLACEMENTS, 14)?);
    }
    if wanted(&["committed", "jobs_per_s"]) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(end_to_end())?;
    }
    Ok(())
}

async fn end_to_end() -> Result<(), Error> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    step(&format!("load {}; starting five masters", load()));
    let cell = LocalCell::of(0)?;
    let measured = tokio::select! {
        measured = committed(&cell) => measured,
        _ = terminate.recv() => Err("interrupted".into()),
        _ = interrupt.recv() => Err("interrupted".into()),
    };
    let down = cell.down();
    measured.and(down)
}

async fn committed(cell: &LocalCell) -> Result<(), Error> {
    let quick = std::env::var("BORG_FIGURES").is_ok_and(|only| only.contains("quick"));
    let part = if quick { 50 } else { 1 };
    let machines = MACHINES_OF_A_CELL / part;
    let _machines = fill::machines(cell, machines).await?;
    for (name, wish) in
        [("", Wish::Plain), ("_spread", Wish::Spread), ("_affinity", Wish::Affinity)]
    {
        let rate = committed::placements_per_s(cell, machines, wish, TASKS / part).await?;
        figure(&format!("scheduler.committed{name}_per_s"), rate, "1/s");
    }
    figure("scheduler.jobs_per_s", committed::jobs_per_s(cell, JOBS / part).await?, "1/s");
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
