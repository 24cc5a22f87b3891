//! A program in a task's container that says by its exit code how the task is.

use crate::container::ContainerId;
use crate::executor::{Errand, Executor, Stdio};
use crate::shim::enter::Word;
use crate::tasks::blocking;
use borg_proto::in_full;
use borg_proto::text::one_line;
use borglet_supervisor::ProbeFailure;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::timeout;

/// Longest word that a session says: a refusal with its reason.
const MOST_SAID: usize = 8 << 10;
/// Most bytes of what it wrote that are told when it failed.
const MOST_TOLD: usize = 200;

/// Runs it once. When time is up, all that it made is killed. Holds no thread while it waits.
///
/// # Errors
/// What was wrong, with the beginning of what it wrote.
pub(super) async fn run(
    executor: Executor,
    container: ContainerId,
    argv: Vec<String>,
    within: Duration,
) -> Result<(), ProbeFailure> {
    // Letting go of its control socket ends it.
    let late = |_| Err(format!("no end within {} ms", within.as_millis()).into());
    timeout(within, in_container(executor, container, argv)).await.unwrap_or_else(late)
}

async fn in_container(
    executor: Executor,
    container: ContainerId,
    argv: Vec<String>,
) -> Result<(), ProbeFailure> {
    let errand = Errand::Run { argv, terminal: None };
    let entered = blocking(move || executor.enter(&container, &errand, false)).await;
    let entered = entered.map_err(|error| in_full(&error))?;
    let Stdio::Pipes { stdout, stderr, .. } = entered.stdio else {
        return Err("a probe has no terminal".into());
    };
    let failed = |error: io::Error| error.to_string();
    entered.control.set_nonblocking(true).map_err(failed)?;
    let mut control = UnixStream::from_std(entered.control).map_err(failed)?;
    let mut stdout = Output::new(stdout).map_err(failed)?;
    let mut stderr = Output::new(stderr).map_err(failed)?;
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let heard = tokio::select! {
            more = stdout.more() => { stdout.is_open &= more; continue }
            more = stderr.more() => { stderr.is_open &= more; continue }
            heard = control.read(&mut piece) => heard.unwrap_or(0),
        };
        said.extend_from_slice(&piece[..heard]);
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            let mut told = |how| Err(told(how, &[stdout.all(), stderr.all()].concat()));
            match serde_json::from_slice(&line) {
                Ok(Word::Begun) => {}
                Ok(Word::Exited(0)) => return Ok(()),
                Ok(Word::Exited(code)) => return told(format!("exit code {code}")),
                Ok(Word::Signalled(signal)) => return told(format!("signal {signal}")),
                Ok(Word::Refused(error)) => return Err(error.to_string().into()),
                Err(error) => {
                    return Err(format!("its session said something else: {error}").into());
                }
            }
        }
        if said.len() > MOST_SAID {
            return Err("its session says too much".into());
        }
        if heard == 0 {
            return Err("its session died".into());
        }
    }
}

/// One of its outputs. All is read, so that it never waits for us; the beginning is kept.
struct Output {
    pipe: pipe::Receiver,
    is_open: bool,
    wrote: Vec<u8>,
}

impl Output {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(fd)?, is_open: true, wrote: Vec::new() })
    }

    /// Takes what comes next. Whether there may be more; waits for ever once there is none.
    async fn more(&mut self) -> bool {
        if !self.is_open {
            return std::future::pending().await;
        }
        let mut piece = [0; 4096];
        let length = self.pipe.read(&mut piece).await.unwrap_or(0);
        self.keep(&piece[..length]);
        length > 0
    }

    /// The beginning of it, with what is there of it by now.
    fn all(&mut self) -> Vec<u8> {
        let mut piece = [0; 4096];
        let length = self.pipe.try_read(&mut piece).unwrap_or(0);
        self.keep(&piece[..length]);
        std::mem::take(&mut self.wrote)
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = MOST_TOLD.saturating_sub(self.wrote.len());
        self.wrote.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

fn told(why: String, wrote: &[u8]) -> ProbeFailure {
    ProbeFailure { why, wrote: one_line(wrote, MOST_TOLD) }
}
