//! The system calls that no safe wrapper offers, each behind one safe function.
//!
//! Leaves every decision to its callers. Invariant: this is the only module of the project with
//! `unsafe` in it. The functions that split the process ([`clone_process`]) are for the shim
//! alone, which has one thread; calling them in a process with several threads is a bug and panics.
#![expect(unsafe_code, reason = "clone3, mount_setattr, pidfds and the like have no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc::{self, c_int, c_long, c_ulong, c_void};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, RecvMsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Clone the mount tree instead of opening it (linux/mount.h).
const OPEN_TREE_CLONE: c_long = 1;
/// The source of `move_mount` is the descriptor itself (linux/mount.h).
const MOVE_MOUNT_F_EMPTY_PATH: c_long = 0x4;
/// The target of `move_mount` is the descriptor itself (linux/mount.h).
const MOVE_MOUNT_T_EMPTY_PATH: c_long = 0x40;
/// Make the mount read-only (linux/mount.h).
const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-id bits on the mount (linux/mount.h).
const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Ignore device files on the mount (linux/mount.h).
const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Nothing in it can be executed.
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// Show files with the ids of a user namespace (linux/mount.h).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Start the child inside the cgroup of the given descriptor (linux/sched.h).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Third version of the capability structures, 64 bits wide (linux/capability.h).
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    let raw =
        RawFd::try_from(check(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just returned this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A child made by [`clone_process`].
#[derive(Debug)]
pub(crate) struct Child {
    /// Its pid, as this process sees it.
    pub(crate) pid: i32,
    /// Becomes readable when the child ends.
    pub(crate) pidfd: OwnedFd,
}

/// Splits this process with clone3: the parent gets the child, the child gets `None`.
///
/// `namespaces` are `CLONE_NEW*` flags; `cgroup` is the directory of a cgroup v2 the child is born
/// into. Panics when the process has more than one thread: locks held by other threads would stay
/// locked for ever in the child.
pub(crate) fn clone_process(
    namespaces: c_int,
    cgroup: Option<&OwnedFd>,
) -> io::Result<Option<Child>> {
    assert_eq!(thread_count(), 1, "only a process of one thread may split itself");
    let mut pidfd: c_int = -1;
    let mut args = [0u64; 11];
    args[0] = u64::from(namespaces.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    args[1] = (&raw mut pidfd) as u64;
    args[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(dir) = cgroup {
        args[0] |= CLONE_INTO_CGROUP;
        args[10] = u64::from(dir.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is a zero-filled clone_args of 88 bytes and `pidfd` outlives the call. Without
    // CLONE_VM the child has its own copy of memory, and with one thread no lock can be half held.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(None);
    }
    let pid = i32::try_from(pid).expect("a pid fits in 31 bits");
    Ok(Some(Child { pid, pidfd: owned(c_long::from(pidfd))? }))
}

/// By the links of the directory of threads: itself, its parent's, and one from each thread.
fn thread_count() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/task").map_or(1, |tasks| tasks.nlink().saturating_sub(2))
}

/// Ends this process at once: no destructors, no flushing. For children that share their parent's
/// buffers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A handle on the process `pid`; fails with ESRCH when it is gone.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the result is checked.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends `signal` to the process behind `pidfd`, never to one that took over its number.
pub(crate) fn pidfd_signal(pidfd: &impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let no_info = std::ptr::null::<c_void>();
    // SAFETY: a null siginfo asks the kernel to fill in the ordinary one.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) })?;
    Ok(())
}

/// Lets async code wait for `fd` to become readable.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what we return, so it stays open and the same until it
    // is deregistered.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Lets async code wait for `fd` to become readable or writable.
pub(crate) fn watch_both(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as for `watch_readable`.
    let watched =
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) };
    watched.map_err(io::Error::from)
}

/// Makes standard input, which is a terminal, the controlling terminal of this session.
pub(crate) fn take_terminal() -> io::Result<()> {
    // SAFETY: plain integers; the descriptor is checked by the kernel.
    check(c_long::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }))?;
    Ok(())
}

/// A new terminal of the file system whose `ptmx` is opened in `dir` at `path`, through no link: our side and
/// theirs. Ours does not block (pty(7), ioctl_tty(2)).
///
/// # Errors
/// When there is none, or what is there makes no terminals.
pub(crate) fn open_terminal(dir: &OwnedFd, path: &CStr) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let ours = open_without_links(Some(dir), path, flags | libc::O_NONBLOCK)?;
    let (fd, unlocked) = (ours.as_raw_fd(), 0 as c_int);
    // SAFETY: `unlocked` outlives the call and is what this request reads.
    check(c_long::from(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked) }))?;
    // SAFETY: plain integers; the descriptor is checked by the kernel.
    let theirs = check(c_long::from(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, flags) }))?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok((ours, unsafe { OwnedFd::from_raw_fd(RawFd::try_from(theirs).unwrap_or(-1)) }))
}

/// Tells the programs on a terminal how large it is.
pub(crate) fn set_window(terminal: &impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: `size` outlives the call and is what this request reads.
    check(c_long::from(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) }))?;
    Ok(())
}

