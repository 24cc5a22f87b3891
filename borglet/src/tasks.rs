//! The supervisor's effects on containers: each is carried out beside the core, and what comes of
//! it is told as news.
//!
//! A container is one run of an incarnation; its id says which, so that the next borglet knows.
//! Invariant: for every start that is ordered, exactly one of started and failed is told, and for
//! every one that started, its end.

use crate::clock;
use crate::config::{Config, Isolation};
use crate::container::{ContainerId, ExitRecord, Outcome, StartError, Started};
use crate::data::DataDirs;
use crate::executor::{ActError, Executor, ExecutorConfig, Found, OpenError, Signal};
use crate::home::{Home, HomeError};
use crate::isolation::IsolationWanted;
use crate::lease;
use crate::logs::{LogChunk, Stream};
use crate::metrics::Metrics;
use crate::network::{self, AddressRange};
use crate::packages::Packages;
use crate::runs::{Note, container_spec, failure, pid, run_of, runs_of};
use crate::volumes::{Volumes, real};
use crate::{probe, procfs};
use borg_proto::poll::{SharedData, TargetTask};
use borg_proto::task::RunEnd;
use borg_proto::text::{MAX_LAST_LINES_BYTES, last_lines};
use borg_proto::wire::pb;
use borg_proto::{FailureCause, IncarnationId, Millis, TaskName, in_full};
use borglet_supervisor::{Adopted, AdoptedState, Input, Launch, NextRun, ProbeAt, Run};
use prost::Message;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Containers set up at once. Our choice: more would only wait for the same processors.
const STARTS_AT_ONCE: usize = 4;
/// Probes at once: each has a connection and a buffer of 16 KiB. Our choice; each task has one at most, and more
/// tasks than that wait for each other only when they all hang.
const PROBES_AT_ONCE: usize = 512;
/// A wait for an end that fails is tried again after this time.
const WAIT_AGAIN: Duration = Duration::from_secs(1);
/// How long masters may take to hear of an end and have it cleaned up before its record is synced: it is of use
/// only to those that have not heard. Ours; they need milliseconds.
const UNHEARD: Duration = Duration::from_secs(1);
/// What is missing where the machine overrules what is said of single interfaces.
const LOOSE: &str = "net.ipv4.conf.all.rp_filter is 2: only the want of raw sockets keeps a task from sending under \
                     another's address";

