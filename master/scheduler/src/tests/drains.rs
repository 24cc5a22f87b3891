//! Machines that are drained, and disruption budgets, one situation at a time.

use super::fixture::{Cell, EVERYTHING, allocs, info, job, within};
use crate::{Config, Scheduler};
use borg_proto::command::{Action, Observation, SERVICES_SINCE};
use borg_proto::disruption::{Disruption, Share};
use borg_proto::update::{Replacement, Revision, UpdateOptions};
use borg_proto::{JobKey, JobKind, JobSpec, MachineId, Millis, TaskId};

fn cell_of(machines: u32, cpu_milli: u64) -> (Cell, Scheduler) {
    let mut cell = Cell::new();
    cell.master(Action::RaiseLevel { level: SERVICES_SINCE });
    for _ in 0..machines {
        cell.add_machine(info(cpu_milli, 16, None, 0));
    }
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.tell(&mut scheduler);
    (cell, scheduler)
}

fn budget(spec: JobSpec, most: u32) -> JobSpec {
    let disruption = Some(Disruption { most: Share::Tasks(most), rate: None });
    JobSpec { disruption, ..spec }
}

/// Places all that finds a place, and lets it serve.
fn settle(cell: &mut Cell, scheduler: &mut Scheduler) -> usize {
    cell.now = cell.now + Millis(100);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    for id in cell.running() {
        let since = cell.now;
        cell.observe(Observation::TaskUp { id, pid: 1, since, restarts: 0, run: None });
    }
    cell.tell(scheduler);
    decisions.len()
}

fn submit(cell: &mut Cell, scheduler: &mut Scheduler, spec: JobSpec) -> JobKey {
    let key = cell.submit("ann", spec);
    cell.tell(scheduler);
    key
}

fn drain(machine: &str) -> Action {
    Action::DrainMachines {
        machines: vec![machine.parse().unwrap()],
        reason: "new kernel".into(),
        within: Millis(600_000),
        at_once: None,
        leaves: None,
    }
}

fn on(cell: &Cell, key: &JobKey, index: u32) -> Option<MachineId> {
    let placed = cell.state.job_named(key)?.task(index)?.placement()?;
    Some(placed.machine)
}

fn task(cell: &Cell, key: &JobKey, index: u32) -> TaskId {
    TaskId { job: cell.state.job_named(key).unwrap().id, index }
}

#[test]
fn who_leaves_a_machine_comes_after_who_waits_and_moves_one_by_one() {
    let (mut cell, mut scheduler) = cell_of(1, 4000);
    let web = submit(&mut cell, &mut scheduler, budget(job(2, 200, 1000, 1), 1));
    settle(&mut cell, &mut scheduler);
    cell.add_machine(info(2000, 16, None, 0));
    cell.user("admin", drain("m0")).unwrap();
    cell.tell(&mut scheduler);
    // Of room for two the one that waits gets the first, however low it is.
    let low = submit(&mut cell, &mut scheduler, job(1, 50, 1000, 1));
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    let order: Vec<TaskId> = decisions.iter().map(|decision| decision.task).collect();
    assert_eq!(order, [task(&cell, &low, 0), task(&cell, &web, 0)]);
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    let why = scheduler.explain(task(&cell, &web, 1), cell.now).summary;
    assert!(
        why.ends_with("which is drained; it stays for now: 1 task of ann/j0 is down, its disruption budget is 1"),
        "{why}"
    );
    // Once the first serves, the other one may push out what is less important.
    settle(&mut cell, &mut scheduler);
    settle(&mut cell, &mut scheduler);
    assert_eq!([0, 1].map(|index| on(&cell, &web, index)), [Some(MachineId(1)); 2]);
    assert_eq!(on(&cell, &low, 0), None);
    assert!(cell.state.machine(MachineId(0)).unwrap().is_drained());
}

#[test]
fn a_task_without_another_place_stays_and_says_why() {
    let (mut cell, mut scheduler) = cell_of(2, 2000);
    let web = submit(&mut cell, &mut scheduler, budget(job(2, 200, 2000, 1), 1));
    settle(&mut cell, &mut scheduler);
    let first = on(&cell, &web, 0).unwrap();
    let name = cell.state.machine(first).unwrap().name.to_string();
    let mut known = drain(&name);
    if let Action::DrainMachines { leaves, .. } = &mut known {
        *leaves = Some(1);
    }
    cell.user("admin", known).unwrap();
    cell.tell(&mut scheduler);
    assert_eq!(settle(&mut cell, &mut scheduler), 0);
    let why = scheduler.explain(task(&cell, &web, 0), cell.now).summary;
    assert!(
        why.contains("it stays for now: no place on another machine yet: 0 of 2 machines fit: "),
        "{why}"
    );
    assert!(why.contains("1 is closed") && why.contains("2 lack cpu"), "{why}");
}

