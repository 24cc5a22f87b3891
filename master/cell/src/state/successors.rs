//! Successors: a task that is to leave its machine is started on another one first, and leaves when that serves.
//!
//! A successor is a further incarnation of a slot, of which the state of the task, its names and its budget
//! know nothing: they are about the placement that serves. It holds room on its machine like a task. When it
//! serves, one entry makes it the placement, and the old one ends as that of a task which moved. When it
//! comes to nothing, the task is as it was. It is decided here when; who gets one, and where, is for whoever
//! disturbs (`moves`, `updates`) and for schedulers.
//!
//! So nobody is disrupted by a move, and no budget is asked; how many a job has at once is bounded instead, so
//! that emptying machines does not double what runs.
//!
//! Invariants: only a placed task has a successor, on another machine, of a higher incarnation; a machine that
//! is closed or drained has none; a job has no more than [`Job::most_successors`] but after its budget fell.

use super::observe::storable;
use super::runs::RunOver;
use super::tasks::Task;
use super::turn::Turn;
use super::{CellState, Job, Machine, Version};
use crate::event::{EventKind, TaskChange};
use crate::rejection::{DrainRejection, Rejection};
use borg_proto::command::{Assignment, SERVICES_SINCE};
use borg_proto::task::{EvictCause, FailureCause, Phase, Placement, RunEnd, TaskState};
use borg_proto::update::DEFAULT_MIN_HEALTHY;
use borg_proto::{Health, IncarnationId, JobId, JobKind, MachineId, Millis, TaskId};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How long a successor may take from being placed until it serves, where no update says how long. 300 s: our
/// choice, half of what an update allows: a drain has a deadline of its own, and several tries fit into an hour.
pub const READY_WITHIN: Millis = Millis::from_secs(300);
/// How long a process without a health check must run to count as one that serves. As long as a task of an
/// update must by default: a process that runs says little of whether it answers yet.
pub(super) const PROVEN_AFTER: Millis = DEFAULT_MIN_HEALTHY;
/// How many successors in a row may come to nothing until the task is moved without, within its job's
/// budget. 3: our choice.
pub const MAX_VAIN: u32 = 3;
/// How long after that none is tried again. 10 minutes: our choice, as long as a task keeps away from a machine
/// on which it failed.
pub const VAIN_REST: Millis = super::CRASH_COOL_DOWN;

/// A further incarnation of a task that is to take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Where it is, and how far.
    pub placement: Placement,
    /// The version of its job that it runs.
    pub version: u32,
}

/// What a task remembers of successors that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vain {
    /// How many in a row.
    pub tries: u32,
    /// Before that, in cell time, there is none.
    pub until: Millis,
}

impl Job {
    /// Whether its tasks may have successors: those of services that bear no more than so much disruption, and
    /// of which two may run for a while.
    #[must_use]
    pub fn may_have_successors(&self) -> bool {
        let spec = &self.spec;
        spec.kind == JobKind::Service
            && spec.effective_disruption().is_some()
            && !spec.exclusive
            && !spec.gang
            && spec.alloc_set.is_none()
            && spec.concurrent.is_none()
    }

    /// How many of its tasks may have one at once: as many as its budget lets be down, which is how many its
    /// owner expects to be in motion; one at least, so that a job that may lose nobody can still be moved.
    #[must_use]
    pub fn most_successors(&self) -> u32 {
        let budget = self.spec.effective_disruption();
        budget.map_or(0, |budget| budget.most.of(self.size()).max(1))
    }

    /// Those of its tasks that have one, by index.
    pub fn successors(&self) -> impl Iterator<Item = (u32, &Successor)> {
        self.succeeded.iter().filter_map(|index| Some((*index, self.task(*index)?.successor()?)))
    }

    /// Whether callers may be sent to a successor, once it has taken over.
    #[must_use]
    pub(super) fn successor_serves(&self, successor: &Successor) -> bool {
        let Some(version) = self.version(successor.version) else { return false };
        let placement = &successor.placement;
        let up = matches!(placement.phase, Phase::Up { .. });
        let task = &version.spec.task;
        let reached = !task.network.is_own() || placement.address.is_some();
        up && reached && super::jobs::health_of(task, placement).serves()
    }

    /// When something is decided of a successor in any case, in cell time: it takes over, or is given up.
    fn turn_of(&self, index: u32, successor: &Successor) -> Millis {
        let (proven_after, within) = self.terms_of(index, successor);
        match successor.placement.serves_since {
            Some(since) => since + proven_after,
            None => successor.placement.placed_at + within,
        }
    }

