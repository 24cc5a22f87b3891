//! Keeps what the scheduler is told and what it decides, so that every decision can be taken again later
//! ([`borg_scheduler::recording`], ADR 0044).
//!
//! The scheduler's thread makes a frame of each turn and never waits: a thread of its own writes them, and when that
//! cannot follow, or the disk does not take it, the rest of the file is left out and another begins a while later. A
//! file begins with all that the scheduler knows beside the state, and the scheduler begins anew there, so each can be
//! played by itself. Only of a master that leads, as others decide nothing.
//!
//! Frames are given to the kernel, not synced: a killed process loses nothing, a computer without power the last ones.
//!
//! Invariants: the scheduler never waits for a disk. The directory has at most as many bytes as it may have, but for
//! the file that is being written.

use crate::clock;
use crate::metrics::Metrics;
use borg_cell::state::CellState;
use borg_proto::Millis;
use borg_scheduler::Scheduler;
use borg_scheduler::recording::wire::{Writer, encode};
use borg_scheduler::recording::{Begin, Recorded};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// The directory in a master's directory.
pub(crate) const DIR: &str = "decisions";
/// Start of the names of files.
pub(crate) const PREFIX: &str = "recording-";
/// Frames that may wait for the disk. 1,024: our choice, minutes of a quiet cell and seconds of a busy one.
const FRAMES: usize = 1_024;
/// A directory holds about so many files: the oldest goes as a whole.
const FILES: u64 = 16;
/// Time until another file begins after the disk did not take one. 10 minutes: our choice.
const AFTER_A_CUT: Millis = Millis::from_secs(600);
/// Time between two beginnings at least. 1 minute: our choice, as to begin anew takes a large cell a third of a second.
const REST: Millis = Millis::from_secs(60);

/// A recording on disk, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Recording {
    /// The newest entry of the log that the state had at its beginning.
    pub index: u64,
    /// When it began, in cell time.
    pub at: Millis,
    /// Where it is.
    pub path: PathBuf,
}

impl Recording {
    fn name(index: u64, at: Millis) -> String {
        format!("{PREFIX}{index:020}-{:015}", at.0)
    }

    fn named(path: PathBuf) -> Option<Self> {
        let rest = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let (index, at) = rest.split_once('-')?;
        let (index, at) = (index.parse().ok()?, Millis(at.parse().ok()?));
        Some(Self { index, at, path })
    }
}

/// The recordings of a directory, oldest first; none when there is no such directory.
///
/// # Errors
/// What the disk says.
pub(crate) fn recordings(dir: &Path) -> io::Result<Vec<Recording>> {
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let paths = files.map(|file| file.map(|file| file.path())).collect::<io::Result<Vec<_>>>()?;
    let mut found: Vec<Recording> = paths.into_iter().filter_map(Recording::named).collect();
    found.sort();
    Ok(found)
}

/// What the writing thread is told.
#[derive(Debug)]
enum Piece {
    Begin { index: u64, at: Millis },
    Frame(Vec<u8>),
    End,
}

