//! Signal 9, five times a second, to any master or borglet, under load.
//!
//! Whatever dies is started again at once. Nothing acknowledged may be lost, tasks must not notice,
//! short jobs that were acknowledged must run to their end (looked at as they go: a busy cell
//! forgets its oldest dead jobs), and when it is over the masters must have the same state byte for
//! byte. (Nothing is lost of what a killed process wrote: the kernel
//! keeps it. What a power cut does is `power`'s question.)

use super::books::Books;
use super::cell::{Cell, MASTERS, Plan};
use super::clients::{Clients, Pace, Readers, submission};
use super::daemon::start_ticks;
use super::reached::Reached;
use super::{Run, Says};
use crate::{Error, clock};
use borg_proto::wire::pb;
use borg_sim::dice::Dice;
use std::time::Duration;

/// Machines of the cell.
const BORGLETS: usize = 3;
/// Tasks whose processes must not change.
const STEADY: u32 = 9;
/// From one kill to the next.
const PERIOD: Duration = Duration::from_millis(200);
/// Kills between two looks at the tasks; also between two short jobs.
const LOOK_EVERY: u32 = 25;
/// How long the cell may take for anything once the kills stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Four clients with a rest, as daemons starting all the time take most of a small computer.
const PACE: Pace = Pace { clients: 4, rest: Duration::from_millis(10), prefix: 't', ballast: 0 };

/// A task's process: machine, id, start time, and number of the placement.
type Process = (String, u32, u64, u32);

/// `count` kills.
///
/// # Errors
/// What was lost, or does not work any more.
pub fn kills(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let store = run.store.as_deref().unwrap_or("redb");
    let mut cell = whole_cell(run, store)?;
    says.logs_are_in(cell.logs());
    let job = submit(&cell, pb::JobKind::Service, "steady", STEADY, "exec sleep 100000")?;
    let steady = until_up(&cell, &job)?;
    let books = Books::default();
    books.ignore("admin/");
    let clients = Clients::start(&cell, &books, dice.roll(), PACE)?;
    let readers = Readers::start(&cell, &books, dice.roll(), 1)?;
    let mut short: Vec<String> = Vec::new();
    for kill in 0..run.count {
        let next = clock::now() + PERIOD;
        let victim = dice.index(MASTERS + BORGLETS);
        for daemon in cell.masters.iter_mut().chain(&mut cell.borglets) {
            daemon.must_run()?;
        }
        if victim < MASTERS {
            let leads = cell.masters[victim].said_that_it_leads();
            reached.one(if leads { "leader killed" } else { "master killed" });
            cell.masters[victim].kill()?;
            cell.masters[victim].start()?;
        } else {
            reached.one("borglet killed");
            cell.borglets[victim - MASTERS].kill()?;
            cell.borglets[victim - MASTERS].start()?;
        }
        if kill % LOOK_EVERY == 0 {
            for (_, pid, started, _) in &steady {
                if start_ticks(*pid).ok() != Some(*started) {
                    return Err(format!("process {pid} of {job} died with a daemon").into());
                }
            }
            let before = short.len();
            short.retain(|job| !is_finished(&cell, job));
            reached.many("short jobs finished", u64::try_from(before - short.len())?);
            let name = format!("short-{kill}");
            // Not acknowledged, not promised.
            if let Ok(job) = submit(&cell, pb::JobKind::Batch, &name, 1, "sleep 0.5") {
                short.push(job);
            }
        }
        let done = kill + 1;
        let acknowledged = books.acknowledged();
        says.progress(&format!("kill {done}/{}, {acknowledged} acknowledged", run.count));
        std::thread::sleep(next.saturating_duration_since(clock::now()));
    }
    says.slowest(clients.slowest_ms());
    clients.finish(&cell);
    readers.finish(&cell, &mut reached);
    let last = submit(&cell, pb::JobKind::Batch, "last", 1, "true")?;
    short.push(last);
    for job in &short {
        until(&cell, job, "finished", says_finished)?;
        reached.one("short jobs finished");
    }
    let after = until_up(&cell, &job)?;
    if after != steady {
        return Err(format!("the tasks of {job} were {steady:?}, now {after:?}").into());
    }
    let alive = steady.iter().all(|(_, pid, started, _)| start_ticks(*pid).ok() == Some(*started));
    if !alive {
        return Err(format!("a process of {job} died with a daemon").into());
    }
    cell.check_calm(&books)?;
    cell.check_equal_states()?;
    cell.check_logs()?;
    reached.all_of(&["leader killed", "master killed", "borglet killed", "consistent reads"])?;
    if books.acknowledged() < u64::from(run.count) {
        return Err("fewer changes than kills: that is no load".into());
    }
    Ok(reached)
}

