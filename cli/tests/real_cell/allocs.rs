//! Allocs, as a user meets them: held, shared, resized, and gone after the jobs in them.

use crate::cell::{Cell, job};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn set(name: &str, allocs: u32, cpu_milli: u64) -> Value {
    json!({
        "name": name, "kind": "alloc_set", "tasks": allocs, "priority": 120,
        "task": {
            "limit": { "cpu_milli": cpu_milli, "ram_bytes": 256 * MIB },
            "spread": [{ "attribute": "machine", "max": 1 }],
        },
    })
}

fn within(mut job: Value, set: &str, tasks: u32) -> Value {
    job["alloc_set"] = json!(set);
    job["tasks"] = json!(tasks);
    job
}

fn machines(status: &Value) -> Vec<String> {
    let tasks = status["task_list"].as_array().unwrap();
    tasks.iter().map(|task| task["machine"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_server_and_its_log_saver_share_an_alloc_that_outlives_them() {
    let cell = Cell::up(1, 2);
    let room = cell.submit(&set("room", 2, 200));
    let held = cell.until(&room, |status| status["up"] == 2);
    let phases: Vec<&str> = held["task_list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["phase"].as_str().unwrap())
        .collect();
    assert_eq!((phases, held["kind"].as_str()), (vec!["held", "held"], Some("alloc_set")));
    assert_eq!(held["task_list"][0]["note"], "cpu=0.2,ram=256MiB, empty");

    let server = cell.submit(&within(job("server", "service", "sleep 1000"), &room, 2));
    let saver = cell.submit(&within(job("saver", "service", "sleep 1000"), &room, 3));
    cell.until_up(&server, 2);
    let saving = cell.until(&saver, |status| status["up"] == 2);
    assert_eq!(machines(&cell.status(&server)), machines(&held));
    assert_eq!(machines(&saving)[..2], machines(&held));
    let inside = cell.status(&room)["task_list"][1]["note"].clone();
    let free = "cpu=0.2,ram=256MiB, free cpu=0.1,ram=128MiB";
    assert_eq!(inside, format!("{free}, holds {server}/1, {saver}/1"));

    let why = cell.borgctl(&["why", &format!("{saver}/2")]).ok();
    let beyond = format!("alloc set {room} has 2 allocs, so there is none for task 2");
    assert!(why.contains(&beyond), "{why}");
    let why = cell.borgctl(&["why", &format!("{server}/1")]).ok();
    assert!(why.contains(&format!("in alloc {room}/1")), "{why}");

    let said = cell.borgctl(&["kill", &room]).failed(3);
    assert!(said.contains(&format!("has tasks of job {server} in it: kill those first")), "{said}");
    let said = cell.borgctl(&["resize", &room, "--cpu", "0.09"]).failed(3);
    assert!(said.contains("would have 90 m CPU, and its tasks may use 100 m"), "{said}");
    let said = cell.borgctl(&["resize", &room, "--cpu", "5000"]).failed(3);
    assert!(said.contains("no machine of the cell could hold an alloc"), "{said}");
    let said = cell.borgctl(&["resize", "room", "--cpu", "-1"]).failed(2);
    assert!(said.contains("\"-1\" is not a number"), "{said}");
    let said = cell.borgctl(&["resize", "room"]).failed(2);
    assert!(said.contains("nothing to change"), "{said}");
    let said = cell.borgctl(&["resize", &server, "--allocs", "4"]).failed(3);
    assert!(said.contains(&format!("{server} is no alloc set")), "{said}");

    // Only one alloc to a machine: the third waits, and says why.
    cell.borgctl(&["resize", &room, "--allocs", "3", "--cpu", "0.3"]).ok();
    let why = cell.borgctl(&["why", &format!("{saver}/2")]).ok();
    assert!(why.contains(&format!("alloc {room}/2 is not placed: 0 of 2 machines fit")), "{why}");
    let grown = cell.status(&room);
    assert_eq!(machines(&grown)[..2], machines(&held), "what fits stays where it is");

    cell.borgctl(&["kill", &server]).ok();
    cell.borgctl(&["kill", &saver]).ok();
    assert_eq!(cell.status(&room)["up"], 2, "an alloc outlives what was in it");
    cell.borgctl(&["kill", &room]).ok();
}
