//! Sessions that were begun, so that none is begun twice: a client that hears nothing of one master asks the
//! next, while the first may have passed it on.

use borg_proto::UserName;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Sessions of which it is known that they were begun. 4,096: our choice; clients ask again for some seconds,
/// in which no user begins so many.
const REMEMBERED: usize = 4_096;

/// The sessions that were begun last. Clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun(Arc<Mutex<VecDeque<(UserName, String)>>>);

impl Begun {
    /// Whether a session may begin, which it may not do again then. Without a name it always may.
    pub(super) fn begin(&self, user: &UserName, once: &str) -> bool {
        if once.is_empty() {
            return true;
        }
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.iter().any(|(by, name)| by == user && name == once) {
            return false;
        }
        if begun.len() >= REMEMBERED {
            begun.pop_front();
        }
        begun.push_back((user.clone(), once.to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_begins_once_for_its_user_and_those_without_a_name_always() {
        let begun = Begun::default();
        let [ann, bob] = ["ann", "bob"].map(|name| UserName::new(name).unwrap());
        assert!(begun.begin(&ann, "x") && !begun.begin(&ann, "x"));
        assert!(begun.begin(&bob, "x"), "nobody can spoil what another one means to begin");
        assert!(begun.begin(&ann, "") && begun.begin(&ann, ""));
        for number in 0..REMEMBERED {
            assert!(begun.begin(&bob, &format!("{number}")));
        }
        assert!(begun.begin(&ann, "x"), "what is remembered is bounded");
    }
}
