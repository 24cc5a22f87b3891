//! How the scheduler of the cell chooses among machines that will do.
//!
//! In the state, so that each leader chooses as the one before it. What runs does not move when it
//! changes.

use super::turn::Turn;
use super::{Answer, CellState};
use crate::event::EventKind;
use borg_proto::policy::{CellPolicy, Policy, Term};
use std::collections::BTreeMap;

impl CellState {
    /// What was decided for this cell; `None` while nobody decided anything.
    #[must_use]
    pub fn policy(&self) -> Option<CellPolicy> {
        self.policy
    }
}

impl Turn<'_> {
    /// Chooses another policy, or single weights.
    pub(super) fn set_policy(
        &mut self,
        named: Option<Policy>,
        weights: &BTreeMap<Term, i16>,
    ) -> Answer {
        let new = self.state.policy.unwrap_or_default().after(named, weights);
        if self.state.policy != Some(new) {
            self.state.policy = Some(new);
            self.emit(EventKind::PolicyChanged);
        }
        Answer::None
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, user};
    use borg_proto::command::Action;
    use borg_proto::policy::{Policy, Term};

    fn set(policy: Option<Policy>, weights: &[(Term, i16)]) -> Action {
        Action::SetPolicy { policy, weights: weights.iter().copied().collect() }
    }

    #[test]
    fn a_policy_is_set_by_the_admin_and_told_once() {
        let mut cell = Cell::new();
        assert_eq!(cell.state.policy(), None);
        let refused = cell.apply(user("ann"), set(Some(Policy::BestFit), &[])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "user ann may not set the scheduling policy: that needs admin"
        );
        let fit = set(Some(Policy::BestFit), &[(Term::Fit, 120)]);
        assert_eq!(cell.apply(user("admin"), fit.clone()).unwrap().events.len(), 1);
        assert_eq!(cell.apply(user("admin"), fit).unwrap().events, [], "as it is already");
        cell.apply(user("admin"), set(None, &[(Term::Soft, 0)])).unwrap();
        assert_eq!(cell.state.policy().unwrap().to_string(), "best-fit fit=120 soft=0");
    }
}
