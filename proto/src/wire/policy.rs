//! The scheduling policy of a cell.

use super::command::{Change, request_id};
use super::error::{At, WireError, check_len};
use super::pb;
use crate::command::Action;
use crate::names::shorten;
use crate::policy::{Policy, Term};
use std::collections::BTreeMap;

pub(super) fn write(policy: Option<Policy>, weights: &BTreeMap<Term, i16>) -> pb::SetPolicy {
    pb::SetPolicy {
        policy: policy.map(|policy| policy.to_string()).unwrap_or_default(),
        weights: weights
            .iter()
            .map(|(term, weight)| (term.to_string(), (*weight).into()))
            .collect(),
    }
}

pub(super) fn set(set: &pb::SetPolicy) -> Result<Action, WireError> {
    if set.policy.is_empty() && set.weights.is_empty() {
        let why = "is given: name a policy, or weights";
        return Err(WireError::new("policy", "nothing", why));
    }
    let policy = Some(&set.policy).filter(|name| !name.is_empty());
    let policy = policy.map(|name| read_policy(name).at("policy")).transpose()?;
    Ok(Action::SetPolicy { policy, weights: read_weights(&set.weights).at("weights")? })
}

/// A policy by name.
///
/// # Errors
/// When there is none of that name.
pub fn read_policy(name: &str) -> Result<Policy, WireError> {
    let all = Policy::ALL.map(Policy::name).join(", ");
    let why = format!("is no policy: {all}");
    name.parse().map_err(|_| WireError::new("", format!("{:?}", shorten(name)), why))
}

/// Weights by name.
///
/// # Errors
/// When there is none of a name, or one is out of its bounds.
pub fn read_weights(weights: &BTreeMap<String, i32>) -> Result<BTreeMap<Term, i16>, WireError> {
    check_len("", weights.len(), Term::ALL.len())?;
    let read = |(name, weight): (&String, &i32)| {
        let all = Term::ALL.map(Term::name).join(", ");
        let none = format!("is no weight: {all}");
        let term: Term =
            name.parse().map_err(|_| WireError::new("", format!("{:?}", shorten(name)), none))?;
        let weight = term.check((*weight).into());
        Ok((term, weight.map_err(|why| WireError::new(term.name(), weights[name], why))?))
    };
    weights.iter().map(read).collect()
}

impl TryFrom<pb::SetPolicyRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SetPolicyRequest) -> Result<Self, WireError> {
        let action = set(&pb::SetPolicy { policy: r.policy, weights: r.weights })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}
