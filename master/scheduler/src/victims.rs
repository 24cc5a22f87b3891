//! Who has to go so that a more important task fits: preemption on one machine.
//!
//! Lowest priority first, then whoever the rest shows to be unnecessary is spared again. Which
//! machine's victims are the least loss is decided by comparing [`Loss`].
//!
//! Invariants: only what [`Priority::may_preempt`](borg_proto::Priority::may_preempt) allows, so
//! never production by production; sparing any one victim would leave too little room; a task
//! whose placement is not committed yet cannot be a victim.

use crate::machines::{Machines, Resident};
use crate::need::Need;
use borg_proto::IncarnationId;

/// What a set of victims costs, compared in this order: the highest priority that is hurt, then
/// how many are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loss {
    highest: u16,
    victims: u32,
}

/// Grains by column.
pub(crate) type Amounts = Vec<i64>;

/// What a row could free for a task of `need`'s priority, by column, written into `freed`.
pub(crate) fn could_free(machines: &Machines, need: &Need, row: usize, freed: &mut Amounts) {
    freed.clear();
    freed.resize(machines.rooms.columns(), 0);
    for resident in machines.residents(row) {
        if may_go(need, resident) {
            add(freed, resident);
        }
    }
}

/// The victims on a row for one task of `need`, what they free, and what it costs; `None`
/// when there is not enough to free. Empty when there is room already.
pub(crate) fn choose<'a>(
    machines: &'a Machines,
    need: &Need,
    row: usize,
    freed: &mut Amounts,
) -> Option<(Vec<&'a Resident>, Loss)> {
    freed.clear();
    freed.resize(machines.rooms.columns(), 0);
    let fits = |freed: &Amounts| {
        let left = |column: usize| machines.rooms.left_with(column, row, freed[column]);
        need.asks.iter().all(|(column, ask)| *ask <= left(*column))
    };
    let mut candidates: Vec<&Resident> =
        machines.residents(row).iter().filter(|r| may_go(need, r)).collect();
    // Equal priority: the youngest job and its highest index first, which has the least to lose.
    candidates.sort_unstable_by_key(|r| (r.need.priority, std::cmp::Reverse(r.task)));
    let mut chosen = Vec::new();
    for resident in candidates {
        if fits(freed) {
            break;
        }
        add(freed, resident);
        chosen.push(resident);
    }
    if !fits(freed) {
        return None;
    }
    let mut kept = Vec::with_capacity(chosen.len());
    for resident in chosen.into_iter().rev() {
        take(freed, resident);
        if !fits(freed) {
            add(freed, resident);
            kept.push(resident);
        }
    }
    kept.reverse();
    let highest = kept.iter().map(|r| r.need.priority.get()).max().unwrap_or(0);
    let victims =
        u32::try_from(kept.len()).expect("a machine has fewer residents than there are tasks");
    Some((kept, Loss { highest, victims }))
}

/// The incarnation that a victim is.
pub(crate) fn incarnation(resident: &Resident) -> IncarnationId {
    let number = resident.incarnation.expect("only committed placements are chosen as victims");
    IncarnationId { task: resident.task, number }
}

fn may_go(need: &Need, resident: &Resident) -> bool {
    resident.incarnation.is_some() && need.priority.may_preempt(resident.need.priority)
}

fn add(freed: &mut Amounts, resident: &Resident) {
    for (column, amount) in &resident.need.asks {
        freed[*column] += i64::from(*amount);
    }
}

fn take(freed: &mut Amounts, resident: &Resident) {
    for (column, amount) in &resident.need.asks {
        freed[*column] -= i64::from(*amount);
    }
}
