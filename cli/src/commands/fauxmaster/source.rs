//! What a question is asked of, and how its answer is shown: options that all questions share.

use super::super::backup;
use super::super::history::At;
use super::history;
use crate::client::Client;
use crate::config::units;
use crate::exit::{Code, Failure};
use crate::output::{Format, Output, step};
use crate::target::TargetArgs;
use borg_fauxmaster::answer::Answer;
use borg_fauxmaster::reports;
use borg_fauxmaster::sources::loaded::Loaded;
use borg_fauxmaster::sources::trace::{self, Choices, Kind};
use borg_master::store::Backup;
use borg_proto::{Millis, in_full};
use clap::Args;
use std::path::{Path, PathBuf};

/// Most bytes that a checkpoint may have: 1 GiB, far over what the largest cells need.
const MOST_BYTES: u64 = 1 << 30;

// What an option needs is not asked for where that conflicts with what was given: so what goes without is named too.
const NOT_MADE_UP: [&str; 4] = ["checkpoint", "history", "common", "trace"];
const NOT_THE_PAST: [&str; 4] = ["checkpoint", "synthetic", "common", "trace"];
const NO_TRACE: [&str; 4] = ["checkpoint", "synthetic", "history", "common"];

/// What is asked. Without any of these: the cell as it is now.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub(super) struct SourceArgs {
    /// A checkpoint: saved by `borgctl backup save`, or of a master's directory [default: the live cell]
    #[arg(long, value_name = "FILE", group = "source")]
    checkpoint: Option<PathBuf>,
    /// A made-up cell with work in it, drawn from published figures
    #[arg(long, value_name = "KIND", group = "source", value_enum)]
    synthetic: Option<Synthetic>,
    /// Machines of the made-up cell
    #[arg(long, default_value_t = 1_000, requires = "synthetic", conflicts_with_all = NOT_MADE_UP, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: u32,
    /// Which of the made-up cells
    #[arg(long = "cell-seed", default_value_t = 1, requires = "synthetic", conflicts_with_all = NOT_MADE_UP)]
    cell_seed: u64,
    /// A stretch of a real cell's past, as saved by `borgctl backup history`
    #[arg(long, value_name = "DIR", group = "source")]
    history: Option<PathBuf>,
    /// Which moment of it: an entry, or a time [default: its end]
    #[arg(long, value_name = "TIME", requires = "history", conflicts_with_all = NOT_THE_PAST, allow_hyphen_values = true)]
    when: Option<At>,
    /// A directory with nodes.csv and tasks.csv in the common format
    #[arg(long, value_name = "DIR", group = "source")]
    common: Option<PathBuf>,
    #[command(flatten)]
    trace: TraceArgs,
}

/// A public trace.
#[derive(Debug, Args)]
struct TraceArgs {
    /// A public trace: google2011, google2011-jobs, google2019, openb, azure-v1 or swf, and its file or directory
    /// (docs/formats.md)
    #[arg(long, value_name = "KIND:PATH", group = "source", value_parser = kind_and_path)]
    trace: Option<(Kind, PathBuf)>,
    /// Count bad rows of the trace and tell of them, instead of refusing it
    #[arg(long, requires = "trace", conflicts_with_all = NO_TRACE)]
    skip_bad: bool,
    /// Of what the trace does not tell exactly, and is drawn
    #[arg(long, default_value_t = 1, requires = "trace", conflicts_with_all = NO_TRACE)]
    trace_seed: u64,
    /// Machines of a trace that has none. azure-v1: of 64 cores and 512 GiB each [default: 1000]; swf: that share
    /// MaxProcs, 4 GiB a core [default: its MaxNodes, else MaxProcs]
    #[arg(long, value_name = "N", requires = "trace", conflicts_with_all = NO_TRACE, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trace_machines: Option<u32>,
    /// The moment of the trace that questions are about which are of one moment; replay is of all of it [default:
    /// when most processor time is asked for]
    #[arg(long, value_name = "HOURS", requires = "trace", conflicts_with_all = NO_TRACE, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    moment: Option<u64>,
}

impl TraceArgs {
    fn load(&self, kind: Kind, path: &Path) -> Result<Loaded, Failure> {
        let choices = Choices {
            skip_bad: self.skip_bad,
            seed: self.trace_seed,
            machines: self.trace_machines,
        };
        step(&format!("reading {}", path.display()));
        let at = self.moment.map(|hours| Millis::from_secs(hours * 3_600));
        made(trace::read(kind, path, choices).and_then(|trace| Loaded::trace(trace, at)))
    }
}

