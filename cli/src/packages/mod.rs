//! Packages on this side: from a directory, a program or an image to the layers that a cell keeps, and on
//! to a master.
//!
//! Whatever it was, it is written anew in the one form that cells keep (`layers`), with every entry checked
//! on the way, so that people hear of what a machine would refuse before anything is sent. `image` reads
//! OCI layouts and `docker save` archives, `root` what a machine will look at in one, `directory` the rest, `upload`
//! sends it.

mod directory;
mod frames;
mod image;
mod layers;
mod root;
mod upload;

pub use upload::put;

use crate::exit::{Code, Failure};
use borg_proto::layer::LayerError;
use borg_proto::package::{ImageConfig, Layer, PackageKind};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// A package that is ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    /// What it is.
    pub kind: PackageKind,
    /// Its layers with their files, the lowest first.
    pub layers: Vec<(Layer, File)>,
    /// Of an image, how it is run.
    pub image: Option<ImageConfig>,
    /// The architecture of its programs; empty when it has none.
    pub arch: String,
    /// How many files lost bits that lend rights.
    pub dropped: u64,
}

/// Something cannot be made a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is not there.
    #[error("{}: there is no such file or directory", .0.display())]
    Missing(PathBuf),
    /// It is none of what packages are made of.
    #[error(
        "{} is no directory, no program and no image: give a directory, an executable file, an OCI image \
         layout, or an archive of docker save",
        .0.display()
    )]
    Unknown(PathBuf),
    /// A file of it cannot be read.
    #[error("read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it may not be in a package.
    #[error("{what}: {source}")]
    Layer {
        /// In what.
        what: String,
        /// What is wrong.
        source: LayerError,
    },
    /// An image that does not make sense.
    #[error("image {what}: {why}")]
    Image {
        /// Which part of it.
        what: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// No room for temporary files.
    #[error("make a temporary file: {0}")]
    Temporary(#[source] io::Error),
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        let code = match &error {
            PackageError::Missing(_) => Code::NotFound,
            PackageError::Unknown(_) | PackageError::Image { .. } | PackageError::Layer { .. } => {
                Code::Refused
            }
            PackageError::Read { .. } | PackageError::Temporary(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Makes a package of what is at a path.
///
/// # Errors
/// What may not be in it, by name.
pub fn prepare(path: &Path, drop_setuid: bool) -> Result<Prepared, PackageError> {
    let read = |source| PackageError::Read { path: path.to_owned(), source };
    let about = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PackageError::Missing(path.to_owned()),
        _other => read(error),
    })?;
    if about.is_dir() {
        if path.join("oci-layout").is_file() || path.join("index.json").is_file() {
            return image::of_layout(path, drop_setuid);
        }
        return directory::of_directory(path, drop_setuid);
    }
    let mut file = File::open(path).map_err(read)?;
    let mut head = [0; 512];
    let length = fill(&mut file, &mut head).map_err(read)?;
    file.rewind().map_err(read)?;
    let head = &head[..length];
    if layers::is_compressed(head) || head.get(257..262) == Some(b"ustar") {
        return image::of_archive(path, file, drop_setuid);
    }
    directory::of_program(path, head, &about, drop_setuid)
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// An architecture as machines name it: OCI's names are Go's.
fn arch_of(name: &str) -> String {
    match name {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
    .to_owned()
}
