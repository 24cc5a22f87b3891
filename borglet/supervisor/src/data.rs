//! Directories that the tasks of an alloc share: which are there, which are in use, which go.
//!
//! A directory comes with the first task that is to use it. It stays as long as the target has it, or a task that is
//! there uses it; what an alloc left behind is measured once no task uses it any more, and the masters are told. What
//! an alloc left behind goes before any task does when the disk runs out, what left first goes first.
//!
//! Invariants: nothing goes that a task may still use; nothing goes before this process has a target, nor anything
//! unlisted while the target spares; what is gone is told until the target has it no more.

use crate::supervisor::Supervisor;
use crate::task::{Phase, Task};
use crate::turn::Effect;
use borg_proto::poll::{DataReport, DataStatus, Target, TargetData};
use borg_proto::{IncarnationId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

/// For how long what was given up counts as free before the disk shows it. 10 s, as for packages.
const SHOWS_WITHIN: Millis = Millis::from_secs(10);

/// How a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// A task may use it.
    InUse,
    /// No task does, and its size was asked for.
    Measured,
    /// No task does, and it takes so many bytes.
    AtRest(u64),
    /// It is not there.
    Gone(String),
}

/// All directories of allocs on the machine.
#[derive(Debug, Default)]
pub(crate) struct Data {
    all: BTreeMap<IncarnationId, State>,
    /// What the target has; with a number, what was left behind.
    listed: BTreeMap<IncarnationId, Option<NonZeroU64>>,
    /// Whether a target was there, and what it does not list is spared.
    spares: Option<bool>,
    /// What was given up lately: when, and how much.
    freed: Vec<(Millis, u64)>,
}

impl Data {
    /// What an earlier process left on the disk.
    pub(crate) fn adopt(&mut self, found: impl IntoIterator<Item = IncarnationId>) {
        self.all.extend(found.into_iter().map(|alloc| (alloc, State::InUse)));
    }

    /// Takes what a target says.
    pub(crate) fn obey(&mut self, target: &Target) {
        self.listed =
            target.data.iter().map(|TargetData { alloc, left }| (*alloc, *left)).collect();
        self.spares = Some(target.spare);
    }

    /// Takes how large a directory is that was asked about; `None`: it is not there.
    pub(crate) fn measured(&mut self, alloc: IncarnationId, bytes: Option<u64>) {
        if let Some(state) = self.all.get_mut(&alloc).filter(|state| **state == State::Measured) {
            *state = match bytes {
                Some(bytes) => State::AtRest(bytes),
                None => State::Gone("no task ever made it, or somebody removed it".to_owned()),
            };
        }
    }

    /// What follows from which directories tasks use; whether there is anything new to tell. While it is `unknown` what
    /// some task uses, it may be any.
    pub(crate) fn settle(
        &mut self,
        used: &BTreeSet<IncarnationId>,
        saved: &BTreeSet<IncarnationId>,
        unknown: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.all.is_empty() && self.listed.is_empty() && used.is_empty() {
            return false;
        }
        let before = self.report();
        for alloc in used {
            // What is gone is not made anew for whoever comes to save it.
            match self.all.get_mut(alloc) {
                Some(State::Gone(_)) => {}
                Some(state) => *state = State::InUse,
                None if saved.contains(alloc) => {}
                None => drop(self.all.insert(*alloc, State::InUse)),
            }
        }
        let drops = self.spares == Some(false);
        let listed = &self.listed;
        self.all.retain(|alloc, state| {
            let idle = !unknown && !used.contains(alloc);
            if idle && drops && !listed.contains_key(alloc) {
                if !matches!(state, State::Gone(_)) {
                    effects.push(Effect::DropData { alloc: *alloc });
                }
                return false;
            }
            if idle && *state == State::InUse {
                *state = State::Measured;
                effects.push(Effect::MeasureData { alloc: *alloc });
            }
            true
        });
        for (alloc, _) in listed.iter().filter(|(_, left)| left.is_some()) {
            let gone = || State::Gone("it is not on the machine".to_owned());
            self.all.entry(*alloc).or_insert_with(gone);
        }
        before != self.report()
    }

    /// What there is to tell of what was left behind.
    pub(crate) fn report(&self) -> Vec<DataReport> {
        let left = self.listed.iter().filter(|(_, left)| left.is_some());
        let told = left.filter_map(|(alloc, _)| {
            let status = match self.all.get(alloc)? {
                State::InUse | State::Measured => DataStatus::InUse,
                State::AtRest(bytes) => DataStatus::AtRest { bytes: *bytes },
                State::Gone(why) => DataStatus::Gone { why: why.clone() },
            };
            Some(DataReport { alloc: *alloc, status })
        });
        told.collect()
    }

    /// Gives up what was left behind until `short` bytes are free, what left first before the rest; gives what is
    /// still short then.
    pub(crate) fn give_back(&mut self, now: Millis, short: u64, effects: &mut Vec<Effect>) -> u64 {
        self.freed.retain(|(at, _)| now.since(*at) < SHOWS_WITHIN);
        let freed = self.freed.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let mut short = short.saturating_sub(freed);
        let at_rest = self.listed.iter().filter_map(|(alloc, left)| match self.all.get(alloc) {
            Some(State::AtRest(bytes)) => Some(((*left)?, *alloc, *bytes)),
            Some(State::InUse | State::Measured | State::Gone(_)) | None => None,
        });
        let mut at_rest: Vec<_> = at_rest.collect();
        at_rest.sort();
        for (_, alloc, bytes) in at_rest {
            if short == 0 {
                break;
            }
            let why = format!("its machine was short of disk, and it took {bytes} bytes");
            self.all.insert(alloc, State::Gone(why));
            self.freed.push((now, bytes));
            effects.push(Effect::DropData { alloc });
            short = short.saturating_sub(bytes);
        }
        short
    }

    /// How many directories are there, and what those take that no task uses.
    pub(crate) fn held(&self) -> (usize, u64) {
        let there = self.all.values().filter(|state| !matches!(state, State::Gone(_))).count();
        let bytes = self.all.values().map(|state| match state {
            State::AtRest(bytes) => *bytes,
            State::InUse | State::Measured | State::Gone(_) => 0,
        });
        (there, bytes.fold(0, u64::saturating_add))
    }
}

impl Supervisor {
    /// What follows for directories of allocs from what tasks do now.
    pub(crate) fn settle_data(&mut self, effects: &mut Vec<Effect>) {
        let uses = |task: &Task| {
            let shared =
                task.shared.as_ref().filter(|_| !matches!(task.phase, Phase::Ended { .. }));
            shared.map(|shared| (shared.alloc, shared.rescue))
        };
        let using: Vec<(IncarnationId, bool)> = self.tasks.values().filter_map(uses).collect();
        let unknown = |task: &Task| task.shares_unknown && task.is_live();
        let unknown = self.tasks.values().any(unknown);
        let used = using.iter().map(|(alloc, _)| *alloc).collect();
        let saved = using.iter().filter(|(_, rescue)| *rescue).map(|(alloc, _)| *alloc).collect();
        self.number += u64::from(self.data.settle(&used, &saved, unknown, effects));
    }

    /// How many directories of allocs are there, and what those take that no task uses, in bytes.
    #[must_use]
    pub fn data_held(&self) -> (usize, u64) {
        self.data.held()
    }
}
