//! What a machine does about what its tasks use, and about how they are.

use super::*;
use crate::{ProbeAt, ProbeFailure};
use borg_proto::health::{Health, HealthCheck, Probe};
use borg_proto::spec::TaskSpec;
use borg_proto::task::{RunEnd, Shortage};
use borg_proto::{AppClass, Priority};

const MIB: u64 = 1 << 20;

fn task(job: u64, restart: bool, change: impl FnOnce(&mut TaskSpec)) -> TargetTask {
    let mut task = target_task(job, 0, restart);
    change(Arc::make_mut(&mut task.spec));
    task
}

/// A machine with 1000 MiB for tasks, a reserve of 100 MiB, and these tasks up.
fn machine(tasks: &[&TargetTask]) -> Bench {
    let mut config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 77);
    (config.memory_reserve, config.disk_reserve) = (100 * MIB, 100 * MIB);
    let mut info = info();
    info.capacity.ram_bytes = 1_000 * MIB;
    let supervisor = Supervisor::new(config, fence(1, 1, 0), Vec::new(), info);
    let mut bench = Bench::of(supervisor);
    bench.order(1, tasks);
    for task in tasks {
        bench.start(task.id, 0, 7);
    }
    bench
}

/// One second, with so much memory and disk left, and the tasks at these uses.
fn second(b: &mut Bench, left: (u64, u64), uses: &[(&TargetTask, Usage, u64)]) -> Vec<Effect> {
    b.now = b.now + Millis(1_000);
    let machine = MachineUse {
        memory_available: Some(left.0),
        disk_available: Some(left.1),
        ..MachineUse::default()
    };
    let tasks =
        uses.iter().map(|(task, usage, files)| (task.id, TaskUse { usage: *usage, files: *files }));
    b.input(Input::Usage { machine, tasks: tasks.collect() })
}

fn ram(mib: u64) -> Usage {
    Usage { ram_bytes: mib * MIB, ..Usage::default() }
}

fn disk(mib: u64) -> Usage {
    Usage { disk_bytes: mib * MIB, ..Usage::default() }
}

const PLENTY: (u64, u64) = (u64::MAX, u64::MAX);

#[test]
fn a_task_found_over_its_disk_limit_is_killed_and_the_cause_has_the_figures() {
    let over = task(1, false, |spec| spec.limit.disk_bytes = 10 * MIB);
    let fine = task(2, false, |spec| spec.limit.disk_bytes = 10 * MIB);
    let none = task(3, false, |spec| spec.limit.disk_bytes = 0);
    let mut b = machine(&[&over, &fine, &none]);
    let uses = [(&over, disk(14), 1), (&fine, disk(10), 1), (&none, disk(500), 1)];
    let first = second(&mut b, PLENTY, &uses);
    assert_eq!(first, [Effect::Kill { run: run(over.id, 0) }]);
    assert_eq!(second(&mut b, PLENTY, &uses), [], "once is enough");
    b.exit(over.id, 0, Some(FailureCause::Signal { signal: 9 }));
    let cause = FailureCause::DiskLimit { limit_bytes: 10 * MIB, used_bytes: 14 * MIB };
    assert_eq!(cause.to_string(), "disk limit 10 MiB exceeded, used 14 MiB");
    assert_eq!(b.status(over.id), Some(TaskStatus::Ended { at: b.now, failure: Some(cause) }));
}

#[test]
fn too_many_files_end_a_task_as_too_many_bytes_do() {
    let over = task(1, false, |spec| spec.limit.disk_bytes = 16 << 20);
    let mut b = machine(&[&over]);
    assert_eq!(second(&mut b, PLENTY, &[(&over, disk(1), 101_024)]), []);
    let killed = second(&mut b, PLENTY, &[(&over, disk(1), 101_025)]);
    assert_eq!(killed, [Effect::Kill { run: run(over.id, 0) }]);
    b.exit(over.id, 0, Some(FailureCause::Signal { signal: 9 }));
    let cause = FailureCause::FileLimit { limit: 101_024, used: 101_025 };
    assert_eq!(b.status(over.id), Some(TaskStatus::Ended { at: b.now, failure: Some(cause) }));
}

