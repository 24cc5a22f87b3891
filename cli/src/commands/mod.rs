//! The commands: what each takes, and which code carries it out.

mod array;
mod backup;
#[cfg(feature = "daemons")]
mod cell;
mod cert;
mod cp;
mod cron;
mod drain;
mod events;
pub mod example;
mod examples;
mod exec;
mod exporter;
#[cfg(feature = "daemons")]
mod fauxmaster;
pub mod history;
mod inspect;
mod install;
mod jobs;
mod logs;
mod machines;
mod masters;
mod names;
mod package;
mod plan;
mod policy;
mod port;
mod privilege;
mod quota;
mod reclaimed;
mod reclamation;
mod rescue;
mod resize;
mod resolve;
mod rollout;
mod runs;
mod select;
mod stop;
mod top;
mod update;

use crate::client::Client;
use crate::config::guard;
use crate::exit::{Code, Failure, Success};
use crate::output::{Format, Output};
use crate::target::TargetArgs;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "borgctl",
    version,
    about = "Runs jobs on a cell of machines",
    propagate_version = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 internal, 2 usage, 3 refused, 4 not found, 5 exists already, 6 not permitted, 7 unavailable, 8 the job that was waited for failed. `plan`: 0 nothing would change, 2 something would, 1 refused or failed. `exec` and `attach`: that of the command or task, 128 and the number of a signal that ended it."
)]
pub struct Cli {
    #[command(flatten)]
    target: TargetArgs,
    /// How answers look
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORM")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole cell at work on this computer, through the death of its leader
    #[cfg(feature = "daemons")]
    Demo(crate::demo::DemoArgs),
    /// Start, show or stop a cell on this computer
    #[cfg(feature = "daemons")]
    #[command(subcommand)]
    Cell(cell::CellCommand),
    /// Run the jobs of a file (.bcl or JSON, - for standard input)
    Submit(jobs::SubmitArgs),
    /// Tell what would become of the jobs of a file, and change nothing
    Plan(plan::PlanArgs),
    /// Make live jobs what a file says, their tasks one after another
    #[command(after_help = examples::UPDATE)]
    Update(update::UpdateArgs),
    /// Show how far an update is; pause, resume, undo or close it
    #[command(subcommand, after_help = examples::ROLLOUT)]
    Rollout(rollout::RolloutCommand),
    /// Make a job again what it was in a version, its tasks one after another
    #[command(after_help = examples::ROLLBACK)]
    Rollback(update::RollbackArgs),
    /// Change how many tasks a job has
    #[command(after_help = examples::SCALE)]
    Scale(update::ScaleArgs),
    /// Start the tasks of a job anew, one after another
    #[command(after_help = examples::RESTART)]
    Restart(update::RestartArgs),
    /// Take tasks off their machines until they are started; the job stays
    #[command(after_help = examples::STOP)]
    Stop(stop::StopArgs),
    /// Let tasks that were stopped run again
    #[command(after_help = examples::START)]
    Start(stop::StartArgs),
    /// List jobs, or one job's tasks
    Status(inspect::StatusArgs),
    /// Print the output of a task, or of all tasks of a job
    Logs(logs::LogsArgs),
    /// Run a command in a task's container
    Exec(exec::ExecArgs),
    /// Follow a running task's output and pass signals on to it
    Attach(exec::AttachArgs),
    /// Copy files into a task's container or out of it
    Cp(cp::CpArgs),
    /// Make a task's port a port of this computer
    Port(port::PortArgs),
    /// Show what tasks use and say of themselves, as it changes
    #[command(after_help = examples::TOP)]
    Top(top::TopArgs),
    /// End a job, or one of its tasks
    Kill(jobs::KillArgs),
    /// Print which tasks of a job failed, finished, run or wait
    #[command(after_help = examples::TASK_IDS)]
    TaskIds(array::TaskIdsArgs),
    /// Run dead tasks of a batch job again, and no others
    #[command(after_help = examples::RERUN)]
    Rerun(array::RerunArgs),
    /// Pause and resume cron jobs, make runs of them, show what became of their ticks
    #[command(subcommand, after_help = examples::CRON)]
    Cron(cron::CronCommand),
    /// Change how large the allocs of an alloc set are, or how many there are
    #[command(after_help = examples::RESIZE)]
    Resize(resize::ResizeArgs),
    /// Show what allocs left behind on machines; have it rescued now, or give it up
    Rescue(rescue::RescueArgs),
    /// Tell why a task is pending, or where it runs
    #[command(after_help = examples::WHY)]
    Why(inspect::WhyArgs),
    /// List the cell's machines, or give silent ones up
    Machines(machines::MachinesArgs),
    /// Add or remove machines
    #[command(subcommand)]
    Machine(machines::MachineCommand),
    /// Empty machines for maintenance, as disruption budgets allow. Needs admin
    #[command(after_help = examples::DRAIN)]
    Drain(drain::DrainArgs),
    /// Drain machines no more: tasks are placed on them again. Needs admin
    #[command(after_help = examples::UNDRAIN)]
    Undrain(drain::UndrainArgs),
    /// List machines that are drained, and what is left on them and why
    #[command(after_help = examples::DRAINS)]
    Drains(drain::DrainsArgs),
    /// List the cell's masters; add, replace or remove some
    Masters(masters::MastersArgs),
    /// Show what users may ask for and what they use; give quota, say where it is enforced
    Quota(quota::QuotaArgs),
    /// List what some users may and others may not, and what uses it; grant it, take it back
    #[command(subcommand)]
    Privilege(privilege::PrivilegeCommand),
    /// Show how the scheduler chooses among machines, or change it
    Policy(policy::PolicyArgs),
    /// Show how much is lent of the room that tasks hold and do not use, or change it
    #[command(after_help = examples::RECLAMATION)]
    Reclamation(reclamation::ReclamationArgs),
    /// Put, list, show and remove packages: directories, programs and images for tasks
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Find host and port of tasks by name
    #[command(after_help = examples::RESOLVE)]
    Resolve(resolve::ResolveArgs),
    /// List the versions of a job; without one, the checkpoints that a master keeps, for --at
    #[command(after_help = examples::HISTORY)]
    History {
        /// JOB or USER/JOB
        job: Option<String>,
    },
    /// Print what happens in the cell, as it happens
    Watch(events::WatchArgs),
    /// Save the cell's state, look at a backup, begin again from one
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Issue certificates with the cell's CA
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Print the specification that a file amounts to, as JSON
    Eval(jobs::EvalArgs),
    /// Print a shell's completion script
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Ask what would fit into a cell, of the code that runs it
    #[cfg(feature = "daemons")]
    #[command(subcommand)]
    Fauxmaster(fauxmaster::FauxmasterCommand),
    /// Programs for examples
    #[command(subcommand, hide = true)]
    Example(example::ExampleCommand),
    /// Evaluates configuration within hard limits
    #[command(name = guard::COMMAND, hide = true)]
    Evaluate,
}

