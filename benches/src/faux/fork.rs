//! A copy of a loaded cell with its scheduler, and a first decision in it.

use super::resident_mib;
use crate::figures::median;
use crate::{Error, clock};
use borg_cell::fixture::{batch, user};
use borg_cell::state::CellState;
use borg_fauxmaster::driven::{DECISIONS, Driven};
use borg_proto::command::{Action, Command};
use borg_scheduler::{Config, Scheduler};
use std::sync::Arc;

/// Forks that are held at the same time. 100: enough that one takes far more than the kernel rounds to.
const HELD: usize = 100;

/// What a fork and a load cost.
#[derive(Debug, Clone, Copy)]
pub struct Forks {
    /// One fork with a job submitted and placed in it, in milliseconds: median.
    pub fork_ms: f64,
    /// Copying state and scheduler alone: median.
    pub copy_ms: f64,
    /// What one more fork keeps resident, in MiB.
    pub fork_mib: f64,
    /// Reading the state from its bytes, in seconds.
    pub read_s: f64,
    /// Making a scheduler that knows all of it, in seconds.
    pub know_s: f64,
    /// Having one that knows all of it begin anew, as at the beginning of a recording, in seconds.
    pub afresh_s: f64,
}

/// A cell that is asked "what if".
#[derive(Debug, Clone)]
struct Fork {
    state: CellState,
    scheduler: Scheduler,
}

impl Fork {
    /// Submits a job of two tasks of ten cores and places what it can.
    fn what_if(&mut self, at: &Driven) -> Result<usize, Error> {
        let spec = Arc::new(batch("what-if", 2, 1_000, 1 << 30));
        let action = Action::SubmitJob { spec };
        let command = Command { at: at.now(), by: user("planner"), request: None, action };
        let applied = self.state.apply(self.state.applied() + 1, &command)?;
        self.scheduler.follow(self.state.clone(), &applied.events);
        Ok(self.scheduler.pass(at.now(), DECISIONS).len())
    }
}

/// Forks a cell, `HELD` times at once; loads it from the bytes of a checkpoint.
///
/// # Errors
/// When the state refuses a command or its own bytes, or a fork decides nothing.
pub fn measure(cell: &Driven, scheduler: &Scheduler, config: Config) -> Result<Forks, Error> {
    let origin = Fork { state: cell.state.clone(), scheduler: scheduler.clone() };
    let (mut forks, mut copies, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let before = resident_mib()?;
    for _ in 0..HELD {
        let began = clock::now();
        let mut fork = origin.clone();
        copies.push(clock::milliseconds(began.elapsed()));
        if fork.what_if(cell)? == 0 {
            return Err("a fork decided nothing".into());
        }
        times.push(clock::milliseconds(began.elapsed()));
        forks.push(fork);
    }
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let fork_mib = (resident_mib()? - before) / forks.len() as f64;
    let bytes = cell.state.encode();
    let began = clock::processor_ms()?;
    let state = CellState::decode(&bytes)?;
    let read = clock::processor_ms()?;
    let loaded = Scheduler::new(&state, config);
    let known = clock::processor_ms()?;
    let mut loaded = loaded;
    loaded.start_afresh(&state);
    let afresh = clock::processor_ms()?;
    drop(loaded);
    Ok(Forks {
        fork_ms: median(&times),
        copy_ms: median(&copies),
        fork_mib,
        read_s: (read - began) / 1e3,
        know_s: (known - read) / 1e3,
        afresh_s: (afresh - known) / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::filled;
    use borg_fauxmaster::sources::borg_like::Mix;

    #[test]
    fn forks_of_a_small_cell_decide() {
        let (cell, timed) = filled(100, Mix::BORG, Config::default()).unwrap();
        let found = measure(&cell, &timed.scheduler, Config::default()).unwrap();
        assert!(found.fork_ms >= found.copy_ms && found.know_s >= 0.0, "{found:?}");
    }
}
