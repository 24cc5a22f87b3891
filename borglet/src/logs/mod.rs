//! The output of a task on disk: bounded, and readable from any offset while it grows.
//!
//! A stream is a row of files named by the offset of their first byte since the task began
//! (`stdout.0000000000000000`, `stdout.0000000008388608`, ...). Rotation begins a new file and
//! removes the oldest; nothing is ever renamed, so a reader cannot confuse old with new. The shim
//! writes and the borglet reads; they share nothing but the directory. Beside each file stands when what
//! of it was written (`times`). A stream that comes faster than is allowed (`flow`) loses bytes, and a
//! line in the log says how many.
//!
//! Invariant: a stream holds at most `files * file_bytes` bytes on disk, and an index of half of that; nothing
//! here takes more memory for a long line than for a short one.

mod flow;
mod times;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::flow::{Flow, Passage};
use self::times::{Times, TimesWriter};
use crate::container::LogLimits;

/// Bytes of what was dropped that come after all if nothing does: ours, a stack trace.
const LOST_BYTES: usize = 4 << 10;
/// Bytes looked through at once for the ends of lines.
const LOOK_BYTES: usize = 64 << 10;

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
    /// Of `file`.
    times: Option<TimesWriter>,
    flow: Flow,
    /// Whether the last byte ended a line.
    at_line_start: bool,
    /// The end of what was dropped last.
    lost: Vec<u8>,
}

impl LogWriter {
    /// Begins a stream in `dir`, which is made with the first byte.
    pub(crate) fn new(dir: &Path, stream: Stream, limits: LogLimits) -> Self {
        let flow = Flow::new(limits.bytes_per_s);
        Self {
            dir: dir.to_owned(),
            stream,
            limits,
            file: None,
            begin: 0,
            length: 0,
            times: None,
            flow,
            at_line_start: true,
            lost: Vec::new(),
        }
    }

    /// Appends `data` as written now, or drops it because the stream comes too fast: then false.
    /// `boot_ms` counts the rate, `now_ms` since 1970 is noted.
    pub(crate) fn append(&mut self, data: &[u8], boot_ms: u64, now_ms: u64) -> io::Result<bool> {
        let length = u64::try_from(data.len()).expect("a length fits in 64 bits");
        match self.flow.ask(boot_ms, length) {
            Passage::Dropped => {
                let kept = data.len().saturating_sub(LOST_BYTES);
                self.lost.clear();
                self.lost.extend_from_slice(&data[kept..]);
                return Ok(false);
            }
            Passage::Free { dropped } => self.say_dropped(dropped, now_ms)?,
        }
        self.write(data, now_ms)?;
        Ok(true)
    }

    /// Says what was dropped and not said yet, but for its end, which most often says why it ends. No more will
    /// be appended.
    pub(crate) fn finish(&mut self, now_ms: u64) -> io::Result<()> {
        let dropped = self.flow.take_dropped();
        if dropped == 0 {
            return Ok(());
        }
        let lost = std::mem::take(&mut self.lost);
        let kept = u64::try_from(lost.len()).expect("a length fits in 64 bits");
        self.say_dropped(dropped.saturating_sub(kept), now_ms)?;
        self.write(&lost, now_ms)
    }

    fn say_dropped(&mut self, bytes: u64, now_ms: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let most = self.limits.bytes_per_s;
        let end = if self.at_line_start { "" } else { "\n" };
        let line = format!("{end}[borg: {bytes} bytes dropped, more than {most} a second]\n");
        self.write(line.as_bytes(), now_ms)
    }

