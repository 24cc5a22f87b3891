//! A report on disk: the page, and beside it a directory with every table and chart as CSV and every picture as SVG.
//!
//! All files are written whole and synced under other names before the first gets its own, the page last: a disk
//! that fills up on the way leaves an earlier report as it was.

use super::{csv, html, svg};
use crate::answer::Answer;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of a report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: the report cannot be written: {source}; nothing of it is kept, make room or name another place and ask again", path.display())]
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
/// When the disk does not take it. An earlier report is not touched then.
pub fn report(answer: &Answer, page: &Path) -> Result<(), WriteError> {
    let directory = data_of(page);
    let (is_new, files) = (!directory.exists(), files(answer, page, &directory));
    let done = fs::create_dir_all(&directory)
        .map_err(|source| WriteError { path: directory.clone(), source })
        .and_then(|()| together(&files));
    match done {
        Ok(()) => forget_others(&directory, &files),
        // Only if nothing is in it, and it may not even have been made.
        Err(_) if is_new => drop(fs::remove_dir(&directory)),
        Err(_) => {}
    }
    done
}

/// Data of an earlier report of that name, to another question, goes: nobody could tell what is of which.
fn forget_others(directory: &Path, files: &[(PathBuf, String)]) {
    let Ok(there) = fs::read_dir(directory) else { return };
    for path in there.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_data = path.extension().is_some_and(|kind| kind == "csv" || kind == "svg");
        if !is_data || files.iter().any(|(file, _)| *file == path) {
            continue;
        }
        let ours = fs::read_to_string(&path).is_ok_and(|text| {
            text.starts_with("# fauxmaster ") || text.contains("<desc>fauxmaster ")
        });
        if ours {
            // Left where that fails, as before.
            fs::remove_file(&path).ok();
        }
    }
}

/// The directory beside a page.
#[must_use]
pub fn data_of(page: &Path) -> PathBuf {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    page.with_file_name(format!("{stem}-data"))
}

/// All files of a report in the order in which they get their names.
fn files(answer: &Answer, page: &Path, directory: &Path) -> Vec<(PathBuf, String)> {
    let mut data = BTreeMap::new();
    let origin = &answer.provenance;
    for chart in &answer.charts {
        let name = svg::name(chart);
        data.insert(format!("{name}.csv"), csv::file(&csv::of_chart(chart), origin));
        data.insert(format!("{name}.svg"), svg::file(chart, origin));
    }
    // A table that has the name of a chart is its data.
    for table in &answer.tables {
        data.insert(format!("{}.csv", table.name), csv::file(table, origin));
    }
    let data = data.into_iter().map(|(name, text)| (directory.join(name), text));
    data.chain([(page.to_owned(), html::html(answer))]).collect()
}

/// Writes files so that all get their names or, as far as disks allow, none.
fn together(files: &[(PathBuf, String)]) -> Result<(), WriteError> {
    let written = files.iter().try_for_each(|(path, text)| {
        staged(path, text.as_bytes()).map_err(|source| WriteError { path: path.clone(), source })
    });
    let named = written.and_then(|()| {
        files.iter().try_for_each(|(path, _)| {
            let named = fs::rename(partial(path), path).and_then(|()| sync_folder(path));
            named.map_err(|source| WriteError { path: path.clone(), source })
        })
    });
    if named.is_err() {
        for (path, _) in files {
            // It may not even have been made.
            fs::remove_file(partial(path)).ok();
        }
    }
    named
}

/// Writes a file under another name first; nothing is left of what does not fit.
pub(crate) fn whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = staged(path, bytes)
        .and_then(|()| fs::rename(partial(path), path))
        .and_then(|()| sync_folder(path));
    if written.is_err() {
        // It may not even have been made.
        fs::remove_file(partial(path)).ok();
    }
    written
}

fn staged(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // It gets its name in place of what is there, and a device or a link would be gone then.
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        let what = "something is there that is no plain file";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let mut file = File::create(partial(path))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name that lasts is one that its directory has on disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What a file is called until it is whole.
fn partial(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Axis, Chart, Column, Provenance, Spread, Table};

    fn answer() -> Answer {
        Answer {
            question: "compact".into(),
            provenance: Provenance {
                version: "0".into(),
                source: "of the test".into(),
                digest: "00ff".into(),
                ..Provenance::default()
            },
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

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_report_is_one_page_with_everything_in_it_and_its_data_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("r.html");
        report(&answer(), &page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        for part in ["&lt;b&gt;not bold", "<svg", "default-src 'none'"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("src=\"http") && !text.contains("<script"));
        let data = folder.path().join("r-data");
        assert_eq!(names_in(&data), ["kept.csv", "machines.csv", "machines.svg"]);
        for name in names_in(&data) {
            let text = fs::read_to_string(data.join(name)).unwrap();
            assert!(text.contains("fauxmaster 0; of the test, 00ff"), "{text}");
        }
        let machines = fs::read_to_string(data.join("machines.csv")).unwrap();
        assert!(
            machines
                .ends_with("name,sample,value\r\nhybrid,0,1\r\nhybrid,1,2\r\nhybrid,bound,0.5\r\n"),
            "{machines}"
        );
    }

    #[test]
    fn data_of_an_earlier_report_goes_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("r.html");
        report(&answer(), &page).unwrap();
        let data = folder.path().join("r-data");
        fs::write(data.join("mine.csv"), "a,b\r\n").unwrap();
        let mut other = answer();
        other.tables[0].name = "lost".into();
        other.charts.clear();
        report(&other, &page).unwrap();
        assert_eq!(names_in(&data), ["lost.csv", "mine.csv"]);
    }

    /// Each file in turn is in the way of its partial one, the page too.
    #[test]
    fn what_cannot_be_written_leaves_the_earlier_report_and_nothing_half_done() {
        for in_the_way in
            ["r-data/.kept.csv.partial", "r-data/.machines.svg.partial", ".r.html.partial"]
        {
            let folder = tempfile::tempdir().unwrap();
            let page = folder.path().join("r.html");
            report(&answer(), &page).unwrap();
            let before = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
            let files = ["r.html", "r-data/kept.csv", "r-data/machines.svg"];
            let earlier = files.map(before);
            fs::create_dir(folder.path().join(in_the_way)).unwrap();
            let mut other = answer();
            other.provenance.digest = "other".into();
            let error = report(&other, &page).unwrap_err().to_string();
            assert!(error.contains("make room"), "{error}");
            fs::remove_dir(folder.path().join(in_the_way)).unwrap();
            assert_eq!(files.map(before), earlier);
            assert_eq!(names_in(folder.path()), ["r-data", "r.html"]);
            assert_eq!(names_in(&folder.path().join("r-data")).len(), 3);
        }
    }

    #[test]
    fn a_report_with_no_place_for_its_data_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("r-data"), "in the way").unwrap();
        let error = report(&answer(), &folder.path().join("r.html")).unwrap_err().to_string();
        assert!(error.contains("r-data") && error.contains("make room"), "{error}");
        assert_eq!(names_in(folder.path()), ["r-data"]);
    }

    /// A report to a device in its own directory would take the device's place.
    #[test]
    fn what_is_no_plain_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.html");
        std::os::unix::fs::symlink("/dev/null", &page).unwrap();
        let error = report(&answer(), &page).unwrap_err().to_string();
        assert!(error.contains("page.html") && error.contains("no plain file"), "{error}");
        assert!(fs::symlink_metadata(&page).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert!(whole(&page, b"x").is_err());
    }
}
