//! Benchmarks and whole-cell runs: what the figures of `docs/benchmarks.md` are measured with.
//!
//! `cellgen` makes large cells for measuring the deciding crates in this process; in `driven` cells
//! `scheduling` measures how fast the scheduler decides, `packing` how tightly; `local_cell` is a
//! real cell on this computer, whose processes `borgctl` starts and takes down and whose masters
//! are asked over gRPC; `silent` is a leader alone, whose machines fall silent;
//! `submit`, `failover` and `start_cost` measure it. `fill` gives it thousands of simulated
//! `machines`; `committed` has them run work that arrives; `acked`, `outage` and `masters` measure
//! its masters, beside `etcd`. `names` asks it over DNS. `borglet` measures machines with real containers, beside other runtimes and with
//! bullies beside a victim. `faux` measures what cells in virtual time cost: a fork, and the life of a task.
//! `services` measures what owners of services wait for. `torture` does to a real cell what disks, kernels and networks do.
//! Nothing here links a daemon: what is measured and tortured are the programs that people run.
//!
//! Invariant: figures alone go to standard output, one a line; the way there goes to standard error.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod acked;
pub mod borglet;
pub mod cellgen;
pub mod clock;
pub mod committed;
pub mod driven;
pub mod etcd;
pub mod failover;
pub mod faux;
pub mod figures;
pub mod fill;
pub mod local_cell;
pub mod machines;
pub mod masters;
pub mod names;
pub mod outage;
pub mod packing;
pub mod replace;
pub mod scheduling;
pub mod services;
pub mod silent;
pub mod start_cost;
pub mod submit;
pub mod torture;

/// Whatever went wrong: a benchmark tells it and ends.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
