//! Laws of a link shard: differences add up to the full state, whatever is lost on the way.

use borg_linkshard::{Config, Effect, Input, PollFailure, Shard, difference, fold};
use borg_proto::machine::MachineInfo;
use borg_proto::names::{IncarnationId, JobId, MachineName, ReplicaId, TaskId};
use borg_proto::peer::{
    MachineAck, MachineDelta, ShardMachine, ShardOrders, ShardSession, ShardStamp,
};
use borg_proto::poll::{
    DataReport, DataStatus, MachineReport, PollAnswer, PollRefusal, ReportVersion, TargetDigest,
    TaskReport, TaskStatus, Usage,
};
use borg_proto::resources::Resources;
use borg_proto::time::Millis;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn report(boot: u8, tasks: &BTreeMap<u8, u8>) -> MachineReport {
    let info = MachineInfo {
        capacity: Resources::default(),
        first_port: 20_000,
        attributes: BTreeMap::new(),
        boot_id: boot.to_string(),
        missing_isolation: Vec::new(),
        task_host: "127.0.0.1".into(),
    };
    let data = |(index, pid): (&u8, &u8)| DataReport {
        alloc: IncarnationId { task: TaskId { job: JobId(2), index: (*index).into() }, number: 1 },
        status: match pid % 3 {
            0 => DataStatus::InUse,
            1 => DataStatus::AtRest { bytes: (*pid).into() },
            _ => DataStatus::Gone { why: pid.to_string() },
        },
    };
    let task = |(index, pid): (&u8, &u8)| TaskReport {
        id: IncarnationId { task: TaskId { job: JobId(1), index: (*index).into() }, number: 1 },
        status: TaskStatus::Up { pid: (*pid).into(), since: Millis(0) },
        restarts: 0,
        last_failure: None,
        health: borg_proto::Health::Unchecked,
        usage: Usage { cpu_milli: u64::from(*pid) * 100, ..Usage::default() },
        ports: Vec::new(),
        status_line: String::new(),
        last_run: None,
        start: None,
        address: None,
    };
    MachineReport {
        info,
        tasks: tasks.iter().map(task).collect(),
        blobs: Vec::new(),
        data: tasks.iter().map(data).collect(),
    }
}

fn machine() -> MachineName {
    "m-1".parse().expect("a name")
}

fn orders(session: u64, generation: u64) -> ShardOrders {
    ShardOrders {
        session: ShardSession { epoch: 1, term: 1, session },
        leader: ReplicaId(1),
        whole: true,
        machines: vec![ShardMachine {
            machine: machine(),
            address: "127.0.0.1:1".into(),
            generation,
            digest: TargetDigest(generation),
            target: Some(Arc::default()),
        }],
        acks: Vec::new(),
        resync: Vec::new(),
        confirmed: None,
    }
}

fn ack(seq: u64, generation: u64) -> MachineAck {
    MachineAck { machine: machine(), seq, generation }
}

fn shard() -> Shard {
    Shard::new(Config::new("lab".parse().expect("a name"), ReplicaId(2)))
}

/// The poll that is now out, if the effects start one.
fn polled(effects: &[Effect]) -> Option<(u64, borg_proto::poll::PollRequest)> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Poll { ticket, request, .. } => Some((*ticket, request.clone())),
        Effect::Push { .. } | Effect::Forget(_) | Effect::Report { .. } => None,
    })
}

fn deltas(effects: &[Effect]) -> Vec<MachineDelta> {
    let reports = effects.iter().filter_map(|effect| match effect {
        Effect::Report { report, .. } => Some(report.deltas.clone()),
        Effect::Poll { .. } | Effect::Push { .. } | Effect::Forget(_) => None,
    });
    reports.flatten().collect()
}

fn answer(
    request: &borg_proto::poll::PollRequest,
    number: u64,
    report: MachineReport,
) -> PollAnswer {
    let (version, at) = (ReportVersion { session: 1, number }, Millis(number));
    PollAnswer { version, obeyed: request.fence, report, at }
}

