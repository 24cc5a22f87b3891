//! Machines that are emptied: no more tasks come, and those that are there leave.
//!
//! A task leaves when a scheduler found it another place and its job's disruption budget allows it:
//! one entry takes it off its machine and puts it there, so it waits for nothing but its own start.
//! What is still there at the deadline is pushed out whatever budgets say, and waits like any task.
//! Leaves finding places to schedulers, how much disruption a job bears to `disruption`, and the order
//! of many machines to `maintenance`.
//!
//! Data that allocs left behind there is saved first, by runs that are placed there in spite of the drain: until the
//! deadline, a machine with such data is not empty.
//!
//! Tasks of daemons belong to their machine: they stay, and a machine with nothing else is empty.
//!
//! Invariants: a machine that is drained has `empty_since` set exactly while nothing else is placed on it;
//! nothing of it leaves voluntarily beyond a budget before its deadline; after that nothing is left on it
//! but what the cell may not move, in safe mode or just restored from a backup.

use super::turn::Turn;
use super::{Answer, Blocked, CellState, Due, Machine, MachineState};
use crate::event::{AccessChange, EventKind};
use crate::rejection::{DrainRejection, Rejection};
use borg_proto::task::EvictCause;
use borg_proto::{JobKey, MachineId, MachineName, Millis, Resources, TaskId, UserName};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// That a machine is emptied, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Since when.
    pub since: Millis,
    /// Who said so.
    pub by: UserName,
    /// Why, for people.
    pub reason: String,
    /// When what is left is pushed out, in cell time.
    pub deadline: Millis,
    /// When its last task left; `None` while there are any.
    pub empty_since: Option<Millis>,
    /// Until when tasks that left it may still be ending there, as far as their grace goes.
    pub ending_until: Millis,
    /// How many tasks left it for machines that had room for them. Those in an alloc go with it and are
    /// not counted.
    pub moved: u32,
    /// How many were pushed out at the deadline.
    pub forced: u32,
    /// The boot that it was in when it answered and was empty: when it answers after another one, its
    /// maintenance is done.
    pub boot: Option<Arc<str>>,
    /// The number of the maintenance that it is part of.
    pub maintenance: Option<u64>,
}

/// What is asked of one machine.
#[derive(Debug, Clone)]
pub(super) struct Order<'a> {
    pub(super) by: &'a UserName,
    pub(super) reason: &'a str,
    pub(super) within: Millis,
    pub(super) maintenance: Option<u64>,
}

/// What keeps a task on a machine that is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Staying {
    /// Its job's disruption budget, or that of a job in the alloc that it is.
    Budget(Blocked),
    /// Nothing moves in safe mode.
    SafeMode,
    /// It is being replaced: its successor starts there.
    Successor(MachineName),
    /// As many tasks of its job are being replaced as may be at once.
    Preparing {
        /// Of which job.
        job: JobKey,
        /// How many may be.
        most: u32,
    },
    /// Nothing but a place elsewhere, which a scheduler has to find.
    Place,
}

impl fmt::Display for Staying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(blocked) => write!(f, "{blocked}"),
            Self::SafeMode => f.write_str("safe mode: much of the cell is silent, nothing moves"),
            Self::Successor(machine) => write!(f, "its replacement starts on {machine}"),
            Self::Preparing { job, most } => {
                write!(f, "other tasks of {job} are replaced first, {most} at a time")
            }
            Self::Place => f.write_str("no place on another machine yet"),
        }
    }
}

impl CellState {
    /// Machines that are drained, empty ones included, by number.
    pub fn draining(&self) -> impl Iterator<Item = &Machine> {
        self.draining.iter().filter_map(|id| self.machine(*id))
    }

    /// Whether a task is placed on a machine that is drained and leaves by itself: those in an alloc go with
    /// it.
    #[must_use]
    pub fn leaves(&self, task: TaskId) -> bool {
        let goes = |job: &&super::Job| {
            let stays = job.spec.stays_on_drain() || job.rescues().is_some();
            job.spec.alloc_set.is_none() && !stays
        };
        let Some(job) = self.job(task.job).filter(goes) else { return false };
        let placement = job.task(task.index).and_then(super::Task::placement);
        placement.is_some_and(|placement| self.draining.contains(&placement.machine))
    }

    /// The tasks that leave a machine by themselves, by number.
    pub fn leaving<'a>(&'a self, machine: &'a Machine) -> impl Iterator<Item = TaskId> + 'a {
        let drained = machine.drain.is_some();
        machine.tasks.iter().copied().filter(move |task| drained && self.leaves(*task))
    }

    /// Everybody who is disrupted when a task leaves its machine: those in an alloc go with it.
    pub fn goes_with(&self, task: TaskId) -> impl Iterator<Item = TaskId> {
        let inside = self.belonging_in(task).filter(|(_, found)| found.placement().is_some());
        std::iter::once(task).chain(inside.map(|(id, _)| id))
    }

