//! `fauxmaster show`: a cell as it is.

use super::source::{ShowArgs, SourceArgs, made};
use crate::exit::Failure;
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::show::show;
use clap::Args;

#[derive(Debug, Args)]
pub(in crate::commands) struct CellArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) async fn run(args: CellArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    args.show.apart(&[args.source.read_from()])?;
    let loaded = args.source.load(target).await?;
    args.show.show(&made(show(&loaded))?, out)
}
