//! Whether a log can be opened without the death of whoever opens it.
//!
//! Engines assert what they read, sled above all, and in release builds a failed assertion ends the
//! process: a rotten log would start and kill a Borgmaster for ever, with nobody left to tell that
//! the log is the reason. So another process opens and reads it first. If that one dies, the log is
//! broken; whatever else it finds, the Borgmaster finds by itself, and can say.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use borg_cell::store::StoreError;

use crate::clock;

/// Longest time that reading a log may take, in seconds. Ours: with a checkpoint of a GiB on a slow disk
/// it is a minute.
const MAX_SECONDS: f64 = 600.0;
/// Pause between two looks at whether the process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Most that is read of what the process complained of, in bytes.
const MAX_COMPLAINT_BYTES: u64 = 64 << 10;
/// Exit code of a Rust process whose main thread panicked.
const PANICKED: i32 = 101;

/// How to start the process that opens the log first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The program.
    pub program: PathBuf,
    /// The name that it is called by.
    pub name: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Check {
    /// Runs the process to its end.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when it died of the log; [`StoreError::Failed`] when it cannot be
    /// started.
    pub fn run(&self) -> Result<(), StoreError> {
        self.run_for(MAX_SECONDS)
    }

    fn run_for(&self, seconds: f64) -> Result<(), StoreError> {
        let failed = |error| StoreError::failed("start the check of the log", error);
        let mut child = Command::new(&self.program)
            .arg0(&self.name)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let complaints = child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            if let Some(mut complaints) = complaints {
                // To the end, so that the child never waits for a reader.
                (&mut complaints).take(MAX_COMPLAINT_BYTES).read_to_end(&mut said).ok();
                std::io::copy(&mut complaints, &mut std::io::sink()).ok();
            }
            String::from_utf8_lossy(&said).into_owned()
        });
        let ended = wait(&mut child, seconds).map_err(failed)?;
        let said = reader.join().unwrap_or_default();
        match ended {
            None => Err(StoreError::failed(
                "check the log",
                format!("reading it took over {seconds} s: start again when the computer has time"),
            )),
            Some(status) if status.code().is_some_and(|code| code != PANICKED) => Ok(()),
            // Whoever sent such a signal did so for reasons of its own: memory, or an end of all.
            Some(status) if status.code().is_none() && !died_of_it(status) => {
                Err(StoreError::failed(
                    "check the log",
                    format!("the check was ended from outside: {status}"),
                ))
            }
            Some(status) => {
                let why = reason(&said);
                Err(StoreError::broken(0, format!("reading the log is deadly ({status}): {why}")))
            }
        }
    }
}

/// Whether a process ended by a signal that its own code causes.
fn died_of_it(status: ExitStatus) -> bool {
    /// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV.
    const OWN: [i32; 6] = [4, 5, 6, 7, 8, 11];
    status.signal().is_some_and(|signal| OWN.contains(&signal))
}

/// How the process ended; `None` if it had to be killed.
fn wait(child: &mut Child, seconds: f64) -> std::io::Result<Option<ExitStatus>> {
    let began = clock::stopwatch();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.seconds() > seconds {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a panic said, or the last line.
fn reason(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let panic = lines.next().map(|first| format!("{first} {}", lines.next().unwrap_or_default()));
    let last = || said.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
    panic.or_else(last).unwrap_or_else(|| "it said nothing".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(script: &str) -> Check {
        let args = ["-c", script].map(OsString::from).to_vec();
        Check { program: "/bin/sh".into(), name: "sh".into(), args }
    }

    #[test]
    fn only_a_death_of_its_own_says_that_the_log_is_broken() {
        check("exit 0").run().unwrap();
        check("echo no such log >&2; exit 1").run().unwrap();
        let died =
            check("echo 'thread x panicked at y.rs:1:' >&2; echo 'odd page' >&2; kill -ABRT $$");
        let died = died.run().unwrap_err();
        assert!(matches!(died, StoreError::Broken { .. }), "{died:?}");
        assert!(died.to_string().contains("panicked at y.rs:1: odd page"), "{died}");
        assert!(matches!(check("exit 101").run(), Err(StoreError::Broken { .. })));
        let endless = check("exec sleep 100").run_for(0.1);
        assert!(matches!(endless, Err(StoreError::Failed { .. })), "{endless:?}");
        let killed = check("kill -KILL $$").run();
        assert!(
            matches!(killed, Err(StoreError::Failed { .. })),
            "no fault of the log: {killed:?}"
        );
        let absent = Check { program: "/no/such".into(), ..check("") }.run();
        assert!(matches!(absent, Err(StoreError::Failed { .. })), "{absent:?}");
    }
}
