//! An incarnation belongs to one machine, and runs there once at a time (I6).

use borg_proto::IncarnationId;
use borglet_supervisor::Run;
use std::collections::{BTreeMap, BTreeSet};

/// Where each incarnation was ever started, and where it runs.
#[derive(Debug, Default)]
pub struct Copies {
    homes: BTreeMap<IncarnationId, usize>,
    running: BTreeSet<(IncarnationId, usize)>,
    ended: BTreeSet<Run>,
    last_run: BTreeMap<IncarnationId, Run>,
    pids: BTreeSet<(IncarnationId, u32)>,
}

impl Copies {
    /// A borglet orders the start of a run.
    ///
    /// # Errors
    /// When the incarnation runs already, was started on another machine, or this very run is
    /// over.
    pub fn starts(&mut self, run: Run, machine: usize) -> Result<(), String> {
        let home = *self.homes.entry(run.id).or_insert(machine);
        self.last_run.insert(run.id, run);
        if home != machine {
            return Err(format!(
                "{run} starts on m{machine}, the incarnation was on m{home} before"
            ));
        }
        if self.running.contains(&(run.id, machine)) {
            return Err(format!("{run} starts on m{machine}, where the incarnation runs already"));
        }
        if self.ended.contains(&run) {
            return Err(format!("{run} starts again on m{machine} after it ended there"));
        }
        Ok(())
    }

    /// Its process is there.
    pub fn runs(&mut self, id: IncarnationId, machine: usize, pid: u32) {
        self.pids.insert((id, pid));
        self.running.insert((id, machine));
    }

    /// The cell says that an incarnation is up.
    ///
    /// # Errors
    /// When it never had that process.
    pub fn is_said_to_run(&self, id: IncarnationId, pid: u32) -> Result<(), String> {
        if self.pids.contains(&(id, pid)) {
            return Ok(());
        }
        Err(format!("the cell says that {id} runs as process {pid}, which it never had"))
    }

    /// Its process is gone.
    pub fn stopped(&mut self, id: IncarnationId, machine: usize) {
        self.running.remove(&(id, machine));
        if let Some(run) = self.last_run.get(&id) {
            self.ended.insert(*run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::{JobId, TaskId};

    #[test]
    fn second_copies_and_second_starts_are_noticed() {
        let id = IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number: 1 };
        let run = |number| Run { id, number };
        let mut copies = Copies::default();
        copies.starts(run(0), 3).unwrap();
        copies.runs(id, 3, 7);
        copies.is_said_to_run(id, 7).unwrap();
        assert!(copies.is_said_to_run(id, 8).is_err());
        assert!(copies.starts(run(0), 3).is_err());
        assert!(copies.starts(run(0), 4).is_err());
        copies.stopped(id, 3);
        assert!(copies.starts(run(0), 3).is_err());
        copies.starts(run(1), 3).unwrap();
    }
}
