//! Ways out of a container that were found elsewhere: each is tried inside one, and none may work.
//!
//! The probes run in this very program, executed in the container; what they find is compared with
//! what the kernel should answer. A probe that is refused for another reason than isolation (a missing
//! file, say) would prove nothing, so the errors are compared, not only counted.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use borg_proto::Privilege;
use borglet::container::{Bind, ContainerSpec, StartError, Workdir};
use nix::libc::{self, c_long};

use super::machine::{Machine, exited, id};

/// Tells this program that it is the one inside: the port it may listen on, one it may not, the name of a
/// socket of the machine, a process of it, whether it may make any call, and a directory of the machine that
/// is the task's to write.
const INSIDE: &str = "BORG_TEST_ESCAPE";
/// Namespaces that a task could hide in or gain rights by (linux/sched.h).
const NAMESPACES: [(&str, c_long); 7] = [
    ("mount", 0x2_0000),
    ("cgroup", 0x200_0000),
    ("uts", 0x400_0000),
    ("ipc", 0x800_0000),
    ("user", 0x1000_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
];

/// Says how a system call of up to four arguments ended.
fn call(number: c_long, args: [c_long; 4]) -> String {
    // SAFETY: every probe passes integers, null or a string that outlives the call; those that would
    // change this process in a way that Rust does not expect are refused, or the test has failed.
    #[expect(unsafe_code, reason = "a probe tries what no safe wrapper offers")]
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], 0) };
    if result >= 0 { "works".to_owned() } else { word(&io::Error::last_os_error()) }
}

fn word(error: &io::Error) -> String {
    let errno = error.raw_os_error().unwrap_or(0);
    nix::errno::Errno::from_raw(errno).to_string().split(':').next().unwrap_or("?").to_owned()
}

fn said<T>(result: io::Result<T>) -> String {
    result.map_or_else(|error| word(&error), |_| "works".to_owned())
}

fn write_to(path: &str, text: &str) -> String {
    let open = OpenOptions::new().write(true).open(path);
    said(open.and_then(|mut file| file.write_all(text.as_bytes())))
}

