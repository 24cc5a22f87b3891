//! `stop` and `start`: tasks leave their machines and come back; the job keeps its name and its quota.

use super::inspect::get_job;
use super::names;
use super::rollout::all_serve;
use super::select::SelectArgs;
use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::Output;
use borg_proto::wire::{pb, write_indexes};
use borg_proto::{IndexSet, JobKey};
use clap::Args;
use std::time::Duration;

/// How often tasks that are to start are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    /// JOB, USER/JOB or USER/JOB/INDEX
    job: String,
    #[command(flatten)]
    which: SelectArgs,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    #[command(flatten)]
    what: TasksArgs,
    /// Stay until all of them are off their machines, the grace that they have to end included
    #[arg(short, long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    what: TasksArgs,
    /// Stay until they serve
    #[arg(short, long)]
    watch: bool,
}

impl TasksArgs {
    async fn chosen(self, client: &mut Client) -> Result<(JobKey, Option<IndexSet>), Failure> {
        let (key, index) = names::job_or_task(&self.job, client.user())?;
        if let Some(index) = index {
            self.which.must_be_empty(&self.job)?;
            return Ok((key, IndexSet::new([index]).ok()));
        }
        let chosen = self.which.chosen(client, &key).await;
        let tasks = chosen.map_err(|failure| names::meant_a_task(failure, &key, client.user()))?;
        Ok((key, tasks))
    }
}

pub(super) async fn stop(client: &mut Client, args: StopArgs, out: Output) -> Result<(), Failure> {
    let (key, tasks) = args.what.chosen(client).await?;
    let grace = if args.watch { grace_of(client, &key, tasks.as_ref()).await? } else { None };
    let message = pb::StopTasksRequest {
        job: key.to_string(),
        tasks: write_indexes(tasks.as_ref()),
        request_id: client.request_id(),
    };
    let what = format!("stop {key}");
    let answer = client
        .call(&what, Kind::Change, message, async |mut master, request| {
            master.stop_tasks(request).await
        })
        .await
        .map_err(|failure| names::meant_a_task(failure, &key, client.user()))?;
    tokio::time::sleep(grace.unwrap_or_default()).await;
    if out.is_json() {
        let told =
            serde_json::json!({ "job": key, "stopped": answer.tasks, "index": answer.index });
        return out.json(&told, false);
    }
    out.line(&format!("{key}: {} stopped; borgctl start {key}", counted(answer.tasks)))
}

/// How long those of a job's tasks that are placed may take to end; nothing when none is.
async fn grace_of(
    client: &mut Client,
    key: &JobKey,
    tasks: Option<&IndexSet>,
) -> Result<Option<Duration>, Failure> {
    let answer = get_job(client, &format!("stop {key}"), key).await?;
    let is_meant = |index: u32| tasks.is_none_or(|tasks| tasks.contains(index));
    let placed = answer.tasks.iter().any(|task| is_meant(task.index) && !task.machine.is_empty());
    let grace_ms = answer.spec.and_then(|spec| spec.task).map_or(0, |task| task.grace_ms);
    Ok(placed.then(|| Duration::from_millis(grace_ms)))
}

pub(super) async fn start(
    client: &mut Client,
    args: StartArgs,
    out: Output,
) -> Result<(), Failure> {
    let (key, tasks) = args.what.chosen(client).await?;
    let message = pb::StartTasksRequest {
        job: key.to_string(),
        tasks: write_indexes(tasks.as_ref()),
        request_id: client.request_id(),
    };
    let what = format!("start {key}");
    let answer = client
        .call(&what, Kind::Change, message, async |mut master, request| {
            master.start_tasks(request).await
        })
        .await
        .map_err(|failure| names::meant_a_task(failure, &key, client.user()))?;
    while args.watch && !all_serve(client, &key, answer.index).await? {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if out.is_json() {
        let told =
            serde_json::json!({ "job": key, "started": answer.tasks, "index": answer.index });
        return out.json(&told, false);
    }
    out.line(&format!("{key}: {} started", counted(answer.tasks)))
}

fn counted(tasks: u32) -> String {
    if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") }
}
