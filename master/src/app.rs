//! Puts a Borgmaster together: opens its log, binds its address, starts its threads and tasks.
//!
//! `Config` -> [`App::build`] -> [`App::run`]; no globals, so that five replicas fit in one test.

use crate::api::Api;
use crate::blobs::Blobs;
use crate::catching_up::CaughtUp;
use crate::changes::{Changes, Door};
use crate::checkpoints::{CheckpointThreads, Hands};
use crate::config::{Config, Member};
use crate::discovery::Discovery;
use crate::dns;
use crate::driver::{self, Driver, DriverError, Turn};
use crate::feed::{Feed, View};
use crate::freshness::Freshness;
use crate::greeting::{self, Dismissal};
use crate::http;
use crate::inbox::Inbox;
use crate::joining::{self, Ready};
use crate::last_breath::{self, LAST_BREATH};
use crate::lifeline::Connections;
use crate::metrics::{Exposition, Metrics};
use crate::past::Past;
use crate::peer_service::PeerService;
use crate::peers::Peers;
use crate::planning::Planner;
use crate::recording::{self, Recorder};
use crate::scheduling::{self, Mailbox};
use crate::store::History;
use crate::threads::{RuntimeThread, give_way};
use crate::{clock, store};
use borg_cell::master::{self, Input, Master};
use borg_cell::store::{LogStore, StoreError};
use borg_linkshard::poller;
use borg_proto::identity::Role;
use borg_proto::names::ReplicaId;
use borg_proto::rpc::{self, BorgmasterServer, Credentials, CredentialsError};
use borg_proto::slots::Slots;
use borg_proto::time::Millis;
use borg_proto::wire::pb;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Orders that may wait for the shard; more are dropped, the leader repeats them.
const ORDERS: usize = 256;
/// Reports of the shard that may wait; more are dropped, the shard repeats itself.
const REPORTS: usize = 1_024;
/// The beat of the deciding half: what its timers are counted in.
const TICK: Millis = Millis(20);
/// How long a leader that ends waits for another one to lead. Ours: some elections.
const RETIRING: Duration = Duration::from_secs(2);

