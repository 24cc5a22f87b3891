//! A file as it is, or unpacked, with bounds on what may come out of it.

use super::super::table::TableError;
use flate2::bufread::MultiGzDecoder;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Most bytes that come out of one packed file. 64 GiB: our choice; the largest table of the public traces that is read
/// has 16 GB in 500 files.
const MOST_BYTES: u64 = 64 << 30;
/// How many times larger than packed a file may be. 200: our choice; tables of numbers become 4 to 20 times smaller.
const MOST_TIMES: u64 = 200;
/// From this size on that is looked at: small files may have one row many times. 16 MiB: our choice.
const SMALL: u64 = 16 << 20;

/// The bytes of a file, unpacked if it is packed.
pub(super) struct Unpacked {
    path: PathBuf,
    pub(super) reader: Box<dyn BufRead>,
    packed: Option<Rc<Cell<u64>>>,
    bytes: u64,
}

impl Unpacked {
    pub(super) fn open(path: &Path) -> Result<Self, TableError> {
        if path.is_dir() {
            return Err(TableError::Folder { path: path.to_owned() });
        }
        let failed = |source| TableError::read(path, source);
        let read = Rc::new(Cell::new(0));
        let file = Metered { file: File::open(path).map_err(failed)?, read: Rc::clone(&read) };
        let mut file = BufReader::with_capacity(1 << 16, file);
        let is_packed = file.fill_buf().map_err(failed)?.starts_with(&GZIP);
        let (reader, packed): (Box<dyn BufRead>, _) = if is_packed {
            (Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))), Some(read))
        } else {
            (Box::new(file), None)
        };
        Ok(Self { path: path.to_owned(), reader, packed, bytes: 0 })
    }

    /// So many bytes more were taken.
    pub(super) fn count(&mut self, line: usize, bytes: usize) -> Result<(), TableError> {
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        let Some(packed) = &self.packed else { return Ok(()) };
        let most = packed.get().saturating_mul(MOST_TIMES).clamp(SMALL, MOST_BYTES);
        if self.bytes > most {
            let (path, packed, unpacked) = (self.path.clone(), packed.get(), self.bytes);
            return Err(TableError::Bomb { path, line, packed, unpacked, most });
        }
        Ok(())
    }

    /// Reading failed after a line.
    pub(super) fn failed(&self, line: usize, source: io::Error) -> TableError {
        let path = self.path.clone();
        match self.packed {
            Some(_) => TableError::Damaged { path, line, source },
            None => TableError::Read { path, source },
        }
    }
}

/// A file that counts what was read of it.
struct Metered {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.set(self.read.get() + u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}
