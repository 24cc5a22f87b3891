//! Plans: what would become of jobs were they submitted, and whether an earlier plan still holds.
//!
//! The leader answers, with a copy of its scheduler: `borg_scheduler` decides in the copy, on a thread
//! that gives way, one plan at a time. A follower passes the question on. `token` says what of a plan
//! is remembered, and what of it must still hold.
//!
//! A job that is submitted with a plan is planned again by the leader, on its newest state, right
//! before the change is proposed. What comes into the log between that and the change itself is not
//! looked at: the state's own checks (name, quota) hold in any case.
//!
//! Invariants: a plan changes nothing; a request that was done before is not refused because its own
//! job is there by now.

mod token;

use crate::changes::{Door, Place, reply_of};
use crate::clock;
use crate::feed::View;
use crate::peers::Peers;
use crate::scheduling::Mailbox;
use borg_cell::master::Outcome;
use borg_cell::rejection::Rejection;
use borg_cell::state::CellState;
use borg_proto::command::{Action, Command, Principal};
use borg_proto::difference::Difference;
use borg_proto::names::{ReplicaId, UserName};
use borg_proto::panics::guarded;
use borg_proto::rpc;
use borg_proto::spec::MAX_TASKS;
use borg_proto::submitted;
use borg_proto::wire::pb;
use borg_proto::{JobSpec, Millis};
use borg_scheduler::recording::Begin;
use borg_scheduler::{DrainPlan, JobPlan, MOST_PLANNED, Novelty, Plan, Scheduler};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

/// The level of entries at which all masters know plans. One that does not would take a job and not
/// look at its token.
const PLAN_LEVEL: u32 = 4;
/// Most jobs of one plan.
const MAX_JOBS: usize = 64;
/// Most tasks of the jobs of one plan: one job of the largest kind. A plan is made alone, and others
/// wait for it.
const MAX_TASKS_PLANNED: u64 = MAX_TASKS as u64;
/// Most bytes of the specifications of one plan: half of what a request may have.
const MAX_BYTES: usize = 2 << 20;
/// Plans that may wait or be made at a master; a user may have half of what is still free.
const WAITING: usize = 64;
/// Longest wait for a leader that a plan was passed on to: as long as a client gives one master.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time after which a scheduler that has not followed far enough is asked again: some entries take as long.
const FOLLOWS: Duration = Duration::from_millis(20);
/// Most machines, victims and fields that are told by name.
const MAX_TOLD: usize = 32;

/// Makes plans.
#[derive(Debug)]
pub(crate) struct Planner {
    /// The scheduler whose copies decide.
    pub scheduler: Arc<Mailbox>,
    /// Who leads.
    pub view: watch::Receiver<View>,
    /// The other masters.
    pub peers: Peers,
    /// This replica.
    pub own: ReplicaId,
    /// Who may plan.
    turns: Turns,
}

/// One plan is made at a time, as it takes memory and time; few wait.
#[derive(Debug)]
struct Turns {
    /// What each user has under way.
    door: Door,
    one: Arc<Semaphore>,
    /// Copies for checkpoints, which wait for no plan.
    saving: Semaphore,
}

/// Held while a plan is made.
#[derive(Debug)]
struct Turn {
    _place: Place,
    _one: OwnedSemaphorePermit,
}

impl Turns {
    /// None is taken; so many may wait.
    fn new(waiting: usize) -> Self {
        Self {
            door: Door::new(waiting),
            one: Arc::new(Semaphore::new(1)),
            saving: Semaphore::new(1),
        }
    }

    /// A user's turn, when those before are over.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many wait.
    async fn next(&self, user: &UserName, bytes: usize) -> Result<Turn, Status> {
        let place = self.door.enter(user, bytes);
        let place = place.map_err(|shed| rpc::overloaded(&shed.to_string(), shed.retry_after))?;
        let one = self.one.clone().acquire_owned().await.map_err(|_| stopping())?;
        Ok(Turn { _place: place, _one: one })
    }
}

impl Turn {
    /// Makes a plan on a thread of its own. The turn ends with it, and not with whoever waits for it.
    async fn make<T: Send + 'static>(
        self,
        plan: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let work = move || {
            let _turn = self;
            // A plan only looks: a panic harms nothing but its answer.
            guarded(plan)
        };
        let began = clock::stopwatch();
        let made = tokio::task::spawn_blocking(work).await.map_err(|_| stopping())?;
        tracing::debug!(seconds = began.seconds(), "planned");
        made.map_err(|said| {
            tracing::error!(panic = said, "this master panicked over a plan: report this");
            Status::internal(format!("cannot be planned: the master failed over it ({said})"))
        })
    }
}

