//! Files of comma separated fields with a line of names.

use std::path::Path;

/// A file.
pub(crate) struct File {
    name: String,
    pub(crate) columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A row of it.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    file: &'a File,
    line: usize,
    fields: &'a [String],
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut lines = text.lines().map(fields);
        let columns = lines.next().unwrap_or_default();
        let file = Self { name, columns, rows: lines.collect() };
        for row in file.rows() {
            if row.fields.len() != file.columns.len() {
                let (found, names) = (row.fields.len(), file.columns.len());
                return Err(format!("{}:{}: {found} fields, not {names}", file.name, row.line));
            }
        }
        Ok(file)
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    pub(crate) fn column(&self, name: &str) -> Result<usize, String> {
        self.find(name).ok_or_else(|| format!("{}:1: there is no column {name}", self.name))
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().zip(2..).map(|(fields, line)| Row { file: self, line, fields })
    }
}

impl<'a> Row<'a> {
    pub(crate) fn text(self, column: usize) -> &'a str {
        self.fields.get(column).map_or("", String::as_str)
    }

    pub(crate) fn number(self, name: &str) -> Result<u64, String> {
        let text = self.text(self.file.column(name)?);
        text.parse().map_err(|_| self.wrong(name, "a whole number"))
    }

    pub(crate) fn wrong(self, name: &str, expected: &str) -> String {
        let text = self.file.find(name).map_or("", |column| self.text(column));
        format!("{}:{}: column {name}: {text:?} is not {expected}", self.file.name, self.line)
    }
}

/// Fields of a line; a quoted one may have commas in it, and `""` for a quote.
fn fields(line: &str) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    all.push(field);
    all
}