/// A kill takes time: what is being freed already is not freed twice.
#[test]
fn a_machine_short_of_memory_gives_up_who_is_over_its_limit_and_no_more_than_that() {
    let soft = task(1, true, |spec| spec.limit.ram_bytes = 50 * MIB);
    let fine = task(2, true, |spec| spec.limit.ram_bytes = 50 * MIB);
    let mut b = machine(&[&soft, &fine]);
    let uses = [(&soft, ram(300), 0), (&fine, ram(50), 0)];
    assert_eq!(second(&mut b, (100 * MIB, 0), &uses[..0]).len(), 0, "just enough is left");
    let killed = second(&mut b, (40 * MIB, u64::MAX), &uses);
    assert_eq!(killed, [Effect::Kill { run: run(soft.id, 0) }]);
    assert_eq!(second(&mut b, (40 * MIB, u64::MAX), &uses), [], "it is on its way");
    b.exit(soft.id, 0, Some(FailureCause::Signal { signal: 9 }));
    let (limit_bytes, used_bytes) = (50 * MIB, 300 * MIB);
    let cause = FailureCause::Short { of: Shortage::Memory, limit_bytes, used_bytes };
    assert_eq!(cause.to_string(), "machine short of memory, used 300 MiB of a limit of 50 MiB");
    let ended = TaskStatus::Ended { at: b.now, failure: Some(cause) };
    assert_eq!(b.status(soft.id), Some(ended), "not started again where there is no room");
}

/// It gives back what it has; nobody else has to go for that, and it has no minutes left for it.
#[test]
fn who_was_asked_to_end_makes_room_for_a_machine_that_is_short() {
    let leaves = task(1, true, |spec| {
        spec.limit.ram_bytes = 50 * MIB;
        spec.grace_ms = Millis(600_000);
    });
    let stays = task(2, true, |spec| spec.limit.ram_bytes = 50 * MIB);
    let mut b = machine(&[&leaves, &stays]);
    let uses = [(&leaves, ram(80), 0), (&stays, ram(50), 0)];
    second(&mut b, PLENTY, &uses);
    assert_eq!(work(b.order(2, &[&stays])), [Effect::Terminate { run: run(leaves.id, 0) }]);
    assert_eq!(second(&mut b, (40 * MIB, u64::MAX), &uses), []);
    assert_eq!(work(b.later(4_999)), []);
    assert_eq!(work(b.later(1)), [Effect::Kill { run: run(leaves.id, 0) }]);
}

#[test]
fn what_tasks_use_beyond_the_room_for_tasks_counts_as_short() {
    let mut low = task(1, false, |spec| spec.limit.ram_bytes = 600 * MIB);
    low.priority = Priority::new(0).unwrap();
    let high = task(2, false, |spec| spec.limit.ram_bytes = 600 * MIB);
    let mut b = machine(&[&low, &high]);
    assert_eq!(second(&mut b, PLENTY, &[(&low, ram(500), 0), (&high, ram(500), 0)]), []);
    let killed = second(&mut b, PLENTY, &[(&low, ram(501), 0), (&high, ram(500), 0)]);
    assert_eq!(killed, [Effect::Kill { run: run(low.id, 0) }]);
}

#[test]
fn a_full_disk_costs_those_first_who_asked_for_none() {
    let asked = task(1, false, |spec| spec.limit.disk_bytes = 1_000 * MIB);
    let none = task(2, false, |spec| spec.limit.disk_bytes = 0);
    let mut b = machine(&[&asked, &none]);
    let killed =
        second(&mut b, (u64::MAX, 99 * MIB), &[(&asked, disk(900), 0), (&none, disk(2), 0)]);
    assert_eq!(killed, [Effect::Kill { run: run(none.id, 0) }]);
}

#[test]
fn who_finished_before_the_kill_came_has_finished() {
    let over = task(1, false, |spec| spec.limit.disk_bytes = MIB);
    let mut b = machine(&[&over]);
    assert_eq!(second(&mut b, PLENTY, &[(&over, disk(2), 0)]).len(), 1);
    b.exit(over.id, 0, None);
    assert_eq!(b.status(over.id), Some(TaskStatus::Ended { at: b.now, failure: None }));
}

#[test]
fn a_greedy_task_is_capped_for_starving_batch_and_never_above_its_own_cap() {
    let mut spinner = task(1, true, |spec| spec.cpu_cap_milli = Some(1_900));
    spinner.appclass = AppClass::LatencySensitive;
    let batch = task(2, false, |_| {});
    let mut b = machine(&[&spinner, &batch]);
    let mut told = Vec::new();
    for _ in 0..6 {
        b.now = b.now + Millis(1_000);
        let machine =
            MachineUse { cpu_milli: Some(2_000), cpu_idle_milli: Some(0), ..MachineUse::default() };
        let cpu = |cpu_milli| TaskUse { usage: Usage { cpu_milli, ..Usage::default() }, files: 0 };
        let tasks = vec![(spinner.id, cpu(1_900)), (batch.id, cpu(0))];
        told.extend(b.input(Input::Usage { machine, tasks }));
    }
    let spinner_run = run(spinner.id, 0);
    assert_eq!(told, [Effect::CapCpu { run: spinner_run, cap_milli: Some(1_800) }]);
}