/// Containers cannot be held on this machine.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// The executor cannot work.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory does not say whose it is.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// What allocs left behind cannot be listed.
    #[error("list what allocs left behind")]
    Data(#[source] io::Error),
    /// The containers of an earlier process cannot be listed.
    #[error("adopt the containers of an earlier borglet")]
    Adopt(#[source] io::Error),
    /// A container cannot be taken down.
    #[error(transparent)]
    Act(#[from] ActError),
    /// Our cgroups cannot be removed.
    #[error("remove the borglet's cgroups")]
    Retire(#[source] io::Error),
}

/// All tasks of this machine. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(Arc<Inner>);

/// Tasks as they were taken over: what is there of them, with which runs others go on, and the directories of allocs.
pub(crate) type Opened =
    (Tasks, Vec<Adopted>, BTreeMap<IncarnationId, NextRun>, Vec<IncarnationId>);

#[derive(Debug)]
struct Inner {
    executor: Executor,
    data: DataDirs,
    /// Bounded; whoever has news of a start or an end waits for room, so none is lost.
    news: mpsc::Sender<Input>,
    metrics: Metrics,
    volumes: Volumes,
    /// The addresses for tasks with networks of their own, or why there are none.
    networks: Result<Option<AddressRange>, String>,
    lease_file: PathBuf,
    packages: Packages,
    starts: Semaphore,
    probes: Semaphore,
    /// What runs. Never held over anything that waits.
    live: Mutex<BTreeMap<IncarnationId, (Run, ContainerId)>>,
    /// Directories of allocs that count as files of those who run there. Likewise.
    charged: Mutex<BTreeMap<ContainerId, PathBuf>>,
}

impl Tasks {
    /// Takes over what an earlier process left in the directory.
    pub(crate) async fn open(
        home: &Home,
        config: &Config,
        metrics: Metrics,
        packages: Packages,
        news: mpsc::Sender<Input>,
    ) -> Result<Opened, TasksError> {
        let mut setup = ExecutorConfig::new(home.path().to_owned(), home.cgroup()?);
        setup.isolation = match config.isolation {
            Isolation::Auto => IsolationWanted::FULL,
            Isolation::None => IsolationWanted::NONE,
        };
        setup.hidden = hidden(config);
        setup.network = config.task_network;
        let mut out_of_sight = setup.hidden.clone();
        out_of_sight.push(real(home.path()));
        let volumes = Volumes::new(config.volumes.clone(), out_of_sight);
        let (executor, found, next, networks) = blocking(move || {
            let (executor, found, next) = adopt(setup)?;
            let networks = executor.try_networks();
            Ok::<_, TasksError>((executor, found, next, networks))
        })
        .await?;
        let at = home.path().to_owned();
        let opened = blocking(move || DataDirs::open(&at)).await;
        let (data, left) = opened.map_err(TasksError::Data)?;
        let inner = Inner {
            executor,
            data,
            news,
            metrics,
            packages,
            volumes,
            networks,
            lease_file: lease::file_in(&real(home.path())),
            starts: Semaphore::new(STARTS_AT_ONCE),
            probes: Semaphore::new(PROBES_AT_ONCE),
            live: Mutex::default(),
            charged: Mutex::default(),
        };
        let tasks = Self(Arc::new(inner));
        let mut adopted = Vec::with_capacity(found.len());
        for (container, one) in found {
            if matches!(one.state, AdoptedState::Running { .. }) {
                tasks.live().insert(one.run.id, (one.run, container.clone()));
                let shared = one.task.as_ref().and_then(|task| task.shared.as_ref());
                tasks.charge(&container, shared);
                tasks.watch(one.run, container);
            }
            adopted.push(one);
        }
        Ok((tasks, adopted, next, left))
    }

    /// What isolation tasks do not get here, for people.
    pub(crate) fn missing_isolation(&self) -> Vec<String> {
        let mut missing = self.0.executor.isolation().missing.clone();
        match &self.0.networks {
            Err(why) => missing.push(why.clone()),
            Ok(Some(_)) if network::loosely_filtered() => missing.push(LOOSE.to_owned()),
            Ok(_) => {}
        }
        missing
    }

    /// The addresses that tasks can have here.
    pub(crate) fn addresses(&self) -> Option<AddressRange> {
        self.0.networks.as_ref().ok().copied().flatten()
    }

    /// Whether tasks that bring an image can be started.
    pub(crate) fn runs_images(&self) -> bool {
        self.0.executor.isolation().images
    }

    /// The executor, for reading.
    pub(crate) fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// What runs now.
    pub(crate) fn running(&self) -> Vec<(IncarnationId, ContainerId)> {
        self.live().iter().map(|(id, (_, container))| (*id, container.clone())).collect()
    }

    /// The container of an incarnation that runs now.
    pub(crate) fn running_container(&self, id: IncarnationId) -> Option<ContainerId> {
        self.live().get(&id).map(|(_, container)| container.clone())
    }

    /// Tells news that may be lost: when the queue is full they are. Whether there was room.
    pub(crate) fn tell_if_room(&self, input: Input) -> bool {
        self.0.news.try_send(input).is_ok()
    }

    /// Starts a container; told as started or failed.
    pub(crate) fn start(&self, launch: Launch) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let since = clock::stopwatch();
            let (run, name) = (launch.run, launch.name.clone());
            let permit = tasks.0.starts.acquire().await.expect("never closed");
            let starter = tasks.clone();
            let started = blocking(move || starter.start_now(&launch)).await;
            drop(permit);
            match started {
                Ok((container, started)) => {
                    tracing::info!(task = %name, %run, pid = started.pid, "started");
                    tasks.0.metrics.starts.inc();
                    tasks.0.metrics.start_seconds.observe(since.seconds());
                    let since = Millis(started.started_at_ms);
                    // First: its end may be ordered as soon as its start is known.
                    tasks.live().insert(run.id, (run, container.clone()));
                    let (pid, address) = (pid(&started), started.address);
                    tasks.tell(Input::Started { run, pid, since, address }).await;
                    tasks.watch(run, container);
                }
                Err(cause) => {
                    tracing::warn!(task = %name, %run, %cause, "not started");
                    tasks.0.metrics.failed_starts.inc();
                    let end = Arc::new(never_ran(run, clock::now(), cause.clone()));
                    tasks.tell(Input::RunEnded { id: run.id, end }).await;
                    tasks.tell(Input::StartFailed { run, cause }).await;
                }
            }
        });
    }

    fn start_now(&self, launch: &Launch) -> Result<(ContainerId, Started), FailureCause> {
        let fail = |why: String| FailureCause::start(&why);
        self.clean_up(launch.run.id).map_err(|error| fail(in_full(&error)))?;
        let binds = launch.volumes.iter().map(|volume| self.0.volumes.bind(volume));
        let mut binds = binds.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        let shared = launch.shared.as_ref().map(|shared| self.0.data.share(shared));
        let shared = shared.transpose().map_err(fail)?;
        binds.extend(shared.clone());
        let own = launch.task.spec.network.is_own();
        if let Some(&port) = launch.ports.iter().find(|&&port| !own && is_taken(port)) {
            return Err(FailureCause::PortTaken { port });
        }
        let layer = |digest| self.0.packages.store().layer(digest);
        let mut spec =
            container_spec(launch, binds, self.0.lease_file.clone(), layer).map_err(fail)?;
        if let Some(bind) = shared {
            spec.env.push(("BORG_ALLOC_DIR".to_owned(), bind.path.to_string_lossy().into_owned()));
        }
        spec.words = pb::TargetTask::from(&launch.task).encode_to_vec();
        let container = spec.id.clone();
        let started = match self.0.executor.start(spec.clone()) {
            // Only logs of a start that an earlier borglet did not live to tell of.
            Err(StartError::Exists(_)) if self.remove_kept_logs(&container) => {
                self.0.executor.start(spec)
            }
            started => started,
        };
        let started = started.map_err(|error| match error {
            StartError::Fenced => FailureCause::Fenced,
            StartError::NoAddress { .. } => FailureCause::NoAddress,
            error => fail(error.to_string()),
        })?;
        self.charge(&container, launch.shared.as_ref());
        Ok((container, started))
    }

    /// Counts what is in a directory of an alloc as files of a container.
    fn charge(&self, container: &ContainerId, shared: Option<&SharedData>) {
        if let Some(shared) = shared.filter(|shared| shared.charged) {
            let path = self.0.data.path(shared.alloc);
            self.charged().insert(container.clone(), path);
        }
    }

    fn charged(&self) -> MutexGuard<'_, BTreeMap<ContainerId, PathBuf>> {
        self.0.charged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a container writes to disk, logs aside.
    pub(crate) fn written(&self, container: &ContainerId) -> Vec<PathBuf> {
        let mut all = self.0.executor.written(container);
        all.extend(self.charged().get(container).cloned());
        all
    }

    /// Finds out what a directory of an alloc takes; told.
    pub(crate) fn measure_data(&self, alloc: IncarnationId) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let data = tasks.0.data.clone();
            let bytes = blocking(move || data.measure(alloc)).await;
            tasks.tell(Input::DataMeasured { alloc, bytes }).await;
        });
    }

    /// Removes a directory of an alloc.
    pub(crate) fn drop_data(&self, alloc: IncarnationId) {
        let data = self.0.data.clone();
        drop(tokio::task::spawn_blocking(move || match data.remove(alloc) {
            Ok(()) => tracing::info!(%alloc, "data of an alloc removed"),
            // The next start of the borglet finds it and tries again.
            Err(error) => tracing::warn!(%alloc, %error, "data of an alloc not removed"),
        }));
    }

    /// Whether logs were all that was left of a container, and are gone now. What is more than
    /// logs may run, and is never touched here.
    fn remove_kept_logs(&self, container: &ContainerId) -> bool {
        let kept = self.0.executor.kept_logs().unwrap_or_default();
        kept.iter().any(|(id, _)| id == container) && self.0.executor.remove_logs(container).is_ok()
    }

    /// Waits for the end of a run that is in the table of live ones, and tells it.
    fn watch(&self, run: Run, container: ContainerId) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let (at, failure) = loop {
                match tasks.0.executor.wait(&container).await {
                    Ok(record) => {
                        let ended = (Millis(record.ended_at_ms), failure(&record));
                        let executor = tasks.0.executor.clone();
                        let end = blocking(move || end_of(&executor, run, &record)).await;
                        tasks.tell(Input::RunEnded { id: run.id, end: Arc::new(end) }).await;
                        break ended;
                    }
                    Err(ActError::Unknown(_)) => break (clock::now(), Some(FailureCause::Lost)),
                    Err(error) => {
                        tracing::error!(%container, error = in_full(&error), "cannot wait for its end");
                        tokio::time::sleep(WAIT_AGAIN).await;
                    }
                }
            };
            tracing::info!(%container, failure = failure.as_ref().map(tracing::field::display), "ended");
            tasks.live().retain(|_, (live, _)| *live != run);
            tasks.charged().remove(&container);
            tasks.0.metrics.exits.inc();
            if matches!(failure, Some(FailureCause::OutOfMemory { .. })) {
                tasks.0.metrics.out_of_memory.inc();
            }
            tasks.tell(Input::Exited { run, at, failure }).await;
            tokio::time::sleep(UNHEARD).await;
            blocking(move || sync_record(&tasks.0.executor, &container)).await;
        });
    }

    async fn tell(&self, input: Input) {
        // Fails only when the borglet stops: the next one adopts and finds out by itself.
        drop(self.0.news.send(input).await);
    }

    /// SIGTERM. The end is told when it comes.
    pub(crate) fn terminate(&self, run: Run) {
        let Some(container) = self.container(run) else { return };
        match self.0.executor.signal(&container, Signal::SIGTERM) {
            Ok(()) | Err(ActError::Ended(_)) => {}
            Err(error) => tracing::warn!(%container, error = in_full(&error), "SIGTERM not sent"),
        }
    }

    /// SIGKILL to all of its processes. The end is told when it comes.
    pub(crate) fn kill(&self, run: Run) {
        let Some(container) = self.container(run) else { return };
        let tasks = self.clone();
        drop(tokio::task::spawn_blocking(move || match tasks.0.executor.kill(&container) {
            Ok(()) | Err(ActError::Ended(_)) => {}
            Err(error) => tracing::warn!(%container, error = in_full(&error), "not killed"),
        }));
    }

    /// Caps a run's processor time, or caps it no more.
    pub(crate) fn cap_cpu(&self, run: Run, cap_milli: Option<u64>) {
        let Some(container) = self.container(run) else { return };
        let tasks = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            match tasks.0.executor.cap_cpu(&container, cap_milli) {
                Ok(()) if cap_milli.is_some() => {
                    tracing::info!(%container, cap_milli, "processor time capped");
                }
                Ok(()) => tracing::debug!(%container, "processor time not capped"),
                Err(ActError::Ended(_)) => {}
                Err(error) => tracing::warn!(%container, error = in_full(&error), "not capped"),
            }
        }));
    }

    /// Lets a run weigh so much when all want processors.
    pub(crate) fn share_cpu(&self, run: Run, cpu_milli: u64) {
        let Some(container) = self.container(run) else { return };
        let tasks = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            match tasks.0.executor.share_cpu(&container, cpu_milli) {
                Ok(()) => tracing::debug!(%container, cpu_milli, "share of the processors set"),
                Err(ActError::Ended(_)) => {}
                Err(error) => tracing::warn!(%container, error = in_full(&error), "share not set"),
            }
        }));
    }

    /// Probes a run; what comes of it is told.
    pub(crate) fn probe(&self, run: Run, probe: ProbeAt, within: Millis) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let permit = tasks.0.probes.acquire().await.expect("never closed");
            // One that ended meanwhile is told as ended.
            let Some(container) = tasks.container(run) else { return };
            tasks.tell(Input::ProbeBegun { run }).await;
            let place = (tasks.executor().clone(), container);
            let host = place.0.address(&place.1);
            let result = probe::probe(probe, host, place, Duration::from_millis(within.0)).await;
            drop(permit);
            tasks.tell(Input::Probed { run, result }).await;
        });
    }

    /// Removes all of an incarnation but its logs.
    pub(crate) fn remove(&self, id: IncarnationId) {
        let tasks = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = tasks.clean_up(id) {
                // The next start of the borglet finds it and tries again.
                tracing::warn!(%id, error = in_full(&error), "not cleaned up");
            }
        }));
    }

    fn clean_up(&self, id: IncarnationId) -> Result<(), ActError> {
        let ids = self.0.executor.ids();
        let mut ours =
            ids.iter().filter(|container| run_of(container).is_some_and(|run| run.id == id));
        ours.try_for_each(|container| self.0.executor.cleanup(container))
    }

    /// The containers of an incarnation that still have logs, by the number of their run.
    pub(crate) async fn logs(
        &self,
        name: &TaskName,
        id: IncarnationId,
    ) -> BTreeMap<u32, ContainerId> {
        let (tasks, name) = (self.clone(), name.clone());
        blocking(move || {
            let mut runs = tasks.known_runs(&name, id);
            let kept = tasks.0.executor.kept_logs().unwrap_or_default();
            runs.extend(runs_of(&name, id, kept.into_iter().map(|(container, _)| container)));
            runs
        })
        .await
    }

    /// The same without those of which nothing but logs is left. Costs no look at the disk.
    pub(crate) fn known_runs(
        &self,
        name: &TaskName,
        id: IncarnationId,
    ) -> BTreeMap<u32, ContainerId> {
        runs_of(name, id, self.0.executor.ids().into_iter())
    }

    /// A piece of a container's output.
    pub(crate) async fn read_log(
        &self,
        container: ContainerId,
        stream: Stream,
        offset: u64,
        max: usize,
    ) -> Result<LogChunk, ActError> {
        let tasks = self.clone();
        blocking(move || tasks.0.executor.read_log(&container, stream, offset, max)).await
    }

    /// Kills everything in the directory and removes its cgroups.
    pub(crate) async fn destroy(home: &Home) -> Result<(), TasksError> {
        let mut setup = ExecutorConfig::new(home.path().to_owned(), home.cgroup()?);
        // Nothing is started any more, so nobody needs to know whether namespaces work.
        setup.isolation = IsolationWanted { namespaces: false, ..IsolationWanted::FULL };
        let executor = blocking(move || {
            let executor = Executor::open(setup)?;
            executor.adopt().map_err(TasksError::Adopt)?;
            Ok::<_, TasksError>(executor)
        })
        .await?;
        let ids = executor.ids();
        for id in &ids {
            executor.kill(id)?;
        }
        for id in ids {
            executor.wait(&id).await?;
            let executor = executor.clone();
            blocking(move || executor.cleanup(&id)).await?;
        }
        blocking(move || executor.retire()).await.map_err(TasksError::Retire)
    }

    fn container(&self, run: Run) -> Option<ContainerId> {
        self.live()
            .get(&run.id)
            .filter(|(live, _)| *live == run)
            .map(|(_, container)| container.clone())
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<IncarnationId, (Run, ContainerId)>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories that tasks must not see into, beside the borglet's own, as real paths.
fn hidden(config: &Config) -> Vec<PathBuf> {
    let all = config.hide.iter().chain([&config.creds]);
    all.map(|path| {
        if !path.is_dir() {
            tracing::warn!(path = %path.display(), "not a directory: not hidden from tasks");
        }
        real(path)
    })
    .collect()
}

/// Runs something that waits for the disk or the kernel off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("blocking work does not panic and is not aborted")
}

