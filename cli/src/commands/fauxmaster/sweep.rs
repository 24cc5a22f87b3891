//! `fauxmaster sweep`: machines needed under several settings.

use super::compact::{OrderArgs, ResumeArgs, policy};
use super::source::{ShowArgs, SourceArgs, once};
use crate::exit::{Code, Failure};
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::study;
use borg_fauxmaster::questions::variants;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum SweepCommand {
    /// Production in a cell of its own
    ProdApart(SweepArgs),
    /// Large users in cells of their own
    UsersApart {
        /// Users whose tasks ask for more memory than this together
        #[arg(long, value_name = "GIB", default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
        over: u64,
        #[command(flatten)]
        args: SweepArgs,
    },
    /// Jobs dealt out to several cells
    Cells {
        /// Numbers of cells
        #[arg(value_name = "CELLS", required = true, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000))]
        cells: Vec<u32>,
        #[command(flatten)]
        args: SweepArgs,
    },
    /// Requests of production rounded up to powers of two
    Buckets(SweepArgs),
    /// What non-prod work has reserved of its limits
    Reserved {
        /// In percent
        #[arg(value_name = "PERCENT", required = true, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100))]
        percents: Vec<u32>,
        #[command(flatten)]
        args: SweepArgs,
    },
    /// All machines of one shape, for each shape of the cell
    Shapes(SweepArgs),
}

#[derive(Debug, Args)]
pub(in crate::commands) struct SweepArgs {
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

pub(super) async fn sweep(
    command: SweepCommand,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let (args, what) = match command {
        SweepCommand::ProdApart(args) => (args, What::ProdApart),
        SweepCommand::UsersApart { over, args } => (args, What::UsersApart(over << 30)),
        SweepCommand::Cells { cells, args } => (args, What::Cells(cells)),
        SweepCommand::Buckets(args) => (args, What::Buckets),
        SweepCommand::Reserved { percents, args } => (args, What::Reserved(percents)),
        SweepCommand::Shapes(args) => (args, What::Shapes),
    };
    if let What::Cells(values) | What::Reserved(values) = &what {
        once(values)?;
    }
    args.show.apart(&[args.source.read_from(), args.resume.kept_in()])?;
    let loaded = args.source.load(target).await?;
    let (work, policy) = (loaded.work(), args.policy);
    let study = match what {
        What::ProdApart => variants::prod_apart(&work, policy),
        What::UsersApart(over) => variants::users_apart(&work, policy, over),
        What::Cells(cells) => variants::smaller_cells(&work, policy, &cells),
        What::Buckets => variants::bucketed(&work, policy),
        What::Reserved(percents) => variants::reserved(&work, policy, &percents),
        What::Shapes => variants::shapes(&work, policy),
    };
    if study.settings.iter().all(|setting| setting.cells.iter().all(|work| work.jobs.is_empty())) {
        return Err(Failure::new(
            Code::Refused,
            "there is no work in the cell: nothing to compare",
        ));
    }
    let options = args.orders.options(Policy::HYBRID);
    let answer = args.resume.answer(move |journal| {
        let needs = study::run(&study, &options, journal, step)?;
        Ok(study::answer(&loaded, &study, &options, &needs))
    });
    args.show.show(&answer.await?, out)
}

/// What is varied, apart from what all sweeps take.
enum What {
    ProdApart,
    UsersApart(u64),
    Cells(Vec<u32>),
    Buckets,
    Reserved(Vec<u32>),
    Shapes,
}
