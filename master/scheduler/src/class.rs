//! Equal tasks: which machine is the best for the next of them, remembered from block to block.
//!
//! Per block of 64 rows a class keeps the cheapest row and the version at which it was looked at. On
//! use only blocks that changed since are scored again, so ten thousand equal tasks cost one scan
//! and ten thousand repairs; a class that fits nowhere costs nothing until room comes free (the
//! equivalence classes and the score cache of the Borg paper, section 3.4). With `caches` off every
//! block is scored every time: the answers are the same.
//!
//! Invariant: a remembered answer equals the one that scoring the block now would give.

use crate::crowds::Crowds;
use crate::domain::bits;
use crate::holdings::Want;
use crate::machines::{Grown, Machines};
use crate::need::Need;
use crate::reasons::{Misses, misses};
use crate::rooms::{BLOCK, Bite, Held, NEVER_MIND, Wanted, rows};
use crate::score::{Score, There, Weights};
use crate::standing::Terms;
use crate::victims::{Chooser, Freed, Loss};
use std::sync::Arc;

/// The best row of a block, and when that was found.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// 0: not looked at.
    at: u64,
    cost: i32,
    row: usize,
}

const UNSEEN: Seen = Seen { at: 0, cost: NEVER_MIND, row: 0 };

/// What a choice with victims is compared by: least loss, then cost, then the order of ties.
type WithVictims = (Loss, i32, u64, usize);

/// What was found in a block of which somebody has to go, and when.
#[derive(Debug, Clone, Copy, Default)]
struct SeenVictims {
    /// 0: not looked at.
    at: u64,
    found: Option<WithVictims>,
    /// Whether there would be too little room even if all went who may, budgets aside.
    hopeless: bool,
}

/// Tasks that get equal answers, see [`crate::need::ClassKey`].
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) need: Arc<Need>,
    plain: Vec<Seen>,
    preempting: Vec<SeenVictims>,
    /// Version of the machines as all blocks were last looked at for somebody to push out.
    scanned_at: u64,
    /// Blocks that were without hope then, as bits, of a class that is parked and remembers no more.
    hopeless: Vec<u64>,
    /// Version of the facts that `allowed` and `penalty` are of, per block.
    facts: Vec<u64>,
    /// Rows that meet the hard constraints and take tasks of the user, a word per block; empty when there
    /// are no constraints and no machine is kept for anybody.
    allowed: Vec<u64>,
    /// Rows where a spread limit is reached, a word per block; empty when there are no limits.
    full: Vec<u64>,
    /// What each row costs beside its room; empty while that is nothing.
    penalty: Vec<i32>,
    bites: Vec<Bite>,
    crowds: Crowds,
    /// Version of the machines as the class began to count its crowds.
    born: u64,
    /// Blocks in which it could ever fit, as bits, of a class that is parked.
    reach: Vec<u64>,
    /// Newest version at which nothing fitted anywhere: (plain, with victims).
    nowhere: (u64, u64),
    /// When it was last used, to forget the ones that are not.
    pub(crate) used_at: u64,
}

impl Class {
    /// A class with nothing remembered; the job's tasks are counted where `machines` has them.
    pub(crate) fn new(need: Arc<Need>, machines: &Machines, weights: &Weights) -> Self {
        let crowds = Crowds::new(&need);
        let mut class = Self {
            need,
            plain: Vec::new(),
            preempting: Vec::new(),
            scanned_at: 0,
            hopeless: Vec::new(),
            facts: Vec::new(),
            allowed: Vec::new(),
            full: Vec::new(),
            penalty: Vec::new(),
            bites: Vec::new(),
            crowds,
            born: machines.version(),
            reach: Vec::new(),
            nowhere: (0, 0),
            used_at: 0,
        };
        class.grow(machines);
        if class.need.tasks > 1 {
            for row in machines.homes_of(class.need.job) {
                class.count(machines, weights, row, true);
            }
        }
        class
    }

