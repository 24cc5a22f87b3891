//! The way of users' changes from a follower to the leader: one stream, many changes to a message.
//!
//! A call for each change would cost both masters more than the change itself. What the stream loses
//! gets no answer, and `changes` asks again.

use crate::clock;
use borg_proto::Millis;
use borg_proto::names::ReplicaId;
use borg_proto::rpc::{self, PeerClient};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Most changes in a message, and most bytes of the changes before the last: our choice.
const PER_MESSAGE: usize = 256;
const BYTES_PER_MESSAGE: usize = 1 << 20;
/// Messages that may wait in the stream.
const IN_STREAM: usize = 4;
/// Wait before a broken stream is opened again.
const RECONNECT: Duration = Duration::from_millis(50);

/// A change to be passed on.
#[derive(Debug)]
pub(crate) struct Passed {
    /// An encoded command.
    pub command: Vec<u8>,
    /// The plan that must still hold.
    pub planned: Option<pb::PlannedJob>,
    /// When its asker gives up.
    pub deadline: Millis,
    /// Where its outcome goes.
    pub reply: oneshot::Sender<pb::ProposalOutcome>,
}

/// Passes changes on to a master until `stop`. There is a stream from the first change on, until it breaks.
pub(crate) async fn pass_on(
    to: ReplicaId,
    client: PeerClient<Channel>,
    mut waiting: mpsc::Receiver<Passed>,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            first = waiting.recv() => first,
        };
        let Some(first) = first else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            ended = stream(client.clone(), first, &mut waiting) => if let Err(status) = ended {
                tracing::debug!(%to, why = rpc::explain(&status), "changes cannot be passed on");
            }
        }
        // Whoever waits for these is told at once, and asks again.
        while waiting.try_recv().is_ok() {}
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

