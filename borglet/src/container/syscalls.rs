//! Which system calls a task may make: a list, so that what nobody thought of is refused.
//!
//! What reaches devices, mounts, modules, keys, clocks, other namespaces or parts of the kernel with a
//! history of holes (`bpf`, `io_uring`, `userfaultfd`, `perf_event_open`) is not on it and gives EPERM.
//! A task that holds the privilege `system-calls` has a wide filter, a list of what is refused: calls that
//! change the machine as a whole, for which no task has the capabilities anyway. All others are the kernel's to judge.
//!
//! Invariant: a filter is inherited by all that the task makes, and can only be narrowed.
//!
//! The filter is a search tree over ranges of call numbers, made here: the kernel tries every number when
//! a filter is installed, and a chain of comparisons, as libraries make it, took 1 ms of each start.

use nix::libc::{self, c_long, sock_filter};
use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use crate::sys;

/// The newest call that the list was made with (`fchmodat2`, the same number everywhere). Programs ask
/// for newer ones and go on without when those do not exist.
const NEWEST: c_long = 452;
/// Every flag of clone and unshare that makes a namespace (linux/sched.h).
const NEW_NAMESPACES: u32 = 0x7e02_0080;
/// Put characters into the input of a terminal, perhaps that of whoever started us (asm/ioctls.h):
/// TIOCSTI, and TIOCLINUX of consoles.
const TYPING: [u32; 2] = [0x5412, 0x541c];
/// Families of sockets: between processes of a machine, and the Internet (`AF_UNIX`, `AF_INET`, `AF_INET6`).
const FAMILIES: [u32; 3] = [1, 2, 10];
/// What is spoken there: what is usual, ICMP, TCP, UDP, ICMPv6.
const PROTOCOLS: [u32; 5] = [0, 1, 6, 17, 58];
/// Bind ports where Landlock does not look: SCTP and MPTCP.
const UNSEEN: [u32; 2] = [132, 262];
/// Asks the kernel (`AF_NETLINK`), of all that it may be asked only for addresses of interfaces
/// (`NETLINK_ROUTE`).
const ASKING: (u32, u32) = (16, 0);
/// Bits of a file's mode that give its owner's rights to whoever runs it.
const SET_ID: u32 = 0o6000;
/// Flags of `open` with which it makes a file (`O_CREAT`, `O_TMPFILE`; asm-generic/fcntl.h).
const MAKES_FILE: u32 = 0x40 | 0x40_0000;
/// What `personality` may be asked: nothing, 32 bits, without randomised addresses, to tell.
const PERSONALITIES: [u32; 6] = [0, 0x8, 0x2_0000, 0x4_0000, 0x4_0008, 0xffff_ffff];

/// The architecture whose call numbers these are (linux/audit.h); calls of another end the process.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Allow,
    Refuse(i32),
    /// Allowed when the argument has none of the bits.
    Without(u8, u32),
    /// Allowed when the argument is none of these.
    NoneOf(u8, &'static [u32]),
    /// Allowed when the argument is one of these.
    OneOf(u8, &'static [u32]),
    /// Allowed for some kinds of sockets.
    Sockets,
    /// Opens, with flags and mode in these arguments: a file that it makes may have no [`SET_ID`].
    Makes(u8, u8),
}

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// The filter of most tasks, compiled once for this process and those that it splits into.
    pub(crate) fn usual() -> &'static Self {
        static USUAL: OnceLock<Filter> = OnceLock::new();
        USUAL.get_or_init(|| Self::compile(&ranges(&rules())))
    }

    /// The filter of tasks that may write where others of the machine look: they make no file there that
    /// gives rights away.
    pub(crate) fn sharing() -> &'static Self {
        static SHARING: OnceLock<Filter> = OnceLock::new();
        let rules = || rules().into_iter().chain(without_set_id()).collect();
        SHARING.get_or_init(|| Self::compile(&ranges(&rules())))
    }

    /// The filter of tasks that may make almost all calls. `shares` as above.
    pub(crate) fn wide(shares: bool) -> &'static Self {
        static WIDE: [OnceLock<Filter>; 2] = [const { OnceLock::new() }; 2];
        WIDE[usize::from(shares)].get_or_init(|| Self::compile(&wide_ranges(shares)))
    }

    fn compile(ranges: &[(u32, Rule)]) -> Self {
        let mut code = vec![
            op(LOAD, 0, 0, 4),
            op(IF_EQUAL, 1, 0, ARCH),
            op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            op(LOAD, 0, 0, 0),
        ];
        code.extend(tree(ranges));
        Self(code)
    }

    /// Installs it for this process and all that it makes. `no_new_privs` must be set.
    pub(crate) fn install(&self) -> io::Result<()> {
        sys::install_filter(&self.0)
    }
}

