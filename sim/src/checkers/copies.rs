//! An incarnation belongs to one machine and runs there once at a time, and a slot has one running
//! incarnation, but for older ones that the cell cannot reach or has no time yet to stop (I6).
//!
//! What excuses a machine is the world's to say; how long it has been without excuse is counted
//! here, from the beginning each time that it had one.

use borg_proto::{IncarnationId, Millis, TaskId};
use borglet_supervisor::Run;
use std::collections::{BTreeMap, BTreeSet};

/// Where each incarnation was ever started, where it runs, and which slots have more than one.
#[derive(Debug, Default)]
pub struct Copies {
    homes: BTreeMap<IncarnationId, usize>,
    running: BTreeSet<(IncarnationId, usize)>,
    ended: BTreeSet<Run>,
    last_run: BTreeMap<IncarnationId, Run>,
    pids: BTreeSet<(IncarnationId, u32)>,
    /// Slots with more than one running incarnation.
    doubled: BTreeSet<TaskId>,
    /// Slots of exclusive jobs.
    exclusive: BTreeSet<TaskId>,
    /// Since when nothing excuses an older copy.
    unexcused: BTreeMap<(IncarnationId, usize), Millis>,
    /// The office under which that is counted: a new leader has to find everything out anew.
    office: u64,
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

    /// The slot is of an exclusive job.
    pub fn is_exclusive(&mut self, task: TaskId) {
        self.exclusive.insert(task);
    }

    /// Its process is there.
    ///
    /// # Errors
    /// When it is exclusive and another copy runs (I7).
    pub fn runs(&mut self, id: IncarnationId, machine: usize, pid: u32) -> Result<(), String> {
        self.pids.insert((id, pid));
        self.running.insert((id, machine));
        if self.copies_of(id.task).nth(1).is_some() {
            self.doubled.insert(id.task);
        }
        let other = self.copies_of(id.task).find(|copy| *copy != (id, machine));
        match other.filter(|_| self.exclusive.contains(&id.task)) {
            None => Ok(()),
            Some((other, there)) => Err(format!(
                "{id} runs on m{machine} while {other} runs on m{there}, and the job is exclusive"
            )),
        }
    }

    /// The running copies of a slot, oldest incarnation first.
    fn copies_of(&self, task: TaskId) -> impl Iterator<Item = (IncarnationId, usize)> {
        let number = |number| (IncarnationId { task, number }, 0);
        let all = number(0)..=(number(u32::MAX).0, usize::MAX);
        self.running.range(all).copied()
    }

    /// Whether any slot has more than one running incarnation.
    pub fn any_doubled(&self) -> bool {
        !self.doubled.is_empty()
    }

