//! What changed among the endpoints of a name, for whoever watches it.
//!
//! Compares what was told with what is, so a watcher that was away for a while, or looks seldom, gets the sum
//! of what happened and never a step that is over. When to look is the shell's.
//!
//! Invariant: who applies each change to what it was told before has exactly the present endpoints.

use super::{BnsError, Endpoint};
use crate::state::{CellState, Job};
use borg_proto::names::PortName;
use borg_proto::{JobKey, TaskName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One port of a task, as endpoints are told apart.
pub type EndpointKey = (TaskName, PortName);

/// What is different now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Those that are new or other than before, by task.
    pub set: Vec<Endpoint>,
    /// Those that are there no longer.
    pub gone: Vec<EndpointKey>,
}

impl Change {
    /// Whether nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

/// A name that is watched, with what was told of it.
#[derive(Debug)]
pub struct Followed {
    name: String,
    key: JobKey,
    told: BTreeMap<EndpointKey, Endpoint>,
    /// The job as it was looked at last.
    job: Option<Arc<Job>>,
}

impl Followed {
    /// Begins with a name of a job, or of one of its tasks, that exists. Nothing is told yet.
    ///
    /// # Errors
    /// When the text is no name, or names nothing.
    pub fn new(name: &str, state: &CellState) -> Result<Self, BnsError> {
        state.resolve(name)?;
        let job: Vec<&str> = name.split('/').take(2).collect();
        let key = job.join("/").parse()?;
        Ok(Self { name: name.to_owned(), key, told: BTreeMap::new(), job: None })
    }

    /// How many endpoints were told.
    #[must_use]
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether none was told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Whether the job changed since the last look, so that [`Self::look`] is worth it. A machine that changed
    /// its host alone is not noticed.
    #[must_use]
    pub fn has_news(&self, state: &CellState) -> bool {
        match (&self.job, self.present(state)) {
            (None, None) => false,
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// What is different from what was told; from now on it was told. When the name is gone, so are its
    /// endpoints; they may come back with another job of that name.
    pub fn look(&mut self, state: &CellState) -> Change {
        self.job = self.present(state).cloned();
        let now = state.resolve(&self.name).unwrap_or_default();
        let key = |endpoint: &Endpoint| (endpoint.task.clone(), endpoint.port_name.clone());
        let now: BTreeMap<_, _> =
            now.into_iter().map(|endpoint| (key(&endpoint), endpoint)).collect();
        let gone = self.told.keys().filter(|key| !now.contains_key(key)).cloned().collect();
        let is_news =
            |(key, endpoint): &(&EndpointKey, &Endpoint)| self.told.get(key) != Some(endpoint);
        let set = now.iter().filter(is_news).map(|(_, endpoint)| endpoint.clone()).collect();
        self.told = now;
        Change { set, gone }
    }

    fn present<'a>(&self, state: &'a CellState) -> Option<&'a Arc<Job>> {
        state.shared_job(state.job_named(&self.key)?.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, service, with_task};
    use borg_proto::command::Observation;
    use proptest::prelude::*;

    fn web(cell: &mut Cell, tasks: u32) -> borg_proto::JobId {
        let spec = with_task(service("web", tasks, 100, 4 << 20), |task| {
            task.ports = vec!["http".parse().unwrap()];
        });
        cell.submit("ann", spec)
    }

    #[test]
    fn a_watcher_is_told_what_is_there_and_then_only_what_changes() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let job = web(&mut cell, 2);
        let ids = [0, 1].map(|index| cell.place(job, index, machine).unwrap());
        let mut followed = Followed::new("ann/web", &cell.state).unwrap();
        assert!(followed.has_news(&cell.state));
        assert_eq!(followed.look(&cell.state).set.len(), 2);
        assert!(!followed.has_news(&cell.state) && followed.look(&cell.state).is_empty());
        cell.submit("ann", service("other", 1, 100, 4 << 20));
        assert!(!followed.has_news(&cell.state), "another job is none of its business");
        cell.up(ids[1]);
        assert!(followed.has_news(&cell.state));
        let change = followed.look(&cell.state);
        let shown: Vec<_> = change.set.iter().map(|e| (e.task.index, e.up)).collect();
        assert_eq!((shown, change.gone), (vec![(1, true)], vec![]));
        cell.kill("ann", "ann/web", &[0]).unwrap();
        let change = followed.look(&cell.state);
        assert_eq!((change.set, change.gone.len(), followed.len()), (vec![], 1, 1));
        assert!(Followed::new("ann/no", &cell.state).is_err());
    }

    proptest! {
        /// However often somebody looks, and whatever happens between two looks.
        #[test]
        fn what_was_told_is_always_what_is(steps in proptest::collection::vec((0_u32..3, 0_u8..5, any::<bool>()), 1..60)) {
            let mut cell = Cell::new();
            let machine = cell.machine("m-1", 1000, 1 << 30);
            let job = web(&mut cell, 3);
            let mut followed = Followed::new("ann/web", &cell.state).unwrap();
            let mut known = BTreeMap::new();
            for (index, what, look) in steps {
                cell.wait(600_000);
                let id = cell.state.task(borg_proto::TaskId { job, index });
                let id = id.and_then(|task| task.running(borg_proto::TaskId { job, index }));
                match (what, id) {
                    (0, None) => drop(cell.place(job, index, machine)),
                    (1, Some(id)) => drop(cell.up(id)),
                    (2, Some(id)) => drop(cell.ended(id, None)),
                    (3, _) => drop(cell.observe(Observation::MachineDown { machine })),
                    _ => {
                        let info = crate::fixture::info(1000, 1 << 30, &[]);
                        cell.observe(Observation::MachineUp { machine, info });
                    }
                }
                if look {
                    let change = followed.look(&cell.state);
                    for key in change.gone {
                        prop_assert!(known.remove(&key).is_some());
                    }
                    for endpoint in change.set {
                        let key = (endpoint.task.clone(), endpoint.port_name.clone());
                        prop_assert!(known.insert(key, endpoint.clone()) != Some(endpoint));
                    }
                    let now = cell.state.resolve("ann/web").unwrap();
                    prop_assert_eq!(known.values().cloned().collect::<Vec<_>>(), now);
                }
                prop_assert!(followed.has_news(&cell.state) || followed.look(&cell.state).is_empty());
            }
        }
    }
}