/// Why a Borgmaster could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The certificate or key is no good.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The certificate is not a master's.
    #[error("the certificate in --creds names {0}, not a master")]
    NotAMaster(Role),
    /// The certificate's replica is not in `--masters`.
    #[error("the certificate is master {0}'s, which is not in --masters")]
    NotAMember(ReplicaId),
    /// The same replica twice in `--masters`.
    #[error("--masters names master {0} twice")]
    MemberTwice(ReplicaId),
    /// Two replicas at one address in `--masters`.
    #[error("--masters gives masters {0} and {1} the same address")]
    AddressTwice(ReplicaId, ReplicaId),
    /// There is no log, and nobody said that there should be none.
    #[error("no log in {0}")]
    NoLog(String),
    /// The other masters do not know this one any more.
    #[error(
        "this master was taken out of the cell ({by} of {of} other masters say so): its directory is of no use \
         any more"
    )]
    Removed {
        /// How many of the others say so.
        by: usize,
        /// How many there are.
        of: usize,
    },
    /// The other masters go on from another restore than this one.
    #[error(
        "this master was restored to epoch {own}, the others are of epoch {others}: move its directory \
         away and start it again without --new: it takes everything from them"
    )]
    OtherRestore {
        /// Its own epoch.
        own: u64,
        /// That of most others.
        others: u64,
    },
    /// The log cannot be used.
    #[error("the log in {dir}")]
    Store {
        /// The directory.
        dir: String,
        /// What is wrong with it.
        #[source]
        source: StoreError,
    },
    /// The blobs of packages cannot be used.
    #[error("the blobs in {dir}")]
    Blobs {
        /// The directory.
        dir: String,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The log does not make sense.
    #[error("the log does not make sense")]
    Recover(#[source] master::RecoverError),
    /// An address could not be bound.
    #[error("listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another master's address is no good.
    #[error(transparent)]
    Peer(#[from] rpc::ChannelError),
    /// Serving failed.
    #[error("serve")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The driver stopped.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
    /// A thread ended by a panic.
    #[error("the thread {0} panicked")]
    Panicked(&'static str),
}

impl From<Dismissal> for AppError {
    fn from(dismissal: Dismissal) -> Self {
        match dismissal {
            Dismissal::Removed { by, of } => Self::Removed { by, of },
            Dismissal::OtherRestore { own, others } => Self::OtherRestore { own, others },
        }
    }
}

/// A Borgmaster that is ready to run.
pub struct App {
    config: Config,
    credentials: Credentials,
    me: Member,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    dns_sockets: Option<dns::Sockets>,
    store: Box<dyn LogStore>,
    history: History,
    master: Master,
    metrics: Metrics,
    exposition: Exposition,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("me", &self.me).finish_non_exhaustive()
    }
}

async fn listen(address: SocketAddr, patience: Duration) -> Result<TcpListener, AppError> {
    last_breath::bind(address, patience).await.map_err(|source| AppError::Bind { address, source })
}

async fn dns_sockets(address: SocketAddr) -> Result<dns::Sockets, AppError> {
    let tcp = listen(address, LAST_BREATH).await?;
    dns::Sockets::beside(tcp).map_err(|source| AppError::Bind { address, source })
}

fn check_members(me: ReplicaId, members: &[Member]) -> Result<Member, AppError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = members.iter().find(|member| !seen.insert(member.replica)) {
        return Err(AppError::MemberTwice(twice.replica));
    }
    let mut places = BTreeMap::new();
    for member in members {
        if let Some(other) = places.insert(&member.address, member.replica) {
            return Err(AppError::AddressTwice(other, member.replica));
        }
    }
    members.iter().find(|member| member.replica == me).cloned().ok_or(AppError::NotAMember(me))
}

impl App {
    /// Checks the configuration, opens the log and binds the addresses.
    ///
    /// # Errors
    /// When any of that fails; nothing is left behind.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let credentials = Credentials::load(&config.creds)?;
        let own = match &credentials.identity.role {
            Role::Master(replica) => *replica,
            role @ (Role::Borglet(_) | Role::User(_)) => {
                return Err(AppError::NotAMaster(role.clone()));
            }
        };
        let me = check_members(own, &config.masters)?;
        // Before anybody is asked to take this process in: another one may have its address, and its name.
        drop(listen(config.listen, LAST_BREATH).await?);
        let Ready { identity, log: mut store, history } =
            joining::ready(&config, &credentials, own.number()).await?;
        let own = ReplicaId(identity.replica);
        let me = Member { replica: own, ..me };
        let recovered = store
            .recover()
            .map_err(|source| AppError::Store { dir: config.dir.display().to_string(), source })?;
        let cell = credentials.identity.cell.clone();
        let mut settings = master::Config::new(cell, own, seed());
        settings.tick = TICK;
        settings.checkpoint_every = config.checkpoint_every;
        settings.links.machine_down_after = Millis(config.machine_down_after_ms);
        let master = Master::new(settings, recovered).map_err(AppError::Recover)?;
        let listener = listen(config.listen, Duration::ZERO).await?;
        let metrics_listener = match config.metrics_listen {
            Some(address) => Some(listen(address, LAST_BREATH).await?),
            None => None,
        };
        let dns_sockets = match config.dns {
            Some(address) => Some(dns_sockets(address).await?),
            None => None,
        };
        let (metrics, exposition) = Metrics::new();
        metrics.life.set(i64::try_from(own.life()).unwrap_or(i64::MAX));
        Ok(Self {
            config,
            credentials,
            me,
            listener,
            metrics_listener,
            dns_sockets,
            store,
            history,
            master,
            metrics,
            exposition,
        })
    }

    /// Reads and verifies the log of a Borgmaster that does not run, and does nothing else.
    ///
    /// # Errors
    /// When the log cannot be used, or is not there.
    pub fn check_log(config: &Config) -> Result<(), AppError> {
        let credentials = Credentials::load(&config.creds)?;
        let Role::Master(own) = credentials.identity.role else {
            return Err(AppError::NotAMaster(credentials.identity.role));
        };
        if !store::is_there(&config.dir) {
            return Err(AppError::NoLog(config.dir.display().to_string()));
        }
        let failed = |source| AppError::Store { dir: config.dir.display().to_string(), source };
        let identity = store::owner(&config.dir).map_err(failed)?;
        if ReplicaId(identity.replica).number() != own.number() {
            return Err(AppError::NotAMember(own));
        }
        let store = store::open(config.store, &config.dir, &identity).map_err(failed)?;
        // sled syncs when it is closed, and panics when it cannot, which says nothing about the log.
        std::mem::forget(store);
        Ok(())
    }

    /// Where the API is served.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs until `stop`, or until something fails that a master must not outlive.
    ///
    /// # Errors
    /// What failed. The process must end then.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        // Whichever part ends first takes the others with it. Whoever asks for the end has to wait
        // until another master leads, so it is not the same.
        let asked = stop;
        let stop = CancellationToken::new();
        let _on_return = stop.clone().drop_guard();
        let own = self.me.replica;
        // What the log says is newer than the command line.
        let table = driver::members_of(self.master.state());
        let members = if table.is_empty() { self.config.masters.clone() } else { table };
        let members = &members;
        let lifeline = RuntimeThread::start("lifeline", || ()).map_err(AppError::Thread)?;
        let metrics = self.metrics.clone();
        let peers = Peers::connect(
            &self.credentials,
            own,
            &self.me.address,
            members,
            metrics,
            &lifeline,
            &stop,
        )?;
        let turns = Inbox::new(self.config.waiting_calls, self.metrics.clone());
        let _closing = turns.close_on_drop();
        let (orders, orders_in) = mpsc::channel(ORDERS);
        let (reports, reports_out) = mpsc::channel(REPORTS);
        let first = View {
            state: self.master.state().clone(),
            status: self.master.status(),
            seen_at: clock::now(),
            heard_at: Millis(0),
            silent: Arc::default(),
        };
        let (view, view_in) = watch::channel(first);
        let scheduler = Arc::new(Mailbox::default());
        let feed = Arc::new(Feed::new(self.master.state().applied()));
        tokio::spawn(with_stop(feed.clone().tell(), stop.clone()));
        let polled = Arc::new(AtomicUsize::new(0));
        let blob_dir = self.config.dir.join("blobs");
        let blobs = Blobs::open(
            blob_dir.clone(),
            self.config.blobs_mib << 20,
            own,
            peers.clone(),
            view_in.clone(),
            self.metrics.clone(),
        )
        .map_err(|source| AppError::Blobs { dir: blob_dir.display().to_string(), source })?;
        tokio::spawn(blobs.clone().tend(stop.clone()));

        let recorded = self.config.dir.join(recording::DIR);
        let recorder =
            Recorder::start(recorded.clone(), self.config.decisions_mib << 20, &self.metrics)
                .map_err(AppError::Thread)?;
        let state = self.master.state().clone();
        let mut deciding = spawn_scheduler(&scheduler, state, &turns, &self.metrics, recorder)?;
        let checkpoints = CheckpointThreads::start(Hands {
            files: self.store.checkpoints(),
            peers: peers.clone(),
            own,
            turns: turns.clone(),
            metrics: self.metrics.clone(),
        })
        .map_err(AppError::Thread)?;
        let driver = Driver {
            master: self.master,
            store: self.store,
            checkpoints,
            peers: peers.clone(),
            own,
            shard: orders.clone(),
            scheduler: scheduler.clone(),
            feed: feed.clone(),
            view,
            metrics: self.metrics.clone(),
            silent: Arc::default(),
            silent_at: Millis(0),
            avoided: BTreeSet::new(),
            wrote: Vec::new(),
        };
        let mut driving = spawn_driver(driver, turns.clone())?;

        lifeline.spawn(tick(turns.clone(), stop.clone()));
        let greeting =
            greeting::greet(peers.clone(), own, turns.clone(), view_in.clone(), stop.clone());
        let (out, was_removed) = tokio::sync::oneshot::channel();
        lifeline.spawn(async move {
            if let Some(why) = greeting.await {
                out.send(why).ok();
            }
        });
        lifeline.spawn(forward_reports(
            reports_out,
            peers.clone(),
            own,
            turns.clone(),
            self.metrics.clone(),
        ));
        let wiring = poller::Wiring {
            orders: orders_in,
            reports,
            machines: polled.clone(),
            blobs: blobs.for_machines(),
            clock: clock::now,
        };
        let shard = borg_linkshard::Config {
            process: clock::now().0,
            hold: Millis(self.config.poll_every_ms),
            ..borg_linkshard::Config::new(self.credentials.identity.cell.clone(), own)
        };
        // Of its own, so that machines wait behind no user.
        let polls = RuntimeThread::start("polls", give_way).map_err(AppError::Thread)?;
        polls.spawn(poller::run(shard, self.credentials.clone(), wiring, stop.clone()));
        let fresh = Freshness::default();
        lifeline.spawn(fresh.clone().keep(turns.clone(), view_in.clone()));
        let names_max_age = Millis(self.config.names_max_age_ms);
        let _names = match self.dns_sockets {
            Some(sockets) => {
                let source = dns::Source {
                    cell: self.credentials.identity.cell.clone(),
                    master: own.number(),
                    view: view_in.clone(),
                    fresh: fresh.clone(),
                    max_age: names_max_age,
                    surplus: dns::SURPLUS,
                    seed: secret(),
                };
                Some(serve_names(sockets, source, self.metrics.dns.clone())?)
            }
            None => None,
        };
        if let Some(listener) = self.metrics_listener {
            let seen = view_in.clone();
            let healthy: http::Healthy = Arc::new(move || seen.borrow().status.leader.is_some());
            let gauge = self.metrics.polled_machines.clone();
            let count = polled.clone();
            let (state_age, age_of) = (self.metrics.state_age.clone(), fresh.clone());
            let before = move || {
                state_age.set(age_of.age(clock::now()).map_or(-1.0, seconds));
                gauge.set(i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            };
            tokio::spawn(http::serve(
                listener,
                self.metrics.http_sent_away.clone(),
                self.exposition,
                Box::new(before),
                healthy,
                (!self.config.no_sd)
                    .then(|| Discovery::new(view_in.clone(), fresh.clone(), names_max_age)),
                stop.clone(),
            ));
        }

        let caught_up = CaughtUp::default();
        tokio::spawn(caught_up.clone().watch(turns.clone(), view_in.clone()));
        let changes = Changes {
            driver: turns.clone(),
            door: Door::new(self.config.waiting_calls),
            peers: peers.clone(),
            view: view_in.clone(),
            own,
            planner: Planner::new(scheduler.clone(), view_in.clone(), peers.clone(), own),
        };
        let api = Api {
            cell: self.credentials.identity.cell.clone(),
            me: self.me,
            changes: changes.clone(),
            view: view_in.clone(),
            caught_up,
            past: Past::new(self.credentials.identity.cell.clone(), self.history),
            decisions: recorded,
            feed,
            blobs: blobs.clone(),
            scheduler: scheduler.clone(),
            credentials: self.credentials.clone(),
            sessions: Slots::new(crate::api::sessions::SESSIONS),
            log_readers: Slots::new(crate::api::sessions::LOG_READERS),
            name_watchers: Slots::new(crate::api::names::WATCHERS),
            fresh,
            names_max_age,
            polled: polled.clone(),
            metrics: self.metrics,
            stop: stop.clone(),
        };
        let peer_service = PeerService {
            cell: self.credentials.identity.cell.clone(),
            own,
            members: self.config.masters.iter().map(|member| member.replica.number()).collect(),
            changes,
            driver: turns.clone(),
            shard: orders,
            view: view_in.clone(),
            polled,
            blobs,
        };
        let name = self.credentials.identity.server_name().expect("a master serves");
        let Connections { masters, others } = Connections::of(&lifeline, self.listener, name)
            .map_err(|error| AppError::Serve(error.into()))?;
        let vital = serve_masters(&self.credentials, masters, peer_service.clone(), stop.clone())?;
        lifeline.spawn(vital);
        let serving = serve(&self.credentials, others, api, peer_service, stop.clone());
        tracing::info!(master = %own, "serving");
        let ended = tokio::select! {
            served = serving => served,
            driven = &mut driving => finished(driven, "driver").and_then(|done| done.map_err(AppError::from)),
            decided = &mut deciding => finished(decided, "scheduler"),
            Ok(why) = was_removed => Err(why.into()),
            () = asked.cancelled() => {
                retire(&turns, own, view_in).await;
                Ok(())
            }
        };
        scheduler.stop();
        ended
    }
}

