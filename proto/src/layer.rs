//! What is in a layer of a package, and what may not be.
//!
//! A layer is a plain tar file with directories, files and links, and the marks by which a layer of an
//! image takes away what lies below it (OCI image specification 1.1, "Whiteouts"). [`walk`] reads one
//! from any source and checks each entry; [`Writer`] makes one in the only form that cells keep. Who puts
//! a package walks what he has and writes it anew; the machine that unpacks it walks it again, since it
//! trusts nobody.
//!
//! Invariant: no entry that gets through names a place outside of the layer's root, makes a device, or
//! gives its user's rights to whoever runs it. What the text of an entry cannot tell (that a directory on
//! its way is a link by now) is for whoever unpacks to rule out.

pub mod fixture;
pub mod raw;
pub mod user;

use crate::names::shorten;
use crate::package::{Digest, Hasher, Layer, MAX_LAYER_BYTES};
use crate::text::one_line;
use raw::{RawEntry, TarError, Whole};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Most entries of a layer. 500,000: our choice; a distribution's root has some 10,000, and each takes an
/// inode on every machine.
pub const MAX_ENTRIES: u64 = 500_000;
/// Longest path of an entry and longest target of a link in bytes: Linux takes no more.
pub const MAX_PATH_BYTES: usize = 4_095;
/// Most directories on the way to an entry. 128: our choice; opening it takes a step for each.
pub const MAX_DEPTH: usize = 128;
/// Longest name of a file in bytes: Linux takes no more.
const MAX_COMPONENT_BYTES: usize = 255;
/// Bits of a mode that lend a file's owner or group to whoever runs it.
const LENT: u32 = 0o6000;
/// What names of marks begin with.
const MARK: &[u8] = b".wh.";
/// The largest owner and group of an entry: tasks have ids of their own, 0 to this one.
pub const MAX_ID: u32 = 65_535;
/// Most bytes told of why an archive cannot be read; its own bytes may be among them.
const MAX_WHY: usize = 200;
/// The mark of a directory of which nothing lower is seen.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a layer is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether it is of an image: then a link may begin at the image's root, and marks mean something.
    pub image: bool,
    /// Whether bits that lend rights are dropped and counted, or refused.
    pub drop_lent: bool,
}

/// One entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root, without `.` and `..`; empty is the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permissions, without those that lend rights.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file of so many bytes, which follow.
    File {
        /// How many.
        bytes: u64,
    },
    /// A symbolic link; where to is not followed by anybody who unpacks.
    Symlink {
        /// As written.
        target: PathBuf,
    },
    /// Another name for a file of the same layer.
    HardLink {
        /// Its path, as in [`Entry::path`].
        target: PathBuf,
    },
    /// Takes away what lower layers have at the path. Only in images.
    Gone,
    /// Takes away all that lower layers have in the directory at the path. Only in images.
    Opaque,
}

/// A layer that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// One of its entries.
    #[error("entry {entry:?} {why}")]
    Entry {
        /// Its path, shortened.
        entry: String,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// There is too much in it.
    #[error("the layer has more than {most} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The most that it may have.
        most: u64,
    },
    /// It ends too early, or is no tar file.
    #[error("read the layer: {}", one_line(.0.to_string().as_bytes(), MAX_WHY))]
    Read(#[source] io::Error),
    /// What is made of it could not be written.
    #[error("write the layer: {0}")]
    Write(#[source] io::Error),
}

/// What was in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many entries.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Entries that lost bits which lend rights.
    pub dropped: u64,
}

/// An error about one entry.
#[must_use]
pub fn bad_entry(path: &Path, why: impl Into<String>) -> LayerError {
    LayerError::Entry { entry: shorten(&path.to_string_lossy()), why: why.into() }
}

/// Reads a layer, and gives each of its entries with what is in it to `take`, which need not read that.
///
/// # Errors
/// The first entry that may not be there, or what `take` says.
pub fn walk<E: From<LayerError>>(
    from: impl Read,
    rules: Rules,
    mut take: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<Totals, E> {
    let mut totals = Totals::default();
    raw::each(from, |raw, data| {
        let (checked, dropped) = check(raw, rules)?;
        totals.entries += 1;
        totals.dropped += u64::from(dropped);
        if totals.entries > MAX_ENTRIES {
            return Err(LayerError::TooMuch { what: "entries", most: MAX_ENTRIES }.into());
        }
        let bytes = match checked.kind {
            Kind::File { bytes } => bytes,
            Kind::Directory
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::Gone
            | Kind::Opaque => 0,
        };
        totals.bytes = totals.bytes.saturating_add(bytes);
        if totals.bytes > MAX_LAYER_BYTES {
            let (what, most) = ("bytes of files", MAX_LAYER_BYTES);
            return Err(LayerError::TooMuch { what, most }.into());
        }
        take(&checked, data).map_err(Stopped)
    })
    .map_err(|Stopped(error)| error)?;
    Ok(totals)
}

/// Why a walk ended early, in the words of whoever walks.
struct Stopped<E>(E);

impl<E: From<LayerError>> From<TarError> for Stopped<E> {
    fn from(error: TarError) -> Self {
        LayerError::from(error).into()
    }
}

impl<E: From<LayerError>> From<LayerError> for Stopped<E> {
    fn from(error: LayerError) -> Self {
        Self(error.into())
    }
}

impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => Self::Read(source),
            TarError::TooMuch { what, most } => Self::TooMuch { what, most },
        }
    }
}

