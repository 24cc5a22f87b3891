//! Raft's messages as they travel, and which of them may reach Raft.
//!
//! Protobuf 2, which raft-rs is bound to, never sees a byte from the network: messages travel as
//! [`pb::RaftMessage`] and are copied field by field. raft-rs turns an absurd message into a panic
//! at some 35 places; [`admit`] refuses what could reach them, from anybody.
//!
//! Invariant: a message that passes [`decode`] and [`admit`] does not make raft-rs panic.

use super::members;
use crate::store::{CheckpointMeta, Membership, Position};
use borg_proto::wire::{MAX_COMMAND_BYTES, pb};
use borg_proto::{Millis, ReplicaId};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use std::collections::BTreeSet;

/// Most entries in one message. Ours: Raft fills messages up to [`MAX_BATCH_BYTES`].
pub(super) const MAX_ENTRIES: usize = 100_000;
/// Bytes of entries after which Raft begins another message.
pub(super) const MAX_BATCH_BYTES: u64 = 1 << 20;
/// Most replicas in one configuration of Raft.
const MAX_REPLICAS: usize = 64;
/// Largest checkpoint file that is taken from another master. 8 GiB: our choice, twice the largest
/// state that is read.
const MAX_FILE_BYTES: u64 = 8 << 30;
/// Longest context of a read or a heartbeat.
const MAX_CONTEXT_BYTES: usize = 64;
/// What raft-rs writes into the call for votes of a leader that was handed the office: voters do not
/// wait for the old leader then.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";
/// Terms and indexes above this are absurd: at a million a second they take 2,000 years.
const MAX_COUNT: u64 = 1 << 56;

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("raft message dropped: {0}")]
pub(super) struct Refused(pub(super) &'static str);

/// What [`admit`] compares a message with.
#[derive(Debug)]
pub(super) struct Standing<'a> {
    pub(super) id: u64,
    /// Who may speak to this replica; anybody when it knows of nobody yet.
    pub(super) peers: &'a BTreeSet<u64>,
    /// The newest life that a master is known to have: who has a newer one is not known yet.
    pub(super) newest_life: u64,
    /// Who leads, 0 when nobody.
    pub(super) leader: u64,
    pub(super) term: u64,
    pub(super) leads: bool,
    pub(super) committed: u64,
    pub(super) committed_term: u64,
    pub(super) last_index: u64,
}

/// Raft's message for the network.
pub(super) fn encode(mut message: Message) -> pb::RaftMessage {
    let snapshot = message.snapshot.take().map(|snapshot| {
        let meta = meta_of(&snapshot).expect("offers are made by `snapshot`");
        pb::RaftSnapshot {
            index: meta.place.index,
            term: meta.place.term,
            voters: meta.membership.voters,
            learners: meta.membership.learners,
            voters_outgoing: meta.membership.voters_outgoing,
            learners_next: meta.membership.learners_next,
            auto_leave: meta.membership.auto_leave,
            at_ms: meta.at.0,
            file_bytes: meta.file_bytes,
            file_sum: meta.file_sum,
        }
    });
    pb::RaftMessage {
        r#type: type_code(message.get_msg_type()),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(encode_entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.to_vec(),
        priority: message.priority,
    }
}

fn encode_entry(entry: Entry) -> pb::RaftEntry {
    pb::RaftEntry {
        r#type: entry_code(entry.get_entry_type()),
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context.to_vec(),
    }
}

/// A message from the network for Raft, sizes and kinds checked.
pub(super) fn decode(from: pb::RaftMessage) -> Result<Message, Refused> {
    let Some(kind) = network_type(from.r#type) else {
        return Err(Refused("not a message that replicas send each other"));
    };
    check(from.entries.len() <= MAX_ENTRIES, "too many entries")?;
    check(from.context.len() <= MAX_CONTEXT_BYTES, "context too long")?;
    let counts = [from.term, from.log_term, from.index, from.commit, from.commit_term];
    check(counts.iter().all(|count| *count <= MAX_COUNT), "absurd term or index")?;
    check(from.reject_hint <= MAX_COUNT, "absurd hint")?;
    check(from.request_snapshot == 0, "asks for a checkpoint, which replicas never do")?;
    check(from.priority == 0, "has a priority, which replicas never have")?;
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.to = from.to;
    message.from = from.from;
    message.term = from.term;
    message.log_term = from.log_term;
    message.index = from.index;
    message.commit = from.commit;
    message.commit_term = from.commit_term;
    message.reject = from.reject;
    message.reject_hint = from.reject_hint;
    message.context = from.context.into();
    let entries = from.entries.into_iter().map(decode_entry).collect::<Result<Vec<_>, _>>()?;
    message.set_entries(entries.into());
    if let Some(snapshot) = from.snapshot {
        message.set_snapshot(decode_snapshot(snapshot)?);
    }
    Ok(message)
}

