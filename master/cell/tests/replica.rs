//! One replica among hostile or broken company.

#![expect(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod five;

use borg_cell::fixture::batch;
use borg_cell::master::{Config, Effect, Input, Master, Outcome, RecoverError};
use borg_cell::store::{
    Checkpoint, CheckpointMeta, EntryKind, HardState, LogEntry, LogStore as _, Membership,
    Position, Recovered, ReplicaIdentity,
};
use borg_proto::command::{Action, Assignment};
use borg_proto::machine::MachineAddress;
use borg_proto::spec::MAX_TASKS;
use borg_proto::wire::pb;
use borg_proto::{CellName, JobId, JobKey, MachineId, Millis, ReplicaId, TaskId};
use five::Five;
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

fn config() -> Config {
    Config::new(CellName::new("lab").unwrap(), ReplicaId(1), 1)
}

fn identity() -> ReplicaIdentity {
    ReplicaIdentity { cell: "lab".into(), replica: 1, epoch: 1 }
}

/// What the first of so many masters begins from.
fn founded(masters: u64) -> Recovered {
    five::founded(1, masters).open(&identity()).unwrap().recover().unwrap()
}

fn entry(index: u64, data: &[u8]) -> LogEntry {
    LogEntry { index, term: 1, kind: EntryKind::Normal, data: data.to_vec().into() }
}

/// I30: an entry of a later version stops the replica; skipping it would make another state.
#[test]
fn an_entry_that_cannot_be_understood_halts_the_replica() {
    let mut from = founded(5);
    from.entries = vec![entry(2, b""), entry(3, b"\xff\xff\xff")];
    from.hard_state = HardState { term: 1, vote: 0, commit: 3 };
    let mut master = Master::new(config(), from).unwrap();
    let effects = master.handle(Millis(1), [Input::Tick]);
    let halts = |e: &Effect| matches!(e, Effect::Halt { why } if why.starts_with("log entry 3: "));
    assert_eq!(effects.iter().filter(|e| halts(e)).count(), 1, "{effects:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Send { .. })));
    assert_eq!(master.state().applied(), 2);
    let ticks = std::iter::repeat_n(Input::Tick, 1_000);
    assert!(master.handle(Millis(2), ticks).is_empty(), "a halted replica is silent");
    assert!(master.status().halted.is_some());
}

#[test]
fn a_change_of_members_that_is_not_understood_halts_the_replica() {
    let mut from = founded(5);
    from.entries = vec![LogEntry { kind: EntryKind::ConfChange, ..entry(2, b"") }];
    from.hard_state = HardState { term: 1, vote: 0, commit: 2 };
    let mut master = Master::new(config(), from).unwrap();
    let effects = master.handle(Millis(1), [Input::Tick]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Halt { .. })), "{effects:?}");
}

#[test]
fn a_replica_does_not_begin_from_less_than_was_agreed() {
    let mut from = founded(5);
    from.entries = vec![entry(2, b"")];
    from.hard_state = HardState { term: 1, vote: 0, commit: 7 };
    let error = Master::new(config(), from).unwrap_err();
    assert!(matches!(error, RecoverError::CommitBeyondLog { commit: 7, last: 2 }));
    let mut from = Recovered::empty(identity());
    from.entries = vec![entry(1, b"")];
    let error = Master::new(config(), from).unwrap_err();
    assert!(matches!(error, RecoverError::NoCheckpoint));
}

/// B3: how far the log is agreed is written late, a checkpoint only of what is agreed.
#[test]
fn what_a_checkpoint_covers_is_agreed() {
    let mut one = Five::with(1, 1, |_| {});
    one.submit_until_accepted("web");
    let state = one.master(1).state();
    let (index, term) = (state.applied(), one.master(1).term());
    let membership = Membership { voters: vec![1], ..Membership::default() };
    let place = Position { index, term };
    let meta = CheckpointMeta { place, membership, at: Millis(0), file_bytes: 0, file_sum: 0 };
    let mut from = Recovered::empty(identity());
    from.checkpoint = Some(Checkpoint { meta, state: state.encode().into() });
    from.compacted = Position { index, term };
    from.hard_state = HardState { term, vote: 1, commit: index - 1 };
    let mut master = Master::new(config(), from).unwrap();
    assert_eq!((master.state().applied(), master.status().commit), (index, index));
    master.handle(Millis(1), std::iter::repeat_n(Input::Tick, 50));
    assert!(master.is_leader());
    assert_eq!(master.state().applied(), index + 2, "Raft's entry and the leader's");
}

#[test]
fn changes_that_wait_for_agreement_are_bounded() {
    let mut five = Five::with(1, 5, |config| config.in_flight = 4);
    let leader = five.elect();
    five.run(200);
    for id in (1..=5).filter(|id| *id != leader) {
        five.cut(id);
    }
    let tokens: Vec<u64> = (0..5).map(|n| five.submit(leader, &format!("job-{n}"))).collect();
    assert_eq!(five.answers.get(&tokens[4]), Some(&Outcome::Overloaded));
    assert!(!five.answers.contains_key(&tokens[3]));
    five.heal();
    five.run(2_000);
    assert_eq!(tokens.iter().filter(|token| five.answers.contains_key(token)).count(), 5);
}

