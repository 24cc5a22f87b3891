//! The connections from this replica to the other masters.
//!
//! One-way messages (Raft, orders to shards, reports from shards) go down one stream per peer in
//! order. All of them may be lost: whoever sent them repeats himself. `Hello` shares the connection,
//! which lives on the lifeline; users' changes have one of their own beside it, so that no amount of
//! them delays a heartbeat, and are asked under the name of any master, so that they are served with
//! other calls of users.

use crate::config::{MOST_WAITING_CALLS, Member};
use crate::metrics::Metrics;
use crate::passing::{self, Passed};
use crate::threads::RuntimeThread;
use borg_proto::Millis;
use borg_proto::identity::{Identity, Role, any_master_name};
use borg_proto::names::ReplicaId;
use borg_proto::rpc::{self, ChannelError, Credentials, PeerClient, Timeouts};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Metadata of a stream between masters: where the sender is reached.
pub(crate) const ADDRESS: &str = "borg-address";
/// Messages to one peer that may wait. When it is full, new ones are dropped and counted.
const QUEUE: usize = 4_096;
/// Messages that one connection may hold beyond that.
const IN_STREAM: usize = 64;
/// Wait before a broken stream is opened again.
const RECONNECT: Duration = Duration::from_millis(50);

/// The other masters, as this one reaches them. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Peers(Arc<Shared>);

struct Shared {
    own: ReplicaId,
    /// Where the others reach this one.
    own_address: AsciiMetadataValue,
    credentials: Credentials,
    lifeline: Handle,
    /// Where users' calls are served.
    calls: Handle,
    stop: CancellationToken,
    metrics: Metrics,
    links: RwLock<BTreeMap<ReplicaId, PeerLink>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("own", &self.own).finish_non_exhaustive()
    }
}

struct PeerLink {
    member: Member,
    queue: mpsc::Sender<pb::PeerMessage>,
    client: PeerClient<Channel>,
    /// On the connection that users' changes have for themselves.
    for_users: PeerClient<Channel>,
    changes: mpsc::Sender<Passed>,
    /// Ends the streams when the link goes.
    _ends: DropGuard,
}

impl Peers {
    /// Opens a link to every member but ourselves. `address` is where the others reach this one. To be
    /// called on the runtime where users' calls are served.
    ///
    /// # Errors
    /// When an address or the credentials are no good.
    pub(crate) fn connect(
        credentials: &Credentials,
        own: ReplicaId,
        address: &str,
        members: &[Member],
        metrics: Metrics,
        lifeline: &RuntimeThread,
        stop: &CancellationToken,
    ) -> Result<Self, ChannelError> {
        let own_address = address.parse().ok();
        let shared = Shared {
            own,
            own_address: own_address.unwrap_or_else(|| AsciiMetadataValue::from_static("")),
            credentials: credentials.clone(),
            lifeline: lifeline.handle(),
            calls: Handle::current(),
            stop: stop.clone(),
            metrics,
            links: RwLock::default(),
        };
        let links = members
            .iter()
            .filter(|member| member.replica.number() != own.number())
            .map(|member| Ok((member.replica, shared.link(member)?)))
            .collect::<Result<_, ChannelError>>()?;
        *shared.links.write().unwrap_or_else(PoisonError::into_inner) = links;
        Ok(Self(Arc::new(shared)))
    }

    /// Follows the cell's table of masters: links to newcomers, none to those who left. Those of a later
    /// life than any in the table, `newest_life`, are not in it yet.
    pub(crate) fn follow(&self, members: &[Member], newest_life: u64) {
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|id, link| members.contains(&link.member) || id.life() > newest_life);
        for member in members.iter().filter(|member| member.replica != self.0.own) {
            if links.contains_key(&member.replica) {
                continue;
            }
            match self.0.link(member) {
                Ok(link) => drop(links.insert(member.replica, link)),
                Err(error) => {
                    tracing::error!(%error, master = %member.replica, "no way to a master")
                }
            }
        }
    }

    /// Learns where a master is that the table does not have yet, from itself.
    pub(crate) fn learn(&self, replica: ReplicaId, address: &str) {
        if replica == self.0.own || self.get(replica, |_| ()).is_some() {
            return;
        }
        let member = Member { replica, address: address.to_owned() };
        match self.0.link(&member) {
            Ok(link) => {
                let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
                // Whatever a master says of itself, it does not get more than two links by it.
                let lives = links.keys().filter(|id| id.number() == replica.number());
                if let Some(newest) = lives.copied().nth(1) {
                    links.remove(&newest);
                }
                links.entry(replica).or_insert(link);
            }
            Err(error) => tracing::warn!(%error, master = %replica, "no way to a master"),
        }
    }

    fn get<T>(&self, replica: ReplicaId, part: impl FnOnce(&PeerLink) -> T) -> Option<T> {
        self.0.links.read().unwrap_or_else(PoisonError::into_inner).get(&replica).map(part)
    }

    /// Sends a message, or drops it when the peer is too slow.
    pub(crate) fn send(&self, message: pb::PeerMessage) {
        let to = ReplicaId(message.to);
        if self.get(to, |link| link.queue.try_send(message).is_err()) == Some(true) {
            self.0.metrics.dropped_messages.inc();
        }
    }

    /// Passes a user's encoded change on to a peer; its outcome arrives at the receiver, or nothing when
    /// the way breaks. None for ourselves and for strangers.
    pub(crate) fn pass_on(
        &self,
        replica: ReplicaId,
        command: Vec<u8>,
        planned: Option<pb::PlannedJob>,
        deadline: Millis,
    ) -> Option<oneshot::Receiver<pb::ProposalOutcome>> {
        let (reply, outcome) = oneshot::channel();
        let passed = Passed { command, planned, deadline, reply };
        if self.get(replica, |link| link.changes.try_send(passed).is_err())? {
            // Cannot be: it has room for all that users may have under way here.
            self.0.metrics.dropped_messages.inc();
        }
        Some(outcome)
    }

    /// The client for the masters' own calls to a peer; none for ourselves and for strangers.
    #[must_use]
    pub(crate) fn client(&self, replica: ReplicaId) -> Option<PeerClient<Channel>> {
        self.get(replica, |link| link.client.clone())
    }

    /// The client for what users ask of a peer by way of this master; none for ourselves and for
    /// strangers.
    #[must_use]
    pub(crate) fn client_for_users(&self, replica: ReplicaId) -> Option<PeerClient<Channel>> {
        self.get(replica, |link| link.for_users.clone())
    }

    /// The other masters.
    pub(crate) fn members(&self) -> Vec<Member> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().map(|link| link.member.clone()).collect()
    }
}

