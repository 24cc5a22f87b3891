//! How often each fault was really injected.
//!
//! Invariant: a run that passes has met every kind of fault that it is about.

use crate::Error;
use std::collections::BTreeMap;
use std::fmt;

/// Counts of what happened.
#[derive(Debug, Clone, Default)]
pub struct Reached(BTreeMap<String, u64>);

impl Reached {
    /// It happened once more.
    pub fn one(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// It happened so many times more.
    pub fn many(&mut self, what: impl Into<String>, times: u64) {
        *self.0.entry(what.into()).or_default() += times;
    }

    /// How often.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Refuses when something never happened.
    ///
    /// # Errors
    /// Names what did not.
    pub fn all_of<S: AsRef<str>>(&self, wanted: &[S]) -> Result<(), Error> {
        let missing: Vec<&str> =
            wanted.iter().map(AsRef::as_ref).filter(|what| self.count(what) == 0).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("never reached: {}; a longer run might", missing.join(", ")).into())
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(what, n)| format!("{what} {n}")).collect();
        f.write_str(&all.join(", "))
    }
}
