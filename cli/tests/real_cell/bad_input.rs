//! Jobs that are wrong, impossible or unlucky: what the cell does with them, and what it says.

use crate::cell::{Cell, job, note, pids, request, within};
use borg_proto::wire::pb;
use serde_json::json;
use std::net::TcpListener;
use tonic::Code;

#[test]
fn a_job_that_fits_on_no_machine_is_accepted_with_a_warning_and_why_says_what_is_short() {
    let cell = Cell::shared();
    let mut huge = job("huge", "batch", "true");
    huge["task"]["limit"]["ram_bytes"] = json!(1_u64 << 45);
    let submitted = cell.borgctl_with(&["submit", "-"], &huge.to_string());
    assert!(submitted.err.contains("warning: no machine of the cell could run"), "{submitted:?}");
    assert_eq!(submitted.ok(), "admin/huge\n");
    let why = cell.json(&["why", "huge/0"]);
    assert_eq!((&why["phase"], &why["feasible"]), (&json!("pending"), &json!(0)));
    let reason = &why["rejections"][0];
    assert_eq!(reason["machines"], 2, "{why}");
    assert!(reason["reason"].as_str().unwrap().contains("memory"), "{why}");
    assert!(why["summary"].as_str().unwrap().contains("32 TiB"), "{why}");
    let change = why["advice"][0]["changes"][0].as_str().unwrap();
    assert!(change.ends_with("of memory instead of 32 TiB"), "{why}");
    assert_eq!(cell.status("huge")["state"], "pending");
    cell.borgctl(&["kill", "huge"]).ok();
    assert_eq!(cell.status("huge")["state"], "killed");
}

#[test]
fn a_job_that_needs_an_attribute_no_machine_has_stays_pending_and_why_names_it() {
    let cell = Cell::shared();
    let mut picky = job("picky", "batch", "true");
    picky["task"]["constraints"] =
        json!([{ "attribute": "gpu-kind", "op": "=", "values": ["none-such"] }]);
    cell.submit(&picky);
    let why = cell.json(&["why", "picky/0"]);
    assert!(why["rejections"][0]["reason"].as_str().unwrap().contains("gpu-kind"), "{why}");
    cell.borgctl(&["kill", "picky"]).ok();
}

#[test]
fn the_same_job_twice_is_refused_and_the_first_goes_on() {
    let cell = Cell::shared();
    let twice = job("twice", "service", "sleep 1000");
    let name = cell.submit(&twice);
    let before = cell.until_up(&name, 1);
    let refused = cell.borgctl_with(&["submit", "-"], &twice.to_string()).failed(5);
    assert!(refused.contains("admin/twice"), "{refused}");
    assert_eq!(pids(&cell.status(&name)), before);
    cell.borgctl(&["kill", "twice"]).ok();
    // One that is over is no obstacle.
    assert_eq!(cell.submit(&twice), name);
    cell.borgctl(&["kill", "twice"]).ok();
}

#[tokio::test]
async fn the_same_request_at_every_master_makes_one_job_and_the_same_answer() {
    let cell = Cell::shared();
    let request = request(job("once", "batch", "true"));
    let mut answers = Vec::new();
    for master in 0..3 {
        let answer = cell.admin(master).submit_job(request.clone()).await.unwrap().into_inner();
        answers.push((answer.job, answer.job_id));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // The same id for something else is a mistake of the client.
    let mut other = request.clone();
    other.spec.as_mut().unwrap().name = "once-more".into();
    let refused = cell.admin(0).submit_job(other).await.unwrap_err();
    assert!(refused.message().contains("request"), "{refused:?}");
    let list = pb::ListJobsRequest { all: true, ..Default::default() };
    let jobs = cell.admin(0).list_jobs(list).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.iter().filter(|job| job.job.starts_with("admin/once")).count(), 1);
}

