//! `fauxmaster fit`: how many more tasks of a job would fit.

use super::super::jobs;
use super::source::{ShowArgs, SourceArgs, made};
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::fit::fit;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::commands) struct FitArgs {
    /// The file with one job: .bcl, JSON, or - for standard input
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
    let mut evaluated = jobs::evaluate(&args.file, args.args, target.user()).await?;
    let (Some(spec), true) = (evaluated.jobs.pop(), evaluated.jobs.is_empty()) else {
        let text = format!("{}: fit takes a file with exactly one job", args.file.display());
        return Err(Failure::new(Code::Refused, text));
    };
    if let Some(set) = &spec.alloc_set {
        let text = format!("alloc_set: fit looks at machines, not into {set}: leave it out");
        return Err(Failure::new(Code::Refused, text));
    }
    let loaded = args.source.load(target).await?;
    args.show.show(&made(fit(&loaded, &spec, args.most))?, out)
}
