//! The nursery: one process with one thread that makes the shims of a borglet by splitting itself.
//!
//! The daemon has threads and must not split itself, and to execute a binary of its size anew for
//! every task costs more than all the rest of a start: its memory has to be laid out and relocated
//! again. The nursery is executed once; a shim that it makes shares its memory with it, so that
//! each has little of its own.
//!
//! Invariant: the nursery lives no longer than its borglet; its shims are processes of nobody (own
//! session, own parent once the nursery is gone) and outlive both.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::unistd;

use super::{NAME, hold};
use crate::cgroup::{Hierarchies, SHIMS};
use crate::container::TaskDir;
use crate::container::syscalls::Filter;
use crate::sys;

/// Longest path the kernel takes, which is also the longest order.
const PATH_MAX: usize = 4096;
/// What a shim's command line is written over: long enough for any path.
const ROOM: usize = PATH_MAX + 64;

/// The borglet's end of a nursery. When it is dropped the nursery ends, and no shim does.
#[derive(Debug)]
pub(crate) struct Nursery {
    orders: OwnedFd,
    process: Child,
}

impl Nursery {
    /// Executes `shim` to be a nursery. Its shims are born into the shims' group of `cgroups`.
    pub(crate) fn open(shim: &Path, cgroups: Option<&Hierarchies>) -> io::Result<Self> {
        let (orders, taken) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let process = Command::new(shim)
            .arg0(NAME)
            .args(["nurse", &serde_json::to_string(&cgroups)?, &"-".repeat(ROOM)])
            .env_clear()
            .current_dir("/")
            .stdin(taken)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { orders, process })
    }

    /// Orders a shim for the container in `dir`. It holds `spec`, with the lock on it, and answers
    /// on `report`, which ends without an answer when no shim could be made. `network` is the container's
    /// own, if it has one.
    pub(crate) fn order(
        &self,
        dir: &Path,
        spec: BorrowedFd<'_>,
        report: BorrowedFd<'_>,
        network: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let words = [IoSlice::new(dir.as_os_str().as_bytes())];
        let files = [Some(spec), Some(report), network];
        let files: Vec<_> = files.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let files = [ControlMessage::ScmRights(&files)];
        // Not to be waited for: a nursery that takes no orders is as good as dead.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.orders.as_raw_fd(), &words, &files, flags, None)?;
        Ok(())
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // Its input ends only once it is killed or we are closed; it holds nothing that is lost.
        sys::never_mind(self.process.kill());
        sys::never_mind(self.process.wait());
    }
}

/// Lives the nursery's life: makes a shim for every order until the borglet is gone.
pub(super) fn nurse(cgroups: &str) -> ExitCode {
    match take_orders(cgroups) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(format_args!("the nursery ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn take_orders(cgroups: &str) -> io::Result<()> {
    let cgroups: Option<Hierarchies> = serde_json::from_str(cgroups)?;
    // Of a session of its own, a key that ends the borglet does not end what it is starting.
    unistd::setsid()?;
    nix::sys::prctl::set_name(c"borglet-nursery")?;
    let orders = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdin(&null)?;
    // Outside of the task's group, so as not to die of its memory limit; and outside of the
    // borglet's, so as not to die with it.
    let groups = cgroups.map(Hierarchies::driver);
    let home = groups.and_then(|groups| groups.birthplace(SHIMS).ok().flatten());
    // Shims find them made and known.
    Filter::usual();
    Filter::sharing();
    crate::procfs::boot_id();
    sys::prepare_command_line();
    // Nobody waits for shims: the kernel forgets those that ended.
    sys::set_handler(Signal::SIGCHLD, SigHandler::SigIgn)?;
    while let Some(order) = next_order(&orders)? {
        let made = sys::clone_process(0, home.as_ref());
        // No room for a process now: whoever waits for the shim sees its report end, and tries again.
        let Ok(made) = made.inspect_err(|e| super::complain(format_args!("no shim: {e}"))) else {
            continue;
        };
        if made.is_none() {
            drop(orders);
            sys::set_handler(Signal::SIGCHLD, SigHandler::SigDfl)?;
            let words = [NAME.as_bytes(), b"run", order.dir.as_os_str().as_bytes()];
            sys::set_command_line(&words);
            let dir = TaskDir { root: order.dir };
            hold::run(&dir, order.spec, order.report, order.network);
            // Not by the way out of `main`: everything there belongs to the nursery.
            sys::exit_now(0);
        }
    }
    Ok(())
}

struct Order {
    dir: PathBuf,
    spec: File,
    report: File,
    network: Option<OwnedFd>,
}

/// The next order, or `None` when the borglet is gone.
fn next_order(orders: &OwnedFd) -> io::Result<Option<Order>> {
    let mut path = vec![0; PATH_MAX];
    let mut space = cmsg_space!([i32; 3]);
    loop {
        let mut words = [IoSliceMut::new(&mut path)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(orders.as_raw_fd(), &mut words, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            message => message?,
        };
        let length = message.bytes;
        let files = sys::received_files(&message)?;
        if length == 0 {
            return Ok(None);
        }
        // Anything else is not of our making: whoever waits for it sees its report end.
        let mut files = files.into_iter();
        if let (Some(spec), Some(report)) = (files.next(), files.next()) {
            path.truncate(length);
            let dir = PathBuf::from(std::ffi::OsString::from_vec(path));
            let (spec, report, network) = (spec.into(), report.into(), files.next());
            return Ok(Some(Order { dir, spec, report, network }));
        }
    }
}
