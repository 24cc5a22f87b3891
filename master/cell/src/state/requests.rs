//! Repeated requests: a client that got no answer sends the same request id again, and is told
//! what came of it the first time.
//!
//! Invariant: a request id of a user has at most one effect, as long as it is remembered.

use super::Answer;
use crate::rejection::Rejection;

/// How many requests are remembered, over all users. 10,000: our choice; some minutes of the
/// busiest cell, far longer than a client goes on trying.
pub const REMEMBERED: usize = 10_000;

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Hash of what was asked, so that another request under the same id is noticed.
    pub(crate) asked: u64,
    /// What was answered.
    pub(crate) outcome: Result<Answer, Rejection>,
}
