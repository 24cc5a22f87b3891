//! A program in a task's container that says by its exit code how the task is.

use crate::container::ContainerId;
use crate::executor::{Errand, Executor, Stdio};
use crate::shim::enter::Word;
use crate::sys;
use borg_proto::in_full;
use borg_proto::text::one_line;
use borglet_supervisor::ProbeFailure;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

/// Longest word that a session says: a refusal with its reason.
const MOST_SAID: usize = 8 << 10;
/// Most bytes of what it wrote that are told when it failed.
const MOST_TOLD: usize = 200;

/// Runs it once. When time is up, all that it made is killed. Blocks.
///
/// # Errors
/// What was wrong, with the beginning of what it wrote.
pub(super) fn run(
    executor: &Executor,
    container: &ContainerId,
    argv: Vec<String>,
    within: Duration,
) -> Result<(), ProbeFailure> {
    let deadline = sys::monotonic() + within;
    let errand = Errand::Run { argv, terminal: None };
    let entered = executor.enter(container, &errand, false).map_err(|error| in_full(&error))?;
    let Stdio::Pipes { stdout, stderr, .. } = entered.stdio else {
        return Err("a probe has no terminal".into());
    };
    let mut control = File::from(std::os::fd::OwnedFd::from(entered.control));
    let mut outputs = [File::from(stdout), File::from(stderr)];
    for fd in outputs.iter().chain([&control]) {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| errno.to_string())?;
    }
    let (mut said, mut wrote) = (Vec::new(), Vec::new());
    let (mut is_open, mut piece) = ([true, true], [0; 4096]);
    loop {
        let left = deadline.saturating_sub(sys::monotonic());
        if left.is_zero() {
            // Letting go of the control socket ends it.
            return Err(format!("no end within {} ms", within.as_millis()).into());
        }
        let mut fds = vec![PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        let open = outputs.iter().zip(is_open).filter(|(_, is_open)| *is_open);
        fds.extend(open.map(|(output, _)| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.to_string().into()),
        }
        for (output, is_open) in outputs.iter_mut().zip(&mut is_open) {
            // Read to its end, so that it never waits for us; the beginning is what is told.
            match take(output, &mut piece) {
                Some(length) => {
                    let room = MOST_TOLD.saturating_sub(wrote.len());
                    wrote.extend_from_slice(&piece[..length.min(room)]);
                }
                None => *is_open = false,
            }
        }
        let heard = take(&mut control, &mut piece);
        said.extend_from_slice(&piece[..heard.unwrap_or(0)]);
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Word::Begun) => {}
                Ok(Word::Exited(0)) => return Ok(()),
                Ok(Word::Exited(code)) => return Err(told(format!("exit code {code}"), &wrote)),
                Ok(Word::Signalled(signal)) => {
                    return Err(told(format!("signal {signal}"), &wrote));
                }
                Ok(Word::Refused(error)) => return Err(error.to_string().into()),
                Err(error) => {
                    return Err(format!("its session said something else: {error}").into());
                }
            }
        }
        if said.len() > MOST_SAID {
            return Err("its session says too much".into());
        }
        if heard.is_none() {
            return Err("its session died".into());
        }
    }
}

/// What there is to read: 0 when there is nothing yet, `None` at the end.
fn take(from: &mut File, piece: &mut [u8]) -> Option<usize> {
    match from.read(piece) {
        Ok(0) => None,
        Ok(length) => Some(length),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Some(0)
        }
        Err(_) => None,
    }
}

fn told(why: String, wrote: &[u8]) -> ProbeFailure {
    ProbeFailure { why, wrote: one_line(wrote, MOST_TOLD) }
}
