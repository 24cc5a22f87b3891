//! Files into a stream.

use crate::{ArchiveError, Bounds, LEFT_OUT_TOLD, Summary, stays_within};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Writes `path`, with all below it when it is a directory, as entries below its own name. Links in it are
/// not followed; `path` itself may be one. Files that grow or shrink meanwhile are cut or filled with zeros.
///
/// # Errors
/// When it is not there, is too much, or the stream cannot be written. Single files that cannot be read are
/// left out and named, and so is what is neither file, directory nor link.
pub fn pack(path: &Path, out: impl Write, bounds: &Bounds) -> Result<Summary, ArchiveError> {
    let bad = |source| ArchiveError::Source { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(bad)?;
    // The name that was asked for, unless it has none, as `.` and `/` have not.
    let name = path.file_name().or_else(|| real.file_name());
    let name = PathBuf::from(name.unwrap_or_else(|| "root".as_ref()));
    let mut packing = Packing { out: Builder::new(out), bounds, summary: Summary::default() };
    // Depth first, so that a directory comes before what is in it.
    let mut todo = vec![(real, name)];
    let mut first = true;
    while let Some((path, name)) = todo.pop() {
        let packed = packing.one(&path, &name);
        match packed {
            Ok(below) => todo.extend(below),
            Err(ArchiveError::Source { path, source }) if !first => {
                packing.summary.leave_out(&path, &source.to_string());
            }
            Err(error) => return Err(error),
        }
        first = false;
    }
    packing.out.into_inner().and_then(|mut out| out.flush()).map_err(ArchiveError::Stream)?;
    debug_assert!(packing.summary.left_out.len() <= LEFT_OUT_TOLD);
    Ok(packing.summary)
}

struct Packing<'a, W: Write> {
    out: Builder<W>,
    bounds: &'a Bounds,
    summary: Summary,
}

impl<W: Write> Packing<'_, W> {
    /// Writes one entry; gives what is in it.
    fn one(&mut self, path: &Path, name: &Path) -> Result<Vec<(PathBuf, PathBuf)>, ArchiveError> {
        let bad = |source| ArchiveError::Source { path: path.to_owned(), source };
        let meta = fs::symlink_metadata(path).map_err(bad)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let mut below = Vec::new();
            for entry in fs::read_dir(path).map_err(bad)? {
                let entry = entry.map_err(bad)?;
                below.push((entry.path(), name.join(entry.file_name())));
                // One directory must not take all memory.
                if below.len() as u64 > self.bounds.entries {
                    return Err(ArchiveError::TooMuch {
                        what: "entries",
                        most: self.bounds.entries,
                    });
                }
            }
            below.sort_by(|a, b| b.cmp(a));
            self.summary.count(0, self.bounds)?;
            let mut header = header(EntryType::Directory, &meta, 0);
            self.out.append_data(&mut header, name, [].as_slice()).map_err(ArchiveError::Stream)?;
            return Ok(below);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(bad)?;
            if !stays_within(name, &target) {
                self.summary.leave_out(path, "a link out of what is copied");
                return Ok(Vec::new());
            }
            self.summary.count(0, self.bounds)?;
            let mut header = header(EntryType::Symlink, &meta, 0);
            self.out.append_link(&mut header, name, target).map_err(ArchiveError::Stream)?;
        } else if kind.is_file() {
            let mut options = File::options();
            // What it was may have become a pipe or a link meanwhile: neither hang nor follow.
            let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
            let file = options.read(true).custom_flags(flags.bits()).open(path).map_err(bad)?;
            let meta = file.metadata().map_err(bad)?;
            if !meta.is_file() {
                return Err(bad(io::Error::other("no longer a file")));
            }
            self.summary.count(meta.len(), self.bounds)?;
            let mut header = header(EntryType::Regular, &meta, meta.len());
            // As many bytes as the header says, whatever becomes of the file.
            let data = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
            self.out.append_data(&mut header, name, data).map_err(ArchiveError::Stream)?;
        } else {
            return Err(bad(io::Error::other("neither file, directory nor link")));
        }
        Ok(Vec::new())
    }
}

fn header(kind: EntryType, meta: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.permissions().mode() & 0o777);
    header.set_size(size);
    let since = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    header.set_mtime(since.map_or(0, |since| since.as_secs()));
    header
}