/// The entry of a header, and whether it lost bits that lend rights.
fn check(entry: &RawEntry<'_>, rules: Rules) -> Result<(Entry, bool), LayerError> {
    let (header, raw) = (entry.header, entry.path());
    let raw = Path::new(OsStr::from_bytes(&raw));
    let refuse = |why: String| Err(bad_entry(raw, why));
    let path = inside(raw).map_err(|why| bad_entry(raw, why))?;
    let link = || entry.link().unwrap_or_default();
    if let Some(why) = entry.unusable() {
        return refuse(why.to_owned());
    }
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => {
            // Tar of before 1988 marks a directory so.
            if raw.as_os_str().as_bytes().ends_with(b"/") {
                Kind::Directory
            } else {
                Kind::File { bytes: entry.bytes }
            }
        }
        EntryType::Symlink => {
            let target = PathBuf::from(OsStr::from_bytes(&link()));
            check_symlink(&path, &target, rules).map_err(|why| bad_entry(raw, why))?;
            Kind::Symlink { target }
        }
        EntryType::Link => {
            let target = link();
            let named = Path::new(OsStr::from_bytes(&target));
            match inside(named) {
                Ok(target) if !target.as_os_str().is_empty() => Kind::HardLink { target },
                Ok(_) => return refuse("is a hard link to nothing".to_owned()),
                Err(why) => {
                    let target = shorten(&named.to_string_lossy());
                    return refuse(format!("is a hard link to {target:?}, which {why}"));
                }
            }
        }
        EntryType::Char | EntryType::Block => {
            return refuse("is a device: a package has files, directories and links".to_owned());
        }
        EntryType::Fifo => {
            return refuse("is a pipe: a package has files, directories and links".to_owned());
        }
        EntryType::GNUSparse => {
            return refuse("is a sparse file: store it as an ordinary one".to_owned());
        }
        other => {
            return refuse(format!("is of an unknown type {:?}", char::from(other.as_byte())));
        }
    };
    let mode = header.mode().map_err(|_| bad_entry(raw, "has a mode that is no number"))?;
    let lends_bits = mode & LENT != 0 && matches!(kind, Kind::File { .. });
    let lends = lends_bits || entry.has_capabilities();
    if lends && !rules.drop_lent {
        let what =
            if entry.has_capabilities() { "has file capabilities" } else { "is setuid or setgid" };
        return refuse(format!("{what}: a package lends no rights (borgctl can drop them)"));
    }
    let id = |id: io::Result<u64>, what: &str| {
        let id = id.map_err(LayerError::Read)?;
        let fits = u32::try_from(id).ok().filter(|id| *id <= MAX_ID);
        fits.ok_or_else(|| bad_entry(raw, format!("has {what} {id}, over {MAX_ID}")))
    };
    let entry = Entry {
        kind: marked(&path, kind, rules).map_err(|why| bad_entry(raw, why))?,
        mode: mode & 0o7777 & !LENT,
        uid: id(entry.uid(), "owner")?,
        gid: id(entry.gid(), "group")?,
        mtime: header.mtime().unwrap_or(0),
        path,
    };
    if entry.path.as_os_str().is_empty() && entry.kind != Kind::Directory {
        return refuse("is the root and no directory".to_owned());
    }
    Ok((unmarked(entry), lends))
}

/// Marks are files of no bytes with a name of their own.
fn marked(path: &Path, kind: Kind, rules: Rules) -> Result<Kind, String> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    if !path.iter().any(|part| part.as_bytes().starts_with(MARK)) {
        return Ok(kind);
    }
    if !rules.image {
        return Err("has a name that begins with '.wh.', which takes files away in images".into());
    }
    let empty = matches!(kind, Kind::File { bytes: 0 } | Kind::HardLink { .. });
    let in_marked =
        path.parent().is_some_and(|up| up.iter().any(|p| p.as_bytes().starts_with(MARK)));
    if !empty || in_marked || name == MARK || (name.starts_with(b".wh..wh.") && name != OPAQUE) {
        return Err("is no mark that this version knows: .wh.NAME and .wh..wh..opq, empty".into());
    }
    if matches!(name.strip_prefix(MARK), Some(b"." | b"..")) {
        return Err("takes away '.' or '..', which are no names of files".into());
    }
    if name == OPAQUE && path.parent().is_none_or(|up| up.as_os_str().is_empty()) {
        // What lies under the root of a layer is always seen through it.
        return Err("takes away all layers below, which no machine does: leave those out".into());
    }
    Ok(if name == OPAQUE { Kind::Opaque } else { Kind::Gone })
}

