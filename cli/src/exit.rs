//! How a command ends: the exit codes, and errors with their code.

use borg_proto::in_full;
use std::fmt;
use std::process::ExitCode;

/// Kinds of failure, each with its own exit code. 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// A defect, or this machine's fault (disk full, no memory).
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The cell, or the check before it, refuses what was asked: invalid specification, not
    /// possible in this state.
    Refused = 3,
    /// There is no such job, task, machine or file.
    NotFound = 4,
    /// There is one already.
    AlreadyExists = 5,
    /// Not allowed, or the certificates do not fit.
    Permission = 6,
    /// No master answered in time, or they have no majority.
    Unavailable = 7,
    /// What was waited for did not come, or not well: a job, an update, an empty machine.
    JobFailed = 8,
    /// Ctrl-C: what was computed until then was told. 128 and the signal, as shells have it.
    Stopped = 130,
}

/// How a command went that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Success {
    /// It is done.
    Done,
    /// `plan`: to submit the file would change the cell. 2 as with other tools that plan; it is no
    /// failure, and `plan` fails with [`Code::Internal`] alone.
    Changes,
    /// `exec` and `attach`: what ran in the task ended with this code, whatever it means.
    Exit(u8),
}

impl From<Success> for ExitCode {
    fn from(success: Success) -> Self {
        Self::from(match success {
            Success::Done => 0,
            Success::Changes => 2,
            Success::Exit(code) => code,
        })
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which exit code it leads to.
    pub code: Code,
    /// What to tell.
    pub text: String,
}

impl Failure {
    /// A failure with a text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// What would be refused with a gRPC status code: the plan of a thing ends as the thing itself would.
    #[must_use]
    pub fn planned(code: i32, why: &str) -> Self {
        Self::from(tonic::Status::new(tonic::Code::from_i32(code), why))
    }

    /// The reader of our output had enough, as `head` does: nothing to complain about.
    #[must_use]
    pub fn reader_gone() -> Self {
        Self::new(Code::Internal, "broken pipe")
    }

    /// The same failure, with what was being done in front.
    #[must_use]
    pub fn context(mut self, doing: &str) -> Self {
        self.text = format!("{doing}: {}", self.text);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::reader_gone();
        }
        Self::new(Code::Internal, error.to_string())
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        let excerpt = error.excerpt();
        let text =
            if excerpt.is_empty() { error.to_string() } else { format!("{error}\n{excerpt}") };
        Self::new(Code::Refused, text)
    }
}

impl From<crate::ca::CaError> for Failure {
    fn from(error: crate::ca::CaError) -> Self {
        use crate::ca::CaError;
        let code = match &error {
            CaError::Exists { .. } => Code::AlreadyExists,
            CaError::Read { .. } => Code::NotFound,
            CaError::Write { .. } | CaError::Certificate(_) => Code::Internal,
        };
        Self::new(code, in_full(&error))
    }
}

/// The failure of a call, in words for people.
impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as Rpc;
        let text = borg_proto::rpc::explain(&status);
        let certificate = ["certificate", "TLS"].iter().any(|word| text.contains(word));
        // A status with a cause was made on this side: the connection failed, no server spoke.
        let broken = std::error::Error::source(&status).is_some();
        let code = match status.code() {
            Rpc::Ok => Code::Internal,
            Rpc::Unavailable | Rpc::Unknown | Rpc::Internal if certificate => Code::Permission,
            Rpc::Unknown | Rpc::Internal if broken => Code::Unavailable,
            Rpc::InvalidArgument
            | Rpc::FailedPrecondition
            | Rpc::ResourceExhausted
            | Rpc::OutOfRange => Code::Refused,
            Rpc::NotFound => Code::NotFound,
            Rpc::AlreadyExists => Code::AlreadyExists,
            Rpc::PermissionDenied | Rpc::Unauthenticated => Code::Permission,
            Rpc::Unavailable | Rpc::DeadlineExceeded | Rpc::Aborted | Rpc::Cancelled => {
                Code::Unavailable
            }
            Rpc::Unknown | Rpc::Internal | Rpc::DataLoss | Rpc::Unimplemented => Code::Internal,
        };
        Self::new(code, text)
    }
}