    /// Notes that a task of the job came to a row, or left it.
    pub(crate) fn count(&mut self, machines: &Machines, weights: &Weights, row: usize, came: bool) {
        if self.need.tasks <= 1 {
            return;
        }
        self.grow(machines);
        if self.penalty.is_empty() {
            self.penalty.resize(machines.len(), 0);
        }
        let others = self.crowds.count(machines, weights, row, came);
        let worse = came && !weights.attract();
        self.settle(machines, weights, row);
        self.forget(row, worse);
        for value in others {
            let domain = machines.domain(value.domain);
            for other in domain.rows_of(value.value) {
                self.settle(machines, weights, *other);
                self.forget(*other, worse);
            }
        }
        if !came {
            self.nowhere = (0, 0);
        }
    }

    /// A row became worse, or better. What became worse and was not the best before is not now.
    fn forget(&mut self, row: usize, worse: bool) {
        let b = row / BLOCK;
        if !worse || self.plain[b].row == row {
            self.plain[b].at = 0;
        }
        if let Some(seen) = self.preempting.get_mut(b) {
            seen.at = 0;
        }
        if let Some(word) = self.hopeless.get_mut(b / 64) {
            *word &= !(1 << (b % 64));
        }
    }

    /// Works out again what the job's other tasks and the soft constraints make of one row.
    fn settle(&mut self, machines: &Machines, weights: &Weights, row: usize) {
        if let Some(word) = self.full.get_mut(row / BLOCK) {
            let bit = 1 << (row % BLOCK);
            let full = self.crowds.is_full(machines, row);
            *word = if full { *word | bit } else { *word & !bit };
        }
        if let Some(penalty) = self.penalty.get_mut(row) {
            let filters = &machines.filters;
            let missed = self.need.soft.iter().filter(|f| !filters.holds(**f, row)).count();
            *penalty = weights.penalty(self.crowds.there(machines, row), missed);
        }
    }

    /// The best row with room, with its cost. A task that keeps away from some rows gets the best
    /// of the others.
    pub(crate) fn best(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        caches: bool,
        avoid: &[usize],
    ) -> Option<(i32, usize)> {
        self.grow(machines);
        if caches && self.nowhere.0 == machines.version() {
            return None;
        }
        let mut best = UNSEEN;
        for b in 0..machines.rooms.blocks() {
            let versions = machines.versions(b);
            let seen = self.plain[b];
            let since = if seen.cost == NEVER_MIND { versions.grown } else { versions.changed };
            if !caches || seen.at == 0 || since > seen.at {
                self.learn(machines, weights, b);
                let (cost, row) = machines.rooms.best(b, self.wanted(0));
                self.plain[b] = Seen { at: machines.version(), cost, row };
            }
            let mut found = self.plain[b];
            let except = in_block(avoid, b);
            if except != 0 {
                (found.cost, found.row) = machines.rooms.best(b, self.wanted(except));
            }
            let rank = |seen: Seen| machines.rooms.rank(seen.row);
            if found.cost < best.cost
                || (found.cost == best.cost && found.cost != NEVER_MIND && rank(found) < rank(best))
            {
                best = found;
            }
        }
        if best.cost == NEVER_MIND {
            if avoid.is_empty() {
                self.nowhere.0 = machines.version();
            }
            return None;
        }
        Some((best.cost, best.row))
    }

