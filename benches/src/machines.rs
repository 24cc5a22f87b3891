//! Thousands of machines in one process, as a cell's masters see them: real gRPC with mutual TLS, the
//! supervisor that decides on every machine, and in place of containers processes that are only said
//! to run.
//!
//! All machines listen at one address, and each link shard keeps a connection to each of its
//! machines, as to real ones. The server's certificate is a wildcard's for the cell's borglets,
//! issued with the cell's own CA. Leaves starting masters to `local_cell`.

use crate::Error;
use crate::clock;
use borg_cell::fixture::info;
use borg_proto::identity::{Identity, Role};
use borg_proto::poll::{Fence, PollAnswer, PollRefusal, PollRequest};
use borg_proto::rpc::{self, Borglet, Credentials};
use borg_proto::wire::pb;
use borg_proto::{CellName, MachineName, Millis};
use borglet_supervisor::{Config, Effect, Input, Supervisor};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// Cores of a machine, in thousandths, and its memory.
const MILLI_CPU: u64 = 64_000;
const RAM_BYTES: u64 = 256 << 30;
/// Machines of a rack, as their attribute `rack` tells.
pub const RACK: u32 = 40;

/// The name of a machine by its number.
#[must_use]
pub fn name(number: u32) -> String {
    format!("m-{number}")
}

/// Credentials for every borglet of a cell, from its CA's directory.
///
/// # Errors
/// When the CA is not there.
pub fn credentials(ca: &Path) -> Result<Credentials, Error> {
    let read = |name: &str| std::fs::read_to_string(ca.join(name));
    let (ca_pem, cell) = (read("ca.pem")?, read("cell")?);
    let cell: CellName = cell.trim().parse()?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, KeyPair::from_pem(&read("ca-key.pem")?)?)?;
    let machine = Role::Borglet(name(0).parse()?);
    let identity = Identity { cell: cell.clone(), role: machine };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::URI(identity.to_string().try_into()?),
        SanType::DnsName(format!("*.borglet.{cell}.borg").try_into()?),
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Credentials::from_pem(ca_pem, certificate.pem(), key.serialize_pem())?)
}

/// Serves `m-0` to `m-COUNT` until the process ends.
///
/// # Errors
/// When TLS or the listener fails.
pub async fn serve(
    credentials: &Credentials,
    listener: TcpListener,
    count: u32,
) -> Result<(), Error> {
    let cell = &credentials.identity.cell;
    let mut machines = BTreeMap::new();
    for number in 0..count {
        let machine: MachineName = name(number).parse()?;
        let config = Config::new(cell.clone(), machine.clone(), 1);
        let rack = format!("r{}", number / RACK);
        let info = info(MILLI_CPU, RAM_BYTES, &[("rack", &rack)]);
        let supervisor = Supervisor::new(config, Fence::default(), Vec::new(), info);
        let machine_state = Machine { supervisor, answers: BTreeMap::new(), token: 0 };
        machines.insert(machine, Mutex::new(machine_state));
    }
    let service = Machines { cell: cell.clone(), machines: Arc::new(machines) };
    rpc::server(credentials)?
        .add_service(rpc::borglet_server(service))
        .serve_with_incoming(rpc::serve_incoming(listener))
        .await?;
    Ok(())
}

#[derive(Debug)]
struct Machines {
    cell: CellName,
    machines: Arc<BTreeMap<MachineName, Mutex<Machine>>>,
}

type Answer = Result<PollAnswer, PollRefusal>;

#[derive(Debug)]
struct Machine {
    supervisor: Supervisor,
    answers: BTreeMap<u64, oneshot::Sender<Answer>>,
    token: u64,
}

