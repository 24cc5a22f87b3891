//! Calls to the kernel that fail: a small library, loaded before the C library into a daemon.
//!
//! Makes it with the C compiler that building needs anyway, says how to start a daemon with it, and
//! reads how many calls there were. Leaves which call fails to the tests.

use super::apart::run;
use crate::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The library's text.
const SOURCE: &str = include_str!("faults.c");

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Open a file or directory.
    Open,
    /// Write to a file, or change its length.
    Write,
    /// Sync a file or directory.
    Sync,
    /// Rename a file or directory.
    Rename,
}

impl Call {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Open, Self::Write, Self::Sync, Self::Rename];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
        }
    }
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy)]
pub enum Wrong {
    /// Nothing: calls are only counted.
    Nothing,
    /// The call of this kind and number fails with this error number.
    Nth(Call, u64, i32),
    /// Every sync says that it is done, and is not.
    SyncsLie,
}

/// The library.
#[derive(Debug, Clone)]
pub struct Faults {
    library: PathBuf,
}

/// What calls there were, as far as they concern the files in question.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calls {
    by_kind: [u64; 4],
    /// Failures, and syncs that lied.
    pub injected: u64,
}

impl Calls {
    /// Calls of one kind.
    #[must_use]
    pub fn of(&self, call: Call) -> u64 {
        self.by_kind[call as usize]
    }
}

impl Faults {
    /// Compiles it below `dir`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn make(dir: &Path) -> Result<Self, Error> {
        let (source, library) = (dir.join("faults.c"), dir.join("faults.so"));
        fs::write(&source, SOURCE)?;
        let (from, to) = (source.display().to_string(), library.display().to_string());
        run("cc", &["-Wall", "-Werror", "-O2", "-shared", "-fPIC", "-o", &to, &from, "-ldl"])?;
        Ok(Self { library })
    }

    /// The command to start a daemon under, so that this goes wrong with files whose paths begin
    /// with `under`. Calls are reported to the file `report`.
    #[must_use]
    pub fn command(&self, wrong: Wrong, under: &Path, report: &Path) -> Vec<String> {
        let mut command = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAULTS_UNDER={}", under.display()),
            format!("FAULTS_REPORT={}", report.display()),
        ];
        match wrong {
            Wrong::Nothing => {}
            Wrong::Nth(call, at, errno) => command.extend([
                format!("FAULTS_CALL={}", call.name()),
                format!("FAULTS_AT={at}"),
                format!("FAULTS_ERRNO={errno}"),
            ]),
            Wrong::SyncsLie => command.push("FAULTS_CALL=nosync".to_owned()),
        }
        command
    }

    /// What a daemon reported.
    ///
    /// # Errors
    /// When there is no report: the library was not loaded.
    pub fn calls(report: &Path) -> Result<Calls, Error> {
        let bytes = fs::read(report).map_err(|error| format!("{}: {error}", report.display()))?;
        let mut numbers = bytes
            .chunks_exact(8)
            .map(|number| u64::from_ne_bytes(number.try_into().expect("eight bytes")));
        let mut calls = Calls::default();
        for count in &mut calls.by_kind {
            *count = numbers.next().unwrap_or(0);
        }
        calls.injected = numbers.next().unwrap_or(0);
        Ok(calls)
    }
}
