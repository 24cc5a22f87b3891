use super::*;
use crate::event::Event;
use crate::fixture::{Cell, master, service, user, with_task};
use borg_proto::command::{Action, Observation};
use borg_proto::disruption::{Disruption, Share};
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::update::{Replacement, Revision, Steer, UpdateOptions};
use borg_proto::{JobSpec, MachineName};

const MIB: u64 = 1 << 20;

/// Three machines, and a service of two tasks that serve on the first of them; none of them may be down.
fn serving() -> (Cell, JobId, [MachineId; 3]) {
    serving_as(checked("web", 2))
}

fn serving_as(spec: JobSpec) -> (Cell, JobId, [MachineId; 3]) {
    let mut cell = Cell::at_level(6);
    let machines = ["m-1", "m-2", "m-3"].map(|name| cell.machine(name, 10_000, 1 << 30));
    let spec = JobSpec { disruption: Some(at_most(0)), ..spec };
    let tasks = spec.tasks;
    let job = cell.submit("ann", spec);
    for index in 0..tasks {
        let id = cell.place(job, index, machines[0]).unwrap();
        serve(&mut cell, id);
    }
    (cell, job, machines)
}

fn checked(name: &str, tasks: u32) -> JobSpec {
    with_task(service(name, tasks, 100, 4 * MIB), |task| {
        task.ports = vec!["http".parse().unwrap()];
        task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
    })
}

fn at_most(tasks: u32) -> Disruption {
    Disruption { most: Share::Tasks(tasks), rate: None }
}

fn serve(cell: &mut Cell, id: IncarnationId) -> Vec<Event> {
    let mut events = cell.up(id);
    events.extend(cell.observe(Observation::TaskHealth { id, health: Health::Healthy }));
    events
}

fn drain(cell: &mut Cell, name: &str) {
    let action = Action::DrainMachines {
        machines: vec![name.parse().unwrap()],
        reason: "kernel".into(),
        within: Millis::from_secs(3_600),
        at_once: None,
        leaves: None,
    };
    cell.apply(user("admin"), action).unwrap();
}

fn undrain(cell: &mut Cell, name: &str) {
    let machines: Vec<MachineName> = vec![name.parse().unwrap()];
    cell.apply(user("admin"), Action::UndrainMachines { machines }).unwrap();
}

fn id(job: JobId, index: u32) -> TaskId {
    TaskId { job, index }
}

fn task(cell: &Cell, job: JobId, index: u32) -> &Task {
    cell.state.task(id(job, index)).unwrap()
}

fn on(cell: &Cell, job: JobId, index: u32) -> Option<MachineId> {
    task(cell, job, index).placement().map(|placement| placement.machine)
}

fn kinds(events: &[Event], cell: &Cell) -> Vec<String> {
    events.iter().map(|event| event.describe(&cell.state).0).collect()
}

#[test]
fn a_task_that_leaves_is_replaced_by_one_that_serves_and_nobody_is_down_meanwhile() {
    let (mut cell, job, [one, two, _]) = serving();
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    assert_eq!((next.number, on(&cell, job, 0)), (2, Some(one)));
    assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
    assert_eq!(cell.state.machine(two).unwrap().used.cpu_milli, 100);
    let waits = cell.state.stays_for(id(job, 0), cell.now).to_string();
    assert_eq!(waits, "its replacement starts on m-2");
    cell.up(next);
    assert_eq!(on(&cell, job, 0), Some(one), "it is up, and not healthy yet");
    let events = cell.observe(Observation::TaskHealth { id: next, health: Health::Healthy });
    assert_eq!(kinds(&events, &cell), ["task.preparing", "task.replaced"]);
    assert_eq!(on(&cell, job, 0), Some(two));
    let found = cell.state.job(job).unwrap();
    assert_eq!((found.down(), found.counts.serving), (0, 2));
    assert_eq!(task(&cell, job, 0).last_evict, Some(EvictCause::Drained));
    let drained = cell.state.machine(one).unwrap().drain.clone().unwrap();
    assert_eq!((drained.moved, drained.forced), (1, 0));
    assert_eq!(cell.state.runs_of(id(job, 0)).count(), 1, "the run that ended is noted");
    // The next one's turn.
    let next = cell.place(job, 1, two).unwrap();
    serve(&mut cell, next);
    assert!(cell.state.machine(one).unwrap().is_drained());
}

