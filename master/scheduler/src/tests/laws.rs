//! Laws: whatever happens to a cell, these hold for every decision.
//!
//! A random cell (few machines, or more than a block of them; jobs that contend) is driven by random
//! commands through the real state machine.

use super::fixture::{Cell, EVERYTHING, allocs, info, job, with, within};
use super::reference;
use crate::{Config, Scheduler, Weights};
use borg_cell::state::{Job, Staying};
use borg_proto::Network;
use borg_proto::command::{Action, AllocSize, Assignment, Observation, SERVICES_SINCE};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::policy::Policy;
use borg_proto::reclamation::Number;
use borg_proto::resources::TASK_ADDRESS;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::update::{Replacement, Revision, UpdateOptions};
use borg_proto::{
    FailureCause, IndexSet, JobId, JobKey, JobKind, JobSpec, MachineId, MachineInfo, Millis,
    Priority, Privilege, TaskId,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A time in which the largest gang here has rested, whatever changed.
const RESTED: Millis = Millis(3_000);
/// The label of gangs.
const GANG: &str = "gang";

#[derive(Debug, Clone)]
pub(super) enum Op {
    Submit { user: usize, spec: JobSpec },
    Allocs { spec: JobSpec },
    Inside { pick: prop::sample::Index, spec: JobSpec },
    Resize { pick: prop::sample::Index, more: u32, cpu_milli: Option<u64> },
    Pass { max: usize },
    End { pick: prop::sample::Index, fails: bool },
    Kill { pick: prop::sample::Index },
    Down { pick: prop::sample::Index },
    Up { pick: prop::sample::Index, info: MachineInfo },
    Remove { pick: prop::sample::Index },
    Wait { ms: u64 },
    Keep { pick: prop::sample::Index, users: usize },
    Close { pick: prop::sample::Index, closed: bool },
    Policy { named: Policy },
    Lend { pick: prop::sample::Index, quarters: u32 },
    Most { percent: u32 },
    Serve { pick: prop::sample::Index },
    TakeOver,
    Drain { pick: prop::sample::Index, drained: bool },
    Update { pick: prop::sample::Index, cpu_milli: u64, last: u32 },
    Scale { pick: prop::sample::Index, tasks: u32 },
}

pub(super) fn a_machine() -> impl Strategy<Value = MachineInfo> {
    let rack = prop_oneof![1 => Just(None), 5 => (0u32..3).prop_map(Some)];
    (prop::sample::select(vec![1000u64, 2000, 3000, 4000]), 1u64..9, rack, 0u64..4, 0u64..3)
        .prop_map(|(cpu, ram, rack, gpus, addresses)| {
            let mut info = info(cpu, ram, rack, gpus);
            if addresses > 0 {
                info.capacity.devices.insert(TASK_ADDRESS.into(), addresses * 1000);
            }
            info
        })
}

pub(super) fn a_job() -> impl Strategy<Value = JobSpec> {
    let priority = prop::sample::select(vec![50u64, 100, 110, 120, 200, 360]);
    let shape = (1u32..6, priority, 1u64..9, 1u64..5);
    (shape, 0u8..12, 1u32..3, 0usize..3, 0usize..14, 0u8..8).prop_map(
        |((tasks, priority, cpu, ram), kind, max, ports, gpu, together)| {
            let concurrent = (together == 0).then_some(max);
            let gang = (1..=2).contains(&together);
            let budget = |most, rate| Some(Disruption { most, rate });
            let disruption = match together {
                5 => budget(Share::Tasks(0), None),
                6 => budget(Share::Tasks(1), None),
                7 => budget(Share::Percent(60), Some(Rate { tasks: max, per_ms: Millis(4_000) })),
                _ => None,
            };
            // So that it is known of a twin too, which is none.
            let labels = gang.then(|| (GANG.to_owned(), String::new())).into_iter().collect();
            let bare = job(tasks, priority, cpu * 250, ram);
            let spec = JobSpec { concurrent, gang, labels, disruption, ..bare };
            // Of these the tasks have successors.
            let serves = matches!(together, 5 | 6);
            let (kind_of, retries) = if serves { (JobKind::Service, 0) } else { (spec.kind, 3) };
            let spec = JobSpec { kind: kind_of, retries, ..spec };
            with(spec, |task| {
                let constraint = |attribute: &str, op, value: &str, soft| Constraint {
                    attribute: attribute.into(),
                    op,
                    values: vec![value.into()],
                    soft,
                };
                match kind {
                    0 => task.constraints.push(constraint("arch", ConstraintOp::Equal, "a", false)),
                    1 => task.constraints.push(constraint(
                        "rack",
                        ConstraintOp::NotEqual,
                        "r0",
                        false,
                    )),
                    2 | 3 => {
                        task.constraints.push(constraint("rack", ConstraintOp::Equal, "r1", true))
                    }
                    4 => task.spread.push(Spread { attribute: "machine".into(), max }),
                    5 => task.spread.push(Spread { attribute: "rack".into(), max }),
                    6 => task.spread.extend(
                        ["rack", "machine", "arch"].map(|a| Spread { attribute: a.into(), max }),
                    ),
                    7 => task.network = Network::Own,
                    _ => {}
                }
                task.ports = (0..ports).map(|p| format!("p{p}").parse().unwrap()).collect();
                if let Some(amount) = [300, 500, 700, 1000, 2000, 500].get(gpu) {
                    let name = if gpu == 5 { "tpu" } else { "gpu" };
                    task.limit.devices = BTreeMap::from([(name.into(), *amount)]);
                }
            })
        },
    )
}

/// The job as a daemon, with nothing that is not for one to say.
fn as_daemon(mut spec: JobSpec) -> JobSpec {
    (spec.kind, spec.tasks, spec.gang, spec.concurrent) = (JobKind::Daemon, 1, false, None);
    with(spec, |task| task.spread.clear())
}

/// The policies, and ones that nobody would choose: a job that is drawn to itself.
pub(super) fn some_weights() -> impl Strategy<Value = Weights> {
    let drawn = Weights {
        machine_crowd: -300,
        rack_crowd: -50,
        power_crowd: 90,
        mix: -70,
        ..Weights::hybrid()
    };
    prop::sample::select(vec![
        Weights::hybrid(),
        Weights::hybrid(),
        Weights::best_fit(),
        Weights::worst_fit(),
        Weights::first_fit(),
        drawn,
    ])
}

pub(super) fn an_op() -> impl Strategy<Value = Op> {
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0usize..3, a_job()).prop_map(|(user, spec)| Op::Submit { user, spec }),
        1 => (0usize..3, a_job()).prop_map(|(user, spec)| Op::Submit { user, spec: as_daemon(spec) }),
        1 => a_job().prop_map(|spec| Op::Allocs { spec: allocs(spec) }),
        3 => (pick(), a_job()).prop_map(|(pick, spec)| Op::Inside { pick, spec }),
        1 => (pick(), 0u32..2, proptest::option::of(100u64..2_000))
            .prop_map(|(pick, more, cpu_milli)| Op::Resize { pick, more, cpu_milli }),
        8 => prop_oneof![Just(1usize), 2usize..5, Just(EVERYTHING)].prop_map(|max| Op::Pass { max }),
        5 => (pick(), any::<bool>()).prop_map(|(pick, fails)| Op::End { pick, fails }),
        1 => pick().prop_map(|pick| Op::Kill { pick }),
        1 => pick().prop_map(|pick| Op::Down { pick }),
        2 => (pick(), a_machine()).prop_map(|(pick, info)| Op::Up { pick, info }),
        1 => pick().prop_map(|pick| Op::Remove { pick }),
        2 => prop_oneof![4 => 0u64..5_000, 1 => 20_000u64..70_000].prop_map(|ms| Op::Wait { ms }),
        6 => pick().prop_map(|pick| Op::Serve { pick }),
        2 => Just(Op::TakeOver),
        2 => (pick(), any::<bool>()).prop_map(|(pick, drained)| Op::Drain { pick, drained }),
        2 => (pick(), 0usize..4).prop_map(|(pick, users)| Op::Keep { pick, users }),
        2 => (pick(), any::<bool>()).prop_map(|(pick, closed)| Op::Close { pick, closed }),
        1 => prop::sample::select(&Policy::ALL[..]).prop_map(|named| Op::Policy { named }),
        3 => (pick(), 1u64..9, 0u32..6)
            .prop_map(|(pick, cpu, last)| Op::Update { pick, cpu_milli: cpu * 250, last }),
        1 => (pick(), 1u32..6).prop_map(|(pick, tasks)| Op::Scale { pick, tasks }),
    ]
}