fn stopping() -> Status {
    Status::unavailable("this master is stopping")
}

/// A copy of the scheduler to plan with.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The cell's time.
    pub now: Millis,
}

impl Planner {
    /// A planner for which nothing waits.
    pub(crate) fn new(
        scheduler: Arc<Mailbox>,
        view: watch::Receiver<View>,
        peers: Peers,
        own: ReplicaId,
    ) -> Arc<Self> {
        Arc::new(Self { scheduler, view, peers, own, turns: Turns::new(WAITING) })
    }

    /// What would become of a user's jobs, wherever the leader is.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the field; FAILED_PRECONDITION when an earlier plan holds no longer;
    /// UNAVAILABLE without a leader; RESOURCE_EXHAUSTED when too many wait.
    pub(crate) async fn plan(
        &self,
        user: &UserName,
        request: pb::PlanRequest,
    ) -> Result<pb::PlanResponse, Status> {
        let leader = self.view.borrow().status.leader;
        let leader = leader.ok_or_else(|| Status::unavailable("no leader is elected"))?;
        if leader == self.own {
            return self.plan_here(user, request).await;
        }
        specs_of(&request)?;
        let silent =
            || Status::unavailable(format!("master {leader}, which leads, does not answer"));
        let mut client = self.peers.client_for_users(leader).ok_or_else(silent)?;
        let passed = pb::PassedPlan { user: user.to_string(), request: Some(request) };
        let answer = tokio::time::timeout(PATIENCE, client.plan(passed)).await;
        let late = |_| {
            let seconds = PATIENCE.as_secs();
            Status::unavailable(format!(
                "master {leader}, which leads, made no plan within {seconds} s: it makes one at a \
                 time, and others may wait before this one"
            ))
        };
        Ok(answer.map_err(late)??.into_inner())
    }

