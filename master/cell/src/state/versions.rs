//! Versions of a job's specification: which there are, and which of its tasks is of which.
//!
//! A job begins with version 1; each change of its specification is the next one. What a job is as a
//! whole (its priority, its labels, how many tasks it has, ...) is what its newest version says, for all
//! of its tasks and at once. What a task runs and takes is what its own version says: a task has a new
//! one when an update reaches it, and no sooner.
//!
//! How tasks go from one version to another is for `updates`; here is what follows from where they are.
//!
//! Invariants: numbers only grow; the last version is the one of [`Job::spec`]; the version of every
//! slot is kept. Beside those that a slot has, and those that an open update may go back to, at most
//! [`MAX_KEPT_VERSIONS`] are kept.

use super::turn::Turn;
use super::{Job, Task, target_bytes};
use borg_proto::{Band, JobId, JobSpec, Millis, Resources, TaskId, TaskSpec, UserName};
use imbl::{OrdMap, Vector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The version that a job begins with.
pub const FIRST_VERSION: u32 = 1;
/// How many versions are kept to go back to, beside those that tasks have. 10: our choice.
pub const MAX_KEPT_VERSIONS: usize = 10;
/// How many versions the live tasks of one job may have at once. 8: our choice; each takes as much as a
/// specification, and its user pays for the largest.
pub const MAX_VERSIONS_IN_USE: usize = 8;
/// Longest note of a version in bytes: our choice.
pub const MAX_NOTE_BYTES: usize = 256;

/// A specification that a job has, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its number, from 1.
    pub number: u32,
    /// What was asked for.
    pub spec: Arc<JobSpec>,
    /// What each task of it takes in the orders of a machine, see [`target_bytes`].
    pub target_bytes: u64,
    /// When it was accepted, in cell time.
    pub at: Millis,
    /// Who asked for it.
    pub by: UserName,
    /// What it came of, for people, as in `restart`; empty for what was submitted.
    pub note: String,
    /// Whether tasks of other versions start anew for it, though nothing of them changes.
    pub restart: bool,
    /// What became of it, for people; empty while it is not known.
    pub outcome: String,
}

impl Version {
    pub(crate) fn new(number: u32, spec: Arc<JobSpec>, at: Millis, by: UserName) -> Self {
        Self {
            number,
            target_bytes: target_bytes(&spec),
            spec,
            at,
            by,
            note: String::new(),
            restart: false,
            outcome: String::new(),
        }
    }
}

impl Version {
    /// Whether a task of it is of prod.
    #[must_use]
    pub fn is_prod(&self) -> bool {
        self.spec.priority.is_prod()
    }
}

impl Job {
    /// Whether one of its slots stands as prod does, on room of its own: as its own version says, so that a
    /// task of a job that becomes prod stands as it stood until its update finds it such room.
    #[must_use]
    pub fn stands_as_prod(&self, index: u32) -> bool {
        self.version_of(index).is_prod()
    }

    /// Its newest version.
    #[must_use]
    pub fn head(&self) -> &Version {
        self.versions.last().expect("a job has a version from the beginning")
    }