fn an_alloc_set<'a>(cell: &'a Cell, pick: &prop::sample::Index) -> Option<&'a Job> {
    let sets: Vec<&Job> =
        cell.state.jobs().filter(|job| job.is_alive() && job.is_alloc_set()).collect();
    (!sets.is_empty()).then(|| *pick.get(&sets))
}

/// A live job that an update may change as it likes: no alloc set, no gang.
fn updatable<'a>(cell: &'a Cell, pick: &prop::sample::Index) -> Option<&'a Job> {
    let jobs: Vec<&Job> = cell
        .state
        .jobs()
        .filter(|job| job.is_alive() && !job.is_alloc_set())
        .filter(|job| !job.spec.labels.contains_key(GANG))
        .collect();
    (!jobs.is_empty()).then(|| *pick.get(&jobs))
}

/// Does what an operation other than a pass says.
pub(super) fn carry_out(cell: &mut Cell, op: &Op) {
    let machine = |cell: &Cell, pick: &prop::sample::Index| {
        let all: Vec<MachineId> = cell.state.machines().map(|m| m.id).collect();
        (!all.is_empty()).then(|| *pick.get(&all))
    };
    match op {
        Op::Submit { user, spec } => {
            cell.submit(["ann", "bob", "eve"][*user], spec.clone());
        }
        Op::Allocs { spec } => {
            cell.submit("ann", spec.clone());
        }
        Op::Inside { pick, spec } => {
            let Some(set) = an_alloc_set(cell, pick) else { return };
            let (key, priority) = (set.key.clone(), set.priority().min(spec.priority));
            let mut spec = within(JobSpec { priority, ..spec.clone() }, &key);
            // Half the size of the alloc or less, so that several fit.
            let most = set.spec.task.limit.cpu_milli / 2;
            let limit = &mut Arc::make_mut(&mut spec.task).limit;
            limit.cpu_milli = limit.cpu_milli.min(most);
            limit.ram_bytes /= 2;
            cell.submit("ann", spec);
        }
        Op::Resize { pick, more, cpu_milli } => {
            let Some(set) = an_alloc_set(cell, pick) else { return };
            let size = AllocSize { cpu_milli: *cpu_milli, ..AllocSize::default() };
            let (alloc_set, allocs) = (set.key.clone(), Some(set.spec.tasks + more));
            cell.user("ann", Action::ResizeAllocs { alloc_set, allocs, size });
        }
        Op::Pass { .. } => {}
        Op::End { pick, fails } => {
            let running = cell.running();
            if running.is_empty() {
                return;
            }
            let id = *pick.get(&running);
            // No crash: the reference knows of no machines that a task keeps away from.
            let fails = *fails || cell.spec(id.task).kind == JobKind::Service;
            let failure = fails.then_some(FailureCause::PortTaken { port: 20_000 });
            cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run: None });
        }
        Op::Kill { pick } => {
            let alive: Vec<JobKey> =
                cell.state.jobs().filter(|j| j.is_alive()).map(|j| j.key.clone()).collect();
            if alive.is_empty() {
                return;
            }
            cell.user("admin", Action::Kill { job: pick.get(&alive).clone(), tasks: Vec::new() });
        }
        Op::Down { pick } => {
            if let Some(machine) = machine(cell, pick) {
                cell.observe(Observation::MachineDown { machine });
            }
        }
        Op::Up { pick, info } => {
            if let Some(machine) = machine(cell, pick) {
                cell.observe(Observation::MachineUp { machine, info: info.clone() });
            }
        }
        Op::Remove { pick } => {
            if let Some(id) = machine(cell, pick) {
                let machine = cell.state.machine(id).unwrap().name.clone();
                cell.user("admin", Action::RemoveMachine { machine });
            }
        }
        Op::Keep { pick, users } => {
            let Some(id) = machine(cell, pick) else { return };
            let machines = vec![cell.state.machine(id).unwrap().name.clone()];
            // Of three one is named nowhere.
            let users = ["ann", "bob"].iter().enumerate().filter(|(n, _)| users >> n & 1 == 1);
            let users = users.map(|(_, name)| name.parse().unwrap()).collect();
            cell.user("admin", Action::KeepMachines { machines, users });
        }
        Op::Close { pick, closed } => {
            let Some(id) = machine(cell, pick) else { return };
            let machines = vec![cell.state.machine(id).unwrap().name.clone()];
            let reason = "a reason".to_owned();
            let close = Action::CloseMachines { machines: machines.clone(), reason };
            cell.user("admin", if *closed { close } else { Action::OpenMachines { machines } });
        }
        Op::Serve { pick } => {
            let mut running = cell.running();
            running.extend(cell.successors());
            if !running.is_empty() {
                let (id, since) = (*pick.get(&running), cell.now);
                cell.observe(Observation::TaskUp { id, pid: 1, since, restarts: 0, run: None });
            }
        }
        Op::TakeOver if !cell.successors().is_empty() => {
            cell.now = cell.now + Millis(10_000);
            cell.master(Action::Advance);
        }
        Op::TakeOver => {}
        Op::Drain { pick, drained } => {
            let Some(id) = machine(cell, pick) else { return };
            let machines = vec![cell.state.machine(id).unwrap().name.clone()];
            let left = cell.state.machines().filter(|m| {
                let open = m.closed.is_none() && m.drain.is_none() && m.id != id;
                open && m.state == borg_cell::state::MachineState::Up
            });
            let leaves = u32::try_from(left.count()).ok();
            let (reason, within) = ("a reason".to_owned(), Millis(1 << 40));
            let (undrain, at_once) = (Action::UndrainMachines { machines: machines.clone() }, None);
            let drain = Action::DrainMachines { machines, reason, within, at_once, leaves };
            cell.user("admin", if *drained { drain } else { undrain });
        }
        Op::Policy { named } => {
            let weights = BTreeMap::new();
            cell.user("admin", Action::SetPolicy { policy: Some(*named), weights });
        }
        Op::Update { pick, cpu_milli, last } => {
            let Some(job) = updatable(cell, pick) else { return };
            let spec = with(job.spec.as_ref().clone(), |task| task.limit.cpu_milli = *cpu_milli);
            let tasks = IndexSet::of_ranges(vec![(0, (*last).min(spec.tasks - 1))]).ok();
            let (job, to) = (job.key.clone(), Revision::Spec(Arc::new(spec)));
            let replacement =
                if *last % 2 == 0 { Replacement::First } else { Replacement::ForMoves };
            let bare = UpdateOptions::default();
            let options = Box::new(UpdateOptions { tasks, close: true, replacement, ..bare });
            cell.user("admin", Action::UpdateJob { job, to, options });
        }
        Op::Scale { pick, tasks } => {
            let Some(job) = updatable(cell, pick) else { return };
            let (job, to) = (job.key.clone(), Revision::Tasks(*tasks));
            let options = Box::new(UpdateOptions { close: true, ..UpdateOptions::default() });
            cell.user("admin", Action::UpdateJob { job, to, options });
        }
        Op::Lend { pick, quarters } => {
            let running = cell.running();
            if !running.is_empty() {
                cell.lend(*pick.get(&running), quarters * 25);
            }
        }
        Op::Most { percent } => {
            let numbers = [(Number::Most, *percent)].into();
            cell.user("admin", Action::SetReclamation { named: None, numbers });
        }
        Op::Wait { ms } => cell.now = cell.now + Millis(*ms),
    }
}

