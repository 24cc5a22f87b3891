//! Sentences about one machine.

mod data;
mod packages;

use crate::fixture::{fence, poll, target_task};
use crate::{
    Adopted, AdoptedState, Config, Effect, Input, MachineUse, NextRun, Run, Supervisor, TaskUse,
};
use borg_proto::package::Digest;
use borg_proto::poll::{
    AnswerStamp, Fence, PollAnswer, PollRefusal, PollRequest, Target, TargetDigest, TargetTask,
    TaskStatus, Usage,
};
use borg_proto::task::RunEnd;
use borg_proto::{FailureCause, IncarnationId, MachineInfo, Millis, Resources};
use std::collections::BTreeMap;
use std::sync::Arc;

#[path = "tests/resources.rs"]
mod resources;

struct Bench {
    supervisor: Supervisor,
    now: Millis,
    token: u64,
    /// The numbers of the newest orders about blobs.
    orders: BTreeMap<Digest, u64>,
}

fn info() -> MachineInfo {
    MachineInfo {
        capacity: Resources::default(),
        first_port: 1,
        attributes: BTreeMap::new(),
        boot_id: String::new(),
        missing_isolation: Vec::new(),
        task_host: "h".into(),
    }
}

fn bench(adopted: Vec<Adopted>) -> Bench {
    let config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 77);
    let supervisor = Supervisor::new(config, fence(1, 1, 0), adopted, info());
    Bench::of(supervisor)
}

fn run(id: IncarnationId, number: u32) -> Run {
    Run { id, number }
}

impl Bench {
    fn of(supervisor: Supervisor) -> Self {
        Self { supervisor, now: Millis(1_000_000), token: 0, orders: BTreeMap::new() }
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.supervisor.handle(self.now, input);
        self.orders.extend(effects.iter().filter_map(blob_order));
        effects
    }

    fn later(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now + Millis(ms);
        self.input(Input::Tick)
    }

    fn poll(&mut self, request: PollRequest) -> Vec<Effect> {
        self.token += 1;
        let token = self.token;
        self.input(Input::Poll { token, request })
    }

    fn order(&mut self, generation: u64, tasks: &[&TargetTask]) -> Vec<Effect> {
        self.poll(poll(fence(1, 1, generation), Some(tasks.iter().copied().cloned().collect())))
    }

    fn start(&mut self, id: IncarnationId, number: u32, pid: u32) -> Vec<Effect> {
        let since = self.now;
        self.input(Input::Started { run: run(id, number), pid, since, address: None })
    }

    fn exit(
        &mut self,
        id: IncarnationId,
        number: u32,
        failure: Option<FailureCause>,
    ) -> Vec<Effect> {
        let at = self.now;
        self.input(Input::Exited { run: run(id, number), at, failure })
    }

    fn status(&self, id: IncarnationId) -> Option<TaskStatus> {
        self.supervisor
            .report()
            .1
            .tasks
            .into_iter()
            .find(|task| task.id == id)
            .map(|task| task.status)
    }
}

/// The blob that an effect is about, and the number of the order.
fn blob_order(effect: &Effect) -> Option<(Digest, u64)> {
    match effect {
        Effect::ExpectBlob { digest, order, .. } | Effect::FetchBlob { digest, order, .. } => {
            Some((*digest, *order))
        }
        Effect::Unpack { layer, order } => Some((layer.digest, *order)),
        _ => None,
    }
}

/// What a task uses, on a machine of which nothing else is known.
fn usage(id: IncarnationId, usage: Usage) -> Input {
    let tasks = vec![(id, TaskUse { usage, files: 0 })];
    Input::Usage { machine: MachineUse::default(), tasks }
}

/// The effects other than answers.
fn work(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Answer { .. })).collect()
}