proptest! {
    #[test]
    fn a_report_and_a_difference_give_the_next_report(
        a in prop::collection::btree_map(0..20u8, 0..4u8, 0..12),
        b in prop::collection::btree_map(0..20u8, 0..4u8, 0..12),
        boots in (0..2u8, 0..2u8),
    ) {
        let (old, new) = (report(boots.0, &a), report(boots.1, &b));
        let news = difference(&old, &new);
        prop_assert_eq!(news.is_empty(), old == new);
        prop_assert_eq!(fold(&old, &news), new);
    }

    /// A leader that folds what arrives, acknowledges it and asks again after a gap ends up with
    /// the machine's state, whichever reports and polls are lost.
    #[test]
    fn a_leader_that_folds_differences_ends_with_the_full_state(
        states in prop::collection::vec(prop::collection::btree_map(0..6u8, 0..3u8, 0..5), 1..12),
        lost_reports in prop::collection::vec(any::<bool>(), 64),
        lost_polls in prop::collection::vec(any::<bool>(), 64),
    ) {
        let mut shard = shard();
        let mut now = Millis(1_000);
        let mut held: Option<MachineReport> = None;
        let (mut seq, mut resync) = (0, false);
        let mut out = polled(&shard.handle(now, [Input::Orders(orders(1, 1))]));
        let mut losses = lost_reports.into_iter().chain(std::iter::repeat(false));
        let mut misses = lost_polls.into_iter().chain(std::iter::repeat(false));
        // As long as it takes for 64 losses, each found out after half a second, on both ways.
        for step in 0..states.len() + 800 {
            now = now + Millis(100);
            let at = step.min(states.len() - 1);
            let mut inputs = vec![Input::Tick];
            if let Some((ticket, request)) = out.take() {
                let machine = machine();
                inputs.push(if misses.next() == Some(true) {
                    Input::Failed { machine, ticket, failure: PollFailure::Unreachable("lost".into()) }
                } else {
                    let answer = answer(&request, at as u64 + 1, report(0, &states[at]));
                    Input::Answered { machine, ticket, answer }
                });
            }
            let mut effects = shard.handle(now, inputs);
            for delta in deltas(&effects) {
                if losses.next() == Some(true) {
                    continue;
                }
                if !delta.reachable {
                    seq = delta.seq;
                } else if delta.full {
                    held = Some(MachineReport {
                        info: delta.info.unwrap(),
                        tasks: delta.tasks,
                        blobs: Vec::new(),
                        data: delta.data.unwrap(),
                    });
                    (seq, resync) = (delta.seq, false);
                } else if let (Some(old), true) = (&held, delta.seq == seq + 1) {
                    let news = borg_linkshard::Difference { info: delta.info, tasks: delta.tasks, gone: delta.gone, data: delta.data };
                    held = Some(fold(old, &news));
                    seq = delta.seq;
                } else {
                    resync = true;
                }
            }
            let back = ShardOrders {
                whole: false,
                machines: Vec::new(),
                acks: vec![ack(seq, 1)],
                resync: if resync { vec![machine()] } else { Vec::new() },
                ..orders(1, 1)
            };
            effects.extend(shard.handle(now, [Input::Orders(back)]));
            if let Some(newest) = polled(&effects) {
                out = Some(newest);
            }
        }
        let (held, last) = (held.unwrap(), report(0, states.last().unwrap()));
        prop_assert_eq!((held.tasks, held.data), (last.tasks, last.data));
    }
}

#[test]
fn an_unchanged_machine_costs_the_leader_nothing_but_heartbeats() {
    let mut shard = shard();
    let tasks = BTreeMap::from([(1, 1)]);
    let (ticket, request) =
        polled(&shard.handle(Millis(0), [Input::Orders(orders(1, 1))])).unwrap();
    assert!(request.target.is_some(), "the borglet has not obeyed this session yet");
    let first = Input::Answered {
        machine: machine(),
        ticket,
        answer: answer(&request, 1, report(0, &tasks)),
    };
    assert_eq!(deltas(&shard.handle(Millis(1), [first])).len(), 1);
    let ack =
        ShardOrders { whole: false, machines: Vec::new(), acks: vec![ack(1, 1)], ..orders(1, 1) };
    let effects = shard.handle(Millis(20), [Input::Orders(ack)]);
    let (ticket, request) = polled(&effects).unwrap();
    assert!(request.target.is_none(), "the borglet has the target already");
    let again = Input::Answered {
        machine: machine(),
        ticket,
        answer: answer(&request, 1, report(0, &tasks)),
    };
    assert!(deltas(&shard.handle(Millis(1_020), [again])).is_empty());
    for at in (1_100..6_000).step_by(100) {
        assert!(deltas(&shard.handle(Millis(at), [Input::Tick])).is_empty());
    }
}