    /// Begins new files as they fill.
    fn write(&mut self, mut data: &[u8], now_ms: u64) -> io::Result<()> {
        self.at_line_start = data.last().is_none_or(|byte| *byte == b'\n');
        while !data.is_empty() {
            let room = self.limits.file_bytes.saturating_sub(self.length);
            if room == 0 {
                self.rotate()?;
                continue;
            }
            let (file, times) = match (&mut self.file, &mut self.times) {
                (Some(file), Some(times)) => (file, times),
                (file, times) => {
                    let (new, index) = open_new(&self.dir, self.stream, self.begin)?;
                    (file.insert(new), times.insert(index))
                }
            };
            if times.needs_entry(now_ms) && times.bytes() >= self.limits.file_bytes / 2 {
                self.rotate()?;
                continue;
            }
            times.note(now_ms, self.begin + self.length)?;
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
        let (file, times) = open_new(&self.dir, self.stream, begin)?;
        (self.file, self.times) = (Some(file), Some(times));
        (self.begin, self.length) = (begin, 0);
        let files = files_of(&self.dir, self.stream)?;
        let keep = usize::try_from(self.limits.files).unwrap_or(usize::MAX);
        for (_, path) in files.iter().take(files.len().saturating_sub(keep)) {
            fs::remove_file(path)?;
            match fs::remove_file(times::path_of(path)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
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
    let files = existing_files(dir, stream)?;
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

/// Where what was written at `ms` or later begins, or up to a second before: the end when nothing was.
pub fn since(dir: &Path, stream: Stream, ms: u64) -> io::Result<u64> {
    let files = existing_files(dir, stream)?;
    for (begin, path) in &files {
        match Times::open(path)? {
            // Of an older borglet: rather too much than too little.
            None => return Ok(*begin),
            Some(times) => {
                if let Some(offset) = times.since(ms)? {
                    return Ok(offset);
                }
            }
        }
    }
    end(&files)
}

/// Where the last `lines` lines begin, and how many there are from there on. A last line without an end counts.
pub fn last_lines(dir: &Path, stream: Stream, lines: u64) -> io::Result<(u64, u64)> {
    let end = read(dir, stream, u64::MAX, 0)?.end;
    let look = u64::try_from(LOOK_BYTES).expect("a length fits in 64 bits");
    let (mut from, mut found) = (end, 0);
    if lines == 0 {
        return Ok((end, 0));
    }
    while from > 0 {
        let begin = from.saturating_sub(look);
        let want = usize::try_from(from - begin).expect("no more than is looked at");
        let chunk = read(dir, stream, begin, want)?;
        let kept =
            chunk.data.len().min(usize::try_from(from.saturating_sub(chunk.offset)).unwrap_or(0));
        for (at, byte) in chunk.data[..kept].iter().enumerate().rev() {
            let place = chunk.offset + u64::try_from(at).expect("a length fits in 64 bits");
            // The end of the last line begins none.
            if *byte == b'\n' && place + 1 < end {
                found += 1;
                if found == lines {
                    return Ok((place + 1, found));
                }
            }
        }
        if chunk.offset > begin || kept == 0 {
            // What was before is gone.
            return Ok((chunk.offset, found + 1));
        }
        from = begin;
    }
    Ok((0, found + u64::from(end > 0)))
}

/// When the byte at `offset` was written, in milliseconds since 1970, and up to where bytes are that were written
/// about then. `None` when there is no such byte yet.
pub fn segment(dir: &Path, stream: Stream, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let files = existing_files(dir, stream)?;
    let end = end(&files)?;
    if offset >= end {
        return Ok(None);
    }
    let at = files.partition_point(|(begin, _)| *begin <= offset).saturating_sub(1);
    let Some((_, path)) = files.get(at) else { return Ok(None) };
    let file_end = files.get(at + 1).map_or(end, |(begin, _)| *begin);
    let Some(times) = Times::open(path)? else { return Ok(Some((0, file_end))) };
    let (at_ms, until) = times.at(offset)?;
    Ok(Some((at_ms, until.unwrap_or(file_end).min(file_end))))
}

fn existing_files(dir: &Path, stream: Stream) -> io::Result<Vec<(u64, PathBuf)>> {
    match files_of(dir, stream) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        files => files,
    }
}

/// Where a stream ends.
fn end(files: &[(u64, PathBuf)]) -> io::Result<u64> {
    files.last().map_or(Ok(0), |(begin, path)| Ok(begin + fs::metadata(path)?.len()))
}

fn open_new(dir: &Path, stream: Stream, begin: u64) -> io::Result<(File, TimesWriter)> {
    let path = dir.join(format!("{}.{begin:016}", stream.name()));
    let times = match TimesWriter::create(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // The first byte of both streams.
            fs::DirBuilder::new().mode(0o700).create(dir)?;
            TimesWriter::create(&path)?
        }
        times => times?,
    };
    Ok((OpenOptions::new().create_new(true).append(true).open(path)?, times))
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

    const SMALL: LogLimits = LogLimits { file_bytes: 10, files: 3, bytes_per_s: 1 << 20 };

    #[test]
    fn a_stream_is_bounded_and_keeps_its_newest_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), Stream::Stdout, SMALL);
        for n in 0..20 {
            log.append(format!("line{n:02}\n").as_bytes(), 0, 0).unwrap();
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
            log.append(format!("<{n}>").as_bytes(), 0, 0).unwrap();
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
        LogWriter::new(dir.path(), Stream::Stdout, SMALL).append(b"x", 0, 0).unwrap();
        assert_eq!(read(dir.path(), Stream::Stderr, 0, 9).unwrap().end, 0);
        assert_eq!(read(&dir.path().join("gone"), Stream::Stdout, 5, 9).unwrap().next_offset, 0);
    }

    #[test]
    fn a_time_and_a_number_of_lines_are_found_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path(), Stream::Stdout, SMALL);
        for n in 0..20u64 {
            log.append(format!("line{n:02}\n").as_bytes(), n * 2_000, n * 2_000).unwrap();
        }
        let at = |offset| {
            let chunk = read(dir.path(), Stream::Stdout, offset, 6).unwrap();
            String::from_utf8(chunk.data).unwrap()
        };
        assert_eq!(at(since(dir.path(), Stream::Stdout, 36_500).unwrap()), "line18");
        assert_eq!(since(dir.path(), Stream::Stdout, 99_000).unwrap(), 140);
        assert_eq!(since(dir.path(), Stream::Stdout, 0).unwrap(), 119, "the oldest that is kept");
        let (offset, lines) = last_lines(dir.path(), Stream::Stdout, 2).unwrap();
        assert_eq!((at(offset), lines), ("line18".into(), 2));
        assert_eq!(last_lines(dir.path(), Stream::Stdout, 0).unwrap(), (140, 0));
        assert_eq!(last_lines(dir.path(), Stream::Stdout, 99).unwrap().0, 119);
        assert_eq!(last_lines(dir.path(), Stream::Stderr, 9).unwrap(), (0, 0));
        assert_eq!(segment(dir.path(), Stream::Stdout, 133).unwrap(), Some((38_000, 140)));
        assert_eq!(segment(dir.path(), Stream::Stdout, 140).unwrap(), None);
    }

    #[test]
    fn the_last_lines_of_a_log_of_long_lines_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes: 1 << 20, files: 3, bytes_per_s: 1 << 30 };
        let mut log = LogWriter::new(dir.path(), Stream::Stdout, limits);
        log.append(&[b"first\n".as_slice(), &b"x".repeat(200_000), b"\nlast"].concat(), 0, 0)
            .unwrap();
        let offset = |lines| last_lines(dir.path(), Stream::Stdout, lines).unwrap();
        assert_eq!(
            [offset(1), offset(2), offset(3), offset(4)],
            [(200_007, 1), (6, 2), (0, 3), (0, 3)]
        );
    }

    #[test]
    fn a_flood_leaves_a_line_that_says_how_much_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes: 1 << 20, files: 3, bytes_per_s: 100 };
        let mut log = LogWriter::new(dir.path(), Stream::Stdout, limits);
        let kept = (0..100).filter(|_| log.append(b"0123456789", 0, 0).unwrap()).count();
        assert_eq!(kept, 40);
        assert!(log.append(b"after\n", 9_000, 9_000).unwrap());
        log.finish(9_000).unwrap();
        let text = read(dir.path(), Stream::Stdout, 0, 9_999).unwrap().data;
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.ends_with("9\n[borg: 600 bytes dropped, more than 100 a second]\nafter\n"),
            "{text}"
        );
        // The last words of a flood are kept.
        let mut log = LogWriter::new(dir.path(), Stream::Stderr, limits);
        for n in 0..100 {
            log.append(format!("crash {n:03}\n").as_bytes(), 0, 0).unwrap();
        }
        log.finish(0).unwrap();
        let text = read(dir.path(), Stream::Stderr, 0, 9_999).unwrap().data;
        assert!(text.ends_with(b"[borg: 590 bytes dropped, more than 100 a second]\ncrash 099\n"));
    }
}
