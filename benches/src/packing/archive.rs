//! Files packed into a `.tar.gz`, unpacked by the computer's `tar` into a directory that is removed
//! again: so nothing of this project has to read that format.

use crate::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An unpacked archive.
#[derive(Debug)]
pub struct Archive {
    directory: TempDir,
}

impl Archive {
    /// Unpacks a file.
    ///
    /// # Errors
    /// When `tar` is not there, or does not like the file.
    pub fn unpack(path: &Path) -> Result<Self, Error> {
        let directory = TempDir::new()?;
        let run = Command::new("tar")
            .args(["--extract", "--gzip", "--no-same-owner", "--file"])
            .arg(path)
            .arg("--directory")
            .arg(directory.path())
            .output()
            .map_err(|error| format!("tar: {error}"))?;
        if !run.status.success() {
            let said = String::from_utf8_lossy(&run.stderr);
            return Err(format!("{}: tar: {}", path.display(), said.trim()).into());
        }
        Ok(Self { directory })
    }

    /// The file of that name in any of the archive's folders.
    ///
    /// # Errors
    /// When there is none, or a folder cannot be read.
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|found| found == name) {
                    return Ok(path);
                }
            }
        }
        Err(format!("the archive has no file {name}").into())
    }
}
