//! DOES: a Borgmaster replica.