#[tokio::test]
async fn what_no_client_of_ours_would_send_is_refused_with_the_name_of_the_field() {
    type Change = fn(&mut pb::JobSpec);
    let cell = Cell::shared();
    let good = request(job("never", "batch", "true"));
    let cases: [(Change, &str); 14] = [
        (|spec| spec.tasks = 0, "tasks: 0"),
        (|spec| spec.tasks = 1_000_000_000, "tasks: 1000000000"),
        (|spec| spec.kind = 77, "kind"),
        (|spec| spec.kind = 0, "kind"),
        (|spec| spec.task = None, "task"),
        (|spec| spec.task.as_mut().unwrap().command.clear(), "task.command"),
        (|spec| spec.task.as_mut().unwrap().limit = None, "task.limit"),
        (|spec| spec.task.as_mut().unwrap().limit.as_mut().unwrap().cpu_milli = 0, "cpu_milli"),
        (
            |spec| spec.task.as_mut().unwrap().limit.as_mut().unwrap().ram_bytes = u64::MAX,
            "ram_bytes",
        ),
        (|spec| spec.name = "a/b".into(), "a/b"),
        (|spec| spec.name = "..".into(), "name"),
        (|spec| spec.name = "größe".into(), "name"),
        (|spec| spec.name = "x".repeat(10 << 10), "name"),
        (|spec| spec.after = vec!["../../etc/passwd".into()], "after"),
    ];
    for (change, field) in cases {
        let mut bad = good.clone();
        change(bad.spec.as_mut().unwrap());
        let refused = cell.admin(1).submit_job(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        let text = refused.message();
        assert!(text.contains(field) && text.len() < 500, "{field}: {text}");
    }
    let mut nameless = good.clone();
    nameless.request_id.clear();
    let refused = cell.admin(1).submit_job(nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("request_id"), "{refused:?}");
    let refused = cell.admin(1).submit_job(pb::SubmitJobRequest::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "spec: nothing is given, but it is required")
    );
    for name in ["", "x", "a/b/c", "../x", "ann/ü", "ann/x\n"] {
        let request = pb::GetJobRequest { job: name.into() };
        let refused = cell.admin(1).get_job(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}: {refused:?}");
        let request = pb::KillRequest { job: name.into(), request_id: "r".into(), tasks: vec![] };
        let refused = cell.admin(1).kill(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}: {refused:?}");
    }
    cell.borgctl(&["status", "never"]).failed(4);
}

/// What the log could not hold must be refused by whichever master is asked, the leader too:
/// a committed entry that cannot be read stops every replica for good.
#[tokio::test]
async fn a_change_that_no_log_could_hold_is_refused_and_every_master_lives() {
    let cell = Cell::shared();
    for master in 0..3 {
        let mut admin = cell.admin(master);
        let kill = |request_id: &str, tasks| pb::KillRequest {
            job: "admin/none".into(),
            tasks,
            request_id: request_id.into(),
        };
        for bad in [kill("r", vec![100_000]), kill("a\nb", vec![]), kill("r", vec![0; 200_000])] {
            let refused = admin.kill(bad).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        }
        for address in ["nowhere", ":1", "x:0", "x:99999", "a b:1"] {
            let (name, request_id) = ("m-9".into(), "r".into());
            let bad = pb::AddMachineRequest { name, address: address.into(), request_id };
            let refused = admin.add_machine(bad).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{address}: {refused:?}");
        }
    }
    let masters = cell.json(&["masters"]);
    let masters = masters.as_array().unwrap();
    assert!(masters.iter().all(|master| master["reachable"] == true), "{masters:?}");
}

#[tokio::test]
async fn a_specification_over_a_mebibyte_is_refused_and_the_connection_lives() {
    let cell = Cell::shared();
    let mut client = cell.admin(2);
    let mut large = request(job("large", "batch", "true"));
    let task = large.spec.as_mut().unwrap().task.as_mut().unwrap();
    task.env = (0..20).map(|n| (format!("K{n}"), "x".repeat(60_000))).collect();
    let refused = client.submit_job(large.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("most is 1048576"), "{refused:?}");
    assert!(refused.message().contains("task.env has 12000"), "which field: {refused:?}");
    // Two mebibytes of environment, as a person would ask for them; and one value that is too long.
    let mut swollen = job("swollen", "batch", "true");
    let env = (0..32).map(|n| (format!("K{n}"), json!("x".repeat(64 << 10))));
    swollen["task"]["env"] = json!(env.collect::<serde_json::Map<_, _>>());
    let said = cell.borgctl_with(&["submit", "-"], &swollen.to_string()).failed(3);
    assert!(said.contains("configuration may have 1048576 bytes"), "{said}");
    swollen["task"]["env"] = json!({ "ONE": "x".repeat((64 << 10) + 1) });
    let said = cell.borgctl_with(&["submit", "-"], &swollen.to_string());
    assert!(said.code != 0 && said.err.contains("task.env.ONE"), "{said:?}");
    assert!(said.err.len() < 500, "the value is cut: {}", said.err.len());
    // More than a master takes in at all.
    let task = large.spec.as_mut().unwrap().task.as_mut().unwrap();
    task.command = vec!["x".repeat(5 << 20)];
    let mut wide = client.clone().max_encoding_message_size(64 << 20);
    let refused = wide.submit_job(large).await.unwrap_err();
    assert!([Code::ResourceExhausted, Code::OutOfRange].contains(&refused.code()), "{refused:?}");
    client.list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    cell.borgctl(&["status", "large"]).failed(4);
}

