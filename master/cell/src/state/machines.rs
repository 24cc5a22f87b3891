//! Machines: what the cell knows of each, and adding, changing and removing them.
//!
//! Leaves what a machine reports to `observe` and what is put on it to `placement`.
//!
//! Invariant: `used`, `used_by_prod`, `target_bytes`, `tasks`, `successors` and `ports` are exactly the sums over the
//! tasks placed on it and the successors there.

use super::turn::Turn;
use super::{Answer, Closed, Drain, Version};
use crate::devices::Devices;
use crate::event::EventKind;
use crate::rejection::Rejection;
use borg_proto::machine::MachineAddress;
use borg_proto::package::MAX_PACKAGE_BYTES;
use borg_proto::task::{EvictCause, Placement};
use borg_proto::wire::{MAX_MACHINES, pb};
use borg_proto::{
    JobKind, JobSpec, MachineId, MachineInfo, MachineName, Millis, Resources, TaskId, UserName,
};
use prost::Message;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Most tasks placed on one machine. 1,000: our choice, more than twice what any machine of the
/// published traces runs, and a tenth of what one message about a machine may name.
pub const MAX_TASKS_ON_A_MACHINE: u32 = 1_000;
/// Most bytes of [`target_bytes`] placed on one machine. 16 MiB: our choice, a quarter of the largest
/// message: what a machine should run always goes into one.
pub const MAX_TARGET_BYTES: u64 = 16 << 20;
/// Bytes allowed for what a target says of a task beside its specification: names and ports.
const TARGET_TASK_BYTES: u64 = 1 << 10;
/// [`target_bytes`] are counted in steps of this many, so that tasks that differ in a few bytes
/// remain alike for a scheduler.
const TARGET_STEP_BYTES: u64 = 4 << 10;

/// Bytes that one task of such a job takes in what its machine is told to run, rounded up. Machines are
/// not told of allocs.
#[must_use]
pub fn target_bytes(spec: &JobSpec) -> u64 {
    if spec.kind == JobKind::AllocSet {
        return 0;
    }
    let bytes = pb::TaskSpec::from(&*spec.task).encoded_len() as u64;
    // As large as they may be: what a job needs is known from its specification alone.
    let packages = usize::from(spec.task.image.is_some()) + spec.task.packages.len();
    let bytes = bytes + (packages * MAX_PACKAGE_BYTES) as u64;
    (bytes + TARGET_TASK_BYTES).next_multiple_of(TARGET_STEP_BYTES)
}

/// Whether a machine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MachineState {
    /// Added, never heard of.
    New,
    /// Answers.
    Up,
    /// Has not answered for too long.
    Down,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A machine of the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its number.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// `host:port` of its borglet.
    pub address: Arc<str>,
    /// Whether it answers.
    pub state: MachineState,
    /// Since when it is in that state.
    pub since: Millis,
    /// Whether it is down because an operator said so.
    pub given_up: bool,
    /// Users whose tasks alone may be placed on it; `None` means everybody's.
    pub kept_for: Option<Arc<BTreeSet<UserName>>>,
    /// Set while no task may be placed on it.
    pub closed: Option<Arc<Closed>>,
    /// Set while it is emptied, and until an operator wants it back.
    pub drain: Option<Arc<Drain>>,
    /// What it said of itself, once it has answered.
    pub info: Option<Arc<MachineInfo>>,
    /// Sum of the limits (and port counts) of the tasks placed on it.
    pub used: Resources,
    /// What of it is of prod.
    pub used_by_prod: Resources,
    /// Sum of [`target_bytes`] of the tasks placed on it.
    pub target_bytes: u64,
    /// The tasks placed on it.
    pub tasks: BTreeSet<TaskId>,
    /// The tasks whose successors are on it: they are placed elsewhere.
    pub successors: BTreeSet<TaskId>,
    /// Which of its devices are given out.
    pub devices: Devices,
    /// Ports handed out on it.
    pub ports: BTreeSet<u16>,
    /// Where the search for the next free port begins.
    pub next_port: u16,
}

