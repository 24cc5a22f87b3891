//! What to run, as people write it: `.bcl` files (Starlark) and JSON become [`JobSpec`]s.
//!
//! `borgctl` alone evaluates configuration; a master takes only typed data. A file is refused by
//! size before it is read. Starlark runs in a child process with hard limits on memory and time
//! ([`guard`]), and inside it with limits on steps, heap and call depth (`language`), so that a
//! bad file costs an error message and never the caller.
//!
//! Invariant: every [`JobSpec`] that leaves this module has passed [`JobSpec::check`], and no
//! floating-point number leaves it.

mod constructors;
mod fields;
pub mod guard;
mod health;
mod json;
mod kinds;
mod language;
mod order;
mod session;
pub(crate) mod units;

use borg_proto::{JobSpec, UserName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file of configuration in bytes. 1 MiB: our choice, the size of the largest
/// specification that a master takes.
pub const MAX_SOURCE_BYTES: u64 = 1 << 20;

/// How to read a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Who will own the jobs: fills `USER`, and names in `after` without an owner.
    pub user: UserName,
    /// Values for `arg("name")`.
    pub args: BTreeMap<String, String>,
    /// The executable that the constant `BORGCTL` names.
    pub borgctl: PathBuf,
}

impl Options {
    /// Options without arguments, for this executable.
    ///
    /// # Errors
    /// When the system does not tell where this executable is.
    pub fn new(user: UserName) -> std::io::Result<Self> {
        Ok(Self { user, args: BTreeMap::new(), borgctl: std::env::current_exe()? })
    }
}

/// What a file amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Its jobs, in order; of the whole file those first that others of it name.
    pub jobs: Vec<JobSpec>,
    /// Lines that it printed.
    pub printed: Vec<String>,
}

/// A file of configuration that cannot be used: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ConfigError {
    /// The file as the user named it; `-` is standard input.
    pub file: String,
    /// Line and column, from 1, when one place is to blame.
    pub place: Option<(u32, u32)>,
    /// What is wrong, and what is allowed.
    pub text: String,
    /// The line at that place.
    pub line: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

impl ConfigError {
    pub(crate) fn whole(file: &str, text: impl Into<String>) -> Self {
        Self { file: file.into(), place: None, text: text.into(), line: None }
    }

    /// At a line and column, both from 1.
    pub(crate) fn at(
        file: &str,
        source: &str,
        line: usize,
        column: usize,
        text: impl Into<String>,
    ) -> Self {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            file: file.into(),
            place: Some((small(line), small(column))),
            text: text.into(),
            line: source.lines().nth(line.saturating_sub(1)).map(str::to_owned),
        }
    }

    /// The line to blame with a mark under the column, for people; empty when there is none.
    #[must_use]
    pub fn excerpt(&self) -> String {
        const SHOWN: usize = 160;
        let (Some((number, column)), Some(line)) = (self.place, &self.line) else {
            return String::new();
        };
        let column = column as usize;
        if column > SHOWN || line.chars().any(|c| c.is_control() && c != '\t') {
            return String::new();
        }
        let shown: String =
            line.chars().take(SHOWN).map(|c| if c == '\t' { ' ' } else { c }).collect();
        let gutter = " ".repeat(number.to_string().len());
        format!("{number} | {shown}\n{gutter} | {}^", " ".repeat(column - 1))
    }
}

/// The two languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Starlark,
    Json,
}

/// A file that has been read and is small enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// As the user named it.
    pub(crate) file: String,
    /// Directory that `load` may read from.
    pub(crate) root: PathBuf,
    /// The whole text.
    pub(crate) text: String,
}

/// Reads and evaluates a file, `-` for standard input. Starlark is evaluated in a child process
/// of `options.borgctl`.
///
/// # Errors
/// With the place and what is allowed there.
pub async fn load(path: &Path, options: &Options) -> Result<Evaluated, ConfigError> {
    let (source, language) = read(path)?;
    let file = source.file.clone();
    let evaluated = match language {
        Language::Json => json::parse(&source.file, &source.text),
        Language::Starlark => guard::evaluate(source, options).await,
    };
    in_order(&file, options, evaluated?)
}

/// The same, with jobs that others name before those.
fn in_order(file: &str, options: &Options, evaluated: Evaluated) -> Result<Evaluated, ConfigError> {
    Ok(Evaluated { jobs: order::sort(file, &options.user, evaluated.jobs)?, ..evaluated })
}

/// As [`load`], but in this process: only the language's own limits hold, so a file that sets out
/// to exhaust memory succeeds. For the files of this project and for tests.
///
/// # Errors
/// With the place and what is allowed there.
pub fn load_trusted(path: &Path, options: &Options) -> Result<Evaluated, ConfigError> {
    let (source, language) = read(path)?;
    let evaluated = match language {
        Language::Json => json::parse(&source.file, &source.text),
        Language::Starlark => language::evaluate(&source, options),
    };
    in_order(&source.file, options, evaluated?)
}

fn read(path: &Path) -> Result<(Source, Language), ConfigError> {
    let file = path.display().to_string();
    let stdin = path == Path::new("-");
    let bytes = if stdin { read_capped(&file, std::io::stdin())? } else { read_file(path)? };
    let directory = path.parent().filter(|dir| !stdin && !dir.as_os_str().is_empty());
    let root = directory.unwrap_or(Path::new(".")).canonicalize().map_err(|error| {
        ConfigError::whole(&file, format!("cannot find its directory: {error}"))
    })?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        let text = "begins with a byte order mark (EF BB BF): save it as UTF-8 without one";
        return Err(ConfigError::at(&file, "", 1, 1, text));
    }
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&file, &error))?;
    let language = match path.extension().and_then(|ext| ext.to_str()) {
        Some("bcl") => Language::Starlark,
        Some("json") => Language::Json,
        _ if text.trim_start().starts_with(['{', '[']) => Language::Json,
        _ => Language::Starlark,
    };
    Ok((Source { file, root, text }, language))
}

fn read_file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let file = path.display().to_string();
    let cannot = |error: std::io::Error| ConfigError::whole(&file, format!("cannot read: {error}"));
    let opened = std::fs::File::open(path).map_err(cannot)?;
    let meta = opened.metadata().map_err(cannot)?;
    if meta.is_dir() {
        return Err(ConfigError::whole(&file, "is a directory, not a file of jobs"));
    }
    if meta.len() > MAX_SOURCE_BYTES {
        return Err(too_large(&file, &format!("{} bytes", meta.len())));
    }
    read_capped(&file, opened)
}

fn read_capped(file: &str, from: impl Read) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    from.take(MAX_SOURCE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ConfigError::whole(file, format!("cannot read: {error}")))?;
    if bytes.len() as u64 > MAX_SOURCE_BYTES {
        return Err(too_large(file, "more"));
    }
    Ok(bytes)
}

fn too_large(file: &str, size: &str) -> ConfigError {
    ConfigError::whole(
        file,
        format!("has {size}; configuration may have {MAX_SOURCE_BYTES} bytes (1 MiB)"),
    )
}

fn not_utf8(file: &str, error: &std::string::FromUtf8Error) -> ConfigError {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let bad = error.as_bytes()[good.len()];
    let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let start = good.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
    ConfigError::at(file, "", line, column, format!("byte {bad:#04x} is not UTF-8 text"))
}

/// The candidate that `wrong` was probably meant to be.
pub(crate) fn did_you_mean<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(wrong, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