/// The orders of another leader, which names the target and does not send it.
fn named(session: u64, digest: u64) -> ShardOrders {
    let mut orders = orders(session, 1);
    (orders.machines[0].digest, orders.machines[0].target) = (TargetDigest(digest), None);
    orders
}

fn wanting(effects: &[Effect]) -> Vec<MachineName> {
    let reports = effects.iter().filter_map(|effect| match effect {
        Effect::Report { report, .. } => Some(report.wanting.clone()),
        Effect::Poll { .. } | Effect::Push { .. } | Effect::Forget(_) => None,
    });
    reports.flatten().collect()
}

#[test]
fn a_target_that_the_next_leader_only_names_is_kept_and_not_sent_to_the_borglet_again() {
    let mut shard = shard();
    let (ticket, request) =
        polled(&shard.handle(Millis(0), [Input::Orders(orders(1, 1))])).unwrap();
    let answer = answer(&request, 1, report(0, &BTreeMap::new()));
    shard.handle(Millis(1), [Input::Answered { machine: machine(), ticket, answer }]);

    let effects = shard.handle(Millis(30), [Input::Orders(named(2, 1))]);
    assert!(wanting(&effects).is_empty());
    let (ticket, request) = polled(&effects).unwrap();
    assert_eq!((request.digest, request.target, request.fence.session), (TargetDigest(1), None, 2));
    // The borglet was restarted meanwhile, and knows nothing.
    let failure = PollFailure::Refused(PollRefusal::TargetMissing { asked: request.fence });
    let failed = Input::Failed { machine: machine(), ticket, failure };
    let (_, request) = polled(&shard.handle(Millis(40), [failed])).unwrap();
    assert!(request.target.is_some(), "so it is sent");
}

#[test]
fn a_target_that_is_not_known_is_asked_for_and_nobody_is_polled_without_it() {
    let mut shard = shard();
    shard.handle(Millis(0), [Input::Orders(orders(1, 1))]);
    let effects = shard.handle(Millis(10), [Input::Orders(named(2, 9))]);
    assert_eq!((wanting(&effects), polled(&effects)), (vec![machine()], None));
    let effects = shard.handle(Millis(20), [Input::Orders(named(2, 9))]);
    assert_eq!(wanting(&effects), [machine()], "as often as the leader says so");
    let mut sent = named(2, 9);
    (sent.whole, sent.machines[0].target) = (false, Some(Arc::default()));
    let (_, request) = polled(&shard.handle(Millis(30), [Input::Orders(sent)])).unwrap();
    assert_eq!((request.digest, request.target.is_some()), (TargetDigest(9), true));
}

#[test]
fn a_new_target_goes_out_at_once_and_supersedes_the_poll_that_is_held() {
    let mut shard = shard();
    let (old, _) = polled(&shard.handle(Millis(0), [Input::Orders(orders(1, 1))])).unwrap();
    let (new, request) = polled(&shard.handle(Millis(5), [Input::Orders(orders(1, 2))])).unwrap();
    assert_ne!(old, new);
    assert_eq!(request.fence.generation, 2);
    let stale = Input::Answered {
        machine: machine(),
        ticket: old,
        answer: answer(&request, 1, report(0, &BTreeMap::new())),
    };
    assert!(deltas(&shard.handle(Millis(6), [stale])).is_empty());
}

