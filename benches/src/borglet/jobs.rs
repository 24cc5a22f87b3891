//! Jobs of these measurements: submitted, waited for, and taken away again.

use crate::local_cell::LocalCell;
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::time::Duration;
use tonic::Code;

/// How long a job may take to whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Priority of batch jobs, and of those of production.
const BATCH: u32 = 100;
const PRODUCTION: u32 = 210;
/// As often as a task of a batch job may fail: more than it can in the time that is measured.
const RETRIES: u32 = 1_000;

/// A batch job of tasks that run `command` within these limits.
#[must_use]
pub fn batch(
    name: &str,
    tasks: u32,
    command: Vec<String>,
    cpu_milli: u64,
    ram_bytes: u64,
) -> pb::JobSpec {
    let limit = pb::Resources { cpu_milli, ram_bytes, ..pb::Resources::default() };
    let task =
        pb::TaskSpec { command, limit: Some(limit), grace_ms: 100, ..pb::TaskSpec::default() };
    pb::JobSpec {
        name: name.to_owned(),
        kind: pb::JobKind::Batch.into(),
        tasks,
        priority: BATCH,
        retries: RETRIES,
        task: Some(task),
        ..pb::JobSpec::default()
    }
}

/// A service of production that people wait for, of one task.
#[must_use]
pub fn service(name: &str, command: Vec<String>, cpu_milli: u64, ram_bytes: u64) -> pb::JobSpec {
    pb::JobSpec {
        kind: pb::JobKind::Service.into(),
        priority: PRODUCTION,
        appclass: pb::AppClass::LatencySensitive.into(),
        retries: 0,
        ..batch(name, 1, command, cpu_milli, ram_bytes)
    }
}

/// Submits a job of the cell's user. A master that has just started may not answer yet: it is asked again.
///
/// # Errors
/// When it is refused, or nobody answers for too long.
pub async fn submit(cell: &LocalCell, spec: pb::JobSpec) -> Result<(), Error> {
    let (request_id, began) = (spec.name.clone(), clock::now());
    let request = pb::SubmitJobRequest { spec: Some(spec), request_id, planned: None };
    loop {
        match cell.client(0).submit_job(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                tokio::time::sleep(LOOK).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Waits until a job is as wanted, looking every 50 ms, and gives what it looked like.
///
/// # Errors
/// When that takes too long, or a call fails.
pub async fn wait_until(
    cell: &LocalCell,
    name: &str,
    mut wanted: impl FnMut(&pb::JobSummary) -> bool,
) -> Result<pb::JobSummary, Error> {
    let (key, began) = (format!("{}/{name}", cell.user()), clock::now());
    loop {
        let request = pb::ListJobsRequest { user: cell.user().to_owned(), all: true };
        let jobs = cell.client(0).list_jobs(request).await?.into_inner().jobs;
        let job = jobs.into_iter().find(|job| job.job == key);
        match job {
            Some(job) if wanted(&job) => return Ok(job),
            seen if began.elapsed() > PATIENCE => {
                return Err(format!("{key} is not as wanted after {PATIENCE:?}: {seen:?}").into());
            }
            _not_yet => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Kills jobs and waits until no machine has a task.
///
/// # Errors
/// When that takes too long, or a call fails.
pub async fn clear(cell: &LocalCell, names: &[&str]) -> Result<(), Error> {
    let began = clock::now();
    for name in names {
        let job = format!("{}/{name}", cell.user());
        let request_id = format!("kill-{name}");
        let request = pb::KillRequest { job, tasks: Vec::new(), request_id };
        cell.client(0).kill(request).await?;
    }
    while began.elapsed() < PATIENCE {
        let machines = cell.client(0).list_machines(pb::ListMachinesRequest {}).await?.into_inner();
        if machines.machines.iter().all(|machine| machine.tasks == 0) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!("tasks of {names:?} are not gone after {PATIENCE:?}").into())
}

/// All that the first task of a job wrote to its standard output.
///
/// # Errors
/// When it cannot be read.
pub async fn output(cell: &LocalCell, name: &str) -> Result<String, Error> {
    let request = pb::ReadLogsRequest {
        task: format!("{}/{name}/0", cell.user()),
        stream: pb::LogStream::Stdout.into(),
        ..pb::ReadLogsRequest::default()
    };
    let mut chunks = cell.client(0).read_logs(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        text.extend(chunk.data);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
