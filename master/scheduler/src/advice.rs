//! What would have to change for a pending task to be placed: the machines that it misses by
//! least, and for each the smallest changes to its specification.
//!
//! Nothing is guessed: a change is told only after the specification with it was really fitted,
//! by the code that decides.

use crate::access::Group;
use crate::class::Class;
use crate::machines::Machines;
use crate::need::{Cohort, Need, is_of_images};
use crate::reasons::{Amount, dimension, noun, unmet};
use crate::rooms::{FIXED_COLUMNS, TARGET, TASKS, amount, is_scored};
use crate::score::Weights;
use crate::victims::Freed;
use borg_proto::resources::Dimension;
use borg_proto::spec::Constraint;
use borg_proto::{JobSpec, MachineId, TaskSpec};
use std::fmt;
use std::sync::Arc;

/// How many different sets of changes are tried, the smallest first.
const TRIED: usize = 8;
/// How many are told.
const TOLD: usize = 3;

/// One change to a specification.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Ask for less.
    Ask {
        /// Of what.
        dimension: Dimension,
        /// What it asks for now.
        asks: u64,
        /// The most that would fit.
        most: u64,
    },
    /// Do without a hard constraint.
    Without(Constraint),
    /// Allow more tasks of the job in one place.
    Allow {
        /// The attribute that is limited.
        attribute: String,
        /// How many.
        most: u32,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { dimension, asks, most } => write!(
                f,
                "ask for {} of {} instead of {}",
                Amount(dimension, *most),
                noun(dimension),
                Amount(dimension, *asks)
            ),
            Self::Without(constraint) => write!(f, "do without {constraint}"),
            Self::Allow { attribute, most } => write!(f, "allow {most} tasks per {attribute}"),
        }
    }
}

/// Changes that together let a task be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What to change.
    pub changes: Vec<Change>,
    /// A machine that would take it then.
    pub machine: MachineId,
}

/// The smallest changes with which one more task of the class would be placed now. `machines` is a
/// copy to try them in.
pub(crate) fn advise(
    class: &Class,
    machines: &mut Machines,
    weights: &Weights,
    spec: &JobSpec,
    avoid: &[usize],
) -> Vec<Advice> {
    let mut nearest: Vec<(usize, u64, Vec<Change>)> = machines
        .known()
        .filter(|row| machines.rooms.is_open(*row) && !avoid.contains(row))
        .filter_map(|row| {
            let changes = missing(class, machines, row)?;
            Some((changes.len(), changes.iter().map(Change::size).sum(), changes))
        })
        .collect();
    nearest.sort();
    nearest.dedup_by(|a, b| a.2 == b.2);
    let tried = nearest.into_iter().take(TRIED).filter_map(|(_, _, changes)| {
        let machine = place_with(
            &changes,
            machines,
            weights,
            (class.need.cohort, class.need.group),
            spec,
            avoid,
        )?;
        Some(Advice { changes, machine })
    });
    tried.take(TOLD).collect()
}

/// What keeps a task from a row, as changes; `None` when no change of the specification helps.
fn missing(class: &Class, machines: &Machines, row: usize) -> Option<Vec<Change>> {
    let freed = Freed::all(machines, &class.need, row, false);
    if !machines.access.admits(class.need.group, row) {
        return None;
    }
    let mut changes = Vec::new();
    for (column, ask) in &class.need.asks {
        let left = freed.left(machines, *column, class.need.kind());
        if *ask <= left || (*column >= FIXED_COLUMNS && is_scored(*column)) {
            continue;
        }
        if left <= 0 || *column == TASKS || *column == TARGET {
            return None;
        }
        changes.push(Change::Ask {
            dimension: dimension(machines, *column),
            asks: amount(*column, *ask),
            most: amount(*column, left),
        });
    }
    // Nobody asked for that, so nobody can do without.
    if unmet(machines, &class.need, row).any(is_of_images) {
        return None;
    }
    changes.extend(unmet(machines, &class.need, row).cloned().map(Change::Without));
    let crowded = class.crowded(machines, row);
    changes.extend(crowded.map(|(attribute, there)| Change::Allow {
        attribute: attribute.to_owned(),
        most: there.saturating_add(1),
    }));
    Some(changes)
}

impl Change {
    /// How much is asked of whoever makes it: the thousandths by which a request shrinks; a rule that
    /// is given up counts as half a request.
    fn size(&self) -> u64 {
        match self {
            Self::Ask { asks, most, .. } => 1000 - most.saturating_mul(1000) / (*asks).max(1),
            Self::Without(_) | Self::Allow { .. } => 500,
        }
    }

    fn apply(&self, task: &mut TaskSpec) {
        match self {
            Self::Ask { dimension, most, .. } => match dimension {
                Dimension::Cpu => task.limit.cpu_milli = *most,
                Dimension::Ram => task.limit.ram_bytes = *most,
                Dimension::Disk => task.limit.disk_bytes = *most,
                Dimension::Ports => {
                    task.ports.truncate(usize::try_from(*most).unwrap_or(usize::MAX));
                }
                Dimension::Device(name) => {
                    task.limit.devices.insert(name.clone(), *most);
                }
            },
            Self::Without(constraint) => task.constraints.retain(|other| other != constraint),
            Self::Allow { attribute, most } => {
                let limits = task.spread.iter_mut().filter(|limit| limit.attribute == *attribute);
                limits.for_each(|limit| limit.max = limit.max.max(*most));
            }
        }
    }
}

/// Where a task of the job goes with these changes, if anywhere.
fn place_with(
    changes: &[Change],
    machines: &mut Machines,
    weights: &Weights,
    (cohort, group): (Cohort, Group),
    spec: &JobSpec,
    avoid: &[usize],
) -> Option<MachineId> {
    let mut task = TaskSpec::clone(&spec.task);
    changes.iter().for_each(|change| change.apply(&mut task));
    let changed = JobSpec { task: Arc::new(task), ..spec.clone() };
    changed.check().ok()?;
    let need = Arc::new(Need::new(cohort, group, &changed, None, machines));
    let mut class = Class::new(need, machines, weights);
    let found = class.best(machines, weights, true, avoid).map(|(_, row)| row);
    let row = found.or_else(|| class.best_preempting(machines, weights, true, avoid))?;
    machines.id(row)
}