    /// What keeps a task that leaves where it is, at cell time `at`.
    #[must_use]
    pub fn stays_for(&self, task: TaskId, at: Millis) -> Staying {
        if self.safe_mode.is_some() {
            return Staying::SafeMode;
        }
        if let Some(successor) = self.task(task).and_then(super::Task::successor) {
            let machine = self.machine(successor.placement.machine);
            return machine.map_or(Staying::Place, |on| Staying::Successor(on.name.clone()));
        }
        if let Some(job) = self.job(task.job).filter(|_| self.is_replaced_first(task, at)) {
            let (job, most) = (job, job.most_successors());
            return match self.may_still_prepare(job) {
                0 => Staying::Preparing { job: job.key.clone(), most },
                _ => Staying::Place,
            };
        }
        self.stays_down_for(task, at)
    }

    /// What keeps a task that leaves where it is when it has to be taken down for that, at cell time `at`.
    #[must_use]
    pub fn stays_down_for(&self, task: TaskId, at: Millis) -> Staying {
        match self.goes_with(task).find_map(|id| self.may_disrupt(id, at).err()) {
            Some(blocked) => Staying::Budget(blocked),
            None => Staying::Place,
        }
    }

    /// When a machine that is drained is emptied whatever budgets say; `None` when there is nothing on it,
    /// or nothing is moved by itself just now.
    pub(super) fn drain_due(&self, machine: &Machine) -> Option<Millis> {
        let drain = machine.drain.as_ref()?;
        let waits = self.is_vacated(machine) || self.safe_mode.is_some();
        // Just restored from a backup, the cell could not place again what it pushes out.
        (!waits).then(|| drain.deadline.max(self.place_after()))
    }

    /// Whether nothing is placed on a machine but what stays there when it is drained, nor any data there waits to
    /// be saved first.
    #[must_use]
    pub fn is_vacated(&self, machine: &Machine) -> bool {
        let stays = |task: &TaskId| self.job(task.job).is_some_and(|job| job.spec.stays_on_drain());
        machine.tasks.iter().all(stays) && !self.holds_unsaved(machine.id)
    }

    /// Machines that would take tasks were these out of service, and what they have free.
    fn left_without(&self, gone: &BTreeSet<MachineId>) -> (u32, Resources) {
        let takes = |machine: &&Machine| {
            machine.state == MachineState::Up
                && machine.closed.is_none()
                && machine.drain.is_none()
                && !gone.contains(&machine.id)
        };
        self.machines().filter(takes).fold((0, Resources::default()), |(count, free), machine| {
            (count + 1, free.plus(&machine.free()))
        })
    }

    /// Refuses to drain so much that nothing, or too little, is left for what would have to move: by sums
    /// over all machines, so what is let pass may still not fit.
    fn check_left(&self, ids: &[MachineId], known: Option<u32>) -> Result<(), Rejection> {
        let gone: BTreeSet<MachineId> = ids.iter().copied().collect();
        let (left, free) = self.left_without(&gone);
        let of = u32::try_from(self.machines.len()).unwrap_or(u32::MAX);
        if let Some(known) = known {
            let other = DrainRejection::OtherLeft { left, of, known };
            return if known == left { Ok(()) } else { Err(other.into()) };
        }
        let leaving = gone.iter().filter_map(|id| self.machine(*id));
        let asked = leaving.fold(Resources::default(), |sum, machine| sum.plus(&machine.used));
        let short = asked.shortest(&free).filter(|_| asked != Resources::default());
        if left > 0 && short.is_none() {
            return Ok(());
        }
        let short = short.map(|of| (free.amount(&of), asked.amount(&of), of));
        Err(DrainRejection::TooLittleLeft { left, of, short }.into())
    }
}

impl Machine {
    /// Whether it is drained, and nothing is placed on it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.empty_since.is_some())
    }
}

