//! What a borglet answers over gRPC: polls and the output of tasks, to masters of its cell alone.

use crate::driver::Core;
use crate::log_reader::{Begin, Reader};
use crate::logs::Stream as Output;
use crate::metrics::Metrics;
use crate::packages::{Packages, trouble_of};
use crate::sessions::Sessions;
use crate::tasks::{Tasks, blocking};
use borg_proto::blobs::{ArrivalError, Part};
use borg_proto::identity::{ADMIN, Role};
use borg_proto::package::{BLOB_CHUNK_BYTES, Digest};
use borg_proto::poll::PollRequest;
use borg_proto::rpc::{self, Borglet, Pace, Paced};
use borg_proto::slots::Slots;
use borg_proto::wire::pb;
use borg_proto::{CellName, IncarnationId, MachineName, ReplicaId, TaskName, UserName};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Logs that may be read at once; more are refused with RESOURCE_EXHAUSTED. A user may have half of those that
/// are free. Our choice; `borgctl logs JOB` reads 32.
const READERS: usize = 128;
/// The same beside these for `admin` alone, who has to see what goes on. Our choice.
const KEPT_READERS: usize = 8;
/// Blobs that are given to others at once; more are refused with RESOURCE_EXHAUSTED. Our choice; the masters
/// name a machine to four others at a time, and each to several blobs.
const GIVERS: usize = 32;
/// Whoever takes nothing of a blob that he is given for so long is given up. Our choice.
const UNREAD_FOR: Duration = Duration::from_secs(30);
/// Messages that wait for a slow reader; then the reading waits.
const CHUNKS: usize = 4;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    cell: CellName,
    core: Core,
    tasks: Tasks,
    packages: Packages,
    metrics: Metrics,
    readers: Slots,
    kept_readers: Slots,
    sessions: Sessions,
    givers: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(
        cell: CellName,
        machine: MachineName,
        core: Core,
        tasks: Tasks,
        packages: Packages,
        metrics: Metrics,
    ) -> Self {
        let (readers, kept_readers) = (Slots::new(READERS), Slots::new(KEPT_READERS));
        let givers = Arc::new(Semaphore::new(GIVERS));
        let sessions = Sessions::new(machine);
        Self { cell, core, tasks, packages, metrics, readers, kept_readers, givers, sessions }
    }

    fn admit<T>(&self, request: &Request<T>, call: &str) -> Result<ReplicaId, Status> {
        let identity = rpc::peer_identity(request, &self.cell)?;
        rpc::require_master(&identity, call)
    }
}

/// A blob that was handed over was not taken.
enum NotTaken {
    Stream(Status),
    Arrival(ArrivalError),
}

impl From<Status> for NotTaken {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

impl From<ArrivalError> for NotTaken {
    fn from(error: ArrivalError) -> Self {
        Self::Arrival(error)
    }
}

/// Takes a blob and tells that it came, or what is wrong with the disk or with what came.
async fn take_and_tell(
    packages: Packages,
    digest: Digest,
    first: pb::BlobChunk,
    chunks: Paced,
) -> Result<(), Status> {
    let order = packages.order_for(digest);
    match take_blob(&packages, digest, first, chunks).await {
        Ok(()) => {
            tracing::info!(%digest, "blob taken");
            packages.came(digest, order).await;
            Ok(())
        }
        Err(NotTaken::Stream(status)) => Err(status),
        Err(NotTaken::Arrival(error)) => {
            if let Some(trouble) = trouble_of(&error) {
                packages.not_kept(digest, order, trouble).await;
            }
            Err(not_taken(&error))
        }
    }
}

async fn take_blob(
    packages: &Packages,
    digest: Digest,
    first: pb::BlobChunk,
    mut chunks: Paced,
) -> Result<(), NotTaken> {
    let arrival = packages.store().blobs().arrival(digest)?;
    let mut part: Part = blocking(move || arrival.open()).await?;
    // Whoever hands it over may know less of it than is here by now.
    let Some(mut known) = part.have().checked_sub(first.offset) else {
        let (have, offset) = (part.have(), first.offset);
        let why = format!("offset: {offset} is beyond the {have} bytes that are here");
        return Err(Status::out_of_range(why).into());
    };
    let mut next = Some(first);
    while let Some(chunk) = next {
        let skip = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.data.len());
        known -= skip as u64;
        let mut data = chunk.data;
        data.drain(..skip);
        part = packages.add(part, data).await?;
        next = chunks.next().await?;
    }
    blocking(move || part.finish()).await?;
    Ok(())
}

