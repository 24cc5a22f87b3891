//! The state as bytes: checkpoints, and what one master tells another of a change.
//!
//! `parts` has the nouns, `outcome` answers and refusals. Says nothing of files: their checksum
//! and compression are the store's.
//!
//! Invariants: equal states give equal bytes, and the other way round. No bytes make `decode`
//! panic, and a state that it gives passes its own audit.

mod allocs;
mod drains;
mod kept;
mod kinds;
mod outcome;
mod packages;
mod parts;
mod privileges;
mod quota;
mod runs;
mod updates;

pub(crate) use outcome::answer_bytes;
pub(crate) use privileges::privilege_number;
pub(crate) use quota::band_number;

use crate::state::requests::{REMEMBERED, Remembered};
use crate::state::{CellState, SafeMode, Violation};
use borg_proto::command::RequestId;
use borg_proto::wire::{MAX_MACHINES, MAX_REQUEST_ID_BYTES, WireError, pb};
use borg_proto::{CellName, Millis, ReplicaId, UserName};
use prost::Message;
use std::sync::Arc;

/// What every encoded state begins with.
pub const MAGIC: [u8; 8] = *b"BORGCELL";
/// Version of the format that this build writes. It reads all up to this one.
pub const VERSION: u32 = 7;
/// Largest encoded state that is read, in bytes: 4 GiB, our choice, some ten times a cell of
/// 1,500,000 tasks.
pub const MAX_STATE_BYTES: u64 = 4 << 30;

/// Bytes that are not a state, an answer or a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Something else.
    #[error("this is not the state of a cell: it does not begin with BORGCELL and a version")]
    NotAState,
    /// Written by a later version.
    #[error(
        "the state has format {found}, this build reads formats 1 to {VERSION}: install a newer version"
    )]
    Newer {
        /// The format's version.
        found: u32,
    },
    /// Too large to look at.
    #[error("the state has {0} bytes, more than {MAX_STATE_BYTES}")]
    TooLarge(u64),
    /// Not protobuf.
    #[error("damaged: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A field is missing or out of bounds.
    #[error("damaged: {0}")]
    Field(#[from] WireError),
    /// The parts contradict each other.
    #[error("damaged: {0}")]
    Unsound(#[from] Violation),
}

impl CellState {
    /// The whole state as bytes; equal states give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = pb::CheckpointState::from(self);
        let mut bytes = Vec::with_capacity(message.encoded_len() + MAGIC.len() + 4);
        bytes.extend(MAGIC);
        // The format came with the level of entries: what masters of an older version may be sent is
        // what they can read.
        bytes.extend(self.level.min(VERSION).to_be_bytes());
        bytes.extend(message.encode_to_vec());
        bytes
    }

    /// A state from bytes, checked in full.
    ///
    /// # Errors
    /// When the bytes are no state, one of a later version, or one that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() as u64 > MAX_STATE_BYTES {
            return Err(DecodeError::TooLarge(bytes.len() as u64));
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or(DecodeError::NotAState)?;
        let (version, body) = rest.split_first_chunk::<4>().ok_or(DecodeError::NotAState)?;
        match u32::from_be_bytes(*version) {
            0 => return Err(DecodeError::NotAState),
            1..=VERSION => {}
            found => return Err(DecodeError::Newer { found }),
        }
        let state = read(pb::CheckpointState::decode(body)?)?;
        match state.audit().into_iter().next() {
            None => Ok(state),
            Some(violation) => Err(violation.into()),
        }
    }
}

