use super::*;
use crate::fixture::{Cell, alloc_set, batch, info, master, service, user, with_task};
use crate::rejection::Rejection;
use crate::state::{Answer, JobState};
use borg_proto::command::{Action, Observation};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::update::{OnFailure, Order, Replacement, Revision, Steer};
use borg_proto::{FailureCause, JobId, JobSpec, MachineId, Priority};
use std::sync::Arc;

mod ends;
mod priority;

const MIB: u64 = 1 << 20;

/// A cell on the present level, with so many machines of 1,000 m.
fn cell(machines: u32) -> (Cell, Vec<MachineId>) {
    let mut cell = Cell::new();
    cell.apply(master(), Action::RaiseLevel { level: 6 }).unwrap();
    let names = (0..machines).map(|n| format!("m-{n}"));
    let machines = names.map(|name| cell.machine(&name, 1_000, 1 << 30)).collect();
    (cell, machines)
}

fn web(tasks: u32, change: impl FnOnce(&mut borg_proto::TaskSpec)) -> JobSpec {
    with_task(service("web", tasks, 100, 4 * MIB), change)
}

/// The job's next specification: another argument.
fn other(cell: &Cell, job: JobId, argument: &str) -> JobSpec {
    let spec = cell.state.job(job).unwrap().spec.as_ref().clone();
    with_task(spec, |task| task.command = vec!["/bin/true".into(), argument.into()])
}

fn run(cell: &mut Cell, spec: JobSpec, machines: &[MachineId]) -> JobId {
    let tasks = spec.tasks;
    let job = cell.submit("ann", spec);
    for index in 0..tasks {
        let machine = machines[index as usize % machines.len()];
        let id = cell.place(job, index, machine).unwrap();
        cell.up(id);
    }
    job
}

/// Whoever cannot stay is taken down all the same; what is started elsewhere first is with `successors`.
fn quick() -> UpdateOptions {
    let replacement = Replacement::InPlace;
    UpdateOptions { min_healthy_ms: Millis(1_000), replacement, ..UpdateOptions::default() }
}

fn ask(cell: &mut Cell, by: &str, to: Revision, options: UpdateOptions) -> Result<u32, Rejection> {
    let action =
        Action::UpdateJob { job: "ann/web".parse().unwrap(), to, options: Box::new(options) };
    let applied = cell.apply(user(by), action)?;
    let Answer::Version(number) = applied.answer else { panic!("{applied:?}") };
    Ok(number)
}

fn update(cell: &mut Cell, spec: JobSpec, options: UpdateOptions) -> Result<u32, Rejection> {
    ask(cell, "ann", Revision::Spec(Arc::new(spec)), options)
}

fn steer(cell: &mut Cell, verb: Steer) -> Result<(), Rejection> {
    let job = "ann/web".parse().unwrap();
    cell.apply(user("ann"), Action::SteerUpdate { job, verb }).map(|_| ())
}

/// Each task: its version, and whether it serves (`+`), waits (`.`), is placed (`-`) or dead (`x`).
fn shown(cell: &Cell, job: JobId) -> String {
    let task = |(_, task): (TaskId, &Task)| {
        let state = match &task.state {
            TaskState::Pending { .. } if task.is_stopped() => 's',
            TaskState::Pending { .. } => '.',
            TaskState::Running(placement) if placement.serves_since.is_some() => '+',
            TaskState::Running(_) => '-',
            TaskState::Dead { .. } => 'x',
        };
        format!("{}{state}", task.version)
    };
    cell.state.tasks_of(job).map(task).collect::<Vec<_>>().join(" ")
}

/// All that is placed and does not run comes up.
fn come_up(cell: &mut Cell, job: JobId) {
    let all: Vec<_> = cell.state.tasks_of(job).map(|(id, task)| (id, task.clone())).collect();
    for (id, task) in all {
        let starting = |p: &borg_proto::task::Placement| p.phase == Phase::Starting;
        if let Some(id) = task.running(id).filter(|_| task.placement().is_some_and(starting)) {
            cell.up(id);
        }
    }
}

