//! `fauxmaster compare`: policies side by side on the same work.

use super::compact::{OrderArgs, ResumeArgs};
use super::source::{ShowArgs, SourceArgs, once};
use crate::commands::policy::{Choice, chosen};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::compare::{Candidate, compare};
use borg_proto::policy::{Policy as Named, Weights};
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct CompareArgs {
    /// A policy, weights, or both, with commas: best-fit, or hybrid,strand=50; the first is what the others are
    /// compared with
    #[arg(value_name = "POLICY[,WEIGHT=NUMBER...]", default_values = ["hybrid", "best-fit", "worst-fit"], value_parser = candidate)]
    policies: Vec<Candidate>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    orders: OrderArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Weights, under the name that they were written with.
fn candidate(text: &str) -> Result<Candidate, String> {
    let choices = text.split(',').map(str::parse).collect::<Result<Vec<Choice>, String>>()?;
    let (named, single) = chosen(&choices)?;
    let mut weights: Weights = named.unwrap_or(Named::Hybrid).weights();
    single.into_iter().for_each(|(term, weight)| weights.set(term, weight));
    Ok((text.replace("best-fit", "best_fit").replace("worst-fit", "worst_fit"), weights))
}

pub(super) async fn run(
    args: CompareArgs,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let names: Vec<&str> = args.policies.iter().map(|(name, _)| name.as_str()).collect();
    once(&names)?;
    let options = args.orders.options(Policy::HYBRID);
    args.show.apart(&[args.source.read_from(), args.resume.kept_in()])?;
    let loaded = args.source.load(target).await?;
    let policies = args.policies;
    let answer = args.resume.answer(move |journal| {
        compare(&loaded, &policies, &options, journal, |name| step(&format!("{name}: done")))
    });
    args.show.show(&answer.await?, out)
}
