//! Asks a cell's checkpoint, or a made-up cell, how many more tasks of a job would fit.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks to its user"
)]

use borg_proto::JobSpec;
use borg_sim::fauxmaster::{FitReport, fit, load_checkpoint, synthetic};
use clap::{Parser, Subcommand, ValueEnum};
use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Answers "what would the cell do?" without touching the cell.
#[derive(Debug, Parser)]
#[command(name = "fauxmaster", version)]
struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// How many more tasks of a job would fit, and what stops the next one.
    Fit {
        /// The job's specification as JSON; `-` reads standard input.
        job: PathBuf,
        /// A checkpoint, as saved by `borgctl backup save`.
        #[arg(long, conflicts_with = "synthetic")]
        checkpoint: Option<PathBuf>,
        /// A made-up cell of so many machines instead.
        #[arg(long, value_name = "MACHINES", required_unless_present = "checkpoint")]
        synthetic: Option<u32>,
        /// Which made-up cell.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Stop counting there.
        #[arg(long, default_value_t = 1_000_000)]
        most: u32,
        /// How to answer.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fauxmaster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer() -> Result<(), Box<dyn Error>> {
    let Question::Fit { job, checkpoint, synthetic: made_up, seed, most, output } =
        Args::parse().question;
    let spec = read_job(&job)?;
    let state = match checkpoint {
        Some(path) => {
            let bytes =
                std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            load_checkpoint(&bytes).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => synthetic(made_up.unwrap_or_default(), seed),
    };
    let report = fit(&state, &spec, most);
    match output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => print_table(&report),
    }
    Ok(())
}

fn read_job(path: &Path) -> Result<JobSpec, Box<dyn Error>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
    };
    let spec: JobSpec =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    spec.check()?;
    Ok(spec)
}

fn print_table(report: &FitReport) {
    println!("{:<24}{}", "job", report.job);
    println!("{:<24}{} of {} asked", "more tasks that fit", report.fit, report.asked);
    println!(
        "{:<24}{} of {}",
        "machines for the first", report.machines_for_first, report.machines
    );
    for (number, stop) in report.stopped_by.iter().enumerate() {
        let head = if number == 0 { "the next one stops at" } else { "" };
        println!("{head:<24}{}", stop.reason);
    }
}