#[test]
fn a_process_without_a_health_check_has_to_run_for_a_while() {
    let (mut cell, job, [one, two, _]) = serving_as(service("web", 1, 100, 4 * MIB));
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    cell.up(next);
    let due = cell.now + PROVEN_AFTER;
    assert_eq!((on(&cell, job, 0), cell.state.next_alarm()), (Some(one), Some(due)));
    cell.wait(PROVEN_AFTER.0);
    cell.advance();
    assert_eq!(on(&cell, job, 0), Some(two));
}

#[test]
fn so_many_of_a_job_are_replaced_at_once_as_may_be_down_and_one_at_least() {
    let (mut cell, job, [_, two, three]) = serving_as(checked("web", 3));
    drain(&mut cell, "m-1");
    cell.place(job, 0, two).unwrap();
    let refused = cell.place(job, 1, two).unwrap_err().to_string();
    assert_eq!(
        refused,
        "task 1.1 waits: 1 tasks of ann/web are being replaced, as many as may be at once"
    );
    let again = cell.place(job, 0, three).unwrap_err().to_string();
    assert_eq!(again, "task 1.0 is being replaced already");
    let waits = cell.state.stays_for(id(job, 1), cell.now).to_string();
    assert_eq!(waits, "other tasks of ann/web are replaced first, 1 at a time");
}

#[test]
fn who_may_not_run_twice_or_has_no_budget_moves_as_before() {
    let plain = checked("web", 1);
    let low = || {
        let mut low = checked("low", 1);
        low.priority = borg_proto::Priority::new(100).unwrap();
        low
    };
    let specs = [
        JobSpec { exclusive: true, ..plain.clone() },
        JobSpec { gang: true, ..plain.clone() },
        JobSpec { concurrent: Some(1), ..plain.clone() },
        low(),
    ];
    for (number, spec) in specs.into_iter().enumerate() {
        let mut cell = Cell::at_level(6);
        let [_, two] = ["m-1", "m-2"].map(|name| cell.machine(name, 10_000, 1 << 30));
        let job = cell.submit("ann", spec);
        let first = cell.place(job, 0, MachineId(0)).unwrap();
        serve(&mut cell, first);
        drain(&mut cell, "m-1");
        let _moved = cell.place(job, 0, two);
        assert_ne!(on(&cell, job, 0), Some(MachineId(0)), "number {number} left");
        assert!(task(&cell, job, 0).successor().is_none(), "number {number}");
    }
}

#[test]
fn one_that_fails_is_tried_elsewhere_and_after_three_the_budget_decides() {
    let (mut cell, job, [one, two, three]) = serving();
    drain(&mut cell, "m-1");
    for machine in [two, three, two] {
        let next = cell.place(job, 0, machine).unwrap();
        let cause = Some(FailureCause::Exit { code: 3 });
        let events = cell.ended(next, cause);
        assert_eq!(kinds(&events, &cell), ["task.unprepared"]);
        let avoided = task(&cell, job, 0).avoids(cell.now).last().map(|crash| crash.machine);
        assert_eq!(avoided, Some(machine));
    }
    assert_eq!(on(&cell, job, 0), Some(one), "it never went away");
    assert_eq!(cell.state.job(job).unwrap().down(), 0);
    let refused = cell.place(job, 0, two).unwrap_err().to_string();
    assert!(refused.contains("the disruption budget of ann/web is 0"), "{refused}");
    cell.wait(VAIN_REST.0);
    cell.place(job, 0, two).unwrap();
    assert!(task(&cell, job, 0).successor().is_some(), "after a while it is tried again");
}

#[test]
fn one_that_does_not_serve_in_time_is_given_up() {
    let (mut cell, job, [one, two, _]) = serving();
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    cell.up(next);
    cell.wait(READY_WITHIN.0 - 1);
    cell.advance();
    assert!(task(&cell, job, 0).successor().is_some());
    cell.wait(1);
    cell.advance();
    assert!(task(&cell, job, 0).successor().is_none());
    assert_eq!(on(&cell, job, 0), Some(one));
    assert_eq!(cell.state.machine(two).unwrap().used, borg_proto::Resources::default());
}

