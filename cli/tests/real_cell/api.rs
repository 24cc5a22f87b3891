//! The API as another client sees it: health, reflection, events, reads, logs, metrics.

use crate::cell::{Cell, Client, borgctl, job, request, run, skipped, within};
use borg_proto::wire::pb;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use tonic::{Request, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;

#[tokio::test]
async fn every_master_says_that_it_serves_and_describes_its_services() {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let cell = Cell::shared();
    let ann = cell.credentials("user", "ann");
    for master in 0..3 {
        let channel = cell.channel(master, &ann);
        let check = HealthCheckRequest { service: "borg.v1.Borgmaster".into() };
        let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
        let ask = |question| reflection::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question),
        };
        let questions = tokio_stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("borg.v1.Borgmaster.SubmitJob".into())),
        ]);
        let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = first else { panic!("{first:?}") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["borg.v1.Borgmaster", "borg.v1.Peer", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let second = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(second, Some(MessageResponse::FileDescriptorResponse(_))), "{second:?}");
    }
}

/// Events until one of a kind.
async fn events_until(events: &mut Streaming<pb::Event>, kind: &str) -> Vec<pb::Event> {
    let mut seen: Vec<pb::Event> = Vec::new();
    while seen.last().is_none_or(|event| event.kind != kind) {
        let next = tokio::time::timeout(Duration::from_secs(20), events.message()).await;
        let event = next.unwrap_or_else(|_| panic!("no {kind} after {seen:#?}"));
        seen.push(event.unwrap().expect("the stream goes on"));
    }
    seen
}

#[tokio::test]
async fn watch_tells_what_happened_to_a_job_in_order_and_goes_on_after_an_index() {
    let cell = Cell::shared();
    let mut client = cell.admin(0);
    let watch = |after_index| pb::WatchRequest {
        after_index,
        job: "admin/watched".into(),
        progress: false,
    };
    let mut live = client.watch(watch(0)).await.unwrap().into_inner();
    client.submit_job(request(job("watched", "batch", "sleep 0.5"))).await.unwrap();
    let seen = events_until(&mut live, "job.finished").await;
    assert!(seen.is_sorted_by_key(|event| event.index), "{seen:#?}");
    let kinds: Vec<_> = seen.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds.first(), Some(&"job.submitted"), "{kinds:?}");
    assert!(kinds.contains(&"task.up") && kinds.contains(&"task.finished"), "{kinds:?}");
    assert!(seen.iter().all(|event| event.subject.starts_with("admin/watched")), "{seen:#?}");
    // Whoever was away asks for what he missed, at any master, and gets the same.
    for master in 0..3 {
        let mut again = cell.admin(master).watch(watch(seen[0].index)).await.unwrap().into_inner();
        let missed = events_until(&mut again, "job.finished").await;
        let rest: Vec<_> = seen.iter().filter(|event| event.index > seen[0].index).collect();
        assert_eq!(missed.iter().collect::<Vec<_>>(), rest, "master {master}");
    }
}

async fn job_at(client: &mut Client, job: &str, consistent: bool) -> pb::JobSummary {
    let mut get = Request::new(pb::GetJobRequest { job: job.into() });
    if consistent {
        get.metadata_mut().insert("borg-consistent", "1".parse().unwrap());
    }
    client.get_job(get).await.unwrap().into_inner().job.unwrap()
}

