//! A borglet with many tasks that sleep: what it and the shims hold and use.

use super::jobs;
use crate::figures::{load, percentile, progress};
use crate::local_cell::LocalCell;
use crate::masters::processor_s;
use crate::{Error, clock};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// Tasks that sleep.
const TASKS: u32 = 300;
/// Limits of each: 400 fit on a machine of two cores.
const CPU_MILLI: u64 = 5;
const RAM_BYTES: u64 = 16 << 20;
/// Rest after the last start.
const REST: Duration = Duration::from_secs(5);
/// How long the processor's use is counted: one tick of the accounting is 0.02 %.
const LOOK: Duration = Duration::from_secs(60);
/// Name of the job.
const NAME: &str = "sleep";

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Resident memory of the borglet, in MiB.
    pub rss_mib: f64,
    /// Memory that the largest shim shares with nobody, in MiB.
    pub shim_own_mib: f64,
    /// Processor that the borglet and all shims use, in hundredths of a core.
    pub cpu_pct: f64,
}

/// Measures it on the first machine of a cell of one.
///
/// # Errors
/// When a task does not start, or a process is gone.
pub async fn measure(cell: &LocalCell) -> Result<Idle, Error> {
    cell.settled().await?;
    let command = ["/bin/sleep", "100000"].map(str::to_owned).into();
    jobs::submit(cell, jobs::batch(NAME, TASKS, command, CPU_MILLI, RAM_BYTES)).await?;
    jobs::wait_until(cell, NAME, |job| job.up == TASKS).await?;
    tokio::time::sleep(REST).await;
    let (borglet, shims) = (cell.borglet_pid(0)?, shims(cell)?);
    let used = || -> Result<f64, Error> {
        [borglet].iter().chain(&shims).map(|pid| processor_s(*pid)).sum()
    };
    let (before, began) = (used()?, clock::now());
    tokio::time::sleep(LOOK).await;
    let cpu_pct = (used()? - before) / began.elapsed().as_secs_f64() * 100.0;
    let own = shims.iter().map(|pid| own_mib(*pid)).collect::<Result<Vec<_>, _>>()?;
    let (p50, most) = (percentile(&own, 50), percentile(&own, 100));
    let rss_mib = field_mib(borglet, "status", &["VmRSS:"])?;
    progress(&format!(
        "load {}; {TASKS} tasks: borglet {rss_mib:.1} MiB, a shim's own {p50:.2} MiB, at most {most:.2}",
        load()
    ));
    jobs::clear(cell, &[NAME]).await?;
    Ok(Idle { rss_mib, shim_own_mib: most, cpu_pct })
}

/// The shims of the first machine, as the records of its tasks name them.
fn shims(cell: &LocalCell) -> Result<Vec<i32>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cell.data(&cell.machine(0)?.0).join("tasks"))? {
        let Ok(record) = fs::read_to_string(entry?.path().join("record")) else { continue };
        let started = record.lines().find(|line| line.starts_with("{\"started\""));
        let Some(started) = started else { continue };
        let line: Value = serde_json::from_str(started)?;
        found.push(i32::try_from(line["started"]["shim_pid"].as_i64().ok_or("no shim_pid")?)?);
    }
    if found.len() < usize::try_from(TASKS)? {
        return Err(format!("{} shims are on record, not {TASKS}", found.len()).into());
    }
    Ok(found)
}

fn own_mib(pid: i32) -> Result<f64, Error> {
    field_mib(pid, "smaps_rollup", &["Private_Clean:", "Private_Dirty:"])
}

/// The sum of these fields, told in KiB, of a file of the process.
fn field_mib(pid: i32, file: &str, names: &[&str]) -> Result<f64, Error> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let one = |name: &&str| -> Result<f64, Error> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    names.iter().map(one).sum()
}
