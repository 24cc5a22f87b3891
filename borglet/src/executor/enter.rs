//! One more process in a container that runs: what the borglet does of a session.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio as Descriptor};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown};

use super::{ActError, Errand, Executor};
use crate::container::{ContainerId, Started};
use crate::{procfs, shim, sys};

/// Our ends of a session's input and output.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// One pipe each.
    Pipes {
        /// To its standard input; none when that is empty.
        stdin: Option<OwnedFd>,
        /// From its standard output.
        stdout: OwnedFd,
        /// From its standard error.
        stderr: OwnedFd,
    },
    /// The master side of its terminal, not blocking.
    Terminal(OwnedFd),
}

/// A process on its way into a container.
#[derive(Debug)]
pub(crate) struct Entered {
    /// Says what becomes of it; when it is closed, all that the process made is killed.
    pub(crate) control: UnixStream,
    pub(crate) stdio: Stdio,
}

impl Executor {
    /// Sends a process into a container that runs. Takes a few milliseconds; whether it arrived is said on
    /// the control socket.
    ///
    /// # Errors
    /// When the container does not run, or this machine cannot do its part.
    pub(crate) fn enter(
        &self,
        id: &ContainerId,
        errand: &Errand,
        input: bool,
    ) -> Result<Entered, ActError> {
        let started = self.live(id)?.started;
        let failed = |source| ActError::Failed { action: "enter", id: id.clone(), source };
        let (ours, theirs) = match errand {
            Errand::Run { terminal: Some(_), .. } => own_terminal(&started)
                .or_else(|error| {
                    tracing::debug!(%id, %error, "no terminal of its own: one of the machine's");
                    terminal()
                })
                .map_err(failed)?,
            Errand::Run { terminal: None, .. }
            | Errand::CopyIn { .. }
            | Errand::CopyOut { .. }
            | Errand::Connect { .. } => pipes(input).map_err(failed)?,
        };
        let mut errand = errand.clone();
        if let Errand::CopyIn { used_bytes, .. } = &mut errand {
            *used_bytes = self.usage(id)?.working_set_bytes;
        }
        let (control, there) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&self.0.config.shim);
        command
            .arg0(shim::NAME)
            .arg("enter")
            .arg(&self.dir(id).root)
            .env_clear()
            .current_dir("/")
            .stdin(Descriptor::from(OwnedFd::from(there)))
            .stdout(Descriptor::null())
            .stderr(Descriptor::null());
        let mut child = command.spawn().map_err(failed)?;
        // With it goes our copy of the socket's other end, so that its end is noticed.
        drop(command);
        let sent = send(&control, &theirs, &errand);
        drop(theirs);
        // It has only to split itself; what it made is no child of ours.
        child.wait().map_err(failed)?;
        sent.map_err(failed)?;
        Ok(Entered { control, stdio: ours })
    }
}

fn send(mut control: &UnixStream, stdio: &[OwnedFd; 3], errand: &Errand) -> io::Result<()> {
    let fds = stdio.each_ref().map(AsRawFd::as_raw_fd);
    let rights = [ControlMessage::ScmRights(&fds)];
    let one = [IoSlice::new(b"d")];
    sendmsg::<()>(control.as_raw_fd(), &one, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    let mut line = serde_json::to_vec(errand)?;
    line.push(b'\n');
    match control.write_all(&line) {
        // It refused before it had heard all, and said why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn pipes(input: bool) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let (stdin, to) = if input {
        let (stdin, to) = io::pipe()?;
        (OwnedFd::from(stdin), Some(to.into()))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (from_stdout, stdout) = io::pipe()?;
    let (from_stderr, stderr) = io::pipe()?;
    let ours = Stdio::Pipes { stdin: to, stdout: from_stdout.into(), stderr: from_stderr.into() };
    Ok((ours, [stdin, stdout.into(), stderr.into()]))
}

/// A terminal of the container's own, so that programs in it find the terminal that they have.
fn own_terminal(started: &Started) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let none = || io::Error::other("the container has no file systems of its own");
    let init = started.init_pid.ok_or_else(none)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{init}/root").as_str(), flags, Mode::empty())?;
    if procfs::stat(init)?.parent != started.shim_pid {
        return Err(io::Error::other("the container has ended"));
    }
    let (ours, theirs) = sys::open_terminal(&root, c"dev/pts/ptmx")?;
    // Its programs may open it by its name.
    let (uid, gid) = procfs::owner(started.pid)?;
    fchown(&theirs, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok((Stdio::Terminal(ours), [theirs.try_clone()?, theirs.try_clone()?, theirs]))
}

/// A terminal of the machine's.
fn terminal() -> io::Result<(Stdio, [OwnedFd; 3])> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    let theirs = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((Stdio::Terminal(OwnedFd::from(master)), theirs))
}
