//! The machines of the cell as arrays: room per resource, who stands where, and what changed when.
//!
//! Answers how much room a machine has and which blocks of machines changed since a given moment;
//! `filter` and `score` read it, `class` remembers answers by its version numbers.
//!
//! Machines are dense by number and grouped in blocks of 64, one word of a bitmap.
//!
//! Invariant: `used` of a machine is the sum of what its residents ask, proposed ones included,
//! leaving ones not; every change of a machine stamps its block with a version never used before.

use crate::need::Need;
use borg_cell::state::{MAX_TARGET_BYTES, MAX_TASKS_ON_A_MACHINE};
use borg_proto::{JobId, MachineId, MachineInfo, MachineName, TaskId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Column of processor time, in millicores.
pub(crate) const CPU: usize = 0;
/// Column of memory, in bytes.
pub(crate) const RAM: usize = 1;
/// Column of disk space, in bytes.
pub(crate) const DISK: usize = 2;
/// Column of ports, a count.
pub(crate) const PORTS: usize = 3;
/// Column of tasks, a count: a machine is told no more in one message.
pub(crate) const TASKS: usize = 4;
/// Column of what tasks take in that message, in bytes.
pub(crate) const TARGET: usize = 5;
/// Columns that every machine has; devices come after, one column per name.
pub(crate) const FIXED_COLUMNS: usize = 6;
/// Machines per block: the bits of one word.
pub(crate) const BLOCK: usize = 64;
/// Stands for "this machine has no such attribute that is known".
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One resource over all machines.
#[derive(Debug, Clone)]
struct Column {
    capacity: Vec<u64>,
    used: Vec<u64>,
    /// `capacity - used`, at least 0. Read by every scan, so it is kept, not computed.
    left: Vec<u64>,
    /// 2^48 / capacity: turns an amount into a share of the machine without a division.
    per_unit: Vec<u64>,
    /// Bits that a share does not look at: bytes are counted in MiB, which keeps the product of
    /// an amount and `per_unit` inside 64 bits and exact enough for machines of up to 2^48 MiB.
    shift: u32,
}

impl Column {
    fn new(machines: usize, shift: u32) -> Self {
        let zeros = vec![0; machines];
        Self {
            capacity: zeros.clone(),
            used: zeros.clone(),
            left: zeros.clone(),
            per_unit: zeros,
            shift,
        }
    }

    fn settle(&mut self, m: usize) {
        self.left[m] = self.capacity[m].saturating_sub(self.used[m]);
        self.per_unit[m] = (1u64 << 48).checked_div(self.capacity[m] >> self.shift).unwrap_or(0);
    }
}

/// One attribute over all machines, with its values as numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domain {
    values: BTreeMap<String, u32>,
    /// Value of each machine, [`NOWHERE`] while nothing is known of the machine.
    of: Vec<u32>,
    /// Blocks in which a value occurs or once occurred, per value.
    blocks: Vec<Vec<u64>>,
}

impl Domain {
    /// The value of machine `m`.
    pub(crate) fn of(&self, m: usize) -> u32 {
        self.of[m]
    }

    /// Blocks in which machines of that value may be.
    pub(crate) fn blocks_of(&self, value: u32) -> impl Iterator<Item = usize> + '_ {
        let words = self.blocks.get(value as usize).map_or(&[][..], Vec::as_slice);
        words.iter().enumerate().flat_map(|(w, word)| bits(*word).map(move |bit| w * 64 + bit))
    }

    fn set(&mut self, m: usize, info: Option<&MachineInfo>, attribute: &str) {
        if self.of.len() <= m {
            self.of.resize(m + 1, NOWHERE);
        }
        let Some(info) = info else {
            self.of[m] = NOWHERE;
            return;
        };
        // A missing attribute counts as the empty text, as for constraints.
        let text = info.attributes.get(attribute).map_or("", String::as_str);
        let value = match self.values.get(text) {
            Some(value) => *value,
            None => {
                let next =
                    u32::try_from(self.values.len()).expect("fewer values than machines ever seen");
                self.values.insert(text.to_owned(), next);
                self.blocks.push(Vec::new());
                next
            }
        };
        self.of[m] = value;
        let block = m / BLOCK;
        let words = &mut self.blocks[value as usize];
        if words.len() <= block / 64 {
            words.resize(block / 64 + 1, 0);
        }
        words[block / 64] |= 1 << (block % 64);
    }
}

