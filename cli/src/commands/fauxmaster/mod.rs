//! `borgctl fauxmaster`, and the program `fauxmaster`: questions about a cell, answered by the code that runs it.

mod check;
mod compact;
mod compare;
mod estimators;
mod fail;
mod fit;
mod history;
mod price;
mod replay;
mod show;
mod source;
mod stop;
mod sweep;
mod tune;

use crate::exit::Failure;
use crate::output::Output;
use crate::target::TargetArgs;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum FauxmasterCommand {
    /// A cell as it is: what is given out to whom, what is stranded, who waits and why
    Show(show::CellArgs),
    /// How many more tasks of a job would fit, by band, and what stops the next one
    Fit(fit::FitArgs),
    /// What a change would do: who would be pushed out, who would wait
    Check(check::CheckArgs),
    /// The smallest cell that still holds the work: repacked from scratch, over many orders of machines
    Compact(compact::CompactArgs),
    /// Policies side by side on the same work: machines needed, what is stranded, who is pushed out
    Compare(compare::CompareArgs),
    /// What the loss of machines does: what goes down, how long until it is up again, what never fits
    Fail(fail::FailArgs),
    /// Machines needed when one thing about the work or the machines is otherwise
    #[command(subcommand)]
    Sweep(sweep::SweepCommand),
    /// A stretch of time: work arrives, starts, ends and is pushed out, as the cell would decide
    Replay(replay::ReplayArgs),
    /// How well what tasks will use is foretold: the cell's own estimator beside others and one that knows
    Estimators(estimators::EstimatorsArgs),
    /// Take every decision again that was recorded in a stretch of a cell's past, and compare
    Verify(history::VerifyArgs),
    /// Go through a stretch of a cell's past, entry by entry, and back
    Step(history::StepArgs),
    /// What is different between two moments of a stretch of a cell's past
    Diff(history::DiffArgs),
    /// Why a task was where it was, at a moment of a stretch of a cell's past
    Why(history::WhyArgs),
    /// The cheapest mix of machine shapes that holds the work
    Price(price::PriceArgs),
    /// Weights of the scheduler with which the work needs the fewest machines
    Tune(tune::TuneArgs),
}

pub(super) async fn run(
    command: FauxmasterCommand,
    target: &TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    match command {
        FauxmasterCommand::Show(args) => show::run(args, target, out).await,
        FauxmasterCommand::Fit(args) => fit::run(args, target, out).await,
        FauxmasterCommand::Check(args) => check::run(args, target, out).await,
        FauxmasterCommand::Compact(args) => compact::run(args, target, out).await,
        FauxmasterCommand::Compare(args) => compare::run(args, target, out).await,
        FauxmasterCommand::Fail(args) => fail::run(args, target, out).await,
        FauxmasterCommand::Sweep(command) => sweep::sweep(command, target, out).await,
        FauxmasterCommand::Replay(args) => replay::run(args, target, out).await,
        FauxmasterCommand::Estimators(args) => estimators::run(args, target, out).await,
        FauxmasterCommand::Verify(args) => history::verify(args, out),
        FauxmasterCommand::Step(args) => history::stepping(&args, out),
        FauxmasterCommand::Diff(args) => history::diff(&args, out),
        FauxmasterCommand::Why(args) => history::why(&args, out),
        FauxmasterCommand::Price(args) => price::run(args, target, out).await,
        FauxmasterCommand::Tune(args) => tune::run(args, target, out).await,
    }
}
