//! A report on disk: the page, and beside it a directory with every table as CSV and every picture as SVG.
//!
//! Each file gets its name when it is whole and synced, the page last: whoever sees it has all of it.

use super::{csv, html, svg};
use crate::answer::Answer;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: the report cannot be written: {source}; what is there of it is no report, make room and ask again", path.display())]
pub struct WriteError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes a report to `page`, and its data to the directory of the same name that ends in `-data`.
///
/// # Errors
/// When the disk does not take it. An earlier page is not touched then.
pub fn report(answer: &Answer, page: &Path) -> Result<(), WriteError> {
    let directory = data_of(page);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, source }
    };
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    for table in &answer.tables {
        let path = directory.join(format!("{}.csv", table.name));
        whole(&path, csv::table(table).as_bytes()).map_err(failed(&path))?;
    }
    for chart in &answer.charts {
        let path = directory.join(format!("{}.svg", svg::name(chart)));
        whole(&path, svg::svg(chart).as_bytes()).map_err(failed(&path))?;
    }
    whole(page, html::html(answer).as_bytes()).map_err(failed(page))
}

/// The directory beside a page.
#[must_use]
pub fn data_of(page: &Path) -> PathBuf {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    page.with_file_name(format!("{stem}-data"))
}

/// Writes a file under another name first; nothing is left of what does not fit.
pub(crate) fn whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // It may not even have been made.
        fs::remove_file(&partial).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Axis, Chart, Column, Provenance, Spread, Table};

    fn answer() -> Answer {
        Answer {
            question: "compact".into(),
            provenance: Provenance::default(),
            summary: vec!["<b>not bold</b>".into()],
            tables: vec![Table {
                name: "kept".into(),
                title: "Kept".into(),
                columns: vec![Column::plain("seed")],
                rows: vec![vec![1u64.into()]],
            }],
            charts: vec![Chart::Boxes {
                name: "machines".into(),
                title: "Machines".into(),
                y: Axis { label: "machines".into(), unit: String::new() },
                boxes: vec![Spread {
                    name: "hybrid".into(),
                    samples: vec![1.0, 2.0],
                    bound: Some(0.5),
                }],
            }],
        }
    }

    #[test]
    fn a_report_is_one_page_with_everything_in_it_and_its_data_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("r.html");
        report(&answer(), &page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(
            text.contains("&lt;b&gt;not bold")
                && text.contains("<svg")
                && text.contains("default-src 'none'")
        );
        assert!(!text.contains("src=\"http") && !text.contains("<script"));
        let mut names: Vec<_> = fs::read_dir(folder.path().join("r-data"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["kept.csv", "machines.svg"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_earlier_page_and_nothing_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("r.html");
        fs::write(&page, "before").unwrap();
        fs::write(folder.path().join("r-data"), "in the way").unwrap();
        let error = report(&answer(), &page).unwrap_err().to_string();
        assert!(error.contains("r-data") && error.contains("make room"), "{error}");
        assert_eq!(fs::read_to_string(&page).unwrap(), "before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