/// A task on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) task: TaskId,
    /// Its incarnation; `None` while its placement is only proposed, which also means that it
    /// cannot be pushed out.
    pub(crate) incarnation: Option<u32>,
    pub(crate) need: Arc<Need>,
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

/// All machines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machines {
    names: Vec<Option<MachineName>>,
    info: Vec<Option<Arc<MachineInfo>>>,
    up: Vec<u64>,
    /// Those that do not answer just now.
    silent: Vec<u64>,
    columns: Vec<Column>,
    devices: BTreeMap<Arc<str>, usize>,
    domains: Vec<(String, Domain)>,
    residents: Vec<Vec<Resident>>,
    home: BTreeMap<TaskId, usize>,
    versions: Vec<Versions>,
    version: u64,
}

/// Positions of the ones in a word.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

impl Machines {
    pub(crate) fn new() -> Self {
        let columns = (0..FIXED_COLUMNS)
            .map(|c| Column::new(0, if c == RAM || c == DISK { 20 } else { 0 }))
            .collect();
        Self { columns, ..Self::default() }
    }

    /// One more than the highest machine number seen.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn blocks(&self) -> usize {
        self.versions.len()
    }

    /// The machines of a block, by number.
    pub(crate) fn block(&self, b: usize) -> Range<usize> {
        b * BLOCK..((b + 1) * BLOCK).min(self.len())
    }

    /// Machines that the cell has, up or not.
    pub(crate) fn known(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|m| self.names[*m].is_some())
    }

    pub(crate) fn name(&self, m: usize) -> Option<&MachineName> {
        self.names[m].as_ref()
    }

    pub(crate) fn info(&self, m: usize) -> Option<&MachineInfo> {
        self.info[m].as_deref()
    }

    /// Whether it is up and answers.
    pub(crate) fn is_up(&self, m: usize) -> bool {
        (self.up[m / BLOCK] & !self.silent[m / BLOCK]) >> (m % BLOCK) & 1 == 1
    }

    /// Whether it is up, though it may not answer just now.
    pub(crate) fn is_in_service(&self, m: usize) -> bool {
        self.up[m / BLOCK] >> (m % BLOCK) & 1 == 1
    }

    /// Takes over whether a machine answers.
    pub(crate) fn set_silent(&mut self, id: MachineId, silent: bool) {
        let m = id.0 as usize;
        self.grow(m + 1);
        let bit = 1 << (m % BLOCK);
        self.silent[m / BLOCK] &= !bit;
        if silent {
            self.silent[m / BLOCK] |= bit;
        }
        self.touch(m);
    }

    pub(crate) fn versions(&self, b: usize) -> Versions {
        self.versions[b]
    }

    /// The newest version number given to any block.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn capacity(&self, column: usize, m: usize) -> u64 {
        self.columns[column].capacity[m]
    }

    /// What is free, once `freed` of what is used is given back.
    pub(crate) fn room(&self, column: usize, m: usize, freed: u64) -> u64 {
        let column = &self.columns[column];
        if freed == 0 {
            return column.left[m];
        }
        column.capacity[m].saturating_sub(column.used[m].saturating_sub(freed))
    }

    /// Share of the machine, in 1/65536, that is free after `asked` is taken and `freed` given back.
    pub(crate) fn share_left(&self, column: usize, m: usize, freed: u64, asked: u64) -> i64 {
        let left = self.room(column, m, freed).saturating_sub(asked);
        let column = &self.columns[column];
        let share = ((left >> column.shift) * column.per_unit[m]) >> 32;
        i64::try_from(share).expect("an amount of at most the capacity is a share of at most 65536")
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn device_columns(&self) -> Range<usize> {
        FIXED_COLUMNS..self.columns.len()
    }

    /// The column of a device, made if it is new.
    pub(crate) fn device(&mut self, name: &Arc<str>) -> usize {
        if let Some(column) = self.devices.get(name) {
            return *column;
        }
        self.columns.push(Column::new(self.len(), 0));
        self.devices.insert(name.clone(), self.columns.len() - 1);
        self.columns.len() - 1
    }

    /// The name of a device's column.
    pub(crate) fn device_name(&self, column: usize) -> Option<&Arc<str>> {
        self.devices.iter().find(|(_, c)| **c == column).map(|(name, _)| name)
    }

    /// The number under which an attribute's values are kept, made if it is new.
    pub(crate) fn domain_of(&mut self, attribute: &str) -> usize {
        if let Some(found) = self.domains.iter().position(|(name, _)| name == attribute) {
            return found;
        }
        let mut domain = Domain { of: vec![NOWHERE; self.len()], ..Domain::default() };
        for m in 0..self.len() {
            domain.set(m, self.info[m].as_deref(), attribute);
        }
        self.domains.push((attribute.to_owned(), domain));
        self.domains.len() - 1
    }

    pub(crate) fn domain(&self, number: usize) -> &Domain {
        &self.domains[number].1
    }

    pub(crate) fn residents(&self, m: usize) -> &[Resident] {
        &self.residents[m]
    }

    pub(crate) fn home(&self, task: TaskId) -> Option<usize> {
        self.home.get(&task).copied()
    }

    /// Where the tasks of a job are, one entry per task.
    pub(crate) fn homes_of(&self, job: JobId) -> impl Iterator<Item = usize> + '_ {
        let all = TaskId { job, index: 0 }..=TaskId { job, index: u32::MAX };
        self.home.range(all).map(|(_, m)| *m)
    }

    /// A copy to try placements in: room, names and facts, but nobody who could be pushed out.
    pub(crate) fn rooms(&self) -> Self {
        Self {
            names: self.names.clone(),
            info: self.info.clone(),
            up: self.up.clone(),
            silent: self.silent.clone(),
            columns: self.columns.clone(),
            devices: self.devices.clone(),
            domains: self.domains.clone(),
            residents: vec![Vec::new(); self.len()],
            home: BTreeMap::new(),
            versions: self.versions.clone(),
            version: self.version,
        }
    }

    /// Takes over what the cell says of a machine; `None` when it is no more. Answers whether its
    /// attributes are other than before.
    pub(crate) fn set(
        &mut self,
        id: MachineId,
        now: Option<(&MachineName, bool, Option<&Arc<MachineInfo>>)>,
    ) -> bool {
        let m = id.0 as usize;
        self.grow(m + 1);
        let (name, up, info) = match now {
            Some((name, up, info)) => (Some(name.clone()), up, info.cloned()),
            None => (None, false, None),
        };
        let attributes = |info: Option<&Arc<MachineInfo>>| info.map(|info| info.attributes.clone());
        let moved = attributes(self.info[m].as_ref()) != attributes(info.as_ref());
        self.names[m] = name;
        self.info[m] = info;
        let bit = 1 << (m % BLOCK);
        self.up[m / BLOCK] &= !bit;
        if up && self.info[m].is_some() {
            self.up[m / BLOCK] |= bit;
        }
        self.take_capacity(m);
        for (attribute, domain) in &mut self.domains {
            domain.set(m, self.info[m].as_deref(), attribute);
        }
        self.touch(m);
        moved
    }

    /// Everything about a machine may be other than before.
    fn touch(&mut self, m: usize) {
        let version = self.next_version();
        self.versions[m / BLOCK] =
            Versions { changed: version, grown: version, residents: version, facts: version };
    }

    fn take_capacity(&mut self, m: usize) {
        let info = self.info[m].clone();
        let mut capacity = vec![0; self.columns.len()];
        if let Some(info) = info {
            for (name, amount) in &info.capacity.devices {
                let column = self.device(name);
                capacity.resize(self.columns.len(), 0);
                capacity[column] = *amount;
            }
            capacity[CPU] = info.capacity.cpu_milli;
            capacity[RAM] = info.capacity.ram_bytes;
            capacity[DISK] = info.capacity.disk_bytes;
            // Port numbers end at 65535, whatever a machine says of itself.
            let possible = (1 << 16) - u64::from(info.first_port.max(1));
            capacity[PORTS] = u64::from(info.capacity.ports).min(possible);
            capacity[TASKS] = MAX_TASKS_ON_A_MACHINE.into();
            capacity[TARGET] = MAX_TARGET_BYTES;
        }
        for (column, capacity) in self.columns.iter_mut().zip(capacity) {
            column.capacity[m] = capacity;
            column.settle(m);
        }
    }

    /// Puts a task on a machine.
    pub(crate) fn add(&mut self, m: usize, resident: Resident) {
        self.grow(m + 1);
        for (column, amount) in resident.need.amounts() {
            let column = &mut self.columns[column];
            column.used[m] = column.used[m].saturating_add(amount);
            column.left[m] = column.capacity[m].saturating_sub(column.used[m]);
        }
        let before = self.home.insert(resident.task, m);
        debug_assert!(before.is_none(), "a task stands on one machine");
        self.residents[m].push(resident);
        let version = self.next_version();
        let block = &mut self.versions[m / BLOCK];
        block.changed = version;
        block.residents = version;
    }

    /// Takes a task from its machine.
    pub(crate) fn remove(&mut self, task: TaskId) -> Option<(usize, Resident)> {
        let m = self.home.remove(&task)?;
        let at =
            self.residents[m].iter().position(|r| r.task == task).expect("home names its machine");
        let resident = self.residents[m].swap_remove(at);
        for (column, amount) in resident.need.amounts() {
            let column = &mut self.columns[column];
            column.used[m] = column.used[m].saturating_sub(amount);
            column.left[m] = column.capacity[m].saturating_sub(column.used[m]);
        }
        let version = self.next_version();
        let block = &mut self.versions[m / BLOCK];
        block.changed = version;
        block.grown = version;
        block.residents = version;
        Some((m, resident))
    }

    /// Notes that a proposed placement was committed as that incarnation: room is as before, but
    /// from now on the task can be pushed out. Answers whether it stood there.
    pub(crate) fn confirm(&mut self, task: TaskId, m: usize, incarnation: u32) -> bool {
        if self.home(task) != Some(m) {
            return false;
        }
        let resident =
            self.residents[m].iter_mut().find(|r| r.task == task).expect("home names its machine");
        if resident.incarnation != Some(incarnation) {
            resident.incarnation = Some(incarnation);
            let version = self.next_version();
            self.versions[m / BLOCK].residents = version;
        }
        true
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn grow(&mut self, machines: usize) {
        if machines <= self.len() {
            return;
        }
        self.names.resize(machines, None);
        self.info.resize(machines, None);
        self.residents.resize_with(machines, Vec::new);
        let blocks = machines.div_ceil(BLOCK);
        self.up.resize(blocks, 0);
        self.silent.resize(blocks, 0);
        self.versions.resize(blocks, Versions::default());
        for column in &mut self.columns {
            for values in
                [&mut column.capacity, &mut column.used, &mut column.left, &mut column.per_unit]
            {
                values.resize(machines, 0);
            }
        }
        for (_, domain) in &mut self.domains {
            domain.of.resize(machines, NOWHERE);
        }
    }
}
