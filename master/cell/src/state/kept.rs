//! What allocs leave behind on machines: which data is kept, where, until when, and what became of it.
//!
//! When an alloc of a set that keeps data leaves a machine, for whatever reason, the directory that its tasks
//! shared stays there for the time that the set names. The machine says when no task uses it any more, or that it is
//! not there; what is in it is the machine's alone to know. Leaves saving it to `rescues`.
//!
//! Invariants: of an incarnation of an alloc at most one thing is kept, on the machine that it left, and never
//! while it is still there; what is kept is bounded by machine and by alloc set, and the oldest goes first; what
//! goes is told.

use super::turn::Turn;
use super::{CellState, Due, Job};
use crate::event::{DataChange, EventKind};
use borg_proto::task::{MAX_CAUSE_BYTES, Placement, TaskEnd, cut};
use borg_proto::{IncarnationId, JobId, JobKey, JobSpec, MachineId, Millis, TaskId, TaskName};
use std::sync::Arc;

/// Most that is kept on one machine. 100: our choice; a machine is told of all of it in each of its targets.
pub const MAX_KEPT_ON_A_MACHINE: usize = 100;
/// Most that is kept of one alloc set. 1,000: our choice; a set of that many allocs may move as a whole once.
pub const MAX_KEPT_OF_A_SET: usize = 1_000;

/// Data that an alloc left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number: what was left earlier has a smaller one.
    pub number: u64,
    /// Which incarnation of which alloc left it.
    pub alloc: IncarnationId,
    /// The alloc set, which may be gone.
    pub set: JobKey,
    /// Where it is.
    pub machine: MachineId,
    /// Since when it is kept.
    pub since: Millis,
    /// Until when, in cell time.
    pub until: Millis,
    /// What it takes on the disk; `None` while tasks may still use it, or its machine has not told.
    pub bytes: Option<u64>,
    /// What saves it: the last log saver of the alloc set as the alloc left, or the first one after that.
    pub saver: Option<Arc<JobSpec>>,
    /// The run that saves it.
    pub run: Option<JobId>,
    /// Why no run does, for people; empty when nothing is known against it.
    pub why: String,
    /// When a run is made, once nobody uses it; `None`: only when somebody asks for it.
    pub again: Option<Millis>,
    /// Whether its machine is drained and the deadline came first: it holds nobody up any more, and no run of it
    /// is placed before the machine is back.
    pub overdue: bool,
}

impl Kept {
    /// The alloc's name.
    #[must_use]
    pub fn name(&self) -> TaskName {
        TaskName { job: self.set.clone(), index: self.alloc.task.index }
    }

    /// Whether it is on the way to be saved, or will be without anybody's doing.
    #[must_use]
    pub fn awaits_rescue(&self) -> bool {
        self.run.is_some() || self.makes_run_at().is_some()
    }

    /// When a run is to be made of it.
    pub(super) fn makes_run_at(&self) -> Option<Millis> {
        self.again.filter(|_| self.run.is_none() && self.saver.is_some())
    }

    /// When something is to happen to it.
    pub(super) fn due(&self) -> Millis {
        let run = self.makes_run_at().filter(|_| self.bytes.is_some());
        run.map_or(self.until, |at| at.min(self.until))
    }

    /// How far it is, for people.
    #[must_use]
    pub fn note(&self, state: &CellState) -> String {
        let machine = state.machine(self.machine);
        let down = machine.is_some_and(|machine| machine.state != super::MachineState::Up);
        match self.run.and_then(|run| state.job(run)) {
            _ if down => "its machine does not answer".to_owned(),
            Some(_) if self.overdue => "waits until its machine is drained no more".to_owned(),
            Some(run) => format!("{} is {}", run.key, run.state()),
            None if self.bytes.is_none() => "tasks may still use it".to_owned(),
            None if !self.why.is_empty() => self.why.clone(),
            None if self.saver.is_none() => "no job of the alloc set rescues".to_owned(),
            None => "will be rescued".to_owned(),
        }
    }
}

impl Job {
    /// The number of the kept data that it saves, of a run that was made for that.
    #[must_use]
    pub fn rescues(&self) -> Option<u64> {
        self.rescues
    }
}

impl CellState {
    /// All that is kept, by number.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.values().map(AsRef::as_ref)
    }

    /// What is kept under a number.
    #[must_use]
    pub fn kept_data(&self, number: u64) -> Option<&Kept> {
        self.kept.get(&number).map(AsRef::as_ref)
    }

    /// What is kept on a machine, by number.
    pub fn kept_on(&self, machine: MachineId) -> impl Iterator<Item = &Kept> {
        let numbers = self.kept_by_machine.get(&machine).into_iter().flatten();
        numbers.filter_map(|number| self.kept_data(*number))
    }

    /// The allocs that are on a machine and whose tasks share a directory.
    pub fn sharing_on(&self, machine: MachineId) -> impl Iterator<Item = IncarnationId> {
        let tasks = self.machine(machine).map(|machine| machine.tasks.iter());
        tasks.into_iter().flatten().filter_map(|id| {
            self.job(id.job).filter(|job| job.spec.keep_data_ms.is_some())?;
            self.task(*id)?.running(*id)
        })
    }

    /// Whether anything on a machine waits to be saved that the machine's drain waits for.
    #[must_use]
    pub fn holds_unsaved(&self, machine: MachineId) -> bool {
        self.kept_on(machine).any(|kept| kept.awaits_rescue() && !kept.overdue)
    }

    pub(crate) fn file_kept(&mut self, kept: Kept) {
        self.kept_by_machine.entry(kept.machine).or_default().insert(kept.number);
        self.kept.insert(kept.number, Arc::new(kept));
    }
}