impl Turn<'_> {
    /// Drains machines: all of them, or none. One that is drained already gets the new reason and deadline.
    pub(super) fn drain_machines(
        &mut self,
        by: &UserName,
        names: &[MachineName],
        order: (&str, Millis),
        at_once: Option<u32>,
        known: Option<u32>,
    ) -> Result<Answer, Rejection> {
        let ids = self.named(names)?;
        let (reason, within) = order;
        let Some(at_once) = at_once else {
            self.state.check_left(&ids, known)?;
            let order = Order { by, reason, within, maintenance: None };
            ids.into_iter().for_each(|id| self.drain(id, &order));
            return Ok(Answer::None);
        };
        let most = usize::try_from(at_once).unwrap_or(usize::MAX);
        // The largest that it may ever take out together.
        let mut largest = ids.clone();
        let used = |id: &MachineId| self.state.machine(*id).map_or(0, |m| m.used.ram_bytes);
        largest.sort_by_key(|id| std::cmp::Reverse((used(id), *id)));
        largest.truncate(most);
        self.state.check_left(&largest, known)?;
        self.begin_maintenance(&Order { by, reason, within, maintenance: None }, at_once, ids)
    }

    /// Begins to drain a machine that is there.
    pub(super) fn drain(&mut self, id: MachineId, order: &Order<'_>) {
        let at = self.at;
        let machine = self.machine_mut(id);
        let before = machine.drain.take();
        let drain = Drain {
            since: before.as_ref().map_or(at, |drain| drain.since),
            by: order.by.clone(),
            reason: order.reason.to_owned(),
            deadline: Millis(at.0.saturating_add(order.within.0)),
            empty_since: before.as_ref().and_then(|drain| drain.empty_since),
            ending_until: before.as_ref().map_or(Millis(0), |drain| drain.ending_until),
            moved: before.as_ref().map_or(0, |drain| drain.moved),
            forced: before.as_ref().map_or(0, |drain| drain.forced),
            boot: before.as_ref().and_then(|drain| drain.boot.clone()),
            maintenance: order
                .maintenance
                .or_else(|| before.as_ref().and_then(|drain| drain.maintenance)),
        };
        let same = before.as_deref() == Some(&drain);
        machine.drain = Some(Arc::new(drain));
        self.state.draining.insert(id);
        self.set_overdue(id, false);
        if !same {
            self.emit(EventKind::MachineAccess(id, AccessChange::Draining));
        }
        self.clear_successors(id, "its machine is drained");
        self.note_emptiness(id);
    }

    /// Drains machines no more, and takes those whose turn in a maintenance has not come out of it.
    pub(super) fn undrain_machines(&mut self, names: &[MachineName]) -> Result<Answer, Rejection> {
        let ids = self.named(names)?;
        self.spare_from_maintenance(&ids);
        for id in ids {
            self.undrain(id);
        }
        Ok(Answer::None)
    }

    /// A machine takes tasks again, if it was drained.
    pub(super) fn undrain(&mut self, id: MachineId) {
        let Some(drain) = self.machine_mut(id).drain.take() else { return };
        self.state.draining.remove(&id);
        self.set_overdue(id, false);
        self.drop_successors_from(id);
        self.emit(EventKind::MachineAccess(id, AccessChange::Undrained));
        self.set_alarm(Due::Machine(id));
        if let Some(number) = drain.maintenance {
            self.is_back(number);
        }
    }

    /// A task came to a machine or left it, or ended there: it may be empty now, or no longer.
    pub(super) fn note_emptiness(&mut self, id: MachineId) {
        let at = self.at;
        let Some(machine) = self.state.machine(id) else { return };
        let Some(drain) = &machine.drain else { return };
        let lingers = self.state.lingering().any(|(there, _)| there == id);
        let empty = self.state.is_vacated(machine) && !lingers;
        let up = machine.state == MachineState::Up;
        let boot = machine.info.as_ref().filter(|_| empty && up).map(|info| &*info.boot_id);
        let boot = drain.boot.clone().or_else(|| boot.map(Into::into)).filter(|_| empty);
        let empty_since = empty.then(|| drain.empty_since.unwrap_or(at));
        let news = empty && drain.empty_since.is_none();
        if (drain.empty_since, &drain.boot) != (empty_since, &boot) {
            let after = Drain { empty_since, boot, ..Drain::clone(drain) };
            self.machine_mut(id).drain = Some(Arc::new(after));
        }
        if news {
            self.emit(EventKind::MachineAccess(id, AccessChange::Drained));
        }
        self.set_alarm(Due::Machine(id));
    }

    /// A machine answers: in a maintenance it is done when it was empty, and restarted since.
    pub(super) fn answers_while_drained(&mut self, id: MachineId) {
        let Some(machine) = self.state.machine(id) else { return };
        let Some(drain) = &machine.drain else { return };
        let boot = machine.info.as_ref().map(|info| info.boot_id.as_str());
        let restarted = drain.boot.is_some() && drain.boot.as_deref() != boot;
        if restarted && drain.maintenance.is_some() && drain.empty_since.is_some() {
            self.undrain(id);
        } else {
            self.note_emptiness(id);
        }
    }

    /// A machine's deadline has come: what is left goes.
    pub(super) fn end_drain(&mut self, id: MachineId) {
        let due = self.state.machine(id).and_then(|machine| self.state.drain_due(machine));
        if due.is_none_or(|due| due > self.at) {
            return;
        }
        let left = self.state.machine(id).map(|machine| machine.tasks.clone()).unwrap_or_default();
        let alone = |task: &TaskId| {
            let job = self.state.job(task.job);
            job.is_some_and(|job| job.spec.alloc_set.is_none() && !job.spec.stays_on_drain())
        };
        let left: Vec<TaskId> = left.into_iter().filter(alone).collect();
        for task in left {
            self.push_out(task, &EvictCause::Drained);
            self.count_leaving(id, |drain| drain.forced = drain.forced.saturating_add(1));
        }
        self.set_overdue(id, true);
        self.note_emptiness(id);
    }

    /// Changes what a machine that is drained counts.
    pub(super) fn count_leaving(&mut self, id: MachineId, count: impl FnOnce(&mut Drain)) {
        if let Some(drain) = self.machine_mut(id).drain.as_mut() {
            count(Arc::make_mut(drain));
        }
    }

    /// The alarms of all machines that are drained are other than before.
    pub(super) fn reset_drains(&mut self) {
        let all: Vec<MachineId> = self.state.draining.iter().copied().collect();
        all.into_iter().for_each(|id| self.set_alarm(Due::Machine(id)));
    }
}