#[test]
fn one_that_turns_unhealthy_or_restarts_is_given_up() {
    for restarts in [false, true] {
        let (mut cell, job, [_, two, _]) = serving();
        drain(&mut cell, "m-1");
        let next = cell.place(job, 0, two).unwrap();
        cell.up(next);
        if restarts {
            let until = cell.now;
            let cause = FailureCause::Exit { code: 1 };
            let change =
                Observation::TaskBackOff { id: next, until, restarts: 0, cause, run: None };
            cell.observe(change);
        } else {
            cell.observe(Observation::TaskHealth { id: next, health: Health::Unhealthy });
        }
        assert!(task(&cell, job, 0).successor().is_none());
    }
}

#[test]
fn when_the_first_is_lost_or_fails_the_successor_is_the_task_at_once() {
    let lose: [fn(&mut Cell, IncarnationId); 3] = [
        |cell, first| drop(cell.ended(first, None)),
        |cell, _| drop(cell.observe(Observation::MachineDown { machine: MachineId(0) })),
        |cell, _| {
            let machine = "m-1".parse().unwrap();
            cell.apply(user("admin"), Action::RemoveMachine { machine }).unwrap();
        },
    ];
    for lose in lose {
        let (mut cell, job, [_, two, _]) = serving();
        drain(&mut cell, "m-1");
        let next = cell.place(job, 0, two).unwrap();
        let first = IncarnationId { task: id(job, 0), number: 1 };
        lose(&mut cell, first);
        assert_eq!(task(&cell, job, 0).running(id(job, 0)), Some(next));
        assert!(task(&cell, job, 0).successor().is_none());
        serve(&mut cell, next);
        assert!(task(&cell, job, 0).placement().unwrap().serves_since.is_some());
    }
}

#[test]
fn a_machine_that_is_lost_closed_or_drained_loses_its_successors_and_nobody_is_down() {
    let leave: [fn(&mut Cell); 4] = [
        |cell| drop(cell.observe(Observation::MachineDown { machine: MachineId(1) })),
        |cell| drain(cell, "m-2"),
        |cell| {
            let machines = vec!["m-2".parse().unwrap()];
            let close = Action::CloseMachines { machines, reason: "bad disk".into() };
            cell.apply(user("admin"), close).unwrap();
        },
        |cell| {
            let machine = "m-2".parse().unwrap();
            cell.apply(user("admin"), Action::RemoveMachine { machine }).unwrap();
        },
    ];
    for leave in leave {
        let (mut cell, job, [one, two, three]) = serving();
        drain(&mut cell, "m-1");
        cell.place(job, 0, two).unwrap();
        leave(&mut cell);
        assert!(task(&cell, job, 0).successor().is_none());
        assert_eq!(on(&cell, job, 0), Some(one));
        let next = cell.place(job, 0, three).unwrap();
        serve(&mut cell, next);
        assert_eq!(on(&cell, job, 0), Some(three));
    }
}

#[test]
fn it_goes_with_its_task_and_when_nobody_leaves_any_more() {
    let end: [fn(&mut Cell); 4] = [
        |cell| assert_eq!(cell.kill("ann", "ann/web", &[]).unwrap(), 2),
        |cell| {
            let job = "ann/web".parse().unwrap();
            cell.apply(user("ann"), Action::StopTasks { job, tasks: None }).unwrap();
        },
        |cell| {
            let to = Revision::Tasks(1);
            let (job, options) = ("ann/web".parse().unwrap(), Default::default());
            cell.apply(user("ann"), Action::UpdateJob { job, to, options }).unwrap();
        },
        |cell| undrain(cell, "m-1"),
    ];
    for end in end {
        let (mut cell, job, [_, two, _]) = serving();
        drain(&mut cell, "m-1");
        cell.place(job, 1, two).unwrap();
        end(&mut cell);
        let machine = cell.state.machine(two).unwrap();
        assert_eq!((machine.told(), machine.used.cpu_milli), (0, 0));
        assert!(cell.state.task(id(job, 1)).is_none_or(|task| task.successor().is_none()));
    }
}