#[test]
fn a_machine_is_called_silent_after_three_missed_polls_and_not_for_a_refusal_by_a_newer_order() {
    let mut shard = shard();
    let mut effects = shard.handle(Millis(0), [Input::Orders(orders(1, 1))]);
    let mut now = Millis(0);
    let mut fail = |failure: PollFailure| {
        let (ticket, _) = polled(&effects).unwrap();
        let told = shard.handle(now, [Input::Failed { machine: machine(), ticket, failure }]);
        now = now + Millis(500);
        effects = shard.handle(now, [Input::Tick]);
        let is_afresh = |effect: &Effect| matches!(effect, Effect::Poll { afresh: true, .. });
        (deltas(&told), effects.iter().any(is_afresh))
    };
    let stale = || {
        PollFailure::Refused(PollRefusal::Stale {
            asked: Default::default(),
            obeyed: Default::default(),
        })
    };
    for _ in 0..5 {
        assert_eq!(fail(stale()), (Vec::new(), false));
    }
    let lost = || PollFailure::Unreachable("no route".into());
    assert_eq!(fail(lost()), (Vec::new(), false));
    assert_eq!(fail(lost()), (Vec::new(), false));
    let (told, afresh) = fail(lost());
    assert_eq!((told.len(), told[0].reachable), (1, false));
    assert!(afresh, "the connection may be dead and not know");
    assert!(!fail(lost()).1, "the new one has its chance");
}

#[test]
fn orders_of_an_older_division_are_ignored_and_a_newer_one_reports_everything_afresh() {
    let mut shard = shard();
    let (ticket, request) =
        polled(&shard.handle(Millis(0), [Input::Orders(orders(5, 1))])).unwrap();
    let full = report(0, &BTreeMap::from([(1, 1)]));
    shard.handle(
        Millis(1),
        [Input::Answered { machine: machine(), ticket, answer: answer(&request, 1, full.clone()) }],
    );
    assert!(polled(&shard.handle(Millis(2), [Input::Orders(orders(4, 9))])).is_none());
    let (ticket, request) =
        polled(&shard.handle(Millis(3), [Input::Orders(orders(6, 1))])).unwrap();
    assert_eq!(request.seen, ReportVersion::default(), "the borglet must answer at once");
    let told = deltas(&shard.handle(
        Millis(4),
        [Input::Answered { machine: machine(), ticket, answer: answer(&request, 1, full) }],
    ));
    assert_eq!((told[0].seq, told[0].full), (1, true));
}

/// Orders for a machine that runs an exclusive task.
fn exclusive_orders(session: u64) -> ShardOrders {
    let mut orders = orders(session, 1);
    let spec = borg_proto::spec::TaskSpec {
        command: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        limit: Default::default(),
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(0),
        memory: borg_proto::spec::MemoryLimit::Hard,
        cpu_cap_milli: None,
        health: None,
        image: None,
        packages: Vec::new(),
        network: borg_proto::Network::Host,
        loosen: BTreeSet::new(),
        reclaim: true,
    };
    let task = TaskId { job: JobId(1), index: 0 };
    let task = borg_proto::poll::TargetTask {
        id: IncarnationId { task, number: 1 },
        name: "ann/db/0".parse().expect("a name"),
        tasks: 1,
        spec: Arc::new(spec),
        ports: Vec::new(),
        priority: borg_proto::Priority::new(100).expect("in range"),
        appclass: borg_proto::AppClass::Batch,
        restart: true,
        exclusive: true,
        shared: None,
        packages: Vec::new(),
    };
    let target = borg_proto::poll::Target { tasks: vec![task], ..Default::default() };
    orders.machines[0].target = Some(Arc::new(target));
    orders
}

fn stamp(effects: &[Effect]) -> Option<ShardStamp> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Report { report, .. } => report.stamp,
        Effect::Poll { .. } | Effect::Push { .. } | Effect::Forget(_) => None,
    })
}