/// Name of each probe, and what it found.
fn probes() -> Vec<(String, String)> {
    let told = std::env::var(INSIDE).unwrap();
    let told: Vec<&str> = told.split(' ').collect();
    let [own_port, other_port, socket, process, any_call, shared] = told.as_slice() else {
        panic!("{told:?}")
    };
    let any_call = *any_call == "any-call";
    let (root, tmpfs) = (CString::new("/").unwrap(), CString::new("tmpfs").unwrap());
    let (root, tmpfs) = (root.as_ptr() as c_long, tmpfs.as_ptr() as c_long);
    let process: c_long = process.parse().unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    let mut tell = |name: &str, what: String| found.push((name.to_owned(), what));
    for (name, number, args) in [
        ("mount", libc::SYS_mount, [tmpfs, root, tmpfs, 0]),
        ("umount", libc::SYS_umount2, [root, 2, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [root, root, 0, 0]),
        ("chroot", libc::SYS_chroot, [root, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [-100, root, 1, 0]),
        ("fsopen", libc::SYS_fsopen, [tmpfs, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-100, root, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [root, root, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [root, 1, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [root, 0, 0, 0]),
        ("quotactl", libc::SYS_quotactl, [0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [3, 0, 0, 0]),
        ("acct", libc::SYS_acct, [0, 0, 0, 0]),
        ("ptrace of init", libc::SYS_ptrace, [16, 1, 0, 0]),
        ("kill of init", libc::SYS_kill, [1, 9, 0, 0]),
        ("kill of a process of the machine", libc::SYS_kill, [process, 9, 0, 0]),
    ] {
        tell(name, call(number, args));
    }
    let mut byte = [0u8];
    let mut here = [io::IoSliceMut::new(&mut byte)];
    let there = [nix::sys::uio::RemoteIoVec { base: 0x40_0000, len: 1 }];
    let init = nix::unistd::Pid::from_raw(1);
    let read = nix::sys::uio::process_vm_readv(init, &mut here, &there);
    tell("memory of init", said(read.map_err(io::Error::from)));
    for (name, flag) in NAMESPACES {
        // Where the filter lets them pass they would change who asks all other questions.
        if !any_call {
            tell(&format!("unshare {name}"), call(libc::SYS_unshare, [flag, 0, 0, 0]));
            tell(&format!("clone {name}"), call(libc::SYS_clone, [flag | 17, 0, 0, 0]));
        }
    }
    tell("clone3", call(libc::SYS_clone3, [0, 0, 0, 0]));
    for (name, family, kind, protocol) in [
        ("packet socket", libc::AF_PACKET, libc::SOCK_RAW, 1),
        ("raw socket", libc::AF_INET, libc::SOCK_RAW, 1),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("crypto socket", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        // Both listen on ports that Landlock does not look at.
        ("multipath TCP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        ("SCTP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        ("sockets of others", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG),
        ("audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
    ] {
        tell(name, call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0]));
    }
    let about = fs::read_to_string("/proc/self/status").unwrap();
    tell("umask", about.lines().find_map(|line| line.strip_prefix("Umask:\t")).unwrap().to_owned());
    let protected = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    tell("protection from the kernel's choice", protected.trim().to_owned());
    let listen = |port: u16| said(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    tell("own port", listen(own_port.parse().unwrap()));
    tell("port of the kernel's choice", listen(0));
    tell("port of another", listen(other_port.parse().unwrap()));
    tell("port below 1024", listen(79));
    let abstract_socket = SocketAddr::from_abstract_name(socket).unwrap();
    tell("socket of the machine", said(UnixStream::connect_addr(&abstract_socket)));
    let (set_id, made) = (fs::Permissions::from_mode(0o4755), Path::new(shared).join("made"));
    fs::write(&made, "x").unwrap();
    tell("a program of root's for all", said(fs::set_permissions(&made, set_id)));
    let mut makes = OpenOptions::new();
    let by_making =
        makes.write(true).create_new(true).mode(0o4755).open(made.with_extension("set"));
    tell("making a program of root's for all", said(by_making));
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok);
    let others = groups.filter(|entry| entry.file_name().to_string_lossy().starts_with("borg"));
    tell("groups of other tasks", others.count().to_string());
    let device = CString::new("/tmp/disk").unwrap();
    let block = c_long::from(libc::S_IFBLK | 0o600);
    let disk = libc::makedev(254, 0).cast_signed();
    tell("make a disk", call(libc::SYS_mknodat, [-100, device.as_ptr() as c_long, block, disk]));
    for path in ["/proc/kcore", "/proc/1/environ", "/proc/1/mem", "/etc/shadow", "/dev/mem"] {
        tell(path, said(File::open(path)));
    }
    tell("root of init", said(fs::read_dir(Path::new("/proc/1").join("root"))));
    let exe = fs::read_link("/proc/self/exe").unwrap();
    tell("own program", write_to(exe.to_str().unwrap(), "x"));
    tell("own program by /proc", write_to("/proc/self/exe", "x"));
    for path in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches"]
    {
        tell(path, write_to(path, "x"));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    for line in mounts.lines().filter(|line| line.contains(" cgroup")) {
        let at = line.split(' ').nth(1).unwrap();
        tell("leave the cgroup", write_to(&format!("{at}/cgroup.procs"), "0"));
        tell("make a cgroup", said(fs::create_dir(format!("{at}/escape"))));
    }
    let input = io::stdin();
    let typing = call(libc::SYS_ioctl, [input.as_raw_fd().into(), 0x5412, root, 0]);
    tell("type into the terminal", typing);
    if any_call {
        // By another program: the kernel lets nobody with threads do it.
        let made = Command::new("unshare").args(["--user", "true"]).status();
        let made = made.is_ok_and(|status| status.success());
        tell("unshare user", if made { "works" } else { "refused" }.to_owned());
    }
    found
}

/// What each probe must find in a container that loosens nothing; several where kernels differ.
pub(crate) fn expected(name: &str) -> &'static [&'static str] {
    match name {
        "own port" | "port of the kernel's choice" => &["works"],
        "clone3" => &["ENOSYS"],
        "groups of other tasks" => &["0"],
        "umask" => &["0022"],
        "protection from the kernel's choice" => &["0"],
        // A signal of a task to its init has no effect, or is refused.
        "kill of init" => &["EPERM"],
        "kill of a process of the machine" => &["ESRCH"],
        "port of another" => &["EACCES"],
        "port below 1024" | "/etc/shadow" | "/proc/1/environ" | "/proc/1/mem" => &["EACCES"],
        "/proc/kcore" => &["EACCES", "EPERM", "ENOENT"],
        "/dev/mem" => &["ENOENT"],
        "root of init" => &["EACCES"],
        "own program" | "own program by /proc" => &["EROFS", "ETXTBSY", "EACCES"],
        "leave the cgroup" | "make a cgroup" => &["EROFS", "EACCES", "ENOENT"],
        name if name.starts_with("/proc/sys") => &["EROFS", "EACCES", "ENOENT"],
        _ => &["EPERM"],
    }
}

/// Not a test of its own: what the test below runs in a container.
#[test]
#[ignore = "run by the test below in a container"]
fn the_life_of_a_prisoner() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    for (name, what) in probes() {
        println!("probe {name}: {what}");
    }
}

/// What the probes find in a container whose task does without so much: name and finding of each.
pub(crate) fn imprison(machine: &Machine, loosen: &[Privilege]) -> Vec<(String, String)> {
    let free = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let (own, other) = (free(), free());
    let name = format!("borg-escape-{}-{own}", std::process::id());
    let socket = SocketAddr::from_abstract_name(&name).unwrap();
    let _listens = UnixListener::bind_addr(&socket).unwrap();
    let program = std::env::current_exe().unwrap();
    let argv = ["--exact", "escapes::the_life_of_a_prisoner", "--ignored", "--nocapture"];
    let argv = [program.to_str().unwrap()].into_iter().chain(argv).map(str::to_owned).collect();
    let mut spec = ContainerSpec::new(id("prisoner"), argv);
    let calls = if loosen.contains(&Privilege::SystemCalls) { "any-call" } else { "few-calls" };
    let (process, shared) = (std::process::id(), tempfile::tempdir().unwrap());
    // Where a file system maps no ids, who is nobody there writes all the same.
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let told = format!("{own} {other} {name} {process} {calls} {}", shared.path().display());
    spec.env = vec![(INSIDE.into(), told)];
    spec.ports = Some(vec![own]);
    spec.pids_max = 64;
    let bind = |path: &Path, writable| Bind { path: path.to_owned(), writable, within: None };
    spec.binds = vec![bind(&program, false), bind(shared.path(), true)];
    spec.loosen = loosen.iter().copied().collect();
    let (record, said) = machine.run(spec);
    assert_eq!(record.outcome, exited(0), "{said}");
    machine.executor.cleanup(&record.id).unwrap();
    machine.executor.remove_logs(&record.id).unwrap();
    let found = said.lines().filter_map(|line| line.split_once("probe ")?.1.rsplit_once(": "));
    found.map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
}

/// Whether the machine can hold a task back from what a probe tries.
pub(crate) fn is_held(machine: &Machine, name: &str) -> bool {
    let by_landlock = ["port of another", "socket of the machine"];
    machine.executor.isolation().landlock || !by_landlock.contains(&name)
}

#[test]
fn no_way_out_of_a_container_works() {
    // What a service manager gave the borglet is not the task's. (Here it is not protected but exposed, which
    // needs no right that a test may lack.)
    fs::write("/proc/self/oom_score_adj", "500").unwrap();
    let Some(machine) = Machine::full() else { return };
    let found = imprison(&machine, &[]);
    assert!(found.len() > 50, "{found:?}");
    let escaped: Vec<_> = found
        .iter()
        .filter(|(name, _)| is_held(&machine, name))
        .filter(|(name, what)| !expected(name).contains(&what.as_str()))
        .collect();
    assert_eq!(escaped, [] as [&(String, String); 0], "{:?}", machine.executor.isolation());
    machine.close();
}

/// What a shim and its children hold open lies outside of the container (CVE-2024-21626).
#[test]
fn no_path_through_what_its_makers_hold_open_leads_out() {
    let Some(machine) = Machine::full() else { return };
    for fd in 3..48 {
        let held = Path::new("/proc/self/fd").join(fd.to_string());
        let mut spec = ContainerSpec::new(id(&format!("from-{fd}")), vec!["true".into()]);
        spec.workdir = Workdir::Path(held.clone());
        let refused = machine.executor.start(spec).unwrap_err();
        assert!(matches!(refused, StartError::BadWorkdir { .. }), "{fd}: {refused}");
        let program = held.join("..").join("bin").join("true");
        let argv = vec![program.to_str().unwrap().to_owned()];
        let refused = machine.executor.start(ContainerSpec::new(id(&format!("by-{fd}")), argv));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StartError::ProgramNotFound { .. }), "{fd}: {refused}");
    }
    machine.close();
}