#[test]
fn a_cap_that_an_earlier_process_left_is_taken_off() {
    let service = target_task(1, 0, true);
    let found = Adopted {
        run: run(service.id, 0),
        since: Millis(1),
        grace: Millis(1),
        ports: Vec::new(),
        address: None,
        task: None,
        end: None,
        failures: 0,
        layers: Vec::new(),
        state: AdoptedState::Running { pid: 7 },
    };
    let mut b = bench(vec![found]);
    let machine =
        MachineUse { cpu_milli: Some(1), cpu_idle_milli: Some(1), ..MachineUse::default() };
    let look = Input::Usage { machine, tasks: Vec::new() };
    assert_eq!(b.input(look.clone()), [], "whose it is is not known yet");
    b.order(1, &[&service]);
    let off = Effect::CapCpu { run: run(service.id, 0), cap_milli: None };
    let share = Effect::ShareCpu {
        run: run(service.id, 0),
        cpu_milli: service.spec.limit.cpu_milli.max(1),
        appclass: service.appclass,
        priority: service.priority,
    };
    assert_eq!(b.input(look.clone()), [off, share], "nor what it weighs");
    assert_eq!(b.input(look), []);
}

#[test]
fn who_is_not_prod_weighs_only_what_the_machine_has_beside_prod() {
    let limit = |cpu_milli| move |spec: &mut TaskSpec| spec.limit.cpu_milli = cpu_milli;
    let mut prod = task(1, true, limit(300));
    prod.priority = Priority::new(200).unwrap();
    let (one, other) = (task(2, false, limit(200)), task(3, false, limit(400)));
    let mut b = machine(&[&prod, &one, &other]);
    b.supervisor.info.capacity.cpu_milli = 450;
    let told = second(&mut b, PLENTY, &[]);
    let share = |of: &TargetTask, cpu_milli| Effect::ShareCpu {
        run: run(of.id, 0),
        cpu_milli,
        appclass: of.appclass,
        priority: of.priority,
    };
    assert_eq!(told, [share(&one, 50), share(&other, 100)], "a quarter of their limits");
    assert_eq!(second(&mut b, PLENTY, &[]), [], "that is no news");
    b.order(2, &[&one, &other]);
    b.exit(prod.id, 0, Some(FailureCause::Signal { signal: 15 }));
    assert_eq!(second(&mut b, PLENTY, &[]), [share(&one, 200), share(&other, 400)]);
}

fn served() -> TargetTask {
    let mut served = task(1, true, |spec| {
        spec.ports = vec!["http".parse().unwrap()];
        let probe = Probe::Http { port: "http".parse().unwrap(), path: "/ok".into() };
        let mut check = HealthCheck::new(probe);
        (check.grace_ms, check.interval_ms) = (Millis(2_000), Millis(1_000));
        check.failures = 2;
        spec.health = Some(check);
    });
    served.ports = vec![8_080];
    served
}

fn probes(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Probe { .. })).count()
}

fn health(b: &Bench, id: IncarnationId) -> Health {
    let report = b.supervisor.report().1;
    report.tasks.iter().find(|task| task.id == id).unwrap().health
}

