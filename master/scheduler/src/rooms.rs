//! What is free on every machine, as arrays that a scan reads many machines at a time.
//!
//! Answers, for a block of 64 rows, which of them have room and which is the cheapest of those;
//! `machines` says which machine a row is, `class` remembers the answers.
//!
//! Amounts are whole numbers of 31 bits in [`grain`]s, so that a scan compares several machines in
//! one instruction of any processor. What a task asks is rounded up and what a machine has is
//! rounded down, so nothing is promised that is not there.
//!
//! Blocks hold machines of one [`Shape`]: what a task takes of a machine, as a share, is then one
//! number for the block. What a machine costs a task is a sum of what the machine keeps ready
//! (its free share and its imbalance) and of what is the task's own, so a scan only adds and
//! compares.
//!
//! There are two rooms of each machine: for tasks of prod, whose limits must fit into it, and for others,
//! which may stand on what is lent (`borg_cell::state::Machine::room` is the same rule). While nothing is
//! lent they are equal.
//!
//! Invariants: `left` is what that rule leaves, at least 0; `most` is the largest `left` of a block and
//! `least` the smallest, or less;
//! `fit` and `skew` follow from `left` and `capacity` alone.

use crate::score::Weights;
use borg_proto::reclamation::Amounts;
use std::collections::BTreeMap;
use std::ops::Range;

/// Column of processor time, in millicores.
pub(crate) const CPU: usize = 0;
/// Column of memory.
pub(crate) const RAM: usize = 1;
/// Column of disk space.
pub(crate) const DISK: usize = 2;
/// Column of ports, a count.
pub(crate) const PORTS: usize = 3;
/// Column of tasks, a count: a machine is told no more in one message.
pub(crate) const TASKS: usize = 4;
/// Column of what tasks take in that message, in bytes.
pub(crate) const TARGET: usize = 5;
/// Column of what no machine has: kinds of devices that none ever named.
pub(crate) const ABSENT: usize = 6;
/// Columns that every machine has; devices come after, [`PER_DEVICE`] for each kind.
pub(crate) const FIXED_COLUMNS: usize = 7;
/// Columns of one kind of device: what is free in all, in idle devices, and in the one that has the
/// most left, in thousandths. Only the first is a sum.
pub(crate) const PER_DEVICE: usize = 3;
/// Column of idle devices, after the first one of its kind.
pub(crate) const IDLE: usize = 1;
/// Column of the device that has the most left, after the first one of its kind.
pub(crate) const LARGEST: usize = 2;
/// Rows per block: the bits of one word.
pub(crate) const BLOCK: usize = 64;
/// A whole machine, as the unit of shares and costs.
pub(crate) const WHOLE: i32 = 1 << 14;
/// The cost of a row that will not do.
pub(crate) const NEVER_MIND: i32 = i32::MAX;
/// Sums of shares beyond this count as this: a machine with more kinds of devices than a dozen.
const MOST_FREE: i32 = 16 * WHOLE;
/// Significant bits of a capacity that tell shapes apart: machines of one model that report a few
/// pages of memory more or less are alike.
const SHAPE_BITS: u32 = 7;

/// Bits that an amount of a column is shifted down by: memory counts in steps of 64 KiB, disk in
/// MiB, so that 128 TiB and 2 PiB are numbers of 31 bits.
pub(crate) const fn grain(column: usize) -> u32 {
    match column {
        RAM => 16,
        DISK => 20,
        _ => 0,
    }
}

/// An amount that is asked for, in grains, rounded up.
pub(crate) fn asked(column: usize, amount: u64) -> i32 {
    i32::try_from(amount.div_ceil(1 << grain(column))).unwrap_or(i32::MAX)
}

/// An amount that is there, in grains, rounded down. More than 31 bits count as that many.
pub(crate) fn offered(column: usize, amount: u64) -> i32 {
    i32::try_from(amount >> grain(column)).unwrap_or(i32::MAX)
}

/// Grains as an amount again.
pub(crate) fn amount(column: usize, grains: i32) -> u64 {
    u64::from(grains.unsigned_abs()) << grain(column)
}