    /// Looks at all slots with more than one running incarnation, under a leader's term.
    /// `patience` says how long an older one may run on a machine that is not excused, or `None`
    /// when it is. Two of a slot are fine while the cell wants both: the task and its successor, as
    /// `wanted` says.
    ///
    /// # Errors
    /// When an older copy has run for longer than that.
    pub fn only_newest_last(
        &mut self,
        now: Millis,
        term: u64,
        wanted: impl Fn(IncarnationId, usize) -> bool,
        patience: impl Fn(IncarnationId, usize) -> Option<Millis>,
    ) -> Result<(), String> {
        if term != self.office {
            self.office = term;
            self.unexcused.clear();
        }
        for task in &self.doubled {
            let copies: Vec<_> = self.copies_of(*task).collect();
            let is_wanted = |(id, machine): &&(IncarnationId, usize)| wanted(*id, *machine);
            // A successor that was given up is newer than what the cell wants.
            let best = copies.iter().rev().find(is_wanted).or(copies.last());
            let Some((newest, there)) = best.copied() else { continue };
            for (id, machine) in copies.iter().filter(|(id, _)| *id != newest) {
                if wanted(*id, *machine) {
                    self.unexcused.remove(&(*id, *machine));
                    continue;
                }
                let Some(patience) = patience(*id, *machine) else {
                    self.unexcused.remove(&(*id, *machine));
                    continue;
                };
                let since = *self.unexcused.entry((*id, *machine)).or_insert(now);
                if now.since(since) > patience {
                    return Err(format!(
                        "{id} still runs on m{machine} beside {newest} on m{there}, {} after \
                         anything excused it",
                        now.since(since)
                    ));
                }
            }
        }
        Ok(())
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
        self.unexcused.remove(&(id, machine));
        if self.copies_of(id.task).nth(1).is_none() {
            self.doubled.remove(&id.task);
        }
        if let Some(run) = self.last_run.get(&id) {
            self.ended.insert(*run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::JobId;

    #[test]
    fn second_copies_and_second_starts_are_noticed() {
        let id = IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number: 1 };
        let run = |number| Run { id, number };
        let mut copies = Copies::default();
        copies.starts(run(0), 3).unwrap();
        copies.runs(id, 3, 7).unwrap();
        copies.is_said_to_run(id, 7).unwrap();
        assert!(copies.is_said_to_run(id, 8).is_err());
        assert!(copies.starts(run(0), 3).is_err());
        assert!(copies.starts(run(0), 4).is_err());
        copies.stopped(id, 3);
        assert!(copies.starts(run(0), 3).is_err());
        copies.starts(run(1), 3).unwrap();
    }

    /// Incarnations 1 on m3 and 2 on m4 of one slot run.
    fn doubled() -> (Copies, IncarnationId) {
        let id = |number| IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number };
        let mut copies = Copies::default();
        for (number, machine) in [(1, 3), (2, 4)] {
            copies.starts(Run { id: id(number), number: 0 }, machine).unwrap();
            copies.runs(id(number), machine, number).unwrap();
        }
        (copies, id(1))
    }

    #[test]
    fn a_second_copy_of_an_exclusive_task_is_noticed_at_once() {
        let id = |number| IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number };
        let mut copies = Copies::default();
        copies.is_exclusive(id(1).task);
        copies.runs(id(1), 3, 7).unwrap();
        assert!(copies.runs(id(2), 4, 8).is_err());
        copies.stopped(id(1), 3);
        copies.stopped(id(2), 4);
        copies.runs(id(3), 3, 9).unwrap();
    }

    #[test]
    fn an_older_copy_that_nothing_excuses_is_noticed_when_patience_is_over() {
        let (mut copies, _) = doubled();
        assert!(copies.any_doubled());
        let mut look =
            |now| copies.only_newest_last(Millis(now), 1, |_, _| false, |_, _| Some(Millis(100)));
        look(1_000).unwrap();
        look(1_100).unwrap();
        let found = look(1_101).unwrap_err();
        assert!(found.contains("m3") && found.contains("m4"), "{found}");
    }

    #[test]
    fn an_excuse_and_a_new_leader_begin_the_count_anew() {
        let (mut copies, _) = doubled();
        let strict = |_: IncarnationId, _: usize| Some(Millis(100));
        copies.only_newest_last(Millis(0), 1, |_, _| false, strict).unwrap();
        copies
            .only_newest_last(
                Millis(200),
                1,
                |_, _| false,
                |_, machine| (machine != 3).then_some(Millis(0)),
            )
            .unwrap();
        copies.only_newest_last(Millis(250), 1, |_, _| false, strict).unwrap();
        copies.only_newest_last(Millis(400), 2, |_, _| false, strict).unwrap();
        assert!(copies.only_newest_last(Millis(501), 2, |_, _| false, strict).is_err());
    }

    #[test]
    fn a_slot_whose_older_copy_ended_in_time_is_well() {
        let (mut copies, old) = doubled();
        copies.only_newest_last(Millis(0), 1, |_, _| false, |_, _| Some(Millis(100))).unwrap();
        copies.stopped(old, 3);
        assert!(!copies.any_doubled());
        copies.only_newest_last(Millis(900), 1, |_, _| false, |_, _| Some(Millis(100))).unwrap();
    }
}
