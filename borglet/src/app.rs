//! The borglet put together: build, then run until told to stop.
//!
//! Stopping leaves every task running: a borglet is replaced or restarted without its tasks
//! noticing. [`destroy`] is the other thing.

use crate::clock;
use crate::config::Config;
use crate::driver::{self, Core, DriverError, Inbox};
use crate::home::{Addresses, Home, HomeError};
use crate::housekeeping;
use crate::http;
use crate::machine::{self, MachineError};
use crate::metrics::{Exposition, Metrics};
use crate::packages::{Packages, StoreError};
use crate::service::Service;
use crate::tasks::{Tasks, TasksError};
use crate::usage::Sampler;
use borg_proto::MachineName;
use borg_proto::identity::{Identity, Role};
use borg_proto::rpc::{self, Credentials, CredentialsError};
use borglet_supervisor::{Adopted, AdoptedState, Supervisor};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A borglet that is ready: it listens, and has adopted what was running.
#[derive(Debug)]
pub struct App {
    /// Where masters poll it.
    pub addr: SocketAddr,
    /// Where `/metrics` and `/healthz` are.
    pub metrics_addr: SocketAddr,
    /// Who it is, from its certificate.
    pub identity: Identity,
    /// What this machine cannot isolate, for people.
    pub missing_isolation: Vec<String>,
    server: tonic::transport::Server,
    listener: TcpListener,
    metrics_listener: TcpListener,
    service: Service,
    supervisor: Supervisor,
    home: Arc<Home>,
    tasks: Tasks,
    machine: MachineName,
    sampler: Sampler,
    packages: Packages,
    metrics: Metrics,
    exposition: Exposition,
    core: Core,
    inbox: Inbox,
    keep_logs: Duration,
}