/// Once agreed, an entry that cannot be read would stop every replica for good, also after a
/// restart: whatever an entry may not hold is refused before it is one.
#[test]
fn what_no_entry_may_hold_is_never_proposed() {
    let mut five = Five::new(3);
    five.submit_until_accepted("web");
    let job: JobKey = "ann/web".parse().unwrap();
    let kill = |tasks: Vec<u32>| Action::Kill { job: job.clone(), tasks };
    let add = |address: &str| Action::AddMachine {
        machine: MachineAddress { name: "m-1".parse().unwrap(), address: address.to_owned() },
    };
    let mut endless = batch("endless", 1, 1, 4 << 20);
    endless.tasks = u32::MAX;
    let bad = [
        ("r", kill(vec![MAX_TASKS])),
        ("r", kill(vec![0; MAX_TASKS as usize + 1])),
        ("a\nb", kill(vec![0])),
        ("r", add("no port\n")),
        ("r", Action::SubmitJob { spec: Arc::new(endless) }),
    ];
    for (request, action) in bad {
        let leader = five.elect();
        let last = five.master(leader).status().last_index;
        let token = five.propose(leader, "ann", request.to_owned(), action.clone());
        let outcome = five.answers.get(&token);
        assert!(matches!(outcome, Some(Outcome::Malformed { .. })), "{action:?}: {outcome:?}");
        assert_eq!(five.master(leader).status().last_index, last);
    }
    five.submit_until_accepted("more");
    five.settle();
    assert_eq!(five.halts, []);
}

/// The leader's own: what no entry may hold goes without the rest being lost.
#[test]
fn a_decision_that_no_entry_may_hold_does_not_stop_the_others() {
    let mut five = Five::new(4);
    five.submit_until_accepted("web");
    five.settle();
    let leader = five.elect();
    let place =
        |index, machine| Assignment::new(TaskId { job: JobId(1), index }, MachineId(machine));
    five.record = true;
    five.input(leader, vec![Input::Decisions(vec![place(0, 7), place(MAX_TASKS, 7), place(0, 8)])]);
    five.run(100);
    five.settle();
    assert_eq!(five.halts, []);
    assert_eq!(five.history.matches("MachineGone").count(), 2);
    assert_eq!(five.history.matches("Undecided").count(), 1);
}

/// B9: states that differ at one entry are noticed, and whoever is outvoted stops.
#[test]
fn a_replica_with_another_state_than_the_majority_halts() {
    let mut five = Five::new(2);
    for round in 0..70 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    five.settle();
    let (index, digest) = *five.master(1).status().digests.last().unwrap();
    let say = |five: &mut Five, from: u64, digest: u128| {
        five.input(1, vec![Input::PeerDigest { replica: ReplicaId(from), index, digest }]);
    };
    say(&mut five, 2, digest);
    assert_eq!(five.diverged, []);
    for from in 2..=4 {
        assert_eq!(five.halts, []);
        say(&mut five, from, digest ^ 1);
        say(&mut five, from, digest ^ 1);
    }
    let told: Vec<_> = (2..=4).map(|from| (1, ReplicaId(from), index)).collect();
    assert_eq!(five.diverged, told);
    assert_eq!(five.halts.len(), 1);
    assert!(five.halts[0].1.contains(&format!("after entry {index} a majority")));
}

/// Real messages of a run with elections, losses, reads and a checkpoint.
static REAL: LazyLock<Vec<pb::RaftMessage>> = LazyLock::new(|| {
    let mut five = scene();
    five.capture = true;
    let leader = five.elect();
    five.crash(leader % 5 + 1);
    for round in 0..30 {
        five.submit_until_accepted(&format!("more-{round}"));
        five.read((leader + 1) % 5 + 1);
    }
    five.start(leader % 5 + 1);
    five.run(1_000);
    five.crash(leader);
    five.run(2_000);
    let mut kept = Vec::new();
    for kind in 0..20 {
        let of_kind: Vec<_> = five.captured.iter().filter(|m| m.r#type == kind).collect();
        kept.extend(
            of_kind.iter().step_by(of_kind.len().div_ceil(40).max(1)).map(|m| (*m).clone()),
        );
    }
    assert!(kept.iter().any(|message| message.snapshot.is_some()));
    kept
});

fn scene() -> Five {
    let mut five = Five::with(3, 5, |config| {
        config.checkpoint_every = 10;
        config.trailing = 3;
    });
    for round in 0..12 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    five.run(100);
    five
}

#[derive(Debug, Clone)]
enum Twist {
    Type(u32),
    To(u64),
    From(u64),
    Term(u64),
    LogTerm(u64),
    Index(u64),
    Commit(u64),
    CommitTerm(u64),
    RequestSnapshot(u64),
    Reject(bool),
    Hint(u64),
    Context(Vec<u8>),
    Priority(i64),
    EntryIndex(u64),
    EntryTerm(u64),
    EntryData(Vec<u8>),
    EntryType(u32),
    DropEntry,
    DoubleEntry,
    Snapshot(u64, u64, Vec<u64>, u64),
    SnapshotPlace(u64, u64),
    NoSnapshot,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..6_u64, 4 => 10..60_u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => Just(1 << 56)]
}

