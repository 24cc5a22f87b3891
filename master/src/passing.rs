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
                while let Some(Passed { command, deadline, reply }) = next.take() {
                    // Who has given up is not served by doing it.
                    if !reply.is_closed() {
                        bytes += command.len();
                        let (token, timeout_ms) = (next_token, deadline.since(clock::now()).0);
                        next_token += 1;
                        replies.insert(token, reply);
                        message.proposals.push(pb::Proposal { token, command, timeout_ms });
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
