//! Decisions of schedulers, checked again in full when their entry is applied.
//!
//! A scheduler decided on a copy of the state that may be old by now; the order of the log says
//! who wins. Each assignment of an entry stands or falls by itself, those of a gang together (`gang`).
//! Room is what limits leave, and what the entry says is lent (`reclamation`).
//!
//! Invariant: after any assignment the limits of prod on every machine are within its capacity, and no more tasks than
//! it can be told of in one message, and each of its ports is handed out once.

use super::turn::Turn;
use super::{
    Answer, Job, MAX_TARGET_BYTES, MAX_TASKS_ON_A_MACHINE, Machine, MachineState, Task, Version,
};
use crate::event::TaskChange;
use crate::rejection::{DrainRejection, KindRejection, Rejection};
use borg_proto::command::Assignment;
use borg_proto::resources::Dimension;
use borg_proto::task::{DeviceShare, EvictCause, Phase, Placement, TaskState};
use borg_proto::{Health, IncarnationId, Millis, Resources, TaskId};
use borg_proto::{JobKind, Network};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

impl Turn<'_> {
    /// Places tasks, each by itself, those of a gang at the place of the first of them.
    pub(super) fn place(&mut self, assignments: &[Assignment]) -> Answer {
        let mut gangs = self.gangs(assignments);
        let mut together = BTreeMap::new();
        let mut result = |(at, one): (usize, &Assignment)| {
            if let Some(all) = gangs.remove(&one.task.job) {
                let placed = self.place_gang(all.iter().map(|at| &assignments[*at]));
                together.extend(all.into_iter().zip(placed));
            }
            together.remove(&at).unwrap_or_else(|| {
                // One of a gang that was to move, and was pushed out since.
                if self.is_gang(one) && !self.state.leaves(one.task) {
                    return Err(Rejection::NotPending { task: one.task });
                }
                self.place_one(one)
            })
        };
        Answer::Placed { results: assignments.iter().enumerate().map(&mut result).collect() }
    }

    /// Places a task that waits, or moves one that leaves a machine which is drained.
    pub(super) fn place_one(&mut self, asked: &Assignment) -> Result<IncarnationId, Rejection> {
        let awaits = self.state.awaits_successor(asked.task);
        if let Some(version) = awaits.filter(|_| asked.victims.is_empty()) {
            return self.prepare(asked, version);
        }
        if self.state.leaves(asked.task) {
            return self.move_one(asked);
        }
        self.place_waiting(asked)
    }

    pub(super) fn place_waiting(&mut self, asked: &Assignment) -> Result<IncarnationId, Rejection> {
        let plan = self.plan(asked)?;
        let by =
            self.state.job(asked.task.job).map(|job| format!("{}/{}", job.key, asked.task.index));
        let cause = EvictCause::Preempted { by: by.unwrap_or_default() };
        for victim in &plan.victims {
            if self.state.is_successor(*victim) {
                self.fail_successor(victim.task, &cause.to_string(), false);
            } else {
                self.push_out(victim.task, &cause);
            }
        }
        let placement = self.occupy(asked, plan);
        let (machine, incarnation) = (placement.machine, placement.incarnation);
        let change = TaskChange::Placed { machine, incarnation };
        self.change_task(asked.task, TaskState::Running(placement), change, |task| {
            task.incarnations = incarnation;
            task.last_place = Some((machine, incarnation));
        });
        Ok(IncarnationId { task: asked.task, number: incarnation })
    }

    /// A placement that begins now, as it was planned.
    pub(super) fn occupy(&mut self, asked: &Assignment, plan: Plan) -> Placement {
        let Plan { ports, devices, incarnation, own, .. } = plan;
        if let Some(last) = ports.last().filter(|_| !own) {
            self.machine_mut(asked.machine).next_port = last.wrapping_add(1);
        }
        Placement {
            machine: asked.machine,
            incarnation,
            placed_at: self.at,
            ports,
            devices,
            phase: Phase::Starting,
            restarts: 0,
            health: Health::Unchecked,
            address: None,
            serves_since: None,
        }
    }

    /// Everything that must hold; changes nothing.
    pub(super) fn plan(&self, asked: &Assignment) -> Result<Plan, Rejection> {
        let (job, task) = self.may_plan(asked.task)?;
        check_task(job, task, asked.task, self.at)?;
        let Some(machine) = self.state.machine(asked.machine) else {
            return Err(Rejection::MachineGone { machine: asked.machine });
        };
        self.check_home(job, asked.task, machine)?;
        self.state.admits(job, machine)?;
        let version = job.version_of(asked.task.index);
        check_machine(job, version, machine, None)?;
        self.state.check_alloc(job, asked.task.index, machine)?;
        self.plan_room((job, task), version, machine, asked)
    }

    /// Everything that must hold for a successor as that version; changes nothing.
    pub(super) fn plan_successor(
        &self,
        asked: &Assignment,
        version: u32,
    ) -> Result<Plan, Rejection> {
        let (job, task) = self.may_plan(asked.task)?;
        let Some(machine) = self.state.machine(asked.machine) else {
            return Err(Rejection::MachineGone { machine: asked.machine });
        };
        let (Some(placed), Some(version)) = (task.placement(), job.version(version)) else {
            return Err(Rejection::TaskGone { task: asked.task });
        };
        if placed.machine == machine.id {
            let machine = machine.name.clone();
            return Err(DrainRejection::SameMachine { task: asked.task, machine }.into());
        }
        self.state.admits(job, machine)?;
        // Where it leaves it is not counted: it is to be counted once in the end.
        check_machine(job, version, machine, self.state.machine(placed.machine))?;
        self.plan_room((job, task), version, machine, asked)
    }

    fn may_plan(&self, id: TaskId) -> Result<(&Job, &Task), Rejection> {
        let (until, now) = (self.state.place_after(), self.at);
        if now < until {
            return Err(Rejection::HearingOut { until, now });
        }
        let found = self.state.job(id.job).zip(self.state.task(id));
        found.ok_or(Rejection::TaskGone { task: id })
    }

    /// What a task that may be placed on a machine gets there, and at whose expense.
    fn plan_room(
        &self,
        (job, task): (&Job, &Task),
        version: &Version,
        machine: &Machine,
        asked: &Assignment,
    ) -> Result<Plan, Rejection> {
        let overdue = task.is_overdue(self.at);
        let victims = self.make_room(job, version, machine, asked, overdue)?;
        let freed = victims.iter().filter_map(|id| self.state.placed_as(*id));
        let freed: BTreeSet<u16> =
            freed.flat_map(|(placement, _)| placement.machine_ports().iter().copied()).collect();
        let wanted = version.spec.task.ports.len();
        let ports = match version.spec.task.network {
            Network::Host => pick_ports(machine, &freed, wanted),
            Network::Own => version.spec.task.own_ports(),
        };
        if ports.len() < wanted {
            let asked = version.spec.asked();
            return Err(no_room(machine, Dimension::Ports, &machine.free(), &asked));
        }
        let Some(incarnation) = self.state.next_incarnation(job, task) else {
            return Err(Rejection::NotPending { task: asked.task });
        };
        let devices = self.devices_for(version, machine, &victims)?;
        let own = version.spec.task.network.is_own();
        Ok(Plan { victims, ports, devices, incarnation, own })
    }

    /// A daemon's slot is placed on its own machine, a run that saves data where that is.
    fn check_home(&self, job: &Job, task: TaskId, machine: &Machine) -> Result<(), Rejection> {
        let pinned = job.spec.kind == JobKind::Daemon || job.rescues().is_some();
        let home = job.home(task.index).filter(|_| pinned);
        let Some(home) = home.filter(|home| *home != machine.id) else { return Ok(()) };
        let Some(home) = self.state.machine(home).map(|home| home.name.clone()) else {
            return Err(Rejection::MachineGone { machine: home });
        };
        Err(KindRejection::Pinned { task, home, machine: machine.name.clone() }.into())
    }

    /// The devices that a task of the version gets once the victims are gone.
    fn devices_for(
        &self,
        version: &Version,
        machine: &Machine,
        victims: &[IncarnationId],
    ) -> Result<Vec<DeviceShare>, Rejection> {
        let asked = version.spec.asked();
        if asked.devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut taken = machine.devices.clone();
        for (victim, _) in victims.iter().filter_map(|id| self.state.placed_as(*id)) {
            taken.take(&victim.devices, false);
        }
        let none = Resources::default();
        let capacity = machine.info.as_ref().map_or(&none, |info| &info.capacity);
        taken.pick(capacity, &asked).ok_or_else(|| {
            let name = asked.devices.keys().next().cloned().unwrap_or_default();
            no_room(machine, Dimension::Device(name), &machine.free(), &asked)
        })
    }

    /// As many of the victims, in their order, as the job's task needs to fit. Those that are not
    /// on the machine any more have made their room already. Beyond the disruption budgets of their jobs they
    /// go only for a task that is `overdue`.
    fn make_room(
        &self,
        job: &Job,
        version: &Version,
        machine: &Machine,
        decided: &Assignment,
        overdue: bool,
    ) -> Result<Vec<IncarnationId>, Rejection> {
        let asked = version.spec.asked();
        let mut left = Cow::Borrowed(machine);
        let room = |left: &Machine| self.state.room_on(left, version.is_prod(), decided.lent);
        let mut there = Told::of(machine);
        let mut chosen = Vec::new();
        for victim in &decided.victims {
            if asked.fits_in(&room(&left))
                && there.check(version, machine).is_ok()
                && self.devices_for(version, machine, &chosen).is_ok()
            {
                break;
            }
            let there_as = self.state.placed_as(*victim).filter(|(p, _)| p.machine == machine.id);
            let (Some(theirs), Some((_, their_version))) =
                (self.state.job(victim.task.job), there_as)
            else {
                continue;
            };
            if !job.priority().may_preempt(theirs.priority()) {
                return Err(Rejection::MayNotPreempt {
                    priority: job.priority(),
                    victim: *victim,
                    victims: theirs.priority(),
                });
            }
            if !chosen.contains(victim) {
                left.to_mut().gives_back(their_version);
                there.leaves(their_version);
                chosen.push(*victim);
            }
        }
        if !overdue {
            // Nobody is served by successors.
            let tasks = chosen.iter().filter(|id| !self.state.is_successor(**id));
            let going = tasks.flat_map(|id| self.state.goes_with(id.task));
            self.state
                .may_disrupt_all(going, self.at)
                .map_err(|(task, blocked)| DrainRejection::Budget { task, blocked })?;
        }
        let free = room(&left);
        match asked.shortest(&free) {
            None => there.check(version, machine).map(|()| chosen),
            Some(short) => Err(no_room(machine, short, &free, &asked)),
        }
    }
}

