//! What machines report, folded into the state.
//!
//! Invariant: a report about an incarnation that is not the present one of its task changes
//! nothing.

use super::restored::Found;
use super::runs::RunOver;
use super::successors::Said;
use super::tasks::{crowd_in, crowd_out};
use super::turn::Turn;
use super::{Answer, DOWNS_REMEMBERED, MachineState, SafeMode};
use crate::event::{EventKind, TaskChange};
use crate::rejection::Rejection;
use borg_proto::command::Observation;
use borg_proto::reclamation::Amounts;
use borg_proto::resources::TASK_ADDRESS;
use borg_proto::task::{EvictCause, FailureCause, Phase, Placement, RunEnd, TaskEnd, TaskState};
use borg_proto::wire::pb;
use borg_proto::{
    Health, IncarnationId, JobKind, MachineId, MachineInfo, MachineName, Millis, TaskId,
};
use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How long an incarnation must have been placed for its end not to count as one of a row of
/// quick failures. 10 minutes: our choice, twice the longest back-off.
pub const LASTED: Millis = Millis::from_secs(600);
/// Wait after the first of a row of quick failures; doubles with each. 1 s: our choice.
pub const FIRST_BACK_OFF: Millis = Millis::from_secs(1);
/// Longest wait after a failure. 5 minutes: our choice.
pub const LONGEST_BACK_OFF: Millis = Millis::from_secs(300);
/// How often in a row a taken port costs a task no wait. 3: our choice; other ports are tried
/// each time.
pub const FREE_PORT_TRIES: u32 = 3;

