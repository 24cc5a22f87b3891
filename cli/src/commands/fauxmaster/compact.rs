//! `fauxmaster compact`: the smallest cell that still holds the work.

use super::source::{ShowArgs, SourceArgs, made, threads};
use crate::exit::{Code, Failure};
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::journal::Journal;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::compact::{self, Options, SEEDS};
use borg_fauxmaster::sources::common;
use clap::Args;
use std::path::{Path, PathBuf};
use tokio::signal::ctrl_c;
use tokio::sync::oneshot;

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
    /// The file, under the name of its option.
    pub(super) fn kept_in(&self) -> Option<(&'static str, &Path)> {
        self.resume.as_deref().map(|file| ("--resume", file))
    }

    /// Answers on a thread of its own, with what is known already; Ctrl-C ends the wait for it and says what is kept.
    pub(super) async fn answer<T: Send + 'static>(
        self,
        question: impl FnOnce(&Journal) -> Result<T, borg_fauxmaster::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let journal = match &self.resume {
            Some(file) => made(Journal::open(file))?,
            None => Journal::none(),
        };
        let (done, found) = oneshot::channel();
        // Not one that the runtime waits for before the process ends.
        std::thread::spawn(move || done.send(question(&journal)).is_ok());
        tokio::select! {
            found = found => made(found.unwrap_or_else(|_| Err("the question ended without an answer".into()))),
            pressed = ctrl_c() => {
                pressed?;
                let what = match &self.resume {
                    Some(file) => format!(
                        "stopped: what was computed is in {}, and the same command goes on from there",
                        file.display()
                    ),
                    None => "stopped: nothing is kept, as there was no --resume FILE".to_owned(),
                };
                Err(Failure::new(Code::Stopped, what))
            }
        }
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
    let names: Vec<String> = all().map(|policy| policy.name.replace('_', "-")).collect();
    found.ok_or_else(|| format!("is none of {}", names.join(", ")))
}

pub(super) async fn run(
    args: CompactArgs,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let write = args.write.as_deref().map(|folder| ("--write", folder));
    args.show.apart(&[args.source.read_from(), args.resume.kept_in(), write])?;
    let loaded = args.source.load(target).await?;
    let work = loaded.work();
    let (options, writes) = (args.orders.options(args.policy), args.write.is_some());
    let answer = args.resume.answer(move |journal| {
        let found = compact::resumed(&work, &options, journal, |kept| {
            step(&format!("seed {}: {} machines", kept.seed, kept.machines));
        })?;
        let kept = found.typical().filter(|_| writes);
        let packed = kept.map(|kept| compact::packing(&work, args.policy.weights, kept));
        Ok((compact::answer(&loaded, &work, &options, &found), packed.transpose()?))
    });
    let (answer, packed) = answer.await?;
    // A page that cannot be written costs neither the answer nor the packing.
    let shown = args.show.show(&answer, out);
    if let Some((folder, packed)) = args.write.zip(packed) {
        common::write(&folder, &packed)
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    }
    shown
}
