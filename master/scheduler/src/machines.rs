//! The machines of the cell: which row is which machine, who stands where, and what changed when.
//!
//! Answers what is known of a machine and which blocks of rows changed since a given moment; `rooms`
//! holds their room, `class` remembers answers by version numbers.
//!
//! A machine has a row in a block of machines of its shape, and another one when its capacity
//! becomes another shape. Rows are this crate's business alone: whatever enters or leaves names
//! machines, and the order of rows decides nothing.
//!
//! Invariant: what is used of a machine is the sum of what its residents ask, proposed ones
//! included, leaving ones not; every change of a machine stamps its block with a version never used
//! before.

use crate::access::Access;
use crate::domain::Domain;
use crate::filters::Filters;
use crate::holdings::{Grains, Holdings};
use crate::homes::{Homes, Role, Seat};
use crate::need::Need;
use crate::rooms::{
    BLOCK, CPU, DISK, FIXED_COLUMNS, IDLE, Kind, LARGEST, PER_DEVICE, PORTS, RAM, Rooms, TARGET,
    TASKS, offered, rows, shape,
};
use crate::score::Weights;
use borg_cell::devices::Devices;
use borg_cell::state::{MAX_TARGET_BYTES, MAX_TASKS_ON_A_MACHINE, Machine, MachineState};
use borg_proto::reclamation::Amounts;
use borg_proto::resources::WHOLE_DEVICE;
use borg_proto::spec::Constraint;
use borg_proto::task::{DeviceShare, Placement};
use borg_proto::{
    IncarnationId, JobId, JobKey, MachineId, MachineInfo, MachineName, Priority, TaskId, UserName,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A task on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) task: TaskId,
    /// Whether it is the task, or its successor.
    pub(crate) role: Role,
    /// Its incarnation; `None` while its placement is only proposed, which also means that it
    /// cannot be pushed out.
    pub(crate) incarnation: Option<u32>,
    pub(crate) need: Arc<Need>,
    /// What of its limit it does not need, as the leader believes.
    pub(crate) lent: Amounts,
    /// Whether it serves, so that pushing it out costs its job's disruption budget.
    pub(crate) serves: bool,
    /// The devices that it has; while it is only proposed, those that it will get.
    pub(crate) devices: Vec<DeviceShare>,
}

/// What may still be taken from a job on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Budget {
    /// So many tasks that serve.
    pub(crate) left: u32,
    /// The job's name, for people.
    pub(crate) job: JobKey,
    /// Its priority.
    pub(crate) priority: Priority,
}

impl Resident {
    /// A task, or its successor, of which the placement is only proposed.
    pub(crate) fn proposed(Seat { task, role }: Seat, need: Arc<Need>) -> Self {
        Self {
            task,
            role,
            incarnation: None,
            need,
            serves: false,
            lent: Amounts::default(),
            devices: Vec::new(),
        }
    }

    /// Who it is.
    pub(crate) fn seat(&self) -> Seat {
        Seat { task: self.task, role: self.role }
    }

    /// The order in which residents are pushed out: lowest priority first, of equal priority the
    /// youngest job and its highest index, which has the least to lose.
    fn place(&self) -> (Priority, Reverse<TaskId>) {
        (self.need.priority, Reverse(self.task))
    }
}

/// When a block last changed in a way that matters to somebody.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Versions {
    /// Room, state or attributes of a machine: plain answers are stale.
    pub(crate) changed: u64,
    /// Something became possible that was not before: room came free, a machine came up.
    pub(crate) grown: u64,
    /// Who may be pushed out: answers with victims are stale.
    pub(crate) residents: u64,
    /// Attributes, or what is known at all: constraint bitmaps are stale.
    pub(crate) facts: u64,
}

/// Blocks as bits, 64 to a word.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grown {
    /// After which version.
    pub(crate) since: u64,
    /// In which something became possible.
    pub(crate) blocks: Vec<u64>,
    /// Those of them in which what is known of a machine changed.
    pub(crate) facts: Vec<u64>,
}