impl Turn<'_> {
    /// Takes in what link shards saw, each change by itself. What does not concern the present
    /// changes nothing.
    pub(super) fn observe(&mut self, changes: &[Observation]) -> Answer {
        for change in changes {
            match change {
                Observation::MachineUp { machine, info } => self.machine_up(*machine, info),
                Observation::MachineDown { machine } => self.machine_lost(*machine),
                Observation::TaskUp { id, pid, since, restarts, run } => {
                    let phase = Phase::Up { pid: *pid, since: *since };
                    let said = Said::Up { phase, restarts: *restarts };
                    if self.successor_reports(*id, said) {
                        continue;
                    }
                    // A service that ends has failed, whatever its code.
                    let failed = |run: &RunEnd| {
                        run.failure.clone().unwrap_or(FailureCause::Exit { code: 0 })
                    };
                    let cause = run.as_deref().map(failed);
                    self.task_phase(*id, phase, *restarts, cause.as_ref(), run.as_deref());
                }
                Observation::TaskBackOff { id, until, restarts, cause, run } => {
                    let phase = Phase::BackOff { until: *until };
                    let said = Said::Over { cause: Some(cause), told: run.as_deref() };
                    if self.successor_reports(*id, said) {
                        continue;
                    }
                    self.task_phase(*id, phase, *restarts, Some(cause), run.as_deref());
                }
                Observation::TaskEnded { id, at: _, failure, run } => {
                    let said = Said::Over { cause: failure.as_ref(), told: run.as_deref() };
                    if !self.successor_reports(*id, said) {
                        self.task_ended(*id, failure.as_ref(), run.as_deref());
                    }
                }
                Observation::TaskGone { id } => self.task_gone(*id),
                Observation::TaskReclaimed { id } => self.task_reclaimed(*id),
                Observation::DataAtRest { machine, alloc, bytes } => {
                    self.data_at_rest(*machine, *alloc, *bytes);
                }
                Observation::DataGone { machine, alloc, why } => {
                    self.data_gone(*machine, *alloc, why);
                }
                Observation::TaskHealth { id, health } => {
                    if !self.successor_reports(*id, Said::Health(*health)) {
                        self.task_health(*id, *health);
                    }
                }
                Observation::TaskAddress { id, address } => {
                    if !self.successor_reports(*id, Said::Address(*address)) {
                        self.task_address(*id, *address);
                    }
                }
                Observation::Silence { safe_mode, silent, machines } => {
                    self.silence(*safe_mode, *silent, *machines);
                }
                Observation::TaskAdopted { id, machine, pid, since, restarts, ports } => {
                    self.adopt(&Found {
                        id: *id,
                        machine: *machine,
                        up: Phase::Up { pid: *pid, since: *since },
                        restarts: *restarts,
                        ports,
                    });
                }
            }
        }
        Answer::None
    }

    fn machine_up(&mut self, id: MachineId, info: &MachineInfo) {
        let Some(machine) = self.state.machine(id) else { return };
        let same = machine.info.as_deref() == Some(info);
        // What could not be written to a checkpoint must not get into the state.
        let sound = same || MachineInfo::try_from(pb::MachineInfo::from(info)).is_ok();
        if (same && machine.state == MachineState::Up) || !sound {
            return;
        }
        let overdrawn = machine.overdrawn();
        if !same {
            self.change_info(id, Arc::new(info.clone()));
        }
        self.set_machine_state(id, MachineState::Up);
        self.emit(EventKind::MachineChanged(id));
        self.shed(id, overdrawn);
        self.answers_while_drained(id);
        self.fit_daemons(id);
    }

    /// Gives a machine other facts; its tasks may count elsewhere in the spread of their jobs.
    fn change_info(&mut self, id: MachineId, info: Arc<MachineInfo>) {
        let before = self.machine_mut(id).clone();
        let machine = self.machine_mut(id);
        machine.info = Some(info);
        let after = machine.clone();
        for task in before.tasks.iter().chain(&before.successors) {
            let job = self.job_mut(task.job);
            crowd_out(job, &before);
            crowd_in(job, &after);
        }
    }

    /// Evicts what a machine no longer has room or ports for: lowest priority first, then the
    /// youngest job. It was overdrawn by so much before, and may be so on.
    fn shed(&mut self, id: MachineId, overdrawn: Amounts) {
        self.shed_successors(id, overdrawn);
        let machine = self.machine_mut(id);
        let range = machine.port_range();
        let tasks = machine.tasks.clone();
        let stray = |state: &super::CellState, task: TaskId| {
            let placement = state.task(task).and_then(super::Task::placement);
            placement.is_some_and(|p| {
                p.machine_ports().iter().any(|port| !range.contains(&u32::from(*port)))
            })
        };
        for task in &tasks {
            if stray(self.state, *task) {
                self.evict(*task, &EvictCause::Shrunk);
            }
        }
        // Tasks in allocs free nothing but ports and addresses.
        let holds_room = |task: &TaskId| {
            self.state.job(task.job).is_some_and(|job| {
                job.spec.alloc_set.is_none() || job.task_spec(task.index).network.is_own()
            })
        };
        let order = self.state.machine(id).map(|machine| machine.tasks.iter().copied());
        let mut order: Vec<_> = order.into_iter().flatten().filter(holds_room).collect();
        order.sort_by_key(|task| {
            (self.state.job(task.job).map(super::Job::priority), Reverse(*task))
        });
        // Who has no address frees none, whatever its rank.
        let own = |state: &super::CellState, task: &TaskId| {
            state.job(task.job).is_some_and(|job| job.task_spec(task.index).network.is_own())
        };
        for task in &order {
            let machine = self.machine_mut(id);
            let capacity = machine.info.as_ref().map(|info| &info.capacity);
            if capacity.is_some_and(|all| machine.devices.kind_is_within(TASK_ADDRESS, all)) {
                break;
            }
            if own(self.state, task) {
                self.evict(*task, &EvictCause::Shrunk);
            }
        }
        let most_percent = self.state.reclaims().numbers.most_percent;
        for task in order {
            let machine = self.machine_mut(id);
            let devices =
                machine.info.as_ref().is_some_and(|info| machine.devices.is_within(&info.capacity));
            if devices && machine.is_within(overdrawn, most_percent) {
                return;
            }
            self.evict(task, &EvictCause::Shrunk);
        }
    }

    /// Nobody is served by successors: they go before any task, together.
    fn shed_successors(&mut self, id: MachineId, overdrawn: Amounts) {
        let most_percent = self.state.reclaims().numbers.most_percent;
        let machine = self.machine_mut(id);
        let range = machine.port_range();
        let fits = machine.ports.iter().all(|port| range.contains(&u32::from(*port)))
            && machine.info.as_ref().is_some_and(|info| machine.devices.is_within(&info.capacity))
            && machine.is_within(overdrawn, most_percent);
        if !fits {
            self.clear_successors(id, "its machine shrank");
        }
    }

    fn silence(&mut self, safe_mode: bool, silent: u32, machines: u32) {
        if safe_mode == self.state.safe_mode.is_some() {
            return;
        }
        self.state.safe_mode = safe_mode.then_some(SafeMode { since: self.at, silent, machines });
        self.emit(EventKind::SafeMode { on: safe_mode, silent, machines });
        self.reset_drains();
        self.stir_updates();
        self.stir_successors();
    }

    /// Takes machines for down because an operator says so. All or none.
    pub(super) fn give_up(
        &mut self,
        names: &[MachineName],
        answering: Option<&MachineName>,
    ) -> Result<Answer, Rejection> {
        if let Some(machine) = answering {
            return Err(Rejection::MachineAnswers { machine: machine.clone() });
        }
        let found = names.iter().map(|name| {
            let id = self.state.machine_names.get(name).copied();
            id.ok_or_else(|| Rejection::NoSuchMachine { machine: name.clone() })
        });
        for id in found.collect::<Result<Vec<_>, _>>()? {
            self.machine_down(id);
            self.machine_mut(id).given_up = true;
        }
        Ok(Answer::None)
    }

    /// A leader gave a machine up. In safe mode nothing moves, whatever was decided before it.
    fn machine_lost(&mut self, id: MachineId) {
        let up = self.state.machine(id).is_some_and(|machine| machine.state != MachineState::Down);
        if self.state.safe_mode.is_some() || !up {
            return;
        }
        if self.state.keeps_notes() {
            let at = self.at;
            self.state.downs.retain(|down| at.since(*down) < DOWNS_REMEMBERED);
            self.state.downs.push_back(at);
        }
        self.machine_down(id);
    }

    fn machine_down(&mut self, id: MachineId) {
        let Some(machine) = self.state.machine(id) else { return };
        if machine.state == MachineState::Down {
            return;
        }
        self.set_machine_state(id, MachineState::Down);
        self.emit(EventKind::MachineChanged(id));
        self.clear_machine(id);
        self.fit_daemons(id);
    }

    fn set_machine_state(&mut self, id: MachineId, to: MachineState) {
        let at = self.at;
        let machine = self.machine_mut(id);
        if machine.state != to {
            machine.state = to;
            machine.given_up = false;
            machine.since = at;
        }
    }

    /// The placement of an incarnation, if that is the present one of its task.
    fn present(&self, id: IncarnationId) -> Option<&Placement> {
        let placement = self.state.task(id.task)?.placement()?;
        (placement.incarnation == id.number).then_some(placement)
    }

    fn task_phase(
        &mut self,
        id: IncarnationId,
        phase: Phase,
        restarts: u32,
        cause: Option<&FailureCause>,
        told: Option<&RunEnd>,
    ) {
        let Some(old) = self.present(id) else { return };
        if old.phase == phase && old.restarts == restarts {
            return;
        }
        // Another process has to show again that it works, and may have another address.
        let (health, address, serves_since) = (Health::Unchecked, None, None);
        let placement = Placement { phase, restarts, health, address, serves_since, ..old.clone() };
        let more = failures_within(&placement).saturating_sub(failures_within(old));
        // Of a run before this process only what was not heard of is news.
        let news = matches!(phase, Phase::BackOff { .. }) || more > 0;
        let cause = cause.filter(|_| news).map(storable);
        let change = match (phase, &cause) {
            (Phase::Up { pid, .. }, _) => TaskChange::Up { pid },
            (Phase::BackOff { until }, Some(cause)) => {
                TaskChange::BackOff { until, cause: cause.clone() }
            }
            (Phase::BackOff { .. } | Phase::Starting, _) => return,
        };
        if let Some(cause) = &cause {
            self.note_run(id.task, RunOver::Failed(cause.clone()), told);
        }
        self.change_task(id.task, TaskState::Running(placement), change, |task| {
            task.failures = task.failures.saturating_add(more);
            if cause.is_some() {
                task.last_failure = cause;
            }
        });
    }

    fn task_health(&mut self, id: IncarnationId, health: Health) {
        let checked = |job: &super::Job| job.task_spec(id.task.index).health.is_some();
        let Some(old) = self.present(id) else { return };
        let up = matches!(old.phase, Phase::Up { .. });
        if !up || old.health == health || !self.state.job(id.task.job).is_some_and(checked) {
            return;
        }
        let placement = Placement { health, ..old.clone() };
        let change = TaskChange::Health(health);
        self.change_task(id.task, TaskState::Running(placement), change, |_| ());
    }

    fn task_address(&mut self, id: IncarnationId, address: Ipv4Addr) {
        let own = |job: &super::Job| job.task_spec(id.task.index).network.is_own();
        let Some(old) = self.present(id) else { return };
        let up = matches!(old.phase, Phase::Up { .. });
        if !up || old.address == Some(address) || !self.state.job(id.task.job).is_some_and(own) {
            return;
        }
        let placement = Placement { address: Some(address), ..old.clone() };
        let change = TaskChange::Address(address);
        self.change_task(id.task, TaskState::Running(placement), change, |_| ());
    }

    fn task_ended(
        &mut self,
        id: IncarnationId,
        failure: Option<&FailureCause>,
        told: Option<&RunEnd>,
    ) {
        let Some(placement) = self.present(id) else { return };
        let lasted = self.at.since(placement.placed_at) >= LASTED;
        let Some(spec) = self.state.job(id.task.job).map(|job| job.spec.clone()) else { return };
        let over = match (spec.kind, failure) {
            (JobKind::Batch | JobKind::Cron, None) => RunOver::Finished,
            (
                JobKind::Batch
                | JobKind::Service
                | JobKind::AllocSet
                | JobKind::Daemon
                | JobKind::Cron,
                Some(cause),
            ) => RunOver::Failed(storable(cause)),
            (JobKind::Service | JobKind::AllocSet | JobKind::Daemon, None) => {
                RunOver::Failed(FailureCause::Exit { code: 0 })
            }
        };
        if spec.kind != JobKind::AllocSet {
            self.note_run(id.task, over, told);
        }
        match (spec.kind, failure) {
            (JobKind::Batch, None) => self.end_task(id.task, TaskEnd::Finished),
            (JobKind::Batch, Some(cause)) => {
                self.task_failed(id.task, storable(cause), lasted, Some(spec.retries))
            }
            // Allocs run nothing, and a cron job has no tasks.
            (JobKind::AllocSet | JobKind::Cron, _) => {}
            // A service that exits at all has failed.
            (JobKind::Service | JobKind::Daemon, None) => {
                self.task_failed(id.task, FailureCause::Exit { code: 0 }, lasted, None)
            }
            (JobKind::Service | JobKind::Daemon, Some(cause)) => {
                self.task_failed(id.task, storable(cause), lasted, None)
            }
        }
    }

    /// One failure more: back to pending with a wait, or the end of task and job when it was one
    /// too many. `retries` is `None` for tasks that never give up.
    pub(super) fn task_failed(
        &mut self,
        id: TaskId,
        cause: FailureCause,
        lasted: bool,
        retries: Option<u32>,
    ) {
        let Some(task) = self.state.task(id) else { return };
        let failures = task.failures.saturating_add(u32::from(is_own_fault(&cause)));
        let streak = match cause {
            FailureCause::Fenced => task.streak,
            _ if lasted => 1,
            _ => task.streak.saturating_add(1),
        };
        let at = self.at;
        let crashed = task.placement().map(|placement| placement.machine);
        let crashed = crashed.filter(|_| self.state.keeps_notes() && is_crash(&cause));
        let last_failure = Some(cause.clone());
        // Nobody heard from the machine that a run is over which the cell ended by its own time.
        let lingers = matches!(cause, FailureCause::Timeout { .. })
            && self.state.job(id.job).is_some_and(|job| job.spec.exclusive);
        let note = |task: &mut super::Task| {
            task.lingers |= lingers;
            task.failures = failures;
            task.streak = streak;
            task.last_failure = last_failure;
            if let Some(machine) = crashed {
                task.crashed(machine, at);
            }
        };
        if is_own_fault(&cause) && retries.is_some_and(|retries| failures > retries) {
            let end = TaskEnd::Failed { cause: cause.clone() };
            let change = TaskChange::Failed { cause, again: None };
            self.change_task(id, TaskState::Dead { at, end }, change, note);
            let too_many =
                self.state.job(id.job).is_some_and(|job| job.counts.failed > job.spec.max_failures);
            if too_many {
                let by = format!("the failure of task {}", id.index);
                self.end_tasks(id.job, &TaskEnd::Killed { by });
            }
            return;
        }
        if self.follows_failed(id, &cause, note.clone()) {
            return;
        }
        let not_before = match wait(&cause, streak) {
            Millis(0) => Millis(0),
            // The largest number stands for a wait for other jobs.
            wait => (self.at + wait).min(Millis(u64::MAX - 1)),
        };
        let to = TaskState::Pending { since: self.at, not_before };
        self.change_task(id, to, TaskChange::Failed { cause, again: Some(not_before) }, note);
    }
}

