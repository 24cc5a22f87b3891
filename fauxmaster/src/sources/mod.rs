//! Where cells and their work come from.
//!
//! Each module reads one format and says what of it means what here. Every error names file, line and
//! column, and what was expected there.

pub mod borg_like;
pub mod common;
pub mod loaded;
pub mod openb;
pub mod rows;
pub mod synthetic;
pub mod table;
pub mod trace;
pub mod workload;
