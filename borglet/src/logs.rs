//! The output of a task on disk: bounded, and readable from any offset while it grows.
//!
//! A stream is a row of files named by the offset of their first byte since the task began
//! (`stdout.0000000000000000`, `stdout.0000000008388608`, ...). Rotation begins a new file and
//! removes the oldest; nothing is ever renamed, so a reader cannot confuse old with new. The shim
//! writes and the borglet reads; they share nothing but the directory.
//!
//! Invariant: a stream holds at most `files * file_bytes` bytes on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::LogLimits;

/// Which of a task's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Offset of the first byte of `data`: larger than asked when the bytes asked for are gone.
    pub offset: u64,
    /// The bytes; empty when there are none yet from there on.
    pub data: Vec<u8>,
    /// Where to go on reading.
    pub next_offset: u64,
    /// End of the stream when it was read.
    pub end: u64,
}

/// Appends one stream of one task. Used by the shim alone.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    stream: Stream,
    limits: LogLimits,
    /// None until the first byte: most streams never get one, and files cost more than most starts.
    file: Option<File>,
    /// Offset of the first byte of `file`.
    begin: u64,
    /// Bytes in `file`.
    length: u64,
}

impl LogWriter {
    /// Begins a stream in `dir`.
    pub(crate) fn new(dir: &Path, stream: Stream, limits: LogLimits) -> Self {
        Self { dir: dir.to_owned(), stream, limits, file: None, begin: 0, length: 0 }
    }

    /// Appends `data`, beginning new files as they fill.
    pub(crate) fn append(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let room = self.limits.file_bytes.saturating_sub(self.length);
            if room == 0 {
                self.rotate()?;
                continue;
            }
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(open_new(&self.dir, self.stream, self.begin)?),
            };
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(take);
            file.write_all(now)?;
            self.length += u64::try_from(take).expect("a length fits in 64 bits");
            data = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let begin = self.begin + self.length;
        self.file = Some(open_new(&self.dir, self.stream, begin)?);
        (self.begin, self.length) = (begin, 0);
        let files = files_of(&self.dir, self.stream)?;
        let keep = usize::try_from(self.limits.files).unwrap_or(usize::MAX);
        for (_, path) in files.iter().take(files.len().saturating_sub(keep)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Reads at most `max` bytes of a stream from `offset` on. A stream that never began is empty.
pub fn read(dir: &Path, stream: Stream, offset: u64, max: usize) -> io::Result<LogChunk> {
    // A rotation may remove the file between the listing and the opening: then look again.
    for _ in 0..8 {
        match read_once(dir, stream, offset, max) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "the log rotates faster than it can be read"))
}

fn read_once(dir: &Path, stream: Stream, offset: u64, max: usize) -> io::Result<LogChunk> {
    let files = match files_of(dir, stream) {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        files => files?,
    };
    let Some((last, last_path)) = files.last() else {
        return Ok(LogChunk { offset: 0, data: Vec::new(), next_offset: 0, end: 0 });
    };
    let end = last + fs::metadata(last_path)?.len();
    let oldest = files.first().map_or(0, |(begin, _)| *begin);
    let offset = offset.clamp(oldest, end);
    let mut data = Vec::new();
    let from = files.partition_point(|(begin, _)| *begin <= offset).saturating_sub(1);
    for (begin, path) in files.iter().skip(from) {
        let done = u64::try_from(data.len()).expect("a length fits in 64 bits");
        let left = u64::try_from(max).unwrap_or(u64::MAX).saturating_sub(done);
        if left == 0 {
            break;
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start((offset + done).saturating_sub(*begin)))?;
        file.take(left).read_to_end(&mut data)?;
    }
    let next_offset = offset + u64::try_from(data.len()).expect("a length fits in 64 bits");
    Ok(LogChunk { offset, data, next_offset, end: end.max(next_offset) })
}

fn open_new(dir: &Path, stream: Stream, begin: u64) -> io::Result<File> {
    let path = dir.join(format!("{}.{begin:016}", stream.name()));
    OpenOptions::new().create_new(true).append(true).open(path)
}

/// The files of a stream with the offsets of their first bytes, oldest first.
fn files_of(dir: &Path, stream: Stream) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((kind, begin)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        if let (true, Ok(begin)) = (kind == stream.name(), begin.parse()) {
            files.push((begin, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LogLimits = LogLimits { file_bytes: 10, files: 3 };

    #[test]
    fn a_stream_is_bounded_and_keeps_its_newest_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), Stream::Stdout, SMALL);
        for n in 0..20 {
            log.append(format!("line{n:02}\n").as_bytes()).unwrap();
        }
        let files = files_of(dir.path(), Stream::Stdout).unwrap();
        let total: u64 = files.iter().map(|(_, path)| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(files.len(), 3);
        assert!(total <= 30, "{total} bytes kept");
        let chunk = read(dir.path(), Stream::Stdout, 0, 1000).unwrap();
        assert_eq!(chunk.end, 140);
        assert_eq!(chunk.offset + chunk.data.len() as u64, 140);
        assert!(chunk.data.ends_with(b"line19\n"));
    }

    #[test]
    fn a_reader_that_follows_gets_each_byte_once_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), Stream::Stderr, SMALL);
        let (mut offset, mut seen) = (0, Vec::new());
        for n in 0..9 {
            log.append(format!("<{n}>").as_bytes()).unwrap();
            let chunk = read(dir.path(), Stream::Stderr, offset, 5).unwrap();
            assert_eq!(chunk.offset, offset);
            seen.extend(chunk.data);
            offset = chunk.next_offset;
        }
        assert_eq!(String::from_utf8(seen).unwrap(), "<0><1><2><3><4><5><6><7><8>");
        assert!(read(dir.path(), Stream::Stderr, offset, 5).unwrap().data.is_empty());
    }

    #[test]
    fn streams_do_not_mix_and_a_missing_directory_is_an_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        LogWriter::new(dir.path(), Stream::Stdout, SMALL).append(b"x").unwrap();
        assert_eq!(read(dir.path(), Stream::Stderr, 0, 9).unwrap().end, 0);
        assert_eq!(read(&dir.path().join("gone"), Stream::Stdout, 5, 9).unwrap().next_offset, 0);
    }
}
