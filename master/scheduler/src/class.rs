//! Equal tasks: which machine is the best for the next of them, remembered from block to block.
//!
//! Per block of 64 machines a class keeps the best machine and the version at which it was looked
//! at. On use only blocks that changed since are scored again, so ten thousand equal tasks cost
//! one scan and ten thousand repairs; a class that fits nowhere costs nothing until room comes
//! free. With `caches` off every block is scored every time: the answers are the same.
//!
//! Invariant: a remembered answer equals the one that scoring the block now would give.

use crate::filter::{Misses, allowed, misses, soft_missed};
use crate::machines::{BLOCK, Machines, NOWHERE};
use crate::need::Need;
use crate::score::{Surroundings, Weights, crowd_steps};
use crate::victims::{Amounts, Loss, choose, could_free};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A remembered answer for one block: valid while nothing that matters has a newer version.
#[derive(Debug, Clone)]
struct Seen<T> {
    at: u64,
    best: Option<T>,
}

/// Tasks of the job by value of one attribute.
#[derive(Debug, Clone)]
struct Crowd {
    domain: usize,
    /// Most tasks per value, when the job limits it.
    max: Option<u32>,
    /// Whether the score looks at it.
    scored: bool,
    counts: Vec<u32>,
}

impl Crowd {
    fn count(&self, value: u32) -> u32 {
        self.counts.get(value as usize).copied().unwrap_or(0)
    }

    fn is_full(&self, value: u32) -> bool {
        self.max.is_some_and(|max| value != NOWHERE && self.count(value) >= max)
    }
}

/// Tasks that get equal answers, see [`crate::need::ClassKey`].
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) need: Arc<Need>,
    plain: Vec<Seen<(i64, usize)>>,
    preempting: Vec<Seen<(Loss, i64, usize)>>,
    /// Version of the facts that `allowed` and `soft_missed` are of, per block.
    facts: Vec<u64>,
    /// Machines that meet the hard constraints; empty when there are none.
    allowed: Vec<u64>,
    /// Soft constraints missed per machine; empty when there are none.
    soft_missed: Vec<u16>,
    /// Tasks of the job per machine, where there are any.
    on_machine: BTreeMap<usize, u32>,
    max_per_machine: Option<u32>,
    crowds: Vec<Crowd>,
    /// Newest version at which nothing fitted anywhere: (plain, with victims).
    nowhere: (u64, u64),
    /// When it was last used, to forget the ones that are not.
    pub(crate) used_at: u64,
}

impl Class {
    /// A class with nothing remembered; the job's tasks are counted where `machines` has them.
    pub(crate) fn new(need: Arc<Need>, machines: &Machines) -> Self {
        let mut crowds = Vec::new();
        if need.tasks > 1 {
            crowds.push(Crowd { domain: need.rack, max: None, scored: true, counts: Vec::new() });
        }
        for limit in &need.spreads {
            if let Some(domain) = limit.domain {
                crowds.push(Crowd {
                    domain,
                    max: Some(limit.max),
                    scored: false,
                    counts: Vec::new(),
                });
            }
        }
        let on_itself = need.spreads.iter().filter(|limit| limit.domain.is_none());
        let max_per_machine = on_itself.map(|limit| limit.max).min();
        let mut class = Self {
            need,
            plain: Vec::new(),
            preempting: Vec::new(),
            facts: Vec::new(),
            allowed: Vec::new(),
            soft_missed: Vec::new(),
            on_machine: BTreeMap::new(),
            max_per_machine,
            crowds,
            nowhere: (0, 0),
            used_at: 0,
        };
        class.grow(machines);
        if class.need.tasks > 1 {
            for m in machines.homes_of(class.need.job) {
                class.count(machines, m, true);
            }
        }
        class
    }

    /// Notes that a task of the job came to machine `m`, or left it.
    pub(crate) fn count(&mut self, machines: &Machines, m: usize, came: bool) {
        if self.need.tasks <= 1 {
            return;
        }
        let on = self.on_machine.entry(m).or_insert(0);
        *on = step(*on, came);
        if *on == 0 {
            self.on_machine.remove(&m);
        }
        let mut stale = Vec::new();
        for crowd in &mut self.crowds {
            let domain = machines.domain(crowd.domain);
            let value = domain.of(m);
            if value == NOWHERE {
                continue;
            }
            if crowd.counts.len() <= value as usize {
                crowd.counts.resize(value as usize + 1, 0);
            }
            let look = |crowd: &Crowd| {
                let steps =
                    if crowd.scored { crowd_steps(crowd.count(value), self.need.tasks) } else { 0 };
                (steps, crowd.is_full(value))
            };
            let before = look(crowd);
            crowd.counts[value as usize] = step(crowd.counts[value as usize], came);
            if look(crowd) != before {
                stale.extend(domain.blocks_of(value));
            }
        }
        for b in stale {
            self.forget_block(b);
        }
    }