fn finished<T>(
    joined: Result<T, tokio::sync::oneshot::error::RecvError>,
    thread: &'static str,
) -> Result<T, AppError> {
    joined.map_err(|_| AppError::Panicked(thread))
}

/// Starts a thread; its result arrives at the receiver.
fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<tokio::sync::oneshot::Receiver<T>, AppError> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || drop(done.send(work())))
        .map_err(AppError::Thread)?;
    Ok(result)
}

fn spawn_driver(
    driver: Driver,
    turns: Inbox,
) -> Result<tokio::sync::oneshot::Receiver<Result<(), DriverError>>, AppError> {
    spawn("driver", move || driver.run(&turns))
}

fn spawn_scheduler(
    mailbox: &Arc<Mailbox>,
    state: borg_cell::state::CellState,
    turns: &Inbox,
    metrics: &Metrics,
    recorder: Recorder,
) -> Result<tokio::sync::oneshot::Receiver<()>, AppError> {
    let (mailbox, turns, metrics) = (mailbox.clone(), turns.clone(), metrics.clone());
    spawn("scheduler", move || {
        let config = borg_scheduler::Config::default();
        scheduling::run(&mailbox, &state, config, &turns, &metrics, recorder);
    })
}

/// A number that differs from start to start, so that replicas do not time out together.
fn seed() -> u64 {
    xxhash_rust::xxh3::xxh3_64(
        &[clock::now().0.to_le_bytes(), u64::from(std::process::id()).to_le_bytes()].concat(),
    )
}