#[test]
fn a_program_that_does_not_exist_fails_the_job_and_status_says_which() {
    let cell = Cell::shared();
    let mut batch = job("nothing", "batch", "");
    batch["task"]["command"] = json!(["/no/such/program"]);
    batch["retries"] = json!(1);
    let name = cell.submit(&batch);
    let over = cell.until(&name, |status| status["state"] == "failed");
    assert!(note(&over).contains("program not found: /no/such/program"), "{over}");
    assert_eq!(over["task_list"][0]["failures"], 2, "one try and one more: {over}");
    let table = cell.borgctl(&["status", &name]).ok();
    assert!(table.contains("program not found: /no/such/program"), "{table}");
    let said = cell.borgctl(&["logs", &format!("{name}/0")]).failed(4);
    assert!(said.contains("has no output of admin/nothing/0"), "{said}");
}

#[test]
fn a_service_that_cannot_start_or_always_ends_backs_off_and_says_why() {
    let cell = Cell::shared();
    let mut service = job("nowhere", "service", "");
    service["task"]["command"] = json!(["no-such-program"]);
    let missing = cell.submit(&service);
    let loops = cell.submit(&job("loops", "service", "exit 3"));
    let waits = |status: &serde_json::Value| {
        status["task_list"][0]["phase"] == "back-off"
            || (status["task_list"][0]["phase"] == "pending" && !note(status).is_empty())
    };
    let seen = cell.until(&missing, waits);
    assert!(note(&seen).contains("program not found: no-such-program"), "{seen}");
    let seen = cell.until(&loops, waits);
    assert!(note(&seen).contains("exit code 3"), "{seen}");
    // With 1 s, 2 s, 4 s, ... between the tries, three seconds see no more than four of them.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let seen = cell.status(&loops);
    let tries = &seen["task_list"][0];
    let tries = tries["failures"].as_u64().unwrap() + tries["restarts"].as_u64().unwrap();
    assert!((2..=5).contains(&tries), "{tries} tries: {seen}");
    for job in [missing, loops] {
        cell.borgctl(&["kill", &job]).ok();
    }
}

#[test]
fn a_port_that_somebody_else_took_is_passed_over() {
    let cell = Cell::shared();
    // Nothing else in these tests asks for ports, so the first ones are handed out here.
    let mut taken = Vec::new();
    for borglet in cell.record().borglets {
        let args = crate::cell::Killed::of(&borglet).args;
        let ports = args.iter().position(|arg| arg == "--ports").unwrap() + 1;
        let first: u16 = args[ports].split_once('-').unwrap().0.parse().unwrap();
        taken.extend([first, first + 1].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()));
    }
    let taken: Vec<u16> = taken.iter().map(|l| l.local_addr().unwrap().port()).collect();
    let mut web = job("ports", "service", "echo listening on $BORG_PORT_HTTP; exec sleep 1000");
    web["task"]["ports"] = json!(["http"]);
    let name = cell.submit(&web);
    let up = cell.until(&name, |status| status["up"] == 1);
    let port = up["task_list"][0]["ports"]["http"].as_u64().unwrap();
    assert!(!taken.iter().any(|taken| u64::from(*taken) == port), "{port} is one of {taken:?}");
    assert!(up["task_list"][0]["incarnation"].as_u64() > Some(1), "nothing was passed over: {up}");
    let endpoint = &cell.json(&["resolve", "admin/ports/0"])[0];
    assert_eq!((&endpoint["port"], &endpoint["up"]), (&json!(port), &json!(true)));
    within("the task says where it listens", || {
        cell.borgctl(&["logs", "ports/0"]).ok() == format!("listening on {port}\n")
    });
    cell.borgctl(&["kill", "ports"]).ok();
}

#[test]
fn a_batch_task_is_tried_as_often_as_retries_says_and_then_the_job_has_failed() {
    let cell = Cell::shared();
    let mut flaky = job("flaky", "batch", "echo try; exit 7");
    flaky["retries"] = json!(2);
    let name = cell.submit(&flaky);
    let over = cell.until(&name, |status| status["state"] == "failed");
    assert_eq!(over["task_list"][0]["failures"], 3, "one try and two more: {over}");
    assert!(note(&over).contains("exit code 7"), "{over}");
    // `submit --wait` has an exit code for it.
    let mut wrong = job("wrong", "batch", "exit 9");
    wrong["tasks"] = json!(2);
    let said = cell.borgctl_with(&["submit", "--wait", "-"], &wrong.to_string()).failed(8);
    assert!(said.contains("admin/wrong") && said.contains("failed"), "{said}");
}
