//! The borglet as masters meet it: its own binary, real sockets, real processes.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test, and the panic says where")]

mod cell;
#[path = "daemon/resources.rs"]
mod resources;
#[path = "daemon/survival.rs"]
mod survival;

use borg_proto::poll::{FENCE_AFTER, Fence, PollRefusal, REPLACE_AFTER, TaskStatus};
use borg_proto::rpc;
use borg_proto::spec::Volume;
use borg_proto::wire::pb;
use borg_proto::{FailureCause, Millis};
use cell::{Cell, Daemon, fence, shell, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;
use std::time::Duration;

fn is_alive(pid: u32) -> bool {
    kill(Pid::from_raw(pid.try_into().unwrap()), None).is_ok()
}

/// A batch task from the order to its end: every change is told at once, and its output is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_the_target_runs_and_its_end_is_reported() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let task =
        shell(1, 0, "echo hello $BORG_TASK of $BORG_TASKS on $BORG_MACHINE; sleep 0.3; exit 3");
    let first = master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    assert_eq!(first.obeyed, fence(1, 1));
    assert!(matches!(first.report.tasks[0].status, TaskStatus::Starting));
    assert_eq!(first.report.info.capacity.cpu_milli, 1_500, "as told on the command line");
    let up = master.held(fence(1, 1), first.version).await.unwrap();
    let TaskStatus::Up { pid, .. } = up.report.tasks[0].status else { panic!("{up:?}") };
    assert!(is_alive(pid));
    let over = master.held(fence(1, 1), up.version).await.unwrap();
    let TaskStatus::Ended { failure, .. } = &over.report.tasks[0].status else {
        panic!("{over:?}")
    };
    assert_eq!(failure, &Some(FailureCause::Exit { code: 3 }));
    assert_eq!(master.log(&task, false).await.unwrap(), "hello 0 of 1 on m1\n");
    let empty = master.poll(fence(1, 2), Some(&[])).await.unwrap();
    assert!(empty.report.tasks.is_empty());
}

/// An old leader or an old division of the machines can do nothing, before and after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_order_is_refused_even_by_the_next_process() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let newest = Fence { epoch: 1, term: 7, session: 3, generation: 1 };
    master.poll(newest, Some(&[])).await.unwrap();
    let old = Fence { term: 6, session: 9, generation: 9, ..newest };
    let refused = master.poll(old, Some(&[])).await.unwrap_err();
    assert_eq!(rpc::refusal_of(&refused), Some(PollRefusal::Stale { asked: old, obeyed: newest }));
    daemon.kill();
    daemon.restart();
    let mut master = daemon.master(&cell, "master/1");
    let refused = master.poll(old, Some(&[])).await.unwrap_err();
    assert!(matches!(rpc::refusal_of(&refused), Some(PollRefusal::Stale { .. })), "{refused:?}");
    let missing = master.poll(newest, None).await.unwrap_err();
    assert_eq!(rpc::refusal_of(&missing), Some(PollRefusal::TargetMissing { asked: newest }));
}

/// Tasks do not notice the death of their borglet, and the next one misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_live_on_when_the_borglet_is_killed_and_no_end_is_lost() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let (long, short) = (shell(1, 0, "sleep 1000"), shell(1, 1, "sleep 1; exit 7"));
    master.poll(fence(1, 1), Some(&[&long, &short])).await.unwrap();
    let before = master
        .until(fence(1, 1), |report| report.iter().all(|task| cell::pid(task).is_some()))
        .await;
    let pid = cell::pid(&before[0]).unwrap();
    daemon.kill();
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert!(is_alive(pid), "the task died with its borglet");
    daemon.restart();
    let mut master = daemon.master(&cell, "master/1");
    let after = master.poll(fence(1, 2), Some(&[&long, &short])).await.unwrap().report.tasks;
    assert_eq!(after[0].status, before[0].status, "another process, or another start");
    let TaskStatus::Ended { failure, .. } = &after[1].status else { panic!("{after:?}") };
    assert_eq!(failure, &Some(FailureCause::Exit { code: 7 }));
    // An adopted task obeys like any other.
    master.poll(fence(1, 3), Some(&[])).await.unwrap();
    master.until(fence(1, 3), <[_]>::is_empty).await;
    within(Duration::from_secs(5), || !is_alive(pid)).await;
}

