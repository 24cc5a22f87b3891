//! What a borglet answers over gRPC: polls and the output of tasks, to masters of its cell alone.

use crate::driver::Core;
use crate::log_reader::{Begin, Reader};
use crate::logs::Stream as Output;
use crate::metrics::Metrics;
use crate::sessions::Sessions;
use crate::tasks::Tasks;
use borg_proto::poll::PollRequest;
use borg_proto::rpc::{self, Borglet};
use borg_proto::wire::pb;
use borg_proto::{CellName, IncarnationId, MachineName, ReplicaId, TaskName};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Logs that may be read at once; more are refused with RESOURCE_EXHAUSTED. Our choice.
const READERS: usize = 64;
/// Messages that wait for a slow reader; then the reading waits.
const CHUNKS: usize = 4;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    cell: CellName,
    core: Core,
    tasks: Tasks,
    metrics: Metrics,
    readers: Arc<Semaphore>,
    sessions: Sessions,
}

impl Service {
    pub(crate) fn new(
        cell: CellName,
        machine: MachineName,
        core: Core,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        Self { cell, core, tasks, metrics, readers, sessions: Sessions::new(machine) }
    }

    fn admit<T>(&self, request: &Request<T>, call: &str) -> Result<ReplicaId, Status> {
        let identity = rpc::peer_identity(request, &self.cell)?;
        rpc::require_master(&identity, call)
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

    type OpenTaskSessionStream = ReceiverStream<Result<pb::SessionOutput, Status>>;

    async fn open_task_session(
        &self,
        request: Request<Streaming<pb::TaskSessionInput>>,
    ) -> Result<Response<Self::OpenTaskSessionStream>, Status> {
        let master = self.admit(&request, "OpenTaskSession")?;
        let input = request.into_inner();
        self.sessions.open(master, &self.core, &self.tasks, input).await.map(Response::new)
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
            follow: asked.follow,
            chunks,
            _slot: slot,
        };
        tokio::spawn(reader.read(outputs, begin));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