impl Grown {
    pub(crate) fn has_facts(&self) -> bool {
        self.facts.iter().any(|word| *word != 0)
    }
}

/// What a row is.
#[derive(Debug, Clone, Default)]
struct Row {
    /// The machine whose row it is, if any.
    id: Option<MachineId>,
    /// `None` when the cell has it no more, though somebody may still be thought to stand there.
    name: Option<MachineName>,
    info: Option<Arc<MachineInfo>>,
    up: bool,
    /// Whether an operator closed it.
    closed: bool,
    /// In the order in which they are pushed out.
    residents: Vec<Resident>,
    holdings: Holdings,
    /// What residents have of single devices.
    devices: Devices,
}

impl Row {
    /// The same with nobody on it who could be pushed out.
    fn without_residents(&self) -> Self {
        let Self { id, ref name, ref info, up, closed, residents: _, holdings: _, ref devices } =
            *self;
        let (name, info, devices) = (name.clone(), info.clone(), devices.clone());
        let (residents, holdings) = (Vec::new(), Holdings::default());
        Self { id, name, info, up, closed, residents, holdings, devices }
    }
}

/// All machines.
#[derive(Debug, Clone)]
pub(crate) struct Machines {
    pub(crate) rooms: Rooms,
    /// Copies of all machines share the rows that none of them changed.
    rows: Vec<Arc<Row>>,
    row_of: BTreeMap<MachineId, usize>,
    /// Rows without a machine, by shape.
    vacant: BTreeMap<usize, BTreeSet<usize>>,
    /// Those that do not answer just now.
    silent: BTreeSet<MachineId>,
    devices: BTreeMap<Arc<str>, usize>,
    /// Names of attributes that any machine ever had.
    attributes: BTreeSet<String>,
    /// Whether anybody asked for a device or an attribute that no machine had.
    asked_in_vain: bool,
    /// Whether a machine came with a name that may be one of those.
    learnt_names: bool,
    domains: Vec<(String, Domain)>,
    pub(crate) filters: Filters,
    /// Whose tasks which rows take.
    pub(crate) access: Access,
    homes: Homes,
    versions: Vec<Versions>,
    /// When something became possible on each row that was not before.
    grown_at: Vec<u64>,
    version: u64,
    /// Residents by priority.
    standing: BTreeMap<Priority, usize>,
    /// Those of them whose placement is not committed yet.
    starting: BTreeMap<Priority, usize>,
    /// Of jobs that have a disruption budget.
    budgets: BTreeMap<JobId, Budget>,
    seed: u64,
}

impl Machines {
    /// None. Ties go in an order that follows from `seed`; 0 is the order of machine numbers.
    /// Machines may be kept for those who are `named`.
    pub(crate) fn new(
        weights: Weights,
        most_percent: u32,
        seed: u64,
        named: BTreeSet<UserName>,
    ) -> Self {
        Self {
            rooms: Rooms::new(weights, most_percent),
            rows: Vec::new(),
            row_of: BTreeMap::new(),
            vacant: BTreeMap::new(),
            silent: BTreeSet::new(),
            devices: BTreeMap::new(),
            attributes: BTreeSet::new(),
            asked_in_vain: false,
            learnt_names: false,
            domains: Vec::new(),
            filters: Filters::default(),
            access: Access::new(named),
            homes: Homes::default(),
            versions: Vec::new(),
            grown_at: Vec::new(),
            version: 0,
            standing: BTreeMap::new(),
            starting: BTreeMap::new(),
            budgets: BTreeMap::new(),
            seed,
        }
    }

