//! One daemon of a tortured cell: started, ended, stopped and started again.
//!
//! Leaves when and why to the tests. A daemon may run under another program that becomes it
//! (`ip netns exec`) or traces it (`strace -D`): its process id is the child's in both cases.
//!
//! Invariant: signals go to own children only, and at most one process of a daemon runs.

use crate::{Error, clock};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a daemon may take to stand still or to end after a signal: ours.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// Bytes of a log that a failure shows.
const TAIL: u64 = 1_500;

/// What to run, and whether it runs.
#[derive(Debug)]
pub struct Daemon {
    /// As in its log's name.
    pub name: String,
    /// Arguments of every start.
    pub args: Vec<String>,
    /// More of them for the first start.
    pub first: Vec<String>,
    /// A command before the program: `ip netns exec NAME`, say.
    pub under: Vec<String>,
    program: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    starts: u32,
}

impl Daemon {
    /// A daemon that does not run yet.
    #[must_use]
    pub fn new(name: String, program: PathBuf, args: Vec<String>, log: PathBuf) -> Self {
        Self {
            name,
            args,
            first: Vec::new(),
            under: Vec::new(),
            program,
            log,
            child: None,
            starts: 0,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(&mut self) -> Result<(), Error> {
        let under = self.under.clone();
        self.start_under(&under)
    }

    /// Starts it, this once under another command.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start_under(&mut self, under: &[String]) -> Result<(), Error> {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut log = File::options().create(true).append(true).open(&self.log)?;
        self.starts += 1;
        writeln!(log, "---- start {}", self.starts)?;
        let mut line: Vec<String> = under.to_vec();
        line.push(self.program.display().to_string());
        line.extend(self.args.iter().cloned());
        if self.starts == 1 {
            line.extend(self.first.iter().cloned());
        }
        let child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .current_dir("/")
            .spawn()
            .map_err(|error| format!("{}: {error}", line[0]))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether a process of it was started and not yet found to have ended.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<Pid, Error> {
        let child = self.child.as_ref().ok_or_else(|| format!("{} does not run", self.name))?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// How it ended, if it did by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Refuses when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn must_run(&mut self) -> Result<(), Error> {
        match self.ended()? {
            Some(status) => {
                Err(format!("{} ended by itself: {status}\n{}", self.name, self.tail()).into())
            }
            None => Ok(()),
        }
    }

    /// Ends it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<(), Error> {
        kill(self.pid()?, Signal::SIGKILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits until it did.
    ///
    /// # Errors
    /// When it does not within 20 s.
    pub fn terminate(&mut self) -> Result<ExitStatus, Error> {
        kill(self.pid()?, Signal::SIGTERM)?;
        self.until_ended(PATIENCE)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_ended(&mut self, patience: Duration) -> Result<ExitStatus, Error> {
        let began = clock::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if began.elapsed() > patience {
                return Err(format!("{} does not end\n{}", self.name, self.tail()).into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Stops it, and waits until each of its threads stands still: none is within a call to the
    /// kernel any more.
    ///
    /// # Errors
    /// When it does not stand still within 20 s.
    pub fn stop(&self) -> Result<(), Error> {
        let pid = self.pid()?;
        kill(pid, Signal::SIGSTOP)?;
        let began = clock::now();
        while !stands_still(pid)? {
            if began.elapsed() > LOOK * 100 && is_over(pid) {
                return Err(format!("{} has ended by itself\n{}", self.name, self.tail()).into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} does not stand still", self.name).into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn go_on(&self) -> Result<(), Error> {
        Ok(kill(self.pid()?, Signal::SIGCONT)?)
    }

    /// All that it ever said.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it said since its last start, or the last 64 KiB of that.
    #[must_use]
    pub fn said_last(&self) -> String {
        let said = self.said_lately(64 << 10).unwrap_or_default();
        said.rfind("---- start ").map_or(said.clone(), |at| said[at..].to_owned())
    }

    fn said_lately(&self, bytes: u64) -> std::io::Result<String> {
        let mut log = File::open(&self.log)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether the last leader that it named since its start is itself.
    #[must_use]
    pub fn said_that_it_leads(&self) -> bool {
        let said = self.said_last();
        let last = said.rfind("leader changed leader=").map(|at| &said[at + 22..]);
        let number = self.name.trim_start_matches(|c: char| !c.is_ascii_digit());
        // `3`, or `3.1` in its second life.
        let leader = last.and_then(|rest| rest.split([' ', '.']).next());
        leader.is_some_and(|leader| leader.trim_matches('"') == number)
    }

    /// The last lines that it said.
    #[must_use]
    pub fn tail(&self) -> String {
        let said = self.said_lately(TAIL).unwrap_or_default();
        format!("{}: ...{said}", self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already is as good.
        self.kill().ok();
    }
}

/// Whether it has ended, and only waits to be asked how.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn stands_still(pid: Pid) -> Result<bool, Error> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
        let (_, rest) = stat.rsplit_once(") ").ok_or("/proc/PID/stat is not as documented")?;
        if !rest.starts_with(['T', 't']) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When a process started, in clock ticks since boot: with its id, which process it is.
///
/// # Errors
/// When there is none.
pub fn start_ticks(pid: u32) -> Result<u64, Error> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").ok_or("/proc/PID/stat is not as documented")?;
    Ok(rest.split_ascii_whitespace().nth(19).ok_or("/proc/PID/stat is too short")?.parse()?)
}