impl From<&CellState> for pb::CheckpointState {
    fn from(state: &CellState) -> Self {
        let (leader, term) = state.leader.map_or((0, 0), |(leader, term)| (leader.0, term));
        Self {
            cell: state.cell.to_string(),
            epoch: state.epoch,
            applied: state.applied,
            digest_high: half(state.digest >> 64),
            digest_low: half(state.digest),
            clock_ms: state.clock.0,
            leader,
            term,
            next_machine: state.next_machine,
            next_job: state.next_job,
            machines: state.machines().map(parts::machine).collect(),
            jobs: state.jobs().map(parts::job).collect(),
            requests: state.requests.iter().map(request).collect(),
            masters: state.masters().map(parts::master).collect(),
            master_lives: state.master_lives,
            level: if state.level == 1 { 0 } else { state.level },
            safe_mode: state.safe_mode.map(|safe| pb::CheckpointSafeMode {
                since_ms: safe.since.0,
                silent: safe.silent,
                machines: safe.machines,
            }),
            downs_ms: state.downs.iter().map(|at| at.0).collect(),
            restored: state.restored.as_ref().map(parts::restored),
            quotas: state.quotas().map(quota::write).collect(),
            enforced: state
                .quotas
                .enforced
                .iter()
                .map(|band| pb::Band::from(*band).into())
                .collect(),
            policy: state.policy.map(parts::policy),
            packages: state.packages().map(packages::write).collect(),
            runs: state.runs.iter().map(runs::write).collect(),
            runs_noted: state.runs.noted,
            privileges: state.privileges().map(privileges::write).collect(),
            reclamation: state.reclamation.map(parts::reclamation),
            maintenances: state.maintenances().map(drains::write_maintenance).collect(),
            last_maintenance: state.last_maintenance,
            forced: state.forced,
            kept: state.kept().map(kept::write).collect(),
            last_kept: state.last_kept,
        }
    }
}

fn half(digest: u128) -> u64 {
    u64::try_from(digest & u128::from(u64::MAX)).unwrap_or(u64::MAX)
}

fn request((user, request, known): (&UserName, &RequestId, &Remembered)) -> pb::CheckpointRequest {
    pb::CheckpointRequest {
        user: user.to_string(),
        request: request.to_string(),
        asked: known.asked,
        outcome: Some(outcome::to_wire(&known.outcome)),
    }
}

fn read(message: pb::CheckpointState) -> Result<CellState, DecodeError> {
    let cell = CellName::new(&message.cell).map_err(|e| WireError::from(e).within("cell"))?;
    let mut state = CellState::new(cell);
    state.epoch = message.epoch;
    state.applied = message.applied;
    state.digest = (u128::from(message.digest_high) << 64) | u128::from(message.digest_low);
    state.clock = Millis(message.clock_ms);
    state.leader = (message.leader > 0).then_some((ReplicaId(message.leader), message.term));
    state.next_machine = message.next_machine;
    state.next_job = message.next_job;
    if message.downs_ms.len() > MAX_MACHINES {
        let many = format!("{} entries", message.downs_ms.len());
        let why = format!("are more than {MAX_MACHINES}");
        return Err(WireError::new("downs_ms", many, why).into());
    }
    state.downs = message.downs_ms.into_iter().map(Millis).collect();
    state.safe_mode = message.safe_mode.map(|safe| SafeMode {
        since: Millis(safe.since_ms),
        silent: safe.silent,
        machines: safe.machines,
    });
    for (i, machine) in message.machines.into_iter().enumerate() {
        let machine =
            parts::read_machine(machine).map_err(|e| e.within(&format!("machines[{i}]")))?;
        state.machines.insert(machine.id, Arc::new(machine));
    }
    let mut slots = 0;
    for (i, job) in message.jobs.into_iter().enumerate() {
        let job = parts::read_job(job, &mut slots).map_err(|e| e.within(&format!("jobs[{i}]")))?;
        state.jobs.insert(job.id, Arc::new(job));
    }
    if message.requests.len() > REMEMBERED {
        let many = format!("{} entries", message.requests.len());
        return Err(WireError::new("requests", many, format!("are more than {REMEMBERED}")).into());
    }
    for (i, request) in message.requests.into_iter().enumerate() {
        read_request(&mut state, request).map_err(|e| e.within(&format!("requests[{i}]")))?;
    }
    state.level = message.level.max(1);
    state.master_lives = message.master_lives;
    state.restored = message.restored.as_ref().map(parts::read_restored);
    runs::read(&mut state, message.runs, message.runs_noted)?;
    quota::read(&mut state, message.quotas, &message.enforced)?;
    let policy = message.policy.as_ref().map(parts::read_policy).transpose();
    state.policy = policy.map_err(|e| e.within("policy"))?;
    let reclamation = message.reclamation.as_ref().map(parts::read_reclamation).transpose();
    state.reclamation = reclamation.map_err(|e| e.within("reclamation"))?;
    for (i, package) in message.packages.into_iter().enumerate() {
        let record =
            packages::read_record(package).map_err(|e| e.within(&format!("packages[{i}]")))?;
        state.packages.all.insert(record.package.key.clone(), record);
    }
    privileges::read_all(&mut state, message.privileges)?;
    state.forced = message.forced;
    kept::read_all(&mut state, message.kept, message.last_kept)?;
    drains::read_maintenances(&mut state, message.maintenances, message.last_maintenance)?;
    for (i, master) in message.masters.into_iter().enumerate() {
        let (id, record) =
            parts::read_master(master).map_err(|e| e.within(&format!("masters[{i}]")))?;
        state.masters.insert(id, record);
    }
    match state.rebuild().into_iter().next() {
        None => Ok(state),
        Some(what) => Err(Violation { rule: crate::state::audit::SOUND, what }.into()),
    }
}