/// Without those about tasks that leave machines, which come after the others.
fn without_moves(cell: &Cell, decisions: &[Assignment]) -> Vec<Assignment> {
    let waits = |d: &&Assignment| !cell.moves(d.task);
    let waiting: Vec<Assignment> = decisions.iter().filter(waits).cloned().collect();
    assert_eq!(waiting[..], decisions[..waiting.len()], "who waits comes first");
    waiting
}

fn check_pass_alternates_users(cell: &Cell, decisions: &[Assignment]) {
    let mut waiting: BTreeMap<(Priority, String), usize> = BTreeMap::new();
    let user = |task: TaskId| cell.state.job(task.job).unwrap().key.user.to_string();
    // A gang is one turn.
    let mut decisions = decisions.to_vec();
    decisions.dedup_by_key(|d| {
        if cell.spec(d.task).gang { (d.task.job, 0) } else { (d.task.job, d.task.index + 1) }
    });
    let decisions = &decisions[..];
    for decision in decisions {
        *waiting.entry((cell.priority(decision.task), user(decision.task))).or_default() += 1;
    }
    let mut served: BTreeMap<(Priority, String), usize> = BTreeMap::new();
    for pair in decisions.windows(2) {
        assert!(cell.priority(pair[0].task) >= cell.priority(pair[1].task), "priority goes down");
    }
    for decision in decisions {
        let priority = cell.priority(decision.task);
        *served.entry((priority, user(decision.task))).or_default() += 1;
        let mine = served[&(priority, user(decision.task))];
        for ((p, other), all) in &waiting {
            let theirs = served.get(&(*p, other.clone())).copied().unwrap_or(0);
            assert!(
                *p != priority || theirs + 1 >= mine || theirs == *all,
                "{other} waits while others have two turns"
            );
        }
    }
}