fn kind_and_path(text: &str) -> Result<(Kind, PathBuf), String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    let (kind, path) = text
        .split_once(':')
        .ok_or_else(|| format!("KIND:PATH is expected; kinds are {}", names()))?;
    let known = Kind::named(kind).ok_or_else(|| format!("kind {kind:?} is none of {}", names()))?;
    if path.is_empty() {
        return Err(format!("a path is expected after {kind}:"));
    }
    Ok((known, path.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Synthetic {
    /// Machine shapes of the Google cell of 2011, work as in the Borg paper
    BorgLike,
}

impl SourceArgs {
    /// The file or directory that is read, under the name of its option.
    pub(super) fn read_from(&self) -> Option<(&'static str, &Path)> {
        let trace = self.trace.trace.as_ref().map(|(_, path)| ("--trace", path));
        let checkpoint = self.checkpoint.as_ref().map(|path| ("--checkpoint", path));
        let history = self.history.as_ref().map(|path| ("--history", path));
        let common = self.common.as_ref().map(|path| ("--common", path));
        let found = trace.or(checkpoint).or(history).or(common);
        found.map(|(option, path)| (option, path.as_path()))
    }

    pub(super) async fn load(self, target: &TargetArgs) -> Result<Loaded, Failure> {
        if let Some(file) = self.checkpoint {
            let Backup { state, known } = backup::load(&file, MOST_BYTES)?;
            return Ok(Loaded::cell(format!("checkpoint of cell {}", state.cell()), state, known));
        }
        if let Some(Synthetic::BorgLike) = self.synthetic {
            return made(Loaded::made_up(self.machines, self.cell_seed));
        }
        if let Some((kind, path)) = &self.trace.trace {
            return self.trace.load(*kind, path);
        }
        if let Some(folder) = self.history {
            return history::cell(&folder, self.when);
        }
        if let Some(folder) = self.common {
            return made(Loaded::folder(&folder));
        }
        let mut client = Client::new(&target.resolve()?)?;
        backup::ask_the_leader(&mut client).await?;
        let Backup { state, known } = backup::live(&mut client, false).await?;
        let source = format!("live cell {}, entry {}", state.cell(), state.applied());
        Ok(Loaded::cell(source, state, known))
    }
}

/// How an answer is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answer")]
pub(super) struct ShowArgs {
    /// Write the answer as one HTML page too, with CSV and SVG in a directory beside it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl ShowArgs {
    /// # Errors
    /// When the page would take the place of something that is read or written beside it.
    pub(super) fn apart(&self, others: &[Option<(&str, &Path)>]) -> Result<(), Failure> {
        let report = self.report.as_deref().map(|page| ("--report", page));
        apart(&[&[report], others].concat())
    }

    /// The answer comes first: a disk that does not take the page costs no more than that.
    pub(super) fn show(self, answer: &Answer, out: Output) -> Result<(), Failure> {
        let text = match out.format() {
            Format::Table => reports::text::text(answer),
            Format::Json => reports::json::json(answer),
            Format::Csv => reports::csv::csv(answer),
        };
        out.bytes(text.as_bytes())?;
        let Some(page) = self.report else { return Ok(()) };
        reports::write::report(answer, &page)
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))
    }
}

/// # Errors
/// When two options name one file, and one of them would be written over.
pub(super) fn apart(files: &[Option<(&str, &Path)>]) -> Result<(), Failure> {
    let really = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = std::fs::canonicalize(folder.unwrap_or(Path::new(".")));
        let new = folder.ok().zip(path.file_name()).map(|(folder, name)| folder.join(name));
        std::fs::canonicalize(path).ok().or(new).unwrap_or_else(|| path.to_owned())
    };
    let mut named = std::collections::BTreeMap::new();
    for (option, path) in files.iter().flatten() {
        if let Some(other) = named.insert(really(path), option) {
            let path = path.display();
            let what = format!("{other} and {option} both name {path}: give each one of its own");
            return Err(Failure::new(Code::Usage, what));
        }
    }
    Ok(())
}

/// Longest time that what follows is looked at: 30 days, ours; nobody's work ends meanwhile.
const LONGEST: Millis = Millis::from_secs(30 * 24 * 3_600);

/// For how long to look at what follows.
pub(super) fn within(text: &str) -> Result<Millis, String> {
    units::duration_within(text, Millis(1), LONGEST)
}

/// What cannot be asked, or not of that.
pub(super) fn made<T>(found: Result<T, borg_fauxmaster::Error>) -> Result<T, Failure> {
    found.map_err(|error| refused(in_full(&*error)))
}

/// # Errors
/// When one of what was given is there twice.
pub(super) fn once<T: Ord + std::fmt::Display>(given: &[T]) -> Result<(), Failure> {
    let mut sorted: Vec<&T> = given.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Failure::new(Code::Usage, format!("{} is given twice", twice[0]))),
        None => Ok(()),
    }
}

pub(super) fn refused(why: String) -> Failure {
    Failure::new(Code::Refused, why)
}

/// How many threads are to be used: as asked, or one for each core.
pub(super) fn threads(asked: Option<u64>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    asked.and_then(|threads| usize::try_from(threads).ok()).unwrap_or(cores)
}
