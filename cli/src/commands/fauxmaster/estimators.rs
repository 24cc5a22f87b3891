//! `fauxmaster estimators`: how well use is foretold.

use super::source::{ShowArgs, SourceArgs, made, threads};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::estimators::{self, Options};
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct EstimatorsArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How often what tasks use is made up anew
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads; the answer is the same for any number [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) async fn run(
    args: EstimatorsArgs,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let options =
        Options { first_seed: args.first_seed, seeds: args.seeds, threads: threads(args.threads) };
    args.show.apart(&[args.source.read_from()])?;
    let loaded = args.source.load(target).await?;
    args.show.show(&made(estimators::estimators(&loaded, &options, step))?, out)
}
