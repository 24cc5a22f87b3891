//! The files of packages on this machine.
//!
//! `DIR/packages/blobs` has the blobs; `layers/HEX/root` is what was unpacked of one, with its size in
//! `layers/HEX/bytes`. Names that begin with a dot are on their way out, or not made yet.
//!
//! Invariant: a directory that has its name is whole and on the disk.

use borg_proto::blobs::{ArrivalError, BlobDir, Dropped, remove_tree};
use borg_proto::package::Digest;
use borglet_supervisor::{Cached, Trouble};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use the directory {} for packages", .path.display())]
pub struct StoreError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What is wrong with this machine when a blob was not taken, if that is it.
pub(crate) fn trouble_of(error: &ArrivalError) -> Option<Trouble> {
    match error {
        ArrivalError::Disk { source, .. } => Some(trouble(&error.to_string(), source)),
        ArrivalError::NotWanted(_)
        | ArrivalError::Busy(_)
        | ArrivalError::Wrong { .. }
        | ArrivalError::TooLong { .. }
        | ArrivalError::NoRoom { .. }
        | ArrivalError::Short { .. } => None,
    }
}

/// A failure of the disk as the supervisor takes it.
pub(crate) fn trouble(why: &str, error: &io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Trouble::Full(format!("the disk is full: {why}"))
        }
        // The names of its entries are the package's own.
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Trouble::Bad(why.to_owned()),
        _other => Trouble::Disk(why.to_owned()),
    }
}

/// The files. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    blobs: BlobDir,
    layers: PathBuf,
    dropped: Arc<AtomicU64>,
}

impl Store {
    /// Makes the directories, removes what is not whole, and says what is there.
    pub(crate) fn open(dir: PathBuf) -> Result<(Self, Vec<Cached>), StoreError> {
        let path = dir.clone();
        Self::take_over(dir).map_err(|source| StoreError { path, source })
    }

    fn take_over(dir: PathBuf) -> io::Result<(Self, Vec<Cached>)> {
        // How much there may be is the supervisor's business.
        let (blobs, held) = BlobDir::open(dir.join("blobs"), u64::MAX)?;
        let layers = dir.join("layers");
        DirBuilder::new().recursive(true).mode(0o700).create(&layers)?;
        let cached = held.into_iter().map(|blob| {
            let (digest, bytes) = (blob.digest, blob.bytes);
            (digest, Cached { digest, bytes, unpacked_bytes: 0, ready: false })
        });
        let mut found: BTreeMap<Digest, Cached> = cached.collect();
        for entry in fs::read_dir(&layers)? {
            let entry = entry?;
            let digest = Digest::from_hex(&entry.file_name().to_string_lossy());
            let blob = digest.ok().and_then(|digest| found.get_mut(&digest));
            let bytes = fs::read_to_string(entry.path().join("bytes"));
            let bytes = bytes.ok().and_then(|text| text.trim().parse().ok());
            match (blob, bytes) {
                (Some(blob), Some(bytes)) => (blob.ready, blob.unpacked_bytes) = (true, bytes),
                (_, _) => remove_tree(&entry.path())?,
            }
        }
        let store = Self { blobs, layers, dropped: Arc::default() };
        Ok((store, found.into_values().collect()))
    }

    /// The blobs.
    pub(crate) fn blobs(&self) -> &BlobDir {
        &self.blobs
    }

    pub(super) fn layers(&self) -> &PathBuf {
        &self.layers
    }

    pub(super) fn layer_dir(&self, digest: Digest) -> PathBuf {
        self.layers.join(digest.hex())
    }

    /// The directory of an unpacked layer.
    pub(crate) fn layer(&self, digest: Digest) -> PathBuf {
        self.layer_dir(digest).join("root")
    }

    /// Takes a blob and its layer off the books. What gets their names after this is another one.
    pub(crate) fn drop_blob(&self, digest: Digest) -> DroppedLayer {
        let number = self.dropped.fetch_add(1, Ordering::Relaxed);
        let out = self.layers.join(format!(".{}.{number}", digest.hex()));
        let layer = fs::rename(self.layer_dir(digest), &out);
        DroppedLayer { blob: self.blobs.drop_blob(digest), layer, out }
    }
}

/// A blob and a layer that lost their names.
#[derive(Debug)]
pub(crate) struct DroppedLayer {
    blob: Dropped,
    layer: io::Result<()>,
    out: PathBuf,
}

impl DroppedLayer {
    /// Removes them.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.blob.remove()?;
        match self.layer {
            Ok(()) => remove_tree(&self.out),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
