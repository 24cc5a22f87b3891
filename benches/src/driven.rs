//! A scheduler beside a [`Driven`] cell, whose processor time is taken, so that setting up and applying are
//! not counted.

use crate::{Error, clock};
use borg_fauxmaster::driven::{DECISIONS, Driven};
use borg_proto::command::Assignment;
use borg_scheduler::{Config, Scheduler};

/// Processor time that changing the cell took, in milliseconds, by what it was about: applying entries, and a
/// little for the books of [`Driven`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Applying {
    /// Submitting jobs.
    pub submit_ms: f64,
    /// Placing tasks.
    pub place_ms: f64,
    /// Seeing tasks up.
    pub up_ms: f64,
    /// Seeing tasks end, and killing jobs.
    pub end_ms: f64,
}

/// Does something, and adds the processor time that it took.
///
/// # Errors
/// When the kernel does not tell the time.
pub fn timing<T>(spent_ms: &mut f64, work: impl FnOnce() -> T) -> Result<T, Error> {
    let began = clock::processor_ms()?;
    let done = work();
    *spent_ms += clock::processor_ms()? - began;
    Ok(done)
}

/// A scheduler whose time is taken: processor time of this process, in milliseconds, so the figure
/// does not depend on who else is on the computer.
#[derive(Debug, Clone)]
pub struct Timed {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Spent in passes so far.
    pub pass_ms: f64,
    /// Spent in following committed changes so far.
    pub follow_ms: f64,
    /// Decisions so far.
    pub decided: u64,
    /// Incarnations that these pushed out.
    pub pushed_out: u64,
    /// What changing the cell took so far.
    pub applying: Applying,
    /// Whether it lets go of the state while that is changed, as one does who is alone with it; a
    /// Borgmaster's scheduler keeps it, on a thread of its own.
    pub alone: bool,
}

impl Timed {
    /// A scheduler that knows all of the cell.
    #[must_use]
    pub fn new(cell: &mut Driven, config: Config) -> Self {
        drop(cell.take_news());
        let scheduler = Scheduler::new(&cell.state, config);
        Self {
            scheduler,
            pass_ms: 0.0,
            follow_ms: 0.0,
            decided: 0,
            pushed_out: 0,
            applying: Applying::default(),
            alone: false,
        }
    }

    /// Forgets times and counts.
    pub fn reset(&mut self) {
        (self.pass_ms, self.follow_ms, self.decided, self.pushed_out) = (0.0, 0.0, 0, 0);
        self.applying = Applying::default();
    }

    /// Spent in all so far, in milliseconds.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.pass_ms + self.follow_ms
    }

    /// Tells the scheduler what was committed since it was told last.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn follow(&mut self, cell: &mut Driven) -> Result<(), Error> {
        let (state, news) = (cell.state.clone(), cell.take_news());
        let began = clock::processor_ms()?;
        self.scheduler.follow(state, &news);
        self.follow_ms += clock::processor_ms()? - began;
        Ok(())
    }

    /// One pass; the decisions are not applied yet.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn pass(&mut self, cell: &Driven, most: usize) -> Result<Vec<Assignment>, Error> {
        let began = clock::processor_ms()?;
        let decisions = self.scheduler.pass(cell.now(), most);
        self.pass_ms += clock::processor_ms()? - began;
        self.decided += u64::try_from(decisions.len())?;
        self.pushed_out += decisions.iter().map(|d| d.victims.len() as u64).sum::<u64>();
        Ok(decisions)
    }

    /// Passes of [`DECISIONS`] decisions, each applied and followed, until one decides nothing, as a
    /// Borgmaster does. What was placed is seen to run.
    ///
    /// # Errors
    /// When state and scheduler disagree.
    pub fn settle(&mut self, cell: &mut Driven) -> Result<(), Error> {
        self.follow(cell)?;
        loop {
            let decisions = self.pass(cell, DECISIONS)?;
            if self.alone {
                self.scheduler.let_go();
            }
            if decisions.is_empty() {
                return Ok(());
            }
            timing(&mut self.applying.place_ms, || cell.place(decisions))??;
            timing(&mut self.applying.up_ms, || cell.start_placed())??;
            self.follow(cell)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::{batch, info, service};
    use borg_proto::UserName;
    use borg_sim::dice::Dice;
    use std::sync::Arc;

    #[test]
    fn what_runs_is_what_the_state_says_over_evictions_and_ends() {
        let mut cell = Driven::with_machines(&[info(4_000, 8 << 30, &[])]).unwrap();
        let mut timed = Timed::new(&mut cell, Config::default());
        let ann: UserName = "ann".parse().unwrap();
        cell.submit(&ann, Arc::new(batch("low", 4, 1_000, 1 << 30))).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), cell.cpu_capacity()), (4, 4_000, 4_000));
        let high = cell.submit(&ann, Arc::new(service("high", 1, 2_000, 1 << 30))).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), timed.pushed_out), (3, 4_000, 2));
        assert_eq!(cell.state.audit(), []);
        cell.kill(cell.state.job(high).unwrap().key.clone()).unwrap();
        let one = cell.any_placed(&mut Dice::new(1)).unwrap();
        cell.end(&[one]).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), cell.kill_pending().unwrap()), (3, 3_000, 0));
        assert_eq!(timed.decided, 4 + 1 + 2);
    }
}
