//! What a question is asked of: a cell as it is, machines and work that are only written down, or a trace of such.

use super::common;
use super::synthetic::synthetic;
use super::trace::Trace;
use crate::answer::Provenance;
use crate::work::Work;
use crate::{Driven, Error};
use borg_cell::state::CellState;
use borg_proto::Millis;
use borg_scheduler::recording::wire::encode;
use borg_scheduler::recording::{Begin, Recorded};
use borg_scheduler::{Config, Scheduler};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// A cell, or work that has no cell yet.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it is, for people.
    pub source: String,
    /// 64-bit hash (xxh3) of the encoded state, or of machines and work as they were read.
    pub digest: u64,
    holds: Holds,
}

#[derive(Debug, Clone)]
enum Holds {
    Cell(Box<CellState>, Option<Box<Begin>>),
    Work(Work),
    Trace(Trace, Millis),
}

impl Loaded {
    /// A cell as it is, with what its scheduler knew beside the state if that was told: what tasks lend of their limits,
    /// and which machines do not answer.
    #[must_use]
    pub fn cell(source: String, state: CellState, known: Option<Begin>) -> Self {
        let mut bytes = state.encode();
        if let Some(begin) = &known {
            encode(&mut bytes, &Recorded::Begin(Box::new(begin.clone())));
        }
        let holds = Holds::Cell(Box::new(state), known.map(Box::new));
        Self { source, digest: xxh3_64(&bytes), holds }
    }

    /// Machines and work by themselves.
    #[must_use]
    pub fn of_work(source: String, work: Work) -> Self {
        let digest = xxh3_64(format!("{work:?}").as_bytes());
        Self { source, digest, holds: Holds::Work(work) }
    }

    /// A made-up cell.
    ///
    /// # Errors
    /// When state and scheduler disagree.
    pub fn made_up(machines: u32, seed: u64) -> Result<Self, Error> {
        let source = format!("borg-like cell of {machines} machines, seed {seed}");
        Ok(Self::cell(source, synthetic(machines, seed)?, None))
    }

    /// A folder with `nodes.csv` and `tasks.csv` in the common format.
    ///
    /// # Errors
    /// When a file is not in the format; it says file, line and column.
    pub fn folder(path: &Path) -> Result<Self, Error> {
        let work = common::read(path)?;
        if work.machines.is_empty() || work.jobs.is_empty() {
            let missing = if work.machines.is_empty() { "nodes.csv" } else { "tasks.csv" };
            return Err(format!("{}: there is no row in {missing}", path.display()).into());
        }
        let source = format!("common format, {} machines", work.machines.len());
        Ok(Self::of_work(source, work))
    }

    /// A trace of work that came and went. Questions that are of one moment are of this one, or else of the busiest.
    ///
    /// # Errors
    /// When the trace is over before that.
    pub fn trace(trace: Trace, at: Option<Millis>) -> Result<Self, Error> {
        let Millis(ends) = trace.ends;
        if let Some(Millis(at)) = at.filter(|at| *at > trace.ends) {
            return Err(format!("at {at} ms: the trace is over after {ends} ms").into());
        }
        let at = at.unwrap_or_else(|| trace.busiest());
        Ok(Self { source: trace.name(), digest: trace.digest, holds: Holds::Trace(trace, at) })
    }

    /// The trace, if it is one.
    #[must_use]
    pub fn as_trace(&self) -> Option<&Trace> {
        match &self.holds {
            Holds::Trace(trace, _) => Some(trace),
            Holds::Cell(..) | Holds::Work(_) => None,
        }
    }

    /// Its machines and its work, apart from one another; of a trace, at its moment.
    #[must_use]
    pub fn work(&self) -> Work {
        match &self.holds {
            Holds::Cell(state, _) => Work::of_cell(state),
            Holds::Work(work) => work.clone(),
            Holds::Trace(trace, at) => trace.work_at(*at),
        }
    }

    /// It as a cell: work without one is placed by the production scheduler first, as far as it fits.
    ///
    /// # Errors
    /// When state and scheduler disagree.
    pub fn state(&self) -> Result<CellState, Error> {
        let work = match &self.holds {
            Holds::Cell(state, _) => return Ok(CellState::clone(state)),
            Holds::Work(_) | Holds::Trace(..) => self.work(),
        };
        let machines = work.machines.iter().map(|(name, info)| (name.clone(), info));
        Ok(Driven::filled(machines, work.jobs)?.state)
    }

    /// What the cell's scheduler knew beside the state.
    #[must_use]
    pub fn known(&self) -> Option<&Begin> {
        match &self.holds {
            Holds::Cell(_, known) => known.as_deref(),
            Holds::Work(_) | Holds::Trace(..) => None,
        }
    }

    /// The production scheduler of [`Loaded::state`], which knows what the cell's own did. Where that was not told, nothing
    /// is lent and all machines answer.
    #[must_use]
    pub fn scheduler(&self, state: &CellState) -> Scheduler {
        match self.known() {
            Some(begin) => begin.scheduler(state),
            None => Scheduler::new(state, Config::default()),
        }
    }

    /// Where an answer about it comes from that [`Loaded::scheduler`] has a part in.
    #[must_use]
    pub fn provenance_of_scheduler(
        &self,
        seeds: Vec<u64>,
        parameters: Vec<(String, String)>,
    ) -> Provenance {
        let mut provenance = self.provenance(seeds, parameters);
        if let Some(begin) = self.known() {
            let (lend, silent) = (begin.lent.len(), begin.silent.len());
            let note =
                format!("{lend} tasks lend of their limits, {silent} machines do not answer");
            provenance.notes.push(note);
        }
        provenance
    }

    /// Where an answer about it comes from.
    #[must_use]
    pub fn provenance(&self, seeds: Vec<u64>, mut parameters: Vec<(String, String)>) -> Provenance {
        let mut notes = Vec::new();
        if let Holds::Trace(trace, at) = &self.holds {
            notes.clone_from(&trace.notes);
            parameters.push(("at_ms".to_owned(), at.0.to_string()));
            parameters.extend(trace.parameters());
        }
        parameters.sort();
        Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: self.source.clone(),
            digest: format!("{:016x}", self.digest),
            seeds,
            parameters,
            notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::info;

    #[test]
    fn machines_keep_the_names_that_they_come_with_if_a_cell_takes_them() {
        let machines = ["rack-7", "a b", "rack-9"];
        let machines = machines.map(|name| (name.to_owned(), info(1_000, 1 << 30, &[])));
        let work = Work { machines: machines.into(), ..Work::default() };
        let state = Loaded::of_work("test".to_owned(), work).state().unwrap();
        let names: Vec<String> = state.machines().map(|machine| machine.name.to_string()).collect();
        assert_eq!(names, ["rack-7", "m-1", "rack-9"]);
    }
}