    fn forget_block(&mut self, b: usize) {
        if let Some(plain) = self.plain.get_mut(b) {
            plain.at = 0;
        }
        if let Some(preempting) = self.preempting.get_mut(b) {
            preempting.at = 0;
        }
        self.nowhere = (0, 0);
    }

    /// The best machine with room, with its cost. A task that keeps away from some machines gets the
    /// best of the others.
    pub(crate) fn best(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        caches: bool,
        avoid: &[usize],
    ) -> Option<(i64, usize)> {
        self.grow(machines);
        if caches && self.nowhere.0 == machines.version() {
            return None;
        }
        let mut best: Option<(i64, usize)> = None;
        for b in 0..machines.blocks() {
            let versions = machines.versions(b);
            let seen = &self.plain[b];
            let since = if seen.best.is_some() { versions.changed } else { versions.grown };
            if !caches || seen.at == 0 || since > seen.at {
                self.learn_facts(machines, b);
                let found = self.scan_block(machines, weights, b, &[]);
                self.plain[b] = Seen { at: machines.version(), best: found };
            }
            let found = if in_block(avoid, b) {
                self.scan_block(machines, weights, b, avoid)
            } else {
                self.plain[b].best
            };
            best = least(best, found);
        }
        if best.is_none() && avoid.is_empty() {
            self.nowhere.0 = machines.version();
        }
        best
    }

