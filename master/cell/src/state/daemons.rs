//! Daemons: one task on each machine that will do, also on those that come later.
//!
//! Each slot of such a job belongs to one machine. A slot comes alive when its machine is one on which the
//! job runs, and is withdrawn, dead, when it is that no more; it comes back with the same machine, and is
//! given to another one only when that has been removed. So a task's index stays its machine's. Which machine
//! is decided here; the room there is made by the scheduler like any other, pushing out lower priorities.
//!
//! A machine that is closed gets no new slots, and keeps those that it has. Quota is looked at when the job is
//! submitted or updated, for the machines that are there; a slot for a machine that comes later is charged beyond it, as
//! the operators who run daemons need them everywhere.
//!
//! A task that is there is judged by its own version of the job, whatever is to come by the newest one. So
//! machines are looked at anew when a version is put in force, and a task's own when it gets it.
//!
//! Invariants: a live slot's machine is up and one on which the job runs, and each such machine has one
//! slot, alive or killed by somebody, if it is open. How many slots there are is at most how many machines there
//! were at once.

use super::stops::NEVER;
use super::turn::{Turn, take_of};
use super::{Job, Machine, MachineState, Task};
use crate::event::{EventKind, TaskChange};
use borg_proto::machine::{IMAGES, NO_IMAGES};
use borg_proto::spec::MAX_TASKS;
use borg_proto::task::{FailureCause, TaskEnd, TaskState};
use borg_proto::{JobId, JobKind, JobSpec, MachineId, Millis, TaskId, UserName};
use std::sync::Arc;

/// Most daemons that are alive. 200: our choice; each is looked at whenever a machine changes.
pub const MAX_DAEMONS: u64 = 200;

impl Machine {
    /// Whether tasks of a daemon belong on it, room and doors aside.
    #[must_use]
    pub fn suits(&self, owner: &UserName, spec: &JobSpec) -> bool {
        let Some(info) = self.info.as_ref().filter(|_| self.state == MachineState::Up) else {
            return false;
        };
        let images = info.attributes.get(IMAGES).is_none_or(|images| images != NO_IMAGES);
        let mut hard = spec.task.constraints.iter().filter(|constraint| !constraint.soft);
        !self.is_kept_from(owner)
            && (images || spec.task.image.is_none())
            && hard.all(|constraint| constraint.holds(&info.attributes))
    }
}

impl Job {
    /// The specification that says whether a daemon runs on a machine: of a task that is there its own
    /// version, as the newest one has not reached it; of one that would come, the newest.
    pub(super) fn spec_on(&self, machine: MachineId) -> &Arc<JobSpec> {
        let alive = |index: &&u32| self.task(**index).is_some_and(|task| !task.is_dead());
        let there = self.homes.get(&machine).filter(alive);
        there.map_or(&self.spec, |index| self.spec_of(*index))
    }

    /// The machine to which one of its slots belongs, of a daemon.
    #[must_use]
    pub fn home(&self, index: u32) -> Option<MachineId> {
        self.task(index).and_then(|task| task.pinned)
    }
}