fn answers(effects: &[Effect]) -> Vec<(u64, &Result<PollAnswer, PollRefusal>)> {
    let answer = |effect| match effect {
        &Effect::Answer { token, ref result } => Some((token, result)),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

fn starts(effects: &[Effect]) -> Vec<Run> {
    let start = |effect: &Effect| match effect {
        Effect::Start(launch) => Some(launch.run),
        _ => None,
    };
    effects.iter().filter_map(start).collect()
}

#[test]
fn a_batch_task_runs_once_and_its_end_is_reported_until_the_target_drops_it() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    assert_eq!(starts(&b.order(1, &[&task])), [run(task.id, 0)]);
    assert_eq!(b.status(task.id), Some(TaskStatus::Starting));
    b.start(task.id, 0, 42);
    assert_eq!(b.status(task.id), Some(TaskStatus::Up { pid: 42, since: b.now }));
    b.exit(task.id, 0, None);
    let ended = Some(TaskStatus::Ended { at: b.now, failure: None });
    assert_eq!(b.status(task.id), ended);
    assert_eq!(work(b.order(2, &[&task])), []);
    assert_eq!(b.status(task.id), ended);
    assert_eq!(work(b.order(3, &[])), [Effect::Remove { id: task.id }]);
    assert_eq!(b.status(task.id), None);
}

#[test]
fn a_service_is_started_again_with_growing_waits_and_given_up_after_five_restarts() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, true);
    b.order(1, &[&task]);
    for (number, wait) in [1_000, 2_000, 4_000, 8_000, 16_000].into_iter().enumerate() {
        let number = u32::try_from(number).unwrap();
        b.start(task.id, number, 42);
        assert_eq!(b.exit(task.id, number, None), []);
        assert_eq!(b.status(task.id), Some(TaskStatus::BackOff { until: b.now + Millis(wait) }));
        assert_eq!(b.supervisor.next_wakeup(), Some(b.now + Millis(wait)));
        assert_eq!(b.later(wait - 1), []);
        assert_eq!(starts(&b.later(1)), [run(task.id, number + 1)]);
    }
    b.start(task.id, 5, 42);
    b.exit(task.id, 5, Some(FailureCause::Signal { signal: 9 }));
    let failure = Some(FailureCause::Signal { signal: 9 });
    assert_eq!(b.status(task.id), Some(TaskStatus::Ended { at: b.now, failure }));
    assert_eq!(b.later(600_000), []);
}

/// It is replaced more often than a service fails six times.
#[test]
fn failures_in_a_row_count_over_restarts_of_the_borglet() {
    let service = target_task(1, 0, true);
    let running = AdoptedState::Running { pid: 7 };
    let since = Millis(1_000_000);
    let mut b = bench(vec![Adopted { failures: 5, since, ..found(&service, 5, running) }]);
    b.order(1, &[&service]);
    b.exit(service.id, 5, Some(FailureCause::Exit { code: 1 }));
    assert!(matches!(b.status(service.id), Some(TaskStatus::Ended { .. })), "that was the sixth");

    let mut b = bench(vec![]);
    let next = BTreeMap::from([(service.id, NextRun { number: 4, failures: 4 })]);
    b.supervisor = b.supervisor.with_runs(next);
    let effects = b.order(1, &[&service]);
    assert_eq!(starts(&effects), [run(service.id, 4)]);
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Start(launch) => Some(launch.failures),
        _ => None,
    });
    assert_eq!(told, Some(4), "the next borglet is told as well");
}

#[test]
fn failures_before_a_minute_of_steady_work_are_forgiven() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, true);
    b.order(1, &[&task]);
    for number in 0..20 {
        b.start(task.id, number, 42);
        b.later(60_000);
        b.exit(task.id, number, None);
        assert_eq!(b.status(task.id), Some(TaskStatus::BackOff { until: b.now + Millis(1_000) }));
        b.later(1_000);
    }
}

#[test]
fn what_cannot_start_ends_at_once_with_its_cause() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, true);
    b.order(1, &[&task]);
    let cause = FailureCause::PortTaken { port: 80 };
    b.input(Input::StartFailed { run: run(task.id, 0), cause: cause.clone() });
    assert_eq!(b.status(task.id), Some(TaskStatus::Ended { at: b.now, failure: Some(cause) }));
    assert_eq!(b.later(600_000), []);
}

