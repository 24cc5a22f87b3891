//! `fauxmaster replay`: a stretch of time in a cell.

use super::super::backup;
use super::source::{ShowArgs, SourceArgs, made};
use super::stop::{GoOn, stoppable, stopped};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::replay::{self, Options};
use borg_fauxmaster::replay::Settings;
use borg_fauxmaster::replay::reclaim::{Load, Reclaim};
use borg_fauxmaster::sources::workload::Steady;
use borg_proto::Millis;
use borg_proto::reclamation::NumberSet;
use clap::Args;
use std::path::PathBuf;

/// How long a cell is replayed unless told otherwise.
const HOURS: u64 = 24;
/// From placed to up: the median in the Borg paper (section 3.2).
const STARTUP_SECS: u64 = 25;

#[derive(Debug, Args)]
pub(in crate::commands) struct ReplayArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How long [default: 24, or as long as the scenario; a trace until its end]
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(1..=8_784))]
    hours: Option<u64>,
    /// What happens before is left out of the answer: the cell fills up meanwhile
    #[arg(long, value_name = "HOURS", default_value_t = 0)]
    from: u64,
    /// Minutes between two looks at how full the cell is
    #[arg(long, value_name = "MINUTES", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    every: u64,
    /// Seconds from placed to up [default: 25, 0 for a trace, whose run times have it in them]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3_600))]
    startup: Option<u64>,
    /// Seconds that tasks of batch jobs run at least, and at most 64 times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    shortest: u64,
    /// How much of the cell's batch work there is, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    batch: u64,
    /// Look at what tasks use (made up), reserve and lend by these numbers: off, baseline, medium, aggressive or daily
    #[arg(long, value_name = "NUMBERS", conflicts_with = "scenario")]
    reclaim: Option<NumberSet>,
    /// A plan that is ready: four-weeks has a week each of baseline, aggressive, medium and baseline
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// How often each machine is lost in 30 days
    #[arg(long, value_name = "TIMES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=30))]
    losses: u64,
    /// Write the cell as it is in the end there, as a checkpoint of which everything else can be asked
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Of run times and lost machines
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// The experiment of the Borg paper (section 5.5, figure 12)
    FourWeeks,
}

impl Scenario {
    fn hours(self) -> u64 {
        match self {
            Self::FourWeeks => 4 * 7 * 24,
        }
    }
}

pub(super) async fn run(args: ReplayArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let hours = |hours: u64| Millis::from_secs(hours.saturating_mul(3_600));
    let save = args.save.as_deref().map(|file| ("--save", file));
    args.show.apart(&[args.source.read_from(), save])?;
    let loaded = args.source.load(target).await?;
    let trace = loaded.as_trace();
    let startup = args.startup.unwrap_or(if trace.is_some() { 0 } else { STARTUP_SECS });
    let startup = Millis::from_secs(startup);
    let every = Millis::from_secs(args.every * 60);
    let plan = match args.scenario {
        Some(Scenario::FourWeeks) => Some(Reclaim::FOUR_WEEKS),
        None => args.reclaim.map(Reclaim::always),
    };
    let lasts = args.hours.or(args.scenario.map(Scenario::hours)).map(hours);
    let lasts = lasts.or(trace.map(|trace| trace.ends)).unwrap_or(hours(HOURS));
    let options = Options {
        load: Steady {
            lasts,
            startup,
            shortest: Millis::from_secs(args.shortest),
            batch_percent: args.batch,
            losses_a_month: args.losses,
            seed: args.seed,
        },
        from: hours(args.from),
        settings: Settings {
            reclaim: plan.map(|plan| Reclaim { load: Load::Mixed, plan }),
            ..Settings::new(startup, every)
        },
    };
    let replay = move |go_on: &GoOn| {
        replay::replay(&loaded, &options, |far| {
            step(far);
            go_on.ask()
        })
    };
    let found = made(stoppable(replay).await?)?;
    // A page that cannot be written costs neither the answer nor the cell.
    let shown = args.show.show(&found.answer, out);
    if let Some(file) = args.save {
        backup::write(&file, found.state)?;
    }
    shown?;
    match found.stopped {
        None => Ok(()),
        Some(_) => Err(stopped()),
    }
}
