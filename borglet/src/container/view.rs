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
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknod, mknodat, umask};

use super::root::{make_workdir, pivot};
use super::users::Users;
use super::{Bind, ImageRoot, Shown, StartError};
use crate::cgroup::Hierarchies;
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

/// Parts of /proc that tell root of the machine's memory, keys and timers.
const PROC_MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg"];

/// Nothing in /proc is a program or a device.
const PROC_FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Where daemons keep their sockets; both names are one directory on most machines.
const RUN: [&str; 2] = ["/run", "/var/run"];

/// Says where names are looked up; on many machines it lies below [`RUN`].
const RESOLVER: &str = "/etc/resolv.conf";

/// The table of hosts, by which a task with a network of its own finds itself.
pub(crate) const HOSTS: &str = "/etc/hosts";

/// The view to build.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The task's own directory: writable.
    pub(crate) work: PathBuf,
    /// Shown beside it.
    pub(crate) binds: &'a [Bind],
    /// Directories of the host that appear empty.
    pub(crate) hidden: &'a [PathBuf],
    /// The machine's cgroups, and the name of the task's own.
    pub(crate) groups: Option<(&'a Hierarchies, &'a str)>,
    /// The image that is the root in place of the host's, and the directory for what changes in it.
    pub(crate) image: Option<(&'a ImageRoot, PathBuf)>,
    /// Where its program begins, unless that is `work`.
    pub(crate) workdir: Option<&'a Path>,
    /// Packages, shown read-only.
    pub(crate) packages: &'a [Shown],
    /// Most bytes in each of /tmp, /run and /dev/shm. They count as the task's memory too.
    pub(crate) scratch_bytes: u64,
    /// Whose ids the task has.
    pub(crate) users: Users,
    /// Whether it sees every device of the host.
    pub(crate) all_devices: bool,
}

