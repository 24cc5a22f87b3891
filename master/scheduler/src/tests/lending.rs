//! Scenes in which tasks lend what they hold and do not use.

use super::fixture::{Cell, EVERYTHING, GIB, info, job};
use crate::{Config, Scheduler};
use borg_proto::command::{Action, Assignment, LEVEL};
use borg_proto::reclamation::{Amounts, NumberSet};
use borg_proto::{Band, IncarnationId, JobSpec, MachineId, Privilege, TaskId};

/// A cell that lends, with a machine of 4 cores and 8 GiB, and its scheduler.
fn lending() -> (Cell, Scheduler, MachineId) {
    let mut cell = Cell::new();
    cell.master(Action::RaiseLevel { level: LEVEL });
    let bands = Band::ALL.into_iter().filter(|band| *band != Band::Free).collect();
    cell.user("admin", Action::EnforceQuota { bands, on: false });
    let user = "ann".parse().unwrap();
    cell.user("admin", Action::GrantPrivilege { user, privilege: Privilege::Monitoring });
    let machine = cell.add_machine(info(4000, 8, None, 0));
    let scheduler = Scheduler::new(&cell.state, Config::default());
    cell.news.clear();
    (cell, scheduler, machine)
}

/// Submits one task, decides and commits; gives the decision, if there is one.
fn place(
    cell: &mut Cell,
    scheduler: &mut Scheduler,
    spec: JobSpec,
) -> (TaskId, Option<Assignment>) {
    let key = cell.submit("ann", spec);
    let task = TaskId { job: cell.state.job_named(&key).unwrap().id, index: 0 };
    cell.tell(scheduler);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    cell.tell(scheduler);
    (task, decisions.into_iter().find(|decision| decision.task == task))
}

fn id(cell: &Cell, task: TaskId) -> IncarnationId {
    cell.state.task(task).unwrap().running(task).unwrap()
}

#[test]
fn others_stand_on_what_prod_does_not_need_and_prod_does_not() {
    let (mut cell, mut scheduler, machine) = lending();
    let (web, _) = place(&mut cell, &mut scheduler, job(1, 200, 3000, 6));
    let (count, decision) = place(&mut cell, &mut scheduler, job(1, 100, 2000, 4));
    assert_eq!(decision, None);
    assert!(
        !scheduler.explain(count, cell.now).summary.contains("reservations"),
        "nothing is lent"
    );
    let web = id(&cell, web);
    cell.lend(web, 50);
    cell.tell(&mut scheduler);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decisions[0].lent, Amounts::of([1500, 3 * GIB, 0]));
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    assert_eq!(
        scheduler.explain(count, cell.now).summary,
        "placed on m0 as incarnation 1; reclaimed room: the limits there exceed the machine by 1 of cpu, 2 \
         GiB of memory"
    );
    let (more, decision) = place(&mut cell, &mut scheduler, job(1, 200, 1001, 1));
    assert_eq!(decision, None);
    assert_eq!(
        scheduler.explain(more, cell.now).summary,
        "0 of 1 machine fits: 1 lacks cpu (asks 1.001, most free is 1); it is of prod, so room is counted by \
         limits"
    );
    let (third, decision) = place(&mut cell, &mut scheduler, job(1, 100, 1000, 1));
    assert_eq!(decision, None);
    let why = scheduler.explain(third, cell.now).summary;
    assert!(why.ends_with("; it is not of prod, so room is counted by reservations"), "{why}");
    assert_eq!(cell.state.machine(machine).unwrap().used.cpu_milli, 5000);
}

#[test]
fn prod_pushes_others_out_only_when_reservations_do_not_leave_it_its_limit() {
    let (mut cell, mut scheduler, _) = lending();
    let (low, _) = place(&mut cell, &mut scheduler, job(1, 100, 3000, 2));
    let low = id(&cell, low);
    cell.lend(low, 50);
    let (_, decision) = place(&mut cell, &mut scheduler, job(1, 200, 2500, 2));
    let decision = decision.unwrap();
    assert_eq!((decision.victims, decision.lent), (vec![], Amounts::of([1500, GIB, 0])));
    let (_, decision) = place(&mut cell, &mut scheduler, job(1, 200, 1500, 2));
    let decision = decision.unwrap();
    assert_eq!(
        decision.victims,
        [low],
        "2.5 and 1.5 cores of limits, and 1.5 reserved, are too much"
    );
    assert!(decision.lent.is_nothing(), "who goes lends nothing");
}

/// News of what is lent comes late, twice, and of tasks that are gone.
#[test]
fn what_is_said_of_another_incarnation_counts_for_nothing() {
    let (mut cell, mut scheduler, _) = lending();
    let (web, _) = place(&mut cell, &mut scheduler, job(1, 200, 3000, 6));
    let old = id(&cell, web);
    let other = IncarnationId { number: old.number + 1, ..old };
    let half = Amounts::of([1500, 0, 0]);
    scheduler.lend(&[(other, half)]);
    let (_, decision) = place(&mut cell, &mut scheduler, job(1, 100, 2000, 1));
    assert_eq!(decision, None);
    scheduler.lend(&[(old, half), (old, half)]);
    assert_eq!(scheduler.clone().pass(cell.now, EVERYTHING).len(), 1);
    scheduler.lend_nothing();
    assert_eq!(scheduler.clone().pass(cell.now, EVERYTHING).len(), 0);
    scheduler.lend(&[(old, Amounts::of([u64::MAX; 3]))]);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decisions[0].lent, Amounts::of([3000, 6 * GIB, 0]), "no more than its limit");
}

#[test]
fn a_cell_that_stops_lending_places_by_limits_again() {
    let (mut cell, mut scheduler, _) = lending();
    let (web, _) = place(&mut cell, &mut scheduler, job(1, 200, 3000, 6));
    let web = id(&cell, web);
    cell.lend(web, 50);
    cell.tell(&mut scheduler);
    let off = Action::SetReclamation { named: Some(NumberSet::Off), numbers: [].into() };
    cell.user("admin", off).unwrap();
    let (_, decision) = place(&mut cell, &mut scheduler, job(1, 100, 2000, 1));
    assert_eq!(decision, None);
    let on = Action::SetReclamation { named: Some(NumberSet::Baseline), numbers: [].into() };
    cell.user("admin", on).unwrap();
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING).len(), 1, "what was told still counts");
}
