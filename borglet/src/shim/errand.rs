//! What a session does in a container without a program of the container's: copy files, connect to a port.
//!
//! Runs with the task's rights in the task's view of the machine, so it can reach nothing that the task itself
//! could not. Says on standard error what went wrong.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;

use borg_archive::{ArchiveError, Bounds, Summary, pack, unpack};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::sys;

/// What a copy leaves of the task's memory when it goes there: a part of what was left. An eighth, our choice.
const SPARED_PART: u64 = 8;

/// Unpacks standard input at a path. Of the task's memory, where its `/tmp` is, `memory_left` bytes are left: a
/// copy that needs more would end the task.
pub(super) fn copy_in(path: &Path, memory_left: Option<u64>) -> ! {
    let mut bounds = Bounds::default();
    if let Some(left) = memory_left.filter(|_| is_memory(path)) {
        bounds.bytes = bounds.bytes.min(left - left / SPARED_PART);
        let copied = unpack(io::stdin().lock(), path, &bounds);
        if let Err(ArchiveError::TooMuch { what: "bytes", most }) = copied {
            tell(&format!(
                "{} is memory of the task, which has room for {most} bytes more: copy to its own directory",
                path.display()
            ));
            sys::exit_now(1);
        }
        finish(copied)
    }
    finish(unpack(io::stdin().lock(), path, &bounds))
}

/// Whether what is written there stays in memory.
fn is_memory(path: &Path) -> bool {
    let found = statfs(path).or_else(|_| {
        let up = path.parent().filter(|up| !up.as_os_str().is_empty());
        statfs(up.unwrap_or(Path::new(".")))
    });
    found.is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Packs a path to standard output.
pub(super) fn copy_out(path: &Path) -> ! {
    finish(pack(path, io::stdout().lock(), &Bounds::default()))
}

fn finish(done: Result<Summary, ArchiveError>) -> ! {
    let code = match done {
        Ok(summary) => {
            for left_out in summary.left_out {
                tell(&format!("left out: {left_out}"));
            }
            0
        }
        Err(error) => {
            tell(&error.to_string());
            1
        }
    };
    sys::exit_now(code)
}

/// Passes standard input on to a port of the task, and what comes from there to standard output, until both
/// ends have said all. Whoever does not listen on the loopback may listen on the task's own `address`.
pub(super) fn connect(port: u16, address: Option<Ipv4Addr>) -> ! {
    let connect = |to: Ipv4Addr| TcpStream::connect((to, port));
    let connected =
        connect(Ipv4Addr::LOCALHOST).or_else(|error| address.map_or(Err(error), connect));
    let code = match connected.and_then(|to| relay(&to)) {
        Ok(()) => 0,
        Err(error) => {
            tell(&format!("port {port}: {error}"));
            1
        }
    };
    sys::exit_now(code)
}

fn relay(to: &TcpStream) -> io::Result<()> {
    to.set_nodelay(true)?;
    let mut there = to.try_clone()?;
    let going = std::thread::Builder::new().spawn(move || {
        let copied = io::copy(&mut io::stdin().lock(), &mut there);
        sys::never_mind(there.shutdown(Shutdown::Write));
        copied
    })?;
    let mut from = to;
    let mut out = io::stdout().lock();
    io::copy(&mut from, &mut out)?;
    out.flush()?;
    drop(out);
    // Whoever listens is told that no more comes, while he may still have something to say.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    going.join().map_err(|_| io::Error::other("the copying thread panicked"))??;
    Ok(())
}

fn tell(words: &str) {
    drop(writeln!(io::stderr(), "{words}"));
}
