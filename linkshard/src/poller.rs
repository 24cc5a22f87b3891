//! The doing half of a link shard: polls borglets over gRPC, one call per machine at a time.
//!
//! Holds no decision: what to ask, when and whom comes from [`Shard`].

use crate::shard::{Config, Effect, Input, PollFailure, Shard};
use borg_proto::identity::{Identity, Role};
use borg_proto::names::{CellName, MachineName, ReplicaId};
use borg_proto::package::Digest;
use borg_proto::peer::{ShardOrders, ShardReport};
use borg_proto::poll::{PollAnswer, PollRequest};
use borg_proto::rpc::{self, BorgletClient, Credentials, Timeouts};
use borg_proto::time::Millis;
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Answers that may wait for the shard's attention. When it is full the answering calls wait, so
/// the shard slows down its polls and loses nothing.
const ANSWERS: usize = 4_096;

/// Most inputs that one turn of the shard takes.
const INPUTS_PER_TURN: usize = 512;

/// How often the shard looks at the time.
const TICK: Duration = Duration::from_millis(10);

/// A blob may be on its way to a machine for so long. 15 minutes: our choice; the largest layer at 20 MB/s.
const PUSH_WITHIN: Duration = Duration::from_secs(900);
/// Pieces of a blob that wait for the connection.
pub const PIECES: usize = 4;

/// Reads a blob of this master from an offset on, piece by piece; an error says why there is none.
pub type OpenBlob = Arc<dyn Fn(Digest, u64) -> Opening + Send + Sync>;
/// What comes of [`OpenBlob`].
pub type Opening =
    Pin<Box<dyn Future<Output = Result<mpsc::Receiver<Vec<u8>>, String>> + Send + 'static>>;

/// What a running shard is connected to.
pub struct Wiring {
    /// The leader's orders. The sender drops orders when this is full: the leader repeats them.
    pub orders: mpsc::Receiver<ShardOrders>,
    /// What goes to the leader. When it is full, a report is dropped: the shard repeats itself.
    pub reports: mpsc::Sender<(ReplicaId, ShardReport)>,
    /// How many machines the shard polls, for people.
    pub machines: Arc<AtomicUsize>,
    /// The blobs of this master.
    pub blobs: OpenBlob,
    /// Milliseconds since the Unix epoch, never going back.
    pub clock: fn() -> Millis,
}

impl std::fmt::Debug for Wiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wiring").finish_non_exhaustive()
    }
}

/// Runs a link shard until `stop`.
pub async fn run(
    config: Config,
    credentials: Credentials,
    mut wiring: Wiring,
    stop: CancellationToken,
) {
    let cell = config.cell.clone();
    let mut shard = Shard::new(config);
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    let blobs = wiring.blobs.clone();
    let mut poller = Poller { cell, credentials, answers, blobs, machines: BTreeMap::new() };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = Vec::with_capacity(INPUTS_PER_TURN);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => turn.push(Input::Tick),
            Some(orders) = wiring.orders.recv() => turn.push(Input::Orders(orders)),
            _ = answered.recv_many(&mut turn, INPUTS_PER_TURN) => {}
        }
        for effect in shard.handle((wiring.clock)(), turn.drain(..)) {
            match effect {
                Effect::Poll { machine, ticket, address, request, patience, afresh } => {
                    if afresh {
                        poller.forget(&machine);
                    }
                    poller.poll(machine, ticket, &address, request, patience);
                }
                Effect::Push { machine, address, digest, offset } => {
                    poller.push(machine, &address, digest, offset);
                }
                Effect::Forget(machine) => poller.forget(&machine),
                Effect::Report { to, report } => {
                    if wiring.reports.try_send((to, report)).is_err() {
                        tracing::debug!(%to, "report dropped: the queue to the leader is full");
                    }
                }
            }
        }
        wiring.machines.store(shard.machines(), Ordering::Relaxed);
    }
}

struct Poller {
    cell: CellName,
    credentials: Credentials,
    answers: mpsc::Sender<Input>,
    blobs: OpenBlob,
    machines: BTreeMap<MachineName, Machine>,
}

/// The connection to one borglet, and the call that is out.
#[derive(Debug)]
struct Machine {
    address: String,
    client: BorgletClient<Channel>,
    call: Option<AbortHandle>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.abort();
        }
    }
}