impl Turn<'_> {
    /// The successor of a task that failed takes its place, if it has one.
    fn follows_failed(
        &mut self,
        id: TaskId,
        cause: &FailureCause,
        note: impl FnOnce(&mut super::Task),
    ) -> bool {
        let Some(task) = self.state.task(id).filter(|task| task.successor().is_some()) else {
            return false;
        };
        let machine = task.placement().map(|placement| placement.machine);
        let (from, again) = (task.state.clone(), Some(Millis(0)));
        let change = TaskChange::Failed { cause: cause.clone(), again };
        self.watch_update(id, &from, &change);
        self.emit(EventKind::TaskChanged { task: id, change, machine });
        self.take_over(id, note)
    }
}

/// Failures of an incarnation that its machine has dealt with, or is dealing with.
pub(crate) fn failures_within(placement: &Placement) -> u32 {
    match placement.phase {
        Phase::BackOff { .. } => placement.restarts.saturating_add(1),
        Phase::Starting | Phase::Up { .. } => placement.restarts,
    }
}

/// Whether a failure counts towards the retries of a batch task.
pub(super) fn is_own_fault(cause: &FailureCause) -> bool {
    match cause {
        FailureCause::Exit { .. }
        | FailureCause::Signal { .. }
        | FailureCause::OutOfMemory { .. }
        | FailureCause::Start { .. }
        | FailureCause::DiskLimit { .. }
        | FailureCause::FileLimit { .. }
        | FailureCause::Timeout { .. }
        | FailureCause::Deadline { .. }
        | FailureCause::Unhealthy { .. } => true,
        // Within its limit it only stood in the way of others.
        FailureCause::Short { limit_bytes, used_bytes, .. } => used_bytes > limit_bytes,
        FailureCause::PortTaken { .. }
        | FailureCause::Packages { .. }
        | FailureCause::NoAddress
        | FailureCause::Lost
        | FailureCause::Fenced => false,
    }
}