impl Turn<'_> {
    /// On how many machines a daemon would run.
    pub(super) fn machines_for(&self, user: &UserName, spec: &JobSpec) -> u32 {
        let machines = self.state.machines();
        let found =
            machines.filter(|machine| machine.suits(user, spec) && machine.closed.is_none());
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    }

    /// On how many more machines a daemon would run than it does; none of it was killed there.
    pub(super) fn machines_gained(&self, job: &Job) -> u32 {
        if !self.state.daemons.contains(&job.id) {
            return 0;
        }
        let free = |machine: &&Machine| {
            let slot = job.homes.get(&machine.id).and_then(|index| job.task(*index));
            slot.is_none_or(Task::is_withdrawn) && machine.closed.is_none()
        };
        let machines = self.state.machines().filter(free);
        let gained = machines.filter(|machine| machine.suits(job.owner(), &job.spec));
        u32::try_from(gained.count()).unwrap_or(u32::MAX)
    }

    /// A job has another specification than `before`: what follows from it for its kind.
    pub(super) fn heed_kind(&mut self, id: JobId, before: &JobSpec) {
        self.recount_run_out(id);
        self.reschedule(id, before);
        self.fit_everywhere(id);
    }

    /// Gives a daemon the slots that it should have, on all machines.
    fn fit_everywhere(&mut self, id: JobId) {
        if !self.state.daemons.contains(&id) {
            return;
        }
        let machines: Vec<MachineId> = self.state.machines.keys().copied().collect();
        for machine in machines {
            self.fit_daemon(id, machine);
        }
    }

    /// To be called when a slot of a job has another version.
    pub(super) fn note_revised(&mut self, id: TaskId) {
        if self.state.daemons.contains(&id.job) {
            self.revised.insert(id);
            self.stir(id.job);
        }
    }

    /// Slots that got another version in this entry leave machines that it does not run on.
    pub(super) fn fit_revised(&mut self, id: JobId) {
        for task in take_of(&mut self.revised, id) {
            let home = self.state.job(id).and_then(|job| job.home(task.index));
            if let Some(home) = home {
                self.fit_daemon(id, home);
            }
        }
    }

    /// Gives a new daemon its first slots.
    pub(super) fn begin_daemon(&mut self, id: JobId) {
        if self.state.job(id).is_none_or(|job| job.spec.kind != JobKind::Daemon) {
            return;
        }
        self.state.daemons.insert(id);
        self.fit_everywhere(id);
    }

    /// To be called when something of a machine has changed that decides which daemons run there.
    pub(super) fn fit_daemons(&mut self, machine: MachineId) {
        let daemons: Vec<JobId> = self.state.daemons.iter().copied().collect();
        for id in daemons {
            self.fit_daemon(id, machine);
        }
    }

    /// A machine is about to leave the cell for good: its slots may go to others.
    pub(super) fn vacate_daemons(&mut self, machine: MachineId) {
        let homes = self.state.daemons.iter().filter_map(|id| {
            let index = *self.state.job(*id)?.homes.get(&machine)?;
            Some(TaskId { job: *id, index })
        });
        let slots: Vec<TaskId> = homes.collect();
        for task in slots {
            if self.state.task(task).is_some_and(|task| !task.is_dead()) {
                self.end_task(task, TaskEnd::Withdrawn);
            }
            self.unpin(task, machine);
        }
    }

    fn unpin(&mut self, id: TaskId, machine: MachineId) {
        let job = self.job_mut(id.job);
        job.homes.remove(&machine);
        job.vacant.insert(id.index);
        if let Some(task) = slot(job, id.index) {
            task.pinned = None;
            // Whoever stopped it meant the one on that machine.
            task.stopped = false;
        }
    }

    /// Makes a daemon have a slot on a machine or none, as it should be.
    fn fit_daemon(&mut self, id: JobId, machine: MachineId) {
        let (Some(job), Some(found)) = (self.state.job(id), self.state.machine(machine)) else {
            return;
        };
        if !job.is_alive() || job.stopped.is_some() {
            return;
        }
        let suits = found.suits(job.owner(), job.spec_on(machine));
        let comes = suits && found.closed.is_none();
        let home = job.homes.get(&machine).and_then(|index| Some((*index, job.task(*index)?)));
        match home {
            None if comes => self.make_slot(id, machine),
            Some((index, task)) if comes && task.is_withdrawn() => {
                self.bring_back(TaskId { job: id, index });
            }
            Some((index, task)) if !suits && !task.is_dead() => {
                self.end_task(TaskId { job: id, index }, TaskEnd::Withdrawn);
                // The newest version may run where the task's own does not.
                self.fit_daemon(id, machine);
            }
            // As it should be; or killed, which holds while the machine is there.
            None | Some(_) => {}
        }
    }

    /// Gives a machine that has none a slot of a daemon, if the cell has room for one more.
    fn make_slot(&mut self, id: JobId, machine: MachineId) {
        let job = self.job_mut(id);
        if let Some(index) = job.vacant.get_min().copied() {
            job.vacant.remove(&index);
            job.homes.insert(machine, index);
            if let Some(task) = slot(job, index) {
                task.pinned = Some(machine);
            }
            self.bring_back(TaskId { job: id, index });
            return;
        }
        let full = self.check_slots(1).is_err();
        let at = self.at;
        let job = self.job_mut(id);
        let index = job.slots();
        if full || index >= MAX_TASKS {
            return;
        }
        // Nothing is placed yet, so the job is as far as it was.
        job.add_slots(1, at);
        job.homes.insert(machine, index);
        if let Some(task) = slot(job, index) {
            task.pinned = Some(machine);
        }
        let task = TaskId { job: id, index };
        self.state.live_slots += 1;
        self.state.pending.insert(task);
        self.charge_one(id);
        let change = TaskChange::Renewed;
        self.emit(EventKind::TaskChanged { task, change, machine: None });
    }

    /// Brings a slot of a daemon back. It missed the updates since it was last there.
    fn bring_back(&mut self, id: TaskId) {
        let newest = self.state.job(id.job).map_or(0, |job| job.head().number);
        self.change_version(id, newest);
        self.come_back(id);
    }

    /// Brings a dead slot back, to be placed anew; an exclusive one when its last incarnation is surely over.
    pub(super) fn come_back(&mut self, id: TaskId) {
        let waits = self.state.job(id.job).is_some_and(|job| !job.waits_for.is_empty());
        let exclusive = self.state.job(id.job).is_some_and(|job| job.spec.exclusive);
        let lingers = exclusive && self.state.task(id).is_some_and(may_run_on);
        let not_before = if waits || self.state.is_stopped(id) { NEVER } else { Millis(0) };
        let to = TaskState::Pending { since: self.at, not_before };
        self.change_task(id, to, TaskChange::Renewed, |task| {
            task.lingers = lingers;
            task.failures = 0;
            task.streak = 0;
            task.crashes.clear();
        });
    }
}

