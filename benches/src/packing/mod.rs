//! How tightly the scheduler packs, on data of others: real cells of theirs and published results.
//!
//! `common` reads the format in which anyone can check a packing, `openb` the GPU cell of Alibaba,
//! `vectorpack` instances of vector bin packing; `table` and `archive` are what they read with.
//! `arrivals` and `first_fit` put them into a real [`Driven`](crate::driven::Driven) cell,
//! in which the real scheduler decides.
//!
//! The data is not part of the project: it is looked for in [`data`]; what is not there is skipped.

pub mod archive;
pub mod arrivals;
pub mod first_fit;
pub mod vectorpack;

use borg_scheduler::Weights;
use std::path::{Path, PathBuf};

/// The environment variable that says where the data is.
pub const DATA_VARIABLE: &str = "BORG_DATA";
/// Where the data is otherwise: `../shared/data` from the project's root, where this was built.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

/// A file or folder of the data, if it is there.
#[must_use]
pub fn data(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os(DATA_VARIABLE).unwrap_or_else(|| DATA.into());
    let found = Path::new(&root).join(path);
    found.exists().then_some(found)
}

/// What makes a machine the best, with the name that figures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// As in `packing.openb_default_NAME_pct`.
    pub name: &'static str,
    /// As given to the scheduler.
    pub weights: Weights,
}

/// What the scheduler does unless told otherwise.
#[must_use]
pub const fn hybrid() -> Policy {
    Policy { name: "hybrid", weights: Weights::hybrid() }
}

/// The machine on which the least stays free.
#[must_use]
pub const fn best_fit() -> Policy {
    Policy { name: "best_fit", weights: Weights::best_fit() }
}

/// The machine on which the most stays free.
#[must_use]
pub const fn worst_fit() -> Policy {
    Policy { name: "worst_fit", weights: Weights::worst_fit() }
}

/// The lowest machine number that will do.
#[must_use]
pub const fn in_order() -> Policy {
    Policy { name: "first_fit", weights: Weights::first_fit() }
}

/// The policies whose packing is compared.
#[must_use]
pub fn policies() -> Vec<Policy> {
    vec![hybrid(), best_fit(), worst_fit()]
}