/// A shard takes two reports of one version for the same.
#[test]
fn what_is_told_of_an_end_is_reported_with_the_end_and_not_before() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    b.order(1, &[&task]);
    b.start(task.id, 0, 42);
    let before = b.supervisor.report();
    let failure = Some(FailureCause::Exit { code: 3 });
    let end = Arc::new(RunEnd {
        run: 0,
        started: Some(b.now),
        ended: b.now,
        failure: failure.clone(),
        cpu_ms: 5,
        ram_peak_bytes: 7,
        last_lines: "no such table".to_owned(),
    });
    b.input(Input::RunEnded { id: task.id, end: Arc::clone(&end) });
    assert_eq!(b.supervisor.report(), before);
    b.exit(task.id, 0, failure);
    let (version, report) = b.supervisor.report();
    assert_eq!(report.tasks[0].last_run, Some(end));
    assert!(version > before.0);
}

#[test]
fn a_task_that_the_target_drops_is_asked_then_killed_then_forgotten() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    b.order(1, &[&task]);
    b.start(task.id, 0, 42);
    assert_eq!(work(b.order(2, &[])), [Effect::Terminate { run: run(task.id, 0) }]);
    assert_eq!(b.status(task.id), Some(TaskStatus::Stopping));
    assert_eq!(b.later(4_999), []);
    assert_eq!(b.later(1), [Effect::Kill { run: run(task.id, 0) }]);
    assert_eq!(b.later(5_000), [Effect::Kill { run: run(task.id, 0) }]);
    let gone = b.exit(task.id, 0, Some(FailureCause::Signal { signal: 9 }));
    assert_eq!(gone, [Effect::Remove { id: task.id }]);
    assert_eq!(b.status(task.id), None);
}

#[test]
fn a_task_that_is_dropped_while_it_starts_is_stopped_once_it_is_there() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    b.order(1, &[&task]);
    assert_eq!(work(b.order(2, &[])), []);
    assert_eq!(b.start(task.id, 0, 42), [Effect::Terminate { run: run(task.id, 0) }]);
}

#[test]
fn an_order_older_than_the_newest_obeyed_changes_nothing() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    b.poll(poll(fence(3, 2, 5), Some(vec![task.clone()])));
    for old in
        [fence(3, 2, 4), fence(3, 1, 9), fence(2, 9, 9), Fence { epoch: 0, ..fence(9, 9, 9) }]
    {
        let effects = b.poll(poll(old, Some(vec![])));
        let refusal = PollRefusal::Stale { asked: old, obeyed: fence(3, 2, 5) };
        assert_eq!(effects, [Effect::Answer { token: b.token, result: Err(refusal) }]);
    }
    assert_eq!(b.status(task.id), Some(TaskStatus::Starting));
}

#[test]
fn a_new_session_is_remembered_before_its_orders_are_obeyed() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    let effects = b.poll(poll(fence(2, 1, 1), Some(vec![task.clone()])));
    assert_eq!(effects[0], Effect::RememberFence(fence(2, 1, 1)));
    assert!(matches!(effects[1], Effect::Start(_)));
    // A generation within the session is not remembered.
    let effects = b.poll(poll(fence(2, 1, 2), Some(vec![])));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::RememberFence(_))));
}

#[test]
fn an_order_without_its_target_is_obeyed_only_when_it_is_the_one_in_force() {
    let mut b = bench(vec![]);
    let missing = |b: &mut Bench, asked| {
        let effects = b.poll(poll(asked, None));
        effects
            == [Effect::Answer {
                token: b.token,
                result: Err(PollRefusal::TargetMissing { asked }),
            }]
    };
    assert!(missing(&mut b, fence(1, 1, 0)), "nothing was obeyed by this process yet");
    b.order(3, &[]);
    assert!(missing(&mut b, fence(1, 1, 4)));
    assert!(missing(&mut b, fence(1, 2, 3)), "generations of two sessions are strangers");
    let effects = b.poll(poll(fence(1, 1, 3), None));
    assert!(answers(&effects)[0].1.is_ok());
}

