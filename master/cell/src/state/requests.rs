//! Repeated requests: a client that got no answer sends the same request id again, and is told
//! what came of it the first time.
//!
//! Invariant: a request id of a user has at most one effect, as long as it is remembered.

use super::turn::Turn;
use super::{Answer, Applied};
use crate::rejection::Rejection;
use borg_proto::command::{Command, Principal, RequestId};
use borg_proto::wire::MAX_REQUEST_ID_BYTES;
use borg_proto::{Millis, UserName};
use std::sync::Arc;

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

impl Turn<'_> {
    /// Does what the command asks, unless its request id says that it was done already.
    pub(super) fn once(&mut self, command: &Command) -> Result<Applied, Rejection> {
        let (Principal::User(user), Some(request)) = (&command.by, &command.request) else {
            return self.act(command);
        };
        if !(1..=MAX_REQUEST_ID_BYTES).contains(&request.len()) {
            let bytes = u32::try_from(request.len()).unwrap_or(u32::MAX);
            return Err(Rejection::RequestId { bytes });
        }
        let key = (user.clone(), request.clone());
        let asked = hash_of(command);
        if let Some(known) = self.state.requests.get(&key) {
            if known.asked != asked {
                return Err(Rejection::RequestReused { request: request.clone() });
            }
            return known.outcome.clone().map(|answer| Applied { events: Vec::new(), answer });
        }
        let result = self.act(command);
        let outcome = result.as_ref().map(|applied| applied.answer.clone()).map_err(Clone::clone);
        self.remember(key, Remembered { asked, outcome });
        result
    }

    fn remember(&mut self, key: (UserName, RequestId), what: Remembered) {
        if self.state.request_order.len() >= REMEMBERED
            && let Some(oldest) = self.state.request_order.pop_front()
        {
            self.state.requests.remove(&oldest);
        }
        self.state.request_order.push_back(key.clone());
        self.state.requests.insert(key, Arc::new(what));
    }
}

/// What was asked, whenever it was asked.
fn hash_of(command: &Command) -> u64 {
    let timeless = Command { at: Millis(0), ..command.clone() };
    xxhash_rust::xxh3::xxh3_64(&timeless.encode())
}