/// Stopping a borglet is not stopping its tasks; `destroy` is.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_a_stop_and_nothing_survives_destruction() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let task = shell(1, 0, "trap '' TERM; while :; do sleep 1; done");
    master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    let up = master.until(fence(1, 1), |report| cell::pid(&report[0]).is_some()).await;
    let pid = cell::pid(&up[0]).unwrap();
    assert!(borglet::destroy(daemon.dir()).await.unwrap_err().to_string().contains("in use"));
    assert!(daemon.terminate().success());
    assert!(is_alive(pid));
    borglet::destroy(daemon.dir()).await.unwrap();
    assert!(!is_alive(pid));
}

/// A task that ignores SIGTERM is killed when its grace is over, with all of its processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_will_not_end_is_killed_after_its_grace() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let mut task = shell(1, 0, "trap '' TERM; sleep 1000 & while :; do sleep 1; done");
    cell::change(&mut task, |spec| spec.grace_ms = Millis(300));
    master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    let up = master.until(fence(1, 1), |report| cell::pid(&report[0]).is_some()).await;
    let stopping = master.poll(fence(1, 2), Some(&[])).await.unwrap();
    assert_eq!(stopping.report.tasks[0].status, TaskStatus::Stopping);
    master.until(fence(1, 2), <[_]>::is_empty).await;
    assert!(!is_alive(cell::pid(&up[0]).unwrap()));
}

/// The same where there are no cgroups and namespaces, or nobody may use them.
#[tokio::test(flavor = "multi_thread")]
async fn without_isolation_tasks_run_and_end_and_the_machine_says_what_is_missing() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &["--isolation", "none"]);
    let mut master = daemon.master(&cell, "master/1");
    let stubborn = shell(1, 0, "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000");
    let long = shell(1, 1, "sleep 1000");
    let first = master.poll(fence(1, 1), Some(&[&stubborn, &long])).await.unwrap();
    let missing = first.report.info.missing_isolation.join("; ");
    assert!(
        missing.contains("limits are not enforced") && missing.contains("process table"),
        "{missing}"
    );
    let before = master
        .until(fence(1, 1), |report| report.iter().all(|task| cell::pid(task).is_some()))
        .await;
    daemon.kill();
    daemon.restart();
    let mut master = daemon.master(&cell, "master/1");
    let after = master.poll(fence(1, 2), Some(&[&stubborn, &long])).await.unwrap().report.tasks;
    assert_eq!(after[1].status, before[1].status);
    let child: u32 = master.log(&stubborn, false).await.unwrap().trim().parse().unwrap();
    assert!(is_alive(child));
    master.poll(fence(1, 3), Some(&[&long])).await.unwrap();
    master.until(fence(1, 3), |report| report.len() == 1).await;
    within(Duration::from_secs(5), || {
        !is_alive(cell::pid(&before[0]).unwrap()) && !is_alive(child)
    })
    .await;
    assert!(is_alive(cell::pid(&before[1]).unwrap()));
}

/// Memory over the limit ends the task and the report says so; usage is measured.
#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_usage_is_reported() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let hog = shell(1, 0, "x=a; while :; do x=$x$x; done");
    let mut busy = shell(1, 1, "while :; do :; done");
    cell::change(&mut busy, |spec| spec.cpu_cap_milli = Some(200));
    let first = master.poll(fence(1, 1), Some(&[&hog, &busy])).await.unwrap();
    let missing = &first.report.info.missing_isolation;
    if !missing.is_empty() {
        assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "{missing:?}");
        eprintln!("skipped: {missing:?}");
        return;
    }
    let over =
        |task: &borg_proto::poll::TaskReport| matches!(task.status, TaskStatus::Ended { .. });
    let report = master.until(fence(1, 1), |report| over(&report[0])).await;
    let cause = report[0].last_failure.clone().unwrap();
    assert!(
        matches!(cause, FailureCause::OutOfMemory { limit_bytes: 67_108_864, .. }),
        "{cause:?}"
    );
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let usage = master.poll(fence(1, 1), None).await.unwrap().report.tasks[1].usage;
    assert!((100..=300).contains(&usage.cpu_milli), "a cap of 200, used {usage:?}");
    assert!(usage.ram_bytes > 0 && usage.threads > 0, "{usage:?}");
}