/// Whether as many tasks of a job are placed as may be at once.
pub(super) fn is_at_cap(cell: &Cell, task: TaskId) -> bool {
    let job = cell.state.job(task.job).unwrap();
    job.spec.concurrent.is_some_and(|cap| job.counts.running >= cap)
}

/// Whether there is but one machine for a task, whatever others there are.
pub(super) fn has_no_choice(cell: &Cell, task: TaskId) -> bool {
    let spec = cell.spec(task);
    spec.alloc_set.is_some() || spec.kind == JobKind::Daemon
}

/// The decisions, those of a gang together; whoever of it leaves a machine goes alone.
fn together<'a>(cell: &Cell, decisions: &'a [Assignment]) -> Vec<&'a [Assignment]> {
    let gang = |d: &Assignment| cell.spec(d.task).gang && !cell.state.leaves(d.task);
    decisions.chunk_by(|one, two| gang(one) && gang(two) && one.task.job == two.task.job).collect()
}

/// A copy of a cell in which no job is a gang, so that its tasks can be placed one by one.
struct Twin(Cell);

impl Twin {
    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Submit { user, spec } => {
                let spec = JobSpec { gang: false, ..spec.clone() };
                carry_out(&mut self.0, &Op::Submit { user: *user, spec });
            }
            Op::Allocs { spec } => {
                let spec = JobSpec { gang: false, ..spec.clone() };
                carry_out(&mut self.0, &Op::Allocs { spec });
            }
            other => carry_out(&mut self.0, other),
        }
        self.0.news.clear();
    }

    /// Whether it is still a copy: what is refused of a gang may be fine of its twin.
    fn is_faithful(&self, cell: &Cell) -> bool {
        let of = |cell: &Cell| -> Vec<_> {
            let jobs = cell.state.jobs().map(|job| job.id);
            let tasks = jobs.flat_map(|job| cell.state.tasks_of(job));
            tasks.map(|(id, task)| (id, task.clone(), cell.spec(id).task.clone())).collect()
        };
        of(&self.0) == of(cell)
    }

    /// Whether all that waits of a job would find a place now.
    fn has_room_for_all(&self, weights: Weights, job: JobId) -> bool {
        let mut cell = self.0.clone();
        let waiting: Vec<TaskId> = cell.state.pending().filter(|task| task.job == job).collect();
        waiting.into_iter().all(|task| {
            let Some((_, _, machine, victims)) = reference::best(&cell, weights, task) else {
                return false;
            };
            let lent = cell.lent_on(cell.state.machine(machine).unwrap(), &victims);
            cell.place(&[Assignment { task, machine, victims, lent }]);
            true
        })
    }
}

