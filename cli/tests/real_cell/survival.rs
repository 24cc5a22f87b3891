//! Processes die by signal 9; the cell, its jobs and their tasks live on.
//!
//! These tests share a cell of five masters and two machines, one after the other: each leaves the
//! cell with all of its processes running.

use crate::cell::{Cell, Killed, job, note, now, pids, processes_with, request, within};
use borg_proto::rpc::Credentials;
use borg_proto::wire::pb;
use borgctl::local::Process;
use serde_json::{Value, json};
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tonic::{Code, Request};

/// The cell, for one test at a time.
struct Alone {
    cell: &'static Cell,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Alone {
    type Target = Cell;
    fn deref(&self) -> &Cell {
        self.cell
    }
}

fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    static CELL: OnceLock<Cell> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cell = CELL.get_or_init(|| Cell::up(5, 2));
    let dead: Vec<_> = cell.record().daemons().filter(|d| !d.is_running()).cloned().collect();
    assert!(dead.is_empty(), "a test before this one left these dead: {dead:?}");
    Alone { cell, _turn: turn }
}

/// Starts the killed again when a test ends, also when it fails, so that the next finds a whole
/// cell.
struct Again<'a>(&'a Cell, Vec<Killed>);

impl Drop for Again<'_> {
    fn drop(&mut self) {
        self.0.start_again(&self.1);
    }
}

fn kill_masters<'a>(cell: &'a Cell, which: &[usize]) -> Again<'a> {
    let record = cell.record();
    let victims: Vec<_> = which.iter().map(|&i| Killed::of(&record.masters[i])).collect();
    cell.kill(&victims);
    Again(cell, victims)
}

/// Tasks as processes that can be told from later ones with the same id.
fn processes(status: &Value) -> Vec<Process> {
    let find = |pid: u64| Process::find(u32::try_from(pid).unwrap()).unwrap();
    pids(status).into_iter().map(find).collect()
}

/// The states of all masters become the same, byte for byte: the checkpoints that they save are.
/// A checkpoint says how much of the log is in it, and has the digest of all that.
fn until_states_agree(cell: &Cell) {
    let admin = Credentials::load(&cell.layout().user("admin")).unwrap();
    let state_of = async |master| {
        let mut client = cell.client(master, &admin);
        let mut chunks =
            client.save_checkpoint(pb::SaveCheckpointRequest::default()).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            bytes.extend(chunk.data);
        }
        Ok::<_, tonic::Status>(bytes)
    };
    let agree = || {
        // On a thread of its own, as some tests are within a runtime already.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let states = (0..5).map(|master| runtime.block_on(state_of(master)));
        let states: Result<Vec<_>, _> = states.collect();
        states.is_ok_and(|states| states.iter().all(|state| *state == states[0]))
    };
    within("the masters have the same state", || {
        std::thread::scope(|scope| scope.spawn(agree).join().unwrap())
    });
}

#[test]
fn when_the_leader_is_killed_no_task_notices_and_the_next_change_is_acknowledged() {
    let cell = alone();
    let mut web = job("web", "service", "exec sleep 1000");
    web["tasks"] = json!(3);
    let web = cell.submit(&web);
    let mut batch = job("batch", "batch", "sleep 4; echo done");
    batch["tasks"] = json!(2);
    let batch = cell.submit(&batch);
    let before = processes(&cell.until(&web, |s| s["up"] == 3));
    let batch_before = pids(&cell.until(&batch, |s| s["up"] == 2));
    let old = cell.leader();
    let killed = kill_masters(&cell, &[old]);
    let since = now();
    let next = cell.submit(&job("next", "batch", "true"));
    assert!(since.elapsed() < Duration::from_secs(5), "took {:?}", since.elapsed());
    assert_ne!(cell.leader(), old);
    cell.until(&next, |s| s["state"] == "finished");
    assert_eq!(pids(&cell.status(&batch)), batch_before);
    let over = cell.until(&batch, |s| s["state"] == "finished");
    assert_eq!(over["task_list"][0]["incarnation"], 1, "{over}");
    assert_eq!(processes(&cell.status(&web)), before, "the same processes, not new ones");
    assert!(before.iter().all(Process::is_running));
    // The dead one comes back, catches up, and has the same state.
    drop(killed);
    until_states_agree(&cell);
    cell.borgctl(&["kill", &web]).ok();
    within("the killed tasks are gone", || !before.iter().any(Process::is_running));
}

