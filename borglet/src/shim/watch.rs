//! Holding a running task: its output into its logs, its end into figures.
//!
//! One poll loop: two pipes, the shim's own signals, and the kernel's notice that memory ran out.
//! SIGTERM to the shim means: kill the task, all of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::birth::decode;
use super::{ShimSpec, complain};
use crate::cgroup::CgroupDriver;
use crate::lease::Lease;
use crate::logs::LogWriter;
use crate::procfs;
use crate::sys::{self, Child, Ending};

/// Bytes copied at once, the size of a pipe.
const COPY: usize = 65_536;

/// Wait between two kills of a task whose lease ran out, in milliseconds.
const LEASE_AGAIN_MS: u64 = 100;
/// Longest sleep under a lease, in milliseconds: a wait is not counted while the machine sleeps, a
/// lease is. Ours; costs one wake-up a second for each exclusive task.
const LONGEST_WAIT_MS: u64 = 1_000;

/// Pause after output that was dropped, in milliseconds. Ours: a flood then costs us the copying of 64 MiB a
/// second, not of all that a processor can make; the task waits meanwhile.
const REST_MS: u64 = 1;

/// Pieces read of each output once no process of the task is left: what its pipe can hold at most (1 MiB,
/// pipe(7)).
const LAST_PIECES: usize = (1 << 20) / COPY;

/// How often, 2 ms apart, ending processes are looked for before we give up on them.
const END_TRIES: u32 = 2_500;

/// A task and all that the shim needs to see it through.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    child: Child,
    spec: &'a ShimSpec,
    groups: Option<&'a dyn CgroupDriver>,
    streams: Vec<LogStream>,
    endings: OwnedFd,
    oom: Option<OwnedFd>,
    signals: SignalFd,
    out_of_memory: bool,
    lease: Option<Lease>,
    fenced: bool,
}

#[derive(Debug)]
struct LogStream {
    pipe: File,
    log: LogWriter,
    /// Whether a write failed; said once.
    failing: bool,
    /// Not read before this moment, in milliseconds since boot: it comes too fast.
    rests_until: u64,
}

