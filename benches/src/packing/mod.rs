//! How tightly the scheduler packs, on data of others: real cells of theirs and published results.
//!
//! `common` reads the format in which anyone can check a packing, `openb` the GPU cell of Alibaba,
//! `vectorpack` instances of vector bin packing; `table` and `archive` are what they read with.
//! `arrivals` and `first_fit` put them into a real [`Driven`](borg_fauxmaster::Driven) cell,
//! in which the real scheduler decides.
//!
//! The data is not part of the project: it is looked for in [`data`]; what is not there is skipped.

pub mod archive;
pub mod arrivals;
pub mod first_fit;
pub mod vectorpack;

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
