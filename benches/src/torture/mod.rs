//! Real masters under real faults: what `./ci torture` runs.
//!
//! Each test starts the programs that people run, does to them what disks, kernels and networks
//! do, and holds what the cell answers against what its clients were told. The simulation searches
//! far more of the deciding code; this here is about what it cannot see: files, syncs, processes,
//! sockets.
//!
//! Invariant: nothing of a run is left behind (`apart`), and a run that passes has met every fault
//! that it is about (`reached`).

pub mod apart;
pub mod books;
pub mod cell;
pub mod clients;
pub mod daemon;
pub mod damage;
pub mod disk;
pub mod errors;
pub mod faults;
pub mod kills;
pub mod network;
pub mod partitions;
pub mod power;
pub mod reached;
pub mod rolling;

use crate::figures::progress;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// What a run of one test is told.
#[derive(Debug, Clone)]
pub struct Run {
    /// How much of it: what one is differs from test to test.
    pub count: u32,
    /// What its dice start from. Processes keep their own time, so a run repeats only roughly.
    pub seed: u64,
    /// The only store, if one is named.
    pub store: Option<String>,
    /// Where it works.
    pub work: PathBuf,
}

/// What a run says on its way: a line that changes on a terminal, nothing in a pipe.
#[derive(Debug)]
pub struct Says {
    name: &'static str,
    is_terminal: bool,
    logs: Vec<PathBuf>,
    slowest_ms: u64,
}

impl Says {
    /// For the test of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { name, is_terminal, logs: Vec::new(), slowest_ms: 0 }
    }

    /// How far it is.
    #[expect(clippy::print_stderr, reason = "progress goes to standard error")]
    pub fn progress(&mut self, line: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{}: {line}", self.name);
            // A terminal that does not take it is no reason to stop.
            std::io::stderr().flush().ok();
        }
    }

    /// Where to look when it fails.
    pub fn logs_are_in(&mut self, dir: PathBuf) {
        self.logs.push(dir);
    }

    /// The slowest change of a set of clients, in milliseconds.
    pub fn slowest(&mut self, ms: u64) {
        self.slowest_ms = self.slowest_ms.max(ms);
    }

    /// A line to be kept, terminal or not.
    pub fn note(&self, line: &str) {
        let end = if self.is_terminal { "\r\x1b[K" } else { "" };
        progress(&format!("{end}{}: {line}", self.name));
    }

    /// What happened, at the end.
    pub fn done(&self, line: &str) {
        let slowest = match self.slowest_ms {
            0 => String::new(),
            ms => format!("; slowest change {ms} ms"),
        };
        self.note(&format!("{line}{slowest}"));
    }

    /// Directories with the daemons' logs, the newest last.
    #[must_use]
    pub fn logs(&self) -> &[PathBuf] {
        &self.logs
    }
}