impl Command {
    /// Whether `--at` means anything to it.
    fn knows_the_past(&self) -> bool {
        match self {
            Self::Status(_)
            | Self::Machines(_)
            | Self::Drains(_)
            | Self::Resolve(_)
            | Self::TaskIds(_) => true,
            Self::Cron(command) => command.only_shows(),
            Self::Rescue(args) => args.only_shows(),
            Self::Quota(args) => args.only_shows(),
            Self::Policy(args) => args.only_shows(),
            Self::Reclamation(args) => args.only_shows(),
            Self::Privilege(command) => command.only_shows(),
            #[cfg(feature = "daemons")]
            Self::Demo(_) | Self::Cell(_) | Self::Fauxmaster(_) => false,
            Self::Submit(_)
            | Self::Plan(_)
            | Self::Logs(_)
            | Self::Exec(_)
            | Self::Attach(_)
            | Self::Cp(_)
            | Self::Port(_)
            | Self::Top(_)
            | Self::Kill(_)
            | Self::Rerun(_)
            | Self::Resize(_)
            | Self::Why(_)
            | Self::Machine(_)
            | Self::Drain(_)
            | Self::Undrain(_)
            | Self::Masters(_)
            | Self::Package(_)
            | Self::History { .. }
            | Self::Update(_)
            | Self::Rollout(_)
            | Self::Rollback(_)
            | Self::Scale(_)
            | Self::Restart(_)
            | Self::Stop(_)
            | Self::Start(_)
            | Self::Watch(_)
            | Self::Backup(_)
            | Self::Cert(_)
            | Self::Eval(_)
            | Self::Completions { .. }
            | Self::Example(_)
            | Self::Evaluate => false,
        }
    }
}

impl Command {
    /// Whether it can answer in CSV.
    fn knows_csv(&self) -> bool {
        match self {
            #[cfg(feature = "daemons")]
            Self::Fauxmaster(_) => true,
            _ => false,
        }
    }

