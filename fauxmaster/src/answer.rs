//! What every answer is made of: sentences, tables, charts, and what it all came from.
//!
//! A question fills an [`Answer`]; how it looks, as text, JSON, CSV or a page, is decided elsewhere.
//!
//! Invariant: equal answers look equal, byte for byte: order is that of the vectors, numbers have their
//! digits with them.

use serde::Serialize;

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked: the subcommand.
    pub question: String,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The answer in a few sentences.
    pub summary: Vec<String>,
    /// The answer in numbers.
    pub tables: Vec<Table>,
    /// What can be looked at. Their data is that of the tables, or goes beside them as CSV.
    pub charts: Vec<Chart>,
}

/// Where an answer comes from: enough to ask again and get the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Provenance {
    /// Version of the code.
    pub version: String,
    /// The cell or trace, as it was named.
    pub source: String,
    /// 64-bit hash (xxh3) in hexadecimal digits: of the encoded state, or of machines and work as they were read.
    pub digest: String,
    /// Seeds, in order.
    pub seeds: Vec<u64>,
    /// All other parameters by name, defaults too, in order of name.
    pub parameters: Vec<(String, String)>,
    /// What was skipped, left out or drawn when the source was read.
    pub notes: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Short and unique in its answer; the name of its CSV file.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<Column>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// In snake case; the head in CSV and the field in JSON.
    pub name: String,
    /// Unit, such as `millicores`; empty for names and counts.
    pub unit: String,
}

/// A value in a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A name or a sentence.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A number with so many digits after the point.
    Number(f64, u8),
    /// Not there.
    Nothing,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Chart {
    /// Curves over one axis.
    Lines {
        /// Short and unique in its answer.
        name: String,
        /// What it shows.
        title: String,
        /// Along the bottom.
        x: Axis,
        /// Along the side.
        y: Axis,
        /// In the order of the legend.
        series: Vec<Series>,
    },
    /// How many fall into each field of a grid.
    Heat {
        /// Short and unique in its answer.
        name: String,
        /// What it shows.
        title: String,
        /// Along the bottom, from 0 to 100 %.
        x: Axis,
        /// Along the side, from 0 to 100 %.
        y: Axis,
        /// By row from the bottom up, each from the left: counts of a square grid.
        counts: Vec<Vec<u64>>,
    },
    /// The spread of samples side by side.
    Boxes {
        /// Short and unique in its answer.
        name: String,
        /// What it shows.
        title: String,
        /// Along the side.
        y: Axis,
        /// From the left.
        boxes: Vec<Spread>,
    },
    /// Amounts side by side, or on top of one another.
    Bars {
        /// Short and unique in its answer.
        name: String,
        /// What it shows.
        title: String,
        /// Along the side.
        y: Axis,
        /// Parts of each bar, in the order of the legend.
        parts: Vec<String>,
        /// From the left: a name, and an amount for each part.
        bars: Vec<(String, Vec<f64>)>,
        /// Whether the parts of a bar are on top of one another.
        stacked: bool,
    },
}

/// An axis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Axis {
    /// What is along it.
    pub label: String,
    /// Unit; empty for counts.
    pub unit: String,
}

/// A curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// From the left.
    pub points: Vec<Point>,
}

/// A point of a curve, with the spread over seeds where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Along the bottom.
    pub x: f64,
    /// Along the side: the median over seeds.
    pub y: f64,
    /// The least and the most over seeds.
    pub between: Option<(f64, f64)>,
}

/// Samples of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// What they are of.
    pub name: String,
    /// In the order of the seeds.
    pub samples: Vec<f64>,
    /// What they cannot be under, where that is known.
    pub bound: Option<f64>,
}

impl Column {
    /// A column of names or counts.
    #[must_use]
    pub fn plain(name: &str) -> Self {
        Self::of(name, "")
    }

    /// A column of amounts in a unit.
    #[must_use]
    pub fn of(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned() }
    }

    /// The name for programs: with the unit, which is nowhere else for them, as in `p50_s` or `cpu_percent`.
    #[must_use]
    pub fn key(&self) -> String {
        let unit = self.unit.replace('%', "percent").replace(',', "").to_lowercase();
        let words =
            unit.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut key = self.name.clone();
        for word in words {
            key.push('_');
            key.push_str(word);
        }
        key
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_the_unit_in_the_name() {
        let key = |name, unit| Column::of(name, unit).key();
        assert_eq!(key("p50", "s"), "p50_s");
        assert_eq!(key("cpu", "%"), "cpu_percent");
        assert_eq!(key("memory", "GiB"), "memory_gib");
        assert_eq!(key("rate", "per 1,000 task hours"), "rate_per_1000_task_hours");
        assert_eq!(key("tasks", ""), "tasks");
    }
}