/// Whether task and machine should not meet again soon. A machine that restarted may have done so
/// because of the task.
fn is_crash(cause: &FailureCause) -> bool {
    match cause {
        FailureCause::Exit { .. }
        | FailureCause::Signal { .. }
        | FailureCause::OutOfMemory { .. }
        | FailureCause::Start { .. }
        | FailureCause::DiskLimit { .. }
        | FailureCause::FileLimit { .. }
        | FailureCause::Short { .. }
        | FailureCause::Unhealthy { .. }
        | FailureCause::Packages { .. }
        | FailureCause::NoAddress
        | FailureCause::Timeout { .. }
        | FailureCause::Lost => true,
        FailureCause::PortTaken { .. } | FailureCause::Fenced | FailureCause::Deadline { .. } => {
            false
        }
    }
}

/// How long a task waits after its `streak`th quick failure in a row.
fn wait(cause: &FailureCause, streak: u32) -> Millis {
    let counted = match cause {
        FailureCause::PortTaken { .. } => streak.saturating_sub(FREE_PORT_TRIES),
        FailureCause::Exit { .. }
        | FailureCause::Signal { .. }
        | FailureCause::OutOfMemory { .. }
        | FailureCause::Start { .. }
        | FailureCause::DiskLimit { .. }
        | FailureCause::FileLimit { .. }
        | FailureCause::Short { .. }
        | FailureCause::Unhealthy { .. }
        | FailureCause::Packages { .. }
        | FailureCause::NoAddress
        | FailureCause::Timeout { .. }
        | FailureCause::Deadline { .. }
        | FailureCause::Lost => streak,
        // It did nothing wrong, and its machine waited long enough.
        FailureCause::Fenced => 0,
    };
    let Some(doublings) = counted.checked_sub(1) else { return Millis(0) };
    let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
    Millis(FIRST_BACK_OFF.0.saturating_mul(factor)).min(LONGEST_BACK_OFF)
}

