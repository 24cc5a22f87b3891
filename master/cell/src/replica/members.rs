//! Raft's configuration, and how a leader makes it follow the cell's table of masters.
//!
//! The table (`state::masters`) says who should be a master; this takes the next step towards it:
//! a newcomer listens first, and votes when it has nearly all of the log; whom it replaces leaves in
//! the same joint change (Ongaro and Ousterhout 2014, section 6). Whoever leads next goes on where
//! the last leader stopped, because the next step follows from table and configuration alone.
//!
//! Invariants: one step at a time. No step but one that a majority of the voters after it, all
//! heard of lately, can carry.

use super::office::Office;
use super::{Origin, Replica};
use crate::event::Event;
use crate::master::Outcome;
use crate::state::Standing;
use crate::store::Membership;
use borg_proto::command::{Action, Principal};
use borg_proto::wire::pb;
use borg_proto::{Millis, ReplicaId};
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry};
use std::collections::BTreeSet;

/// A replica that was not heard of for so long does not count as one that could carry a change.
const HEARD_LATELY: Millis = Millis(1_000);
/// Entries that a newcomer may lack when it begins to vote: what is written while it is told. Ours.
const NEARLY_ALL: u64 = 1_000;

/// The next step towards the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Out of the joint configuration.
    LeaveJoint,
    /// A newcomer listens.
    Listen(u64),
    /// A newcomer votes, and whom it replaces does not any more.
    Vote(u64, Option<u64>),
    /// A master is out.
    Remove(u64),
    /// The table forgets whoever is out.
    Forget(ReplicaId),
    /// Somebody else has to lead first: this replica is to leave.
    HandOver,
}

impl Replica {
    /// All replicas that may speak to this one; empty when it knows of none yet.
    pub(super) fn find_peers(&mut self) {
        let members = self.raw.store().members();
        let lists = [&members.voters, &members.voters_outgoing, &members.learners];
        self.peers = lists.into_iter().flatten().copied().collect();
        self.peers.extend(self.state.masters().map(|(id, _)| id.0));
        let peers = &self.peers;
        self.heard.retain(|id, _| peers.contains(&id.0));
        self.office.retain(|id| peers.contains(&id.0));
    }

    /// Takes the next step, if this replica leads and the last one is done.
    pub(super) fn lead_members(&mut self, now: Millis) {
        if !self.leads() || self.claimed != self.term() || self.raw.raft.has_pending_conf() {
            return;
        }
        let Some(step) = self.next_step() else { return self.raise_level(now) };
        if !self.can_carry(now, step) {
            return;
        }
        let own = self.id;
        match step {
            Step::LeaveJoint => self.propose_members(&[]),
            Step::Listen(id) => self.propose_members(&[(ConfChangeType::AddLearnerNode, id)]),
            Step::Vote(_, Some(old)) | Step::Remove(old) if old == own => self.leave(now),
            Step::Vote(id, replaces) => {
                let mut changes = vec![(ConfChangeType::AddNode, id)];
                changes.extend(replaces.map(|old| (ConfChangeType::RemoveNode, old)));
                self.propose_members(&changes);
            }
            Step::Remove(id) => self.propose_members(&[(ConfChangeType::RemoveNode, id)]),
            Step::HandOver => self.leave(now),
            Step::Forget(_) if self.state.applied() < self.forgetting => {}
            Step::Forget(master) => {
                let by = Principal::Master(self.config.replica);
                let action = Action::ForgetMaster { master };
                if let Err((_, outcome)) =
                    self.propose(now, (by, None, action), None, Origin::Leader)
                {
                    tracing::debug!(?outcome, "the table of masters is not cleared yet");
                } else {
                    self.forgetting = self.last_index();
                }
            }
        }
    }

    fn leave(&mut self, now: Millis) {
        if !self.hand_over(now, "this master is to leave") {
            tracing::debug!(replica = self.id, "nobody can take over yet");
        }
    }

    fn next_step(&self) -> Option<Step> {
        let members = self.raw.store().members();
        if !members.voters_outgoing.is_empty() {
            let stays = members.voters.contains(&self.id);
            return Some(if stays { Step::LeaveJoint } else { Step::HandOver });
        }
        let (votes, listens) =
            (|id: u64| members.voters.contains(&id), |id: u64| members.learners.contains(&id));
        for (id, record) in self.state.masters() {
            let step = match record.standing {
                Standing::Joining { .. } if !votes(id.0) && !listens(id.0) => {
                    Some(Step::Listen(id.0))
                }
                Standing::Joining { replaces, .. } if listens(id.0) => {
                    let replaces = replaces.map(|id| id.0).filter(|id| votes(*id));
                    self.has_nearly_all(id.0).then_some(Step::Vote(id.0, replaces))
                }
                Standing::Leaving if votes(id.0) && id.0 == self.id => Some(Step::HandOver),
                Standing::Leaving if votes(id.0) || listens(id.0) => Some(Step::Remove(id.0)),
                Standing::Leaving => Some(Step::Forget(id)),
                Standing::Joining { .. } | Standing::Invited { .. } | Standing::Voting => None,
            };
            if step.is_some() {
                return step;
            }
        }
        // Whom the table does not know any more.
        let strangers = members.voters.iter().chain(&members.learners);
        let mut strangers = strangers.filter(|id| self.state.master(ReplicaId(**id)).is_none());
        let known = self.state.masters().next().is_some();
        strangers.next().filter(|_| known).map(|id| Step::Remove(*id))
    }

