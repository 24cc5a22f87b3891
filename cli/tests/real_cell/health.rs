//! Health checks, seen through the whole cell: what a user writes, what status, events and BNS say.

use crate::cell::{Cell, job, now};
use serde_json::{Value, json};
use std::time::Duration;

/// The web server of the examples, asked for `path`.
fn web(name: &str, path: &str, port: &str) -> Value {
    let mut web = job(name, "service", "");
    web["task"]["command"] =
        json!([env!("CARGO_BIN_EXE_borgctl"), "example", "web", "--port", port]);
    web["task"]["ports"] = json!(["http"]);
    web["task"]["health"] = json!({
        "probe": {"http": {"port": "http", "path": path}},
        "interval_ms": 200, "grace_ms": 1_000, "failures": 2, "timeout_ms": 5_000,
    });
    web
}

#[test]
fn a_service_that_answers_is_healthy_in_status_and_up_in_bns() {
    let cell = Cell::shared();
    let web = cell.submit(&web("well", "/healthz", "%port.http%"));
    let status = cell.until(&web, |status| status["task_list"][0]["health"] == "healthy");
    assert_eq!(status["task_list"][0]["phase"], "running");
    let endpoints = cell.json(&["resolve", &web]);
    let endpoint = &endpoints[0];
    assert_eq!(
        (&endpoint["up"], &endpoint["health"]),
        (&json!(true), &json!("healthy")),
        "{endpoint}"
    );
    let used =
        cell.until(&web, |status| status["task_list"][0]["usage"]["ram_bytes"].as_u64() > Some(0));
    assert!(used["task_list"][0]["usage"]["threads"].as_u64() >= Some(1), "{used}");
    cell.borgctl(&["kill", &web]).ok();
}

#[test]
fn a_service_that_answers_badly_is_started_again_and_the_note_says_why() {
    let cell = Cell::shared();
    let web = cell.submit(&web("ill", "/nothing-here", "%port.http%"));
    let told = |status: &Value| {
        let task = &status["task_list"][0];
        task["restarts"].as_u64() > Some(0) || task["phase"] == "back-off"
    };
    let status = cell.until(&web, told);
    assert_ne!(status["task_list"][0]["health"], "healthy");
    let waits = cell.until(&web, |status| status["task_list"][0]["phase"] == "back-off");
    let note = waits["task_list"][0]["note"].as_str().unwrap().to_owned();
    assert!(note.contains("unhealthy: http http /nothing-here: HTTP 404"), "{note}");
    cell.borgctl(&["kill", &web]).ok();
}

/// It runs, and whoever asks BNS is not sent to it.
#[test]
fn a_service_that_does_not_answer_yet_is_not_up_in_bns() {
    let cell = Cell::shared();
    let mut silent = job("silent", "service", "sleep 1000");
    silent["task"]["ports"] = json!(["http"]);
    silent["task"]["health"] = json!({"probe": {"tcp": {"port": "http"}}, "grace_ms": 600_000});
    let silent = cell.submit(&silent);
    cell.until_up(&silent, 1);
    let endpoints = cell.json(&["resolve", &silent]);
    let endpoint = &endpoints[0];
    assert_eq!(
        (&endpoint["up"], &endpoint["health"]),
        (&json!(false), &json!("starting")),
        "{endpoint}"
    );
    assert_eq!(cell.status(&silent)["task_list"][0]["note"], "not healthy yet");
    cell.borgctl(&["kill", &silent]).ok();
}

/// Not asked for in words that nobody understands.
#[test]
fn a_health_check_that_cannot_work_is_refused_by_its_field() {
    let cell = Cell::shared();
    let mut bad = web("bad", "/", "%port.http%");
    bad["task"]["health"]["probe"] = json!({"tcp": {"port": "htp"}});
    let began = now();
    let refused = cell.borgctl_with(&["submit", "-"], &bad.to_string()).failed(3);
    assert!(refused.contains("task.health.probe.port: htp is no port of the task"), "{refused}");
    bad["task"]["health"]["probe"] = json!({"command": []});
    let refused = cell.borgctl_with(&["submit", "-"], &bad.to_string()).failed(3);
    assert!(refused.contains("task.health.probe.command"), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_command_in_the_container_says_how_the_task_is() {
    let cell = Cell::shared();
    let mut job = job("asked", "service", "touch fine; exec sleep 7778");
    job["task"]["health"] = json!({
        "probe": {"command": ["sh", "-c", "test -e fine || { echo not fine >&2; exit 3; }"]},
        "interval_ms": 100, "timeout_ms": 20_000, "failures": 2,
    });
    let name = cell.submit(&job);
    cell.until(&name, |status| status["task_list"][0]["health"] == "healthy");
    let task = format!("{name}/0");
    cell.borgctl(&["exec", &task, "--", "rm", "fine"]).ok();
    cell.until(&name, |status| status["task_list"][0]["restarts"] == 1);
    let runs = cell.json(&["status", &task])["runs"].to_string();
    assert!(runs.contains("exit code 3\"") && runs.contains("health check: not fine"), "{runs}");
    cell.until(&name, |status| status["task_list"][0]["health"] == "healthy");
    cell.borgctl(&["kill", &name]).ok();
}
