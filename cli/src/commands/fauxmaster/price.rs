//! `fauxmaster price`: the cheapest mix of machine shapes that holds the work.

use super::compact::{OrderArgs, ResumeArgs, policy};
use super::source::{ShowArgs, SourceArgs};
use crate::commands::quota::Asked;
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::price::{Shape, price};
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct PriceArgs {
    /// A machine that can be bought, as in small:100:cpu=16,ram=64GiB,disk=2TiB; once for each
    #[arg(long = "shape", value_name = "NAME:COST:AMOUNTS", required = true, value_parser = shape)]
    shapes: Vec<Shape>,
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

fn shape(text: &str) -> Result<Shape, String> {
    let wrong = || format!("{text:?} is not NAME:COST:AMOUNTS, as in small:100:cpu=16,ram=64GiB");
    let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (cost, amounts) = rest.split_once(':').ok_or_else(wrong)?;
    let cost = cost.parse().map_err(|_| format!("{name}: {cost:?} is not a whole number"))?;
    let capacity = amounts.parse::<Asked>()?.amount()?;
    Ok(Shape { name: name.to_owned(), cost, capacity })
}

pub(super) async fn run(args: PriceArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let options = args.orders.options(args.policy);
    args.show.apart(&[args.source.read_from(), args.resume.kept_in()])?;
    let loaded = args.source.load(target).await?;
    let shapes = args.shapes;
    let answer =
        args.resume.answer(move |journal| price(&loaded, &shapes, &options, journal, step));
    args.show.show(&answer.await?, out)
}