    fn wanted(&self, except: u64) -> Wanted<'_> {
        Wanted {
            asks: &self.need.asks,
            kind: self.need.kind(),
            allowed: &self.allowed,
            full: &self.full,
            except,
            penalty: &self.penalty,
            bites: &self.bites,
        }
    }

    /// The best row on which somebody has to go first.
    pub(crate) fn best_preempting(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        caches: bool,
        avoid: &[usize],
    ) -> Option<usize> {
        self.grow(machines);
        if caches && self.nowhere.1 == machines.version() {
            return None;
        }
        if !machines.has_lower(self.need.priority) {
            self.nowhere.1 = machines.version();
            return None;
        }
        self.recall(machines);
        let mut best: Option<WithVictims> = None;
        for b in 0..machines.rooms.blocks() {
            let versions = machines.versions(b);
            let seen = self.preempting[b];
            // Whoever comes takes no more than he may have to give back, so only what grows gives hope.
            let since = match seen.hopeless {
                true => versions.grown,
                false => versions.residents.max(versions.facts).max(versions.changed),
            };
            if !caches || seen.at == 0 || since > seen.at {
                self.learn(machines, weights, b);
                let only = caches && seen.hopeless && versions.facts <= seen.at;
                let after = if only { seen.at } else { 0 };
                let (found, hopeless) = self.scan_preempting(machines, b, 0, false, after);
                debug_assert_eq!(
                    found,
                    self.scan_preempting(machines, b, 0, false, 0).0,
                    "all rows"
                );
                self.preempting[b] = SeenVictims { at: machines.version(), found, hopeless };
            }
            let except = in_block(avoid, b);
            let found = if except == 0 {
                self.preempting[b].found
            } else {
                self.scan_preempting(machines, b, except, false, 0).0
            };
            best = match (best, found) {
                (Some(best), Some(found)) => Some(best.min(found)),
                (best, found) => best.or(found),
            };
        }
        self.scanned_at = machines.version();
        if best.is_none() && avoid.is_empty() {
            self.nowhere.1 = machines.version();
        }
        best.map(|(_, _, _, row)| row)
    }

    /// It fits nowhere: only blocks where it could fit were they empty are worth a look from now on.
    /// What it remembers of blocks goes unless it is soon tried again.
    pub(crate) fn park(&mut self, machines: &Machines, soon: bool) -> &[u64] {
        let blocks = machines.rooms.blocks();
        self.reach.clear();
        self.reach.resize(blocks.div_ceil(64), 0);
        for b in 0..blocks {
            self.set_reach(machines, b);
        }
        if !soon {
            self.plain = Vec::new();
            self.keep_hopeless();
        }
        &self.reach
    }

    /// Of what was found in each block only where there was no hope stays, as far as it was looked at again.
    fn keep_hopeless(&mut self) {
        let seen = std::mem::take(&mut self.preempting);
        if seen.is_empty() {
            return;
        }
        self.hopeless = vec![0; seen.len().div_ceil(64)];
        for (b, seen) in seen.into_iter().enumerate() {
            self.hopeless[b / 64] |= u64::from(seen.hopeless && seen.at > 0) << (b % 64);
        }
    }

    /// Makes room for what is found in each block; a class that was parked knows of some that there was no hope.
    fn recall(&mut self, machines: &Machines) {
        if self.preempting.is_empty() {
            let hopeless =
                |b: usize| self.hopeless.get(b / 64).is_some_and(|word| word >> (b % 64) & 1 == 1);
            let seen = |b: usize| match hopeless(b) {
                true => SeenVictims { at: self.scanned_at, found: None, hopeless: true },
                false => SeenVictims::default(),
            };
            self.preempting = (0..machines.rooms.blocks()).map(seen).collect();
        }
        self.preempting.resize(machines.rooms.blocks(), SeenVictims::default());
        self.hopeless.clear();
    }

    /// The blocks in which it could ever fit, of a class that is parked.
    pub(crate) fn reach(&self) -> &[u64] {
        &self.reach
    }

    fn set_reach(&mut self, machines: &Machines, b: usize) {
        let reached = machines.rooms.could_ever_fit(b, &self.need.asks, &self.allowed);
        self.reach[b / 64] &= !(1 << (b % 64));
        self.reach[b / 64] |= u64::from(reached) << (b % 64);
    }

    /// Whether a row that grew since nothing fitted anywhere has a place now.
    pub(crate) fn wakes(&mut self, machines: &Machines, weights: &Weights, grown: &Grown) -> bool {
        self.reach.resize(grown.blocks.len(), 0);
        for (w, facts) in grown.facts.iter().enumerate().filter(|(_, facts)| **facts != 0) {
            self.grow(machines);
            for bit in bits(*facts) {
                self.learn(machines, weights, w * 64 + bit);
                self.set_reach(machines, w * 64 + bit);
            }
        }
        let lower = machines.has_lower(self.need.priority);
        self.reached(grown).any(|b| {
            machines.rooms.best(b, self.wanted(0)).0 != NEVER_MIND
                || (lower && self.scan_preempting(machines, b, 0, false, grown.since).0.is_some())
        })
    }

    /// Blocks that grew and in which it could ever fit.
    fn reached<'a>(&'a self, grown: &'a Grown) -> impl Iterator<Item = usize> + 'a {
        let words = grown.blocks.iter().zip(&self.reach).map(|(grown, reach)| grown & reach);
        words.enumerate().flat_map(|(w, word)| bits(word).map(move |b| w * 64 + b))
    }

    /// Whether one of the rows that grew has a place for it, which [`crate::holdings::Hopes`] must not miss.
    #[cfg(debug_assertions)]
    pub(crate) fn gains(&self, machines: &Machines, grown: &Grown) -> bool {
        let lower = machines.has_lower(self.need.priority);
        self.reached(grown).any(|b| {
            let old = rows(b).filter(|row| machines.grown_at(*row) <= grown.since);
            let old = old.fold(0, |word, row| word | 1 << (row % BLOCK));
            machines.rooms.best(b, self.wanted(old)).0 != NEVER_MIND
                || (lower && self.scan_preempting(machines, b, 0, false, grown.since).0.is_some())
        })
    }

    /// The best row on which somebody has to go first, whatever disruption budgets say.
    pub(crate) fn best_overdue(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        avoid: &[usize],
    ) -> Option<usize> {
        self.grow(machines);
        if !machines.has_budgets_below(self.need.priority) {
            return None;
        }
        let mut best: Option<WithVictims> = None;
        for b in 0..machines.rooms.blocks() {
            self.learn(machines, weights, b);
            let (found, _) = self.scan_preempting(machines, b, in_block(avoid, b), true, 0);
            best = best.into_iter().chain(found).min();
        }
        best.map(|(_, _, _, row)| row)
    }

    /// The best row of a block on which somebody has to go first, of those that grew after a version (0: of all); and
    /// whether none of them could do even if all went who may.
    fn scan_preempting(
        &self,
        machines: &Machines,
        b: usize,
        except: u64,
        overdue: bool,
        after: u64,
    ) -> (Option<WithVictims>, bool) {
        if !machines.rooms.could_ever_fit(b, &self.need.asks, &self.allowed) {
            return (None, true);
        }
        let want = Want::of(&self.need);
        let mut hopeless = true;
        let mut chooser = Chooser::new(machines, &self.need, overdue);
        let mut best: Option<WithVictims> = None;
        for row in rows(b) {
            if except >> (row % BLOCK) & 1 == 1
                || (after > 0 && machines.grown_at(row) <= after)
                || !machines.rooms.is_open(row)
                || !self.is_allowed(row)
            {
                continue;
            }
            if !want.fits(machines.most_room(row, want.priority, want.kind)) {
                debug_assert!(chooser.choose(row, None).is_none(), "the bound is one");
                continue;
            }
            hopeless = false;
            let bound = best.map(|(loss, ..)| loss);
            let Some(loss) = chooser.choose(row, bound) else { continue };
            if bound.is_some_and(|bound| bound < loss) {
                continue;
            }
            let penalty = self.penalty.get(row).copied().unwrap_or(0);
            let back = |column: usize| chooser.freed().amount(column);
            let (fit, strand) = machines.rooms.cost(row, &self.need.asks, self.need.kind(), back);
            let mix = machines.rooms.mix(row, self.need.kind());
            let found = (loss, fit + strand + mix + penalty, machines.rooms.rank(row), row);
            best = Some(best.map_or(found, |best| best.min(found)));
        }
        (best, hopeless)
    }

    /// What each row of a block that will do costs.
    pub(crate) fn costs(&self, machines: &Machines, b: usize) -> [Option<i32>; BLOCK] {
        machines.rooms.all_costs(b, self.wanted(0))
    }

    /// What one row costs, by term, to a task that stands there or does not.
    pub(crate) fn terms(
        &self,
        machines: &Machines,
        weights: &Weights,
        row: usize,
        stands: bool,
    ) -> Terms {
        let kind = self.need.kind();
        let its = |column: usize| {
            let ask = self.need.asks.iter().find(|(c, _)| *c == column && stands);
            // What it lends itself is little beside that.
            ask.map_or(Held::default(), |(_, ask)| Held::by(kind, *ask, 0))
        };
        let (fit, strand) = machines.rooms.cost(row, &self.need.asks, kind, its);
        let filters = &machines.filters;
        let missed = self.need.soft.iter().filter(|f| !filters.holds(**f, row)).count();
        let there = self.crowds.there(machines, row);
        let only = |there: There| weights.penalty(there, 0);
        Terms {
            fit,
            strand,
            machine_crowd: only(There { rack: 0, power: 0, ..there }),
            rack_crowd: only(There { machine: 0, power: 0, ..there }),
            power_crowd: only(There { machine: 0, rack: 0, ..there }),
            mix: machines.rooms.mix(row, self.need.kind()),
            soft: weights.penalty(There::default(), missed),
        }
    }

    /// Whether there is a machine that could take such a task were it empty, besides those to
    /// avoid. One that is silent counts: it answers again or is given up soon, and is worth the
    /// wait; one that is closed does not, which may be for ever.
    pub(crate) fn has_others(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        avoid: &[usize],
    ) -> bool {
        self.learn_all(machines, weights);
        let allowed = |row: usize| {
            self.allowed.get(row / BLOCK).is_none_or(|word| word >> (row % BLOCK) & 1 == 1)
        };
        let fits = |row: usize| {
            let room = |column: usize| machines.rooms.capacity(column, row);
            machines.is_in_service(row)
                && !machines.is_closed(row)
                && allowed(row)
                && self.need.asks.iter().all(|(column, ask)| *ask <= room(*column))
        };
        machines.known().any(|row| !avoid.contains(&row) && fits(row))
    }

    fn is_allowed(&self, row: usize) -> bool {
        let has = |word: &u64| word >> (row % BLOCK) & 1 == 1;
        self.allowed.get(row / BLOCK).is_none_or(has)
            && !self.full.get(row / BLOCK).is_some_and(has)
    }

    /// Everything that keeps one task of the class from a row, when `freed` is given back.
    pub(crate) fn misses(
        &self,
        machines: &Machines,
        row: usize,
        freed: &Freed<'_>,
        avoid: &[usize],
    ) -> Misses {
        let crowded = self.crowds.is_full(machines, row);
        misses(machines, &self.need, row, freed, crowded, avoid.contains(&row))
    }

    /// The spread limits that a row would break, as (attribute, most).
    pub(crate) fn crowded<'a>(
        &'a self,
        machines: &'a Machines,
        row: usize,
    ) -> impl Iterator<Item = (&'a str, u32)> + 'a {
        self.crowds.full(machines, row)
    }

    /// Makes room for machines and shapes that came since.
    fn grow(&mut self, machines: &Machines) {
        let blocks = machines.rooms.blocks();
        for shape in self.bites.len()..machines.rooms.shapes() {
            self.bites.push(machines.rooms.bite(shape, &self.need.asks));
        }
        if self.plain.len() == blocks {
            return;
        }
        self.plain.resize(blocks, UNSEEN);
        self.facts.resize(blocks, 0);
        if !self.need.hard.is_empty() || machines.access.is_limited() {
            self.allowed.resize(blocks, 0);
        }
        if !self.need.spreads.is_empty() {
            self.full.resize(blocks, 0);
        }
        if !self.need.soft.is_empty() || !self.penalty.is_empty() {
            self.penalty.resize(machines.len(), 0);
        }
    }

    /// Looks at all facts again that changed.
    pub(crate) fn learn_all(&mut self, machines: &Machines, weights: &Weights) {
        self.grow(machines);
        for b in 0..machines.rooms.blocks() {
            self.learn(machines, weights, b);
        }
    }

    /// Looks at the facts of one block again that changed.
    pub(crate) fn learn_one(&mut self, machines: &Machines, weights: &Weights, b: usize) {
        self.grow(machines);
        self.learn(machines, weights, b);
    }

    /// Looks at the facts of a block again if they changed.
    fn learn(&mut self, machines: &Machines, weights: &Weights, b: usize) {
        let facts = machines.versions(b).facts;
        if self.facts[b] == facts && facts != 0 {
            return;
        }
        self.facts[b] = facts;
        if let Some(word) = self.allowed.get_mut(b) {
            let words = self.need.hard.iter().map(|f| machines.filters.word(*f, b));
            let admitted = machines.access.word(self.need.group, b);
            *word = words.fold(admitted, |all, word| all & word);
        }
        // Whoever counted a crowd settled the rows that the machines had then.
        let crowded = facts > self.born && self.need.tasks > 1;
        if crowded || !self.need.soft.is_empty() {
            for row in rows(b) {
                self.settle(machines, weights, row);
            }
        }
    }
}

/// Those of the rows that are in a block, as bits.
fn in_block(rows: &[usize], b: usize) -> u64 {
    rows.iter().filter(|row| **row / BLOCK == b).fold(0, |word, row| word | 1 << (row % BLOCK))
}
