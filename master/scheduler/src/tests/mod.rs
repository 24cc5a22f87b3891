//! Tests of the whole scheduler against the real state machine.

mod aside;
mod drains;
mod fixture;
mod forks;
mod laws;
mod lending;
mod pinned;
mod plans;
mod reference;
mod scenes;
mod several;
mod together;
