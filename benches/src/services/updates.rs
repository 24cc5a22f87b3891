//! Requests that fail while a service is updated under its clients.
//!
//! A hundred web servers get another version under load, within their job's disruption budget. Clients
//! follow the name of the job, as balancers do, and open a connection for each request. A request that is
//! not answered with 200 has failed; none is tried again.

use crate::clock;
use crate::figures::progress;
use crate::local_cell::{Client, LocalCell};
use crate::{Error, services};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Web servers.
const TASKS: u32 = 100;
/// Clients, each with one request after the other.
const CLIENTS: usize = 4;
/// Rest of a client after an answer: together they ask some hundred times a second.
const REST: Duration = Duration::from_millis(10);
/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The update has to be done by then.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a server goes on serving after it was asked to end: far longer than a change of its name takes.
const LINGER: &str = "2s";
const JOB: &str = "updated";

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// Requests that were answered well.
    pub answered: usize,
    /// Those that were not.
    pub failed: usize,
    /// How long the update took, in seconds.
    pub seconds: f64,
}

/// The addresses of the servers in rotation, as the cell tells them.
type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// Updates the job once, asking all the time.
///
/// # Errors
/// When the job does not run, or the update is not done in ten minutes.
pub async fn measure(cell: &LocalCell) -> Result<Update, Error> {
    let leader = cell.settled().await?;
    let mut client = cell.client(leader);
    let job = format!("{}/{JOB}", cell.user());
    let submit =
        |spec| pb::SubmitJobRequest { spec: Some(spec), request_id: JOB.to_owned(), planned: None };
    client.submit_job(submit(spec(cell.borgctl(), "one"))).await?;
    services::all_serve(cell, &job, TASKS).await?;

    let addresses = Addresses::default();
    let follower = tokio::spawn(follow(client.clone(), job.clone(), addresses.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let (answered, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let askers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (addresses, stop) = (addresses.clone(), stop.clone());
            let (answered, failed) = (answered.clone(), failed.clone());
            std::thread::spawn(move || {
                let mut turn = number;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(REST);
                    let all = addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // Before the name was told for the first time nobody can be asked.
                    let Some(address) = all.get(turn % all.len().max(1)) else { continue };
                    turn += 1;
                    let count = if ask(*address) { &answered } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let began = clock::now();
    let done = update(cell, client, &job).await;
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.join().map_err(|_| "a client panicked")?;
    }
    follower.abort();
    done?;
    let (answered, failed) = (answered.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    if answered == 0 {
        return Err("no request was answered".into());
    }
    Ok(Update { answered, failed, seconds })
}

async fn update(cell: &LocalCell, mut client: Client, job: &str) -> Result<(), Error> {
    let options = pb::UpdateOptions { min_healthy_ms: Some(1_000), ..Default::default() };
    let update = pb::UpdateJob {
        job: job.to_owned(),
        to: Some(pb::update_job::To::Spec(spec(cell.borgctl(), "two"))),
        options: Some(options),
    };
    let request = pb::UpdateJobRequest { update: Some(update), request_id: "update".to_owned() };
    client.update_job(request).await?;
    let began = clock::now();
    loop {
        let seen = client.get_update(pb::GetUpdateRequest { job: job.to_owned() }).await?;
        let update = seen.into_inner().update.ok_or("the update is gone")?;
        match update.state() {
            pb::UpdateState::Done => return Ok(()),
            pb::UpdateState::RollingBack => {
                return Err(format!("the update goes back: {}", update.why).into());
            }
            pb::UpdateState::Rolling
            | pb::UpdateState::Canary
            | pb::UpdateState::Paused
            | pb::UpdateState::Unspecified => {}
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("the update waits: {}", update.waiting_for).into());
        }
        progress(&format!("{} done, {} left; {}", update.done, update.left, update.waiting_for));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn spec(borgctl: &Path, version: &str) -> pb::JobSpec {
    let borgctl = borgctl.display().to_string();
    let words = ["example", "web", "--port", "%port.http%", "--linger", LINGER, "--say", version];
    let limit = pb::Resources { cpu_milli: 10, ram_bytes: 16 << 20, ..Default::default() };
    let http = pb::health_check::Http { port: "http".to_owned(), path: "/healthz".to_owned() };
    let health = pb::HealthCheck {
        probe: Some(pb::health_check::Probe::Http(http)),
        grace_ms: 30_000,
        interval_ms: 1_000,
        timeout_ms: 1_000,
        failures: 3,
    };
    let task = pb::TaskSpec {
        command: std::iter::once(borgctl.as_str()).chain(words).map(str::to_owned).collect(),
        limit: Some(limit),
        ports: vec!["http".to_owned()],
        volumes: vec![pb::Volume { path: borgctl.clone(), writable: false }],
        grace_ms: 5_000,
        health: Some(health),
        ..Default::default()
    };
    pb::JobSpec {
        name: JOB.to_owned(),
        kind: pb::JobKind::Service.into(),
        tasks: TASKS,
        priority: 200,
        task: Some(task),
        ..Default::default()
    }
}

/// Keeps the addresses as the cell tells them.
async fn follow(mut client: Client, job: String, addresses: Addresses) -> Result<(), Error> {
    let request = pb::WatchNamesRequest { name: job, ..Default::default() };
    let mut told = client.watch_names(request).await?.into_inner();
    let mut known = BTreeMap::new();
    while let Some(update) = told.message().await? {
        if update.full {
            known.clear();
        }
        for gone in update.gone {
            known.remove(&gone.task);
        }
        for endpoint in update.endpoints {
            let address: Option<SocketAddr> =
                format!("{}:{}", endpoint.host, endpoint.port).parse().ok();
            match address.filter(|_| endpoint.up) {
                Some(address) => known.insert(endpoint.task, address),
                None => known.remove(&endpoint.task),
            };
        }
        *addresses.lock().unwrap_or_else(PoisonError::into_inner) =
            known.values().copied().collect();
    }
    Ok(())
}

/// Whether one request is answered well.
fn ask(address: SocketAddr) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut connection = TcpStream::connect_timeout(&address, ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.write_all(b"GET / HTTP/1.1\r\nHost: updated\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    asked().unwrap_or(false)
}
