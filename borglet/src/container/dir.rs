//! The directory of one container, where shim and borglet meet.
//!
//! `record` what is known of it, `work/` the task's own directory, `rootfs/` what it changed in its image, `hosts`
//! its table of hosts if its network is its own, `log/` its output once there is any, `shim.err` what a shim in
//! trouble said.
//!
//! The record is one file, as files are the dearest part of a short task: a line of JSON for each of what was
//! asked (`asked`), that it runs (`started`) and how it ended (`ended`), each added by one write when it is so; of
//! two of a kind the last counts. There is a lock on it as long as the shim lives (and from before the shim
//! exists, by the borglet).
//!
//! Invariant: a record is absent, or begins with a whole `asked`, whenever a process stops. When the machine stops, what
//! was written in its last seconds may be missing; such a record is `damaged`, never absent again.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ExitRecord, Started};

/// Paths inside one container's directory.
#[derive(Debug, Clone)]
pub(crate) struct TaskDir {
    pub(crate) root: PathBuf,
}

/// One line of a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<S> {
    Asked(S),
    Started(Started),
    Ended(ExitRecord),
}

/// What is known of a container. `S` is what was asked.
#[derive(Debug)]
pub(crate) struct Record<S> {
    pub(crate) asked: Option<S>,
    pub(crate) started: Option<Started>,
    pub(crate) ended: Option<ExitRecord>,
    /// Whether something was there that makes no sense any more, or what was asked is gone.
    pub(crate) damaged: bool,
}

impl<S: DeserializeOwned> Record<S> {
    /// Makes what sense there is of the bytes of a record.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut record = Self { asked: None, started: None, ended: None, damaged: false };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Asked(asked)) => record.asked = Some(asked),
                Ok(Line::Started(started)) => record.started = Some(started),
                Ok(Line::Ended(ended)) => record.ended = Some(ended),
                Err(_) => record.damaged = true,
            }
        }
        record.damaged |= record.asked.is_none();
        record
    }
}

impl TaskDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    /// A record that is not whole yet, or is not needed any more.
    pub(crate) fn blank_record(&self) -> PathBuf {
        self.root.join("record.new")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Of a container that runs an image: what it changed in it, and where it is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Of a container with a network of its own: what it sees as its table of hosts.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }

    pub(crate) fn shim_err(&self) -> PathBuf {
        self.root.join("shim.err")
    }

    /// Reads the record; `None` when there is none.
    pub(crate) fn read<S: DeserializeOwned>(&self) -> io::Result<Option<Record<S>>> {
        match fs::read(self.record()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(bytes) => Ok(Some(Record::parse(&bytes))),
        }
    }

    /// Begins the record so that nobody ever sees it without the lock on it, which lasts as long as
    /// the returned file, or what inherits it, is open.
    pub(crate) fn begin(&self, asked: &impl Serialize) -> io::Result<File> {
        let mut file = self.open_blank()?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                // Handed on, and a nursery that is slow still holds it from before.
                fs::remove_file(self.blank_record())?;
                file = self.open_blank()?;
                file.try_lock()?;
            }
            locked => locked?,
        }
        if file.metadata()?.len() > 0 {
            file.set_len(0)?;
        }
        file.write_all(&line(&Line::Asked(asked))?)?;
        fs::rename(self.blank_record(), self.record())?;
        Ok(file)
    }

    /// One that is there already is of a directory that was handed on, and empty: to cut it once more would make
    /// ext4 write it out at its close.
    fn open_blank(&self) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(self.blank_record())
    }

    /// Adds that it runs. Not synced: after a power cut there is no process for it to be true of.
    pub(crate) fn add_started(&self, started: &Started) -> io::Result<()> {
        self.add(&Line::<()>::Started(started.clone())).map(drop)
    }

    /// Adds how it ended; with `durable` it is on the disk when this returns.
    pub(crate) fn add_ended(&self, ended: &ExitRecord, durable: bool) -> io::Result<()> {
        let file = self.add(&Line::<()>::Ended(ended.clone()))?;
        if durable { file.sync_all() } else { Ok(()) }
    }

    fn add(&self, what: &Line<()>) -> io::Result<File> {
        let mut file = File::options().append(true).open(self.record())?;
        // On a line of its own, whatever half of a line a full disk has left.
        file.write_all(&[b"\n", line(what)?.as_slice()].concat())?;
        Ok(file)
    }

    /// Makes the record absent, and its file empty for the next one.
    pub(crate) fn blank(&self) -> io::Result<()> {
        match fs::rename(self.record(), self.blank_record()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        match File::options().write(true).open(self.blank_record()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            file => file?.set_len(0),
        }
    }
}