impl Turn<'_> {
    /// An alloc left a machine: what its tasks shared stays there, if its set says so.
    pub(super) fn leave_data(&mut self, alloc: TaskId, from: &Placement) {
        let Some(set) = self.state.job(alloc.job) else { return };
        let Some(keep) = set.spec.keep_data_ms else { return };
        let saver = self.saver_of(set);
        let (key, machine) = (set.key.clone(), from.machine);
        self.make_way_for_data(machine, &key);
        self.state.last_kept += 1;
        let drain = self.state.machine(machine).and_then(|machine| machine.drain.as_ref());
        let kept = Kept {
            number: self.state.last_kept,
            alloc: IncarnationId { task: alloc, number: from.incarnation },
            set: key,
            machine,
            since: self.at,
            until: self.at + keep,
            bytes: None,
            again: saver.as_ref().map(|_| self.at),
            saver,
            run: None,
            why: String::new(),
            overdue: drain.is_some_and(|drain| drain.deadline <= self.at),
        };
        let (number, until) = (kept.number, kept.until);
        self.tell_of_data(&kept, DataChange::Kept { until });
        self.state.file_kept(kept);
        self.set_alarm(Due::Kept(number));
    }

    /// The oldest goes when a machine or an alloc set has too much.
    fn make_way_for_data(&mut self, machine: MachineId, set: &JobKey) {
        let mut on_it = self.state.kept_on(machine).map(|kept| kept.number);
        let of_machine = on_it.next().filter(|_| on_it.count() + 1 >= MAX_KEPT_ON_A_MACHINE);
        let mut of_it = self.state.kept().filter(|kept| kept.set == *set).map(|kept| kept.number);
        let of_set = of_it.next().filter(|_| of_it.count() + 1 >= MAX_KEPT_OF_A_SET);
        if let Some(number) = of_machine {
            let why = format!("its machine keeps {MAX_KEPT_ON_A_MACHINE}, the most that it may");
            self.drop_data(number, &why);
        }
        if let Some(number) = of_set {
            let why = format!("its alloc set keeps {MAX_KEPT_OF_A_SET}, the most that it may");
            self.drop_data(number, &why);
        }
    }

    /// A machine says that no task uses what an alloc left there.
    pub(super) fn data_at_rest(&mut self, machine: MachineId, alloc: IncarnationId, bytes: u64) {
        let found = self.state.kept_on(machine).find(|kept| kept.alloc == alloc);
        let Some(number) = found.filter(|kept| kept.bytes.is_none()).map(|kept| kept.number) else {
            return;
        };
        let kept = self.kept_mut(number);
        kept.bytes = Some(bytes);
        let kept = kept.clone();
        self.tell_of_data(&kept, DataChange::AtRest { bytes });
        self.rescue_if_due(number);
    }

    /// A machine says that what an alloc left there is gone.
    pub(super) fn data_gone(&mut self, machine: MachineId, alloc: IncarnationId, why: &str) {
        let found = self.state.kept_on(machine).find(|kept| kept.alloc == alloc);
        let Some(number) = found.map(|kept| kept.number) else { return };
        self.drop_data(number, why);
    }

    /// Keeps something no longer, and ends what would save it.
    pub(super) fn drop_data(&mut self, number: u64, why: &str) {
        let why = cut(why, MAX_CAUSE_BYTES);
        let run = self.forget_data(number, DataChange::Gone { why });
        if let Some(run) = run {
            self.end_whole(run, &TaskEnd::Killed { by: "the end of its data".to_owned() });
        }
    }

    /// Takes something out of what is kept; gives the run that saves it.
    pub(super) fn forget_data(&mut self, number: u64, change: DataChange) -> Option<JobId> {
        let kept = self.state.kept.remove(&number)?;
        let on_it = self.state.kept_by_machine.entry(kept.machine).or_default();
        on_it.remove(&number);
        if on_it.is_empty() {
            self.state.kept_by_machine.remove(&kept.machine);
        }
        self.set_alarm(Due::Kept(number));
        self.tell_of_data(&kept, change);
        self.note_emptiness(kept.machine);
        kept.run
    }

    /// A machine leaves the cell for good, and all that is kept there with it.
    pub(super) fn drop_data_of(&mut self, machine: MachineId) {
        let all: Vec<u64> = self.state.kept_on(machine).map(|kept| kept.number).collect();
        for number in all {
            self.drop_data(number, "its machine was removed");
        }
    }

    /// The time has come for something of what is kept.
    pub(super) fn kept_alarm(&mut self, number: u64) {
        let Some(kept) = self.state.kept_data(number) else { return };
        if kept.until <= self.at {
            self.drop_data(number, "its time is over");
        } else {
            self.rescue_if_due(number);
        }
    }

    /// Whether what is kept on a machine holds up its drain from here on, and may be saved while it lasts.
    pub(super) fn set_overdue(&mut self, machine: MachineId, overdue: bool) {
        let all: Vec<u64> = self.state.kept_on(machine).map(|kept| kept.number).collect();
        for number in all {
            self.kept_mut(number).overdue = overdue;
        }
    }

    pub(super) fn tell_of_data(&mut self, kept: &Kept, change: DataChange) {
        let (alloc, machine) = (kept.name(), kept.machine);
        self.emit(EventKind::DataChanged { alloc, machine, change });
    }

    /// Something that is kept, for changing.
    pub(super) fn kept_mut(&mut self, number: u64) -> &mut Kept {
        let kept = self.state.kept.get_mut(&number);
        Arc::make_mut(kept.expect("rules look data up before they change what is known of it"))
    }
}

#[cfg(test)]
pub(in crate::state) mod tests;