    /// How long a successor must serve, and how long it may take until it does.
    fn terms_of(&self, index: u32, successor: &Successor) -> (Millis, Millis) {
        let by_update = self.task(index).is_some_and(|task| task.version != successor.version);
        if let Some(update) = self.update().filter(|_| by_update) {
            return (update.options.min_healthy_ms, update.options.deadline_ms);
        }
        let version = self.version(successor.version);
        let checked = version.is_some_and(|version| version.spec.task.health.is_some());
        (if checked { Millis(0) } else { PROVEN_AFTER }, READY_WITHIN)
    }

    /// When the first of its successors takes over or is given up.
    pub(super) fn successor_due(&self) -> Option<Millis> {
        self.successors().map(|(index, successor)| self.turn_of(index, successor)).min()
    }
}

impl Task {
    /// What is to take its place, if anything is.
    #[must_use]
    pub fn successor(&self) -> Option<&Successor> {
        self.successor.as_deref()
    }
}

impl CellState {
    /// Whether a task gets a successor, rather than being taken down, when it is to leave its machine at a moment
    /// of cell time. How many its job may have is not looked at.
    #[must_use]
    pub fn is_replaced_first(&self, id: TaskId, at: Millis) -> bool {
        let Some(job) = self.job(id.job).filter(|job| job.may_have_successors()) else {
            return false;
        };
        let serves = |task: &Task| {
            task.placement().is_some_and(|placement| placement.serves_since.is_some())
        };
        self.level >= SERVICES_SINCE
            && job.task(id.index).is_some_and(|task| serves(task) && task.vain.until <= at)
    }

    /// How many of a job's tasks may get a successor now.
    #[must_use]
    pub fn may_still_prepare(&self, job: &Job) -> u32 {
        let there = u32::try_from(job.succeeded.len()).unwrap_or(u32::MAX);
        job.most_successors().saturating_sub(there)
    }

    /// An incarnation that is placed, as a task or as the successor of one, and the version that it runs.
    #[must_use]
    pub fn placed_as(&self, id: IncarnationId) -> Option<(&Placement, &Version)> {
        let job = self.job(id.task.job)?;
        let task = job.task(id.task.index)?;
        if let Some(placement) = task.placement().filter(|p| p.incarnation == id.number) {
            return Some((placement, job.version_of(id.task.index)));
        }
        let successor = task.successor().filter(|s| s.placement.incarnation == id.number)?;
        Some((&successor.placement, job.version(successor.version)?))
    }

    /// Whether an incarnation is the successor of its task.
    #[must_use]
    pub fn is_successor(&self, id: IncarnationId) -> bool {
        let successor = self.task(id.task).and_then(Task::successor);
        successor.is_some_and(|successor| successor.placement.incarnation == id.number)
    }

    /// All successors that are on a machine.
    pub fn successors_on<'a>(
        &'a self,
        machine: &'a Machine,
    ) -> impl Iterator<Item = (TaskId, &'a Successor)> {
        machine.successors.iter().filter_map(|id| Some((*id, self.task(*id)?.successor()?)))
    }
}

