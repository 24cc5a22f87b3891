//! Acknowledged small changes a second, from clients that each wait for their last one, and the same
//! of etcd in the same minute, and with a thousand watchers.

use crate::etcd::Etcd;
use crate::figures::{load, median, progress};
use crate::local_cell::{Client, LocalCell};
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long one round counts, after the time for warming up.
const ROUND: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs `clients` loops, each with `make`'s call, and counts the calls that end in the round.
async fn rate<F: Future<Output = Result<(), Error>> + Send + 'static>(
    clients: usize,
    make: impl Fn(usize, u64) -> F + Clone + Send + Sync + 'static,
) -> Result<f64, Error> {
    let done = Arc::new(AtomicU64::new(0));
    let mut loops = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (done, make) = (done.clone(), make.clone());
        loops.spawn(async move {
            for number in 0.. {
                make(client, number).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Error>(())
        });
    }
    let counted = async {
        tokio::time::sleep(WARM_UP).await;
        let (before, began) = (done.load(Ordering::Relaxed), clock::now());
        tokio::time::sleep(ROUND).await;
        let count = u32::try_from(done.load(Ordering::Relaxed) - before)?;
        Ok::<f64, Error>(f64::from(count) / began.elapsed().as_secs_f64())
    };
    let counted = tokio::select! {
        counted = counted => counted,
        Some(failed) = loops.join_next() => {
            failed??;
            Err("a client ended".into())
        }
    };
    // Each change is waited for: one that is let go might still come while the next round counts.
    loops.shutdown().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    counted
}

/// Small changes to a cell: its first machine is added once more where it is. Each client has a
/// connection of its own; the clients are divided over the masters.
///
/// # Errors
/// When one is not acknowledged.
pub async fn ours(cell: &LocalCell, clients: usize) -> Result<f64, Error> {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    let round = ROUNDS.fetch_add(1, Ordering::Relaxed);
    let (name, address) = cell.first_machine()?;
    let mut channels: Vec<Client> = Vec::new();
    for client in 0..clients {
        channels.push(cell.connect(client)?);
    }
    rate(clients, move |client, number| {
        let mut master = channels[client].clone();
        let (name, address) = (name.clone(), address.clone());
        async move {
            let request_id = format!("{round}-{client}-{number}");
            master.add_machine(pb::AddMachineRequest { name, address, request_id }).await?;
            Ok(())
        }
    })
    .await
}

async fn etcds(etcd: &Etcd, clients: usize) -> Result<f64, Error> {
    let mut channels = Vec::new();
    for client in 0..clients {
        channels.push(etcd.client(client)?);
    }
    rate(clients, move |client, _| {
        let channel = channels[client].clone();
        async move { channel.put(client).await }
    })
    .await
}

/// Medians of ours and etcd's rates with so many clients, each of them in turn in each round.
///
/// # Errors
/// When a change is not acknowledged.
pub async fn compare(
    cell: &LocalCell,
    etcd: Option<&Etcd>,
    clients: usize,
    rounds: usize,
) -> Result<(f64, Option<f64>), Error> {
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mine = ours(cell, clients).await?;
        our.push(mine);
        let mut text = format!("load {}; {clients} clients, round {round}: {mine:.0}/s", load());
        if let Some(etcd) = etcd {
            let theirs = etcds(etcd, clients).await?;
            their.push(theirs);
            text.push_str(&format!(", etcd {theirs:.0}/s"));
        }
        progress(&text);
    }
    Ok((median(&our), etcd.map(|_| median(&their))))
}

/// Small changes that everybody sees: jobs that no machine can hold are submitted, and killed.
async fn seen(cell: &LocalCell, clients: usize) -> Result<f64, Error> {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    let round = ROUNDS.fetch_add(1, Ordering::Relaxed);
    let user = cell.user();
    let mut channels: Vec<Client> = Vec::new();
    for client in 0..clients {
        channels.push(cell.connect(client)?);
    }
    rate(clients, move |client, number| {
        let mut master = channels[client].clone();
        async move {
            let name = format!("seen-{round}-{client}-{}", number / 2);
            let request_id = format!("{name}-{}", number % 2);
            if number % 2 == 0 {
                let spec = Some(crate::fill::job(&name, 1, 1 << 45));
                master.submit_job(pb::SubmitJobRequest { spec, request_id, planned: None }).await?;
            } else {
                let job = format!("{user}/{name}");
                master.kill(pb::KillRequest { job, tasks: Vec::new(), request_id }).await?;
            }
            Ok(())
        }
    })
    .await
}

/// What a thousand watchers leave of the rate of changes, 1 being all: those who each watch one
/// job, and those who all watch everything. Rounds without watchers and with both kinds alternate.
///
/// # Errors
/// When a change is not acknowledged or a watch breaks.
pub async fn with_watchers(cell: &LocalCell, rounds: usize) -> Result<[f64; 2], Error> {
    const WATCHERS: usize = 1_000;
    const CLIENTS: usize = 64;
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (kind, ratios) in ["one job each", "everything"].into_iter().zip(&mut ratios) {
            let alone = seen(cell, CLIENTS).await?;
            let watched = watchers(cell, WATCHERS, kind == "everything").await?;
            let beside = seen(cell, CLIENTS).await?;
            let events = watched.load(Ordering::Relaxed);
            drop(watched);
            // On both sides, as the cell grows with each round.
            let after = seen(cell, CLIENTS).await?;
            progress(&format!(
                "load {}; round {round}: {alone:.0}/s and {after:.0}/s alone, {beside:.0}/s beside \
                 {WATCHERS} watchers of {kind}, who got {events} events",
                load()
            ));
            ratios.push(2.0 * beside / (alone + after));
        }
    }
    Ok(ratios.map(|ratios| median(&ratios)))
}

/// Watchers who count what they get, until the counter is let go.
async fn watchers(cell: &LocalCell, count: usize, all: bool) -> Result<Arc<AtomicU64>, Error> {
    let got = Arc::new(AtomicU64::new(0));
    for watcher in 0..count {
        // Ten to a connection, as many watchers are behind few programs.
        let mut client = cell.client(watcher);
        let job = if all { String::new() } else { format!("{}/seen-{watcher}", cell.user()) };
        let watch = pb::WatchRequest { after_index: 0, job, progress: false };
        let mut events = client.watch(watch).await?.into_inner();
        let got = Arc::downgrade(&got);
        tokio::spawn(async move {
            loop {
                let event =
                    tokio::time::timeout(Duration::from_millis(500), events.message()).await;
                let Some(got) = got.upgrade() else { return };
                match event {
                    Ok(Ok(Some(_))) => drop(got.fetch_add(1, Ordering::Relaxed)),
                    Ok(Ok(None) | Err(_)) => return,
                    Err(_) => {}
                }
            }
        });
    }
    Ok(got)
}