/// How a task ended, in figures.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) out_of_memory: bool,
    pub(super) fenced: bool,
    /// Processor time in milliseconds, most memory in bytes.
    pub(super) totals: (u64, u64),
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        child: Child,
        spec: &'a ShimSpec,
        groups: Option<&'a dyn CgroupDriver>,
        outputs: [(OwnedFd, LogWriter); 2],
        endings: OwnedFd,
        oom: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGTERM);
        wanted.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&wanted, flags)?;
        fcntl(&endings, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut streams = Vec::with_capacity(2);
        for (pipe, log) in outputs {
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            streams.push(LogStream { pipe: pipe.into(), log, failing: false, rests_until: 0 });
        }
        let lease = spec.container.lease.clone();
        Ok(Self {
            child,
            spec,
            groups,
            streams,
            endings,
            oom,
            signals,
            out_of_memory: false,
            lease,
            fenced: false,
        })
    }

    /// Pid of the shim's own child: the container's init, or the task itself.
    pub(super) fn child_pid(&self) -> i32 {
        self.child.pid
    }

    /// Watches until no process of the task is left.
    pub(super) fn until_the_end(mut self) -> Ended {
        // Of memory that is touched by output alone.
        let mut buffer = Vec::with_capacity(COPY);
        let ending = loop {
            if let Err(error) = self.turn(&mut buffer) {
                complain(format_args!("cannot watch any more, killing the task: {error}"));
                self.kill_all();
            }
            if let Some(ending) = self.collect() {
                break ending;
            }
        };
        self.finish(ending, &mut buffer)
    }

    /// Kills a task that never got going.
    pub(super) fn give_up(self) -> Ended {
        self.kill_all();
        let mut ending = None;
        for _ in 0..END_TRIES {
            ending = self.collect();
            if ending.is_some() {
                break;
            }
            sys::pause_ms(2);
        }
        self.finish(ending.unwrap_or(Ending::Signal(9)), &mut Vec::with_capacity(COPY))
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.oom.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let first_stream = fds.len();
        let now = sys::boot_time_ms();
        let rests = |stream: &LogStream| stream.rests_until > now;
        let flags = |rests| if rests { PollFlags::empty() } else { PollFlags::POLLIN };
        let pipes = self.streams.iter();
        fds.extend(pipes.map(|stream| PollFd::new(stream.pipe.as_fd(), flags(rests(stream)))));
        // A lease that ran out is looked at again and again: a kill may have had no effect.
        let wait = self.lease.as_mut().map(|lease| match lease.left(sys::boot_time_ms()) {
            0 => LEASE_AGAIN_MS,
            left => left.min(LONGEST_WAIT_MS),
        });
        let rest = self.streams.iter().any(rests).then_some(REST_MS);
        let wait = wait.into_iter().chain(rest).min();
        let wait = wait.and_then(|ms| PollTimeout::try_from(ms).ok());
        match poll(&mut fds, wait.unwrap_or(PollTimeout::NONE)) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            polled => polled?,
        };
        let over = self.lease.as_mut().is_some_and(|lease| lease.left(sys::boot_time_ms()) == 0);
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let mut open = Vec::with_capacity(2);
        for (mut stream, ready) in self.streams.drain(..).zip(&ready[first_stream..]) {
            if !ready || stream.copy(buffer) != Copied::End {
                open.push(stream);
            } else {
                stream.finish();
            }
        }
        self.streams = open;
        if over {
            self.fenced = true;
            self.kill_all();
        }
        if first_stream > 1 && ready[1] {
            self.out_of_memory = true;
            self.oom = None;
            self.kill_all();
        }
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.kill_all();
            }
        }
        Ok(())
    }

    /// Collects all children that ended, and says when the one that matters did.
    fn collect(&self) -> Option<Ending> {
        let mut own = None;
        while let Ok(Some((pid, ending))) = sys::wait_any(false) {
            if pid == self.child.pid {
                own = Some(ending);
            }
        }
        if self.spec.namespaces && own.is_some() {
            let mut said = [0; 5];
            let length = nix::unistd::read(&self.endings, &mut said).unwrap_or(0);
            // An init that was killed says nothing; its end is then the task's.
            return decode(&said[..length]).or(own);
        }
        own
    }

    /// Kills every process of the task, by each means there is.
    fn kill_all(&self) {
        if let Some(groups) = self.groups
            && let Err(error) = groups.kill_all(self.spec.container.id.as_str())
        {
            complain(error.in_full());
        }
        if self.spec.namespaces {
            // Pid 1 takes its whole process table with it.
            drop(sys::pidfd_signal(&self.child.pidfd, Signal::SIGKILL as i32));
        } else {
            for pid in procfs::descendants(getpid().as_raw()) {
                sys::never_mind(kill(Pid::from_raw(pid), Signal::SIGKILL));
            }
        }
    }

    /// Makes sure that nothing is left, empties the pipes, and takes the figures.
    fn finish(mut self, ending: Ending, buffer: &mut Vec<u8>) -> Ended {
        if !self.spec.namespaces {
            self.end_orphans();
        }
        for stream in &mut self.streams {
            // Somebody outside of the task may hold its end of the pipe and write for ever.
            for _ in 0..LAST_PIECES {
                if stream.copy(buffer) != Copied::Some {
                    break;
                }
            }
            stream.finish();
        }
        let name = self.spec.container.id.as_str();
        let totals = self.groups.and_then(|groups| groups.totals(name).ok());
        let kills = self.groups.map_or(0, |groups| groups.oom_kills(name).unwrap_or(0));
        Ended {
            ending,
            out_of_memory: self.out_of_memory || kills > 0,
            fenced: self.fenced,
            totals: totals.unwrap_or_else(collected_totals),
        }
    }

    /// Without a process table of its own, what the task left running is now ours by adoption.
    fn end_orphans(&self) {
        for _ in 0..END_TRIES {
            match sys::wait_any(false) {
                Err(_) => return,
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.kill_all();
                    sys::pause_ms(2);
                }
            }
        }
        complain("some processes of the task would not die");
    }
}

/// Figures of the children collected so far, where there is no cgroup to ask.
fn collected_totals() -> (u64, u64) {
    let Ok(used) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return (0, 0) };
    let ms = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1000 + time.tv_usec() / 1000).unwrap_or(0)
    };
    let most = u64::try_from(used.max_rss()).unwrap_or(0) * 1024;
    (ms(used.user_time()) + ms(used.system_time()), most)
}

#[derive(Debug, PartialEq, Eq)]
enum Copied {
    Some,
    NothingYet,
    End,
}

impl LogStream {
    /// Nothing more comes.
    fn finish(&mut self) {
        if let Err(error) = self.log.finish(sys::wall_clock_ms()) {
            complain(format_args!("output is being lost: {error}"));
        }
    }

    /// Moves one piece from the pipe to the log. A log that cannot be written loses the piece: the
    /// task must not stop for it.
    fn copy(&mut self, buffer: &mut Vec<u8>) -> Copied {
        buffer.clear();
        match rustix::io::read(&self.pipe, spare_capacity(buffer)) {
            Ok(0) => Copied::End,
            Ok(_) => {
                let now = sys::boot_time_ms();
                let written = self.log.append(buffer, now, sys::wall_clock_ms());
                if matches!(written, Ok(false)) {
                    self.rests_until = now + REST_MS;
                }
                if let (Err(error), false) = (&written, self.failing) {
                    complain(format_args!("output is being lost: {error}"));
                }
                self.failing = written.is_err();
                Copied::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Copied::NothingYet,
            Err(_) => Copied::End,
        }
    }
}