/// I7: a lease is an answer that came before a moment which a majority confirmed, and of which the
/// leader knows that the machine answers.
#[test]
fn a_lease_goes_out_when_the_answer_is_known_and_its_moment_confirmed_and_not_before() {
    let mut shard = shard();
    let tell = |confirmed: Option<ShardStamp>, acks: Vec<MachineAck>| {
        Input::Orders(ShardOrders {
            whole: false,
            machines: Vec::new(),
            acks,
            confirmed,
            ..exclusive_orders(1)
        })
    };
    let (ticket, request) =
        polled(&shard.handle(Millis(100), [Input::Orders(exclusive_orders(1))])).unwrap();
    assert_eq!(request.lease, None);
    let report = report(0, &BTreeMap::new());
    let first = Input::Answered { machine: machine(), ticket, answer: answer(&request, 9, report) };
    let effects = shard.handle(Millis(200), [first]);
    let said = stamp(&effects).unwrap();
    assert_eq!(said.at, Millis(200));
    let lease = |effects: &[Effect]| polled(effects).and_then(|(_, request)| request.lease);

    // Confirmed, but for a moment before the answer came, or for another process.
    let before = ShardStamp { at: Millis(199), ..said };
    let other = ShardStamp { process: said.process + 1, ..said };
    for stamp in [before, other] {
        let acks = vec![ack(1, 1)];
        assert_eq!(lease(&shard.handle(Millis(300), [tell(Some(stamp), acks)])), None);
    }
    // Confirmed, and known: but the leader's orders are newer by now than what is here.
    let newer = tell(Some(said), vec![ack(1, 2)]);
    let mut behind = self::shard();
    behind.handle(Millis(100), [Input::Orders(exclusive_orders(1))]);
    let answered = Input::Answered {
        machine: machine(),
        ticket,
        answer: answer(&request, 9, self::report(0, &BTreeMap::new())),
    };
    behind.handle(Millis(200), [answered]);
    assert_eq!(lease(&behind.handle(Millis(400), [newer])), None);

    let effects = shard.handle(Millis(400), [tell(Some(said), Vec::new())]);
    let heard = borg_proto::poll::AnswerStamp { session: 1, at: Millis(9) };
    assert_eq!(lease(&effects), Some(heard), "at once: its tasks wait for it");

    // A new division: nothing of the old one counts.
    let (_, request) =
        polled(&shard.handle(Millis(500), [Input::Orders(exclusive_orders(2))])).unwrap();
    assert_eq!(request.lease, None);
}

/// The leader counts from when it was told of the silence: it must have heard of the answer first.
#[test]
fn no_lease_goes_out_while_the_leader_does_not_know_that_the_machine_answers() {
    let mut shard = shard();
    let (ticket, request) =
        polled(&shard.handle(Millis(100), [Input::Orders(exclusive_orders(1))])).unwrap();
    let answer = answer(&request, 9, report(0, &BTreeMap::new()));
    let effects =
        shard.handle(Millis(200), [Input::Answered { machine: machine(), ticket, answer }]);
    let confirmed = stamp(&effects);
    let orders =
        ShardOrders { whole: false, machines: Vec::new(), confirmed, ..exclusive_orders(1) };
    let effects = shard.handle(Millis(900), [Input::Orders(orders), Input::Tick]);
    assert_eq!(polled(&effects).and_then(|(_, request)| request.lease), None);
}

/// A new leader does not have to find out again what the shard knows.
#[test]
fn a_machine_that_did_not_answer_is_called_silent_at_once_in_a_new_division() {
    let mut shard = shard();
    let mut effects = shard.handle(Millis(0), [Input::Orders(orders(1, 1))]);
    for round in 1..4 {
        let (ticket, _) = polled(&effects).unwrap();
        let failure = PollFailure::Unreachable("no route".into());
        shard.handle(Millis(round * 600), [Input::Failed { machine: machine(), ticket, failure }]);
        effects = shard.handle(Millis(round * 600 + 500), [Input::Tick]);
    }
    let told = deltas(&shard.handle(Millis(3_000), [Input::Orders(orders(2, 1))]));
    assert_eq!((told.len(), told[0].reachable), (1, false));
}

/// Orders for machines `m-0` to `m-COUNT`.
fn orders_of(count: usize) -> ShardOrders {
    let machine = |number: usize| ShardMachine {
        machine: format!("m-{number}").parse().expect("a name"),
        address: "127.0.0.1:1".into(),
        generation: 1,
        digest: TargetDigest(1),
        target: Some(Arc::default()),
    };
    ShardOrders { machines: (0..count).map(machine).collect(), ..orders(1, 1) }
}

/// Whom the effects poll, with tickets and requests.
fn polls(effects: Vec<Effect>) -> Vec<(MachineName, u64, borg_proto::poll::PollRequest)> {
    let poll = |effect| match effect {
        Effect::Poll { machine, ticket, request, .. } => Some((machine, ticket, request)),
        Effect::Push { .. } | Effect::Forget(_) | Effect::Report { .. } => None,
    };
    effects.into_iter().filter_map(poll).collect()
}

