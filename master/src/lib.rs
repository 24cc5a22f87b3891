//! DOES: a Borgmaster replica.
pub mod store;