impl Turn<'_> {
    /// Starts a task on another machine while it goes on where it is.
    pub(super) fn prepare(
        &mut self,
        asked: &Assignment,
        version: u32,
    ) -> Result<IncarnationId, Rejection> {
        let id = asked.task;
        self.check_successor(id)?;
        let plan = self.plan_successor(asked, version)?;
        let placement = self.occupy(asked, plan);
        let (machine, incarnation) = (placement.machine, placement.incarnation);
        let successor = Successor { placement, version };
        let (job, found) = self.pair(id, machine);
        seat_successor(job, found, id, &successor);
        self.with_task(id, |task| {
            task.incarnations = incarnation;
            task.successor = Some(Box::new(successor));
        });
        let change = TaskChange::Prepared { machine, incarnation };
        self.emit(EventKind::TaskChanged { task: id, change, machine: Some(machine) });
        self.stir(id.job);
        Ok(IncarnationId { task: id, number: incarnation })
    }

    fn check_successor(&self, id: TaskId) -> Result<(), Rejection> {
        let (Some(job), Some(task)) = (self.state.job(id.job), self.state.task(id)) else {
            return Err(Rejection::TaskGone { task: id });
        };
        if self.state.safe_mode.is_some() {
            return Err(DrainRejection::SafeMode { task: id }.into());
        }
        if task.successor.is_some() {
            return Err(DrainRejection::HasSuccessor { task: id }.into());
        }
        if self.state.may_still_prepare(job) == 0 {
            let (job, most) = (job.key.clone(), job.most_successors());
            return Err(DrainRejection::Preparing { task: id, job, most }.into());
        }
        Ok(())
    }

    /// Takes over which of a job's successors serve for long enough, and gives up those that took too long. In
    /// safe mode nothing moves.
    pub(super) fn proceed_successors(&mut self, id: JobId) {
        let Some(job) = self.state.job(id).filter(|_| self.state.safe_mode.is_none()) else {
            return;
        };
        let due = job.successors().filter(|(index, found)| job.turn_of(*index, found) <= self.at);
        let due: Vec<(TaskId, bool, Millis)> = due
            .map(|(index, found)| {
                let within = job.terms_of(index, found).1;
                (TaskId { job: id, index }, found.placement.serves_since.is_some(), within)
            })
            .collect();
        for (task, serves, within) in due {
            if serves {
                self.replace(task);
            } else {
                let seconds = within.0.div_ceil(1_000);
                self.fail_successor(task, &format!("it did not serve within {seconds} s"), true);
            }
        }
    }

    /// A successor serves: it takes over, and the old one ends.
    fn replace(&mut self, id: TaskId) {
        let Some(task) = self.state.task(id) else { return };
        let (Some(from), Some(version)) =
            (task.placement().map(|p| p.machine), task.successor().map(|s| s.version))
        else {
            return;
        };
        let cause = if version == task.version {
            self.count_leaving(from, |drain| drain.moved = drain.moved.saturating_add(1));
            EvictCause::Drained
        } else {
            EvictCause::Updated { version }
        };
        self.note_run(id, RunOver::Evicted(cause.clone()), None);
        self.take_over(id, |task| task.last_evict = Some(cause));
    }

    /// Makes a task's successor its placement, and ends what was; false when it has none. `note` changes what else
    /// is remembered of the slot.
    pub(super) fn take_over(&mut self, id: TaskId, note: impl FnOnce(&mut Task)) -> bool {
        let Some(from) = self.state.task(id).and_then(Task::placement).map(|p| p.machine) else {
            return false;
        };
        let Some(successor) = self.take_successor(id) else { return false };
        let Successor { placement, version } = *successor;
        if self.state.task(id).is_some_and(|task| task.version != version) {
            self.change_version(id, version);
            self.is_on_its_way(id);
        }
        let (machine, incarnation) = (placement.machine, placement.incarnation);
        let change = TaskChange::Replaced { from, machine, incarnation };
        self.change_task(id, TaskState::Running(placement), change, |task| {
            task.last_place = Some((machine, incarnation));
            task.vain = Vain::default();
            note(task);
        });
        self.stir(id.job);
        true
    }

    /// Takes a task's successor off its machine.
    fn take_successor(&mut self, id: TaskId) -> Option<Box<Successor>> {
        let successor = self.state.task(id)?.successor.clone()?;
        let at = self.at;
        let (job, machine) = self.pair(id, successor.placement.machine);
        unseat_successor(job, machine, id, &successor, at);
        self.with_task(id, |task| task.successor = None);
        Some(successor)
    }

    /// A task goes on without its successor, if it has one.
    pub(super) fn drop_successor(&mut self, id: TaskId, why: &str) {
        let Some(successor) = self.take_successor(id) else { return };
        let machine = Some(successor.placement.machine);
        let change = TaskChange::Unprepared { why: why.to_owned() };
        self.emit(EventKind::TaskChanged { task: id, change, machine });
        self.stir(id.job);
    }

    /// A task's successor came to nothing; after several in a row none is tried for a while. `crashed` says whether
    /// task and machine should not meet again soon.
    pub(super) fn fail_successor(&mut self, id: TaskId, why: &str, crashed: bool) {
        let Some(successor) = self.state.task(id).and_then(Task::successor) else { return };
        let (machine, version) = (successor.placement.machine, successor.version);
        let at = self.at;
        self.trouble_with_successor(id, version, why);
        self.drop_successor(id, why);
        self.with_task(id, |task| {
            task.vain.tries += 1;
            if task.vain.tries >= MAX_VAIN {
                task.vain = Vain { tries: 0, until: at + VAIN_REST };
            }
            if crashed {
                task.crashed(machine, at);
            }
        });
    }

    /// All successors on a machine come to nothing.
    pub(super) fn clear_successors(&mut self, machine: MachineId, why: &str) {
        let all = self.state.machine(machine).map(|machine| machine.successors.clone());
        for task in all.unwrap_or_default() {
            self.fail_successor(task, why, false);
        }
    }

    /// A job's tasks go on without successors.
    pub(super) fn drop_successors_of(&mut self, id: JobId, why: &str) {
        let all = self.state.job(id).map(|job| job.succeeded.clone()).unwrap_or_default();
        all.into_iter().for_each(|index| self.drop_successor(TaskId { job: id, index }, why));
    }

    /// Of the tasks on a machine that is drained no more, those that only were to leave it go on without.
    pub(super) fn drop_successors_from(&mut self, machine: MachineId) {
        let tasks = self.state.machine(machine).map(|machine| machine.tasks.clone());
        for id in tasks.unwrap_or_default() {
            let Some(task) = self.state.task(id) else { continue };
            if task.successor().is_some_and(|successor| successor.version == task.version) {
                self.drop_successor(id, "its machine is drained no more");
            }
        }
    }

    /// Something of the whole cell has changed on which it depends whether successors take over.
    pub(super) fn stir_successors(&mut self) {
        let with: Vec<JobId> =
            self.state.jobs().filter(|job| !job.succeeded.is_empty()).map(|job| job.id).collect();
        with.into_iter().for_each(|id| self.stir(id));
    }

    /// The successor that an incarnation is, if it is one.
    fn successor_as(&self, id: IncarnationId) -> Option<&Successor> {
        let successor = self.state.task(id.task)?.successor()?;
        (successor.placement.incarnation == id.number).then_some(successor)
    }

    /// A report about an incarnation that is a successor; false when it is none.
    pub(super) fn successor_reports(&mut self, id: IncarnationId, said: Said<'_>) -> bool {
        let Some(successor) = self.successor_as(id) else { return false };
        let placement = successor.placement.clone();
        match said {
            Said::Up { phase, restarts } => {
                if restarts > 0 {
                    self.successor_failed(id.task, None, None);
                } else if placement.phase != phase {
                    let (health, address) = (Health::Unchecked, None);
                    let up = Placement { phase, health, address, serves_since: None, ..placement };
                    self.change_successor(id.task, up);
                }
            }
            Said::Over { cause, told } => self.successor_failed(id.task, cause, told),
            Said::Health(Health::Unhealthy) => {
                self.fail_successor(id.task, "it turned unhealthy", true);
            }
            Said::Health(health) => {
                if matches!(placement.phase, Phase::Up { .. }) {
                    self.change_successor(id.task, Placement { health, ..placement });
                }
            }
            Said::Address(address) => {
                if matches!(placement.phase, Phase::Up { .. }) {
                    let address = Some(address);
                    self.change_successor(id.task, Placement { address, ..placement });
                }
            }
        }
        true
    }

    fn change_successor(&mut self, id: TaskId, placement: Placement) {
        let Some(job) = self.state.job(id.job) else { return };
        let Some(before) = job.task(id.index).and_then(Task::successor) else { return };
        let mut after = Successor { placement, version: before.version };
        let since = before.placement.serves_since.unwrap_or(self.at);
        after.placement.serves_since = job.successor_serves(&after).then_some(since);
        if *before == after {
            return;
        }
        let (machine, serves) = (after.placement.machine, after.placement.serves_since.is_some());
        self.with_task(id, |task| task.successor = Some(Box::new(after)));
        let change = TaskChange::Preparing { serves };
        self.emit(EventKind::TaskChanged { task: id, change, machine: Some(machine) });
        self.stir(id.job);
    }

    /// A process of a successor is over.
    fn successor_failed(
        &mut self,
        id: TaskId,
        cause: Option<&FailureCause>,
        told: Option<&RunEnd>,
    ) {
        let Some(successor) = self.state.task(id).and_then(Task::successor) else { return };
        let placement = successor.placement.clone();
        // A service that ends has failed, whatever its code.
        let cause = cause.map_or(FailureCause::Exit { code: 0 }, storable);
        self.note_run_of(id, &placement, RunOver::Failed(cause.clone()), told);
        self.fail_successor(id, &cause.to_string(), true);
    }

    fn with_task(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        let job = self.job_mut(id.job);
        let slot = usize::try_from(id.index).ok().and_then(|index| job.tasks.get_mut(index));
        change(Arc::make_mut(slot.expect("rules look tasks up before they change them")));
    }
}

/// What a machine says of a successor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said<'a> {
    /// A process of it runs.
    Up { phase: Phase, restarts: u32 },
    /// A process of it is over.
    Over { cause: Option<&'a FailureCause>, told: Option<&'a RunEnd> },
    /// What its health check says.
    Health(Health),
    /// The address that it has.
    Address(Ipv4Addr),
}

/// Takes the room of a successor on its machine.
pub(crate) fn seat_successor(
    job: &mut Job,
    machine: &mut Machine,
    id: TaskId,
    successor: &Successor,
) {
    if let Some(version) = job.version(successor.version) {
        machine.holds(version, &successor.placement);
    }
    machine.successors.insert(id);
    job.succeeded.insert(id.index);
    super::tasks::crowd_in(job, machine);
}

/// Gives it back.
fn unseat_successor(
    job: &mut Job,
    machine: &mut Machine,
    id: TaskId,
    successor: &Successor,
    at: Millis,
) {
    if let Some(version) = job.version(successor.version) {
        machine.releases(version, &successor.placement);
        machine.ends_until(at + version.spec.task.grace_ms);
    }
    machine.successors.remove(&id);
    job.succeeded.remove(&id.index);
    super::tasks::crowd_out(job, machine);
}

#[cfg(test)]
mod tests;
