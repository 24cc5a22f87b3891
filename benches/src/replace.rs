//! A master that lost its log, in a cell of a large state under load: how long until it votes again.

use crate::figures::{load, progress};
use crate::local_cell::{LocalCell, MASTERS};
use crate::masters::counted;
use crate::{Error, clock, fill};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of one variable of a job, just below the most that one may have, and how many of them.
const VARIABLE: usize = 60 << 10;
const VARIABLES: usize = 15;
/// Large jobs on their way at once.
const AT_ONCE: usize = 8;
/// Small changes a second while the master is replaced.
const CHANGES_PER_S: u64 = 100;
/// As long as the largest checkpoint takes to be saved when nobody waits for it.
const QUIET: Duration = Duration::from_secs(60);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Fills the state with so many bytes of what does not compress well.
///
/// # Errors
/// When a job is refused.
pub async fn fill(cell: &LocalCell, bytes: u64) -> Result<(), Error> {
    let jobs = bytes.div_ceil((VARIABLE * VARIABLES) as u64);
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0..jobs {
        if under_way.len() == AT_ONCE
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let name = format!("large-{number}");
        let mut spec = fill::job(&name, 1, 4 << 20);
        spec.task = spec.task.map(|task| pb::TaskSpec { env: noise(number), ..task });
        let mut client = cell.client(usize::try_from(number % 5)?);
        under_way.spawn(async move {
            let request =
                pb::SubmitJobRequest { spec: Some(spec), request_id: name, planned: None };
            client.submit_job(request).await.map(drop).map_err(Error::from)
        });
        if number % 100 == 99 {
            progress(&format!("  {} of {jobs} large jobs", number + 1));
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}

/// Text of 4 bits a byte: half of it is what compression can save.
fn noise(seed: u64) -> BTreeMap<String, String> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = || {
        let mut text = String::with_capacity(VARIABLE);
        while text.len() < VARIABLE {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            text += &format!("{random:016x}");
        }
        text
    };
    (0..VARIABLES).map(|number| (format!("V{number}"), text())).collect()
}

/// Waits until no master has saved a checkpoint for a while: those of the fill are over.
///
/// # Errors
/// When a master has no metrics.
pub async fn rest(cell: &LocalCell) -> Result<(), Error> {
    let saved = || -> Result<f64, Error> {
        let counts = (0..MASTERS).map(|m| counted(cell, m, "borgmaster_checkpoint_seconds_count"));
        counts.sum()
    };
    let (mut before, mut since) = (saved()?, clock::now());
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // A master that is busy may close the connection before it has answered.
        let Ok(now) = saved() else { continue };
        if now > before {
            (before, since) = (now, clock::now());
        }
    }
    progress(&format!("load {}; no checkpoint is being saved any more", load()));
    Ok(())
}

/// Kills a follower, takes its log away, starts it again, and waits until it votes and has what the
/// others have. Small changes go on meanwhile. Seconds from its start, and how many changes were
/// acknowledged in that time.
///
/// # Errors
/// When it does not come back in time.
pub async fn seconds(cell: &mut LocalCell) -> Result<(f64, u64), Error> {
    let leader = cell.settled().await?;
    let lost = (leader + 1) % 5;
    let doomed = cell.arguments(lost)?;
    doomed.kill()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    cell.forget_log(lost)?;
    let mut changes = cell.client(leader);
    let began = clock::now();
    cell.start_again(doomed)?;
    let mut acknowledged = 0;
    loop {
        let spec = Some(fill::job(&format!("small-{acknowledged}"), 1, 4 << 20));
        let request_id = format!("small-{acknowledged}");
        if changes
            .submit_job(pb::SubmitJobRequest { spec, request_id, planned: None })
            .await
            .is_ok()
        {
            acknowledged += 1;
        }
        if acknowledged % 10 == 0 {
            let masters =
                changes.list_masters(pb::ListMastersRequest {}).await?.into_inner().masters;
            let back = masters.iter().any(|master| {
                master.replica == lost as u64 + 1
                    && master.life > 0
                    && master.standing == "voting"
                    && master.reachable
            });
            if back && masters.len() == 5 {
                let seconds = began.elapsed().as_secs_f64();
                progress(&format!(
                    "load {}; master {} votes again after {seconds:.1} s, {acknowledged} changes meanwhile",
                    load(),
                    lost + 1
                ));
                return Ok((seconds, acknowledged));
            }
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("master {} does not come back", lost + 1).into());
        }
        tokio::time::sleep(Duration::from_millis(1_000 / CHANGES_PER_S)).await;
    }
}
