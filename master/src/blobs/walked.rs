//! What blobs unpack to, as they say themselves: whoever puts a package is not believed.

use borg_proto::layer::{self, LayerError, Rules};
use borg_proto::package::Digest;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Blobs of which it is remembered. 1,000: our choice; a package has 128 at most.
const REMEMBERED: usize = 1_000;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What was found. One blob is read at a time, so that the disk is there for others too; also when who asked is
/// gone meanwhile: then it is known to the next.
#[derive(Debug, Default)]
pub(super) struct Walked(Arc<Mutex<BTreeMap<Digest, u64>>>);

impl Walked {
    /// Bytes of all files of a blob, which `open` opens.
    ///
    /// # Errors
    /// What a machine would refuse of it, with the entry's name.
    pub(super) async fn unpacked_bytes(
        &self,
        digest: Digest,
        open: impl FnOnce() -> std::io::Result<File> + Send + 'static,
    ) -> Result<u64, LayerError> {
        let mut found = Arc::clone(&self.0).lock_owned().await;
        if let Some(bytes) = found.get(&digest) {
            return Ok(*bytes);
        }
        super::blocking(move || {
            let file = open().map_err(LayerError::Read)?;
            let bytes = walk(BufReader::with_capacity(BUFFER_BYTES, file))?;
            if found.len() >= REMEMBERED {
                found.pop_first();
            }
            found.insert(digest, bytes);
            Ok(bytes)
        })
        .await
    }
}

fn walk(from: impl std::io::Read) -> Result<u64, LayerError> {
    // As machines read it: an image may have all that other packages may.
    let rules = Rules { image: true, drop_lent: false };
    layer::walk(from, rules, |_, _| Ok::<(), LayerError>(())).map(|totals| totals.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::layer::{Entry, Kind, Writer};

    #[tokio::test]
    async fn a_blob_says_itself_what_it_unpacks_to_and_is_read_once() {
        let mut writer = Writer::new(Vec::new());
        for (path, data) in [("a", "12"), ("b", "345")] {
            let kind = Kind::File { bytes: data.len() as u64 };
            let path = path.into();
            let entry = Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: 0 };
            writer.add(&entry, &mut data.as_bytes()).unwrap();
        }
        let (layer, blob) = writer.finish().unwrap();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, blob).unwrap();
        let walked = Walked::default();
        let file = path.reopen().unwrap();
        assert_eq!(walked.unpacked_bytes(layer.digest, move || Ok(file)).await.unwrap(), 5);
        let again = || Err(std::io::Error::other("it was read again"));
        assert_eq!(walked.unpacked_bytes(layer.digest, again).await.unwrap(), 5);
        let other = walked.unpacked_bytes(Digest::of(b"x"), again).await.unwrap_err();
        assert!(other.to_string().contains("read again"), "{other}");
    }
}