#[test]
fn when_all_masters_are_killed_and_started_again_jobs_and_processes_are_still_there() {
    let cell = alone();
    let mut web = job("kept", "service", "exec sleep 1000");
    web["tasks"] = json!(3);
    let web = cell.submit(&web);
    let before = processes(&cell.until(&web, |s| s["up"] == 3));
    let spec = cell.status(&web)["submitted_at_ms"].clone();
    let finished = cell.submit(&job("over", "batch", "true"));
    cell.until(&finished, |s| s["state"] == "finished");
    drop(kill_masters(&cell, &[0, 1, 2, 3, 4]));
    assert_eq!(cell.status(&finished)["state"], "finished");
    let after = cell.until(&web, |s| s["up"] == 3);
    assert_eq!(processes(&after), before);
    assert_eq!(after["submitted_at_ms"], spec);
    assert!(after["task_list"].as_array().unwrap().iter().all(|task| task["incarnation"] == 1));
    for _ in 0..10 {
        // At whichever master: one that has only just started knows no less.
        assert_eq!(cell.status(&finished)["state"], "finished");
    }
    until_states_agree(&cell);
    // It takes work again, and the machines obey the new leader.
    let again = cell.submit(&job("again", "batch", "true"));
    cell.until(&again, |s| s["state"] == "finished");
    cell.borgctl(&["kill", &web]).ok();
    within("the killed tasks are gone", || !before.iter().any(Process::is_running));
}

#[tokio::test]
async fn without_a_majority_a_change_fails_at_its_deadline_reads_are_answered_and_nothing_is_half_done()
 {
    let cell = alone();
    let web = cell.submit(&job("steady", "service", "exec sleep 1000"));
    let before = processes(&cell.until(&web, |s| s["up"] == 1));
    let leader = cell.leader();
    let victims: Vec<usize> = (0..5).filter(|i| (i + 5 - leader) % 5 < 3).collect();
    let lives = (0..5).find(|i| !victims.contains(i)).unwrap();
    let killed = kill_masters(&cell, &victims);
    let since = now();
    let change = job("change", "batch", "true");
    let args = ["submit", "--timeout", "2s", "-"];
    let said = cell.borgctl_with(&args, &change.to_string()).failed(7);
    assert!(since.elapsed() < Duration::from_secs(4), "took {:?}", since.elapsed());
    assert!(said.contains("none of 5 masters could answer within 2s"), "{said}");
    assert!(
        said.contains("it may or may not have been done") && said.contains("--request-id"),
        "{said}"
    );
    // At a master itself: a clear answer before the deadline of the caller.
    let mut submit = Request::new(request(job("call", "batch", "true")));
    submit.set_timeout(Duration::from_secs(1));
    let id = submit.get_ref().clone();
    let refused = cell.admin(lives).submit_job(submit).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("no majority"), "{refused:?}");
    // Reads: from what the living know, unless the caller insists on the newest.
    let status = cell.status(&web);
    assert_eq!(processes(&status), before);
    assert!(status["read"]["index"].as_u64() > Some(0), "{status}");
    assert!(status["read"]["age_ms"].as_u64() > Some(1_000), "{status}");
    let table = cell.borgctl(&["status", &web]);
    assert!(table.err.contains("has not heard of a leader for"), "{table:?}");
    cell.borgctl(&["status", &web, "--consistent", "--timeout", "1s"]).failed(7);
    let get = pb::GetJobRequest { job: web.clone() };
    let answer = cell.admin(lives).get_job(get.clone()).await.unwrap().into_inner();
    assert_eq!(answer.job.unwrap().up, 1);
    let mut insisting = Request::new(get);
    insisting.metadata_mut().insert("borg-consistent", "1".parse().unwrap());
    let refused = cell.admin(lives).get_job(insisting).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // The majority is back: all of a change or nothing of it, and asking again settles it.
    drop(killed);
    cell.leader();
    assert_eq!(cell.json(&["status", &web, "--consistent"])["up"], 1);
    let answer = cell.admin(lives).submit_job(id).await.unwrap().into_inner();
    cell.until(&answer.job, |s| s["state"] == "finished");
    let list = pb::ListJobsRequest { all: true, ..Default::default() };
    let jobs = cell.admin(lives).list_jobs(list).await.unwrap().into_inner().jobs;
    let count = |name: &str| jobs.iter().filter(|job| job.job == name).count();
    assert_eq!(count("admin/call"), 1, "asked twice, done once");
    assert!(count("admin/change") <= 1);
    if count("admin/change") == 1 {
        cell.until("admin/change", |s| s["state"] == "finished");
    }
    assert_eq!(processes(&cell.status(&web)), before);
    until_states_agree(&cell);
    cell.borgctl(&["kill", &web]).ok();
}

