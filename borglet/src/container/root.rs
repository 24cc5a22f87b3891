//! The root of a container that runs an image: an overlay over its layers.
//!
//! The layers are read-only and shared; what the task writes goes into a directory of its own. `view` makes
//! of it what it makes of the machine's root otherwise.
//!
//! Invariant: nothing of an image is followed while the root is made. What is mounted upon (`/proc`, `/dev`,
//! ...) is a directory of the new root, or the start is refused.

use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use borg_proto::layer::user::{self, MAX_TABLE_BYTES};
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{self, Gid, Uid, fchownat};
use serde::{Deserialize, Serialize};

use super::users::Users;
use super::{StartError, User};
use crate::sys;

/// What is mounted upon, or is made by `view`: there whether the image has it or not.
const MOUNTED: [&str; 5] = ["proc", "dev", "sys", "tmp", "run"];

/// The image that a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRoot {
    /// Its name, for people.
    pub image: String,
    /// Directories of its layers, the lowest first. At least one.
    pub layers: Vec<PathBuf>,
    /// `USER`, `USER:GROUP` by name or number; empty for root.
    pub user: String,
}

/// A directory of the machine that the task sees, read-only, under another path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// On the machine.
    pub source: PathBuf,
    /// In the task.
    pub target: PathBuf,
}

impl ImageRoot {
    /// Mounts the root below `dir`, a directory of this container alone, and says where. `namespace` is the
    /// user namespace of `users`, where the task has one: the image's files are shown with its ids.
    pub(crate) fn mount(
        &self,
        dir: &Path,
        users: Users,
        namespace: Option<&fs::File>,
    ) -> Result<PathBuf, StartError> {
        let step = |what: &str| {
            let what = format!("{what} of image {}", self.image);
            move |error: io::Error| StartError::machine(what, error)
        };
        let [upper, work, root] = ["upper", "work", "root"].map(|name| dir.join(name));
        for made in [dir, &upper, &work, &root] {
            // What the task sees as its root is open to all of its users.
            let made = DirBuilder::new().mode(0o755).create(made);
            let fine = made.or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _other => Err(error),
            });
            fine.map_err(step("make the root"))?;
        }
        if namespace.is_some() {
            let root = users.on_machine(None);
            chown(&upper, Some(root.uid), Some(root.gid)).map_err(step("make the root"))?;
        }
        // The highest layer first. By descriptors, as the kernel reads 4 KiB of options at most.
        let layers = self.layers.iter().rev().enumerate();
        let open = layers.map(|(number, layer)| match namespace {
            Some(users) => with_ids(layer, &dir.join(format!("layer{number}")), users),
            None => fs::File::open(layer),
        });
        let open = open.collect::<io::Result<Vec<fs::File>>>().map_err(step("open the layers"))?;
        let layers: Vec<String> =
            open.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            escaped(&upper),
            escaped(&work)
        );
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(Some("overlay"), &root, Some("overlay"), flags, Some(options.as_str()))
            .map_err(|error| step("mount the root")(error.into()))?;
        for name in MOUNTED {
            self.make_mounted(&root, name)?;
        }
        Ok(root)
    }

    /// A link there would have something mounted elsewhere.
    fn make_mounted(&self, root: &Path, name: &str) -> Result<(), StartError> {
        let path = root.join(name);
        let refuse = |what: &str| Err(self.bad(format!("/{name} is {what}")));
        match path.symlink_metadata() {
            Ok(about) if about.is_dir() => Ok(()),
            Ok(about) if about.is_symlink() => refuse("a symlink: it must be a directory"),
            Ok(_) => refuse("no directory"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
                .mode(0o755)
                .create(&path)
                .map_err(|error| StartError::machine("make the root", error)),
            Err(error) => Err(StartError::machine("look at the root", error)),
        }
    }

    /// Whom the program runs as. To be called inside of the root, where every link stays inside too.
    pub(crate) fn user(&self) -> Result<Option<User>, StartError> {
        let ids = user::ids_of(&self.user, |path| self.table(path).map_err(Unfit::Start));
        match ids {
            Ok(ids) => Ok(ids.map(|(uid, gid)| User { uid, gid })),
            Err(Unfit::Start(error)) => Err(error),
            Err(Unfit::User(why)) => Err(self.bad(why)),
        }
    }

    fn bad(&self, cause: String) -> StartError {
        StartError::BadImage { image: self.image.clone(), cause }
    }

    /// A file of users or groups; empty when the image has none.
    fn table(&self, path: &str) -> Result<String, StartError> {
        let failed = |error: io::Error| self.bad(format!("{path}: {error}"));
        // Whatever it is, opening it must not wait for anybody.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = CString::new(path).map_err(io::Error::from);
        let file = match opened.and_then(|path| sys::open_by_names(&path, flags)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            file => fs::File::from(file.map_err(failed)?),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("is no file")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_TABLE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A layer as it is seen with the ids of a task, mounted at `at`, which vanishes with the old root.
fn with_ids(layer: &Path, at: &Path, users: &fs::File) -> io::Result<fs::File> {
    let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let tree = sys::open_tree(&sys::open_plain(None, &c_string(layer)?)?)?;
    sys::map_ids(&tree, users).map_err(|error| {
        let why = "the borglet's directory is on a file system that does not map ids";
        io::Error::new(error.kind(), format!("{why} ({error})"))
    })?;
    fs::create_dir_all(at)?;
    sys::move_mount(&tree, &sys::open_plain(None, &c_string(at)?)?)?;
    fs::File::open(at)
}

/// Makes the directory that a program begins in where its image lacks it, as `root` of the task would have.
/// What stands in the way is told when the program goes there. By no link of /proc: an image may have any.
pub(crate) fn make_workdir(dir: &Path, users: Users) -> io::Result<()> {
    let root = users.on_machine(None);
    let (uid, gid) = (Some(Uid::from_raw(root.uid)), Some(Gid::from_raw(root.gid)));
    let open = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes())?;
        sys::open_by_names(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    };
    let mut way = PathBuf::from("/");
    let mut at = open(&way)?;
    for part in dir.components().skip(1) {
        way.push(part);
        at = match open(&way) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mkdirat(&at, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                fchownat(&at, part.as_os_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                open(&way)?
            }
            opened => opened?,
        };
    }
    Ok(())
}

/// What keeps an image's user from being found.
enum Unfit {
    Start(StartError),
    User(String),
}

impl From<String> for Unfit {
    fn from(why: String) -> Self {
        Self::User(why)
    }
}

/// A path as an option of overlayfs, where `\`, `:` and `,` mean something.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('\\', r"\\").replace(':', r"\:").replace(',', r"\,")
}

/// Makes `root` the root of this mount namespace; what was the root is not to be seen any more.
pub(crate) fn pivot(root: &Path) -> Result<(), StartError> {
    let step = |error: nix::errno::Errno| StartError::machine("change the root", error);
    unistd::chdir(root).map_err(step)?;
    // The old root comes over the new one, and goes.
    unistd::pivot_root(".", ".").map_err(step)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step)?;
    unistd::chdir("/").map_err(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_colon_is_one_layer() {
        assert_eq!(escaped(Path::new(r"/a:b,c\d")), r"/a\:b\,c\\d");
    }
}