    /// The versions that are kept, oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions.iter().map(AsRef::as_ref)
    }

    /// A version that is kept.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions().rev().find(|version| version.number == number)
    }

    /// The version of one of its slots; of one that it does not have, the newest.
    #[must_use]
    pub fn version_of(&self, index: u32) -> &Version {
        let number = self.task(index).map(|task| task.version);
        let found = self.versions().rev().find(|version| number == Some(version.number));
        found.unwrap_or_else(|| self.head())
    }

    /// The specification whose `task` is what one of its slots runs and takes. What is of the whole job
    /// (priority, labels, number of tasks, retries, spread, ...) is for [`Self::spec`] to say.
    #[must_use]
    pub fn spec_of(&self, index: u32) -> &Arc<JobSpec> {
        &self.version_of(index).spec
    }

    /// What one of its slots runs and takes.
    #[must_use]
    pub fn task_spec(&self, index: u32) -> &Arc<TaskSpec> {
        &self.spec_of(index).task
    }

    /// How many of its slots are of each version.
    #[must_use]
    pub fn slots_by_version(&self) -> &BTreeMap<u32, u32> {
        &self.slots_of
    }

    /// How many versions its live tasks have.
    pub(crate) fn versions_in_use(&self) -> usize {
        let live = self.tasks.iter().filter(|task| !task.is_dead());
        live.map(|task| task.version).collect::<BTreeSet<u32>>().len()
    }

    /// When its tasks have as many versions as they may, those of dead tasks alone are let go: whatever runs again
    /// is of the newest one.
    pub(crate) fn let_go_of_versions(&mut self) {
        if self.slots_of.len() < MAX_VERSIONS_IN_USE {
            return;
        }
        let live = self.tasks.iter().filter(|task| !task.is_dead());
        let live: BTreeSet<u32> = live.map(|task| task.version).collect();
        let dead = self.tasks.iter().zip(0..).filter(|(task, _)| !live.contains(&task.version));
        let dead: Vec<u32> = dead.map(|(_, index)| index).collect();
        let newest = self.head().number;
        dead.into_iter().for_each(|index| self.give_version(index, newest));
    }

    /// The versions that its tasks may need: those that slots have, the newest, and those that an
    /// update which is open may bring back. Its user pays for the largest of these, and their packages
    /// stay.
    pub fn held_versions(&self) -> impl Iterator<Item = &Version> {
        let (head, before) = (self.head().number, self.may_go_back_to().map(|v| v.number));
        let held = move |version: &&Version| {
            let number = version.number;
            number == head || before == Some(number) || self.slots_of.contains_key(&number)
        };
        self.versions().filter(held)
    }

    /// The version that an update which is open may bring back.
    fn may_go_back_to(&self) -> Option<&Version> {
        let update = self.update().filter(|update| !update.goes_back())?;
        self.versions().find(|version| version.number == update.from)
    }

    /// Whose quota its tasks take, in which bands, and how much each of them takes there. Two bands while
    /// an update is open that changed it.
    #[must_use]
    pub fn charges(&self) -> Vec<((UserName, Band), Resources)> {
        let before = self.may_go_back_to().map(|version| version.spec.priority.band());
        let bands: BTreeSet<Band> = before.into_iter().chain([self.priority().band()]).collect();
        let each = self.charged();
        bands.into_iter().map(|band| ((self.owner().clone(), band), each.clone())).collect()
    }

    /// What each of its live tasks takes of its user's quota: of each resource as much as the most
    /// demanding version asks for that the task may have to take, so that going back is always paid for.
    #[must_use]
    pub fn charged(&self) -> Resources {
        let mut held = self.held_versions().map(|version| version.spec.charged());
        let first = held.next().unwrap_or_default();
        held.fold(first, |most, asked| most.at_least(&asked))
    }

    pub(crate) fn recount_versions(&mut self) {
        self.slots_of = count(&self.tasks);
    }

    /// Makes a specification the newest version.
    pub(crate) fn add_version(&mut self, version: Version) {
        self.spec = version.spec.clone();
        self.versions.push(Arc::new(version));
    }

    /// Replaces what the newest version says: alloc sets, whose allocs have no versions.
    pub(crate) fn replace_head(&mut self, spec: Arc<JobSpec>) {
        let head = self.versions.pop().expect("a job has a version from the beginning");
        let bytes = target_bytes(&spec);
        let head = Version { spec: spec.clone(), target_bytes: bytes, ..head.as_ref().clone() };
        self.spec = spec;
        self.versions.push(Arc::new(head));
    }

    /// Forgets the oldest versions that nobody needs.
    pub(crate) fn forget_versions(&mut self) {
        let held: Vec<u32> = self.held_versions().map(|version| version.number).collect();
        let spare = self.versions.len().saturating_sub(held.len() + MAX_KEPT_VERSIONS);
        let mut left = spare;
        self.versions.retain(|version| {
            let goes = left > 0 && !held.contains(&version.number);
            left -= usize::from(goes);
            !goes
        });
    }

    /// Gives a slot another version, which must be kept.
    fn give_version(&mut self, index: u32, version: u32) {
        let slot = usize::try_from(index).ok().and_then(|index| self.tasks.get_mut(index));
        let task = Arc::make_mut(slot.expect("rules look tasks up before they change them"));
        let before = std::mem::replace(&mut task.version, version);
        *self.slots_of.entry(version).or_default() += 1;
        let there = self.slots_of.get_mut(&before).expect("every slot is counted");
        *there -= 1;
        if *there == 0 {
            self.slots_of.remove(&before);
        }
    }
}

/// A text as it goes into a note: as much of it as may.
pub(crate) fn noted(text: &str) -> String {
    let end = (0..=MAX_NOTE_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

/// How many slots are of each version.
pub(crate) fn count(tasks: &Vector<Arc<Task>>) -> BTreeMap<u32, u32> {
    let mut slots = BTreeMap::new();
    for task in tasks {
        *slots.entry(task.version).or_default() += 1;
    }
    slots
}

impl Turn<'_> {
    /// Changes which versions a job has, or holds, and all that follows: what is charged for its tasks
    /// and which packages are needed.
    pub(super) fn amend(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let Some(before) = self.state.jobs.get(&id).cloned() else { return };
        if before.is_alive() {
            self.release_packages(id);
            self.refund_all(&before);
        }
        let job = self.job_mut(id);
        change(job);
        job.forget_versions();
        let Some(after) = self.state.jobs.get(&id).cloned() else { return };
        if after.is_alive() {
            self.charge(&after);
            self.use_packages(&after);
        }
    }

    /// Gives a task another version of its job, which must be kept; in place when it runs: it stays as
    /// it is, where it is, with the room that the version asks for, which must be there.
    pub(super) fn change_version(&mut self, id: TaskId, version: u32) {
        let Some(task) = self.state.task(id) else { return };
        if task.version == version {
            return;
        }
        let (state, before) = (task.state.clone(), task.version);
        self.drop_successor(id, "its task has another version");
        self.leave(id, &state);
        let last = self.state.job(id.job).and_then(|job| job.slots_of.get(&before)) == Some(&1);
        if last {
            // What its user pays for follows from the versions that there are.
            self.amend(id.job, |job| job.give_version(id.index, version));
        } else {
            self.job_mut(id.job).give_version(id.index, version);
        }
        self.enter(id, &state);
        self.note_revised(id);
    }

    /// Counts the tasks of a job anew where they are, as its newest version says how they spread.
    pub(super) fn recount_crowds(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id).cloned() else { return };
        let mut bare = job.as_ref().clone();
        bare.crowds = bare.spec.task.spread.iter().map(|_| OrdMap::new()).collect();
        for task in &job.tasks {
            let placed = task.placement().into_iter();
            let all = placed.chain(task.successor().map(|successor| &successor.placement));
            for machine in all.filter_map(|placed| self.state.machine(placed.machine)) {
                super::tasks::crowd_in(&mut bare, machine);
            }
        }
        self.job_mut(id).crowds = bare.crowds;
    }
}