    /// Rows that are the row of a machine of the cell, up or not.
    pub(crate) fn known(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows.len()).filter(|row| self.rows[*row].name.is_some())
    }

    /// How many rows there are, with and without machines.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn info(&self, row: usize) -> Option<&MachineInfo> {
        self.rows[row].info.as_deref()
    }

    /// The machine of a row.
    pub(crate) fn id(&self, row: usize) -> Option<MachineId> {
        self.rows[row].id
    }

    /// The row of a machine.
    pub(crate) fn row(&self, id: MachineId) -> Option<usize> {
        self.row_of.get(&id).copied()
    }

    /// The row of a machine that somebody stands on. One that the cell never told of gets a row
    /// without room.
    pub(crate) fn row_for(&mut self, id: MachineId) -> usize {
        if let Some(row) = self.row(id) {
            return row;
        }
        let shape = self.rooms.number(&Vec::new());
        let row = self.vacant_row(shape);
        self.row_of.insert(id, row);
        self.row_mut(row).id = Some(id);
        row
    }

    /// Blocks in which something became possible after a version.
    pub(crate) fn grown_since(&self, version: u64) -> Grown {
        let mut grown = Grown { since: version, ..Grown::default() };
        for (b, versions) in self.versions.iter().enumerate() {
            if b % 64 == 0 {
                grown.blocks.push(0);
                grown.facts.push(0);
            }
            grown.blocks[b / 64] |= u64::from(versions.grown > version) << (b % 64);
            grown.facts[b / 64] |= u64::from(versions.facts > version) << (b % 64);
        }
        grown
    }

    /// Whether somebody is about to start whom that priority may push out once it has.
    pub(crate) fn may_hope(&self, priority: Priority) -> bool {
        self.starting.keys().any(|other| priority.may_preempt(*other))
    }

    /// Whether anybody stands here whom that priority may push out.
    pub(crate) fn has_lower(&self, priority: Priority) -> bool {
        self.standing.keys().any(|other| priority.may_preempt(*other))
    }

    /// Whether it is up, though it may not answer just now.
    pub(crate) fn is_in_service(&self, row: usize) -> bool {
        self.rows[row].up
    }

    /// Takes over whether a machine answers.
    pub(crate) fn set_silent(&mut self, id: MachineId, silent: bool) {
        if silent {
            self.silent.insert(id);
        } else {
            self.silent.remove(&id);
        }
        if let Some(row) = self.row(id) {
            self.settle_open(row);
            self.touch(row);
        }
    }

    fn settle_open(&mut self, row: usize) {
        self.rooms.set_open(row, self.answers(row) && !self.rows[row].closed);
    }

    /// Whether the machine of a row is up and answers just now.
    pub(crate) fn answers(&self, row: usize) -> bool {
        let Row { id, up, .. } = *self.rows[row];
        up && id.is_some_and(|id| !self.silent.contains(&id))
    }

    /// Whether the machine of a row was closed by an operator.
    pub(crate) fn is_closed(&self, row: usize) -> bool {
        self.rows[row].closed
    }

    pub(crate) fn versions(&self, b: usize) -> Versions {
        self.versions[b]
    }

    /// The newest version number given to any block.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The first column of a kind of device, if any machine ever had one. Names that users make up take
    /// no room.
    pub(crate) fn device(&mut self, name: &str) -> Option<usize> {
        let column = self.devices.get(name).copied();
        self.asked_in_vain |= column.is_none();
        column
    }

    /// Whether no machine ever had such a device.
    pub(crate) fn is_absent(&self, name: &str) -> bool {
        !self.devices.contains_key(name)
    }

    /// Whether machines came with names of devices or attributes that somebody had asked for in vain:
    /// then what was made of those requests is no longer right.
    pub(crate) fn has_learnt_names(&self) -> bool {
        self.learnt_names
    }

    /// Takes over names that machines have.
    fn learn_names(&mut self, info: &MachineInfo) {
        for name in info.capacity.devices.keys() {
            if !self.devices.contains_key(name) {
                self.learnt_names |= self.asked_in_vain;
                let column = self.rooms.add_device();
                self.devices.insert(name.clone(), column);
            }
        }
        for name in info.attributes.keys() {
            if !self.attributes.contains(name) {
                self.learnt_names |= self.asked_in_vain;
                self.attributes.insert(name.clone());
            }
        }
    }

    /// The kind of device that a column is about.
    pub(crate) fn device_name(&self, column: usize) -> Option<&Arc<str>> {
        let mut kinds = self.devices.iter();
        kinds
            .find(|(_, first)| (**first..**first + PER_DEVICE).contains(&column))
            .map(|(name, _)| name)
    }

    /// What is free of single devices of a row's machine once `gone` has left, as (column, grains).
    pub(crate) fn devices_left(&self, row: usize, gone: &[&[DeviceShare]]) -> Vec<(usize, i32)> {
        let there = &self.rows[row];
        let mut taken = there.devices.clone();
        gone.iter().for_each(|shares| taken.take(shares, false));
        let capacity = there.info.as_ref().map(|info| &info.capacity.devices);
        let mut left = Vec::new();
        for (name, first) in &self.devices {
            let all = capacity.and_then(|devices| devices.get(name)).copied().unwrap_or(0);
            let (mut idle, mut largest) = (0, 0);
            for (_, free) in taken.free(name, all) {
                let free = i32::from(free);
                idle += if u64::from(free.unsigned_abs()) == WHOLE_DEVICE { free } else { 0 };
                largest = free.max(largest);
            }
            left.push((first + IDLE, idle));
            left.push((first + LARGEST, largest));
        }
        left
    }

    fn settle_devices(&mut self, row: usize) {
        for (column, left) in self.devices_left(row, &[]) {
            self.rooms.set_left(column, row, left);
        }
    }

    /// The number under which an attribute's values are kept, made if it is new. Those that no machine
    /// ever had are one: all machines lack them.
    pub(crate) fn domain_of(&mut self, attribute: &str) -> usize {
        let known = self.attributes.contains(attribute);
        self.asked_in_vain |= !known;
        let attribute = if known { attribute } else { "" };
        if let Some(found) = self.domains.iter().position(|(name, _)| name == attribute) {
            return found;
        }
        let mut domain = Domain::default();
        domain.grow(self.rows.len());
        for (row, there) in self.rows.iter().enumerate() {
            domain.set(row, there.info.as_deref(), attribute);
        }
        self.domains.push((attribute.to_owned(), domain));
        self.domains.len() - 1
    }

    /// The number of a constraint, to be released when the job is forgotten.
    pub(crate) fn filter(&mut self, constraint: &Constraint) -> usize {
        self.filters.number(constraint, self.rows.iter().map(|row| row.info.as_deref()))
    }

    /// A job is forgotten.
    pub(crate) fn release(&mut self, need: &Need) {
        for filter in need.hard.iter().chain(&need.soft) {
            self.filters.release(*filter);
        }
    }

    pub(crate) fn domain(&self, number: usize) -> &Domain {
        &self.domains[number].1
    }

    pub(crate) fn residents(&self, row: usize) -> &[Resident] {
        &self.rows[row].residents
    }

    #[cfg(test)]
    pub(crate) fn holdings(&self, row: usize) -> &Holdings {
        &self.rows[row].holdings
    }

    /// When something became possible on a row that was not before.
    pub(crate) fn grown_at(&self, row: usize) -> u64 {
        self.grown_at[row]
    }

    /// The most room that somebody of a priority and kind might find on a row, if all went whom he may push out.
    pub(crate) fn most_room(&self, row: usize, priority: Priority, kind: Kind) -> Grains {
        self.rows[row].holdings.most_room(&self.rooms, row, priority, kind)
    }

    /// Who is in an alloc that stands on a row, as far as it is committed.
    pub(crate) fn inside(&self, row: usize, alloc: TaskId) -> Vec<IncarnationId> {
        let residents = self.rows[row].residents.iter();
        let in_it = residents
            .filter(|r| r.need.alloc_set == Some(alloc.job) && r.task.index == alloc.index);
        in_it.filter_map(|r| Some(IncarnationId { task: r.task, number: r.incarnation? })).collect()
    }

    /// The rows of a job's tasks, one entry per task.
    pub(crate) fn homes_of(&self, job: JobId) -> impl Iterator<Item = usize> + '_ {
        self.homes.of_job(job)
    }

    /// A copy to try placements in: room, names and facts, but nobody who could be pushed out.
    pub(crate) fn without_residents(&self) -> Self {
        let empty = |row: &Arc<Row>| Arc::new(row.without_residents());
        Self {
            rows: self.rows.iter().map(empty).collect(),
            homes: Homes::default(),
            rooms: self.rooms.clone(),
            row_of: self.row_of.clone(),
            vacant: self.vacant.clone(),
            silent: self.silent.clone(),
            devices: self.devices.clone(),
            attributes: self.attributes.clone(),
            asked_in_vain: self.asked_in_vain,
            learnt_names: self.learnt_names,
            domains: self.domains.clone(),
            filters: self.filters.clone(),
            access: self.access.clone(),
            versions: self.versions.clone(),
            grown_at: self.grown_at.clone(),
            version: self.version,
            standing: BTreeMap::new(),
            starting: BTreeMap::new(),
            budgets: BTreeMap::new(),
            seed: self.seed,
        }
    }

    /// Takes over what the cell says of a machine; `None` when it is no more. Answers whether its
    /// residents have to be counted again: it has another row or other attributes.
    pub(crate) fn set(&mut self, id: MachineId, now: Option<&Machine>) -> bool {
        let name = now.map(|machine| machine.name.clone());
        let up = now.is_some_and(|machine| machine.state == MachineState::Up);
        let closed = now.is_some_and(|machine| machine.closed.is_some() || machine.drain.is_some());
        let info = now.and_then(|machine| machine.info.clone());
        let capacity = self.capacity_of(info.as_deref());
        let shape = self.rooms.number(&shape(&capacity));
        let before = self.row(id);
        let attributes = |info: Option<&Arc<MachineInfo>>| info.map(|info| info.attributes.clone());
        let mut moved = match before {
            Some(row) => attributes(self.rows[row].info.as_ref()) != attributes(info.as_ref()),
            None if name.is_none() => return false,
            None => false,
        };
        let row = match before {
            Some(row) if self.rooms.shape_number(row) == shape => row,
            Some(row) => {
                moved = true;
                self.move_to(row, shape)
            }
            None => self.vacant_row(shape),
        };
        self.row_of.insert(id, row);
        let there = self.row_mut(row);
        there.id = Some(id);
        there.up = up && info.is_some();
        there.closed = closed;
        there.name = name;
        there.info = info;
        for (attribute, domain) in &mut self.domains {
            domain.set(row, self.rows[row].info.as_deref(), attribute);
        }
        self.filters.set(row, self.rows[row].info.as_deref());
        self.access.set(row, now.and_then(|machine| machine.kept_for.as_deref()));
        self.rooms.furnish(row, &capacity, rank(self.seed, id));
        self.settle_devices(row);
        self.settle_open(row);
        self.touch(row);
        self.vacate_if_gone(row);
        moved
    }

    fn capacity_of(&mut self, info: Option<&MachineInfo>) -> Vec<i32> {
        let Some(info) = info else { return vec![0; self.rooms.columns()] };
        self.learn_names(info);
        let mut capacity = vec![0; self.rooms.columns()];
        for (name, amount) in &info.capacity.devices {
            let Some(first) = self.devices.get(name).copied() else { continue };
            let whole = amount / WHOLE_DEVICE * WHOLE_DEVICE;
            capacity[first] = offered(first, whole);
            capacity[first + IDLE] = offered(first, whole);
            capacity[first + LARGEST] = offered(first, whole.min(WHOLE_DEVICE));
        }
        // Port numbers end at 65535, whatever a machine says of itself.
        let possible = (1 << 16) - u64::from(info.first_port.max(1));
        let fixed: [u64; FIXED_COLUMNS] = [
            info.capacity.cpu_milli,
            info.capacity.ram_bytes,
            info.capacity.disk_bytes,
            u64::from(info.capacity.ports).min(possible),
            MAX_TASKS_ON_A_MACHINE.into(),
            MAX_TARGET_BYTES,
            0,
        ];
        for column in [CPU, RAM, DISK, PORTS, TASKS, TARGET] {
            capacity[column] = offered(column, fixed[column]);
        }
        capacity
    }

    fn vacant_row(&mut self, shape: usize) -> usize {
        if let Some(row) = self.vacant.get_mut(&shape).and_then(BTreeSet::pop_first) {
            return row;
        }
        let b = self.rooms.add_block(shape);
        self.rows.resize((b + 1) * BLOCK, Arc::default());
        self.versions.push(Versions::default());
        self.grown_at.resize((b + 1) * BLOCK, 0);
        for (_, domain) in &mut self.domains {
            domain.grow(self.rows.len());
        }
        self.filters.grow(b + 1);
        self.access.grow(b + 1);
        self.vacant.entry(shape).or_default().extend(rows(b).skip(1));
        rows(b).start
    }

    /// Gives a machine a row among those of another shape, with all who stand there.
    fn move_to(&mut self, from: usize, shape: usize) -> usize {
        let to = self.vacant_row(shape);
        let left = std::mem::take(self.row_mut(from));
        let residents = left.residents;
        self.row_mut(to).devices = left.devices;
        self.row_mut(to).holdings = left.holdings;
        for resident in &residents {
            let (asks, kind, lent) = (&resident.need.asks, resident.need.kind(), resident.lent);
            self.rooms.take(from, asks, lent, kind, false);
            self.rooms.take(to, asks, lent, kind, true);
            self.homes.put(resident.seat(), to);
        }
        self.row_mut(to).residents = residents;
        self.vacate(from);
        to
    }

    fn vacate(&mut self, row: usize) {
        self.rows[row] = Arc::default();
        let empty = vec![0; self.rooms.columns()];
        self.rooms.furnish(row, &empty, u64::MAX);
        self.rooms.set_open(row, false);
        for (attribute, domain) in &mut self.domains {
            domain.set(row, None, attribute);
        }
        self.filters.set(row, None);
        self.touch(row);
        self.vacant.entry(self.rooms.shape_number(row)).or_default().insert(row);
    }

    fn vacate_if_gone(&mut self, row: usize) {
        let there = &self.rows[row];
        if there.name.is_none() && there.residents.is_empty() {
            if let Some(id) = there.id {
                self.row_of.remove(&id);
            }
            self.vacate(row);
        }
    }

    /// Everything about a row may be other than before.
    fn touch(&mut self, row: usize) {
        let version = self.next_version();
        self.versions[row / BLOCK] =
            Versions { changed: version, grown: version, residents: version, facts: version };
        self.grown_at[row] = version;
    }

    /// Puts a task on a machine that has a row.
    pub(crate) fn add(&mut self, row: usize, mut resident: Resident) {
        if resident.need.has_devices() {
            if resident.incarnation.is_none() {
                resident.devices = self.devices_for(row, &resident.need);
            }
            self.row_mut(row).devices.take(&resident.devices, true);
            self.settle_devices(row);
        }
        self.rooms.take(row, &resident.need.asks, resident.lent, resident.need.kind(), true);
        let before = self.homes.put(resident.seat(), row);
        debug_assert!(before.is_none(), "a task stands on one machine, and so does its successor");
        count(&mut self.standing, resident.need.priority, true);
        if resident.incarnation.is_none() {
            count(&mut self.starting, resident.need.priority, true);
        }
        let Row { residents, holdings, .. } = self.row_mut(row);
        let at = residents.partition_point(|other| other.place() < resident.place());
        holdings.add(&resident);
        residents.insert(at, resident);
        let version = self.next_version();
        let block = &mut self.versions[row / BLOCK];
        block.changed = version;
        block.residents = version;
    }

    /// The devices that the state will give to a task that is placed there.
    fn devices_for(&self, row: usize, need: &Need) -> Vec<DeviceShare> {
        let there = &self.rows[row];
        let info = there.info.as_ref();
        info.and_then(|info| there.devices.pick(&info.capacity, &need.task.asked()))
            .unwrap_or_default()
    }

    /// Takes somebody from their machine.
    pub(crate) fn remove(&mut self, seat: Seat) -> Option<(usize, Resident)> {
        let row = self.homes.take(seat)?;
        let Row { residents, holdings, .. } = self.row_mut(row);
        let at = residents.iter().position(|r| r.seat() == seat).expect("home names its machine");
        let resident = residents.remove(at);
        holdings.remove(&resident);
        self.rooms.take(row, &resident.need.asks, resident.lent, resident.need.kind(), false);
        if resident.need.has_devices() {
            self.row_mut(row).devices.take(&resident.devices, false);
            self.settle_devices(row);
        }
        count(&mut self.standing, resident.need.priority, false);
        if resident.incarnation.is_none() {
            count(&mut self.starting, resident.need.priority, false);
        }
        let version = self.next_version();
        let block = &mut self.versions[row / BLOCK];
        block.changed = version;
        block.grown = version;
        block.residents = version;
        self.grown_at[row] = version;
        self.vacate_if_gone(row);
        Some((row, resident))
    }

    /// An incarnation lends so much of its limit by now, if it stands anywhere.
    pub(crate) fn lend(&mut self, id: IncarnationId, lent: Amounts) {
        let Some(row) = self.homes.get(Seat::of(id.task)) else { return };
        let Row { residents, holdings, .. } = self.row_mut(row);
        let there = |r: &Resident| r.task == id.task && r.incarnation == Some(id.number);
        let Some(at) = residents.iter().position(there) else { return };
        let resident = &mut residents[at];
        let (before, lent) = (resident.lent, resident.need.lends(lent));
        if before == lent {
            return;
        }
        holdings.remove(resident);
        resident.lent = lent;
        holdings.add(resident);
        self.rooms.lend(row, before, lent);
        let version = self.next_version();
        let block = &mut self.versions[row / BLOCK];
        block.changed = version;
        block.residents = version;
        if !lent.fits_in(before) {
            block.grown = version;
            self.grown_at[row] = version;
        }
    }

    /// What all who stand on a row lend.
    pub(crate) fn lent(&self, row: usize) -> Amounts {
        self.rows[row].residents.iter().fold(Amounts::default(), |sum, r| sum.plus(r.lent))
    }

    /// Notes that a proposed placement was committed as that incarnation: room is as before, but
    /// from now on the task can be pushed out. Answers whether it stood there
    /// as of that version of its job.
    pub(crate) fn confirm(&mut self, seat: Seat, placement: &Placement, version: u32) -> bool {
        let row = self.row(placement.machine);
        let Some(row) = row.filter(|row| self.homes.get(seat) == Some(*row)) else {
            return false;
        };
        let residents = &self.rows[row].residents;
        let at = residents.iter().position(|r| r.seat() == seat).expect("home names its machine");
        let resident = &residents[at];
        if resident.need.cohort.version != version {
            return false;
        }
        if resident.devices != placement.devices {
            // Others were placed in between: it got other devices than those it was thought to get.
            return false;
        }
        let incarnation = placement.incarnation;
        // Nobody is served by a successor.
        let serves = seat.role == Role::Task && placement.serves_since.is_some();
        if resident.incarnation != Some(incarnation) || resident.serves != serves {
            if resident.incarnation.is_none() {
                count(&mut self.starting, resident.need.priority, false);
            }
            let cheaper = resident.serves && !serves;
            let resident = &mut self.row_mut(row).residents[at];
            resident.incarnation = Some(incarnation);
            resident.serves = serves;
            let version = self.next_version();
            let block = &mut self.versions[row / BLOCK];
            block.residents = version;
            if cheaper {
                block.grown = version;
                self.grown_at[row] = version;
            }
        }
        true
    }

    /// What a job that has a disruption budget may still lose.
    pub(crate) fn budget(&self, job: JobId) -> Option<&Budget> {
        self.budgets.get(&job)
    }

    /// Whether there are jobs with budgets whose tasks that priority may push out.
    pub(crate) fn has_budgets_below(&self, priority: Priority) -> bool {
        self.budgets.values().any(|budget| priority.may_preempt(budget.priority))
    }

    /// A job's budget is other than before: answers with victims where it stands are stale.
    pub(crate) fn set_budget(&mut self, job: JobId, now: Option<Budget>) {
        let left = |budget: &Option<Budget>| budget.as_ref().map_or(u32::MAX, |budget| budget.left);
        let after = left(&now);
        let before = match now {
            Some(now) => self.budgets.insert(job, now),
            None => self.budgets.remove(&job),
        };
        let before = left(&before);
        if before == after {
            return;
        }
        let rows: BTreeSet<usize> = self.homes.of_job(job).collect();
        let version = self.next_version();
        for row in rows {
            self.versions[row / BLOCK].residents = version;
            if after > before {
                self.versions[row / BLOCK].grown = version;
                self.grown_at[row] = version;
            }
        }
    }

    /// One more task that serves goes, of a job that may have a budget.
    pub(crate) fn spend(&mut self, job: JobId) {
        let Some(budget) = self.budgets.get(&job) else { return };
        let left = budget.left.saturating_sub(1);
        self.set_budget(job, Some(Budget { left, ..budget.clone() }));
    }

    /// The jobs of which one task each that serves goes when a resident of a row does.
    pub(crate) fn disturbed_with<'a>(
        &'a self,
        row: usize,
        gone: &'a Resident,
    ) -> impl Iterator<Item = JobId> + 'a {
        let inside = self.rows[row].residents.iter().filter(|other| {
            let alloc = (gone.task.job, gone.task.index);
            gone.need.is_alloc
                && other.need.alloc_set.is_some_and(|set| (set, other.task.index) == alloc)
        });
        std::iter::once(gone).chain(inside).filter(|one| one.serves).map(|one| one.task.job)
    }

    /// The resident that somebody is, and the row.
    pub(crate) fn resident(&self, seat: Seat) -> Option<(usize, &Resident)> {
        let row = self.homes.get(seat)?;
        Some((row, self.rows[row].residents.iter().find(|resident| resident.seat() == seat)?))
    }

    /// A row for changing.
    fn row_mut(&mut self, row: usize) -> &mut Row {
        Arc::make_mut(&mut self.rows[row])
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

fn count(by_priority: &mut BTreeMap<Priority, usize>, priority: Priority, came: bool) {
    let there = by_priority.entry(priority).or_default();
    *there = if came { *there + 1 } else { there.saturating_sub(1) };
    if *there == 0 {
        by_priority.remove(&priority);
    }
}

/// A machine's place among equals: its number, or with a seed a place that looks like chance
/// (the finaliser of `SplitMix64`, which maps numbers to numbers one to one).
fn rank(seed: u64, id: MachineId) -> u64 {
    if seed == 0 {
        return id.0.into();
    }
    let mut x = u64::from(id.0).wrapping_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
