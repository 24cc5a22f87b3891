//! Masters come, go and are replaced while the cell works.

#![expect(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod five;

use borg_cell::master::{Config, Input, Outcome};
use borg_cell::rejection::Rejection;
use borg_cell::state::{Answer, Standing};
use borg_proto::command::{Action, Command, LEVEL, Principal};
use borg_proto::{Millis, ReplicaId};
use five::Five;

fn small(config: &mut Config) {
    config.checkpoint_every = 20;
    config.trailing = 4;
}

fn invite(number: u64, replaces: Option<u64>) -> Action {
    Action::InviteMaster { number, address: format!("h-{number}:1"), replaces }
}

fn join(number: u64, token: u64) -> Action {
    Action::JoinMaster { number, address: format!("h-{number}:1"), token }
}

/// Asks the leader, as the admin or as the master itself, until it is done or refused.
fn ask(five: &mut Five, by: Principal, action: &Action) -> Outcome {
    for _ in 0..50 {
        let leader = five.elect();
        let token = 1_000_000 + five.draw() % 1_000_000;
        let command =
            Command { at: Millis(0), by: by.clone(), request: None, action: action.clone() };
        let deadline = five.now + Millis(1_000);
        five.input(leader, vec![Input::Propose { token, command, deadline }]);
        five.run_until("an answer", 2_000, |five| five.answers.contains_key(&token));
        match five.answers[&token].clone() {
            Outcome::Unavailable | Outcome::NotLeader { .. } => five.run(50),
            other => return other,
        }
    }
    panic!("nobody answers {action:?}");
}

fn admin(five: &mut Five, action: &Action) -> Outcome {
    ask(five, borg_cell::fixture::user("admin"), action)
}

fn accepted(outcome: &Outcome) -> ReplicaId {
    match outcome {
        Outcome::Accepted { answer: Answer::Master(id), .. } => *id,
        other => panic!("{other:?}"),
    }
}

/// A process without a log asks to join, and starts under the id that it got.
fn join_anew(five: &mut Five, number: u64) -> u64 {
    let outcome = ask(five, Principal::Master(ReplicaId(number)), &join(number, 77));
    let id = accepted(&outcome).0;
    five.add_empty(id);
    five.start(id);
    id
}

fn votes(five: &Five, id: u64) -> bool {
    let leader = five.leader();
    let standing =
        leader.and_then(|leader| five.master(leader).state().master(ReplicaId(id)).cloned());
    standing.is_some_and(|record| record.standing == Standing::Voting)
}

fn settled_members(five: &Five) -> bool {
    five.leader().is_some_and(|leader| five.master(leader).state().masters_changing().is_none())
}

#[test]
fn an_invited_master_listens_first_and_votes_then() {
    let mut five = Five::with(1, 3, small);
    for round in 0..30 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    let id = accepted(&admin(&mut five, &invite(4, None)));
    assert_eq!(id, ReplicaId::of_life(4, 1));
    assert_eq!(join_anew(&mut five, 4), id.0);
    five.run_until("the newcomer votes", 10_000, |five| votes(five, id.0));
    five.settle();
    // Asked again, however late, it is the same.
    let again = ask(&mut five, Principal::Master(ReplicaId(4)), &join(4, 77));
    assert_eq!(accepted(&again), id);
    assert!(five.has_job(id.0, "job-0"));
    assert_eq!(five.resets.get(&id.0), Some(&1), "it took a checkpoint");
    assert_eq!(five.hurried.len(), 1, "that was saved for it alone, without pauses");
}

/// Two masters at one address: one of them would never be reached, and count as a voter.
#[test]
fn an_address_is_one_masters_and_passes_to_the_one_that_replaces_it() {
    let mut five = Five::with(4, 3, small);
    let leader = five.elect();
    let taken = five.master(leader).state().master(ReplicaId(2)).unwrap().address.clone();
    let invite =
        |number, replaces| Action::InviteMaster { number, address: taken.clone(), replaces };
    let refused = Rejection::AddressTaken { number: 2, address: taken.clone() };
    for replaces in [None, Some(1)] {
        match admin(&mut five, &invite(4, replaces)) {
            Outcome::Refused { rejection, .. } => assert_eq!(rejection, refused),
            other => panic!("{other:?}"),
        }
    }
    accepted(&admin(&mut five, &invite(4, Some(2))));
}

