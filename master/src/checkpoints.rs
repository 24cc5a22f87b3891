//! The threads that work on checkpoint files, so that the log never waits for them.
//!
//! One writes this replica's own checkpoints, which may take seconds; one takes another master's file,
//! piece by piece; one reads pieces for others. None decides anything: `borg_cell` says what to do, and
//! hears what came of it.

use crate::clock;
use crate::driver::Turn;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::peers::Peers;
use borg_cell::master::{CheckpointNews, CheckpointWork, Input, Performed};
use borg_cell::store::CheckpointStore;
use borg_proto::names::ReplicaId;
use borg_proto::wire::pb;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Pieces for others that may wait to be read. What is over is dropped: whoever wants one asks again.
const SENDING: usize = 256;
/// Steps of taking a file that may wait: far more than are asked for at once, so none is ever dropped.
const TAKING: usize = 1_024;

/// Where work on checkpoint files goes.
#[derive(Clone)]
pub(crate) struct CheckpointThreads {
    writer: SyncSender<CheckpointWork>,
    taker: SyncSender<CheckpointWork>,
    sender: SyncSender<CheckpointWork>,
    files: Arc<dyn CheckpointStore>,
    metrics: Metrics,
}

/// What the threads work with.
pub(crate) struct Hands {
    /// The files.
    pub files: Arc<dyn CheckpointStore>,
    /// The other masters.
    pub peers: Peers,
    /// This replica.
    pub own: ReplicaId,
    /// The driver.
    pub turns: Inbox,
    /// Counters.
    pub metrics: Metrics,
}

impl CheckpointThreads {
    /// Starts the threads. They end when the last clone of the result is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(hands: Hands) -> std::io::Result<Self> {
        // There is one checkpoint of our own at a time.
        let (writer, to_write) = sync_channel(1);
        let (taker, to_take) = sync_channel(TAKING);
        let (sender, to_send) = sync_channel(SENDING);
        let hands = Arc::new(hands);
        let (files, metrics) = (hands.files.clone(), hands.metrics.clone());
        let threads = [("checkpoints", to_write), ("pieces-in", to_take), ("pieces-out", to_send)];
        for (name, work) in threads {
            let hands = hands.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || hands.work(work))?;
        }
        Ok(Self { writer, taker, sender, files, metrics })
    }

    /// Somebody waits for the checkpoint at `index`.
    pub(crate) fn hurry(&self, index: u64) {
        self.files.hurry(index);
    }

    /// Hands over work. Never waits.
    pub(crate) fn take(&self, work: CheckpointWork) {
        let to = match &work {
            CheckpointWork::Save { .. } => &self.writer,
            CheckpointWork::Begin { .. }
            | CheckpointWork::Store { .. }
            | CheckpointWork::Finish { .. } => &self.taker,
            CheckpointWork::Send { .. } => &self.sender,
        };
        match to.try_send(work) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.metrics.dropped_messages.inc();
            }
            Err(TrySendError::Disconnected(_)) => tracing::debug!("checkpoint threads are gone"),
        }
    }
}

impl Hands {
    fn work(&self, waiting: Receiver<CheckpointWork>) {
        for work in waiting {
            let saves = matches!(work, CheckpointWork::Save { .. });
            let began = clock::stopwatch();
            let turn = match work.perform(&*self.files) {
                Ok(Performed::Piece { to, piece }) => {
                    let body = Some(pb::peer_message::Body::Piece(piece));
                    self.peers.send(pb::PeerMessage { from: self.own.0, to: to.0, body });
                    continue;
                }
                Ok(Performed::News(news)) => {
                    if saves {
                        self.saved(&news, began.seconds());
                    }
                    Turn::Input(Input::Checkpoint(news))
                }
                Err(error) => Turn::Failed(error),
            };
            if self.turns.outcome(turn).is_err() {
                return;
            }
        }
    }

    fn saved(&self, news: &CheckpointNews, seconds: f64) {
        if let CheckpointNews::Saved { meta: Some(meta), .. } = news {
            self.metrics.checkpoint_seconds.observe(seconds);
            let bytes = i64::try_from(meta.file_bytes).unwrap_or(i64::MAX);
            self.metrics.checkpoint_bytes.set(bytes);
            tracing::info!(index = meta.place.index, bytes, seconds, "checkpoint saved");
        }
    }
}
