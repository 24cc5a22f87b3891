//! `cp`: files into a task's container and out of it.

use super::names;
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::note;
use crate::session::{Ended, Said, Session, feed};
use borg_archive::{ArchiveError, Bounds, Summary, pack, unpack};
use borg_proto::UserName;
use borg_proto::names::shorten;
use borg_proto::text::{MAX_LAST_LINES_BYTES, last_lines};
use borg_proto::wire::pb;
use clap::Args;
use pb::session_start::{CopyIn, CopyOut, What};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Pieces of an archive on their way.
const PIECES: usize = 4;
/// Bytes of one piece.
const PIECE: usize = 32 << 10;

#[derive(Debug, Args)]
pub(super) struct CpArgs {
    /// A path here, or TASK:PATH in a task's container
    from: String,
    /// A path here, or TASK:PATH in a task's container
    to: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    There { task: String, path: String },
}

impl End {
    /// `TASK:PATH` is there; everything else is here, so `./a:b` is a file.
    fn parse(text: &str, own: &UserName) -> Self {
        let there =
            text.split_once(':').filter(|(task, path)| task.contains('/') && !path.is_empty());
        match there.and_then(|(task, path)| Some((names::task(task, own).ok()?, path))) {
            Some((task, path)) => Self::There { task: task.to_string(), path: path.to_owned() },
            None => Self::Here(PathBuf::from(text)),
        }
    }
}

/// Copies a file or directory.
pub(super) async fn cp(client: &mut Client, args: CpArgs) -> Result<(), Failure> {
    let own = client.user().clone();
    match (End::parse(&args.from, &own), End::parse(&args.to, &own)) {
        (End::Here(from), End::There { task, path }) => copy_in(client, from, task, path).await,
        (End::There { task, path }, End::Here(to)) => copy_out(client, task, path, to).await,
        (End::Here(_), End::Here(_)) => {
            let pair = shorten(&format!("{} {}", args.from, args.to));
            Err(Failure::new(
                Code::Usage,
                format!("{pair}: neither is TASK:PATH, as in web/0:/tmp/x"),
            ))
        }
        (End::There { .. }, End::There { .. }) => {
            Err(Failure::new(Code::Usage, "both are in tasks: copy to a path here first"))
        }
    }
}

async fn copy_in(
    client: &mut Client,
    from: PathBuf,
    task: String,
    path: String,
) -> Result<(), Failure> {
    if !from.exists() {
        return Err(Failure::new(
            Code::NotFound,
            format!("{}: there is no such file", from.display()),
        ));
    }
    let what = format!("copy to {task}:{path}");
    let mut session = client.session(what.clone(), task, What::CopyIn(CopyIn { path })).await?;
    let (out, pieces) = mpsc::channel(PIECES);
    let packing = aside(move || {
        pack(&from, BufWriter::with_capacity(PIECE, Pieces(out)), &Bounds::default())
    })?;
    let feeding = tokio::spawn(feed(pieces, session.sender()));
    let ended = finish(&mut session, None).await;
    feeding.abort();
    let packed = joined(packing).await;
    let (ended, told) = ended?;
    match (ended, packed) {
        (Some(Ended::Code(0)), Ok(summary)) => left_out(&summary),
        // That the other end took no more is told by the other end.
        (ended, Ok(_) | Err(ArchiveError::Stream(_))) => {
            return Err(there(ended, &told).context(&what));
        }
        (_, Err(error)) => return Err(local(&error).context(&what)),
    }
    print_notes(&told);
    Ok(())
}

async fn copy_out(
    client: &mut Client,
    task: String,
    path: String,
    to: PathBuf,
) -> Result<(), Failure> {
    let what = format!("copy from {task}:{path}");
    let mut session = client.session(what.clone(), task, What::CopyOut(CopyOut { path })).await?;
    let (pieces, from) = mpsc::channel(PIECES);
    let unpacking = aside(move || unpack_to(from, &to))?;
    let ended = finish(&mut session, Some(pieces)).await;
    let unpacked = joined(unpacking).await;
    match (ended?, unpacked) {
        ((Some(Ended::Code(0)), told), Ok(summary)) => {
            left_out(&summary);
            print_notes(&told);
            Ok(())
        }
        ((Some(Ended::Code(0)) | None, _), Err(error)) => Err(local(&error).context(&what)),
        ((ended, told), _) => Err(there(ended, &told).context(&what)),
    }
}

