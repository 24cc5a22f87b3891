//! The task that owns the supervisor: everyone else sends it inputs, and it carries effects out.
//!
//! Invariant: effects are begun in their order, and a fence is on disk before anything after it is
//! begun. When the disk refuses, the borglet stops: its tasks live on and the next start adopts
//! them.

use crate::clock;
use crate::home::{Home, HomeError};
use crate::metrics::Metrics;
use crate::packages::Packages;
use crate::runs::name_of;
use crate::tasks::{Tasks, blocking};
use borg_proto::poll::{
    Fence, PollAnswer, PollRefusal, PollRequest, TargetTask, TaskReport, TaskStatus,
};
use borg_proto::{IncarnationId, MachineInfo, TaskName, in_full};
use borglet_supervisor::shares::weight;
use borglet_supervisor::{Effect, Input, Supervisor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Questions that may wait for the supervisor. When it is full, polls are refused with "busy": the
/// shard asks again. Our choice; each master has one poll out at a time.
const QUESTIONS: usize = 64;
/// News of containers that may wait. When it is full, whoever has news waits: none is lost.
const NEWS: usize = 1024;
/// Most news that one turn takes.
const NEWS_PER_TURN: usize = 64;
/// The supervisor is asked what is due at least so often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The daemon's heart stopped.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The fence could not be made durable, so no further order may be obeyed.
    #[error("remember the newest order")]
    Fence(#[source] HomeError),
}

/// The way to the supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Core {
    questions: mpsc::Sender<Question>,
}

/// A question to the supervisor.
#[derive(Debug)]
enum Question {
    Poll { request: Box<PollRequest>, answer: oneshot::Sender<Result<PollAnswer, PollRefusal>> },
    Obeyed(oneshot::Sender<Fence>),
    Status { id: IncarnationId, answer: oneshot::Sender<Option<TaskStatus>> },
    Seen(oneshot::Sender<Seen>),
}

/// An incarnation, what the target says of it, and its name.
pub(crate) type SeenTask = (TaskReport, Option<TargetTask>, Option<TaskName>);

/// Everything that the supervisor knows, to be shown.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) info: MachineInfo,
    pub(crate) tasks: Vec<SeenTask>,
}

/// Too many questions wait, or the borglet stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the borglet is busy or stopping; ask again")]
pub(crate) struct Busy;

impl Core {
    /// Passes a poll on. The answer may be held for as long as the request allows.
    pub(crate) async fn poll(
        &self,
        request: PollRequest,
    ) -> Result<Result<PollAnswer, PollRefusal>, Busy> {
        let (answer, answered) = oneshot::channel();
        let question = Question::Poll { request: Box::new(request), answer };
        self.questions.try_send(question).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }

    /// The newest order obeyed; `None` when the supervisor is gone.
    pub(crate) async fn obeyed(&self) -> Option<Fence> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Obeyed(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What there is to be shown; `None` when the supervisor is gone.
    pub(crate) async fn seen(&self) -> Option<Seen> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Seen(answer)).await.ok()?;
        answered.await.ok()
    }

    /// How far an incarnation is; `None` when the machine has nothing of it.
    pub(crate) async fn status(&self, id: IncarnationId) -> Option<TaskStatus> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question::Status { id, answer }).await.ok()?;
        answered.await.ok()?
    }
}

/// What the driver listens to.
#[derive(Debug)]
pub(crate) struct Inbox {
    questions: mpsc::Receiver<Question>,
    news: mpsc::Receiver<Input>,
}

/// The driver's inbox, and the two ways into it.
pub(crate) fn inbox() -> (Core, mpsc::Sender<Input>, Inbox) {
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let (told, news) = mpsc::channel(NEWS);
    (Core { questions }, told, Inbox { questions: asked, news })
}

/// Owns the supervisor until `stop`.
pub(crate) async fn run(
    supervisor: Supervisor,
    home: Arc<Home>,
    tasks: Tasks,
    packages: Packages,
    metrics: Metrics,
    mut inbox: Inbox,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    let mut driver =
        Driver { supervisor, home, tasks, packages, metrics, waiting: BTreeMap::new(), token: 0 };
    let mut turn = Vec::with_capacity(NEWS_PER_TURN);
    loop {
        let now = clock::now();
        let due =
            driver.supervisor.next_wakeup().map(|due| Duration::from_millis(due.since(now).0));
        let sleep = due.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(question) = inbox.questions.recv() => driver.take(question, &mut turn),
            _ = inbox.news.recv_many(&mut turn, NEWS_PER_TURN) => {}
            () = tokio::time::sleep(sleep) => turn.push(Input::Tick),
        }
        for input in turn.drain(..) {
            driver.turn(input).await?;
        }
        driver.metrics.set_tasks(driver.supervisor.counts());
        driver.metrics.set_data(driver.supervisor.data_held());
    }
}

