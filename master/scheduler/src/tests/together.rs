//! Scenes of jobs whose tasks depend on each other: gangs, and caps on how many run at once.

use super::fixture::{Cell, EVERYTHING, info, job, with};
use crate::gang::REST;
use crate::{Config, Scheduler};
use borg_proto::command::{Action, Observation, SERVICES_SINCE};
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::update::{Revision, UpdateOptions};
use borg_proto::{FailureCause, IndexSet, JobKey, JobSpec, Millis, TaskId};
use std::sync::Arc;

/// Machines of four cores each.
fn cell_of(machines: u32) -> (Cell, Scheduler) {
    let mut cell = Cell::new();
    for _ in 0..machines {
        cell.add_machine(info(4000, 64, None, 0));
    }
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.tell(&mut scheduler);
    (cell, scheduler)
}

fn submit(cell: &mut Cell, scheduler: &mut Scheduler, user: &str, spec: JobSpec) -> JobKey {
    let key = cell.submit(user, spec);
    cell.tell(scheduler);
    key
}

fn gang(tasks: u32, priority: u64, cpu_milli: u64) -> JobSpec {
    JobSpec { gang: true, retries: 9, ..job(tasks, priority, cpu_milli, 1) }
}

fn task(cell: &Cell, key: &JobKey, index: u32) -> TaskId {
    TaskId { job: cell.state.job_named(key).unwrap().id, index }
}

fn why(cell: &Cell, scheduler: &Scheduler, key: &JobKey, index: u32) -> String {
    scheduler.explain(task(cell, key, index), cell.now).summary
}

fn pass(cell: &mut Cell, scheduler: &mut Scheduler) -> usize {
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    cell.tell(scheduler);
    decisions.len()
}

fn end(cell: &mut Cell, scheduler: &mut Scheduler, task: TaskId, fails: bool) {
    let id = cell.state.task(task).unwrap().running(task).unwrap();
    let failure = fails.then_some(FailureCause::Exit { code: 1 });
    cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run: None });
    cell.tell(scheduler);
}

#[test]
fn a_job_runs_as_many_tasks_at_once_as_it_lets_and_the_others_follow() {
    let (mut cell, mut scheduler) = cell_of(2);
    let spec = JobSpec { concurrent: Some(3), ..job(5, 100, 100, 1) };
    let key = submit(&mut cell, &mut scheduler, "ann", spec);
    let decided = scheduler.pass(cell.now, 2);
    assert_eq!(decided.len(), 2);
    let more = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(more.len(), 1, "proposed ones count");
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), []);
    assert_eq!(
        scheduler.explain(task(&cell, &key, 4), cell.now).ahead.equal,
        0,
        "it is in no queue"
    );
    cell.place(&[decided, more].concat());
    cell.tell(&mut scheduler);
    assert_eq!(why(&cell, &scheduler, &key, 4), "3 of the job's tasks run, which is its cap");
    let first = task(&cell, &key, 0);
    end(&mut cell, &mut scheduler, first, false);
    assert_eq!(pass(&mut cell, &mut scheduler), 1);
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
}

#[test]
fn a_decision_that_comes_to_nothing_gives_its_place_under_the_cap_back() {
    let (mut cell, mut scheduler) = cell_of(1);
    let spec = JobSpec { concurrent: Some(1), ..job(2, 100, 100, 1) };
    submit(&mut cell, &mut scheduler, "ann", spec);
    let decided = scheduler.pass(cell.now, EVERYTHING);
    scheduler.refused(decided[0].task);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), decided);
}