#[test]
fn an_alloc_moves_with_all_that_is_in_it_and_within_all_budgets() {
    let (mut cell, mut scheduler) = cell_of(2, 4000);
    let set = submit(&mut cell, &mut scheduler, budget(allocs(job(1, 100, 2000, 4)), 1));
    settle(&mut cell, &mut scheduler);
    let inside = submit(&mut cell, &mut scheduler, budget(within(job(1, 100, 500, 1), &set), 0));
    settle(&mut cell, &mut scheduler);
    let home = on(&cell, &set, 0).unwrap();
    assert_eq!(on(&cell, &inside, 0), Some(home));
    let name = cell.state.machine(home).unwrap().name.to_string();
    cell.user("admin", drain(&name)).unwrap();
    cell.tell(&mut scheduler);
    assert_eq!(settle(&mut cell, &mut scheduler), 0, "what is in it may not be disturbed");
    cell.user("ann", Action::Kill { job: inside, tasks: Vec::new() }).unwrap();
    let inside = submit(&mut cell, &mut scheduler, budget(within(job(1, 100, 500, 1), &set), 1));
    for _ in 0..4 {
        settle(&mut cell, &mut scheduler);
    }
    let other = on(&cell, &set, 0);
    assert!(other.is_some() && other != Some(home));
    assert_eq!(on(&cell, &inside, 0), other);
}

#[test]
fn a_plan_of_a_drain_goes_step_by_step_and_changes_nothing() {
    let (mut cell, mut scheduler) = cell_of(3, 4000);
    let web = submit(&mut cell, &mut scheduler, budget(job(6, 200, 1000, 1), 1));
    settle(&mut cell, &mut scheduler);
    let there = (0..6).filter(|index| on(&cell, &web, *index) == Some(MachineId(0))).count();
    assert!(there > 1);
    let before = cell.state.clone();
    let admin = "admin".parse().unwrap();
    let plan = scheduler.clone().plan_drain(&admin, drain("m0"), cell.now).unwrap();
    let steps: Vec<u32> = plan.moves.iter().map(|one| one.step).collect();
    assert_eq!(steps, (1..=u32::try_from(there).unwrap()).collect::<Vec<_>>(), "one at a time");
    assert!(plan.moves.iter().all(|one| one.from == MachineId(0) && one.to != MachineId(0)));
    assert_eq!((plan.machines, plan.stay), (vec![MachineId(0)], Vec::new()));
    assert_eq!(cell.state, before);
    let ann = "ann".parse().unwrap();
    scheduler.clone().plan_drain(&ann, drain("m0"), cell.now).unwrap_err();
}

#[test]
fn a_budget_holds_off_preemption_for_a_minute_and_is_named() {
    let (mut cell, mut scheduler) = cell_of(1, 2000);
    let feed = submit(&mut cell, &mut scheduler, budget(job(2, 110, 1000, 1), 1));
    settle(&mut cell, &mut scheduler);
    let web = submit(&mut cell, &mut scheduler, job(2, 200, 1000, 1));
    settle(&mut cell, &mut scheduler);
    let down = |cell: &Cell| (0..2).filter(|index| on(cell, &feed, *index).is_none()).count();
    assert_eq!(down(&cell), 1);
    let last = (0..2).find(|index| on(&cell, &web, *index).is_none()).unwrap();
    let why = scheduler.explain(task(&cell, &web, last), cell.now).summary;
    assert_eq!(
        why,
        "0 of 1 machine fits: 1 has only tasks of ann/j0 to push out, whose disruption budget is used up"
    );
    assert_eq!(settle(&mut cell, &mut scheduler), 0);
    cell.now = cell.now + Millis(60_000);
    assert!(scheduler.next_wakeup(cell.now) <= Some(cell.now));
    settle(&mut cell, &mut scheduler);
    assert_eq!((down(&cell), cell.state.forced()), (2, 1));
}

/// A service of prod that may lose so many.
fn service(tasks: u32, most: u32) -> JobSpec {
    let kind = JobKind::Service;
    budget(JobSpec { kind, retries: 0, ..job(tasks, 200, 1000, 1) }, most)
}

