//! What is asked of a storage engine: keep one head and numbered records, change them atomically.
//!
//! Leaves to the engine how, and to `durable` whether what comes back is what was written: an
//! engine is trusted with atomicity and with nothing else.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use borg_cell::store::StoreError;

/// One atomic change. Its parts take effect in the order of the fields.
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// Remove records from this index on.
    pub(super) truncate_from: Option<u64>,
    /// Add these records.
    pub(super) put: &'a [(u64, Vec<u8>)],
    /// Remove records up to and with this index.
    pub(super) remove_through: Option<u64>,
    /// Replace the head.
    pub(super) head: &'a [u8],
}

/// Everything an engine holds: the head, if one was ever committed, and the records in order of
/// index.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) head: Option<Vec<u8>>,
    pub(super) records: Vec<(u64, Vec<u8>)>,
}

/// A storage engine with its files open.
pub(super) trait Engine: Send {
    /// Reads everything.
    fn load(&mut self) -> Result<Held, EngineError>;

    /// Makes `change`, and returns after the data and whatever leads to it are synced.
    fn commit(&mut self, change: &Change<'_>) -> Result<(), EngineError>;
}

/// What an engine says when it cannot.
#[derive(Debug)]
pub(super) enum EngineError {
    /// Its files are not what it wrote.
    Damaged(String),
    /// The system refused; says nothing about the files.
    Failed(Box<dyn Error + Send + Sync>),
}

impl EngineError {
    /// As the replica sees it; `at` is the first index in doubt.
    pub(super) fn of(self, what: &str, at: u64) -> StoreError {
        match self {
            Self::Damaged(why) => StoreError::broken(at, format!("{what}: {why}")),
            Self::Failed(source) => StoreError::failed(what, source),
        }
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        // Engines read their own files: an end too early and nonsense in them are damage.
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotFound => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Failed(error.into()),
        }
    }
}

/// Calls into an engine; a panic in there becomes damage. Engines assert what they read, so rot
/// panics where it should be an error. (Where panics end the process, as in release builds, it ends
/// instead: no vote either way.)
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(EngineError::Damaged(format!("the engine panicked: {said}")))
    })
}
