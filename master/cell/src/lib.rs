//! DECIDES: the replicated state of a cell and all that follows from it.
//!
//! `state` is what all masters agree on; `event`, `rejection`, `codec` and `bns` are how it tells of
//! itself. `store` is what a master must not forget, `replica` how masters come to agree, `links`
//! how the leader deals with machines, and `master` is one Borgmaster made of all of them.
//! `admission` says whose call may wait for it.
//! `fixture` makes cells for tests. No clock, randomness, thread, socket or file is reached from
//! here: times come in, and what is to be done goes out as effects.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admission;
pub mod bns;
pub mod codec;
pub mod devices;
pub mod event;
pub mod fixture;
pub mod foresight;
pub mod links;
pub mod master;
pub mod rejection;
pub mod replica;
pub mod reservation;
pub mod state;
pub mod store;