fn later(cell: &mut Cell, ms: u64) {
    cell.wait(ms);
    cell.apply(master(), Action::Advance).unwrap();
    assert!(cell.state.next_alarm().is_none_or(|at| at > cell.now), "an alarm rings for ever");
    let decoded = CellState::decode(&cell.state.encode()).unwrap();
    assert_eq!(decoded, cell.state, "a checkpoint in the middle of an update");
}

fn state(cell: &Cell, job: JobId) -> String {
    let job = cell.state.job(job).unwrap();
    job.update().map_or_else(|| "none".to_owned(), |update| update.state.to_string())
}

fn waits(cell: &Cell, job: JobId) -> String {
    let job = cell.state.job(job).unwrap();
    job.update().map(|update| job.waits_for_update(update, cell.now)).unwrap_or_default()
}

#[test]
fn tasks_go_one_after_another_each_when_the_one_before_has_served_for_a_while() {
    let (mut cell, machines) = cell(3);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    let spec = other(&cell, job, "v2");
    assert_eq!(update(&mut cell, spec, quick()).unwrap(), 2);
    assert_eq!(shown(&cell, job), "2- 1+ 1+");
    assert_eq!(waits(&cell, job), "task 0 is starting");
    come_up(&mut cell, job);
    assert_eq!(shown(&cell, job), "2+ 1+ 1+", "it has not served for long enough");
    assert_eq!(waits(&cell, job), "task 0 has to serve for another 1000 ms");
    later(&mut cell, 999);
    assert_eq!(shown(&cell, job), "2+ 1+ 1+");
    later(&mut cell, 1);
    assert_eq!(shown(&cell, job), "2+ 2- 1+");
    for _ in 0..2 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2+ 2+", "done"));
    let placed: Vec<_> = cell.state.tasks_of(job).filter_map(|(_, t)| t.placement()).collect();
    assert!(placed.iter().zip(&machines).all(|(p, machine)| p.machine == *machine));
}

#[test]
fn a_task_whose_machine_has_no_room_for_the_new_version_moves() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(1, |_| ()), &machines);
    cell.submit("bob", batch("full", 1, 850, 4 * MIB));
    let full = cell.state.job_named(&"bob/full".parse().unwrap()).unwrap().id;
    cell.place(full, 0, machines[0]).unwrap();
    let mut spec = other(&cell, job, "v2");
    Arc::make_mut(&mut spec.task).limit.cpu_milli = 200;
    let to = Revision::Spec(Arc::new(spec.clone()));
    let plan = cell
        .state
        .plan_update(&"ann".parse().unwrap(), &"ann/web".parse().unwrap(), &to, &quick(), cell.now)
        .unwrap();
    let Effect::Move(why) = &plan.effects[0] else { panic!("{plan:?}") };
    assert!(
        why.contains("task.command[1]; machine m-0 has 150 m CPU free, task asks 200 m"),
        "{why}"
    );
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(shown(&cell, job), "2.");
    assert_eq!(waits(&cell, job), "task 0 waits to be placed");
    cell.place(job, 0, machines[1]).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "done");
}

#[test]
fn a_bad_release_rolls_itself_back() {
    let (mut cell, machines) = cell(3);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    let spec = other(&cell, job, "bad");
    update(&mut cell, spec, quick()).unwrap();
    let (_, task) = cell.state.tasks_of(job).next().unwrap();
    let id = task.running(TaskId { job, index: 0 }).unwrap();
    cell.ended(id, Some(FailureCause::Exit { code: 3 }));
    // It waits out its back-off no more, as that was the other version's.
    assert_eq!(shown(&cell, job), "3. 3+ 3+");
    let why = "rolled back: task 0 failed: exit code 3";
    let found = cell.state.job(job).unwrap();
    assert_eq!(found.update().unwrap().why, why);
    assert_eq!(found.version(2).unwrap().outcome, why);
    cell.place(job, 0, machines[0]).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("3+ 3+ 3+", "none"));
    let found = cell.state.job(job).unwrap();
    assert_eq!(found.spec, found.version(1).unwrap().spec);
}