    /// The best machine on which somebody has to go first.
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
        self.preempting.resize(machines.blocks(), Seen { at: 0, best: None });
        let mut freed = Amounts::new();
        let mut best: Option<(Loss, i64, usize)> = None;
        for b in 0..machines.blocks() {
            let versions = machines.versions(b);
            let since = versions.residents.max(versions.facts).max(versions.changed);
            if !caches || self.preempting[b].at == 0 || since > self.preempting[b].at {
                self.learn_facts(machines, b);
                let found = self.scan_block_preempting(machines, weights, b, &mut freed, &[]);
                self.preempting[b] = Seen { at: machines.version(), best: found };
            }
            let found = if in_block(avoid, b) {
                self.scan_block_preempting(machines, weights, b, &mut freed, avoid)
            } else {
                self.preempting[b].best
            };
            best = least(best, found);
        }
        if best.is_none() && avoid.is_empty() {
            self.nowhere.1 = machines.version();
        }
        best.map(|(_, _, m)| m)
    }

    /// Whether there is a machine that could take such a task were it empty, besides those to avoid. One
    /// that is silent counts: it answers again or is given up soon, and is worth the wait.
    pub(crate) fn has_others(&mut self, machines: &Machines, avoid: &[usize]) -> bool {
        self.learn_all(machines);
        let fits = |m: usize| {
            machines.is_in_service(m)
                && self.is_allowed(m)
                && self.need.amounts().all(|(column, asks)| asks <= machines.capacity(column, m))
        };
        machines.known().any(|m| !avoid.contains(&m) && fits(m))
    }

    fn is_allowed(&self, m: usize) -> bool {
        self.allowed.get(m / BLOCK).is_none_or(|word| word >> (m % BLOCK) & 1 == 1)
    }

    /// Everything that keeps one task of the class from machine `m`, when `freed` is given back.
    pub(crate) fn misses(
        &self,
        machines: &Machines,
        m: usize,
        freed: impl Fn(usize) -> u64,
        avoid: &[usize],
    ) -> Misses {
        let on = self.on_machine.get(&m).copied().unwrap_or(0);
        self.misses_with(machines, m, freed, on, avoid)
    }

    /// The spread limits that machine `m` would break, as (attribute, most).
    pub(crate) fn crowded<'a>(
        &'a self,
        machines: &'a Machines,
        m: usize,
    ) -> impl Iterator<Item = (&'a str, u32)> + 'a {
        let on = self.on_machine.get(&m).copied().unwrap_or(0);
        let mut limited = self.crowds.iter().filter(|crowd| crowd.max.is_some());
        self.need.spreads.iter().filter_map(move |limit| {
            let full = if limit.domain.is_none() {
                on >= limit.max
            } else {
                let crowd = limited.next().expect("a crowd is kept for each limit, in order");
                crowd.is_full(machines.domain(crowd.domain).of(m))
            };
            full.then_some((limit.attribute.as_str(), limit.max))
        })
    }

    #[inline]
    fn misses_with(
        &self,
        machines: &Machines,
        m: usize,
        freed: impl Fn(usize) -> u64,
        on: u32,
        avoid: &[usize],
    ) -> Misses {
        let allowed = self.is_allowed(m);
        let crowded = self.max_per_machine.is_some_and(|max| on >= max)
            || self.crowds.iter().any(|crowd| {
                crowd.max.is_some() && crowd.is_full(machines.domain(crowd.domain).of(m))
            });
        misses(machines, &self.need, m, freed, allowed, crowded, avoid.contains(&m))
    }

    #[inline]
    fn cost_with(
        &self,
        machines: &Machines,
        weights: &Weights,
        m: usize,
        freed: impl Fn(usize) -> u64,
        on: u32,
    ) -> i64 {
        let mut around = Surroundings::default();
        if let Some(rack) = self.crowds.first().filter(|crowd| crowd.scored) {
            let value = machines.domain(rack.domain).of(m);
            around.rack_crowd =
                if value == NOWHERE { 0 } else { crowd_steps(rack.count(value), self.need.tasks) };
            around.machine_crowd = crowd_steps(on, self.need.tasks);
        }
        around.soft_missed = self.soft_missed.get(m).copied().unwrap_or(0);
        weights.cost(machines, &self.need, m, freed, around)
    }

    fn scan_block(
        &self,
        machines: &Machines,
        weights: &Weights,
        b: usize,
        avoid: &[usize],
    ) -> Option<(i64, usize)> {
        let on_machine = self.counts_in(b);
        let none = |_| 0;
        let mut best = None;
        for m in machines.block(b) {
            let on = on_machine[m % BLOCK];
            if self.misses_with(machines, m, none, on, avoid).none() {
                best = least(best, Some((self.cost_with(machines, weights, m, none, on), m)));
            }
        }
        best
    }

    fn scan_block_preempting(
        &self,
        machines: &Machines,
        weights: &Weights,
        b: usize,
        freed: &mut Amounts,
        avoid: &[usize],
    ) -> Option<(Loss, i64, usize)> {
        let on_machine = self.counts_in(b);
        let mut best = None;
        for m in machines.block(b) {
            let on = on_machine[m % BLOCK];
            could_free(machines, &self.need, m, freed);
            if !self.misses_with(machines, m, |column| freed[column], on, avoid).none() {
                continue;
            }
            let Some((_, loss)) = choose(machines, &self.need, m, freed) else { continue };
            let cost = self.cost_with(machines, weights, m, |column| freed[column], on);
            best = least(best, Some((loss, cost, m)));
        }
        best
    }

    fn counts_in(&self, b: usize) -> [u32; BLOCK] {
        let mut counts = [0; BLOCK];
        for (m, count) in self.on_machine.range(b * BLOCK..(b + 1) * BLOCK) {
            counts[m % BLOCK] = *count;
        }
        counts
    }

    /// Makes room for machines that came since.
    fn grow(&mut self, machines: &Machines) {
        let blocks = machines.blocks();
        self.plain.resize(blocks, Seen { at: 0, best: None });
        self.facts.resize(blocks, 0);
        if self.need.task.constraints.iter().any(|c| !c.soft) {
            self.allowed.resize(blocks, 0);
        }
        if self.need.task.constraints.iter().any(|c| c.soft) {
            self.soft_missed.resize(machines.len(), 0);
        }
    }

    /// Evaluates constraints again for all machines whose facts changed.
    pub(crate) fn learn_all(&mut self, machines: &Machines) {
        self.grow(machines);
        for b in 0..machines.blocks() {
            self.learn_facts(machines, b);
        }
    }

    /// Evaluates constraints again for the machines of a block whose facts changed.
    fn learn_facts(&mut self, machines: &Machines, b: usize) {
        let facts = machines.versions(b).facts;
        if self.facts[b] == facts && facts != 0 {
            return;
        }
        self.facts[b] = facts;
        if let Some(word) = self.allowed.get_mut(b) {
            *word = machines
                .block(b)
                .filter(|m| allowed(machines, &self.need, *m))
                .fold(0, |w, m| w | 1 << (m % BLOCK));
        }
        if !self.soft_missed.is_empty() {
            for m in machines.block(b) {
                self.soft_missed[m] = soft_missed(machines, &self.need, m);
            }
        }
    }
}

fn in_block(avoid: &[usize], b: usize) -> bool {
    avoid.iter().any(|m| m / BLOCK == b)
}

fn step(count: u32, came: bool) -> u32 {
    if came { count + 1 } else { count.checked_sub(1).expect("what left had come before") }
}

fn least<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, None) => a,
        (None, b) => b,
    }
}