#[test]
fn an_unhealthy_service_is_asked_to_end_then_killed_and_started_again_with_the_cause() {
    let served = served();
    let mut b = bench(vec![]);
    b.order(1, &[&served]);
    let first = b.start(served.id, 0, 7);
    let (now_run, timeout) = (run(served.id, 0), Millis(1_000));
    let probe = ProbeAt::Http { port: 8_080, path: "/ok".into() };
    assert_eq!(work(first), [Effect::Probe { run: now_run, probe, timeout }]);
    assert_eq!(health(&b, served.id), Health::Starting);
    b.input(Input::Probed { run: now_run, result: Ok(()) });
    assert_eq!(health(&b, served.id), Health::Healthy);

    b.later(1_000);
    b.input(Input::Probed { run: now_run, result: Err("HTTP 500".into()) });
    assert_eq!(health(&b, served.id), Health::Healthy, "one failure of two");
    assert_eq!(probes(&b.later(1_000)), 1);
    let failure = ProbeFailure { why: "HTTP 500".into(), wrote: "no such table".into() };
    let ending = b.input(Input::Probed { run: now_run, result: Err(failure) });
    assert_eq!(work(ending), [], "it leaves its name first");
    assert_eq!(health(&b, served.id), Health::Unhealthy, "seen before it ends");
    assert_eq!(work(b.later(4_999)), []);
    assert_eq!(work(b.later(1)), [Effect::Terminate { run: now_run }], "though nobody heard");
    assert_eq!(work(b.later(5_000)), [Effect::Kill { run: now_run }], "after its grace");
    let end = RunEnd {
        run: 0,
        started: None,
        ended: b.now,
        failure: None,
        cpu_ms: 0,
        ram_peak_bytes: 0,
        last_lines: "bye".into(),
    };
    b.input(Input::RunEnded { id: served.id, end: Arc::new(end) });
    b.exit(served.id, 0, None);
    assert!(matches!(b.status(served.id), Some(TaskStatus::BackOff { .. })));
    let report = b.supervisor.report().1.tasks.remove(0);
    let (last, end) = (report.last_failure.unwrap(), report.last_run.unwrap());
    assert_eq!(last.to_string(), "unhealthy: http http /ok: HTTP 500", "all may see it");
    assert_eq!(end.last_lines, "bye\nhealth check: no such table", "not all may");
    assert_eq!(starts(&b.later(1_000)), [run(served.id, 1)]);
    assert_eq!(health(&b, served.id), Health::Unchecked);
    assert_eq!(probes(&b.start(served.id, 1, 8)), 1, "and all begins anew");
}

#[test]
fn a_change_of_health_is_news_to_whoever_waits() {
    let served = served();
    let mut b = bench(vec![]);
    b.order(1, &[&served]);
    b.start(served.id, 0, 7);
    let request = patient(&b, fence(1, 1, 1));
    assert_eq!(b.poll(request), []);
    let told = b.input(Input::Probed { run: run(served.id, 0), result: Ok(()) });
    let [(_, Ok(answer))] = answers(&told)[..] else { panic!("{told:?}") };
    assert_eq!(answer.report.tasks[0].health, Health::Healthy);
}

#[test]
fn a_probe_whose_answer_never_comes_has_failed() {
    let served = served();
    let mut b = bench(vec![]);
    b.order(1, &[&served]);
    b.start(served.id, 0, 7);
    let run = run(served.id, 0);
    assert_eq!(work(b.later(60_000)), [], "it waits for its turn, which is not its fault");
    b.input(Input::ProbeBegun { run });
    b.later(6_000);
    b.later(1_000);
    b.input(Input::ProbeBegun { run });
    b.later(6_000);
    assert_eq!(health(&b, served.id), Health::Unhealthy);
    assert_eq!(work(b.later(5_000)), [Effect::Terminate { run }]);
}

/// A task of which both of two probes failed.
fn unhealthy(change: impl FnOnce(&mut TargetTask)) -> (Bench, TargetTask, Vec<Effect>) {
    let mut served = served();
    change(&mut served);
    let mut b = bench(vec![]);
    b.order(1, &[&served]);
    b.start(served.id, 0, 7);
    let failed = || Input::Probed { run: run(served.id, 0), result: Err("no".into()) };
    b.input(Input::Probed { run: run(served.id, 0), result: Ok(()) });
    b.later(1_000);
    b.input(failed());
    b.later(1_000);
    let ending = b.input(failed());
    assert_eq!(health(&b, served.id), Health::Unhealthy);
    (b, served, ending)
}

/// The masters take it out of its name, and who asked DNS just before forgets that.
#[test]
fn an_unhealthy_task_is_ended_two_seconds_after_the_masters_heard_of_it() {
    let (mut b, served, ending) = unhealthy(|_| ());
    assert_eq!(work(ending), []);
    let request = patient(&b, fence(1, 1, 1));
    let early = borg_proto::poll::ReportVersion { number: request.seen.number - 1, ..request.seen };
    b.later(500);
    b.poll(PollRequest { seen: early, ..request.clone() });
    b.poll(PollRequest {
        seen: borg_proto::poll::ReportVersion { session: 1, ..early },
        ..request.clone()
    });
    b.later(500);
    b.poll(request.clone());
    b.later(1_000);
    b.poll(request);
    assert_eq!(work(b.later(999)), []);
    assert_eq!(work(b.later(1)), [Effect::Terminate { run: run(served.id, 0) }]);
    assert_eq!(work(b.later(5_000)), [Effect::Kill { run: run(served.id, 0) }], "after its grace");
}