/// Opens `path` without following any symbolic link, whichever of its parts is one: ELOOP then.
/// A relative path is looked up in `dir`. What is opened can be named, not read.
pub(crate) fn open_plain(dir: Option<&OwnedFd>, path: &CStr) -> io::Result<OwnedFd> {
    open_without_links(dir, path, libc::O_PATH)
}

/// Opens a file of a directory for reading, following no link and waiting for nobody at the other end.
pub(crate) fn open_plain_to_read(dir: &OwnedFd, path: &CStr) -> io::Result<std::fs::File> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    Ok(open_without_links(Some(dir), path, flags)?.into())
}

fn open_without_links(dir: Option<&OwnedFd>, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    open_resolved(dir, path, flags, libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS)
}

/// Opens a path by the links on its way, but for those of /proc: they lead to what a process holds open,
/// wherever that is.
pub(crate) fn open_by_names(path: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
    open_resolved(None, path, flags.bits(), libc::RESOLVE_NO_MAGICLINKS)
}

fn open_resolved(
    dir: Option<&OwnedFd>,
    path: &CStr,
    flags: c_int,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    let how = OpenHow { flags, mode: 0, resolve };
    let dir = dir.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let (how_of, size) = (&raw const how, size_of::<OpenHow>());
    // SAFETY: `path` and `how` outlive the call and `size` is the size of `how`.
    owned(unsafe { libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), how_of, size) })
}

/// Clones the mounts at what is open as `at`, and below, as a tree that is attached nowhere yet.
pub(crate) fn open_tree(at: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | c_long::from(libc::AT_RECURSIVE)
        | c_long::from(libc::AT_EMPTY_PATH)
        | c_long::from(libc::O_CLOEXEC);
    // SAFETY: the path is a constant C string; the empty one names `at` itself.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a tree from [`open_tree`] over what is open as `target`.
pub(crate) fn move_mount(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    // SAFETY: the paths are constant C strings; the empty ones name the descriptors themselves.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Makes all mounts of a tree from [`open_tree`] free of set-user-id and devices, and read-only
/// unless `writable`.
pub(crate) fn tame_tree(tree: &OwnedFd, writable: bool) -> io::Result<()> {
    let read_only = if writable { 0 } else { MOUNT_ATTR_RDONLY };
    set_mount_attr(
        tree.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
        read_only | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
    )
}

/// Makes all mounts of a tree from [`open_tree`] read-only and free of set-user-id and programs. Devices
/// in it can be opened, to write too.
pub(crate) fn tame_devices(tree: &OwnedFd) -> io::Result<()> {
    let attrs = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    set_mount_attr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, attrs)
}

/// Shows the files of a tree from [`open_tree`] with the ids that `users`, a user namespace, gives them:
/// what belongs to 0 on the disk belongs to 0 in there. EINVAL where the file system does not offer it.
pub(crate) fn map_ids(tree: &OwnedFd, users: &impl AsFd) -> io::Result<()> {
    let userns_fd = u64::from(users.as_fd().as_raw_fd().cast_unsigned());
    let attr = MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd };
    put_mount_attr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attr)
}

/// Makes the mount at `path`, and all below it when `below`, read-only and without set-user-id.
pub(crate) fn mount_read_only(path: &CStr, below: bool) -> io::Result<()> {
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    set_mount_attr(libc::AT_FDCWD, path, flags, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)
}

fn set_mount_attr(dir: RawFd, path: &CStr, flags: c_int, set: u64) -> io::Result<()> {
    put_mount_attr(dir, path, flags, &MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 })
}

fn put_mount_attr(dir: RawFd, path: &CStr, flags: c_int, attr: &MountAttr) -> io::Result<()> {
    let (attr, size) = (&raw const *attr, size_of::<MountAttr>());
    // SAFETY: `path` and `attr` outlive the call and `size` is the size of `attr`.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, attr, size)
    })?;
    Ok(())
}

/// Gives up all capabilities of this process, and of what it will execute, that are not in `keep`
/// (a bit mask by capability number). Needs CAP_SETPCAP; calling it without is an error.
pub(crate) fn keep_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: plain integers; an unknown capability number gives EINVAL.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as c_ulong, 0, 0, 0) };
        if dropped < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    limit_capabilities(keep)
}

/// Gives up all capabilities of this process that are not in `keep`. For one that executes nothing any more: what
/// an execute could give is not changed.
pub(crate) fn limit_capabilities(keep: u64) -> io::Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    let data_of = (&raw mut data).cast::<CapData>();
    // SAFETY: version 3 reads two CapData; both structures outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data_of) })?;
    let halves = [keep & 0xffff_ffff, keep >> 32];
    for (have, half) in data.iter_mut().zip(halves) {
        let half = u32::try_from(half).expect("a half of 64 bits is 32 bits");
        have.permitted &= half;
        have.effective = have.permitted;
        have.inheritable = 0;
    }
    let data_of = (&raw const data).cast::<CapData>();
    // SAFETY: as for capget above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data_of) })?;
    Ok(())
}