    /// The same at this replica, which must lead.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub(crate) async fn plan_here(
        &self,
        user: &UserName,
        request: pb::PlanRequest,
    ) -> Result<pb::PlanResponse, Status> {
        let specs = specs_of(&request)?;
        let earlier = Some(request.token.as_str()).filter(|text| !text.is_empty());
        let earlier = earlier.map(token::read).transpose()?;
        let view = self.leading_view()?;
        if let Some(earlier) = &earlier {
            token::check_scope(earlier, &view.state, user)?;
            token::check_specs(earlier, &specs)?;
        }
        let bytes = request.encoded_len();
        let (state, plan) = self.make(user, specs.clone(), bytes).await?;
        if let Some(earlier) = &earlier {
            check_moved(earlier.jobs.iter().zip(&plan.jobs), earlier.index, plan.index)?;
        }
        let count = |tasks: usize| u32::try_from(tasks).unwrap_or(u32::MAX);
        let mut read = crate::api::views::read_info(&view);
        read.index = plan.index;
        Ok(pb::PlanResponse {
            token: token::of(&state, user, &specs, &plan).unwrap_or_default(),
            jobs: plan.jobs.iter().map(|job| told(&state, job)).collect(),
            read: Some(read),
            looked_at: count(plan.looked_at),
            most: count(MOST_PLANNED),
        })
    }

    /// Whether the plan that a change was made with still holds, by this replica, which must lead.
    /// What was done before under the same request id passes.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with what moved; otherwise as [`Self::plan`].
    pub(crate) async fn check(
        &self,
        command: &Command,
        planned: &pb::PlannedJob,
    ) -> Result<(), Status> {
        let (Principal::User(user), Action::SubmitJob { spec }) = (&command.by, &command.action)
        else {
            return Err(Status::invalid_argument("planned: only jobs are planned"));
        };
        let token = token::read(&planned.token)?;
        let view = self.leading_view()?;
        let done = |state: &CellState| {
            command.request.as_ref().is_some_and(|request| state.remembers(user, request))
        };
        if done(&view.state) {
            return Ok(());
        }
        token::check_scope(&token, &view.state, user)?;
        let number = usize::try_from(planned.number).unwrap_or(usize::MAX);
        let told = token.jobs.get(number).ok_or_else(|| {
            Status::invalid_argument(format!(
                "planned.number: {number} is no job of the plan, which has {}",
                token.jobs.len()
            ))
        })?;
        token::check_spec(told, spec)?;
        let bytes = pb::JobSpec::from(spec.as_ref()).encoded_len();
        let (state, plan) = self.make(user, vec![spec.clone()], bytes).await?;
        if done(&state) {
            return Ok(());
        }
        check_moved(std::iter::once(told).zip(&plan.jobs), token.index, plan.index)
    }

    /// What would become of the tasks on machines that a user drains, as far as this replica knows; with
    /// the state that it knows.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many wait.
    pub(crate) async fn plan_drain(
        &self,
        user: &UserName,
        action: Action,
    ) -> Result<(CellState, Result<DrainPlan, Rejection>), Status> {
        let who = user.clone();
        self.on_copy(user, 0, move |scheduler, now| scheduler.plan_drain(&who, action, now)).await
    }

    fn leading_view(&self) -> Result<View, Status> {
        let view = self.view.borrow().clone();
        if view.status.leader != Some(self.own) {
            return Err(Status::unavailable("the leader has just changed"));
        }
        check_level(&view.state)?;
        Ok(view)
    }

    /// Makes a plan on a copy; gives the state that it was made after, too.
    async fn make(
        &self,
        user: &UserName,
        specs: Vec<Arc<JobSpec>>,
        bytes: usize,
    ) -> Result<(CellState, Plan), Status> {
        let who = user.clone();
        self.on_copy(user, bytes, move |scheduler, now| scheduler.plan(&who, &specs, now)).await
    }

    /// A state no older than an entry, with what the scheduler knows beside it. `None` at a replica that does not lead, and
    /// when the scheduler is not there soon: a backup must not fail for the sake of that.
    pub(crate) async fn known(&self, at_least: u64) -> Option<(CellState, Begin)> {
        if self.view.borrow().status.leader != Some(self.own) {
            return None;
        }
        let copied = async {
            let _one = self.turns.saving.acquire().await.ok()?;
            loop {
                let Copy { scheduler, .. } = self.scheduler.copy().await?;
                let known = move || {
                    let state = scheduler.state().clone();
                    let begin = Begin::of(&scheduler, state.applied());
                    (state, begin)
                };
                let (state, begin) = tokio::task::spawn_blocking(known).await.ok()?;
                if state.applied() >= at_least {
                    return Some((state, begin));
                }
                tokio::time::sleep(FOLLOWS).await;
            }
        };
        let known = tokio::time::timeout(PATIENCE, copied).await.ok().flatten();
        if known.is_none() {
            tracing::warn!(
                "a checkpoint is sent without what the scheduler knows: it does not answer"
            );
        }
        known
    }

    /// Makes a plan of a state alone, for which no scheduler is needed.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many wait.
    pub(crate) async fn alone<T: Send + 'static>(
        &self,
        user: &UserName,
        plan: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.turns.next(user, 0).await?.make(plan).await
    }

    /// Does something with a copy of the scheduler, one at a time.
    async fn on_copy<T: Send + 'static>(
        &self,
        user: &UserName,
        bytes: usize,
        make: impl FnOnce(Scheduler, Millis) -> T + Send + 'static,
    ) -> Result<(CellState, T), Status> {
        let turn = self.turns.next(user, bytes).await?;
        let Copy { scheduler, now } = self.scheduler.copy().await.ok_or_else(|| {
            rpc::overloaded("too many questions wait for the scheduler", Millis(1_000))
        })?;
        let plan = move || {
            let state = scheduler.state().clone();
            (state, make(scheduler, now))
        };
        turn.make(plan).await
    }
}

/// Whether all masters know plans.
///
/// # Errors
/// FAILED_PRECONDITION when not.
pub(crate) fn check_level(state: &CellState) -> Result<(), Status> {
    let has = state.level();
    if has >= PLAN_LEVEL {
        return Ok(());
    }
    reply_of(Outcome::TooNew { needs: PLAN_LEVEL, has }).map(drop)
}

/// The jobs of a request, each bound checked as when it is submitted.
fn specs_of(request: &pb::PlanRequest) -> Result<Vec<Arc<JobSpec>>, Status> {
    if !(1..=MAX_JOBS).contains(&request.jobs.len()) {
        return Err(Status::invalid_argument(format!(
            "jobs: {} jobs are outside 1 to {MAX_JOBS}: split the file",
            request.jobs.len()
        )));
    }
    let bytes: usize = request.jobs.iter().map(Message::encoded_len).sum();
    if bytes > MAX_BYTES {
        return Err(Status::resource_exhausted(format!(
            "jobs: {bytes} bytes, most is {MAX_BYTES}: split the file"
        )));
    }
    let tasks: u64 = request.jobs.iter().map(|job| u64::from(job.tasks)).sum();
    if tasks > MAX_TASKS_PLANNED {
        return Err(Status::resource_exhausted(format!(
            "jobs: {tasks} tasks, most in one plan is {MAX_TASKS_PLANNED}: split the file"
        )));
    }
    let spec = |(n, spec): (usize, &pb::JobSpec)| {
        let checked = JobSpec::try_from(spec.clone()).and_then(|spec| {
            submitted::check(&spec)?;
            Ok(Arc::new(spec))
        });
        checked.map_err(|error| rpc::status_of(&error.within(&format!("jobs[{n}]"))))
    };
    request.jobs.iter().enumerate().map(spec).collect()
}