/// The borglet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Its credentials are somebody else's.
    #[error("the certificate is for {0}, a borglet needs borg://CELL/borglet/MACHINE")]
    NotABorglet(Identity),
    /// Its directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The machine cannot be looked at.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Packages cannot be held.
    #[error(transparent)]
    Packages(#[from] StoreError),
    /// Containers cannot be held.
    #[error(transparent)]
    Tasks(#[from] TasksError),
    /// TLS does not take the credentials.
    #[error("set up TLS")]
    Tls(#[source] tonic::transport::Error),
    /// An address cannot be listened on.
    #[error("listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// The borglet stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Orders can no longer be obeyed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The gRPC server failed.
    #[error("serve masters")]
    Serve(#[from] tonic::transport::Error),
    /// The HTTP server failed.
    #[error("serve metrics")]
    Http(#[from] std::io::Error),
}

impl App {
    /// Takes the directory, adopts the tasks of an earlier process and binds its addresses.
    ///
    /// # Errors
    /// Says what is wrong with credentials, directory, machine or addresses.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let credentials = Credentials::load(&config.creds)?;
        let identity = credentials.identity.clone();
        let Role::Borglet(machine) = identity.role.clone() else {
            return Err(BuildError::NotABorglet(identity));
        };
        let home = Arc::new(Home::open(&config.dir, &identity.cell, &machine)?);
        let (metrics, exposition) = Metrics::new();
        let (core, news, inbox) = driver::inbox();
        let (packages, cached) = Packages::open(
            home.path().join("packages"),
            credentials.clone(),
            metrics.clone(),
            news.clone(),
        )
        .await?;
        let (tasks, adopted, next_runs, data) =
            Tasks::open(&home, &config, metrics.clone(), packages.clone(), news).await?;
        let missing_isolation = tasks.missing_isolation();
        let (addresses, images) = (tasks.addresses(), tasks.runs_images());
        let held = promised_disk(&adopted);
        let info = machine::look(&config, missing_isolation.clone(), addresses, images, held)?;
        let remembered = home.fence()?;
        tracing::info!(%identity, adopted = adopted.len(), ?remembered, ?missing_isolation, "borglet starts");
        let supervision = supervision(&config, &identity, machine.clone())?;
        let sampler = Sampler::new(home.path().to_owned(), supervision.disk_reserve);
        let supervisor = Supervisor::new(supervision, remembered, adopted, info)
            .with_runs(next_runs)
            .with_data(data)
            .with_blobs(cached);
        let (listener, addr) = listen(config.listen).await?;
        let (metrics_listener, metrics_addr) = listen(config.metrics_listen).await?;
        let pid = std::process::id();
        home.publish(&Addresses { pid, listen: addr, metrics: metrics_addr })?;
        let service = Service::new(
            identity.cell.clone(),
            machine.clone(),
            core.clone(),
            tasks.clone(),
            packages.clone(),
            metrics.clone(),
        );
        let server = rpc::server(&credentials).map_err(BuildError::Tls)?;
        Ok(Self {
            addr,
            metrics_addr,
            identity,
            missing_isolation,
            server,
            listener,
            metrics_listener,
            service,
            supervisor,
            home,
            tasks,
            machine,
            sampler,
            packages,
            metrics,
            exposition,
            core,
            inbox,
            keep_logs: config.keep_logs,
        })
    }

    /// Serves until `stop`, then returns with every task still running.
    ///
    /// # Errors
    /// When the disk refuses to remember an order or a server fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        tracing::info!(addr = %self.addr, metrics_addr = %self.metrics_addr, "borglet listens");
        // Whichever part ends first, by failure or by `stop`, ends the others.
        let stop = stop.child_token();
        let _stop_all = stop.clone().drop_guard();
        let mut server = self.server;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<rpc::BorgletServer<Service>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(rpc::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("descriptors made by our own build are whole");
        let grpc = server
            .add_service(rpc::borglet_server(self.service))
            .add_service(health_service)
            .add_service(reflection)
            .serve_with_incoming(rpc::serve_incoming(self.listener));
        let keeping = housekeeping::run(
            self.tasks.clone(),
            self.packages.clone(),
            self.sampler,
            self.keep_logs,
            stop.clone(),
        );
        let watching = http::serve(
            self.metrics_listener,
            self.metrics.http_sent_away.clone(),
            self.exposition,
            self.core,
            (self.identity.cell, self.machine),
            stop.clone(),
        );
        let driving = driver::run(
            self.supervisor,
            self.home,
            self.tasks,
            self.packages,
            self.metrics,
            self.inbox,
            stop.clone(),
        );
        // Held polls do not delay the end: dropping the server breaks their connections off.
        tokio::select! {
            result = driving => result.map_err(RunError::from),
            result = grpc => result.map_err(RunError::from),
            result = watching => result.map_err(RunError::from),
            () = keeping => Ok(()),
        }
    }
}

fn supervision(
    config: &Config,
    identity: &Identity,
    machine: MachineName,
) -> Result<borglet_supervisor::Config, MachineError> {
    let mut supervision =
        borglet_supervisor::Config::new(identity.cell.clone(), machine, clock::session());
    supervision.volumes.clone_from(&config.volumes);
    supervision.memory_reserve = machine::memory_reserve()?;
    let disk = machine::disk_shares(config)?;
    supervision.disk_reserve = disk.reserve;
    supervision.package_bytes = disk.packages;
    Ok(supervision)
}

/// Disk, in bytes, that tasks which run here were promised, as far as their machine knows it.
fn promised_disk(adopted: &[Adopted]) -> u64 {
    let running =
        adopted.iter().filter(|found| matches!(found.state, AdoptedState::Running { .. }));
    let limits = running.filter_map(|found| Some(found.task.as_ref()?.spec.limit.disk_bytes));
    limits.fold(0, u64::saturating_add)
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), BuildError> {
    let bound = TcpListener::bind(addr).await.and_then(|listener| {
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    });
    bound.map_err(|source| BuildError::Listen { addr, source })
}

/// Ends all tasks of a borglet's directory and leaves no process, mount or cgroup of it behind.
/// The files stay. The borglet itself must not run any more.
///
/// # Errors
/// When a borglet runs on the directory, it is no borglet's, or something cannot be removed.
pub async fn destroy(dir: &Path) -> Result<(), BuildError> {
    let home = Arc::new(Home::take_over(dir)?);
    Tasks::destroy(&home).await?;
    Ok(())
}
