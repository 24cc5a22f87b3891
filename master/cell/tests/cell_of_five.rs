//! A cell of five Borgmasters through crashes, cuts and losses.

#![expect(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod five;

use borg_cell::master::Outcome;
use borg_proto::ReplicaId;
use borg_proto::command::Action;
use borg_proto::machine::MachineAddress;
use five::Five;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn five_masters_elect_one_and_agree() {
    let mut five = Five::new(1);
    let leader = five.elect();
    assert!(five.now.0 < 1_000_000 + 2_000, "elected after {}", five.now.0 - 1_000_000);
    let token = five.submit(leader, "web");
    five.run(100);
    assert!(matches!(five.answers[&token], Outcome::Accepted { .. }), "{:?}", five.answers);
    five.settle();
    assert!(five.up().iter().all(|id| five.has_job(*id, "web")));
    let told = five.master(leader).state().leader().unwrap();
    assert_eq!(told, (ReplicaId(leader), five.master(leader).term()));
}

/// I2: whatever was acknowledged is in the state of every later leader.
#[test]
fn acknowledged_jobs_survive_the_crash_of_five_leaders_in_a_row() {
    for seed in 1..=5 {
        let mut five = Five::new(seed);
        for round in 0..5 {
            five.submit_until_accepted(&format!("job-{round}"));
            let leader = five.elect();
            five.crash(leader);
            let crashed_at = five.now;
            let next = five.elect();
            assert_ne!(next, leader);
            let took = five.now.since(crashed_at).0;
            assert!(took < 2_000, "seed {seed}: next leader after {took} ms");
            five.start(leader);
        }
        five.settle();
        for id in five.up() {
            assert!((0..5).all(|round| five.has_job(id, &format!("job-{round}"))));
        }
    }
}

/// I4: a client that does not know whether its change was done asks again.
#[test]
fn a_change_asked_for_again_after_a_failover_is_done_once() {
    let mut five = Five::new(7);
    let leader = five.elect();
    five.run(100);
    let first = five.submit(leader, "web");
    five.run(8); // long enough to be agreed, or nearly
    five.crash(leader);
    five.submit_until_accepted("web");
    five.start(leader);
    five.settle();
    assert!(five.answers.get(&first).is_none_or(|o| matches!(o, Outcome::Accepted { .. })));
    assert_eq!(five.master(leader).state().jobs().count(), 1);
}

#[test]
fn all_five_come_back_from_their_disks() {
    let mut five = Five::with(3, 5, |config| {
        config.checkpoint_every = 8;
        config.trailing = 2;
    });
    for round in 0..20 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    let leader = five.elect();
    let checkpoint = five.master(leader).status().checkpoint;
    assert!(checkpoint > 0, "checkpoints were made");
    for id in five.up() {
        five.crash(id);
    }
    five.run(100);
    for id in 1..=5 {
        five.start(id);
    }
    five.elect();
    five.settle();
    assert!((0..20).all(|round| five.has_job(1, &format!("job-{round}"))));
}

#[test]
fn a_replica_that_was_away_for_long_takes_a_checkpoint() {
    let mut five = Five::with(4, 5, |config| {
        config.checkpoint_every = 10;
        config.trailing = 2;
    });
    let away = five.elect() % 5 + 1;
    five.crash(away);
    for round in 0..40 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    five.start(away);
    five.settle();
    assert_eq!(five.resets.get(&away), Some(&1));
    assert!(five.has_job(away, "job-0"));
    // It is durable there, too.
    five.crash(away);
    five.start(away);
    assert!(five.has_job(away, "job-0"));
    five.settle();
}

/// A checkpoint that is lost on the way is sent again, though nobody reports the loss.
#[test]
fn a_checkpoint_gets_through_a_bad_network() {
    let mut five = Five::with(5, 5, |config| {
        config.checkpoint_every = 10;
        config.trailing = 2;
    });
    let away = five.elect() % 5 + 1;
    five.crash(away);
    for round in 0..30 {
        five.submit_until_accepted(&format!("job-{round}"));
    }
    five.lost_per_hundred = 30;
    five.checkpoints_to_lose = 2;
    five.start(away);
    five.run_until("the checkpoint", 60_000, |five| five.has_job(away, "job-0"));
    five.lost_per_hundred = 0;
    five.settle();
}

