//! Machines that are emptied for maintenance, with real tasks on them.

use crate::cell::{Cell, borgctl, job, now, run};
use serde_json::{Value, json};
use std::time::Duration;

/// A service whose budget is one task, on a cell of three machines with two tasks at most on each.
fn web(cell: &Cell, tasks: u32, most: u32) -> String {
    let mut web = job("web", "service", "sleep 1000");
    web["tasks"] = json!(tasks);
    web["disruption"] = json!({ "most": most });
    web["task"]["spread"] = json!([{ "attribute": "machine", "max": 2 }]);
    let web = cell.submit(&web);
    cell.until_up(&web, tasks.into());
    web
}

fn machine_of(cell: &Cell, web: &str, index: usize) -> String {
    cell.status(web)["task_list"][index]["machine"].as_str().unwrap().to_owned()
}

fn drained(cell: &Cell, name: &str) -> Value {
    let drains = cell.json(&["drains"]);
    let machines = drains["machines"].as_array().unwrap();
    machines.iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
}

/// The place in the log up to which a job is shown.
fn index(cell: &Cell, job: &str) -> u64 {
    cell.status(job)["read"]["index"].as_u64().unwrap()
}

/// Waits until the machine is empty and all tasks of the job are up again; gives the most of them that were down at
/// the same time since a place in the log: after each entry, as looks now and then miss what is short.
fn until_empty(cell: &Cell, web: &str, tasks: u64, (name, since): (&str, u64)) -> u64 {
    let began = now();
    while !drained(cell, name)["empty_since_ms"].is_u64() {
        // A replacement without a health check has to run for ten seconds first.
        assert!(began.elapsed() < Duration::from_secs(90), "{:#}", drained(cell, name));
        std::thread::sleep(Duration::from_millis(50));
    }
    cell.until_up(web, tasks);
    let down = |at: u64| {
        let status = cell.json(&["status", "--at", &at.to_string(), web]);
        tasks - status["up"].as_u64().unwrap()
    };
    (since..=index(cell, web)).map(down).max().unwrap()
}

#[test]
fn a_drained_machine_is_left_one_by_one_and_a_deadline_overrules_a_budget() {
    let cell = Cell::up(1, 3);
    let web = web(&cell, 4, 1);
    let first = machine_of(&cell, &web, 0);

    let plan = cell.borgctl(&["drain", &first, "--reason", "new kernel", "--dry-run"]).ok();
    assert!(plan.contains("would move in") && plan.contains("nothing was done"), "{plan}");
    assert_eq!(cell.json(&["drains"])["machines"], json!([]));

    let since = index(&cell, &web);
    let said = cell.borgctl(&["drain", &first, "--reason", "new kernel", "--deadline", "1h"]).ok();
    assert!(said.contains("what is left after 1h is pushed out"), "{said}");
    let most = until_empty(&cell, &web, 4, (&first, since));
    assert_eq!(most, 0, "there is room, so nobody is down");
    let one = drained(&cell, &first);
    assert_eq!((&one["forced"], &one["by"]), (&json!(0), &json!("admin")));
    let on_it = |status: &Value| {
        let tasks = status["task_list"].as_array().unwrap().clone();
        tasks.iter().filter(|task| task["machine"] == first.as_str()).count()
    };
    assert_eq!(on_it(&cell.status(&web)), 0);
    let machines = cell.borgctl(&["machines"]).ok();
    assert!(machines.contains("none, drained: new kernel"), "{machines}");

    let credentials = cell.credentials_dir("user", "ann");
    let mut ann = borgctl();
    ann.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials);
    let said = run(ann.args(["undrain", &first]), "").failed(6);
    assert!(said.contains("user ann may not undrain machines: that needs admin"), "{said}");
    cell.borgctl(&["undrain", &first]).ok();
    assert!(cell.borgctl(&["drains"]).ok().contains("no machine is drained"));

    // A job that may lose nobody, and not run twice, holds its machine until the deadline.
    cell.borgctl(&["kill", &web]).ok();
    let still = {
        let mut still = job("still", "service", "sleep 1000");
        still["disruption"] = json!({ "most": 0 });
        still["concurrent"] = json!(1);
        cell.submit(&still)
    };
    cell.until_up(&still, 1);
    let held = machine_of(&cell, &still, 0);
    cell.borgctl(&["drain", &held, "--reason", "new disk", "--deadline", "3s"]).ok();
    let waits = drained(&cell, &held)["leaving"][0]["waits"].clone();
    let says = format!(
        "the disruption budget of {still} is 0, which lets none of its tasks go while it serves"
    );
    assert_eq!(waits, json!(says));
    let why = cell.borgctl(&["why", &format!("{still}/0")]).ok();
    assert!(why.contains("which is drained; it stays for now"), "{why}");
    let began = now();
    while drained(&cell, &held)["forced"] != 1 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:#}", drained(&cell, &held));
        std::thread::sleep(Duration::from_millis(50));
    }
    cell.until(&still, |status| {
        status["up"] == 1 && status["task_list"][0]["machine"] != held.as_str()
    });

    // A machine that somebody needs again has not become empty by that.
    let held = machine_of(&cell, &still, 0);
    let drain = ["drain", held.as_str(), "--reason", "new disk", "--watch"];
    let watched = std::thread::scope(|scope| {
        let watching = scope.spawn(|| cell.borgctl(&drain));
        let began = now();
        while drained(&cell, &held).is_null() {
            assert!(began.elapsed() < Duration::from_secs(20), "it was not drained");
            std::thread::sleep(Duration::from_millis(50));
        }
        cell.borgctl(&["undrain", &held]).ok();
        watching.join().unwrap()
    });
    let said = watched.failed(8);
    assert!(said.contains(&format!("{held}: drained no more, and was not seen empty")), "{said}");
}