/// A new leader wants the same: nothing is sent again, nothing starts or ends, and the order before is over.
#[test]
fn the_same_target_by_another_leader_is_obeyed_by_its_name() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, true);
    let named =
        |fence, digest, tasks| PollRequest { digest: TargetDigest(digest), ..poll(fence, tasks) };
    let effects = b.poll(named(fence(1, 1, 3), 7, Some(vec![task])));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Start(_))));
    let effects = b.poll(named(fence(2, 1, 1), 7, None));
    assert_eq!(answers(&effects)[0].1.as_ref().unwrap().obeyed, fence(2, 1, 1));
    let kept = |effect: &Effect| matches!(effect, Effect::RememberFence(_) | Effect::Answer { .. });
    assert!(effects.iter().all(kept), "{effects:?}");
    let stale = b.poll(named(fence(1, 1, 4), 7, Some(vec![])));
    assert!(matches!(answers(&stale)[0].1, Err(PollRefusal::Stale { .. })));
    for digest in [8, 0] {
        let other = b.poll(named(fence(2, 1, 2), digest, None));
        assert!(matches!(answers(&other)[0].1, Err(PollRefusal::TargetMissing { .. })));
    }
}

#[test]
fn another_cell_or_machine_is_refused_by_name() {
    let mut b = bench(vec![]);
    let other =
        PollRequest { cell: "other".parse().unwrap(), ..poll(fence(9, 9, 9), Some(vec![])) };
    let effects = b.poll(other);
    assert_eq!(
        answers(&effects)[0].1.as_ref().unwrap_err().to_string(),
        "this borglet belongs to cell lab, asked by cell other"
    );
    let other =
        PollRequest { machine: "m2".parse().unwrap(), ..poll(fence(9, 9, 9), Some(vec![])) };
    let effects = b.poll(other);
    assert_eq!(
        answers(&effects)[0].1.as_ref().unwrap_err().to_string(),
        "this is machine m1, asked was m2"
    );
    assert_eq!(b.supervisor.obeyed(), fence(1, 1, 0));
}

/// A poll that has seen the present report.
fn patient(b: &Bench, fence: Fence) -> PollRequest {
    PollRequest { seen: b.supervisor.report().0, hold: Millis(10_000), ..poll(fence, None) }
}

#[test]
fn an_answer_waits_for_news_or_the_end_of_its_hold() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, false);
    b.order(1, &[&task]);
    let request = patient(&b, fence(1, 1, 1));
    assert_eq!(b.poll(request), []);
    assert_eq!(
        b.input(usage(task.id, Usage { cpu_milli: 9, ram_bytes: 9, ..Usage::default() })),
        []
    );
    let effects = b.start(task.id, 0, 42);
    let [(token, Ok(answer))] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(token, b.token);
    assert!(matches!(answer.report.tasks[0].status, TaskStatus::Up { pid: 42, .. }));

    let request = patient(&b, fence(1, 1, 1));
    assert_eq!(b.poll(request), []);
    assert_eq!(b.supervisor.next_wakeup(), Some(b.now + Millis(10_000)));
    assert_eq!(answers(&b.later(10_000)).len(), 1);
}

#[test]
fn a_newer_session_answers_the_polls_of_older_ones() {
    let mut b = bench(vec![]);
    b.order(1, &[]);
    let request = patient(&b, fence(1, 1, 1));
    assert_eq!(b.poll(request), []);
    let old = b.token;
    let request = PollRequest {
        target: poll(fence(1, 1, 1), Some(vec![])).target,
        ..patient(&b, fence(2, 1, 1))
    };
    let effects = b.poll(request);
    let [(token, Ok(answer))] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((token, answer.obeyed), (old, fence(2, 1, 1)));
}