#[test]
fn an_unhealthy_task_that_nobody_calls_is_asked_to_end_at_once() {
    let (_, served, ending) = unhealthy(|task| {
        task.ports = Vec::new();
        let mut spec = (*task.spec).clone();
        spec.ports = Vec::new();
        spec.health = spec
            .health
            .map(|check| HealthCheck { probe: Probe::Command(vec!["true".into()]), ..check });
        task.spec = spec.into();
    });
    assert_eq!(work(ending), [Effect::Terminate { run: run(served.id, 0) }]);
}

#[test]
fn a_task_that_ends_while_its_callers_leave_has_ended_for_being_unhealthy() {
    let (mut b, served, _) = unhealthy(|_| ());
    b.exit(served.id, 0, None);
    let report = b.supervisor.report().1.tasks.remove(0);
    assert_eq!(report.last_failure.unwrap().to_string(), "unhealthy: http http /ok: no");
    assert_eq!(starts(&b.later(1_000)), [run(served.id, 1)]);
}

#[test]
fn a_machine_in_need_ends_at_once_what_its_callers_are_still_leaving() {
    let (mut b, served, _) = unhealthy(|_| ());
    b.supervisor.config.memory_reserve = 100;
    let machine = MachineUse { memory_available: Some(0), ..MachineUse::default() };
    let uses = TaskUse { usage: Usage { ram_bytes: 1 << 40, ..Usage::default() }, files: 0 };
    let ending = b.input(Input::Usage { machine, tasks: vec![(served.id, uses)] });
    assert_eq!(work(ending), [Effect::Kill { run: run(served.id, 0) }]);
    assert!(!work(b.later(4_999)).contains(&Effect::Terminate { run: run(served.id, 0) }));
}

#[test]
fn an_adopted_task_is_probed_as_soon_as_the_target_has_it() {
    let served = served();
    let found = Adopted {
        run: run(served.id, 0),
        since: Millis(1),
        grace: Millis(1),
        ports: vec![8_080],
        address: None,
        task: None,
        end: None,
        failures: 0,
        layers: Vec::new(),
        state: AdoptedState::Running { pid: 7 },
    };
    let mut b = bench(vec![found]);
    assert_eq!(b.later(60_000), []);
    assert_eq!(probes(&b.order(1, &[&served])), 1);
}

#[test]
fn a_task_that_the_target_drops_is_probed_no_more() {
    let served = served();
    let mut b = bench(vec![]);
    b.order(1, &[&served]);
    b.start(served.id, 0, 7);
    b.order(2, &[]);
    assert_eq!(b.input(Input::Probed { run: run(served.id, 0), result: Err("no".into()) }), []);
    assert_eq!(work(b.later(5_000)), [Effect::Kill { run: run(served.id, 0) }]);
    b.exit(served.id, 0, None);
    assert_eq!(b.supervisor.report().1.tasks, []);
}

/// No master has been heard of yet.
#[test]
fn what_an_earlier_process_knew_of_a_task_is_enough_to_go_on_with_it() {
    let (service, probed) = (target_task(2, 0, true), served());
    let mut exclusive = target_task(3, 0, true);
    exclusive.exclusive = true;
    let found = |task: &TargetTask, state| Adopted {
        run: run(task.id, 2),
        since: Millis(1),
        grace: Millis(1),
        ports: task.ports.clone(),
        address: None,
        task: Some(task.clone()),
        end: None,
        failures: 0,
        layers: Vec::new(),
        state,
    };
    let over = AdoptedState::Ended { at: Millis(5), failure: None };
    let mut b = bench(vec![
        found(&service, over.clone()),
        found(&probed, AdoptedState::Running { pid: 7 }),
        found(&exclusive, over),
    ]);
    assert_eq!(probes(&b.later(0)), 1);
    assert!(matches!(b.status(service.id), Some(TaskStatus::BackOff { .. })));
    assert!(
        matches!(b.status(exclusive.id), Some(TaskStatus::Ended { .. })),
        "never without masters"
    );
    assert_eq!(starts(&b.later(1_000)), [run(service.id, 3)]);
    // And the first target counts as ever.
    let end = work(b.order(1, &[&service]));
    let ends = [Effect::Terminate { run: run(probed.id, 2) }, Effect::Remove { id: exclusive.id }];
    assert_eq!(end, ends);
}
