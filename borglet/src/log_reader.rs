//! One reading of an incarnation's output: all of its runs that are kept, one after the other.
//!
//! Of two streams the older piece goes first, as exactly as is known when it was written: a second. Memory for
//! a reading is a few pieces, however long the lines are.

use crate::container::ContainerId;
use crate::driver::Core;
use crate::executor::ActError;
use crate::logs::Stream as Output;
use crate::metrics::Metrics;
use crate::tasks::{Tasks, blocking};
use borg_proto::poll::TaskStatus;
use borg_proto::slots::Slot;
use borg_proto::wire::pb;
use borg_proto::{IncarnationId, TaskName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// Most bytes of output in one message. Our choice.
const CHUNK_BYTES: usize = 64 << 10;
/// How often the end of a growing log is looked at. Our choice.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a reading begins; 0 asks for nothing. The latest place of all that are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    /// Only the last so many bytes of each stream.
    pub(crate) tail_bytes: u64,
    /// Only the last so many lines of each stream.
    pub(crate) tail_lines: u32,
    /// Only what was written since, milliseconds since 1970.
    pub(crate) since_ms: u64,
}

/// A reading under way.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) core: Core,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) name: TaskName,
    pub(crate) id: IncarnationId,
    pub(crate) follow: bool,
    pub(crate) chunks: mpsc::Sender<Result<pb::LogChunk, Status>>,
    pub(crate) _slot: Slot,
}

/// How far one stream was read.
#[derive(Debug)]
struct Cursor {
    output: Output,
    run: u32,
    offset: u64,
}

/// Nobody listens any more.
struct Gone;

impl Reader {
    /// Sends what is asked for, until its end or that of whoever listens.
    pub(crate) async fn read(self, outputs: Vec<Output>, begin: Begin) {
        if let Err(error) = self.read_all(outputs, begin).await {
            let status = Status::internal(format!("reading the log: {error}"));
            // Nobody listens any more: then nobody misses it.
            drop(self.chunks.send(Err(status)).await);
        }
    }