fn decode_entry(from: pb::RaftEntry) -> Result<Entry, Refused> {
    let kind = match from.r#type {
        0 => EntryType::EntryNormal,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(Refused("an entry of an unknown kind")),
    };
    let changes = kind == EntryType::EntryConfChangeV2;
    check(!changes || members::is_conf_change(&from.data), "an odd change of the masters")?;
    check(from.data.len() <= MAX_COMMAND_BYTES, "entry too large")?;
    check(from.context.len() <= MAX_CONTEXT_BYTES, "entry's context too long")?;
    check(from.term <= MAX_COUNT && from.index <= MAX_COUNT, "absurd term or index of an entry")?;
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    entry.term = from.term;
    entry.index = from.index;
    // A copy: what came is a part of a buffer that may hold much else, and the entry stays for long.
    entry.data = Bytes::copy_from_slice(&from.data);
    entry.context = from.context.into();
    Ok(entry)
}

fn decode_snapshot(from: pb::RaftSnapshot) -> Result<Snapshot, Refused> {
    check(from.file_bytes <= MAX_FILE_BYTES, "checkpoint too large")?;
    let lists = [&from.voters, &from.learners, &from.voters_outgoing, &from.learners_next];
    check(lists.iter().all(|list| list.len() <= MAX_REPLICAS), "checkpoint of too many masters")?;
    let membership = Membership {
        voters: from.voters,
        learners: from.learners,
        voters_outgoing: from.voters_outgoing,
        learners_next: from.learners_next,
        auto_leave: from.auto_leave,
    };
    check(is_sound(&membership), "checkpoint of masters that cannot be")?;
    Ok(snapshot(&CheckpointMeta {
        place: Position { index: from.index, term: from.term },
        membership,
        at: Millis(from.at_ms),
        file_bytes: from.file_bytes,
        file_sum: from.file_sum,
    }))
}

/// Whether Raft could have come to a configuration; it panics at others.
fn is_sound(members: &Membership) -> bool {
    let once = |ids: &[u64]| {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        set.len() == ids.len() && !set.contains(&0)
    };
    let lists =
        [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next];
    let votes = |id: &u64| members.voters.contains(id) || members.voters_outgoing.contains(id);
    let joint = !members.voters_outgoing.is_empty();
    !members.voters.is_empty()
        && lists.iter().all(|ids| once(ids))
        && !members.learners.iter().any(votes)
        && members
            .learners_next
            .iter()
            .all(|id| members.voters_outgoing.contains(id) && !members.voters.contains(id))
        && (joint || (members.learners_next.is_empty() && !members.auto_leave))
}

/// A checkpoint as Raft offers it: in place of the state, which file it is in.
pub(super) fn snapshot(of: &CheckpointMeta) -> Snapshot {
    let numbers = [of.at.0, of.file_bytes, of.file_sum].map(u64::to_le_bytes);
    let mut snapshot = Snapshot { data: numbers.concat().into(), ..Snapshot::default() };
    let meta = snapshot.mut_metadata();
    meta.index = of.place.index;
    meta.term = of.place.term;
    meta.set_conf_state(conf_state(&of.membership));
    snapshot
}

/// What [`snapshot`] was made of.
pub(super) fn meta_of(snapshot: &Snapshot) -> Option<CheckpointMeta> {
    let mut numbers =
        snapshot.data.chunks_exact(8).map(|bytes| bytes.try_into().map(u64::from_le_bytes));
    let mut number = || numbers.next()?.ok();
    let meta = snapshot.get_metadata();
    Some(CheckpointMeta {
        place: Position { index: meta.index, term: meta.term },
        membership: membership(meta.get_conf_state()),
        at: Millis(number()?),
        file_bytes: number()?,
        file_sum: number()?,
    })
}

/// Raft's configuration as it keeps it.
pub(super) fn conf_state(members: &Membership) -> ConfState {
    ConfState {
        voters: members.voters.clone(),
        learners: members.learners.clone(),
        voters_outgoing: members.voters_outgoing.clone(),
        learners_next: members.learners_next.clone(),
        auto_leave: members.auto_leave,
        ..ConfState::default()
    }
}

/// Raft's configuration in our words, in order: Raft's own order is that of a hash.
pub(super) fn membership(from: &ConfState) -> Membership {
    let ordered = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    Membership {
        voters: ordered(&from.voters),
        learners: ordered(&from.learners),
        voters_outgoing: ordered(&from.voters_outgoing),
        learners_next: ordered(&from.learners_next),
        auto_leave: from.auto_leave,
    }
}

