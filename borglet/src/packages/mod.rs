//! The supervisor's effects on packages: blobs are fetched, kept, given to others, unpacked and dropped.
//!
//! `store` has the files of blobs, `unpack` makes directories of them. Which blobs there should be, from
//! whom they come and what goes is the supervisor's business. Invariants: for every fetch that is ordered
//! exactly one of came, not fetched and not unpacked is told, for every unpacking one of unpacked and not
//! unpacked; nothing is asked of a machine but blobs that were ordered from it.

mod store;
mod unpack;

pub(crate) use store::{Store, StoreError, trouble_of};

use crate::metrics::Metrics;
use crate::tasks::blocking;
use borg_proto::blobs::{ArrivalError, Part};
use borg_proto::identity::{Identity, Role};
use borg_proto::in_full;
use borg_proto::package::{Digest, Layer};
use borg_proto::rpc::{self, Credentials, Pace, Paced, Timeouts};
use borg_proto::wire::pb;
use borg_proto::{CellName, MachineName};
use borglet_supervisor::{Cached, Input, Trouble};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A machine that does not begin to give a blob for so long is given up. Our choice.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// The packages of this machine. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Packages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    cell: CellName,
    credentials: Credentials,
    metrics: Metrics,
    /// Bounded; whoever has news waits for room, so none is lost.
    news: mpsc::Sender<Input>,
    /// The numbers of the orders with which blobs were expected that were not dropped since.
    expected: Mutex<BTreeMap<Digest, u64>>,
}

/// A blob could not be had from a machine.
#[derive(Debug)]
struct NotFetched {
    why: String,
    wrong: bool,
    /// Why it could not be kept, when that was it.
    disk: Option<Trouble>,
}

impl NotFetched {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), wrong: false, disk: None }
    }
}

impl From<ArrivalError> for NotFetched {
    fn from(error: ArrivalError) -> Self {
        let disk = trouble_of(&error);
        let wrong = matches!(error, ArrivalError::Wrong { .. });
        Self { why: error.to_string(), wrong, disk }
    }
}

impl Packages {
    /// Takes over what an earlier process left in the directory.
    pub(crate) async fn open(
        dir: PathBuf,
        credentials: Credentials,
        metrics: Metrics,
        news: mpsc::Sender<Input>,
    ) -> Result<(Self, Vec<Cached>), StoreError> {
        let (store, cached) = blocking(move || Store::open(dir)).await?;
        let (cell, expected) = (credentials.identity.cell.clone(), Mutex::default());
        let inner = Inner { store, cell, credentials, metrics, news, expected };
        Ok((Self(Arc::new(inner)), cached))
    }

    /// The files.
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<Digest, u64>> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob may come from now on.
    pub(crate) fn expect(&self, digest: Digest, bytes: u64, order: u64) {
        self.expected().insert(digest, order);
        let have = self.0.store.blobs().expect(digest, Some(bytes));
        if have > 0 {
            // An earlier attempt got so far: whoever hands it over goes on from there. Lost news cost only
            // that.
            drop(self.0.news.try_send(Input::BlobProgress(vec![(digest, have)])));
        }
    }

    /// The order with which a blob was expected last: to be asked before it comes, and told with it. 0, which is
    /// older than any, when it may not come.
    pub(crate) fn order_for(&self, digest: Digest) -> u64 {
        self.expected().get(&digest).copied().unwrap_or(0)
    }

    /// How far blobs are that are on their way.
    pub(crate) fn progress(&self) -> Vec<(Digest, u64)> {
        self.0.store.blobs().progress()
    }

    /// Tells how far blobs are; that may be lost.
    pub(crate) fn tell_progress(&self) {
        let progress = self.progress();
        if !progress.is_empty() {
            drop(self.0.news.try_send(Input::BlobProgress(progress)));
        }
    }

