//! This suite once more where cgroups are v2 with controllers: in a guest kernel.
//!
//! Debian's user-mode Linux boots in seconds, needs no rights, and sees this machine's files; the
//! guest gets them read-only. Its own are on tmpfs. As on a machine with systemd, the suite runs in
//! a group below the root of the tree.
//!
//! Left out in the guest: `two_hundred_containers_leave_nothing`, which takes minutes there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;

use super::machine::skip;

/// Says which cgroup layout a run of the suite must find, with nothing missing.
pub(crate) const EXPECTED: &str = "BORG_TEST_CGROUPS";

/// A guest takes half a minute on an idle machine; this is when something is stuck.
const LIMIT: Duration = Duration::from_secs(240);
const MEMORY_MIB: u64 = 768;
const ENDED: &str = "the suite in the guest ended with ";

/// The first process of the guest. `TARGET` is where the binaries are, which may be below /tmp.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs run /run -o mode=755
mkdir /run/target
mount --bind TARGET /run/target
mount -t tmpfs tmp /tmp -o mode=1777
mkdir -p TARGET /dev/shm
mount --bind /run/target TARGET
mount -t tmpfs shm /dev/shm -o mode=1777
mkdir -p /sys/fs/cgroup/system.slice/suite.service
echo $$ > /sys/fs/cgroup/system.slice/suite.service/cgroup.procs
cd /
export BORG_PRIVILEGED=1 BORG_TEST_CGROUPS=V2
SUITE --test-threads=4 --skip user_mode_linux --skip two_hundred_containers
echo "ENDED$?"
echo o > /proc/sysrq-trigger
sleep 5
"#;

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_str().unwrap().replace('\'', r"'\''"))
}

/// The guest's memory is a file that must be executable; on tmpfs it is fastest.
fn room_in_shm() -> bool {
    statvfs("/dev/shm").is_ok_and(|shm| {
        let free = shm.blocks_available().saturating_mul(shm.fragment_size());
        free > MEMORY_MIB << 20 && !shm.flags().contains(FsFlags::ST_NOEXEC)
    })
}

/// The guest's processes are processes here, in a group of their own.
struct Guest(Child);

impl Guest {
    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = killpg(self.group(), Signal::SIGKILL) {
            eprintln!("the guest is not killed: {error}");
        }
        drop(self.0.wait());
    }
}

fn boot(linux: &Path, dir: &Path) -> Guest {
    let suite = std::env::current_exe().unwrap();
    let borglet = Path::new(env!("CARGO_BIN_EXE_borglet")).canonicalize().unwrap();
    let target = borglet.parent().unwrap();
    assert!(suite.starts_with(target), "{} is elsewhere", suite.display());
    let init = INIT
        .replace("TARGET", &quoted(target))
        .replace("SUITE", &quoted(&suite))
        .replace("ENDED", ENDED);
    let script = dir.join("init");
    fs::write(&script, init).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(linux);
    command
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con=null", "con0=null,fd:1", "console=tty0"])
        .arg(format!("mem={MEMORY_MIB}M"))
        .arg(format!("init={}", script.display()))
        .arg(format!("uml_dir={}", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    if !room_in_shm() {
        command.env("TMPDIR", dir);
    }
    Guest(command.spawn().unwrap())
}

#[test]
fn user_mode_linux_runs_this_suite_on_cgroups_v2() {
    let Some(linux) = in_path("linux.uml") else {
        return skip("no linux.uml, which Debian has in the package user-mode-linux");
    };
    let dir = tempfile::tempdir().unwrap();
    let mut guest = boot(&linux, dir.path());
    let console = BufReader::new(guest.0.stdout.take().unwrap());
    let group = guest.group();
    let (over, until) = channel::<()>();
    std::thread::spawn(move || {
        if until.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            killpg(group, Signal::SIGKILL).unwrap();
        }
    });
    let mut said = String::new();
    let mut code = None;
    for line in console.lines().map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if let Some((_, ended)) = line.split_once(ENDED) {
            code = Some(ended.trim().to_owned());
            break;
        }
    }
    drop(over);
    drop(guest);
    assert_eq!(code.as_deref(), Some("0"), "within {LIMIT:?} the guest said:\n{said}");
    assert!(said.contains("test limits::a_processor_cap_holds"), "it ran nothing:\n{said}");
}
