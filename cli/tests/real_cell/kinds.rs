//! Kinds of jobs on a real cell: daemons, cron jobs, arrays, children. The examples run here.

use crate::cell::{Cell, job, now};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

fn example(name: &str) -> String {
    format!("{}/../examples/{name}.bcl", env!("CARGO_MANIFEST_DIR"))
}

/// Waits until a command's JSON is as wanted.
#[track_caller]
fn until(cell: &Cell, args: &[&str], done: impl Fn(&Value) -> bool) -> Value {
    let began = now();
    loop {
        let told = cell.json(args);
        if done(&told) {
            return told;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{args:?}: {told:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn scrape(endpoint: &Value) -> String {
    let (host, port) = (endpoint["host"].as_str().unwrap(), endpoint["port"].as_u64().unwrap());
    let mut connection = TcpStream::connect(format!("{host}:{port}")).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_example_exporter_runs_on_each_machine_and_is_scraped() {
    let cell = Cell::up(1, 2);
    let name =
        cell.borgctl(&["submit", "--wait", &example("node-exporter")]).ok().trim().to_owned();
    let status = cell.until(&name, |status| status["up"] == 2);
    let mut machines: Vec<&str> = status["task_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["machine"].as_str().unwrap())
        .collect();
    machines.sort_unstable();
    machines.dedup();
    assert_eq!((machines.len(), status["kind"].as_str()), (2, Some("daemon")));
    let endpoints = until(&cell, &["resolve", &name], |told| told.as_array().unwrap().len() == 2);
    for endpoint in endpoints.as_array().unwrap() {
        let page = scrape(endpoint);
        assert!(page.contains("\nnode_memory_MemTotal_bytes "), "{page}");
    }
    let why = cell.borgctl(&["why", &format!("{name}/1")]).ok();
    assert!(why.contains("as each machine has one"), "{why}");
    // A machine that leaves takes its task along, and the job goes on.
    let gone = status["task_list"][1]["machine"].as_str().unwrap();
    cell.borgctl(&["machine", "remove", gone]).ok();
    let left = cell.until(&name, |status| status["tasks"] == 1);
    assert_eq!(left["task_list"].as_array().unwrap().len(), 1);
    let said = cell.borgctl(&["rerun", &name, "--tasks", "0"]).failed(3);
    assert!(said.contains("is a daemon job: only batch jobs run again"), "{said}");
}

#[test]
fn the_example_array_runs_again_just_what_failed() {
    let cell = Cell::shared();
    let out: PathBuf = cell.dir().join("shared/squares");
    fs::create_dir_all(&out).unwrap();
    let arg = format!("out={}", out.display());
    let failed = cell.borgctl(&["submit", "--wait", &example("array"), "--arg", &arg]).failed(8);
    assert!(failed.contains("exit code 3"), "{failed}");
    let ids = |args: &[&str]| {
        cell.borgctl(&[&["task-ids", "squares"], args].concat()).ok().trim().to_owned()
    };
    assert_eq!(ids(&["--filter", "failed"]), "3,8");
    assert_eq!(ids(&["--filter", "failed", "--format", "lines"]), "3\n8");
    assert_eq!(ids(&["--filter", "finished"]), "0-2,4-7,9-11");
    assert_eq!(ids(&["--filter", "running"]), "");
    let said = cell.borgctl(&["rerun", "squares", "--filter", "failed"]).ok();
    assert_eq!(said.trim(), "admin/squares: 2 tasks run again: 3,8");
    let done = cell.until("admin/squares", |status| status["state"] == "finished");
    assert_eq!((done["finished"].as_u64(), done["failed"].as_u64()), (Some(12), Some(0)));
    assert_eq!(done["task_list"][3]["incarnation"], 2);
    assert_eq!(fs::read_to_string(out.join("square-8")).unwrap().trim(), "64");
    let said = cell.borgctl(&["rerun", "squares", "--tasks", "0-3,12"]).failed(4);
    assert!(said.contains("has tasks 0 to 11, not 12"), "{said}");
    let said = cell.borgctl(&["rerun", "squares", "--tasks", "3-1"]).failed(2);
    assert!(said.contains("ends before it begins"), "{said}");
    cell.borgctl(&["rerun", "squares"]).failed(2);
}

#[test]
fn the_example_cron_job_makes_a_run_a_minute_and_those_that_are_ordered() {
    let cell = Cell::up(1, 1);
    let name = cell.borgctl(&["submit", "--wait", &example("cron")]).ok().trim().to_owned();
    let first = cell.borgctl(&["cron", "run", "report"]).ok().trim().to_owned();
    assert_eq!(first, format!("{name}-1"));
    cell.until(&first, |status| status["state"] == "finished");
    let ticked = |told: &Value| {
        let ticks = told["history"].as_array().unwrap();
        ticks.iter().filter(|tick| tick["ordered"] == false && tick["state"] == "finished").count()
    };
    let told = until(&cell, &["cron", "history", "report"], |told| ticked(told) == 1);
    assert_eq!(told["history"].as_array().unwrap().len(), 2);
    let tick = told["history"][0]["tick_ms"].as_u64().unwrap();
    assert_eq!(tick % 60_000, 0);
    let log = cell.borgctl(&["logs", &format!("{name}-2/0")]).ok();
    assert!(log.starts_with("report for 20") && log.contains(":00Z"), "{log}");
    cell.borgctl(&["cron", "pause", "report"]).ok();
    let status = cell.status(&name);
    assert_eq!(
        (status["note"].as_str(), status["cron"]["paused"].as_bool()),
        (Some("paused"), Some(true))
    );
    let shown = cell.borgctl(&["cron", "history", "report"]).ok();
    assert!(shown.contains("by hand"), "{shown}");
    cell.borgctl(&["kill", &name]).ok();
    let said = cell.borgctl(&["cron", "resume", "report"]).failed(3);
    assert!(said.contains("is over: killed"), "{said}");
    let said = cell.borgctl(&["cron", "pause", "nothing"]).failed(4);
    assert!(said.contains("there is no job"), "{said}");
}

#[test]
fn a_child_that_runs_is_killed_with_its_parent() {
    let cell = Cell::shared();
    let parent = cell.submit(&job("family", "service", "sleep 1000"));
    let mut child = job("child", "batch", "sleep 1000");
    child["parent"] = json!(parent);
    let child = cell.submit(&child);
    cell.until_up(&child, 1);
    assert_eq!(cell.status(&child)["parent"], json!(parent));
    let mut stranger = job("stranger", "batch", "true");
    stranger["parent"] = json!("ann/web");
    let said = cell.borgctl_with(&["submit", "-"], &stranger.to_string()).failed(6);
    assert!(said.contains("only one's own jobs are parents"), "{said}");
    cell.borgctl(&["kill", &parent]).ok();
    let over = cell.until(&child, |status| status["state"] == "killed");
    assert_eq!(over["note"], json!(format!("parent {parent} ended")));
}

#[test]
fn a_run_that_takes_too_long_is_ended_on_its_machine() {
    let cell = Cell::shared();
    let mut slow = job("slow", "batch", "trap '' TERM; sleep 1000 & wait; wait");
    slow["timeout_ms"] = json!(1_000);
    slow["task"]["grace_ms"] = json!(200);
    let slow = cell.submit(&slow);
    let over = cell.until(&slow, |status| status["state"] == "failed");
    assert_eq!(over["note"], "task 0 failed: timeout after 1000 ms");
}

#[test]
fn jobs_of_a_file_that_name_each_other_in_a_circle_are_refused_before_any_is_submitted() {
    let cell = Cell::shared();
    let mut first = job("circle-a", "batch", "true");
    let mut second = job("circle-b", "batch", "true");
    first["after"] = json!(["admin/circle-b"]);
    second["parent"] = json!("admin/circle-a");
    let file = json!([first, second]).to_string();
    let said = cell.borgctl_with(&["submit", "-"], &file).failed(3);
    let circle = "admin/circle-a -after-> admin/circle-b -parent-> admin/circle-a";
    assert!(said.contains(circle), "{said}");
    cell.borgctl(&["status", "circle-a"]).failed(4);
    first["after"] = json!([]);
    // The parent is there first, wherever it stands in the file.
    let file = json!([second, { "name": "circle-a", "kind": "service", "task": first["task"] }]);
    cell.borgctl_with(&["submit", "-"], &file.to_string()).ok();
    cell.borgctl(&["kill", "circle-a"]).ok();
    cell.until("admin/circle-b", |status| {
        status["state"] != "running" && status["state"] != "pending"
    });
}