#[test]
fn a_follower_names_the_leader() {
    let mut five = Five::new(6);
    let leader = five.elect();
    five.run(100);
    let token = five.submit(leader % 5 + 1, "web");
    assert_eq!(five.answers[&token], Outcome::NotLeader { leader: Some(ReplicaId(leader)) });
}

#[test]
fn without_a_majority_a_change_is_unavailable_within_its_deadline() {
    let mut five = Five::new(8);
    let leader = five.elect();
    five.run(100);
    for id in (1..=5).filter(|id| *id != leader).take(3) {
        five.crash(id);
    }
    let asked_at = five.now;
    let token = five.submit(leader, "web");
    five.run_until("an answer", 1_100, |five| five.answers.contains_key(&token));
    assert_eq!(five.answers[&token], Outcome::Unavailable);
    assert!(five.now.since(asked_at).0 <= 1_020);
    // Check-quorum: it stops leading, too.
    five.run(1_000);
    assert!(!five.master(leader).is_leader());
    let token = five.submit(leader, "web");
    assert!(matches!(five.answers[&token], Outcome::NotLeader { .. }));
}

/// A client hears of a lost leader as soon as the leader itself knows, not at its deadline.
#[test]
fn a_leader_that_steps_down_tells_those_who_wait() {
    let mut five = Five::new(14);
    let leader = five.elect();
    five.run(200);
    five.cut(leader);
    let token = five.submit(leader, "web");
    five.run_until("an answer", 700, |five| five.answers.contains_key(&token));
    assert_eq!(five.answers[&token], Outcome::Unavailable);
    assert!(!five.master(leader).is_leader());
}

/// I3, B6: a leader that was cut off must not answer reads from what it remembers.
#[test]
fn a_read_at_a_leader_that_was_replaced_is_refused_and_elsewhere_sees_the_change() {
    let mut five = Five::new(9);
    let old = five.elect();
    five.run(100);
    let fine = five.read(old);
    five.run(50);
    assert!(five.reads[&fine].is_some());
    five.cut(old);
    let stale = five.read(old);
    five.submit_until_accepted("web");
    five.run(1_000);
    assert_eq!(five.reads[&stale], None);
    let new = five.leader().unwrap();
    for id in (1..=5).filter(|id| *id != old) {
        let read = five.read(id);
        five.run_until("a read", 500, |five| five.reads.contains_key(&read));
        assert!(
            five.reads[&read].is_some() && five.has_job(id, "web"),
            "replica {id}, leader {new}"
        );
    }
    five.heal();
    five.settle();
    assert!(five.has_job(old, "web"));
}

/// B7: pre-vote. A replica that comes back from a cut does not disturb the leader.
#[test]
fn a_replica_that_comes_back_does_not_unseat_the_leader() {
    let mut five = Five::new(10);
    let leader = five.elect();
    five.run(200);
    let term = five.master(leader).term();
    five.cut(leader % 5 + 1);
    five.run(3_000);
    five.heal();
    five.run(3_000);
    assert_eq!((five.leader(), five.master(leader).term()), (Some(leader), term));
}

#[test]
fn a_lossy_network_loses_no_acknowledged_job() {
    for seed in 20..25 {
        let mut five = Five::new(seed);
        five.lost_per_hundred = 20;
        for round in 0..10 {
            five.submit_until_accepted(&format!("job-{round}"));
            // Followers that are behind must catch up before they answer; `five` checks that.
            for id in 1..=5 {
                five.read(id);
            }
        }
        five.run(1_100);
        assert!(five.reads.values().filter(|read| read.is_some()).count() > 40, "{:?}", five.reads);
        five.lost_per_hundred = 0;
        five.settle();
        assert!((0..10).all(|round| five.has_job(1, &format!("job-{round}"))));
    }
}