#[test]
fn in_safe_mode_nothing_is_prepared_and_nobody_takes_over() {
    let (mut cell, job, [one, two, _]) = serving();
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    let safe = |safe_mode| Observation::Silence { safe_mode, silent: 2, machines: 3 };
    cell.observe(safe(true));
    serve(&mut cell, next);
    assert_eq!(on(&cell, job, 0), Some(one));
    let refused = cell.place(job, 1, two).unwrap_err().to_string();
    assert!(refused.contains("safe mode"), "{refused}");
    cell.observe(safe(false));
    assert_eq!(on(&cell, job, 0), Some(two));
}

#[test]
fn at_the_deadline_of_the_drain_it_takes_over_as_it_is() {
    let (mut cell, job, [_, two, _]) = serving();
    drain(&mut cell, "m-1");
    cell.wait(3_599_000);
    let next = cell.place(job, 0, two).unwrap();
    cell.wait(1_000);
    cell.advance();
    assert_eq!(task(&cell, job, 0).running(id(job, 0)), Some(next));
    assert_eq!(on(&cell, job, 1), None, "the other one waits for a place");
}

#[test]
fn it_is_pushed_out_for_a_more_important_task_and_no_budget_is_asked() {
    let priority = borg_proto::Priority::new(100).unwrap();
    let (mut cell, job, [_, two, _]) = serving_as(JobSpec { priority, ..checked("web", 2) });
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    let high = cell.submit("bob", service("high", 1, 10_000, 4 * MIB));
    cell.place_over(high, 0, two, vec![next]).unwrap();
    assert!(task(&cell, job, 0).successor().is_none());
    assert_eq!((cell.state.job(job).unwrap().down(), cell.state.forced()), (0, 0));
}

#[test]
fn a_spread_limit_counts_a_task_once() {
    let mut spec = checked("web", 2);
    spec = with_task(spec, |task| {
        task.spread = vec![borg_proto::spec::Spread { attribute: "rack".into(), max: 2 }];
    });
    let (mut cell, job, [_, two, _]) = serving_as(spec);
    drain(&mut cell, "m-1");
    // All machines lack the attribute, so both tasks stand at the same place, which is full.
    let next = cell.place(job, 0, two).unwrap();
    serve(&mut cell, next);
    assert_eq!(cell.state.job(job).unwrap().crowd(0, ""), 2);
}

#[test]
fn a_second_leader_goes_on_from_the_state_alone() {
    let (mut cell, job, [_, two, _]) = serving();
    drain(&mut cell, "m-1");
    let next = cell.place(job, 0, two).unwrap();
    let copy = CellState::decode(&cell.state.encode()).unwrap();
    cell.state = copy;
    cell.apply(master(), Action::Lead { leader: borg_proto::ReplicaId(1), term: 9 }).unwrap();
    serve(&mut cell, next);
    assert_eq!(on(&cell, job, 0), Some(two));
}

/// The service with other arguments, of which one may be down.
fn updated(cell: &mut Cell, replacement: Replacement) -> u32 {
    let spec = with_task(checked("web", 2), |task| task.command.push("v2".into()));
    let spec = JobSpec { disruption: Some(at_most(1)), ..spec };
    let options = UpdateOptions { replacement, ..UpdateOptions::default() };
    let to = Revision::Spec(Arc::new(spec));
    let job = "ann/web".parse().unwrap();
    let action = Action::UpdateJob { job, to, options: Box::new(options) };
    let applied = cell.apply(user("ann"), action).unwrap();
    let crate::state::Answer::Version(version) = applied.answer else { panic!("{applied:?}") };
    version
}

fn update_state(cell: &Cell, job: JobId) -> String {
    let job = cell.state.job(job).unwrap();
    job.waits_for_update(job.update().unwrap(), cell.now)
}

