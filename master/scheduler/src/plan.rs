//! What would become of jobs were they submitted now: planned, not done.
//!
//! Answers by doing it in copies: the state machine accepts or refuses the jobs in a copy of the
//! state, a copy of the scheduler follows and decides, and its decisions are carried out there. So what is told here cannot differ from what
//! would happen, but for what comes in between. Leaves to others: who may ask, and what of a plan
//! must still hold later.
//!
//! Invariants: nothing outside of the copies changes; a plan looks at [`MOST_PLANNED`] tasks at most,
//! those that go first included, and says when there were more.

use crate::reasons::Rejected;
use crate::scheduler::Scheduler;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::rejection::Rejection;
use borg_cell::state::quota::Total;
use borg_cell::state::{CellState, Task};
use borg_proto::command::{Action, Assignment, Command, Principal};
use borg_proto::difference::Difference;
use borg_proto::task::EvictCause;
use borg_proto::{
    Band, JobId, JobKey, JobSpec, MachineId, Millis, ReplicaId, Resources, TaskId, UserName,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most tasks that a plan looks at. 10,000: our choice; a second or two of a cell of 10,000 machines.
pub const MOST_PLANNED: usize = 10_000;
/// Decisions between two looks at whether the jobs are through.
const STEP: usize = 64;

/// What would become of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Last entry of the log that the plan was made after.
    pub index: u64,
    /// In the order in which they would be submitted.
    pub jobs: Vec<JobPlan>,
    /// How many tasks were looked at, those of others that go first included.
    pub looked_at: usize,
}

/// What would become of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPlan {
    /// Its name.
    pub key: JobKey,
    /// The job that has the name, or had it last.
    pub before: Option<JobId>,
    /// What is new about it.
    pub novelty: Novelty,
    /// Why it would be refused, if it would.
    pub refusal: Option<Rejection>,
    /// What it does to its user's quota.
    pub quota: QuotaPlan,
    /// How many tasks it has.
    pub tasks: u32,
    /// Where they would go.
    pub places: BTreeMap<MachineId, u32>,
    /// How many would wait.
    pub pending: u32,
    /// Why the first of those would.
    pub why: String,
    /// The same, by reason: how many machines cannot take it.
    pub rejections: Vec<Rejected>,
    /// How many were not looked at: there were too many before them.
    pub not_looked_at: u32,
    /// Who would be pushed out.
    pub victims: Vec<Victim>,
}

/// What is new about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Novelty {
    /// No live job has the name.
    New,
    /// The live job of that name is just so.
    None,
    /// The live job of that name differs in these fields.
    Differs(Vec<Difference>),
}

/// What a job does to its user's quota in its band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaPlan {
    /// The band.
    pub band: Band,
    /// Whether jobs in it need quota.
    pub needed: bool,
    /// What the user uses.
    pub used: Total,
    /// What the user would use then.
    pub after: Total,
    /// What is granted now.
    pub granted: Option<Resources>,
}

/// A task that would be pushed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Which.
    pub task: TaskId,
    /// The name of its job.
    pub job: JobKey,
    /// Its band.
    pub band: Band,
}

impl JobPlan {
    /// How many tasks would be placed.
    #[must_use]
    pub fn placed(&self) -> u32 {
        self.places.values().sum()
    }

    /// Whether submitting it changes the cell.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.refusal.is_none() && self.novelty == Novelty::New
    }

    fn new(state: &CellState, user: &UserName, spec: &JobSpec, now: Millis) -> Self {
        let key = spec.key(user);
        let before = state.job_named(&key);
        let novelty = match before.filter(|job| job.is_alive()) {
            None => Novelty::New,
            Some(job) if *job.spec == *spec => Novelty::None,
            Some(job) => match job.spec.differences(spec) {
                none if none.is_empty() => Novelty::None,
                some => Novelty::Differs(some),
            },
        };
        let before = before.map(|job| job.id);
        let band = spec.priority.band();
        let used = state.used_quota(user, band);
        let grant = state.quota_of(user, band).iter().find(|grant| grant.in_force(now));
        let quota = QuotaPlan {
            band,
            needed: state.enforces_quota(band),
            after: used.clone(),
            used,
            granted: grant.map(|grant| grant.amount.clone()),
        };
        Self {
            key,
            before,
            novelty,
            refusal: None,
            quota,
            tasks: spec.tasks,
            places: BTreeMap::new(),
            pending: 0,
            why: String::new(),
            rejections: Vec::new(),
            not_looked_at: 0,
            victims: Vec::new(),
        }
    }
}