    /// Gets the rest of a blob from another machine.
    pub(crate) fn fetch(&self, digest: Digest, machine: MachineName, address: String, order: u64) {
        let packages = self.clone();
        tokio::spawn(async move {
            let news = match packages.fetch_from(digest, &machine, &address).await {
                Ok(()) => {
                    tracing::info!(%digest, %machine, "blob fetched");
                    Input::BlobCame { digest, order }
                }
                Err(NotFetched { disk: Some(trouble), .. }) => {
                    tracing::warn!(%digest, ?trouble, "blob not kept");
                    Input::NotUnpacked { digest, order, trouble }
                }
                Err(NotFetched { why, wrong, disk: None }) => {
                    tracing::warn!(%digest, %machine, why, "blob not fetched");
                    let why = format!("from machine {machine}: {why}");
                    Input::NotFetched { digest, order, why, wrong }
                }
            };
            packages.tell(news).await;
        });
    }

    async fn fetch_from(
        &self,
        digest: Digest,
        machine: &MachineName,
        address: &str,
    ) -> Result<(), NotFetched> {
        let arrival = self.0.store.blobs().arrival(digest)?;
        let mut part = blocking(move || arrival.open()).await?;
        let identity = Identity { cell: self.0.cell.clone(), role: Role::Borglet(machine.clone()) };
        let server = identity.server_name().expect("a borglet serves, so it has a server name");
        let channel = rpc::channel(address, &self.0.credentials, &server, Timeouts::default())
            .map_err(|error| NotFetched::because(in_full(&error)))?;
        let asked = pb::FetchBlobRequest { digest: digest.0.to_vec(), offset: part.have() };
        let failed = |status: tonic::Status| NotFetched::because(rpc::explain(&status));
        let silent = |_| NotFetched::because(format!("silent for {} s", SILENT_FOR.as_secs()));
        let mut client = rpc::borglet_client(channel);
        let answer = tokio::time::timeout(SILENT_FOR, client.fetch_blob(asked)).await;
        let chunks = answer.map_err(silent)?.map_err(failed)?.into_inner();
        // One that gives a little now and then keeps nobody: another source is named when this one failed.
        let mut chunks = Paced::new(chunks, Pace::OF_MACHINES);
        while let Some(chunk) = chunks.next().await.map_err(failed)? {
            part = self.add(part, chunk.data).await?;
        }
        blocking(move || part.finish()).await?;
        Ok(())
    }

    /// Adds a piece to a blob that comes.
    pub(crate) async fn add(&self, mut part: Part, data: Vec<u8>) -> Result<Part, ArrivalError> {
        self.0.metrics.blob_bytes_in.inc_by(data.len() as u64);
        blocking(move || part.add(&data).map(|()| part)).await
    }

    /// A master handed a blob over in full.
    pub(crate) async fn came(&self, digest: Digest, order: u64) {
        self.tell(Input::BlobCame { digest, order }).await;
    }

    /// A blob that was handed over could not be kept.
    pub(crate) async fn not_kept(&self, digest: Digest, order: u64, trouble: Trouble) {
        self.tell(Input::NotUnpacked { digest, order, trouble }).await;
    }

    /// Unpacks a blob.
    pub(crate) fn unpack(&self, layer: Layer, order: u64) {
        let packages = self.clone();
        tokio::spawn(async move {
            let (work, digest) = (packages.clone(), layer.digest);
            let since = crate::clock::stopwatch();
            let news = match blocking(move || unpack::unpack(&work.0.store, layer, order)).await {
                Ok(()) => {
                    tracing::info!(%digest, ms = since.millis(), "layer unpacked");
                    packages.0.metrics.unpack_seconds.observe(since.seconds());
                    Input::Unpacked { digest, order }
                }
                Err(trouble) => {
                    tracing::warn!(%digest, ?trouble, "layer not unpacked");
                    packages.0.metrics.failed_unpacks.inc();
                    Input::NotUnpacked { digest, order, trouble }
                }
            };
            packages.tell(news).await;
        });
    }

    /// Removes a blob and what was unpacked of it. At once for whoever asks for it; its files go after
    /// that.
    pub(crate) fn drop_blob(&self, digest: Digest) {
        self.expected().remove(&digest);
        let dropped = self.0.store.drop_blob(digest);
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = dropped.remove() {
                // The next start of the borglet finds it and tries again.
                tracing::warn!(%digest, error = in_full(&error), "blob not removed");
            }
        }));
    }

    async fn tell(&self, input: Input) {
        // Fails only when the borglet stops: the next one finds out by itself.
        drop(self.0.news.send(input).await);
    }
}
