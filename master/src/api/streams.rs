//! Calls that go on: events, logs, checkpoints.

use super::{Api, bad_name, find_task};
use crate::feed::{Batch, Forgotten};
use borg_cell::state::MachineState;
use borg_proto::identity::{ADMIN, Identity, Role};
use borg_proto::names::{IncarnationId, JobKey, UserName};
use borg_proto::rpc::{self, Timeouts};
use borg_proto::wire::pb;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// What a streaming call returns.
pub(super) type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Events that may wait for a slow watcher's connection, beside those kept for everyone.
const EVENTS: usize = 256;
/// Pieces of a checkpoint on their way.
const PIECES: usize = 4;
/// Size of one piece of a checkpoint.
const PIECE_BYTES: usize = 256 << 10;

pub(super) fn watch(api: &Api, request: pb::WatchRequest) -> Result<Items<pb::Event>, Status> {
    let job = match request.job.as_str() {
        "" => None,
        name => Some(name.parse::<JobKey>().map_err(bad_name("job"))?),
    };
    let after = (request.after_index > 0).then_some(request.after_index);
    let applied = api.view().state.applied();
    let (past, mut live) = api.feed.watch(after, applied).map_err(|Forgotten { oldest }| {
        Status::out_of_range(format!(
            "events after index {} are no longer kept; the oldest to ask for is {oldest}",
            request.after_index
        ))
    })?;
    let (out, items) = mpsc::channel(EVENTS);
    let stop = api.stop.clone();
    tokio::spawn(async move {
        for batch in past {
            if !send_batch(&out, &batch, after, job.as_ref()).await {
                return;
            }
        }
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                () = out.closed() => return,
                next = live.recv() => next,
            };
            match next {
                Ok(batch) => {
                    if !send_batch(&out, &batch, after, job.as_ref()).await {
                        return;
                    }
                }
                Err(RecvError::Closed) => {
                    let why = "this master was given a newer state as a whole and missed what lies \
                               between; watch again, at another master";
                    drop(out.send(Err(Status::aborted(why))).await);
                    return;
                }
                Err(RecvError::Lagged(missed)) => {
                    let why = format!(
                        "too slow: {missed} entries missed; watch again after the last index seen"
                    );
                    drop(out.send(Err(Status::aborted(why))).await);
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(items)))
}

/// False when the watcher is gone.
async fn send_batch(
    out: &mpsc::Sender<Result<pb::Event, Status>>,
    batch: &Arc<Batch>,
    after: Option<u64>,
    job: Option<&JobKey>,
) -> bool {
    let prefix = job.map(|job| format!("{job}/"));
    for event in &batch.events {
        let (kind, subject, detail) = event.describe(&batch.state);
        let wanted = match (job, &prefix) {
            (Some(job), Some(prefix)) => subject == job.to_string() || subject.starts_with(prefix),
            (_, _) => true,
        };
        if !wanted || after.is_some_and(|after| event.index <= after) {
            continue;
        }
        let event = pb::Event { index: event.index, at_ms: event.at.0, kind, subject, detail };
        if out.send(Ok(event)).await.is_err() {
            return false;
        }
    }
    true
}

pub(super) async fn read_logs(
    api: &Api,
    user: &UserName,
    request: pb::ReadLogsRequest,
) -> Result<Items<pb::LogChunk>, Status> {
    api.caught_up.check()?;
    let view = api.view();
    let (name, id) = find_task(&view, &request.task)?;
    if user.as_str() != ADMIN && *user != name.job.user {
        return Err(Status::permission_denied(format!(
            "user {user} is neither the owner of {} nor {ADMIN}",
            name.job
        )));
    }
    let task = view.state.task(id).ok_or_else(|| Status::not_found("the task is gone"))?;
    let Some((machine, newest)) = task.last_place else {
        return Err(Status::failed_precondition(format!(
            "{name} was never placed: there is no log"
        )));
    };
    let number = if request.incarnation == 0 { newest } else { request.incarnation };
    if number > newest {
        return Err(Status::not_found(format!(
            "{name} has incarnations 1 to {newest}, not {number}"
        )));
    }
    let machine = view
        .state
        .machine(machine)
        .ok_or_else(|| Status::not_found(format!("the machine on which {name} ran was removed")))?;
    if machine.state == MachineState::Down {
        let name = &machine.name;
        return Err(Status::failed_precondition(format!(
            "machine {name} does not answer: its logs are there"
        )));
    }
    let server = Identity { cell: api.cell.clone(), role: Role::Borglet(machine.name.clone()) }
        .server_name()
        .expect("a borglet serves, so it has a server name");
    let channel = rpc::channel(&machine.address, &api.credentials, &server, Timeouts::default())
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = rpc::borglet_client(channel)
        .read_task_log(pb::ReadTaskLogRequest {
            id: Some((&IncarnationId { task: id, number }).into()),
            stream: request.stream,
            follow: request.follow,
            tail_bytes: request.tail_bytes,
            name: name.to_string(),
        })
        .await
        // A status with a cause was made on this side: the machine did not speak.
        .map_err(|status| match status.source() {
            Some(_) => Status::failed_precondition(format!(
                "machine {}, where the output of {name} is, does not answer: {}",
                machine.name,
                rpc::explain(&status)
            )),
            None => status,
        })?;
    Ok(Box::pin(async_stop(answer.into_inner(), api.stop.clone())))
}

/// Passes a stream on until the process stops.
fn async_stop(
    mut chunks: tonic::Streaming<pb::LogChunk>,
    stop: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = Result<pb::LogChunk, Status>> {
    let (out, items) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                () = out.closed() => return,
                next = chunks.next() => next,
            };
            let Some(chunk) = next else { return };
            if out.send(chunk).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(items)
}

pub(super) fn save_checkpoint(
    api: &Api,
    user: &UserName,
) -> Result<Items<pb::CheckpointChunk>, Status> {
    if user.as_str() != ADMIN {
        return Err(Status::permission_denied(format!(
            "user {user} may not save checkpoints: that needs {ADMIN}"
        )));
    }
    api.caught_up.check()?;
    let state = api.view().state;
    let (out, items) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        for piece in state.encode().chunks(PIECE_BYTES) {
            let chunk = pb::CheckpointChunk { data: piece.to_vec() };
            if out.blocking_send(Ok(chunk)).is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(items)))
}
