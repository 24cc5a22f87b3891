//! Tasks that leave machines which are drained: a place for each is found before it goes. Where there is room its
//! successor starts there first, as `borg_cell::state` says whose may.
//!
//! They come after all tasks that wait, of whatever priority: they still serve where they are. Who may not
//! leave by its job's disruption budget is not looked at. A decision about one is like any other: the state
//! takes the task off its machine and puts it there in one entry, or refuses.
//!
//! Invariant: a task for which no other place is found stands where it stood.

use crate::homes::{Seat, tasks_of};
use crate::machines::Resident;
use crate::need::{Cohort, Need};
use crate::scheduler::{Assumed, Scheduler};
use crate::victims;
use borg_cell::state::CellState;
use borg_proto::command::Assignment;
use borg_proto::{IncarnationId, JobId, MachineId, Millis, TaskId};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many tasks that leave are looked at in one pass. 64: our choice; a pass stays short, and the next one goes
/// on where it ended.
const LOOKED_AT: usize = 64;
/// How long nobody is looked at again after a look at all of them. 100 ms: our choice; a machine is emptied in
/// minutes, and whoever waits for a budget or for room does so for seconds.
const REST: Millis = Millis(100);

/// What is remembered of tasks that leave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moves {
    /// Those that an assumed decision moves.
    under_way: BTreeSet<TaskId>,
    /// Where the last look ended, if it was not at the last of them.
    last: Option<(Reverse<u16>, TaskId)>,
    /// Before that none is looked at.
    rests_until: Millis,
    /// Live jobs of which an update has tasks wait for successors.
    pub(crate) awaited: BTreeSet<JobId>,
    /// Live jobs of which the budget has a rate.
    pub(crate) rated: BTreeSet<JobId>,
}

impl Moves {
    /// A decision about a task came to something or nothing; says whether it moved.
    pub(crate) fn forget(&mut self, task: TaskId) -> bool {
        self.under_way.remove(&task)
    }

    /// They are looked at again in any case.
    pub(crate) fn rest_no_more(&mut self) {
        self.rests_until = Millis(0);
    }

    /// The tasks of a job that assumed decisions move.
    pub(crate) fn of(&self, job: JobId) -> impl Iterator<Item = TaskId> {
        let (first, last) = (TaskId { job, index: 0 }, TaskId { job, index: u32::MAX });
        self.under_way.range(first..=last).copied()
    }

    /// When tasks that leave are looked at again.
    pub(crate) fn next(&self, state: &CellState) -> Option<Millis> {
        let leave = || state.draining().any(|machine| !state.is_vacated(machine));
        let waits = state.safe_mode().is_none() && (!self.awaited.is_empty() || leave());
        waits.then_some(self.rests_until)
    }
}

impl Scheduler {
    /// Decides for tasks that leave machines, highest priority first.
    pub(crate) fn decide_moves(&mut self, now: Millis, decisions: &mut Vec<Assignment>) {
        let idle = self.state.draining().next().is_none() && self.moves.awaited.is_empty();
        if idle || self.state.safe_mode().is_some() || now < self.moves.rests_until {
            return;
        }
        let state = self.state.clone();
        let rank = |task: TaskId| {
            let priority = state.job(task.job).map_or(0, |job| job.priority().get());
            (Reverse(priority), task)
        };
        let leaving = state.draining().flat_map(|machine| state.leaving(machine));
        let awaiting = self.moves.awaited.iter().filter_map(|id| {
            let tasks = state.job(*id)?.update()?.awaiting();
            Some(tasks.map(|index| TaskId { job: *id, index }))
        });
        let all = leaving.chain(awaiting.flatten());
        let all: BTreeSet<(Reverse<u16>, TaskId)> = all.map(rank).collect();
        let mut looked_at = 0;
        for rank in &all {
            let (_, task) = *rank;
            if self.moves.last.is_some_and(|last| *rank <= last)
                || self.assumed.contains_key(&task)
                || self.refusals.of(task).is_some_and(|(until, _)| now < until)
                || self.state.task(task).is_none_or(|found| found.successor().is_some())
                || !(self.may_prepare(task, now) || self.may_leave(task, now))
            {
                continue;
            }
            if looked_at == LOOKED_AT {
                return;
            }
            looked_at += 1;
            self.moves.last = Some(*rank);
            let before = self.aside.decides(task.job);
            decisions.extend(self.decide_move(task, now));
            self.aside.done(before);
        }
        self.moves.last = None;
        self.moves.rests_until = now + REST;
    }

