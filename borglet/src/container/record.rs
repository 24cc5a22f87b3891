//! What is known of a container once it ran: that it started, or why not, and how it ended.
//!
//! These are the words the shim leaves on disk and the borglet reports; both may be read by a
//! newer borglet than the one that wrote them, so fields are only ever added.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ContainerId, InvalidSpec};

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Pid of the task's first process, as the host sees it.
    pub pid: i32,
    /// When that process started, in clock ticks since boot: with `pid` it names the process for
    /// as long as the machine is up.
    pub start_ticks: u64,
    /// Pid of the shim that holds it.
    pub shim_pid: i32,
    /// Start of the shim, in clock ticks since boot.
    pub shim_start_ticks: u64,
    /// Pid 1 of the task's own process table, as the host sees it; none without namespaces.
    pub init_pid: Option<i32>,
    /// Wall clock at the start, milliseconds since 1970.
    pub started_at_ms: u64,
    /// The boot of the machine this is true of.
    pub boot_id: String,
    /// The address of its own that it has, if its network is its own.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
}

/// How a container ended, kept until the borglet removes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which container.
    pub id: ContainerId,
    /// What happened.
    pub outcome: Outcome,
    /// The start, unless it never started.
    pub started: Option<Started>,
    /// Wall clock at the end, milliseconds since 1970.
    pub ended_at_ms: u64,
    /// Processor time used by all of its processes, in milliseconds; 0 where it is not measured.
    pub cpu_ms: u64,
    /// Most memory it ever used, in bytes; 0 where it is not measured.
    pub memory_peak_bytes: u64,
}

/// The cause of an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Outcome {
    /// The program ended by itself.
    #[error("exited with code {code}")]
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it: ours, its own or somebody else's.
    #[error("ended by signal {signal}")]
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It wanted more memory than its limit, and all of it was killed.
    #[error("out of memory: limit {limit_bytes} bytes, peak {peak_bytes} bytes")]
    OutOfMemory {
        /// The limit it hit.
        limit_bytes: u64,
        /// The most it used.
        peak_bytes: u64,
    },
    /// Its lease ran out, and all of it was killed.
    #[error("ended with its lease")]
    Fenced,
    /// It never ran.
    #[error("not started: {0}")]
    NotStarted(StartError),
    /// Nobody saw the end: the shim was killed, or the machine restarted. The task is not running.
    #[error("end not seen: {why}")]
    Lost {
        /// What is known.
        why: String,
    },
}

impl Outcome {
    /// Whether the program ended by itself with code 0.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

/// A container did not start. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StartError {
    /// The question made no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// A container of this id runs, or its remains were not cleaned up.
    #[error("container {0} exists already")]
    Exists(ContainerId),
    /// There is no such program inside the container.
    #[error("program not found: {program}{hint}")]
    ProgramNotFound {
        /// As asked.
        program: String,
        /// Where it was looked for, or why it may be invisible.
        hint: String,
    },
    /// The program is there but may not be executed.
    #[error("program not executable: {path}: {cause}")]
    NotExecutable {
        /// The file found.
        path: String,
        /// Why not.
        cause: String,
    },
    /// The working directory cannot be used.
    #[error("working directory {}: {cause}", .path.display())]
    BadWorkdir {
        /// As asked.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// A path to be shown to the task cannot be.
    #[error("bind {}: {cause}", .path.display())]
    BadBind {
        /// As asked.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The image is not fit to run.
    #[error("image {image}: {cause}")]
    BadImage {
        /// Its name.
        image: String,
        /// Why not.
        cause: String,
    },
    /// This machine could not do its part.
    #[error("{step}: {cause}")]
    Machine {
        /// What was being done.
        step: String,
        /// What the kernel said.
        cause: String,
    },
    /// Of the machine's addresses none is free.
    #[error("no address of {range} is free: perhaps their tasks still end")]
    NoAddress {
        /// The machine's range.
        range: String,
    },
    /// The lease under which it was to run is over.
    #[error("its lease is over")]
    Fenced,
    /// The shim did not answer in time and was killed.
    #[error("no answer from the shim within {seconds} s")]
    TimedOut {
        /// How long we waited.
        seconds: u64,
    },
}

impl StartError {
    /// A failure of the machine at `step`.
    pub(crate) fn machine(step: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Machine { step: step.into(), cause: cause.to_string() }
    }

    /// Tells whoever listens for notes, in one line. When nobody does, nobody wants to hear it.
    pub(crate) fn tell(&self, notes: &mut impl std::io::Write) {
        let line = serde_json::to_string(self).unwrap_or_default();
        drop(writeln!(notes, "{line}"));
    }

    /// True when the job is at fault, so that another machine would fail in the same way.
    pub fn is_fault_of_task(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::ProgramNotFound { .. }
            | Self::NotExecutable { .. }
            | Self::BadWorkdir { .. }
            | Self::BadBind { .. }
            | Self::BadImage { .. } => true,
            Self::Exists(_)
            | Self::Machine { .. }
            | Self::NoAddress { .. }
            | Self::Fenced
            | Self::TimedOut { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_memory_says_limit_and_peak() {
        let outcome = Outcome::OutOfMemory { limit_bytes: 20, peak_bytes: 19 };
        assert_eq!(outcome.to_string(), "out of memory: limit 20 bytes, peak 19 bytes");
    }

    #[test]
    fn a_start_error_survives_the_way_through_the_pipe() {
        let error = StartError::ProgramNotFound { program: "x".into(), hint: String::new() };
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<StartError>(&text).unwrap(), error);
    }
}
