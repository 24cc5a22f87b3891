//! Raft's messages as they travel, and which of them may reach Raft.
//!
//! Protobuf 2, which raft-rs is bound to, never sees a byte from the network: messages travel as
//! [`pb::RaftMessage`] and are copied field by field. raft-rs turns an absurd message into a panic
//! at some 35 places; [`admit`] refuses what could reach them, from anybody.
//!
//! Invariant: a message that passes [`decode`] and [`admit`] does not make raft-rs panic.

use borg_proto::wire::{MAX_COMMAND_BYTES, pb};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

/// Most entries in one message. Ours: Raft fills messages up to [`MAX_BATCH_BYTES`].
pub(super) const MAX_ENTRIES: usize = 100_000;
/// Bytes of entries after which Raft begins another message.
pub(super) const MAX_BATCH_BYTES: u64 = 1 << 20;
/// Largest state that travels, in bytes: 63 MiB, what one message between masters (64 MiB) holds.
pub(super) const MAX_SNAPSHOT_BYTES: usize = 63 << 20;
/// Longest context of a read or a heartbeat.
const MAX_CONTEXT_BYTES: usize = 64;
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
    pub(super) voters: &'a [u64],
    pub(super) term: u64,
    pub(super) leads: bool,
    pub(super) committed: u64,
    pub(super) committed_term: u64,
    pub(super) last_index: u64,
}

/// Raft's message for the network.
pub(super) fn encode(mut message: Message) -> pb::RaftMessage {
    let snapshot = message.snapshot.take().map(|mut snapshot| {
        let meta = snapshot.take_metadata();
        pb::RaftSnapshot {
            index: meta.index,
            term: meta.term,
            voters: meta.get_conf_state().voters.clone(),
            learners: meta.get_conf_state().learners.clone(),
            data: snapshot.data.to_vec(),
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
        data: entry.data.to_vec(),
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
    check(from.r#type == 0, "an entry that changes members, which this version does not know")?;
    check(from.data.len() <= MAX_COMMAND_BYTES, "entry too large")?;
    check(from.context.len() <= MAX_CONTEXT_BYTES, "entry's context too long")?;
    check(from.term <= MAX_COUNT && from.index <= MAX_COUNT, "absurd term or index of an entry")?;
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryNormal);
    entry.term = from.term;
    entry.index = from.index;
    entry.data = from.data.into();
    entry.context = from.context.into();
    Ok(entry)
}

fn decode_snapshot(from: pb::RaftSnapshot) -> Result<Snapshot, Refused> {
    check(from.data.len() <= MAX_SNAPSHOT_BYTES, "checkpoint too large")?;
    check(from.voters.len() <= 64 && from.learners.is_empty(), "checkpoint of other members")?;
    let conf_state = ConfState { voters: from.voters, ..ConfState::default() };
    Ok(snapshot(from.index, from.term, conf_state, &from.data))
}

/// A checkpoint as Raft carries it.
pub(super) fn snapshot(index: u64, term: u64, members: ConfState, data: &[u8]) -> Snapshot {
    let mut snapshot = Snapshot { data: data.to_vec().into(), ..Snapshot::default() };
    let meta = snapshot.mut_metadata();
    meta.index = index;
    meta.term = term;
    meta.set_conf_state(members);
    snapshot
}

/// Whether a decoded message fits where this replica stands.
pub(super) fn admit(message: &Message, here: &Standing<'_>) -> Result<(), Refused> {
    check(message.to == here.id, "meant for another replica")?;
    check(message.from != here.id && here.voters.contains(&message.from), "from no other member")?;
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
            let mut voters = meta.get_conf_state().voters.clone();
            voters.sort_unstable();
            check(voters == here.voters, "checkpoint of other members")?;
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
            check(message.context.is_empty(), "an election that nobody may force")
        }
        MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse => Ok(()),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgTransferLeader
        | MessageType::MsgTimeoutNow
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
    const FROM_NETWORK: [MessageType; 11] = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
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