/// One stream, to its end.
async fn stream(
    mut client: PeerClient<Channel>,
    first: Passed,
    waiting: &mut mpsc::Receiver<Passed>,
) -> Result<(), Status> {
    let (proposals, messages) = mpsc::channel(IN_STREAM);
    let mut outcomes: Streaming<pb::Outcomes> =
        client.propose(ReceiverStream::new(messages)).await?.into_inner();
    let mut replies = BTreeMap::new();
    let mut next_token = 0;
    let mut next = Some(first);
    loop {
        tokio::select! {
            // Only with room in the stream, so that outcomes are heard while it has none.
            room = proposals.reserve(), if next.is_some() => {
                let Ok(room) = room else { return Ok(()) };
                let mut message = pb::Proposals::default();
                let mut bytes = 0;
                while let Some(Passed { command, planned, deadline, reply }) = next.take() {
                    // Who has given up is not served by doing it.
                    if !reply.is_closed() {
                        bytes += command.len();
                        let (token, timeout_ms) = (next_token, deadline.since(clock::now()).0);
                        next_token += 1;
                        replies.insert(token, reply);
                        message.proposals.push(pb::Proposal { token, command, timeout_ms, planned });
                    }
                    if message.proposals.len() < PER_MESSAGE && bytes < BYTES_PER_MESSAGE {
                        next = waiting.try_recv().ok();
                    }
                }
                room.send(message);
            }
            passed = waiting.recv(), if next.is_none() => match passed {
                Some(passed) => next = Some(passed),
                None => return Ok(()),
            },
            message = outcomes.message() => match message? {
                None => return Ok(()),
                Some(message) => for outcome in message.outcomes {
                    if let Some(reply) = replies.remove(&outcome.token) {
                        // Who has given up needs no answer.
                        drop(reply.send(outcome));
                    }
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::rpc::{Peer, PeerServer};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response};

    type Answers<T> = ReceiverStream<Result<T, Status>>;

    /// A leader that does the first change of every stream and ends the stream at the next message.
    #[derive(Debug, Clone, Default)]
    struct Leader {
        streams: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl Peer for Leader {
        type ProposeStream = Answers<pb::Outcomes>;

        async fn propose(
            &self,
            request: Request<Streaming<pb::Proposals>>,
        ) -> Result<Response<Self::ProposeStream>, Status> {
            self.streams.fetch_add(1, Ordering::SeqCst);
            let mut proposals = request.into_inner();
            let (answers, stream) = mpsc::channel(1);
            tokio::spawn(async move {
                let first = proposals.message().await.unwrap().unwrap().proposals.remove(0);
                let outcome = pb::ProposalOutcome { token: first.token, index: 7, outcome: None };
                answers.send(Ok(pb::Outcomes { outcomes: vec![outcome] })).await.unwrap();
                drop(proposals.message().await);
                answers.send(Err(Status::unavailable("no longer leader"))).await.ok();
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        }

        async fn deliver(
            &self,
            _: Request<Streaming<pb::PeerMessage>>,
        ) -> Result<Response<pb::DeliverResponse>, Status> {
            Err(Status::unimplemented("deliver"))
        }

        async fn join(
            &self,
            _: Request<pb::JoinRequest>,
        ) -> Result<Response<pb::JoinResponse>, Status> {
            Err(Status::unimplemented("join"))
        }

        async fn plan(
            &self,
            _: Request<pb::PassedPlan>,
        ) -> Result<Response<pb::PlanResponse>, Status> {
            Err(Status::unimplemented("plan"))
        }

        async fn look_at_reservations(
            &self,
            _: Request<pb::LookAtReservationsRequest>,
        ) -> Result<Response<pb::ListReservationsResponse>, Status> {
            Err(Status::unimplemented("look at reservations"))
        }

        async fn look_at_tasks(
            &self,
            _: Request<pb::LookAtTasksRequest>,
        ) -> Result<Response<pb::LookAtTasksResponse>, Status> {
            Err(Status::unimplemented("look at tasks"))
        }

        async fn hello(
            &self,
            _: Request<pb::HelloRequest>,
        ) -> Result<Response<pb::HelloResponse>, Status> {
            Err(Status::unimplemented("hello"))
        }

        type FetchBlobStream = Answers<pb::BlobChunk>;

        async fn fetch_blob(
            &self,
            _: Request<pb::FetchBlobRequest>,
        ) -> Result<Response<Self::FetchBlobStream>, Status> {
            Err(Status::unimplemented("fetch_blob"))
        }

        async fn keep_blobs(
            &self,
            _: Request<pb::KeepBlobsRequest>,
        ) -> Result<Response<pb::KeepBlobsResponse>, Status> {
            Err(Status::unimplemented("keep_blobs"))
        }
    }

    async fn pass(changes: &mpsc::Sender<Passed>) -> oneshot::Receiver<pb::ProposalOutcome> {
        let (reply, outcome) = oneshot::channel();
        let deadline = clock::now() + Millis(10_000);
        changes.send(Passed { command: vec![1], planned: None, deadline, reply }).await.unwrap();
        outcome
    }

    /// Whoever waits must not wait for its deadline when the way is gone, and the next finds a new way.
    #[tokio::test]
    async fn changes_in_a_stream_that_breaks_are_told_at_once_and_the_next_take_another() {
        let leader = Leader::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server =
            tonic::transport::Server::builder().add_service(PeerServer::new(leader.clone()));
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = Channel::from_shared(address).unwrap().connect_lazy();
        let (changes, waiting) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let client = PeerClient::new(channel);
        let passing = tokio::spawn(pass_on(ReplicaId(2), client, waiting, stop.clone()));
        let soon = Duration::from_secs(5);
        for stream in 1..=2 {
            let first = pass(&changes).await;
            let first = tokio::time::timeout(soon, first).await.expect("an answer").unwrap();
            assert_eq!((first.index, first.token), (7, 0));
            assert_eq!(leader.streams.load(Ordering::SeqCst), stream);
            let second = pass(&changes).await;
            let second = tokio::time::timeout(soon, second).await.expect("told at once");
            assert!(second.is_err(), "nobody knows what became of it: {second:?}");
        }
        stop.cancel();
        passing.await.unwrap();
        serving.abort();
    }
}
