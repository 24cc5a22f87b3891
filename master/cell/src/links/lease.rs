//! What exclusive tasks may live by: that a majority of the masters followed this leader after a
//! moment by a shard's clock.
//!
//! A shard says when it reported; the leader asks the majority, by Raft's read index, and tells the
//! shard that its moment is confirmed. Nobody compares two clocks, and a leader that was deposed
//! confirms nothing after its successor was elected. The whole argument is in docs/adr/0009.
//!
//! Leaves what a shard does with it to `borg_linkshard`, and when a machine was heard of to `view`.

use borg_proto::peer::ShardStamp;
use borg_proto::{IncarnationId, MachineId, Millis, ReplicaId};
use std::collections::BTreeMap;

/// Least time between two questions to the majority. Ours: a lease is 30 s long.
const ASK_EVERY: Millis = Millis(200);
/// A question that was not answered for so long is asked again.
const ASK_AGAIN: Millis = Millis(1_000);
/// That a task is free is proposed again after this time.
const SAY_AGAIN: Millis = Millis(1_000);

/// A stamp of a shard, with the session that it is of.
type Stamped = (u64, ShardStamp);

#[derive(Debug)]
pub(super) struct Leases {
    /// When this leader began: no older one confirms anything after that.
    began: Millis,
    /// Stamps that no question was asked for yet.
    reported: BTreeMap<ReplicaId, Stamped>,
    /// The question that is out: its name, when it was asked, and for which stamps.
    question: Option<(u64, Millis, BTreeMap<ReplicaId, Stamped>)>,
    asked_at: Millis,
    /// Confirmed, and not told yet.
    confirmed: BTreeMap<ReplicaId, Stamped>,
    /// When machines were removed from the cell in this term.
    removed: BTreeMap<MachineId, Millis>,
    /// When it was proposed that these are free.
    said: BTreeMap<IncarnationId, Millis>,
}

impl Leases {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            began: now,
            reported: BTreeMap::new(),
            question: None,
            asked_at: Millis(0),
            confirmed: BTreeMap::new(),
            removed: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// A shard said when it reported.
    pub(super) fn reported(&mut self, shard: ReplicaId, session: u64, stamp: ShardStamp) {
        self.reported.insert(shard, (session, stamp));
    }

    /// A shard begins anew: its old stamps are worth nothing.
    pub(super) fn renewed(&mut self, shard: ReplicaId) {
        self.reported.remove(&shard);
        self.confirmed.remove(&shard);
        if let Some((_, _, stamps)) = &mut self.question {
            stamps.remove(&shard);
        }
    }

    /// Whether to ask the majority now, as `token`.
    pub(super) fn asks(&mut self, now: Millis, token: u64) -> bool {
        let waits = self.question.as_ref().is_some_and(|(_, at, _)| now.since(*at) < ASK_AGAIN);
        if waits || self.reported.is_empty() || now.since(self.asked_at) < ASK_EVERY {
            return false;
        }
        self.asked_at = now;
        self.question = Some((token, now, std::mem::take(&mut self.reported)));
        true
    }

    /// The majority followed, after it was asked, or did not say so.
    pub(super) fn asked(&mut self, token: u64, confirmed: bool) {
        if let Some((_, _, stamps)) = self.question.take_if(|(asked, _, _)| *asked == token)
            && confirmed
        {
            self.confirmed.extend(stamps);
        }
    }

    /// Whether a shard is to be told something.
    pub(super) fn news(&self, shard: ReplicaId) -> bool {
        self.confirmed.contains_key(&shard)
    }

    /// What a shard is to be told; it may be lost, the next one comes soon.
    pub(super) fn tell(&mut self, shard: ReplicaId) -> Option<ShardStamp> {
        self.confirmed.remove(&shard).map(|(_, stamp)| stamp)
    }

    /// A machine left the cell.
    pub(super) fn removed(&mut self, machine: MachineId, now: Millis) {
        self.removed.insert(machine, now);
    }

    /// How long what ran on a machine that left the cell has been without news at least.
    pub(super) fn alone_for(&self, machine: MachineId, now: Millis) -> Millis {
        now.since(self.removed.get(&machine).copied().unwrap_or(self.began))
    }

    /// Whether it is to be proposed now that an incarnation is gone.
    pub(super) fn says(&mut self, id: IncarnationId, now: Millis) -> bool {
        self.said.retain(|_, at| now.since(*at) < SAY_AGAIN);
        let new = !self.said.contains_key(&id);
        if new {
            self.said.insert(id, now);
        }
        new
    }
}