/// The rule of each call that is not refused.
fn rules() -> BTreeMap<c_long, Rule> {
    let mut rules: BTreeMap<c_long, Rule> =
        ALWAYS.iter().chain(OF_THIS_ARCH).map(|call| (*call, Rule::Allow)).collect();
    rules.extend([
        (libc::SYS_clone, Rule::Without(0, NEW_NAMESPACES)),
        (libc::SYS_unshare, Rule::Without(0, NEW_NAMESPACES)),
        // Its flags lie in memory, where no filter can look. Whoever is told that it does not exist
        // asks for clone.
        (libc::SYS_clone3, Rule::Refuse(libc::ENOSYS)),
        (libc::SYS_ioctl, Rule::NoneOf(1, &TYPING)),
        (libc::SYS_socket, Rule::Sockets),
        (libc::SYS_personality, Rule::OneOf(0, &PERSONALITIES)),
    ]);
    rules
}

/// Rules that keep a file with [`SET_ID`] from being made.
fn without_set_id() -> impl Iterator<Item = (c_long, Rule)> {
    #[cfg(target_arch = "x86_64")]
    let of_this_arch = [
        (libc::SYS_chmod, Rule::Without(1, SET_ID)),
        (libc::SYS_creat, Rule::Without(1, SET_ID)),
        (libc::SYS_mknod, Rule::Without(1, SET_ID)),
        (libc::SYS_open, Rule::Makes(1, 2)),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let of_this_arch = [];
    let everywhere = [
        (libc::SYS_fchmod, Rule::Without(1, SET_ID)),
        (libc::SYS_fchmodat, Rule::Without(2, SET_ID)),
        (libc::SYS_fchmodat2, Rule::Without(2, SET_ID)),
        (libc::SYS_mknodat, Rule::Without(2, SET_ID)),
        (libc::SYS_openat, Rule::Makes(2, 3)),
        // Its mode lies in memory, where no filter can look.
        (libc::SYS_openat2, Rule::Refuse(libc::ENOSYS)),
    ];
    everywhere.into_iter().chain(of_this_arch)
}

/// The rule for each number, as the numbers from which on one holds.
fn ranges(rules: &BTreeMap<c_long, Rule>) -> Vec<(u32, Rule)> {
    in_ranges((0..=NEWEST + 1).map(|call| {
        let rule = match rules.get(&call) {
            Some(rule) => *rule,
            None if call > NEWEST => Rule::Refuse(libc::ENOSYS),
            None => Rule::Refuse(libc::EPERM),
        };
        (u32::try_from(call).expect("calls have small numbers"), rule)
    }))
}

/// The same for tasks that may make almost all calls, those that are newer than this list included.
fn wide_ranges(shares: bool) -> Vec<(u32, Rule)> {
    let set_id: BTreeMap<c_long, Rule> = without_set_id().filter(|_| shares).collect();
    let rule = |call: c_long| match call {
        libc::SYS_ioctl => Rule::NoneOf(1, &TYPING),
        // Ports are another privilege.
        libc::SYS_socket => Rule::NoneOf(2, &UNSEEN),
        call if set_id.contains_key(&call) => set_id[&call],
        call if NEVER.contains(&call) || NEVER_OF_THIS_ARCH.contains(&call) => {
            Rule::Refuse(libc::EPERM)
        }
        _ => Rule::Allow,
    };
    let all = (0..=NEWEST + 1)
        .map(|call| (u32::try_from(call).expect("calls have small numbers"), rule(call)));
    // Calls of the x32 kind are the same once more, by other numbers.
    in_ranges(all.chain([(X32, Rule::Refuse(libc::ENOSYS))]))
}

/// The numbers from which on another rule holds.
fn in_ranges(rules: impl Iterator<Item = (u32, Rule)>) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    for (call, rule) in rules {
        if ranges.last().is_none_or(|(_, last)| *last != rule) {
            ranges.push((call, rule));
        }
    }
    ranges
}

