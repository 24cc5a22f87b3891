//! What owners of long-running services and operators wait for.

pub mod drains;
pub mod lost;
pub mod reclaimed;