#[test]
fn what_turns_unhealthy_or_never_gets_healthy_is_bad_too() {
    let checked = |task: &mut borg_proto::TaskSpec| {
        task.ports = vec!["http".parse().unwrap()];
        task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
    };
    let healthy = |cell: &mut Cell, job: JobId, index: u32, health: Health| {
        let task = TaskId { job, index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.observe(Observation::TaskHealth { id, health });
    };
    for turns in [true, false] {
        let (mut cell, machines) = cell(2);
        let job = run(&mut cell, web(2, checked), &machines);
        healthy(&mut cell, job, 0, Health::Healthy);
        healthy(&mut cell, job, 1, Health::Healthy);
        let spec = other(&cell, job, "bad");
        let options = UpdateOptions { deadline_ms: Millis(60_000), ..quick() };
        update(&mut cell, spec, options).unwrap();
        assert_eq!(shown(&cell, job), "2- 1+");
        come_up(&mut cell, job);
        assert_eq!(waits(&cell, job), "task 0 is not healthy yet");
        if turns {
            healthy(&mut cell, job, 0, Health::Healthy);
            healthy(&mut cell, job, 0, Health::Unhealthy);
        } else {
            later(&mut cell, 59_999);
            assert_eq!(shown(&cell, job), "2- 1+");
            later(&mut cell, 1);
        }
        assert_eq!(shown(&cell, job), "3- 3+", "turns {turns}");
        let why = &cell.state.job(job).unwrap().update().unwrap().why;
        let expected = if turns {
            "rolled back: task 0 turned unhealthy"
        } else {
            "rolled back: task 0 did not serve within 60 s"
        };
        assert_eq!(why, expected);
    }
}

#[test]
fn some_failures_may_be_allowed_and_it_may_pause_in_place_of_going_back() {
    let (mut cell, machines) = cell(3);
    let mut spec = web(3, |_| ());
    spec.disruption = Some(Disruption { most: Share::Tasks(3), rate: None });
    let job = run(&mut cell, spec, &machines);
    let options = UpdateOptions {
        failures: 1,
        on_failure: OnFailure::Pause,
        most: Some(Share::Tasks(3)),
        ..quick()
    };
    let spec = other(&cell, job, "bad");
    update(&mut cell, spec, options).unwrap();
    assert_eq!(shown(&cell, job), "2- 2- 2-");
    let fail = |cell: &mut Cell, index: u32| {
        let task = TaskId { job, index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.ended(id, Some(FailureCause::Exit { code: 3 }));
    };
    fail(&mut cell, 1);
    assert_eq!(state(&cell, job), "rolling");
    fail(&mut cell, 2);
    assert_eq!(
        waits(&cell, job),
        "paused by the cell, as task 1 failed: exit code 3: resume or undo"
    );
    steer(&mut cell, Steer::Undo).unwrap();
    assert_eq!(shown(&cell, job), "3- 3. 3.");
}

#[test]
fn a_canary_goes_alone_and_the_others_wait_for_a_word() {
    let (mut cell, machines) = cell(4);
    let job = run(&mut cell, web(4, |_| ()), &machines);
    let options = UpdateOptions { canary: "1,3".parse().ok(), ..quick() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    assert_eq!(shown(&cell, job), "1+ 2- 1+ 1+");
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(shown(&cell, job), "1+ 2+ 1+ 2-");
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "waiting after its canary");
    assert_eq!(waits(&cell, job), "canary 1,3 is good: resume or undo");
    later(&mut cell, 1_000_000);
    // A task that goes down for another reason comes back as it was.
    cell.observe(Observation::MachineDown { machine: machines[0] });
    assert_eq!(shown(&cell, job), "1. 2+ 1+ 2+");
    steer(&mut cell, Steer::Resume).unwrap();
    assert_eq!(
        shown(&cell, job),
        "2. 2+ 1+ 2+",
        "what is down goes at no cost, the budget is used"
    );
    cell.place(job, 0, machines[1]).unwrap();
    come_up(&mut cell, job);
    assert_eq!(shown(&cell, job), "2+ 2+ 2- 2+");
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "done");
}

#[test]
fn a_canary_that_turns_bad_while_it_is_looked_at_goes_back() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let options = UpdateOptions { canary: "0".parse().ok(), ..quick() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "waiting after its canary");
    let task = TaskId { job, index: 0 };
    let id = cell.state.task(task).unwrap().running(task).unwrap();
    cell.ended(id, Some(FailureCause::Exit { code: 1 }));
    assert_eq!(shown(&cell, job), "3. 3+");
}