// Operations of the kernel's filter machine (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const GO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// One operation; `then` and `otherwise` are how many to pass over.
fn op(code: u16, then: u8, otherwise: u8, value: u32) -> sock_filter {
    sock_filter { code, jt: then, jf: otherwise, k: value }
}

/// Finds the range of the loaded number. Ranges are not empty.
fn tree(ranges: &[(u32, Rule)]) -> Vec<sock_filter> {
    if let [(_, rule)] = ranges {
        return leaf(*rule);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let below = tree(lower);
    let far = u32::try_from(below.len()).expect("a filter is short");
    let mut code = vec![op(IF_AT_LEAST, 0, 1, upper[0].0), op(GO, 0, 0, far)];
    code.extend(below);
    code.extend(tree(upper));
    code
}

fn leaf(rule: Rule) -> Vec<sock_filter> {
    let allow = op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let refuse = |errno: i32| op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned());
    // The lower half of an argument, of 64 bits with the lowest first, after number, architecture and
    // address of the call: the kernel takes 32 bits of all that are looked at here.
    let load = |arg: u8| op(LOAD, 0, 0, 16 + 8 * u32::from(arg));
    // Passes over what is left of the comparisons and the operation after them.
    let found = |values: &[u32]| {
        let rest = (1..=values.len()).rev();
        values
            .iter()
            .zip(rest)
            .map(|(value, rest)| op(IF_EQUAL, u8::try_from(rest).unwrap_or(u8::MAX), 0, *value))
            .collect::<Vec<_>>()
    };
    match rule {
        Rule::Allow => vec![allow],
        Rule::Refuse(errno) => vec![refuse(errno)],
        Rule::Without(arg, bits) => {
            vec![load(arg), op(IF_ANY_BIT, 0, 1, bits), refuse(libc::EPERM), allow]
        }
        Rule::NoneOf(arg, values) => {
            [vec![load(arg)], found(values), vec![allow, refuse(libc::EPERM)]].concat()
        }
        Rule::OneOf(arg, values) => {
            [vec![load(arg)], found(values), vec![refuse(libc::EPERM), allow]].concat()
        }
        Rule::Makes(flags, mode) => {
            let makes = leaf(Rule::Without(mode, SET_ID));
            [vec![load(flags), op(IF_ANY_BIT, 1, 0, MAKES_FILE), allow], makes].concat()
        }
        Rule::Sockets => {
            let (family, protocol) = ASKING;
            let asking = [load(2), op(IF_EQUAL, 0, 1, protocol), allow, refuse(libc::EPERM)];
            let spoken = leaf(Rule::OneOf(2, &PROTOCOLS));
            let none = [refuse(libc::EPERM)];
            let past = |code: &[sock_filter]| u8::try_from(code.len()).unwrap_or(u8::MAX);
            let mut code = vec![load(0), op(IF_EQUAL, 0, past(&asking), family)];
            code.extend(asking);
            code.extend(found(&FAMILIES));
            code.extend(none);
            code.extend(spoken);
            code
        }
    }
}

