//! How answers look: short tables with ages for people, JSON with fixed field names for programs.

pub mod cron;
pub mod drains;
pub mod kept;
pub mod privileges;
pub mod usage;
pub mod views;

use crate::exit::Failure;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// The two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON document, or one a line for commands that go on.
    Json,
    /// Tables for spreadsheets; only `fauxmaster` has it.
    Csv,
}

/// Where answers go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    terminal: bool,
}

impl Output {
    /// To standard output.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, terminal: io::stdout().is_terminal() }
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Which form is wanted.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether a person reads along.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.terminal && self.format == Format::Table
    }

    /// Prints a line.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(io::stdout().lock(), "{text}")?)
    }

    /// Prints raw bytes at once.
    ///
    /// # Errors
    /// When standard output does not take them.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Prints a JSON document: over several lines, or on one when more will follow.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn json(self, value: &impl Serialize, more_follow: bool) -> Result<(), Failure> {
        let text = if more_follow {
            serde_json::to_string(value)
        } else {
            serde_json::to_string_pretty(value)
        };
        self.line(&text.map_err(io::Error::from)?)
    }

    /// Prints rows under a head.
    ///
    /// # Errors
    /// When standard output does not take them.
    pub fn table<const N: usize>(
        self,
        head: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<(), Failure> {
        self.line(&table(head, rows))
    }

    /// Clears the terminal before a table is shown anew.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn clear(self) -> Result<(), Failure> {
        if self.is_terminal() { self.bytes(b"\x1b[H\x1b[2J") } else { Ok(()) }
    }
}

/// Tells a person something beside the answer, on standard error.
pub fn note(text: &str) {
    // Nobody is left to tell when standard error is closed.
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Tells a person how far a long command is; nothing where standard error goes elsewhere.
pub fn step(text: &str) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

/// Rows in columns without borders.
#[must_use]
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.map(|cell| {
            cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A length of time in its two largest units: `3s`, `5m20s`, `2h5m`, `3d4h`.
#[must_use]
pub fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

/// A size in the largest unit in which it stays exact to a tenth: `64M`, `1.5G`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{}{}", tenths / 10, UNITS[unit]),
        rest => format!("{}.{rest}{}", tenths / 10, UNITS[unit]),
    }
}

/// Thousandths as a decimal: `0.5`, `2`.
#[must_use]
pub fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            [0, 59_999, 320_000, 7_500_000, 273_600_000].map(age),
            ["0s", "59s", "5m20s", "2h5m", "3d4h"]
        );
        assert_eq!(
            [0, 1023, 64 << 20, 3 << 29, u64::MAX].map(size),
            ["0", "1023", "64M", "1.5G", "16384P"]
        );
        assert_eq!([500, 2000, 1, 0].map(cores), ["0.5", "2", "0.001", "0"]);
    }

    #[test]
    fn a_table_has_no_borders_and_no_control_characters() {
        let text = table(["job", "note"], [["ann/web".to_owned(), "a\x1b[31m\nb".to_owned()]]);
        assert_eq!(text, "JOB      NOTE\nann/web  a [31m b");
    }
}