#[test]
fn a_borglet_that_is_killed_and_started_again_has_its_tasks_and_reports_what_ended_meanwhile() {
    let cell = alone();
    let on_first = |mut job: Value| {
        let rack = json!([{ "attribute": "rack", "op": "=", "values": ["r1"] }]);
        job["task"]["constraints"] = rack;
        cell.submit(&job)
    };
    let long = on_first(job("long", "service", "exec sleep 1000"));
    let good = on_first(job("good", "batch", "sleep 1; echo well"));
    let bad = on_first(job("bad", "batch", "sleep 1; exit 5"));
    let before = processes(&cell.until(&long, |s| s["up"] == 1));
    for job in [&good, &bad] {
        cell.until(job, |s| s["up"] == 1);
    }
    let borglet = Killed::of(&cell.record().borglets[0]);
    let killed = Again(&cell, vec![borglet]);
    cell.kill(&killed.1);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(before.iter().all(Process::is_running), "the task died with its borglet");
    drop(killed);
    cell.until(&good, |s| s["state"] == "finished");
    let over = cell.until(&bad, |s| s["state"] == "failed");
    assert!(note(&over).contains("exit code 5"), "{over}");
    assert_eq!(over["task_list"][0]["incarnation"], 1, "{over}");
    assert_eq!(cell.borgctl(&["logs", &format!("{good}/0")]).ok(), "well\n");
    let after = cell.status(&long);
    assert_eq!(processes(&after), before);
    assert_eq!(after["task_list"][0]["incarnation"], 1, "{after}");
    // It obeys as before.
    cell.borgctl(&["kill", &long]).ok();
    within("the killed task is gone", || !before.iter().any(Process::is_running));
}

/// Each would start daemons of its own, and those of one would be written down nowhere.
#[test]
fn two_who_start_a_cell_again_at_once_start_it_once() {
    let cell = Cell::up(3, 1);
    let dir = cell.dir().canonicalize().unwrap();
    let dir = dir.to_str().unwrap();
    for _ in 0..2 {
        cell.borgctl(&["cell", "down", "--keep"]).ok();
        assert_eq!(processes_with(dir), [""; 0]);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| cell.borgctl(&["cell", "up", "--again"]).ok());
            }
        });
        for daemon in cell.record().daemons() {
            assert!(daemon.is_running(), "{daemon:?}");
        }
        assert_eq!(processes_with(dir).len(), 4, "{:?}", processes_with(dir));
    }
}

#[test]
fn after_cell_down_nothing_of_the_cell_is_left() {
    let cell = Cell::up(1, 1);
    let mark = format!("7{}", std::process::id());
    let script = format!("setsid sleep {mark} & trap '' TERM; while :; do sleep 1; done");
    let mut stubborn = job("stubborn", "service", &script);
    stubborn["tasks"] = json!(2);
    let stubborn = cell.submit(&stubborn);
    cell.until_up(&stubborn, 2);
    let dir = cell.dir().canonicalize().unwrap();
    let dir = dir.to_str().unwrap();
    within("the tasks' children run", || processes_with(&format!("sleep {mark}")).len() == 4);
    assert!(!processes_with(dir).is_empty());
    let group = format!("borg-{}-m-1", cell.name);
    let cgroups = crate::isolation::cgroups_with(&group);
    let record = cell.record();
    cell.down();
    assert_eq!(processes_with(dir), [""; 0]);
    assert_eq!(processes_with(&format!("sleep {mark}")), [""; 0]);
    assert_eq!(crate::isolation::cgroups_with(&group), [""; 0], "there were {cgroups:?}");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&cell.name), "{mounts}");
    for daemon in record.daemons() {
        for address in [&daemon.address, &daemon.metrics] {
            std::net::TcpStream::connect(address).unwrap_err();
        }
    }
    assert!(!std::path::Path::new(dir).exists());
    cell.borgctl(&["cell", "down"]).failed(4);
}
