//! A cell of thousands of simulated machines and the tasks that fill it, all by way of the API: the
//! machines are added, jobs submitted, the scheduler places them, the machines say that they run.

use crate::figures::{load, progress};
use crate::local_cell::LocalCell;
use crate::{Error, clock, machines};
use borg_proto::wire::pb;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Changes under way at once.
const AT_ONCE: usize = 128;
/// Tasks of a job that fills the cell.
const TASKS_PER_JOB: u32 = 1_000;
/// How long machines or tasks may take until they are up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// A process with simulated machines; ended when dropped.
#[derive(Debug)]
pub struct Machines(Child);

impl Drop for Machines {
    fn drop(&mut self) {
        // One that has ended by itself needs no more.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A batch job of tasks that ask for a tenth of a core and this much memory.
#[must_use]
pub fn job(name: &str, tasks: u32, ram_bytes: u64) -> pb::JobSpec {
    let limit = pb::Resources { cpu_milli: 100, ram_bytes, ..pb::Resources::default() };
    let task = pb::TaskSpec {
        command: ["/bin/sleep", "1000"].map(str::to_owned).into(),
        limit: Some(limit),
        grace_ms: 100,
        ..pb::TaskSpec::default()
    };
    pb::JobSpec {
        name: name.to_owned(),
        kind: pb::JobKind::Batch.into(),
        tasks,
        priority: 100,
        task: Some(task),
        ..pb::JobSpec::default()
    }
}

/// Starts a process with so many machines, adds them to the cell, and waits until all are up. The
/// process is this program again, called with `machines CA ADDRESS COUNT`.
///
/// # Errors
/// When they do not come up.
pub async fn machines(cell: &LocalCell, count: u32) -> Result<Machines, Error> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    drop(listener);
    cell.machines_are_at(&address);
    let child = Command::new(std::env::current_exe()?)
        .arg("machines")
        .arg(cell.ca())
        .args([&address, &count.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let child = Machines(child);
    let began = clock::now();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..count {
        if calls.len() >= AT_ONCE {
            calls.join_next().await.ok_or("a call is under way")???;
        }
        let (mut master, address) = (cell.client(0), address.clone());
        calls.spawn(async move {
            let name = machines::name(number);
            let request_id = format!("add-{name}");
            let request = pb::AddMachineRequest { name, address, request_id };
            // As any client does: thousands of handshakes make a small computer miss pings.
            while let Err(status) = master.add_machine(request.clone()).await {
                if status.code() != tonic::Code::Unavailable || began.elapsed() > PATIENCE {
                    return Err(status);
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok::<(), tonic::Status>(())
        });
    }
    for added in calls.join_all().await {
        added?;
    }
    progress(&format!("{count} machines added in {:.1} s", began.elapsed().as_secs_f64()));
    let up = i32::from(pb::MachineState::Up);
    until(began, "machines are up", async || {
        let answer = cell.client(0).list_machines(pb::ListMachinesRequest {}).await?;
        let machines = answer.into_inner().machines;
        let missing = machines.iter().filter(|machine| machine.state != up).count();
        Ok((missing == 0, format!("{missing} of {} are missing", machines.len())))
    })
    .await?;
    progress(&format!("{count} machines up after {:.1} s", began.elapsed().as_secs_f64()));
    Ok(child)
}

/// Fills the cell with so many tasks, and gives the task transitions a second that the log took: each
/// task is placed, and seen to run.
///
/// # Errors
/// When they do not run in time.
pub async fn tasks(cell: &LocalCell, count: u32) -> Result<f64, Error> {
    let began = clock::now();
    for number in 0..count / TASKS_PER_JOB {
        let name = format!("fill-{number}");
        let spec = Some(job(&name, TASKS_PER_JOB, 64 << 20));
        cell.client(0)
            .submit_job(pb::SubmitJobRequest { spec, request_id: name, planned: None })
            .await?;
    }
    until(began, "tasks are up", async || {
        let list = pb::ListJobsRequest { user: cell.user().to_owned(), all: false };
        let jobs = cell.client(0).list_jobs(list).await?.into_inner().jobs;
        let up: u32 = jobs.iter().map(|job| job.up).sum();
        let placed: u32 = jobs.iter().map(|job| job.running).sum();
        Ok((up >= count / TASKS_PER_JOB * TASKS_PER_JOB, format!("{placed} placed, {up} up")))
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    progress(&format!("load {}; {count} tasks placed and up in {seconds:.1} s", load()));
    Ok(f64::from(2 * count) / seconds)
}

async fn until(
    began: Instant,
    what: &str,
    look: impl AsyncFn() -> Result<(bool, String), Error>,
) -> Result<(), Error> {
    let mut told = String::new();
    loop {
        // A leader may change meanwhile.
        let seen = match look().await {
            Ok((true, _)) => return Ok(()),
            Ok((false, seen)) => seen,
            Err(error) => error.to_string(),
        };
        if began.elapsed() > PATIENCE {
            return Err(format!("not all {what} in time: {seen}").into());
        }
        if seen != told {
            progress(&format!("  {:.1} s: {seen}", began.elapsed().as_secs_f64()));
            told = seen;
        }
        tokio::time::sleep(LOOK).await;
    }
}
