//! What a test says to a world.

use super::client::{ADMIN_CLIENT, TEST_CLIENT};
use super::{Asked, Setup, Weather, World, index_of};
use crate::jobs::JobBuilder;
use borg_cell::links::Reserved;
use borg_cell::rejection::Rejection;
use borg_cell::state::{Answer, CellState, Job};
use borg_proto::command::Action;
use borg_proto::{IncarnationId, JobId, JobKey, MachineId, MachineName, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A change that the test's user has asked for.
#[derive(Debug, Clone)]
pub struct Submitted {
    wish: u64,
    /// The job's name.
    pub key: JobKey,
}

/// Builds a world; see [`Setup`] for what is not said here.
#[derive(Debug, Clone)]
pub struct Builder(Setup);

impl Builder {
    /// How many masters.
    #[must_use]
    pub const fn replicas(mut self, masters: usize) -> Self {
        self.0.masters = masters;
        self
    }

    /// How many machines.
    #[must_use]
    pub const fn machines(mut self, machines: usize) -> Self {
        self.0.machines = machines;
        self
    }

    /// Faults and clients by themselves.
    #[must_use]
    pub const fn stormy(mut self, clients: usize) -> Self {
        self.0.weather = Weather::Stormy;
        self.0.clients = clients;
        self
    }

    /// Everything begins.
    #[must_use]
    pub fn build(self) -> World {
        World::new(self.0)
    }
}

impl World {
    /// Five masters and ten machines in calm weather, to be changed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Builder {
        Builder(Setup::new(seed))
    }

    /// The user `ann` submits a job, and asks until she knows the outcome.
    pub fn submit(&mut self, job: JobBuilder) -> Submitted {
        let spec = Arc::new(job.spec());
        let key = spec.key(&self.clients.list[TEST_CLIENT].user);
        let wish = self.wish(TEST_CLIENT, Asked::Change(Action::SubmitJob { spec }));
        Submitted { wish, key }
    }

    /// The user `ann` kills a job of hers.
    pub fn kill(&mut self, key: &JobKey) -> Submitted {
        let action = Action::Kill { job: key.clone(), tasks: Vec::new() };
        let wish = self.wish(TEST_CLIENT, Asked::Change(action));
        Submitted { wish, key: key.clone() }
    }

    /// The user `ann`, or the admin, asks for a change, and learns what came of it; 30 s at most.
    ///
    /// # Errors
    /// When the cell refuses it.
    ///
    /// # Panics
    /// When it takes longer, or something is violated meanwhile.
    pub fn change(&mut self, as_admin: bool, action: Action) -> Result<Answer, Rejection> {
        let client = if as_admin { ADMIN_CLIENT } else { TEST_CLIENT };
        let wish = self.wish(client, Asked::Change(action));
        self.run_until("the change is acknowledged", Millis(30_000), |world| {
            world.outcome(client, wish).is_some()
        });
        self.outcome(client, wish).expect("it was just there").clone()
    }

    /// Runs until she knows the outcome, which is returned; 30 s at most.
    ///
    /// # Panics
    /// When it takes longer, or something is violated meanwhile.
    pub fn run_until_acknowledged(&mut self, change: &Submitted) -> Result<Answer, Rejection> {
        let wish = change.wish;
        self.run_until("the change is acknowledged", Millis(30_000), |world| {
            world.outcome(TEST_CLIENT, wish).is_some()
        });
        self.outcome(TEST_CLIENT, wish).expect("it was just there").clone()
    }

    /// Runs until something is so; returns how long that took.
    ///
    /// # Panics
    /// When it takes longer than `most`, or something is violated meanwhile.
    pub fn run_until(&mut self, what: &str, most: Millis, is_so: impl Fn(&Self) -> bool) -> Millis {
        let began = self.now();
        while !is_so(self) {
            assert!(self.now().since(began) < most, "after {most}, still not so: {what}");
            self.run_for(Millis(10));
            self.check_all();
        }
        self.now().since(began)
    }

    /// Runs until all jobs run and nothing moves any more; returns how long that took.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub fn run_until_settled(&mut self) -> Millis {
        self.run_until("everything is settled", Millis(60_000), |world| world.unsettled().is_none())
    }

    /// Panics when anything was violated so far.
    ///
    /// # Panics
    /// See above.
    pub fn check_all(&self) {
        assert!(
            self.violations().is_empty(),
            "seed {:#x}: {:?}\n{}",
            self.setup.seed,
            self.violations(),
            self.journal.lines().collect::<Vec<_>>().join("\n")
        );
    }

    /// The master that leads, the one of the newest term if several think so.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let leading = self.replicas.iter().enumerate().filter(|(_, replica)| replica.leads());
        let term = |(_, replica): &(usize, &super::Replica)| {
            replica.process.as_ref().map(|p| p.master.term())
        };
        leading.max_by_key(term).map(|(index, _)| index)
    }

    /// Ends a master's process as signal 9 does; it stays down until [`Self::restart`].
    pub fn crash(&mut self, master: usize) {
        self.crash_master(master);
    }

    /// Starts a master that is down.
    pub fn restart(&mut self, master: usize) {
        self.start_if_down(master);
    }

    /// Ends a borglet as signal 9 does; it stays down until [`Self::restart_borglet`].
    pub fn kill_borglet(&mut self, machine: usize) {
        self.crash_borglet(machine);
    }

    /// Starts a borglet that is down.
    pub fn restart_borglet(&mut self, machine: usize) {
        self.start_borglet_if_down(machine);
    }

    /// The furthest state that any master has shown.
    #[must_use]
    pub const fn state(&self) -> &CellState {
        &self.newest
    }

    /// What the leader believes of each machine's tasks; nothing while there is no leader.
    #[must_use]
    pub fn reservations(&self) -> BTreeMap<MachineId, Reserved> {
        let leader = self.leader().and_then(|leader| self.replicas[leader].process.as_ref());
        leader.and_then(|process| process.master.reservations()).unwrap_or_default()
    }

    /// The job of a submission, as of the furthest state.
    #[must_use]
    pub fn job(&self, job: &Submitted) -> Option<&Job> {
        self.newest.job_named(&job.key)
    }

    /// How many tasks of a job have a process, by the furthest state.
    #[must_use]
    pub fn running(&self, job: &Submitted) -> u32 {
        self.job(job).map_or(0, |job| job.counts.up)
    }

    /// Every process on every machine: incarnation, machine, process id.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<(IncarnationId, MachineName), u32> {
        let host = |host: &'_ super::Host| {
            host.running().map(|(id, pid)| ((id, host.name.clone()), pid)).collect::<Vec<_>>()
        };
        self.machines.iter().flat_map(host).collect()
    }

    /// Processes of one job.
    #[must_use]
    pub fn processes_of(&self, job: JobId) -> usize {
        self.processes().keys().filter(|(id, _)| id.task.job == job).count()
    }

    /// The machine on which a task is placed.
    #[must_use]
    pub fn place_of(&self, job: &Submitted, index: u32) -> Option<usize> {
        let machine = self.job(job)?.task(index)?.placement()?.machine;
        let name = &self.newest.machine(machine)?.name;
        self.machines.iter().position(|host| host.name == *name)
    }

    /// The leader as everybody who is up sees it, if they agree.
    #[must_use]
    pub fn agreed_leader(&self) -> Option<usize> {
        let mut leaders = self
            .replicas
            .iter()
            .filter_map(|replica| replica.process.as_ref())
            .map(|p| p.master.leader());
        let first = leaders.next()??;
        leaders.all(|leader| leader == Some(first)).then(|| index_of(first))
    }
}