#[tokio::test]
async fn a_follower_passes_changes_on_and_answers_reads_and_a_consistent_read_is_never_old() {
    let cell = Cell::shared();
    let leader = cell.leader();
    let (mut follower, mut other) = (cell.admin((leader + 1) % 3), cell.admin((leader + 2) % 3));
    for round in 0..5 {
        let name = format!("read-{round}");
        let submit = request(job(&name, "service", "exec sleep 1000"));
        let answer = follower.submit_job(submit).await.unwrap().into_inner();
        // The other follower has it, whether or not it was told yet.
        assert_eq!(job_at(&mut other, &answer.job, true).await.job_id, answer.job_id);
        let kill = pb::KillRequest { job: answer.job.clone(), tasks: vec![], request_id: name };
        follower.kill(kill).await.unwrap();
        let killed = job_at(&mut other, &answer.job, true).await;
        assert_eq!(killed.state(), pb::JobState::Killed, "round {round}");
    }
    let list = follower.list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner();
    let read = list.read.unwrap();
    assert!(read.index > 0 && read.age_ms < 5_000, "{read:?}");
    assert_eq!(usize::try_from(read.replica).unwrap(), (leader + 1) % 3 + 1);
    let masters = cell.json(&["masters"]);
    assert_eq!(masters.as_array().unwrap().iter().filter(|m| m["leader"] == true).count(), 1);
}

#[test]
fn logs_are_followed_while_a_task_writes_and_kept_when_it_is_over() {
    let cell = Cell::shared();
    let script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; echo bad >&2";
    let name = cell.submit(&job("talks", "batch", script));
    cell.until(&name, |status| status["up"] == 1 || status["finished"] == 1);
    let task = format!("{name}/0");
    let mut follow = borgctl()
        .args(["logs", "-f", &task])
        .env("BORG_CELL_DIR", cell.dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(follow.stdout.take().unwrap());
    let lines: Vec<String> = out.lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["line 1", "line 2", "line 3"]);
    assert!(follow.wait().unwrap().success(), "it ends with the task");
    cell.until(&name, |status| status["state"] == "finished");
    assert_eq!(cell.borgctl(&["logs", &task]).ok(), "line 1\nline 2\nline 3\n");
    assert_eq!(cell.borgctl(&["logs", "--tail", "1", &task]).ok(), "line 3\n");
    assert_eq!(cell.borgctl(&["logs", "--stderr", &task]).ok(), "bad\n");
    // Of a task that was killed.
    let mut killed = job("killed", "service", "echo last words; exec sleep 1000");
    killed["tasks"] = json!(2);
    let killed = cell.submit(&killed);
    let task = format!("{killed}/1");
    cell.until_up(&killed, 2);
    within("it has spoken", || cell.borgctl(&["logs", &task]).ok() == "last words\n");
    cell.borgctl(&["kill", &killed]).ok();
    cell.until(&killed, |status| status["state"] == "killed");
    assert_eq!(cell.borgctl(&["logs", &task]).ok(), "last words\n");
    let said = cell.borgctl(&["logs", &format!("{killed}/2")]).failed(4);
    assert!(said.contains("has tasks 0 to 1, not 2"), "{said}");
}

/// Fetches a page of a daemon's plain HTTP.
pub(crate) fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn masters_and_borglets_say_that_they_are_well() {
    let cell = Cell::shared();
    for daemon in cell.record().daemons() {
        let (head, body) = get(&daemon.metrics, "/healthz");
        assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{}: {head}", daemon.name);
        let (head, _) = get(&daemon.metrics, "/nothing");
        assert!(head.starts_with("HTTP/1.1 404"), "{}: {head}", daemon.name);
    }
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    let cell = Cell::shared();
    if Command::new("promtool").arg("--version").output().is_err() {
        return skipped("promtool is not installed");
    }
    // Something to count.
    let done = cell.submit(&job("counted", "batch", "true"));
    cell.until(&done, |status| status["state"] == "finished");
    for daemon in cell.record().daemons() {
        let (head, metrics) = get(&daemon.metrics, "/metrics");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(metrics.lines().count() > 10, "{metrics}");
        let checked = run(Command::new("promtool").args(["check", "metrics"]), &metrics);
        assert_eq!(checked.code, 0, "{}: {}{}", daemon.name, checked.out, checked.err);
        assert_eq!(format!("{}{}", checked.out, checked.err), "", "{}", daemon.name);
    }
}
