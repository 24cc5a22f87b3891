//! A line as fields.

use super::super::table::TableError;
use super::Shape;
use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// What is between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// A comma; what is in double quotes is one field.
    Comma,
    /// Any number of spaces and tabs.
    Spaces,
}

/// Where the fields of a line are; used again for every line.
pub(super) struct Fields<'s> {
    shape: &'s Shape,
    /// For each column of the shape, its place in a line; empty before the line of names.
    places: Vec<Option<usize>>,
    /// How many fields a line has.
    width: usize,
    found: Vec<Range<usize>>,
}

impl<'s> Fields<'s> {
    pub(super) fn new(shape: &'s Shape) -> Self {
        let mut fields = Self { shape, places: Vec::new(), width: 0, found: Vec::new() };
        if !shape.head {
            fields.width = shape.columns.len();
            fields.places = (0..fields.width).map(Some).collect();
        }
        fields
    }

    /// Takes a line for the one with the names, if that was not there yet.
    pub(super) fn take_head(&mut self, path: &Path, text: &str) -> Result<bool, TableError> {
        if !self.places.is_empty() {
            return Ok(false);
        }
        // Some programs begin a text with this.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        self.find(text);
        let names: Vec<&str> = self.found.iter().map(|at| unquoted(&text[at.clone()])).collect();
        for column in self.shape.columns {
            let (known, optional) = known_names(column);
            let is_it = |name: &&str| known.split('|').any(|known| known == *name);
            let place = names.iter().position(is_it);
            if names.iter().filter(|name| is_it(name)).count() > 1 {
                let column = first_name(column).to_owned();
                return Err(TableError::Twice { path: path.to_owned(), column });
            }
            if place.is_none() && !optional {
                return Err(TableError::NoColumn {
                    path: path.to_owned(),
                    column: first_name(column).to_owned(),
                    found: names.iter().map(ToString::to_string).collect(),
                });
            }
            self.places.push(place);
        }
        self.width = names.len();
        Ok(true)
    }

    /// Whether the names of the columns were there.
    pub(super) fn had_head(&self, path: &Path) -> Result<(), TableError> {
        if self.places.is_empty() {
            return Err(TableError::Empty { path: path.to_owned() });
        }
        Ok(())
    }

    /// The fields of a line.
    pub(super) fn split<'a>(
        &'a mut self,
        path: &'a Path,
        line: usize,
        text: &'a str,
    ) -> Result<Record<'a>, TableError> {
        self.find(text);
        let found = self.found.len();
        let record = Record {
            path,
            line,
            text,
            shape: self.shape,
            places: &self.places,
            found: &self.found,
        };
        if found != self.width {
            return Err(record.wrong(
                "number of fields",
                &found.to_string(),
                format!("{}, as many as there are columns", self.width),
            ));
        }
        Ok(record)
    }

    fn find(&mut self, text: &str) {
        self.found.clear();
        match self.shape.separator {
            Separator::Spaces => {
                let begin = text.as_ptr() as usize;
                let words = text.split_ascii_whitespace().map(|word| {
                    let at = word.as_ptr() as usize - begin;
                    at..at + word.len()
                });
                self.found.extend(words);
            }
            Separator::Comma => {
                let (mut from, mut quoted) = (0, false);
                for (at, byte) in text.bytes().enumerate() {
                    if byte == b'"' {
                        quoted = !quoted;
                    } else if byte == b',' && !quoted {
                        self.found.push(from..at);
                        from = at + 1;
                    }
                }
                self.found.push(from..text.len());
            }
        }
    }
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    path: &'a Path,
    /// Its line in the file, from 1.
    pub line: usize,
    text: &'a str,
    shape: &'a Shape,
    places: &'a [Option<usize>],
    found: &'a [Range<usize>],
}

impl<'a> Record<'a> {
    /// The text of a column of the shape; empty when the file does not have it.
    #[must_use]
    pub fn text(&self, column: usize) -> &'a str {
        let place = self.places.get(column).copied().flatten();
        let field = place.and_then(|place| self.found.get(place));
        field.map_or("", |at| unquoted(&self.text[at.clone()]))
    }

    /// The value of a column.
    ///
    /// # Errors
    /// When the text is not `expected`.
    pub fn value<T: FromStr>(
        &self,
        column: usize,
        expected: impl Display,
    ) -> Result<T, TableError> {
        self.text(column).parse().map_err(|_| self.field_error(column, expected))
    }

    /// The value of a column in which there may be nothing.
    ///
    /// # Errors
    /// When there is something that is not `expected`.
    pub fn maybe<T: FromStr>(
        &self,
        column: usize,
        expected: impl Display,
    ) -> Result<Option<T>, TableError> {
        if self.text(column).is_empty() {
            return Ok(None);
        }
        self.value(column, expected).map(Some)
    }

    /// The error that the field of a column is not `expected`.
    #[must_use]
    pub fn field_error(&self, column: usize, expected: impl Display) -> TableError {
        let name = self.shape.columns.get(column).map_or("", |names| first_name(names));
        self.wrong(name, self.text(column), expected.to_string())
    }

    fn wrong(&self, column: &str, found: &str, expected: String) -> TableError {
        TableError::Field {
            path: self.path.to_owned(),
            line: self.line,
            column: column.to_owned(),
            found: short(found).into_owned(),
            expected,
        }
    }
}

/// A field of a file of strangers may be of any length.
fn short(text: &str) -> Cow<'_, str> {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}..", &text[..at]).into(),
        None => text.into(),
    }
}

/// The names of a column of a shape, and whether it may be missing.
fn known_names(column: &str) -> (&str, bool) {
    column.strip_suffix('?').map_or((column, false), |names| (names, true))
}

fn first_name(column: &str) -> &str {
    let (names, _) = known_names(column);
    names.split('|').next().unwrap_or(names)
}

fn unquoted(field: &str) -> &str {
    field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field)
}