#[test]
fn answers_held_are_bounded_and_the_oldest_goes_first() {
    let mut b = bench(vec![]);
    b.order(1, &[]);
    for _ in 0..16 {
        let request = patient(&b, fence(1, 1, 1));
        assert_eq!(b.poll(request), []);
    }
    let oldest = b.token - 15;
    let request = patient(&b, fence(1, 1, 1));
    let effects = b.poll(request);
    assert_eq!(answers(&effects).iter().map(|(token, _)| *token).collect::<Vec<_>>(), [oldest]);
}

#[test]
fn the_address_of_a_process_is_told_while_it_is_there() {
    let service = target_task(1, 0, true);
    let mut b = bench(Vec::new());
    b.order(1, &[&service]);
    let address = Some(std::net::Ipv4Addr::new(10, 88, 3, 2));
    let (run, since) = (run(service.id, 0), b.now);
    b.input(Input::Started { run, pid: 7, since, address });
    assert_eq!(b.supervisor.report().1.tasks[0].address, address);
    b.input(Input::Exited { run, at: b.now, failure: None });
    assert_eq!(b.supervisor.report().1.tasks[0].address, None, "nobody is there");
}

fn found(task: &TargetTask, number: u32, state: AdoptedState) -> Adopted {
    Adopted {
        layers: Vec::new(),
        run: run(task.id, number),
        since: Millis(900_000),
        grace: Millis(1_000),
        ports: vec![],
        address: None,
        task: None,
        state,
        end: None,
        failures: 0,
    }
}

#[test]
fn silence_after_a_restart_kills_nothing_and_the_first_target_decides() {
    let [keep, drop, done, service] =
        [(0, false), (1, false), (2, false), (3, true)].map(|(i, r)| target_task(1, i, r));
    let over = |failure| AdoptedState::Ended { at: Millis(950_000), failure };
    let mut b = bench(vec![
        found(&keep, 0, AdoptedState::Running { pid: 1 }),
        found(&drop, 0, AdoptedState::Running { pid: 2 }),
        found(&done, 0, over(None)),
        found(&service, 2, over(Some(FailureCause::Exit { code: 3 }))),
    ]);
    assert_eq!(b.later(10_000_000), []);
    assert_eq!(b.status(keep.id), Some(TaskStatus::Up { pid: 1, since: Millis(900_000) }));
    let effects = b.order(1, &[&keep, &done, &service]);
    assert_eq!(work(effects), [Effect::Terminate { run: run(drop.id, 0) }]);
    assert_eq!(b.status(keep.id), Some(TaskStatus::Up { pid: 1, since: Millis(900_000) }));
    assert_eq!(b.status(done.id), Some(TaskStatus::Ended { at: Millis(950_000), failure: None }));
    assert_eq!(b.status(service.id), Some(TaskStatus::BackOff { until: b.now + Millis(1_000) }));
    let effects = b.later(1_000);
    assert_eq!(starts(&effects), [run(service.id, 3)]);
    // The grace of the container that was found, not of a specification that nobody has.
    assert!(effects.contains(&Effect::Kill { run: run(drop.id, 0) }));
}

#[test]
fn news_of_an_earlier_run_is_ignored() {
    let mut b = bench(vec![]);
    let task = target_task(1, 0, true);
    b.order(1, &[&task]);
    b.start(task.id, 0, 42);
    b.exit(task.id, 0, None);
    b.later(1_000);
    b.start(task.id, 1, 43);
    b.exit(task.id, 0, None);
    b.start(task.id, 0, 42);
    assert!(matches!(b.status(task.id), Some(TaskStatus::Up { pid: 43, .. })));
}

/// A poll that brings back the stamp of an answer of this process, given so long ago.
fn heard(b: &Bench, mut request: PollRequest, ago: u64) -> PollRequest {
    let at = Millis(b.now.0 - ago);
    request.lease = Some(AnswerStamp { session: 77, at });
    request
}

fn exclusive(index: u32, restart: bool) -> TargetTask {
    TargetTask { exclusive: true, ..target_task(1, index, restart) }
}