/// The cause as it can be written to a checkpoint: texts cut, absurd ports dropped.
pub(super) fn storable(cause: &FailureCause) -> FailureCause {
    FailureCause::try_from(pb::FailureCause::from(cause)).unwrap_or(FailureCause::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, info, service, with_task};
    use crate::state::JobState;
    use borg_proto::command::RUN_ENDS_SINCE;

    const MIB: u64 = 1 << 20;
    const EXIT: FailureCause = FailureCause::Exit { code: 1 };

    fn not_before(cell: &Cell, id: TaskId) -> Millis {
        let TaskState::Pending { not_before, .. } = cell.state.task(id).unwrap().state else {
            panic!("not pending")
        };
        not_before
    }

    /// Places a service's task and lets it fail, so often; gives the waits.
    fn waits(causes: &[FailureCause]) -> Vec<u64> {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let mut waits = Vec::new();
        for cause in causes {
            let id = cell.place(job, 0, machine).unwrap();
            cell.ended(id, Some(cause.clone()));
            waits.push(not_before(&cell, id.task).since(cell.now).0);
            cell.wait(*waits.last().unwrap());
        }
        waits
    }

    #[test]
    fn each_quick_failure_doubles_the_wait_up_to_five_minutes() {
        let waits = waits(&[const { EXIT }; 11]);
        assert_eq!(waits[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(waits[8..], [256_000, 300_000, 300_000]);
    }

    /// The one with an address has the highest rank, and alone frees what is missing.
    #[test]
    fn a_machine_that_lost_its_addresses_loses_only_tasks_that_had_one() {
        let mut cell = Cell::new();
        let mut with_range = info(1000, 64 * MIB, &[]);
        with_range.capacity.devices = [(TASK_ADDRESS.into(), 2_000)].into();
        let machine = cell.machine_with("m-1", with_range);
        let usual = cell.submit("ann", batch("usual", 1, 100, 4 * MIB));
        let usual = cell.place(usual, 0, machine).unwrap();
        let own = with_task(service("own", 1, 100, 4 * MIB), |task| {
            task.network = borg_proto::Network::Own;
        });
        let own = cell.submit("ann", own);
        let own = cell.place(own, 0, machine).unwrap();
        cell.observe(Observation::MachineUp { machine, info: info(1000, 64 * MIB, &[]) });
        let placed = |id: IncarnationId| cell.state.task(id.task).unwrap().placement().is_some();
        assert_eq!((placed(usual), placed(own)), (true, false));
        assert_eq!(cell.state.audit(), []);
    }

    /// The machine is avoided for a while, and the task is to blame for nothing.
    #[test]
    fn what_only_the_machine_lacks_sends_a_task_elsewhere_and_is_no_failure() {
        for cause in [FailureCause::NoAddress, FailureCause::packages("all of its room is in use")]
        {
            let (failures, crashes) = ended_with(cause);
            assert_eq!((failures, crashes), (0, 1));
        }
    }

    /// Failures and crashes of a batch task that ended so, and is pending again.
    fn ended_with(cause: FailureCause) -> (u32, usize) {
        let mut cell = Cell::new();
        let level = borg_proto::command::Action::RaiseLevel { level: 5 };
        cell.apply(crate::fixture::master(), level).unwrap();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.ended(id, Some(cause));
        let task = cell.state.task(id.task).unwrap();
        assert!(matches!(task.state, TaskState::Pending { .. }), "{:?}", task.state);
        (task.failures, task.crashes.len())
    }

    #[test]
    fn a_taken_port_costs_no_wait_at_first_and_is_no_failure() {
        let taken = FailureCause::PortTaken { port: 20_000 };
        assert_eq!(waits(&[taken.clone(), taken.clone(), taken.clone(), taken]), [0, 0, 0, 1000]);
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.ended(id, Some(FailureCause::PortTaken { port: 20_000 }));
        assert_eq!(cell.state.task(id.task).unwrap().failures, 0);
    }

    #[test]
    fn an_incarnation_that_lasted_begins_the_row_anew() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        for _ in 0..3 {
            let id = cell.place(job, 0, machine).unwrap();
            cell.wait(LASTED.0);
            cell.ended(id, Some(EXIT));
            assert_eq!(not_before(&cell, id.task).since(cell.now), FIRST_BACK_OFF);
            cell.wait(1000);
        }
        assert_eq!(cell.state.job(job).unwrap().task(0).unwrap().failures, 3);
    }

    #[test]
    fn a_batch_task_that_fails_too_often_ends_its_job_and_kills_its_siblings() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let mut spec = batch("count", 3, 100, 4 * MIB);
        spec.retries = 1;
        let job = cell.submit("ann", spec);
        cell.place(job, 1, machine).unwrap();
        for _ in 0..2 {
            cell.wait(10_000);
            let id = cell.place(job, 0, machine).unwrap();
            cell.ended(id, Some(EXIT));
        }
        let ended = cell.state.job(job).unwrap();
        assert_eq!(ended.state(), JobState::Failed);
        assert_eq!(ended.note(&cell.state), "task 0 failed: exit code 1");
        assert_eq!((ended.counts.failed, ended.counts.killed), (1, 2));
        assert!(cell.state.machine(machine).unwrap().tasks.is_empty());
    }

    #[test]
    fn a_machine_that_reboots_does_not_use_up_retries() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.ended(id, Some(FailureCause::Lost));
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Pending);
    }

    #[test]
    fn reports_about_another_incarnation_change_nothing() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.up(id);
        let before = cell.state.clone();
        let other = IncarnationId { number: 2, ..id };
        assert_eq!(cell.ended(other, None), []);
        assert_eq!(cell.up(id), [], "a repeated report is no change");
        assert_eq!(cell.state.jobs, before.jobs);
    }

    #[test]
    fn a_silent_machine_gives_its_tasks_back_and_comes_back_empty() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 2, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.observe(Observation::MachineDown { machine });
        assert_eq!(cell.state.pending().count(), 2);
        assert_eq!(not_before(&cell, id.task), Millis(0));
        cell.observe(Observation::MachineUp { machine, info: info(1000, 64 * MIB, &[]) });
        assert_eq!(cell.place(job, 0, machine).unwrap().number, 2);
    }

    #[test]
    fn restarts_by_the_machine_count_as_failures_once() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        for restarts in 0..2 {
            let until = cell.now;
            for _ in 0..2 {
                cell.observe(Observation::TaskBackOff {
                    id,
                    until,
                    restarts,
                    cause: EXIT,
                    run: None,
                });
            }
            cell.observe(Observation::TaskUp {
                id,
                pid: 7,
                since: cell.now,
                restarts: restarts + 1,
                run: None,
            });
        }
        let task = cell.state.task(id.task).unwrap();
        assert_eq!((task.failures, task.last_failure.clone()), (2, Some(EXIT)));
    }

    /// As when no master listened while it crashed.
    #[test]
    fn a_crash_that_is_heard_of_when_it_runs_again_leaves_its_cause_and_last_words() {
        let mut cell = Cell::new();
        cell.state.level = RUN_ENDS_SINCE;
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.up(id);
        let told = RunEnd {
            run: 0,
            started: Some(Millis(1)),
            ended: Millis(2),
            failure: Some(EXIT),
            cpu_ms: 1,
            ram_peak_bytes: 1,
            last_lines: "no such table".into(),
        };
        let (since, run) = (cell.now, Some(Arc::new(told.clone())));
        for _ in 0..2 {
            let run = run.clone();
            cell.observe(Observation::TaskUp { id, pid: 8, since, restarts: 1, run });
        }
        // Another process of the same run is no other crash.
        cell.observe(Observation::TaskUp { id, pid: 9, since, restarts: 1, run });
        let task = cell.state.task(id.task).unwrap();
        assert_eq!((task.failures, task.last_failure.clone()), (1, Some(EXIT)));
        let runs: Vec<_> = cell.state.runs_of(id.task).collect();
        assert_eq!((runs.len(), runs[0].told.as_deref()), (1, Some(&told)));
    }

    #[test]
    fn a_machine_that_comes_back_smaller_sheds_its_lowest_work() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let low = cell.submit("ann", batch("low", 1, 400, 4 * MIB));
        let high = cell.submit("ann", service("high", 1, 400, 4 * MIB));
        cell.place(low, 0, machine).unwrap();
        cell.place(high, 0, machine).unwrap();
        cell.observe(Observation::MachineUp { machine, info: info(500, 64 * MIB, &[]) });
        let states = [low, high].map(|job| cell.state.job(job).unwrap().state());
        assert_eq!(states, [JobState::Pending, JobState::Running]);
    }

    #[test]
    fn tasks_on_ports_that_the_machine_no_longer_offers_are_shed() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let spec = with_task(service("web", 1, 100, 4 * MIB), |task| {
            task.ports = vec!["http".parse().unwrap()]
        });
        let job = cell.submit("ann", spec);
        cell.place(job, 0, machine).unwrap();
        let mut moved = info(1000, 64 * MIB, &[]);
        moved.first_port = 40_000;
        cell.observe(Observation::MachineUp { machine, info: moved });
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Pending);
    }
}
