//! Who has to go so that a more important task fits: preemption on one machine.
//!
//! Lowest priority first, then whoever the rest shows to be unnecessary is spared again. Which
//! machine's victims are the least loss is decided by comparing [`Loss`].
//!
//! Invariants: only what [`Priority::may_preempt`](borg_proto::Priority::may_preempt) allows, so
//! never production by production; sparing any one victim would leave too little room; a task
//! whose placement is not committed yet cannot be a victim; victims are within the disruption budgets of
//! their jobs, unless they are chosen for a task that waited so long that budgets hold it off no more.

use crate::machines::{Budget, Machines, Resident};
use crate::need::Need;
use crate::rooms::{Held, Kind, held, is_derived};
use borg_proto::{IncarnationId, JobId};

/// What a set of victims costs, compared in this order: the highest priority that is hurt, then
/// how many are, those in allocs that go included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loss {
    highest: u16,
    victims: u32,
}

/// What would be free on one row's machine were some of its residents gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Freed<'a> {
    row: usize,
    /// By column.
    amounts: Vec<Held>,
    /// Those who are gone and had devices.
    with_devices: Vec<&'a Resident>,
}

impl<'a> Freed<'a> {
    /// Nobody is gone.
    pub(crate) fn nothing(machines: &Machines, row: usize) -> Self {
        let amounts = vec![Held::default(); machines.rooms.columns()];
        Self { row, amounts, with_devices: Vec::new() }
    }

    /// Everybody is gone whom a task of `need`'s priority may push out.
    pub(crate) fn all(machines: &'a Machines, need: &Need, row: usize, overdue: bool) -> Self {
        let mut freed = Self::nothing(machines, row);
        let mut spent = Spent::new(machines, overdue);
        for resident in machines.residents(row).iter().filter(|r| may_go(need, r)) {
            if spent.affords(row, resident) {
                freed.add(resident);
            }
        }
        freed
    }

    fn reset(&mut self, row: usize) {
        self.row = row;
        self.amounts.fill(Held::default());
        self.with_devices.clear();
    }

    fn add(&mut self, resident: &'a Resident) {
        self.count(resident, true);
        if resident.need.has_devices() {
            self.with_devices.push(resident);
        }
    }

    fn count(&mut self, resident: &Resident, gone: bool) {
        for ask in &resident.need.asks {
            let held = held(resident.need.kind(), *ask, resident.lent);
            self.amounts[ask.0].add(held, gone);
        }
    }

    fn take(&mut self, resident: &Resident) {
        self.count(resident, false);
        self.with_devices.retain(|other| other.task != resident.task);
    }

    /// What is given back of a column that is a sum.
    pub(crate) fn amount(&self, column: usize) -> Held {
        self.amounts[column]
    }

    /// What would be free of a column for a task of a kind.
    pub(crate) fn left(&self, machines: &Machines, column: usize, kind: Kind) -> i32 {
        if !is_derived(column) {
            return machines.rooms.left_with(column, self.row, kind, self.amounts[column]);
        }
        let gone: Vec<_> = self.with_devices.iter().map(|r| r.devices.as_slice()).collect();
        let left = machines.devices_left(self.row, &gone);
        left.iter().find(|(c, _)| *c == column).map_or(0, |(_, left)| *left)
    }

    /// Whether one task of `need` would fit.
    pub(crate) fn fits(&self, machines: &Machines, need: &Need) -> bool {
        let kind = need.kind();
        need.asks.iter().all(|(column, ask)| *ask <= self.left(machines, *column, kind))
    }
}

/// What victims on a row cost the disruption budgets of their jobs.
#[derive(Debug)]
struct Spent<'a> {
    machines: &'a Machines,
    /// Whether budgets do not count.
    overdue: bool,
    /// The job of each victim that serves and has a budget.
    jobs: Vec<JobId>,
}

impl<'a> Spent<'a> {
    fn new(machines: &'a Machines, overdue: bool) -> Self {
        Self { machines, overdue, jobs: Vec::new() }
    }