/// Whether the last incarnation of a dead task may still run: the cell ended it, and no machine said so.
pub(super) fn may_run_on(task: &Task) -> bool {
    let TaskState::Dead { end, .. } = &task.state else { return false };
    let told = match end {
        TaskEnd::Finished => true,
        TaskEnd::Failed { cause } => {
            !matches!(cause, FailureCause::Timeout { .. } | FailureCause::Deadline { .. })
        }
        TaskEnd::Killed { .. }
        | TaskEnd::DependencyFailed { .. }
        | TaskEnd::ParentEnded { .. }
        | TaskEnd::Withdrawn => false,
    };
    task.incarnations > 0 && !told
}

/// A slot for changing.
pub(super) fn slot(job: &mut Job, index: u32) -> Option<&mut Task> {
    job.tasks.get_mut(usize::try_from(index).ok()?).map(Arc::make_mut)
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, daemon, info, user, with_task};
    use crate::state::{JobState, Task};
    use borg_proto::command::{Action, Observation};
    use borg_proto::resources::Dimension;
    use borg_proto::spec::{Constraint, ConstraintOp};
    use borg_proto::update::{Revision, Steer, UpdateOptions};
    use borg_proto::{Band, FailureCause, IndexSet, JobId, JobSpec, MachineId, TaskId};
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    fn exporter() -> JobSpec {
        daemon("exporter", 100, 4 * MIB)
    }

    fn on_arch(arch: &str) -> JobSpec {
        let arch = Constraint {
            attribute: "arch".into(),
            op: ConstraintOp::Equal,
            values: vec![arch.into()],
            soft: false,
        };
        with_task(exporter(), |task| task.constraints = vec![arch])
    }

    fn on_amd() -> JobSpec {
        on_arch("amd64")
    }

    /// The machines of the live slots, by index.
    fn homes(cell: &Cell, job: JobId) -> Vec<Option<u32>> {
        let home = |task: &Task| task.pinned.filter(|_| !task.is_dead()).map(|id| id.0);
        cell.state.tasks_of(job).map(|(_, task)| home(task)).collect()
    }

    fn remove(cell: &mut Cell, name: &str) {
        let machine = name.parse().unwrap();
        cell.apply(user("admin"), Action::RemoveMachine { machine }).unwrap();
    }

    #[test]
    fn a_daemon_has_a_task_on_each_machine_and_on_those_that_come() {
        let mut cell = Cell::at_level(6);
        let machines = ["a", "b"].map(|name| cell.machine(name, 1000, 64 * MIB));
        let job = cell.submit("ann", exporter());
        assert_eq!(homes(&cell, job), [Some(0), Some(1)]);
        let third = cell.machine("c", 1000, 64 * MIB);
        assert_eq!(homes(&cell, job), [Some(0), Some(1), Some(2)]);
        let used = cell.state.used_quota(&"ann".parse().unwrap(), exporter().priority.band());
        assert_eq!(used.get(&Dimension::Cpu), 300);
        let elsewhere = cell.place(job, 2, machines[0]).unwrap_err();
        assert_eq!(elsewhere.to_string(), "task 1.2 belongs on machine c, not on a");
        cell.place(job, 2, third).unwrap();
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Running);
    }

    /// As those that were there before: going back to the version before has to be paid for.
    #[test]
    fn a_task_that_comes_while_an_update_can_be_undone_is_charged_in_both_bands() {
        let mut cell = Cell::at_level(6);
        cell.machine("a", 1000, 64 * MIB);
        let job = cell.submit("admin", exporter());
        let other = JobSpec { priority: Band::Monitoring.default_priority(), ..exporter() };
        let (to, options) = (Revision::Spec(Arc::new(other)), Box::default());
        let key = "admin/exporter".parse().unwrap();
        cell.apply(user("admin"), Action::UpdateJob { job: key, to, options }).unwrap();
        cell.machine("b", 1000, 64 * MIB);
        assert_eq!(homes(&cell, job), [Some(0), Some(1)]);
        for band in [exporter().priority.band(), Band::Monitoring] {
            let used = cell.state.used_quota(&"admin".parse().unwrap(), band);
            assert_eq!(used.get(&Dimension::Cpu), 200, "{band:?}");
        }
    }

    #[test]
    fn an_index_stays_its_machines_and_goes_to_another_when_that_is_removed() {
        let mut cell = Cell::at_level(6);
        let machines = ["a", "b", "c"].map(|name| cell.machine(name, 1000, 64 * MIB));
        let job = cell.submit("ann", exporter());
        let id = cell.place(job, 1, machines[1]).unwrap();
        cell.observe(Observation::MachineDown { machine: machines[1] });
        assert_eq!(homes(&cell, job), [Some(0), None, Some(2)]);
        let other = cell.machine("d", 1000, 64 * MIB);
        assert_eq!(homes(&cell, job), [Some(0), None, Some(2), Some(other.0)]);
        cell.observe(Observation::MachineUp {
            machine: machines[1],
            info: info(1000, 64 * MIB, &[]),
        });
        assert_eq!(homes(&cell, job), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(cell.place(job, 1, machines[1]).unwrap().number, id.number + 1);
        remove(&mut cell, "a");
        assert_eq!(homes(&cell, job), [None, Some(1), Some(2), Some(3)]);
        cell.machine("e", 1000, 64 * MIB);
        assert_eq!(homes(&cell, job), [Some(4), Some(1), Some(2), Some(3)]);
        let tasks = cell.state.job(job).unwrap();
        assert_eq!((tasks.slots(), tasks.size()), (4, 4));
    }

    #[test]
    fn only_machines_that_meet_the_constraints_have_a_task_and_lose_it_when_they_do_no_more() {
        let mut cell = Cell::at_level(6);
        let amd = cell.machine_with("amd", info(1000, 64 * MIB, &[("arch", "amd64")]));
        cell.machine_with("arm", info(1000, 64 * MIB, &[("arch", "arm64")]));
        let job = cell.submit("ann", on_amd());
        assert_eq!(homes(&cell, job), [Some(amd.0)]);
        cell.place(job, 0, amd).unwrap();
        let info = info(1000, 64 * MIB, &[("arch", "riscv")]);
        cell.observe(Observation::MachineUp { machine: amd, info });
        assert_eq!(homes(&cell, job), [None]);
        assert!(cell.state.machine(amd).unwrap().tasks.is_empty());
        assert!(cell.state.job(job).unwrap().is_alive(), "a daemon without machines goes on");
    }

    #[test]
    fn machines_kept_for_others_and_closed_ones_get_none() {
        let mut cell = Cell::at_level(6);
        let machines = ["a", "b"].map(|name| cell.machine(name, 1000, 64 * MIB));
        let named = |name: &str| vec![name.parse().unwrap()];
        let close = Action::CloseMachines { machines: named("b"), reason: "disk".into() };
        cell.apply(user("admin"), close).unwrap();
        let job = cell.submit("ann", exporter());
        assert_eq!(homes(&cell, job), [Some(0)]);
        let keep = |users: &[&str]| Action::KeepMachines {
            machines: named("a"),
            users: users.iter().map(|name| name.parse().unwrap()).collect(),
        };
        cell.place(job, 0, machines[0]).unwrap();
        cell.apply(user("admin"), keep(&["bob"])).unwrap();
        assert_eq!(homes(&cell, job), [None]);
        cell.apply(user("admin"), keep(&[])).unwrap();
        cell.apply(user("admin"), Action::OpenMachines { machines: named("b") }).unwrap();
        assert_eq!(homes(&cell, job), [Some(0), Some(1)]);
        cell.place(job, 1, machines[1]).unwrap();
        let close = Action::CloseMachines { machines: named("b"), reason: "disk".into() };
        cell.apply(user("admin"), close).unwrap();
        assert_eq!(homes(&cell, job), [Some(0), Some(1)], "what runs stays");
    }

    #[test]
    fn a_daemon_is_killed_as_a_whole_and_a_task_of_it_stays_killed() {
        let mut cell = Cell::at_level(6);
        let machines = ["a", "b"].map(|name| cell.machine(name, 1000, 64 * MIB));
        let job = cell.submit("ann", exporter());
        assert_eq!(cell.kill("ann", "ann/exporter", &[0, 1]).unwrap(), 2);
        assert!(cell.state.job(job).unwrap().is_alive());
        let info = info(2000, 64 * MIB, &[]);
        cell.observe(Observation::MachineUp { machine: machines[0], info });
        assert_eq!(homes(&cell, job), [None, None], "as long as its machine is there");
        cell.machine("c", 1000, 64 * MIB);
        assert_eq!(cell.kill("ann", "ann/exporter", &[]).unwrap(), 1);
        let found = cell.state.job(job).unwrap();
        assert_eq!(
            (found.state(), found.note(&cell.state)),
            (JobState::Killed, "killed by ann".into())
        );
        cell.machine("d", 1000, 64 * MIB);
        assert_eq!(cell.state.job(job).unwrap().slots(), 3);
        let empty = cell.submit("ann", on_amd());
        assert_eq!(
            cell.kill("ann", "ann/exporter", &[0]).unwrap_err().to_string(),
            "job ann/exporter has no tasks of its own"
        );
        assert_eq!(cell.kill("ann", "ann/exporter", &[]).unwrap(), 0);
        assert_eq!(cell.state.job(empty).unwrap().state(), JobState::Killed);
    }

    #[test]
    fn a_daemon_that_ends_is_started_again_like_a_service() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("a", 1000, 64 * MIB);
        let job = cell.submit("ann", exporter());
        for failure in [None, Some(FailureCause::Exit { code: 1 })] {
            cell.wait(10_000);
            let id = cell.place(job, 0, machine).unwrap();
            cell.ended(id, failure);
            assert_eq!(homes(&cell, job), [Some(machine.0)]);
        }
        assert_eq!(cell.state.task(TaskId { job, index: 0 }).unwrap().failures, 2);
    }

    fn update(cell: &mut Cell, spec: JobSpec) -> Result<(), String> {
        let job = format!("ann/{}", spec.name).parse().unwrap();
        let (to, options) = (Revision::Spec(Arc::new(spec)), Box::new(UpdateOptions::default()));
        let done = cell.apply(user("ann"), Action::UpdateJob { job, to, options });
        done.map(|_| ()).map_err(|refused| refused.to_string())
    }

    /// Starts whatever waits, and lets time pass, until an update has had its time.
    fn settle(cell: &mut Cell, job: JobId) {
        for _ in 0..20 {
            cell.wait(60_000);
            cell.advance();
            let homes = homes(cell, job).into_iter().zip(0..);
            let homes = homes.filter_map(|(home, index)| Some((MachineId(home?), index)));
            for (home, index) in homes.collect::<Vec<_>>() {
                let task = TaskId { job, index };
                let runs = cell.state.task(task).and_then(|found| found.running(task));
                if let Some(id) = runs.or_else(|| cell.place(job, index, home).ok()) {
                    cell.up(id);
                }
            }
        }
    }

    #[test]
    fn an_update_of_a_daemon_keeps_its_slots_and_leaves_machines_that_will_not_do_any_more() {
        let mut cell = Cell::at_level(6);
        let amd = cell.machine_with("amd", info(1000, 64 * MIB, &[("arch", "amd64")]));
        let arm = cell.machine_with("arm", info(1000, 64 * MIB, &[("arch", "arm64")]));
        let job = cell.submit("ann", exporter());
        for (index, machine) in [(0, amd), (1, arm)] {
            let id = cell.place(job, index, machine).unwrap();
            cell.up(id);
        }
        let more = with_task(exporter(), |task| task.limit.ram_bytes = 8 * MIB);
        update(&mut cell, more).unwrap();
        assert_eq!(homes(&cell, job), [Some(amd.0), Some(arm.0)]);
        settle(&mut cell, job);
        update(&mut cell, on_amd()).unwrap();
        settle(&mut cell, job);
        assert_eq!(homes(&cell, job), [Some(amd.0), None]);
        let scaled = JobSpec { tasks: 3, ..exporter() };
        assert!(update(&mut cell, scaled).unwrap_err().contains("says nothing of a daemon"));
    }

    /// Two machines, of which one is no amd64.
    fn two_kinds(cell: &mut Cell) -> [MachineId; 2] {
        ["amd64", "arm64"]
            .map(|arch| cell.machine_with(arch, info(1000, 64 * MIB, &[("arch", arch)])))
    }

    fn update_with(cell: &mut Cell, spec: JobSpec, close: bool) {
        let job = format!("ann/{}", spec.name).parse().unwrap();
        let options = Box::new(UpdateOptions { close, ..UpdateOptions::default() });
        let to = Revision::Spec(Arc::new(spec));
        cell.apply(user("ann"), Action::UpdateJob { job, to, options }).unwrap();
    }

    fn undo(cell: &mut Cell, job: &str) {
        let (job, verb) = (job.parse().unwrap(), Steer::Undo);
        cell.apply(user("ann"), Action::SteerUpdate { job, verb }).unwrap();
    }

    /// Slots that wait get the new version in the entry that closes the update.
    #[test]
    fn an_update_that_closes_at_once_leaves_machines_that_will_not_do_any_more() {
        let mut cell = Cell::at_level(6);
        let [amd, _] = two_kinds(&mut cell);
        let job = cell.submit("ann", exporter());
        update_with(&mut cell, on_amd(), true);
        assert_eq!(cell.state.job(job).unwrap().update(), None);
        assert_eq!(homes(&cell, job), [Some(amd.0), None]);
    }

    #[test]
    fn an_update_that_is_undone_leaves_the_machines_that_it_brought() {
        let mut cell = Cell::at_level(6);
        let [amd, arm] = two_kinds(&mut cell);
        let job = cell.submit("ann", on_amd());
        update_with(&mut cell, exporter(), false);
        assert_eq!(homes(&cell, job), [Some(amd.0), Some(arm.0)]);
        undo(&mut cell, "ann/exporter");
        assert_eq!(homes(&cell, job), [Some(amd.0), None]);
    }

    /// A slot that is not there is of the newest version when it comes back, so that says where.
    #[test]
    fn a_machine_that_comes_back_is_judged_by_the_newest_version() {
        let mut cell = Cell::at_level(6);
        let [amd, arm] = two_kinds(&mut cell);
        let job = cell.submit("ann", exporter());
        cell.observe(Observation::MachineDown { machine: arm });
        update_with(&mut cell, on_amd(), true);
        let back = info(1000, 64 * MIB, &[("arch", "arm64")]);
        cell.observe(Observation::MachineUp { machine: arm, info: back });
        assert_eq!(homes(&cell, job), [Some(amd.0), None]);
        update_with(&mut cell, exporter(), false);
        assert_eq!(homes(&cell, job), [Some(amd.0), Some(arm.0)], "a wider one brings it back");
        undo(&mut cell, "ann/exporter");
        assert_eq!(homes(&cell, job), [Some(amd.0), None]);
    }

    fn enforce_quota(cell: &mut Cell, on: bool) {
        let bands = vec![exporter().priority.band()];
        cell.apply(user("admin"), Action::EnforceQuota { bands, on }).unwrap();
    }

    #[test]
    fn an_update_to_more_machines_asks_for_quota_like_a_new_job() {
        let mut cell = Cell::at_level(6);
        let [amd, arm] = two_kinds(&mut cell);
        let job = cell.submit("ann", on_amd());
        enforce_quota(&mut cell, true);
        let labelled = |mut spec: JobSpec| {
            spec.labels.insert("a".into(), "b".into());
            spec
        };
        update(&mut cell, labelled(on_amd())).unwrap();
        settle(&mut cell, job);
        let refused = update(&mut cell, exporter()).unwrap_err();
        assert!(refused.contains("quota"), "{refused}");
        assert_eq!(homes(&cell, job), [Some(amd.0)]);
        enforce_quota(&mut cell, false);
        update(&mut cell, exporter()).unwrap();
        assert_eq!(homes(&cell, job), [Some(amd.0), Some(arm.0)]);
    }

    /// Of two kinds of machines an update goes from one to the other.
    #[test]
    fn a_daemon_moves_from_some_machines_to_others() {
        let mut cell = Cell::at_level(6);
        let [amd, arm] = two_kinds(&mut cell);
        let job = cell.submit("ann", on_amd());
        let id = cell.place(job, 0, amd).unwrap();
        cell.up(id);
        update_with(&mut cell, on_arch("arm64"), true);
        settle(&mut cell, job);
        assert_eq!(homes(&cell, job), [None, Some(arm.0)]);
        assert_eq!(cell.state.job(job).unwrap().update(), None);
    }

    fn order(cell: &mut Cell, stop: bool, index: u32) {
        let job = "ann/exporter".parse().unwrap();
        let tasks = IndexSet::new([index]).ok();
        let action =
            if stop { Action::StopTasks { job, tasks } } else { Action::StartTasks { job, tasks } };
        cell.apply(user("ann"), action).unwrap();
    }

    /// Whether a slot may be placed.
    fn may_start(cell: &Cell, job: JobId, index: u32, machine: MachineId) -> bool {
        cell.clone().place(job, index, machine).is_ok()
    }

    #[test]
    fn a_task_that_was_stopped_is_held_back_when_its_machine_comes_back() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("a", 1000, 64 * MIB);
        let job = cell.submit("ann", exporter());
        let down = |cell: &mut Cell| cell.observe(Observation::MachineDown { machine });
        let back = |cell: &mut Cell| {
            cell.observe(Observation::MachineUp { machine, info: info(1000, 64 * MIB, &[]) })
        };
        order(&mut cell, true, 0);
        down(&mut cell);
        back(&mut cell);
        assert!(!may_start(&cell, job, 0, machine));
        order(&mut cell, false, 0);
        assert!(may_start(&cell, job, 0, machine));
        down(&mut cell);
        order(&mut cell, true, 0);
        back(&mut cell);
        assert!(!may_start(&cell, job, 0, machine), "stopped while it was away");
        down(&mut cell);
        order(&mut cell, false, 0);
        assert_eq!(homes(&cell, job), [None], "a start brings no machine back");
        back(&mut cell);
        assert!(may_start(&cell, job, 0, machine), "started while it was away");
        order(&mut cell, true, 0);
        remove(&mut cell, "a");
        let other = cell.machine("b", 1000, 64 * MIB);
        assert!(may_start(&cell, job, 0, other), "another machine's was never stopped");
    }

    /// Slots come while it waits for another job, and are let go together.
    #[test]
    fn a_waiting_daemon_has_slots_that_wait() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("a", 1000, 64 * MIB);
        let first = cell.submit("ann", crate::fixture::batch("first", 1, 100, 4 * MIB));
        let spec = JobSpec { after: vec!["ann/first".parse().unwrap()], ..exporter() };
        let job = cell.submit("ann", spec);
        cell.machine("b", 1000, 64 * MIB);
        assert_eq!(homes(&cell, job), [Some(0), Some(1)]);
        assert!(cell.place(job, 0, machine).is_err());
        let id = cell.place(first, 0, machine).unwrap();
        cell.ended(id, None);
        cell.place(job, 0, MachineId(0)).unwrap();
    }
}
