//! Tables of text: a line of column names, then a line for each row; no field is quoted.
//!
//! Every error says the file, the line, the column, and what was expected there.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Something in a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A column is missing.
    #[error("{}:1: no column {column}; there are {}", path.display(), found.join(", "))]
    NoColumn {
        /// Of which file.
        path: PathBuf,
        /// The one that is missing.
        column: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// Two columns have one name, or names of one thing.
    #[error("{}:1: there are two columns {column}; which of them counts cannot be known: leave one out", path.display())]
    Twice {
        /// Of which file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A field is not what it should be, or is not there.
    #[error("{}:{line}: column {column}: {found:?} is not {expected}", path.display())]
    Field {
        /// Of which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Name of the column.
        column: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// There is a folder where a file should be.
    #[error("{}: is a folder; a file is expected", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
    },
    /// A table is missing in a folder.
    #[error(
        "{}: no table {name}: neither {name}.csv nor {name}.csv.gz, and no folder {name} with such parts",
        folder.display()
    )]
    NoTable {
        /// Where it should be.
        folder: PathBuf,
        /// Its name.
        name: String,
    },
    /// There is nothing in a file.
    #[error("{}: is empty; a line with the names of the columns is expected", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// A packed file ends too early, or is rotten.
    #[error("{}: packed data ends too early or is damaged after line {line}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// The last line that was whole.
        line: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A packed file becomes far too large.
    #[error(
        "{}:{line}: {packed} bytes of packed data became {unpacked}, most is {most}: unpack it yourself if it is meant",
        path.display()
    )]
    Bomb {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was read, in bytes.
        packed: u64,
        /// What came out of it.
        unpacked: u64,
        /// How much may.
        most: u64,
    },
    /// A line is far longer than any of a table.
    #[error("{}:{line}: the line has more than {most} bytes: this is no table", path.display())]
    LongLine {
        /// Of which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// How long one may be.
        most: usize,
    },
    /// A line is no text.
    #[error("{}:{line}: byte {byte} of the line is not UTF-8", path.display())]
    NotText {
        /// Of which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Place in the line, from 1.
        byte: usize,
    },
}

impl TableError {
    /// A file or folder cannot be read.
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// Whether it is one row that is wrong, and no more than that.
    #[must_use]
    pub fn is_of_a_row(&self) -> bool {
        matches!(self, Self::Field { .. } | Self::NotText { .. })
    }

    /// What is wrong, without where and what is there.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Field { column, expected, .. } => format!("column {column} is not {expected}"),
            Self::NotText { .. } => "not UTF-8".to_owned(),
            Self::Read { .. }
            | Self::NoColumn { .. }
            | Self::Twice { .. }
            | Self::Folder { .. }
            | Self::NoTable { .. }
            | Self::Empty { .. }
            | Self::Damaged { .. }
            | Self::Bomb { .. }
            | Self::LongLine { .. } => self.to_string(),
        }
    }
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    path: PathBuf,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads a file whose fields are separated by `separator`.
    ///
    /// # Errors
    /// When it cannot be read, has no line of names, or a row has more or fewer fields than that.
    pub fn read(path: &Path, separator: char) -> Result<Self, TableError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TableError::read(path, source))?;
        Self::parse(path, &text, separator)
    }

    fn parse(path: &Path, text: &str, separator: char) -> Result<Self, TableError> {
        let split = |line: &str| line.split(separator).map(str::to_owned).collect::<Vec<_>>();
        let mut lines = text.lines();
        let columns = split(lines.next().unwrap_or_default());
        let mut names = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|name| !names.insert(*name)) {
            return Err(TableError::Twice { path: path.to_owned(), column: twice.clone() });
        }
        let rows: Vec<_> = lines.map(split).collect();
        let table = Self { path: path.to_owned(), columns, rows };
        for row in table.rows() {
            let (found, names) = (row.fields.len(), table.columns.len());
            if found != names {
                let expected = format!("the last of {names} fields");
                let column = table.columns.get(found.min(names) - 1).map_or("", String::as_str);
                return Err(row.wrong(column, &format!("field {found}"), expected));
            }
        }
        Ok(table)
    }

    /// Names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Where a column is.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn column(&self, name: &str) -> Result<usize, TableError> {
        self.find(name).ok_or_else(|| TableError::NoColumn {
            path: self.path.clone(),
            column: name.to_owned(),
            found: self.columns.clone(),
        })
    }

    /// Where a column is, if it is there.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The rows in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().enumerate().map(|(n, fields)| Row { table: self, line: n + 2, fields })
    }
}

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    /// Its line in the file, from 1.
    pub line: usize,
    fields: &'a [String],
}

impl<'a> Row<'a> {
    /// The text of a column.
    #[must_use]
    pub fn text(&self, column: usize) -> &'a str {
        self.fields.get(column).map_or("", String::as_str)
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

    /// The error that the field of a column is not `expected`.
    #[must_use]
    pub fn field_error(&self, column: usize, expected: impl Display) -> TableError {
        let name = self.table.columns.get(column).map_or("", String::as_str);
        self.wrong(name, self.text(column), expected.to_string())
    }

    fn wrong(&self, column: &str, found: &str, expected: String) -> TableError {
        TableError::Field {
            path: self.table.path.clone(),
            line: self.line,
            column: column.to_owned(),
            found: found.to_owned(),
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Table, TableError> {
        Table::parse(Path::new("t.csv"), text, ',')
    }

    #[test]
    fn errors_say_file_line_column_and_what_was_expected() {
        let table = parse("id,cpu\na,1\nb,x\n").unwrap();
        let cpu = table.column("cpu").unwrap();
        let values: Vec<_> =
            table.rows().map(|row| row.value::<u64>(cpu, "a whole number")).collect();
        assert_eq!(*values[0].as_ref().unwrap(), 1);
        let wrong = values[1].as_ref().unwrap_err().to_string();
        assert_eq!(wrong, "t.csv:3: column cpu: \"x\" is not a whole number");
        let missing = table.column("ram").unwrap_err().to_string();
        assert_eq!(missing, "t.csv:1: no column ram; there are id, cpu");
        let twice = parse("id,cpu,cpu\na,1,2\n").unwrap_err().to_string();
        assert!(twice.starts_with("t.csv:1: there are two columns cpu; "), "{twice}");
        let short = parse("id,cpu\na\n").unwrap_err().to_string();
        assert_eq!(short, "t.csv:2: column id: \"field 1\" is not the last of 2 fields");
    }
}
