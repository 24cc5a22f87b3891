//! `fauxmaster sweep`: machines needed as one thing is varied.

use super::compact::{OrderArgs, ResumeArgs, policy};
use super::source::{ShowArgs, SourceArgs, made};
use crate::exit::{Code, Failure};
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::sweep::{Range, sweep};
use borg_fauxmaster::variation::Parameter;
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct SweepArgs {
    /// machine-size, memory and overcommit in per cent of today; cells and users by count; prod (in cells of its own)
    /// and buckets (of powers of two) are 0 or 1
    parameter: Parameter,
    /// Its values, as in 50..200; prod and buckets need none
    #[arg(value_name = "FROM..TO", value_parser = range)]
    range: Option<(u64, u64)>,
    /// From one value to the next [default: a fifth of the range, at least 1]
    #[arg(long)]
    step: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    orders: OrderArgs,
    /// What makes a machine the best
    #[arg(long, value_name = "POLICY", default_value = "hybrid", value_parser = policy)]
    policy: Policy,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is not FROM..TO, as in 50..200");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    Ok((from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?))
}

pub(super) async fn run(args: SweepArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let switch = matches!(args.parameter, Parameter::Prod | Parameter::Buckets);
    let Some((from, to)) = args.range.or_else(|| switch.then_some((0, 1))) else {
        let text = format!("{} takes a range: FROM..TO, as in 50..200", args.parameter);
        return Err(Failure::new(Code::Usage, text));
    };
    let step_by = args.step.unwrap_or_else(|| (to.saturating_sub(from) / 5).max(1));
    let range = made(Range::new(args.parameter, from, to, step_by))?;
    let options = args.orders.options(args.policy);
    let journal = args.resume.journal()?;
    let loaded = args.source.load(target).await?;
    let tell = |value| step(&format!("{} {value}: done", args.parameter));
    args.show.show(&made(sweep(&loaded, &range, &options, &journal, tell))?, out)
}
