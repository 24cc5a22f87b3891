//! How many connections a listener has at once, in all and of one address, so that nobody takes the files that
//! the rest of a process needs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The places that a listener has for connections.
#[derive(Debug, Clone)]
pub struct Places {
    most: usize,
    of_one: usize,
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    of: IpAddr,
}

impl Places {
    /// At most so many at once, and so many of one address.
    #[must_use]
    pub fn new(most: usize, of_one: usize) -> Self {
        Self { most, of_one, taken: Arc::default() }
    }

    /// A place for a connection from there, if there is one left.
    #[must_use]
    pub fn take(&self, of: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&of).copied().unwrap_or(0);
        if own >= self.of_one || taken.values().sum::<usize>() >= self.most {
            return None;
        }
        taken.insert(of, own + 1);
        Some(Place { places: self.clone(), of })
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.of) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places_and_gives_back_what_it_had() {
        let places = Places::new(3, 2);
        let [one, two] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let first = places.take(one);
        let second = places.take(one);
        assert!(first.is_some() && second.is_some() && places.take(one).is_none());
        let other = places.take(two);
        assert!(other.is_some() && places.take(two).is_none(), "three in all");
        drop(first);
        assert_eq!(places.taken(), 2);
        assert!(places.take(one).is_some());
        drop((second, other));
        assert_eq!(places.taken(), 0);
    }
}