impl Machine {
    /// A machine that was never heard of.
    pub(crate) fn new(id: MachineId, name: MachineName, address: Arc<str>, since: Millis) -> Self {
        Self {
            id,
            name,
            address,
            state: MachineState::New,
            since,
            given_up: false,
            kept_for: None,
            closed: None,
            drain: None,
            info: None,
            used: Resources::default(),
            used_by_prod: Resources::default(),
            target_bytes: 0,
            tasks: BTreeSet::new(),
            successors: BTreeSet::new(),
            devices: Devices::default(),
            ports: BTreeSet::new(),
            next_port: 0,
        }
    }

    /// What is left for more tasks, by limits; nothing while it never answered.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.info.as_ref().map_or_else(Resources::default, |info| info.capacity.minus(&self.used))
    }

    /// Counts one task of a version less.
    pub(super) fn gives_back(&mut self, version: &Version) {
        let asked = version.spec.asked();
        self.used = self.used.minus(&asked);
        if version.is_prod() {
            self.used_by_prod = self.used_by_prod.minus(&asked);
        }
    }

    /// Counts one task of a version more.
    pub(super) fn gives(&mut self, version: &Version) {
        let asked = version.spec.asked();
        self.used = self.used.plus(&asked);
        if version.is_prod() {
            self.used_by_prod = self.used_by_prod.plus(&asked);
        }
    }

    /// Takes what a placement as a version of its job needs of it.
    pub(super) fn holds(&mut self, version: &Version, placement: &Placement) {
        self.gives(version);
        self.target_bytes += version.target_bytes;
        self.ports.extend(placement.machine_ports());
        self.devices.take(&placement.devices, true);
    }

    /// Gives it back.
    pub(super) fn releases(&mut self, version: &Version, placement: &Placement) {
        self.gives_back(version);
        self.target_bytes -= version.target_bytes;
        for port in placement.machine_ports() {
            self.ports.remove(port);
        }
        self.devices.take(&placement.devices, false);
    }

    /// Something that left it may go on ending there until that time.
    pub(super) fn ends_until(&mut self, until: Millis) {
        if let Some(drain) = &mut self.drain {
            let drain = Arc::make_mut(drain);
            drain.ending_until = drain.ending_until.max(until);
        }
    }

    /// How many tasks and successors it is told to run.
    #[must_use]
    pub fn told(&self) -> usize {
        self.tasks.len() + self.successors.len()
    }

    /// The value of an attribute as `spread` sees it: the machine's name for `machine`, empty for
    /// one that it lacks.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        if name == "machine" {
            return self.name.as_str();
        }
        let found = self.info.as_ref().and_then(|info| info.attributes.get(name));
        found.map_or("", String::as_str)
    }

    /// Host on which its tasks listen, once it has answered.
    #[must_use]
    pub fn task_host(&self) -> Option<&str> {
        self.info.as_ref().map(|info| info.task_host.as_str())
    }

    /// The ports that may be handed out on it; empty while it never answered.
    #[must_use]
    pub fn port_range(&self) -> Range<u32> {
        self.info.as_ref().map_or(0..0, |info| port_range(info))
    }
}

/// Ports that a machine with these facts offers: never 0, never past 65535, whatever it says.
pub(crate) fn port_range(info: &MachineInfo) -> Range<u32> {
    let first = u32::from(info.first_port.max(1));
    first..first.saturating_add(info.capacity.ports).min(u32::from(u16::MAX) + 1)
}

