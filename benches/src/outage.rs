//! From the death of the leader to the next acknowledged change and the next placement.
//!
//! The change is a job of one task. One client tries one master after another with the same request
//! id until one answers, not knowing which master is dead, and then waits until it is told that the
//! task was placed.

use crate::figures::{part, percentile, progress};
use crate::local_cell::{LocalCell, MASTERS};
use crate::{Error, clock, fill};
use borg_proto::wire::pb;
use std::time::Duration;
use tonic::Request;

/// Longest time for one try at one master.
const TRY: Duration = Duration::from_secs(5);
/// Pause after a master that did not answer.
const PAUSE: Duration = Duration::from_millis(5);
/// No change is acknowledged by then: the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest before a kill. Not the same each time, so that no timer of the cell keeps in step.
const REST_MS: u64 = 300;
const REST_SPREAD_MS: u64 = 397;

/// All outages, in milliseconds from the kill.
#[derive(Debug, Default)]
pub struct Outages {
    /// To the acknowledged change.
    acknowledged: Vec<f64>,
    /// To the placement.
    placed: Vec<f64>,
}

impl Outages {
    /// Kill to placement, which comes after the acknowledged change.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.placed, percent)
    }

    /// The parts, to read.
    #[must_use]
    pub fn parts(&self) -> String {
        [part("change acknowledged", &self.acknowledged), part("task placed", &self.placed)]
            .join("\n")
    }
}

/// Kills the leader again and again; each time the dead master is started again, and all have to
/// agree before the next one dies.
///
/// # Errors
/// When no change is acknowledged for half a minute, or a master does not come back.
pub async fn measure(cell: &mut LocalCell, kills: usize, tag: &str) -> Result<Outages, Error> {
    let mut outages = Outages::default();
    for n in 0..kills {
        let rest = REST_MS + u64::try_from(n)? * 131 % REST_SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(rest)).await;
        let leader = cell.settled().await?;
        let doomed = cell.arguments(leader)?;
        let name = format!("{tag}-{n}");

        let began = clock::now();
        doomed.kill()?;
        let (by, index) = submit(cell, &name, n).await?;
        let acknowledged = clock::milliseconds(began.elapsed());
        placed(cell, by, index, &name).await?;
        let placed = clock::milliseconds(began.elapsed());

        cell.start_again(doomed)?;
        let job = format!("{}/{name}", cell.user());
        let request_id = format!("kill-{name}");
        let end = pb::KillRequest { job, tasks: Vec::new(), request_id };
        cell.client(by).kill(end).await?;
        if n % 10 == 0 {
            progress(&format!("kill {n}: acknowledged {acknowledged:.0}, placed {placed:.0} ms"));
        }
        outages.acknowledged.push(acknowledged);
        outages.placed.push(placed);
    }
    cell.settled().await?;
    Ok(outages)
}

/// The master that answered, and the job's place in the log.
async fn submit(cell: &LocalCell, name: &str, first: usize) -> Result<(usize, u64), Error> {
    let spec = Some(fill::job(name, 1, 16 << 20));
    let message = pb::SubmitJobRequest { spec, request_id: name.to_owned(), planned: None };
    let began = clock::now();
    for by in (0..MASTERS).cycle().skip(first % MASTERS) {
        let mut request = Request::new(message.clone());
        request.set_timeout(TRY);
        match cell.client(by).submit_job(request).await {
            Ok(answer) => return Ok((by, answer.into_inner().index)),
            Err(status) if began.elapsed() > PATIENCE => return Err(status.into()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    unreachable!("a cycle has no end")
}

/// Waits until a master says that the job's task was placed.
async fn placed(cell: &LocalCell, by: usize, index: u64, name: &str) -> Result<(), Error> {
    let job = format!("{}/{name}", cell.user());
    let watch = pb::WatchRequest { after_index: index - 1, job, progress: false };
    let mut events = cell.client(by).watch(watch).await?.into_inner();
    let found = async {
        while let Some(event) = events.message().await? {
            if event.kind == "task.placed" {
                return Ok(());
            }
        }
        Err(Error::from("the events ended before the task was placed"))
    };
    tokio::time::timeout(PATIENCE, found).await.map_err(|_| "the task was not placed in time")?
}