fn seconds(of: Millis) -> f64 {
    Duration::from_millis(of.0).as_secs_f64()
}

/// A number that other processes cannot know: what the standard library seeds its hash maps with.
fn secret() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// On a thread of its own, so that a flood of questions costs the names and nothing else.
fn serve_names(
    sockets: dns::Sockets,
    source: dns::Source,
    metrics: dns::DnsMetrics,
) -> Result<RuntimeThread, AppError> {
    let thread = RuntimeThread::start("names", give_way).map_err(AppError::Thread)?;
    match sockets.address() {
        Ok(address) => tracing::info!(%address, "names are answered over DNS"),
        Err(error) => tracing::warn!(%error, "names are answered over DNS, nobody says where"),
    }
    thread.spawn(dns::serve(sockets, source, metrics));
    Ok(thread)
}

async fn with_stop(task: impl Future<Output = ()>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

async fn tick(turns: Inbox, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK.0));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if turns.vital(Turn::Input(Input::Tick)).is_err() {
            return;
        }
    }
}

/// Lets another master lead before this one ends, so that nobody has to wait for a time-out.
async fn retire(turns: &Inbox, own: ReplicaId, mut view: watch::Receiver<View>) {
    if view.borrow().status.leader != Some(own) || turns.vital(Turn::Input(Input::Retire)).is_err()
    {
        return;
    }
    let handed_over = view.wait_for(|view| view.status.leader.is_some_and(|leader| leader != own));
    match tokio::time::timeout(RETIRING, handed_over).await {
        Ok(Ok(_)) => tracing::info!("another master leads"),
        Ok(Err(_)) | Err(_) => tracing::warn!("no other master took over in time"),
    }
}