/// The columns of what can be lent.
pub(crate) const LENT: [usize; 3] = [CPU, RAM, DISK];

/// What of an amount that is lent is of a column, in grains.
fn lent_of(column: usize, lent: Amounts) -> i32 {
    match column {
        CPU => offered(column, lent.cpu_milli),
        RAM => offered(column, lent.ram_bytes),
        DISK => offered(column, lent.disk_bytes),
        _ => 0,
    }
}

/// What one who asks for so much, of which so much is lent, holds of a column.
pub(crate) fn held(kind: Kind, (column, ask): (usize, i32), lent: Amounts) -> Held {
    Held::by(kind, ask, lent_of(column, lent))
}

/// `part` of `whole` in 1/[`WHOLE`]; nothing of a resource that is not there.
fn share(part: i32, whole: i32) -> i32 {
    if whole <= 0 {
        return 0;
    }
    let share = (i64::from(part) * i64::from(WHOLE)) / i64::from(whole);
    i32::try_from(share.min(i64::from(4 * WHOLE))).unwrap_or(4 * WHOLE)
}

/// Whether the share of a column is part of the cost. Ports and what a machine is told are bounds,
/// not goods.
pub(crate) const fn is_scored(column: usize) -> bool {
    matches!(column, CPU | RAM | DISK)
        || (column >= FIXED_COLUMNS && (column - FIXED_COLUMNS).is_multiple_of(PER_DEVICE))
}

/// Whether what is free follows from single devices instead of from a sum.
pub(crate) const fn is_derived(column: usize) -> bool {
    column >= FIXED_COLUMNS && !is_scored(column)
}

/// What tasks hold of one resource of a machine, in grains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// Their limits.
    pub(crate) limits: i64,
    /// What of these is of prod.
    pub(crate) of_prod: i64,
    /// What of these is lent.
    pub(crate) lent: i64,
}

impl Held {
    /// What one task holds.
    pub(crate) fn by(kind: Kind, ask: i32, lent: i32) -> Self {
        let limits = i64::from(ask);
        let of_prod = if kind == Kind::Prod { limits } else { 0 };
        Self { limits, of_prod, lent: lent.into() }
    }

    /// Adds what others hold, or takes it away.
    pub(crate) fn add(&mut self, other: Self, more: bool) {
        let sign = if more { 1 } else { -1 };
        self.limits += sign * other.limits;
        self.of_prod += sign * other.of_prod;
        self.lent += sign * other.lent;
    }

    /// What is left of a capacity for one more task of a kind.
    fn leaves(&self, capacity: i32, kind: Kind, most_percent: u32) -> i32 {
        let all = i64::from(capacity);
        let bound = match kind {
            Kind::Prod => all - self.of_prod,
            Kind::Rest => all * i64::from(most_percent) / 100 - (self.limits - self.of_prod),
        };
        let left = (all - self.limits + self.lent).min(bound);
        i32::try_from(left.max(0)).unwrap_or(i32::MAX)
    }
}

/// What is left of one resource for tasks of one kind, over all rows.
#[derive(Debug, Clone, Default)]
struct Left {
    left: Vec<i32>,
    /// The largest `left` of each block.
    most: Vec<i32>,
    /// The smallest `left` of each block, or less. Who asks for no more need not look at rows.
    least: Vec<i32>,
}

impl Left {
    fn set(&mut self, row: usize, left: i32) {
        let before = std::mem::replace(&mut self.left[row], left);
        let b = row / BLOCK;
        if left >= self.most[b] {
            self.most[b] = left;
        } else if before == self.most[b] {
            self.most[b] = self.left[rows(b)].iter().copied().max().unwrap_or(0);
        }
        if left <= self.least[b] {
            self.least[b] = left;
        } else if before == self.least[b] {
            self.least[b] = self.left[rows(b)].iter().copied().min().unwrap_or(0);
        }
    }

    fn grow(&mut self, rows: usize, blocks: usize) {
        self.left.resize(rows, 0);
        self.most.resize(blocks, 0);
        self.least.resize(blocks, 0);
    }
}

