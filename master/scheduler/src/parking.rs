//! Classes that fit nowhere are parked, and put back in their place when something changed that may help them.
//!
//! Invariant: as of the last look no parked class fits on a row that grew since it was parked.

use crate::holdings::{Hopes, Want};
use crate::machines::Grown;
use crate::need::{ClassKey, Cohort};
use crate::scheduler::Scheduler;
use std::sync::Arc;

impl Scheduler {
    /// Takes a job out of the queue until its class may fit somewhere.
    pub(crate) fn park(&mut self, cohort: Cohort) {
        let key = self.needs[&cohort].class.clone();
        if let Some(class) = self.classes.get_mut(&key).map(Arc::make_mut) {
            let want = Want::of(&class.need);
            let reach = class.park(&self.machines, self.retry.contains(&key));
            self.lot.put(&key, want, reach);
        }
        self.queue.park(cohort, &key);
    }

    pub(crate) fn wake(&mut self, class: &ClassKey) {
        self.lot.take(class);
        if !self.gangs.dozes(class, self.at) {
            self.queue.wake_class(class);
        }
    }

    /// Parked classes that may find room on rows that grew.
    fn hopeful(&self, grown: &Grown) -> Vec<ClassKey> {
        if self.lot.len() == 0 {
            return Vec::new();
        }
        let mut hopes = Hopes::of(&self.machines, grown);
        let keys = self.lot.reaching(&grown.blocks, |want| hopes.has(&self.machines, want));
        #[cfg(debug_assertions)]
        for key in self.lot.reaching(&grown.blocks, |want| !hopes.has(&self.machines, want)) {
            let class = self.classes.get(&key).filter(|_| self.queue.has_parked(&key));
            let gains = class.is_some_and(|class| class.gains(&self.machines, grown));
            debug_assert!(!gains, "the bound is one");
        }
        keys
    }

    /// Puts jobs back in their place whose class may fit somewhere since something changed.
    pub(crate) fn wake_parked(&mut self) {
        for class in std::mem::take(&mut self.loosened) {
            self.wake(&class);
        }
        let grown = self.machines.grown_since(self.looked_at);
        self.looked_at = self.machines.version();
        let weights = self.config.weights;
        let facts = grown.has_facts();
        let keys = if facts { self.lot.all() } else { self.hopeful(&grown) };
        for key in keys {
            let Some(class) = self.classes.get_mut(&key).filter(|_| self.queue.has_parked(&key))
            else {
                self.wake(&key);
                continue;
            };
            let before = self.aside.decides(class.need.job);
            if Arc::make_mut(class).wakes(&self.machines, &weights, &grown) {
                self.wake(&key);
            } else {
                // Whoever is about to start there can be pushed out as soon as they have.
                if self.machines.may_hope(class.need.priority) {
                    self.retry.insert(key.clone());
                }
                if facts {
                    self.lot.put(&key, Want::of(&class.need), class.reach());
                }
            }
            self.aside.done(before);
        }
    }
}
