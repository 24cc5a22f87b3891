//! `top`: what tasks use, as it changes.

use super::inspect::get_job;
use super::select::SelectArgs;
use super::{names, reclaimed};
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::views::{Amounts, phase};
use crate::output::{Output, age, cores, size};
use borg_proto::wire::pb;
use borg_proto::{IndexSet, JobKey, UserName};
use clap::Args;
use serde::Serialize;
use std::cmp::Reverse;
use std::time::Duration;

/// How often a terminal is drawn anew: as often as masters are told of usage, and a bit more.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most jobs looked at in one round.
const JOBS: usize = 100;
/// Most tasks on a terminal.
const ROWS: usize = 50;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// JOB, USER/JOB or USER/JOB/INDEX; all of one's own when left out
    name: Option<String>,
    /// Of this user's jobs
    #[arg(short, long, conflicts_with = "name")]
    user: Option<UserName>,
    /// Per machine what its tasks may use, need and use, and what of that is reclaimed room
    #[arg(long, conflicts_with_all = ["name", "user", "tasks", "labels"])]
    reclaimed: bool,
    #[command(flatten)]
    which: SelectArgs,
    /// Again and again, also where that is no terminal
    #[arg(short, long)]
    watch: bool,
}

/// What a task uses, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    task: String,
    phase: &'static str,
    machine: String,
    cpu_milli: u64,
    cpu_limit_milli: u64,
    ram_bytes: u64,
    ram_limit_bytes: u64,
    /// What is reserved, when anything is known of it.
    reserved: Option<Amounts>,
    since_ms: u64,
    restarts: u32,
    status_line: String,
}

/// Prints a table once, or again and again to a terminal until interrupted.
pub(super) async fn top(client: &mut Client, args: TopArgs, out: Output) -> Result<(), Failure> {
    if args.reclaimed {
        return top_reclaimed(client, args.watch, out).await;
    }
    let name = args.name.map(|name| names::job_or_task(&name, client.user())).transpose()?;
    let only = meant(client, name.as_ref(), &args.which).await?;
    let user = args.user.unwrap_or_else(|| client.user().clone());
    loop {
        let (jobs, left_out) = match &name {
            Some((job, _)) => (vec![job.clone()], 0),
            None => live_jobs(client, &user).await?,
        };
        let (mut rows, mut now) = (Vec::new(), 0);
        for job in jobs {
            let answer = match (get_job(client, "top", &job).await, &name) {
                // It was over before it could be looked at.
                (Err(failure), None) if failure.code == Code::NotFound => continue,
                (answer, _) => answer?,
            };
            now = answer.now_ms;
            rows.extend(rows_of(&job, answer, only.as_ref()));
        }
        if let (Some((job, Some(index))), true) = (&name, rows.is_empty()) {
            return Err(Failure::new(Code::NotFound, format!("top: {job}/{index} does not run")));
        }
        rows.sort_by_key(|row| (Reverse(row.cpu_milli), Reverse(row.ram_bytes), row.task.clone()));
        show(&rows, now, left_out, args.watch, out)?;
        if !out.is_terminal() && !args.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Which tasks of the job that is named; `None`: all.
async fn meant(
    client: &mut Client,
    name: Option<&(JobKey, Option<u32>)>,
    which: &SelectArgs,
) -> Result<Option<IndexSet>, Failure> {
    match name {
        Some((job, Some(index))) => {
            which.must_be_empty(&format!("{job}/{index}"))?;
            Ok(IndexSet::new([*index]).ok())
        }
        Some((job, None)) => which.chosen(client, job).await,
        None if which.is_empty() => Ok(None),
        None => {
            let text = "--tasks and --label say which tasks of a job: name the job";
            Err(Failure::new(Code::Usage, text))
        }
    }
}

async fn top_reclaimed(client: &mut Client, watch: bool, out: Output) -> Result<(), Failure> {
    loop {
        let answer = reclaimed::look(client).await?;
        reclaimed::show(answer, watch, out)?;
        if !out.is_terminal() && !watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn live_jobs(client: &mut Client, user: &UserName) -> Result<(Vec<JobKey>, usize), Failure> {
    let message = pb::ListJobsRequest { user: user.to_string(), all: false };
    let answer = client
        .call("top", Kind::Read, message, async |mut master, request| {
            master.list_jobs(request).await
        })
        .await?;
    let running = answer.jobs.into_iter().filter(|job| job.running > 0);
    let mut jobs: Vec<JobKey> = running.filter_map(|job| job.job.parse().ok()).collect();
    let left_out = jobs.len().saturating_sub(JOBS);
    jobs.truncate(JOBS);
    Ok((jobs, left_out))
}

fn rows_of(job: &JobKey, answer: pb::GetJobResponse, only: Option<&IndexSet>) -> Vec<Row> {
    let limit = answer.spec.and_then(|spec| spec.task).and_then(|task| task.limit);
    let limit = limit.unwrap_or_default();
    let runs = |task: &pb::TaskInfo| {
        use pb::TaskPhase::{BackOff, Running, Starting};
        matches!(task.phase(), Running | Starting | BackOff)
    };
    let wanted =
        |task: &pb::TaskInfo| runs(task) && only.is_none_or(|only| only.contains(task.index));
    let row = |task: pb::TaskInfo| Row {
        task: format!("{job}/{}", task.index),
        phase: phase(task.phase()),
        machine: task.machine,
        cpu_milli: task.cpu_milli,
        cpu_limit_milli: limit.cpu_milli,
        ram_bytes: task.ram_bytes,
        ram_limit_bytes: limit.ram_bytes,
        reserved: task.reserved.map(Into::into),
        since_ms: task.since_ms,
        restarts: task.restarts,
        status_line: task.status_line,
    };
    answer.tasks.into_iter().filter(wanted).map(row).collect()
}

fn show(
    rows: &[Row],
    now: u64,
    left_out: usize,
    more_follow: bool,
    out: Output,
) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&rows, more_follow);
    }
    let shown = if out.is_terminal() { rows.len().min(ROWS) } else { rows.len() };
    let table = crate::output::table(
        ["task", "phase", "machine", "cpu", "of", "ram", "of", "up", "restarts", "status"],
        rows[..shown].iter().map(|row| {
            [
                row.task.clone(),
                row.phase.into(),
                row.machine.clone(),
                cores(row.cpu_milli),
                cores(row.cpu_limit_milli),
                size(row.ram_bytes),
                size(row.ram_limit_bytes),
                age(now.saturating_sub(row.since_ms)),
                row.restarts.to_string(),
                row.status_line.clone(),
            ]
        }),
    );
    out.clear()?;
    out.line(&table)?;
    let more = rows.len() - shown;
    if more > 0 || left_out > 0 {
        out.line(&format!("and {more} tasks more, and those of {left_out} jobs"))?;
    }
    Ok(())
}
