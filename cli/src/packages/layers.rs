//! A layer written anew: unpacked, checked, and in the one form that cells keep.

use super::PackageError;
use super::frames::{Frames, begins_as_zstd};
use super::root::Root;
use borg_proto::layer::{self, Entry, Kind, LayerError, MAX_ENTRIES, Rules, Writer, bad_entry};
use borg_proto::package::{Digest, Hasher, Layer};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek};
use std::path::{Path, PathBuf};

/// Most that a compressed layer may grow by when it is unpacked. 200: our choice. What is nearly all zeros does
/// 1,000, and is refused: on each machine it would take all of its size.
const MOST_RATIO: u64 = 200;
/// What a layer may have beside that: little is compressed well.
const SPARED_BYTES: u64 = 1 << 20;
/// What gzip files begin with (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Directories of an image's root on which something is mounted for each task.
const MOUNTED: [&str; 3] = ["proc", "dev", "sys"];

/// Whether something is compressed in a way that can be undone.
pub(super) fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&GZIP) || begins_as_zstd(head)
}

/// Reads through, counts, and finds the digest.
pub(super) struct Counted<R> {
    from: R,
    hasher: Hasher,
    pub(super) bytes: u64,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, hasher: Hasher::default(), bytes: 0 }
    }

    /// Reads the rest, and names all of it.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hasher.finish(), self.bytes))
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Refuses what grows too much.
struct Bounded<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        let more = read as u64;
        self.left = self.left.checked_sub(more).ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {MOST_RATIO} times its size"))
        })?;
        Ok(read)
    }
}

/// Undoes the compression of something of so many bytes, if it has one.
pub(super) fn decompressed<'a>(from: impl Read + 'a, bytes: u64) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::new(from);
    let head = from.fill_buf()?;
    let left = bytes.saturating_mul(MOST_RATIO).saturating_add(SPARED_BYTES);
    if head.starts_with(&GZIP) {
        return Ok(Box::new(Bounded { from: flate2::bufread::MultiGzDecoder::new(from), left }));
    }
    if begins_as_zstd(head) {
        return Ok(Box::new(Bounded { from: Frames::new(from), left }));
    }
    Ok(Box::new(from))
}

/// A layer of a cell, and what was read for it.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) layer: Layer,
    pub(super) file: File,
    /// The digest of the tar file that it was made from.
    pub(super) was: Digest,
    pub(super) dropped: u64,
}

/// Writes a tar file anew.
pub(super) fn rewrite(
    what: &str,
    tar: impl Read,
    rules: Rules,
    root: &mut Root,
) -> Result<Rewritten, PackageError> {
    let wrong = |source| PackageError::Layer { what: what.to_owned(), source };
    let mut tar = Counted::new(tar);
    let mut writer = new_layer()?;
    let mut seen = Seen { paths: BTreeMap::new(), most: MAX_ENTRIES };
    let totals = layer::walk(&mut tar, rules, |entry, data| {
        seen.check(entry)?;
        if rules.image {
            check_mounted(entry)?;
        }
        match root.see(entry, data).map_err(LayerError::Read)? {
            Some(read) => writer.add(entry, &mut read.as_slice()),
            None => writer.add(entry, data),
        }
    });
    root.end_layer();
    let totals = totals.map_err(wrong)?;
    let (was, _) = tar.finish().map_err(|error| wrong(LayerError::Read(error)))?;
    let (layer, file) = done(writer).map_err(wrong)?;
    Ok(Rewritten { layer, file, was, dropped: totals.dropped })
}

pub(super) fn new_layer() -> Result<Writer<BufWriter<File>>, PackageError> {
    let file = tempfile::tempfile().map_err(PackageError::Temporary)?;
    Ok(Writer::new(BufWriter::with_capacity(1 << 18, file)))
}

pub(super) fn done(writer: Writer<BufWriter<File>>) -> Result<(Layer, File), LayerError> {
    let (layer, file) = writer.finish()?;
    let mut file = file.into_inner().map_err(|error| LayerError::Write(error.into_error()))?;
    file.rewind().map_err(LayerError::Write)?;
    Ok((layer, file))
}

