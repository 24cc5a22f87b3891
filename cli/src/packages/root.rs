//! What a machine looks at in an image before a task of it starts, as far as the layers tell.
//!
//! What a start would refuse for sure is refused before anything is sent. What the layers do not tell, such as where
//! a link in the image leads, is left to the machine.

use borg_proto::layer::user::{MAX_TABLE_BYTES, ids_of};
use borg_proto::layer::{Entry, Kind};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Directories on which something is mounted for each task, beside those that no layer may have otherwise.
const MOUNTED: [&str; 2] = ["tmp", "run"];
/// What is kept of the layers.
const KEPT: [&str; 5] = ["tmp", "run", "etc", "etc/passwd", "etc/group"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Directory,
    /// A file that was read.
    Table(Vec<u8>),
    Symlink,
    /// A file that was not.
    File,
}

/// The root that the layers make, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Root {
    at: BTreeMap<PathBuf, At>,
    layer: Seen,
}

/// What one layer has.
#[derive(Debug, Default)]
struct Seen {
    at: BTreeMap<PathBuf, At>,
    gone: Vec<PathBuf>,
    emptied: Vec<PathBuf>,
}

impl Root {
    /// Looks at an entry. When it is a file that matters its bytes are read, and given back.
    pub(super) fn see(
        &mut self,
        entry: &Entry,
        data: &mut dyn Read,
    ) -> io::Result<Option<Vec<u8>>> {
        let Seen { at, gone, emptied } = &mut self.layer;
        for kept in KEPT.map(Path::new).into_iter().filter(|kept| *kept != entry.path) {
            if entry.path.starts_with(kept) {
                at.entry(kept.to_owned()).or_insert(At::Directory);
            }
        }
        if !KEPT.iter().any(|kept| entry.path == Path::new(kept)) {
            return Ok(None);
        }
        let (what, read) = match &entry.kind {
            Kind::Gone => {
                gone.push(entry.path.clone());
                return Ok(None);
            }
            Kind::Opaque => {
                emptied.push(entry.path.clone());
                (At::Directory, None)
            }
            Kind::Directory => (At::Directory, None),
            Kind::Symlink { .. } => (At::Symlink, None),
            Kind::File { bytes } if *bytes <= MAX_TABLE_BYTES => {
                let mut read = Vec::new();
                data.read_to_end(&mut read)?;
                (At::Table(read.clone()), Some(read))
            }
            Kind::File { .. } | Kind::HardLink { .. } => (At::File, None),
        };
        at.insert(entry.path.clone(), what);
        Ok(read)
    }

    /// The layer is over: it lies on those before it.
    pub(super) fn end_layer(&mut self) {
        let Seen { at, gone, emptied } = std::mem::take(&mut self.layer);
        self.at.retain(|path, _| {
            !gone.iter().any(|gone| path.starts_with(gone))
                && !emptied.iter().any(|dir| path != dir && path.starts_with(dir))
        });
        for (path, what) in at {
            if what != At::Directory {
                self.at.retain(|below, _| !below.starts_with(&path));
            }
            self.at.insert(path, what);
        }
    }

    /// Why no task of this image with that `USER` can start, if that is certain.
    pub(super) fn refusal(&self, user: &str) -> Option<String> {
        for name in MOUNTED {
            let what = match self.at.get(Path::new(name)) {
                None | Some(At::Directory) => continue,
                Some(At::Symlink) => "a symlink",
                Some(At::Table(_) | At::File) => "a file",
            };
            return Some(format!(
                "/{name} is {what}: it must be a directory, or not be there, as each task has its own"
            ));
        }
        match ids_of(user, |table| self.table(table)) {
            Err(Unsure::Bad(why)) => Some(format!("config.User: {user:?}: {why}")),
            Err(Unsure::Unknown) | Ok(_) => None,
        }
    }

    fn table(&self, path: &'static str) -> Result<String, Unsure> {
        let below_root = path.trim_start_matches('/');
        match (self.at.get(Path::new("etc")), self.at.get(Path::new(below_root))) {
            (Some(At::Symlink), _) | (_, Some(At::Symlink | At::File)) => Err(Unsure::Unknown),
            (_, Some(At::Table(text))) => Ok(String::from_utf8_lossy(text).into_owned()),
            (_, Some(At::Directory) | None) => Ok(String::new()),
        }
    }
}

/// Why it is not known whom a user is.
enum Unsure {
    Unknown,
    Bad(String),
}

impl From<String> for Unsure {
    fn from(why: String) -> Self {
        Self::Bad(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: 0 }
    }

    fn root(layers: &[&[(&str, Kind, &str)]]) -> Root {
        let mut root = Root::default();
        for layer in layers {
            for (path, kind, text) in *layer {
                root.see(&entry(path, kind.clone()), &mut text.as_bytes()).unwrap();
            }
            root.end_layer();
        }
        root
    }

    fn file(path: &'static str, text: &'static str) -> (&'static str, Kind, &'static str) {
        (path, Kind::File { bytes: text.len() as u64 }, text)
    }

    fn link(path: &'static str) -> (&'static str, Kind, &'static str) {
        (path, Kind::Symlink { target: "/x".into() }, "")
    }

    #[test]
    fn a_user_is_looked_for_in_what_the_upper_layers_leave() {
        let low = [file("etc/passwd", "web:x:5:6\n")];
        assert_eq!(root(&[&low]).refusal("web"), None);
        assert_eq!(
            root(&[&low]).refusal("none").unwrap(),
            "config.User: \"none\": user \"none\" is not in its /etc/passwd"
        );
        let other = [file("etc/passwd", "db:x:5:6\n")];
        assert!(root(&[&low, &other]).refusal("web").is_some());
        assert!(root(&[&low, &[("etc/passwd", Kind::Gone, "")]]).refusal("web").is_some());
        assert!(root(&[&low, &[("etc", Kind::Opaque, "")]]).refusal("web").is_some());
        assert_eq!(
            root(&[&low, &[("etc", Kind::Opaque, ""), low[0].clone()]]).refusal("web"),
            None
        );
        assert_eq!(root(&[]).refusal("7"), None, "a number needs no table");
        assert!(root(&[]).refusal("web").is_some());
    }

    #[test]
    fn what_the_layers_do_not_tell_is_left_to_the_machine() {
        assert_eq!(root(&[&[link("etc/passwd")]]).refusal("web"), None);
        assert_eq!(root(&[&[link("etc")]]).refusal("web"), None);
        let hard = ("etc/passwd", Kind::HardLink { target: "x".into() }, "");
        assert_eq!(root(&[&[hard]]).refusal("web"), None);
    }

    #[test]
    fn what_something_is_mounted_on_is_a_directory_in_the_end() {
        let said = root(&[&[link("tmp")]]).refusal("").unwrap();
        assert!(said.starts_with("/tmp is a symlink: it must be a directory"), "{said}");
        assert!(root(&[&[file("run", "x")]]).refusal("").unwrap().starts_with("/run is a file"));
        // An upper layer put it right, by name or by what is in it.
        let dir = ("tmp", Kind::Directory, "");
        assert_eq!(root(&[&[link("tmp")], &[dir]]).refusal(""), None);
        assert_eq!(root(&[&[link("tmp")], &[file("tmp/x", "x")]]).refusal(""), None);
        assert_eq!(root(&[&[link("tmp")], &[("tmp", Kind::Gone, "")]]).refusal(""), None);
    }
}
