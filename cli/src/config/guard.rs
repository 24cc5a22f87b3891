//! Runs the evaluation in a child process with hard limits, since a single step of Starlark may
//! ask for any amount of memory or time (`"x" * 2000000000`, deeply nested brackets).
//!
//! The child is this executable with the hidden command `__evaluate`. It sets its own limits
//! before it reads a byte, so what it dies of is its own; the parent only waits, and says what
//! happened.

use super::{ConfigError, Evaluated, Options, Source, language};
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Name of the hidden command.
pub const COMMAND: &str = "__evaluate";
/// Memory that the child may have, in bytes: three times the language's own limit, since a value
/// that grows is there twice.
const MAX_DATA_BYTES: u64 = 192 << 20;
/// Processor time that the child may have, in seconds.
const MAX_CPU_S: u64 = 5;
/// Time that the parent waits.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Stack of the evaluating thread in bytes.
const STACK_BYTES: usize = 16 << 20;
/// Most that the parent reads of an answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    source: Source,
    options: Options,
}

type Answer = Result<Evaluated, ConfigError>;

/// Evaluates in a child process.
pub(super) async fn evaluate(source: Source, options: &Options) -> Answer {
    let file = source.file.clone();
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        ConfigError::whole(&file, format!("{what}: {error}"))
    };
    let request = serde_json::to_vec(&Request { source, options: options.clone() })
        .map_err(|error| failed("cannot pass on", &error))?;
    let mut child = tokio::process::Command::new(&options.borgctl)
        .arg(COMMAND)
        // Hermetic. And a backtrace, asked for by a variable, would need the memory that is missing
        // when an allocation fails, and hang.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot start the evaluation", &error))?;
    let (Some(mut to), Some(from), Some(complaints)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(ConfigError::whole(&file, "cannot talk to the evaluation"));
    };
    let mut answer = Vec::new();
    let mut said = Vec::new();
    let talk = async {
        let send = async move {
            // A child that dies of its limits stops reading: its end tells more than this error.
            let sent = to.write_all(&request).await;
            drop(to);
            sent.ok();
        };
        let (mut from, mut complaints) = (from.take(MAX_ANSWER_BYTES), complaints.take(16 << 10));
        let (_, answered, complained) =
            tokio::join!(send, from.read_to_end(&mut answer), complaints.read_to_end(&mut said));
        answered?;
        complained?;
        child.wait().await
    };
    let status = match tokio::time::timeout(MAX_WAIT, talk).await {
        Err(_) => return Err(ConfigError::whole(&file, too_long())),
        Ok(ended) => ended.map_err(|error| failed("cannot wait for the evaluation", &error))?,
    };
    if status.success() {
        return serde_json::from_slice::<Answer>(&answer)
            .map_err(|error| failed("cannot read the evaluation", &error))?;
    }
    Err(ConfigError::whole(&file, cause_of_death(status, &String::from_utf8_lossy(&said))))
}

fn too_long() -> String {
    format!("takes more than {MAX_CPU_S} s to evaluate: a loop without an end?")
}

fn cause_of_death(status: std::process::ExitStatus, said: &str) -> String {
    const SIGXCPU: i32 = nix::sys::signal::Signal::SIGXCPU as i32;
    const SIGSEGV: i32 = nix::sys::signal::Signal::SIGSEGV as i32;
    if status.signal() == Some(SIGXCPU) {
        return too_long();
    }
    if said.contains("overflowed its stack") || status.signal() == Some(SIGSEGV) {
        return "is nested too deeply (brackets, expressions or calls)".into();
    }
    if ["memory allocation of", "capacity overflow", "out of memory"]
        .iter()
        .any(|text| said.contains(text))
    {
        return format!("takes more than {} MiB of memory to evaluate", MAX_DATA_BYTES >> 20);
    }
    let last = said.lines().rfind(|line| !line.starts_with("note:") && !line.trim().is_empty());
    format!("cannot be evaluated ({status}): {}", last.unwrap_or("no reason given"))
}

/// The child: reads a request from standard input, writes the answer to standard output.
///
/// # Errors
/// When it cannot limit itself or its parent cannot be talked to.
pub fn child() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_DATA, MAX_DATA_BYTES, MAX_DATA_BYTES)?;
    setrlimit(Resource::RLIMIT_CPU, MAX_CPU_S, MAX_CPU_S + 1)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let mut bytes = Vec::new();
    std::io::stdin().take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    let Request { source, options } = serde_json::from_slice(&bytes)?;
    let thread = std::thread::Builder::new().name("evaluate".into()).stack_size(STACK_BYTES);
    let running = thread.spawn(move || language::evaluate(&source, &options))?;
    let answer = running.join().map_err(|_| std::io::Error::other("the evaluation panicked"))?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.flush()
}
