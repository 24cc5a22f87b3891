//! From a machine that finds a task well or ill to the answer of a master that says so.
//!
//! The tasks do nothing: the measurement itself listens on their ports and answers their machines' probes, so it
//! knows to the microsecond when a machine was told.

use super::{JOB, answers, connected, question, submit};
use crate::figures::{part, percentile, progress};
use crate::local_cell::{LocalCell, MASTERS};
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Tasks, each of which becomes healthy and unhealthy once.
const TASKS: u32 = 60;
/// Time between two questions to all masters.
const LOOK: Duration = Duration::from_micros(500);
/// How long a change may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured, in milliseconds: each change at each master.
#[derive(Debug, Default)]
pub struct ChangeTimes {
    well: Vec<f64>,
    ill: Vec<f64>,
}

impl ChangeTimes {
    /// Of all changes.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        percentile(&[&self.well[..], &self.ill[..]].concat(), percent)
    }

    /// Healthy and unhealthy apart, to read.
    #[must_use]
    pub fn parts(&self) -> String {
        [part("became healthy", &self.well), part("became unhealthy", &self.ill)].join("\n")
    }
}

/// What a task's port answers, and since when the machine knows.
#[derive(Debug)]
struct Answering {
    well: bool,
    /// When the first answer since it changed was given.
    told: Option<Instant>,
}

type Shared = Arc<Mutex<Answering>>;

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Answering> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one task after another healthy, then unhealthy.
///
/// # Errors
/// When a task does not come up, or a change is not seen.
pub async fn changes(cell: &LocalCell) -> Result<ChangeTimes, Error> {
    submit(cell.client(0), TASKS, true).await?;
    let sockets: Result<Vec<_>, Error> = (0..MASTERS).map(|m| connected(cell, m)).collect();
    let sockets = Arc::new(sockets?);
    let mut times = ChangeTimes::default();
    for task in 0..TASKS {
        let port = port_of(cell, task).await?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let answering = Arc::new(Mutex::new(Answering { well: true, told: None }));
        let served = tokio::spawn(serve(listener, answering.clone()));
        let index = task.to_string();
        let message = question(1, &[&index, JOB, cell.user(), cell.name(), "borg"]);
        let well = seen(&sockets, &answering, &message, 1).await?;
        *lock(&answering) = Answering { well: false, told: None };
        let ill = seen(&sockets, &answering, &message, 0).await?;
        served.abort();
        if task % 20 == 0 {
            progress(&format!(
                "task {task}: healthy after {well:.1?} ms, unhealthy after {ill:.1?} ms"
            ));
        }
        times.well.extend(well);
        times.ill.extend(ill);
        let job = format!("{}/{JOB}", cell.user());
        let request_id = format!("{JOB}-done-{task}");
        cell.client(0).kill(pb::KillRequest { job, tasks: vec![task], request_id }).await?;
    }
    Ok(times)
}

/// The port of a task whose process runs.
async fn port_of(cell: &LocalCell, task: u32) -> Result<u16, Error> {
    let name = format!("{}/{JOB}/{task}", cell.user());
    let began = clock::now();
    loop {
        let request = pb::ResolveRequest { name: name.clone() };
        let answer = cell.client(0).resolve(request).await?.into_inner();
        let starts = |endpoint: &&pb::Endpoint| endpoint.health() == pb::Health::Starting;
        if let Some(endpoint) = answer.endpoints.iter().find(starts) {
            return Ok(endpoint.port.try_into()?);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{name} does not run").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers a machine's probes.
async fn serve(listener: TcpListener, answering: Shared) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 1_024];
        if stream.read(&mut request).await.is_err() {
            continue;
        }
        let well = lock(&answering).well;
        let status = if well { "200 OK" } else { "503 Service Unavailable" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // Before it is written: what follows is all of the cell's.
        let now = clock::now();
        if stream.write_all(head.as_bytes()).await.is_ok() {
            let mut answering = lock(&answering);
            if answering.well == well {
                answering.told.get_or_insert(now);
            }
        }
    }
}

/// How long after the machine was told each master's answer had so many addresses, in milliseconds.
async fn seen(
    sockets: &Arc<Vec<UdpSocket>>,
    answering: &Shared,
    message: &[u8],
    addresses: u16,
) -> Result<Vec<f64>, Error> {
    let (sockets, answering, message) = (sockets.clone(), answering.clone(), message.to_vec());
    let looking = tokio::task::spawn_blocking(move || {
        let began = clock::now();
        let mut at = vec![None; sockets.len()];
        let mut bytes = [0; 512];
        while at.iter().any(Option::is_none) {
            for (socket, at) in sockets.iter().zip(&mut at).filter(|(_, at)| at.is_none()) {
                socket.send(&message)?;
                let size = socket.recv(&mut bytes)?;
                if answers(&bytes[..size]) == Some(addresses) {
                    *at = Some(clock::now());
                }
            }
            if began.elapsed() > PATIENCE {
                return Err("a change was not seen".into());
            }
            std::thread::sleep(LOOK);
        }
        let told = lock(&answering).told.ok_or("it was seen before the machine knew")?;
        let since = |at: Instant| clock::milliseconds(at.saturating_duration_since(told));
        Ok::<_, Error>(at.into_iter().flatten().map(since).collect())
    });
    looking.await?
}
