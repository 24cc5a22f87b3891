//! Whether there is a leader when there must be one (I21).
//!
//! Masters that are up, move, can write and reach each other as they should are a clique; when a
//! majority has been one for long enough, somebody leads, whatever the other masters and the ways
//! to them do (partial and one-way partitions, Cloudflare's outage of 2020). A majority of whom, says
//! what those with the newest log have applied, who alone can be elected: while none of them knows
//! that a change of masters is over, the old ones count as well.

use super::World;
use crate::checkers::Invariant;
use crate::marks::Mark;
use borg_cell::state::Standing;
use borg_cell::store::{Membership, Position};
use borg_proto::Millis;

/// An election takes at most so long: the bound.
const ELECTED: Millis = Millis(2_000);
/// A majority without a leader for so long counts for the mark.
const SOME: Millis = Millis(200);
/// How often is looked.
const LOOK: Millis = Millis(50);

/// Since when each majority is a clique, and since when nobody leads.
#[derive(Debug)]
pub(crate) struct Quorum {
    next: Millis,
    /// Masters, a bit each.
    cliques: Vec<(u32, Option<Millis>)>,
    leaderless: Option<Millis>,
}

/// One of a clique, as far as its election goes.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    id: u64,
    /// Term and index of its last entry.
    last: (u64, u64),
    /// Who votes, as far as it has applied it.
    members: &'a Membership,
}

