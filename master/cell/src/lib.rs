//! DECIDES: the replicated state of a cell and all that follows from it.
pub mod store;
