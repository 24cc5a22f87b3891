//! Runs of log savers for what allocs left behind (Borg paper, section 4).
//!
//! A job in an alloc set that says `rescue` is the set's log saver. For data that an alloc left behind a run of it
//! is made by the entry that tells that nobody uses the data any more: a batch job of one task, `NAME-rescue-N`,
//! whose task belongs to the machine where the data is. It is retried with the back-off of every batch task until it
//! succeeds, or the data's time is over; with its success the data goes. So nobody has to watch.
//!
//! A run is charged beyond its user's quota: the alloc that left was paid for, and a quota that is full must not cost
//! data. What else stands against a run is noted, and it is tried again.
//!
//! Invariants: of kept data at most one run is alive, and none while tasks may use the data; a live run's data is
//! kept; an alloc set has at most one live log saver.

use super::daemons::slot;
use super::turn::Turn;
use super::{Answer, CellState, Due, Job, JobEnd, Kept, Machine, MachineState};
use crate::event::{DataChange, TaskChange};
use crate::rejection::{AllocRejection, Rejection};
use borg_proto::command::DataOrder;
use borg_proto::task::{TaskState, cut};
use borg_proto::{
    JobId, JobKey, JobKind, JobName, JobSpec, MachineId, Millis, TaskId, TaskName, UserName,
};
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Wait until a run is tried again that could not be made, or failed for good. 5 minutes: our choice, the longest
/// back-off of a task.
pub const RESCUE_AGAIN: Millis = Millis::from_secs(300);
/// How often a run may fail. More than fit into the longest time for which data is kept.
const RETRIES: u32 = 1_000_000;
/// Longest text about why nothing is saved, in bytes: our choice.
pub const MAX_WHY_BYTES: usize = 256;
/// How much of a log saver's name its runs have.
const MAX_STEM_BYTES: usize = 35;

impl CellState {
    /// Whether tasks of a job may be placed on a machine, as far as that is for others to say: as
    /// [`Machine::admits`] has it, but that a run that saves data may be where that is while a drain waits for it.
    ///
    /// # Errors
    /// When it is closed or drained, or kept for others.
    pub fn admits(&self, job: &Job, machine: &Machine) -> Result<(), Rejection> {
        let kept = job.rescues().and_then(|number| self.kept_data(number));
        match kept.filter(|kept| !kept.overdue) {
            Some(_) => machine.admits_beside_drain(job.owner()),
            None => machine.admits(job.owner()),
        }
    }
}

/// A run for what an alloc left behind.
fn run_spec(saver: &JobSpec, number: u64) -> Option<JobSpec> {
    Some(JobSpec {
        name: run_name(&saver.name, number)?,
        kind: JobKind::Batch,
        tasks: 1,
        appclass: Some(saver.effective_appclass()),
        alloc_set: None,
        rescue: false,
        after: Vec::new(),
        parent: None,
        exclusive: false,
        retries: RETRIES,
        max_failures: 0,
        deadline_ms: None,
        task_labels: Vec::new(),
        disruption: None,
        ..saver.clone()
    })
}

fn run_name(saver: &JobName, number: u64) -> Option<JobName> {
    let stem = cut(saver.as_str(), MAX_STEM_BYTES);
    format!("{}-rescue-{number}", stem.trim_end_matches('-')).parse().ok()
}