fn extended(effects: &[Effect]) -> Option<Millis> {
    effects.iter().find_map(|effect| match effect {
        Effect::ExtendLease { until } => Some(*until),
        _ => None,
    })
}

/// I7.
#[test]
fn an_exclusive_task_starts_only_under_a_lease_and_knows_its_end() {
    let mut b = bench(vec![]);
    let (task, other) = (exclusive(0, true), target_task(2, 0, true));
    let effects = b.order(1, &[&task, &other]);
    assert_eq!(starts(&effects), [run(other.id, 0)]);
    assert_eq!(b.status(task.id), Some(TaskStatus::Starting));
    // An answer of an earlier process, one that was never given, and one of long ago are no lease.
    for (session, ago) in [(76, 0), (77, -1), (77, 25_000)] {
        let mut request = poll(fence(1, 1, 1), None);
        let at = Millis(b.now.0.saturating_add_signed(-ago));
        request.lease = Some(AnswerStamp { session, at });
        assert_eq!(starts(&b.poll(request)), []);
    }
    let request = heard(&b, poll(fence(1, 1, 1), None), 2_000);
    let effects = b.poll(request);
    let until = Millis(b.now.0 + 28_000);
    assert_eq!(extended(&effects), Some(until));
    let launch = effects.iter().find_map(|effect| match effect {
        Effect::Start(launch) => Some(launch),
        _ => None,
    });
    assert_eq!(
        launch.map(|launch| (launch.run, launch.ends_by)),
        Some((run(task.id, 0), Some(until)))
    );
}

/// I7: a poll that was on its way for long must not keep a task alive.
#[test]
fn a_late_poll_extends_no_lease() {
    let mut b = bench(vec![]);
    let task = exclusive(0, false);
    let first = heard(&b, poll(fence(1, 1, 1), Some(vec![task.clone()])), 0);
    let late = heard(&b, poll(fence(1, 1, 1), None), 1_000);
    let until = extended(&b.poll(first)).unwrap();
    b.later(20_000);
    assert_eq!(extended(&b.poll(late)), None);
    let next = heard(&b, poll(fence(1, 1, 1), None), 500);
    assert!(extended(&b.poll(next)).unwrap() > until);
    // Nor does one that is refused.
    let stale = heard(&b, poll(fence(1, 0, 9), Some(vec![task])), 0);
    assert_eq!(extended(&b.poll(stale)), None);
}

/// I7: it is asked to end in time, and is not started again by its machine.
#[test]
fn an_exclusive_service_that_hears_nothing_ends_for_good() {
    let mut b = bench(vec![]);
    let (task, other) = (exclusive(0, true), target_task(2, 0, true));
    let request = poll(fence(1, 1, 1), Some(vec![task.clone(), other.clone()]));
    let request = heard(&b, request, 0);
    b.poll(request);
    b.start(task.id, 0, 42);
    b.start(other.id, 0, 43);
    assert_eq!(b.supervisor.next_wakeup(), Some(b.now + Millis(25_000)));
    assert_eq!(b.later(24_999), []);
    assert_eq!(b.later(1), [Effect::Terminate { run: run(task.id, 0) }]);
    b.exit(task.id, 0, None);
    let ended = TaskStatus::Ended { at: b.now, failure: Some(FailureCause::Fenced) };
    assert_eq!(b.status(task.id), Some(ended.clone()));
    // The masters are heard of again, and still list it: they have to decide.
    let request = heard(&b, poll(fence(1, 1, 1), None), 0);
    assert_eq!(starts(&b.poll(request)), []);
    assert_eq!(b.status(task.id), Some(ended));
    assert!(matches!(b.status(other.id), Some(TaskStatus::Up { .. })), "others live on");
}

#[test]
fn an_exclusive_task_that_waits_for_a_lease_and_is_no_longer_wanted_is_forgotten() {
    let mut b = bench(vec![]);
    let task = exclusive(0, true);
    b.order(1, &[&task]);
    assert_eq!(work(b.order(2, &[])), [Effect::Remove { id: task.id }]);
    assert_eq!(b.status(task.id), None);
}

