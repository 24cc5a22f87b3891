//! `task-ids` and `rerun`: the tasks of an array that ended in some way, and running just these again.

use super::history::say_when;
use super::inspect::get_job;
use super::names;
use super::select::SelectArgs;
use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::views::Task;
use crate::output::{Output, note};
use borg_proto::indexes::in_ranges;
use borg_proto::wire::pb;
use borg_proto::{IndexSet, JobKey};
use clap::{Args, ValueEnum};

/// Tasks by how far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Filter {
    /// Those that failed for good
    Failed,
    /// Those that exited with 0
    Finished,
    /// Those that are on a machine
    Running,
    /// Those that wait to be placed
    Pending,
    /// Those that were killed
    Killed,
}

impl Filter {
    fn takes(self, phase: &str) -> bool {
        match self {
            Self::Failed => phase == "failed",
            Self::Finished => phase == "finished",
            Self::Running => matches!(phase, "starting" | "running" | "back-off" | "held"),
            Self::Pending => phase == "pending",
            Self::Killed => phase == "killed",
        }
    }

    fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// How indexes are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// As in 0-3,7
    Ranges,
    /// One on a line
    Lines,
}

#[derive(Debug, Args)]
pub(super) struct TaskIdsArgs {
    /// JOB or USER/JOB
    job: String,
    /// Only those; may be given several times [default: all]
    #[arg(long, value_enum)]
    filter: Vec<Filter>,
    #[command(flatten)]
    which: SelectArgs,
    /// How they are printed
    #[arg(long, value_enum, default_value = "ranges")]
    format: Shape,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["tasks", "labels", "filter"]).multiple(true).required(true))]
pub(super) struct RerunArgs {
    /// JOB or USER/JOB, a batch job
    job: String,
    /// Only those that ended so; may be given several times
    #[arg(long, value_enum)]
    filter: Vec<Filter>,
    #[command(flatten)]
    which: SelectArgs,
}

pub(super) async fn task_ids(
    client: &mut Client,
    args: TaskIdsArgs,
    out: Output,
) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    let found = find(client, &key, &args.filter, &args.which, out).await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "job": key, "tasks": found }), false);
    }
    match args.format {
        Shape::Ranges if found.is_empty() => Ok(()),
        Shape::Ranges => out.line(&in_ranges(&found)),
        Shape::Lines => found.iter().try_for_each(|index| out.line(&index.to_string())),
    }
}

/// The tasks of a job that are as far as one of the filters says: a list, as a set has no room for many that are
/// apart from each other.
async fn find(
    client: &mut Client,
    key: &JobKey,
    filters: &[Filter],
    which: &SelectArgs,
    out: Output,
) -> Result<Vec<u32>, Failure> {
    let chosen = which.chosen(client, key).await?;
    let answer = get_job(client, &format!("tasks of {key}"), key).await?;
    say_when(client, out, answer.read.as_ref());
    let wanted =
        |task: &Task| filters.is_empty() || filters.iter().any(|filter| filter.takes(task.phase));
    let is_chosen = |task: &Task| chosen.as_ref().is_none_or(|set| set.contains(task.index));
    let tasks = answer.tasks.into_iter().map(Task::from);
    Ok(tasks.filter(is_chosen).filter(wanted).map(|task| task.index).collect())
}

pub(super) async fn rerun(
    client: &mut Client,
    args: RerunArgs,
    out: Output,
) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    // What is named and cannot run again is for the cell to refuse.
    let tasks: Vec<u32> = if args.filter.is_empty() {
        args.which.chosen(client, &key).await?.iter().flat_map(IndexSet::iter).collect()
    } else {
        find(client, &key, &args.filter, &args.which, out).await?
    };
    if tasks.is_empty() {
        let which: Vec<String> = args.filter.iter().map(|filter| filter.word()).collect();
        note(&format!("{key} has no tasks that are {}", which.join(" or ")));
        return Ok(());
    }
    let request_id = client.request_id();
    let message = pb::RerunRequest { job: key.to_string(), tasks: tasks.clone(), request_id };
    let what = format!("rerun {key}");
    let answer =
        client.call(&what, Kind::Change, message, async |mut to, request| to.rerun(request).await);
    let pb::RerunResponse { tasks: many, index } = answer.await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "job": key, "tasks": tasks, "index": index }), false);
    }
    let word = if many == 1 { "task runs" } else { "tasks run" };
    out.line(&format!("{key}: {many} {word} again: {}", in_ranges(&tasks)))
}
