//! Cells for tests: machines that are up and jobs that were submitted, in a few lines.
//!
//! [`Cell`] is a [`CellState`] with its own log index and clock; every change goes through
//! `apply`, and every step is audited.
//!
//! ```
//! use borg_cell::fixture::{Cell, batch};
//! let mut cell = Cell::new();
//! let machine = cell.machine("m-1", 1000, 1 << 30);
//! let job = cell.submit("ann", batch("count", 2, 400, 4 << 20));
//! cell.place(job, 0, machine).unwrap();
//! assert_eq!(cell.state.pending().count(), 1);
//! ```

use crate::event::Event;
use crate::rejection::Rejection;
use crate::state::{Answer, Applied, CellState};
use borg_proto::command::{Action, Assignment, Command, Observation, Principal};
use borg_proto::cron::Cron;
use borg_proto::identity::ADMIN;
use borg_proto::machine::MachineAddress;
use borg_proto::{
    CellName, FailureCause, IncarnationId, JobId, JobKind, JobSpec, MachineId, MachineInfo, Millis,
    Priority, ReplicaId, Resources, TaskId, TaskSpec, UserName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// First port of every machine here, and how many there are.
pub const PORTS: (u16, u32) = (20_000, 100);

/// A cell under test.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The state itself.
    pub state: CellState,
    /// Time of the next command.
    pub now: Millis,
    /// All commands so far, refused ones included.
    pub log: Vec<Command>,
    /// Their events.
    pub events: Vec<Event>,
}

impl Default for Cell {
    fn default() -> Self {
        Self::new()
    }
}

