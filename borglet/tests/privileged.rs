//! Containers for real: what they see, what they may use, and that nothing of them stays behind.
//!
//! Tests of full isolation need root and cgroups; elsewhere they say why they skip, and
//! `BORG_PRIVILEGED=1` makes that a failure. The others force reduced isolation, or become an
//! ordinary user, so they run anywhere (becoming one needs root again). `user_mode_linux` runs them
//! all once more on the other kind of cgroups.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

#[path = "privileged/adoption.rs"]
mod adoption;
#[path = "privileged/cgroups.rs"]
mod cgroups;
#[path = "privileged/escapes.rs"]
mod escapes;
#[path = "privileged/isolation.rs"]
mod isolation;
#[path = "privileged/leftovers.rs"]
mod leftovers;
#[path = "privileged/limits.rs"]
mod limits;
#[path = "privileged/loosened.rs"]
mod loosened;
#[path = "privileged/machine.rs"]
mod machine;
#[path = "privileged/network.rs"]
mod network;
#[path = "privileged/programs.rs"]
mod programs;
#[path = "privileged/reduced.rs"]
mod reduced;
#[path = "privileged/sharing.rs"]
mod sharing;
#[path = "privileged/user_mode_linux.rs"]
mod user_mode_linux;
