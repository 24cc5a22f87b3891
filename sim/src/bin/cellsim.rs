//! Runs simulated cells under faults: one seed, to look at it, or many, to find the one to look at.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks to its user"
)]

use borg_proto::Millis;
use borg_sim::checkers::quiescence::Aspect;
use borg_sim::marks::{Mark, Marks};
use borg_sim::run::{self, Plan, Report, Running};
use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Simulates cells: five masters, their link shards, borglets, clients and faults, on virtual
/// time. The same seed gives the same run, byte for byte.
///
/// A run is a storm of faults over a busy cell, then calm. While it lasts, what must always hold is
/// checked after every step; after the storm everything must settle, each thing within its time.
/// docs/simulation.md lists the faults and the checks.
#[derive(Debug, Parser)]
#[command(name = "cellsim", version, after_help = EXAMPLES)]
struct Args {
    /// Run this seed alone (decimal, or hexadecimal after 0x) and print the digest of the run.
    #[arg(long, value_parser = number, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds and demand that every rare branch is reached.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of many seeds.
    #[arg(long, value_parser = number, default_value = "0")]
    first: u64,
    /// How many run at once; as many as there are processors when not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// How many machines; by default the seed decides.
    #[arg(long)]
    borglets: Option<usize>,
    /// How many virtual seconds faults come; then it must settle.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Print the story of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Do not demand every rare branch: for few or short runs.
    #[arg(long)]
    any_marks: bool,
}

const EXAMPLES: &str = "\
Examples:
  cellsim --seeds 200               200 seeds, and every fault and recovery must have happened
  cellsim --seeds 5000 --first 200  other seeds
  cellsim --seed 7                  one seed; prints its digest, and what did not hold
  cellsim --seed 7 --trace          its story: who led, which faults, what clients asked and were told
  cellsim --seed 7 --trace | grep -E 'FAULT|OVER|LEADER|VIOLATED'
  cellsim --seed 7 --borglets 50 --for 600

In a trace, the first column is the time since the beginning in seconds. Masters are counted from 1,
machines from m0; 14.0.2 is incarnation 2 of task 0 of job number 14; lines that begin with a number
after the time are changes of the cell's state, with their place in the log.

Exit status: 0 when everything held, 1 when something did not or a rare branch was never reached.";

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    tell_seed_in_panics();
    let storm = args.seconds.map_or(run::STORM, Millis::from_secs);
    let plan = Plan { machines: args.borglets, storm };
    match (args.seed, args.seeds) {
        (Some(seed), _) => one(seed, &plan, args.trace),
        (None, Some(seeds)) => many(&args, seeds, &plan),
        (None, None) => unreachable!("the parser demands one of the two"),
    }
}

/// A panic ends the process where panics abort, so the way back to it is told first.
fn tell_seed_in_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(command) = Running::command() {
            eprintln!("violated: no panic; repeat with: {command} --trace");
        }
        before(panic);
    }));
}

fn one(seed: u64, plan: &Plan, trace: bool) -> ExitCode {
    let _running = Running::begin(seed, plan);
    let began = stopwatch();
    let sink: Option<borg_sim::journal::Sink> =
        if trace { Some(Box::new(|line| println!("{line}"))) } else { None };
    let report = run::one(seed, plan, sink);
    println!("seed {seed} digest {:032x}", report.digest);
    println!(
        "{} things happened in {} s, {} entries; settled {} after the last fault",
        report.events,
        report.simulated.0 / 1_000,
        report.entries,
        report.settled_after().map_or("never".into(), |time| time.to_string()),
    );
    eprintln!("{}", speed(report.simulated, began.elapsed()));
    print_violation(&report, plan);
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(args: &Args, seeds: u64, plan: &Plan) -> ExitCode {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = args.jobs.unwrap_or(processors);
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let live = std::io::stderr().is_terminal();
    let began = stopwatch();
    let reports = run::many(args.first..args.first + seeds, jobs, plan, |report| {
        let now = done.fetch_add(1, Ordering::Relaxed) + 1;
        if report.violation.is_some() {
            failed.fetch_add(1, Ordering::Relaxed);
            print_violation(report, plan);
        }
        if live {
            eprint!("\r{now} of {seeds} seeds, {} failed", failed.load(Ordering::Relaxed));
        }
    });
    if live {
        eprintln!();
    }
    let mut marks = Marks::default();
    let mut simulated = Millis(0);
    for report in &reports {
        marks.add(&report.marks);
        simulated = simulated + report.simulated;
    }
    println!("{:>9}  rare branch", "times");
    for mark in Mark::ALL {
        println!("{:>9}  {mark}", marks.count(*mark));
    }
    let missing: Vec<Mark> = marks.missing().collect();
    for mark in &missing {
        println!("never reached: {mark}");
    }
    for report in reports.iter().filter(|report| report.violation.is_some()) {
        println!("failed: {}", plan.command(report.seed));
    }
    let failed = failed.into_inner();
    println!("{:>9}  slowest to settle after the last fault, of at most", "ms");
    for aspect in Aspect::ALL {
        let slowest = reports.iter().filter_map(|report| report.settled.get(&aspect)).max();
        let slowest = slowest.copied().unwrap_or_default().0;
        println!("{slowest:>9}  {aspect:?}, {} ms", aspect.bound().0);
    }
    println!(
        "{seeds} seeds, {failed} failed, {} marks never reached; {}",
        missing.len(),
        speed(simulated, began.elapsed()),
    );
    let fine = failed == 0 && (missing.is_empty() || args.any_marks);
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_violation(report: &Report, plan: &Plan) {
    let Some(violation) = &report.violation else { return };
    eprintln!("\nseed {}: {violation}", report.seed);
    for line in &report.lines {
        eprintln!("  {line}");
    }
    eprintln!("repeat with: {} --trace", plan.command(report.seed));
}

#[expect(clippy::disallowed_methods, reason = "the speed of a run is measured in real time")]
fn stopwatch() -> std::time::Instant {
    std::time::Instant::now()
}

fn speed(simulated: Millis, real: std::time::Duration) -> String {
    let real_ms = u64::try_from(real.as_millis()).unwrap_or(u64::MAX).max(1);
    let ratio = simulated.0 / real_ms;
    format!(
        "{} s simulated in {}.{:01} s, {ratio} to 1",
        simulated.0 / 1_000,
        real_ms / 1_000,
        real_ms % 1_000 / 100
    )
}