/// Each decision is the exact best by the time that it is applied; of a gang all that wait are
/// decided, and together.
fn check_and_place(cell: &mut Cell, twin: &mut Twin, weights: Weights, decisions: &[Assignment]) {
    let gangs = together(cell, decisions);
    // Whoever moves comes last, and cannot push out whom the same pass placed.
    let after_others = decisions.first().is_some_and(|first| !cell.moves(first.task));
    for gang in gangs {
        let job = gang[0].task.job;
        if cell.spec(gang[0].task).gang && !cell.state.leaves(gang[0].task) {
            let waiting: Vec<TaskId> = cell.state.pending().filter(|t| t.job == job).collect();
            let decided: Vec<TaskId> = gang.iter().map(|d| d.task).collect();
            assert_eq!(decided, waiting, "a gang is decided whole");
        }
        for decision in gang {
            let (_, _, machine, victims) = reference::best(&twin.0, weights, decision.task)
                .expect("the reference finds one too");
            let free_choice = !(after_others && cell.moves(decision.task));
            let (found, chosen) = ((machine, &victims), (decision.machine, &decision.victims));
            assert!(!free_choice || found == chosen, "exact best: {found:?}, not {chosen:?}");
            for victim in &decision.victims {
                assert!(cell.priority(decision.task).may_preempt(cell.priority(victim.task)));
            }
            twin.0.place(std::slice::from_ref(decision));
        }
        cell.place(gang);
    }
    twin.0.news.clear();
}

