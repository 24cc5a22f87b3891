//! A session with a running task: one more process in its container, made and watched from within.
//!
//! Three processes. The one that the borglet executes takes the descriptors and the words, joins the task's
//! groups and namespaces, makes the watcher inside and is gone. The watcher is in the task's process table and
//! counts in its limits; it adopts whatever the command leaves running and kills all of it when the command is
//! over or the borglet lets go of the control socket, which closes however a borglet, a master or a client
//! dies. The command has the rights of the task's own program and no others.
//!
//! What is said on the control socket, to here: first the descriptors with one byte, then the request as one
//! line, then a byte for each signal. From here: lines, see [`Word`].
//!
//! Invariant: nothing that the session made outlives the control socket while its watcher lives, and when the
//! task's process table ends, so does the session. Only where tasks are root of the machine itself can they end a
//! watcher; what its session left then ends with the task.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, Pid};
use serde::{Deserialize, Serialize};

use super::errand;
use super::{ShimSpec, complain};
use crate::container::program::{self, Setting};
use crate::container::{ContainerSpec, Record, StartError, TaskDir};
use crate::sys::{self, Child, Ending};
use crate::{cgroup, procfs};

/// What is to be done in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// Run a command.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
        /// The kind of its terminal, when the descriptors are one.
        terminal: Option<String>,
    },
    /// Unpack the archive that comes in at a path.
    CopyIn {
        /// Where, as the task sees it; relative to its own directory.
        path: PathBuf,
        /// Memory that the task uses already, in bytes: what it sees of files in memory counts too.
        #[serde(default)]
        used_bytes: u64,
    },
    /// Pack what is at a path.
    CopyOut {
        /// Where, as the task sees it; relative to its own directory.
        path: PathBuf,
    },
    /// Connect to a port on the task's own loopback, and pass on both directions.
    Connect {
        /// Which.
        port: u16,
    },
}

/// What a session says to the borglet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The errand is under way.
    Begun,
    /// It could not be begun, and nothing of it is left.
    Refused(StartError),
    /// It is over, and nothing of it is left.
    Exited(i32),
    /// A signal ended it, and nothing of it is left.
    Signalled(i32),
}

/// The capability to send signals to others' processes (number 5, linux/capability.h), as a mask.
const KILL: u64 = 1 << 5;
/// Longest request: 64 KiB of words, each byte written as six at most.
const REQUEST_BYTES: u64 = 512 << 10;
/// How often, 2 ms apart, ending processes are looked for before we give up on them.
const END_TRIES: u32 = 2_500;