impl View<'_> {
    /// Begins the view for this process and all its children: all that needs no ids of the task. The
    /// process must be in new mount and pid namespaces. After it /proc shows this process table.
    pub(crate) fn begin(&self) -> Result<Held, StartError> {
        umask(Mode::empty());
        plain_mount("none", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")
            .map_err(|e| StartError::machine("make the mount table private", e))?;
        let held = self.take_hold()?;
        if self.image.is_some() {
            // Where the task's ids are given, until the image's root has its own.
            plain_mount("proc", "/proc", "proc", PROC_FLAGS, "")
                .map_err(|e| StartError::machine("mount /proc", e))?;
            return Ok(held);
        }
        sys::mount_read_only(c"/", true)
            .map_err(|e| StartError::machine("make the host's files read-only", e))?;
        self.mount_usual(&held)?;
        Ok(held)
    }

    /// Completes it. `users` is the user namespace of the task, where it has one.
    pub(crate) fn complete(&self, held: Held, users: Option<&File>) -> Result<(), StartError> {
        if let Some((image, dir)) = &self.image {
            pivot(&image.mount(dir, self.users, users)?)?;
            self.mount_usual(&held)?;
        }
        if let Some(users) = users {
            for (bind, tree) in &held.binds {
                show_ids(bind, tree, users).map_err(|e| bad_bind(&bind.path, &e))?;
            }
        }
        let mut all: Vec<_> = held.binds.into_iter().chain(held.own).collect();
        // Outer paths first, so that inner ones are attached on top of them.
        all.sort_by_key(|(bind, _)| bind.path.components().count());
        // An image has nothing of the host's.
        let hidden = if self.image.is_some() { &[][..] } else { self.hidden };
        let shut = all.iter().filter_map(|(bind, _)| shut_parent(&bind.path, self.users));
        let groups = self.groups.filter(|_| self.image.is_none());
        let groups = groups.map_or(Vec::new(), |(groups, _)| groups.of_others());
        let mut covered = hide(hidden.iter().cloned().chain(shut).chain(groups).collect())
            .map_err(|e| StartError::machine("hide directories", e))?;
        for (bind, tree) in all {
            if self.image.is_some() {
                leads_through_no_link(&bind.path).map_err(|e| bad_bind(&bind.path, &e))?;
            }
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
        for (target, tree) in held.packages {
            if let Some(users) = users {
                // Where ids are not mapped everybody may read them all the same.
                sys::never_mind(sys::map_ids(&tree, users));
            }
            let bind = Bind { path: target, writable: false, within: None };
            let clear = self.image.as_ref().map_or(Ok(()), |_| leads_through_no_link(&bind.path));
            match clear.and_then(|()| attach(&tree, &bind)) {
                // The image has a link there, which says where its own is.
                Err(e) if [RESOLVER, HOSTS].map(Path::new).contains(&bind.path.as_path()) => {
                    sys::never_mind::<(), _>(Err(e));
                }
                attached => attached.map_err(|e| bad_bind(&bind.path, &e))?,
            }
        }
        if let Some(dir) = self.workdir.filter(|_| self.image.is_some()) {
            sys::never_mind(make_workdir(dir, self.users));
        }
        umask(Mode::from_bits_truncate(0o022));
        Ok(())
    }

    /// What lies over every root, the host's or an image's.
    fn mount_usual(&self, held: &Held) -> Result<(), StartError> {
        self.mount_scratch().map_err(|e| StartError::machine("mount /tmp", e))?;
        match &held.all_devices {
            Some(tree) => show_devices(self.scratch_bytes, tree),
            None => make_devices(self.scratch_bytes, &held.devices),
        }
        .map_err(|e| StartError::machine("make /dev", e))?;
        process_table(self.users).map_err(|e| StartError::machine("mount /proc", e))
    }

    /// Takes hold of everything to be shown before it is hidden.
    fn take_hold(&self) -> Result<Held, StartError> {
        let open = |bind: Bind| {
            let tree = open_source(&bind).map_err(|e| bad_bind(&bind.path, &e))?;
            Ok::<_, StartError>((bind, tree))
        };
        let binds = self.binds.iter().cloned().map(open).collect::<Result<_, _>>()?;
        let work = Bind { path: self.work.clone(), writable: true, within: None };
        let names = resolver().filter(|_| self.image.is_none());
        let own = names.into_iter().chain([work]).map(open).collect::<Result<_, _>>()?;
        // Only root of the machine makes devices; others show the machine's.
        let devices = if matches!(self.users, Users::Own { .. }) {
            let all = DEVICES.iter().map(|(name, ..)| open_device(name));
            all.collect::<io::Result<_>>().map_err(|e| StartError::machine("open devices", e))?
        } else {
            Vec::new()
        };
        let all_devices = self.all_devices.then(open_all_devices).transpose();
        let all_devices = all_devices.map_err(|e| StartError::machine("open devices", e))?;
        Ok(Held { binds, own, devices, all_devices, packages: self.open_packages()? })
    }

    /// Takes hold of what is shown under another path than it has on the host.
    fn open_packages(&self) -> Result<Vec<(PathBuf, OwnedFd)>, StartError> {
        let mut wanted = self.packages.to_vec();
        if self.image.is_some()
            && let Ok(source) = fs::canonicalize(RESOLVER)
        {
            wanted.push(Shown { source, target: RESOLVER.into() });
        }
        wanted.extend(self.groups.and_then(|(groups, name)| groups.own(name)));
        let open = |shown: Shown| {
            let bind = Bind { path: shown.source, writable: false, within: None };
            let tree = open_source(&bind).map_err(|e| bad_bind(&shown.target, &e))?;
            Ok((shown.target, tree))
        };
        wanted.into_iter().map(open).collect()
    }

    fn mount_scratch(&self) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let options = format!("mode=1777,size={}", self.scratch_bytes);
        plain_mount("tmp", "/tmp", "tmpfs", flags, &options)?;
        let root = self.users.on_machine(None);
        let owner = format!("uid={},gid={}", root.uid, root.gid);
        let options = format!("mode=755,size={},{owner}", self.scratch_bytes);
        for path in RUN.map(Path::new) {
            // Not one that is a link to the other.
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                plain_mount("run", path, "tmpfs", flags | MsFlags::MS_NOEXEC, &options)?;
            }
        }
        Ok(())
    }
}

/// What is to be shown, taken hold of before it is hidden.
#[derive(Debug)]
pub(crate) struct Held {
    /// The machine's, to be shown with the task's ids.
    binds: Vec<(Bind, OwnedFd)>,
    /// What is the task's own, or anybody's, as it is.
    own: Vec<(Bind, OwnedFd)>,
    /// The machine's devices, as in [`DEVICES`], where none can be made.
    devices: Vec<OwnedFd>,
    /// The machine's whole /dev, where the task sees it.
    all_devices: Option<OwnedFd>,
    /// What has another path in the task.
    packages: Vec<(PathBuf, OwnedFd)>,
}