/// Whether a decoded message fits where this replica stands.
pub(super) fn admit(message: &Message, here: &Standing<'_>) -> Result<(), Refused> {
    check(message.to == here.id, "meant for another replica")?;
    // Who lags does not know the newest masters, and has to hear of them from themselves.
    let newer = ReplicaId(message.from).life() > here.newest_life;
    let known = newer || here.peers.is_empty() || here.peers.contains(&message.from);
    check(message.from != here.id && message.from != 0 && known, "from no other member")?;
    let kind = message.get_msg_type();
    check((message.term == 0) == (kind == MessageType::MsgReadIndex), "term missing or misplaced")?;
    let carries_entries = matches!(
        kind,
        MessageType::MsgAppend | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
    );
    check(carries_entries || message.entries.is_empty(), "entries in a message without")?;
    let carries_snapshot = kind == MessageType::MsgSnapshot;
    check(carries_snapshot == message.snapshot.is_some(), "checkpoint missing or misplaced")?;
    let old = message.term < here.term;
    match kind {
        MessageType::MsgAppend => {
            check((message.index == 0) == (message.log_term == 0), "place without a term")?;
            check(message.log_term <= message.term, "log from a later term")?;
            admit_entries(message)?;
            let above = message.index >= here.committed;
            check(old || !above || message.log_term >= here.committed_term, "contradicts the log")
        }
        MessageType::MsgHeartbeat => {
            check(old || message.commit <= here.last_index, "commit beyond the log")
        }
        MessageType::MsgSnapshot => {
            let meta = message.get_snapshot().get_metadata();
            check(1 <= meta.index && meta.index <= MAX_COUNT, "checkpoint at no place")?;
            check(1 <= meta.term && meta.term <= message.term, "checkpoint from a later term")?;
            let above = meta.index >= here.committed;
            check(old || !above || meta.term >= here.committed_term, "contradicts the log")
        }
        MessageType::MsgAppendResponse => check(
            old || message.reject || message.index <= here.last_index || !here.leads,
            "acknowledges what never was sent",
        ),
        MessageType::MsgReadIndex => {
            check(here.leads, "a read for the leader")?;
            check(one_read(message), "not one read")
        }
        MessageType::MsgReadIndexResp => check(one_read(message), "not one read"),
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            let forced = message.context == CAMPAIGN_TRANSFER;
            check(forced || message.context.is_empty(), "an odd election")
        }
        MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse => Ok(()),
        MessageType::MsgTimeoutNow => {
            check(old || message.from == here.leader, "an election that only the leader may force")
        }
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgTransferLeader
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Err(Refused("not for the network")),
    }
}

fn admit_entries(message: &Message) -> Result<(), Refused> {
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        index += 1;
        check(entry.index == index, "entries with a gap")?;
        check(term <= entry.term && entry.term <= message.term, "entries of falling terms")?;
        check(entry.term > 0, "entry without a term")?;
        term = entry.term;
    }
    Ok(())
}

fn one_read(message: &Message) -> bool {
    message.entries.len() == 1 && (1..=MAX_CONTEXT_BYTES).contains(&message.entries[0].data.len())
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(Refused(otherwise)) }
}

/// The numbers on the wire, as in raft-rs's `eraftpb.proto`.
fn type_code(kind: MessageType) -> u32 {
    match kind {
        MessageType::MsgHup => 0,
        MessageType::MsgBeat => 1,
        MessageType::MsgPropose => 2,
        MessageType::MsgAppend => 3,
        MessageType::MsgAppendResponse => 4,
        MessageType::MsgRequestVote => 5,
        MessageType::MsgRequestVoteResponse => 6,
        MessageType::MsgSnapshot => 7,
        MessageType::MsgHeartbeat => 8,
        MessageType::MsgHeartbeatResponse => 9,
        MessageType::MsgUnreachable => 10,
        MessageType::MsgSnapStatus => 11,
        MessageType::MsgCheckQuorum => 12,
        MessageType::MsgTransferLeader => 13,
        MessageType::MsgTimeoutNow => 14,
        MessageType::MsgReadIndex => 15,
        MessageType::MsgReadIndexResp => 16,
        MessageType::MsgRequestPreVote => 17,
        MessageType::MsgRequestPreVoteResponse => 18,
    }
}

/// Only what replicas say to each other; the rest is Raft talking to itself.
fn network_type(code: u32) -> Option<MessageType> {
    const FROM_NETWORK: [MessageType; 12] = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];
    FROM_NETWORK.into_iter().find(|kind| type_code(*kind) == code)
}

fn entry_code(kind: EntryType) -> u32 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}
