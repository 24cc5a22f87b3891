//! A number of places, and which users have them.
//!
//! A user may have half of what is still free, so that however many one takes, there is one for the next.

use crate::names::UserName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places. Clones are one.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    taken: Mutex<BTreeMap<UserName, usize>>,
}

/// One place, until this is dropped.
#[derive(Debug)]
pub struct Slot {
    user: UserName,
    slots: Slots,
}

/// A user has as many as are still free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user {user} has {own} open, and {free} of {most} are free")]
pub struct NoSlot {
    /// Who wanted one.
    pub user: UserName,
    /// How many the user has.
    pub own: usize,
    /// How many nobody has.
    pub free: usize,
    /// How many there are.
    pub most: usize,
}

impl Slots {
    /// So many places.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, taken: Mutex::default() }))
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<UserName, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a user.
    ///
    /// # Errors
    /// When the user has as many as are still free.
    pub fn take(&self, user: &UserName) -> Result<Slot, NoSlot> {
        let mut taken = self.taken();
        let most = self.0.most;
        let free = most.saturating_sub(taken.values().sum());
        let own = taken.get(user).copied().unwrap_or(0);
        if own >= free {
            return Err(NoSlot { user: user.clone(), own, free, most });
        }
        taken.insert(user.clone(), own + 1);
        Ok(Slot { user: user.clone(), slots: self.clone() })
    }

    /// Whether a user has any.
    #[must_use]
    pub fn has(&self, user: &UserName) -> bool {
        self.taken().contains_key(user)
    }
}

impl Slot {
    /// Whose it is.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        if let Some(own) = taken.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_many_leaves_some_to_the_next() {
        let slots = Slots::new(8);
        let [ann, bob, carol] = ["ann", "bob", "carol"].map(|name| UserName::new(name).unwrap());
        let mut anns: Vec<Slot> = std::iter::from_fn(|| slots.take(&ann).ok()).collect();
        assert_eq!(anns.len(), 4);
        let bobs: Vec<Slot> = std::iter::from_fn(|| slots.take(&bob).ok()).collect();
        assert_eq!(bobs.len(), 2);
        let _carols = slots.take(&carol).unwrap();
        let refused = slots.take(&ann).unwrap_err();
        assert_eq!(refused.to_string(), "user ann has 4 open, and 1 of 8 are free");
        anns.truncate(2);
        assert!(slots.take(&ann).is_ok());
        drop((anns, bobs));
        assert!(!slots.has(&ann) && !slots.has(&bob) && slots.has(&carol));
    }
}