/// Allowed whatever their arguments are.
#[rustfmt::skip]
const ALWAYS: &[c_long] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_brk, libc::SYS_capget,
    libc::SYS_capset, libc::SYS_chdir, libc::SYS_clock_getres, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_connect, libc::SYS_copy_file_range, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64,
    libc::SYS_fallocate, libc::SYS_fchdir, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync,
    libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fremovexattr,
    libc::SYS_fsetxattr, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync,
    libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_get_mempolicy,
    libc::SYS_get_robust_list, libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents64,
    libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups,
    libc::SYS_getitimer, libc::SYS_getpeername, libc::SYS_getpgid, libc::SYS_getpid,
    libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_getrandom, libc::SYS_getresgid,
    libc::SYS_getresuid, libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_getsid,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_gettid, libc::SYS_gettimeofday,
    libc::SYS_getuid, libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch, libc::SYS_io_cancel, libc::SYS_io_destroy,
    libc::SYS_io_getevents, libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_ioprio_get,
    libc::SYS_ioprio_set, libc::SYS_kill, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self, libc::SYS_lgetxattr,
    libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_lremovexattr, libc::SYS_lseek, libc::SYS_lsetxattr, libc::SYS_madvise,
    libc::SYS_mbind, libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_mincore,
    libc::SYS_mkdirat, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_mmap,
    libc::SYS_mprotect, libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open,
    libc::SYS_mq_timedreceive, libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_mremap,
    libc::SYS_msgctl, libc::SYS_msgget, libc::SYS_msgrcv, libc::SYS_msgsnd, libc::SYS_msync,
    libc::SYS_munlock, libc::SYS_munlockall, libc::SYS_munmap, libc::SYS_nanosleep,
    libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_openat2, libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_pipe2, libc::SYS_pkey_alloc,
    libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_ppoll, libc::SYS_prctl,
    libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_prlimit64,
    libc::SYS_process_madvise, libc::SYS_process_mrelease, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_pselect6, libc::SYS_ptrace, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmmsg,
    libc::SYS_recvmsg, libc::SYS_remap_file_pages, libc::SYS_removexattr, libc::SYS_renameat,
    libc::SYS_renameat2, libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_getaffinity, libc::SYS_sched_getattr,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler, libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_semctl,
    libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_sendfile,
    libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_set_mempolicy,
    libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_setfsgid, libc::SYS_setfsuid,
    libc::SYS_setgid, libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid,
    libc::SYS_setpriority, libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid,
    libc::SYS_setreuid, libc::SYS_setrlimit, libc::SYS_setsid, libc::SYS_setsockopt,
    libc::SYS_setuid, libc::SYS_setxattr, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt,
    libc::SYS_shmget, libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_signalfd4,
    libc::SYS_socketpair, libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx,
    libc::SYS_symlinkat, libc::SYS_sync, libc::SYS_sync_file_range, libc::SYS_syncfs,
    libc::SYS_sysinfo, libc::SYS_tee, libc::SYS_tgkill, libc::SYS_timer_create,
    libc::SYS_timer_delete, libc::SYS_timer_getoverrun, libc::SYS_timer_gettime,
    libc::SYS_timer_settime, libc::SYS_timerfd_create, libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime, libc::SYS_times, libc::SYS_tkill, libc::SYS_truncate,
    libc::SYS_umask, libc::SYS_uname, libc::SYS_unlinkat, libc::SYS_utimensat,
    libc::SYS_vmsplice, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_write, libc::SYS_writev,
];