/// Installs a filter of system calls for this process and all that it makes.
pub(crate) fn install_filter(code: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // The kernel only reads it.
    let program = libc::sock_fprog { len, filter: code.as_ptr().cast_mut() };
    let (mode, program_of) = (libc::SECCOMP_SET_MODE_FILTER, &raw const program);
    // SAFETY: `program` and the `len` operations that it points to outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, program_of) })?;
    Ok(())
}

/// Puts signals back to their default action and unblocks them, as a program expects at start.
pub(crate) fn reset_signals() {
    // The only one that is not at its default in a Rust program; handlers end at the execute.
    never_mind(set_handler(Signal::SIGPIPE, SigHandler::SigDfl));
    never_mind(SigSet::all().thread_unblock());
}

/// Sets what a signal does, by a standard action (no handler of ours).
pub(crate) fn set_handler(signal: Signal, handler: SigHandler) -> io::Result<()> {
    assert!(matches!(handler, SigHandler::SigIgn | SigHandler::SigDfl), "no code of ours");
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither standard action runs code of this process.
    unsafe { nix::sys::signal::sigaction(signal, &action) }?;
    Ok(())
}

/// The descriptors that came with a message.
pub(crate) fn received_files<S>(message: &RecvMsg<'_, '_, S>) -> io::Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for us, so nobody else owns them.
            files.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(files)
}

/// Writes `words` over this process's arguments, for those who list processes; what does not fit is
/// left out. The arguments that it was executed with must not be asked for any more.
pub(crate) fn set_command_line(words: &[&[u8]]) {
    let Some((begin, end)) = *ARGUMENTS.get_or_init(find_arguments) else { return };
    let mut line: Vec<u8> = words.iter().flat_map(|word| [*word, b"\0"].concat()).collect();
    line.resize(end.saturating_sub(begin), 0);
    if let Some(last) = line.last_mut() {
        *last = 0;
    }
    // SAFETY: the kernel says that our arguments are there, which are writable memory of the stack, and
    // `line` is as long as they are. Nothing holds a reference to them: `args` copies.
    unsafe {
        std::ptr::copy_nonoverlapping(line.as_ptr(), begin as *mut u8, line.len());
    }
}

/// Where the arguments of this process are: of those that it makes too.
static ARGUMENTS: OnceLock<Option<(usize, usize)>> = OnceLock::new();

/// Finds out what [`set_command_line`] needs, so that the processes made by this one need not.
pub(crate) fn prepare_command_line() {
    ARGUMENTS.get_or_init(find_arguments);
}

/// Fields 48 and 49 of proc_pid_stat(5): where the arguments begin and end.
fn find_arguments() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap_or(0)..].split_whitespace().collect();
    let number = |field: usize| fields.get(field - 2)?.parse::<usize>().ok();
    number(48).zip(number(49))
}

/// Closes every descriptor from 3 up but those kept, whoever owns it. For a process that uses no other
/// again and whose owners of them never run.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for kept in kept.into_iter().map(u64::from).chain([u64::from(u32::MAX) + 1]) {
        if first < kept {
            // SAFETY: the caller promises that no owner of these descriptors runs again.
            unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) };
        }
        first = first.max(kept + 1);
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal, real-time ones included.
    Signal(i32),
}

/// Collects one ended child, waiting for it when `block`. `None` when none has ended yet; ECHILD
/// when there are no children.
pub(crate) fn wait_any(block: bool) -> io::Result<Option<(i32, Ending)>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        match pid {
            0 => return Ok(None),
            1.. if libc::WIFEXITED(status) => {
                return Ok(Some((pid, Ending::Code(libc::WEXITSTATUS(status)))));
            }
            1.. => return Ok(Some((pid, Ending::Signal(libc::WTERMSIG(status))))),
            ..0 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Asks the kernel to kill this process when its parent dies.
pub(crate) fn die_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)
}

/// Milliseconds since 1970, for records that people read. Never used to measure a time span.
pub(crate) fn wall_clock_ms() -> u64 {
    let now = clock(libc::CLOCK_REALTIME);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Time since boot, not counting sleep: for deadlines.
pub(crate) fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

/// Milliseconds since boot, sleep included: for what must end in time whatever happens.
pub(crate) fn boot_time_ms() -> u64 {
    u64::try_from(clock(libc::CLOCK_BOOTTIME).as_millis()).unwrap_or(u64::MAX)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Version of the kernel's Landlock, 0 without.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<c_void>();
    // SAFETY: with this flag the kernel reads nothing and makes nothing.
    let found = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    u32::try_from(found).unwrap_or(0)
}

/// Waits `ms` milliseconds. For short waits on the kernel where it offers nothing to wait on.
pub(crate) fn pause_ms(ms: u16) {
    never_mind(nix::poll::poll(&mut [], ms));
}

/// For results that change nothing for us: the failure is what we wanted anyway, or there is
/// nobody left to tell.
pub(crate) fn never_mind<T, E>(_result: Result<T, E>) {}
