//! The entries of a tar file, one after the other, as their headers have them.
//!
//! What extension headers (long names, attributes) say of the entry after them is put together here, and
//! bounded: they are all that is held in memory. What an entry may be is for others to say.

use crate::names::shorten;
use crate::text::one_line;
use std::borrow::Cow;
use std::io::{self, Read};
use tar::EntryType;

/// Longest extension header (a long name, or the attributes of an entry) in bytes: 64 KiB, our choice; it
/// is held in memory.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// Most extension headers before one entry. 16: our choice; the usual ones are three.
const MAX_EXTENSIONS: u32 = 16;
/// Most bytes told of why an archive cannot be read; its own bytes may be among them.
const MAX_WHY: usize = 200;

/// A tar file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ends too early, or is no tar file.
    #[error("{}", one_line(.0.to_string().as_bytes(), MAX_WHY))]
    Read(#[from] io::Error),
    /// Its headers are larger, or more, than those of any honest one.
    #[error("it has more than {most} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The most that it may have.
        most: u64,
    },
}

/// An entry of which nothing was checked.
#[derive(Debug)]
pub struct RawEntry<'a> {
    /// Its own header.
    pub header: &'a tar::Header,
    /// Where what is in it begins, from the beginning of the file.
    pub offset: u64,
    /// How many bytes are in it.
    pub bytes: u64,
    /// What was said of it before.
    said: Said,
}

impl RawEntry<'_> {
    /// Its name.
    #[must_use]
    pub fn path(&self) -> Cow<'_, [u8]> {
        self.said.path.as_deref().map_or_else(|| self.header.path_bytes(), Cow::Borrowed)
    }

    /// Its name, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        shorten(&String::from_utf8_lossy(&self.path()))
    }

    /// Of a link: what it leads to.
    #[must_use]
    pub fn link(&self) -> Option<Cow<'_, [u8]>> {
        let said = self.said.link.as_deref().map(Cow::Borrowed);
        said.or_else(|| self.header.link_name_bytes())
    }

    /// Its owner.
    ///
    /// # Errors
    /// It is no number.
    pub fn uid(&self) -> io::Result<u64> {
        self.said.uid.map_or_else(|| self.header.uid(), Ok)
    }

    /// Its group.
    ///
    /// # Errors
    /// It is no number.
    pub fn gid(&self) -> io::Result<u64> {
        self.said.gid.map_or_else(|| self.header.gid(), Ok)
    }

    /// Whether it has file capabilities.
    #[must_use]
    pub const fn has_capabilities(&self) -> bool {
        self.said.lends
    }

    /// Why nobody can make a file of it, if so.
    #[must_use]
    pub const fn unusable(&self) -> Option<&'static str> {
        self.said.unusable
    }
}

/// Gives each entry of a tar file to `take`, with what is in it, which need not be read.
///
/// # Errors
/// When the file cannot be read or its headers are too large, or what `take` says.
pub fn each<E: From<TarError>>(
    from: impl Read,
    mut take: impl FnMut(&RawEntry<'_>, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(from);
    let entries = archive.entries().map_err(TarError::Read)?.raw(true);
    let mut said = Said::default();
    for entry in entries {
        let mut entry = entry.map_err(TarError::Read)?;
        let header = entry.header().clone();
        let bytes = header.entry_size().map_err(TarError::Read)?;
        if said.take(header.entry_type(), bytes, &mut entry)? {
            continue;
        }
        let said = std::mem::take(&mut said);
        let offset = entry.raw_file_position();
        let mut data = Whole::new(entry, bytes);
        take(&RawEntry { header: &header, offset, bytes, said }, &mut data)?;
        io::copy(&mut data, &mut io::sink()).map_err(TarError::Read)?;
    }
    Ok(())
}

/// What a file's header says is there is there, or reading it is an error.
#[derive(Debug)]
pub(super) struct Whole<R> {
    from: io::Take<R>,
    left: u64,
}

impl<R: Read> Whole<R> {
    pub(super) fn new(from: R, bytes: u64) -> Self {
        Self { from: from.take(bytes), left: bytes }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.left -= read as u64;
        if read == 0 && !buffer.is_empty() && self.left > 0 {
            let why = format!("it ends {} bytes before a file of it does", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(read)
    }
}

/// What extension headers say of the entry that follows them.
#[derive(Debug, Default)]
struct Said {
    headers: u32,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    lends: bool,
    unusable: Option<&'static str>,
}

impl Said {
    /// Whether it was an extension header, whose words are noted here.
    fn take(
        &mut self,
        kind: EntryType,
        bytes: u64,
        entry: &mut impl Read,
    ) -> Result<bool, TarError> {
        if !matches!(
            kind,
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        ) {
            return Ok(false);
        }
        self.headers += 1;
        if self.headers > MAX_EXTENSIONS {
            let (what, most) = ("extension headers before one entry", MAX_EXTENSIONS.into());
            return Err(TarError::TooMuch { what, most });
        }
        if bytes > MAX_EXTENSION_BYTES {
            let (what, most) = ("bytes in one extension header", MAX_EXTENSION_BYTES);
            return Err(TarError::TooMuch { what, most });
        }
        let mut words = Vec::new();
        Whole::new(entry, bytes).read_to_end(&mut words)?;
        match kind {
            EntryType::GNULongName => self.path = Some(text(words)),
            EntryType::GNULongLink => self.link = Some(text(words)),
            EntryType::XHeader => self.take_pax(&words)?,
            // A comment of whoever wrote it.
            _global => {}
        }
        Ok(true)
    }

    fn take_pax(&mut self, words: &[u8]) -> Result<(), TarError> {
        for word in tar::PaxExtensions::new(words) {
            let word = word?;
            let (key, value) = (word.key_bytes(), word.value_bytes());
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = number(),
                b"gid" => self.gid = number(),
                b"SCHILY.xattr.security.capability" => self.lends = true,
                b"size" => self.unusable = Some("has 8 GiB or more"),
                key if key.starts_with(b"GNU.sparse.") => {
                    self.unusable = Some("is a sparse file: store it as an ordinary one");
                }
                // Times, other attributes, comments: a task's files have none of them.
                _other => {}
            }
        }
        Ok(())
    }
}

/// Words of a header, which zeros may follow.
fn text(mut words: Vec<u8>) -> Vec<u8> {
    while words.last() == Some(&0) {
        words.pop();
    }
    words
}