#[test]
fn a_gang_is_placed_together_or_waits_and_holds_nobody_up() {
    let (mut cell, mut scheduler) = cell_of(2);
    let key = submit(&mut cell, &mut scheduler, "ann", gang(9, 200, 1000));
    let small = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 1000, 1));
    assert_eq!(pass(&mut cell, &mut scheduler), 1, "all but the gang, which is more important");
    assert_eq!(
        why(&cell, &scheduler, &key, 8),
        "8 of 9 tasks fit; it is a gang: all or none; for the next one, 0 of 2 machines fit: 2 lack cpu \
         (asks 1, most free is 0)",
        "the small one could be pushed out"
    );
    assert!(why(&cell, &scheduler, &small, 0).starts_with("placed on"));
    cell.add_machine(info(4000, 64, None, 0));
    cell.tell(&mut scheduler);
    assert_eq!(pass(&mut cell, &mut scheduler), 0, "it rests");
    assert_eq!(scheduler.next_wakeup(cell.now), Some(cell.now + Millis(REST.0 * 9)));
    cell.now = cell.now + Millis(REST.0 * 9);
    let decisions = scheduler.pass(cell.now, 1);
    assert_eq!(decisions.len(), 9, "a gang may go beyond what a pass decides");
    for half in decisions.chunks(5) {
        cell.master(Action::Place { assignments: half.to_vec() });
    }
    assert_eq!(cell.running().len(), 1, "the state takes it whole only");
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    assert_eq!(cell.running().len(), 10);
}

/// A gang that does not fit takes back whom it would have pushed out, and its user's turn.
#[test]
fn a_gang_that_does_not_fit_changes_nothing() {
    let (mut cell, mut scheduler) = cell_of(2);
    let low = submit(&mut cell, &mut scheduler, "bob", job(8, 50, 1000, 1));
    assert_eq!(pass(&mut cell, &mut scheduler), 8);
    let before = scheduler.contents();
    submit(&mut cell, &mut scheduler, "ann", gang(9, 200, 1000));
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    let after = scheduler.contents();
    assert_eq!(before.rooms, after.rooms);
    assert!(why(&cell, &scheduler, &low, 0).starts_with("placed on"));
    let fits = submit(&mut cell, &mut scheduler, "ann", gang(8, 200, 1000));
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decisions.iter().flat_map(|decision| &decision.victims).count(), 8);
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    assert!(why(&cell, &scheduler, &fits, 7).starts_with("placed on"));
}

#[test]
fn who_is_lost_of_a_gang_waits_until_all_of_them_may_go() {
    let (mut cell, mut scheduler) = cell_of(1);
    let key = submit(&mut cell, &mut scheduler, "ann", gang(3, 100, 1000));
    assert_eq!(pass(&mut cell, &mut scheduler), 3);
    let (one, two) = (task(&cell, &key, 1), task(&cell, &key, 2));
    end(&mut cell, &mut scheduler, one, true);
    cell.now = cell.now + Millis(500);
    end(&mut cell, &mut scheduler, two, true);
    cell.now = cell.not_before(one);
    assert!(cell.not_before(two) > cell.now);
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    assert_eq!(
        why(&cell, &scheduler, &key, 1),
        "waits for 1 task of its gang to be ready: all or none"
    );
    cell.now = cell.not_before(two);
    let decided = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decided.iter().map(|d| d.task).collect::<Vec<_>>(), [one, two]);
}

#[test]
fn what_is_left_of_a_gang_is_tried_when_one_of_it_is_killed() {
    let (mut cell, mut scheduler) = cell_of(1);
    let key = submit(&mut cell, &mut scheduler, "ann", gang(5, 100, 1000));
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    cell.now = cell.now + Millis(REST.0 * 5);
    cell.user("ann", Action::Kill { job: key, tasks: vec![2] });
    cell.tell(&mut scheduler);
    assert_eq!(pass(&mut cell, &mut scheduler), 4);
}

/// Where tasks come and go all the time, gangs that wait are looked at now and then only.
#[test]
fn gangs_that_do_not_fit_rest_though_there_is_always_room_for_one_more() {
    let (mut cell, mut scheduler) = cell_of(2);
    for _ in 0..20 {
        submit(&mut cell, &mut scheduler, "ann", gang(100, 100, 1000));
    }
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    let mut looked = 0;
    for _ in 0..200 {
        submit(&mut cell, &mut scheduler, "bob", job(1, 100, 1000, 1));
        let before = scheduler.uses();
        assert_eq!(pass(&mut cell, &mut scheduler), 1);
        looked += scheduler.uses() - before - 1;
        let id = cell.running()[0].task;
        end(&mut cell, &mut scheduler, id, false);
        cell.now = cell.now + Millis(10);
    }
    // Two seconds in 200 passes: each of the 20 gangs rests half a second, then looks for eight tasks
    // and finds no machine for the ninth.
    assert!((20 * 9..20 * 9 * 5).contains(&looked), "{looked}");
}

