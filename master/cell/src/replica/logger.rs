//! raft-rs speaks slog; this passes it on to tracing, a level lower: what Raft finds worth
//! telling is detail to an operator.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

struct Forward;

impl Drain for Forward {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{}", record.msg()),
            Level::Warning => tracing::info!(target: "raft", "{}", record.msg()),
            Level::Info => tracing::debug!(target: "raft", "{}", record.msg()),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}

pub(super) fn forwarding() -> Logger {
    Logger::root(Forward, o!())
}