/// A service that ends is started again on the machine, and its log goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_started_again_and_its_log_goes_on() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let mut task = shell(1, 0, "echo run; [ -e gone ] || sleep 0.1");
    task.restart = true;
    master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    let report = master.until(fence(1, 1), |report| report[0].restarts == 1).await;
    assert_eq!(report[0].last_failure, Some(FailureCause::Exit { code: 0 }));
    master
        .until(fence(1, 1), |report| matches!(report[0].status, TaskStatus::BackOff { .. }))
        .await;
    assert_eq!(master.log(&task, false).await.unwrap(), "run\nrun\n");
    let tail = master.tail(&task, 6).await.unwrap();
    assert_eq!(tail, "n\nrun\n");
}

/// What can never start says why, in words for the job's owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_fails_with_a_clear_cause() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &["--volume", "/usr/share:ro"]);
    let mut master = daemon.master(&cell, "master/1");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let [mut missing, mut volume, mut busy] = [0, 1, 2].map(|index| shell(1, index, "true"));
    cell::change(&mut missing, |spec| spec.command = vec!["no-such-program".into()]);
    cell::change(&mut volume, |spec| {
        spec.volumes = vec![Volume { path: "/etc".into(), writable: false }]
    });
    cell::change(&mut busy, |spec| spec.ports = vec!["http".parse().unwrap()]);
    busy.ports = vec![port];
    let all = [&missing, &volume, &busy];
    master.poll(fence(1, 1), Some(&all)).await.unwrap();
    let over = |report: &[borg_proto::poll::TaskReport]| {
        report.iter().all(|task| matches!(task.status, TaskStatus::Ended { .. }))
    };
    let report = master.until(fence(1, 1), over).await;
    let why = |index: usize| report[index].last_failure.clone().unwrap().to_string();
    assert!(why(0).contains("program not found: no-such-program"), "{}", why(0));
    assert!(why(1).contains("volume \"/etc\" is not allowed on this machine"), "{}", why(1));
    assert_eq!(why(2), format!("port {port} is taken on the machine"));
}

/// Only masters of the borglet's own cell are heard.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_masters_of_the_own_cell_is_obeyed() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    for (role, code) in [
        ("user/admin", tonic::Code::PermissionDenied),
        ("borglet/m2", tonic::Code::PermissionDenied),
    ] {
        let mut caller = daemon.master(&cell, role);
        let refused = caller.poll(fence(1, 1), Some(&[])).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        let refused = caller.log(&shell(1, 0, "true"), false).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    // Another cell whose name is not even different: its CA is.
    let stranger = Cell::new();
    let mut caller = daemon.master(&stranger, "master/1");
    assert!(caller.poll(fence(1, 1), Some(&[])).await.is_err());
    // A certificate of our CA that names another cell.
    let mut caller = daemon.master_named(&cell, "borg://other/master/1");
    let refused = caller.poll(fence(1, 1), Some(&[])).await.unwrap_err();
    assert_eq!(refused.message(), "certificate for cell other, this is cell lab");
    // A master of ours that means another machine.
    let mut master = daemon.master(&cell, "master/1");
    master.machine = "m2".parse().unwrap();
    let refused = master.poll(fence(1, 1), Some(&[])).await.unwrap_err();
    assert_eq!(refused.message(), "this is machine m1, asked was m2");
    master.machine = "m1".parse().unwrap();
    let missing = master.poll(fence(1, 1), None).await.unwrap_err();
    assert!(
        matches!(rpc::refusal_of(&missing), Some(PollRefusal::TargetMissing { .. })),
        "something was obeyed"
    );
}

/// One directory, one machine, one process.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_or_of_another_machine_is_refused() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let (ok, error) = daemon.second(&cell.credentials("borg://lab/borglet/m1"));
    assert!(!ok && error.contains("in use by another borglet"), "{error}");
    daemon.terminate();
    let (ok, error) = daemon.second(&cell.credentials("borg://lab/borglet/m2"));
    assert!(!ok && error.contains("belongs to machine lab/m1, this is machine lab/m2"), "{error}");
    let (ok, error) = daemon.second(&cell.credentials("borg://lab/user/ann"));
    assert!(!ok && error.contains("a borglet needs borg://CELL/borglet/MACHINE"), "{error}");
}

