//! Large cells, filled through `apply` as any cell is, and a mix of commands to apply to them.
//!
//! The whole size is the median cell of the Borg paper (section 2.2), 10,000 machines, with 15 tasks
//! each; the small one is for tests, where a benchmark runs once and nothing is measured.

use crate::Error;
use borg_cell::fixture::{batch, info, master, user};
use borg_cell::state::{Answer, CellState};
use borg_proto::command::{Action, Assignment, Command, Observation, Principal};
use borg_proto::machine::MachineAddress;
use borg_proto::{CellName, IncarnationId, JobId, MachineId, Millis, TaskId};
use std::sync::Arc;

/// Tasks of each job that a cell is filled with.
const TASKS_PER_JOB: u32 = 100;
/// Tasks of each job of the mix.
const MIX_TASKS: u32 = 10;
const MILLI_CPU: u64 = 1_000;
const RAM_BYTES: u64 = 1 << 30;

/// How large a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Machines.
    pub machines: u32,
    /// Jobs of 100 tasks, all placed and up.
    pub jobs: u32,
}

impl Size {
    /// 10,000 machines, 150,000 tasks.
    pub const WHOLE: Self = Self { machines: 10_000, jobs: 1_500 };
    /// 50 machines, 500 tasks.
    pub const SMALL: Self = Self { machines: 50, jobs: 5 };

    /// The whole size when benchmarks are measured, the small one when `cargo test` runs them.
    #[must_use]
    pub fn of_this_run() -> Self {
        if std::env::args().any(|arg| arg == "--bench") { Self::WHOLE } else { Self::SMALL }
    }
}

/// A cell that grows by commands of our own.
#[derive(Debug, Clone)]
pub struct Grown {
    /// The state.
    pub state: CellState,
    machines: u32,
    jobs: u32,
    /// Machine that gets the next task: they come in turn.
    turn: u32,
}

impl Grown {
    /// A cell of this size whose machines are up and whose tasks all run.
    ///
    /// # Errors
    /// When the state refuses a command: the cell would be too full.
    pub fn filled(size: Size) -> Result<Self, Error> {
        let mut cell = Self::empty(size.machines)?;
        for _ in 0..size.jobs {
            let job = cell.submit(TASKS_PER_JOB)?;
            cell.place(job, TASKS_PER_JOB)?;
            let up = (0..TASKS_PER_JOB).map(|index| up(job, index)).collect();
            cell.apply(master(), Action::Observe { changes: up })?;
        }
        Ok(cell)
    }

    /// A cell whose machines are up and that has no job: 64 cores and 256 GiB each.
    ///
    /// # Errors
    /// When the state refuses a command.
    pub fn empty(machines: u32) -> Result<Self, Error> {
        let state = CellState::new(CellName::new("large")?);
        let mut cell = Self { state, machines, jobs: 0, turn: 0 };
        for number in 0..machines {
            let name = format!("m-{number}").parse()?;
            let machine = MachineAddress { name, address: "m:1".into() };
            cell.apply(user("admin"), Action::AddMachine { machine })?;
        }
        let up = |number| Observation::MachineUp {
            machine: MachineId(number),
            info: info(64_000, 256 << 30, &[]),
        };
        cell.apply(master(), Action::Observe { changes: (0..machines).map(up).collect() })?;
        Ok(cell)
    }

    /// Submits a batch job of equal tasks, a core and a GiB each.
    ///
    /// # Errors
    /// When the state refuses it.
    pub fn submit(&mut self, tasks: u32) -> Result<JobId, Error> {
        let submit = self.next_submit(tasks);
        match self.apply(user("ann"), submit)? {
            Answer::Job { id, .. } => Ok(id),
            other => Err(format!("a submit was answered with {other:?}").into()),
        }
    }

