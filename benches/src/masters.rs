//! What the processes of a cell's masters use: processor time, memory, and what they count.

use crate::figures::{load, median, progress};
use crate::local_cell::{LocalCell, MASTERS};
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an idle cell is looked at.
const IDLE: Duration = Duration::from_secs(30);
/// How long a master may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clock ticks of the kernel's accounting a second, on every Linux that we know.
const TICKS: f64 = 100.0;

/// What an idle cell costs.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Processors that all masters used together.
    pub cores: f64,
    /// Bytes of reports from shards to the leader a second, of all machines.
    pub report_bytes_per_s: f64,
}

/// Looks at all masters for half a minute.
///
/// # Errors
/// When a master has no metrics or no process.
pub fn idle(cell: &LocalCell) -> Result<Idle, Error> {
    let seen = || -> Result<(f64, f64), Error> {
        let (mut cpu, mut bytes) = (0.0, 0.0);
        for master in 0..MASTERS {
            cpu += processor_s(cell.pid(master)?)?;
            bytes += counted(cell, master, "borgmaster_report_bytes_total")?;
        }
        Ok((cpu, bytes))
    };
    let (cpu, bytes) = seen()?;
    let began = clock::now();
    std::thread::sleep(IDLE);
    let (cpu_after, bytes_after) = seen()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Idle {
        cores: (cpu_after - cpu) / seconds,
        report_bytes_per_s: (bytes_after - bytes) / seconds,
    })
}

/// Seconds of processor time that a process has used.
///
/// # Errors
/// When it does not run.
pub fn processor_s(pid: i32) -> Result<f64, Error> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").ok_or("/proc/PID/stat is not as documented")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
    Ok((user + system) / TICKS)
}

/// Memory of a master now and at its most, in MiB.
///
/// # Errors
/// When it does not run.
pub fn memory_mib(cell: &LocalCell, master: usize) -> Result<(f64, f64), Error> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", cell.pid(master)?))?;
    let field = |name: &str| -> Result<f64, Error> {
        let line = text.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)).ok_or("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// A metric of a master; 0 when it was never counted.
///
/// # Errors
/// When the master does not answer.
pub fn counted(cell: &LocalCell, master: usize, name: &str) -> Result<f64, Error> {
    let address = cell.metrics(master)?;
    let mut stream = TcpStream::connect(&address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0.0), str::parse)?)
}

/// Kills followers one after another and starts them again: from the start of the process to its
/// first answer from the cell's state, which it gives only once it has caught up. Median, in
/// milliseconds.
///
/// # Errors
/// When one does not come back.
pub async fn restart_ms(cell: &mut LocalCell, rounds: usize) -> Result<f64, Error> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let leader = cell.settled().await?;
        let follower = (leader + 1 + round % (MASTERS - 1)) % MASTERS;
        let doomed = cell.arguments(follower)?;
        doomed.kill()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = clock::now();
        cell.start_again(doomed)?;
        loop {
            // A connection of its own: the one that broke waits before it tries again.
            let list = pb::ListJobsRequest { user: "nobody".to_owned(), all: false };
            let answer = cell.connect(follower)?.list_jobs(list).await;
            if answer.is_ok() {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("master {} does not serve: {answer:?}", follower + 1).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let time = clock::milliseconds(began.elapsed());
        progress(&format!("load {}; master {} serves after {time:.0} ms", load(), follower + 1));
        times.push(time);
    }
    cell.settled().await?;
    Ok(median(&times))
}