/// What a monitoring system and a person with a browser see.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_are_served_in_plain_http() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    master.poll(fence(1, 1), Some(&[])).await.unwrap();
    assert!(daemon.get("/healthz").await.ends_with("ok\n"));
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.contains("\nborglet_polls_total 1\n"), "{metrics}");
    for line in
        metrics.lines().filter(|line| line.starts_with("# TYPE") && line.ends_with(" counter"))
    {
        assert!(line.contains("_total counter"), "{line}");
    }
}

/// The machine page: one look tells what runs here and what it uses.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_machine_shows_its_tasks_and_metrics_have_a_series_for_each() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &["--attribute", "rack=<r1>"]);
    let mut master = daemon.master(&cell, "master/1");
    let task = shell(1, 0, "sleep 1000");
    master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    let up = |report: &[borg_proto::poll::TaskReport]| cell::pid(&report[0]).is_some();
    master.until(fence(1, 1), up).await;
    let html = daemon.get("/tasks").await;
    assert!(html.contains("<td>ann/job/0 <small>1</small></td>"), "{html}");
    assert!(html.contains("&lt;r1&gt;") && html.contains("content-security-policy"), "{html}");
    let body = |answer: String| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let json: serde_json::Value =
        serde_json::from_str(&body(daemon.get("/tasks.json").await)).unwrap();
    assert_eq!(json["tasks"][0]["state"], "up");
    assert_eq!(json["tasks"][0]["ram_limit_bytes"], 64 << 20);
    assert!(json["attributes"]["cpus"].is_string(), "{json}");
    let series = "borglet_task_up{cell=\"lab\",user=\"ann\",job=\"job\",index=\"0\"} 1\n";
    let metrics = body(daemon.get("/metrics").await);
    assert!(metrics.contains(series), "{metrics}");
    promtool(&metrics);

    // The next process knows its name before any master comes, and nothing is left once it is gone.
    daemon.kill();
    daemon.restart();
    let metrics = body(daemon.get("/metrics").await);
    assert!(metrics.contains(series) && metrics.contains("cpu_limit"), "{metrics}");
    let mut master = daemon.master(&cell, "master/1");
    master.poll(fence(1, 2), Some(&[])).await.unwrap();
    master.until(fence(1, 2), <[_]>::is_empty).await;
    assert!(!daemon.get("/metrics").await.contains("borglet_task_"), "only of live tasks");
}

/// What monitoring systems refuse, `promtool` names; where it is not installed nothing is checked.
#[expect(clippy::print_stderr, reason = "a skipped check says why")]
fn promtool(metrics: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else { return eprintln!("skipped: no promtool") };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.trim().is_empty(), "{said}\n{metrics}");
}

/// What a load balancer or `grpcurl` asks first.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_over_grpc_to_anyone_of_the_cell() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let user = daemon.master(&cell, "user/ann");
    let mut client = tonic_health::pb::health_client::HealthClient::new(user.channel.clone());
    let service = "borg.v1.Borglet".to_owned();
    let answer = client.check(tonic_health::pb::HealthCheckRequest { service }).await.unwrap();
    assert_eq!(
        answer.into_inner().status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
}

/// A reader that follows sees output as it comes and the end of the stream at the end of the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_ends_with_its_task() {
    let cell = Cell::new();
    let daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let task = shell(1, 0, "for i in 1 2 3; do echo $i; sleep 0.2; done; echo end >&2");
    master.poll(fence(1, 1), Some(&[&task])).await.unwrap();
    assert_eq!(master.log(&task, true).await.unwrap(), "1\n2\n3\n");
    let mut errors = master.open_log(&task, pb::LogStream::Stderr, false, 0).await.unwrap();
    assert_eq!(errors.message().await.unwrap().unwrap().data, b"end\n");
    let unknown = master.log(&shell(9, 9, "true"), false).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