/// The point of it all: with two of five gone for good, replacing one of them makes the cell bear
/// another loss.
#[test]
fn a_dead_master_is_replaced_while_jobs_are_accepted() {
    let mut five = Five::with(2, 5, small);
    five.submit_until_accepted("before");
    let dead = five.elect() % 5 + 1;
    five.crash(dead);
    accepted(&admin(&mut five, &invite(6, Some(dead))));
    let new = join_anew(&mut five, 6);
    for round in 0..40 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    five.run_until("it is replaced", 10_000, |five| votes(five, new) && settled_members(five));
    let leader = five.elect();
    let state = five.master(leader).state();
    assert_eq!(state.masters().count(), 5);
    assert!(state.master(ReplicaId(dead)).is_none());
    for id in (1..=5).filter(|id| *id != dead).take(2) {
        five.crash(id);
    }
    five.submit_until_accepted("after");
    five.settle();
}

/// Raft starts from the configuration at the index that a replica knows to be agreed. Were that not on its
/// disk when the masters have changed, a majority of the new ones would wait for one of the old ones, for ever.
#[test]
fn a_majority_of_the_new_masters_elects_after_all_have_died_right_behind_the_change() {
    let mut five = Five::with(6, 5, small);
    five.submit_until_accepted("before");
    let dead = five.elect() % 5 + 1;
    five.crash(dead);
    accepted(&admin(&mut five, &invite(6, Some(dead))));
    let new = join_anew(&mut five, 6);
    let changed = |five: &Five, id: u64| {
        let state = five.master(id).state();
        state.masters_changing().is_none() && state.master(ReplicaId(new)).is_some()
    };
    let all = |five: &Five| five.up().into_iter().all(|id| changed(five, id));
    five.run_until("all have changed", 10_000, all);
    five.run(20);
    for id in five.up() {
        five.crash(id);
    }
    let old: Vec<u64> = (1..=5).filter(|id| *id != dead).take(2).collect();
    for id in [old[0], old[1], new] {
        five.start(id);
    }
    five.submit_until_accepted("after");
}

/// I2, B2: what a master acknowledged and forgot must not count. It comes back under another id.
#[test]
fn a_master_that_lost_its_log_comes_back_in_another_life() {
    let mut five = Five::with(3, 5, small);
    for round in 0..25 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    let lost = five.elect();
    five.crash(lost);
    let new = join_anew(&mut five, lost);
    assert_eq!((ReplicaId(new).number(), ReplicaId(new).life()), (lost, 1));
    five.run_until("it votes", 10_000, |five| votes(five, new) && settled_members(five));
    five.settle();
    assert!(five.master(new).state().master(ReplicaId(lost)).is_none());
    // Its old self, should it turn up, is nobody any more and disturbs nobody.
    let term = five.master(five.leader().unwrap()).term();
    five.start(lost);
    five.run(3_000);
    assert_eq!(five.master(five.leader().unwrap()).term(), term);
    five.crash(lost);
    five.submit_until_accepted("after");
    five.settle();
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    let mut five = Five::with(4, 5, small);
    let leader = five.elect();
    five.run(200);
    accepted(&admin(&mut five, &Action::RemoveMaster { number: leader }));
    five.run_until("it is out", 10_000, |five| {
        five.leader().is_some_and(|now| now != leader) && settled_members(five)
    });
    five.crash(leader);
    five.submit_until_accepted("after");
    five.settle();
    let leader = five.elect();
    assert_eq!(five.master(leader).state().masters().count(), 4);
}

#[test]
fn an_operator_cannot_take_the_majority_away() {
    let mut five = Five::with(5, 5, small);
    let leader = five.elect();
    five.run(500);
    let silent: Vec<u64> = (1..=5).filter(|id| *id != leader).take(2).collect();
    for id in &silent {
        five.crash(*id);
    }
    five.run(1_500);
    let alive = (1..=5).find(|id| *id != leader && !silent.contains(id)).unwrap();
    let outcome = admin(&mut five, &Action::RemoveMaster { number: alive });
    let Outcome::Unsafe { why } = outcome else { panic!("{outcome:?}") };
    assert_eq!(
        why,
        "2 of the 4 masters left would answer, a majority is 3: start or replace the silent ones first"
    );
    accepted(&admin(&mut five, &Action::RemoveMaster { number: silent[0] }));
    five.run_until("it is out", 10_000, settled_members);
    let mut one = Five::with(6, 1, small);
    let outcome = admin(&mut one, &Action::RemoveMaster { number: 1 });
    assert!(matches!(&outcome, Outcome::Unsafe { .. } | Outcome::Refused { .. }), "{outcome:?}");
}

