//! What becomes of a task when it gets another version: the same for a plan and for the real thing.
//!
//! In place goes what needs no new process: what the job as a whole is, how its tasks spread, the grace
//! period, and constraints that its machine meets. So does a change between prod and the rest, where the machine
//! has room for it: prod stands on none that is lent. All else of a task is given to its process as it
//! starts. A task starts anew on its machine if that has room for the new version, else wherever the
//! scheduler finds some.

use super::super::turn::Turn;
use super::super::{CellState, Job, MAX_TARGET_BYTES, Machine, Version};
use super::begin::Prepared;
use crate::event::TaskChange;
use crate::rejection::Rejection;
use borg_proto::command::{Assignment, SERVICES_SINCE};
use borg_proto::difference::Difference;
use borg_proto::task::EvictCause;
use borg_proto::update::{Revision, UpdateOptions};
use borg_proto::{JobKey, JobSpec, Millis, TaskId, TaskSpec, UserName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an update does to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It stays as it is.
    None,
    /// Its process goes on.
    InPlace,
    /// It does not run, and starts as the new version.
    Start,
    /// It is one more than there were, and starts.
    New,
    /// It is over, and no update brings it back.
    Over,
    /// It starts anew where it is.
    Restart(String),
    /// It starts anew, and not where it is: why.
    Move(String),
    /// It ends, as there are to be fewer tasks.
    End,
}

/// What an update would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePlan {
    /// The version in force.
    pub from: u32,
    /// The version that there would be; the same when nothing would change.
    pub to: u32,
    /// What differs.
    pub differences: Vec<Difference>,
    /// How many tasks may be on their way at once.
    pub at_once: u32,
    /// What becomes of each task, by index. Of more than [`MOST_TRIED`] that would start anew it is not
    /// said which would have to move.
    pub effects: Vec<Effect>,
}

/// Most tasks of which a plan finds out whether their machine has room. 2,000: our choice; each is tried
/// in a copy of the state.
pub const MOST_TRIED: usize = 2_000;

/// Whether tasks of other versions need a new process, found out once for each.
pub(super) struct Judge {
    pub(super) to: Arc<Version>,
    known: BTreeMap<u32, Option<String>>,
}

impl Judge {
    pub(super) fn new(job: &Job, to: u32) -> Option<Self> {
        let to = Arc::new(job.version(to)?.clone());
        Some(Self { to, known: BTreeMap::new() })
    }

    /// The version that tasks are to have.
    pub(super) fn to(&self) -> &Version {
        &self.to
    }

    /// What of it needs a new process, if anything does.
    pub(super) fn restarts(&mut self, from: &Version) -> Option<&str> {
        let to = &self.to;
        let why = self.known.entry(from.number).or_insert_with(|| needs_process(from, to));
        why.as_deref()
    }
}

/// The first field for which a task needs a new process to go from one version to the other.
fn needs_process(from: &Version, to: &Version) -> Option<String> {
    if to.restart {
        return Some("it is to restart".to_owned());
    }
    let in_place = |task: &TaskSpec| TaskSpec {
        constraints: Vec::new(),
        spread: Vec::new(),
        grace_ms: Millis(0),
        ..task.clone()
    };
    let (old, new) = (in_place(&from.spec.task), in_place(&to.spec.task));
    if old == new {
        return None;
    }
    let of = |task| JobSpec { task: Arc::new(task), ..to.spec.as_ref().clone() };
    let first = of(old).differences(&of(new)).into_iter().next();
    Some(first.map_or_else(|| "task".to_owned(), |difference| difference.field))
}

impl CellState {
    /// Whether a placed task can have another version without a new process, as far as its machine goes.
    pub(super) fn stays_with(&self, id: TaskId, to: &Version) -> Result<(), String> {
        let Some(job) = self.job(id.job) else { return Ok(()) };
        let placement = job.task(id.index).and_then(|task| task.placement());
        let machine = placement.and_then(|placement| self.machine(placement.machine));
        let Some(machine) = machine else { return Ok(()) };
        let attributes = machine.info.as_ref().map(|info| &info.attributes);
        let unmet = attributes.and_then(|attributes| {
            to.spec.task.constraints.iter().find(|c| !c.soft && !c.holds(attributes))
        });
        if let Some(constraint) = unmet {
            return Err(format!("machine {} does not meet: {constraint}", machine.name));
        }
        let from = job.version_of(id.index);
        if from.is_prod() != to.is_prod() {
            let mut after = machine.clone();
            after.gives_back(from);
            after.gives(to);
            if !after.is_sound(self.level >= SERVICES_SINCE) {
                return Err(format!("machine {} has no room for it by its limit", machine.name));
            }
        }
        let without = machine.target_bytes - from.target_bytes;
        if without + to.target_bytes > MAX_TARGET_BYTES {
            return Err(format!("machine {} is told too much already", machine.name));
        }
        Ok(())
    }

