//! `logs`: a task's output.

use super::names;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Output;
use borg_proto::wire::pb;
use clap::Args;
use std::time::Duration;
use tonic::Streaming;

/// Bytes asked for per wanted line: our guess of a long line.
const BYTES_PER_LINE: u64 = 1024;
/// Bytes asked for at least when some lines are wanted.
const MIN_TAIL_BYTES: u64 = 64 << 10;
/// A followed log that is silent for so long has given all that it had.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// JOB/INDEX or USER/JOB/INDEX
    task: String,
    /// Go on as more is written, until the task ends
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long)]
    stderr: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Of this placement of the task instead of the newest; 1 is the first
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    incarnation: u32,
}

pub(super) async fn logs(client: &mut Client, args: LogsArgs, out: Output) -> Result<(), Failure> {
    let task = names::task(&args.task, client.user())?.to_string();
    let stream = if args.stderr { pb::LogStream::Stderr } else { pb::LogStream::Stdout };
    let tail_bytes =
        args.tail.map_or(0, |lines| (u64::from(lines) * BYTES_PER_LINE).max(MIN_TAIL_BYTES));
    let message = pb::ReadLogsRequest {
        task: task.clone(),
        stream: stream.into(),
        follow: args.follow,
        incarnation: args.incarnation,
        tail_bytes,
    };
    let what = format!("logs of {task}");
    let mut chunks = client
        .open(&what, message, async |mut master, request| master.read_logs(request).await)
        .await?;
    let failed = |status| Failure::from(status).context(&what);
    if let Some(lines) = args.tail {
        let (backlog, more) = backlog(&mut chunks, args.follow).await.map_err(failed)?;
        out.bytes(last_lines(&backlog, lines as usize))?;
        if !more {
            return Ok(());
        }
    }
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        out.bytes(&chunk.data)?;
    }
    Ok(())
}

/// What is there already, and whether more may come.
async fn backlog(
    chunks: &mut Streaming<pb::LogChunk>,
    follow: bool,
) -> Result<(Vec<u8>, bool), tonic::Status> {
    let mut bytes = Vec::new();
    loop {
        let next = if follow {
            match tokio::time::timeout(SILENCE, chunks.message()).await {
                Ok(next) => next?,
                Err(_) => return Ok((bytes, true)),
            }
        } else {
            chunks.message().await?
        };
        match next {
            Some(chunk) => bytes.extend_from_slice(&chunk.data),
            None => return Ok((bytes, false)),
        }
    }
}

/// The last lines of a text; a last line without an end counts.
fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = breaks.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0);
    &bytes[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}