fn whole_cell(run: &Run, store: &str) -> Result<Cell, Error> {
    let mut cell = Cell::make(Plan::new(&run.work, "kills", MASTERS, 7_001, store))?;
    cell.start_masters()?;
    for number in 1..=BORGLETS {
        let address = format!("127.0.0.1:{}", 7_100 + number);
        cell.add_borglet(number, &address, &format!("{0}000-{0}999", 19 + number))?;
        cell.borglets[number - 1].start()?;
        let name = cell.borglets[number - 1].name.clone();
        let leader = cell.leader()?;
        cell.ask(leader, async |mut client| {
            let request_id = format!("add-{name}");
            client.add_machine(pb::AddMachineRequest { name, address, request_id }).await
        })?;
    }
    Ok(cell)
}

fn submit(
    cell: &Cell,
    kind: pb::JobKind,
    name: &str,
    tasks: u32,
    script: &str,
) -> Result<String, Error> {
    let mut request = submission(name);
    if let Some(spec) = request.spec.as_mut() {
        spec.kind = kind.into();
        spec.tasks = tasks;
        if let Some(task) = spec.task.as_mut() {
            task.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
            task.limit = Some(pb::Resources {
                cpu_milli: 100,
                ram_bytes: 16 << 20,
                ..pb::Resources::default()
            });
        }
    }
    let began = clock::now();
    for master in (0..MASTERS).cycle() {
        let request = request.clone();
        let asked = cell.ask(master, async |mut client| client.submit_job(request).await);
        match asked {
            Ok(answer) => return Ok(answer.into_inner().job),
            Err(status) if began.elapsed() > PATIENCE => return Err(status.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    unreachable!("a cycle has no end")
}

fn until(
    cell: &Cell,
    job: &str,
    what: &str,
    done: impl Fn(&pb::GetJobResponse) -> bool,
) -> Result<pb::GetJobResponse, Error> {
    let began = clock::now();
    let mut seen = None;
    for master in (0..MASTERS).cycle() {
        let job = job.to_owned();
        let asked = cell.ask(master, async |mut client| {
            Ok(client.get_job(pb::GetJobRequest { job }).await?.into_inner())
        });
        match asked {
            Ok(answer) if done(&answer) => return Ok(answer),
            other => seen = Some(other),
        }
        if began.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("{job} is not {what} after {PATIENCE:?}: {seen:?}").into())
}

fn says_finished(answer: &pb::GetJobResponse) -> bool {
    answer.job.as_ref().is_some_and(|job| job.state() == pb::JobState::Finished)
}

/// Asks each master once at most; one that was just killed cannot tell.
fn is_finished(cell: &Cell, job: &str) -> bool {
    (0..MASTERS).any(|master| {
        let job = job.to_owned();
        let asked = cell.ask(master, async |mut client| {
            Ok(client.get_job(pb::GetJobRequest { job }).await?.into_inner())
        });
        asked.is_ok_and(|answer| says_finished(&answer))
    })
}

fn until_up(cell: &Cell, job: &str) -> Result<Vec<Process>, Error> {
    let answer =
        until(cell, job, "up", |answer| answer.job.as_ref().is_some_and(|job| job.up == STEADY))?;
    let process = |task: &pb::TaskInfo| {
        let started = start_ticks(task.pid)?;
        Ok((task.machine.clone(), task.pid, started, task.incarnation))
    };
    answer.tasks.iter().map(process).collect()
}