impl Turn<'_> {
    /// Adds a machine, or changes where its borglet listens.
    pub(super) fn add_machine(&mut self, asked: &MachineAddress) -> Result<Answer, Rejection> {
        MachineAddress::try_from(pb::AddMachine::from(asked)).map_err(|_| Rejection::Address {
            address: borg_proto::names::shorten(&asked.address),
        })?;
        if let Some(id) = self.state.machine_names.get(&asked.name).copied() {
            let machine = self.machine_mut(id);
            if *machine.address != *asked.address {
                machine.address = asked.address.as_str().into();
                self.emit(EventKind::MachineChanged(id));
            }
            return Ok(Answer::Machine(id));
        }
        let there = self.state.machines.len();
        if there >= MAX_MACHINES || self.state.next_machine == u32::MAX {
            return Err(Rejection::CellFull {
                what: "machines".to_owned(),
                there: there as u64,
                most: MAX_MACHINES as u64,
            });
        }
        let id = MachineId(self.state.next_machine);
        self.state.next_machine += 1;
        self.state.machine_names.insert(asked.name.clone(), id);
        let machine = Machine::new(id, asked.name.clone(), asked.address.as_str().into(), self.at);
        self.state.machines.insert(id, Arc::new(machine));
        self.emit(EventKind::MachineAdded(id));
        Ok(Answer::Machine(id))
    }

    /// Takes a machine out of the cell. Its tasks go back to pending.
    pub(super) fn remove_machine(&mut self, name: &MachineName) -> Result<Answer, Rejection> {
        let Some(id) = self.state.machine_names.get(name).copied() else {
            return Err(Rejection::NoSuchMachine { machine: name.clone() });
        };
        self.clear_machine(id);
        self.drop_data_of(id);
        self.undrain(id);
        self.vacate_daemons(id);
        self.state.machine_names.remove(name);
        self.state.machines.remove(&id);
        self.emit(EventKind::MachineRemoved(id, name.clone()));
        Ok(Answer::Machine(id))
    }

    /// Sends all tasks of a machine that is gone back to pending.
    pub(super) fn clear_machine(&mut self, id: MachineId) {
        self.clear_successors(id, "its machine is gone");
        for task in self.machine_mut(id).tasks.clone() {
            self.evict(task, &EvictCause::MachineDown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, master, service, user};
    use borg_proto::command::Action;

    fn address(name: &str, address: &str) -> Action {
        Action::AddMachine {
            machine: MachineAddress { name: name.parse().unwrap(), address: address.to_owned() },
        }
    }

    #[test]
    fn only_admin_adds_machines_and_their_addresses_are_addresses() {
        let mut cell = Cell::new();
        let refused = cell.apply(user("ann"), address("m-1", "m-1:7000")).unwrap_err();
        assert_eq!(refused.to_string(), "user ann may not add a machine: that needs admin");
        assert!(cell.apply(master(), address("m-1", "m-1:7000")).is_err());
        let refused = cell.apply(user("admin"), address("m-1", "nowhere")).unwrap_err();
        assert_eq!(refused.to_string(), "address \"nowhere\" is not 1 to 255 bytes of HOST:PORT");
    }

    #[test]
    fn adding_a_machine_again_changes_its_address_only() {
        let mut cell = Cell::new();
        let id = cell.machine("m-1", 1000, 1 << 30);
        let again = cell.apply(user("admin"), address("m-1", "m-1:7001")).unwrap();
        assert_eq!(again.answer, Answer::Machine(id));
        assert_eq!(cell.apply(user("admin"), address("m-1", "m-1:7001")).unwrap().events, []);
        let machine = cell.state.machine(id).unwrap();
        assert_eq!((&*machine.address, machine.state), ("m-1:7001", MachineState::Up));
    }

    #[test]
    fn a_removed_machine_gives_its_tasks_back_and_its_number_is_not_used_again() {
        let mut cell = Cell::new();
        let id = cell.machine("m-1", 1000, 1 << 30);
        let job = cell.submit("ann", service("web", 1, 100, 4 << 20));
        cell.place(job, 0, id).unwrap();
        let machine: MachineName = "m-1".parse().unwrap();
        cell.apply(user("admin"), Action::RemoveMachine { machine: machine.clone() }).unwrap();
        assert_eq!(cell.state.pending().count(), 1);
        assert!(cell.apply(user("admin"), Action::RemoveMachine { machine }).is_err());
        assert!(cell.machine("m-1", 1000, 1 << 30) > id);
    }
}