    /// Runs `jobs` jobs of ten tasks through their lives: each is submitted, placed in one entry
    /// and seen to start in ten; then one half is killed in one entry and the other half seen to
    /// finish in ten. That is 35 entries for two jobs, and leaves the cell as full as before. The
    /// state is copied before each entry, as a leader does for its scheduler and its readers.
    /// Gives the number of entries.
    ///
    /// # Errors
    /// When the state refuses a command.
    pub fn mix(&mut self, jobs: u32) -> Result<u64, Error> {
        let before = self.state.applied();
        for n in 0..jobs {
            let submit = self.next_submit(MIX_TASKS);
            let Answer::Job { id: job, key } = self.apply(user("ann"), submit)? else {
                return Err("a submit was not answered with its job".into());
            };
            let place = self.next_place(job, MIX_TASKS);
            self.apply(master(), place)?;
            for index in 0..MIX_TASKS {
                let changes = vec![up(job, index)];
                self.apply(master(), Action::Observe { changes })?;
            }
            if n % 2 == 0 {
                self.apply(user("ann"), Action::Kill { job: key, tasks: Vec::new() })?;
                continue;
            }
            for index in 0..MIX_TASKS {
                let ended = Observation::TaskEnded {
                    id: first(job, index),
                    at: self.at(),
                    failure: None,
                    run: None,
                };
                self.apply(master(), Action::Observe { changes: vec![ended] })?;
            }
        }
        Ok(self.state.applied() - before)
    }

    fn place(&mut self, job: JobId, tasks: u32) -> Result<(), Error> {
        let place = self.next_place(job, tasks);
        let Answer::Placed { results } = self.apply(master(), place)? else {
            return Err("a placement was not answered as one".into());
        };
        for result in results {
            result?;
        }
        Ok(())
    }

    fn next_submit(&mut self, tasks: u32) -> Action {
        self.jobs += 1;
        let spec = batch(&format!("j{}", self.jobs), tasks, MILLI_CPU, RAM_BYTES);
        Action::SubmitJob { spec: Arc::new(spec) }
    }

    fn next_place(&mut self, job: JobId, tasks: u32) -> Action {
        let mut next = |index| {
            self.turn = (self.turn + 1) % self.machines;
            let task = TaskId { job, index };
            Assignment::new(task, MachineId(self.turn))
        };
        Action::Place { assignments: (0..tasks).map(&mut next).collect() }
    }

    fn at(&self) -> Millis {
        Millis(self.state.applied() + 1)
    }

    fn command(&self, by: Principal, action: Action) -> Command {
        let request = match &by {
            Principal::User(_) => Some(self.state.applied().to_string().into()),
            Principal::Master(_) => None,
        };
        Command { at: self.at(), by, request, action }
    }

    fn apply(&mut self, by: Principal, action: Action) -> Result<Answer, Error> {
        let command = self.command(by, action);
        // Held over the change, as a reader's copy is: the change pays for what they share.
        let copy = self.state.clone();
        let applied = self.state.apply(self.state.applied() + 1, &command)?;
        drop(copy);
        Ok(applied.answer)
    }
}

fn first(job: JobId, index: u32) -> IncarnationId {
    IncarnationId { task: TaskId { job, index }, number: 1 }
}

fn up(job: JobId, index: u32) -> Observation {
    Observation::TaskUp {
        id: first(job, index),
        pid: 100,
        since: Millis(1),
        restarts: 0,
        run: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_cell_is_sound_and_the_mix_leaves_it_as_full_as_it_was() {
        let mut cell = Grown::filled(Size::SMALL).unwrap();
        let used = |cell: &Grown| cell.state.machines().map(|m| m.used.cpu_milli).sum::<u64>();
        assert_eq!((used(&cell), cell.state.pending().count()), (500 * MILLI_CPU, 0));
        assert_eq!(cell.mix(4).unwrap(), 70);
        assert_eq!(used(&cell), 500 * MILLI_CPU);
        assert_eq!(cell.state.audit(), []);
    }
}
