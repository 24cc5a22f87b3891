//! `fauxmaster fail`: what the loss of machines does.

use super::source::{ShowArgs, SourceArgs, made, threads, within};
use crate::exit::Failure;
use crate::output::{Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::questions::fail::{self, Loss, Options};
use borg_proto::{MachineName, Millis};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(in crate::commands) struct FailArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How long to look at what follows, in cell time
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = within)]
    within: Millis,
    /// Seconds from placed to up
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    startup: u64,
    /// Threads; the answer is the same for any number [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    #[command(flatten)]
    show: ShowArgs,
    #[command(subcommand)]
    loss: LossCommand,
}

#[derive(Debug, Subcommand)]
enum LossCommand {
    /// These machines, all at once
    Machine {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
    },
    /// A rack; without a name each of them, one after the other, the worst told of first
    Rack {
        /// Which
        name: Option<String>,
    },
    /// A power domain; without a name each of them
    Power {
        /// Which
        name: Option<String>,
    },
    /// All machines with a value of an attribute; without a value, for each of them
    Attribute {
        /// The attribute, as in row
        attribute: String,
        /// The value
        value: Option<String>,
    },
    /// So many machines by chance
    Random {
        /// How many
        machines: usize,
        /// How often, each time others
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
    },
}

impl LossCommand {
    fn loss(self) -> Loss {
        let domain = |attribute: &str, value: Option<String>| {
            let attribute = attribute.to_owned();
            match value {
                Some(value) => Loss::Domain { attribute, value },
                None => Loss::EachDomain { attribute },
            }
        };
        match self {
            Self::Machine { machines } => Loss::Machines(machines),
            Self::Rack { name } => domain("rack", name),
            Self::Power { name } => domain("power", name),
            Self::Attribute { attribute, value } => domain(&attribute, value),
            Self::Random { machines, seeds, first_seed } => {
                Loss::Random { machines, first_seed, seeds }
            }
        }
    }
}

pub(super) async fn run(args: FailArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let options = Options {
        loss: args.loss.loss(),
        startup: Millis::from_secs(args.startup),
        within: args.within,
        threads: threads(args.threads),
    };
    args.show.apart(&[args.source.read_from()])?;
    let loaded = args.source.load(target).await?;
    args.show.show(&made(fail::fail(&loaded, &options, step))?, out)
}
