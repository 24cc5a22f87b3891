//! `--config FILE`: the command line's options, written down.
//!
//! A file in TOML whose keys are the long options without their dashes. What may be given several times is a
//! list; `attribute` may be a table. Whatever the command line says as well, it says last.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use toml::Value;

/// Longest file that is read.
const MAX_BYTES: u64 = 64 << 10;

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigFileError {
    #[error("--config: no file is named")]
    NoName,
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is longer than {MAX_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{} is not TOML: {why}", .path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("{}: {key} is no option; there are {known}", .path.display())]
    Unknown { path: PathBuf, key: String, known: String },
    #[error("{}: {key} is {found}, not {wanted}", .path.display())]
    Kind { path: PathBuf, key: String, found: String, wanted: &'static str },
}

/// `args` with what their `--config` says before everything else, or as they are without one.
pub(crate) fn with_file(
    args: Vec<OsString>,
    command: &Command,
) -> Result<Vec<OsString>, ConfigFileError> {
    let Some(path) = named(&args)? else { return Ok(args) };
    let from_file = read(&path, command)?;
    let mut all: Vec<OsString> = args.first().cloned().into_iter().collect();
    all.extend(from_file.into_iter().map(OsString::from));
    all.extend(args.into_iter().skip(1));
    Ok(all)
}

fn named(args: &[OsString]) -> Result<Option<PathBuf>, ConfigFileError> {
    for (place, arg) in args.iter().enumerate().skip(1) {
        if arg == "--config" {
            let next = args.get(place + 1).ok_or(ConfigFileError::NoName)?;
            return Ok(Some(next.into()));
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Ok(Some(path.into()));
        }
    }
    Ok(None)
}

fn read(path: &Path, command: &Command) -> Result<Vec<String>, ConfigFileError> {
    let failed = |source| ConfigFileError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(ConfigFileError::TooLong(path.to_owned()));
    }
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        let why = error.to_string().trim_end().replace('\n', "; ");
        ConfigFileError::Syntax { path: path.to_owned(), why }
    })?;
    let mut args = Vec::new();
    for (key, value) in table {
        args.extend(option(path, command, &key, value)?);
    }
    Ok(args)
}

fn option(
    path: &Path,
    command: &Command,
    key: &str,
    value: Value,
) -> Result<Vec<String>, ConfigFileError> {
    let options = || command.get_arguments().filter(|arg| arg.get_id() != "config");
    let Some(option) = options().find(|arg| arg.get_long() == Some(key)) else {
        let known: Vec<&str> = options().filter_map(|arg| arg.get_long()).collect();
        let known = known.join(", ");
        return Err(ConfigFileError::Unknown { path: path.to_owned(), key: key.to_owned(), known });
    };
    let repeats = matches!(option.get_action(), ArgAction::Append);
    let wrong = |found: &Value, wanted| ConfigFileError::Kind {
        path: path.to_owned(),
        key: key.to_owned(),
        found: found.type_str().to_owned(),
        wanted,
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{key}={text}")),
        Value::Integer(number) => Ok(format!("--{key}={number}")),
        other => Err(wrong(other, "text or a number")),
    };
    match value {
        Value::Array(all) if repeats => all.iter().map(one).collect(),
        Value::Table(all) if repeats => {
            let pair = |(name, value): (String, Value)| match value {
                Value::String(text) => Ok(format!("--{key}={name}={text}")),
                Value::Integer(number) => Ok(format!("--{key}={name}={number}")),
                other => Err(wrong(&other, "text or a number")),
            };
            all.into_iter().map(pair).collect()
        }
        // A switch.
        Value::Boolean(on) if matches!(option.get_action(), ArgAction::SetTrue) => {
            Ok(on.then(|| format!("--{key}")).into_iter().collect())
        }
        other => Ok(vec![one(&other)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use clap::{FromArgMatches, Parser};

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[command(flatten)]
        config: Config,
    }

    fn parse(text: &str, more: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("borglet.toml");
        std::fs::write(&path, text).unwrap();
        let args = ["borglet", "--config", path.to_str().unwrap()];
        let args = args.iter().chain(more).map(OsString::from).collect();
        let command = <Line as clap::CommandFactory>::command();
        let args = with_file(args, &command).map_err(|error| error.to_string())?;
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        Ok(Line::from_arg_matches(&matches).unwrap().config)
    }

    const LEAST: &str = "listen = '127.0.0.1:0'\ndir = 'd'\ncreds = 'c'\n";

    #[test]
    fn keys_are_options_and_the_command_line_says_it_last() {
        let more =
            "cpu-milli = 500\nvolume = ['/a', '/b:ro']\n[attribute]\nrack = 'r1'\nslot = 3\n";
        let config = parse(&format!("{LEAST}{more}"), &["--cpu-milli", "700"]).unwrap();
        assert_eq!(config.cpu_milli, Some(700));
        assert_eq!(config.volumes.len(), 2);
        let facts: Vec<_> =
            config.attributes.iter().map(|fact| format!("{}={}", fact.key, fact.value)).collect();
        assert_eq!(facts, ["rack=r1", "slot=3"]);
        assert_eq!(parse(LEAST, &[]).unwrap().cpu_milli, None);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let wrong = |more: &str| parse(&format!("{LEAST}{more}"), &[]).unwrap_err();
        assert!(
            wrong("prots = '1-2'").contains("borglet.toml: prots is no option; there are listen,")
        );
        assert!(wrong("cpu-milli = 1.5").contains("cpu-milli is float, not text or a number"));
        assert!(wrong("cpu-milli = [1]").contains("cpu-milli is array"));
        assert!(wrong("x = ").contains("is not TOML"));
        assert!(wrong("ports = '9-5'").contains("FIRST-LAST"), "as on the command line");
        assert!(parse("", &[]).unwrap_err().contains("--listen"), "what is required stays so");
    }
}