/// Reports of this replica's shard, to the leader.
async fn forward_reports(
    mut reports: mpsc::Receiver<(ReplicaId, borg_proto::peer::ShardReport)>,
    peers: Peers,
    own: ReplicaId,
    turns: Inbox,
    metrics: Metrics,
) {
    while let Some((to, report)) = reports.recv().await {
        let message = pb::ShardReport::from(&report);
        metrics.report_bytes.inc_by(u64::try_from(message.encoded_len()).unwrap_or(u64::MAX));
        if to == own {
            if turns.vital(Turn::Input(Input::Report(report))).is_err() {
                return;
            }
        } else {
            let body = pb::peer_message::Body::Report(message);
            peers.send(pb::PeerMessage { from: own.0, to: to.0, body: Some(body) });
        }
    }
}

/// The service between masters, on the lifeline. Broken, it is as if the network were: the cell
/// goes on with the other masters.
fn serve_masters(
    credentials: &Credentials,
    connections: mpsc::Receiver<std::io::Result<tokio::net::TcpStream>>,
    peer_service: PeerService,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, AppError> {
    let server = rpc::server(credentials)
        .map_err(|error| AppError::Serve(error.into()))?
        .add_service(rpc::peer_server(peer_service));
    let connections = ReceiverStream::new(connections);
    Ok(async move {
        let served = server.serve_with_incoming_shutdown(connections, stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(why = rpc::explain(&error), "the other masters are no longer served");
        }
    })
}

async fn serve(
    credentials: &Credentials,
    connections: mpsc::Receiver<std::io::Result<std::net::TcpStream>>,
    api: Api,
    peer_service: PeerService,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| AppError::Serve(error);
    let connections = ReceiverStream::new(connections)
        .map(|connection| connection.and_then(tokio::net::TcpStream::from_std));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<BorgmasterServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(rpc::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| failed(error.into()))?;
    rpc::server(credentials)
        .map_err(|error| failed(error.into()))?
        .add_service(health_service)
        .add_service(reflection)
        .add_service(rpc::borgmaster_server(api))
        .add_service(rpc::peer_server(peer_service))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
        .map_err(|error| failed(error.into()))
}