#[test]
fn it_can_be_paused_resumed_undone_in_the_middle_and_after_and_closed() {
    let (mut cell, machines) = cell(3);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    let refused = |cell: &mut Cell, verb| steer(cell, verb).unwrap_err().to_string();
    assert_eq!(refused(&mut cell, Steer::Undo), "there is no update of ann/web to undo");
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(
        refused(&mut cell, Steer::Close),
        "the update of ann/web is rolling, and only one that is done is closed: let it go on, or say borgctl \
         rollout undo ann/web"
    );
    steer(&mut cell, Steer::Pause).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 5_000);
    assert_eq!(shown(&cell, job), "2+ 1+ 1+");
    assert_eq!(waits(&cell, job), "paused by ann: resume or undo");
    steer(&mut cell, Steer::Resume).unwrap();
    assert_eq!(shown(&cell, job), "2+ 2- 1+");
    steer(&mut cell, Steer::Undo).unwrap();
    assert_eq!(
        shown(&cell, job),
        "2+ 3- 3+",
        "what is down goes first, what had not gone need not"
    );
    assert_eq!(
        refused(&mut cell, Steer::Undo),
        "the update of ann/web is rolling, on its way back: there is nothing to undo"
    );
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("3+ 3+ 3+", "none"));

    let spec = other(&cell, job, "v4");
    update(&mut cell, spec, quick()).unwrap();
    for _ in 0..3 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!(state(&cell, job), "done");
    steer(&mut cell, Steer::Undo).unwrap();
    for _ in 0..3 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("5+ 5+ 5+", "none"));

    let spec = other(&cell, job, "v6");
    update(&mut cell, spec, quick()).unwrap();
    for _ in 0..3 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    steer(&mut cell, Steer::Close).unwrap();
    assert_eq!(refused(&mut cell, Steer::Undo), "there is no update of ann/web to undo");
}

#[test]
fn a_second_update_is_refused_with_both_versions_while_one_is_under_way() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    let spec = other(&cell, job, "v3");
    let refused = update(&mut cell, spec.clone(), quick()).unwrap_err().to_string();
    assert!(
        refused.starts_with(
            "job ann/web is on its way from version 1 to version 2 already: ann's update is rolling since "
        ),
        "{refused}"
    );
    for _ in 0..2 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!(update(&mut cell, spec, quick()).unwrap(), 3, "the next one closes what is done");
}

#[test]
fn priority_labels_and_what_needs_no_process_change_in_place_and_at_once() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let before = cell.state.clone();
    let mut spec = cell.state.job(job).unwrap().spec.as_ref().clone();
    spec.priority = Priority::new(200).unwrap();
    spec.labels.insert("team".into(), "x".into());
    Arc::make_mut(&mut spec.task).grace_ms = Millis(9_000);
    update(&mut cell, spec.clone(), quick()).unwrap();
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("2+ 2+", "done"));
    let same = |id: TaskId| before.task(id).unwrap().state == cell.state.task(id).unwrap().state;
    assert!((0..2).all(|index| same(TaskId { job, index })));
    assert_eq!(update(&mut cell, spec, quick()).unwrap(), 2, "again changes nothing");
}

#[test]
fn a_budget_of_zero_lets_nothing_restart_but_what_needs_no_restart() {
    let (mut cell, machines) = cell(2);
    let mut spec = web(2, |_| ());
    spec.disruption = Some(Disruption { most: Share::Tasks(0), rate: None });
    let job = run(&mut cell, spec, &machines);
    let next = other(&cell, job, "v2");
    let refused = update(&mut cell, next.clone(), quick()).unwrap_err().to_string();
    assert_eq!(
        refused,
        "disruption.most: 2 tasks of ann/web that serve would have to start anew, and its disruption \
         budget lets none: give it one in the same update, or stop the tasks first"
    );
    let mut labelled = cell.state.job(job).unwrap().spec.as_ref().clone();
    labelled.labels.insert("a".into(), "b".into());
    update(&mut cell, labelled, quick()).unwrap();
    let one = Disruption { most: Share::Tasks(1), rate: None };
    update(&mut cell, JobSpec { disruption: Some(one), ..next }, quick()).unwrap();
    assert_eq!(shown(&cell, job), "3- 2+");
}

