//! The blobs of packages on this master: taken from users, kept by a majority before a package is put,
//! fetched from the others when missing, given to machines, and removed when nobody needs them.
//!
//! Blobs never go through the log or a checkpoint: the state names them, and each master has them as files
//! in `DIR/blobs`. Invariants: a package is proposed only when a majority of the masters has all of its blobs
//! on disk. Nobody holds an upload, or what is read, for longer than he keeps up a pace; who has what share of
//! it is in `shares`.

mod shares;
mod walked;

use crate::clock;
use crate::feed::View;
use crate::metrics::Metrics;
use crate::peers::Peers;
use borg_cell::state::{PackagesMark, Standing};
use borg_linkshard::poller::{OpenBlob, PIECES};
use borg_proto::blobs::{ArrivalError, BlobDir, Part};
use borg_proto::names::{ReplicaId, UserName};
use borg_proto::package::{BLOB_CHUNK_BYTES, Digest, Layer, MAX_LAYER_BYTES, MAX_LAYERS};
use borg_proto::rpc::{self, Pace, Paced, PeerClient};
use borg_proto::slots::{NoSlot, Slots};
use borg_proto::wire::pb;
use shares::Shares;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use walked::Walked;

/// Uploads of users at once. Our choice.
const UPLOADS: usize = 8;
/// Another master that does not begin to answer for so long is given up. Our choice.
const PEER_SILENT_FOR: Duration = Duration::from_secs(5);
/// Whoever takes nothing of a blob that he reads for so long is given up. Our choice.
const UNREAD_FOR: Duration = Duration::from_secs(30);
/// Blobs that are read at once, by machines and other masters. 32: our choice.
const READERS: usize = 32;
/// Blobs that are fetched from other masters at once. 4: our choice, as machines do.
const FETCHES: usize = 4;
/// How long the other masters may take to have the blobs of a new package. 15 minutes: our choice.
const KEPT_WITHIN: Duration = Duration::from_secs(900);
/// How often it is looked at what is missing and what is not needed. Our choice.
const TEND_EVERY: Duration = Duration::from_secs(2);
/// How long a blob is kept that no package names, since somebody last asked for it. An hour: our choice;
/// that is how long an upload may take from its first blob to its package.
const UNNAMED_KEPT: Duration = Duration::from_secs(3600);
/// How much less often the disk is looked at when the packages are the same: every so many rounds.
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
    uploads: Slots,
    shares: Mutex<Shares>,
    readers: Arc<Semaphore>,
    named: Mutex<Named>,
    walked: Walked,
}

/// The blobs that packages name, of the packages that they were found in.
#[derive(Debug, Default)]
struct Named {
    of: PackagesMark,
    blobs: Arc<BTreeMap<Digest, u64>>,
}