/// Enters a container. Descriptor 0 is the control socket.
pub(super) fn run(dir: &TaskDir) -> ExitCode {
    let control = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => UnixStream::from(control),
        Err(error) => {
            complain(format_args!("no control socket: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut answer = match control.try_clone() {
        Ok(answer) => answer,
        Err(error) => {
            complain(format_args!("no control socket: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match enter(dir, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut answer, &Word::Refused(error));
            ExitCode::FAILURE
        }
    }
}

/// Says a word. The borglet may be gone; then nobody wants to hear it.
fn say(control: &mut UnixStream, word: &Word) {
    let line = serde_json::to_string(word).unwrap_or_default();
    drop(writeln!(control, "{line}"));
}

/// What a session holds.
struct Session {
    control: UnixStream,
    stdio: [OwnedFd; 3],
    errand: Errand,
    spec: ShimSpec,
    /// The task's own directory.
    work: PathBuf,
    /// The task's first process.
    first: OwnedFd,
    /// Its namespaces that pid 1 of the container does not share.
    own: CloneFlags,
}

/// Up to the watcher, which never returns from here.
fn enter(dir: &TaskDir, control: UnixStream) -> Result<(), StartError> {
    let trouble = |step: &'static str| move |e: io::Error| StartError::machine(step, e);
    let null = File::open("/dev/null").map_err(trouble("open /dev/null"))?;
    unistd::dup2_stdin(&null).map_err(|e| trouble("let go of stdin")(e.into()))?;
    let (stdio, errand) = take_request(&control).map_err(trouble("take the request"))?;
    let gone = || StartError::machine("enter the container", "the task has ended");
    let record: Option<Record<ShimSpec>> = dir.read().map_err(trouble("read its record"))?;
    let Some(Record { asked: Some(spec), started: Some(started), .. }) = record else {
        return Err(gone());
    };
    // Pid 1 of the container lives as long as the container, whatever becomes of the first process.
    let pid = started.init_pid.unwrap_or(started.pid);
    let task = sys::pidfd_open(pid).map_err(|_| gone())?;
    let stat = procfs::stat(pid).map_err(|_| gone())?;
    let is_it = match started.init_pid {
        Some(_) => stat.parent == started.shim_pid,
        None => stat.start_ticks == started.start_ticks,
    };
    if !is_it || started.boot_id != procfs::boot_id() {
        return Err(gone());
    }
    let groups = spec.cgroups.clone().map(cgroup::Hierarchies::driver);
    let id = spec.container.id.as_str();
    let join = |e: cgroup::CgroupError| StartError::machine("join the cgroup", e.in_full());
    if let Some(groups) = &groups {
        groups.join(id, unistd::getpid().as_raw()).map_err(join)?;
    }
    let work = dir.work();
    let first = sys::pidfd_open(started.pid).map_err(|_| gone())?;
    if procfs::stat(started.pid).map_err(|_| gone())?.start_ticks != started.start_ticks {
        return Err(gone());
    }
    let differing = |pid| differing_namespaces(pid).map_err(trouble("look at the namespaces"));
    let namespaces = differing(pid)?;
    let own = differing(started.pid)?.difference(namespaces);
    if !namespaces.is_empty() {
        // All at once: the kernel then judges by the user namespace that is among them.
        nix::sched::setns(&task, namespaces)
            .map_err(|e| StartError::machine("enter the namespaces", e))?;
    }
    unistd::setsid().map_err(|e| StartError::machine("start a session", e))?;
    unistd::chdir("/").map_err(|e| StartError::machine("change to /", e))?;
    let watcher =
        sys::clone_process(0, None).map_err(trouble("make a process in the container"))?;
    if watcher.is_some() {
        return Ok(());
    }
    drop(task);
    Session { control, stdio, errand, spec, work, first, own }.live()
}

/// The descriptors and the words of the borglet.
fn take_request(control: &UnixStream) -> io::Result<([OwnedFd; 3], Errand)> {
    let mut byte = [0];
    let mut buffer = nix::cmsg_space!([i32; 3]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = nix::sys::socket::MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        nix::sys::socket::recvmsg::<()>(control.as_raw_fd(), &mut parts, Some(&mut buffer), flags)?;
    let taken = sys::received_files(&message)?;
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let stdio = <[OwnedFd; 3]>::try_from(taken).map_err(|_| wrong("not three descriptors"))?;
    let mut line = Vec::new();
    let mut reader = control.take(REQUEST_BYTES);
    // Byte by byte: what comes after the line is for the watcher.
    let mut byte = [0];
    loop {
        reader.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok((stdio, serde_json::from_slice(&line)?));
        }
        line.push(byte[0]);
    }
}

/// The namespaces of a process that are not ours.
fn differing_namespaces(pid: i32) -> io::Result<CloneFlags> {
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ];
    let mut differing = CloneFlags::empty();
    for (name, flag) in kinds {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}"));
        match (of("self"), of(&pid.to_string())) {
            (Ok(own), Ok(other)) if own != other => differing |= flag,
            (Ok(_), Ok(_)) => {}
            // A kernel without this kind.
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
    Ok(differing)
}

impl Session {
    /// The watcher's life.
    fn live(mut self) -> ! {
        let word = match self.begin() {
            Err(error) => Word::Refused(error),
            Ok(child) => {
                say(&mut self.control, &Word::Begun);
                let ending = self.watch(&child);
                match ending {
                    Ending::Code(code) => Word::Exited(code),
                    Ending::Signal(signal) => Word::Signalled(signal),
                }
            }
        };
        end_all();
        say(&mut self.control, &word);
        sys::exit_now(0)
    }

    fn begin(&mut self) -> Result<Child, StartError> {
        let trouble = |step: &'static str| move |e: Errno| StartError::machine(step, e);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
            .map_err(trouble("block signals"))?;
        nix::sys::prctl::set_child_subreaper(true).map_err(trouble("adopt what is left"))?;
        sys::never_mind(nix::sys::prctl::set_name(c"borglet-session"));
        // A task of the same user must not reach our memory. Until here only root could.
        sys::never_mind(nix::sys::prctl::set_dumpable(false));
        let (notes, notes_in) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(trouble("make a pipe"))?;
        let watcher = unistd::getpid().as_raw();
        let child = sys::clone_process(0, None)
            .map_err(|e| StartError::machine("make the session's process", e))?;
        let Some(child) = child else {
            drop(notes);
            self.become_errand(watcher, File::from(notes_in))
        };
        drop(notes_in);
        if self.spec.drop_capabilities {
            // Enough to end what the session made, whosoever ids that has.
            sys::keep_capabilities(KILL)
                .map_err(|e| StartError::machine("drop capabilities", e))?;
        }
        self.let_go_of_stdio()?;
        let mut said = String::new();
        File::from(notes)
            .read_to_string(&mut said)
            .map_err(|e| StartError::machine("hear of the session's process", e))?;
        if said.is_empty() {
            return Ok(child);
        }
        Err(serde_json::from_str(&said)
            .unwrap_or_else(|_| StartError::machine("start", "the session's process died")))
    }

    /// With the ends of whoever uses them, input and output end.
    fn let_go_of_stdio(&mut self) -> Result<(), StartError> {
        let null = File::open("/dev/null").map_err(|e| StartError::machine("open /dev/null", e))?;
        for fd in &mut self.stdio {
            *fd = null.try_clone().map_err(|e| StartError::machine("let go", e))?.into();
        }
        Ok(())
    }

    /// The errand's life; that it could not be begun goes to the watcher as a note.
    fn become_errand(&mut self, watcher: i32, mut notes: File) -> ! {
        let spec = &self.spec.container;
        let (spec, terminal) = match &self.errand {
            Errand::Run { argv, terminal } => {
                let mut spec = ContainerSpec { argv: argv.clone(), ..spec.clone() };
                if let Some(kind) = terminal {
                    spec.env.push(("TERM".into(), kind.clone()));
                }
                (spec, terminal.is_some())
            }
            Errand::CopyIn { .. } | Errand::CopyOut { .. } | Errand::Connect { .. } => {
                (spec.clone(), false)
            }
        };
        let error = match (self.prepare(&spec, terminal, watcher, &notes), &self.errand) {
            (Err(error), _) => error,
            (Ok(()), Errand::Run { .. }) => {
                let path = program::path_of(&spec);
                program::execute(&spec, &self.work, &path, self.spec.namespaces)
            }
            (Ok(()), Errand::CopyIn { path, used_bytes }) => {
                drop(notes);
                let left = (!spec.soft_memory).then(|| spec.ram_bytes.saturating_sub(*used_bytes));
                errand::copy_in(path, left)
            }
            (Ok(()), Errand::CopyOut { path }) => {
                drop(notes);
                errand::copy_out(path)
            }
            (Ok(()), Errand::Connect { port }) => {
                drop(notes);
                errand::connect(*port, self.spec.container.address)
            }
        };
        error.tell(&mut notes);
        sys::exit_now(1)
    }

    fn prepare(
        &self,
        spec: &ContainerSpec,
        terminal: bool,
        watcher: i32,
        notes: &File,
    ) -> Result<(), StartError> {
        let step = |name: &'static str| move |e: Errno| StartError::machine(name, e);
        unistd::setsid().map_err(step("start a session"))?;
        let [stdin, stdout, stderr] = &self.stdio;
        unistd::dup2_stdin(stdin).map_err(step("connect stdin"))?;
        unistd::dup2_stdout(stdout).map_err(step("connect stdout"))?;
        unistd::dup2_stderr(stderr).map_err(step("connect stderr"))?;
        if terminal {
            sys::take_terminal().map_err(|e| StartError::machine("take the terminal", e))?;
        }
        if !self.own.is_empty() {
            nix::sched::setns(&self.first, self.own).map_err(step("enter its user namespace"))?;
        }
        // A path of the task's may lead through /proc to what is still open here.
        sys::close_all_but(&[notes.as_fd()]);
        // Behind a Landlock fence of its own it could not look into the task's processes, which is what
        // people come for: what is behind one fence sees nothing of what is behind another.
        let setting = self.spec.setting(self.work.clone())?;
        program::confine(&Setting { spec, fence: None, ..setting })?;
        sys::die_with_parent().map_err(|e| StartError::machine("bind to the session", e))?;
        if unistd::getppid().as_raw() != watcher {
            return Err(StartError::machine("bind to the session", "it is over"));
        }
        sys::reset_signals();
        Ok(())
    }

    /// Waits for the end of the errand, passing signals on; ends it when the borglet lets go.
    fn watch(&mut self, child: &Child) -> Ending {
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let Ok(signals) = SignalFd::with_flags(&wanted, flags) else { return Ending::Signal(9) };
        loop {
            while let Ok(Some((pid, ending))) = sys::wait_any(false) {
                if pid == child.pid {
                    return ending;
                }
            }
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Ending::Signal(9),
            }
            let told = fds[0].any().unwrap_or(true);
            while let Ok(Some(_)) = signals.read_signal() {}
            if told {
                let mut byte = [0];
                match (&self.control).read(&mut byte) {
                    Ok(1) => pass_on(child, byte[0]),
                    Ok(_) | Err(_) => return Ending::Signal(9),
                }
            }
        }
    }
}

fn pass_on(child: &Child, signal: u8) {
    sys::never_mind(sys::pidfd_signal(&child.pidfd, signal.into()));
}

/// Kills all that the session made: whatever its command left running is a descendant of the watcher.
fn end_all() {
    for _ in 0..END_TRIES {
        for pid in procfs::descendants(unistd::getpid().as_raw()) {
            sys::never_mind(kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
        match sys::wait_any(false) {
            Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => sys::pause_ms(2),
        }
    }
}
