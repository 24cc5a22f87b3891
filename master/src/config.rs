//! What a Borgmaster is told at its start.

use crate::store::{Check, StoreKind};
use borg_proto::names::ReplicaId;
use borg_proto::wire::check_address;
use clap::builder::RangedU64ValueParser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One of the masters of a cell: `N=HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its replica number.
    pub replica: ReplicaId,
    /// Where it listens, as the others reach it.
    pub address: String,
}

impl FromStr for Member {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let most = ReplicaId::MAX_NUMBER;
        let wrong = || format!("{text:?} is not N=HOST:PORT with N from 1 to {most}");
        let (replica, address) = text.split_once('=').ok_or_else(wrong)?;
        let replica = replica.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong)?;
        check_address(text, address).map_err(|error| error.to_string())?;
        Ok(Self { replica: ReplicaId(replica), address: address.to_owned() })
    }
}

/// Most calls of users that may be let wait: what the queues behind them are made for.
pub(crate) const MOST_WAITING_CALLS: usize = 4_096;

fn calls() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST_WAITING_CALLS as u64)
}

/// A replica of the Borgmaster: holds the cell's state, elects a leader with the others, polls
/// its share of the machines.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Directory of this replica's log and checkpoints.
    #[arg(long)]
    pub dir: PathBuf,
    /// Make the log: only when this replica has never run before. A replica that lost its log would
    /// otherwise vote without what it has promised.
    #[arg(long)]
    pub new: bool,
    /// Directory with ca.pem, cert.pem and key.pem; the certificate names the cell and the replica.
    #[arg(long)]
    pub creds: PathBuf,
    /// Address to serve the API and the other masters on; port 0 takes a free one.
    #[arg(long)]
    pub listen: SocketAddr,
    /// All masters of the cell, this one too, as N=HOST:PORT,N=HOST:PORT,...
    #[arg(long, value_delimiter = ',', required = true)]
    pub masters: Vec<Member>,
    /// Address for /metrics and /healthz, in plain HTTP; not served when left out.
    #[arg(long)]
    pub metrics_listen: Option<SocketAddr>,
    /// Address to answer DNS on, over UDP and TCP: names of jobs and tasks. Not served when left out.
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<SocketAddr>,
    /// Milliseconds that this master's state may be old for names to be answered from it: over DNS and to
    /// Prometheus; beyond that it says that it does not know. Watchers of names are told.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1_000..=3_600_000))]
    pub names_max_age_ms: u64,
    /// Do not show targets for Prometheus at /sd of the metrics' address: names and machines of all jobs.
    #[arg(long)]
    pub no_sd: bool,
    /// Which store keeps the log.
    #[arg(long, default_value_t)]
    pub store: StoreKind,
    /// Log entries between two checkpoints.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub checkpoint_every: u64,
    /// Users' calls that may wait here in all; one user may have half of that, less while others
    /// wait too. More are turned away and told when to ask again.
    #[arg(long, default_value_t = 2_048, value_parser = calls())]
    pub waiting_calls: usize,
    /// Milliseconds of silence after which a machine counts as down.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(500..=86_400_000))]
    pub machine_down_after_ms: u64,
    /// Milliseconds for which a machine without news may hold its answer to a poll: in a cell so large that
    /// polls cost too much, more. A machine that hangs is noticed after three polls: 7.5 s by default, 19.5 s
    /// with 5000. The same for all masters of a cell.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=5_000))]
    pub poll_every_ms: u64,
    /// Most checkpoints that are kept, so that reads can go back in time.
    #[arg(long, default_value_t = 24)]
    pub keep_checkpoints: usize,
    /// Hours that reads can go back in time, as long as there is room.
    #[arg(long, default_value_t = 168)]
    pub keep_hours: u64,
    /// Most MiB of checkpoints and of the log between them.
    #[arg(long, default_value_t = 4_096)]
    pub keep_mib: u64,
    /// Most MiB of recordings of what the scheduler is told and decides while this master leads, so that decisions can
    /// be taken again later. 0: nothing is recorded.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub decisions_mib: u64,
    /// Most MiB of blobs of packages. Uploads beyond that are refused. The same for all masters of a cell.
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(1..=1_073_741_824))]
    pub blobs_mib: u64,
    /// Only read and verify the log, then end: a Borgmaster has another process do so first.
    #[arg(long, hide = true)]
    pub check_log: bool,
    /// How to start that process; the log is opened at once when left out.
    #[arg(skip)]
    pub check: Option<Check>,
}