/// Nothing that could go somewhere is left waiting, `victims` of the last pass aside.
fn check_nothing_waits(cell: &Cell, twin: &Twin, weights: Weights, victims: &BTreeSet<TaskId>) {
    let ready = cell.ready();
    for task in ready.iter().filter(|t| !victims.contains(t) && !is_at_cap(cell, **t)) {
        if !cell.spec(*task).gang {
            assert_eq!(
                reference::within_budgets(cell, weights, *task),
                None,
                "nothing that fits is left waiting"
            );
            continue;
        }
        let mut others = cell.state.pending().filter(|other| other.job == task.job);
        let whole = others.all(|other| ready.contains(&other) && !victims.contains(&other));
        assert!(
            !whole || !twin.has_room_for_all(weights, task.job),
            "no gang that fits is left waiting"
        );
    }
}

/// No task that may leave a machine and has another place is left there, nor waits for room for its successor that
/// is there.
fn check_nobody_stays(cell: &Cell, weights: Weights) {
    for job in cell.state.jobs().filter(|job| cell.state.may_still_prepare(job) > 0) {
        for index in job.update().into_iter().flat_map(|update| update.awaiting()) {
            let task = TaskId { job: job.id, index };
            let may = cell.state.is_replaced_first(task, cell.now);
            if may && cell.state.awaits_successor(task).is_some() {
                assert_eq!(reference::with_room(cell, weights, task), None, "{task} waits");
            }
        }
    }
    for machine in cell.state.draining() {
        for task in cell.state.leaving(machine) {
            let awaits = cell.state.awaits_successor(task).is_some();
            if awaits || cell.state.stays_for(task, cell.now) != Staying::Place {
                continue;
            }
            let down = cell.state.stays_down_for(task, cell.now) == Staying::Place;
            let found = if down {
                reference::within_budgets(cell, weights, task)
            } else {
                // It is not taken down, and its successor pushes nobody out.
                reference::with_room(cell, weights, task)
            };
            assert_eq!(found, None, "{task} stays");
        }
    }
}

/// Index and queue say what the committed state says, as if built anew.
fn check_fold(cell: &Cell, scheduler: &Scheduler) {
    let mut anew = Scheduler::new(&cell.state, Config::default());
    anew.lend(&cell.lent.iter().map(|(id, lent)| (*id, *lent)).collect::<Vec<_>>());
    assert_eq!(scheduler.contents(), anew.contents());
    let most = cell.state.reclaims().numbers.most_percent;
    for machine in cell.state.machines() {
        let lent = cell.lent_on(machine, &[]);
        let free = [true, false].map(|prod| machine.room(prod, lent, most));
        let free =
            free.map(|free| [free.cpu_milli, free.ram_bytes, free.disk_bytes, free.ports.into()]);
        assert_eq!(scheduler.contents().rooms[&machine.id], free);
    }
}

fn some_machines() -> impl Strategy<Value = Vec<MachineInfo>> {
    let (few, many) = (1..6, 66..72);
    prop_oneof![
        4 => prop::collection::vec(a_machine(), few),
        1 => prop::collection::vec(a_machine(), many),
    ]
}

fn a_lending_op() -> impl Strategy<Value = Op> {
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        8 => (pick(), 0u32..5).prop_map(|(pick, quarters)| Op::Lend { pick, quarters }),
        1 => prop::sample::select(vec![100, 150, 400]).prop_map(|percent| Op::Most { percent }),
        24 => an_op().prop_map(|op| match op {
            Op::End { pick, .. } => Op::End { pick, fails: false },
            other => other,
        }),
    ]
}