/// What changes the machine as a whole: refused to everybody, whatever capabilities somebody has.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    // What it is asked for lies in memory, where no filter can look.
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup,
    libc::SYS_acct, libc::SYS_adjtimex, libc::SYS_clock_adjtime, libc::SYS_clock_settime,
    libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module,
    libc::SYS_kexec_load, libc::SYS_open_by_handle_at, libc::SYS_quotactl, libc::SYS_quotactl_fd,
    libc::SYS_reboot, libc::SYS_settimeofday, libc::SYS_swapoff, libc::SYS_swapon,
    libc::SYS_syslog, libc::SYS_vhangup,
];
/// Likewise, of this architecture.
#[cfg(target_arch = "x86_64")]
const NEVER_OF_THIS_ARCH: &[c_long] =
    &[libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_OF_THIS_ARCH: &[c_long] = &[];
/// The bit that numbers of the x32 kind have (asm/unistd.h).
const X32: u32 = 0x4000_0000;

/// Older forms that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OF_THIS_ARCH: &[c_long] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_creat, libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_fork, libc::SYS_futimesat, libc::SYS_getdents,
    libc::SYS_getpgrp, libc::SYS_inotify_init, libc::SYS_lchown, libc::SYS_link, libc::SYS_lstat,
    libc::SYS_mkdir, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_open, libc::SYS_pause,
    libc::SYS_pipe, libc::SYS_poll, libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir,
    libc::SYS_select, libc::SYS_signalfd, libc::SYS_stat, libc::SYS_symlink, libc::SYS_time,
    libc::SYS_unlink, libc::SYS_utime, libc::SYS_utimes, libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_ARCH: &[c_long] = &[libc::SYS_mknodat];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter of most tasks answers to a call.
    fn answer(call: c_long, args: [u64; 3]) -> u32 {
        answer_of(Filter::usual(), call, args)
    }

    fn answer_of(filter: &Filter, call: c_long, args: [u64; 3]) -> u32 {
        let code = &filter.0;
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code: kind, jt, jf, k } = code[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { jt } else { jf });
            at += match kind {
                LOAD => {
                    loaded = match k {
                        0 => u32::try_from(call).unwrap(),
                        4 => ARCH,
                        16 => low(args[0]),
                        24 => low(args[1]),
                        32 => low(args[2]),
                        other => panic!("reads at {other}"),
                    };
                    0
                }
                GO => k as usize,
                IF_EQUAL => branch(loaded == k),
                IF_AT_LEAST => branch(loaded >= k),
                IF_ANY_BIT => branch(loaded & k != 0),
                RETURN => return k,
                other => panic!("operation {other}"),
            };
        }
    }

    fn low(argument: u64) -> u32 {
        u32::try_from(argument & 0xffff_ffff).unwrap()
    }

    fn allows(call: c_long, args: [u64; 3]) -> bool {
        answer(call, args) == libc::SECCOMP_RET_ALLOW
    }

    #[test]
    fn every_number_is_answered_as_the_list_says() {
        let special = [libc::SYS_clone, libc::SYS_unshare, libc::SYS_ioctl, libc::SYS_socket]
            .into_iter()
            .chain([libc::SYS_personality])
            .collect::<Vec<_>>();
        for call in (0..=NEWEST).filter(|call| !special.contains(call)) {
            let listed = ALWAYS.contains(&call) || OF_THIS_ARCH.contains(&call);
            assert_eq!(allows(call, [0; 3]), listed, "{call}");
        }
        let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(answer(NEWEST + 1, [0; 3]), unknown);
        assert_eq!(answer(0x4000_0001, [0; 3]), unknown, "calls of the x32 kind");
        assert_eq!(answer(libc::SYS_clone3, [0; 3]), unknown);
    }

    #[test]
    fn the_wide_filter_refuses_what_changes_the_machine_and_nothing_else() {
        let answer = |call, args| answer_of(Filter::wide(false), call, args);
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        for call in 0..NEWEST + 100 {
            let never = NEVER.contains(&call) || NEVER_OF_THIS_ARCH.contains(&call);
            let expected = if never { refused } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(answer(call, [0; 3]), expected, "{call}");
        }
        for call in [libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_init_module] {
            assert_eq!(answer(call, [0; 3]), refused, "{call}");
        }
        assert_eq!(answer(libc::SYS_unshare, [0x1000_0000, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer(libc::SYS_ioctl, [0, 0x5412, 0]), refused, "typing");
        let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(answer(0x4000_0001, [0; 3]), unknown, "calls of the x32 kind");
        assert_eq!(answer(0xffff_ffff, [0; 3]), unknown);
    }

    #[test]
    fn what_reaches_the_kernel_s_inside_is_refused() {
        for call in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_open_by_handle_at,
            libc::SYS_reboot,
            libc::SYS_clock_settime,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
        ] {
            let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
            assert_eq!(answer(call, [0; 3]), refused, "{call}");
        }
    }

    #[test]
    fn who_shares_files_with_the_machine_makes_none_that_gives_rights_away() {
        let sharing = Filter::sharing();
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        for (call, args, rights) in [
            (libc::SYS_fchmod, [3, 0o4755, 0], true),
            (libc::SYS_fchmod, [3, 0o1777, 0], false),
            (libc::SYS_fchmodat, [0, 0, 0o2755], true),
            (libc::SYS_fchmodat2, [0, 0, 0o2755], true),
            (libc::SYS_mknodat, [0, 0, 0o104_755], true),
            (libc::SYS_openat, [0, 0, 0], false),
        ] {
            let answer = answer_of(sharing, call, args);
            assert_eq!(answer == refused, rights, "{call} {args:?}");
            assert!(allows(call, args), "a task of its own may: {call}");
        }
        #[cfg(target_arch = "x86_64")]
        for (flags, mode, rights) in
            [(0x40, 0o4755, true), (0x40, 0o755, false), (0, 0o4755, false)]
        {
            let answer = answer_of(sharing, libc::SYS_open, [0, flags, mode]);
            assert_eq!(answer == refused, rights, "{flags:x} {mode:o}");
        }
        let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(answer_of(sharing, libc::SYS_openat2, [0; 3]), unknown);
    }

    #[test]
    fn arguments_are_looked_at() {
        let thread = 0x3d0f00;
        assert!(allows(libc::SYS_clone, [thread, 0, 0]));
        assert!(allows(libc::SYS_clone, [17, 0, 0]), "fork");
        for namespace in [0x2_0000u64, 0x200_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x80] {
            assert!(!allows(libc::SYS_clone, [namespace, 0, 0]), "{namespace:x}");
            assert!(!allows(libc::SYS_unshare, [namespace, 0, 0]), "{namespace:x}");
        }
        assert!(
            allows(libc::SYS_ioctl, [0, 0x5401, 0]) && !allows(libc::SYS_ioctl, [0, 0x5412, 0])
        );
        assert!(
            !allows(libc::SYS_ioctl, [0, 0xffff_ffff_0000_5412, 0]),
            "the kernel looks at 32 bits"
        );
        let families =
            [(1, true), (2, true), (10, true), (16, true), (17, false), (38, false), (40, false)];
        for (family, allowed) in families {
            assert_eq!(allows(libc::SYS_socket, [family, 1, 0]), allowed, "{family}");
        }
        // TCP, UDP, ICMPv6; SCTP, MPTCP; and what netlink would tell of routes, sockets, security.
        let protocols =
            [(2, 6, true), (2, 17, true), (10, 58, true), (2, 132, false), (10, 262, false)];
        let asking = [(16, 0, true), (16, 4, false), (16, 6, false)];
        for (family, protocol, allowed) in protocols.into_iter().chain(asking) {
            assert_eq!(
                allows(libc::SYS_socket, [family, 1, protocol]),
                allowed,
                "{family} {protocol}"
            );
        }
        assert!(allows(libc::SYS_personality, [0xffff_ffff, 0, 0]));
        assert!(!allows(libc::SYS_personality, [0x0400_0000, 0, 0]));
    }
}