/// The scheduler's side: makes frames.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// `None` when nothing is recorded.
    to: Option<SyncSender<Piece>>,
    /// Bytes after which another file begins.
    file_bytes: u64,
    /// Bytes of the present file; `None` when none has begun.
    written: Option<u64>,
    began: Option<Millis>,
    /// Of this turn.
    records: Vec<u8>,
    /// Whether the writing thread gave the present file up.
    gave_up: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Recorder {
    /// One that records nothing.
    #[cfg(test)]
    pub(crate) fn off(metrics: &Metrics) -> Self {
        Self::to(None, 0, &Arc::default(), metrics)
    }

    fn to(
        to: Option<SyncSender<Piece>>,
        file_bytes: u64,
        gave_up: &Arc<AtomicBool>,
        metrics: &Metrics,
    ) -> Self {
        let (records, metrics) = (Vec::new(), metrics.clone());
        let gave_up = gave_up.clone();
        Self { to, file_bytes, written: None, began: None, records, gave_up, metrics }
    }

    /// One that has a thread write to `dir`, at most `most` bytes in all; of 0 bytes, one that records nothing.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(dir: PathBuf, most: u64, metrics: &Metrics) -> io::Result<Self> {
        if most == 0 {
            return Ok(Self::to(None, 0, &Arc::default(), metrics));
        }
        let (to, from) = sync_channel(FRAMES);
        let file_bytes = most / FILES;
        let gave_up = Arc::default();
        let scribe = Scribe {
            dir,
            most,
            file: None,
            gave_up: Arc::clone(&gave_up),
            metrics: metrics.clone(),
        };
        std::thread::Builder::new().name("recorder".into()).spawn(move || scribe.run(&from))?;
        Ok(Self::to(Some(to), file_bytes, &gave_up, metrics))
    }

    /// Whether the scheduler has to begin anew with this state, so that a file can begin: when none has, or the present
    /// one is full and nobody waits.
    pub(crate) fn begins(&self, state: &CellState) -> bool {
        let rest = if self.written.is_none() { AFTER_A_CUT } else { REST };
        let rested = self.began.is_none_or(|began| clock::now().since(began) >= rest);
        self.to.is_some()
            && rested
            && match self.written {
                // Whoever has just begun to lead begins anyway; else nobody has to wait for it.
                None => self.began.is_none() || state.pending_len() == 0,
                Some(written) if written >= 2 * self.file_bytes => true,
                Some(written) => written >= self.file_bytes && state.pending_len() == 0,
            }
    }

    /// A file begins: the scheduler is about to begin anew with this state.
    pub(crate) fn begin(&mut self, scheduler: &Scheduler, state: &CellState) {
        self.records.clear();
        let (index, at) = (state.applied(), state.clock());
        self.began = Some(clock::now());
        self.written = Some(0);
        self.send(Piece::Begin { index, at });
        self.record(&Recorded::Begin(Box::new(Begin::of(scheduler, index))));
    }

    /// The scheduler was told something, or decided.
    pub(crate) fn record(&mut self, recorded: &Recorded) {
        if self.written.is_some() {
            encode(&mut self.records, recorded);
        }
    }

    /// Whether anything is recorded just now: what costs to tell need not be told otherwise.
    pub(crate) fn records(&self) -> bool {
        self.written.is_some()
    }

    /// The turn is over.
    pub(crate) fn turn(&mut self) {
        if self.gave_up.swap(false, Ordering::Relaxed) {
            self.written = None;
            self.records.clear();
        }
        if self.records.is_empty() {
            return;
        }
        let frame = std::mem::take(&mut self.records);
        if let Some(written) = &mut self.written {
            *written += frame.len() as u64;
        }
        self.send(Piece::Frame(frame));
    }

    /// It decides no more: the file is over.
    pub(crate) fn end(&mut self) {
        self.turn();
        if self.written.take().is_some() {
            self.send(Piece::End);
        }
        self.began = None;
    }

    fn send(&mut self, piece: Piece) {
        let Some(to) = &self.to else { return };
        match to.try_send(piece) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!("decisions are not recorded for a while: the disk is too slow");
                self.metrics.recordings_cut.inc();
                self.written = None;
                self.records.clear();
            }
            Err(TrySendError::Disconnected(_)) => (self.to, self.written) = (None, None),
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
struct Scribe {
    dir: PathBuf,
    most: u64,
    file: Option<(File, Writer)>,
    gave_up: Arc<AtomicBool>,
    metrics: Metrics,
}

impl Scribe {
    fn run(mut self, from: &Receiver<Piece>) {
        while let Ok(piece) = from.recv() {
            if let Err(error) = self.take(piece) {
                tracing::warn!(dir = %self.dir.display(), %error, "decisions are not recorded for a while");
                self.metrics.recordings_cut.inc();
                self.file = None;
                self.gave_up.store(true, Ordering::Relaxed);
            }
        }
    }

    fn take(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::Begin { index, at } => {
                self.finish()?;
                fs::create_dir_all(&self.dir)?;
                self.make_room()?;
                let path = self.dir.join(Recording::name(index, at));
                let mut file = File::create(path)?;
                let (writer, head) = Writer::begin();
                file.write_all(&head)?;
                self.file = Some((file, writer));
            }
            Piece::Frame(records) => {
                // Of a file that could not be written the rest is of no use.
                let Some((file, writer)) = &mut self.file else { return Ok(()) };
                if file.metadata()?.nlink() == 0 {
                    return Err(io::Error::other("somebody removed the file"));
                }
                let frame = writer.frame(&records);
                file.write_all(&frame)?;
                self.metrics.recorded_bytes.inc_by(frame.len() as u64);
            }
            Piece::End => self.finish()?,
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.file.take() {
            None => Ok(()),
            Some((mut file, writer)) => file.write_all(&writer.finish()),
        }
    }

