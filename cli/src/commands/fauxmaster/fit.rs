//! `fauxmaster fit`: how many more tasks of a job would fit.

use super::super::jobs;
use super::source::{ShowArgs, SourceArgs, made};
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::fit::{fit, fit_sets};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::commands) struct FitArgs {
    /// The file: .bcl, JSON, or - for standard input. Of several jobs, whole sets are counted: all tasks of each
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = jobs::pair)]
    args: Vec<(String, String)>,
    #[command(flatten)]
    source: SourceArgs,
    /// Stop counting here
    #[arg(long, default_value_t = 1_000_000)]
    most: u32,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) async fn run(args: FitArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let jobs = jobs::evaluate(&args.file, args.args, target.user()).await?.jobs;
    if let Some(set) = jobs.iter().find_map(|spec| spec.alloc_set.as_ref()) {
        let text = format!("alloc_set: fit looks at machines, not into {set}: leave it out");
        return Err(Failure::new(Code::Refused, text));
    }
    let loaded = args.source.load(target).await?;
    let answer = match jobs.as_slice() {
        [spec] => fit(&loaded, spec, args.most),
        specs => fit_sets(&loaded, specs, args.most),
    };
    args.show.show(&made(answer)?, out)
}