#[tonic::async_trait]
impl Borglet for Service {
    async fn poll(
        &self,
        request: Request<pb::PollRequest>,
    ) -> Result<Response<pb::PollAnswer>, Status> {
        self.admit(&request, "Poll")?;
        let asked =
            PollRequest::try_from(request.into_inner()).map_err(|error| rpc::status_of(&error))?;
        match self.core.poll(asked).await {
            Ok(Ok(answer)) => Ok(Response::new((&answer).into())),
            Ok(Err(refusal)) => Err(rpc::status_of_refusal(&refusal)),
            Err(busy) => {
                self.metrics.refused_polls.inc();
                Err(Status::unavailable(busy.to_string()))
            }
        }
    }

    type OpenTaskSessionStream = ReceiverStream<Result<pb::SessionOutput, Status>>;

    async fn open_task_session(
        &self,
        request: Request<Streaming<pb::TaskSessionInput>>,
    ) -> Result<Response<Self::OpenTaskSessionStream>, Status> {
        let master = self.admit(&request, "OpenTaskSession")?;
        let input = request.into_inner();
        self.sessions.open(master, &self.core, &self.tasks, input).await.map(Response::new)
    }

    type FetchBlobStream = ReceiverStream<Result<pb::BlobChunk, Status>>;

    async fn fetch_blob(
        &self,
        request: Request<pb::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let identity = rpc::peer_identity(&request, &self.cell)?;
        if matches!(identity.role, Role::User(_)) {
            rpc::require_master(&identity, "FetchBlob")?;
        }
        let pb::FetchBlobRequest { digest, offset } = request.into_inner();
        let digest = read_digest(&digest)?;
        let slot = Arc::clone(&self.givers).try_acquire_owned();
        let slot = slot.map_err(|_| {
            Status::resource_exhausted(format!("{GIVERS} blobs are being given already"))
        })?;
        let store = self.packages.store().clone();
        let file = blocking(move || store.blobs().open_blob(digest, offset)).await;
        let file = file.map_err(|error| Status::internal(format!("blob {digest}: {error}")))?;
        let file =
            file.ok_or_else(|| Status::not_found(format!("this machine has no blob {digest}")))?;
        let (chunks, stream) = mpsc::channel(CHUNKS);
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            give(file, &chunks, &metrics).await;
            drop(slot);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<pb::BlobChunk>>,
    ) -> Result<Response<pb::PutBlobResponse>, Status> {
        self.admit(&request, "PutBlob")?;
        let mut chunks = Paced::new(request.into_inner(), Pace::OF_MACHINES);
        let empty = || Status::invalid_argument("the stream is empty");
        let first = chunks.next().await?.ok_or_else(empty)?;
        let digest = read_digest(&first.digest)?;
        // Whoever sends may be gone before the last of it is on the disk: that it came is told all the same.
        let taking = take_and_tell(self.packages.clone(), digest, first, chunks);
        let taken = tokio::spawn(taking).await;
        let failed = |error: JoinError| Status::internal(format!("taking the blob: {error}"));
        taken.map_err(failed)??;
        Ok(Response::new(pb::PutBlobResponse {}))
    }

    type ReadTaskLogStream = ReceiverStream<Result<pb::LogChunk, Status>>;

