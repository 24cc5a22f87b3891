//! What a container sees of its machine: the mount table of one task.
//!
//! The host's root, read-only, with the task's own /tmp, /dev and /proc; directories that hold
//! other people's secrets are hidden; the task's directory and its binds stay at the paths they
//! have on the host, even below a hidden one. So HOME is the same path inside and outside, and
//! nothing has to be created on the host.
//!
//! Invariant: runs only in a mount namespace of its own, whose propagation it cuts off first, so
//! no mount made here is ever seen on the host, and all vanish with the task's last process.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use super::{Bind, StartError};
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

/// The view to build.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The task's own directory: writable.
    pub(crate) work: &'a Path,
    /// Shown beside it.
    pub(crate) binds: &'a [Bind],
    /// Directories of the host that appear empty.
    pub(crate) hidden: &'a [PathBuf],
    /// Most bytes in each of /tmp and /dev/shm. They count as the task's memory too.
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
        sys::mount_read_only(c"/", true)
            .map_err(|e| StartError::machine("make the host's files read-only", e))?;
        self.mount_scratch().map_err(|e| StartError::machine("mount /tmp", e))?;
        devices(self.scratch_bytes).map_err(|e| StartError::machine("make /dev", e))?;
        process_table().map_err(|e| StartError::machine("mount /proc", e))?;
        let covered = self.hide().map_err(|e| StartError::machine("hide directories", e))?;
        for (path, tree) in shown {
            attach(&tree, &path).map_err(|e| bad_bind(&path, &e))?;
        }
        for path in covered {
            sys::mount_read_only(&c_path(&path), false)
                .map_err(|e| StartError::machine("hide directories", e))?;
        }
        umask(old_mask);
        Ok(())
    }

    /// Takes hold of everything to be shown before it is hidden. Outer paths come first, so that
    /// inner ones are attached on top of them.
    fn open_shown(&self) -> Result<Vec<(PathBuf, OwnedFd)>, StartError> {
        let work = Bind { path: self.work.to_owned(), writable: true };
        let mut wanted: Vec<&Bind> = self.binds.iter().chain([&work]).collect();
        wanted.sort_by_key(|bind| bind.path.components().count());
        let mut shown = Vec::with_capacity(wanted.len());
        for bind in wanted {
            let path = &bind.path;
            let tree = sys::open_tree(&c_path(path)).map_err(|e| bad_bind(path, &e))?;
            if !bind.writable {
                sys::tree_read_only(&tree).map_err(|e| bad_bind(path, &e))?;
            }
            shown.push((path.clone(), tree));
        }
        Ok(shown)
    }

    fn mount_scratch(&self) -> io::Result<()> {
        let options = format!("mode=1777,size={}", self.scratch_bytes);
        plain_mount("tmp", "/tmp", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)
    }

    /// Covers what is to be hidden with empty directories, and says which were covered.
    fn hide(&self) -> io::Result<Vec<PathBuf>> {
        let mut covered = Vec::new();
        for path in self.hidden {
            if !path.is_dir() {
                continue; // absent, or already gone with /tmp
            }
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            plain_mount("hidden", path, "tmpfs", flags, "mode=755,size=64k")?;
            covered.push(path.clone());
        }
        Ok(covered)
    }
}

fn bad_bind(path: &Path, error: &io::Error) -> StartError {
    StartError::BadBind { path: path.to_owned(), cause: error.to_string() }
}

fn attach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    if !path.exists() {
        let is_dir = fs::metadata(fd_path(tree))?.is_dir();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if is_dir { fs::create_dir(path)? } else { drop(fs::File::create(path)?) }
    }
    sys::move_mount(tree, &c_path(path))
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
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
            let path = c_path(path);
            let tree = sys::open_tree(&path)?;
            sys::tree_read_only(&tree)?;
            sys::move_mount(&tree, &path)?;
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
