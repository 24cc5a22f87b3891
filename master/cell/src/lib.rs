//! DECIDES: the replicated state of a cell and all that follows from it.
pub mod bns;
pub mod event;
pub mod rejection;
pub mod state;
pub mod store;