    async fn read_task_log(
        &self,
        request: Request<pb::ReadTaskLogRequest>,
    ) -> Result<Response<Self::ReadTaskLogStream>, Status> {
        self.admit(&request, "ReadTaskLog")?;
        let asked = request.into_inner();
        let id = asked
            .id
            .ok_or_else(|| Status::invalid_argument("id: nothing is given, but it is required"))?;
        let id = IncarnationId::try_from(id).map_err(|error| rpc::status_of(&error))?;
        let name: TaskName = asked
            .name
            .parse()
            .map_err(|error| Status::invalid_argument(format!("name: {error}")))?;
        let outputs = match asked.stream() {
            pb::LogStream::Stdout => vec![Output::Stdout],
            pb::LogStream::Stderr => vec![Output::Stderr],
            pb::LogStream::Both => vec![Output::Stdout, Output::Stderr],
            pb::LogStream::Unspecified => {
                return Err(Status::invalid_argument("stream: is not STDOUT, STDERR or BOTH"));
            }
        };
        let begin = Begin {
            tail_bytes: asked.tail_bytes,
            tail_lines: asked.tail_lines,
            since_ms: asked.since_ms,
        };
        let user: UserName = match asked.user.as_str() {
            "" => name.job.user.clone(),
            user => {
                user.parse().map_err(|error| Status::invalid_argument(format!("user: {error}")))?
            }
        };
        let slot = self.readers.take(&user).or_else(|none| {
            let kept = (user.as_str() == ADMIN).then(|| self.kept_readers.take(&user).ok());
            kept.flatten().ok_or(none)
        });
        let slot = slot.map_err(|none| {
            Status::resource_exhausted(format!("logs read on this machine: {none}: end some"))
        })?;
        if self.tasks.logs(&name, id).await.is_empty() && self.core.status(id).await.is_none() {
            return Err(Status::not_found(format!(
                "this machine has no output of {name} incarnation {}",
                id.number
            )));
        }
        let (chunks, stream) = mpsc::channel(CHUNKS);
        let reader = Reader {
            core: self.core.clone(),
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            name,
            id,
            follow: asked.follow,
            chunks,
            _slot: slot,
        };
        tokio::spawn(reader.read(outputs, begin));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Reads a blob's file to its end, for as long as somebody takes something of it now and then. No thread waits
/// for that.
async fn give(
    mut file: std::fs::File,
    chunks: &mpsc::Sender<Result<pb::BlobChunk, Status>>,
    metrics: &Metrics,
) {
    loop {
        let (read, back) = blocking(move || {
            let mut data = vec![0; BLOB_CHUNK_BYTES];
            (file.read(&mut data).map(|read| data.truncate(read)).map(|()| data), file)
        })
        .await;
        file = back;
        let chunk = match read {
            Ok(data) if data.is_empty() => return,
            Ok(data) => {
                metrics.blob_bytes_out.inc_by(data.len() as u64);
                Ok(pb::BlobChunk { data, ..pb::BlobChunk::default() })
            }
            Err(error) => Err(Status::internal(format!("reading the blob: {error}"))),
        };
        let failed = chunk.is_err();
        if chunks.send_timeout(chunk, UNREAD_FOR).await.is_err() || failed {
            return;
        }
    }
}

fn read_digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|error| Status::invalid_argument(format!("digest: {error}")))
}

fn not_taken(error: &ArrivalError) -> Status {
    let why = error.to_string();
    match error {
        ArrivalError::NotWanted(_) => Status::failed_precondition(why),
        ArrivalError::Busy(_) => Status::unavailable(why),
        ArrivalError::Wrong { .. } | ArrivalError::TooLong { .. } | ArrivalError::Short { .. } => {
            Status::data_loss(why)
        }
        ArrivalError::NoRoom { .. } | ArrivalError::Disk { .. } => Status::resource_exhausted(why),
    }
}