/// What is to be told of a run that is over. Of one that failed, the end of what it wrote to standard error, or
/// else to standard output.
fn end_of(executor: &Executor, run: Run, record: &ExitRecord) -> RunEnd {
    let failure = failure(record);
    let tail = |stream| {
        let most = u64::try_from(MAX_LAST_LINES_BYTES).expect("a small number");
        let end = executor.read_log(&record.id, stream, u64::MAX, 0).ok()?.end;
        let from = end.saturating_sub(most);
        let chunk = executor.read_log(&record.id, stream, from, MAX_LAST_LINES_BYTES).ok()?;
        let text = last_lines(&chunk.data, MAX_LAST_LINES_BYTES);
        (!text.trim().is_empty()).then_some(text)
    };
    let words =
        failure.as_ref().and_then(|_| tail(Stream::Stderr).or_else(|| tail(Stream::Stdout)));
    RunEnd {
        run: run.number,
        started: record.started.as_ref().map(|started| Millis(started.started_at_ms)),
        ended: Millis(record.ended_at_ms),
        failure,
        cpu_ms: record.cpu_ms,
        ram_peak_bytes: record.memory_peak_bytes,
        last_lines: words.unwrap_or_default(),
    }
}

fn never_ran(run: Run, at: Millis, cause: FailureCause) -> RunEnd {
    RunEnd {
        run: run.number,
        started: None,
        ended: at,
        failure: Some(cause),
        cpu_ms: 0,
        ram_peak_bytes: 0,
        last_lines: String::new(),
    }
}