/// The time for the files of blobs.
fn file_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(clock::now().0)
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
        let readers = Arc::new(Semaphore::new(READERS));
        let (uploads, shares, named) = (Slots::new(UPLOADS), Mutex::default(), Mutex::default());
        let walked = Walked::default();
        let inner =
            Inner { dir, own, peers, view, metrics, uploads, shares, readers, named, walked };
        Ok(Self(Arc::new(inner)))
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.0.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blobs that packages name, with their sizes. Found anew when there are other packages.
    fn named(&self) -> Arc<BTreeMap<Digest, u64>> {
        // A copy, so that the view is not held meanwhile.
        let state = self.0.view.borrow().state.clone();
        let mut named = self.0.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = state.packages_mark();
        if named.of != mark {
            *named = Named { of: mark, blobs: Arc::new(state.blobs()) };
        }
        Arc::clone(&named.blobs)
    }

    /// What there is of some blobs, for a user who wants to hand them over.
    ///
    /// # Errors
    /// When what was asked is no list of digests.
    pub(crate) async fn find(
        &self,
        user: UserName,
        digests: &[Vec<u8>],
    ) -> Result<pb::FindBlobsResponse, Status> {
        if digests.len() > MAX_LAYERS {
            let many = digests.len();
            let why = format!("digests: {many} entries are more than {MAX_LAYERS}");
            return Err(Status::invalid_argument(why));
        }
        let read = |(i, digest): (usize, &Vec<u8>)| read_digest(&format!("digests[{i}]"), digest);
        let digests: Vec<Digest> =
            digests.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        let dir = self.0.dir.clone();
        let find = move |digest: Digest| {
            // Somebody means to use it: it is not removed meanwhile.
            let held = dir.touch(digest, file_time()).unwrap_or_else(|error| {
                tracing::debug!(%digest, %error, "not touched");
                dir.holds(digest)
            });
            let have = if held { 0 } else { dir.have(digest, Some(&user)) };
            pb::find_blobs_response::Found { held, have }
        };
        let blobs = blocking(move || digests.into_iter().map(find).collect()).await;
        Ok(pb::FindBlobsResponse { blobs })
    }

    /// Takes a blob from a user.
    ///
    /// # Errors
    /// When it is another blob, there is no room or share of it for the user, or the user is silent or too
    /// slow; what came stays, for the same user to go on with.
    pub(crate) async fn upload(
        &self,
        user: UserName,
        chunks: Streaming<pb::BlobChunk>,
    ) -> Result<(), Status> {
        let full = |none: NoSlot| Status::unavailable(format!("uploads: {none}: ask again"));
        let _slot = self.0.uploads.take(&user).map_err(full)?;
        let mut chunks = Paced::new(chunks, Pace::OF_USERS);
        let first = chunks.next().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let digest = read_digest("digest", &first.digest)?;
        if self.0.dir.holds(digest) {
            return Ok(());
        }
        if !(1..=MAX_LAYER_BYTES).contains(&first.bytes) {
            let why = format!("bytes: {} is outside 1 to {MAX_LAYER_BYTES}", first.bytes);
            return Err(Status::invalid_argument(why));
        }
        let room = (self.0.dir.used(), self.0.dir.room());
        let reserved = self.shares().reserve(&user, (digest, first.bytes), room);
        reserved.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        // With its size, a stream that broke and looks like one that ended is told from one that did.
        let mut part = self.begin(digest, Some(user.clone()), Some(first.bytes)).await?;
        if first.offset != part.have() {
            let why = format!("offset: {}, but {} bytes are here", first.offset, part.have());
            return Err(Status::out_of_range(why));
        }
        let mut next = Some(first);
        while let Some(chunk) = next {
            part = self.add(part, chunk.data).await?;
            next = chunks.next().await?;
        }
        blocking(move || part.finish()).await.map_err(|error| not_taken(&error))?;
        tracing::info!(%digest, %user, "blob uploaded");
        Ok(())
    }

    async fn begin(
        &self,
        digest: Digest,
        owner: Option<UserName>,
        bytes: Option<u64>,
    ) -> Result<Part, Status> {
        let arrival = self.0.dir.begin(digest, owner, bytes);
        let arrival = arrival.map_err(|error| not_taken(&error))?;
        blocking(move || arrival.open()).await.map_err(|error| not_taken(&error))
    }

    async fn add(&self, mut part: Part, data: Vec<u8>) -> Result<Part, Status> {
        self.0.metrics.blob_bytes_in.inc_by(data.len() as u64);
        let added = blocking(move || part.add(&data).map(|()| part)).await;
        added.map_err(|error| not_taken(&error))
    }

    /// Reads a blob from an offset on, for as long as its reader takes something now and then.
    ///
    /// # Errors
    /// NOT_FOUND when it is not here, UNAVAILABLE when too many are being read.
    pub(crate) async fn read(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<mpsc::Receiver<Vec<u8>>, Status> {
        let slot = Arc::clone(&self.0.readers).try_acquire_owned();
        let slot = slot.map_err(|_| {
            Status::unavailable(format!("{READERS} blobs are being read already: ask again"))
        })?;
        let dir = self.0.dir.clone();
        let file = blocking(move || dir.open_blob(digest, offset)).await;
        let file = file.map_err(|error| Status::internal(format!("blob {digest}: {error}")))?;
        let mut file =
            file.ok_or_else(|| Status::not_found(format!("this master has no blob {digest}")))?;
        let (pieces, received) = mpsc::channel(PIECES);
        let metrics = self.0.metrics.clone();
        tokio::spawn(async move {
            let _slot = slot;
            loop {
                // No thread waits for the reader.
                let (read, back) = blocking(move || (read_piece(&mut file), file)).await;
                file = back;
                // What cannot be read is missing at the end, which whoever gets it notices.
                let data = match read {
                    Ok(data) if data.is_empty() => return,
                    Ok(data) => data,
                    Err(error) => return tracing::error!(%digest, %error, "blob not read"),
                };
                metrics.blob_bytes_out.inc_by(data.len() as u64);
                match pieces.send_timeout(data, UNREAD_FOR).await {
                    Ok(()) => {}
                    Err(SendTimeoutError::Closed(_)) => return,
                    Err(SendTimeoutError::Timeout(_)) => {
                        return tracing::warn!(%digest, "blob not taken: given up");
                    }
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
            if !self.touch(layer.digest).await? {
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
        let mut part = self.begin(digest, None, bytes).await.map_err(explain)?;
        let asked = pb::FetchBlobRequest { digest: digest.0.to_vec(), offset: part.have() };
        let answer = timeout(PEER_SILENT_FOR, client.fetch_blob(asked)).await.map_err(silent)?;
        let mut chunks = Paced::new(answer.map_err(explain)?.into_inner(), Pace::OF_MACHINES);
        while let Some(chunk) = chunks.next().await.map_err(explain)? {
            part = self.add(part, chunk.data).await.map_err(explain)?;
        }
        blocking(move || part.finish()).await.map_err(|error| error.to_string())?;
        tracing::info!(%digest, "blob fetched from another master");
        Ok(())
    }

    async fn fetch_from_any(&self, digest: Digest) -> Result<(), String> {
        let mut last = "there is no other master".to_owned();
        let bytes = self.named().get(&digest).copied();
        let mut members = self.0.peers.members();
        // Of many blobs not all are asked of the same master.
        let first = usize::from(digest.0[0]) % members.len().max(1);
        members.rotate_left(first);
        for member in members {
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
            if !self.touch(digest).await? && self.fetch_from_any(digest).await.is_err() {
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
        let (mut number, mut complete) = (0_u32, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            let named = self.named();
            let look_again = number.is_multiple_of(SWEEP_ROUNDS);
            if look_again || complete.as_ref().is_none_or(|had| !Arc::ptr_eq(had, &named)) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    whole = self.fetch_missing(&named) => complete = whole.then_some(named),
                }
            }
            number = number.wrapping_add(1);
            if number.is_multiple_of(SWEEP_ROUNDS) {
                self.sweep().await;
            }
            let used = i64::try_from(self.0.dir.used()).unwrap_or(i64::MAX);
            self.0.metrics.blob_bytes.set(used);
        }
    }

    /// Whether all of them are here now.
    async fn fetch_missing(&self, named: &Arc<BTreeMap<Digest, u64>>) -> bool {
        let (dir, all) = (self.0.dir.clone(), Arc::clone(named));
        let missing = move || {
            all.keys().copied().filter(|digest| !dir.holds(*digest)).collect::<Vec<Digest>>()
        };
        let missing = blocking(missing).await;
        let (mut fetches, mut whole) = (JoinSet::new(), true);
        for digest in missing {
            if fetches.len() >= FETCHES {
                whole &= matches!(fetches.join_next().await, Some(Ok(true)));
            }
            let blobs = self.clone();
            fetches.spawn(async move {
                let fetched = blobs.fetch_from_any(digest).await;
                fetched.inspect_err(|why| tracing::warn!(%digest, why, "blob missing")).is_ok()
            });
        }
        while let Some(fetched) = fetches.join_next().await {
            whole &= matches!(fetched, Ok(true));
        }
        whole
    }

    /// Whether a blob is here, which is not removed for a while then.
    async fn touch(&self, digest: Digest) -> Result<bool, Status> {
        let dir = self.0.dir.clone();
        let touched = blocking(move || dir.touch(digest, file_time())).await;
        touched.map_err(|error| Status::internal(format!("blob {digest}: {error}")))
    }

    async fn sweep(&self) {
        let (blobs, named) = (self.clone(), self.named());
        let swept = blocking(move || {
            let dir = &blobs.0.dir;
            for blob in dir.held()?.into_iter().filter(|blob| !named.contains_key(&blob.digest)) {
                if let Some(dropped) = dir.drop_unused(blob.digest, UNNAMED_KEPT)? {
                    tracing::info!(digest = %blob.digest, "blob removed: no package names it");
                    dropped.remove()?;
                }
            }
            dir.drop_old_parts()?.remove()?;
            blobs.shares().retain(|user, digest| {
                // Of one that a user just begins to send nothing is here yet.
                let is_here = dir.holds(digest) || dir.have(digest, Some(user)) > 0;
                (is_here || blobs.0.uploads.has(user)) && !named.contains_key(&digest)
            });
            io::Result::Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "blobs not swept");
        }
    }
}

fn read_piece(file: &mut File) -> io::Result<Vec<u8>> {
    let mut data = vec![0; BLOB_CHUNK_BYTES];
    let read = file.read(&mut data)?;
    data.truncate(read);
    Ok(data)
}