#[test]
fn a_join_that_leads_nowhere_is_taken_back() {
    let mut five = Five::with(7, 3, small);
    accepted(&admin(&mut five, &invite(4, None)));
    let refused = admin(&mut five, &invite(5, None));
    assert!(matches!(refused, Outcome::Refused { .. }), "one at a time: {refused:?}");
    let id = accepted(&ask(&mut five, Principal::Master(ReplicaId(4)), &join(4, 1)));
    five.run(1_000); // it listens, and never starts
    accepted(&admin(&mut five, &Action::RemoveMaster { number: 4 }));
    five.run_until("it is forgotten", 10_000, |five| {
        five.master(five.leader().unwrap()).state().master(id).is_none()
    });
    five.settle();
}

/// A rolling restart must not wait for time-outs.
#[test]
fn a_leader_that_is_stopped_hands_over_within_milliseconds() {
    let mut five = Five::new(8);
    let leader = five.elect();
    five.run(500);
    five.input(leader, vec![Input::Retire]);
    five.run_until("another leader", 60, |five| {
        five.up().iter().any(|id| *id != leader && five.master(*id).is_leader())
    });
    five.submit_until_accepted("after");
    five.settle();
}

#[test]
fn a_leader_with_a_slow_disk_hands_over_to_one_with_a_fast_one() {
    let mut five = Five::new(9);
    let leader = five.elect();
    let fast = leader % 5 + 1;
    five.run(500);
    for id in (1..=5).filter(|id| *id != leader) {
        let write_micros = if id == fast { 2_000 } else { 100_000 };
        five.input(
            leader,
            vec![Input::Peer { replica: ReplicaId(id), write_micros, level: LEVEL }],
        );
    }
    five.input(leader, vec![Input::Wrote { micros: 150_000 }; 16]);
    five.run_until("the one with the fast disk leads", 100, |five| five.master(fast).is_leader());
}

/// B5: the leader dies at every moment of a change.
#[test]
fn a_change_goes_on_whoever_leads() {
    for delay in 0..30 {
        let mut five = Five::with(100 + delay, 5, small);
        five.submit_until_accepted("before");
        accepted(&admin(&mut five, &invite(6, Some(1))));
        let new = join_anew(&mut five, 6);
        five.run(delay * 7);
        if let Some(leader) = five.leader().filter(|id| *id != 1) {
            five.crash(leader);
            five.run(400);
            five.start(leader);
        }
        five.run_until("the change is complete", 20_000, |five| {
            votes(five, new) && settled_members(five)
        });
        five.crash(1);
        five.submit_until_accepted("after");
        five.settle();
    }
}

/// Masters of two versions in one cell: nothing is proposed that the older ones do not know.
#[test]
fn the_level_of_entries_is_what_all_masters_understand() {
    let mut five = Five::with(10, 3, |_| {});
    let leader = five.elect();
    assert_eq!(five.master(leader).state().level(), LEVEL);
    five.found_at_level(1);
    let leader = five.elect();
    five.run(300);
    let refused = admin(&mut five, &invite(4, None));
    assert_eq!(refused, Outcome::TooNew { needs: 2, has: 1 });
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let leader = five.elect();
    for (id, level) in others.iter().zip([2, 1]) {
        let replica = ReplicaId(*id);
        five.input(leader, vec![Input::Peer { replica, write_micros: 0, level }]);
    }
    five.run(300);
    assert_eq!(five.master(leader).state().level(), 1, "one does not understand it");
    let replica = ReplicaId(others[1]);
    five.input(leader, vec![Input::Peer { replica, write_micros: 0, level: 2 }]);
    five.run_until("the level rises", 1_000, |five| five.master(leader).state().level() == 2);
    accepted(&admin(&mut five, &invite(4, None)));
    five.settle();
}

/// I30: a master of an older version stops at an entry that it does not know.
#[test]
fn an_older_master_stops_at_a_newer_entry() {
    let mut five = Five::with(11, 3, |config| {
        if config.replica == ReplicaId(3) {
            config.level = 1;
        }
    });
    let leader = loop {
        let leader = five.elect();
        if leader != 3 {
            break leader;
        }
        five.crash(3);
        five.run(1_000);
        five.start(3);
    };
    assert_ne!(leader, 3);
    accepted(&admin(&mut five, &invite(4, None)));
    five.run_until("it stops", 5_000, |five| five.halts.iter().any(|(id, _)| *id == 3));
    let (_, why) = five.halts.iter().find(|(id, _)| *id == 3).unwrap();
    assert!(why.contains("it is of level 2, this version understands 1"), "{why}");
}
