//! BNS: from the name of a job or a task to the hosts and ports where it serves.
//!
//! Reads the state only, so any replica answers. Which ports a task has was decided when it was
//! placed; whether it is up is what its machine last said (Borg paper, section 2.6). [`dns`] answers the same
//! in the words of DNS, [`follow`] tells what changed.

pub mod dns;
pub mod follow;
mod labels;

use crate::state::{CellState, Job, Machine};
use borg_proto::Network;
use borg_proto::names::{NameError, PortName};
use borg_proto::task::Phase;
use borg_proto::{Health, JobKey, TaskName};
use std::fmt;
use std::net::IpAddr;

/// The host on which a task listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// Its address.
    Address(IpAddr),
    /// A name that somebody else gives an address to; empty when the machine did not say.
    Name(&'a str),
}

impl<'a> Host<'a> {
    /// As a machine or a master is called.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map_or(Self::Name(text), Self::Address)
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A placed task, as it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Where it listens.
    pub host: Host<'a>,
    /// Its ports, in the order of the specification's port names.
    pub ports: &'a [u16],
    /// Whether its process runs.
    pub runs: bool,
    /// Whether the task's process runs and is healthy, if that is checked.
    pub up: bool,
    /// How it is by its health check.
    pub health: Health,
}

/// One port of one placed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The task.
    pub task: TaskName,
    /// The port's name in the specification.
    pub port_name: PortName,
    /// Host on which the task listens: its machine's, or its own address.
    pub host: String,
    /// Port number.
    pub port: u16,
    /// Whether the task's process runs and is healthy, if that is checked.
    pub up: bool,
    /// How it is by its health check.
    pub health: Health,
}

/// A name that does not resolve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BnsError {
    /// It is not USER/JOB or USER/JOB/INDEX.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobKey),
    /// The job has no such task.
    #[error("there is no task {0}")]
    NoSuchTask(TaskName),
}

impl CellState {
    /// Endpoints of the placed tasks of `user/job`, or of the task `user/job/index`, by index.
    /// Empty when none is placed or the tasks have no ports. One with a network of its own has none until its
    /// machine has told its address.
    ///
    /// # Errors
    /// When the text is no name, or names nothing.
    pub fn resolve(&self, name: &str) -> Result<Vec<Endpoint>, BnsError> {
        if name.split('/').count() < 3 {
            let key: JobKey = name.parse()?;
            let job = self.job_named(&key).ok_or(BnsError::NoSuchJob(key))?;
            return Ok((0..job.spec.tasks).flat_map(|index| self.endpoints(job, index)).collect());
        }
        let task: TaskName = name.parse()?;
        let job = self.job_named(&task.job).ok_or_else(|| BnsError::NoSuchJob(task.job.clone()))?;
        if job.task(task.index).is_none() {
            return Err(BnsError::NoSuchTask(task));
        }
        Ok(self.endpoints(job, task.index))
    }

    /// Where a task listens, and whether it may be called. `None` while it is not placed, and while it has a
    /// network of its own and its machine has not told its address.
    #[must_use]
    pub fn place<'a>(&'a self, job: &'a Job, index: u32) -> Option<Place<'a>> {
        let placement = job.task(index).and_then(|task| task.placement())?;
        let host = match job.task_spec(index).network {
            Network::Host => {
                let machine = self.machine(placement.machine);
                Host::of(machine.and_then(Machine::task_host).unwrap_or_default())
            }
            Network::Own => Host::Address(placement.address?.into()),
        };
        let health = job.health(index, placement);
        let runs = matches!(placement.phase, Phase::Up { .. });
        Some(Place { host, ports: &placement.ports, runs, up: runs && health.serves(), health })
    }

