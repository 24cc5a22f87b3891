//! Tasks outlive all that happens to the borglet and to the masters, and nothing of it is lost.

use super::cell::{self, Cell, Daemon, fence, shell, within};
use super::is_alive;
use borg_proto::FailureCause;
use borg_proto::poll::{TargetTask, TaskReport, TaskStatus};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many tasks are to survive; more for a machine that has the time.
fn many() -> u32 {
    std::env::var("BORG_TEST_TASKS").ok().and_then(|n| n.parse().ok()).unwrap_or(30)
}

/// Field 22 of proc_pid_stat(5): with the pid, a name for the process.
fn start_ticks(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text[text.rfind(')')? + 1..].split_whitespace().nth(19)?.parse().ok()
}

fn processes(report: &[TaskReport]) -> Vec<(u32, Option<u64>)> {
    let up = report.iter().filter_map(cell::pid);
    up.map(|pid| (pid, start_ticks(pid))).collect()
}

fn all_up(report: &[TaskReport]) -> bool {
    report.iter().all(|task| cell::pid(task).is_some())
}

/// Killed while it serves, then replaced by another file, then asked to stop: each time the next process
/// has the same tasks.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_stay_the_same_processes_over_kills_upgrades_and_stops_of_their_borglet() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let tasks: Vec<TargetTask> = (0..many()).map(|n| shell(1, n, "sleep 1000")).collect();
    let all: Vec<&TargetTask> = tasks.iter().collect();
    master.poll(fence(1, 1), Some(&all)).await.unwrap();
    let before = processes(&master.until(fence(1, 1), all_up).await);
    assert_eq!(before.len(), tasks.len());
    for round in 0..4 {
        match round {
            0 => daemon.kill(),
            1 => assert!(daemon.terminate().success()),
            2 | 3 => {
                daemon.upgrade();
                daemon.kill();
            }
            _ => unreachable!(),
        }
        assert!(before.iter().all(|(pid, ticks)| start_ticks(*pid) == *ticks), "round {round}");
        daemon.restart();
        let mut master = daemon.master(&cell, "master/1");
        let found = master.poll(fence(1, 2 + round), Some(&all)).await.unwrap();
        assert_eq!(processes(&found.report.tasks), before, "round {round}");
    }
}

/// All files by which a borglet knows what it had, each in turn, and all at once.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_file_of_the_borglet_is_damaged_it_starts_and_every_task_lives() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let tasks = [0, 1, 2].map(|n| shell(1, n, "sleep 1000"));
    let all = [&tasks[0], &tasks[1], &tasks[2]];
    master.poll(fence(1, 1), Some(&all)).await.unwrap();
    let before = processes(&master.until(fence(1, 1), all_up).await);
    let files = state_files(daemon.dir());
    for name in ["owner.json", "owner.json.copy", "fence.json", "fence.json.copy", "record"] {
        assert!(files.iter().any(|file| file.ends_with(name)), "{name} is not in {files:?}");
    }
    let mut damages: Vec<Vec<PathBuf>> = files.iter().map(|file| vec![file.clone()]).collect();
    damages.push(files);
    let mut generation = 1;
    for damage in &damages {
        for junk in [&b""[..], b"{\"epoch\": 1, \"cell\": [\xff\x00"] {
            daemon.kill();
            for file in damage {
                fs::write(file, junk).unwrap();
            }
            daemon.restart();
            let mut master = daemon.master(&cell, "master/1");
            generation += 1;
            let found = master.poll(fence(1, generation), Some(&all)).await.unwrap();
            assert_eq!(processes(&found.report.tasks), before, "{damage:?} with {junk:?}");
        }
    }
    // And they obey.
    let mut master = daemon.master(&cell, "master/1");
    master.poll(fence(1, generation + 1), Some(&[])).await.unwrap();
    master.until(fence(1, generation + 1), <[_]>::is_empty).await;
    assert!(!before.iter().any(|(pid, _)| is_alive(*pid)));
}

/// The borglet's own files and those of its containers; not what the tasks wrote.
fn state_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let tasks = fs::read_dir(dir.join("tasks")).unwrap().map(|entry| entry.unwrap().path());
    for dir in tasks.chain([dir.to_owned()]) {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.is_file()));
    }
    files.sort();
    files
}