impl Poller {
    fn poll(
        &mut self,
        name: MachineName,
        ticket: u64,
        address: &str,
        request: PollRequest,
        patience: Millis,
    ) {
        let client = match self.connection(&name, address) {
            Ok(client) => client,
            Err(why) => return self.answer_later(name, ticket, PollFailure::Unreachable(why)),
        };
        let answers = self.answers.clone();
        let machine = name.clone();
        let call = tokio::spawn(async move {
            let input = match call(client, request, patience).await {
                Ok(answer) => Input::Answered { machine, ticket, answer },
                Err(failure) => Input::Failed { machine, ticket, failure },
            };
            if answers.send(input).await.is_err() {
                tracing::debug!("the shard has stopped");
            }
        });
        if let Some(machine) = self.machines.get_mut(&name)
            && let Some(superseded) = machine.call.replace(call.abort_handle())
        {
            superseded.abort();
        }
    }

    /// Hands a blob over, over a connection of its own: polls do not wait behind it.
    fn push(&self, machine: MachineName, address: &str, digest: Digest, offset: u64) {
        let (answers, open) = (self.answers.clone(), self.blobs.clone());
        let client = self.connect(&machine, address);
        tokio::spawn(async move {
            let handed = async {
                let pieces = open(digest, offset).await?;
                hand_over(client?, digest, offset, pieces).await
            };
            let done = tokio::time::timeout(PUSH_WITHIN, handed).await;
            let done = done.unwrap_or_else(|_| Err("it took too long".to_owned()));
            match &done {
                Ok(()) => tracing::info!(%machine, %digest, "blob handed over"),
                Err(why) => tracing::warn!(%machine, %digest, why, "blob not handed over"),
            }
            let done = done.is_ok();
            if answers.send(Input::Pushed { machine, digest, done }).await.is_err() {
                tracing::debug!("the shard has stopped");
            }
        });
    }

    fn answer_later(&self, machine: MachineName, ticket: u64, failure: PollFailure) {
        tracing::debug!(%machine, ?failure, "no connection to the borglet");
        if self.answers.try_send(Input::Failed { machine, ticket, failure }).is_err() {
            tracing::debug!("the shard gives the poll up by its own deadline");
        }
    }

    /// The machine's connection: opened when first needed, again when its address changed. Nothing pings
    /// it, as polls follow each other anyway.
    fn connection(
        &mut self,
        name: &MachineName,
        address: &str,
    ) -> Result<BorgletClient<Channel>, String> {
        if let Some(machine) = self.machines.get(name).filter(|machine| machine.address == address)
        {
            return Ok(machine.client.clone());
        }
        let client = self.connect(name, address)?;
        let machine = Machine { address: address.to_owned(), client: client.clone(), call: None };
        self.machines.insert(name.clone(), machine);
        Ok(client)
    }

    fn connect(&self, name: &MachineName, address: &str) -> Result<BorgletClient<Channel>, String> {
        let identity = Identity { cell: self.cell.clone(), role: Role::Borglet(name.clone()) };
        let server = identity.server_name().expect("a borglet serves, so it has a server name");
        let timeouts = Timeouts { ping: None, ..Timeouts::default() };
        let channel = rpc::channel(address, &self.credentials, &server, timeouts)
            .map_err(|error| error.to_string())?;
        Ok(rpc::borglet_client(channel))
    }

    fn forget(&mut self, machine: &MachineName) {
        self.machines.remove(machine);
    }
}

async fn hand_over(
    mut client: BorgletClient<Channel>,
    digest: Digest,
    offset: u64,
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<(), String> {
    let (chunks, stream) = mpsc::channel(PIECES);
    let send = async move {
        let mut next =
            pb::BlobChunk { digest: digest.0.to_vec(), offset, ..pb::BlobChunk::default() };
        loop {
            // Fails when the borglet does not listen, and says so in its answer.
            if chunks.send(next).await.is_err() {
                return;
            }
            let Some(data) = pieces.recv().await else { return };
            next = pb::BlobChunk { data, ..pb::BlobChunk::default() };
        }
    };
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut message = tonic::Request::new(stream);
    message.set_timeout(PUSH_WITHIN);
    let (answer, ()) = tokio::join!(client.put_blob(message), send);
    answer.map(drop).map_err(|status| rpc::explain(&status))
}

async fn call(
    mut client: BorgletClient<Channel>,
    request: PollRequest,
    patience: Millis,
) -> Result<PollAnswer, PollFailure> {
    let mut message = tonic::Request::new(pb::PollRequest::from(&request));
    message.set_timeout(Duration::from_millis(patience.0));
    match client.poll(message).await {
        Ok(answer) => PollAnswer::try_from(answer.into_inner())
            .map_err(|error| PollFailure::Unreachable(format!("senseless answer: {error}"))),
        Err(status) => Err(match rpc::refusal_of(&status) {
            Some(refusal) => PollFailure::Refused(refusal),
            None => PollFailure::Unreachable(rpc::explain(&status)),
        }),
    }
}
