//! A directory or a program as a package.
//!
//! What does not matter to a task is left out, so that the same files always make the same package: who owns
//! them, when they were changed, and all rights but whether they may be executed.

use super::layers::{done, new_layer};
use super::{PackageError, Prepared};
use borg_proto::layer::{self, Entry, Kind, LayerError, Rules, bad_entry};
use borg_proto::package::{PackageKind, elf_arch};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bits of a mode that lend rights.
const LENT: u32 = 0o6000;

/// Files and where they come from, in the order of their paths.
type Found = Vec<(Entry, PathBuf)>;

pub(super) fn of_directory(path: &Path, drop_setuid: bool) -> Result<Prepared, PackageError> {
    let (mut found, mut dropped) = (Found::new(), 0);
    collect(path, Path::new(""), drop_setuid, &mut found, &mut dropped)?;
    write(path, PackageKind::Directory, &found, String::new(), dropped)
}

/// A program becomes a directory with that one file.
pub(super) fn of_program(
    path: &Path,
    head: &[u8],
    about: &Metadata,
    drop_setuid: bool,
) -> Result<Prepared, PackageError> {
    let may_run = about.permissions().mode() & 0o111 != 0;
    let Some(name) = path.file_name().filter(|_| about.is_file() && may_run) else {
        return Err(PackageError::Unknown(path.to_owned()));
    };
    let lends = about.permissions().mode() & LENT != 0;
    if lends && !drop_setuid {
        return Err(PackageError::Layer { what: path.display().to_string(), source: lent(path) });
    }
    let kind = Kind::File { bytes: about.len() };
    let entry = Entry { path: name.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: 0 };
    let found = vec![(entry, path.to_owned())];
    let arch = elf_arch(head).unwrap_or_default().to_owned();
    write(path, PackageKind::Binary, &found, arch, lends.into())
}

fn lent(path: &Path) -> LayerError {
    bad_entry(path, "is setuid or setgid: a package lends no rights (--drop-setuid drops them)")
}

fn collect(
    root: &Path,
    below: &Path,
    drop_setuid: bool,
    found: &mut Found,
    dropped: &mut u64,
) -> Result<(), PackageError> {
    let dir = root.join(below);
    let read = |source| PackageError::Read { path: dir.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(read)? {
        names.push(entry.map_err(read)?.file_name());
    }
    names.sort();
    for name in names {
        let path = below.join(name);
        if found.len() as u64 >= layer::MAX_ENTRIES || path.components().count() > layer::MAX_DEPTH
        {
            let (what, most) = ("entries, or directories in each other", layer::MAX_ENTRIES);
            let source = LayerError::TooMuch { what, most };
            return Err(PackageError::Layer { what: root.display().to_string(), source });
        }
        let full = root.join(&path);
        let read = |source| PackageError::Read { path: full.clone(), source };
        let about = full.symlink_metadata().map_err(read)?;
        let refuse = |source| PackageError::Layer { what: root.display().to_string(), source };
        let mode = about.permissions().mode();
        let kind = if about.is_dir() {
            Kind::Directory
        } else if about.is_symlink() {
            Kind::Symlink { target: full.read_link().map_err(read)? }
        } else if about.is_file() {
            if mode & LENT != 0 {
                if !drop_setuid {
                    return Err(refuse(lent(&path)));
                }
                *dropped += 1;
            }
            Kind::File { bytes: about.len() }
        } else {
            let why = "is a device, a pipe or a socket: a package has files, directories and links";
            return Err(refuse(bad_entry(&path, why)));
        };
        let is_dir = kind == Kind::Directory;
        let mode = if is_dir || mode & 0o111 != 0 { 0o755 } else { 0o644 };
        let entry = Entry { path: path.clone(), kind, mode, uid: 0, gid: 0, mtime: 0 };
        found.push((entry, full));
        if is_dir {
            collect(root, &path, drop_setuid, found, dropped)?;
        }
    }
    Ok(())
}

fn write(
    path: &Path,
    kind: PackageKind,
    found: &Found,
    arch: String,
    dropped: u64,
) -> Result<Prepared, PackageError> {
    let wrong = |source| PackageError::Layer { what: path.display().to_string(), source };
    let mut writer = new_layer()?;
    for (entry, from) in found {
        let mut file: Box<dyn Read> = match entry.kind {
            Kind::File { .. } => Box::new(
                File::open(from)
                    .map_err(|source| PackageError::Read { path: from.clone(), source })?,
            ),
            Kind::Directory
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::Gone
            | Kind::Opaque => Box::new(io::empty()),
        };
        writer.add(entry, &mut file).map_err(wrong)?;
    }
    let (layer, mut file) = done(writer).map_err(wrong)?;
    // As the machine will read it: what it would refuse is refused here.
    let rules = Rules { image: false, drop_lent: false };
    layer::walk(io::BufReader::new(&mut file), rules, |_, _| Ok::<(), LayerError>(()))
        .map_err(wrong)?;
    file.rewind().map_err(PackageError::Temporary)?;
    Ok(Prepared { kind, layers: vec![(layer, file)], image: None, arch, dropped })
}
