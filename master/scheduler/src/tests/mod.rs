//! Tests of the whole scheduler against the real state machine.

mod fixture;
mod laws;
mod plans;
mod reference;
mod scenes;
