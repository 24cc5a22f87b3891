//! The blobs of packages on this master: taken from users, kept by a majority before a package is put,
//! fetched from the others when missing, given to machines, and removed when nobody needs them.
//!
//! Blobs never go through the log or a checkpoint: the state names them, and each master has them as files
//! in `DIR/blobs`. Invariant: a package is proposed only when a majority of the masters has all of its blobs
//! on disk.

mod walked;

use crate::clock;
use crate::feed::View;
use crate::metrics::Metrics;
use crate::peers::Peers;
use borg_cell::state::{CellState, Standing};
use borg_linkshard::poller::{OpenBlob, PIECES};
use borg_proto::blobs::{Arrival, ArrivalError, BlobDir, Part};
use borg_proto::names::ReplicaId;
use borg_proto::package::{BLOB_CHUNK_BYTES, Digest, Layer, MAX_LAYER_BYTES, MAX_LAYERS};
use borg_proto::rpc::{self, PeerClient};
use borg_proto::wire::pb;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use walked::Walked;

/// Uploads of users at once; more are refused. Our choice.
const UPLOADS: usize = 8;
/// A user who sends nothing for so long is cut off; the upload can be gone on with. Our choice.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// Another master that sends nothing for so long is given up. Our choice.
const PEER_SILENT_FOR: Duration = Duration::from_secs(5);
/// How long the other masters may take to have the blobs of a new package. 15 minutes: our choice.
const KEPT_WITHIN: Duration = Duration::from_secs(900);
/// How often it is looked at what is missing and what is not needed. Our choice.
const TEND_EVERY: Duration = Duration::from_secs(2);
/// How long a blob is kept that no package names, since somebody last asked for it. An hour: our choice;
/// that is how long an upload may take from its first blob to its package.
const UNNAMED_KEPT: Duration = Duration::from_secs(3600);
/// How much faster that is looked at: every so many rounds.
const SWEEP_ROUNDS: u32 = 30;

/// The blobs of this master. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: BlobDir,
    own: ReplicaId,
    peers: Peers,
    view: watch::Receiver<View>,
    metrics: Metrics,
    uploads: Arc<Semaphore>,
    walked: Walked,
}

/// Runs something that waits for the disk off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("blocking work does not panic and is not aborted")
}

