//! `logs`: the output of a task, or of all tasks of a job.

use super::inspect::get_job;
use super::names;
use super::select::SelectArgs;
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::{Output, note};
use borg_proto::wire::pb;
use borg_proto::{JobKey, TaskName};
use clap::Args;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tonic::Streaming;

/// Tasks of a job that are read at once: half of what a machine allows, should all be on one.
const TASKS: usize = 32;
/// Most tasks of a job that are read at all.
const MOST_TASKS: usize = 1_000;
/// Pieces of output that wait to be printed.
const PIECES: usize = 16;
/// Longest line that is held back for its end when there are several sources: a longer one is printed in pieces.
const LINE_BYTES: usize = 16 << 10;
/// Colours of prefixes on a terminal (ECMA-48), none of them that of an error.
const COLOURS: [u8; 6] = [36, 32, 33, 34, 35, 96];

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// JOB/INDEX or USER/JOB/INDEX; JOB or USER/JOB for all of its tasks
    task: String,
    #[command(flatten)]
    which: SelectArgs,
    /// Go on as more is written, until the task ends
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long, conflicts_with = "both")]
    stderr: bool,
    /// Standard output and standard error, each to where it belongs
    #[arg(long)]
    both: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Only what was written since: a time like 2026-11-25T20:00:00Z, or so long ago, like 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Of this placement of the task instead of the newest; 1 is the first
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    incarnation: u32,
    /// Of the placement before the newest
    #[arg(long, conflicts_with = "incarnation")]
    previous: bool,
    /// Whether lines of several tasks have their task before them in colour
    #[arg(long, value_enum, default_value_t)]
    color: Colour,
}

/// When prefixes are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Colour {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A moment, or a while ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ms(u64),
    Ago(u64),
}

fn since(text: &str) -> Result<Since, String> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if let Ok(ago) = humantime::parse_duration(text.trim_start_matches('-')) {
        return Ok(Since::Ago(ms(ago)));
    }
    let time = humantime::parse_rfc3339_weak(text).ok();
    let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let wrong = || "neither a time like 2026-11-25T20:00:00Z nor a while ago like 10m".to_owned();
    time.map(|time| Since::Ms(ms(time))).ok_or_else(wrong)
}

/// Prints output until its end, or that of the tasks when they are followed.
pub(super) async fn logs(client: &mut Client, args: LogsArgs, out: Output) -> Result<(), Failure> {
    if is_job(&args.task) {
        let job = names::job(&args.task, client.user())?;
        // What reads at once shares this thread.
        return LocalSet::new().run_until(whole_job(client, &job, &args)).await;
    }
    args.which.must_be_empty(&args.task)?;
    let task = names::task(&args.task, client.user())?;
    let mut chunks = open(client, &task, &args).await?;
    let failed = |status| Failure::from(status).context(&format!("logs of {task}"));
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        // Of both, each goes where it belongs.
        if args.both && chunk.stream() == pb::LogStream::Stderr {
            io::stderr().lock().write_all(&chunk.data)?;
        } else {
            out.bytes(&chunk.data)?;
        }
    }
    Ok(())
}

/// Whether a name is that of a whole job: what comes last is no number, or nothing comes before it.
fn is_job(name: &str) -> bool {
    match name.rsplit_once('/') {
        None => true,
        Some((before, last)) => {
            !before.contains('/') && !last.bytes().all(|byte| byte.is_ascii_digit())
        }
    }
}

async fn open(
    client: &mut Client,
    task: &TaskName,
    args: &LogsArgs,
) -> Result<Streaming<pb::LogChunk>, Failure> {
    let stream = match (args.both, args.stderr) {
        (true, _) => pb::LogStream::Both,
        (false, true) => pb::LogStream::Stderr,
        (false, false) => pb::LogStream::Stdout,
    };
    if args.tail == Some(0) && !args.follow {
        return Err(Failure::new(Code::Usage, "--tail 0 prints nothing, but with --follow"));
    }
    let message = pb::ReadLogsRequest {
        task: task.to_string(),
        stream: stream.into(),
        follow: args.follow,
        incarnation: args.incarnation,
        // The end, when no line before it is wanted.
        tail_bytes: 0,
        previous: args.previous,
        since_ms: match args.since {
            None if args.tail == Some(0) => u64::MAX,
            None => 0,
            Some(Since::Ms(ms)) => ms.max(1),
            Some(Since::Ago(ago)) => crate::clock::now().0.saturating_sub(ago).max(1),
        },
        tail_lines: args.tail.unwrap_or(0),
    };
    let what = format!("logs of {task}");
    client.open(&what, message, async |mut master, request| master.read_logs(request).await).await
}

/// A piece of one task's output.
type Piece = (u32, pb::LogStream, Vec<u8>);

