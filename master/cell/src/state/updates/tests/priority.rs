//! A job becomes prod, or is prod no more: where prod has no room of its own its tasks move, within the budget.

use super::*;
use crate::fixture::Cell;
use borg_proto::Band;
use borg_proto::command::Assignment;
use borg_proto::reclamation::Amounts;

/// Two machines of 1,000 m: the first with 800 m of prod and three tasks of `ann/web` on 400 m that are lent,
/// the second with the fourth.
fn lent() -> (Cell, JobId) {
    let (mut cell, machines) = cell(2);
    let prod = cell.submit("bob", service("other", 1, 800, 4 * MIB));
    let id = cell.place(prod, 0, machines[0]).unwrap();
    cell.up(id);
    let mut spec = JobSpec { name: "web".parse().unwrap(), ..batch("web", 4, 200, 4 * MIB) };
    spec.disruption = Some(Disruption { most: Share::Tasks(1), rate: None });
    let job = cell.submit("ann", spec);
    for index in 0..4 {
        let (task, machine) = (TaskId { job, index }, machines[usize::from(index == 3)]);
        let lent = Amounts::of([400, 0, 0]);
        let one = Assignment { lent, ..Assignment::new(task, machine) };
        cell.apply(master(), Action::Place { assignments: vec![one] }).unwrap();
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.up(id);
    }
    assert_eq!(shown(&cell, job), "1+ 1+ 1+ 1+");
    (cell, job)
}

fn of_band(cell: &Cell, job: JobId, band: Band) -> JobSpec {
    let spec = cell.state.job(job).unwrap().spec.as_ref().clone();
    JobSpec { priority: band.default_priority(), ..spec }
}

#[test]
fn tasks_that_become_prod_leave_lent_room_one_after_another() {
    let (mut cell, job) = lent();
    let machines: Vec<MachineId> = cell.state.machines().map(|machine| machine.id).collect();
    let spec = of_band(&cell, job, Band::Production);
    let (ann, key) = ("ann".parse().unwrap(), "ann/web".parse().unwrap());
    let to = Revision::Spec(Arc::new(spec.clone()));
    let plan = cell.state.plan_update(&ann, &key, &to, &quick(), cell.now).unwrap();
    let moves =
        |index: usize| matches!(&plan.effects[index], Effect::Move(why) if why.contains("m-0"));
    assert_eq!([0, 1, 2, 3].map(moves), [false, true, true, false], "{:?}", plan.effects);
    assert_eq!([&plan.effects[0], &plan.effects[3]], [&Effect::InPlace; 2]);

    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(shown(&cell, job), "2+ 2. 1+ 2+", "the budget is 1");
    assert_eq!(cell.state.audit(), []);
    let first = cell.state.machine(machines[0]).unwrap();
    assert_eq!((first.used.cpu_milli, first.used_by_prod.cpu_milli), (1_200, 1_000));
    assert!(cell.place(job, 1, machines[0]).is_err(), "prod has no room of its own there");
    cell.place(job, 1, machines[1]).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(shown(&cell, job), "2+ 2+ 2. 2+");
    cell.place(job, 2, machines[1]).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "done");
    assert_eq!(cell.state.audit(), []);
}

#[test]
fn going_back_to_prod_keeps_to_the_budget_too() {
    let (mut cell, job) = lent();
    let spec = of_band(&cell, job, Band::Production);
    // It never was on lent room as prod: so it is made to be, by going back to it.
    update(&mut cell, spec, UpdateOptions { tasks: "3".parse().ok(), ..quick() }).unwrap();
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("1+ 1+ 1+ 2+", "done"));
    assert_eq!(cell.state.audit(), []);
    let spec = of_band(&cell, job, Band::Batch);
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("3+ 3+ 3+ 3+", "done"));
    steer(&mut cell, Steer::Undo).unwrap();
    assert_eq!(shown(&cell, job), "4+ 4. 3+ 4+", "at most one is down");
    assert_eq!(cell.state.audit(), []);
}

#[test]
fn lent_room_is_taken_back_from_a_task_that_its_update_has_not_reached() {
    let (mut cell, job) = lent();
    let spec = of_band(&cell, job, Band::Production);
    update(&mut cell, spec, UpdateOptions { tasks: "3".parse().ok(), ..quick() }).unwrap();
    let reclaimed = |cell: &mut Cell, index: u32| {
        let task = TaskId { job, index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.observe(Observation::TaskReclaimed { id });
    };
    reclaimed(&mut cell, 3);
    assert_eq!(shown(&cell, job), "1+ 1+ 1+ 2+", "prod stands on its own room");
    reclaimed(&mut cell, 0);
    assert_eq!(shown(&cell, job), "1. 1+ 1+ 2+");
}