/// A digest that somebody sent.
///
/// # Errors
/// INVALID_ARGUMENT when it is none.
pub(crate) fn read_digest(field: &str, bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn not_taken(error: &ArrivalError) -> Status {
    let why = error.to_string();
    match error {
        ArrivalError::NotWanted(_) | ArrivalError::Busy(_) => {
            Status::unavailable(format!("{why}: ask again"))
        }
        ArrivalError::Wrong { .. } | ArrivalError::TooLong { .. } | ArrivalError::Short { .. } => {
            Status::invalid_argument(why)
        }
        ArrivalError::NoRoom { .. } => Status::resource_exhausted(format!(
            "{why}: remove packages that are not needed, or start the masters with a larger --blobs-mib"
        )),
        ArrivalError::Disk { .. } => Status::resource_exhausted(why),
    }
}

impl Blobs {
    /// Takes over the directory. Blocks.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub(crate) fn open(
        dir: PathBuf,
        room: u64,
        own: ReplicaId,
        peers: Peers,
        view: watch::Receiver<View>,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let (dir, _) = BlobDir::open(dir, room)?;
        let uploads = Arc::new(Semaphore::new(UPLOADS));
        let walked = Walked::default();
        Ok(Self(Arc::new(Inner { dir, own, peers, view, metrics, uploads, walked })))
    }

    /// What there is of some blobs, for whoever wants to hand them over.
    ///
    /// # Errors
    /// When what was asked is no list of digests.
    pub(crate) async fn find(&self, digests: &[Vec<u8>]) -> Result<pb::FindBlobsResponse, Status> {
        if digests.len() > MAX_LAYERS {
            let many = digests.len();
            let why = format!("digests: {many} entries are more than {MAX_LAYERS}");
            return Err(Status::invalid_argument(why));
        }
        let read = |(i, digest): (usize, &Vec<u8>)| read_digest(&format!("digests[{i}]"), digest);
        let digests: Vec<Digest> =
            digests.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        let dir = self.0.dir.clone();
        let now = std::time::UNIX_EPOCH + Duration::from_millis(clock::now().0);
        let find = move |digest: Digest| {
            let held = dir.holds(digest);
            if held {
                // Somebody means to use it: it is not removed meanwhile.
                let touched = File::open(dir.path(digest)).and_then(|file| file.set_modified(now));
                if let Err(error) = touched {
                    tracing::debug!(%digest, %error, "not touched");
                }
            }
            let have = if held { 0 } else { dir.have(digest) };
            pb::find_blobs_response::Found { held, have }
        };
        let blobs = blocking(move || digests.into_iter().map(find).collect()).await;
        Ok(pb::FindBlobsResponse { blobs })
    }

    /// Takes a blob from a user.
    ///
    /// # Errors
    /// When it is another blob, there is no room, or the user is silent; what came stays, to be gone on
    /// with.
    pub(crate) async fn upload(&self, mut chunks: Streaming<pb::BlobChunk>) -> Result<(), Status> {
        let busy = |_| Status::unavailable(format!("{UPLOADS} uploads are under way: ask again"));
        let _slot = self.0.uploads.clone().try_acquire_owned().map_err(busy)?;
        let silent =
            |_| Status::deadline_exceeded(format!("silent for {} s", SILENT_FOR.as_secs()));
        let first = timeout(SILENT_FOR, chunks.message()).await.map_err(silent)??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let digest = read_digest("digest", &first.digest)?;
        if self.0.dir.holds(digest) {
            return Ok(());
        }
        if !(1..=MAX_LAYER_BYTES).contains(&first.bytes) {
            let why = format!("bytes: {} is outside 1 to {MAX_LAYER_BYTES}", first.bytes);
            return Err(Status::invalid_argument(why));
        }
        // With its size, a stream that broke and looks like one that ended is told from one that did.
        self.0.dir.expect(digest, Some(first.bytes));
        let mut part = self.begin(digest).await?;
        if first.offset != part.have() {
            let why = format!("offset: {}, but {} bytes are here", first.offset, part.have());
            return Err(Status::out_of_range(why));
        }
        let mut next = Some(first);
        while let Some(chunk) = next {
            part = self.add(part, chunk.data).await?;
            next = timeout(SILENT_FOR, chunks.message()).await.map_err(silent)??;
        }
        blocking(move || part.finish()).await.map_err(|error| not_taken(&error))?;
        tracing::info!(%digest, "blob uploaded");
        Ok(())
    }

    async fn begin(&self, digest: Digest) -> Result<Part, Status> {
        let arrival: Result<Arrival, _> = self.0.dir.arrival(digest);
        let arrival = arrival.map_err(|error| not_taken(&error))?;
        blocking(move || arrival.open()).await.map_err(|error| not_taken(&error))
    }

    async fn add(&self, mut part: Part, data: Vec<u8>) -> Result<Part, Status> {
        self.0.metrics.blob_bytes_in.inc_by(data.len() as u64);
        let added = blocking(move || part.add(&data).map(|()| part)).await;
        added.map_err(|error| not_taken(&error))
    }

    /// Reads a blob from an offset on.
    ///
    /// # Errors
    /// NOT_FOUND when it is not here.
    pub(crate) async fn read(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<mpsc::Receiver<Vec<u8>>, Status> {
        let dir = self.0.dir.clone();
        let file = blocking(move || dir.open_blob(digest, offset)).await;
        let file = file.map_err(|error| Status::internal(format!("blob {digest}: {error}")))?;
        let mut file =
            file.ok_or_else(|| Status::not_found(format!("this master has no blob {digest}")))?;
        let (pieces, received) = mpsc::channel(PIECES);
        let metrics = self.0.metrics.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                let mut data = vec![0; BLOB_CHUNK_BYTES];
                // What cannot be read is missing at the end, which whoever gets it notices.
                let read = match file.read(&mut data) {
                    Ok(0) => return,
                    Ok(read) => read,
                    Err(error) => return tracing::error!(%digest, %error, "blob not read"),
                };
                data.truncate(read);
                metrics.blob_bytes_out.inc_by(read as u64);
                if pieces.blocking_send(data).is_err() {
                    return;
                }
            }
        });
        Ok(received)
    }

    /// Blobs for machines, as the poller asks for them. One that is still missing here is fetched first.
    pub(crate) fn for_machines(&self) -> OpenBlob {
        let blobs = self.clone();
        Arc::new(move |digest, offset| {
            let blobs = blobs.clone();
            Box::pin(async move {
                if !blobs.0.dir.holds(digest) {
                    blobs.fetch_from_any(digest).await?;
                }
                blobs.read(digest, offset).await.map_err(|status| rpc::explain(&status))
            })
        })
    }

    /// Fetches what is missing of some blobs from another master.
    ///
    /// # Errors
    /// The first that could not be had.
    pub(crate) async fn keep(&self, from: u64, blobs: Vec<pb::PackageLayer>) -> Result<(), Status> {
        if blobs.len() > MAX_LAYERS {
            return Err(Status::invalid_argument(format!("blobs: more than {MAX_LAYERS}")));
        }
        let number = |id: &ReplicaId| id.number() == from;
        let masters = self.0.peers.members().into_iter().map(|member| member.replica);
        let client = masters.filter(number).find_map(|id| self.0.peers.client_for_users(id));
        let client = client.ok_or_else(|| Status::unavailable("no way to the asking master"))?;
        for blob in blobs {
            let layer = Layer::try_from(blob).map_err(|error| rpc::status_of(&error))?;
            if !self.0.dir.holds(layer.digest) {
                let fetched = self.fetch(layer.digest, Some(layer.bytes), client.clone()).await;
                fetched.map_err(Status::unavailable)?;
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        digest: Digest,
        bytes: Option<u64>,
        mut client: PeerClient<Channel>,
    ) -> Result<(), String> {
        let explain = |status: Status| rpc::explain(&status);
        let silent = |_| format!("silent for {} s", PEER_SILENT_FOR.as_secs());
        self.0.dir.expect(digest, bytes);
        let mut part = self.begin(digest).await.map_err(explain)?;
        let asked = pb::FetchBlobRequest { digest: digest.0.to_vec(), offset: part.have() };
        let answer = timeout(PEER_SILENT_FOR, client.fetch_blob(asked)).await.map_err(silent)?;
        let mut chunks = answer.map_err(explain)?.into_inner();
        loop {
            let chunk = timeout(PEER_SILENT_FOR, chunks.message()).await.map_err(silent)?;
            let Some(chunk) = chunk.map_err(explain)? else { break };
            part = self.add(part, chunk.data).await.map_err(explain)?;
        }
        blocking(move || part.finish()).await.map_err(|error| error.to_string())?;
        tracing::info!(%digest, "blob fetched from another master");
        Ok(())
    }

    async fn fetch_from_any(&self, digest: Digest) -> Result<(), String> {
        let mut last = "there is no other master".to_owned();
        let bytes = {
            let view = self.0.view.borrow();
            let named = view.state.blobs();
            named.into_iter().find(|(named, _)| *named == digest).map(|(_, bytes)| bytes)
        };
        for member in self.0.peers.members() {
            let Some(client) = self.0.peers.client_for_users(member.replica) else { continue };
            match self.fetch(digest, bytes, client).await {
                Ok(()) => return Ok(()),
                Err(why) => last = format!("master {}: {why}", member.replica),
            }
        }
        Err(format!("blob {digest} is not here, and no other master gave it: {last}"))
    }

    /// Sees to it that a majority of the masters has all blobs of a package on disk.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when one was not uploaded, INVALID_ARGUMENT when it is not what the package says of it,
    /// UNAVAILABLE when too few masters have them in time.
    pub(crate) async fn have_kept(&self, layers: &[Layer]) -> Result<(), Status> {
        for (i, layer) in layers.iter().enumerate() {
            let Layer { digest, bytes, .. } = *layer;
            if !self.0.dir.holds(digest) && self.fetch_from_any(digest).await.is_err() {
                return Err(Status::failed_precondition(format!(
                    "package.layers[{i}]: blob {digest} is not here: upload it first"
                )));
            }
            let path = self.0.dir.path(digest);
            let about = blocking(move || std::fs::metadata(path)).await;
            let found =
                about.map_err(|error| Status::internal(format!("{digest}: {error}")))?.len();
            if found != bytes {
                return Err(Status::invalid_argument(format!(
                    "package.layers[{i}].bytes: {bytes}, but blob {digest} has {found}"
                )));
            }
            let path = self.0.dir.path(digest);
            let found = self.0.walked.unpacked_bytes(digest, move || File::open(path)).await;
            let found = found.map_err(|error| {
                Status::invalid_argument(format!("package.layers[{i}]: blob {digest}: {error}"))
            })?;
            if found != layer.unpacked_bytes {
                return Err(Status::invalid_argument(format!(
                    "package.layers[{i}].unpacked_bytes: {}, but the files of blob {digest} have {found}",
                    layer.unpacked_bytes
                )));
            }
        }
        self.replicate(layers).await
    }

    async fn replicate(&self, layers: &[Layer]) -> Result<(), Status> {
        let voters: Vec<ReplicaId> = {
            let view = self.0.view.borrow();
            let voting = view.state.masters().filter(|(_, m)| m.standing == Standing::Voting);
            voting.map(|(id, _)| id).collect()
        };
        let needed = voters.len() / 2 + 1;
        let mut kept = usize::from(voters.contains(&self.0.own) || voters.is_empty());
        let blobs: Vec<pb::PackageLayer> = layers.iter().map(Into::into).collect();
        let mut asked = JoinSet::new();
        for id in voters.iter().filter(|id| **id != self.0.own) {
            let Some(mut client) = self.0.peers.client_for_users(*id) else { continue };
            let request = pb::KeepBlobsRequest { blobs: blobs.clone() };
            asked.spawn(async move {
                match timeout(KEPT_WITHIN, client.keep_blobs(request)).await {
                    Ok(kept) => kept.map(drop).map_err(|status| rpc::explain(&status)),
                    Err(_) => Err("no answer in time".to_owned()),
                }
            });
        }
        let mut why = "no way to the others".to_owned();
        while kept < needed {
            // Those that are not waited for go on by themselves.
            match asked.join_next().await {
                Some(Ok(Ok(()))) => kept += 1,
                Some(Ok(Err(failed))) => why = failed,
                Some(Err(error)) => why = error.to_string(),
                None => {
                    return Err(Status::unavailable(format!(
                        "{kept} of {needed} masters that are needed have the package's blobs: {why}; ask \
                         again"
                    )));
                }
            }
        }
        asked.detach_all();
        Ok(())
    }

    /// Fetches what is missing here, and removes what nobody needs, until `stop`.
    pub(crate) async fn tend(self, stop: CancellationToken) {
        let mut rounds = tokio::time::interval(TEND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            let state = self.0.view.borrow().state.clone();
            if state.packages().next().is_some() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.fetch_missing(&state) => {}
                }
            }
            number = number.wrapping_add(1);
            if number.is_multiple_of(SWEEP_ROUNDS) {
                self.sweep(state).await;
            }
            let used = i64::try_from(self.0.dir.used()).unwrap_or(i64::MAX);
            self.0.metrics.blob_bytes.set(used);
        }
    }

    async fn fetch_missing(&self, state: &CellState) {
        for (digest, _) in state.blobs() {
            if !self.0.dir.holds(digest)
                && let Err(why) = self.fetch_from_any(digest).await
            {
                tracing::warn!(%digest, why, "blob missing");
            }
        }
    }

    async fn sweep(&self, state: CellState) {
        let dir = self.0.dir.clone();
        let swept = blocking(move || {
            let named: std::collections::BTreeSet<Digest> =
                state.blobs().into_iter().map(|(digest, _)| digest).collect();
            let old = |since: std::time::SystemTime| {
                since.elapsed().is_ok_and(|elapsed| elapsed > UNNAMED_KEPT)
            };
            for blob in dir.held()? {
                if !named.contains(&blob.digest) && old(blob.since) {
                    tracing::info!(digest = %blob.digest, "blob removed: no package names it");
                    dir.drop_blob(blob.digest).remove()?;
                }
            }
            io::Result::Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "blobs not swept");
        }
    }
}
