//! The protobuf forms of the vocabulary, and the checked way from one to the other.
//!
//! From the vocabulary to protobuf is `From<&T>` and cannot fail. Back is `TryFrom` with
//! [`WireError`], and every bound is checked on that way: lengths of lists and texts, numbers,
//! names, ports. One file per noun; `error` holds what all of them check with.
//!
//! Invariant: whoever holds a value of the vocabulary that came through here may trust it; no
//! bytes make a conversion panic.

mod access;
mod cause;
mod command;
mod cron;
mod data;
mod disruption;
mod drain;
mod error;
mod health;
mod machine;
mod package;
mod peer;
mod policy;
mod poll;
mod privilege;
mod quota;
mod reclamation;
mod session;
mod spec;
mod update;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod sample;

pub use access::{check_reason, read_users};
pub use command::{
    Change, DecodeError, MAX_ASSIGNMENTS, MAX_COMMAND_BYTES, MAX_OBSERVATIONS, MAX_REQUEST_ID_BYTES,
};
pub use drain::{check_at_once, check_drain_time};
pub use error::WireError;
pub use health::read_health;
pub use machine::{MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_HOST_BYTES, check_address};
pub use package::MAX_BLOBS;
pub use peer::{MAX_MACHINES, MAX_USAGES};
pub use policy::{read_policy, read_weights};
pub use poll::{MAX_HOLD, MAX_TASKS_PER_MACHINE, read_address, write_address};
pub use privilege::read_privilege;
pub use quota::{quota_amount, quota_band};
pub use reclamation::{read_number_set, read_numbers};
pub use session::{
    MAX_COMMAND_WORD_BYTES, MAX_COMMAND_WORDS, MAX_PATH_BYTES, MAX_SESSION_DATA_BYTES, Session,
    Terminal, Window,
};
pub use update::{read_indexes, read_update, write_indexes};

#[allow(missing_docs, reason = "generated from the documented .proto files")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated")]
#[allow(
    unused_qualifications,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated"
)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/borg.v1.rs"));
}
