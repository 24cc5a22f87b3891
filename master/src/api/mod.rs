//! The API of a cell: `borg.v1.Borgmaster`.
//!
//! Reads are answered from this replica's newest view; changes go through [`Changes`]. Here is how requests are
//! checked and answers are asked for; `service` has the calls, `views` turns state into answers, `streams` serves the
//! calls that go on.

mod deadline;
mod drains;
mod kept;
pub(crate) mod names;
mod packages;
mod privileges;
mod quotas;
mod service;
pub(crate) mod sessions;
mod streams;
mod updates;
pub(crate) mod views;

use self::deadline::timeout;
use crate::blobs::Blobs;
use crate::catching_up::CaughtUp;
use crate::changes::{Changes, Done, unanswered};
use crate::clock;
use crate::config::Member;
use crate::driver::Turn;
use crate::feed::{Feed, View};
use crate::freshness::Freshness;
use crate::metrics::Metrics;
use crate::past::{self, Past};
use crate::peer_service::silent;
use crate::peers;
use crate::reserved;
use crate::said::{self, AllSaid};
use crate::scheduling::Mailbox;
use borg_cell::master::Master;
use borg_cell::state::Job;
use borg_proto::Millis;
use borg_proto::identity::ADMIN;
use borg_proto::names::{CellName, IncarnationId, JobKey, NameError, TaskId, TaskName, UserName};
use borg_proto::rpc::{self, Credentials};
use borg_proto::slots::Slots;
use borg_proto::spec::MAX_SPEC_BYTES;
use borg_proto::wire::{Change, WireError, pb};
use prost::Message;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Metadata of a read that must not be older than the moment of asking.
const CONSISTENT: &str = "borg-consistent";
/// Calls that can show the past.
const KNOW_THE_PAST: [&str; 11] = [
    "ListJobs",
    "GetJob",
    "ListRuns",
    "ListMachines",
    "ListDrains",
    "ListQuotas",
    "ListPackages",
    "ListPrivileges",
    "GetPolicy",
    "GetReclamation",
    "Resolve",
];
/// How long another master may take to say hello.
const HELLO: Duration = Duration::from_millis(500);
/// How long the leader may take to list what all machines' tasks need: some megabytes in a large cell.
const RESERVATIONS: Duration = Duration::from_secs(5);

/// The API of one replica.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The cell.
    pub cell: CellName,
    /// This replica among the members.
    pub me: Member,
    /// Where changes go.
    pub changes: Changes,
    /// The newest state.
    pub view: watch::Receiver<View>,
    /// Whether the state can be answered from.
    pub caught_up: CaughtUp,
    /// The states before it.
    pub past: Past,
    /// Where recordings of the scheduler are.
    pub decisions: PathBuf,
    /// The stream of events.
    pub feed: Arc<Feed>,
    /// The blobs of packages.
    pub blobs: Blobs,
    /// The scheduler, for its reasons.
    pub scheduler: Arc<Mailbox>,
    /// For reaching borglets.
    pub credentials: Credentials,
    /// Room for sessions.
    pub sessions: Slots,
    /// Room for logs that are read.
    pub log_readers: Slots,
    /// Room for watchers of names.
    pub name_watchers: Slots,
    /// How old the state may be.
    pub fresh: Freshness,
    /// From which age on watchers of names are told.
    pub names_max_age: Millis,
    /// How many machines this replica's shard polls.
    pub polled: Arc<AtomicUsize>,
    /// Counters.
    pub metrics: Metrics,
    /// Ends streams when the process stops.
    pub stop: CancellationToken,
}

fn bad_name(field: &str) -> impl Fn(NameError) -> Status {
    move |error| Status::invalid_argument(format!("{field}: {error}"))
}