#[test]
fn going_back_to_a_budget_of_zero_does_not_get_stuck() {
    let (mut cell, machines) = cell(2);
    let mut spec = web(2, |_| ());
    spec.disruption = Some(Disruption { most: Share::Tasks(0), rate: None });
    let job = run(&mut cell, spec, &machines);
    let one = Disruption { most: Share::Tasks(1), rate: None };
    let next = JobSpec { disruption: Some(one), ..other(&cell, job, "v2") };
    update(&mut cell, next, quick()).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    come_up(&mut cell, job);
    steer(&mut cell, Steer::Undo).unwrap();
    for _ in 0..3 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("3+ 3+", "none"));
}

#[test]
fn the_rate_of_the_budget_holds_back_the_next_task_until_its_time() {
    let (mut cell, machines) = cell(3);
    let mut spec = web(3, |_| ());
    let rate = Some(Rate { tasks: 1, per_ms: Millis(60_000) });
    spec.disruption = Some(Disruption { most: Share::Tasks(2), rate });
    let job = run(&mut cell, spec, &machines);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(shown(&cell, job), "2+ 1+ 1+");
    assert!(waits(&cell, job).contains("1 tasks in 60 s, used up until"), "{}", waits(&cell, job));
    later(&mut cell, 58_999);
    assert_eq!(shown(&cell, job), "2+ 1+ 1+");
    later(&mut cell, 1);
    assert_eq!(shown(&cell, job), "2+ 2- 1+");
}

#[test]
fn more_tasks_come_at_once_and_fewer_leave_from_the_end() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    ask(&mut cell, "ann", Revision::Tasks(4), quick()).unwrap();
    assert_eq!(shown(&cell, job), "2+ 2+ 2. 2.");
    let id = cell.place(job, 3, machines[0]).unwrap();
    cell.up(id);
    let used = cell.state.used_quota(&"ann".parse().unwrap(), borg_proto::Band::Production);
    assert_eq!(used.amount().cpu_milli, 400);
    ask(&mut cell, "ann", Revision::Tasks(1), quick()).unwrap();
    assert_eq!(shown(&cell, job), "3+");
    assert_eq!(cell.state.machine(machines[0]).unwrap().tasks.len(), 1);
    ask(&mut cell, "ann", Revision::Tasks(4), quick()).unwrap();
    let again = cell.place(job, 3, machines[0]).unwrap();
    assert!(again.number > id.number, "numbers of incarnations are not given twice");
    let refused = ask(&mut cell, "ann", Revision::Tasks(100_001), quick()).unwrap_err();
    assert_eq!(refused.to_string(), "tasks: 100001 is outside 1 to 100000");
}

#[test]
fn a_job_whose_last_live_task_leaves_is_over() {
    let (mut cell, machines) = cell(1);
    let job = run(
        &mut cell,
        JobSpec { name: "web".parse().unwrap(), ..batch("web", 2, 100, 4 * MIB) },
        &machines,
    );
    let task = TaskId { job, index: 0 };
    let id = cell.state.task(task).unwrap().running(task).unwrap();
    cell.ended(id, None);
    ask(&mut cell, "ann", Revision::Tasks(1), quick()).unwrap();
    assert_eq!(cell.state.job(job).unwrap().state(), JobState::Finished);
}

#[test]
fn a_restart_takes_each_task_once_under_the_budget() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let mut options = quick();
    options.order = Order::Descending;
    ask(&mut cell, "ann", Revision::Restart, options).unwrap();
    assert_eq!(shown(&cell, job), "1+ 2-");
    for _ in 0..2 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!(state(&cell, job), "done");
    let incarnations: Vec<u32> = cell.state.tasks_of(job).map(|(_, t)| t.incarnations).collect();
    assert_eq!(incarnations, [2, 2]);
}