/// One resource over all rows.
#[derive(Debug, Clone, Default)]
struct Column {
    capacity: Vec<i32>,
    held: Vec<Held>,
    /// For tasks of prod and for others.
    left: [Left; 2],
    /// The largest `capacity` that a row of each block ever had.
    ceiling: Vec<i32>,
}

impl Column {
    fn settle(&mut self, row: usize, most_percent: u32) {
        for kind in Kind::BOTH {
            let left = self.held[row].leaves(self.capacity[row], kind, most_percent);
            self.left[kind.number()].set(row, left);
        }
    }

    fn left(&self, kind: Kind) -> &Left {
        &self.left[kind.number()]
    }

    fn grow(&mut self, rows: usize, blocks: usize) {
        self.capacity.resize(rows, 0);
        self.held.resize(rows, Held::default());
        self.left.iter_mut().for_each(|left| left.grow(rows, blocks));
        self.ceiling.resize(blocks, 0);
    }
}

/// The rows of a block.
pub(crate) fn rows(b: usize) -> Range<usize> {
    b * BLOCK..(b + 1) * BLOCK
}

/// Capacities of the scored columns, each without its low bits; columns that are 0 at the end are
/// left out, so that a new device does not change the shape of machines without it.
pub(crate) type Shape = Vec<i32>;

/// The shape of a machine with these capacities.
pub(crate) fn shape(capacity: &[i32]) -> Shape {
    let coarse = |c: i32| {
        let low = (i32::BITS - c.leading_zeros()).saturating_sub(SHAPE_BITS);
        c >> low << low
    };
    let mut shape: Shape = capacity
        .iter()
        .enumerate()
        .map(|(column, c)| if is_scored(column) { coarse(*c) } else { 0 })
        .collect();
    while shape.last() == Some(&0) {
        shape.pop();
    }
    shape
}

/// The two kinds of work that machines mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the bands production and monitoring.
    Prod,
    /// Of the other bands.
    Rest,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Prod, Self::Rest];

    const fn number(self) -> usize {
        match self {
            Self::Prod => 0,
            Self::Rest => 1,
        }
    }
}

/// What one class of tasks wants of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// (column, grains), each more than 0.
    pub(crate) asks: &'a [(usize, i32)],
    /// Which kind of work it is.
    pub(crate) kind: Kind,
    /// Rows that will do, a word per block; empty means all.
    pub(crate) allowed: &'a [u64],
    /// Rows that will not do, a word per block; empty means none.
    pub(crate) full: &'a [u64],
    /// More rows that will not do, of whatever block is looked at.
    pub(crate) except: u64,
    /// What each row costs beside its room; empty means nothing.
    pub(crate) penalty: &'a [i32],
    /// By number of shape, as [`Rooms::bite`] gives it.
    pub(crate) bites: &'a [Bite],
}

/// What a task takes of machines of one shape, weighted as the scan adds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bite {
    fit: i32,
    skew: i32,
}

/// Room of all rows.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    weights: Weights,
    /// What the limits of all tasks that are not prod may come to, in hundredths of a machine.
    most_percent: u32,
    columns: Vec<Column>,
    /// Weighted free share of each row, summed over scored columns, and what mixing is worth: for tasks
    /// of prod and for others.
    fit: [Vec<i32>; 2],
    /// Weighted share of each row's cpu that the other kind has, for tasks of prod and for others.
    mix: [Vec<i32>; 2],
    /// Millicores of each row that prod has, and others.
    cpu_of: [Vec<i64>; 2],
    /// Weighted difference of the free shares of cpu and memory, for tasks of prod and for others.
    skew: [Vec<i32>; 2],
    /// Rows that may get tasks, a word per block.
    open: Vec<u64>,
    /// Order among rows of equal cost: lower first.
    rank: Vec<u64>,
    /// Shape of each block.
    shape_of: Vec<usize>,
    shapes: Vec<Shape>,
    numbers: BTreeMap<Shape, usize>,
}