type AdoptedContainer = (ContainerId, Adopted);

/// The executor, what it found, and with which runs those go on of which it found none.
type AdoptedAll = (Executor, Vec<AdoptedContainer>, BTreeMap<IncarnationId, NextRun>);

fn adopt(setup: ExecutorConfig) -> Result<AdoptedAll, TasksError> {
    let executor = Executor::open(setup)?;
    let mut next: BTreeMap<IncarnationId, NextRun> = BTreeMap::new();
    let mut newest: BTreeMap<IncarnationId, AdoptedContainer> = BTreeMap::new();
    for found in executor.adopt().map_err(TasksError::Adopt)? {
        let id = found.id.clone();
        let Some(run) = run_of(&id) else {
            tracing::warn!(container = %id, "not one of a task: left alone");
            continue;
        };
        let Note { grace, ports, layers, failures } = Note::read(&found.note);
        let mut end = None;
        let task = task_in(&found);
        let address = executor.address(&id);
        let (since, state) = match found.found {
            Found::Running(started) => {
                (Millis(started.started_at_ms), AdoptedState::Running { pid: pid(&started) })
            }
            // It never ran: that run is still to be started.
            Found::Ended(ExitRecord { outcome: Outcome::NotStarted(_), .. }) => {
                forget(&executor, &id);
                next.insert(run.id, NextRun { number: run.number, failures });
                continue;
            }
            Found::Ended(record) => {
                sync_record(&executor, &id);
                let at = Millis(record.ended_at_ms);
                let since =
                    record.started.as_ref().map_or(at, |started| Millis(started.started_at_ms));
                end = Some(Arc::new(end_of(&executor, run, &record)));
                (since, AdoptedState::Ended { at, failure: failure(&record) })
            }
        };
        let adopted =
            Adopted { run, since, grace, ports, address, layers, task, state, end, failures };
        // Two runs of one incarnation: the borglet died while it cleaned up after the older one.
        let older = match newest.get(&run.id) {
            Some((_, other)) if other.run > run => Some(id),
            _ => newest.insert(run.id, (id, adopted)).map(|(older, _)| older),
        };
        if let Some(older) = older
            && let Err(error) = executor.cleanup(&older)
        {
            tracing::warn!(container = %older, error = in_full(&error), "not cleaned up");
        }
    }
    for (container, _) in executor.kept_logs().map_err(TasksError::Adopt)? {
        // The numbers of runs whose output is there are taken.
        let Some(run) = run_of(&container) else { continue };
        let next = next.entry(run.id).or_default();
        next.number = next.number.max(run.number.saturating_add(1));
    }
    Ok((executor, newest.into_values().collect(), next))
}