/// SIGTERM is part of the contract: the daemon ends with success.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_is_not_needed() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let first = master.poll(fence(1, 1), Some(&[])).await.unwrap();
    // A held answer does not delay the end.
    let held = tokio::spawn(async move { master.held(fence(1, 1), first.version).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert!(held.await.unwrap().is_err());
}

/// I7, the point of it all: the borglet is dead, nobody polls, and the task is gone before any
/// master may place it again. Another task beside it lives on. Takes as long as a lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_task_ends_with_its_lease_although_its_borglet_is_dead() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    // It ignores SIGTERM, and so does its child: only the kill at the end counts.
    let script = "trap '' TERM; (trap '' TERM; exec sleep 999) & echo $!; wait; sleep 999";
    let mut task = shell(1, 0, script);
    (task.exclusive, task.restart) = (true, true);
    let other = shell(2, 0, "sleep 999");
    let targets = [&task, &other];
    master.poll(fence(1, 1), Some(&targets)).await.unwrap();
    let waits = master.poll(fence(1, 1), None).await.unwrap();
    assert!(matches!(waits.report.tasks[0].status, TaskStatus::Starting));
    // The masters heard that answer.
    let leased = tokio::time::Instant::now();
    master.lease = master.answered;
    master.poll(fence(1, 1), None).await.unwrap();
    let up = master
        .until(fence(1, 1), |report| report.iter().all(|task| cell::pid(task).is_some()))
        .await;
    let [pid, other_pid] = [&up[0], &up[1]].map(|task| cell::pid(task).unwrap());
    daemon.kill();
    within_patience(FENCE_AFTER.0 + 2_000, || !is_alive(pid)).await;
    let lived = leased.elapsed();
    assert!(lived < Duration::from_millis(REPLACE_AFTER.0 - 3_000), "{lived:?}");
    assert!(lived > Duration::from_millis(FENCE_AFTER.0 - 1_500), "{lived:?}");
    assert!(is_alive(other_pid), "who is not exclusive lives on");

    daemon.restart();
    let mut master = daemon.master(&cell, "master/1");
    let found = master.poll(fence(1, 2), Some(&targets)).await.unwrap();
    let fenced = Some(FailureCause::Fenced);
    assert!(
        matches!(&found.report.tasks[0].status, TaskStatus::Ended { failure, .. } if *failure == fenced),
        "{found:?}"
    );
    master.lease = master.answered;
    let still = master.poll(fence(1, 2), None).await.unwrap();
    assert!(matches!(still.report.tasks[0].status, TaskStatus::Ended { .. }), "not started again");
}

/// A restarted borglet has not forgotten how long it was alone: it cannot make it longer by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_borglet_extends_no_lease_and_a_poll_does() {
    let cell = Cell::new();
    let mut daemon = Daemon::start(&cell, &[]);
    let mut master = daemon.master(&cell, "master/1");
    let [mut kept, mut lost] = [0, 1].map(|index| shell(1, index, "sleep 999"));
    (kept.exclusive, lost.exclusive) = (true, true);
    let both = [&kept, &lost];
    master.poll(fence(1, 1), Some(&both)).await.unwrap();
    master.lease = master.answered;
    master.poll(fence(1, 1), None).await.unwrap();
    master.until(fence(1, 1), |report| report.iter().all(|t| cell::pid(t).is_some())).await;
    let before = std::fs::read_to_string(daemon.dir().join("lease")).unwrap();
    daemon.kill();
    daemon.restart();
    let mut next = daemon.master(&cell, "master/1");
    // A stamp of the process before is worth nothing to this one.
    next.lease = master.answered;
    next.poll(fence(1, 2), Some(&both)).await.unwrap();
    let now = || std::fs::read_to_string(daemon.dir().join("lease")).unwrap();
    assert_eq!(now(), before);
    next.lease = next.answered;
    let polled = next.poll(fence(1, 2), None).await.unwrap();
    assert!(polled.report.tasks.iter().all(|task| cell::pid(task).is_some()));
    assert!(now()[..16] > before[..16], "{} after {before}", now());
}

async fn within_patience(ms: u64, holds: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_millis(ms);
    while !holds() && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(holds(), "not within {ms} ms");
}
