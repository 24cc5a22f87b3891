//! What a container sees of its machine: the mount table of one task.
//!
//! The host's root, read-only, with the task's own /tmp, /run, /dev and /proc; directories that hold
//! other people's secrets are hidden; the task's directory and its binds stay at the paths they
//! have on the host, even below a hidden one. So HOME is the same path inside and outside, and
//! nothing has to be created on the host. /run is the task's own because a socket can be connected
//! to even where nothing can be written, and those in there belong to the machine's daemons.
//!
//! Other tasks may write in directories that are shown, at this very moment too. So a path below
//! what the operator allowed is looked up once, without following symbolic links, and what was
//! found is what is shown.
//!
//! Invariant: runs only in a mount namespace of its own, whose propagation it cuts off first, so
//! no mount made here is ever seen on the host, and all vanish with the task's last process.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknod, mknodat, umask};

use super::root::pivot;
use super::{Bind, ImageRoot, Shown, StartError};
use crate::sys;

/// Devices a task may open: those every program expects and none that stores anything
/// (name, major, minor: admin-guide/devices.txt).
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Parts of /proc through which root could change the host; read-only for tasks.
const PROC_READ_ONLY: [&str; 5] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Where daemons keep their sockets; both names are one directory on most machines.
const RUN: [&str; 2] = ["/run", "/var/run"];

/// Says where names are looked up; on many machines it lies below [`RUN`].
const RESOLVER: &str = "/etc/resolv.conf";

/// The view to build.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The task's own directory: writable.
    pub(crate) work: &'a Path,
    /// Shown beside it.
    pub(crate) binds: &'a [Bind],
    /// Directories of the host that appear empty.
    pub(crate) hidden: &'a [PathBuf],
    /// The image that is the root in place of the host's, and the directory for what changes in it.
    pub(crate) image: Option<(&'a ImageRoot, PathBuf)>,
    /// Packages, shown read-only.
    pub(crate) packages: &'a [Shown],
    /// Most bytes in each of /tmp, /run and /dev/shm. They count as the task's memory too.
    pub(crate) scratch_bytes: u64,
}

impl View<'_> {
    /// Builds the view for this process and all its children. The process must be in new mount and
    /// pid namespaces.
    pub(crate) fn enter(&self) -> Result<(), StartError> {
        let old_mask = umask(Mode::empty());
        plain_mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")
            .map_err(|e| StartError::machine("make the mount table private", e))?;
        let shown = self.open_shown()?;
        let packages = self.open_packages()?;
        match &self.image {
            Some((image, dir)) => pivot(&image.mount(dir)?)?,
            None => sys::mount_read_only(c"/", true)
                .map_err(|e| StartError::machine("make the host's files read-only", e))?,
        }
        self.mount_scratch().map_err(|e| StartError::machine("mount /tmp", e))?;
        devices(self.scratch_bytes).map_err(|e| StartError::machine("make /dev", e))?;
        process_table().map_err(|e| StartError::machine("mount /proc", e))?;
        // An image has nothing of the host's.
        let hidden = if self.image.is_some() { &[][..] } else { self.hidden };
        let mut covered =
            hide(hidden.to_vec()).map_err(|e| StartError::machine("hide directories", e))?;
        for (bind, tree) in shown {
            attach(&tree, &bind).map_err(|e| bad_bind(&bind.path, &e))?;
            // It shows the host's files as they are, with what was hidden of them.
            let source = bind.source();
            let below = self.hidden.iter().filter_map(|path| path.strip_prefix(&source).ok());
            let below = below.filter(|rest| !rest.as_os_str().is_empty());
            let again = hide(below.map(|rest| bind.path.join(rest)).collect());
            covered.extend(again.map_err(|e| bad_bind(&bind.path, &e))?);
        }
        for path in covered {
            sys::mount_read_only(&c_path(&path), false)
                .map_err(|e| StartError::machine("hide directories", e))?;
        }
        for (target, tree) in packages {
            let bind = Bind { path: target, writable: false, within: None };
            match attach(&tree, &bind) {
                // The image has a link there, which says where its own is.
                Err(e) if bind.path == Path::new(RESOLVER) => sys::never_mind::<(), _>(Err(e)),
                attached => attached.map_err(|e| bad_bind(&bind.path, &e))?,
            }
        }
        umask(old_mask);
        Ok(())
    }

    /// Takes hold of what is shown under another path than it has on the host.
    fn open_packages(&self) -> Result<Vec<(PathBuf, OwnedFd)>, StartError> {
        let mut wanted = self.packages.to_vec();
        if self.image.is_some()
            && let Ok(source) = fs::canonicalize(RESOLVER)
        {
            wanted.push(Shown { source, target: RESOLVER.into() });
        }
        let open = |shown: Shown| {
            let bind = Bind { path: shown.source, writable: false, within: None };
            let tree = open_source(&bind).map_err(|e| bad_bind(&shown.target, &e))?;
            Ok((shown.target, tree))
        };
        wanted.into_iter().map(open).collect()
    }

    /// Takes hold of everything to be shown before it is hidden. Outer paths come first, so that
    /// inner ones are attached on top of them.
    fn open_shown(&self) -> Result<Vec<(Bind, OwnedFd)>, StartError> {
        let work = Bind { path: self.work.to_owned(), writable: true, within: None };
        let mut wanted: Vec<Bind> = self.binds.iter().cloned().chain([work]).collect();
        wanted.extend(resolver().filter(|_| self.image.is_none()));
        wanted.sort_by_key(|bind| bind.path.components().count());
        let mut shown = Vec::with_capacity(wanted.len());
        for bind in wanted {
            let tree = open_source(&bind).map_err(|e| bad_bind(&bind.path, &e))?;
            shown.push((bind, tree));
        }
        Ok(shown)
    }

    fn mount_scratch(&self) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let options = format!("mode=1777,size={}", self.scratch_bytes);
        plain_mount("tmp", "/tmp", "tmpfs", flags, &options)?;
        let options = format!("mode=755,size={}", self.scratch_bytes);
        for path in RUN.map(Path::new) {
            // Not one that is a link to the other.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                plain_mount("run", path, "tmpfs", flags | MsFlags::MS_NOEXEC, &options)?;
            }
        }
        Ok(())
    }
}

