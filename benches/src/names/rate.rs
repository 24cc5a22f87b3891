//! How many questions a master answers with one core.

use super::{JOB, answers, connected, question, submit};
use crate::figures::progress;
use crate::local_cell::LocalCell;
use crate::{Error, clock};
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

/// How long is measured.
const LASTS: Duration = Duration::from_secs(10);
/// Questions on their way at once.
const WINDOW: u16 = 256;
/// The thread that answers, as a master calls it.
const THREAD: &str = "names";
/// How long the task may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Answers that came, a second.
    pub per_second: f64,
    /// Answers a second of processor time of the thread that answers.
    pub per_processor_second: f64,
    /// Questions that got no answer, in thousandths.
    pub lost_permille: f64,
}

/// Asks one master for the address of a task as fast as it answers, from a thread that has the other core.
///
/// # Errors
/// When the task does not come up, or the master does not answer.
pub async fn rate(cell: &LocalCell) -> Result<Rate, Error> {
    submit(cell.client(0), 3, false).await?;
    let master = (cell.settled().await? + 1) % crate::local_cell::MASTERS;
    let (socket, labels) = (connected(cell, master)?, ["0", JOB, cell.user(), cell.name(), "borg"]);
    let began = clock::now();
    while asked_once(&socket, &question(0, &labels))? != Some(1) {
        if began.elapsed() > PATIENCE {
            return Err("the task has no address".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let thread = thread_of(cell.pid(master)?)?;
    let measured = tokio::task::spawn_blocking(move || flood(&socket, &labels, &thread));
    measured.await?
}

fn asked_once(socket: &UdpSocket, message: &[u8]) -> Result<Option<u16>, Error> {
    socket.send(message)?;
    let mut bytes = [0; 512];
    Ok(socket.recv(&mut bytes).ok().and_then(|size| answers(&bytes[..size])))
}

/// Keeps a window of questions on their way; one whose answer does not come is lost.
fn flood(socket: &UdpSocket, labels: &[&str], thread: &str) -> Result<Rate, Error> {
    let mut message = question(0, labels);
    let mut bytes = [0; 512];
    let (mut sent, mut came, mut lost) = (0_u32, 0_u32, 0_u32);
    let (used, began) = (used_ms(thread)?, clock::now());
    while began.elapsed() < LASTS {
        // One system call each way for each question: as dear as it is for the other side.
        while sent - came - lost < u32::from(WINDOW) {
            let id = u16::try_from(sent % 65_536)?;
            message[..2].copy_from_slice(&id.to_be_bytes());
            socket.send(&message)?;
            sent += 1;
        }
        match socket.recv(&mut bytes) {
            Ok(size) if answers(&bytes[..size]) == Some(1) => came += 1,
            Ok(size) => {
                return Err(format!("an answer without an address: {:?}", &bytes[..size]).into());
            }
            // All that were on their way.
            Err(_) => lost = sent - came,
        }
    }
    let (seconds, used) = (began.elapsed().as_secs_f64(), (used_ms(thread)? - used) / 1e3);
    progress(&format!(
        "{came} answers in {seconds:.1} s, {lost} lost; the thread used {used:.1} s of processor time"
    ));
    Ok(Rate {
        per_second: f64::from(came) / seconds,
        per_processor_second: f64::from(came) / used,
        lost_permille: f64::from(lost) * 1e3 / f64::from(sent.max(1)),
    })
}

/// Where the kernel tells of the thread that answers.
fn thread_of(pid: i32) -> Result<String, Error> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == THREAD {
            return Ok(path.join("schedstat").display().to_string());
        }
    }
    Err(format!("master {pid} has no thread {THREAD}").into())
}

/// Milliseconds of processor time.
fn used_ms(thread: &str) -> Result<f64, Error> {
    let text = fs::read_to_string(thread)?;
    let nanoseconds: u64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(f64::from(u32::try_from(nanoseconds / 1_000)?) / 1e3)
}
