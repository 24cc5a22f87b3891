//! `fauxmaster verify`, `step`, `diff` and `why`: a stretch of a real cell's past, as `borgctl backup history` saved it.

use super::super::history::{self, At};
use super::source::{ShowArgs, made, refused};
use crate::clock;
use crate::exit::{Code, Failure};
use crate::output::{Output, step};
use borg_cell::state::CellState;
use borg_cell::store::StoreError;
use borg_fauxmaster::history::difference::{Difference, between};
use borg_fauxmaster::history::stepper::{Breakpoint, Stepper, Told};
use borg_fauxmaster::history::{History, Moment, Recording, verify};
use borg_fauxmaster::sources::loaded::Loaded;
use borg_master::store::Stretch;
use borg_proto::names::TaskName;
use borg_proto::{Millis, in_full};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write, stdin};
use std::path::{Path, PathBuf};

/// Most bytes of a recording that is read: 1 GiB, four times what a master keeps of all unless told otherwise.
const MOST_BYTES: u64 = 1 << 30;
const DAMAGED: &str = "damaged, or of another stretch; save it again with borgctl backup history";
/// Differences that are told to people; programs get all.
const DIFFERENCES: usize = 200;

/// Reads a directory.
pub(super) fn load(dir: &Path) -> Result<History, Failure> {
    let at = |error: &dyn std::fmt::Display| refused(format!("{}: {error}", dir.display()));
    if !dir.is_dir() {
        let what = format!("{}: is no directory of borgctl backup history", dir.display());
        return Err(Failure::new(Code::NotFound, what));
    }
    for name in [Stretch::CHECKPOINT, Stretch::LOG] {
        plain(&dir.join(name))?;
    }
    let stretch = Stretch::read(dir).map_err(|error| match error {
        StoreError::Broken { why, .. } => refused(format!("{why}: {DAMAGED}")),
        StoreError::Gone { .. } => {
            refused(format!("{}: no log is there: {DAMAGED}", dir.display()))
        }
        error => refused(in_full(&error)),
    })?;
    let start = CellState::decode(&stretch.checkpoint.state).map_err(|error| at(&error))?;
    let mut recordings = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .and_then(|files| files.map(|file| file.map(|file| file.path())).collect())
        .map_err(|error| at(&error))?;
    files.sort();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !name.starts_with("recording-") {
            continue;
        }
        let bytes = plain(&path)?;
        if bytes > MOST_BYTES {
            return Err(refused(format!(
                "{}: {bytes} bytes, most is {MOST_BYTES}",
                path.display()
            )));
        }
        let bytes = std::fs::read(&path).map_err(|error| at(&error))?;
        recordings.push(made(Recording::of(&name, &bytes))?);
    }
    let members = stretch.checkpoint.meta.membership;
    Ok(History { start, members, entries: stretch.entries, recordings })
}

/// The length of a file that is one: of a pipe or a device nobody knows the end.
fn plain(path: &Path) -> Result<u64, Failure> {
    let file = std::fs::symlink_metadata(path)
        .map_err(|error| refused(format!("{}: {error}: {DAMAGED}", path.display())))?;
    if !file.is_file() {
        return Err(refused(format!("{}: is no plain file", path.display())));
    }
    Ok(file.len())
}

/// The moment of a history that is meant.
pub(super) fn moment(at: At) -> Moment {
    match at {
        At::Index(index) => Moment::Index(index),
        At::Time(ms) => Moment::Time(Millis(ms)),
        At::Ago(ms) => Moment::Time(Millis(clock::now().0.saturating_sub(ms))),
    }
}

/// The cell as it was at a moment of a history.
pub(super) fn cell(dir: &Path, at: Option<At>) -> Result<Loaded, Failure> {
    let history = load(dir)?;
    let at = at.map_or(Moment::Index(history.last()), moment);
    let mut stepper = Stepper::new(&history);
    made(stepper.go(at))?;
    let (state, known) = (stepper.state().clone(), made(stepper.known())?);
    let source = format!("history of cell {}, entry {}", state.cell(), state.applied());
    Ok(Loaded::cell(source, state, known))
}

#[derive(Debug, Args)]
pub(in crate::commands) struct VerifyArgs {
    /// The directory that `borgctl backup history` wrote
    dir: PathBuf,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) fn verify(args: VerifyArgs, out: Output) -> Result<(), Failure> {
    let history = load(&args.dir)?;
    let verified = made(verify::verify(&history, step))?;
    let (cell, first, last) = (history.start.cell(), history.first(), history.last());
    let source = format!("history of cell {cell}, entries {first} to {last}");
    let mut loaded = Loaded::cell(source, history.start.clone(), None);
    loaded.digest = history.digest();
    let provenance = loaded.provenance(Vec::new(), Vec::new());
    args.show.show(&verify::answer(&verified, provenance), out)?;
    if verified.is_identical() {
        return Ok(());
    }
    Err(Failure::new(Code::Internal, "the decisions are not the same, or none were compared"))
}

