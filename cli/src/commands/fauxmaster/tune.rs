//! `fauxmaster tune`: weights with which the work needs the fewest machines.

use super::compact::{OrderArgs, ResumeArgs};
use super::source::{ShowArgs, SourceArgs, once};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::tune::{Search, TERMS, tune};
use borg_proto::policy::Term;
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct TuneArgs {
    /// Weights to search, with commas [default: fit,strand,mix]
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',')]
    terms: Vec<Term>,
    /// Most weights to try
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    tries: u64,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    orders: OrderArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) async fn run(args: TuneArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let options = args.orders.options(Policy::HYBRID);
    let terms = if args.terms.is_empty() { TERMS.into() } else { args.terms };
    once(&terms)?;
    let search = Search { terms, tries: usize::try_from(args.tries).unwrap_or(usize::MAX) };
    args.show.apart(&[args.source.read_from(), args.resume.kept_in()])?;
    let loaded = args.source.load(target).await?;
    let answer = args.resume.answer(move |journal| {
        tune(&loaded, &search, &options, journal, |weights, p90| {
            step(&format!("{weights:?}: {p90:.0} machines"));
        })
    });
    args.show.show(&answer.await?, out)
}
