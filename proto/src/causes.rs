//! Errors in words.

use std::error::Error;

/// An error and what it comes from, in one line.
#[must_use]
pub fn in_full(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
