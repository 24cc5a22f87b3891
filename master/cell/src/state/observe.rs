//! What machines report, folded into the state.
//!
//! Invariant: a report about an incarnation that is not the present one of its task changes
//! nothing.

use borg_proto::Millis;

/// How long an incarnation must have been placed for its end not to count as one of a row of
/// quick failures. 10 minutes: our choice, twice the longest back-off.
pub const LASTED: Millis = Millis::from_secs(600);
/// Wait after the first of a row of quick failures; doubles with each. 1 s: our choice.
pub const FIRST_BACK_OFF: Millis = Millis::from_secs(1);
/// Longest wait after a failure. 5 minutes: our choice.
pub const LONGEST_BACK_OFF: Millis = Millis::from_secs(300);
