//! What questions about a cell of a usual size take, from its bytes to the answer: seconds on the wall, as somebody
//! waits for them.

use crate::{Error, clock};
use borg_cell::fixture::{service, user};
use borg_cell::state::CellState;
use borg_fauxmaster::questions::check::{Change, check};
use borg_fauxmaster::questions::compact::{Compacted, Options, compact};
use borg_fauxmaster::questions::fit::fit;
use borg_fauxmaster::sources::loaded::Loaded;
use borg_fauxmaster::sources::synthetic::synthetic;
use borg_fauxmaster::work::Work;
use borg_proto::Millis;
use borg_proto::command::Action;
use std::sync::Arc;

/// For how long `check` looks at what follows, unless told otherwise.
const WITHIN: Millis = Millis::from_secs(600);
/// Most tasks that `fit` tries.
const MOST: u32 = 10_000;
const THREADS: usize = 2;

/// What an answer took.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// How many more tasks of production fit.
    pub fit_s: f64,
    /// What a job of a hundred tasks of production would do.
    pub check_s: f64,
}

/// Asks a cell of which the state has come as bytes, as from its masters; the time on the network is not counted.
///
/// # Errors
/// When state and scheduler disagree.
pub fn ask(bytes: &[u8]) -> Result<Asked, Error> {
    let loaded = || -> Result<Loaded, Error> {
        Ok(Loaded::cell("measured".to_owned(), CellState::decode(bytes)?, None))
    };
    let began = clock::now();
    fit(&loaded()?, &service("more", 1, 1_000, 2 << 30), MOST)?;
    let fit_s = clock::milliseconds(began.elapsed()) / 1e3;
    let began = clock::now();
    let spec = Arc::new(service("new", 100, 2_000, 4 << 30));
    let entries = vec![(user("planner"), Action::SubmitJob { spec })];
    check(&loaded()?, &Change { name: "submit".to_owned(), entries }, WITHIN, THREADS)?;
    Ok(Asked { fit_s, check_s: clock::milliseconds(began.elapsed()) / 1e3 })
}

/// Compacts a made-up cell of so many machines, with its lower bound; `tell` hears of each seed. Gives what came of it,
/// and how many seconds it took.
///
/// # Errors
/// When state and scheduler disagree.
pub fn compacting(machines: u32, tell: impl Fn(u64) + Sync) -> Result<(Compacted, f64), Error> {
    let work = Work::of_cell(&synthetic(machines, 1)?);
    let began = clock::now();
    let options = Options { threads: THREADS, ..Options::default() };
    let found = compact(&work, &options, |kept| tell(kept.seed))?;
    Ok((found, clock::milliseconds(began.elapsed()) / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_and_take_time() {
        let asked = ask(&synthetic(30, 1).unwrap().encode()).unwrap();
        assert!(asked.fit_s > 0.0 && asked.check_s > 0.0, "{asked:?}");
        let (found, took_s) = compacting(30, |_| {}).unwrap();
        assert!(found.kept.len() == 11 && found.bound.is_some() && took_s > 0.0, "{found:?}");
    }
}