    async fn read_all(&self, outputs: Vec<Output>, begin: Begin) -> Result<(), ActError> {
        let mut runs: BTreeMap<u32, ContainerId> =
            self.tasks.logs(&self.name, self.id).await.into_iter().collect();
        let mut cursors = Vec::with_capacity(outputs.len());
        for output in outputs {
            let (run, offset) = self.begin(&runs, output, begin).await?;
            cursors.push(Cursor { output, run, offset });
        }
        let mut run = cursors.iter().map(|cursor| cursor.run).min().unwrap_or(0);
        loop {
            // Asked before the last look at the log: what was written until then is still sent.
            let over = self.is_over().await;
            runs.extend(self.tasks.known_runs(&self.name, self.id));
            for (&number, container) in runs.range(run..) {
                run = number;
                for cursor in cursors.iter_mut().filter(|cursor| cursor.run < number) {
                    (cursor.run, cursor.offset) = (number, 0);
                }
                match self.send_rest(container, number, &mut cursors).await? {
                    Ok(()) => {}
                    Err(Gone) => return Ok(()),
                }
            }
            if over || !self.follow || self.chunks.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// With which run, and where in its output, the reading of a stream begins.
    async fn begin(
        &self,
        runs: &BTreeMap<u32, ContainerId>,
        output: Output,
        begin: Begin,
    ) -> Result<(u32, u64), ActError> {
        let mut latest = (0, 0);
        if begin.tail_bytes > 0 {
            latest = latest.max(self.last_bytes(runs, output, begin.tail_bytes).await?);
        }
        if begin.tail_lines > 0 {
            latest = latest.max(self.last_lines(runs, output, begin.tail_lines.into()).await?);
        }
        if begin.since_ms > 0 {
            latest = latest.max(self.since(runs, output, begin.since_ms).await?);
        }
        Ok(latest)
    }

    async fn last_bytes(
        &self,
        runs: &BTreeMap<u32, ContainerId>,
        output: Output,
        mut wanted: u64,
    ) -> Result<(u32, u64), ActError> {
        for (&number, container) in runs.iter().rev() {
            let end = self.tasks.read_log(container.clone(), output, u64::MAX, 0).await?.end;
            if end >= wanted {
                return Ok((number, end - wanted));
            }
            wanted -= end;
        }
        Ok((0, 0))
    }

    async fn last_lines(
        &self,
        runs: &BTreeMap<u32, ContainerId>,
        output: Output,
        mut wanted: u64,
    ) -> Result<(u32, u64), ActError> {
        for (&number, container) in runs.iter().rev() {
            let (executor, container) = (self.tasks.executor().clone(), container.clone());
            let found = blocking(move || executor.log_last_lines(&container, output, wanted)).await;
            let (offset, lines) = found?;
            if lines >= wanted {
                return Ok((number, offset));
            }
            wanted -= lines;
        }
        Ok((0, 0))
    }

    async fn since(
        &self,
        runs: &BTreeMap<u32, ContainerId>,
        output: Output,
        ms: u64,
    ) -> Result<(u32, u64), ActError> {
        let mut last = (0, 0);
        for (&number, container) in runs {
            let (executor, container) = (self.tasks.executor().clone(), container.clone());
            let (begin, end) = blocking(move || {
                let end = executor.read_log(&container, output, u64::MAX, 0)?.end;
                Ok::<_, ActError>((executor.log_since(&container, output, ms)?, end))
            })
            .await?;
            last = (number, begin);
            if begin < end {
                break;
            }
        }
        Ok(last)
    }

    /// Sends what there is of a run from the cursors on.
    async fn send_rest(
        &self,
        container: &ContainerId,
        run: u32,
        cursors: &mut [Cursor],
    ) -> Result<Result<(), Gone>, ActError> {
        loop {
            let here = cursors.iter().filter(|cursor| cursor.run == run).count();
            let mut next: Option<(u64, u64, &mut Cursor)> = None;
            for cursor in cursors.iter_mut().filter(|cursor| cursor.run == run) {
                let (at, until) = match here {
                    // There is nothing to be put in order.
                    1 => (0, u64::MAX),
                    _ => match self.segment(container, cursor).await? {
                        Some(segment) => segment,
                        None => continue,
                    },
                };
                if next.as_ref().is_none_or(|(earliest, ..)| at < *earliest) {
                    next = Some((at, until, cursor));
                }
            }
            let Some((_, until, cursor)) = next else { return Ok(Ok(())) };
            let most = usize::try_from(until.saturating_sub(cursor.offset)).unwrap_or(usize::MAX);
            let most = most.min(CHUNK_BYTES);
            let chunk = self.tasks.read_log(container.clone(), cursor.output, cursor.offset, most);
            let chunk = chunk.await?;
            cursor.offset = chunk.next_offset;
            if chunk.data.is_empty() {
                return Ok(Ok(()));
            }
            self.metrics.log_bytes.inc_by(u64::try_from(chunk.data.len()).unwrap_or(u64::MAX));
            let stream = match cursor.output {
                Output::Stdout => pb::LogStream::Stdout,
                Output::Stderr => pb::LogStream::Stderr,
            };
            let message = pb::LogChunk { data: chunk.data, stream: stream.into() };
            if self.chunks.send(Ok(message)).await.is_err() {
                return Ok(Err(Gone));
            }
        }
    }

    async fn segment(
        &self,
        container: &ContainerId,
        cursor: &Cursor,
    ) -> Result<Option<(u64, u64)>, ActError> {
        let (executor, container) = (self.tasks.executor().clone(), container.clone());
        let (output, offset) = (cursor.output, cursor.offset);
        blocking(move || executor.log_segment(&container, output, offset)).await
    }

    async fn is_over(&self) -> bool {
        match self.core.status(self.id).await {
            None | Some(TaskStatus::Ended { .. }) => true,
            Some(
                TaskStatus::Fetching { .. }
                | TaskStatus::Starting
                | TaskStatus::Up { .. }
                | TaskStatus::BackOff { .. }
                | TaskStatus::Stopping,
            ) => false,
        }
    }
}