impl Cell {
    /// A cell `lab` without machines, at 1,000,000 ms.
    ///
    /// # Panics
    /// Never: the name is fine.
    #[must_use]
    pub fn new() -> Self {
        let name = CellName::new("lab").expect("a name");
        Self {
            state: CellState::new(name),
            now: Millis(1_000_000),
            log: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A cell of which all masters understand entries of this level.
    ///
    /// # Panics
    /// Never: a leader may always say so.
    #[must_use]
    pub fn at_level(level: u32) -> Self {
        let mut cell = Self::new();
        cell.apply(master(), Action::RaiseLevel { level }).expect("a level is only raised");
        cell
    }

    /// Lets happen what was to happen by now.
    ///
    /// # Panics
    /// Never: a leader may always say so.
    pub fn advance(&mut self) {
        self.apply(master(), Action::Advance).expect("time goes on");
    }

    /// Applies an action of somebody as the next entry.
    ///
    /// # Errors
    /// What the state refuses.
    ///
    /// # Panics
    /// When the state breaks an invariant.
    pub fn apply(&mut self, by: Principal, action: Action) -> Result<Applied, Rejection> {
        let command = Command { at: self.now, by, request: None, action };
        let result = self.state.apply(self.state.applied() + 1, &command);
        if let Ok(applied) = &result {
            self.events.extend(applied.events.iter().cloned());
        }
        assert_eq!(self.state.audit(), [], "after {command:?}");
        self.log.push(command);
        result
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now + Millis(ms);
    }

    /// Adds a machine that is up, with these cores and memory, 100 GiB of disk and [`PORTS`].
    pub fn machine(&mut self, name: &str, cpu_milli: u64, ram_bytes: u64) -> MachineId {
        self.machine_with(name, info(cpu_milli, ram_bytes, &[]))
    }

    /// Adds a machine that is up and has said this.
    ///
    /// # Panics
    /// When the state refuses it.
    pub fn machine_with(&mut self, name: &str, info: MachineInfo) -> MachineId {
        let machine =
            MachineAddress { name: name.parse().expect("a name"), address: format!("{name}:7000") };
        let added =
            self.apply(user(ADMIN), Action::AddMachine { machine }).expect("room for a machine");
        let Answer::Machine(id) = added.answer else { panic!("{added:?}") };
        self.observe(Observation::MachineUp { machine: id, info });
        id
    }

    /// Submits a job.
    ///
    /// # Panics
    /// When the state refuses it; see [`Cell::try_submit`].
    pub fn submit(&mut self, owner: &str, spec: JobSpec) -> JobId {
        self.try_submit(owner, spec).expect("an acceptable job")
    }

    /// Submits a job.
    ///
    /// # Errors
    /// What the state refuses.
    ///
    /// # Panics
    /// When the answer is not a job's.
    pub fn try_submit(&mut self, owner: &str, spec: JobSpec) -> Result<JobId, Rejection> {
        let applied = self.apply(user(owner), Action::SubmitJob { spec: Arc::new(spec) })?;
        let Answer::Job { id, .. } = applied.answer else { panic!("{applied:?}") };
        Ok(id)
    }

    /// Places one task.
    ///
    /// # Errors
    /// What the state refuses.
    pub fn place(
        &mut self,
        job: JobId,
        index: u32,
        machine: MachineId,
    ) -> Result<IncarnationId, Rejection> {
        self.place_over(job, index, machine, Vec::new())
    }

    /// Places one task at the expense of others.
    ///
    /// # Errors
    /// What the state refuses.
    ///
    /// # Panics
    /// When the answer is not a placement's.
    pub fn place_over(
        &mut self,
        job: JobId,
        index: u32,
        machine: MachineId,
        victims: Vec<IncarnationId>,
    ) -> Result<IncarnationId, Rejection> {
        let assignments =
            vec![Assignment { victims, ..Assignment::new(TaskId { job, index }, machine) }];
        let applied = self.apply(master(), Action::Place { assignments })?;
        let Answer::Placed { mut results } = applied.answer else { panic!("{applied:?}") };
        results.remove(0)
    }

    /// Takes in one observation; gives its events.
    ///
    /// # Panics
    /// Never: observations are not refused.
    pub fn observe(&mut self, change: Observation) -> Vec<Event> {
        self.apply(master(), Action::Observe { changes: vec![change] })
            .expect("observations are not refused")
            .events
    }

    /// An incarnation's process runs, with pid 100.
    pub fn up(&mut self, id: IncarnationId) -> Vec<Event> {
        self.observe(Observation::TaskUp { id, pid: 100, since: self.now, restarts: 0, run: None })
    }

    /// An incarnation is over; `None` means exit code 0.
    pub fn ended(&mut self, id: IncarnationId, failure: Option<FailureCause>) -> Vec<Event> {
        self.observe(Observation::TaskEnded { id, at: self.now, failure, run: None })
    }

    /// Kills a job, or some of its tasks; gives how many were alive.
    ///
    /// # Errors
    /// What the state refuses.
    ///
    /// # Panics
    /// When the name is none, or the answer is not a kill's.
    pub fn kill(&mut self, by: &str, job: &str, tasks: &[u32]) -> Result<u32, Rejection> {
        let action =
            Action::Kill { job: job.parse().expect("a job's name"), tasks: tasks.to_vec() };
        let applied = self.apply(user(by), action)?;
        let Answer::Killed { tasks } = applied.answer else { panic!("{applied:?}") };
        Ok(tasks)
    }
}

/// A user who asks.
///
/// # Panics
/// When the text is no name.
#[must_use]
pub fn user(name: &str) -> Principal {
    Principal::User(UserName::new(name).expect("a name"))
}

/// The leader, replica 1.
#[must_use]
pub fn master() -> Principal {
    Principal::Master(ReplicaId(1))
}

/// What a machine with 100 GiB of disk and [`PORTS`] says of itself.
#[must_use]
pub fn info(cpu_milli: u64, ram_bytes: u64, attributes: &[(&str, &str)]) -> MachineInfo {
    let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    MachineInfo {
        capacity: Resources {
            cpu_milli,
            ram_bytes,
            disk_bytes: 100 << 30,
            ports: PORTS.1,
            ..Resources::default()
        },
        first_port: PORTS.0,
        attributes: attributes.collect(),
        boot_id: "boot-1".to_owned(),
        missing_isolation: Vec::new(),
        task_host: "127.0.0.1".to_owned(),
    }
}

/// A service of production priority.
#[must_use]
pub fn service(name: &str, tasks: u32, cpu_milli: u64, ram_bytes: u64) -> JobSpec {
    job(name, JobKind::Service, 120, tasks, cpu_milli, ram_bytes)
}

/// A batch job of batch priority, without retries.
#[must_use]
pub fn batch(name: &str, tasks: u32, cpu_milli: u64, ram_bytes: u64) -> JobSpec {
    job(name, JobKind::Batch, 100, tasks, cpu_milli, ram_bytes)
}

/// A daemon of production priority.
#[must_use]
pub fn daemon(name: &str, cpu_milli: u64, ram_bytes: u64) -> JobSpec {
    job(name, JobKind::Daemon, 120, 1, cpu_milli, ram_bytes)
}

/// A cron job of batch priority, with such a schedule.
///
/// # Panics
/// When the text is no schedule.
#[must_use]
pub fn cron(name: &str, schedule: &str) -> JobSpec {
    let cron = Cron::new(schedule.parse().expect("a schedule"));
    JobSpec { cron: Some(cron), ..job(name, JobKind::Cron, 100, 1, 100, 4 << 20) }
}

/// An alloc set of production priority.
#[must_use]
pub fn alloc_set(name: &str, allocs: u32, cpu_milli: u64, ram_bytes: u64) -> JobSpec {
    let set = job(name, JobKind::AllocSet, 120, allocs, cpu_milli, ram_bytes);
    with_task(set, |task| task.command.clear())
}

/// The same job in an alloc set.
///
/// # Panics
/// When the text is no name of a job.
#[must_use]
pub fn within(spec: JobSpec, alloc_set: &str) -> JobSpec {
    JobSpec { alloc_set: Some(alloc_set.parse().expect("a job's name")), ..spec }
}

fn job(
    name: &str,
    kind: JobKind,
    priority: u64,
    tasks: u32,
    cpu_milli: u64,
    ram_bytes: u64,
) -> JobSpec {
    let task = TaskSpec {
        command: vec!["/bin/true".to_owned()],
        env: BTreeMap::new(),
        limit: Resources { cpu_milli, ram_bytes, ..Resources::default() },
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(5_000),
        memory: borg_proto::spec::MemoryLimit::Hard,
        cpu_cap_milli: None,
        health: None,
        image: None,
        packages: Vec::new(),
        network: borg_proto::Network::Host,
        loosen: BTreeSet::new(),
        reclaim: true,
    };
    JobSpec {
        name: name.parse().expect("a name"),
        kind,
        tasks,
        priority: Priority::new(priority).expect("in range"),
        appclass: None,
        task: Arc::new(task),
        after: Vec::new(),
        retries: 0,
        exclusive: false,
        alloc_set: None,
        gang: false,
        concurrent: None,
        parent: None,
        max_failures: 0,
        timeout_ms: None,
        deadline_ms: None,
        cron: None,
        labels: BTreeMap::new(),
        disruption: None,
        task_labels: Vec::new(),
        keep_data_ms: None,
        rescue: false,
    }
}

/// The same job with other settings of its task.
#[must_use]
pub fn with_task(mut spec: JobSpec, change: impl FnOnce(&mut TaskSpec)) -> JobSpec {
    change(Arc::make_mut(&mut spec.task));
    spec
}
