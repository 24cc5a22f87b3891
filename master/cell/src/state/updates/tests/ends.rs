//! Every update comes to an end, or says that it waits for somebody, whatever its tasks do.

use super::*;
use borg_proto::spec::{Constraint, ConstraintOp};

fn checked(task: &mut borg_proto::TaskSpec) {
    task.ports = vec!["http".parse().unwrap()];
    task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
}

/// All that is up turns healthy.
fn heal(cell: &mut Cell, job: JobId) {
    come_up(cell, job);
    let all: Vec<_> = cell.state.tasks_of(job).filter_map(|(id, task)| task.running(id)).collect();
    for id in all {
        cell.observe(Observation::TaskHealth { id, health: Health::Healthy });
    }
}

/// A service whose tasks are up, and healthy as far as they are named.
fn healthy(cell: &mut Cell, spec: JobSpec, machines: &[MachineId], which: &[u32]) -> JobId {
    let job = run(cell, spec, machines);
    for index in which {
        let task = TaskId { job, index: *index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.observe(Observation::TaskHealth { id, health: Health::Healthy });
    }
    job
}

fn short() -> UpdateOptions {
    UpdateOptions { deadline_ms: Millis(5_000), ..quick() }
}

#[test]
fn a_rollback_to_what_never_served_ends_and_the_fix_may_come() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, checked), &machines);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, short()).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 5_000);
    assert_eq!(shown(&cell, job), "3- 3-");
    assert_eq!(state(&cell, job), "rolling");
    come_up(&mut cell, job);
    later(&mut cell, 5_000);
    assert_eq!(state(&cell, job), "none", "nothing more is waited for");
    let fix = other(&cell, job, "fix");
    update(&mut cell, fix, short()).unwrap();
    heal(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("4+ 4+", "done"));
}

#[test]
fn a_fix_may_come_while_a_rollback_is_paused_and_the_refusal_before_says_so() {
    let (mut cell, machines) = cell(2);
    let job = healthy(&mut cell, web(2, checked), &machines, &[0, 1]);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, short()).unwrap();
    steer(&mut cell, Steer::Undo).unwrap();
    assert_eq!(shown(&cell, job), "3- 3+");
    let fix = other(&cell, job, "fix");
    let refused = update(&mut cell, fix.clone(), short()).unwrap_err().to_string();
    assert!(refused.contains("from version 2 to version 3"), "{refused}");
    assert!(
        refused.ends_with("Wait for it, or say borgctl rollout pause ann/web first"),
        "{refused}"
    );
    steer(&mut cell, Steer::Pause).unwrap();
    assert_eq!(update(&mut cell, fix, short()).unwrap(), 4);
    for _ in 0..2 {
        heal(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("4+ 4+", "done"));
}