/// Its shim ended it while no borglet was there.
#[test]
fn an_exclusive_service_found_ended_by_its_lease_is_not_started_again() {
    let task = exclusive(0, true);
    let failure = Some(FailureCause::Fenced);
    let over = AdoptedState::Ended { at: Millis(950_000), failure };
    let mut b = bench(vec![found(&task, 0, over)]);
    let request = heard(&b, poll(fence(1, 1, 1), Some(vec![task.clone()])), 0);
    assert_eq!(starts(&b.poll(request)), []);
    let ended = TaskStatus::Ended { at: Millis(950_000), failure: Some(FailureCause::Fenced) };
    assert_eq!(b.status(task.id), Some(ended));
}

/// Orders of a cell that was restored from a backup.
fn restored(generation: u64, tasks: &[&TargetTask], ends: &[IncarnationId]) -> PollRequest {
    let tasks = tasks.iter().copied().cloned().collect();
    let (spare, ends) = (true, ends.to_vec());
    let fence = Fence { epoch: 2, term: 1, session: 1, generation };
    PollRequest {
        target: Some(Arc::new(Target { tasks, spare, ends, data: Vec::new() })),
        ..poll(fence, None)
    }
}

/// A backup is restored: the cell does not know of one task, knows that one is over, and knows one.
#[test]
fn a_restored_cell_spares_what_it_does_not_know_until_it_says_otherwise() {
    let [known, unknown, over] = [0, 1, 2].map(|index| target_task(1, index, true));
    let mut b = bench(vec![]);
    b.order(1, &[&known, &unknown, &over]);
    for (task, pid) in [(&known, 1), (&unknown, 2), (&over, 3)] {
        b.start(task.id, 0, pid);
    }
    let effects = b.poll(restored(1, &[&known], &[]));
    assert!(matches!(effects[0], Effect::RememberFence(Fence { epoch: 2, .. })));
    assert!(work(effects).len() == 1, "nothing but the fence is touched");
    let effects = work(b.poll(restored(2, &[&known], &[over.id])));
    assert_eq!(effects, [Effect::Terminate { run: run(over.id, 0) }]);
    // What is spared lives on as before, and is started again when it fails.
    b.exit(unknown.id, 0, Some(FailureCause::Exit { code: 1 }));
    assert_eq!(starts(&b.later(1_000)), [run(unknown.id, 1)]);
    b.start(unknown.id, 1, 4);

    // Of the old epoch nothing is obeyed any more, whatever its term.
    let late = Fence { epoch: 1, term: 99, session: 9, generation: 9 };
    let effects = b.poll(poll(late, Some(vec![])));
    assert!(matches!(answers(&effects)[..], [(_, Err(PollRefusal::Stale { .. }))]));
    assert_eq!(work(effects), []);

    let fence = Fence { epoch: 2, term: 1, session: 1, generation: 3 };
    let effects = work(b.poll(poll(fence, Some(vec![known.clone()]))));
    assert_eq!(effects, [Effect::Terminate { run: run(unknown.id, 1) }]);
    assert!(matches!(b.status(known.id), Some(TaskStatus::Up { pid: 1, .. })));
}

/// Ports are how a cell knows what an incarnation holds that it had forgotten.
#[test]
fn a_report_names_ports_also_of_what_was_found() {
    let mut wanted = target_task(1, 0, true);
    wanted.ports = vec![20_001];
    let mut left = found(&target_task(1, 1, true), 0, AdoptedState::Running { pid: 2 });
    left.ports = vec![20_002];
    let mut b = bench(vec![left]);
    b.poll(restored(1, &[&wanted], &[]));
    let reported: Vec<_> =
        b.supervisor.report().1.tasks.into_iter().map(|task| task.ports).collect();
    assert_eq!(reported, [vec![20_001], vec![20_002]]);
}