fn line(what: &Line<impl Serialize>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn started(pid: i32) -> Started {
        Started {
            pid,
            start_ticks: 1,
            shim_pid: 2,
            shim_start_ticks: 3,
            init_pid: None,
            started_at_ms: 4,
            boot_id: "boot".to_owned(),
            address: None,
        }
    }

    fn ended() -> ExitRecord {
        ExitRecord {
            id: "a".parse().unwrap(),
            outcome: Outcome::Exited { code: 3 },
            started: Some(started(1)),
            ended_at_ms: 5,
            cpu_ms: 6,
            memory_peak_bytes: 7,
        }
    }

    #[test]
    fn a_record_is_absent_or_whole_and_locked_and_its_file_serves_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = TaskDir { root: dir.path().to_owned() };
        for round in 0..2 {
            assert!(dir.read::<String>().unwrap().is_none());
            let file = dir.begin(&format!("words {round}")).unwrap();
            assert!(File::open(dir.record()).unwrap().try_lock_shared().is_err());
            dir.add_started(&started(round)).unwrap();
            dir.add_ended(&ended(), true).unwrap();
            drop(file);
            assert!(File::open(dir.record()).unwrap().try_lock_shared().is_ok());
            let record = dir.read::<String>().unwrap().unwrap();
            assert_eq!(record.asked.unwrap(), format!("words {round}"));
            assert_eq!((record.started, record.damaged), (Some(started(round)), false));
            assert_eq!(record.ended, Some(ended()));
            dir.blank().unwrap();
            assert_eq!(fs::metadata(dir.blank_record()).unwrap().len(), 0);
        }
        dir.blank().unwrap();
    }

    #[test]
    fn a_file_that_somebody_still_holds_from_before_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = TaskDir { root: dir.path().to_owned() };
        let held = dir.begin(&"old").unwrap();
        dir.blank().unwrap();
        let _new = dir.begin(&"new").unwrap();
        let record = dir.read::<String>().unwrap().unwrap();
        assert_eq!((record.asked.as_deref(), record.damaged), (Some("new"), false));
        assert_eq!(held.metadata().unwrap().len(), 0, "nothing was written to the old one");
        drop(held);
        assert!(File::open(dir.record()).unwrap().try_lock_shared().is_err());
    }

    /// Wherever a full disk or a power cut ends it, what is before is known, and what comes after is.
    #[test]
    fn a_record_cut_anywhere_keeps_its_whole_lines_and_takes_more() {
        let lines = [
            line(&Line::Asked("words")).unwrap(),
            line(&Line::<()>::Started(started(1))).unwrap(),
            line(&Line::<()>::Ended(ended())).unwrap(),
        ];
        let whole = lines.concat();
        let (first, second) = (lines[0].len() - 1, lines[0].len() + lines[1].len() - 1);
        for length in 0..whole.len() {
            let record = Record::<String>::parse(&whole[..length]);
            assert_eq!(record.asked.is_some(), length >= first, "{length}");
            assert_eq!(record.started.is_some(), length >= second, "{length}");
            assert!(record.damaged || length >= first, "{length}");
            let more = [&whole[..length], b"\n", &lines[2]].concat();
            assert_eq!(Record::<String>::parse(&more).ended, Some(ended()), "{length}");
        }
    }

    #[test]
    fn junk_is_damage_and_of_two_lines_of_a_kind_the_last_counts() {
        for junk in ["", "{", "\0\0", "[1, 2, 3]", "{\"asked\":1}", "{\"other\":\"x\"}"] {
            let record = Record::<String>::parse(junk.as_bytes());
            assert!(record.damaged && record.asked.is_none(), "{junk:?}");
        }
        let twice = [
            line(&Line::<()>::Started(started(1))).unwrap(),
            line(&Line::<()>::Started(started(2))).unwrap(),
        ];
        assert_eq!(Record::<String>::parse(&twice.concat()).started, Some(started(2)));
    }
}
