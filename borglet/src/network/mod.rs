//! A network of a task's own: a namespace with `lo` and one end of a pair of virtual interfaces, whose other
//! end is the machine's, and an address out of a range that the machine's operator gave.
//!
//! `addresses` says who has which address, `netlink` asks the kernel, `pair` makes it all. Nothing is
//! run for it, and no packet filter is needed: the machine has a route to the one address through
//! the one interface, and takes from it only packets that this route leads back to
//! (docs/adr/0025).
//!
//! Invariants: a namespace is owned by the machine's root, so that nobody in the task may change anything of it;
//! it goes with its last process, and the interfaces with it, however the borglet or a shim ends.

mod addresses;
mod netlink;
mod pair;

pub use addresses::AddressRange;
pub(crate) use addresses::{Addresses, own_address};
pub use pair::loopback_up;
pub(crate) use pair::{leaves_the_machine, loosely_filtered, make, sweep};