/// Whether what was told of each job still holds.
fn check_moved<'a>(
    mut jobs: impl Iterator<Item = (&'a pb::ToldJob, &'a JobPlan)>,
    then: u64,
    now: u64,
) -> Result<(), Status> {
    let moved = jobs.find_map(|(told, job)| Some((job, token::moved(told, job)?)));
    let Some((job, what)) = moved else { return Ok(()) };
    Err(Status::failed_precondition(format!(
        "the cell has moved since the plan (made at entry {then} of the log, now is {now}): job {}: \
         {what}. Nothing was done: plan again",
        job.key
    )))
}

fn told(state: &CellState, job: &JobPlan) -> pb::JobPlan {
    let no_fields = Vec::new();
    let (change, fields) = match &job.novelty {
        Novelty::New => (pb::PlannedChange::New, &no_fields),
        Novelty::None => (pb::PlannedChange::None, &no_fields),
        Novelty::Differs(fields) => (pb::PlannedChange::Differs, fields),
    };
    let mut places: Vec<_> = job.places.iter().collect();
    places.sort_by_key(|(id, tasks)| (std::cmp::Reverse(**tasks), **id));
    let place = |(id, tasks): &(&borg_proto::MachineId, &u32)| {
        let machine = state.machine(**id).map_or_else(String::new, |m| m.name.to_string());
        pb::PlannedPlace { machine, tasks: **tasks }
    };
    let rejections = job.rejections.iter().map(|rejected| pb::Rejection {
        reason: rejected.reason.to_string(),
        machines: rejected.machines,
    });
    let band = |(band, tasks)| pb::PlannedVictims { band: pb::Band::from(band).into(), tasks };
    let victim = |v: &borg_scheduler::Victim| format!("{}/{}", v.job, v.task.index);
    pb::JobPlan {
        job: job.key.to_string(),
        change: change.into(),
        fields: fields.iter().take(MAX_TOLD).map(field).collect(),
        more_fields: beyond(fields.len()),
        refusal: job.refusal.as_ref().map(|refusal| {
            let status = crate::changes::refusal(refusal);
            pb::PlannedRefusal { code: status.code().into(), why: status.message().to_owned() }
        }),
        band: pb::Band::from(job.quota.band).into(),
        needs_quota: job.quota.needed,
        used: Some((&job.quota.used.amount()).into()),
        after: Some((&job.quota.after.amount()).into()),
        granted: job.quota.granted.as_ref().map(Into::into),
        tasks: job.tasks,
        placed: job.placed(),
        places: places.iter().take(MAX_TOLD).map(place).collect(),
        more_machines: beyond(places.len()),
        pending: job.pending,
        why: job.why.clone(),
        rejections: rejections.take(MAX_TOLD).collect(),
        not_looked_at: job.not_looked_at,
        victims: job.victims.iter().take(MAX_TOLD).map(victim).collect(),
        more_victims: beyond(job.victims.len()),
        victims_by_band: token::by_band(job.victims.iter()).into_iter().map(band).collect(),
        // What a live job becomes is for UpdateJob to say, so none of its tasks starts anew.
        restarts: 0,
    }
}

fn beyond(all: usize) -> u32 {
    u32::try_from(all.saturating_sub(MAX_TOLD)).unwrap_or(u32::MAX)
}

fn field(difference: &Difference) -> pb::FieldChange {
    pb::FieldChange {
        field: difference.field.clone(),
        old: difference.old.clone(),
        new: difference.new.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else as many threads would go through as many states as somebody asks for.
    #[tokio::test]
    async fn plans_are_made_one_at_a_time_and_few_wait() {
        let turns = Arc::new(Turns::new(4));
        let ann: UserName = "ann".parse().unwrap();
        let first = turns.next(&ann, 0).await.unwrap();
        let waits = |user: UserName| {
            let turns = turns.clone();
            tokio::spawn(async move { turns.next(&user, 0).await.map(drop) })
        };
        let second = waits(ann.clone());
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "the first one's is not over");
        let full = turns.next(&ann, 0).await.unwrap_err();
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        assert!(rpc::retry_after(&full).is_some(), "it says when to ask again");
        assert_eq!(first.make(|| 7).await.unwrap(), 7);
        second.await.unwrap().unwrap();
        let failed = turns.next(&ann, 0).await.unwrap().make(|| panic!("of a plan")).await;
        let failed: Result<(), Status> = failed;
        assert_eq!(failed.unwrap_err().code(), tonic::Code::Internal);
        turns.next(&ann, 0).await.unwrap();
    }
}