impl Scheduler {
    /// What would become of jobs that `user` submits now, one after another. Uses this scheduler up: it
    /// is a copy of the one that runs the cell.
    #[must_use]
    pub fn plan(mut self, user: &UserName, specs: &[Arc<JobSpec>], now: Millis) -> Plan {
        let index = self.state().applied();
        let mut state = self.state().clone();
        let mut events = Vec::new();
        let mut accepted = BTreeMap::new();
        let mut jobs = Vec::new();
        for spec in specs {
            let mut job = JobPlan::new(&state, user, spec, now);
            match submit(&mut state, user, spec, now) {
                Ok(news) => {
                    job.quota.after = state.used_quota(user, job.quota.band);
                    if let Some(submitted) = state.job_named(&job.key) {
                        job.tasks = submitted.size();
                        accepted.insert(submitted.id, jobs.len());
                    }
                    events.extend(news);
                }
                Err(rejection) => job.refusal = Some(rejection),
            }
            jobs.push(job);
        }
        self.follow(state, &events);
        let mut plan = Plan { index, jobs, looked_at: 0 };
        self.try_out(&mut plan, &accepted, now);
        plan
    }

    /// Decides, and carries it out in the copy, until the accepted jobs, by number with their places in
    /// the plan, are through.
    fn try_out(&mut self, plan: &mut Plan, accepted: &BTreeMap<JobId, usize>, now: Millis) {
        while plan.looked_at < MOST_PLANNED && accepted.keys().any(|job| self.has_ready(*job)) {
            let decisions = self.pass(now, STEP.min(MOST_PLANNED - plan.looked_at));
            plan.looked_at += decisions.len();
            let Some(events) = self.carry_out(decisions, now) else { break };
            let evicted = events.iter().filter_map(|event| match &event.kind {
                EventKind::TaskChanged {
                    task,
                    change: TaskChange::Evicted(EvictCause::Preempted { by }),
                    ..
                } => Some((*task, by.rsplit_once('/')?.0)),
                _ => None,
            });
            for (task, by) in evicted {
                let theirs = self.state().job(task.job);
                let job = plan.jobs.iter_mut().find(|job| job.key.to_string() == by);
                if let (Some(theirs), Some(job)) = (theirs, job) {
                    let (name, band) = (theirs.key.clone(), theirs.priority().band());
                    job.victims.push(Victim { task, job: name, band });
                }
            }
        }
        for (id, at) in accepted {
            self.tell_places(*id, &mut plan.jobs[*at], now);
        }
    }

    /// Places tasks in the copy as the cell would; `None` when nothing came of any decision.
    fn carry_out(&mut self, assignments: Vec<Assignment>, now: Millis) -> Option<Vec<Event>> {
        let mut state = self.state().clone();
        let by = Principal::Master(state.leader().map_or(ReplicaId(1), |(leader, _)| leader));
        let action = Action::Place { assignments };
        let command = Command { at: now, by, request: None, action };
        let applied = state.apply(state.applied() + 1, &command).ok()?;
        self.follow(state, &applied.events);
        (!applied.events.is_empty()).then_some(applied.events)
    }

    /// Where the tasks of a job are in the end. Those that are nowhere wait, or were not looked at.
    fn tell_places(&self, id: JobId, job: &mut JobPlan, now: Millis) {
        let place = |task: &Task| task.placement().map(|placement| placement.machine);
        for machine in self.state().tasks_of(id).filter_map(|(_, task)| place(task)) {
            *job.places.entry(machine).or_default() += 1;
        }
        let left = job.tasks - job.placed();
        if left == 0 {
            return;
        }
        if self.has_turns(id) {
            job.not_looked_at = left;
            return;
        }
        job.pending = left;
        let first = self.state().tasks_of(id).find(|(_, task)| place(task).is_none());
        if let Some((first, _)) = first {
            let told = self.explain(first, now);
            (job.why, job.rejections) = (told.summary, told.rejections);
        }
    }
}

/// Submits a job to a copy of the state.
fn submit(
    state: &mut CellState,
    user: &UserName,
    spec: &Arc<JobSpec>,
    now: Millis,
) -> Result<Vec<Event>, Rejection> {
    let (by, action) = (Principal::User(user.clone()), Action::SubmitJob { spec: spec.clone() });
    let command = Command { at: now, by, request: None, action };
    state.apply(state.applied() + 1, &command).map(|applied| applied.events)
}