#[test]
fn where_there_is_room_who_leaves_is_started_elsewhere_first() {
    let (mut cell, mut scheduler) = cell_of(2, 4000);
    let web = submit(&mut cell, &mut scheduler, service(2, 0));
    settle(&mut cell, &mut scheduler);
    let home = on(&cell, &web, 0).unwrap();
    let other = MachineId(1 - home.0);
    cell.user("admin", drain(&format!("m{}", home.0))).unwrap();
    cell.tell(&mut scheduler);
    let leaving = (0..2).filter(|index| on(&cell, &web, *index) == Some(home)).count();
    for left in (0..leaving).rev() {
        cell.now = cell.now + Millis(100);
        let decisions = scheduler.pass(cell.now, EVERYTHING);
        assert_eq!(decisions.len(), 1, "one at a time");
        assert!(scheduler.pass(cell.now + Millis(200), EVERYTHING).is_empty(), "it is on its way");
        cell.place(&decisions);
        cell.tell(&mut scheduler);
        let task = decisions[0].task;
        let why = scheduler.explain(task, cell.now).summary;
        assert!(why.contains(&format!("its replacement starts on m{}", other.0)), "{why}");
        let id = cell.successors()[0];
        let since = cell.now;
        cell.observe(Observation::TaskUp { id, pid: 1, since, restarts: 0, run: None });
        cell.now = cell.now + Millis(10_000);
        cell.master(Action::Advance);
        cell.tell(&mut scheduler);
        let still = (0..2).filter(|index| on(&cell, &web, *index) == Some(home)).count();
        assert_eq!((still, cell.state.job_named(&web).unwrap().down()), (left, 0));
    }
    assert!(cell.state.machine(home).unwrap().is_drained());
}

#[test]
fn a_plan_of_a_drain_tells_of_replacements_and_how_long_they_take() {
    let (mut cell, mut scheduler) = cell_of(2, 4000);
    let web = submit(&mut cell, &mut scheduler, service(2, 0));
    settle(&mut cell, &mut scheduler);
    let home = on(&cell, &web, 0).unwrap();
    let there = (0..2).filter(|index| on(&cell, &web, *index) == Some(home)).count();
    let admin = "admin".parse().unwrap();
    let drain = drain(&format!("m{}", home.0));
    let plan = scheduler.clone().plan_drain(&admin, drain, cell.now).unwrap();
    assert_eq!((plan.moves.len(), plan.stay), (there, Vec::new()));
    assert!(plan.foreseen >= Millis(10_000), "each has to run for a while");
}

#[test]
fn where_there_is_none_it_moves_within_the_budget_over_the_less_important() {
    let (mut cell, mut scheduler) = cell_of(2, 2000);
    let web = submit(&mut cell, &mut scheduler, service(2, 1));
    settle(&mut cell, &mut scheduler);
    submit(&mut cell, &mut scheduler, job(2, 50, 1000, 1));
    settle(&mut cell, &mut scheduler);
    let home = on(&cell, &web, 0).unwrap();
    let mut known = drain(&format!("m{}", home.0));
    if let Action::DrainMachines { leaves, .. } = &mut known {
        *leaves = Some(1);
    }
    cell.user("admin", known).unwrap();
    cell.tell(&mut scheduler);
    cell.now = cell.now + Millis(100);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    let moves: Vec<_> = decisions.iter().filter(|d| cell.state.leaves(d.task)).collect();
    assert!(moves.iter().any(|decision| !decision.victims.is_empty()), "{decisions:?}");
    cell.place(&decisions);
    assert_eq!(cell.state.job_named(&web).unwrap().down(), 1);
}

#[test]
fn who_waits_for_a_replacement_by_an_update_gets_one_elsewhere() {
    let (mut cell, mut scheduler) = cell_of(2, 4000);
    let web = submit(&mut cell, &mut scheduler, service(1, 1));
    settle(&mut cell, &mut scheduler);
    let home = on(&cell, &web, 0).unwrap();
    let replacement = Replacement::First;
    let options = Box::new(UpdateOptions { replacement, ..UpdateOptions::default() });
    let update = Action::UpdateJob { job: web.clone(), to: Revision::Restart, options };
    cell.user("ann", update).unwrap();
    cell.tell(&mut scheduler);
    assert!(scheduler.next_wakeup(cell.now).is_some());
    cell.now = cell.now + Millis(100);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decisions.len(), 1);
    assert_ne!(decisions[0].machine, home);
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    assert_eq!((cell.successors().len(), on(&cell, &web, 0)), (1, Some(home)));
    cell.now = cell.now + Millis(1_000);
    assert!(scheduler.pass(cell.now, EVERYTHING).is_empty());
}