/// What a container was started for, as it was kept beside it. After a restart of the machine only the masters
/// know what of it is still wanted here.
fn task_in(adopted: &crate::executor::Adopted) -> Option<TargetTask> {
    let (id, words) = (&adopted.id, &adopted.words);
    let boot = match &adopted.found {
        Found::Running(started) => Some(&started.boot_id),
        Found::Ended(record) => record.started.as_ref().map(|started| &started.boot_id),
    };
    if words.is_empty() || boot.is_none_or(|boot| *boot != procfs::boot_id()) {
        return None;
    }
    let read = pb::TargetTask::decode(&words[..]).map_err(|error| error.to_string());
    let read = read.and_then(|task| TargetTask::try_from(task).map_err(|error| error.to_string()));
    read.inspect_err(|error| tracing::error!(container = %id, %error, "words are damaged")).ok()
}

fn sync_record(executor: &Executor, id: &ContainerId) {
    if let Err(error) = executor.sync_record(id) {
        tracing::warn!(container = %id, error = in_full(&error), "its end may be forgotten in a power cut");
    }
}

fn forget(executor: &Executor, id: &ContainerId) {
    if let Err(error) = executor.cleanup(id).and_then(|()| executor.remove_logs(id)) {
        tracing::warn!(container = %id, error = in_full(&error), "not cleaned up");
    }
}

/// Whether somebody listens on a port, on any address: he would take the task's callers.
fn is_taken(port: u16) -> bool {
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    // Other errors (no IPv6 here, a port below 1024) are not for us to judge.
    let in_use = |ip| matches!(TcpListener::bind((ip, port)), Err(e) if e.kind() == io::ErrorKind::AddrInUse);
    all.into_iter().any(in_use)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_taken(port));
        drop(listener);
        assert!(!is_taken(port));
    }
}