#[test]
fn an_update_that_asks_for_it_starts_each_task_elsewhere_first() {
    let (mut cell, job, [_, two, three]) = serving();
    let version = updated(&mut cell, Replacement::First);
    assert_eq!(update_state(&cell, job), "task 0 waits for room for its replacement");
    assert_eq!(cell.state.awaits_successor(id(job, 0)), Some(version));
    assert_eq!(cell.state.awaits_successor(id(job, 1)), None, "one at a time");
    for (index, machine) in [(0, two), (1, three)] {
        let next = cell.place(job, index, machine).unwrap();
        let started = format!("the replacement of task {index} has to serve first");
        assert_eq!(update_state(&cell, job), started);
        serve(&mut cell, next);
        assert_eq!(task(&cell, job, index).version, 1, "not for long enough yet");
        cell.wait(10_000);
        cell.advance();
        assert_eq!((task(&cell, job, index).version, on(&cell, job, index)), (2, Some(machine)));
        assert_eq!(cell.state.job(job).unwrap().down(), 0);
    }
    assert!(update_state(&cell, job).starts_with("done"));
    assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
}

#[test]
fn without_room_for_a_minute_a_task_starts_anew_where_it_is_within_the_budget() {
    let (mut cell, job, [one, ..]) = serving();
    updated(&mut cell, Replacement::First);
    cell.wait(59_999);
    cell.advance();
    assert_eq!((cell.state.job(job).unwrap().down(), task(&cell, job, 0).version), (0, 1));
    cell.wait(1);
    cell.advance();
    assert_eq!((on(&cell, job, 0), task(&cell, job, 0).version), (Some(one), 2));
    assert_eq!(cell.state.job(job).unwrap().down(), 1);
}

#[test]
fn a_replacement_that_fails_is_a_bad_release() {
    let (mut cell, job, [one, two, _]) = serving();
    updated(&mut cell, Replacement::First);
    let next = cell.place(job, 0, two).unwrap();
    let events = cell.ended(next, Some(FailureCause::Exit { code: 3 }));
    assert!(kinds(&events, &cell).contains(&"job.update-rolls-back".to_owned()));
    let found = cell.state.job(job).unwrap();
    assert_eq!((found.down(), on(&cell, job, 0)), (0, Some(one)), "nobody noticed");
    let outcome = found.version(2).unwrap().outcome.clone();
    assert_eq!(outcome, "rolled back: task 0 failed to be replaced: exit code 3");
}

#[test]
fn a_paused_update_has_no_replacements_and_begins_again_with_them() {
    let (mut cell, job, [_, two, _]) = serving();
    updated(&mut cell, Replacement::First);
    cell.place(job, 0, two).unwrap();
    let steer = |verb| Action::SteerUpdate { job: "ann/web".parse().unwrap(), verb };
    cell.apply(user("ann"), steer(Steer::Pause)).unwrap();
    assert_eq!(cell.state.machine(two).unwrap().told(), 0);
    cell.apply(user("ann"), steer(Steer::Resume)).unwrap();
    assert_eq!(cell.state.awaits_successor(id(job, 0)), Some(2));
}

#[test]
fn unless_it_says_otherwise_an_update_replaces_first_who_cannot_stay() {
    for (replacement, awaits) in [(Replacement::ForMoves, true), (Replacement::InPlace, false)] {
        let (mut cell, job, _) = serving();
        // The machine is full but for what the two tasks have.
        let full = cell.submit("bob", service("full", 1, 9_800, 4 * MIB));
        cell.place(full, 0, MachineId(0)).unwrap();
        let spec = with_task(checked("web", 2), |task| task.limit.cpu_milli = 300);
        let spec = JobSpec { disruption: Some(at_most(1)), ..spec };
        let options = Box::new(UpdateOptions { replacement, ..UpdateOptions::default() });
        let (job_key, to) = ("ann/web".parse().unwrap(), Revision::Spec(Arc::new(spec)));
        cell.apply(user("ann"), Action::UpdateJob { job: job_key, to, options }).unwrap();
        assert_eq!(cell.state.awaits_successor(id(job, 0)).is_some(), awaits);
        assert_eq!(cell.state.job(job).unwrap().down(), u32::from(!awaits));
    }
}
