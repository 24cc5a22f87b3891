//! Limits that only the borglet holds, a machine that is too small, and the health of tasks.

use super::cell::{self, Cell, Daemon, Master, fence, shell};
use borg_proto::health::{Health, HealthCheck, Probe};
use borg_proto::poll::{PollAnswer, TargetTask, TaskReport, TaskStatus};
use borg_proto::spec::MemoryLimit;
use borg_proto::task::Shortage;
use borg_proto::{AppClass, FailureCause, Millis, Priority};
use std::net::TcpListener;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Orders the tasks; `None`, with the reason printed, where the machine lacks isolation.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
async fn order(master: &mut Master, tasks: &[&TargetTask]) -> Option<PollAnswer> {
    let answer = master.poll(fence(1, 1), Some(tasks)).await.unwrap();
    let missing = &answer.report.info.missing_isolation;
    if missing.is_empty() {
        return Some(answer);
    }
    assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "{missing:?}");
    eprintln!("skipped: {missing:?}");
    None
}

fn is_over(task: &TaskReport) -> bool {
    matches!(task.status, TaskStatus::Ended { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_writes_more_than_its_disk_limit_is_killed_with_the_figures() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let mut writer = shell(1, 0, "head -c 30M /dev/zero > $HOME/big; sleep 1000");
    // Open without a name, where no walk over files finds it.
    let mut hider =
        shell(1, 1, "exec 3> $HOME/x; rm $HOME/x; head -c 30M /dev/zero >&3; sleep 1000");
    let mut modest = shell(1, 2, "head -c 5M /dev/zero > $HOME/small; sleep 1000");
    for task in [&mut writer, &mut hider, &mut modest] {
        cell::change(task, |spec| spec.limit.disk_bytes = 10 * MIB);
    }
    if order(&mut master, &[&writer, &hider, &modest]).await.is_none() {
        return;
    }
    let report =
        master.until(fence(1, 1), |report| is_over(&report[0]) && is_over(&report[1])).await;
    for task in &report[..2] {
        let Some(FailureCause::DiskLimit { limit_bytes, used_bytes }) = task.last_failure else {
            panic!("{task:?}")
        };
        assert_eq!(limit_bytes, 10 * MIB);
        assert!(used_bytes >= 30 * MIB, "{used_bytes}");
    }
    assert!(cell::pid(&report[2]).is_some(), "{:?}", report[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_the_disk_limit_is_found_out_though_nothing_runs_after_it() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let mut writer = shell(1, 0, "sleep 3; head -c 30M /dev/zero > $HOME/big; sleep 1000");
    cell::change(&mut writer, |spec| spec.limit.disk_bytes = 10 * MIB);
    if order(&mut master, &[&writer]).await.is_none() {
        return;
    }
    let over = master.until(fence(1, 1), |report| is_over(&report[0]));
    let report = tokio::time::timeout(Duration::from_secs(20), over).await.expect("found out late");
    let cause = report[0].last_failure.as_ref();
    assert!(matches!(cause, Some(FailureCause::DiskLimit { .. })), "{report:?}");
}

/// A machine of 160 MiB for tasks: what is over its limit goes, though its priority is the highest.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_machine_who_is_over_its_limit_goes_and_the_others_stay() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &["--ram-bytes", "167772160"]);
    let mut master = daemon.master(&cell, "master/1");
    let hold = |mib: u32| format!("x=$(head -c {}M /dev/zero | tr '\\0' x); sleep 1000", mib);
    let mut low = shell(1, 0, &hold(20));
    low.priority = Priority::new(0).unwrap();
    cell::change(&mut low, |spec| spec.limit.ram_bytes = 128 * MIB);
    let mut over = shell(1, 1, &hold(60));
    over.priority = Priority::new(200).unwrap();
    cell::change(&mut over, |spec| {
        (spec.limit.ram_bytes, spec.memory) = (16 * MIB, MemoryLimit::Soft);
    });
    let mut late = shell(1, 2, &format!("sleep 3; {}", hold(100)));
    cell::change(&mut late, |spec| spec.limit.ram_bytes = 512 * MIB);
    if order(&mut master, &[&low, &over, &late]).await.is_none() {
        return;
    }
    let report = master.until(fence(1, 1), |report| is_over(&report[1])).await;
    let Some(FailureCause::Short { of, limit_bytes, used_bytes }) = &report[1].last_failure else {
        panic!("{report:?}")
    };
    assert_eq!((*of, *limit_bytes), (Shortage::Memory, 16 * MIB));
    assert!(*used_bytes > 16 * MIB, "{used_bytes}");
    assert!(cell::pid(&report[0]).is_some(), "the lowest priority, within its limit: {report:?}");
}

/// By weight the batch task would get next to nothing, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_spinning_service_does_not_starve_batch() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let spin = "for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait";
    let (mut service, mut batch) = (shell(1, 0, spin), shell(2, 0, spin));
    (service.restart, service.appclass) = (true, AppClass::LatencySensitive);
    service.priority = Priority::new(200).unwrap();
    cell::change(&mut service, |spec| spec.limit.cpu_milli = 1_000);
    batch.priority = Priority::new(0).unwrap();
    if order(&mut master, &[&service, &batch]).await.is_none() {
        return;
    }
    let up = |report: &[TaskReport]| report.iter().all(|task| cell::pid(task).is_some());
    let before = master.until(fence(1, 1), up).await;
    // Usage is no news, so it is asked for again and again.
    let fed = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let report = master.poll(fence(1, 1), None).await.unwrap().report;
            if report.tasks[1].usage.cpu_milli >= 60 {
                return report.tasks;
            }
        }
    };
    let after = tokio::time::timeout(Duration::from_secs(60), fed).await.expect("batch starves");
    assert_eq!(after[0].status, before[0].status, "nobody is killed for it");
    assert!(after[0].usage.cpu_milli > after[1].usage.cpu_milli, "and the service goes first");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn health(report: &[TaskReport]) -> Health {
    report[0].health
}

/// The test itself listens on the task's port: what the machine asks is the port.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_becomes_healthy_and_is_started_again_when_it_does_not_answer_any_more() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let port = free_port();
    let mut service = shell(1, 0, "sleep 1000");
    (service.restart, service.ports) = (true, vec![port]);
    cell::change(&mut service, |spec| {
        let name: borg_proto::names::PortName = "http".parse().unwrap();
        let mut check = HealthCheck::new(Probe::Tcp { port: name.clone() });
        (check.interval_ms, check.timeout_ms) = (Millis(100), Millis(1_000));
        (check.failures, check.grace_ms) = (2, Millis(60_000));
        (spec.ports, spec.health) = (vec![name], Some(check));
    });
    let first = master.poll(fence(1, 1), Some(&[&service])).await.unwrap();
    assert_eq!(health(&first.report.tasks), Health::Unchecked);
    let up = master.until(fence(1, 1), |report| cell::pid(&report[0]).is_some()).await;
    assert_eq!(health(&up), Health::Starting, "nobody listens yet, and it has a minute");
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let well = master.until(fence(1, 1), |report| health(report) == Health::Healthy).await;
    assert_eq!(well[0].status, up[0].status, "the same process");
    drop(listener);
    master.until(fence(1, 1), |report| health(report) == Health::Unhealthy).await;
    let again = |report: &[TaskReport]| {
        report[0].restarts == 1 && matches!(report[0].status, TaskStatus::Up { .. })
    };
    let again = master.until(fence(1, 1), again).await;
    let cause = again[0].last_failure.clone().unwrap().to_string();
    assert!(
        cause.starts_with(&format!("unhealthy: tcp http: connect to port {port}: ")),
        "{cause}"
    );
    assert_eq!(health(&again), Health::Starting);
}