    /// Whether a majority of the voters after a step was heard of lately, and whoever joins them.
    fn can_carry(&self, now: Millis, step: Step) -> bool {
        let mut after: BTreeSet<u64> = self.raw.store().members().voters.iter().copied().collect();
        match step {
            Step::Vote(new, old) => {
                after.insert(new);
                if let Some(old) = old {
                    after.remove(&old);
                }
                if !self.was_heard(now, new) {
                    return false;
                }
            }
            Step::Remove(id) => drop(after.remove(&id)),
            Step::LeaveJoint | Step::Listen(_) | Step::Forget(_) | Step::HandOver => return true,
        }
        let heard = after.iter().filter(|id| self.was_heard(now, **id)).count();
        heard > after.len() / 2
    }

    fn has_nearly_all(&self, id: u64) -> bool {
        let last = self.last_index();
        self.raw.raft.prs().get(id).is_some_and(|progress| progress.matched + NEARLY_ALL >= last)
            && self.raw.raft.prs().get(id).is_some_and(|progress| progress.matched > 0)
    }

    fn propose_members(&mut self, changes: &[(ConfChangeType, u64)]) {
        let single = |(kind, id): &(ConfChangeType, u64)| {
            let mut change = ConfChangeSingle::default();
            change.set_change_type(*kind);
            change.node_id = *id;
            change
        };
        let mut change = ConfChangeV2::default();
        let listens = changes.iter().all(|(kind, _)| *kind == ConfChangeType::AddLearnerNode);
        if !listens {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
        tracing::info!(replica = self.id, ?changes, "changing the masters");
        if let Err(error) = self.raw.propose_conf_change(Vec::new(), change) {
            tracing::debug!(%error, "the masters do not change yet");
        }
    }

    /// Applies an entry that changes Raft's configuration.
    pub(super) fn apply_members(&mut self, entry: &Entry) -> Result<Vec<Event>, String> {
        let change = conf_change(&entry.data)?;
        let conf = self.raw.apply_conf_change(&change).map_err(|error| error.to_string())?;
        let members = super::message::membership(&conf);
        if after(self.raw.store().members(), &entry.data)? != members {
            return Err(format!("raft changes the masters to {members:?}, against the entry"));
        }
        self.raw.mut_store().set_members(members.clone());
        if self.leads() && !includes(&members, self.id) {
            // Raft's leaders count on being members. Usually it has handed over before.
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
        }
        let events = self.state.change_members(entry.index, &members);
        self.find_peers();
        Ok(events)
    }

    /// Why a change of masters must not even be proposed now, if so: nobody may stop the cell by
    /// accident.
    pub(super) fn is_unsafe(&self, now: Millis, action: &Action) -> Option<Outcome> {
        let members = self.raw.store().members();
        let mut after: BTreeSet<u64> = members.voters.iter().copied().collect();
        match action {
            Action::RemoveMaster { number } => {
                let id = self.state.master_numbered(*number)?;
                after.remove(&id.0);
            }
            Action::InviteMaster { .. }
            | Action::JoinMaster { .. }
            | Action::Lead { .. }
            | Action::SubmitJob { .. }
            | Action::Kill { .. }
            | Action::AddMachine { .. }
            | Action::RemoveMachine { .. }
            | Action::GiveUp { .. }
            | Action::ForgetMaster { .. }
            | Action::RaiseLevel { .. }
            | Action::Settle
            | Action::Advance
            | Action::UpdateJob { .. }
            | Action::SteerUpdate { .. }
            | Action::StopTasks { .. }
            | Action::StartTasks { .. }
            | Action::SetQuota { .. }
            | Action::RemoveQuota { .. }
            | Action::EnforceQuota { .. }
            | Action::ResizeAllocs { .. }
            | Action::Rerun { .. }
            | Action::OrderCron { .. }
            | Action::RescueData { .. }
            | Action::SetPolicy { .. }
            | Action::SetReclamation { .. }
            | Action::KeepMachines { .. }
            | Action::CloseMachines { .. }
            | Action::OpenMachines { .. }
            | Action::DrainMachines { .. }
            | Action::UndrainMachines { .. }
            | Action::EndMaintenance { .. }
            | Action::PutPackage { .. }
            | Action::RemovePackage { .. }
            | Action::GrantPrivilege { .. }
            | Action::RevokePrivilege { .. }
            | Action::Place { .. }
            | Action::Observe { .. } => return None,
        }
        let alive = after.iter().filter(|id| self.was_heard(now, **id)).count();
        let needed = after.len() / 2 + 1;
        (alive < needed).then(|| Outcome::Unsafe {
            why: format!(
                "{alive} of the {} masters left would answer, a majority is {needed}: start or \
                 replace the silent ones first",
                after.len()
            ),
        })
    }

    /// Whether a replica was heard of lately; this one always is.
    pub(super) fn was_heard(&self, now: Millis, id: u64) -> bool {
        let heard = self.heard.get(&ReplicaId(id));
        id == self.id || heard.is_some_and(|at| now.since(*at) < HEARD_LATELY)
    }

    /// Raises the level of entries when every master understands the next one.
    fn raise_level(&mut self, now: Millis) {
        let own = self.config.level;
        let level = |id: ReplicaId| if id.0 == self.id { Some(own) } else { self.office.level(id) };
        let all = self.state.masters().map(|(id, _)| level(id));
        let understood = all.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min());
        let Some(level) = understood.filter(|level| *level > self.state.level()) else { return };
        if self.raising >= level {
            return;
        }
        self.raising = level;
        let by = Principal::Master(self.config.replica);
        let action = Action::RaiseLevel { level };
        if let Err((_, outcome)) = self.propose(now, (by, None, action), None, Origin::Leader) {
            tracing::debug!(?outcome, "the level of entries is not raised yet");
            self.raising = 0;
        }
    }
}

