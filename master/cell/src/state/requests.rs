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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, user};
    use borg_proto::command::Action;

    fn submit(name: &str, request: &str, at: u64) -> Command {
        let action = Action::SubmitJob { spec: Arc::new(batch(name, 1, 100, 4 << 20)) };
        Command { at: Millis(at), by: user("ann"), request: Some(request.into()), action }
    }

    #[test]
    fn a_repeated_request_has_one_effect_and_the_same_answer() {
        let mut state = Cell::new().state;
        let first = state.apply(1, &submit("web", "r1", 10)).unwrap();
        let second = state.apply(2, &submit("web", "r1", 20)).unwrap();
        assert_eq!((second.answer, second.events), (first.answer, vec![]));
        assert_eq!(state.jobs().count(), 1);
        let refused = state.apply(3, &submit("web", "r2", 30)).unwrap_err();
        assert_eq!(state.apply(4, &submit("web", "r2", 40)).unwrap_err(), refused);
    }

    #[test]
    fn a_request_id_stands_for_one_change_of_one_user() {
        let mut state = Cell::new().state;
        state.apply(1, &submit("web", "r1", 10)).unwrap();
        let reused = state.apply(2, &submit("other", "r1", 10)).unwrap_err();
        assert_eq!(
            reused.to_string(),
            "request id \"r1\" was used for another change before: choose a new one"
        );
        let bob = Command { by: user("bob"), ..submit("web", "r1", 10) };
        assert!(!state.apply(3, &bob).unwrap().events.is_empty());
        let long = state.apply(4, &submit("web", &"x".repeat(65), 10)).unwrap_err();
        assert_eq!(long.to_string(), "request id has 65 bytes, allowed are 1 to 64");
    }

    #[test]
    fn the_oldest_requests_are_forgotten() {
        let mut state = Cell::new().state;
        for i in 0..REMEMBERED as u64 + 5 {
            let refused = Command {
                action: Action::Kill { job: "ann/no".parse().unwrap(), tasks: vec![] },
                ..submit("x", &i.to_string(), i)
            };
            state.apply(i + 1, &refused).unwrap_err();
        }
        assert_eq!(state.requests.len(), REMEMBERED);
        assert_eq!(&*state.request_order[0].1, "5");
        assert_eq!(state.audit(), []);
    }
}
