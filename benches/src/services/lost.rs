//! From the loss of a machine until its tasks run elsewhere, and from its return until none runs twice.
//!
//! A machine is lost by stopping its borglet (SIGSTOP): to the masters it is silent, its tasks run on, as
//! with a machine that is cut off. In half of the rounds the leader dies in the same moment.

use crate::clock;
use crate::figures::{median, progress};
use crate::local_cell::{BORGLETS, Client, LocalCell, MASTERS};
use crate::{Error, figures};
use borg_proto::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Rounds of each kind.
const ROUNDS: usize = 3;
/// Tasks of the service: as many as two machines hold, so that of three any may be lost.
const TASKS: u32 = 6;
/// Nothing that is waited for may take longer: the measurement fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);
const JOB: &str = "lost";

/// What was measured, in seconds.
#[derive(Debug, Default)]
pub struct Lost {
    replaced: Vec<f64>,
    replaced_with_leader: Vec<f64>,
    duplicates: Vec<f64>,
}

impl Lost {
    /// The slowest of all: until the last task of the machine runs elsewhere, the leader lost or not.
    #[must_use]
    pub fn replaced_s(&self) -> f64 {
        figures::percentile(
            &[self.replaced.clone(), self.replaced_with_leader.clone()].concat(),
            100,
        )
    }

    /// The slowest of all: from the machine's return until its old tasks are gone.
    #[must_use]
    pub fn duplicate_killed_s(&self) -> f64 {
        figures::percentile(&self.duplicates, 100)
    }

    /// Medians, to read.
    #[must_use]
    pub fn parts(&self) -> String {
        format!(
            "  replaced {:.2} s, with the leader lost too {:.2} s, duplicates gone {:.2} s (medians of {ROUNDS})",
            median(&self.replaced),
            median(&self.replaced_with_leader),
            median(&self.duplicates)
        )
    }
}

/// Stops one borglet after another, and lets it go on when all its tasks run elsewhere.
///
/// # Errors
/// When a call fails, or something does not happen for two minutes.
pub async fn measure(cell: &mut LocalCell) -> Result<Lost, Error> {
    let leader = cell.settled().await?;
    let mut client = cell.client(leader);
    client.submit_job(service()).await?;
    let mut lost = Lost::default();
    for round in 0..2 * ROUNDS {
        let with_leader = round % 2 == 1;
        let seconds = one(cell, with_leader, &mut lost.duplicates).await?;
        progress(&format!("round {round}: replaced in {seconds:.2} s, leader lost: {with_leader}"));
        if with_leader { &mut lost.replaced_with_leader } else { &mut lost.replaced }.push(seconds);
    }
    let job = format!("{}/{JOB}", cell.user());
    let kill = pb::KillRequest { job, tasks: Vec::new(), request_id: "lost-end".to_owned() };
    cell.client(cell.settled().await?).kill(kill).await?;
    Ok(lost)
}

fn service() -> pb::SubmitJobRequest {
    let limit = pb::Resources { cpu_milli: 10, ram_bytes: 16 << 20, ..Default::default() };
    let spread = vec![pb::Spread { attribute: "machine".to_owned(), max: TASKS / 2 }];
    let command = ["sleep", "100000"].map(str::to_owned).to_vec();
    let task =
        pb::TaskSpec { command, limit: Some(limit), spread, grace_ms: 1_000, ..Default::default() };
    let spec = pb::JobSpec {
        name: JOB.to_owned(),
        kind: pb::JobKind::Service.into(),
        tasks: TASKS,
        priority: 200,
        task: Some(task),
        ..Default::default()
    };
    pb::SubmitJobRequest { spec: Some(spec), request_id: "lost".to_owned(), planned: None }
}

async fn one(
    cell: &mut LocalCell,
    with_leader: bool,
    duplicates: &mut Vec<f64>,
) -> Result<f64, Error> {
    let leader = cell.settled().await?;
    let before = all_up(cell, None).await?;
    let (number, name) = a_busy_machine(cell, &before)?;
    let theirs: Vec<PathBuf> = before
        .iter()
        .filter(|task| task.machine == name)
        .map(|task| PathBuf::from(format!("/proc/{}", task.pid)))
        .collect();
    let doomed = if with_leader { Some(cell.arguments(leader)?) } else { None };
    let borglet = Pid::from_raw(cell.borglet_pid(number)?);

    let began = clock::now();
    kill(borglet, Signal::SIGSTOP)?;
    let replaced = async {
        if let Some(doomed) = &doomed {
            doomed.kill()?;
        }
        all_up(cell, Some(&name)).await
    };
    let replaced = replaced.await;
    let seconds = began.elapsed().as_secs_f64();
    // Whatever came of it, the machine goes on.
    kill(borglet, Signal::SIGCONT)?;
    let returned = clock::now();
    replaced?;
    while theirs.iter().any(|process| process.exists()) {
        give_up_after(returned, "the old tasks are still there")?;
        tokio::time::sleep(LOOK).await;
    }
    duplicates.push(returned.elapsed().as_secs_f64());
    if let Some(doomed) = doomed {
        cell.start_again(doomed)?;
    }
    cell.settled().await?;
    machine_is_back(cell, &name).await?;
    Ok(seconds)
}

fn a_busy_machine(cell: &LocalCell, tasks: &[pb::TaskInfo]) -> Result<(usize, String), Error> {
    for number in 0..BORGLETS {
        let (name, _) = cell.machine(number)?;
        if tasks.iter().any(|task| task.machine == name) {
            return Ok((number, name));
        }
    }
    Err("the tasks run on no machine that is known".into())
}

/// Waits until all tasks run, none of them on the machine that is lost.
async fn all_up(cell: &LocalCell, lost: Option<&str>) -> Result<Vec<pb::TaskInfo>, Error> {
    let began = clock::now();
    loop {
        for master in 0..MASTERS {
            let Ok(tasks) = tasks(cell.client(master), cell.user()).await else { continue };
            let up = |task: &pb::TaskInfo| {
                task.phase() == pb::TaskPhase::Running && Some(task.machine.as_str()) != lost
            };
            if tasks.len() == TASKS as usize && tasks.iter().all(up) {
                return Ok(tasks);
            }
            break;
        }
        give_up_after(began, "not all tasks run elsewhere")?;
        tokio::time::sleep(LOOK).await;
    }
}

async fn tasks(mut client: Client, user: &str) -> Result<Vec<pb::TaskInfo>, Error> {
    let mut request = tonic::Request::new(pb::GetJobRequest { job: format!("{user}/{JOB}") });
    request.set_timeout(Duration::from_secs(1));
    Ok(client.get_job(request).await?.into_inner().tasks)
}

async fn machine_is_back(cell: &LocalCell, name: &str) -> Result<(), Error> {
    let began = clock::now();
    loop {
        let leader = cell.settled().await?;
        let machines = cell.client(leader).list_machines(pb::ListMachinesRequest {}).await?;
        let machines = machines.into_inner().machines;
        let up =
            |machine: &pb::Machine| machine.name == name && machine.state() == pb::MachineState::Up;
        if machines.iter().any(up) {
            return Ok(());
        }
        give_up_after(began, "the machine does not come back")?;
        tokio::time::sleep(LOOK).await;
    }
}

fn give_up_after(began: Instant, what: &str) -> Result<(), Error> {
    if began.elapsed() < PATIENCE { Ok(()) } else { Err(what.into()) }
}