/// Runs something that waits for the disk on a thread of its own: behind what waits for tasks, all of the machine
/// would wait. Where no thread can be made it waits with the others.
async fn on_a_thread<T: Send + 'static>(work: impl Fn() -> T + Clone + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    let own = work.clone();
    let made = std::thread::Builder::new().spawn(move || drop(done.send(own())));
    if made.is_ok()
        && let Ok(done) = result.await
    {
        return done;
    }
    blocking(work).await
}

#[derive(Debug)]
struct Driver {
    supervisor: Supervisor,
    home: Arc<Home>,
    tasks: Tasks,
    packages: Packages,
    metrics: Metrics,
    /// Polls without an answer yet, bounded by what the supervisor holds.
    waiting: BTreeMap<u64, oneshot::Sender<Result<PollAnswer, PollRefusal>>>,
    token: u64,
}

impl Driver {
    fn take(&mut self, question: Question, turn: &mut Vec<Input>) {
        match question {
            Question::Poll { request, answer } => {
                self.token += 1;
                self.waiting.insert(self.token, answer);
                turn.push(Input::Poll { token: self.token, request: *request });
            }
            // Whoever asked may have gone away meanwhile.
            Question::Obeyed(answer) => drop(answer.send(self.supervisor.obeyed())),
            Question::Seen(answer) => drop(answer.send(self.seen())),
            Question::Status { id, answer } => drop(answer.send(self.supervisor.status(id))),
        }
    }

    fn seen(&self) -> Seen {
        // Of what was adopted the container alone tells the name until a master comes.
        let known: BTreeMap<_, _> = self.tasks.running().into_iter().collect();
        let name = |report: &TaskReport| known.get(&report.id).and_then(name_of);
        let tasks = self.supervisor.tasks().map(|(report, want)| {
            let name = want.map(|want| want.name.clone()).or_else(|| name(&report));
            (report, want.cloned(), name)
        });
        Seen { info: self.supervisor.info().clone(), tasks: tasks.collect() }
    }

    async fn turn(&mut self, input: Input) -> Result<(), DriverError> {
        let started = if let Input::Started { run, .. } = &input { Some(*run) } else { None };
        for effect in self.supervisor.handle(clock::now(), input) {
            match effect {
                Effect::RememberFence(fence) => {
                    let home = Arc::clone(&self.home);
                    let done = on_a_thread(move || home.remember(fence)).await;
                    done.map_err(DriverError::Fence)?;
                    tracing::info!(?fence, "a new session gives the orders");
                }
                Effect::ExtendLease { until } => {
                    let (home, until) = (Arc::clone(&self.home), clock::boot_time_of(until));
                    if let Err(error) = on_a_thread(move || home.extend_lease(until)).await {
                        // Exclusive tasks end in time then, as if nobody had been heard of.
                        tracing::error!(error = in_full(&error), "the lease is not extended");
                    }
                }
                Effect::ExpectBlob { digest, bytes, order } => {
                    self.packages.expect(digest, bytes, order);
                }
                Effect::FetchBlob { digest, machine, address, order, bytes: _ } => {
                    self.packages.fetch(digest, machine, address, order);
                }
                Effect::Unpack { layer, order } => self.packages.unpack(layer, order),
                Effect::DropBlob { digest } => self.packages.drop_blob(digest),
                Effect::MeasureData { alloc } => self.tasks.measure_data(alloc),
                Effect::DropData { alloc } => self.tasks.drop_data(alloc),
                Effect::Start(launch) => self.tasks.start(*launch),
                Effect::Terminate { run } => self.tasks.terminate(run),
                Effect::Kill { run } => self.tasks.kill(run),
                Effect::CapCpu { run, cap_milli } => self.tasks.cap_cpu(run, cap_milli),
                Effect::ShareCpu { run, cpu_milli, appclass, priority } => {
                    self.tasks.share_cpu(run, weight(cpu_milli, appclass, priority));
                }
                Effect::Probe { run, probe, timeout } => self.tasks.probe(run, probe, timeout),
                Effect::Remove { id } => self.tasks.remove(id),
                Effect::Answer { token, result } => self.answer(token, result),
            }
        }
        if let Some(run) = started
            && let Some(start) = self.supervisor.start_time(run)
        {
            let packages = Duration::from_millis(start.packages.0);
            self.metrics.package_wait_seconds.observe(packages.as_secs_f64());
            tracing::info!(%run, "{start}");
        }
        Ok(())
    }

    fn answer(&mut self, token: u64, result: Result<PollAnswer, PollRefusal>) {
        match &result {
            Ok(_) => drop(self.metrics.polls.inc()),
            Err(refusal) => {
                self.metrics.refused_polls.inc();
                match refusal {
                    // The shard did not know yet that this process is new; its next poll has it.
                    PollRefusal::TargetMissing { .. } => tracing::debug!(%refusal, "poll refused"),
                    PollRefusal::Stale { .. }
                    | PollRefusal::Cell { .. }
                    | PollRefusal::Machine { .. } => {
                        tracing::warn!(%refusal, "poll refused");
                    }
                }
            }
        }
        if let Some(answer) = self.waiting.remove(&token) {
            // The shard may have given the poll up: its next one gets the full state again.
            drop(answer.send(result));
        }
    }
}
