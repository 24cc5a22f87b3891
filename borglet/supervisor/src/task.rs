//! One incarnation on the machine.