fn now() -> Millis {
    let ms = Duration::from_secs_f64(clock::unix_ms() / 1e3).as_millis();
    Millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

impl Machine {
    fn poll(&mut self, request: PollRequest) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.token += 1;
        self.answers.insert(self.token, reply);
        self.handle(Input::Poll { token: self.token, request });
        answer
    }

    /// Carries effects out: what is to start runs at once, what is to end has ended.
    fn handle(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.supervisor.handle(now(), input) {
                match effect {
                    Effect::Start(launch) => inputs.push_back(Input::Started {
                        run: launch.run,
                        pid: 4_000,
                        since: now(),
                        address: None,
                    }),
                    Effect::Terminate { run } | Effect::Kill { run } => {
                        inputs.push_back(Input::Exited { run, at: now(), failure: None });
                    }
                    Effect::Answer { token, result } => {
                        if let Some(reply) = self.answers.remove(&token) {
                            // A shard that asked again has gone away from its first call.
                            drop(reply.send(result));
                        }
                    }
                    Effect::RememberFence(_)
                    | Effect::ExtendLease { .. }
                    | Effect::CapCpu { .. }
                    | Effect::ShareCpu { .. }
                    | Effect::Probe { .. }
                    | Effect::ExpectBlob { .. }
                    | Effect::FetchBlob { .. }
                    | Effect::Unpack { .. }
                    | Effect::DropBlob { .. }
                    | Effect::MeasureData { .. }
                    | Effect::DropData { .. }
                    | Effect::Remove { .. } => {}
                }
            }
        }
    }

    fn next_wakeup(&self) -> Duration {
        let at = self.supervisor.next_wakeup().unwrap_or(now() + Millis(1_000));
        Duration::from_millis(at.since(now()).0.max(1))
    }
}

impl Machines {
    fn lock(&self, name: &MachineName) -> Result<MutexGuard<'_, Machine>, Status> {
        let machine =
            self.machines.get(name).ok_or_else(|| Status::not_found("no such machine"))?;
        Ok(machine.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl Borglet for Machines {
    async fn poll(
        &self,
        request: Request<pb::PollRequest>,
    ) -> Result<Response<pb::PollAnswer>, Status> {
        let identity = rpc::peer_identity(&request, &self.cell)?;
        rpc::require_master(&identity, "Poll")?;
        let asked =
            PollRequest::try_from(request.into_inner()).map_err(|error| rpc::status_of(&error))?;
        let name = asked.machine.clone();
        let mut answer = self.lock(&name)?.poll(asked);
        loop {
            let rest = self.lock(&name)?.next_wakeup();
            tokio::select! {
                answered = &mut answer => {
                    let answered = answered.map_err(|_| Status::unavailable("asked again"))?;
                    return match answered {
                        Ok(answer) => Ok(Response::new((&answer).into())),
                        Err(refusal) => Err(rpc::status_of_refusal(&refusal)),
                    };
                }
                () = tokio::time::sleep(rest) => self.lock(&name)?.handle(Input::Tick),
            }
        }
    }

    type FetchBlobStream = tokio_stream::Empty<Result<pb::BlobChunk, Status>>;

    async fn fetch_blob(
        &self,
        _request: Request<pb::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        Err(Status::unimplemented("there are no packages here"))
    }

    async fn put_blob(
        &self,
        _request: Request<tonic::Streaming<pb::BlobChunk>>,
    ) -> Result<Response<pb::PutBlobResponse>, Status> {
        Err(Status::unimplemented("there are no packages here"))
    }

    type ReadTaskLogStream = tokio_stream::Empty<Result<pb::LogChunk, Status>>;

    async fn read_task_log(
        &self,
        _request: Request<pb::ReadTaskLogRequest>,
    ) -> Result<Response<Self::ReadTaskLogStream>, Status> {
        Err(Status::unimplemented("nothing runs here"))
    }

    type OpenTaskSessionStream = tokio_stream::Empty<Result<pb::SessionOutput, Status>>;

    async fn open_task_session(
        &self,
        _request: Request<tonic::Streaming<pb::TaskSessionInput>>,
    ) -> Result<Response<Self::OpenTaskSessionStream>, Status> {
        Err(Status::unimplemented("nothing runs here"))
    }
}