/// Prints the output of all tasks of a job line by line, each with its task before it.
async fn whole_job(client: &mut Client, job: &JobKey, args: &LogsArgs) -> Result<(), Failure> {
    if args.incarnation > 0 {
        return Err(Failure::new(
            Code::Usage,
            "--incarnation is of one task: name it, as in web/0",
        ));
    }
    let what = format!("logs of {job}");
    let chosen = args.which.chosen(client, job).await?;
    let answer = get_job(client, &what, job).await?;
    // Of what was never placed there is nothing to read.
    let placed = answer.tasks.iter().filter(|task| task.incarnation > u32::from(args.previous));
    let is_meant = |index: &u32| chosen.as_ref().is_none_or(|tasks| tasks.contains(*index));
    let mut tasks: Vec<u32> = placed.map(|task| task.index).filter(is_meant).collect();
    if tasks.is_empty() {
        let of = if chosen.is_some() { "these" } else { "its" };
        return Err(Failure::new(Code::Refused, format!("{what}: none of {of} tasks ever ran")));
    }
    // Followed are as many as can be at once; otherwise one comes after the other.
    let most = if args.follow { TASKS } else { MOST_TASKS };
    if tasks.len() > most {
        note(&format!("of {} tasks the first {most}; name one for its output", tasks.len()));
        tasks.truncate(most);
    }
    let (pieces, mut printed) = mpsc::channel(PIECES);
    let room = Arc::new(Semaphore::new(TASKS));
    let mut lines = Lines::new(job, &tasks, args);
    for index in tasks {
        let task = TaskName { job: job.clone(), index };
        let reading = Reading { client: client.clone(), task, pieces: pieces.clone() };
        let (room, args) = (Arc::clone(&room), args.clone_for_task());
        spawn_local(async move {
            let _permit = room.acquire_owned().await;
            reading.read(&args).await;
        });
    }
    drop(pieces);
    let (mut failures, mut read) = (Vec::new(), 0);
    while let Some(piece) = printed.recv().await {
        match piece {
            Ok(piece) => lines.print(piece)?,
            Err(None) => read += 1,
            Err(Some(failure)) => failures.push(failure),
        }
    }
    lines.finish()?;
    for failure in &failures {
        note(&format!("error: {failure}"));
    }
    // Some output is what was asked for; none at all is a failure.
    match failures.into_iter().next() {
        Some(failure) if read == 0 => Err(failure),
        Some(_) | None => Ok(()),
    }
}

impl LogsArgs {
    fn clone_for_task(&self) -> Self {
        Self { task: String::new(), which: SelectArgs::default(), ..*self }
    }
}

/// One task's output being read. At its end: nothing, or why it broke off.
struct Reading {
    client: Client,
    task: TaskName,
    pieces: mpsc::Sender<Result<Piece, Option<Failure>>>,
}

impl Reading {
    async fn read(mut self, args: &LogsArgs) {
        let end = self.read_all(args).await;
        // Nobody prints any more.
        drop(self.pieces.send(Err(end.err())).await);
    }

    async fn read_all(&mut self, args: &LogsArgs) -> Result<(), Failure> {
        let mut chunks = open(&mut self.client, &self.task, args).await?;
        let failed = |status| Failure::from(status).context(&format!("logs of {}", self.task));
        while let Some(chunk) = chunks.message().await.map_err(failed)? {
            let piece = (self.task.index, chunk.stream(), chunk.data);
            if self.pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Puts the task before each line. Of each source at most one line waits for its end.
struct Lines {
    prefixes: BTreeMap<u32, String>,
    waiting: BTreeMap<(u32, bool), Vec<u8>>,
}

impl Lines {
    fn new(job: &JobKey, tasks: &[u32], args: &LogsArgs) -> Self {
        let coloured = match args.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => io::stdout().is_terminal(),
        };
        let width = tasks.iter().max().map_or(1, |most| most.to_string().len());
        let prefix = |index: &u32| {
            let plain = format!("{}/{index:<width$} ", job.name);
            let colour = COLOURS[*index as usize % COLOURS.len()];
            let text = if coloured { format!("\x1b[{colour}m{plain}\x1b[0m") } else { plain };
            (*index, text)
        };
        Self { prefixes: tasks.iter().map(prefix).collect(), waiting: BTreeMap::new() }
    }

    fn print(&mut self, (index, stream, data): Piece) -> io::Result<()> {
        let is_error = stream == pb::LogStream::Stderr;
        let prefix = self.prefixes.get(&index).map(String::as_str).unwrap_or_default();
        let waiting = self.waiting.entry((index, is_error)).or_default();
        let mut text = Vec::with_capacity(data.len() + prefix.len());
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            waiting.extend_from_slice(line);
            if line.ends_with(b"\n") || waiting.len() >= LINE_BYTES {
                text.extend_from_slice(prefix.as_bytes());
                text.append(waiting);
                if !line.ends_with(b"\n") {
                    text.push(b'\n');
                }
            }
        }
        write(is_error, &text)
    }

    /// Prints lines that never ended.
    fn finish(self) -> io::Result<()> {
        for ((index, is_error), mut line) in self.waiting {
            if line.is_empty() {
                continue;
            }
            line.push(b'\n');
            let prefix = self.prefixes.get(&index).map(String::as_str).unwrap_or_default();
            write(is_error, &[prefix.as_bytes(), &line].concat())?;
        }
        Ok(())
    }
}

fn write(is_error: bool, text: &[u8]) -> io::Result<()> {
    if is_error {
        return io::stderr().lock().write_all(text);
    }
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_jobs_or_a_tasks() {
        assert!(is_job("web") && is_job("ann/web") && is_job("7"));
        assert!(!is_job("web/0") && !is_job("ann/web/0") && !is_job("ann/web/x"));
    }

    #[test]
    fn a_time_or_a_while_ago() {
        assert_eq!(since("10m"), Ok(Since::Ago(600_000)));
        assert_eq!(since("-1h 5s"), Ok(Since::Ago(3_605_000)));
        assert_eq!(since("1970-01-01T00:01:00Z"), Ok(Since::Ms(60_000)));
        assert!(since("yesterday").unwrap_err().starts_with("neither a time"));
    }
}