/// A link there would have something of the machine mounted elsewhere.
fn check_mounted(entry: &Entry) -> Result<(), LayerError> {
    let is_mounted = MOUNTED.iter().any(|name| entry.path == Path::new(name));
    let fine = matches!(entry.kind, Kind::Directory | Kind::Gone | Kind::Opaque);
    if !is_mounted || fine {
        return Ok(());
    }
    let what = if matches!(entry.kind, Kind::Symlink { .. }) { "is a symlink" } else { "is there" };
    let why = format!("{what}: /proc, /dev and /sys of an image are directories, or not in it");
    Err(bad_entry(&entry.path, why))
}

/// What a layer has had so far, with the directories on the way to it.
#[derive(Debug)]
struct Seen {
    paths: BTreeMap<PathBuf, What>,
    most: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Directory,
    File,
    Other,
}

impl Seen {
    /// Refuses an entry by what came before it, in whatever order a machine would find out.
    fn check(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let refuse = |why: String| Err(bad_entry(&entry.path, why));
        let what = match &entry.kind {
            Kind::Directory | Kind::Opaque => What::Directory,
            Kind::File { .. } => What::File,
            Kind::HardLink { target } => match self.paths.get(target) {
                Some(What::File) => What::File,
                Some(What::Directory | What::Other) => {
                    return refuse("is a hard link to what is no file".to_owned());
                }
                None if self.above(target).is_some() => {
                    let why = "is a hard link to what is beyond something that is no directory";
                    return refuse(why.to_owned());
                }
                None => return refuse("is a hard link to what is not there yet".to_owned()),
            },
            Kind::Symlink { .. } | Kind::Gone => What::Other,
        };
        if let Some(above) = self.above(&entry.path) {
            let above = above.display().to_string();
            return refuse(format!(
                "escapes the package's root: it goes through {above:?}, which is no directory"
            ));
        }
        for above in entry.path.ancestors().skip(1).take_while(|above| *above != Path::new("")) {
            if self.paths.contains_key(above) {
                break;
            }
            self.paths.insert(above.to_owned(), What::Directory);
        }
        let before = self.paths.insert(entry.path.clone(), what);
        if self.paths.len() as u64 > self.most {
            let what = "entries, with the directories on the way to them";
            return Err(LayerError::TooMuch { what, most: self.most });
        }
        let again =
            before.is_some_and(|before| (before, what) != (What::Directory, What::Directory));
        if again { refuse("is there twice".to_owned()) } else { Ok(()) }
    }

    /// What is no directory on the way to a path.
    fn above<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        let mut above = path.ancestors().skip(1);
        above.find(|above| self.paths.get(*above).is_some_and(|what| *what != What::Directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: &mut Seen, path: &str, kind: Kind) -> Result<(), String> {
        let entry = Entry { path: path.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime: 0 };
        seen.check(&entry).map_err(|refused| refused.to_string())
    }

    #[test]
    fn what_a_machine_would_refuse_of_links_is_refused_here_in_the_same_words() {
        let mut seen = Seen { paths: BTreeMap::new(), most: 10 };
        let file = || Kind::File { bytes: 1 };
        let link = |target: &str| Kind::HardLink { target: target.into() };
        check(&mut seen, "d", Kind::Symlink { target: "/".into() }).unwrap();
        let said = check(&mut seen, "b", link("d/outside")).unwrap_err();
        assert_eq!(
            said,
            "entry \"b\" is a hard link to what is beyond something that is no directory"
        );
        let said = check(&mut seen, "b", link("none")).unwrap_err();
        assert_eq!(said, "entry \"b\" is a hard link to what is not there yet");
        let said = check(&mut seen, "d/x", file()).unwrap_err();
        assert!(said.contains("it goes through \"d\", which is no directory"), "{said}");
        check(&mut seen, "e/f", file()).unwrap();
        let said = check(&mut seen, "e", Kind::Symlink { target: "/".into() }).unwrap_err();
        assert_eq!(said, "entry \"e\" is there twice");
    }

    #[test]
    fn directories_that_are_not_named_count_too() {
        let mut seen = Seen { paths: BTreeMap::new(), most: 5 };
        check(&mut seen, "a/b/c/d", Kind::File { bytes: 1 }).unwrap();
        check(&mut seen, "a/b", Kind::Directory).unwrap();
        check(&mut seen, "a/e", Kind::File { bytes: 1 }).unwrap();
        assert!(check(&mut seen, "f", Kind::Directory).unwrap_err().contains("more than 5"));
    }
}
