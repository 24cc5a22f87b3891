//! Waiting for jobs, through the API.

use super::ByTask;
use super::narrator::Narrator;
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::local::Process;
use borg_proto::wire::pb;
use std::time::Duration;
use tokio::time::Instant;

/// How long any one wait may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Running tasks by name: the process id that the cell reports, and the process that now has it.
pub(super) type Running = ByTask<(u32, Option<Process>)>;

async fn get(
    client: &mut Client,
    job: &str,
) -> Result<(pb::JobSummary, Vec<pb::TaskInfo>), Failure> {
    let request = pb::GetJobRequest { job: job.to_owned() };
    let answer = client.call(job, Kind::Read, request, async |mut c, r| c.get_job(r).await).await?;
    let summary =
        answer.job.ok_or_else(|| Failure::new(Code::Internal, "a job without a summary"))?;
    Ok((summary, answer.tasks))
}

/// Looks at the job until `done` says so.
async fn until(
    say: &Narrator,
    client: &mut Client,
    job: &str,
    done: impl Fn(&pb::JobSummary) -> bool,
) -> Result<pb::JobSummary, Failure> {
    let began = Instant::now();
    loop {
        let (summary, tasks) = get(client, job).await?;
        if done(&summary) {
            return Ok(summary);
        }
        let failed =
            [pb::JobState::Failed, pb::JobState::Killed].map(i32::from).contains(&summary.state);
        if failed || began.elapsed() > PATIENCE {
            let what = if failed { "failed" } else { "is not ready after 60 s" };
            let notes: Vec<_> =
                tasks.iter().filter(|t| !t.note.is_empty()).map(|t| t.note.as_str()).collect();
            let text = format!("{job} {what}: {} {}", summary.note, notes.join("; "));
            return Err(Failure::new(Code::JobFailed, text));
        }
        let (pending, up, over) = (summary.pending, summary.up, summary.finished);
        say.progress(&format!("{job}: {pending} pending, {up} up, {over} finished"));
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until every task of the job has a process (or has finished already).
pub(super) async fn wait_for_up(
    say: &Narrator,
    client: &mut Client,
    job: &str,
) -> Result<(), Failure> {
    let began = Instant::now();
    let all = until(say, client, job, |job| job.up + job.finished == job.tasks).await?;
    let took = began.elapsed().as_millis();
    say.line(&format!("{job}: {} of {} tasks are up after {took} ms", all.up, all.tasks));
    Ok(())
}

/// Waits until the job has finished.
pub(super) async fn wait_for_job(
    say: &Narrator,
    client: &mut Client,
    job: &str,
) -> Result<(), Failure> {
    let finished = i32::from(pb::JobState::Finished);
    let summary = until(say, client, job, |job| job.state == finished).await?;
    say.line(&format!("{job}: all {} tasks finished", summary.tasks));
    Ok(())
}

/// The tasks of some jobs that have a process now.
pub(super) async fn running_tasks(client: &mut Client, jobs: &[&str]) -> Result<Running, Failure> {
    let mut running = Running::new();
    for job in jobs {
        let up = i32::from(pb::TaskPhase::Running);
        let (_, tasks) = get(client, job).await?;
        for task in tasks.into_iter().filter(|task| task.phase == up) {
            running.insert(format!("{job}/{}", task.index), (task.pid, Process::find(task.pid)));
        }
    }
    Ok(running)
}

/// All that a task has written to its standard output.
pub(super) async fn log_of(client: &mut Client, task: &str) -> Result<String, Failure> {
    let request = pb::ReadLogsRequest {
        task: task.to_owned(),
        stream: pb::LogStream::Stdout.into(),
        ..pb::ReadLogsRequest::default()
    };
    let mut chunks = client.open("logs", request, async |mut c, r| c.read_logs(r).await).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        bytes.extend(chunk.data);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