impl Api {
    /// The user who calls; nobody else may use the API.
    fn user<T>(&self, request: &Request<T>, call: &str) -> Result<UserName, Status> {
        self.metrics.api_calls.inc();
        // Shown as of now, it would be taken for the past.
        if request.metadata().contains_key(past::AT) && !KNOW_THE_PAST.contains(&call) {
            return Err(Status::invalid_argument(format!(
                "borg-at: {call} knows only the present; {} know the past",
                KNOW_THE_PAST.join(", ")
            )));
        }
        let identity = rpc::peer_identity(request, &self.cell);
        let user = identity.and_then(|identity| rpc::require_user(&identity, call).cloned());
        user.inspect_err(|status| {
            let from = request.remote_addr();
            tracing::info!(call, ?from, why = status.message(), "caller refused");
        })
    }

    fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Whether a user is an administrator now, whatever moment the call is to show. Of one who was granted
    /// it a majority is asked, so that what is taken back is gone at every master.
    async fn is_admin(&self, user: &UserName) -> Result<bool, Status> {
        if user.as_str() == ADMIN || !self.view.borrow().state.is_admin(user) {
            return Ok(user.as_str() == ADMIN);
        }
        Ok(self.confirmed_view(user).await?.state.is_admin(user))
    }

    /// Whether a user may see what a job's owner keeps secret. What nobody can confirm is not shown.
    async fn may_see(&self, user: &UserName, owner: &UserName) -> bool {
        user == owner || self.is_admin(user).await.unwrap_or(false)
    }

    /// The view to answer a read from: the newest of this replica once it has caught up, or, when
    /// the caller set the metadata `borg-consistent`, one at least as new as the moment of asking
    /// (Raft's read index).
    ///
    /// With the metadata `borg-at`, the view is one of the past.
    async fn view_for<T>(&self, user: &UserName, request: &Request<T>) -> Result<View, Status> {
        if let Some(asked) = request.metadata().get(past::AT) {
            let wrong = |why: &str| Status::invalid_argument(format!("borg-at: {why}"));
            let text = asked.to_str().map_err(|_| wrong("not readable"))?;
            let moment = text.parse().map_err(|why: String| wrong(&why))?;
            if request.metadata().contains_key(CONSISTENT) {
                return Err(wrong("the past does not change: leave out borg-consistent"));
            }
            self.caught_up.check()?;
            let now = self.view();
            let state = self.past.state(moment, &now.state, &self.changes.driver).await?;
            return Ok(View { state, ..now });
        }
        if !request.metadata().contains_key(CONSISTENT) {
            self.caught_up.check()?;
            return Ok(self.view());
        }
        self.confirmed_view(user).await
    }

    /// A view that is at least as new as this moment, by Raft's read index.
    async fn confirmed_view(&self, user: &UserName) -> Result<View, Status> {
        let late = || Status::unavailable("no majority of the masters confirmed the read in time");
        let deadline = clock::now() + Millis(2_000);
        let (reply, answer) = oneshot::channel();
        self.changes.driver.ask(user, 0, Turn::Read { deadline, reply })?;
        let index = answer.await.ok().flatten().ok_or_else(late)?;
        let mut seen = self.view.clone();
        let view = seen.wait_for(|view| view.state.applied() >= index).await.map_err(|_| late())?;
        Ok(view.clone())
    }

