//! Some tasks of a job, by index and by label, in the verbs that read; and what waits for tasks that serve.

use crate::cell::{Cell, job};
use serde_json::{Value, json};

/// A service of four tasks that are there at once, the second half of them of zone b.
fn service(name: &str) -> Value {
    let mut service = job(name, "service", "exec sleep 1000");
    service["tasks"] = json!(4);
    service["task"]["ports"] = json!(["http"]);
    service["task_labels"] = json!([
        { "tasks": "0-1", "labels": { "zone": "a" } },
        { "tasks": "2-3", "labels": { "zone": "b" } },
    ]);
    service
}

#[test]
fn verbs_that_read_take_indexes_and_labels() {
    let cell = Cell::shared();
    let name = cell.submit(&service("subset"));
    cell.until(&name, |status| {
        status["task_list"].as_array().unwrap().iter().all(|task| task["phase"] == "running")
    });
    let tasks = |args: &[&str], field: &str| -> Vec<String> {
        let shown = cell.json(args);
        let shown = shown.as_array().unwrap().iter();
        let mut tasks: Vec<String> =
            shown.map(|one| one[field].as_str().unwrap().to_owned()).collect();
        tasks.sort();
        tasks
    };
    let both = [format!("{name}/2"), format!("{name}/3")];
    assert_eq!(tasks(&["top", &name, "--label", "zone=b"], "task"), both);
    assert_eq!(tasks(&["resolve", &name, "--tasks", "2-3"], "task"), both);
    let ids = cell.borgctl(&["task-ids", &name, "--label", "zone=b", "--tasks", "0,3"]).ok();
    assert_eq!(ids.trim(), "3");
    let why = cell.borgctl(&["why", &name, "--label", "zone=b"]).ok();
    assert!(both.iter().all(|task| why.contains(&format!("{task}: "))), "{why}");
    assert!(!why.contains(&format!("{name}/0: ")), "{why}");
    let refused = cell.borgctl(&["top", "--tasks", "0"]).failed(2);
    assert!(refused.contains("name the job"), "{refused}");
    let refused = cell.borgctl(&["kill", "subset/2"]).failed(4);
    assert!(refused.contains("is admin/subset/2, or subset --tasks 2"), "{refused}");
    cell.borgctl(&["kill", &name]).ok();
}

/// A service whose tasks are healthy after a while.
fn slow(name: &str, tasks: u32) -> Value {
    let mut slow = job(name, "service", "sleep 2; touch well; exec sleep 1000");
    slow["tasks"] = json!(tasks);
    slow["task"]["health"] = json!({
        "probe": { "command": ["sh", "-c", "test -e well"] },
        "interval_ms": 200, "grace_ms": 20_000, "failures": 2, "timeout_ms": 5_000,
    });
    slow
}

#[test]
fn who_waits_for_a_service_waits_until_it_is_healthy() {
    let cell = Cell::shared();
    let healthy = |name: &str| {
        let status = cell.status(name);
        let tasks = status["task_list"].as_array().unwrap().clone();
        assert!(tasks.iter().all(|task| task["health"] == "healthy"), "{status}");
        tasks.len()
    };
    let spec = slow("slow", 1).to_string();
    let name = cell.borgctl_with(&["submit", "--wait", "-"], &spec).ok().trim().to_owned();
    assert_eq!(healthy(&name), 1);
    cell.borgctl(&["scale", &name, "2", "--watch"]).ok();
    assert_eq!(healthy(&name), 2);
    cell.borgctl(&["kill", &name]).ok();
}