impl Shared {
    fn link(&self, member: &Member) -> Result<PeerLink, ChannelError> {
        let stop = self.stop.child_token();
        let any = any_master_name(&self.credentials.identity.cell);
        let of_users = {
            let _inside = self.calls.enter();
            client(&self.credentials, member, &any)?
        };
        let (changes, passed) = mpsc::channel(MOST_WAITING_CALLS);
        let for_users = of_users.clone();
        drop(self.calls.spawn(passing::pass_on(member.replica, of_users, passed, stop.clone())));
        let _inside = self.lifeline.enter();
        let client = client_of(&self.credentials, member)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        drop(self.lifeline.spawn(deliver(
            member.replica,
            self.own_address.clone(),
            client.clone(),
            waiting,
            stop.clone(),
        )));
        let _ends = stop.drop_guard();
        Ok(PeerLink { member: member.clone(), queue, client, for_users, changes, _ends })
    }
}

/// A client for the masters' own calls to one of them.
///
/// # Errors
/// When its address or the credentials are no good.
pub(crate) fn client_of(
    credentials: &Credentials,
    member: &Member,
) -> Result<PeerClient<Channel>, ChannelError> {
    let role = Role::Master(ReplicaId(member.replica.number()));
    let identity = Identity { cell: credentials.identity.cell.clone(), role };
    let name = identity.server_name().expect("a master serves, so it has a server name");
    client(credentials, member, &name)
}

/// Asks a master what it knows of itself. A call's own limit would not count the time until there is a
/// connection, and a master that is stopped lets others wait for it.
///
/// # Errors
/// Its refusal, or DEADLINE_EXCEEDED.
pub(crate) async fn hello(
    mut client: PeerClient<Channel>,
    limit: Duration,
) -> Result<pb::HelloResponse, Status> {
    let answer = tokio::time::timeout(limit, client.hello(pb::HelloRequest {})).await;
    let late = |_| Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
    answer.map_err(late)?.map(Response::into_inner)
}

/// Asks the leader what it was told of tasks.
pub(crate) async fn look_at_tasks(
    mut client: PeerClient<Channel>,
    request: pb::LookAtTasksRequest,
    limit: Duration,
) -> Result<pb::LookAtTasksResponse, Status> {
    let answer = tokio::time::timeout(limit, client.look_at_tasks(request)).await;
    let late = |_| Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
    answer.map_err(late)?.map(Response::into_inner)
}

/// Asks the leader what it believes that tasks need.
pub(crate) async fn look_at_reservations(
    mut client: PeerClient<Channel>,
    request: pb::LookAtReservationsRequest,
    limit: Duration,
) -> Result<pb::ListReservationsResponse, Status> {
    let answer = tokio::time::timeout(limit, client.look_at_reservations(request)).await;
    let late = |_| Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
    answer.map_err(late)?.map(Response::into_inner)
}

fn client(
    credentials: &Credentials,
    member: &Member,
    server: &str,
) -> Result<PeerClient<Channel>, ChannelError> {
    let channel = rpc::channel(&member.address, credentials, server, Timeouts::default())?;
    Ok(rpc::peer_client(channel))
}

/// Keeps one stream to a peer open. What waits in a broken stream is lost.
async fn deliver(
    to: ReplicaId,
    own_address: AsciiMetadataValue,
    mut client: PeerClient<Channel>,
    mut waiting: mpsc::Receiver<pb::PeerMessage>,
    stop: CancellationToken,
) {
    while let Some(first) = tokio::select! {
        () = stop.cancelled() => None,
        message = waiting.recv() => message,
    } {
        let (stream, messages) = mpsc::channel(IN_STREAM);
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        if !own_address.is_empty() {
            request.metadata_mut().insert(ADDRESS, own_address.clone());
        }
        let call = client.deliver(request);
        let pump = async {
            let mut next = Some(first);
            while let Some(message) = next {
                if stream.send(message).await.is_err() {
                    break;
                }
                next = waiting.recv().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = pump => {}
            ended = call => if let Err(status) = ended {
                tracing::debug!(%to, why = rpc::explain(&status), "stream to a master ended");
            }
        }
        tokio::time::sleep(RECONNECT).await;
        while waiting.try_recv().is_ok() {} // old by now; Raft and the shards send newer ones
    }
}