    /// Asks the driver something that is in no view.
    async fn look<T: Send + 'static>(
        &self,
        user: &UserName,
        question: impl FnOnce(&Master) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let look = move |master: &Master| drop(reply.send(question(master)));
        self.changes.driver.ask(user, 0, Turn::Look(Box::new(look)))?;
        answer.await.map_err(|_| unanswered())
    }

    /// For how long machines are silent, by name. Only the leader knows; nothing when it cannot be
    /// asked.
    async fn silent(&self, user: &UserName) -> Result<BTreeMap<String, u64>, Status> {
        let leader = self.view().status.leader;
        let silent = match leader.filter(|leader| *leader != self.me.replica) {
            None => {
                let look = |master: &Master| silent(master.state(), &master.silent(clock::now()));
                self.look(user, look).await?
            }
            Some(leader) => match self.changes.peers.client(leader) {
                Some(client) => {
                    peers::hello(client, HELLO).await.map(|hello| hello.silent).unwrap_or_default()
                }
                None => Vec::new(),
            },
        };
        Ok(silent.into_iter().map(|silent| (silent.machine, silent.for_ms)).collect())
    }

    /// What machines said of tasks of a job. Nothing when the leader cannot be asked.
    async fn said(&self, user: &UserName, ids: Vec<IncarnationId>) -> Result<AllSaid, Status> {
        let leader = self.view().status.leader.filter(|leader| *leader != self.me.replica);
        let Some(leader) = leader else {
            return self.look(user, move |master| said::of(master, &ids)).await;
        };
        // Beside the answer: what cannot be had at once is left out.
        let Some(client) = self.changes.peers.client(leader) else { return Ok(AllSaid::new()) };
        let ids = ids.iter().map(Into::into).collect();
        let request = pb::LookAtTasksRequest { ids, user: user.to_string() };
        let answer = peers::look_at_tasks(client, request, HELLO).await.unwrap_or_default();
        Ok(said::heard(answer))
    }

    /// What the leader believes that tasks need.
    async fn reservations(&self, user: &UserName) -> Result<pb::ListReservationsResponse, Status> {
        let nobody =
            || Status::unavailable("no leader was found to ask what tasks need: try again");
        let leader = self.view().status.leader.ok_or_else(nobody)?;
        if leader == self.me.replica {
            return self.look(user, reserved::told).await?.ok_or_else(nobody);
        }
        let client = self.changes.peers.client(leader).ok_or_else(nobody)?;
        let request = pb::LookAtReservationsRequest { user: user.to_string() };
        peers::look_at_reservations(client, request, RESERVATIONS).await
    }

    /// Makes the change that a call asks for.
    async fn changed<M>(&self, request: Request<M>, call: &str) -> Result<Done, Status>
    where
        Change: TryFrom<M, Error = WireError>,
    {
        let by = self.user(&request, call)?;
        let timeout = timeout(&request);
        self.change(by, request.into_inner(), timeout).await
    }

    /// Makes the change that a request asks for. What the log could not hold is refused here,
    /// with the field's name.
    async fn change<M>(
        &self,
        by: UserName,
        message: M,
        timeout: Option<Duration>,
    ) -> Result<Done, Status>
    where
        Change: TryFrom<M, Error = WireError>,
    {
        let change = Change::try_from(message).map_err(|error| rpc::status_of(&error))?;
        self.changes.make(by, change, None, timeout).await
    }
}

fn shows_the_past<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(past::AT)
}

/// The time by which the ages in an answer are reckoned.
fn now_in(view: &View, past: bool) -> u64 {
    if past { view.state.clock().0 } else { clock::now().0 }
}

fn find_job<'a>(view: &'a View, name: &str) -> Result<&'a Job, Status> {
    let key: JobKey = name.parse().map_err(bad_name("job"))?;
    view.state.job_named(&key).ok_or_else(|| Status::not_found(format!("there is no job {key}")))
}

fn find_task(view: &View, name: &str) -> Result<(TaskName, TaskId), Status> {
    let name: TaskName = name.parse().map_err(bad_name("task"))?;
    let job = find_job(view, &name.job.to_string())?;
    let id = TaskId { job: job.id, index: name.index };
    if view.state.task(id).is_none() {
        let (slots, index, job) = (job.slots(), name.index, &name.job);
        return Err(Status::not_found(match slots.checked_sub(1) {
            Some(last) => format!("job {job} has tasks 0 to {last}, not {index}"),
            None => format!("job {job} has no tasks of its own"),
        }));
    }
    Ok((name, id))
}

/// What is large in a specification is one of two fields.
fn check_size(spec: &pb::JobSpec) -> Result<(), Status> {
    let size = spec.encoded_len();
    if size <= MAX_SPEC_BYTES {
        return Ok(());
    }
    let task = spec.task.as_ref();
    let env = task.map_or(0, |task| task.env.iter().map(|(k, v)| k.len() + v.len()).sum());
    let command: usize = task.map_or(0, |task| task.command.iter().map(String::len).sum());
    Err(Status::resource_exhausted(format!(
        "spec: {size} bytes, most is {MAX_SPEC_BYTES}; task.env has {env} of them, task.command {command}: put \
         what is large into a package"
    )))
}