/// Whatever happens in whatever order: nothing acknowledged is lost, and all agree in the end.
#[test]
fn crashes_cuts_and_losses_in_any_order_lose_nothing() {
    for seed in 1_000..1_020 {
        let mut five = Five::with(seed, 5, |config| {
            config.checkpoint_every = 12;
            config.trailing = 3;
        });
        let mut tokens = BTreeMap::new();
        for round in 0..60 {
            let draw = five.draw();
            let (up, which) = (five.up(), draw >> 20);
            match draw % 8 {
                0 if up.len() > 3 => five.crash(which % 5 + 1),
                1 | 2 => {
                    (1..=5).filter(|id| !up.contains(id)).take(1).for_each(|id| five.start(id))
                }
                3 => five.lost_per_hundred = which % 40,
                4 => five.heal(),
                5 => five.cut(which % 5 + 1),
                _ => {}
            }
            if let Some(leader) = five.leader() {
                let name = format!("job-{round}");
                tokens.insert(five.submit(leader, &name), name);
            }
            for id in five.up() {
                five.read(id);
            }
            five.run((draw >> 40) % 300);
        }
        five.heal();
        five.lost_per_hundred = 0;
        for id in (1..=5).filter(|id| !five.up().contains(id)).collect::<Vec<_>>() {
            five.start(id);
        }
        five.run(3_000);
        five.settle();
        let accepted =
            |token: &u64| matches!(five.answers.get(token), Some(Outcome::Accepted { .. }));
        let kept: Vec<_> = tokens.iter().filter(|(token, _)| accepted(token)).collect();
        assert!(kept.len() > 5, "seed {seed}: {} of {} accepted", kept.len(), tokens.len());
        assert!(kept.iter().all(|(_, name)| five.has_job(1, name)), "seed {seed} lost a job");
        assert_eq!((five.halts.len(), five.diverged.len()), (0, 0));
    }
}

/// The same seed gives the same effects, byte for byte: elections, messages, states and all.
#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut five = Five::new(seed);
        five.record = true;
        five.lost_per_hundred = 10;
        for round in 0..4 {
            five.submit_until_accepted(&format!("job-{round}"));
            let leader = five.elect();
            five.crash(leader);
            five.run(500);
            five.start(leader);
        }
        five.run(500);
        five.history
    };
    let first = history(11);
    assert!(first.len() > 100_000);
    assert!(first == history(11));
    assert!(first != history(12));
}

#[test]
fn a_cell_of_one_agrees_with_itself() {
    let mut one = Five::with(1, 1, |_| {});
    one.submit_until_accepted("web");
    let read = one.read(1);
    assert!(one.reads[&read].is_some());
    one.crash(1);
    one.start(1);
    one.elect();
    one.run(10);
    assert!(one.has_job(1, "web"));
}

/// The loss of a replica moves its machines alone, and disturbs no other shard (I12).
#[test]
fn machines_of_a_lost_replica_go_to_the_others() {
    let mut five = Five::new(13);
    let leader = five.elect();
    for number in 0..40 {
        let machine = MachineAddress {
            name: format!("m-{number}").parse().unwrap(),
            address: format!("m-{number}:7000"),
        };
        five.propose(leader, "admin", format!("add-{number}"), Action::AddMachine { machine });
    }
    five.run(1_000);
    let newest = |five: &Five, id: u64| {
        let orders = &five.orders[&id];
        let whole = orders.iter().rfind(|orders| orders.whole).unwrap();
        let names: BTreeSet<_> = whole.machines.iter().map(|m| m.machine.clone()).collect();
        (whole.session, names)
    };
    let before: BTreeMap<u64, _> = (1..=5).map(|id| (id, newest(&five, id))).collect();
    assert_eq!(before.values().map(|(_, names)| names.len()).sum::<usize>(), 40);
    let lost = leader % 5 + 1;
    five.crash(lost);
    five.run(2_000);
    let mut all = BTreeSet::new();
    for id in (1..=5).filter(|id| *id != lost) {
        let (session, names) = newest(&five, id);
        assert!(names.is_superset(&before[&id].1));
        assert_eq!(names.len() == before[&id].1.len(), session == before[&id].0);
        all.extend(names);
    }
    assert_eq!(all.len(), 40);
    five.start(lost);
    five.run(3_000);
    assert_eq!(newest(&five, lost).1, before[&lost].1, "it gets its own machines back");
}
