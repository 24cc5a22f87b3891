//! `fauxmaster check`: what a change would do to those who run.

use super::super::policy::{Choice, chosen};
use super::super::quota::Asked;
use super::super::{drain, jobs};
use super::source::{ShowArgs, SourceArgs, made, once, within};
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::check::{Change, check};
use borg_proto::command::{Action, Principal};
use borg_proto::identity::ADMIN;
use borg_proto::{Band, MachineName, Millis, UserName};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(in crate::commands) struct CheckArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How long to look at what follows, in cell time
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = within)]
    within: Millis,
    #[command(flatten)]
    show: ShowArgs,
    #[command(subcommand)]
    change: ChangeCommand,
}

#[derive(Debug, Subcommand)]
enum ChangeCommand {
    /// Submit the jobs of a file
    Submit {
        /// The file: .bcl, JSON, or - for standard input
        file: PathBuf,
        /// A value for arg("NAME") in the file
        #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = jobs::pair)]
        args: Vec<(String, String)>,
        /// Who submits them [default: the owner of the credentials, or nobody]
        #[arg(long)]
        user: Option<UserName>,
    },
    /// Give a user quota in a band
    Quota {
        /// Whose
        user: UserName,
        /// batch, mid, production or monitoring
        band: Band,
        /// How much, as in cpu=8,ram=32GiB
        amount: Asked,
    },
    /// Choose a scheduling policy, single weights, or both
    Policy {
        /// hybrid, best-fit or worst-fit, then weights in place of the policy's: best-fit fit=120
        #[arg(required = true, value_name = "POLICY|WEIGHT=NUMBER", allow_negative_numbers = true)]
        choices: Vec<Choice>,
    },
    /// Drain machines, all at once
    Drain {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
        /// How long each may take; then what is left is pushed out whatever disruption budgets say
        #[arg(long = "drain-within", value_name = "TIME", default_value = "10m", value_parser = drain::deadline)]
        drain_within: Millis,
        /// Drain so much that only so many machines are left that take tasks
        #[arg(long, value_name = "N")]
        force_with: Option<u32>,
    },
    /// Remove machines, without draining them
    Remove {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
    },
}

impl ChangeCommand {
    async fn change(self, target: &TargetArgs) -> Result<Change, Failure> {
        let names = |machines: &[MachineName]| {
            machines.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let (name, actions) = match self {
            Self::Submit { file, args, user } => return submit(file, args, user, target).await,
            Self::Quota { user, band, amount } => {
                let name = format!("quota {user} {band}");
                let amount = amount.amount().map_err(usage)?;
                let (from, until, oversell) = (None, None, true);
                (name, vec![Action::SetQuota { user, band, amount, from, until, oversell }])
            }
            Self::Policy { choices } => {
                let (policy, weights) = chosen(&choices).map_err(usage)?;
                ("policy".to_owned(), vec![Action::SetPolicy { policy, weights }])
            }
            Self::Drain { machines, drain_within: within, force_with: leaves } => {
                once(&machines)?;
                let name = format!("drain {}", names(&machines));
                let reason = "check".to_owned();
                let action =
                    Action::DrainMachines { machines, reason, within, at_once: None, leaves };
                (name, vec![action])
            }
            Self::Remove { machines } => {
                once(&machines)?;
                let name = format!("remove {}", names(&machines));
                let remove = |machine| Action::RemoveMachine { machine };
                (name, machines.into_iter().map(remove).collect())
            }
        };
        let admin = Principal::User(ADMIN.parse().expect("admin is a name"));
        let entries = actions.into_iter().map(|action| (admin.clone(), action)).collect();
        Ok(Change { name, entries })
    }
}

async fn submit(
    file: PathBuf,
    args: Vec<(String, String)>,
    user: Option<UserName>,
    target: &TargetArgs,
) -> Result<Change, Failure> {
    let user = user.unwrap_or_else(|| target.user());
    let evaluated = jobs::evaluate(&file, args, user.clone()).await?;
    let names: Vec<String> = evaluated.jobs.iter().map(|job| job.name.to_string()).collect();
    let submit = |spec| (Principal::User(user.clone()), Action::SubmitJob { spec: Arc::new(spec) });
    Ok(Change {
        name: format!("submit {}", names.join(" ")),
        entries: evaluated.jobs.into_iter().map(submit).collect(),
    })
}

fn usage(why: String) -> Failure {
    Failure::new(Code::Usage, why)
}

pub(super) async fn run(args: CheckArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    args.show.apart(&[args.source.read_from()])?;
    let change = args.change.change(target).await?;
    let loaded = args.source.load(target).await?;
    args.show.show(&made(check(&loaded, &change, args.within, 2))?, out)
}