/// What a machine is told to run already.
pub(super) struct Told {
    tasks: usize,
    bytes: u64,
}

impl Told {
    pub(super) fn of(machine: &Machine) -> Self {
        Self { tasks: machine.told(), bytes: machine.target_bytes }
    }

    /// A task of the version goes.
    pub(super) fn leaves(&mut self, version: &Version) {
        self.tasks -= 1;
        self.bytes -= version.target_bytes;
    }

    /// Whether it can be told of a task of the version too.
    pub(super) fn check(&self, version: &Version, machine: &Machine) -> Result<(), Rejection> {
        let (name, there) =
            (|| machine.name.clone(), u32::try_from(self.tasks).unwrap_or(u32::MAX));
        if there >= MAX_TASKS_ON_A_MACHINE {
            return Err(Rejection::TooManyTasks {
                machine: name(),
                there,
                most: MAX_TASKS_ON_A_MACHINE,
            });
        }
        let (there, asked) = (self.bytes, version.target_bytes);
        if there + asked > MAX_TARGET_BYTES {
            let (machine, most) = (name(), MAX_TARGET_BYTES);
            return Err(Rejection::TargetFull { machine, there, asked, most });
        }
        Ok(())
    }
}

/// What an assignment comes to when nothing stands against it.
pub(super) struct Plan {
    victims: Vec<IncarnationId>,
    ports: Vec<u16>,
    devices: Vec<DeviceShare>,
    incarnation: u32,
    /// Whether the ports are of a network of its own.
    own: bool,
}

