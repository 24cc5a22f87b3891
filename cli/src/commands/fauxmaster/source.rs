//! What a question is asked of, and how its answer is shown: options that all questions share.

use super::super::backup;
use super::super::history::At;
use super::history;
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::{Format, Output};
use crate::target::TargetArgs;
use borg_fauxmaster::answer::Answer;
use borg_fauxmaster::reports;
use borg_fauxmaster::sources::loaded::Loaded;
use clap::Args;
use std::path::PathBuf;

/// Most bytes that a checkpoint may have: 1 GiB, far over what the largest cells need.
const MOST_BYTES: u64 = 1 << 30;

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
    #[arg(long, default_value_t = 1_000, requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: u32,
    /// Which of the made-up cells
    #[arg(long = "cell-seed", default_value_t = 1, requires = "synthetic")]
    cell_seed: u64,
    /// A stretch of a real cell's past, as saved by `borgctl backup history`
    #[arg(long, value_name = "DIR", group = "source")]
    history: Option<PathBuf>,
    /// Which moment of it: an entry, or a time [default: its end]
    #[arg(long, value_name = "TIME", requires = "history", allow_hyphen_values = true)]
    when: Option<At>,
    /// A directory with nodes.csv and tasks.csv in the common format
    #[arg(long, value_name = "DIR", group = "source")]
    common: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Synthetic {
    /// Machine shapes of the Google cell of 2011, work as in the Borg paper
    BorgLike,
}

impl SourceArgs {
    pub(super) async fn load(self, target: &TargetArgs) -> Result<Loaded, Failure> {
        if let Some(file) = self.checkpoint {
            let state = backup::load(&file, MOST_BYTES)?;
            return Ok(Loaded::cell(format!("checkpoint of cell {}", state.cell()), state));
        }
        if let Some(Synthetic::BorgLike) = self.synthetic {
            return made(Loaded::made_up(self.machines, self.cell_seed));
        }
        if let Some(folder) = self.history {
            return history::cell(&folder, self.when);
        }
        if let Some(folder) = self.common {
            return made(Loaded::folder(&folder));
        }
        let state = backup::live_state(&mut Client::new(&target.resolve()?)?, false).await?;
        Ok(Loaded::cell(format!("live cell {}, entry {}", state.cell(), state.applied()), state))
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
    pub(super) fn show(self, answer: &Answer, out: Output) -> Result<(), Failure> {
        if let Some(page) = self.report {
            reports::write::report(answer, &page)
                .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        }
        let text = match out.format() {
            Format::Table => reports::text::text(answer),
            Format::Json => reports::json::json(answer),
            Format::Csv => reports::csv::csv(answer),
        };
        out.bytes(text.as_bytes())
    }
}

/// What cannot be asked, or not of that.
pub(super) fn made<T>(found: Result<T, borg_fauxmaster::Error>) -> Result<T, Failure> {
    found.map_err(|error| refused(error.to_string()))
}

pub(super) fn refused(why: String) -> Failure {
    Failure::new(Code::Refused, why)
}
