//! `borgctl demo`: a whole cell on this computer, working through the death of its leader.
//!
//! The steps read as they run. Nothing here is special to the demo: it starts the cell that
//! `borgctl cell up` starts, and asks it through the API that everyone uses.

mod fetch;
mod narrator;
mod watch;

use crate::client::{Client, Kind, request_id};
use crate::config::{self, Options};
use crate::exit::{Code, Failure};
use crate::local::{self, Layout, LocalCell, Plan, Process};
use crate::target::TargetArgs;
use borg_proto::JobSpec;
use borg_proto::names::CellName;
use borg_proto::wire::pb;
use narrator::Narrator;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use watch::{Running, running_tasks, wait_for_job, wait_for_up};

/// The job files that the demo submits, as they are in `examples/`.
const WORDCOUNT: &str = include_str!("../../../examples/wordcount.bcl");
const HELLO_WEB: &str = include_str!("../../../examples/hello-web.bcl");
/// How long each task of the word count takes at least, so that there is something to kill the
/// leader under.
const LINGER_SECONDS: &str = "4";

/// Shows a whole cell: five masters, three machines, a batch job, a service, the death of the
/// leader.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Directory whose text files are counted [default: the current one]
    #[arg(long, value_name = "DIR")]
    text: Option<PathBuf>,
    /// Keep the cell running, in this directory, instead of taking it down
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the demo; whatever happens, the cell is taken down unless it is to be kept.
///
/// # Errors
/// The step that failed, and why.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let say = Narrator::new();
    let text = args.text.clone().unwrap_or_else(|| PathBuf::from("."));
    let text = text.canonicalize().map_err(|error| {
        Failure::new(Code::NotFound, format!("--text {}: {error}", text.display()))
    })?;
    let (dir, temporary) = match &args.keep {
        Some(dir) => (dir.clone(), None),
        None => {
            let dir = temporary_dir()?;
            (dir.clone(), Some(dir))
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let interrupted = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    let shown = tokio::select! {
        shown = show(&say, &dir, &text) => shown,
        () = interrupted => Err(Failure::new(Code::Internal, "interrupted")),
    };
    let Some(temporary) = temporary else {
        shown?;
        say.line(&format!("the cell is kept: borgctl --cell-dir {} status", dir.display()));
        return Ok(());
    };
    let taken = take_down(&say, &temporary).await;
    shown.and(taken)
}

fn temporary_dir() -> Result<PathBuf, Failure> {
    let dir = std::env::temp_dir().join(format!("borg-demo-{}", request_id().split_at(12).0));
    fs::create_dir(&dir).map_err(|error| {
        Failure::new(Code::Internal, format!("make {}: {error}", dir.display()))
    })?;
    Ok(dir)
}

async fn show(say: &Narrator, dir: &Path, text: &Path) -> Result<(), Failure> {
    let (cell, mut client) = start(say, dir, text).await?;
    let layout = Layout::new(&dir.canonicalize()?);
    let shared = layout.shared();
    fs::create_dir_all(layout.jobs())?;

    say.heading("A service and a batch job");
    let web = submit(&mut client, "hello-web.bcl", HELLO_WEB, &layout, &[]).await?;
    say.line(&format!("submitted examples/hello-web.bcl: {}", web.join(", ")));
    let args = [
        ("dir", text.display().to_string()),
        ("out", shared.display().to_string()),
        ("linger", LINGER_SECONDS.to_owned()),
    ];
    let words = submit(&mut client, "wordcount.bcl", WORDCOUNT, &layout, &args).await?;
    say.line(&format!("submitted examples/wordcount.bcl: {}", words.join(", ")));
    let [count, merge] = words.as_slice() else {
        return Err(Failure::new(Code::Internal, "wordcount.bcl no longer has two jobs"));
    };
    wait_for_up(say, &mut client, &web[0]).await?;
    fetch::all(say, &mut client, &web[0]).await?;
    wait_for_up(say, &mut client, count).await?;

    say.heading("The leader dies");
    let before = running_tasks(&mut client, &[&web[0], count]).await?;
    kill_the_leader(say, &cell, &mut client, &layout).await?;
    check_survivors(say, &mut client, &before, &web[0], count).await?;

    say.heading("The work goes on");
    wait_for_job(say, &mut client, count).await?;
    wait_for_job(say, &mut client, merge).await?;
    let log = watch::log_of(&mut client, &format!("{merge}/0")).await?;
    say.line("the ten commonest words:");
    for line in log.lines() {
        let (count, word) = line.split_once(' ').unwrap_or(("", line));
        say.line(&format!("  {count:>8} {word}"));
    }
    if log.lines().count() < 10 {
        return Err(Failure::new(
            Code::JobFailed,
            format!(
                "{merge} printed fewer than ten words: give a directory with more text in it with --text"
            ),
        ));
    }
    fetch::all(say, &mut client, &web[0]).await
}

async fn start(say: &Narrator, dir: &Path, text: &Path) -> Result<(LocalCell, Client), Failure> {
    say.heading("Five masters and three machines");
    let began = Instant::now();
    let plan = Plan {
        dir: dir.to_owned(),
        cell: CellName::new("demo").expect("demo is a name"),
        masters: 5,
        borglets: 3,
        volumes: vec![format!("{}:ro", text.display())],
        store: "redb".to_owned(),
        isolation: "auto".to_owned(),
        again: false,
    };
    let cell = local::up(&plan)?;
    let layout = Layout::new(&dir.canonicalize()?);
    let target = TargetArgs {
        cell_dir: Some(layout.dir().to_owned()),
        masters: Vec::new(),
        creds: None,
        timeout: Duration::from_secs(10),
        at: None,
        consistent: false,
        request_id: None,
    };
    let mut client = Client::new(&target.resolve()?)?;
    local::add_machines_and_wait(&layout, &cell, &mut client, |what| say.progress(what)).await?;
    for daemon in cell.daemons() {
        let pid = daemon.process.map_or(0, |process| process.pid);
        let names = daemon
            .dns
            .as_ref()
            .map_or_else(String::new, |dns| format!(", names over DNS on {dns}"));
        say.line(&format!("{:<9} pid {pid:<7} on {}{names}", daemon.name, daemon.address));
    }
    let leader = leader(&mut client).await?;
    let took = began.elapsed().as_millis();
    say.line(&format!(
        "mutual TLS with a CA of its own; master {} leads after {took} ms",
        leader.replica
    ));
    say_isolation(say, &mut client).await?;
    Ok((cell, client))
}

async fn say_isolation(say: &Narrator, client: &mut Client) -> Result<(), Failure> {
    let request = pb::ListMachinesRequest {};
    let answer = client
        .call("machines", Kind::Read, request, async |mut c, r| c.list_machines(r).await)
        .await?;
    let missing = answer.machines.first().and_then(|machine| machine.info.as_ref());
    let missing = missing.map(|info| info.missing_isolation.as_slice()).unwrap_or_default();
    if missing.is_empty() {
        say.line("tasks run in cgroups and namespaces of their own");
    }
    for lack in missing {
        say.line(&format!("less isolation here: {lack}"));
    }
    Ok(())
}

async fn leader(client: &mut Client) -> Result<pb::Master, Failure> {
    let request = pb::ListMastersRequest {};
    let answer = client
        .call("masters", Kind::Read, request, async |mut c, r| c.list_masters(r).await)
        .await?;
    let leader = answer.masters.into_iter().find(|master| master.leader && master.reachable);
    leader.ok_or_else(|| Failure::new(Code::Unavailable, "no master says that it leads"))
}

/// Evaluates a job file and submits its jobs; returns their names.
async fn submit(
    client: &mut Client,
    name: &str,
    source: &str,
    layout: &Layout,
    args: &[(&str, String)],
) -> Result<Vec<String>, Failure> {
    let path = layout.jobs().join(name);
    fs::write(&path, source)?;
    let mut options = Options::new(client.user().clone())?;
    options.args = args.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let mut names = Vec::new();
    for spec in config::load(&path, &options).await?.jobs {
        names.push(submit_one(client, &spec).await?);
    }
    Ok(names)
}

async fn submit_one(client: &mut Client, spec: &JobSpec) -> Result<String, Failure> {
    let request =
        pb::SubmitJobRequest { spec: Some(spec.into()), request_id: request_id(), planned: None };
    let answer = client
        .call("submit", Kind::Change, request, async |mut c, r| c.submit_job(r).await)
        .await?;
    Ok(answer.job)
}

/// Kills the leader with signal 9 and measures the time until a change is acknowledged again.
async fn kill_the_leader(
    say: &Narrator,
    cell: &LocalCell,
    client: &mut Client,
    layout: &Layout,
) -> Result<(), Failure> {
    let old = leader(client).await?;
    let process = cell
        .masters
        .iter()
        .find(|master| master.address == old.address)
        .and_then(|master| master.process)
        .ok_or_else(|| {
            Failure::new(Code::Internal, "the leader is not one of the cell's processes")
        })?;
    // Evaluated beforehand, so that the time measured is the cell's alone.
    let path = layout.jobs().join("after.json");
    let after = r#"{"name":"after-the-crash","kind":"batch","task":{"command":["true"],"limit":{"cpu_milli":10,"ram_bytes":16777216}}}"#;
    fs::write(&path, after)?;
    let spec = config::load(&path, &Options::new(client.user().clone())?).await?.jobs;
    let spec = spec.first().ok_or_else(|| Failure::new(Code::Internal, "no job in after.json"))?;
    process.signal(Signal::SIGKILL)?;
    let killed = Instant::now();
    let job = submit_one(client, spec).await?;
    let took = killed.elapsed().as_millis();
    let new = loop {
        let seen = leader(client).await;
        if let Ok(new) = seen
            && new.replica != old.replica
        {
            break new;
        }
        if killed.elapsed() > Duration::from_secs(10) {
            return Err(Failure::new(Code::Unavailable, "no other master leads after 10 s"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    say.line(&format!(
        "master {} (pid {}) led and was killed with signal 9",
        old.replica, process.pid
    ));
    say.line(&format!(
        "master {} leads now; {job} was acknowledged {took} ms after the kill",
        new.replica
    ));
    Ok(())
}

/// Every task that ran before still runs in the same process; only a task of the batch job may
/// have come to its end.
async fn check_survivors(
    say: &Narrator,
    client: &mut Client,
    before: &Running,
    service: &str,
    batch: &str,
) -> Result<(), Failure> {
    let after = running_tasks(client, &[service, batch]).await?;
    let mut same = 0;
    for (task, (pid, process)) in before {
        match after.get(task) {
            Some((now, _)) if now != pid => {
                let text = format!("{task} ran as pid {pid} and now as pid {now}");
                return Err(Failure::new(Code::Internal, text));
            }
            Some(_) if process.is_some_and(|process: Process| !process.is_running()) => {
                let text = format!("{task} is said to run as pid {pid}, which is gone");
                return Err(Failure::new(Code::Internal, text));
            }
            Some(_) => same += 1,
            None if task.starts_with(&format!("{service}/")) => {
                let text = format!("{task} ran as pid {pid} and runs no more");
                return Err(Failure::new(Code::Internal, text));
            }
            None => {} // it has finished: `wait_for_job` sees whether well
        }
    }
    say.line(&format!(
        "{same} of {} tasks that ran still run, each in the same process",
        before.len()
    ));
    Ok(())
}

async fn take_down(say: &Narrator, dir: &Path) -> Result<(), Failure> {
    say.heading("Everything is taken down");
    if !Layout::new(dir).record().exists() {
        drop(fs::remove_dir(dir));
        return Ok(());
    }
    local::down(dir, false).await?;
    say.line("no process, mount, cgroup or socket of the cell is left");
    Ok(())
}

/// Jobs by name, for the modules below.
type ByTask<T> = BTreeMap<String, T>;