fn read_request(state: &mut CellState, request: pb::CheckpointRequest) -> Result<(), WireError> {
    let user = UserName::new(&request.user).map_err(|e| WireError::from(e).within("user"))?;
    if !(1..=MAX_REQUEST_ID_BYTES).contains(&request.request.len()) {
        return Err(WireError::new("request", &request.request, "is not 1 to 64 bytes"));
    }
    let outcome = request.outcome.ok_or_else(|| parts::missing("outcome"))?;
    let known = Remembered { asked: request.asked, outcome: outcome::from_wire(outcome)? };
    state.requests.add(user, request.request.into(), known);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, service};

    fn busy() -> CellState {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let job = cell.submit("ann", batch("count", 1000, 100, 4 << 20));
        let id = cell.place(job, 3, machine).unwrap();
        cell.up(id);
        cell.submit("bob", service("web", 2, 100, 4 << 20));
        cell.state
    }

    #[test]
    fn a_state_survives_its_bytes() {
        let state = busy();
        let bytes = state.encode();
        let back = CellState::decode(&bytes).unwrap();
        assert_eq!(back, state);
        assert_eq!(back.encode(), bytes);
        assert!(bytes.len() < 1000, "slots that are alike are written once: {} bytes", bytes.len());
    }

    #[test]
    fn a_later_format_and_foreign_bytes_are_named_as_such() {
        let mut bytes = busy().encode();
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_be_bytes());
        let newer = CellState::decode(&bytes).unwrap_err();
        assert_eq!(
            newer.to_string(),
            "the state has format 8, this build reads formats 1 to 7: install a newer version"
        );
        for foreign in
            [&b""[..], b"BORG", b"BORGCELL", b"BORGCELL\0\0\0\0", b"something else that is long"]
        {
            assert_eq!(CellState::decode(foreign), Err(DecodeError::NotAState));
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        let mut message = pb::CheckpointState::from(&busy());
        message.machines.clear();
        let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
        bytes.extend(message.encode_to_vec());
        assert!(matches!(CellState::decode(&bytes), Err(DecodeError::Unsound(_))));
    }

    #[test]
    fn a_few_bytes_cannot_ask_for_endless_slots() {
        let mut message = pb::CheckpointState::from(&busy());
        message.jobs[0].tasks[0].alike = u32::MAX;
        let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
        bytes.extend(message.encode_to_vec());
        let error = CellState::decode(&bytes).unwrap_err().to_string();
        assert_eq!(error, "damaged: jobs[0].tasks: 4294967295 slots more are too many");
    }

    #[test]
    fn damaged_bytes_are_errors_or_other_states_but_never_panics() {
        let bytes = busy().encode();
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                if let Ok(state) = CellState::decode(&damaged) {
                    assert_eq!(state.audit(), []);
                }
            }
            assert!(CellState::decode(&bytes[..at]).is_err() || at > 12);
        }
    }
}