#[derive(Debug, Args)]
pub(in crate::commands) struct DiffArgs {
    /// The directory that `borgctl backup history` wrote
    dir: PathBuf,
    /// The earlier moment: an entry, or a time
    #[arg(allow_hyphen_values = true)]
    from: At,
    /// The later moment
    #[arg(allow_hyphen_values = true)]
    to: At,
}

pub(super) fn diff(args: &DiffArgs, out: Output) -> Result<(), Failure> {
    let history = load(&args.dir)?;
    let state = |at: At| made(history.state_at(moment(at)));
    differences(&between(&state(args.from)?, &state(args.to)?), out)
}

fn differences(all: &[Difference], out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&all, false);
    }
    if all.is_empty() {
        return out.line("nothing is different of what diff looks at");
    }
    let rows = all
        .iter()
        .take(DIFFERENCES)
        .map(|one| [one.what.to_owned(), one.name.clone(), one.then.clone(), one.now.clone()]);
    out.table(["what", "name", "then", "now"], rows)?;
    if all.len() > DIFFERENCES {
        out.line(&format!("and {} more: -o json has all", all.len() - DIFFERENCES))?;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(in crate::commands) struct WhyArgs {
    /// The directory that `borgctl backup history` wrote
    dir: PathBuf,
    /// The task, as user/job/index
    task: TaskName,
    /// When: an entry, or a time [default: the end]
    // Named apart from borgctl's own option.
    #[arg(long = "when", value_name = "TIME", allow_hyphen_values = true)]
    when: Option<At>,
}

pub(super) fn why(args: &WhyArgs, out: Output) -> Result<(), Failure> {
    let history = load(&args.dir)?;
    let mut stepper = Stepper::new(&history);
    made(stepper.go(args.when.map_or(Moment::Index(history.last()), moment)))?;
    explain(&stepper, &args.task, out)
}

fn explain(stepper: &Stepper<'_>, task: &TaskName, out: Output) -> Result<(), Failure> {
    let (why, real) = made(stepper.why(task))?;
    let reasons: Vec<String> = why.rejections.iter().map(ToString::to_string).collect();
    if out.is_json() {
        let answer = json!({
            "task": task.to_string(),
            "index": stepper.index(),
            "at_ms": stepper.clock().0,
            "summary": why.summary,
            "feasible": why.feasible,
            "rejections": reasons,
            "as_the_real_scheduler": real,
        });
        return out.json(&answer, false);
    }
    out.line(&format!("{task}: {}", why.summary))?;
    for reason in reasons {
        out.line(&format!("  {reason}"))?;
    }
    if !real {
        out.line("(by the state alone: what the scheduler knew beside it was not recorded here)")?;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(in crate::commands) struct StepArgs {
    /// The directory that `borgctl backup history` wrote
    dir: PathBuf,
    /// Commands, separated by semicolons, instead of those of standard input
    #[arg(short, long, value_name = "COMMANDS")]
    commands: Option<String>,
}

const HELP: &str = "\
step [N]              N entries further, or one
back [N]              N entries back, or one
until EVENT|TIME      to the next such event, as in until evicted=ann/web, or to a time
break EVENT           run stops there
breaks                what it stops at
run                   until a breakpoint, or the end
go INDEX|TIME         to a moment
events                what happened with this entry
state                 how many machines, jobs and tasks are how
why TASK              why a task is where it is
diff [FROM [TO]]      what is different, by default from the entry before to here
quit";

/// Goes through a history by commands.
pub(super) fn stepping(args: &StepArgs, out: Output) -> Result<(), Failure> {
    let history = load(&args.dir)?;
    let mut session =
        Session { history: &history, stepper: Stepper::new(&history), breaks: Vec::new(), out };
    if let Some(commands) = &args.commands {
        for command in commands.split(';') {
            if !session.obey(command)? {
                return Ok(());
            }
        }
        return Ok(());
    }
    let person = stdin().is_terminal();
    if person {
        session.where_it_stands()?;
        out.line("help tells all commands")?;
    }
    let mut lines = stdin().lock().lines();
    loop {
        if person {
            write!(std::io::stderr(), "{}> ", session.stepper.index())?;
        }
        let Some(line) = lines.next() else { return Ok(()) };
        match session.obey(&line?) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // A person says it again; a script must not go on.
            Err(failure) if person => out.line(&format!("error: {failure}"))?,
            Err(failure) => return Err(failure),
        }
    }
}

struct Session<'a> {
    history: &'a History,
    stepper: Stepper<'a>,
    breaks: Vec<Breakpoint>,
    out: Output,
}

impl Session<'_> {
    /// Does what a line says; `false` when that is to leave.
    fn obey(&mut self, line: &str) -> Result<bool, Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["quit" | "exit"] => return Ok(false),
            ["help"] => self.out.line(HELP)?,
            ["step"] => self.step(1)?,
            ["step", many] => self.step(number(many)?)?,
            ["back"] => self.back(1)?,
            ["back", many] => self.back(number(many)?)?,
            ["go", at] => self.go(when(at)?)?,
            ["until", what] => match what.parse::<At>() {
                Ok(at) => self.go(at)?,
                Err(_) => {
                    let breakpoint = made(Breakpoint::parse(what))?;
                    self.until(&[breakpoint])?;
                }
            },
            ["break", what] => self.breaks.push(made(Breakpoint::parse(what))?),
            ["breaks"] => {
                for one in &self.breaks {
                    self.out.line(&one.to_string())?;
                }
            }
            ["run"] => self.until(&self.breaks.clone())?,
            ["events"] => self.events(false)?,
            ["state"] => self.state()?,
            ["why", task] => {
                let task = task.parse().map_err(|error| refused(format!("{task}: {error}")))?;
                explain(&self.stepper, &task, self.out)?;
            }
            ["diff"] => {
                let before = self.stepper.index().saturating_sub(1).max(self.history.first());
                let before = Moment::Index(before);
                self.diff(before, Moment::Index(self.stepper.index()))?;
            }
            ["diff", from] => {
                self.diff(moment(when(from)?), Moment::Index(self.stepper.index()))?;
            }
            ["diff", from, to] => self.diff(moment(when(from)?), moment(when(to)?))?,
            _ => return Err(refused(format!("{line:?}: no such command; help tells them all"))),
        }
        Ok(true)
    }

    fn step(&mut self, many: u64) -> Result<(), Failure> {
        for _ in 0..many {
            if !made(self.stepper.step())? {
                return self.end(&BTreeSet::new());
            }
        }
        self.events(true)
    }

    fn back(&mut self, many: u64) -> Result<(), Failure> {
        let index = self.stepper.index().saturating_sub(many).max(self.history.first());
        made(self.stepper.go(Moment::Index(index)))?;
        self.where_it_stands()
    }

    fn go(&mut self, at: At) -> Result<(), Failure> {
        made(self.stepper.go(moment(at)))?;
        self.where_it_stands()
    }

    fn until(&mut self, breakpoints: &[Breakpoint]) -> Result<(), Failure> {
        match made(self.stepper.until(breakpoints))? {
            None => self.events(true),
            Some(kinds) => self.end(&kinds),
        }
    }

    fn diff(&self, from: Moment, to: Moment) -> Result<(), Failure> {
        let state = |at| made(self.history.state_at(at));
        differences(&between(&state(from)?, &state(to)?), self.out)
    }

    /// It stands at the end, and what was looked for did not come; this did.
    fn end(&self, kinds: &BTreeSet<String>) -> Result<(), Failure> {
        let index = self.stepper.index();
        if self.out.is_json() {
            return self.out.json(&json!({ "index": index, "end": true, "happened": kinds }), true);
        }
        self.out.line(&format!("the history ends with entry {index}"))?;
        if kinds.is_empty() {
            return Ok(());
        }
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        self.out.line(&format!("nothing of that came; what did: {}", kinds.join(", ")))
    }

    fn where_it_stands(&self) -> Result<(), Failure> {
        let (index, at_ms) = (self.stepper.index(), self.stepper.clock().0);
        if self.out.is_json() {
            return self.out.json(&json!({ "index": index, "at_ms": at_ms }), true);
        }
        let (first, last) = (self.history.first(), self.history.last());
        self.out.line(&format!("entry {index} of {first} to {last}, {}", history::time(at_ms)))
    }

    /// What happened with this entry; `stands`: and where it stands.
    fn events(&self, stands: bool) -> Result<(), Failure> {
        if stands {
            self.where_it_stands()?;
        }
        for told in self.stepper.happened() {
            if self.out.is_json() {
                self.out.json(told, true)?;
                continue;
            }
            let Told { kind, subject, detail, .. } = told;
            self.out.line(format!("  {kind} {subject} {detail}").trim_end())?;
        }
        Ok(())
    }

    fn state(&self) -> Result<(), Failure> {
        let state = self.stepper.state();
        let placed: usize = state.machines().map(|machine| machine.tasks.len()).sum();
        let (machines, jobs) =
            (state.machines_len(), state.jobs().filter(|j| j.is_alive()).count());
        let pending = state.pending_len();
        if self.out.is_json() {
            let told = json!({
                "index": self.stepper.index(), "at_ms": self.stepper.clock().0,
                "machines": machines, "jobs_alive": jobs, "placed": placed, "pending": pending,
            });
            return self.out.json(&told, true);
        }
        self.where_it_stands()?;
        self.out.line(&format!(
            "  {machines} machines, {jobs} jobs alive, {placed} tasks placed, {pending} pending"
        ))
    }
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| refused(format!("{text:?}: is no number of entries")))
}

fn when(text: &str) -> Result<At, Failure> {
    text.parse().map_err(|error| refused(format!("{text:?}: {error}")))
}
