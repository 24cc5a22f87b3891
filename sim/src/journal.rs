//! What happened, as one number and, when asked, as lines.
//!
//! Everything that is delivered or decided goes into a running hash: two runs are the same exactly
//! when their digests are. The lines are for people who look for the cause of a violation.

use crate::dice::mix;
use borg_proto::Millis;
use std::collections::VecDeque;
use std::fmt;

/// Lines kept for the report of a violation.
const KEPT: usize = 60;

/// Where lines go.
pub type Sink = Box<dyn FnMut(&str)>;

/// The record of a run.
#[derive(Default)]
pub struct Journal {
    digest: [u64; 2],
    events: u64,
    began: Millis,
    lines: VecDeque<String>,
    keep_lines: bool,
    sink: Option<Sink>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Journal {
    /// An empty record that begins at this moment.
    #[must_use]
    pub fn new(began: Millis) -> Self {
        Self { began, ..Self::default() }
    }

    /// Sends every line to `sink` too.
    pub fn trace(&mut self, sink: Sink) {
        self.sink = Some(sink);
        self.keep_lines = true;
    }

    /// Keeps the last lines in memory, for a violation's report.
    pub fn keep_lines(&mut self) {
        self.keep_lines = true;
    }

    /// Whether anybody reads lines.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        self.keep_lines
    }

    /// Something happened that these numbers stand for.
    pub fn note(&mut self, now: Millis, facts: &[u64]) {
        self.events += 1;
        let [mut a, mut b] = self.digest;
        a = mix(a ^ now.0);
        for fact in facts {
            a = mix(a.rotate_left(5) ^ fact);
            b = b.rotate_left(7).wrapping_add(a);
        }
        self.digest = [a, b];
    }

    /// The same in words, if anybody reads them.
    pub fn say(&mut self, now: Millis, line: impl FnOnce() -> String) {
        if !self.keep_lines {
            return;
        }
        let since = now.since(self.began).0;
        let line = format!("{:>6}.{:03} {}", since / 1_000, since % 1_000, line());
        if let Some(sink) = &mut self.sink {
            sink(&line);
        }
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
    }

    /// The hash over everything so far.
    #[must_use]
    pub fn digest(&self) -> u128 {
        u128::from(mix(self.digest[0])) << 64 | u128::from(mix(self.digest[1] ^ self.events))
    }

    /// How many things happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The last lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
