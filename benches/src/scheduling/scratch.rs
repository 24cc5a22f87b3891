//! A whole cell from scratch: all machines up and empty, all jobs submitted, nothing placed.

use super::submitted;
use crate::Error;
use crate::driven::Timed;
use crate::figures::median;
use borg_fauxmaster::Driven;
use borg_fauxmaster::sources::borg_like::Mix;
use borg_scheduler::Config;

/// What it took.
#[derive(Debug)]
pub struct Scratch {
    /// One pass without a limit on decisions by a scheduler that knows the cell, in seconds: median.
    pub pass_s: f64,
    /// The same work in passes of [`DECISIONS`](borg_fauxmaster::driven::DECISIONS), each applied and
    /// followed, passes and following together, in seconds: once.
    pub live_s: f64,
    /// Of these, following.
    pub live_follow_s: f64,
    /// Tasks placed.
    pub placed: usize,
    /// Tasks left over.
    pub pending: usize,
    /// Tasks pushed out on the way.
    pub pushed_out: u64,
    /// The cell as it is at the end.
    pub cell: Driven,
    /// Its scheduler.
    pub timed: Timed,
}

/// Schedules a cell of the mix from scratch `runs` times, and once more as a Borgmaster does it. Not
/// timed: making the cell, and `Scheduler::new`, which reads it.
///
/// # Errors
/// When state and scheduler disagree.
pub fn measure(machines: u32, mix: Mix, config: Config, runs: usize) -> Result<Scratch, Error> {
    let (mut cell, _) = submitted(machines, mix)?;
    let fresh = Timed::new(&mut cell, config);
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let mut timed = fresh.clone();
        timed.pass(&cell, usize::MAX)?;
        seconds.push(timed.pass_ms / 1e3);
    }
    let mut timed = fresh;
    timed.settle(&mut cell)?;
    Ok(Scratch {
        pass_s: median(&seconds),
        live_s: timed.total_ms() / 1e3,
        live_follow_s: timed.follow_ms / 1e3,
        placed: cell.placed(),
        pending: cell.state.pending_len(),
        pushed_out: timed.pushed_out,
        cell,
        timed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cell_is_scheduled_from_scratch() {
        let found = measure(100, Mix::BORG, Config::default(), 2).unwrap();
        assert_eq!(found.placed + found.pending, 1_500);
        assert!(found.placed > 1_400, "{} placed", found.placed);
        assert!(found.pass_s > 0.0 && found.live_s > found.live_follow_s);
        assert_eq!(found.cell.state.audit(), []);
    }
}
