//! Entries of tar files for tests, as no honest packer writes them.

use tar::{EntryType, Header};

/// When all entries were changed last, in seconds since 1970.
pub const MTIME: u64 = 7;

/// The bytes of an entry with any name and any target of a link, which must each be shorter than 100 bytes.
#[must_use]
pub fn entry(kind: EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_size(data.len() as u64);
    // As they are: the library refuses to write such names.
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}