/// Random commands, and after each pass all laws: with and without caches.
fn drive(machines: Vec<MachineInfo>, weights: Weights, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut cell = Cell::new();
    for info in machines {
        cell.add_machine(info);
    }
    let config = Config { weights, ..Config::default() };
    cell.master(Action::RaiseLevel { level: SERVICES_SINCE });
    for user in ["ann", "bob", "eve"] {
        let (user, privilege) = (user.parse().unwrap(), Privilege::Monitoring);
        cell.user("admin", Action::GrantPrivilege { user, privilege });
    }
    let mut twin = Twin(cell.clone());
    let mut cached = Scheduler::new(&cell.state, config);
    let mut plain = Scheduler::new(&cell.state, Config { caches: false, ..config });
    cell.news.clear();
    for op in ops {
        carry_out(&mut cell, op);
        twin.carry_out(op);
        let weights = cell.state.policy().map_or(weights, |policy| policy.weights);
        let news = std::mem::take(&mut cell.news);
        plain.follow(cell.state.clone(), &news);
        cached.follow(cell.state.clone(), &news);
        let news = std::mem::take(&mut cell.lent_news);
        plain.lend(&news);
        cached.lend(&news);
        let Op::Pass { max } = op else { continue };
        prop_assume!(twin.is_faithful(&cell));
        // Whoever leaves a machine is looked at again by then.
        cell.now = cell.now + Millis(100);
        twin.0.now = cell.now;
        let decisions = cached.pass(cell.now, *max);
        prop_assert_eq!(&decisions, &plain.pass(cell.now, *max), "caches change nothing");
        // The last gang may go beyond.
        let waiting = without_moves(&cell, &decisions);
        let before_the_last =
            together(&cell, &waiting).iter().rev().skip(1).map(|d| d.len()).sum::<usize>();
        prop_assert!(before_the_last < (*max).max(1));
        prop_assert!(cached.pass(cell.now, 0).is_empty());
        prop_assert!(plain.pass(cell.now, 0).is_empty());
        check_pass_alternates_users(&cell, &waiting);
        let moves = decisions[waiting.len()..].to_vec();
        check_and_place(&mut cell, &mut twin, weights, &decisions);
        if *max == EVERYTHING {
            let victims = decisions.iter().flat_map(|d| &d.victims).map(|v| v.task);
            // Gangs that did not fit a moment ago rest, and who is in an alloc is looked at once what
            // makes room for it is committed; below they are tried again.
            let later = |task: &TaskId| cell.spec(*task).gang || has_no_choice(&cell, *task);
            let later = cell.state.pending().filter(later);
            // Whom moves pushed out may have left more room than those take.
            if moves.iter().all(|decision| decision.victims.is_empty()) {
                let later = later.chain(victims);
                // What was placed may serve at once, so that budgets have more left than the pass knew.
                let with_victims = |task: &TaskId| {
                    let found = reference::within_budgets(&cell, weights, *task);
                    !decisions.is_empty() && found.is_some_and(|(loss, ..)| loss.is_some())
                };
                let later = later.chain(cell.ready().into_iter().filter(with_victims));
                check_nothing_waits(&cell, &twin, weights, &later.collect());
            }
            // Who was placed by the same pass cannot be pushed out yet, and what moved serves again.
            if decisions.is_empty() {
                check_nobody_stays(&cell, weights);
            }
        }
        let news = std::mem::take(&mut cell.news);
        plain.follow(cell.state.clone(), &news);
        cached.follow(cell.state.clone(), &news);
        check_fold(&cell, &cached);
        let machines = u32::try_from(cell.state.machines().count()).unwrap();
        for task in cell.state.pending().collect::<Vec<_>>() {
            let why = cached.explain(task, cell.now);
            let counted: u32 = why.rejections.iter().map(|r| r.machines).sum();
            if has_no_choice(&cell, task) {
                prop_assert_eq!(why.feasible > 0, reference::best(&cell, weights, task).is_some());
                continue;
            }
            prop_assert_eq!(why.machines, machines);
            prop_assert!(why.rejections.iter().all(|r| r.machines <= machines - why.feasible));
            prop_assert!(counted >= machines - why.feasible, "each rejected machine has a reason");
            prop_assert_eq!(why.feasible > 0, reference::best(&cell, weights, task).is_some());
        }
    }
    let weights = cell.state.policy().map_or(weights, |policy| policy.weights);
    prop_assume!(twin.is_faithful(&cell));
    // What is explained as feasible is what the next pass places, when gangs have rested.
    cell.now = cell.now + RESTED;
    let places = |task: &TaskId| {
        let why = cached.explain(*task, cell.now);
        let fits = !cell.spec(*task).gang || why.summary.starts_with("waits for its turn");
        why.feasible > 0 && fits && !is_at_cap(&cell, *task)
    };
    let overdue =
        cell.state.pending().any(|task| cell.state.task(task).unwrap().is_overdue(cell.now));
    let top = cell.ready().into_iter().filter(places).map(|t| cell.priority(t)).max();
    let next = cached.clone().pass(cell.now, 1);
    let next = without_moves(&cell, &next);
    // Who is overdue is tried again now and then, and why knows rates as of the last pass.
    let has_rate = |job: &Job| job.spec.effective_disruption().is_some_and(|b| b.rate.is_some());
    let rated = cell.state.jobs().any(|job| job.is_alive() && has_rate(job));
    prop_assert!(overdue || rated || next.first().map(|d| cell.priority(d.task)) == top);
    // Neither do gangs that fit wait then; why tells those that do not fit.
    loop {
        cell.now = cell.now + RESTED;
        twin.0.now = cell.now;
        let decisions = cached.pass(cell.now, EVERYTHING);
        prop_assert_eq!(&decisions, &plain.pass(cell.now, EVERYTHING), "caches change nothing");
        check_and_place(&mut cell, &mut twin, weights, &decisions);
        let news = std::mem::take(&mut cell.news);
        plain.follow(cell.state.clone(), &news);
        cached.follow(cell.state.clone(), &news);
        if decisions.is_empty() {
            break;
        }
    }
    check_nothing_waits(&cell, &twin, weights, &BTreeSet::new());
    check_fold(&cell, &cached);
    for task in
        cell.ready().into_iter().filter(|task| cell.spec(*task).gang && cell.spec(*task).tasks > 1)
    {
        let why = cached.explain(task, cell.now).summary;
        prop_assert!(why.contains("gang"), "{}", why);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Few machines and more than a block of them; the same passes with and without caches.
    #[test]
    fn every_decision_is_accepted_exact_in_order_and_explained(
        machines in some_machines(),
        weights in some_weights(),
        ops in prop::collection::vec(an_op(), 1..40),
    ) {
        drive(machines, weights, &ops)?;
    }

    /// The same in a cell that lends, whatever the leader believes. Nothing fails in it, as the reference
    /// knows nothing of machines that tasks keep away from.
    #[test]
    fn decisions_on_lent_room_are_accepted_exact_in_order_and_explained(
        machines in some_machines(),
        weights in some_weights(),
        ops in prop::collection::vec(a_lending_op(), 1..60),
    ) {
        drive(machines, weights, &ops)?;
    }

    /// Decisions of several passes before any is committed: room is promised once, tasks are
    /// proposed once, and refusals give both back.
    #[test]
    fn what_is_decided_but_not_committed_is_not_decided_again(
        machines in prop::collection::vec(a_machine(), 1..6),
        jobs in prop::collection::vec(a_job(), 1..8),
        chunk in 1usize..4,
    ) {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        cell.news.clear();
        for (n, spec) in jobs.into_iter().enumerate() {
            cell.submit(["ann", "bob"][n % 2], spec);
        }
        cell.tell(&mut scheduler);
        let mut all = Vec::new();
        loop {
            let some = scheduler.pass(cell.now, chunk);
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        let tasks: BTreeSet<TaskId> = all.iter().map(|d| d.task).collect();
        prop_assert_eq!(tasks.len(), all.len(), "each task is proposed once");
        for decision in &all {
            scheduler.refused(decision.task);
        }
        check_fold(&cell, &scheduler);
        cell.place(&all);
        cell.tell(&mut scheduler);
        check_fold(&cell, &scheduler);
    }

    /// `fit` says a number; a job of that many tasks is placed whole, and one more is not.
    #[test]
    fn as_many_fit_as_are_then_placed(machines in prop::collection::vec(a_machine(), 1..5), spec in a_job()) {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        cell.news.clear();
        let spec = JobSpec { tasks: 50, gang: false, concurrent: None, ..spec };
        let fit = scheduler.fit(&spec, 50);
        prop_assert_eq!(fit.stopped_by.is_empty(), fit.tasks == 50);
        cell.submit("ann", spec);
        cell.tell(&mut scheduler);
        prop_assert_eq!(scheduler.pass(cell.now, EVERYTHING).len(), fit.tasks as usize);
    }
}
