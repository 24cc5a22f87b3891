//! `borgctl cell`: a whole cell on this computer, in the background.

use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::local::{self, Daemon, Layout, LocalCell, Plan};
use crate::output::{Output, note};
use crate::target::TargetArgs;
use borg_proto::names::CellName;
use borg_proto::wire::pb;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;

/// A cell on this computer.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum CellCommand {
    /// Start a cell in the background
    Up(UpArgs),
    /// Show the cell's processes
    Status,
    /// Stop the cell and its tasks, and remove its directory
    Down {
        /// Keep the directory, so that `cell up --again` starts the same cell
        #[arg(long)]
        keep: bool,
        /// The cell's directory [default: --cell-dir]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Args)]
pub(super) struct UpArgs {
    /// How many masters, 1 to 9
    #[arg(long = "masters", id = "how many masters", value_name = "N", default_value_t = 5)]
    masters: u32,
    /// How many borglets, 0 to 100
    #[arg(long, value_name = "N", default_value_t = 3)]
    borglets: u32,
    /// The cell's directory [default: --cell-dir]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The cell's name
    #[arg(long, default_value = "local")]
    name: CellName,
    /// A directory that tasks may see, as PREFIX or PREFIX:ro; may be repeated
    #[arg(long = "volume", value_name = "PREFIX[:ro]")]
    volumes: Vec<String>,
    /// Which store keeps the masters' logs
    #[arg(long, default_value = "redb", value_parser = ["redb", "sled"])]
    store: String,
    /// Whether tasks are isolated as well as this computer can, or are plain processes
    #[arg(long, default_value = "auto", value_parser = ["auto", "none"])]
    isolation: String,
    /// Start what does not run of the cell in the directory: daemons that are gone, or all of a
    /// cell that `cell down --keep` left
    #[arg(long, conflicts_with_all = ["name", "volumes", "store", "isolation"])]
    again: bool,
}

/// One process of the cell, as `cell status` shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    pid: Option<u32>,
    running: bool,
    address: String,
    metrics: String,
    /// Where a master answers DNS.
    dns: Option<String>,
    log: PathBuf,
}

pub(super) async fn run(
    command: CellCommand,
    mut target: TargetArgs,
    out: Output,
) -> Result<(), Failure> {
    match command {
        CellCommand::Up(args) => {
            if let Some(dir) = &args.dir {
                target.cell_dir = Some(dir.clone());
            }
            up(args, &target).await
        }
        CellCommand::Status => status(&target, out).await,
        CellCommand::Down { keep, dir } => {
            let dir = dir.unwrap_or_else(|| target.dir());
            local::down(&dir, keep).await?;
            note(&format!("the cell in {} is down", dir.display()));
            Ok(())
        }
    }
}

async fn up(args: UpArgs, target: &TargetArgs) -> Result<(), Failure> {
    let dir = target.dir();
    let plan = Plan {
        dir: dir.clone(),
        cell: args.name,
        masters: args.masters,
        borglets: args.borglets,
        volumes: args.volumes,
        store: args.store,
        isolation: args.isolation,
        again: args.again,
    };
    let started = match local::up(&plan) {
        Ok(cell) => make_ready(&cell, target).await.map(|()| cell),
        Err(
            error @ (local::LocalError::Exists(_)
            | local::LocalError::NotEmpty(_)
            | local::LocalError::Missing(_)
            | local::LocalError::Count { .. }),
        ) => {
            return Err(error.into());
        }
        Err(error) => Err(error.into()),
    };
    let cell = match started {
        Ok(cell) => cell,
        Err(failure) => {
            // A new cell that did not start leaves nothing running; its logs stay for a look.
            if !plan.again && local::down(&dir, true).await.is_ok() {
                let dir = dir.display();
                note(&format!(
                    "logs are in {dir}/log; `borgctl cell down --dir {dir}` removes them"
                ));
            }
            return Err(failure);
        }
    };
    let (masters, borglets) = (cell.masters.len(), cell.borglets.len());
    note(&format!(
        "cell {} is up: {masters} masters, {borglets} machines, in {}",
        cell.cell,
        dir.display()
    ));
    let dns: Vec<&str> = cell.masters.iter().filter_map(|master| master.dns.as_deref()).collect();
    if let Some((host, port)) = dns.first().and_then(|first| first.rsplit_once(':')) {
        note(&format!("names over DNS at {}", dns.join(", ")));
        note(&format!("as in: dig @{host} -p {port} JOB.USER.{}.borg", cell.cell));
    }
    if dir != crate::target::default_cell_dir() {
        note(&format!("for other commands: export BORG_CELL_DIR={}", dir.display()));
    }
    Ok(())
}

async fn make_ready(cell: &LocalCell, target: &TargetArgs) -> Result<(), Failure> {
    let layout = Layout::new(&target.dir().canonicalize()?);
    let mut client = Client::new(&target.resolve()?)?;
    let mut said = String::new();
    local::add_machines_and_wait(&layout, cell, &mut client, |what| {
        if said != what {
            note(what);
            what.clone_into(&mut said);
        }
    })
    .await
}

async fn status(target: &TargetArgs, out: Output) -> Result<(), Failure> {
    let dir = target.dir();
    let cell = LocalCell::load(&dir)?;
    let layout = Layout::new(&dir);
    let row = |daemon: &Daemon| Row {
        name: daemon.name.clone(),
        pid: daemon.process.map(|process| process.pid),
        running: daemon.is_running(),
        address: daemon.address.clone(),
        metrics: format!("http://{}/metrics", daemon.metrics),
        dns: daemon.dns.clone(),
        log: layout.log(&daemon.name),
    };
    let rows: Vec<Row> = cell.daemons().map(row).collect();
    let gone = rows.iter().filter(|row| !row.running).count();
    if out.is_json() {
        out.json(&rows, false)?;
    } else {
        let rows = rows.into_iter().map(|row| {
            [
                row.name,
                row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                if row.running { "running" } else { "gone" }.to_owned(),
                row.address,
                row.metrics,
                row.dns.unwrap_or_else(|| "-".to_owned()),
                row.log.display().to_string(),
            ]
        });
        out.table(["name", "pid", "state", "address", "metrics", "dns", "log"], rows)?;
    }
    let mut client = Client::new(&target.resolve()?)?;
    let request = pb::ListMastersRequest {};
    let masters = client
        .call("masters", Kind::Read, request, async |mut c, r| c.list_masters(r).await)
        .await?;
    match masters.masters.iter().find(|master| master.leader && master.reachable) {
        Some(leader) => note(&format!("master {} leads in term {}", leader.replica, leader.term)),
        None => return Err(Failure::new(Code::Unavailable, "no master leads")),
    }
    if gone > 0 {
        return Err(Failure::new(
            Code::Unavailable,
            format!("{gone} processes of the cell are gone: `borgctl cell up --again` starts them"),
        ));
    }
    Ok(())
}