#[test]
fn a_gang_that_no_machine_will_do_for_says_why() {
    let (mut cell, mut scheduler) = cell_of(2);
    let picky = with(gang(2, 100, 1000), |task| {
        task.constraints.push(Constraint {
            attribute: "rack".into(),
            op: ConstraintOp::Equal,
            values: vec!["r7".into()],
            soft: false,
        });
    });
    let key = submit(&mut cell, &mut scheduler, "ann", picky);
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    assert_eq!(
        why(&cell, &scheduler, &key, 0),
        "0 of 2 tasks fit; it is a gang: all or none; for the next one, 0 of 2 machines fit: 2 do not meet \
         rack = r7"
    );
}

/// Whoever comes first takes the best machine, and with it the only rack and the only architecture that
/// the second could have.
#[test]
fn a_gang_that_fits_with_less_room_is_tried_again() {
    let mut cell = Cell::new();
    let mut machine = |cpu_milli: u64, rack: &str, arch: &str| {
        let mut info = info(cpu_milli, 64, None, 0);
        info.attributes.insert("rack".into(), rack.into());
        info.attributes.insert("arch".into(), arch.into());
        let id = cell.add_machine(info);
        cell.state.machine(id).unwrap().name.clone()
    };
    let best = machine(1000, "r0", "a");
    machine(4000, "r0", "b");
    machine(4000, "r1", "a");
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let apart = |attribute: &str| Spread { attribute: attribute.into(), max: 1 };
    let spec = with(gang(2, 100, 500), |task| task.spread = ["rack", "arch"].map(apart).to_vec());
    submit(&mut cell, &mut scheduler, "ann", spec);
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    assert_eq!(scheduler.next_wakeup(cell.now), None, "nothing changes");
    let close = Action::CloseMachines { machines: vec![best], reason: "a reason".to_owned() };
    cell.user("admin", close);
    cell.tell(&mut scheduler);
    assert_eq!(pass(&mut cell, &mut scheduler), 0, "it rests");
    cell.now = scheduler.next_wakeup(cell.now).expect("it has less room now");
    assert_eq!(pass(&mut cell, &mut scheduler), 2);
}

#[test]
fn a_gang_of_which_a_task_has_another_version_is_placed_whole() {
    let (mut cell, mut scheduler) = cell_of(1);
    cell.master(Action::RaiseLevel { level: SERVICES_SINCE });
    let key = submit(&mut cell, &mut scheduler, "ann", gang(3, 100, 1_500));
    assert_eq!(pass(&mut cell, &mut scheduler), 0);
    let spec = cell.state.job_named(&key).unwrap().spec.as_ref().clone();
    let to = Revision::Spec(Arc::new(with(spec, |task| task.limit.cpu_milli = 1_400)));
    let canary = IndexSet::of_ranges(vec![(1, 1)]).ok();
    let options = Box::new(UpdateOptions { canary, ..UpdateOptions::default() });
    cell.user("admin", Action::UpdateJob { job: key.clone(), to, options });
    cell.tell(&mut scheduler);
    assert_eq!(cell.state.task(task(&cell, &key, 1)).unwrap().version, 2);
    cell.now = cell.now + Millis(1_000);
    assert_eq!(pass(&mut cell, &mut scheduler), 0, "two of them fit");
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), [], "it is not tried twice");
    assert!(why(&cell, &scheduler, &key, 0).starts_with("2 of 3 tasks fit"));
    let machine = cell.add_machine(info(2_000, 64, None, 0));
    cell.tell(&mut scheduler);
    cell.now = cell.now + Millis(1_000);
    assert_eq!(pass(&mut cell, &mut scheduler), 3, "with {machine:?} all fit");
}
