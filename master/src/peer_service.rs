//! What this replica answers to the other masters. Members of the cell only.

use crate::blobs::{Blobs, read_digest};
use crate::changes::{Changes, outcome_of, reply_of, unanswered};
use crate::clock;
use crate::config::MOST_WAITING_CALLS;
use crate::driver::{Reply, Turn};
use crate::feed::View;
use crate::inbox::{Closed, Inbox};
use crate::peers;
use crate::reserved;
use crate::said;
use borg_cell::master::{Input, Master, Outcome};
use borg_cell::state::{Answer, CellState, MasterRecord, Standing};
use borg_proto::command::{Action, Command, Principal};
use borg_proto::identity::Role;
use borg_proto::names::{CellName, IncarnationId, NameError, ReplicaId};
use borg_proto::peer::{ShardOrders, ShardReport, ShardSession};
use borg_proto::rpc::{self, Peer};
use borg_proto::wire::{WireError, pb};
use borg_proto::{MachineId, Millis};
use pb::peer_message::Body;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Longest time that a change of another master may take here.
const PATIENCE: Millis = Millis(2_000);

/// Outcomes of changes of one follower that may wait to be sent: as many as its users may have under way,
/// twice, so that what a broken stream left behind takes no room.
const OUTCOMES: usize = 2 * MOST_WAITING_CALLS;
/// Most outcomes in a message.
const OUTCOMES_PER_MESSAGE: usize = 512;
/// Messages of outcomes that may wait in a stream.
const ANSWERS: usize = 16;

/// How long another master may take to say whether it knows one that is not known here.
const INTRODUCTION: Duration = Duration::from_millis(300);
/// Longest address of a master that is believed.
const MAX_ADDRESS_BYTES: usize = 255;
/// Epochs, terms and sessions that a cell can live through: one a second for over 30,000 years.
const MOST: u64 = 1 << 40;

/// The service between masters.
#[derive(Debug, Clone)]
pub(crate) struct PeerService {
    /// The cell.
    pub cell: CellName,
    /// This replica.
    pub own: ReplicaId,
    /// Numbers of masters that may call before the cell's own table is known here.
    pub members: BTreeSet<u64>,
    /// Where changes go.
    pub changes: Changes,
    /// The driver.
    pub driver: Inbox,
    /// This replica's link shard. Orders are dropped when it is full.
    pub shard: mpsc::Sender<ShardOrders>,
    /// What this replica knows of itself.
    pub view: watch::Receiver<View>,
    /// How many machines its shard polls.
    pub polled: Arc<AtomicUsize>,
    /// The blobs of packages.
    pub blobs: Blobs,
}