    /// Finds a place for a task that leaves its machine.
    fn decide_move(&mut self, task: TaskId, now: Millis) -> Option<Assignment> {
        if let Some(version) = self.state.awaits_successor(task) {
            if !self.may_prepare(task, now) {
                return None;
            }
            let need = self.need(Cohort { job: task.job, version });
            return self.decide_successor(task, &need, now);
        }
        let need = self.need_of(task)?.clone();
        if self.state.is_replaced_first(task, now) {
            let found = if self.may_prepare(task, now) {
                self.decide_successor(task, &need, now)
            } else {
                // Its turn comes when another one's successor has taken over.
                return None;
            };
            if found.is_some() || !self.may_leave(task, now) {
                return found;
            }
        }
        let (row, resident) = self.machines.resident(Seat::of(task))?;
        resident.incarnation?;
        let inside = self.machines.inside(row, task);
        // What others made possible is noted before what is tried here can be mistaken for it.
        self.wake_parked();
        let version = self.machines.version();
        self.take_off(&inside);
        self.depart(Seat::of(task));
        let Some((row, overdue)) = self.choose(task, &need, now) else {
            self.stay(task, &inside);
            self.gangs.undo(version, &self.machines);
            return None;
        };
        let machine = self.machines.id(row).expect("a row that was chosen is a machine's");
        let (victims, _) = victims::choose(&self.machines, &need, row, overdue)
            .expect("the machine was found by the same choice");
        let victims: Vec<IncarnationId> = victims.into_iter().map(victims::incarnation).collect();
        Some(self.assume_move(task, &need, (row, machine), inside, victims))
    }

    /// Whether a task may get a successor now, decisions included whose fate is not known yet.
    fn may_prepare(&self, task: TaskId, now: Millis) -> bool {
        let Some(job) = self.state.job(task.job) else { return false };
        let assumed = self.assumed.range(tasks_of(task.job));
        let under_way = assumed.filter(|(_, assumed)| assumed.prepares).count();
        let left = usize::try_from(self.state.may_still_prepare(job)).unwrap_or(usize::MAX);
        self.state.is_replaced_first(task, now) && under_way < left
    }

    /// Finds a place with room for the successor of a task.
    fn decide_successor(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        now: Millis,
    ) -> Option<Assignment> {
        let (home, resident) = self.machines.resident(Seat::of(task))?;
        resident.incarnation?;
        self.wake_parked();
        // Where it leaves it is not counted.
        self.depart(Seat::of(task));
        let row = self.choose_other(task, need, home, now);
        self.stay(task, &[]);
        let row = row?;
        let machine = self.machines.id(row).expect("a row that was chosen is a machine's");
        let (lent, victims) = (self.lent_for(row, need), Vec::new());
        self.arrive(row, Resident::proposed(Seat::after(task), need.clone()));
        self.assumed.insert(task, Assumed { machine, victims: Vec::new(), prepares: true });
        Some(Assignment { task, machine, victims, lent })
    }

    /// Nothing was found: all is as it was, so nobody is woken for it.
    fn stay(&mut self, task: TaskId, inside: &[IncarnationId]) {
        for gone in inside {
            self.leaving.remove(gone);
        }
        self.settle(task);
        for gone in inside {
            self.settle(gone.task);
            self.settle_budget(gone.task.job);
        }
        self.looked_at = self.machines.version();
        self.loosened.clear();
    }

    /// Takes a move for done. Whoever is in an alloc that moves has to be placed again.
    fn assume_move(
        &mut self,
        task: TaskId,
        need: &Arc<Need>,
        (row, machine): (usize, MachineId),
        inside: Vec<IncarnationId>,
        victims: Vec<IncarnationId>,
    ) -> Assignment {
        let mut pushed = Vec::new();
        for victim in &victims {
            pushed.push(*victim);
            pushed.extend(self.machines.inside(row, victim.task));
        }
        self.take_off(&pushed);
        let lent = self.lent_for(row, need);
        self.arrive(row, Resident::proposed(Seat::of(task), need.clone()));
        let victims_of_all = inside.iter().chain(&pushed).copied().collect();
        let assumed = Assumed { machine, victims: victims_of_all, prepares: false };
        self.assumed.insert(task, assumed);
        self.moves.under_way.insert(task);
        self.settle_budget(task.job);
        Assignment { task, machine, victims, lent }
    }
}