#[test]
fn a_part_of_the_tasks_may_stay_as_it_is() {
    let (mut cell, machines) = cell(3);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    let options = UpdateOptions { tasks: "2".parse().ok(), ..quick() };
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, options).unwrap();
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!((shown(&cell, job).as_str(), state(&cell, job).as_str()), ("1+ 1+ 2+", "done"));
    let commands: Vec<usize> =
        (0..3).map(|i| cell.state.job(job).unwrap().task_spec(i).command.len()).collect();
    assert_eq!(commands, [1, 1, 2]);
    ask(&mut cell, "ann", Revision::Tasks(4), quick()).unwrap();
    assert_eq!(shown(&cell, job), "1+ 1+ 3+ 3.", "the number of tasks touches no older version");
    let spec = cell.state.job(job).unwrap().spec.as_ref().clone();
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(
        shown(&cell, job),
        "1+ 1+ 4+ 4.",
        "one is down that waits for room: the budget is used"
    );
}

#[test]
fn what_no_update_changes_is_refused_by_field() {
    let (mut cell, machines) = cell(1);
    let job = run(&mut cell, web(1, |_| ()), &machines);
    let mut spec = cell.state.job(job).unwrap().spec.as_ref().clone();
    spec.exclusive = true;
    assert_eq!(
        update(&mut cell, spec, quick()).unwrap_err().to_string(),
        "exclusive: true is not what job ann/web has, and no update changes it: submit it under another \
         name, or kill the job first"
    );
    let refused = |cell: &mut Cell, options| {
        let spec = other(cell, job, "v2");
        update(cell, spec, options).unwrap_err().to_string()
    };
    let canary = UpdateOptions { canary: "3".parse().ok(), ..quick() };
    assert_eq!(refused(&mut cell, canary), "canary: 3 is no task of the job: it has 0 to 0");
    assert_eq!(
        ask(&mut cell, "ann", Revision::Version(7), quick()).unwrap_err().to_string(),
        "version 7 of ann/web is not kept: there are 1"
    );
    assert_eq!(
        ask(&mut cell, "bob", Revision::Restart, quick()).unwrap_err().to_string(),
        "user bob is neither the owner of ann/web nor admin"
    );
    cell.kill("ann", "ann/web", &[]).unwrap();
    assert_eq!(
        ask(&mut cell, "ann", Revision::Restart, quick()).unwrap_err().to_string(),
        "job ann/web is killed, and what is over does not change: submit it again"
    );
    cell.submit("ann", alloc_set("room", 1, 100, 4 * MIB));
    let action = Action::UpdateJob {
        job: "ann/room".parse().unwrap(),
        to: Revision::Restart,
        options: Box::new(quick()),
    };
    let refused = cell.apply(user("ann"), action).unwrap_err();
    assert!(refused.to_string().contains("borgctl resize"), "{refused}");
}

#[test]
fn going_back_is_paid_for_until_the_update_is_closed() {
    let (mut cell, machines) = cell(1);
    let job = run(&mut cell, web(2, |task| task.limit.cpu_milli = 300), &machines);
    let used = |cell: &Cell| {
        let used = cell.state.used_quota(&"ann".parse().unwrap(), borg_proto::Band::Production);
        used.amount().cpu_milli
    };
    assert_eq!(used(&cell), 600);
    let spec = with_task(other(&cell, job, "v2"), |task| task.limit.cpu_milli = 100);
    update(&mut cell, spec, quick()).unwrap();
    for _ in 0..2 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!((state(&cell, job).as_str(), used(&cell)), ("done", 600));
    steer(&mut cell, Steer::Close).unwrap();
    assert_eq!(used(&cell), 200);
}