impl PeerService {
    /// The number of the master that calls.
    fn member<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let identity = rpc::peer_identity(request, &self.cell)?;
        match identity.role {
            Role::Master(replica) if self.is_member(replica.number()) => Ok(replica.number()),
            role @ (Role::Master(_) | Role::Borglet(_) | Role::User(_)) => {
                Err(not_one_of_us(&role))
            }
        }
    }

    /// The number of whoever has a certificate of a master of this cell.
    fn number<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let identity = rpc::peer_identity(request, &self.cell)?;
        match identity.role {
            Role::Master(replica) => Ok(replica.number()),
            role @ (Role::Borglet(_) | Role::User(_)) => Err(not_one_of_us(&role)),
        }
    }

    /// Whether another master knows this number as one of theirs: a table that lags may not have it yet.
    async fn is_introduced(&self, number: u64) -> bool {
        for member in self.changes.peers.members() {
            let Some(client) = self.changes.peers.client(member.replica) else { continue };
            let Ok(hello) = peers::hello(client, INTRODUCTION).await else { continue };
            let mut table = hello.masters.into_iter();
            if table.any(|entry| ReplicaId(entry.replica).number() == number) {
                return true;
            }
        }
        false
    }

    /// Whether a master may speak to this one: it is in the table, or so new that a table which lags
    /// does not have it yet. Who was taken out may not.
    fn may_speak(&self, id: ReplicaId) -> bool {
        let view = self.view.borrow();
        match view.state.masters().next() {
            Some(_) => view.state.master(id).is_some() || id.life() > view.state.master_lives(),
            None => true,
        }
    }

    fn is_member(&self, number: u64) -> bool {
        let view = self.view.borrow();
        let mut table = view.state.masters().peekable();
        match table.peek() {
            Some(_) => table.any(|(id, _)| id.number() == number),
            None => self.members.contains(&number),
        }
    }

    /// Takes one message of the master of that number; answers whether it was for this one.
    fn take(&self, number: u64, message: pb::PeerMessage) -> Result<bool, Status> {
        let from = ReplicaId(message.from);
        if from.number() != number {
            return Err(Status::permission_denied(format!(
                "message of master {from} came from master {number}"
            )));
        }
        if !self.may_speak(from) {
            return Err(Status::permission_denied(format!(
                "master {from} was taken out of the cell"
            )));
        }
        if message.to != self.own.0 {
            // For an earlier life of this master, which is over.
            tracing::debug!(%from, to = %ReplicaId(message.to), "message for another life dropped");
            return Ok(false);
        }
        let turn = match message.body {
            None => return Ok(false),
            Some(Body::Raft(raft)) if raft.from != from.0 => {
                return Err(Status::permission_denied("raft message of another replica"));
            }
            Some(Body::Raft(raft)) => Turn::Input(Input::Raft(raft)),
            Some(Body::Ask(ask)) => Turn::Input(Input::Ask { from, ask }),
            Some(Body::Piece(piece)) => Turn::Input(Input::Piece { from, piece }),
            Some(Body::Report(report)) => {
                let Some(report) = readable(from, "report", ShardReport::try_from(report)) else {
                    return Ok(true);
                };
                if report.from != from {
                    return Err(Status::permission_denied("report of another replica's shard"));
                }
                Turn::Input(Input::Report(report))
            }
            Some(Body::Orders(orders)) => {
                let Some(orders) = readable(from, "orders", ShardOrders::try_from(orders)) else {
                    return Ok(true);
                };
                if orders.leader != from {
                    return Err(Status::permission_denied("orders of another leader"));
                }
                check_session(orders.session)?;
                if self.shard.try_send(orders).is_err() {
                    tracing::debug!("orders dropped: the shard is busy");
                }
                return Ok(true);
            }
        };
        let stopping = |Closed| Status::unavailable("this master is stopping");
        self.driver.vital(turn).map(|()| true).map_err(stopping)
    }

    /// Takes what a follower passes on, and answers as outcomes come, until the stream ends.
    async fn take_changes(
        self,
        number: u64,
        mut proposals: Streaming<pb::Proposals>,
        answers: mpsc::Sender<Result<pb::Outcomes, Status>>,
    ) {
        let (decided, mut decisions) = mpsc::channel(OUTCOMES);
        let mut taken = Vec::new();
        loop {
            let outcomes = tokio::select! {
                message = proposals.message() => match message {
                    // It may have been taken out meanwhile.
                    Ok(Some(_)) if !self.is_member(number) => {
                        Err(not_one_of_us(&Role::Master(ReplicaId(number))))
                    }
                    Ok(Some(message)) => {
                        let begin = |proposal| self.begin(proposal, &decided, &answers);
                        Ok(message.proposals.into_iter().filter_map(begin).collect())
                    }
                    // The follower has gone, or has another stream.
                    Ok(None) | Err(_) => return,
                },
                _ = decisions.recv_many(&mut taken, OUTCOMES_PER_MESSAGE) => {
                    let told = |(token, outcome)| outcome_of(token, reply_of(outcome));
                    Ok(taken.drain(..).map(told).collect::<Vec<_>>())
                }
            };
            if matches!(&outcomes, Ok(none) if none.is_empty()) {
                continue;
            }
            let last = outcomes.is_err();
            let sent = answers.send(outcomes.map(|outcomes| pb::Outcomes { outcomes })).await;
            if last || sent.is_err() {
                return;
            }
        }
    }

    /// Lets a change wait for the driver; gives what to answer when it may not.
    fn begin(
        &self,
        proposal: pb::Proposal,
        decided: &mpsc::Sender<(u64, Outcome)>,
        answers: &mpsc::Sender<Result<pb::Outcomes, Status>>,
    ) -> Option<pb::ProposalOutcome> {
        let pb::Proposal { token, command: bytes, timeout_ms, planned } = proposal;
        let begun = Command::decode(&bytes)
            .map_err(|error| Status::invalid_argument(error.to_string()))
            .and_then(|command| {
                let Principal::User(user) = &command.by else {
                    return Err(Status::permission_denied("only users' changes are passed on"));
                };
                let user = user.clone();
                let reply = Reply::Passed { token, to: decided.clone() };
                let deadline = clock::now() + PATIENCE.min(Millis(timeout_ms));
                let turn = Turn::Propose { command: command.clone(), deadline, reply };
                if let Some(planned) = planned {
                    let (own, answers) = (self.clone(), answers.clone());
                    tokio::spawn(own.begin_planned(token, command, planned, turn, answers));
                    return Ok(());
                }
                self.driver.ask(&user, bytes.len(), turn)
            });
        begun.err().map(|status| outcome_of(token, Err(status)))
    }

    /// Lets a change wait for the driver if the plan that it was made with still holds; answers by itself
    /// when it does not.
    async fn begin_planned(
        self,
        token: u64,
        command: Command,
        planned: pb::PlannedJob,
        turn: Turn,
        answers: mpsc::Sender<Result<pb::Outcomes, Status>>,
    ) {
        let begun = match self.changes.planner.check(&command, &planned).await {
            Ok(()) => self.begin_checked(&command, turn),
            Err(status) => Err(status),
        };
        if let Err(status) = begun {
            let outcomes = vec![outcome_of(token, Err(status))];
            // A follower that has gone asks again.
            drop(answers.send(Ok(pb::Outcomes { outcomes })).await);
        }
    }

    fn begin_checked(&self, command: &Command, turn: Turn) -> Result<(), Status> {
        let Principal::User(user) = &command.by else {
            return Err(Status::permission_denied("only users' changes are passed on"));
        };
        self.driver.ask(user, command.encode().len(), turn)
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn deliver(
        &self,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::DeliverResponse>, Status> {
        let number = self.number(&request)?;
        if !self.is_member(number) && !self.is_introduced(number).await {
            return Err(not_one_of_us(&Role::Master(ReplicaId(number))));
        }
        let address = request.metadata().get(peers::ADDRESS).and_then(|text| text.to_str().ok());
        let address = address.filter(|text| text.len() <= MAX_ADDRESS_BYTES).map(str::to_owned);
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            let from = ReplicaId(message.from);
            let taken = self.take(number, message)?;
            if let Some(address) = address.as_ref().filter(|_| taken) {
                // A table that lags may not say where to answer.
                self.changes.peers.learn(from, address);
            }
        }
        Ok(Response::new(pb::DeliverResponse {}))
    }

    type ProposeStream = ReceiverStream<Result<pb::Outcomes, Status>>;

    async fn propose(
        &self,
        request: Request<Streaming<pb::Proposals>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let number = self.member(&request)?;
        let (answers, out) = mpsc::channel(ANSWERS);
        tokio::spawn(self.clone().take_changes(number, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let number = self.member(&request)?;
        let pb::JoinRequest { address, token } = request.into_inner();
        let action = Action::JoinMaster { number, address, token };
        let by = Principal::Master(ReplicaId(number));
        let command = Command { at: Millis(0), by, request: None, action };
        let (reply, outcome) = oneshot::channel();
        let deadline = clock::now() + PATIENCE;
        let turn = Turn::Propose { command, deadline, reply: Reply::Here(reply) };
        self.driver.vital(turn).map_err(|_| unanswered())?;
        match outcome.await.map_err(|_| unanswered())? {
            Outcome::Accepted { answer: Answer::Master(replica), .. } => {
                let epoch = self.view.borrow().state.epoch();
                Ok(Response::new(pb::JoinResponse { replica: replica.0, epoch }))
            }
            other => match reply_of(other) {
                Ok(_) => Err(Status::internal("an odd answer")),
                Err(status) => Err(status),
            },
        }
    }

    async fn plan(
        &self,
        request: Request<pb::PassedPlan>,
    ) -> Result<Response<pb::PlanResponse>, Status> {
        self.member(&request)?;
        let pb::PassedPlan { user, request } = request.into_inner();
        let wrong = |error: NameError| Status::invalid_argument(format!("user: {error}"));
        let user = user.parse().map_err(wrong)?;
        let request = request.unwrap_or_default();
        self.changes.planner.plan_here(&user, request).await.map(Response::new)
    }

    async fn look_at_tasks(
        &self,
        request: Request<pb::LookAtTasksRequest>,
    ) -> Result<Response<pb::LookAtTasksResponse>, Status> {
        self.member(&request)?;
        let pb::LookAtTasksRequest { ids, user } = request.into_inner();
        let wrong = |error: NameError| Status::invalid_argument(format!("user: {error}"));
        let user = user.parse().map_err(wrong)?;
        let ids = ids.into_iter().map(IncarnationId::try_from).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(|error| rpc::status_of(&error.within("ids")))?;
        if self.view.borrow().status.leader != Some(self.own) {
            return Err(Status::unavailable("this master does not lead"));
        }
        let (reply, answer) = oneshot::channel();
        let look = move |master: &Master| drop(reply.send(said::of(master, &ids)));
        self.driver.ask(&user, 0, Turn::Look(Box::new(look)))?;
        let all = answer.await.map_err(|_| unanswered())?;
        Ok(Response::new(said::told(all)))
    }

    async fn look_at_reservations(
        &self,
        request: Request<pb::LookAtReservationsRequest>,
    ) -> Result<Response<pb::ListReservationsResponse>, Status> {
        self.member(&request)?;
        let wrong = |error: NameError| Status::invalid_argument(format!("user: {error}"));
        let user = request.into_inner().user.parse().map_err(wrong)?;
        let (reply, answer) = oneshot::channel();
        let look = move |master: &Master| drop(reply.send(reserved::told(master)));
        self.driver.ask(&user, 0, Turn::Look(Box::new(look)))?;
        let told = answer.await.map_err(|_| unanswered())?;
        let told = told.ok_or_else(|| Status::unavailable("this master does not lead"))?;
        Ok(Response::new(told))
    }

    type FetchBlobStream = ReceiverStream<Result<pb::BlobChunk, Status>>;

    async fn fetch_blob(
        &self,
        request: Request<pb::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        self.member(&request)?;
        let pb::FetchBlobRequest { digest, offset } = request.into_inner();
        let mut pieces = self.blobs.read(read_digest("digest", &digest)?, offset).await?;
        let (chunks, stream) = mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            while let Some(data) = pieces.recv().await {
                let chunk = pb::BlobChunk { data, ..pb::BlobChunk::default() };
                if chunks.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn keep_blobs(
        &self,
        request: Request<pb::KeepBlobsRequest>,
    ) -> Result<Response<pb::KeepBlobsResponse>, Status> {
        let number = self.member(&request)?;
        self.blobs.keep(number, request.into_inner().blobs).await?;
        Ok(Response::new(pb::KeepBlobsResponse {}))
    }

    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloResponse>, Status> {
        let number = self.number(&request)?;
        if !self.is_member(number) && !self.is_introduced(number).await {
            return Err(not_one_of_us(&Role::Master(ReplicaId(number))));
        }
        let view = self.view.borrow();
        let silent = view.silent.as_ref().clone();
        let heard_you = view.status.heard.iter().any(|id| id.number() == number);
        let polled = self.polled.load(Ordering::Relaxed);
        Ok(Response::new(pb::HelloResponse { heard_you, silent, ..hello(&view, polled) }))
    }
}

/// Shards and borglets obey the newest order that they saw for ever, so a senseless one must not
/// reach them.
fn check_session(session: ShardSession) -> Result<(), Status> {
    if session.epoch.max(session.term).max(session.session) <= MOST {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{session:?} is over {MOST}")))
}

fn not_one_of_us(role: &Role) -> Status {
    Status::permission_denied(format!("{role} is not one of the masters of this cell"))
}

fn master_entry((id, record): (ReplicaId, &MasterRecord)) -> pb::MasterEntry {
    pb::MasterEntry {
        replica: id.0,
        address: record.address.clone(),
        standing: match record.standing {
            Standing::Invited { .. } => 1,
            Standing::Joining { .. } => 2,
            Standing::Voting => 3,
            Standing::Leaving => 4,
        },
    }
}

/// In a cell that was restored from a backup: what its leader has to say of that.
fn spared(view: &View) -> String {
    let Some(links) = &view.status.links else { return String::new() };
    let Some(window) = view.state.restored().and_then(|restored| restored.window) else {
        return String::new();
    };
    if links.spared == 0 {
        return String::new();
    }
    let left = window.spare_until.since(view.seen_at).0.div_ceil(60_000);
    format!(
        "restored: {} incarnations run that the cell does not know; they end in {left} min, or at once \
         with borgctl backup settle",
        links.spared
    )
}

/// What a replica says of itself.
#[must_use]
pub(crate) fn hello(view: &View, polled: usize) -> pb::HelloResponse {
    let status = &view.status;
    let (digest_index, digest) = status.digests.last().copied().unwrap_or((0, 0));
    pb::HelloResponse {
        replica: status.replica.0,
        leader: status.leader.map_or(0, |leader| leader.0),
        term: status.term,
        applied_index: status.applied,
        digest: format!("{digest:032x}"),
        digest_index,
        machines_polled: u64::try_from(polled).unwrap_or(u64::MAX),
        pid: std::process::id(),
        note: status.halted.clone().unwrap_or_else(|| spared(view)),
        level: status.level,
        write_us: status.write_micros,
        masters: view.state.masters().map(master_entry).collect(),
        epoch: view.state.epoch(),
        heard_you: false,
        master_lives: view.state.master_lives(),
        silent: Vec::new(),
    }
}

/// What another master said of machines, if this version understands it: else it is as if it was lost. Raft
/// speaks on the same stream, so the stream goes on.
fn readable<T>(from: ReplicaId, what: &str, read: Result<T, WireError>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!(%from, what, %error, "not understood, dropped")).ok()
}

/// The machines that should answer and do not, and for how long, as others are told of them.
#[must_use]
pub(crate) fn silent(state: &CellState, silent: &[(MachineId, Millis)]) -> Vec<pb::SilentMachine> {
    let named = silent.iter().filter_map(|(id, length)| {
        let machine = state.machine(*id)?.name.to_string();
        Some(pb::SilentMachine { machine, for_ms: length.0 })
    });
    named.collect()
}