fn check_task(job: &Job, task: &Task, id: TaskId, now: Millis) -> Result<(), Rejection> {
    let TaskState::Pending { not_before, .. } = task.state else {
        return Err(Rejection::NotPending { task: id });
    };
    if !job.waits_for.is_empty() {
        return Err(Rejection::Waiting { task: id });
    }
    if let Some((machine, _)) = task.lingering(id) {
        return Err(Rejection::Lingers { task: id, machine });
    }
    if not_before > now {
        return Err(Rejection::TooEarly { task: id, not_before, now });
    }
    let there = job.counts.running;
    match job.spec.concurrent.filter(|most| there >= *most) {
        Some(most) => Err(Rejection::AtCap { there, most }),
        None => Ok(()),
    }
}

/// Whether a machine takes a task of a version, whatever room it has. A task that leaves a machine is not counted
/// there.
fn check_machine(
    job: &Job,
    version: &Version,
    machine: &Machine,
    leaves: Option<&Machine>,
) -> Result<(), Rejection> {
    let name = || machine.name.clone();
    let Some(info) = machine.info.as_ref().filter(|_| machine.state == MachineState::Up) else {
        return Err(Rejection::MachineNotUp { machine: name(), state: machine.state });
    };
    let unmet =
        version.spec.task.constraints.iter().find(|c| !c.soft && !c.holds(&info.attributes));
    if let Some(constraint) = unmet {
        return Err(Rejection::Constraint { machine: name(), constraint: constraint.to_string() });
    }
    for (number, spread) in job.spec.task.spread.iter().enumerate() {
        let value = machine.attribute(&spread.attribute);
        let own = leaves.is_some_and(|from| from.attribute(&spread.attribute) == value);
        let there = job.crowd(number, value).saturating_sub(u32::from(own));
        if there >= spread.max {
            let (attribute, value) = (spread.attribute.clone(), value.to_owned());
            return Err(Rejection::Crowded { attribute, value, there, most: spread.max });
        }
    }
    Ok(())
}

