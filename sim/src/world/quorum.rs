//! Whether there is a leader when there must be one (I21).
//!
//! Masters that are up, move, can write and reach each other as they should are a clique; when a
//! majority has been one for long enough, somebody leads, whatever the other masters and the ways
//! to them do (partial and one-way partitions, Cloudflare's outage of 2020). A majority of whom is
//! what each of them has applied: until a change of masters is over, that of the old ones as well.

use super::World;
use crate::checkers::Invariant;
use crate::marks::Mark;
use borg_cell::state::Standing;
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
        // What one of them has applied may be a change that the others do not know to be over.
        let suffices = |set: u32, at: usize| {
            self.replicas[at].process.as_ref().is_some_and(|process| {
                let members = process.master.membership();
                [&members.voters, &members.voters_outgoing].into_iter().all(|half| {
                    let in_set = |id: &&u64| {
                        let mut chosen = (0..masters).filter(|at| set & 1 << at != 0);
                        chosen.any(|at| self.replicas[at].id.0 == **id)
                    };
                    half.is_empty() || half.iter().filter(in_set).count() * 2 > half.len()
                })
            })
        };
        let mut oldest: Option<(Millis, u32)> = None;
        for (set, since) in &mut self.quorum.cliques {
            let is_clique = (0..masters)
                .all(|at| *set & 1 << at == 0 || friends[at] & *set == *set && suffices(*set, at));
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