#[test]
fn too_much_is_not_drained_and_nonsense_is_named() {
    let cell = Cell::up(1, 2);
    cell.until_up(&cell.submit(&job("here", "service", "sleep 1000")), 1);
    let names = cell.json(&["machines"]);
    let names: Vec<&str> =
        names.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    let all = ["drain", names[0], names[1], "--reason", "a typo"];
    let said = cell.borgctl(&all).failed(3);
    assert!(said.contains("would leave 0 of 2 machines that take tasks"), "{said}");
    assert!(said.contains("--force-with 0"), "{said}");
    let said = cell.borgctl(&[&all[..], &["--dry-run"]].concat()).failed(3);
    assert!(said.contains("would be refused: would leave 0 of 2"), "{said}");
    cell.borgctl(&[&all[..], &["--force-with", "1"]].concat()).failed(3);
    let long = "x".repeat(4_000);
    for (args, code, says) in [
        (&["drain", "--reason", "x"][..], 2, "no machine is named"),
        (&["drain", "nobody", "--reason", "x"], 4, "there is no machine nobody"),
        (&["drain", "--rack", "r9", "--reason", "x"], 4, "no machine of the cell has rack=r9"),
        (&["drain", "--label", "zone", "--reason", "x"], 2, "is not KEY=VALUE"),
        (&["drain", names[0], "--reason", " "], 3, "reason: nothing is given"),
        (&["drain", names[0], "--reason", "x", "--deadline", "31days"], 2, "0s to 30days"),
        (&["drain", names[0], "--reason", "x", "--deadline", "0s"], 2, "say --now"),
        (&["drain", names[0], "--reason", &long], 3, "(4000 bytes)"),
        (&["drain", "--all", "--rolling", "--batch", "0%", "--reason", "x"], 2, "1% to 100%"),
        (&["--at", "-1ms", "drains"], 0, ""),
        (&["undrain"], 2, "no machine is named"),
        (&["undrain", "--maintenance", "7"], 4, "there is no maintenance 7"),
    ] {
        let said = cell.borgctl(args).failed(code);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    assert_eq!(cell.json(&["drains"])["machines"], json!([]));

    // One after the other: the second one's turn comes when the first is undrained.
    let rolling = ["drain", "--all", "--rolling", "--batch", "1", "--reason", "kernel"];
    cell.borgctl(&rolling).ok();
    let (one, other) = (names[0], names[1]);
    assert_eq!(drained(&cell, one)["maintenance"], 1);
    assert_eq!(drained(&cell, other), Value::Null);
    cell.borgctl(&["undrain", one]).ok();
    assert_eq!(drained(&cell, other)["maintenance"], 1);
    let said = cell.borgctl(&["drains"]).ok();
    assert!(said.contains("maintenance 1 by admin: 1 done, 1 out of service"), "{said}");
    cell.borgctl(&["undrain", "--maintenance", "1"]).ok();
    assert!(cell.borgctl(&["drains"]).ok().contains("no machine is drained"));
}
