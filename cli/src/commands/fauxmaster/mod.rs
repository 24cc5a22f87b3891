//! `borgctl fauxmaster`: questions about a cell, answered by the code that runs it.

use super::{backup, jobs};
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::fit::{FitReport, fit};
use borg_fauxmaster::sources::synthetic::synthetic;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Most bytes that a checkpoint may have: 1 GiB, far over what the largest cells need.
const MOST_BYTES: u64 = 1 << 30;

#[derive(Debug, Subcommand)]
pub(super) enum FauxmasterCommand {
    /// How many more tasks of a job would fit, and what stops the next one
    Fit(FitArgs),
}

#[derive(Debug, Args)]
pub(super) struct FitArgs {
    /// The file with one job: .bcl, JSON, or - for standard input
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = jobs::pair)]
    args: Vec<(String, String)>,
    /// A checkpoint saved by `borgctl backup save` [default: the cell as it is now]
    #[arg(long, value_name = "FILE", conflicts_with = "synthetic")]
    checkpoint: Option<PathBuf>,
    /// A made-up cell of so many machines
    #[arg(long, value_name = "MACHINES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    synthetic: Option<u32>,
    /// Which of the made-up cells
    #[arg(long, default_value_t = 1, requires = "synthetic")]
    seed: u64,
    /// Stop counting here
    #[arg(long, default_value_t = 1_000_000)]
    most: u32,
}

pub(super) async fn run(
    command: FauxmasterCommand,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let FauxmasterCommand::Fit(args) = command;
    let nobody = || "nobody".parse().expect("nobody is a name");
    let user = target.resolve().map_or_else(|_| nobody(), |target| target.user);
    let mut evaluated = jobs::evaluate(&args.file, args.args, user).await?;
    let (Some(spec), true) = (evaluated.jobs.pop(), evaluated.jobs.is_empty()) else {
        let text = format!("{}: fit takes a file with exactly one job", args.file.display());
        return Err(Failure::new(Code::Refused, text));
    };
    let state = match (args.checkpoint, args.synthetic) {
        (Some(file), _) => backup::load(&file, MOST_BYTES)?,
        (None, Some(machines)) => synthetic(machines, args.seed)
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?,
        (None, None) => backup::live_state(&mut Client::new(&target.resolve()?)?, false).await?,
    };
    if let Some(set) = &spec.alloc_set {
        let text = format!("alloc_set: fit looks at machines, not into {set}: leave it out");
        return Err(Failure::new(Code::Refused, text));
    }
    show(&fit(&state, &spec, args.most), out)
}

fn show(report: &FitReport, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(report, false);
    }
    out.line(&report.summary)?;
    if report.stopped_by.is_empty() {
        return Ok(());
    }
    let rows =
        report.stopped_by.iter().map(|stop| [stop.machines.to_string(), stop.reason.clone()]);
    out.table(["machines", "why they take no more"], rows)
}