    /// Whether one more may go by the budgets of all who go with it; then it is counted.
    fn affords(&mut self, row: usize, resident: &Resident) -> bool {
        if self.overdue {
            return true;
        }
        let before = self.jobs.len();
        for job in self.machines.disturbed_with(row, resident) {
            let Some(budget) = self.machines.budget(job) else { continue };
            let spent = self.jobs.iter().filter(|spent| **spent == job).count();
            if spent >= budget.left as usize {
                self.jobs.truncate(before);
                return false;
            }
            self.jobs.push(job);
        }
        true
    }
}

/// The first job that has tasks on a row which could be pushed out for `need` but for its budget.
pub(crate) fn spared<'a>(machines: &'a Machines, need: &Need, row: usize) -> Option<&'a Budget> {
    let mut spent = Spent::new(machines, false);
    let residents = machines.residents(row).iter().filter(|r| may_go(need, r));
    let mut spared = residents.filter(|resident| !spent.affords(row, resident));
    let first = spared.next()?;
    let jobs = machines.disturbed_with(row, first).filter_map(|job| machines.budget(job));
    jobs.min_by_key(|budget| budget.left)
}

/// The victims on a row for one task of `need`, and what they cost; `None` when there is not enough
/// to free. Empty when there is room already.
pub(crate) fn choose<'a>(
    machines: &'a Machines,
    need: &'a Need,
    row: usize,
    overdue: bool,
) -> Option<(Vec<&'a Resident>, Loss)> {
    let mut chooser = Chooser::new(machines, need, overdue);
    let loss = chooser.choose(row, None)?;
    Some((chooser.kept, loss))
}

/// Chooses victims on one row after another.
#[derive(Debug)]
pub(crate) struct Chooser<'a> {
    machines: &'a Machines,
    need: &'a Need,
    freed: Freed<'a>,
    spent: Spent<'a>,
    /// Those who have to go on the row that was looked at last.
    kept: Vec<&'a Resident>,
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(machines: &'a Machines, need: &'a Need, overdue: bool) -> Self {
        let (freed, spent) = (Freed::nothing(machines, 0), Spent::new(machines, overdue));
        Self { machines, need, freed, spent, kept: Vec::new() }
    }

    /// What the least loss on a row is; `None` when there is not enough to free, or when it would be
    /// of higher priority than `bound`.
    pub(crate) fn choose(&mut self, row: usize, bound: Option<Loss>) -> Option<Loss> {
        let Self { machines, need, freed, spent, kept } = self;
        freed.reset(row);
        spent.jobs.clear();
        kept.clear();
        let mut candidates = machines.residents(row).iter().filter(|r| may_go(need, r));
        while !freed.fits(machines, need) {
            let resident = candidates.next()?;
            if !spent.affords(row, resident) {
                continue;
            }
            if bound.is_some_and(|bound| resident.need.priority.get() > bound.highest) {
                return None;
            }
            freed.add(resident);
            kept.push(resident);
        }
        // The last one was needed; of the others some may not have been.
        for at in (0..kept.len().saturating_sub(1)).rev() {
            freed.take(kept[at]);
            if freed.fits(machines, need) {
                kept.remove(at);
            } else {
                freed.add(kept[at]);
            }
        }
        let highest = kept.iter().map(|r| r.need.priority.get()).max().unwrap_or(0);
        let with_it = |r: &&Resident| {
            if r.need.is_alloc { 1 + machines.inside(row, r.task).len() } else { 1 }
        };
        let victims = kept.iter().map(with_it).sum::<usize>();
        let victims =
            u32::try_from(victims).expect("a machine has fewer residents than there are tasks");
        Some(Loss { highest, victims })
    }

    /// What the victims of the row that was looked at last free.
    pub(crate) fn freed(&self) -> &Freed<'a> {
        &self.freed
    }
}

/// The incarnation that a victim is.
pub(crate) fn incarnation(resident: &Resident) -> IncarnationId {
    let number = resident.incarnation.expect("only committed placements are chosen as victims");
    IncarnationId { task: resident.task, number }
}

/// A task in an alloc goes only with its alloc.
fn may_go(need: &Need, resident: &Resident) -> bool {
    resident.incarnation.is_some()
        && resident.need.alloc_set.is_none()
        && need.priority.may_preempt(resident.need.priority)
}