    /// The exit code when it is used wrongly: with 2, `plan` says that there are changes.
    fn code_of_misuse(&self) -> Code {
        if matches!(self, Self::Plan(_)) { Code::Internal } else { Code::Usage }
    }
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// With the exit code and what to tell.
    pub async fn run(self) -> Result<Success, Failure> {
        let Self { target, output, command } = self;
        let out = Output::new(output);
        if output == Format::Csv && !command.knows_csv() {
            return Err(Failure::new(
                command.code_of_misuse(),
                "--output csv: only fauxmaster answers in CSV, all else in table or json",
            ));
        }
        if target.at.is_some() && !command.knows_the_past() {
            return Err(Failure::new(
                command.code_of_misuse(),
                "--at shows the past, which only status, machines, drains, quota, privilege list, policy, reclamation, resolve, rescue, task-ids and cron history know",
            ));
        }
        if target.consistent && !(command.knows_the_past() || matches!(command, Command::Why(_))) {
            return Err(Failure::new(
                command.code_of_misuse(),
                "--consistent is for commands that read the state: status, machines, drains, quota, privilege list, policy, reclamation, why, resolve, rescue, task-ids and cron history",
            ));
        }
        let client = || Client::new(&target.resolve()?);
        let done = match command {
            Command::Plan(args) => return plan::run(&target, args, out).await,
            Command::Update(args) => update::update(&target, args, out).await,
            Command::Rollback(args) => update::rollback(&mut client()?, args, out).await,
            Command::Scale(args) => update::scale(&mut client()?, args, out).await,
            Command::Restart(args) => update::restart(&mut client()?, args, out).await,
            Command::Rollout(command) => rollout::run(&mut client()?, command, out).await,
            Command::Stop(args) => stop::stop(&mut client()?, args, out).await,
            Command::Start(args) => stop::start(&mut client()?, args, out).await,
            Command::Exec(args) => return exec::exec(&mut client()?, args).await,
            Command::Attach(args) => return exec::attach(&mut client()?, args).await,
            Command::Cp(args) => cp::cp(&mut client()?, args).await,
            Command::Port(args) => port::port(&mut client()?, args, out).await,
            Command::Top(args) => top::top(&mut client()?, args, out).await,
            #[cfg(feature = "daemons")]
            Command::Demo(args) => crate::demo::run(args).await,
            #[cfg(feature = "daemons")]
            Command::Cell(command) => cell::run(command, target, out).await,
            #[cfg(feature = "daemons")]
            Command::Fauxmaster(command) => fauxmaster::run(command, &target, out).await,
            Command::Submit(args) => jobs::submit(&target, args, out).await,
            Command::Status(args) => inspect::status(&mut client()?, args, out).await,
            Command::Logs(args) => logs::logs(&mut client()?, args, out).await,
            Command::Kill(args) => jobs::kill(&mut client()?, args, out).await,
            Command::TaskIds(args) => array::task_ids(&mut client()?, args, out).await,
            Command::Rerun(args) => array::rerun(&mut client()?, args, out).await,
            Command::Cron(command) => cron::run(&mut client()?, command, out).await,
            Command::Rescue(args) => rescue::run(&mut client()?, args, out).await,
            Command::Why(args) => inspect::why(&mut client()?, args, out).await,
            Command::Machines(args) => machines::machines(&mut client()?, args, out).await,
            Command::Machine(command) => machines::change(&mut client()?, command, out).await,
            Command::Drain(args) => drain::drain(&mut client()?, args, out).await,
            Command::Undrain(args) => drain::undrain(&mut client()?, args, out).await,
            Command::Drains(args) => drain::drains(&mut client()?, args, out).await,
            Command::Masters(args) => masters::run(&mut client()?, args, out).await,
            Command::Resize(args) => resize::run(&mut client()?, args, out).await,
            Command::Package(command) => package::run(&mut client()?, command, out).await,
            Command::Privilege(command) => privilege::run(&mut client()?, command, out).await,
            Command::Reclamation(args) => reclamation::run(&mut client()?, args, out).await,
            Command::Policy(args) => policy::run(&mut client()?, args, out).await,
            Command::Quota(args) => quota::run(&mut client()?, args, out).await,
            Command::History { job: None } => history::history(&mut client()?, out).await,
            Command::History { job: Some(job) } => {
                rollout::history(&mut client()?, &job, out).await
            }
            Command::Resolve(args) => resolve::resolve(&mut client()?, args, out).await,
            Command::Watch(args) => events::watch(&mut client()?, args, out).await,
            Command::Backup(command) => backup::run(client, command, out).await,
            Command::Cert(command) => cert::run(command, out),
            Command::Eval(args) => jobs::eval(&target, args, out).await,
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "borgctl", &mut script);
                out.bytes(&script)
            }
            Command::Example(command) => Ok(example::run(command)?),
            Command::Evaluate => Ok(guard::child()?),
        };
        done.map(|()| Success::Done)
    }

    /// Whether a command line, right or wrong, is one of `plan`.
    pub fn is_plan(args: impl Iterator<Item = OsString>) -> bool {
        let matches = Self::command().ignore_errors(true).try_get_matches_from(args);
        matches.is_ok_and(|matches| matches.subcommand_name() == Some("plan"))
    }
}

/// A path that must exist, as a failure of the right kind.
fn must_exist(path: &Path) -> Result<(), Failure> {
    if path.as_os_str() == "-" || path.exists() {
        return Ok(());
    }
    Err(Failure::new(Code::NotFound, format!("{}: there is no such file", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    #[cfg(feature = "daemons")]
    fn the_number_of_masters_is_not_taken_for_their_addresses() {
        let cli = Cli::try_parse_from(["borgctl", "cell", "up", "--masters", "3"]);
        assert!(cli.is_ok(), "{cli:?}");
    }
}
