//! What a borglet answers over gRPC: polls and the output of tasks, to masters of its cell alone.

use crate::container::ContainerId;
use crate::driver::Core;
use crate::executor::ActError;
use crate::logs::{LogChunk, Stream as Output};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use borg_proto::poll::{PollRequest, TaskStatus};
use borg_proto::rpc::{self, Borglet};
use borg_proto::wire::pb;
use borg_proto::{CellName, IncarnationId, TaskName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Logs that may be read at once; more are refused with RESOURCE_EXHAUSTED. Our choice.
const READERS: usize = 64;
/// Most bytes of output in one message. Our choice.
const CHUNK_BYTES: usize = 64 << 10;
/// Messages that wait for a slow reader; then the reading waits.
const CHUNKS: usize = 4;
/// How often the end of a growing log is looked at. Our choice.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    cell: CellName,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    readers: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(cell: CellName, core: Core, tasks: Tasks, metrics: Metrics) -> Self {
        Self { cell, core, tasks, metrics, readers: Arc::new(Semaphore::new(READERS)) }
    }

    fn admit<T>(&self, request: &Request<T>, call: &str) -> Result<(), Status> {
        let identity = rpc::peer_identity(request, &self.cell)?;
        rpc::require_master(&identity, call).map(drop)
    }
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
        let output = match asked.stream() {
            pb::LogStream::Stdout => Output::Stdout,
            pb::LogStream::Stderr => Output::Stderr,
            pb::LogStream::Unspecified => {
                return Err(Status::invalid_argument("stream: is not STDOUT or STDERR"));
            }
        };
        let slot = Arc::clone(&self.readers).try_acquire_owned();
        let slot = slot.map_err(|_| {
            Status::resource_exhausted(format!("{READERS} logs are being read already"))
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
            output,
            follow: asked.follow,
            chunks,
            _slot: slot,
        };
        tokio::spawn(reader.read(asked.tail_bytes));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One reading of an incarnation's output: all of its runs that are kept, one after the other.
#[derive(Debug)]
struct Reader {
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    name: TaskName,
    id: IncarnationId,
    output: Output,
    follow: bool,
    chunks: mpsc::Sender<Result<pb::LogChunk, Status>>,
    _slot: OwnedSemaphorePermit,
}

impl Reader {
    async fn read(self, tail_bytes: u64) {
        if let Err(error) = self.read_all(tail_bytes).await {
            let status = Status::internal(format!("reading the log: {error}"));
            // Nobody listens any more: then nobody misses it.
            drop(self.chunks.send(Err(status)).await);
        }
    }

    async fn read_all(&self, tail_bytes: u64) -> Result<(), ActError> {
        let mut runs: BTreeMap<u32, ContainerId> =
            self.tasks.logs(&self.name, self.id).await.into_iter().collect();
        let (mut run, mut offset) = self.begin(&runs, tail_bytes).await?;
        loop {
            // Asked before the last look at the log: what was written until then is still sent.
            let over = self.is_over().await;
            runs.extend(self.tasks.known_runs(&self.name, self.id));
            for (&number, container) in runs.range(run..) {
                if number > run {
                    (run, offset) = (number, 0);
                }
                match self.send_rest(container, offset).await? {
                    Some(next) => offset = next,
                    None => return Ok(()),
                }
            }
            if over || !self.follow || self.chunks.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// With which run, and where in its output, the reading begins.
    async fn begin(
        &self,
        runs: &BTreeMap<u32, ContainerId>,
        tail_bytes: u64,
    ) -> Result<(u32, u64), ActError> {
        let mut wanted = tail_bytes;
        if wanted == 0 {
            return Ok((0, 0));
        }
        for (&number, container) in runs.iter().rev() {
            let end = self.chunk(container, u64::MAX, 0).await?.end;
            if end >= wanted {
                return Ok((number, end - wanted));
            }
            wanted -= end;
        }
        Ok((0, 0))
    }

    /// Sends what there is from `offset` on; `None` when nobody listens any more.
    async fn send_rest(
        &self,
        container: &ContainerId,
        mut offset: u64,
    ) -> Result<Option<u64>, ActError> {
        loop {
            let chunk = self.chunk(container, offset, CHUNK_BYTES).await?;
            if chunk.data.is_empty() {
                return Ok(Some(chunk.next_offset));
            }
            offset = chunk.next_offset;
            self.metrics.log_bytes.inc_by(u64::try_from(chunk.data.len()).unwrap_or(u64::MAX));
            if self.chunks.send(Ok(pb::LogChunk { data: chunk.data })).await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn chunk(
        &self,
        container: &ContainerId,
        offset: u64,
        max: usize,
    ) -> Result<LogChunk, ActError> {
        self.tasks.read_log(container.clone(), self.output, offset, max).await
    }

    async fn is_over(&self) -> bool {
        match self.core.status(self.id).await {
            None | Some(TaskStatus::Ended { .. }) => true,
            Some(
                TaskStatus::Starting
                | TaskStatus::Up { .. }
                | TaskStatus::BackOff { .. }
                | TaskStatus::Stopping,
            ) => false,
        }
    }
}
