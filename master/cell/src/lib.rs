//! DECIDES: the replicated state of a cell and all that follows from it.
pub mod bns;
pub mod codec;
pub mod event;
pub mod links;
pub mod master;
pub mod fixture;
pub mod rejection;
pub mod replica;
pub mod state;
pub mod store;