fn unpack_to(from: mpsc::Receiver<Vec<u8>>, to: &Path) -> Result<Summary, ArchiveError> {
    let mut stream = Stream { pieces: from, piece: Vec::new(), at: 0 };
    let summary = unpack(&mut stream, to, &Bounds::default())?;
    // What comes after the last entry is nobody's, but whoever sends it waits for it to be taken.
    io::copy(&mut stream, &mut io::sink()).map_err(ArchiveError::Stream)?;
    Ok(summary)
}

/// Takes what the session says to its end; gives how it ended, if we did not give up first, and what it
/// complained of.
async fn finish(
    session: &mut Session,
    pieces: Option<mpsc::Sender<Vec<u8>>>,
) -> Result<(Option<Ended>, String), Failure> {
    let mut told = Vec::new();
    loop {
        match session.next().await? {
            Said::Stdout(data) => {
                if let Some(pieces) = &pieces
                    && pieces.send(data).await.is_err()
                {
                    // Unpacking failed, and says why.
                    return Ok((None, String::new()));
                }
            }
            Said::StdoutEnd => {}
            Said::Stderr(data) => {
                told.extend(data);
                // Only the end of it is told.
                let keep = told.len().saturating_sub(4 * MAX_LAST_LINES_BYTES);
                told.drain(..keep);
            }
            Said::Ended(ended) => {
                return Ok((Some(ended), last_lines(&told, 4 * MAX_LAST_LINES_BYTES)));
            }
        }
    }
}

fn there(ended: Option<Ended>, told: &str) -> Failure {
    let how = match (ended, told) {
        (Some(Ended::Signal(_)), "") => "the task ended, or left no room for the copy",
        (Some(Ended::Code(_)) | None, "") => "it failed",
        (_, told) => told,
    };
    Failure::new(Code::Refused, how)
}

fn local(error: &ArchiveError) -> Failure {
    let code = match error {
        ArchiveError::Target { .. } => Code::Internal,
        ArchiveError::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Code::NotFound
        }
        ArchiveError::Source { .. }
        | ArchiveError::Stream(_)
        | ArchiveError::Headers(_)
        | ArchiveError::Entry { .. }
        | ArchiveError::TooMuch { .. } => Code::Refused,
    };
    Failure::new(code, error.to_string())
}

fn left_out(summary: &Summary) {
    for name in &summary.left_out {
        note(&format!("left out: {}", last_lines(name.as_bytes(), MAX_LAST_LINES_BYTES)));
    }
}

fn print_notes(told: &str) {
    if !told.is_empty() {
        note(told);
    }
}

/// Runs what waits for disks on a thread of its own.
fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, Failure> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name("archive".into()).spawn(move || {
        // Nobody waits for it after an error at the other end.
        drop(done.send(work()));
    })?;
    Ok(outcome)
}

/// What came of it. It ends soon once the other end of its channel is gone.
async fn joined<T>(work: oneshot::Receiver<Result<T, ArchiveError>>) -> Result<T, ArchiveError> {
    let broken = || ArchiveError::Stream(io::Error::other("the copying thread panicked"));
    work.await.unwrap_or_else(|_| Err(broken()))
}

/// An archive being written, as pieces.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(data.to_vec());
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive being read, from pieces.
struct Stream {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.piece.len() - self.at);
        out[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_in_a_task_is_a_path_here() {
        let own = "ann".parse().unwrap();
        let there = |task: &str, path: &str| End::There { task: task.into(), path: path.into() };
        assert_eq!(End::parse("web/0:/tmp/x", &own), there("ann/web/0", "/tmp/x"));
        assert_eq!(End::parse("bob/web/12:rel:ative", &own), there("bob/web/12", "rel:ative"));
        for here in ["web", "./a:b", "/a/0:b", "web/0:", "web/x:/a", "c:\\x"] {
            assert_eq!(End::parse(here, &own), End::Here(here.into()));
        }
    }
}
