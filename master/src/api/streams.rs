//! Calls that go on: events, checkpoints.

use super::{Api, bad_name};
use crate::feed::{Batch, Cut, Forgotten, Place, Watcher};
use crate::store::Backup;
use borg_proto::Privilege;
use borg_proto::names::{JobKey, UserName};
use borg_proto::wire::pb;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What a streaming call returns.
pub(super) type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Events that may wait for a slow watcher's connection, beside those kept for everyone.
const EVENTS: usize = 256;
/// Rests that are shorter are none: tokio counts in milliseconds.
const LEAST_REST: Duration = Duration::from_millis(2);
/// Entries after which a watcher that wants to know is told how far the log has been looked through,
/// when none of their events was for it. Far fewer than are kept.
const PROGRESS: u64 = 1_000;
/// Pieces of a checkpoint on their way.
const PIECES: usize = 4;
/// Size of one piece of a checkpoint.
const PIECE_BYTES: usize = 256 << 10;

pub(super) fn watch(api: &Api, request: &pb::WatchRequest) -> Result<Items<pb::Event>, Status> {
    let job = match request.job.as_str() {
        "" => None,
        name => Some(name.parse::<JobKey>().map_err(bad_name("job"))?),
    };
    let after = (request.after_index > 0).then_some(request.after_index);
    let watcher = api.feed.watch(after).map_err(|Forgotten { oldest }| {
        Status::out_of_range(format!(
            "after_index: events after {} are no longer kept here, the oldest to ask for is \
             {oldest}; another master may have more",
            request.after_index
        ))
    })?;
    let (out, items) = mpsc::channel(EVENTS);
    let place = Place { index: request.after_index };
    let told = Told { out, job, place, progress: request.progress, last: request.after_index };
    let stop = api.stop.clone();
    tokio::spawn(async move {
        let gone = told.out.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = gone.closed() => {}
            () = told.tell(watcher) => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(items)))
}

/// One watcher's stream.
struct Told {
    out: mpsc::Sender<Result<pb::Event, Status>>,
    job: Option<JobKey>,
    place: Place,
    progress: bool,
    /// Index of the last thing sent.
    last: u64,
}

/// The watcher is gone.
struct Gone;

impl Told {
    async fn tell(mut self, mut watcher: Watcher) {
        loop {
            let cut = match watcher.next().await {
                Ok(batch) => match self.send(&batch).await {
                    Ok(()) => None,
                    Err(Gone) => return,
                },
                Err(cut) => Some(cut),
            };
            if let Some(cut) = cut {
                drop(self.out.send(Err(cut_off(cut, self.place))).await);
                return;
            }
            // What waits is sent together; then the others have their turn.
            if !watcher.is_behind() && watcher.rest() >= LEAST_REST {
                tokio::time::sleep(watcher.rest()).await;
            }
        }
    }

    async fn send(&mut self, batch: &Batch) -> Result<(), Gone> {
        for event in self.place.pass(batch) {
            if self.job.as_ref().is_none_or(|job| is_of(&event.subject, job)) {
                self.last = event.index;
                self.out.send(Ok(event.clone())).await.map_err(|_| Gone)?;
            }
        }
        if self.progress && self.place.index >= self.last + PROGRESS {
            self.last = self.place.index;
            let progress = pb::Event {
                index: self.place.index,
                kind: "watch.progress".to_owned(),
                ..pb::Event::default()
            };
            self.out.send(Ok(progress)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

fn cut_off(cut: Cut, Place { index }: Place) -> Status {
    let go_on = format!("all events up to index {index} were told: watch again after {index}");
    match cut {
        Cut::Slow(missed) => {
            Status::aborted(format!("too slow: {missed} entries behind what is kept; {go_on}"))
        }
        Cut::Reset => Status::aborted(format!(
            "this master was given a newer state as a whole and missed what lies between; {go_on}, \
             at another master"
        )),
    }
}

/// Whether an event's subject is a job or one of its tasks.
fn is_of(subject: &str, job: &JobKey) -> bool {
    let rest = subject.strip_prefix(job.user.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.and_then(|rest| rest.strip_prefix(job.name.as_str()));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn may_save_checkpoints(user: &UserName, is_admin: bool) -> Result<(), Status> {
    if is_admin {
        return Ok(());
    }
    let needed = Privilege::Admin;
    let why = format!("user {user} may not save checkpoints: that needs {needed}");
    Err(Status::permission_denied(why))
}

pub(super) fn save_checkpoint(backup: Backup) -> Items<pb::CheckpointChunk> {
    let (out, items) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let known = Backup::known_bytes(backup.known.as_ref());
        let state = backup.state.encode();
        let of_state = state.chunks(PIECE_BYTES).map(|piece| (piece.to_vec(), Vec::new()));
        let of_known = known.chunks(PIECE_BYTES).map(|piece| (Vec::new(), piece.to_vec()));
        for (data, scheduler) in of_state.chain(of_known) {
            let chunk = pb::CheckpointChunk { data, scheduler };
            if out.blocking_send(Ok(chunk)).is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(items))
}

/// The turn of others comes when all is sent.
pub(super) fn save_history(
    parts: Vec<(String, Vec<u8>)>,
    turn: OwnedSemaphorePermit,
) -> Items<pb::HistoryChunk> {
    let (out, items) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let _turn = turn;
        for (file, bytes) in parts {
            // Of a file with nothing in it, one piece too.
            let mut pieces = bytes.chunks(PIECE_BYTES).peekable();
            let first = pieces.next().unwrap_or_default();
            for piece in std::iter::once(first).chain(pieces) {
                let chunk = pb::HistoryChunk { file: file.clone(), data: piece.to_vec() };
                if out.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(items))
}