/// A change of Raft's configuration, from bytes. Read with our own message: the protobuf library of
/// raft-rs never sees bytes from the network.
fn conf_change(bytes: &[u8]) -> Result<ConfChangeV2, String> {
    let from = pb::RaftConfChange::decode(bytes).map_err(|error| error.to_string())?;
    if from.encoded_len() != bytes.len() {
        return Err("it changes the masters in a way that this version does not know".into());
    }
    let mut change = ConfChangeV2::default();
    change.set_transition(match from.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        other => return Err(format!("it changes the masters by the unknown way {other}")),
    });
    let mut changes = Vec::with_capacity(from.changes.len());
    for from in from.changes {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(match from.change_type {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            other => return Err(format!("it changes a master in the unknown way {other}")),
        });
        single.node_id = from.node_id;
        changes.push(single);
    }
    change.set_changes(changes.into());
    Ok(change)
}

/// The configuration after a change, worked out without Raft: for states of the past, and to hold
/// Raft's own against.
///
/// # Errors
/// When the change is none that replicas propose.
pub(super) fn after(members: &Membership, bytes: &[u8]) -> Result<Membership, String> {
    let change = conf_change(bytes)?;
    let mut next = members.clone();
    if change.changes.is_empty() {
        next.voters_outgoing.clear();
        let demoted = std::mem::take(&mut next.learners_next);
        next.learners.extend(demoted);
        next.auto_leave = false;
    } else if change.get_transition() != ConfChangeTransition::Auto {
        next.voters_outgoing.clone_from(&next.voters);
        next.auto_leave = change.get_transition() == ConfChangeTransition::Implicit;
    }
    for single in &change.changes {
        let id = single.node_id;
        next.learners.retain(|learner| *learner != id);
        next.voters.retain(|voter| *voter != id);
        match single.get_change_type() {
            ConfChangeType::AddNode => next.voters.push(id),
            ConfChangeType::AddLearnerNode => next.learners.push(id),
            ConfChangeType::RemoveNode => {}
        }
    }
    next.voters.sort_unstable();
    next.learners.sort_unstable();
    Ok(next)
}

/// Whether bytes from the network could be a change of Raft's configuration.
pub(super) fn is_conf_change(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_CONF_CHANGE_BYTES && conf_change(bytes).is_ok()
}

/// Far more than a change of all masters takes.
const MAX_CONF_CHANGE_BYTES: usize = 4_096;

/// What a checkpoint's configuration must be for a replica to take it.
pub(super) fn includes(members: &Membership, id: u64) -> bool {
    [&members.voters, &members.learners, &members.voters_outgoing]
        .into_iter()
        .any(|list| list.contains(&id))
}

impl Replica {
    /// What another replica said of itself.
    pub(crate) fn office(&mut self) -> &mut Office {
        &mut self.office
    }
}
