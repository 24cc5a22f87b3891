//! Why a task is where it is: what its machine and the next best ones cost it, term by term.

use crate::class::Class;
use crate::machines::Machines;
use crate::rooms::{WHOLE, rows};
use crate::score::Weights;
use borg_proto::MachineId;
use borg_proto::policy::Term;

/// How many machines are told of beside the task's own.
const RUNNERS_UP: usize = 3;

/// What one machine costs a task. All costs are in thousandths of a machine, lower is better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The machine.
    pub machine: MachineId,
    /// The sum of the terms.
    pub cost: i64,
    /// The terms by the names of their weights.
    pub terms: Vec<(&'static str, i64)>,
}

/// What a row costs, by term, in units of the scan.
pub(crate) struct Terms {
    pub(crate) fit: i32,
    pub(crate) strand: i32,
    pub(crate) machine_crowd: i32,
    pub(crate) rack_crowd: i32,
    pub(crate) power_crowd: i32,
    pub(crate) mix: i32,
    pub(crate) soft: i32,
}

impl Terms {
    fn named(&self) -> [(&'static str, i32); 7] {
        let Self { fit, strand, machine_crowd, rack_crowd, power_crowd, mix, soft } = *self;
        [
            (Term::Fit.name(), fit),
            (Term::Strand.name(), strand),
            (Term::MachineCrowd.name(), machine_crowd),
            (Term::RackCrowd.name(), rack_crowd),
            (Term::PowerCrowd.name(), power_crowd),
            (Term::Mix.name(), mix),
            (Term::Soft.name(), soft),
        ]
    }

    pub(crate) fn sum(&self) -> i32 {
        self.named().iter().map(|(_, cost)| cost).sum()
    }
}

/// What `own` costs one task of the class that stands there, beside the best other machines with
/// room, were it to be placed now. The class must not count the task any more.
pub(crate) fn standings(
    class: &mut Class,
    machines: &Machines,
    weights: &Weights,
    own: usize,
) -> Vec<Standing> {
    class.learn_all(machines, weights);
    let mut found: Vec<(i32, u64, usize)> = (0..machines.rooms.blocks())
        .flat_map(|b| class.costs(machines, b).into_iter().zip(rows(b)).collect::<Vec<_>>())
        .filter_map(|(cost, row)| Some((cost?, machines.rooms.rank(row), row)))
        .filter(|(_, _, row)| *row != own)
        .collect();
    found.sort_unstable();
    let others = found.into_iter().take(RUNNERS_UP).map(|(_, _, row)| row);
    std::iter::once(own)
        .chain(others)
        .filter_map(|row| {
            let terms = class.terms(machines, weights, row, row == own);
            let thousandths = |cost: i32| i64::from(cost) * 1000 / (100 * i64::from(WHOLE));
            Some(Standing {
                machine: machines.id(row)?,
                cost: thousandths(terms.sum()),
                terms: terms.named().map(|(name, cost)| (name, thousandths(cost))).to_vec(),
            })
        })
        .collect()
}