    fn endpoints(&self, job: &Job, index: u32) -> Vec<Endpoint> {
        let Some(place) = self.place(job, index) else { return Vec::new() };
        let host = place.host.to_string();
        let ports = job.task_spec(index).ports.iter().zip(place.ports);
        ports
            .map(|(port_name, port)| Endpoint {
                task: TaskName { job: job.key.clone(), index },
                port_name: port_name.clone(),
                host: host.clone(),
                port: *port,
                up: place.up,
                health: place.health,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, PORTS, service, with_task};
    use crate::state::CellState;
    use borg_proto::Health;
    use borg_proto::Network;
    use borg_proto::command::Observation;
    use borg_proto::health::{HealthCheck, Probe};
    use borg_proto::resources::TASK_ADDRESS;

    #[test]
    fn a_name_gives_host_and_port_of_placed_tasks_and_whether_they_are_up() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let spec = with_task(service("web", 2, 100, 4 << 20), |task| {
            task.ports = vec!["http".parse().unwrap(), "admin".parse().unwrap()];
        });
        let job = cell.submit("ann", spec);
        assert_eq!(cell.state.resolve("ann/web").unwrap(), []);
        let id = cell.place(job, 1, machine).unwrap();
        cell.up(id);
        let found = cell.state.resolve("ann/web").unwrap();
        assert_eq!(found, cell.state.resolve("ann/web/1").unwrap());
        let shown: Vec<String> = found
            .iter()
            .map(|e| format!("{} {} {}:{} {}", e.task, e.port_name, e.host, e.port, e.up))
            .collect();
        assert_eq!(
            shown,
            [
                format!("ann/web/1 http 127.0.0.1:{} true", PORTS.0),
                format!("ann/web/1 admin 127.0.0.1:{} true", PORTS.0 + 1)
            ]
        );
    }

    #[test]
    fn a_checked_task_is_up_while_it_is_healthy() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let spec = with_task(service("web", 1, 100, 4 << 20), |task| {
            task.ports = vec!["http".parse().unwrap()];
            task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
        });
        let job = cell.submit("ann", spec);
        let id = cell.place(job, 0, machine).unwrap();
        let found = |cell: &Cell| {
            let endpoint = cell.state.resolve("ann/web").unwrap().remove(0);
            (endpoint.up, endpoint.health)
        };
        assert_eq!(found(&cell), (false, Health::Unchecked), "it does not run");
        cell.up(id);
        assert_eq!(found(&cell), (false, Health::Starting), "nothing was said of it yet");
        let said = |health| Observation::TaskHealth { id, health };
        cell.observe(said(Health::Healthy));
        assert_eq!(found(&cell), (true, Health::Healthy));
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
        cell.observe(said(Health::Unhealthy));
        assert_eq!(found(&cell), (false, Health::Unhealthy));
        // Another process has to show it again.
        let (pid, since) = (8, cell.now);
        cell.observe(Observation::TaskUp { id, pid, since, restarts: 1, run: None });
        assert_eq!(found(&cell), (false, Health::Starting));
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn a_task_with_a_network_of_its_own_is_found_at_its_address_while_that_is_known() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let spec = with_task(service("web", 2, 100, 4 << 20), |task| {
            task.ports = ["http", "admin"].map(|port| port.parse().unwrap()).to_vec();
            task.network = Network::Own;
        });
        let job = cell.submit("ann", spec);
        assert_eq!(
            cell.place(job, 0, machine).unwrap_err().to_string(),
            "machine m-1 has 0/1000 of addresses for tasks free, task asks 1000/1000"
        );
        let mut with_range = crate::fixture::info(1000, 1 << 30, &[]);
        with_range.capacity.devices = [(TASK_ADDRESS.into(), 2_000)].into();
        cell.observe(Observation::MachineUp { machine, info: with_range });
        let ids = [0, 1].map(|index| cell.place(job, index, machine).unwrap());
        let shown = |cell: &Cell| -> Vec<String> {
            let found = cell.state.resolve("ann/web").unwrap();
            found
                .iter()
                .map(|e| format!("{} {}:{} {}", e.port_name, e.host, e.port, e.up))
                .collect()
        };
        for id in ids {
            cell.up(id);
        }
        assert_eq!(shown(&cell), [""; 0], "nobody knows where yet");
        let at = |id, last| Observation::TaskAddress { id, address: [10, 88, 3, last].into() };
        cell.observe(at(ids[0], 5));
        // Both have the same numbers, each on its own address.
        assert_eq!(shown(&cell), ["http 10.88.3.5:8000 true", "admin 10.88.3.5:8001 true"]);
        cell.observe(at(ids[1], 6));
        assert_eq!(shown(&cell).len(), 4);
        assert_eq!(cell.state.audit(), []);
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
        // Another process may have another address.
        let (pid, since) = (8, cell.now);
        cell.observe(Observation::TaskUp { id: ids[0], pid, since, restarts: 1, run: None });
        assert_eq!(shown(&cell).len(), 2);
        // The machine's range became smaller: one has to go.
        let mut smaller = crate::fixture::info(1000, 1 << 30, &[]);
        smaller.capacity.devices = [(TASK_ADDRESS.into(), 1_000)].into();
        cell.observe(Observation::MachineUp { machine, info: smaller });
        assert_eq!(cell.state.pending().count(), 1);
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn what_a_task_did_not_ask_for_changes_nothing_of_it() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let job = cell.submit("ann", service("web", 1, 100, 4 << 20));
        let id = cell.place(job, 0, machine).unwrap();
        cell.up(id);
        let before = cell.state.task(id.task).cloned();
        // It has neither a network of its own nor a health check.
        cell.observe(Observation::TaskAddress { id, address: [10, 88, 3, 5].into() });
        cell.observe(Observation::TaskHealth { id, health: Health::Unhealthy });
        assert_eq!(cell.state.task(id.task).cloned(), before);
    }

    #[test]
    fn names_that_name_nothing_say_so() {
        let mut cell = Cell::new();
        cell.submit("ann", service("web", 2, 100, 4 << 20));
        let refused = |name: &str| cell.state.resolve(name).unwrap_err().to_string();
        assert_eq!(refused("ann/no"), "there is no job ann/no");
        assert_eq!(refused("ann/web/2"), "there is no task ann/web/2");
        assert!(refused("web").contains("is not USER/JOB"));
    }
}