#[test]
fn connections_are_opened_a_few_at_a_time_and_whoever_waits_for_one_has_not_missed_a_poll() {
    let mut shard = shard();
    let limit = Config::new("lab".parse().expect("a name"), ReplicaId(2)).openings_out;
    let mut out = polls(shard.handle(Millis(1_000), [Input::Orders(orders_of(3 * limit))]));
    assert_eq!(out.len(), limit);
    // One answers: it is polled again, and the next connection is opened.
    let (machine, ticket, request) = out.remove(0);
    let first = machine.clone();
    let news = answer(&request, 1, report(1, &BTreeMap::new()));
    let input = Input::Answered { machine, ticket, answer: news };
    let next = polls(shard.handle(Millis(1_010), [input]));
    assert_eq!(next.len(), 1);
    assert_ne!(next[0].0, first);
    let again = polls(shard.handle(Millis(1_100), [Input::Tick]));
    assert_eq!(again.iter().map(|poll| &poll.0).collect::<Vec<_>>(), [&first]);
    // All others are dead. The live one is asked all the while, and those that were not dialled yet come
    // before those that were in vain.
    let mut dialled: Vec<MachineName> = out.into_iter().chain(next).map(|poll| poll.0).collect();
    let mut ticket = again[0].1;
    let mut silent = Vec::new();
    for second in 2..7 {
        let now = Millis(second * 1_000);
        let live = answer(&request, second, report(1, &BTreeMap::new()));
        let input = Input::Answered { machine: first.clone(), ticket, answer: live };
        let mut effects = shard.handle(now, [input]);
        effects.extend(shard.handle(now + Millis(500), [Input::Tick]));
        silent.extend(deltas(&effects).into_iter().filter(|delta| !delta.reachable));
        for (machine, number, _) in polls(effects) {
            if machine == first {
                ticket = number;
            } else {
                dialled.push(machine);
            }
        }
    }
    let mut once = dialled[..3 * limit - 1].to_vec();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 3 * limit - 1, "each is dialled once before any is dialled again");
    assert!(silent.iter().all(|delta| delta.machine != first));
}

/// In one turn an answer comes and another division begins: what was said for the old one must not be told in the
/// new one, where the same numbers mean other differences.
#[test]
fn what_was_to_be_told_in_the_last_session_is_not_told_in_the_next() {
    let mut shard = shard();
    let (ticket, request) =
        polled(&shard.handle(Millis(0), [Input::Orders(orders(1, 1))])).unwrap();
    let answer = answer(&request, 1, report(0, &BTreeMap::new()));
    let answered = Input::Answered { machine: machine(), ticket, answer };
    let effects = shard.handle(Millis(1), [answered, Input::Orders(orders(2, 1))]);
    assert_eq!(deltas(&effects), []);
}

/// However much a shard has to say at once, no message is larger than what heartbeats can wait for.
#[test]
fn a_long_report_comes_in_several_and_says_everything_once() {
    let mut shard = shard();
    let polls = polls(shard.handle(Millis(0), [Input::Orders(orders_of(40))]));
    let tasks: BTreeMap<u8, u8> = (0..=255).map(|task| (task, 1)).collect();
    let mut long = report(0, &tasks);
    for task in &mut long.tasks {
        task.last_failure = Some(borg_proto::FailureCause::start(&"x".repeat(500)));
    }
    let answers = polls.iter().map(|(machine, ticket, request)| Input::Answered {
        machine: machine.clone(),
        ticket: *ticket,
        answer: answer(request, 1, long.clone()),
    });
    let effects = shard.handle(Millis(1), answers);
    let lengths: Vec<usize> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Report { report, .. } => {
                Some(prost::Message::encoded_len(&borg_proto::wire::pb::ShardReport::from(report)))
            }
            Effect::Poll { .. } | Effect::Push { .. } | Effect::Forget(_) => None,
        })
        .collect();
    assert!(lengths.len() > 4 && lengths.iter().all(|bytes| *bytes < 3 << 20), "{lengths:?}");
    let told: Vec<MachineName> = deltas(&effects).into_iter().map(|delta| delta.machine).collect();
    assert_eq!(told.len(), polls.len());
}