#[test]
fn an_update_that_its_quota_does_not_allow_is_refused() {
    let (mut cell, machines) = cell(1);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let quota = Action::SetQuota {
        user: "ann".parse().unwrap(),
        band: borg_proto::Band::Production,
        amount: borg_proto::Resources {
            cpu_milli: 250,
            ram_bytes: 16 * MIB,
            ..borg_proto::Resources::default()
        },
        from: None,
        until: None,
        oversell: true,
    };
    cell.apply(user("admin"), quota).unwrap();
    let bands = vec![borg_proto::Band::Production];
    cell.apply(user("admin"), Action::EnforceQuota { bands, on: true }).unwrap();
    let spec = with_task(other(&cell, job, "v2"), |task| task.limit.cpu_milli = 150);
    let refused = update(&mut cell, spec, quick()).unwrap_err();
    assert!(matches!(refused, Rejection::QuotaTooSmall(_)), "{refused}");
    let spec = with_task(other(&cell, job, "v2"), |task| task.limit.cpu_milli = 125);
    update(&mut cell, spec, quick()).unwrap();
}

#[test]
fn a_rollback_takes_a_version_that_is_kept_and_old_ones_are_forgotten() {
    let (mut cell, machines) = cell(1);
    let job = run(&mut cell, web(1, |_| ()), &machines);
    for n in 2..=14 {
        let spec = other(&cell, job, &format!("v{n}"));
        update(&mut cell, spec, UpdateOptions { close: true, ..quick() }).unwrap();
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    let kept: Vec<u32> = cell.state.job(job).unwrap().versions().map(|v| v.number).collect();
    assert_eq!(kept, (4..=14).collect::<Vec<_>>());
    ask(&mut cell, "ann", Revision::Version(9), quick()).unwrap();
    let found = cell.state.job(job).unwrap();
    assert_eq!(found.spec, found.version(9).unwrap().spec);
    assert_eq!(found.head().note, "back to version 9");
}

/// Each release found a task of the array that was done, or that had failed.
#[test]
fn versions_that_only_dead_tasks_have_do_not_lock_a_job() {
    let (mut cell, machines) = cell(1);
    let spec = JobSpec { name: "web".parse().unwrap(), ..batch("web", 12, 10, 4 * MIB) };
    let job = run(&mut cell, JobSpec { max_failures: 12, ..spec }, &machines);
    for n in 0..11 {
        let task = TaskId { job, index: n };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.ended(id, None);
        let spec = other(&cell, job, &format!("v{n}"));
        let options = UpdateOptions { most: Some(Share::Percent(100)), close: true, ..quick() };
        update(&mut cell, spec, options).unwrap();
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
        assert_eq!(cell.state.audit(), []);
        assert!(cell.state.job(job).unwrap().slots_by_version().len() <= 8);
    }
    let version = |index| cell.state.job(job).unwrap().version_of(index).number;
    assert_eq!((version(10), version(11)), (11, 12), "those that are kept are told truly");
}

#[test]
fn stopped_tasks_keep_name_and_quota_and_do_not_count_as_down() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    let tell = |cell: &mut Cell, stop: bool, tasks: Option<&str>| {
        let job = "ann/web".parse().unwrap();
        let tasks = tasks.map(|tasks| tasks.parse().unwrap());
        let action =
            if stop { Action::StopTasks { job, tasks } } else { Action::StartTasks { job, tasks } };
        let applied = cell.apply(user("ann"), action).map(|applied| applied.answer);
        applied.map_err(|e| e.to_string())
    };
    assert_eq!(tell(&mut cell, true, Some("0-1")), Ok(Answer::Killed { tasks: 2 }));
    assert_eq!(shown(&cell, job), "1s 1s 1+");
    assert_eq!(cell.state.job(job).unwrap().down(), 0);
    assert_eq!(tell(&mut cell, true, Some("1")), Ok(Answer::Killed { tasks: 0 }));
    assert!(cell.place(job, 0, machines[0]).is_err());
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(
        shown(&cell, job),
        "2s 2s 2-",
        "what is stopped is of the new version when it starts"
    );
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "done");
    assert_eq!(tell(&mut cell, false, None), Ok(Answer::Killed { tasks: 2 }));
    assert_eq!(shown(&cell, job), "2. 2. 2+");
    cell.place(job, 0, machines[0]).unwrap();
    assert_eq!(
        tell(&mut cell, true, Some("7")).unwrap_err(),
        "tasks: 7 is no task of the job: it has 0 to 2"
    );
    assert_eq!(tell(&mut cell, true, None), Ok(Answer::Killed { tasks: 3 }));
    assert_eq!(cell.state.job(job).unwrap().state(), JobState::Pending);
}

