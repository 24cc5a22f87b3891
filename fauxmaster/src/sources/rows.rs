//! Rows of large tables, one after another: plain or packed by gzip, with or without a line of names.
//!
//! Nothing of a table is kept but the row at hand, so that its size does not matter. A row that is not what it should
//! be is an error, or is skipped and counted, as whoever reads chose.
//!
//! Leaves to others: what rows mean (`trace`), tables that are small enough to hold ([`table`](super::table)).
//!
//! Invariant: the digest is of the text that was read, packed or not.

mod fields;
mod skipped;
mod unpack;

pub use fields::{Record, Separator};
pub use skipped::Skipped;

use super::table::TableError;
use fields::Fields;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use unpack::Unpacked;
use xxhash_rust::xxh3::Xxh3;

/// Longest line in bytes. 1 MiB: our choice; the longest of a public trace has 60 KB.
const LONGEST: usize = 1 << 20;

/// What the rows of a table look like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// What is between two fields.
    pub separator: Separator,
    /// Names of the columns that are read. Several names for one are separated by `|`; one that may be missing ends
    /// with `?`.
    pub columns: &'static [&'static str],
    /// Whether the first line names the columns; without one they are in the order of `columns`.
    pub head: bool,
    /// Lines that begin with this are no rows.
    pub comment: Option<char>,
}

impl Shape {
    /// Commas between fields, names in the first line.
    #[must_use]
    pub const fn named(columns: &'static [&'static str]) -> Self {
        Self { separator: Separator::Comma, columns, head: true, comment: None }
    }

    /// Commas between fields, columns by their place.
    #[must_use]
    pub const fn placed(columns: &'static [&'static str]) -> Self {
        Self { separator: Separator::Comma, columns, head: false, comment: None }
    }
}

/// What was read so far of the tables of one source.
pub struct Reading {
    skip: bool,
    /// Rows that were skipped.
    pub skipped: Skipped,
    /// Rows that were good.
    pub rows: u64,
    hash: Xxh3,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("skipped", &self.skipped).field("rows", &self.rows).finish()
    }
}

impl Reading {
    /// Nothing yet. With `skip`, bad rows are counted instead of an error.
    #[must_use]
    pub fn new(skip: bool) -> Self {
        Self { skip, skipped: Skipped::default(), rows: 0, hash: Xxh3::new() }
    }

    /// 64-bit hash (xxh3) of all text that was read.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }

    /// Reads a table; `each` gets its rows in order. What it gives back as an error is a bad row.
    ///
    /// # Errors
    /// When the file cannot be read or unpacked, a column is missing, a line is far too long, or a row is bad.
    pub fn table(
        &mut self,
        path: &Path,
        shape: &Shape,
        each: impl FnMut(&Record<'_>) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        self.table_with_comments(path, shape, |_| {}, each)
    }

    /// As [`table`](Self::table); `comments` gets the lines that are none.
    ///
    /// # Errors
    /// As there.
    pub fn table_with_comments(
        &mut self,
        path: &Path,
        shape: &Shape,
        mut comments: impl FnMut(&str),
        mut each: impl FnMut(&Record<'_>) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let mut lines = Lines::open(path)?;
        let mut fields = Fields::new(shape);
        while lines.next(&mut self.hash)? {
            let row = lines.text().and_then(|text| {
                if text.trim().is_empty() {
                    return Ok(false);
                }
                if shape.comment.is_some_and(|sign| text.starts_with(sign)) {
                    comments(text);
                    return Ok(false);
                }
                if fields.take_head(path, text)? {
                    return Ok(false);
                }
                each(&fields.split(path, lines.line, text)?).map(|()| true)
            });
            match row {
                Ok(true) => self.rows += 1,
                Ok(false) => {}
                Err(error) if self.skip && error.is_of_a_row() => self.skipped.add(&error),
                Err(error) => return Err(error),
            }
        }
        fields.had_head(path)
    }

    /// Reads the lines of a text that is no table of rows, but for empty ones; `each` gets them with their numbers.
    ///
    /// # Errors
    /// When the file cannot be read or unpacked, a line is far too long, or `each` gives one back.
    pub fn lines(
        &mut self,
        path: &Path,
        mut each: impl FnMut(usize, &str) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let mut lines = Lines::open(path)?;
        while lines.next(&mut self.hash)? {
            let text = lines.text()?;
            if !text.trim().is_empty() {
                each(lines.line, text)?;
            }
        }
        Ok(())
    }
}

/// The files of a table in a folder, in order of their names: `NAME.csv`, `NAME.csv.gz`, or all of the folder `NAME`.
///
/// # Errors
/// When there is none.
pub fn parts(folder: &Path, name: &str) -> Result<Vec<PathBuf>, TableError> {
    let read =
        |path: &Path| std::fs::read_dir(path).map_err(|source| TableError::read(path, source));
    drop(read(folder)?);
    for end in ["csv", "csv.gz"] {
        let file = folder.join(format!("{name}.{end}"));
        if file.is_file() {
            return Ok(vec![file]);
        }
    }
    let mut found = Vec::new();
    let inner = folder.join(name);
    if inner.is_dir() {
        for entry in read(&inner)? {
            let path = entry.map_err(|source| TableError::read(&inner, source))?.path();
            let text = path.to_string_lossy();
            if text.ends_with(".csv") || text.ends_with(".csv.gz") {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(TableError::NoTable { folder: folder.to_owned(), name: name.to_owned() });
    }
    Ok(found)
}

/// The lines of a file.
struct Lines {
    path: PathBuf,
    source: Unpacked,
    bytes: Vec<u8>,
    line: usize,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, TableError> {
        Ok(Self {
            path: path.to_owned(),
            source: Unpacked::open(path)?,
            bytes: Vec::new(),
            line: 0,
        })
    }

    /// Goes to the next line, if there is one.
    fn next(&mut self, hash: &mut Xxh3) -> Result<bool, TableError> {
        self.bytes.clear();
        let most = u64::try_from(LONGEST).unwrap_or(u64::MAX) + 1;
        let read = self.source.reader.by_ref().take(most).read_until(b'\n', &mut self.bytes);
        let read = read.map_err(|source| self.source.failed(self.line, source))?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        self.source.count(self.line, read)?;
        if read > LONGEST {
            let (path, line) = (self.path.clone(), self.line);
            return Err(TableError::LongLine { path, line, most: LONGEST });
        }
        hash.update(&self.bytes);
        Ok(true)
    }

    /// The line without its end.
    fn text(&self) -> Result<&str, TableError> {
        let bytes = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        std::str::from_utf8(bytes).map_err(|error| TableError::NotText {
            path: self.path.clone(),
            line: self.line,
            byte: error.valid_up_to() + 1,
        })
    }
}

#[cfg(test)]
mod tests;
