//! What allocs left behind on machines, as the API shows it.

use super::views::read_info;
use crate::feed::View;
use borg_cell::state::{CellState, Kept};
use borg_proto::wire::pb;

/// All of one user's alloc sets; of everybody's for none.
pub(super) fn list(view: &View, user: &str, now: u64) -> pb::ListKeptDataResponse {
    let state = &view.state;
    let asked = |kept: &&Kept| user.is_empty() || kept.set.user.as_str() == user;
    pb::ListKeptDataResponse {
        now_ms: now,
        kept: state.kept().filter(asked).map(|kept| one(state, kept)).collect(),
        read: Some(read_info(view)),
    }
}

fn one(state: &CellState, kept: &Kept) -> pb::KeptData {
    let machine = state.machine(kept.machine).map(|machine| machine.name.to_string());
    let run = kept.run.and_then(|run| state.job(run)).map(|job| job.key.to_string());
    pb::KeptData {
        number: kept.number,
        alloc: kept.name().to_string(),
        incarnation: kept.alloc.number,
        machine: machine.unwrap_or_default(),
        since_ms: kept.since.0,
        until_ms: kept.until.0,
        bytes: kept.bytes,
        run: run.unwrap_or_default(),
        note: kept.note(state),
    }
}
