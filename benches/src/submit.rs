//! From a submitted job to its running process, in an idle cell, and where the time goes.
//!
//! The client is connected and watches events at the master that it submits to, as a program that
//! uses the cell would; masters take turns, so most submits pass through a follower.

use crate::figures::{part, percentile, progress};
use crate::local_cell::{Client, LocalCell};
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::time::{Duration, Instant};
use tonic::Streaming;

/// How many jobs are measured.
const JOBS: usize = 100;
/// Jobs before them, so that connections and caches are there.
const WARM_UP: usize = 5;
/// A job whose process does not run by then fails the measurement.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rest between two jobs. Not the same each time, so that no timer of the cell keeps in step.
const REST_MS: u64 = 100;
const REST_SPREAD_MS: u64 = 97;

/// One job's way, in milliseconds. The moments inside the cell are what its events tell: times of
/// the leader's clock, which is this computer's, in whole milliseconds.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// From the call to the event `task.up` in the client's hands.
    whole: f64,
    /// From the call to its answer.
    acknowledged: f64,
    /// From the call until the leader takes it up.
    taken_up: f64,
    /// From there until the leader takes up the placement: agreed, applied, scheduled.
    placed: f64,
    /// From there until the process runs: agreed, sent to the machine, started.
    started: f64,
    /// From there until the leader takes up the news of it.
    reported: f64,
    /// From there until the client sees the event: agreed, applied, sent.
    seen: f64,
}

/// What was measured of all jobs, in milliseconds.
#[derive(Debug)]
pub struct SubmitTimes {
    ways: Vec<Way>,
}

impl SubmitTimes {
    /// Submit to the event that its process runs.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.of(|way| way.whole), percent)
    }

    fn of(&self, part: impl Fn(&Way) -> f64) -> Vec<f64> {
        self.ways.iter().map(part).collect()
    }

    /// Medians of the parts, to read.
    #[must_use]
    pub fn parts(&self) -> String {
        [
            part("taken up by the leader", &self.of(|way| way.taken_up)),
            part("placement taken up", &self.of(|way| way.placed)),
            part("process started", &self.of(|way| way.started)),
            part("reported to the leader", &self.of(|way| way.reported)),
            part("seen by the client", &self.of(|way| way.seen)),
            part("(acknowledged after)", &self.of(|way| way.acknowledged)),
        ]
        .join("\n")
    }
}

/// Submits jobs of one task, one after another, and kills each when it runs.
///
/// # Errors
/// When a call fails or a job does not run.
pub async fn measure(cell: &LocalCell) -> Result<SubmitTimes, Error> {
    let mut ways = Vec::new();
    for n in 0..WARM_UP + JOBS {
        cell.settled().await?;
        let client = cell.client(n);
        let job = format!("figure-{n}");
        let limit = tokio::time::timeout(PATIENCE, one(client.clone(), cell.user(), &job));
        let way = limit.await.map_err(|_| format!("{job} did not run in time"))??;
        let rest = REST_MS + u64::try_from(n)? * 37 % REST_SPREAD_MS;
        clear(client, &format!("{}/{job}", cell.user())).await?;
        tokio::time::sleep(Duration::from_millis(rest)).await;
        if n >= WARM_UP {
            ways.push(way);
        }
        if n % 20 == 0 {
            progress(&format!("job {n}: {:.1} ms", way.whole));
        }
    }
    Ok(SubmitTimes { ways })
}

async fn one(mut client: Client, user: &str, name: &str) -> Result<Way, Error> {
    let job = format!("{user}/{name}");
    let watch = pb::WatchRequest { after_index: 0, job: job.clone(), progress: false };
    let events = client.watch(watch).await?.into_inner();
    let watched = tokio::spawn(until_up(events));
    let mut submitter = client.clone();
    // A limit as in `examples/hello.bcl`. It is hard, and the container's own set-up counts against it.
    let request = submission(name, 16 << 20);
    let (began, began_ms) = (clock::now(), clock::unix_ms());
    submitter.submit_job(request).await?;
    let acknowledged = clock::milliseconds(began.elapsed());
    let seen = watched.await??;
    let answer = client.get_job(pb::GetJobRequest { job }).await?.into_inner();
    let task = answer.tasks.first().ok_or("a job without a task")?;
    let whole = clock::milliseconds(seen.at.duration_since(began));
    let (submitted, placed) = (clock::told(seen.submitted)?, clock::told(seen.placed)?);
    let (since, up) = (clock::told(task.since_ms)?, clock::told(seen.up)?);
    Ok(Way {
        whole,
        acknowledged,
        taken_up: submitted - began_ms,
        placed: placed - submitted,
        started: since - placed,
        reported: up - since,
        seen: began_ms + whole - up,
    })
}

/// When things happened to a job, as its events say, and when the last of them arrived.
#[derive(Debug)]
struct Seen {
    submitted: u64,
    placed: u64,
    up: u64,
    at: Instant,
}

async fn until_up(mut events: Streaming<pb::Event>) -> Result<Seen, Error> {
    let (mut submitted, mut placed) = (0, 0);
    while let Some(event) = events.message().await? {
        match event.kind.as_str() {
            "job.submitted" => submitted = event.at_ms,
            "task.placed" => placed = event.at_ms,
            "task.up" => return Ok(Seen { submitted, placed, up: event.at_ms, at: clock::now() }),
            kind if kind.starts_with("job.") => {}
            kind => return Err(format!("{kind}: {} {}", event.subject, event.detail).into()),
        }
    }
    Err("the events ended before the task was up".into())
}

/// A batch job of one task that sleeps for a minute with a limit of `ram_bytes`; asked under its name.
#[must_use]
pub fn submission(name: &str, ram_bytes: u64) -> pb::SubmitJobRequest {
    let limit = pb::Resources { cpu_milli: 100, ram_bytes, ..pb::Resources::default() };
    let task = pb::TaskSpec {
        command: ["/bin/sleep", "60"].map(str::to_owned).into(),
        limit: Some(limit),
        grace_ms: 100,
        ..pb::TaskSpec::default()
    };
    let spec = pb::JobSpec {
        name: name.to_owned(),
        kind: pb::JobKind::Batch.into(),
        tasks: 1,
        priority: 100,
        task: Some(task),
        ..pb::JobSpec::default()
    };
    pb::SubmitJobRequest { spec: Some(spec), request_id: name.to_owned(), planned: None }
}

/// Kills the job and waits until no machine has a task.
async fn clear(mut client: Client, job: &str) -> Result<(), Error> {
    let request = pb::KillRequest {
        job: job.to_owned(),
        tasks: Vec::new(),
        request_id: format!("kill-{job}"),
    };
    client.kill(request).await?;
    loop {
        let machines = client.list_machines(pb::ListMachinesRequest {}).await?.into_inner();
        if machines.machines.iter().all(|machine| machine.tasks == 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
