//! Asks the other masters how they are: the state of every replica must be the same after the same
//! entry, and this is where it shows; how fast their disks are and what entries they understand; and
//! whether this master is still one.

use crate::driver::Turn;
use crate::feed::View;
use crate::inbox::Inbox;
use crate::peers::{self, Peers};
use borg_cell::master::Input;
use borg_proto::names::ReplicaId;
use borg_proto::wire::pb;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(2);
/// How long another master may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why the cell goes on without this master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// Most others do not know it any more.
    Removed {
        /// How many of them.
        by: usize,
        /// How many there are.
        of: usize,
    },
    /// Most others were restored to another epoch.
    OtherRestore {
        /// Its own epoch.
        own: u64,
        /// Theirs.
        others: u64,
    },
}

/// Greets the others until `stop`, or until the cell goes on without this master.
pub(crate) async fn greet(
    peers: Peers,
    own: ReplicaId,
    turns: Inbox,
    view: watch::Receiver<View>,
    stop: CancellationToken,
) -> Option<Dismissal> {
    let mut rounds = tokio::time::interval(EVERY);
    let mut doubted = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            _ = rounds.tick() => {}
        }
        let members = peers.members();
        let mut round = Round { others: members.len(), ..Round::default() };
        for member in &members {
            let Some(client) = peers.client(member.replica) else { continue };
            let answer = peers::hello(client, PATIENCE).await;
            let mine = Own::of(own, &view.borrow());
            round.heard(mine, &answer);
            let Ok(hello) = answer else { continue };
            for input in facts(member.replica, &hello) {
                turns.vital(Turn::Input(input)).ok()?;
            }
        }
        let out = round.verdict();
        // Twice in a row: one that has just joined is not in every table yet.
        if doubted && out.is_some() {
            return out;
        }
        doubted = out.is_some();
    }
}

/// What a greeting tells the deciding half.
fn facts(replica: ReplicaId, hello: &pb::HelloResponse) -> Vec<Input> {
    let (write_micros, level) = (hello.write_us, hello.level);
    let mut facts = vec![Input::Peer { replica, write_micros, level }];
    if let Ok(digest) = u128::from_str_radix(&hello.digest, 16) {
        facts.push(Input::PeerDigest { replica, index: hello.digest_index, digest });
    }
    facts
}

/// This master, as it compares itself with another.
#[derive(Debug, Clone, Copy)]
struct Own {
    replica: ReplicaId,
    /// Index of the last entry in its state; 0 before the first.
    applied: u64,
    epoch: u64,
}

impl Own {
    fn of(replica: ReplicaId, view: &View) -> Self {
        Self { replica, applied: view.state.applied(), epoch: view.state.epoch() }
    }
}

/// What the others said in one round.
#[derive(Debug, Default)]
struct Round {
    others: usize,
    strangers: usize,
    /// This master's epoch and another one's, for each master that was restored otherwise.
    elsewhere: Vec<(u64, u64)>,
}

impl Round {
    fn heard(&mut self, own: Own, answer: &Result<pb::HelloResponse, Status>) {
        let hello = match answer {
            Ok(hello) => hello,
            Err(status) => {
                self.strangers += usize::from(status.code() == Code::PermissionDenied);
                return;
            }
        };
        if own.applied > 0 && hello.applied_index > 0 && hello.epoch != own.epoch {
            self.elsewhere.push((own.epoch, hello.epoch));
        }
        // Whoever is further on, or has seen this life begin, and does not know it, knows that it is out.
        let further = own.applied > 0 && hello.applied_index >= own.applied;
        let life = own.replica.life();
        let past = life > 0 && life <= hello.master_lives;
        let known = hello.masters.iter().any(|entry| entry.replica == own.replica.0);
        self.strangers += usize::from((further || past) && !hello.masters.is_empty() && !known);
    }