/// Covers what is to be hidden with empty directories, and says which were covered.
fn hide(mut hidden: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    // Outer ones first: what lies in a covered one is not there to be covered again.
    hidden.sort_by_key(|path| path.components().count());
    let mut covered = Vec::new();
    for path in hidden {
        if !path.is_dir() {
            continue; // absent, or already gone with /tmp
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        plain_mount("hidden", &path, "tmpfs", flags, "mode=755,size=64k")?;
        covered.push(path);
    }
    Ok(covered)
}

fn bad_bind(path: &Path, error: &io::Error) -> StartError {
    StartError::BadBind { path: path.to_owned(), cause: error.to_string() }
}

/// The name servers' file as a bind, where it would vanish with /run.
fn resolver() -> Option<Bind> {
    let path = fs::canonicalize(RESOLVER).ok()?;
    let vanishes = RUN.iter().any(|run| path.starts_with(run));
    vanishes.then_some(Bind { path, writable: false, within: None })
}

fn open_source(bind: &Bind) -> io::Result<OwnedFd> {
    let tree = sys::open_tree(&sys::open_plain(None, &c_path(&bind.source()))?)?;
    sys::tame_tree(&tree, bind.writable)?;
    Ok(tree)
}

/// Attaches a tree where its bind says, making what is not there: directories on the way, and
/// there a directory or a file, as the tree is one.
fn attach(tree: &OwnedFd, bind: &Bind) -> io::Result<()> {
    let is_dir = fs::metadata(fd_path(tree))?.is_dir();
    let (prefix, rest) = bind.parts();
    if !prefix.exists() {
        let dir =
            if rest.as_os_str().is_empty() && !is_dir { prefix.parent() } else { Some(prefix) };
        fs::create_dir_all(dir.unwrap_or(prefix))?;
        if !prefix.exists() {
            drop(fs::File::create(prefix)?);
        }
    }
    let real = prefix.canonicalize()?;
    let mut at = sys::open_plain(None, &c_path(&real))?;
    let mut parts = rest.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let name = c_path(Path::new(name));
        at = match sys::open_plain(Some(&at), &name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if is_dir || parts.peek().is_some() {
                    mkdirat(at.as_fd(), name.as_c_str(), Mode::from_bits_truncate(0o755))?;
                } else {
                    let mode = Mode::from_bits_truncate(0o644);
                    mknodat(at.as_fd(), name.as_c_str(), SFlag::S_IFREG, mode, 0)?;
                }
                sys::open_plain(Some(&at), &name)?
            }
            there => there?,
        };
    }
    sys::move_mount(tree, &at)
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn devices(shm_bytes: u64) -> io::Result<()> {
    let options = format!("mode=755,size={shm_bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    plain_mount("dev", "/dev", "tmpfs", flags, &options)?;
    let dev = Path::new("/dev");
    for (name, major, minor) in DEVICES {
        let all = Mode::from_bits_truncate(0o666);
        mknod(&dev.join(name), SFlag::S_IFCHR, all, makedev(major, minor))?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, dev.join(name))?;
    }
    let shared = Mode::from_bits_truncate(0o1777);
    Ok(nix::unistd::mkdir(&dev.join("shm"), shared)?)
}

fn process_table() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    plain_mount("proc", "/proc", "proc", flags, "")?;
    for path in PROC_READ_ONLY.map(Path::new) {
        if path.exists() {
            let at = sys::open_plain(None, &c_path(path))?;
            let tree = sys::open_tree(&at)?;
            sys::tame_tree(&tree, false)?;
            sys::move_mount(&tree, &at)?;
        }
    }
    Ok(())
}

fn plain_mount(
    source: &str,
    target: impl AsRef<Path>,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    Ok(mount(Some(source), target.as_ref(), Some(kind), flags, Some(options))?)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("validated paths hold no zero byte")
}