/// Shows the files of a bind with the task's ids. Where the file system does not offer it they belong to
/// nobody in the task, which is enough to read, or to write where everybody may.
fn show_ids(bind: &Bind, tree: &OwnedFd, users: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Err(error) = sys::map_ids(tree, users) else { return Ok(()) };
    let mode = fs::metadata(fd_path(tree))?.permissions().mode();
    if !bind.writable || mode & 0o002 != 0 {
        return Ok(());
    }
    let why = "its file system does not let a task with ids of its own write here";
    Err(io::Error::new(error.kind(), format!("{why} ({error}): give everybody the right to")))
}

/// An image's links may lead anywhere, through /proc even to what this process holds open.
fn leads_through_no_link(path: &Path) -> io::Result<()> {
    let linked = path.ancestors().find(|dir| dir.is_symlink());
    let refuse =
        |dir: &Path| Err(io::Error::other(format!("{} is a link in the image", dir.display())));
    linked.map_or(Ok(()), refuse)
}

/// The outermost directory above `path` that only its owner may pass through. A task with ids of its
/// own is not that owner, so what is in there is lost to it anyway: it is covered, and the way to
/// `path` made anew.
fn shut_parent(path: &Path, users: Users) -> Option<PathBuf> {
    let passable = |dir: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
    };
    let Users::Range { .. } = users else { return None };
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    above.into_iter().find(|dir| dir.exists() && !passable(dir)).map(Path::to_owned)
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
            drop(File::create(prefix)?);
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

/// A device of the host, for where none can be made.
fn open_device(name: &str) -> io::Result<OwnedFd> {
    sys::open_tree(&sys::open_plain(None, &c_path(&Path::new("/dev").join(name)))?)
}

fn make_devices(shm_bytes: u64, of_host: &[OwnedFd]) -> io::Result<()> {
    let options = format!("mode=755,size={shm_bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    plain_mount("dev", "/dev", "tmpfs", flags, &options)?;
    let dev = Path::new("/dev");
    for (place, (name, major, minor)) in DEVICES.into_iter().enumerate() {
        if let Some(tree) = of_host.get(place) {
            drop(File::create(dev.join(name))?);
            sys::move_mount(tree, &sys::open_plain(None, &c_path(&dev.join(name)))?)?;
        } else {
            let all = Mode::from_bits_truncate(0o666);
            mknod(&dev.join(name), SFlag::S_IFCHR, all, makedev(major, minor))?;
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name))?;
    }
    let shared = Mode::from_bits_truncate(0o1777);
    nix::unistd::mkdir(&dev.join("shm"), shared)?;
    nix::unistd::mkdir(&dev.join("pts"), Mode::from_bits_truncate(0o755))?;
    own_terminals(dev)
}

/// All devices of the host, in a directory that nobody can change.
fn open_all_devices() -> io::Result<OwnedFd> {
    let tree = sys::open_tree(&sys::open_plain(None, c"/dev")?)?;
    sys::tame_devices(&tree)?;
    Ok(tree)
}

/// The host's /dev, but for what is no device: shared memory, terminals and queues are the task's own or
/// none. What is not there on the host is not there for the task.
fn show_devices(shm_bytes: u64, tree: &OwnedFd) -> io::Result<()> {
    sys::move_mount(tree, &sys::open_plain(None, c"/dev")?)?;
    for path in hide(vec!["/dev/mqueue".into(), "/dev/hugepages".into()])? {
        sys::mount_read_only(&c_path(&path), false)?;
    }
    let dev = Path::new("/dev");
    if dev.join("shm").is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = format!("mode=1777,size={shm_bytes}");
        plain_mount("shm", dev.join("shm"), "tmpfs", flags, &options)?;
    }
    if dev.join("pts").is_dir() { own_terminals(dev) } else { Ok(()) }
}

fn own_terminals(dev: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=620";
    plain_mount("devpts", dev.join("pts"), "devpts", flags, options)
}

fn process_table(users: Users) -> io::Result<()> {
    plain_mount("proc", "/proc", "proc", PROC_FLAGS, "")?;
    for path in PROC_READ_ONLY.map(Path::new) {
        let at = match sys::open_plain(None, &c_path(path)) {
            // Not of this kernel.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            at => at?,
        };
        let tree = sys::open_tree(&at)?;
        sys::tame_tree(&tree, false)?;
        sys::move_mount(&tree, &at)?;
    }
    if users == Users::Machine {
        // Whoever has other ids than root of the machine may not read them.
        for path in PROC_MASKED.map(Path::new).into_iter().filter(|path| path.exists()) {
            let null = sys::open_tree(&sys::open_plain(None, c"/dev/null")?)?;
            sys::move_mount(&null, &sys::open_plain(None, &c_path(path))?)?;
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