impl Rooms {
    pub(crate) fn new(weights: Weights, most_percent: u32) -> Self {
        Self {
            weights,
            most_percent,
            columns: vec![Column::default(); FIXED_COLUMNS],
            fit: Default::default(),
            mix: Default::default(),
            cpu_of: Default::default(),
            skew: Default::default(),
            open: Vec::new(),
            rank: Vec::new(),
            shape_of: Vec::new(),
            shapes: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn rank(&self, row: usize) -> u64 {
        self.rank[row]
    }

    pub(crate) fn is_open(&self, row: usize) -> bool {
        self.open[row / BLOCK] >> (row % BLOCK) & 1 == 1
    }

    pub(crate) fn set_open(&mut self, row: usize, open: bool) {
        let bit = 1 << (row % BLOCK);
        self.open[row / BLOCK] &= !bit;
        if open {
            self.open[row / BLOCK] |= bit;
        }
    }

    pub(crate) fn capacity(&self, column: usize, row: usize) -> i32 {
        self.columns[column].capacity[row]
    }

    /// What is free for a task of a kind.
    pub(crate) fn left(&self, column: usize, row: usize, kind: Kind) -> i32 {
        self.columns[column].left(kind).left[row]
    }

    /// What is free for a task of a kind once `freed` of what is held is given back.
    pub(crate) fn left_with(&self, column: usize, row: usize, kind: Kind, freed: Held) -> i32 {
        let column = &self.columns[column];
        let mut held = column.held[row];
        held.add(freed, false);
        held.limits = held.limits.max(0);
        held.leaves(column.capacity[row], kind, self.most_percent)
    }

    /// What is free by limits alone, whatever is lent.
    pub(crate) fn left_by_limits(&self, column: usize, row: usize) -> i32 {
        let column = &self.columns[column];
        let left = i64::from(column.capacity[row]) - column.held[row].limits;
        i32::try_from(left.max(0)).unwrap_or(i32::MAX)
    }

    /// The columns of one more kind of device; gives the first.
    pub(crate) fn add_device(&mut self) -> usize {
        let mut column = Column::default();
        column.grow(self.rank.len(), self.blocks());
        self.columns.resize(self.columns.len() + PER_DEVICE, column);
        self.columns.len() - PER_DEVICE
    }

    /// The number of a shape, made if it is new.
    pub(crate) fn number(&mut self, shape: &Shape) -> usize {
        if let Some(number) = self.numbers.get(shape) {
            return *number;
        }
        self.shapes.push(shape.clone());
        self.numbers.insert(shape.clone(), self.shapes.len() - 1);
        self.shapes.len() - 1
    }

    /// The shape's number of a row's block.
    pub(crate) fn shape_number(&self, row: usize) -> usize {
        self.shape_of[row / BLOCK]
    }

    /// One more block, for machines of that shape.
    pub(crate) fn add_block(&mut self, shape: usize) -> usize {
        let (rows, blocks) = (self.rank.len() + BLOCK, self.blocks() + 1);
        self.columns.iter_mut().for_each(|column| column.grow(rows, blocks));
        let costs = self.fit.iter_mut().chain(&mut self.mix).chain(&mut self.skew);
        costs.for_each(|all| all.resize(rows, 0));
        self.cpu_of.iter_mut().for_each(|all| all.resize(rows, 0));
        self.rank.resize(rows, u64::MAX);
        self.open.push(0);
        self.shape_of.push(shape);
        self.open.len() - 1
    }

    /// A row is another machine from now on, or the same with another capacity.
    pub(crate) fn furnish(&mut self, row: usize, capacity: &[i32], rank: u64) {
        for (column, amount) in self.columns.iter_mut().zip(capacity) {
            column.capacity[row] = *amount;
            let ceiling = &mut column.ceiling[row / BLOCK];
            *ceiling = (*amount).max(*ceiling);
            column.settle(row, self.most_percent);
        }
        self.rank[row] = rank;
        self.weigh(row);
    }

    /// Takes room, or gives it back, of which so much is lent.
    pub(crate) fn take(
        &mut self,
        row: usize,
        asks: &[(usize, i32)],
        lent: Amounts,
        kind: Kind,
        takes: bool,
    ) {
        let cpu = asks.iter().find(|(column, _)| *column == CPU).map_or(0, |(_, ask)| *ask);
        self.cpu_of[kind.number()][row] += i64::from(if takes { cpu } else { -cpu });
        for (column, ask) in asks.iter().filter(|(column, _)| !is_derived(*column)) {
            let held = held(kind, (*column, *ask), lent);
            let column = &mut self.columns[*column];
            column.held[row].add(held, takes);
            column.settle(row, self.most_percent);
        }
        self.weigh(row);
    }

    /// One who holds room lends another amount of it.
    pub(crate) fn lend(&mut self, row: usize, before: Amounts, now: Amounts) {
        for column in LENT {
            let more = lent_of(column, now) - lent_of(column, before);
            let column = &mut self.columns[column];
            column.held[row].lent += i64::from(more);
            column.settle(row, self.most_percent);
        }
        self.weigh(row);
    }

    /// What is free of a column that is no sum.
    pub(crate) fn set_left(&mut self, column: usize, row: usize, left: i32) {
        self.columns[column].left.iter_mut().for_each(|of_kind| of_kind.set(row, left));
    }

    fn weigh(&mut self, row: usize) {
        for kind in Kind::BOTH {
            let share_left =
                |column: &Column| share(column.left(kind).left[row], column.capacity[row]);
            let (cpu, ram) = (share_left(&self.columns[CPU]), share_left(&self.columns[RAM]));
            let mut free = cpu + ram + share_left(&self.columns[DISK]);
            for column in self.columns[FIXED_COLUMNS..].iter().step_by(PER_DEVICE) {
                free = free.saturating_add(share_left(column));
            }
            let fit = free.min(MOST_FREE) * i32::from(self.weights.fit);
            self.skew[kind.number()][row] = (cpu - ram) * i32::from(self.weights.strand);
            let others = self.cpu_of[1 - kind.number()][row];
            let others = i32::try_from(others).unwrap_or(i32::MAX);
            let mix = -share(others, self.columns[CPU].capacity[row]) * i32::from(self.weights.mix);
            self.mix[kind.number()][row] = mix;
            self.fit[kind.number()][row] = fit + mix;
        }
    }

    /// What mixing is worth on a row to a task of a kind, by what stands there before anybody is pushed
    /// out.
    pub(crate) fn mix(&self, row: usize, kind: Kind) -> i32 {
        self.mix[kind.number()][row]
    }

    /// How many shapes there are.
    pub(crate) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// What a task takes of machines of a shape.
    pub(crate) fn bite(&self, shape: usize, asks: &[(usize, i32)]) -> Bite {
        let shape = &self.shapes[shape];
        let (mut all, mut cpu, mut ram) = (0_i32, 0, 0);
        for (column, ask) in asks {
            if !is_scored(*column) {
                continue;
            }
            let part = share(*ask, shape.get(*column).copied().unwrap_or(0));
            all = all.saturating_add(part);
            match *column {
                CPU => cpu = part,
                RAM => ram = part,
                _ => {}
            }
        }
        Bite {
            fit: all.min(MOST_FREE) * i32::from(self.weights.fit),
            skew: (cpu - ram) * i32::from(self.weights.strand),
        }
    }

    /// Whether a row of the block may have room, by the largest that is free of each column.
    #[inline]
    pub(crate) fn may_fit(&self, b: usize, asks: &[(usize, i32)], kind: Kind) -> bool {
        asks.iter().all(|(column, ask)| *ask <= self.columns[*column].left(kind).most[b])
    }

    /// Whether a row of the block could do were it empty.
    pub(crate) fn could_ever_fit(&self, b: usize, asks: &[(usize, i32)], allowed: &[u64]) -> bool {
        let open = self.open[b] & allowed.get(b).copied().unwrap_or(u64::MAX);
        open != 0 && asks.iter().all(|(column, ask)| *ask <= self.columns[*column].ceiling[b])
    }

    /// The cheapest row of a block, with its cost, [`NEVER_MIND`] when none will do.
    #[inline]
    pub(crate) fn best(&self, b: usize, wanted: Wanted<'_>) -> (i32, usize) {
        let mut open = self.open[b] & !wanted.except;
        if let Some(allowed) = wanted.allowed.get(b) {
            open &= allowed;
        }
        if let Some(full) = wanted.full.get(b) {
            open &= !full;
        }
        if open == 0 || !self.may_fit(b, wanted.asks, wanted.kind) {
            return (NEVER_MIND, 0);
        }
        let costs = self.costs(b, open, wanted);
        let least = costs.iter().copied().min().unwrap_or(NEVER_MIND);
        if least == NEVER_MIND {
            return (NEVER_MIND, 0);
        }
        let first = costs.iter().position(|cost| *cost == least).unwrap_or(0);
        let mut best = rows(b).start + first;
        let ties: i32 = costs.iter().map(|cost| i32::from(*cost == least)).sum();
        if ties > 1 {
            for (cost, row) in costs.iter().zip(rows(b)).skip(first + 1) {
                if *cost == least && self.rank[row] < self.rank[best] {
                    best = row;
                }
            }
        }
        (least, best)
    }

    /// What each row of a block costs; [`NEVER_MIND`] where it will not do.
    #[inline]
    fn costs(&self, b: usize, open: u64, wanted: Wanted<'_>) -> [i32; BLOCK] {
        // All ones where the row will do.
        let mut fits = [0_i32; BLOCK];
        for (lane, fits) in fits.iter_mut().enumerate() {
            *fits = -i32::from(open >> lane & 1 == 1);
        }
        for (column, ask) in wanted.asks {
            let of_kind = self.columns[*column].left(wanted.kind);
            if *ask <= of_kind.least[b] {
                continue;
            }
            for (fits, left) in fits.iter_mut().zip(block(&of_kind.left, b)) {
                *fits &= -i32::from(*left >= *ask);
            }
        }
        let bite = wanted.bites[self.shape_of[b]];
        let kind = wanted.kind.number();
        let (fit, skew) = (block(&self.fit[kind], b), block(&self.skew[kind], b));
        let mut costs = [0_i32; BLOCK];
        for (cost, (fit, skew)) in costs.iter_mut().zip(fit.iter().zip(skew)) {
            *cost = fit
                .wrapping_sub(bite.fit)
                .wrapping_add(skew.wrapping_sub(bite.skew).wrapping_abs());
        }
        if !wanted.penalty.is_empty() {
            for (cost, penalty) in costs.iter_mut().zip(block(wanted.penalty, b)) {
                *cost = cost.wrapping_add(*penalty);
            }
        }
        for (cost, fits) in costs.iter_mut().zip(&fits) {
            *cost = (*cost & fits) | (NEVER_MIND & !fits);
        }
        costs
    }

    /// What each row of a block that will do costs.
    pub(crate) fn all_costs(&self, b: usize, wanted: Wanted<'_>) -> [Option<i32>; BLOCK] {
        let closed = |words: &[u64], none| words.get(b).copied().unwrap_or(none);
        let open = self.open[b] & closed(wanted.allowed, u64::MAX) & !closed(wanted.full, 0);
        self.costs(b, open, wanted).map(|cost| (cost != NEVER_MIND).then_some(cost))
    }

    /// What one row's room costs when `freed` (by column) is given back first, the same as the scan
    /// says: (fit, strand).
    pub(crate) fn cost(
        &self,
        row: usize,
        asks: &[(usize, i32)],
        kind: Kind,
        freed: impl Fn(usize) -> Held,
    ) -> (i32, i32) {
        let share_left = |column: usize| {
            let left = self.left_with(column, row, kind, freed(column));
            share(left, self.columns[column].capacity[row])
        };
        let (cpu, ram) = (share_left(CPU), share_left(RAM));
        let mut free = cpu + ram + share_left(DISK);
        for column in (FIXED_COLUMNS..self.columns.len()).step_by(PER_DEVICE) {
            free = free.saturating_add(share_left(column));
        }
        let bite = self.bite(self.shape_number(row), asks);
        let fit = free.min(MOST_FREE) * i32::from(self.weights.fit) - bite.fit;
        let skew = (cpu - ram) * i32::from(self.weights.strand) - bite.skew;
        (fit, skew.abs())
    }
}

/// The values of a block's rows.
#[inline]
fn block(values: &[i32], b: usize) -> &[i32; BLOCK] {
    let found = values[rows(b)].first_chunk();
    found.expect("every array has whole blocks")
}