/// A mark as an entry of what it is about.
fn unmarked(entry: Entry) -> Entry {
    let path = match entry.kind {
        Kind::Opaque => entry.path.parent().unwrap_or(Path::new("")).to_owned(),
        Kind::Gone => {
            let name = entry.path.file_name().unwrap_or_default().as_bytes();
            entry.path.with_file_name(OsStr::from_bytes(&name[MARK.len()..]))
        }
        Kind::Directory | Kind::File { .. } | Kind::Symlink { .. } | Kind::HardLink { .. } => {
            return entry;
        }
    };
    Entry { path, ..entry }
}

/// The path below the root that a text names, or why it names none.
fn inside(path: &Path) -> Result<PathBuf, String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err("has no name".into());
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(format!("is longer than {MAX_PATH_BYTES} bytes"));
    }
    if bytes.contains(&0) {
        return Err("has a zero byte in its name".into());
    }
    let mut found = PathBuf::new();
    let mut depth = 0;
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) if name.as_bytes().len() > MAX_COMPONENT_BYTES => {
                return Err(format!("has a name of more than {MAX_COMPONENT_BYTES} bytes"));
            }
            Component::Normal(name) => {
                found.push(name);
                depth += 1;
            }
            Component::ParentDir => return Err("escapes the package's root: it has '..'".into()),
            Component::RootDir | Component::Prefix(_) => {
                return Err("escapes the package's root: it begins with '/'".into());
            }
        }
    }
    if depth > MAX_DEPTH {
        return Err(format!("is more than {MAX_DEPTH} directories deep"));
    }
    Ok(found)
}

fn check_symlink(path: &Path, target: &Path, rules: Rules) -> Result<(), String> {
    let bytes = target.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES || bytes.contains(&0) {
        return Err(format!(
            "is a link to a text that is not 1 to {MAX_PATH_BYTES} bytes of a path"
        ));
    }
    let outside = |why: &str| {
        let target = shorten(&target.to_string_lossy());
        Err(format!("is a link to {target:?}, which leaves the package's root{why}"))
    };
    if target.is_absolute() && !rules.image {
        return outside(": a package may be shown anywhere, so links in it are relative");
    }
    let (mut depth, mut is_below) = (path.components().count() - 1, false);
    if target.is_absolute() {
        depth = 0;
    }
    for part in target.components() {
        match part {
            // What is below may be a link, and `..` begins at where that leads. An image's root is a root: no
            // link in it leads out.
            Component::ParentDir if is_below && !rules.image => {
                return outside(": it goes up again after a name, which may be a link itself");
            }
            Component::ParentDir => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return outside(""),
            },
            Component::Normal(_) => (depth, is_below) = (depth + 1, true),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

/// Writes a layer in the form that cells keep: the same entries always give the same bytes.
pub struct Writer<W: Write> {
    tar: tar::Builder<Counted<W>>,
    bytes: u64,
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Counted<W> {
    to: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        if self.bytes > MAX_LAYER_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_LAYER_BYTES} bytes")));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Writer<W> {
    /// A layer without entries.
    pub fn new(to: W) -> Self {
        let counted = Counted { to, hasher: Hasher::default(), bytes: 0 };
        Self { tar: tar::Builder::new(counted), bytes: 0 }
    }

    /// Adds an entry, with the bytes of a file.
    ///
    /// # Errors
    /// When it cannot be written, or `data` is shorter than the entry says.
    pub fn add(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), LayerError> {
        if entry.path.as_os_str().is_empty() && entry.kind == Kind::Directory {
            return Ok(()); // every layer has a root
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(entry.mtime);
        header.set_size(0);
        let written = match &entry.kind {
            Kind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.tar.append_data(&mut header, &entry.path, io::empty())
            }
            Kind::File { bytes } => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(*bytes);
                self.bytes += bytes;
                let data = Whole::new(data, *bytes);
                self.tar.append_data(&mut header, &entry.path, data)
            }
            Kind::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                self.tar.append_link(&mut header, &entry.path, target)
            }
            Kind::HardLink { target } => {
                header.set_entry_type(EntryType::Link);
                self.tar.append_link(&mut header, &entry.path, target)
            }
            Kind::Gone => {
                let name = entry.path.file_name().unwrap_or_default().as_bytes();
                let path = entry.path.with_file_name(OsStr::from_bytes(&[MARK, name].concat()));
                self.add_mark(header, &path)
            }
            Kind::Opaque => self.add_mark(header, &entry.path.join(OsStr::from_bytes(OPAQUE))),
        };
        written.map_err(LayerError::Write)
    }

    fn add_mark(&mut self, mut header: tar::Header, path: &Path) -> io::Result<()> {
        header.set_entry_type(EntryType::Regular);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Ends the layer; says what it is, and gives back what it was written to.
    ///
    /// # Errors
    /// When the end cannot be written.
    pub fn finish(self) -> Result<(Layer, W), LayerError> {
        let mut counted = self.tar.into_inner().map_err(LayerError::Write)?;
        counted.flush().map_err(LayerError::Write)?;
        let digest: Digest = counted.hasher.finish();
        let layer = Layer { digest, bytes: counted.bytes, unpacked_bytes: self.bytes };
        Ok((layer, counted.to))
    }
}

#[cfg(test)]
mod tests;
