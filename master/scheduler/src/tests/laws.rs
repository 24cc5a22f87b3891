//! Laws: whatever happens to a cell, these hold for every decision.
//!
//! A random cell (few machines, or more than a block of them; jobs that contend) is driven by random
//! commands through the real state machine.

use super::fixture::{Cell, EVERYTHING, info, job, with};
use super::reference;
use crate::{Config, Scheduler, Weights};
use borg_proto::command::{Action, Assignment, Observation};
use borg_proto::policy::Policy;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::{FailureCause, JobKey, JobSpec, MachineId, MachineInfo, Millis, Priority, TaskId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub(super) enum Op {
    Submit { user: usize, spec: JobSpec },
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
}

pub(super) fn a_machine() -> impl Strategy<Value = MachineInfo> {
    let rack = prop_oneof![1 => Just(None), 5 => (0u32..3).prop_map(Some)];
    (prop::sample::select(vec![1000u64, 2000, 3000, 4000]), 1u64..9, rack, 0u64..4)
        .prop_map(|(cpu, ram, rack, gpus)| info(cpu, ram, rack, gpus))
}

pub(super) fn a_job() -> impl Strategy<Value = JobSpec> {
    let priority = prop::sample::select(vec![50u64, 100, 110, 120, 200, 360]);
    let shape = (1u32..6, priority, 1u64..9, 1u64..5);
    (shape, 0u8..12, 1u32..3, 0usize..3, 0usize..14).prop_map(
        |((tasks, priority, cpu, ram), kind, max, ports, gpu)| {
            with(job(tasks, priority, cpu * 250, ram), |task| {
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

/// The policies, and ones that nobody would choose: a job that is drawn to itself.
fn some_weights() -> impl Strategy<Value = Weights> {
    let drawn = Weights { machine_crowd: -300, rack_crowd: -50, ..Weights::hybrid() };
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
        8 => prop_oneof![Just(1usize), 2usize..5, Just(EVERYTHING)].prop_map(|max| Op::Pass { max }),
        5 => (pick(), any::<bool>()).prop_map(|(pick, fails)| Op::End { pick, fails }),
        1 => pick().prop_map(|pick| Op::Kill { pick }),
        1 => pick().prop_map(|pick| Op::Down { pick }),
        2 => (pick(), a_machine()).prop_map(|(pick, info)| Op::Up { pick, info }),
        1 => pick().prop_map(|pick| Op::Remove { pick }),
        2 => (0u64..5_000).prop_map(|ms| Op::Wait { ms }),
        2 => (pick(), 0usize..4).prop_map(|(pick, users)| Op::Keep { pick, users }),
        2 => (pick(), any::<bool>()).prop_map(|(pick, closed)| Op::Close { pick, closed }),
        1 => prop::sample::select(&Policy::ALL[..]).prop_map(|named| Op::Policy { named }),
    ]
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
        Op::Pass { .. } => {}
        Op::End { pick, fails } => {
            let running = cell.running();
            if running.is_empty() {
                return;
            }
            let id = *pick.get(&running);
            let failure = fails.then_some(FailureCause::Exit { code: 1 });
            cell.observe(Observation::TaskEnded { id, at: cell.now, failure });
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
        Op::Policy { named } => {
            let weights = BTreeMap::new();
            cell.user("admin", Action::SetPolicy { policy: Some(*named), weights });
        }
        Op::Wait { ms } => cell.now = cell.now + Millis(*ms),
    }
}

fn check_pass_alternates_users(cell: &Cell, decisions: &[Assignment]) {
    let mut waiting: BTreeMap<(Priority, String), usize> = BTreeMap::new();
    let user = |task: TaskId| cell.state.job(task.job).unwrap().key.user.to_string();
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

/// Index and queue say what the committed state says, as if built anew.
fn check_fold(cell: &Cell, scheduler: &Scheduler) {
    let anew = Scheduler::new(&cell.state, Config::default());
    assert_eq!(scheduler.contents(), anew.contents());
    for machine in cell.state.machines() {
        let free = machine.free();
        let room = scheduler.contents().rooms[&machine.id];
        assert_eq!(room, [free.cpu_milli, free.ram_bytes, free.disk_bytes, free.ports.into()]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Few machines and more than a block of them; the same passes with and without caches.
    #[test]
    fn every_decision_is_accepted_exact_in_order_and_explained(
        machines in prop_oneof![4 => prop::collection::vec(a_machine(), 1..6), 1 => prop::collection::vec(a_machine(), 66..72)],
        weights in some_weights(),
        ops in prop::collection::vec(an_op(), 1..40),
    ) {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        let config = Config { weights, ..Config::default() };
        let mut cached = Scheduler::new(&cell.state, config);
        let mut plain = Scheduler::new(&cell.state, Config { caches: false, ..config });
        cell.news.clear();
        for op in &ops {
            carry_out(&mut cell, op);
            let weights = cell.state.policy().map_or(weights, |policy| policy.weights);
            let news = std::mem::take(&mut cell.news);
            plain.follow(cell.state.clone(), &news);
            cached.follow(cell.state.clone(), &news);
            let Op::Pass { max } = op else { continue };
            let decisions = cached.pass(cell.now, *max);
            prop_assert_eq!(&decisions, &plain.pass(cell.now, *max), "caches change nothing");
            prop_assert!(decisions.len() <= *max);
            prop_assert!(cached.pass(cell.now, 0).is_empty());
            check_pass_alternates_users(&cell, &decisions);
            for decision in &decisions {
                let (_, _, machine, victims) = reference::best(&cell, weights, decision.task).expect("the reference finds one too");
                prop_assert_eq!((machine, &victims), (decision.machine, &decision.victims), "exact best");
                for victim in &decision.victims {
                    prop_assert!(cell.priority(decision.task).may_preempt(cell.priority(victim.task)));
                }
                cell.place(std::slice::from_ref(decision));
            }
            if *max == EVERYTHING {
                let victims: BTreeSet<TaskId> = decisions.iter().flat_map(|d| &d.victims).map(|v| v.task).collect();
                for task in cell.ready().into_iter().filter(|t| !victims.contains(t)) {
                    prop_assert_eq!(reference::best(&cell, weights, task), None, "nothing that fits is left waiting");
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
                prop_assert_eq!(why.machines, machines);
                prop_assert!(why.rejections.iter().all(|r| r.machines <= machines - why.feasible));
                prop_assert!(counted >= machines - why.feasible, "each rejected machine has a reason");
                prop_assert_eq!(why.feasible > 0, reference::best(&cell, weights, task).is_some());
            }
        }
        // What is explained as feasible is what the next pass places.
        let ready: Vec<TaskId> = cell.ready();
        let top = ready.iter().filter(|t| cached.explain(**t, cell.now).feasible > 0).map(|t| cell.priority(*t)).max();
        let next = cached.pass(cell.now, 1);
        prop_assert_eq!(next.first().map(|d| cell.priority(d.task)), top);
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
        let spec = JobSpec { tasks: 50, ..spec };
        let fit = scheduler.fit(&spec, 50);
        prop_assert_eq!(fit.stopped_by.is_empty(), fit.tasks == 50);
        cell.submit("ann", spec);
        cell.tell(&mut scheduler);
        prop_assert_eq!(scheduler.pass(cell.now, EVERYTHING).len(), fit.tasks as usize);
    }
}
