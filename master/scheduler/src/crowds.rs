//! How many tasks of a job are where: per machine, and per value of the attributes that the job or
//! the score counts by.
//!
//! Invariant: the counts are those of the job's residents, proposed ones included.

use crate::domain::NOWHERE;
use crate::machines::Machines;
use crate::need::Need;
use crate::score::{There, Weights, crowd_steps};
use std::collections::BTreeMap;

/// Tasks of the job by value of one attribute.
#[derive(Debug, Clone)]
struct Crowd {
    domain: usize,
    attribute: String,
    /// Most tasks per value, when the job limits it.
    max: Option<u32>,
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

/// A value of an attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) domain: usize,
    pub(crate) value: u32,
}

/// All crowds of one job.
#[derive(Debug, Clone)]
pub(crate) struct Crowds {
    /// How many tasks the job has.
    tasks: u32,
    /// Tasks per row, where there are any.
    on: BTreeMap<usize, u32>,
    /// Most per machine, by each limit that the job sets.
    max_on: Vec<(String, u32)>,
    /// By rack and by power domain, for the score.
    scored: [Crowd; 2],
    limited: Vec<Crowd>,
}

impl Crowds {
    pub(crate) fn new(need: &Need) -> Self {
        let crowd = |domain, attribute: &str, max| Crowd {
            domain,
            attribute: attribute.to_owned(),
            max,
            counts: Vec::new(),
        };
        let mut limited = Vec::new();
        let mut max_on = Vec::new();
        for limit in &need.spreads {
            match limit.domain {
                Some(domain) => limited.push(crowd(domain, &limit.attribute, Some(limit.max))),
                None => max_on.push((limit.attribute.clone(), limit.max)),
            }
        }
        let scored = need.scored.map(|domain| crowd(domain, "", None));
        Self { tasks: need.tasks, on: BTreeMap::new(), max_on, scored, limited }
    }

    /// Notes that a task came to a row or left it. Gives the values whose rows look different now,
    /// beside that row.
    pub(crate) fn count(
        &mut self,
        machines: &Machines,
        weights: &Weights,
        row: usize,
        came: bool,
    ) -> Vec<Value> {
        let on = self.on.entry(row).or_insert(0);
        *on = step(*on, came);
        if *on == 0 {
            self.on.remove(&row);
        }
        let mut changed = Vec::new();
        let tasks = self.tasks;
        // Machines that lack an attribute are in no place that could be crowded.
        let weigh = [weights.rack_crowd, weights.power_crowd].map(|weight| weight != 0);
        for (crowd, scored) in
            self.scored.iter_mut().zip(weigh).chain(self.limited.iter_mut().map(|c| (c, false)))
        {
            let value = machines.domain(crowd.domain).of(row);
            if value == NOWHERE {
                continue;
            }
            if crowd.counts.len() <= value as usize {
                crowd.counts.resize(value as usize + 1, 0);
            }
            let look = |crowd: &Crowd| {
                let scored = scored && machines.domain(crowd.domain).is_named(value);
                let steps = if scored { crowd_steps(crowd.count(value), tasks) } else { 0 };
                (steps, crowd.is_full(value))
            };
            let before = look(crowd);
            crowd.counts[value as usize] = step(crowd.counts[value as usize], came);
            if look(crowd) != before {
                changed.push(Value { domain: crowd.domain, value });
            }
        }
        changed
    }

    /// Whether a limit keeps one more task from a row.
    pub(crate) fn is_full(&self, machines: &Machines, row: usize) -> bool {
        self.full(machines, row).next().is_some()
    }

    /// The limits that one more task on a row would break, as (attribute, most).
    pub(crate) fn full<'a>(
        &'a self,
        machines: &'a Machines,
        row: usize,
    ) -> impl Iterator<Item = (&'a str, u32)> + 'a {
        let on = self.on(row);
        let here = self.max_on.iter().filter(move |(_, max)| on >= *max);
        let around = self.limited.iter().filter_map(move |crowd| {
            let value = machines.domain(crowd.domain).of(row);
            let max = crowd.max.filter(|_| crowd.is_full(value))?;
            Some((crowd.attribute.as_str(), max))
        });
        here.map(|(attribute, max)| (attribute.as_str(), *max)).chain(around)
    }

    /// How crowded a row's machine, rack and power domain are.
    pub(crate) fn there(&self, machines: &Machines, row: usize) -> There {
        if self.tasks <= 1 {
            return There::default();
        }
        let steps = |count| crowd_steps(count, self.tasks);
        let [rack, power] = self.scored.each_ref().map(|crowd| {
            let value = machines.domain(crowd.domain).of(row);
            let named = machines.domain(crowd.domain).is_named(value);
            steps(if named { crowd.count(value) } else { 0 })
        });
        There { machine: steps(self.on(row)), rack, power }
    }

    fn on(&self, row: usize) -> u32 {
        self.on.get(&row).copied().unwrap_or(0)
    }
}

fn step(count: u32, came: bool) -> u32 {
    if came { count + 1 } else { count.checked_sub(1).expect("what left had come before") }
}
