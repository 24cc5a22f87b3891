//! A victim alone and beside a bully, in turns: by how much the bully makes it slower.
//!
//! Both are this program in containers of one machine of a real cell: the victim a service of production, the bully
//! a batch job that does all it can to be in the way.

use super::jobs;
use super::victim::{self, Latencies};
use crate::figures::{load, median, progress};
use crate::local_cell::LocalCell;
use crate::{Error, clock};
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The word by which this program is a bully.
pub const NAME: &str = "bully";
/// All of them.
pub const ALL: [&str; 5] = ["memory", "cpu", "forks", "disk", "logs"];
/// Rounds alone, and as many beside the bully.
const ROUNDS: usize = 3;
/// Requests of one round: 12 s of them, so that 12 are slower than the 99th percentile.
const REQUESTS: usize = 1_200;
/// How long a victim may take for a round.
const PATIENCE: Duration = Duration::from_secs(120);
/// From the bully's start to the victim's, so that it is in full swing.
const HEAD_START: Duration = Duration::from_secs(2);
/// Time between two looks at the victim's output.
const LOOK: Duration = Duration::from_millis(500);

/// Limits of the victim: a tenth of a core is what it uses.
const VICTIM_CPU_MILLI: u64 = 500;
const VICTIM_RAM_BYTES: u64 = 64 << 20;
/// Limits of a bully.
const BULLY_CPU_MILLI: u64 = 1_000;
const BULLY_RAM_BYTES: u64 = 512 << 20;

/// Bytes that the memory hog takes and gives back, times [`CALM_TURNS`]; then it takes more than it may have.
const HOG_BYTES: usize = 448 << 20;
/// Turns within the limit before one beyond it.
const CALM_TURNS: usize = 20;
/// Threads of the busy bully: twice the cores of the computers that we know of this kind.
const BUSY_THREADS: usize = 4;
/// Bytes of a file that fills the disk, and of one write.
const FILL_BYTES: usize = 2 << 30;
const CHUNK: usize = 1 << 20;

/// The ratio of the medians of the 99th percentile: beside this bully, over alone.
///
/// # Errors
/// When a job does not run.
pub async fn p99_ratio(cell: &LocalCell, bully: &str) -> Result<f64, Error> {
    cell.settled().await?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let own = std::env::current_exe()?.display().to_string();
    for round in 0..ROUNDS {
        let name = format!("alone-{bully}-{round}");
        let calm = one_round(cell, &own, &name, bully == "disk").await?;
        jobs::clear(cell, &[&name]).await?;

        let (name, other) = (format!("beside-{bully}-{round}"), format!("{bully}-{round}"));
        let command = [own.as_str(), NAME, bully].map(str::to_owned).into();
        let job = jobs::batch(&other, 1, command, BULLY_CPU_MILLI, BULLY_RAM_BYTES);
        jobs::submit(cell, job).await?;
        jobs::wait_until(cell, &other, |job| job.up == 1).await?;
        tokio::time::sleep(HEAD_START).await;
        let hurt = one_round(cell, &own, &name, bully == "disk").await?;
        jobs::clear(cell, &[&name, &other]).await?;

        progress(&format!("load {}; {bully}: alone {}", load(), calm.line()));
        progress(&format!("  beside {}", hurt.line()));
        alone.push(calm.p99);
        beside.push(hurt.p99);
    }
    Ok(median(&beside) / median(&alone))
}

async fn one_round(
    cell: &LocalCell,
    own: &str,
    name: &str,
    with_file: bool,
) -> Result<Latencies, Error> {
    let kind = if with_file { "disk" } else { "memory" };
    let command = [own, victim::NAME, &REQUESTS.to_string(), kind].map(str::to_owned).into();
    jobs::submit(cell, jobs::service(name, command, VICTIM_CPU_MILLI, VICTIM_RAM_BYTES)).await?;
    jobs::wait_until(cell, name, |job| job.up == 1).await?;
    let began = clock::now();
    loop {
        let said = jobs::output(cell, name).await?;
        if let Some(latencies) = Latencies::find(&said) {
            return Ok(latencies);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{name} tells no latencies, but {said:?}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Lives a bully's life, which only its machine ends.
///
/// # Errors
/// When there is no such bully, or it cannot do what it is for.
pub fn live(bully: &str) -> Result<(), Error> {
    match bully {
        "memory" => hog_memory(),
        "cpu" => burn(),
        "forks" => fork(),
        "disk" => fill_disk(),
        "logs" => flood(),
        other => Err(format!("no bully {other:?}: there are {ALL:?}").into()),
    }
}

/// Takes memory up to its limit again and again, then more than that.
fn hog_memory() -> Result<(), Error> {
    for _ in 0..CALM_TURNS {
        std::hint::black_box(vec![1_u8; HOG_BYTES]);
    }
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1_u8; CHUNK]));
    }
}

fn burn() -> Result<(), Error> {
    let busy = || -> u64 {
        let mut n = 0_u64;
        loop {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    };
    let threads: Vec<_> = (0..BUSY_THREADS).map(|_| std::thread::spawn(busy)).collect();
    for thread in threads {
        thread.join().map_err(|_| "a busy thread ended")?;
    }
    Ok(())
}

/// A fork bomb: each process makes others for ever, and waits for none.
fn fork() -> Result<(), Error> {
    let own = std::env::current_exe()?;
    loop {
        let bomb = Command::new(&own).args([NAME, "forks"]).stdin(Stdio::null()).spawn();
        // Refused once there are as many as may be; it goes on asking.
        drop(bomb);
    }
}

fn fill_disk() -> Result<(), Error> {
    let chunk = vec![7; CHUNK];
    loop {
        let mut file = File::create("filler")?;
        for _ in 0..FILL_BYTES / CHUNK {
            if file.write_all(&chunk).is_err() {
                break;
            }
        }
        fs::remove_file("filler")?;
    }
}

/// Writes lines for its log as fast as they are taken, now and then one of a mebibyte.
fn flood() -> Result<(), Error> {
    let (line, giant) = ("x".repeat(199) + "\n", "y".repeat(CHUNK) + "\n");
    let mut out = std::io::stdout().lock();
    loop {
        for _ in 0..10_000 {
            out.write_all(line.as_bytes())?;
        }
        out.write_all(giant.as_bytes())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bully_that_is_none_is_refused_by_name() {
        let error = live("noise").unwrap_err().to_string();
        assert!(error.contains("\"noise\"") && error.contains("memory"), "{error}");
    }
}