#[test]
fn a_task_that_keeps_failing_gets_the_new_version_at_once_whatever_the_budget() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    for index in 0..2 {
        let task = TaskId { job, index };
        let id = cell.state.task(task).unwrap().running(task).unwrap();
        cell.ended(id, Some(FailureCause::Exit { code: 1 }));
    }
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(shown(&cell, job), "2. 2.");
    for index in 0..2 {
        cell.place(job, index, machines[0]).expect("its back-off was the old version's");
    }
    come_up(&mut cell, job);
    later(&mut cell, 1_000);
    assert_eq!(state(&cell, job), "done");
}

#[test]
fn the_death_of_a_job_ends_its_update() {
    let (mut cell, machines) = cell(2);
    let job = run(&mut cell, web(2, |_| ()), &machines);
    let spec = other(&cell, job, "v2");
    update(&mut cell, spec, quick()).unwrap();
    cell.kill("ann", "ann/web", &[]).unwrap();
    assert_eq!(state(&cell, job), "none");
    assert_eq!(cell.state.next_alarm(), None);
    let head = cell.state.job(job).unwrap().head();
    assert_eq!(
        (head.number, head.outcome.as_str()),
        (2, "the job ended in the middle of it: killed")
    );
}

#[test]
fn a_task_of_which_the_machine_no_longer_meets_the_constraints_moves() {
    let (mut cell, _) = cell(0);
    let old = cell.machine_with("old", info(1_000, 1 << 30, &[("disk", "hdd")]));
    let job = run(&mut cell, web(1, |_| ()), &[old]);
    let spec = with_task(cell.state.job(job).unwrap().spec.as_ref().clone(), |task| {
        task.constraints = vec![borg_proto::spec::Constraint {
            attribute: "disk".into(),
            op: borg_proto::spec::ConstraintOp::Equal,
            values: vec!["ssd".into()],
            soft: false,
        }];
    });
    let to = Revision::Spec(Arc::new(spec.clone()));
    let ann = "ann".parse().unwrap();
    let key = "ann/web".parse().unwrap();
    let plan = cell.state.plan_update(&ann, &key, &to, &quick(), cell.now).unwrap();
    assert!(
        matches!(&plan.effects[0], Effect::Move(why) if why == "machine old does not meet: disk = ssd"),
        "{plan:?}"
    );
    update(&mut cell, spec, quick()).unwrap();
    assert_eq!(shown(&cell, job), "2.");
}

#[test]
fn a_plan_names_tasks_that_are_new_and_those_that_stay_dead() {
    let (mut cell, machines) = cell(3);
    let job = run(&mut cell, web(3, |_| ()), &machines);
    cell.kill("ann", "ann/web", &[1]).unwrap();
    let (ann, key) = ("ann".parse().unwrap(), "ann/web".parse().unwrap());
    let plan =
        |cell: &Cell, to| cell.state.plan_update(&ann, &key, &to, &quick(), cell.now).unwrap();
    let more = plan(&cell, Revision::Tasks(5)).effects;
    let expected = [Effect::InPlace, Effect::Over, Effect::InPlace, Effect::New, Effect::New];
    assert_eq!(more, expected);
    assert_eq!(plan(&cell, Revision::Tasks(2)).effects[1..], [Effect::Over, Effect::End]);
    let spec = Arc::new(other(&cell, job, "v2"));
    assert_eq!(plan(&cell, Revision::Spec(spec.clone())).effects[1], Effect::Over);
    update(&mut cell, spec.as_ref().clone(), quick()).unwrap();
    for _ in 0..2 {
        come_up(&mut cell, job);
        later(&mut cell, 1_000);
    }
    assert_eq!(state(&cell, job), "done");
    assert!(cell.state.task(TaskId { job, index: 1 }).unwrap().is_dead(), "as the plan said");
}