    /// What an update would do to each task of a job, were it asked for now.
    ///
    /// # Errors
    /// What the state would refuse.
    pub fn plan_update(
        &self,
        user: &UserName,
        job: &JobKey,
        to: &Revision,
        options: &UpdateOptions,
        at: Millis,
    ) -> Result<UpdatePlan, Rejection> {
        let mut copy = self.clone();
        copy.clock = copy.clock.max(at);
        let mut turn = Turn::new(&mut copy);
        turn.foresee(user, job, to, options)
    }
}

impl Turn<'_> {
    fn foresee(
        &mut self,
        user: &UserName,
        key: &JobKey,
        to: &Revision,
        options: &UpdateOptions,
    ) -> Result<UpdatePlan, Rejection> {
        let prepared = self.prepare_update(user, key, to, options)?;
        let before = self.state.job_named(key).cloned();
        let Some(before) = before else { return Err(Rejection::NoSuchJob { job: key.clone() }) };
        let from = before.head().number;
        let Some(prepared) = prepared else {
            let (at_once, effects) = (0, vec![Effect::None; before.tasks.len()]);
            return Ok(UpdatePlan { from, to: from, differences: Vec::new(), at_once, effects });
        };
        let differences = before.spec.differences(&prepared.spec);
        let Prepared { spec, .. } = &prepared;
        let (tasks, stands) = (before.slots_under(spec), spec.kind.stands());
        self.install(prepared);
        let Some(job) = self.state.job(before.id).cloned() else {
            return Err(Rejection::NoSuchJob { job: key.clone() });
        };
        let Some((update, mut judge)) = job.update.clone().zip(Judge::new(&job, job.head().number))
        else {
            return Err(Rejection::NoSuchJob { job: key.clone() });
        };
        let mut tried = 0;
        let mut effects = Vec::with_capacity(before.tasks.len());
        for (task, index) in before.tasks.iter().zip(0..) {
            let id = TaskId { job: job.id, index };
            effects.push(if task.is_dead() && !stands {
                Effect::Over
            } else if index >= tasks {
                Effect::End
            } else if job.task(index).is_none_or(|task| !update.is_left(index, task)) {
                Effect::None
            } else {
                self.foreseen(id, &mut judge, &mut tried)
            });
        }
        effects.extend((before.slots()..tasks).map(|_| Effect::New));
        let at_once = job.at_once(&update);
        Ok(UpdatePlan { from, to: job.head().number, differences, at_once, effects })
    }

    fn foreseen(&mut self, id: TaskId, judge: &mut Judge, tried: &mut usize) -> Effect {
        let Some(job) = self.state.job(id.job) else { return Effect::None };
        if job.task(id.index).is_none_or(|task| task.placement().is_none()) {
            return Effect::Start;
        }
        let why = judge.restarts(job.version_of(id.index)).map(ToOwned::to_owned);
        let why = why.or_else(|| self.state.stays_with(id, &judge.to).err());
        let Some(why) = why else {
            // It may take the room that the next one would have needed.
            self.change_version(id, judge.to.number);
            return Effect::InPlace;
        };
        if *tried >= MOST_TRIED {
            return Effect::Restart(why);
        }
        *tried += 1;
        let mut copy = self.state.clone();
        let moved = Turn::new(&mut copy).renew(id, judge.to.number);
        match moved {
            Ok(()) => Effect::Restart(why),
            Err(refused) if refused.to_string() == why => Effect::Move(why),
            Err(refused) => Effect::Move(format!("{why}; {refused}")),
        }
    }

    /// Gives a task the new version if no process has to start for that; says whether it did.
    pub(super) fn update_in_place(&mut self, id: TaskId, judge: &mut Judge, tell: bool) -> bool {
        let Some(job) = self.state.job(id.job) else { return false };
        let placed = job.task(id.index).is_some_and(|task| task.placement().is_some());
        if placed
            && (judge.restarts(job.version_of(id.index)).is_some()
                || self.state.stays_with(id, &judge.to).is_err())
        {
            return false;
        }
        let version = judge.to.number;
        self.change_version(id, version);
        if tell {
            let place = self.state.task(id).and_then(|task| task.placement());
            let (machine, change) = (place.map(|p| p.machine), TaskChange::Updated { version });
            self.emit(crate::event::EventKind::TaskChanged { task: id, change, machine });
        }
        true
    }

    /// Starts a placed task anew as another version: where it is if that has room for it, else it waits
    /// for the scheduler.
    ///
    /// # Errors
    /// Why it does not stay.
    pub(super) fn renew(&mut self, id: TaskId, version: u32) -> Result<(), Rejection> {
        let Some(place) = self.state.task(id).and_then(|task| task.placement()) else {
            return Err(Rejection::TaskGone { task: id });
        };
        let machine = place.machine;
        // On a machine of which more is promised than it has it may stand as it stood.
        let lent = self.state.machine(machine).map(Machine::overdrawn).unwrap_or_default();
        self.drop_successor(id, "its task starts anew");
        self.note_disruption(id);
        self.evict(id, &EvictCause::Updated { version });
        self.change_version(id, version);
        self.place_one(&Assignment { lent, ..Assignment::new(id, machine) }).map(|_| ())
    }
}
