//! Updates of what people use meanwhile.

use crate::cell::{Cell, Client, job};
use borg_proto::wire::pb;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The example that is updated here.
fn example() -> String {
    format!("{}/../examples/web/web.bcl", env!("CARGO_MANIFEST_DIR"))
}

/// What somebody was answered who asked all the time.
#[derive(Debug, Default)]
struct Asker {
    stop: AtomicBool,
    answered: AtomicU32,
}

impl Asker {
    /// Looks the name up for every request, and asks the healthy tasks in turn. Ends with the first
    /// request that failed, if one did.
    async fn ask(self: Arc<Self>, mut client: Client, name: String) -> Result<(), String> {
        let mut turn = 0_usize;
        while !self.stop.load(Ordering::Relaxed) {
            let asked = client.resolve(pb::ResolveRequest { name: name.clone() }).await;
            let found = asked.map_err(|status| status.to_string())?.into_inner().endpoints;
            let up: Vec<_> = found.into_iter().filter(|endpoint| endpoint.up).collect();
            if up.is_empty() {
                return Err(format!("nobody serves {name}"));
            }
            let endpoint = &up[turn % up.len()];
            turn += 1;
            let address = format!("{}:{}", endpoint.host, endpoint.port);
            let page = get(&address).await.map_err(|why| format!("{address}: {why}"))?;
            if !page.starts_with("HTTP/1.1 200") {
                return Err(format!("{address}: {page}"));
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn get(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn versions(cell: &Cell, job: &str) -> Vec<Value> {
    cell.json(&["history", job]).as_array().unwrap().clone()
}

/// One release goes through, the next is broken and rolls itself back; a client that asks all the time
/// gets its answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_and_a_broken_release_of_the_example_fail_no_request() {
    let cell = Arc::new(Cell::up(1, 2));
    let file = example();
    let web = cell.borgctl(&["submit", "--wait", &file]).ok().trim().to_owned();
    let healthy = |status: &Value| {
        let tasks = status["task_list"].as_array().unwrap();
        tasks.iter().all(|task| task["health"] == "healthy")
    };
    cell.until(&web, healthy);
    let asker = Arc::new(Asker::default());
    let asking = tokio::spawn(asker.clone().ask(cell.admin(0), web.clone()));
    let update = |version: &'static str| {
        let (cell, file) = (cell.clone(), file.clone());
        tokio::task::spawn_blocking(move || {
            let arg = format!("version={version}");
            let args = ["update", &file, "--arg", &arg, "--min-healthy", "500ms", "--watch"];
            cell.borgctl(&args)
        })
    };
    let said = update("v2").await.unwrap().ok();
    assert!(said.contains("version 2 is in force"), "{said}");
    let bad = update("v3").await.unwrap().failed(8);
    assert!(bad.contains("version 3 was rolled back: task 0 turned unhealthy"), "{bad}");
    asker.stop.store(true, Ordering::Relaxed);
    asking.await.unwrap().unwrap();
    let answered = asker.answered.load(Ordering::Relaxed);
    assert!(answered > 100, "only {answered} requests");

    let kept = versions(&cell, &web);
    let outcomes: Vec<&str> = kept.iter().map(|v| v["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["done", "rolled back: task 0 turned unhealthy", "done", ""]);
    let endpoints = cell.json(&["resolve", &web]);
    for endpoint in endpoints.as_array().unwrap() {
        let address = format!("{}:{}", endpoint["host"].as_str().unwrap(), endpoint["port"]);
        let page = get(&address).await.unwrap();
        assert!(page.contains("\nv2\n"), "{page}");
    }
}

/// There is but one task, and whoever asks it notices neither that its machine is emptied nor that it is
/// updated: each time its replacement serves first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_task_is_moved_and_updated_without_a_failed_request_where_there_is_room() {
    let cell = Arc::new(Cell::up(1, 3));
    let file = example();
    let submit = ["submit", "--wait", &file, "--arg", "tasks=1"];
    let web = cell.borgctl(&submit).ok().trim().to_owned();
    let place = |status: &Value| status["task_list"][0]["machine"].as_str().unwrap().to_owned();
    let healthy = |status: &Value| status["task_list"][0]["health"] == "healthy";
    let first = place(&cell.until(&web, healthy));
    let asker = Arc::new(Asker::default());
    let asking = tokio::spawn(asker.clone().ask(cell.admin(0), web.clone()));
    let told = {
        let (cell, first) = (cell.clone(), first.clone());
        let drain =
            move || cell.borgctl(&["drain", &first, "--reason", "new kernel", "--watch"]).ok();
        tokio::task::spawn_blocking(drain).await.unwrap()
    };
    assert!(told.contains("empty") && !told.contains("pushed out at the deadline"), "{told}");
    let second = place(&cell.status(&web));
    assert_ne!(first, second);
    let updated = {
        let (cell, file) = (cell.clone(), file.clone());
        let arg = ["--arg", "tasks=1", "--arg", "version=v2"];
        let how = ["--replacement", "first", "--min-healthy", "500ms", "--watch"];
        let update = move || cell.borgctl(&[&["update", &file][..], &arg, &how].concat()).ok();
        tokio::task::spawn_blocking(update).await.unwrap()
    };
    assert!(updated.contains("version 2 is in force"), "{updated}");
    assert_ne!(place(&cell.status(&web)), second, "its replacement was elsewhere");
    tokio::time::sleep(Duration::from_secs(1)).await;
    asker.stop.store(true, Ordering::Relaxed);
    asking.await.unwrap().unwrap();
    let answered = asker.answered.load(Ordering::Relaxed);
    assert!(answered > 100, "only {answered} requests");
}

fn service(name: &str, tasks: u32, script: &str) -> Value {
    let mut service = job(name, "service", script);
    service["tasks"] = json!(tasks);
    service["disruption"] = json!({ "most": tasks });
    service
}

#[test]
fn an_update_is_planned_done_paused_undone_and_closed_by_command() {
    let cell = Cell::shared();
    let mut web = service("up-web", 3, "exec sleep 1000");
    let name = cell.submit(&web);
    let before = cell.until_up(&name, 3);
    let update = |spec: &Value, args: &[&str]| {
        let args = [&["update", "-", "--min-healthy", "100ms"], args].concat();
        cell.borgctl_with(&args, &spec.to_string())
    };

    // Labels and priority: in place, as the plan says, and no process notices.
    web["labels"] = json!({ "team": "search" });
    web["priority"] = json!(210);
    let plan = update(&web, &["--plan"]).ok();
    assert!(plan.contains("priority: 100 -> 210"), "{plan}");
    assert!(plan.contains("tasks 0-2: changes in place"), "{plan}");
    update(&web, &["--watch"]).ok();
    assert_eq!(cell.until_up(&name, 3), before);
    assert_eq!(cell.status(&name)["priority"], 210);

    // Another command: each task starts anew.
    web["task"]["command"] = json!(["sh", "-c", "exec sleep 2000"]);
    let plan = update(&web, &["--plan"]).ok();
    assert!(plan.contains("tasks 0-2: restarts on its machine (task.command[2])"), "{plan}");
    let done = update(&web, &["--canary", "0", "--watch"]).ok();
    assert!(done.contains("canary 0 is good: resume or undo"), "{done}");
    let refused = update(&web, &[]).failed(3);
    assert!(refused.contains("on its way from version 2 to version 3 already"), "{refused}");
    cell.borgctl(&["rollout", "resume", &name, "--watch"]).ok();
    let after = cell.until_up(&name, 3);
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
    let status = cell.borgctl(&["rollout", "status", &name]).ok();
    assert!(status.contains("version 2 -> 3, done"), "{status}");
    cell.borgctl(&["rollout", "undo", &name, "--watch"]).ok();
    let status = cell.borgctl(&["rollout", "undo", &name]).failed(4);
    assert!(status.contains("there is no update of"), "{status}");
    let kept = versions(cell, &name);
    assert_eq!(kept[0]["note"], "back to version 2");
    assert_eq!(kept[1]["outcome"], "undone by admin");
    cell.borgctl(&["rollback", &name, "3", "--watch", "--close", "--min-healthy", "0s"]).ok();
    let gone = cell.borgctl(&["rollback", &name, "77"]).failed(4);
    assert!(
        gone.contains("version 77 of admin/up-web is not kept: there are 1, 2, 3, 4"),
        "{gone}"
    );

    for (args, code, says) in [
        (vec!["--most", "0"], 3, "most: 0 lets no task go"),
        (vec!["--most", "many"], 2, "neither a number of tasks"),
        (vec!["--canary", "5"], 3, "canary: 5 is no task of the job: it has 0 to 2"),
        (vec!["--tasks", "2-1"], 2, "ends before it begins"),
        (vec!["--order", "up"], 2, "nor a list of indexes"),
    ] {
        web["task"]["command"] = json!(["sh", "-c", "exec sleep 3000"]);
        let said = update(&web, &args).failed(code);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    cell.borgctl(&["kill", &name]).ok();
    let over = update(&web, &[]).failed(3);
    assert!(
        over.contains("is killed, and what is over does not change: submit it again"),
        "{over}"
    );
}

#[test]
fn a_job_is_scaled_restarted_stopped_and_started_by_command() {
    let cell = Cell::shared();
    let name = cell.submit(&service("up-scale", 2, "exec sleep 1000"));
    cell.until_up(&name, 2);
    cell.borgctl(&["scale", &name, "4", "--watch"]).ok();
    let four = cell.until_up(&name, 4);
    cell.borgctl(&["scale", &name, "3", "--watch"]).ok();
    let three = cell.until_up(&name, 3);
    assert!(three.iter().all(|pid| four.contains(pid)), "{four:?} {three:?}");
    cell.borgctl(&["restart", &name, "--min-healthy", "0s", "--watch"]).ok();
    let anew = cell.until_up(&name, 3);
    assert!(anew.iter().all(|pid| !three.contains(pid)), "{three:?} {anew:?}");

    let task = format!("{name}/0");
    for more in [["--tasks", "1"], ["--label", "ring=outer"]] {
        for verb in ["kill", "stop"] {
            let said = cell.borgctl(&[&[verb, task.as_str()][..], &more].concat()).failed(2);
            assert!(said.contains("names one task: leave out --tasks and --label"), "{said}");
        }
    }
    assert_eq!(cell.until_up(&name, 3), anew);
    let said = cell.borgctl(&["stop", &name, "--tasks", "0,2"]).ok();
    assert!(said.contains("2 tasks stopped"), "{said}");
    let status = cell.until(&name, |status| status["up"] == 1);
    assert!(status["task_list"][0]["note"].as_str().unwrap().starts_with("stopped"), "{status:#}");
    let why = cell.borgctl(&["why", &format!("{name}/0")]).ok();
    assert!(why.contains("is stopped until somebody starts it"), "{why}");
    cell.borgctl(&["start", &name, "--watch"]).ok();
    cell.until_up(&name, 3);
    cell.borgctl(&["kill", &name]).ok();
}

#[test]
fn a_file_is_looked_at_as_a_whole_before_anything_of_it_begins() {
    let cell = Cell::shared();
    let (one, two) =
        (service("up-file-1", 1, "exec sleep 1000"), service("up-file-2", 1, "exec sleep 1000"));
    let [first, second] = [cell.submit(&one), cell.submit(&two)];
    cell.until_up(&first, 1);
    cell.until_up(&second, 1);
    let update = |file: &Value, args: &[&str]| {
        let args = [&["update", "-", "--min-healthy", "0s"], args].concat();
        cell.borgctl_with(&args, &file.to_string())
    };
    let mut file = json!([one, two]);
    file[0]["task"]["command"] = json!(["sh", "-c", "exec sleep 2000"]);
    file[1]["exclusive"] = json!(true);
    let refused = update(&file, &[]).failed(3);
    let whole = "update admin/up-file-2 would be refused, and nothing was begun: exclusive: true";
    assert!(refused.contains(whole), "{refused}");
    assert_eq!(versions(cell, &first).len(), 1);
    let plan = update(&file, &["--plan"]);
    assert!(plan.out.contains("~ admin/up-file-1: version 1 -> 2"), "{plan:?}");
    plan.failed(3);

    // What does not live, and an alloc set that is as it was, are told of and left alone.
    let room = json!({
        "name": "up-room", "kind": "alloc_set", "tasks": 1,
        "task": { "limit": { "cpu_milli": 50, "ram_bytes": 32 << 20 } },
    });
    cell.submit(&room);
    cell.borgctl(&["kill", &second]).ok();
    let mut file = json!([room, two, file[0]]);
    let done = update(&file, &["--watch"]);
    assert!(done.err.contains("admin/up-file-2: does not live, and is left alone"), "{done:?}");
    assert!(done.err.contains("= admin/up-room: an alloc set, and just so"), "{done:?}");
    let said = done.ok();
    assert!(said.contains("admin/up-file-1: version 2 is in force, all is done"), "{said}");
    let same = update(&file, &["--watch"]).ok();
    assert!(same.contains("version 2 is in force and just so: nothing changes"), "{same}");
    file[0]["task"]["limit"]["cpu_milli"] = json!(60);
    let refused = update(&file, &[]).failed(3);
    assert!(refused.contains("borgctl resize admin/up-room"), "{refused}");
    for job in [first.as_str(), "admin/up-room"] {
        cell.borgctl(&["kill", job]).ok();
    }
}

#[test]
fn a_task_that_was_killed_stays_dead_and_that_is_said() {
    let cell = Cell::shared();
    let name = cell.submit(&service("up-dead", 3, "exec sleep 1000"));
    cell.until_up(&name, 3);
    cell.borgctl(&["kill", &name, "--tasks", "1"]).ok();
    let plan = cell.borgctl(&["scale", &name, "4", "--plan"]).ok();
    assert!(plan.contains("task 1: is over, and stays so"), "{plan}");
    assert!(plan.contains("task 3: new, and starts"), "{plan}");
    let done = cell.borgctl(&["restart", &name, "--min-healthy", "0s", "--watch"]).ok();
    assert!(done.contains("all is done; these stay dead: 1 killed"), "{done}");
    cell.borgctl(&["kill", &name]).ok();
}

/// A job that is over has no update any more, as one of which all is done.
#[test]
fn who_watches_an_update_is_told_that_the_job_was_killed() {
    let cell = Cell::shared();
    let mut web = service("up-killed", 2, "exec sleep 1000");
    let name = cell.submit(&web);
    cell.until_up(&name, 2);
    web["task"]["command"] = json!(["sh", "-c", "exec sleep 2000"]);
    let slowly = ["update", "-", "--most", "1", "--min-healthy", "5m", "--watch"];
    let watched = std::thread::scope(|scope| {
        let watching = scope.spawn(|| cell.borgctl_with(&slowly, &web.to_string()));
        cell.until(&name, |status| status["version"] == 2);
        cell.borgctl(&["kill", &name]).ok();
        watching.join().unwrap()
    });
    let said = watched.failed(8);
    assert!(said.contains("admin/up-killed: the job was killed"), "{said}");
    let said = cell.borgctl(&["rollout", "status", &name, "--watch"]).failed(8);
    assert!(said.contains("admin/up-killed: the job was killed"), "{said}");
}

#[test]
fn submit_of_a_live_job_says_what_updates_it_and_does_that_when_asked_to() {
    let cell = Cell::shared();
    let mut web = service("up-submit", 1, "exec sleep 1000");
    let name = cell.submit(&web);
    let before = cell.until_up(&name, 1);
    web["labels"] = json!({ "team": "search" });
    let said = cell.borgctl_with(&["submit", "-"], &web.to_string()).failed(5);
    assert!(said.contains("exists and is running: borgctl update FILE changes it"), "{said}");
    let both = json!([web, service("up-submit-new", 1, "exec sleep 1000")]).to_string();
    let said = cell.borgctl_with(&["submit", "-", "--update", "--wait"], &both).ok();
    assert!(said.contains("admin/up-submit: version 2"), "{said}");
    assert!(said.contains("admin/up-submit-new\n"), "{said}");
    assert_eq!(cell.until_up(&name, 1), before, "labels change in place");
    let again = cell.borgctl_with(&["-o", "json", "submit", "-", "--update"], &both).ok();
    let again: Value = serde_json::from_str(&again).unwrap();
    let versions: Vec<_> = again.as_array().unwrap().iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, [2, 1], "done again, it changes nothing");
    for name in [name.as_str(), "up-submit-new"] {
        cell.borgctl(&["kill", name]).ok();
    }
}
