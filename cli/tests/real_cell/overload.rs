//! More calls than the masters can take: who is turned away, and what goes on regardless.

use crate::cell::{Cell, Client, Killed, job, now, request};
use borg_proto::rpc::retry_after;
use borg_proto::wire::pb;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Calls of users that the masters of this cell let wait.
const WAITING_CALLS: &str = "100";
/// Calls that the user who asks for too much always has under way.
const CALLS: usize = 300;
/// How long it goes on.
const STORM: Duration = Duration::from_secs(3);
/// Storms at the most.
const ROUNDS: usize = 5;

/// How the storm's calls went.
#[derive(Debug, Default)]
struct Went {
    accepted: usize,
    shed: usize,
    silent: usize,
    /// Jobs of the other user; none was turned away.
    passed: usize,
}

fn is_silence(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// Names of a process's threads, and how much nicer than its first one they are.
fn niceness(pid: u32) -> BTreeSet<(String, i64)> {
    let of = |stat: String| {
        // The name is in brackets and may contain some; niceness is field 19, the 17th after it.
        let (before, after) = stat.rsplit_once(')').unwrap();
        let name = before.split_once('(').unwrap().1.to_owned();
        (name, after.split_whitespace().nth(16).unwrap().parse::<i64>().unwrap())
    };
    let (_, first) = of(fs::read_to_string(format!("/proc/{pid}/stat")).unwrap());
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats =
        threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).ok());
    stats.map(of).map(|(name, nice)| (name, nice - first)).collect()
}

#[test]
fn threads_for_users_and_polls_give_way_to_those_that_keep_the_cell() {
    let cell = Cell::up(1, 0);
    // A backup needs a thread for what takes long, which a thread that gives way starts.
    let file = cell.dir().join("backup").display().to_string();
    cell.borgctl(&["backup", "save", &file]).ok();
    let master = cell.record().masters[0].process.unwrap();
    let threads = niceness(master.pid);
    let expected =
        [("driver", 0), ("lifeline", 0), ("scheduler", 0), ("polls", 5), ("tokio-rt-worker", 5)];
    for (name, nicer) in expected {
        let found: Vec<i64> =
            threads.iter().filter(|(thread, _)| thread == name).map(|(_, nice)| *nice).collect();
        assert_eq!(found, [nicer], "{name} of {threads:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_one_users_submits_is_shed_and_everything_else_goes_on() {
    let cell = Cell::up(3, 2);
    let masters = &cell.record().masters;
    let mut victims: Vec<_> = masters.iter().map(Killed::of).collect();
    cell.kill(&victims);
    for victim in &mut victims {
        victim.args.extend(["--waiting-calls", WAITING_CALLS].map(str::to_owned));
    }
    cell.start_again(&victims);
    // A computer that is busy with other tests can lose a leader by itself; one storm in which
    // nothing happened says that storms are not the reason.
    let mut kept = false;
    for round in 0..ROUNDS {
        let leader = cell.leader();
        let term = terms(&cell);
        let went = storm(&cell, leader, round).await;
        assert!(
            went.passed > 0 && went.accepted > 0 && went.shed > 0,
            "there was no storm: {went:?}"
        );
        let machines = cell.json(&["machines"]);
        let machines = machines.as_array().unwrap();
        assert!(machines.iter().all(|machine| machine["state"] == "up"), "{machines:?}");
        kept = terms(&cell) == term;
        println!("the leader kept its term: {kept}; {went:?}");
        if kept {
            break;
        }
    }
    assert!(kept, "no leader kept its term through any of {ROUNDS} storms");
}

/// One storm at the leader, while another user submits a job after another at all masters.
async fn storm(cell: &Cell, leader: usize, round: usize) -> Went {
    let (storm, bob) = (cell.credentials("user", "storm"), cell.credentials("user", "bob"));
    let mut calm: Vec<_> = (0..3).map(|master| cell.client(master, &bob)).collect();
    for client in &mut calm {
        while client.list_jobs(pb::ListJobsRequest::default()).await.is_err() {}
    }
    let client = cell.client(leader, &storm);
    let until = now() + STORM;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLS {
        callers.spawn(call_until(until, client.clone(), format!("s-{round}-{caller}")));
    }
    let mut passed = 0;
    while now() < until {
        for client in &mut calm {
            let name = format!("calm-{round}-{passed}");
            let call = request(job(&name, "service", "sleep 1000"));
            let mut went = client.submit_job(call.clone()).await;
            while went.as_ref().is_err_and(is_silence) {
                went = client.submit_job(call.clone()).await;
            }
            // No patience here for being turned away.
            went.unwrap();
            passed += 1;
        }
    }
    let went = callers.join_all().await.into_iter();
    went.fold(Went { passed, ..Went::default() }, |sum, one| Went {
        accepted: sum.accepted + one.accepted,
        shed: sum.shed + one.shed,
        silent: sum.silent + one.silent,
        ..sum
    })
}

async fn call_until(until: Instant, mut client: Client, names: String) -> Went {
    let mut went = Went::default();
    while now() < until {
        let name = format!("{names}-{}", went.accepted + went.silent);
        let mut call = tonic::Request::new(request(job(&name, "batch", "true")));
        call.set_timeout(Duration::from_secs(20));
        match client.submit_job(call).await {
            Ok(_) => went.accepted += 1,
            // Tried again inside of the cell when leaders changed, after the cell had forgotten the
            // request: it keeps the last thousand of each user.
            Err(status) if status.code() == Code::AlreadyExists => went.accepted += 1,
            // A computer that is busy with the storm itself.
            Err(status) if is_silence(&status) => went.silent += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(retry_after(&status).is_some(), "{status:?}");
                assert!(status.message().contains("user storm"), "{status:?}");
                went.shed += 1;
                // Far sooner than it was told to.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    went
}

fn terms(cell: &Cell) -> Vec<Value> {
    let masters = cell.json(&["masters"]);
    masters.as_array().unwrap().iter().map(|master| master["term"].clone()).collect()
}
