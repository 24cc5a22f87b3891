//! Placements a second, end to end: from `SubmitJob` until the last placement is committed, which is
//! on the disks of a majority of five masters and applied, in a cell of simulated machines.
//!
//! The same path as users' work takes: API, log, scheduler, log; the machines are told and say that
//! their tasks run, which costs entries too. All processes share this computer.

use crate::figures::{load, progress};
use crate::local_cell::{Client, LocalCell};
use crate::machines::RACK;
use crate::{Error, clock, fill};
use borg_proto::wire::pb;
use std::time::Duration;

/// Tasks of each job that is submitted whole. 500: our choice; 5,000 machines take one on each tenth.
const TASKS_PER_JOB: u32 = 500;
/// Clients that submit jobs of one task.
const CLIENTS: u32 = 64;
/// Time between two looks at what is placed.
const LOOK: Duration = Duration::from_millis(50);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes that a task asks for.
const RAM_BYTES: u64 = 64 << 20;

/// What the tasks ask for beside room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Plain,
    /// At most one task of the job on a machine where there are ten machines for each, and at most
    /// four times an even share of them in a rack.
    Spread,
    /// Preferably in one half of the racks.
    Affinity,
}

/// Placements a second of `tasks` tasks in jobs of 500, submitted one after the other: tasks over the
/// time from before the first submit until a master lists all as placed. They are killed after that.
///
/// # Errors
/// When they are not placed in time.
pub async fn placements_per_s(
    cell: &LocalCell,
    machines: u32,
    wish: Wish,
    tasks: u32,
) -> Result<f64, Error> {
    let leader = cell.settled().await?;
    let mut master = cell.client(leader);
    let began = clock::now();
    let mut names = Vec::new();
    for number in 0..tasks.div_ceil(TASKS_PER_JOB) {
        let name = format!("{}-{number}", format!("{wish:?}").to_lowercase());
        let mut spec = fill::job(&name, TASKS_PER_JOB, RAM_BYTES);
        if let Some(task) = &mut spec.task {
            wished(wish, machines, task);
        }
        let request_id = format!("submit-{name}");
        master
            .submit_job(pb::SubmitJobRequest { spec: Some(spec), request_id, planned: None })
            .await?;
        names.push(name);
    }
    let placed = tasks.div_ceil(TASKS_PER_JOB) * TASKS_PER_JOB;
    let seconds = until_placed(&mut master, cell.user(), placed, began).await?;
    kill(&mut master, cell.user(), &names).await?;
    Ok(f64::from(placed) / seconds)
}

/// Jobs of one task a second, submitted by 64 clients that each wait for their last submit: jobs over
/// the time from before the first submit until a master lists all as placed.
///
/// # Errors
/// When they are not placed in time.
pub async fn jobs_per_s(cell: &LocalCell, jobs: u32) -> Result<f64, Error> {
    let leader = cell.settled().await?;
    let mut master = cell.client(leader);
    let began = clock::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let mut channel = cell.connect(usize::try_from(client)?)?;
        clients.spawn(async move {
            let mut names = Vec::new();
            for number in (client..jobs).step_by(usize::try_from(CLIENTS)?) {
                let name = format!("one-{number}");
                let spec = Some(fill::job(&name, 1, RAM_BYTES));
                let request_id = format!("submit-{name}");
                channel
                    .submit_job(pb::SubmitJobRequest { spec, request_id, planned: None })
                    .await?;
                names.push(name);
            }
            Ok::<_, Error>(names)
        });
    }
    let mut names = Vec::new();
    while let Some(done) = clients.join_next().await {
        names.extend(done??);
    }
    let seconds = until_placed(&mut master, cell.user(), jobs, began).await?;
    kill(&mut master, cell.user(), &names).await?;
    Ok(f64::from(jobs) / seconds)
}

fn wished(wish: Wish, machines: u32, task: &mut pb::TaskSpec) {
    match wish {
        Wish::Plain => {}
        Wish::Spread => {
            let limit = |attribute: &str, max| pb::Spread { attribute: attribute.into(), max };
            let in_rack = (TASKS_PER_JOB * 4).div_ceil(machines.div_ceil(RACK));
            let on_machine = (TASKS_PER_JOB * 10).div_ceil(machines);
            task.spread = vec![limit("machine", on_machine), limit("rack", in_rack)];
        }
        Wish::Affinity => {
            let racks = (0..1_000).step_by(2).map(|rack| format!("r{rack}"));
            task.constraints = vec![pb::Constraint {
                attribute: "rack".into(),
                op: pb::ConstraintOp::In.into(),
                values: racks.collect(),
                soft: true,
            }];
        }
    }
}

/// Seconds since `began` as all are placed.
async fn until_placed(
    master: &mut Client,
    user: &str,
    tasks: u32,
    began: std::time::Instant,
) -> Result<f64, Error> {
    loop {
        let list = pb::ListJobsRequest { user: user.to_owned(), all: false };
        let jobs = master.list_jobs(list).await?.into_inner().jobs;
        let placed: u32 = jobs.iter().map(|job| job.running).sum();
        let seconds = began.elapsed().as_secs_f64();
        if placed >= tasks {
            progress(&format!("load {}; {placed} placed in {seconds:.2} s", load()));
            return Ok(seconds);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{placed} of {tasks} are placed").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn kill(master: &mut Client, user: &str, names: &[String]) -> Result<(), Error> {
    for name in names {
        let (job, request_id) = (format!("{user}/{name}"), format!("kill-{name}"));
        master.kill(pb::KillRequest { job, tasks: Vec::new(), request_id }).await?;
    }
    Ok(())
}