/// Whether these masters can elect one of them without anybody else. Raft (section 5.4.1) lets only
/// those with the newest log win, and each asks the voters that it has applied.
fn can_elect(clique: &[Candidate<'_>]) -> bool {
    let newest = clique.iter().map(|candidate| candidate.last).max();
    let majority = |voters: &[u64]| {
        let here = voters.iter().filter(|id| clique.iter().any(|candidate| candidate.id == **id));
        here.count() * 2 > voters.len()
    };
    clique.iter().filter(|candidate| Some(candidate.last) == newest).any(|candidate| {
        let Membership { voters, voters_outgoing, .. } = candidate.members;
        majority(voters) && (voters_outgoing.is_empty() || majority(voters_outgoing))
    })
}

impl Quorum {
    pub(crate) fn new(masters: usize) -> Self {
        let all = 0..1_u32 << masters;
        let majority = |set: &u32| usize::try_from(set.count_ones()).expect("few") * 2 > masters;
        let cliques = all.filter(majority).map(|set| (set, None)).collect();
        Self { next: Millis(0), cliques, leaderless: None }
    }
}

impl World {
    /// Looks at masters and the ways between them, now and then.
    pub(crate) fn look_at_leader(&mut self) {
        let now = self.now();
        if now < self.quorum.next {
            return;
        }
        self.quorum.next = now + LOOK;
        let masters = self.setup.masters;
        // While masters come and go, a majority is not what it is otherwise.
        let changing =
            self.newest.masters_changing().is_some() || self.newest.masters().count() != masters;
        let fit = |at: &usize| {
            let replica = &self.replicas[*at];
            let record = self.newest.master(replica.id);
            !changing
                && record.is_some_and(|record| record.standing == Standing::Voting)
                && self.moves(*at)
                && replica.stalled == Millis(0)
                && replica.slower_since.is_none()
                && !replica.disk.is_full()
        };
        let fits: Vec<bool> = (0..masters).map(|at| fit(&at)).collect();
        // For each master those that it reaches and that reach it.
        let friends = |at: usize| {
            let meets = |to: &usize| {
                *to == at
                    || fits[*to] && self.network.is_good(at, *to) && self.network.is_good(*to, at)
            };
            (0..masters).filter(meets).fold(0_u32, |set, to| set | 1 << to)
        };
        let friends: Vec<u32> =
            (0..masters).map(|at| if fits[at] { friends(at) } else { 0 }).collect();
        let elects = |set: u32| {
            let chosen = (0..masters).filter(|at| set & 1 << at != 0);
            let candidates: Vec<Candidate<'_>> = chosen
                .filter_map(|at| {
                    let master = &self.replicas[at].process.as_ref()?.master;
                    let Position { index, term } = master.last_log();
                    let id = self.replicas[at].id.0;
                    Some(Candidate { id, last: (term, index), members: master.membership() })
                })
                .collect();
            can_elect(&candidates)
        };
        let mut oldest: Option<(Millis, u32)> = None;
        for (set, since) in &mut self.quorum.cliques {
            let meet = (0..masters).all(|at| *set & 1 << at == 0 || friends[at] & *set == *set);
            let is_clique = meet && elects(*set);
            *since = if is_clique { since.or(Some(now)) } else { None };
            if let Some(since) = *since {
                oldest = Some(oldest.map_or((since, *set), |found| found.min((since, *set))));
            }
        }
        let led = self.somebody_leads();
        let waited = |quorum: &Quorum| {
            Some(now.since(quorum.leaderless?.max(oldest?.0))).filter(|waited| *waited >= SOME)
        };
        if led && waited(&self.quorum).is_some() {
            self.hit(Mark::ElectedInTime);
        }
        self.quorum.leaderless = if led { None } else { self.quorum.leaderless.or(Some(now)) };
        let (Some(leaderless), Some((since, set))) = (self.quorum.leaderless, oldest) else {
            return;
        };
        let waited = now.since(leaderless.max(since));
        if waited > ELECTED {
            let who: Vec<usize> =
                (0..masters).filter(|at| set & 1 << at != 0).map(|at| at + 1).collect();
            let what = format!(
                "masters {who:?} are well and reach each other, and nobody leads them for {waited}"
            );
            self.check(Invariant::Elects, Err(what));
        }
    }

    /// Whether some master leads and a majority, which it reaches and hears, says so.
    fn somebody_leads(&self) -> bool {
        (0..self.setup.masters).any(|leader| {
            let Some(process) = &self.replicas[leader].process else { return false };
            let (id, term) = (Some(self.replicas[leader].id), process.master.term());
            let follows = |other: &usize| {
                *other == leader
                    || self.moves(*other)
                        && self.network.is_open(leader, *other)
                        && self.network.is_open(*other, leader)
                        && self.replicas[*other].process.as_ref().is_some_and(|other| {
                            other.master.leader() == id && other.master.term() == term
                        })
            };
            process.master.is_leader()
                && self.moves(leader)
                && (0..self.setup.masters).filter(follows).count() * 2 > self.setup.masters
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], outgoing: &[u64]) -> Membership {
        let (voters, voters_outgoing) = (voters.to_vec(), outgoing.to_vec());
        Membership { voters, voters_outgoing, ..Membership::default() }
    }

    /// 22 takes the place of 2.
    #[test]
    fn a_clique_must_elect_somebody_exactly_when_one_with_the_newest_log_has_a_majority_in_it() {
        let old = members(&[1, 2, 3, 4, 5], &[]);
        let joint = members(&[1, 3, 4, 5, 22], &[1, 2, 3, 4, 5]);
        let new = members(&[1, 3, 4, 5, 22], &[]);
        let can = |clique: &[(u64, u64, &Membership)]| {
            let candidates: Vec<Candidate<'_>> = clique
                .iter()
                .map(|&(id, index, members)| Candidate { id, last: (7, index), members })
                .collect();
            can_elect(&candidates)
        };
        assert!(can(&[(1, 9, &new), (3, 9, &new), (22, 9, &new)]));
        // Seed 693: 4 and 5 are away, and nobody else knows that the change is over.
        assert!(!can(&[(1, 9, &joint), (3, 9, &joint), (22, 9, &joint)]));
        assert!(can(&[(1, 9, &joint), (3, 9, &joint), (4, 9, &joint), (22, 9, &joint)]));
        // One that missed the change votes for one that did not.
        assert!(can(&[(1, 3, &old), (3, 9, &new), (22, 9, &new)]));
        // Of two with the same log one has applied the end of the change.
        assert!(can(&[(1, 9, &joint), (3, 9, &new), (22, 9, &joint)]));
        // One that knows the end by an older log cannot win.
        assert!(!can(&[(1, 8, &new), (3, 9, &joint), (22, 9, &joint)]));
        let nobody = members(&[], &[]);
        assert!(!can(&[(1, 9, &nobody), (3, 9, &nobody), (22, 9, &nobody)]));
    }
}
