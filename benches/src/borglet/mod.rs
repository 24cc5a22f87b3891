//! Machines with real containers: what tasks cost there, how many a second there can be, and how well one of them
//! is kept from others.
//!
//! `starts` measures single containers beside other `runtimes`; `trues` sends many short tasks through a whole
//! cell, `idle` leaves many sleeping ones alone; `bullies` disturb a `victim`, both of them this program again in
//! containers of a real cell.

pub mod bullies;
pub mod idle;
pub mod jobs;
pub mod runtimes;
pub mod starts;
pub mod trues;
pub mod victim;
