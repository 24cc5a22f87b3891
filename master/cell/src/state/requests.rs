//! Repeated requests: a client that got no answer sends the same request id again, and is told
//! what came of it the first time.
//!
//! Invariants: a request id of a user has at most one effect, as long as it is remembered. What
//! others ask for makes a user's requests forgotten only when the whole memory is full, and then
//! those of whoever asked for most go first.

use super::turn::Turn;
use super::{Answer, Applied};
use crate::rejection::Rejection;
use borg_proto::command::{Action, Command, Principal, RequestId};
use borg_proto::wire::MAX_REQUEST_ID_BYTES;
use borg_proto::{Millis, UserName};
use imbl::{OrdMap, OrdSet, Vector};
use std::sync::Arc;

/// How many requests of one user are remembered. 1,000: our choice; some minutes of a busy client,
/// far longer than it goes on trying.
pub const REMEMBERED_PER_USER: usize = 1_000;
/// How many requests are remembered over all users. 100,000: our choice, a few dozen MB.
pub const REMEMBERED: usize = 100_000;

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Hash of what was asked, so that another request under the same id is noticed.
    pub(crate) asked: u64,
    /// What was answered.
    pub(crate) outcome: Result<Answer, Rejection>,
}

/// The requests of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct OfUser {
    /// Oldest first.
    order: Vector<RequestId>,
    known: OrdMap<RequestId, Arc<Remembered>>,
}

/// What clients asked for lately, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Requests {
    users: OrdMap<UserName, OfUser>,
    /// Each user with the number of its requests.
    counts: OrdSet<(usize, UserName)>,
    len: usize,
}

impl Requests {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, user: &UserName, request: &RequestId) -> Option<&Remembered> {
        self.users.get(user)?.known.get(request).map(AsRef::as_ref)
    }

    /// All, by user, each user's oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&UserName, &RequestId, &Remembered)> {
        self.users.iter().flat_map(|(user, of)| {
            of.order.iter().filter_map(move |id| Some((user, id, of.known.get(id)?.as_ref())))
        })
    }

    /// Adds a request that is not known yet as the user's newest.
    pub(crate) fn add(&mut self, user: UserName, request: RequestId, what: Remembered) {
        let of = self.users.entry(user.clone()).or_default();
        let before = of.order.len();
        of.order.push_back(request.clone());
        of.known.insert(request, Arc::new(what));
        self.recount(user, before, before + 1);
    }

    /// Adds a request, and forgets another if there are too many.
    fn remember(&mut self, user: UserName, request: RequestId, what: Remembered) {
        if self.users.get(&user).is_some_and(|of| of.order.len() >= REMEMBERED_PER_USER) {
            self.forget_oldest(user.clone());
        } else if self.len >= REMEMBERED
            && let Some((_, most)) = self.counts.get_max().cloned()
        {
            self.forget_oldest(most);
        }
        self.add(user, request, what);
    }

    fn forget_oldest(&mut self, user: UserName) {
        let Some(of) = self.users.get_mut(&user) else { return };
        let before = of.order.len();
        let Some(oldest) = of.order.pop_front() else { return };
        of.known.remove(&oldest);
        if before == 1 {
            self.users.remove(&user);
        }
        self.recount(user, before, before - 1);
    }

    fn recount(&mut self, user: UserName, before: usize, after: usize) {
        self.len = self.len + after - before;
        self.counts.remove(&(before, user.clone()));
        if after > 0 {
            self.counts.insert((after, user));
        }
    }

    /// Whether nothing is there twice or not at all, and no more than may be.
    pub(crate) fn is_sound(&self) -> bool {
        let each = self.users.iter().all(|(user, of)| {
            let listed = of.order.iter().filter(|id| of.known.contains_key(*id)).count();
            (1..=REMEMBERED_PER_USER).contains(&listed)
                && listed == of.order.len()
                && listed == of.known.len()
                && self.counts.contains(&(listed, user.clone()))
        });
        let sum: usize = self.users.values().map(|of| of.order.len()).sum();
        each && self.counts.len() == self.users.len() && self.len == sum && sum <= REMEMBERED
    }
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
        let asked = hash_of(command);
        if let Some(known) = self.state.requests.get(user, request) {
            if known.asked != asked {
                return Err(Rejection::RequestReused { request: request.clone() });
            }
            return known.outcome.clone().map(|answer| Applied { events: Vec::new(), answer });
        }
        let result = self.act(command);
        let outcome = result.as_ref().map(|applied| applied.answer.clone()).map_err(Clone::clone);
        let what = Remembered { asked, outcome };
        self.state.requests.remember(user.clone(), request.clone(), what);
        result
    }
}

/// What was asked, whenever it was asked.
fn hash_of(command: &Command) -> u64 {
    let mut timeless = Command { at: Millis(0), ..command.clone() };
    if let Action::GiveUp { answering, .. } = &mut timeless.action {
        *answering = None;
    }
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

    fn refused(user_name: &str, request: u64) -> Command {
        Command {
            by: user(user_name),
            action: Action::Kill { job: "ann/no".parse().unwrap(), tasks: vec![] },
            ..submit("x", &request.to_string(), request)
        }
    }

    #[test]
    fn a_user_who_asks_without_end_forgets_only_what_it_asked_itself() {
        let mut state = Cell::new().state;
        state.apply(1, &submit("web", "r1", 10)).unwrap();
        for i in 0..REMEMBERED_PER_USER as u64 + 5 {
            state.apply(i + 2, &refused("bob", i)).unwrap_err();
        }
        assert_eq!(state.requests.len(), REMEMBERED_PER_USER + 1);
        let bob = "bob".parse().unwrap();
        assert!(state.requests.get(&bob, &"4".into()).is_none());
        assert!(state.requests.get(&bob, &"5".into()).is_some());
        assert_eq!(state.audit(), []);
        let again = state.apply(state.applied() + 1, &submit("web", "r1", 20)).unwrap();
        assert_eq!(again.events, [], "it is remembered");
        assert_eq!(crate::state::CellState::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn when_all_is_full_whoever_asked_for_most_forgets_first() {
        let mut requests = Requests::default();
        let what = Remembered { asked: 0, outcome: Ok(Answer::None) };
        let add = |requests: &mut Requests, user: &str, id: usize| {
            requests.remember(user.parse().unwrap(), id.to_string().into(), what.clone());
        };
        add(&mut requests, "few", 0);
        for id in 0..REMEMBERED - 1 {
            add(&mut requests, &format!("user-{}", id % 101), id);
        }
        assert_eq!(requests.len(), REMEMBERED);
        for id in 0..50 {
            add(&mut requests, "late", id);
        }
        assert_eq!(requests.len(), REMEMBERED);
        assert!(requests.get(&"few".parse().unwrap(), &"0".into()).is_some());
        assert!(requests.is_sound());
    }
}
