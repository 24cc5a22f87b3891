//! `fauxmaster compact`: the smallest cell that still holds the work.

use super::source::{ShowArgs, SourceArgs, made, threads};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::journal::Journal;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::compact::{self, Options, SEEDS};
use borg_fauxmaster::sources::common;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::commands) struct CompactArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    orders: OrderArgs,
    /// What makes a machine the best
    #[arg(long, value_name = "POLICY", default_value = "hybrid", value_parser = policy)]
    policy: Policy,
    /// Write nodes.csv, tasks.csv, order.csv and placements.csv of the 90th percentile there
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Where what was computed is kept.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// Keep what was computed in this file as it comes, and go on from what is in it
    #[arg(long, value_name = "FILE", help_heading = "Seeds")]
    resume: Option<PathBuf>,
}

impl ResumeArgs {
    pub(super) fn journal(&self) -> Result<Journal, Failure> {
        self.resume.as_deref().map_or_else(|| Ok(Journal::none()), |file| made(Journal::open(file)))
    }
}

/// How often something is tried, and how many at a time.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Seeds")]
pub(super) struct OrderArgs {
    /// Orders of machines to try
    #[arg(long, default_value_t = SEEDS, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads; the answer is the same for any number [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
}

impl OrderArgs {
    pub(super) fn options(self, policy: Policy) -> Options {
        Options {
            policy,
            first_seed: self.first_seed,
            seeds: self.seeds,
            threads: threads(self.threads),
        }
    }
}

pub(super) fn policy(text: &str) -> Result<Policy, String> {
    let all = || Policy::ALL.into_iter().chain([Policy::FIRST_FIT]);
    let found = all().find(|policy| policy.name == text.replace('-', "_"));
    let names: Vec<&str> = all().map(|policy| policy.name).collect();
    found.ok_or_else(|| format!("is none of {}", names.join(", ")))
}

pub(super) async fn run(
    args: CompactArgs,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let loaded = args.source.load(target).await?;
    let work = loaded.work();
    let options = args.orders.options(args.policy);
    let journal = args.resume.journal()?;
    let found = made(compact::resumed(&work, &options, &journal, |kept| {
        step(&format!("seed {}: {} machines", kept.seed, kept.machines));
    }))?;
    if let (Some(folder), Some(kept)) = (&args.write, found.typical()) {
        let packed = made(compact::packing(&work, args.policy.weights, kept))?;
        made(common::write(folder, &packed))?;
    }
    args.show.show(&compact::answer(&loaded, &work, &options, &found), out)
}