#[test]
fn a_failure_that_is_allowed_does_not_hold_up_the_others() {
    let (mut cell, machines) = cell(3);
    let mut spec = web(3, checked);
    spec.disruption = Some(Disruption { most: Share::Tasks(2), rate: None });
    let job = healthy(&mut cell, spec, &machines, &[0, 1, 2]);
    let options = UpdateOptions { failures: 2, most: Some(Share::Tasks(1)), ..short() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    assert_eq!(shown(&cell, job), "2- 1+ 1+");
    come_up(&mut cell, job);
    later(&mut cell, 5_000);
    assert_eq!(shown(&cell, job), "2- 2- 1+", "task 0 is counted, and waited for no longer");
    for index in [1, 2] {
        come_up(&mut cell, job);
        let task = TaskId { job, index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.observe(Observation::TaskHealth { id, health: Health::Healthy });
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2- 2+ 2+", "done"));
}

#[test]
fn what_failed_and_uses_up_the_budget_is_decided_about_by_the_deadline() {
    let (mut cell, machines) = cell(3);
    let job = healthy(&mut cell, web(3, checked), &machines, &[0, 1, 2]);
    let options = UpdateOptions { failures: 2, ..short() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 5_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2- 1+ 1+", "rolling"));
    assert_eq!(
        waits(&cell, job),
        "1 task of ann/web is down, its disruption budget is 1; its deadline is in 5000 ms"
    );
    later(&mut cell, 5_000);
    assert_eq!(shown(&cell, job), "3- 3+ 3+", "it goes back");
    heal(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "none");
    let outcome = cell.state.job(job).unwrap().version(2).unwrap().outcome.clone();
    assert_eq!(outcome, "rolled back: task 0 did not serve within 5 s");
}

#[test]
fn an_update_that_a_task_it_may_not_touch_holds_up_is_given_up_at_its_deadline() {
    let (mut cell, machines) = cell(3);
    let job = healthy(&mut cell, web(3, checked), &machines, &[0, 1]);
    let options = UpdateOptions { tasks: "0-1".parse().ok(), ..short() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec.clone(), options.clone()).unwrap();
    later(&mut cell, 4_999);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("1+ 1+ 1-", "rolling"));
    later(&mut cell, 1);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("3+ 3+ 3-", "none"));
    let outcome = cell.state.job(job).unwrap().version(2).unwrap().outcome.clone();
    assert_eq!(
        outcome,
        "rolled back: task 0 could not go within 5 s: 1 task of ann/web is down, its disruption \
         budget is 1"
    );
    let pauses = UpdateOptions { on_failure: OnFailure::Pause, ..options };
    update(&mut cell, spec, pauses).unwrap();
    later(&mut cell, 5_000);
    assert_eq!(state(&cell, job), "paused");
    heal(&mut cell, job);
    steer(&mut cell, Steer::Resume).unwrap();
    assert_eq!(shown(&cell, job), "4- 3+ 3+", "and goes on when somebody says so");
}

#[test]
fn a_rollback_that_the_budget_holds_up_pauses_at_its_deadline() {
    let (mut cell, machines) = cell(3);
    let job = healthy(&mut cell, web(3, checked), &machines, &[0, 1, 2]);
    let options = UpdateOptions { tasks: "0-1".parse().ok(), ..short() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    for _ in 0..2 {
        heal(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2+ 1+", "done"));
    let sick = TaskId { job, index: 2 };
    let id = cell.state.task(sick).unwrap().running(sick).unwrap();
    cell.observe(Observation::TaskHealth { id, health: Health::Unhealthy });
    steer(&mut cell, Steer::Undo).unwrap();
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2+ 3-", "rolling"));
    later(&mut cell, 5_000);
    assert_eq!(
        waits(&cell, job),
        "paused by the cell, as task 0 could not go within 5 s: 1 task of ann/web is down, its \
         disruption budget is 1: resume, or update it again"
    );
    heal(&mut cell, job);
    steer(&mut cell, Steer::Resume).unwrap();
    assert_eq!(shown(&cell, job), "3- 2+ 3+");
}

#[test]
fn progress_begins_the_deadline_of_a_blocked_update_anew() {
    let (mut cell, machines) = cell(3);
    let job = healthy(&mut cell, web(3, checked), &machines, &[0, 1]);
    let options = UpdateOptions { tasks: "0-1".parse().ok(), ..short() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    later(&mut cell, 4_000);
    heal(&mut cell, job);
    assert_eq!(shown(&cell, job), "2- 1+ 1+");
    later(&mut cell, 2_000);
    assert_eq!(state(&cell, job), "rolling", "it is blocked no longer");
}

#[test]
fn a_budget_of_zero_refuses_what_would_have_to_move() {
    let (mut cell, _) = cell(0);
    let old = cell.machine_with("old", info(1_000, 1 << 30, &[("disk", "hdd")]));
    let mut spec = web(2, |_| ());
    spec.disruption = Some(Disruption { most: Share::Tasks(0), rate: None });
    let job = run(&mut cell, spec, &[old]);
    let spec = with_task(cell.state.job(job).unwrap().spec.as_ref().clone(), |task| {
        task.constraints = vec![Constraint {
            attribute: "disk".into(),
            op: ConstraintOp::Equal,
            values: vec!["ssd".into()],
            soft: false,
        }];
    });
    let refused = update(&mut cell, spec, quick()).unwrap_err();
    assert!(refused.to_string().starts_with("disruption.most: 2 tasks of ann/web"), "{refused}");
}

#[test]
fn tasks_over_their_jobs_cap_are_not_down() {
    let (mut cell, machines) = cell(2);
    let mut spec = JobSpec { name: "web".parse().unwrap(), ..batch("web", 4, 100, 4 * MIB) };
    spec.concurrent = Some(2);
    spec.disruption = Some(Disruption { most: Share::Tasks(1), rate: None });
    let job = cell.submit("ann", spec);
    for index in 0..2 {
        let id = cell.place(job, index, machines[0]).unwrap();
        cell.up(id);
    }
    assert_eq!(cell.state.job(job).unwrap().down(), 0);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(shown(&cell, job), "2- 1+ 2. 2.");
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(shown(&cell, job), "2+ 2- 2. 2.");
}

/// Nobody stopped them, and no budget is asked: it is their owner's word.
#[test]
fn a_lower_cap_takes_the_last_tasks_down_and_says_why() {
    let (mut cell, machines) = cell(1);
    let spec = JobSpec { name: "web".parse().unwrap(), ..batch("web", 3, 100, 4 * MIB) };
    let job = run(&mut cell, spec, &machines);
    let mut capped = cell.state.job(job).unwrap().spec.as_ref().clone();
    capped.concurrent = Some(1);
    update(&mut cell, capped, quick()).unwrap();
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2. 2.", "done"));
    let last = cell.state.task(TaskId { job, index: 2 }).unwrap().last_evict.clone().unwrap();
    assert_eq!(last.to_string(), "its job lets 1 tasks run at once");
    assert_eq!(cell.state.job(job).unwrap().down(), 0);
    later(&mut cell, 1_000);
}

fn safe_mode(cell: &mut Cell, on: bool) {
    cell.observe(Observation::Silence { safe_mode: on, silent: 2, machines: 3 });
}

#[test]
fn in_safe_mode_no_task_goes_and_deadlines_wait() {
    let (mut cell, machines) = cell(3);
    let job = healthy(&mut cell, web(3, checked), &machines, &[0, 1, 2]);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, short()).unwrap();
    assert_eq!(shown(&cell, job), "2- 1+ 1+");
    come_up(&mut cell, job);
    later(&mut cell, 4_000);
    safe_mode(&mut cell, true);
    assert_eq!(waits(&cell, job), "nothing moves: safe mode, or a cell that was just restored");
    let sick = TaskId { job, index: 2 };
    let id = cell.state.task(sick).unwrap().running(sick).unwrap();
    cell.observe(Observation::TaskHealth { id, health: Health::Unhealthy });
    later(&mut cell, 60_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2- 1+ 1-", "rolling"));
    safe_mode(&mut cell, false);
    assert_eq!(shown(&cell, job), "2- 1+ 2-", "what lost nothing by it was passed over");
    later(&mut cell, 4_999);
    assert_eq!(state(&cell, job), "rolling", "the deadline counts from the end of safe mode");
    heal(&mut cell, job);
    later(&mut cell, 1_000);
    heal(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2+ 2+", "done"));
}

#[test]
fn an_update_asked_for_in_safe_mode_begins_when_that_is_over() {
    let (mut cell, machines) = cell(2);
    let job = healthy(&mut cell, web(2, checked), &machines, &[0]);
    safe_mode(&mut cell, true);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, short()).unwrap();
    assert_eq!(shown(&cell, job), "1+ 1-");
    later(&mut cell, 60_000);
    assert_eq!(shown(&cell, job), "1+ 1-");
    safe_mode(&mut cell, false);
    assert_eq!(shown(&cell, job), "1+ 2-");
}
