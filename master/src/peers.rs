//! The connections from this replica to the other masters.
//!
//! One-way messages (Raft, orders to shards, reports from shards) go down one stream per peer in
//! order. All of them may be lost: whoever sent them repeats himself. `Hello` shares the connection,
//! which lives on the lifeline; users' changes have one of their own, so that no amount of them
//! delays a heartbeat, and are asked under the name of any master, so that they are served with
//! other calls of users.

use crate::config::Member;
use crate::lifeline::Lifeline;
use crate::metrics::Metrics;
use borg_proto::identity::{Identity, Role, any_master_name};
use borg_proto::names::ReplicaId;
use borg_proto::rpc::{self, ChannelError, Credentials, PeerClient, Timeouts};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Messages to one peer that may wait. When it is full, new ones are dropped and counted.
const QUEUE: usize = 4_096;
/// Messages that one connection may hold beyond that.
const IN_STREAM: usize = 64;
/// Wait before a broken stream is opened again.
const RECONNECT: Duration = Duration::from_millis(50);

/// The other masters, as this one reaches them.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    peers: BTreeMap<ReplicaId, PeerLink>,
    metrics: Metrics,
}

#[derive(Debug, Clone)]
struct PeerLink {
    member: Member,
    queue: mpsc::Sender<pb::PeerMessage>,
    client: PeerClient<Channel>,
    changes: PeerClient<Channel>,
}

impl Peers {
    /// Opens a link to every member but ourselves.
    ///
    /// # Errors
    /// When an address or the credentials are no good.
    pub(crate) fn connect(
        credentials: &Credentials,
        own: ReplicaId,
        members: &[Member],
        metrics: Metrics,
        lifeline: &Lifeline,
        stop: &CancellationToken,
    ) -> Result<Self, ChannelError> {
        let cell = &credentials.identity.cell;
        let mut peers = BTreeMap::new();
        for member in members.iter().filter(|member| member.replica != own) {
            let changes = client(credentials, member, &any_master_name(cell))?;
            let identity = Identity { cell: cell.clone(), role: Role::Master(member.replica) };
            let name = identity.server_name().expect("a master serves, so it has a server name");
            let client = {
                let _inside = lifeline.enter();
                client(credentials, member, &name)?
            };
            let (queue, waiting) = mpsc::channel(QUEUE);
            lifeline.spawn(deliver(member.replica, client.clone(), waiting, stop.clone()));
            peers.insert(
                member.replica,
                PeerLink { member: member.clone(), queue, client, changes },
            );
        }
        Ok(Self { peers, metrics })
    }

    /// Sends a message, or drops it when the peer is too slow.
    pub(crate) fn send(&self, message: pb::PeerMessage) {
        let to = ReplicaId(message.to);
        if let Some(peer) = self.peers.get(&to)
            && peer.queue.try_send(message).is_err()
        {
            self.metrics.dropped_messages.inc();
        }
    }

    /// The client for users' changes to a peer; none for ourselves and for strangers.
    #[must_use]
    pub(crate) fn changes(&self, replica: ReplicaId) -> Option<PeerClient<Channel>> {
        self.peers.get(&replica).map(|peer| peer.changes.clone())
    }

    /// The client for the masters' own calls to a peer; none for ourselves and for strangers.
    #[must_use]
    pub(crate) fn client(&self, replica: ReplicaId) -> Option<PeerClient<Channel>> {
        self.peers.get(&replica).map(|peer| peer.client.clone())
    }

    /// The other masters.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.peers.values().map(|peer| &peer.member)
    }
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
    mut client: PeerClient<Channel>,
    mut waiting: mpsc::Receiver<pb::PeerMessage>,
    stop: CancellationToken,
) {
    while let Some(first) = tokio::select! {
        () = stop.cancelled() => None,
        message = waiting.recv() => message,
    } {
        let (stream, messages) = mpsc::channel(IN_STREAM);
        let call = client.deliver(ReceiverStream::new(messages));
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
