//! Daemons: each task has its own machine, whatever others look like.

use super::fixture::{Cell, EVERYTHING, GIB, info, job};
use crate::{Config, Scheduler};
use borg_cell::state::{OVERDUE, Task};
use borg_proto::command::{Action, Observation, SERVICES_SINCE};
use borg_proto::disruption::{Disruption, Share};
use borg_proto::{JobId, JobKey, JobKind, JobSpec, MachineId, TaskId};

fn daemon(priority: u64, cpu_milli: u64) -> JobSpec {
    JobSpec { kind: JobKind::Daemon, retries: 0, ..job(1, priority, cpu_milli, 1) }
}

fn pass(cell: &mut Cell, scheduler: &mut Scheduler) {
    cell.tell(scheduler);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    cell.tell(scheduler);
}

/// Where the tasks of a job are, by index.
fn places(cell: &Cell, key: &JobKey) -> Vec<Option<MachineId>> {
    let job = cell.state.job_named(key).unwrap();
    let place = |task: &Task| task.placement().map(|placed| placed.machine);
    cell.state.tasks_of(job.id).map(|(_, task)| place(task)).collect()
}

fn why(scheduler: &Scheduler, cell: &Cell, job: JobId, index: u32) -> String {
    scheduler.explain(TaskId { job, index }, cell.now).summary
}

#[test]
fn each_task_of_a_daemon_goes_to_its_own_machine_also_to_one_that_comes() {
    let mut cell = Cell::new();
    let machines: Vec<MachineId> =
        (0..70).map(|_| cell.add_machine(info(4_000, 8, None, 0))).collect();
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let key = cell.submit("ann", daemon(200, 100));
    pass(&mut cell, &mut scheduler);
    let mut expected: Vec<_> = machines.into_iter().map(Some).collect();
    assert_eq!(places(&cell, &key), expected);
    expected.push(Some(cell.add_machine(info(1_000, 2, None, 0))));
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), expected);
    let job = cell.state.job_named(&key).unwrap().id;
    assert!(why(&scheduler, &cell, job, 70).ends_with("as each machine has one"));
}

#[test]
fn room_is_made_for_a_daemon_where_it_belongs_and_nowhere_else() {
    let mut cell = Cell::new();
    let full = cell.add_machine(info(1_000, 4, None, 0));
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let low = cell.submit("bob", job(1, 100, 1_000, 1));
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &low), [Some(full)]);
    let empty = cell.add_machine(info(1_000, 4, None, 0));
    let key = cell.submit("ann", daemon(200, 100));
    pass(&mut cell, &mut scheduler);
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), [Some(full), Some(empty)]);
    assert_eq!(places(&cell, &low), [None], "it has no room on either any more");
}

#[test]
fn a_daemon_without_room_waits_for_its_machine_and_says_so() {
    let mut cell = Cell::new();
    let machine = cell.add_machine(info(1_000, 4, None, 0));
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let prod = cell.submit("bob", job(1, 200, 1_000, 1));
    pass(&mut cell, &mut scheduler);
    let key = cell.submit("ann", daemon(200, 100));
    pass(&mut cell, &mut scheduler);
    let id = cell.state.job_named(&key).unwrap().id;
    assert_eq!(
        why(&scheduler, &cell, id, 0),
        "belongs there, but machine m0 has 0 m CPU free, task asks 100 m, and nobody there may be \
         pushed out for it"
    );
    cell.user("bob", Action::Kill { job: prod, tasks: Vec::new() });
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), [Some(machine)]);
    cell.observe(Observation::MachineDown { machine });
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), [None]);
    cell.observe(Observation::MachineUp { machine, info: info(1_000, 4 * GIB / GIB, None, 0) });
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), [Some(machine)]);
}

#[test]
fn a_daemon_that_waited_long_keeps_to_budgets_where_that_is_enough() {
    let mut cell = Cell::new();
    let machine = cell.add_machine(info(1_000, 4, None, 0));
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.master(Action::RaiseLevel { level: SERVICES_SINCE });
    let none = Some(Disruption { most: Share::Tasks(0), rate: None });
    let spared = cell.submit("bob", JobSpec { disruption: none, ..job(1, 50, 250, 1) });
    let pushed = cell.submit("bob", job(1, 100, 250, 1));
    let prod = cell.submit("bob", job(1, 200, 500, 1));
    pass(&mut cell, &mut scheduler);
    for id in cell.running() {
        let since = cell.now;
        cell.observe(Observation::TaskUp { id, pid: 1, since, restarts: 0, run: None });
    }
    let key = cell.submit("ann", daemon(200, 750));
    pass(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &key), [None], "production is in its way");
    cell.now = cell.now + OVERDUE;
    cell.user("bob", Action::Kill { job: prod, tasks: Vec::new() });
    pass(&mut cell, &mut scheduler);
    let found = [&key, &spared, &pushed].map(|job| places(&cell, job));
    assert_eq!(found, [vec![Some(machine)], vec![Some(machine)], vec![None]]);
}

#[test]
fn a_plan_of_a_daemon_tells_of_all_its_machines() {
    let mut cell = Cell::new();
    for _ in 0..3 {
        cell.add_machine(info(1_000, 4, None, 0));
    }
    let scheduler = Scheduler::new(&cell.state, Config::default());
    let ann = "ann".parse().unwrap();
    let plan = scheduler.plan(&ann, &[std::sync::Arc::new(daemon(200, 100))], cell.now);
    assert_eq!((plan.jobs[0].tasks, plan.jobs[0].placed(), plan.jobs[0].pending), (3, 3, 0));
}