impl Turn<'_> {
    /// What saves data of an alloc set: the log saver in it, or the last one that was.
    pub(super) fn saver_of(&self, set: &Job) -> Option<Arc<JobSpec>> {
        let mut tenants = set.tenants.iter().filter_map(|id| self.state.job(*id));
        let live = tenants.find(|job| job.spec.rescue).map(|job| job.spec.clone());
        live.or_else(|| set.saver.clone())
    }

    /// Whether a job may be the log saver of an alloc set, if it wants to be.
    pub(super) fn check_saver(&self, set: &Job, spec: &JobSpec) -> Result<(), AllocRejection> {
        if !spec.rescue {
            return Ok(());
        }
        if set.spec.keep_data_ms.is_none() {
            return Err(AllocRejection::KeepsNothing { set: set.key.clone() });
        }
        let mut tenants = set.tenants.iter().filter_map(|id| self.state.job(*id));
        match tenants.find(|job| job.spec.rescue) {
            None => Ok(()),
            Some(job) => {
                Err(AllocRejection::TwoSavers { set: set.key.clone(), job: job.key.clone() })
            }
        }
    }

    /// A log saver is in an alloc set from here on, or leaves it: data that the set leaves behind is saved by it, and
    /// such as nothing saves.
    pub(super) fn note_saver(&mut self, set: JobId, saver: &Arc<JobSpec>) {
        let set = self.job_mut(set);
        set.saver = Some(saver.clone());
        let key = set.key.clone();
        let unsaved = self.state.kept().filter(|kept| kept.set == key && kept.saver.is_none());
        for number in unsaved.map(|kept| kept.number).collect::<Vec<_>>() {
            let at = self.at;
            let kept = self.kept_mut(number);
            (kept.saver, kept.again) = (Some(saver.clone()), Some(at));
            self.settle_data(number);
        }
    }

    /// Makes a run for kept data when its time has come and nobody uses the data.
    pub(super) fn rescue_if_due(&mut self, number: u64) {
        let Some(kept) = self.state.kept_data(number) else { return };
        let due = kept.makes_run_at().is_some_and(|at| at <= self.at) && kept.bytes.is_some();
        if due {
            self.make_rescue(number);
        }
        self.settle_data(number);
    }

    /// To be called when something has changed of kept data that its alarm or a drain follows from.
    fn settle_data(&mut self, number: u64) {
        self.set_alarm(Due::Kept(number));
        if let Some(machine) = self.state.kept_data(number).map(|kept| kept.machine) {
            self.note_emptiness(machine);
        }
    }

    fn make_rescue(&mut self, number: u64) {
        let made = match self.state.kept_data(number) {
            Some(Kept { saver: Some(saver), set, machine, .. }) => {
                let (user, machine) = (set.user.clone(), *machine);
                let spec = run_spec(saver, number);
                spec.map(|spec| self.submit_rescue(&user, Arc::new(spec), number, machine))
            }
            Some(_) | None => None,
        };
        let again = self.at + RESCUE_AGAIN;
        let kept = self.kept_mut(number);
        let change = match made {
            Some(Ok((id, run))) => {
                (kept.run, kept.again, kept.why) = (Some(id), None, String::new());
                DataChange::Rescuing { run }
            }
            Some(Err(refused)) => {
                kept.why = cut(&refused.to_string(), MAX_WHY_BYTES);
                kept.again = Some(again);
                DataChange::NotRescued { why: kept.why.clone() }
            }
            None => return,
        };
        let kept = kept.clone();
        self.tell_of_data(&kept, change);
    }

    /// Accepts a run as if its user had submitted it, quota aside, and binds it to its machine.
    fn submit_rescue(
        &mut self,
        user: &UserName,
        spec: Arc<JobSpec>,
        number: u64,
        machine: MachineId,
    ) -> Result<(JobId, JobKey), Rejection> {
        super::lives::check_spec(&spec)?;
        let key = spec.key(user);
        if let Some(old) = self.state.job_named(&key).filter(|old| old.is_alive()) {
            return Err(Rejection::JobAlive { job: key, state: old.state() });
        }
        self.check_room(spec.kind, spec.tasks)?;
        self.check_packages(user, &spec)?;
        self.check_privileges(user, &spec)?;
        let id = self.accept(user, &spec, BTreeSet::new());
        let job = self.job_mut(id);
        job.rescues = Some(number);
        job.homes.insert(machine, 0);
        if let Some(task) = slot(job, 0) {
            task.pinned = Some(machine);
        }
        Ok((id, key))
    }

    /// A run is over: with its success the data goes, else it is made again, unless somebody ended it.
    pub(super) fn rescue_ended(&mut self, number: u64, run: JobId, end: &JobEnd) {
        let Some(kept) = self.state.kept_data(number).filter(|kept| kept.run == Some(run)) else {
            return;
        };
        let machine = kept.machine;
        if *end == JobEnd::Finished {
            self.forget_data(number, DataChange::Rescued);
            return self.note_emptiness(machine);
        }
        let again = match end {
            JobEnd::TaskFailed { .. } => Some(self.at + RESCUE_AGAIN),
            JobEnd::Finished
            | JobEnd::Killed { .. }
            | JobEnd::DependencyFailed { .. }
            | JobEnd::ParentEnded { .. } => None,
        };
        let kept = self.kept_mut(number);
        (kept.run, kept.again) = (None, again);
        kept.why = cut(&end.to_string(), MAX_WHY_BYTES);
        let (kept, why) = (kept.clone(), kept.why.clone());
        self.tell_of_data(&kept, DataChange::NotRescued { why });
        self.settle_data(number);
    }

    /// Saves what an alloc left behind now, or gives it up.
    pub(super) fn order_rescue(
        &mut self,
        user: &UserName,
        alloc: &TaskName,
        number: Option<NonZeroU64>,
        order: DataOrder,
    ) -> Result<Answer, Rejection> {
        if *user != alloc.job.user && !self.state.is_admin(user) {
            return Err(Rejection::NotOwner { user: user.clone(), job: alloc.job.clone() });
        }
        let asked = |kept: &&Kept| {
            kept.name() == *alloc && number.is_none_or(|number| number.get() == kept.number)
        };
        let found: Vec<Kept> = self.state.kept().filter(asked).cloned().collect();
        if found.is_empty() {
            return Err(AllocRejection::NothingKept { alloc: alloc.clone() }.into());
        }
        match order {
            DataOrder::Drop => {
                for kept in found {
                    self.drop_data(kept.number, &format!("dropped by {user}"));
                }
            }
            DataOrder::Rescue => {
                for kept in &found {
                    self.check_rescuable(kept)?;
                }
                for kept in found {
                    self.rescue_now(&kept);
                }
            }
        }
        Ok(Answer::None)
    }

    fn check_rescuable(&self, kept: &Kept) -> Result<(), Rejection> {
        let Some(machine) = self.state.machine(kept.machine) else {
            return Err(Rejection::MachineGone { machine: kept.machine });
        };
        if machine.state != MachineState::Up {
            let (machine, state) = (machine.name.clone(), machine.state);
            return Err(Rejection::MachineNotUp { machine, state });
        }
        if kept.saver.is_none() {
            return Err(AllocRejection::NoSaver { set: kept.set.clone() }.into());
        }
        Ok(())
    }

    /// Makes a run now, or takes the back-off of the one that is there.
    fn rescue_now(&mut self, kept: &Kept) {
        let (at, number) = (self.at, kept.number);
        let set = self.state.job_named(&kept.set);
        let saver = set.and_then(|set| self.saver_of(set));
        let kept = self.kept_mut(number);
        if kept.run.is_none() {
            kept.again = Some(at);
            kept.saver = saver.or_else(|| kept.saver.take());
        }
        match kept.run {
            Some(run) => self.hasten(run),
            None => self.rescue_if_due(number),
        }
    }
}

impl Turn<'_> {
    /// A run that waits out its back-off waits no longer.
    fn hasten(&mut self, run: JobId) {
        let id = TaskId { job: run, index: 0 };
        let waits = self.state.task(id).is_some_and(|task| match task.state {
            TaskState::Pending { not_before, .. } => not_before > self.at && !task.is_stopped(),
            TaskState::Running(_) | TaskState::Dead { .. } => false,
        });
        if waits {
            let to = TaskState::Pending { since: self.at, not_before: Millis(0) };
            self.change_task(id, to, TaskChange::Released, |_| ());
        }
    }
}

#[cfg(test)]
mod tests;