/// Nobody polls: what ends is started again by policy, or kept with its code and time.
#[tokio::test(flavor = "multi_thread")]
async fn without_masters_services_are_started_again_and_ends_are_kept_with_code_and_time() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let long = shell(1, 0, "sleep 1000");
    let batch = shell(1, 1, "sleep 1; exit 9");
    let mut service = shell(1, 2, "sleep 0.2");
    service.restart = true;
    let all = [&long, &batch, &service];
    master.poll(fence(1, 1), Some(&all)).await.unwrap();
    let before = master.until(fence(1, 1), |report| cell::pid(&report[0]).is_some()).await;
    drop(master);
    // What a person at the machine sees is not what a master asked for.
    let seen = async {
        loop {
            let page = daemon.get("/tasks.json").await;
            let body = page.split_once("\r\n\r\n").unwrap().1;
            let page: serde_json::Value = serde_json::from_str(body).unwrap();
            let tasks = &page["tasks"];
            if tasks[1]["state"] == "ended" && tasks[2]["restarts"].as_u64() >= Some(2) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("it waits for masters");
    let mut master = daemon.master(&cell, "master/2");
    let after = master.poll(fence(2, 1), Some(&all)).await.unwrap().report.tasks;
    assert_eq!(after[0].status, before[0].status);
    let TaskStatus::Ended { at, failure } = &after[1].status else { panic!("{after:?}") };
    assert_eq!(failure, &Some(FailureCause::Exit { code: 9 }));
    // It took a second, and the other one began with it.
    let TaskStatus::Up { since, .. } = before[0].status else { panic!("{before:?}") };
    assert!((500..60_000).contains(&at.since(since).0), "began at {since:?}, ended at {at:?}");
    assert!(after[2].restarts >= 2);
}

/// The next process knows what it was told to run, masters or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_borglet_starts_services_again_before_any_master_comes() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let mut service = shell(1, 0, "sleep 1000");
    service.restart = true;
    master.poll(fence(1, 1), Some(&[&service])).await.unwrap();
    let up = master.until(fence(1, 1), all_up).await;
    drop(master);
    daemon.kill();
    let pid = cell::pid(&up[0]).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.try_into().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    daemon.restart();
    let again = async {
        loop {
            let page = daemon.get("/tasks.json").await;
            if page.contains("\"state\": \"up\"") && page.contains("\"restarts\": 1") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("it waits for masters");
    let mut master = daemon.master(&cell, "master/1");
    let report = master.poll(fence(1, 2), Some(&[&service])).await.unwrap().report.tasks;
    assert_eq!(report[0].last_failure, Some(FailureCause::Signal { signal: 9 }));
    assert_ne!(cell::pid(&report[0]), Some(pid));
}

/// A machine that restarted has lost its processes, and its boot has another name.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_tasks_are_reported_lost_and_batch_is_not_run_again_by_the_machine() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let batch = shell(1, 0, "echo run; sleep 1000");
    let mut service = shell(2, 0, "echo run; sleep 1000");
    service.restart = true;
    let both = [&batch, &service];
    master.poll(fence(1, 1), Some(&both)).await.unwrap();
    let up = master.until(fence(1, 1), all_up).await;
    let spoken = async {
        while master.log(&batch, false).await.unwrap() != "run\n" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), spoken).await.expect("it says nothing");
    daemon.kill();
    for path in state_files(daemon.dir()).iter().filter(|file| file.ends_with("record")) {
        let record = fs::read_to_string(path).unwrap();
        let started = record.lines().find(|line| line.starts_with("{\"started\"")).unwrap();
        let mut started: serde_json::Value = serde_json::from_str(started).unwrap();
        let shim = started["started"]["shim_pid"].as_i64().unwrap().try_into().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        started["started"]["boot_id"] = "before".into();
        // Of two the last counts.
        fs::write(path, format!("{record}\n{started}\n")).unwrap();
    }
    within(Duration::from_secs(20), || !up.iter().filter_map(cell::pid).any(is_alive)).await;
    daemon.restart();
    let mut master = daemon.master(&cell, "master/1");
    let found = master.poll(fence(1, 2), Some(&both)).await.unwrap().report.tasks;
    let TaskStatus::Ended { failure, .. } = &found[0].status else { panic!("{found:?}") };
    assert_eq!(failure, &Some(FailureCause::Lost));
    assert!(matches!(found[1].status, TaskStatus::BackOff { .. }), "{:?}", found[1]);
    let again = |report: &[TaskReport]| report[1].restarts == 1 && cell::pid(&report[1]).is_some();
    let report = master.until(fence(1, 2), again).await;
    assert_eq!(report[0].status, found[0].status, "the cell decides, by its retries");
    assert_eq!(master.log(&batch, false).await.unwrap(), "run\n", "it ran once");
}

/// Looking at tasks that do nothing must cost next to nothing, however many there are. Counted in
/// processor time, which others on the machine do not change.
#[tokio::test(flavor = "multi_thread")]
async fn idle_tasks_cost_their_borglet_next_to_nothing() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let tasks: Vec<TargetTask> = (0..many()).map(|n| shell(1, n, "exec sleep 1000")).collect();
    let all: Vec<&TargetTask> = tasks.iter().collect();
    master.poll(fence(1, 1), Some(&all)).await.unwrap();
    master.until(fence(1, 1), all_up).await;
    drop(master);
    // Two seconds in which everything is looked at for the first time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = daemon.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ticks = daemon.cpu_ticks() - before;
    eprintln!("{} idle tasks: {ticks} hundredths of a second of processor time in 10 s", many());
    // A debug build on a slow machine; a tenth of a processor for 30 tasks would be a fault.
    assert!(ticks < 100 + u64::from(many()) / 3, "{ticks}");
}