    fn verdict(&self) -> Option<Dismissal> {
        let most = |count: usize| count * 2 > self.others;
        match self.elsewhere.first() {
            Some(&(own, others)) if most(self.elsewhere.len()) => {
                Some(Dismissal::OtherRestore { own, others })
            }
            Some(_) | None if most(self.strangers) => {
                Some(Dismissal::Removed { by: self.strangers, of: self.others })
            }
            Some(_) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { replica: ReplicaId(1), applied: 100, epoch: 2 };

    fn hello(masters: &[u64], applied_index: u64, epoch: u64) -> Result<pb::HelloResponse, Status> {
        let masters =
            masters.iter().map(|&replica| pb::MasterEntry { replica, ..Default::default() });
        let masters = masters.collect();
        Ok(pb::HelloResponse { masters, applied_index, epoch, ..pb::HelloResponse::default() })
    }

    fn verdict(own: Own, answers: &[Result<pb::HelloResponse, Status>]) -> Option<Dismissal> {
        let mut round = Round { others: answers.len(), ..Round::default() };
        for answer in answers {
            round.heard(own, answer);
        }
        round.verdict()
    }

    fn strangers() -> Result<pb::HelloResponse, Status> {
        hello(&[2, 3, 4, 5], 100, 2)
    }

    fn friends() -> Result<pb::HelloResponse, Status> {
        hello(&[1, 2, 3, 4, 5], 100, 2)
    }

    fn silent() -> Result<pb::HelloResponse, Status> {
        Err(Status::unavailable("down"))
    }

    #[test]
    fn most_others_have_to_say_that_a_master_is_out() {
        assert_eq!(verdict(OWN, &[friends(), friends(), friends(), strangers()]), None);
        assert_eq!(verdict(OWN, &[silent(), silent(), strangers(), strangers()]), None);
        let shut = || Err(Status::permission_denied("not a master"));
        let out = Some(Dismissal::Removed { by: 3, of: 4 });
        assert_eq!(verdict(OWN, &[strangers(), shut(), strangers(), silent()]), out);
    }

    #[test]
    fn those_that_are_behind_may_not_know_a_newcomer_yet() {
        let behind = || hello(&[2, 3, 4, 5], 99, 2);
        assert_eq!(verdict(OWN, &[behind(), behind(), behind(), behind()]), None);
        // Nor do those that have no table at all.
        let empty = || hello(&[], 100, 2);
        assert_eq!(verdict(OWN, &[empty(), empty(), empty(), empty()]), None);
    }

    #[test]
    fn a_master_without_a_state_asks_nobody_whether_it_is_one() {
        let newcomer = Own { applied: 0, epoch: 1, ..OWN };
        assert_eq!(verdict(newcomer, &[strangers(), strangers(), strangers(), strangers()]), None);
    }

    /// It lost its log, was let in in another life, and that was taken back before it had anything.
    #[test]
    fn a_master_whose_join_was_taken_back_is_out_though_its_number_is_a_masters() {
        let newcomer = Own { replica: ReplicaId::of_life(1, 7), applied: 0, epoch: 1 };
        let with = |lives| {
            let answer = hello(&[1, 2, 3], 100, 2).unwrap();
            Ok(pb::HelloResponse { master_lives: lives, ..answer })
        };
        assert_eq!(verdict(newcomer, &[with(6), with(6)]), None, "they do not know of it yet");
        let out = Some(Dismissal::Removed { by: 2, of: 2 });
        assert_eq!(verdict(newcomer, &[with(7), with(8)]), out);
    }

    #[test]
    fn another_restore_is_said_rather_than_that_it_was_removed() {
        let restored = || hello(&[2, 3, 4, 5], 200, 3);
        let out = Some(Dismissal::OtherRestore { own: 2, others: 3 });
        assert_eq!(verdict(OWN, &[restored(), restored(), restored(), silent()]), out);
        assert_eq!(verdict(OWN, &[restored(), restored(), friends(), friends()]), None);
        // A master that knows nothing yet has no epoch of its own to hold against others.
        let blank = || hello(&[], 0, 1);
        assert_eq!(verdict(OWN, &[blank(), blank(), blank(), blank()]), None);
    }
}