fn twist() -> impl Strategy<Value = Twist> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..70);
    prop_oneof![
        (0..25_u32).prop_map(Twist::Type),
        number().prop_map(Twist::To),
        (0..7_u64).prop_map(Twist::From),
        number().prop_map(Twist::Term),
        number().prop_map(Twist::LogTerm),
        number().prop_map(Twist::Index),
        number().prop_map(Twist::Commit),
        number().prop_map(Twist::CommitTerm),
        number().prop_map(Twist::RequestSnapshot),
        any::<bool>().prop_map(Twist::Reject),
        number().prop_map(Twist::Hint),
        bytes().prop_map(Twist::Context),
        Just(Twist::Context(b"CampaignTransfer".to_vec())),
        any::<i64>().prop_map(Twist::Priority),
        number().prop_map(Twist::EntryIndex),
        number().prop_map(Twist::EntryTerm),
        bytes().prop_map(Twist::EntryData),
        (0..4_u32).prop_map(Twist::EntryType),
        Just(Twist::DropEntry),
        Just(Twist::DoubleEntry),
        (number(), number(), prop::collection::vec(0..7_u64, 0..7), number())
            .prop_map(|(index, term, voters, bytes)| Twist::Snapshot(index, term, voters, bytes)),
        (number(), number()).prop_map(|(index, term)| Twist::SnapshotPlace(index, term)),
        Just(Twist::NoSnapshot),
    ]
}

fn apply(twist: Twist, m: &mut pb::RaftMessage) {
    match twist {
        Twist::Type(v) => m.r#type = v,
        Twist::To(v) => m.to = v,
        Twist::From(v) => m.from = v,
        Twist::Term(v) => m.term = v,
        Twist::LogTerm(v) => m.log_term = v,
        Twist::Index(v) => m.index = v,
        Twist::Commit(v) => m.commit = v,
        Twist::CommitTerm(v) => m.commit_term = v,
        Twist::RequestSnapshot(v) => m.request_snapshot = v,
        Twist::Reject(v) => m.reject = v,
        Twist::Hint(v) => m.reject_hint = v,
        Twist::Context(v) => m.context = v,
        Twist::Priority(v) => m.priority = v,
        Twist::EntryIndex(v) => m.entries.iter_mut().for_each(|entry| entry.index = v),
        Twist::EntryTerm(v) => m.entries.iter_mut().for_each(|entry| entry.term = v),
        Twist::EntryData(v) => m.entries.iter_mut().for_each(|entry| entry.data = v.clone().into()),
        Twist::EntryType(v) => m.entries.iter_mut().for_each(|entry| entry.r#type = v),
        Twist::DropEntry => drop(m.entries.pop()),
        Twist::DoubleEntry => m.entries.extend(m.entries.first().cloned()),
        Twist::Snapshot(index, term, voters, file_bytes) => {
            let snapshot =
                pb::RaftSnapshot { index, term, voters, file_bytes, ..Default::default() };
            m.snapshot = Some(snapshot);
        }
        Twist::SnapshotPlace(index, term) => {
            if let Some(snapshot) = &mut m.snapshot {
                (snapshot.index, snapshot.term) = (index, term);
            }
        }
        Twist::NoSnapshot => m.snapshot = None,
    }
}

proptest! {
    /// Whatever arrives in Raft's name, a replica of any role neither panics nor writes what its
    /// store would refuse. (It may halt.)
    #[test]
    fn no_message_makes_a_replica_panic(
        to_leader in any::<bool>(),
        messages in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(twist(), 0..4), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut five = scene();
        let leader = five.elect();
        let victim = if to_leader { leader } else { leader % 5 + 1 };
        for (which, twists, at_present, alone) in messages {
            let mut message = which.get(&REAL).clone();
            message.to = victim;
            if message.from == victim {
                message.from = victim % 5 + 1;
            }
            if at_present && message.term != 0 {
                message.term = five.master(victim).term();
            }
            for twist in twists {
                apply(twist, &mut message);
            }
            let mut inputs = vec![Input::Raft(message)];
            if alone {
                inputs.push(Input::Tick);
            }
            five.input(victim, inputs);
            five.now = five.now + Millis(7);
        }
        let ticks = std::iter::repeat_n(Input::Tick, 60).collect();
        five.input(victim, ticks);
    }
}