    /// The oldest go until there is room for another file.
    fn make_room(&self) -> io::Result<()> {
        let all = recordings(&self.dir)?;
        let sizes: Vec<u64> = all
            .iter()
            .map(|one| fs::metadata(&one.path).map(|file| file.len()))
            .collect::<io::Result<_>>()?;
        let mut left: u64 = sizes.iter().sum();
        for (one, bytes) in all.iter().zip(sizes) {
            if left + self.most / FILES <= self.most {
                break;
            }
            fs::remove_file(&one.path)?;
            left -= bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::{Cell, batch};
    use borg_scheduler::Config;
    use borg_scheduler::recording::wire::{End, read};

    fn scribe(dir: &Path, most: u64) -> (Scribe, Metrics) {
        let (metrics, _) = Metrics::new();
        let scribe = Scribe {
            dir: dir.to_owned(),
            most,
            file: None,
            gave_up: Arc::default(),
            metrics: metrics.clone(),
        };
        (scribe, metrics)
    }

    #[test]
    fn the_oldest_files_go_and_each_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("decisions");
        let (mut scribe, metrics) = scribe(&dir, 16_000);
        let mut frame = Vec::new();
        encode(&mut frame, &Recorded::Refused { tasks: Vec::new() });
        for index in 1..100 {
            scribe.take(Piece::Begin { index, at: Millis(index) }).unwrap();
            for _ in 0..60 {
                scribe.take(Piece::Frame(frame.clone())).unwrap();
            }
        }
        scribe.take(Piece::End).unwrap();
        let kept = recordings(&dir).unwrap();
        assert_eq!(kept.last().unwrap().index, 99);
        let bytes: u64 = kept.iter().map(|one| fs::metadata(&one.path).unwrap().len()).sum();
        assert!(kept.len() > 10 && bytes <= 16_000 + 1_000, "{} of {bytes} bytes", kept.len());
        for one in kept {
            let (records, end) = read(&fs::read(one.path).unwrap()).unwrap();
            assert_eq!((records.len(), end), (60, End::Finished));
        }
        assert!(metrics.recorded_bytes.get() > 99 * 60);
    }

    /// The scheduler goes on, whatever the disk does.
    #[test]
    fn a_disk_that_takes_nothing_is_told_and_costs_the_recording_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("decisions");
        fs::write(&dir, "in the way").unwrap();
        let (mut scribe, _) = scribe(&dir, 16_000);
        assert!(scribe.take(Piece::Begin { index: 1, at: Millis(1) }).is_err());
        scribe.take(Piece::Frame(vec![1])).unwrap();
        scribe.take(Piece::End).unwrap();
    }

    /// Whoever removes the directory loses what was in it, and no more than that for long.
    #[test]
    fn a_file_that_was_removed_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("decisions");
        let (scribe, metrics) = scribe(&dir, 16_000);
        let gave_up = scribe.gave_up.clone();
        let (to, from) = sync_channel(10);
        let thread = std::thread::spawn(move || scribe.run(&from));
        to.send(Piece::Begin { index: 1, at: Millis(1) }).unwrap();
        to.send(Piece::Frame(vec![4])).unwrap();
        while metrics.recorded_bytes.get() == 0 {
            std::thread::yield_now();
        }
        fs::remove_dir_all(&dir).unwrap();
        to.send(Piece::Frame(vec![4])).unwrap();
        to.send(Piece::Begin { index: 2, at: Millis(2) }).unwrap();
        drop(to);
        thread.join().unwrap();
        assert!(gave_up.load(Ordering::Relaxed));
        assert_eq!(metrics.recordings_cut.get(), 1);
        assert_eq!(recordings(&dir).unwrap().len(), 1, "another begins");
    }

    #[test]
    fn of_no_bytes_at_all_nothing_is_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("decisions");
        let (metrics, _) = Metrics::new();
        let mut recorder = Recorder::start(dir.clone(), 0, &metrics).unwrap();
        let cell = Cell::new();
        assert!(!recorder.begins(&cell.state));
        recorder.record(&Recorded::LendNothing);
        recorder.turn();
        recorder.end();
        assert!(!recorder.records() && !dir.exists());
    }

    #[test]
    fn a_writer_that_cannot_follow_cuts_the_file_and_another_begins_later() {
        let (metrics, _) = Metrics::new();
        let (to, from) = sync_channel(2);
        let gave_up = Arc::default();
        let mut recorder = Recorder::to(Some(to), 1_000, &gave_up, &metrics);
        let mut cell = Cell::new();
        cell.submit("ann", batch("a", 1, 100, 4 << 20));
        let scheduler = Scheduler::new(&cell.state, Config::default());
        assert!(recorder.begins(&cell.state));
        recorder.begin(&scheduler, &cell.state);
        recorder.turn();
        assert!(recorder.records());
        recorder.record(&Recorded::LendNothing);
        recorder.turn();
        assert!(!recorder.records(), "nobody reads");
        assert_eq!(metrics.recordings_cut.get(), 1);
        assert!(!recorder.begins(&cell.state), "not at once");
        assert!(matches!(from.recv(), Ok(Piece::Begin { .. })));
        assert!(matches!(from.recv(), Ok(Piece::Frame(_))));
        recorder.end();
        assert!(recorder.begins(&cell.state), "whoever leads again begins at once");
        recorder.begin(&scheduler, &cell.state);
        recorder.turn();
        gave_up.store(true, Ordering::Relaxed);
        recorder.record(&Recorded::LendNothing);
        recorder.turn();
        assert!(!recorder.records(), "the rest of a file that is given up is of no use");
    }
}