/// Ports that are free once `freed` are, beginning where the last search ended: a port that was
/// just given back, or is taken by a stranger, is tried again last.
fn pick_ports(machine: &Machine, freed: &BTreeSet<u16>, wanted: usize) -> Vec<u16> {
    let range = machine.port_range();
    let next = u32::from(machine.next_port);
    let start = if range.contains(&next) { next } else { range.start };
    (start..range.end)
        .chain(range.start..start)
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| !machine.ports.contains(port) || freed.contains(port))
        .take(wanted)
        .collect()
}

fn no_room(machine: &Machine, short: Dimension, free: &Resources, asked: &Resources) -> Rejection {
    let (free, asked) = (free.amount(&short), asked.amount(&short));
    Rejection::NoRoom { machine: machine.name.clone(), short, free, asked }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, PORTS, batch, info, master, service, with_task};
    use borg_proto::command::{Action, Assignment, Observation};
    use borg_proto::spec::{Constraint, ConstraintOp, Spread};
    use borg_proto::task::TaskState;
    use borg_proto::{JobId, JobSpec, MachineId, TaskId};

    const MIB: u64 = 1 << 20;

    fn refused(cell: &mut Cell, job: JobId, index: u32, machine: MachineId) -> String {
        cell.place(job, index, machine).unwrap_err().to_string()
    }

    /// Two schedulers can pick one machine from one copy. The order of the log decides who wins,
    /// and the loser's task stays pending.
    #[test]
    fn the_second_assignment_to_a_full_machine_is_refused() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-3", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 2, 600, 10 * MIB));
        cell.place(job, 0, machine).unwrap();
        assert_eq!(
            refused(&mut cell, job, 1, machine),
            "machine m-3 has 400 m CPU free, task asks 600 m"
        );
        assert_eq!(refused(&mut cell, job, 0, machine), "task 1.0 is not pending");
        assert_eq!(cell.state.pending().count(), 1);
    }

    #[test]
    fn memory_that_is_short_is_told_in_mebibytes() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", batch("count", 1, 600, 65 * MIB));
        assert_eq!(
            refused(&mut cell, job, 0, machine),
            "machine m-1 has 64 MiB memory free, task asks 65 MiB"
        );
    }

    #[test]
    fn a_task_goes_only_to_machines_that_are_up_and_meet_its_constraints() {
        let mut cell = Cell::new();
        let arm = cell.machine_with("arm", info(1000, 64 * MIB, &[("arch", "arm64")]));
        let amd = cell.machine_with("amd", info(1000, 64 * MIB, &[("arch", "amd64")]));
        let arch = Constraint {
            attribute: "arch".into(),
            op: ConstraintOp::Equal,
            values: vec!["amd64".into()],
            soft: false,
        };
        let spec = with_task(batch("count", 1, 100, 4 * MIB), |task| task.constraints = vec![arch]);
        let job = cell.submit("ann", spec);
        assert_eq!(refused(&mut cell, job, 0, arm), "machine arm does not meet: arch = amd64");
        cell.observe(Observation::MachineDown { machine: amd });
        assert_eq!(refused(&mut cell, job, 0, amd), "machine amd is down");
        assert_eq!(
            refused(&mut cell, job, 0, MachineId(9)),
            "machine number 9 is not there any more"
        );
    }

    #[test]
    fn spread_holds_over_placing_moving_racks_and_leaving() {
        let mut cell = Cell::new();
        let rack = |name: &str| info(1000, 64 * MIB, &[("rack", name)]);
        let (a, b) = (cell.machine_with("a", rack("r1")), cell.machine_with("b", rack("r1")));
        let spread = vec![Spread { attribute: "rack".into(), max: 1 }];
        let job = cell
            .submit("ann", with_task(service("web", 2, 100, 4 * MIB), |task| task.spread = spread));
        let first = cell.place(job, 0, a).unwrap();
        assert_eq!(
            refused(&mut cell, job, 1, b),
            "1 tasks of the job are on rack \"r1\" already, most is 1"
        );
        cell.observe(Observation::MachineUp { machine: a, info: rack("r2") });
        cell.place(job, 1, b).unwrap();
        cell.ended(first, None);
        assert_eq!(cell.state.job(job).unwrap().crowd(0, "r2"), 0);
    }

    #[test]
    fn only_as_many_victims_go_as_are_needed_and_none_of_equal_rank() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let low = cell.submit("ann", batch("low", 2, 500, 4 * MIB));
        let victims =
            vec![cell.place(low, 0, machine).unwrap(), cell.place(low, 1, machine).unwrap()];
        let high = cell.submit("bob", service("high", 1, 400, 4 * MIB));
        cell.place_over(high, 0, machine, victims.clone()).unwrap();
        let evicted: Vec<bool> = (0..2)
            .map(|i| cell.state.job(low).unwrap().task(i).unwrap().last_evict.is_some())
            .collect();
        assert_eq!(evicted, [true, false]);
        assert_eq!(
            cell.state.job(low).unwrap().task(0).unwrap().last_evict.as_ref().unwrap().to_string(),
            "preempted by bob/high/0"
        );

        let equal = cell.submit("cid", batch("equal", 1, 500, 4 * MIB));
        let error = cell.place_over(equal, 0, machine, vec![victims[1]]).unwrap_err();
        assert_eq!(error.to_string(), "priority 100 may not preempt 1.1.1 of priority 100");
    }

    /// Enough in all is not enough: of three devices with 1.2 free together none is idle.
    #[test]
    fn a_victim_goes_for_a_whole_device_although_parts_of_several_are_free() {
        let mut cell = Cell::new();
        let mut gpus = info(1000, 64 * MIB, &[]);
        gpus.capacity.devices = [("gpu".into(), 3_000)].into();
        let machine = cell.machine_with("m-1", gpus);
        let gpu = |spec, amount| {
            with_task(spec, |task| task.limit.devices = [("gpu".into(), amount)].into())
        };
        let parts = [("a", 300), ("b", 750), ("c", 750)].map(|(name, amount)| {
            let job = cell.submit("ann", gpu(batch(name, 1, 100, 4 * MIB), amount));
            cell.place(job, 0, machine).unwrap()
        });
        let whole = cell.submit("bob", gpu(service("whole", 1, 100, 4 * MIB), 1_000));
        assert_eq!(
            refused(&mut cell, whole, 0, machine),
            "machine m-1 has 1200/1000 of device gpu free, task asks 1000/1000"
        );
        cell.place_over(whole, 0, machine, parts.to_vec()).unwrap();
        let left = parts.map(|id| cell.state.task(id.task).unwrap().running(id.task).is_some());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn ports_are_handed_out_in_turn_and_never_twice() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 100_000, 1 << 30);
        let spec = with_task(service("web", 101, 1, 4 * MIB), |task| {
            task.ports = vec!["http".parse().unwrap()]
        });
        let job = cell.submit("ann", spec);
        let port = |cell: &Cell, index| {
            cell.state.job(job).unwrap().task(index).unwrap().placement().unwrap().ports[0]
        };
        let first = cell.place(job, 0, machine).unwrap();
        assert_eq!(port(&cell, 0), PORTS.0);
        cell.ended(first, None);
        for index in 1..=100 {
            cell.place(job, index, machine).unwrap();
        }
        assert_eq!((port(&cell, 1), port(&cell, 100)), (PORTS.0 + 1, PORTS.0));
        cell.wait(1000);
        assert_eq!(
            refused(&mut cell, job, 0, machine),
            "machine m-1 has 0 ports free, task asks 1"
        );
    }

    /// More would not go into the message that tells a machine what to run: it would count as
    /// silent, and its tasks would do the same to the next.
    #[test]
    fn a_machine_holds_no_more_than_one_message_can_name() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 100_000, 1 << 30);
        let wordy = with_task(batch("wordy", 20, 1, 4 * MIB), |task| {
            let text = "x".repeat(60 << 10);
            task.env = (0..16).map(|n| (format!("TEXT_{n}"), text.clone())).collect();
        });
        let job = cell.submit("ann", wordy);
        let each = cell.state.job(job).unwrap().head().target_bytes;
        assert!(each > 960 << 10 && each < 1 << 20, "{each}");
        for index in 0..16 {
            cell.place(job, index, machine).unwrap();
        }
        let full = format!(
            "machine m-1 is told {} bytes of tasks, this one is {each} more, most is 16777216",
            16 * each
        );
        assert_eq!(refused(&mut cell, job, 16, machine), full);

        let victim =
            cell.state.task(TaskId { job, index: 0 }).unwrap().running(TaskId { job, index: 0 });
        let high = cell.submit(
            "bob",
            with_task(service("high", 1, 1, 4 * MIB), |task| {
                task.env = [("TEXT".to_owned(), "x".repeat(60 << 10))].into();
            }),
        );
        cell.place_over(high, 0, machine, vec![victim.unwrap()]).unwrap();
        assert_eq!(
            cell.state.job(job).unwrap().counts.running,
            16,
            "there was room for a short one"
        );
    }

    #[test]
    fn a_machine_holds_no_more_tasks_than_one_message_can_name() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 100_000, 1 << 40);
        let job = cell.submit("ann", batch("many", 1_001, 1, 4 * MIB));
        let place = |index| Assignment::new(TaskId { job, index }, machine);
        let assignments = (0..1_000).map(place).collect();
        cell.apply(master(), Action::Place { assignments }).unwrap();
        assert_eq!(
            refused(&mut cell, job, 1_000, machine),
            "machine m-1 has 1000 tasks, most is 1000"
        );
    }

    #[test]
    fn no_more_tasks_of_a_job_are_placed_than_it_lets_run_at_once() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job =
            cell.submit("ann", JobSpec { concurrent: Some(2), ..batch("count", 4, 100, 4 * MIB) });
        let first = cell.place(job, 0, machine).unwrap();
        cell.place(job, 3, machine).unwrap();
        assert_eq!(
            refused(&mut cell, job, 1, machine),
            "2 tasks of the job are placed, and it lets 2 run at once"
        );
        cell.ended(first, None);
        cell.place(job, 1, machine).unwrap();
        assert_eq!(
            refused(&mut cell, job, 2, machine),
            "2 tasks of the job are placed, and it lets 2 run at once"
        );
    }

    #[test]
    fn a_task_that_backs_off_is_not_placed_too_early() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let id = cell.place(job, 0, machine).unwrap();
        cell.ended(id, None);
        assert_eq!(
            refused(&mut cell, job, 0, machine),
            "task 1.0 is not placed before 1001000 ms, now is 1000000 ms"
        );
        cell.wait(1000);
        assert_eq!(cell.place(job, 0, machine).unwrap().number, 2);
        assert!(matches!(cell.state.task(id.task).unwrap().state, TaskState::Running(_)));
    }
}
