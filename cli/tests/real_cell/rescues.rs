//! What allocs leave behind, saved by their log savers on real machines. The example of it runs here.

use crate::cell::{Cell, borgctl, now, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cell of two machines, one of which can hold the alloc when the other is drained, and an archive for its lines.
struct Rig {
    cell: Cell,
    archive: PathBuf,
}

impl Rig {
    fn up() -> Self {
        let cell = Cell::up(1, 2);
        let archive = cell.dir().join("shared/archive");
        fs::create_dir_all(&archive).unwrap();
        // Tasks may have ids of their own.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&archive, open).unwrap();
        Self { cell, archive }
    }

    /// Submits the example, whose log saver looks so rarely that it saves nothing in time; gives the server's machine.
    fn submit(&self) -> String {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/server-with-logsaver");
        let file = format!("{dir}/server-with-logsaver.bcl");
        let archive = format!("archive={}", self.archive.display());
        let args = ["submit", "--wait", &file, "--arg", &archive, "--arg", "every=3600"];
        self.cell.borgctl(&args).ok();
        self.cell.until_up("admin/server", 1);
        self.cell.until_up("admin/logsaver", 1);
        self.machine()
    }

    fn machine(&self) -> String {
        let status = self.cell.status("admin/server");
        status["task_list"][0]["machine"].as_str().unwrap_or_default().to_owned()
    }

    fn drain(&self, machine: &str) {
        self.cell.borgctl(&["drain", machine, "--reason", "new kernel"]).ok();
    }

    /// Waits until what is kept is as wanted.
    #[track_caller]
    fn until_kept(&self, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = now();
        loop {
            let told = self.cell.json(&["rescue"]);
            let kept = told["kept"].as_array().unwrap();
            if done(kept) {
                return kept.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{told:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The directories of allocs on the disk of a machine.
    fn directories(&self, machine: &str) -> Vec<PathBuf> {
        let data = self.cell.layout().data(machine).join("data");
        let all = fs::read_dir(data).into_iter().flatten().filter_map(Result::ok);
        all.map(|entry| entry.path()).collect()
    }

    fn archived(&self) -> BTreeSet<String> {
        lines(&self.archive.join("lines"))
    }
}

fn lines(path: &Path) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn every_line_that_a_server_wrote_before_its_alloc_moved_is_saved_and_the_room_is_free_then() {
    let rig = Rig::up();
    let (cell, first) = (&rig.cell, rig.submit());
    let left = rig.directories(&first);
    assert_eq!(left.len(), 1, "{left:?}");
    let log = left[0].join("log");
    crate::cell::within("the server writes", || lines(&log).len() > 20);

    // Stopped and started, resized where it is: both go on where they were, with what is there.
    let written = lines(&log);
    cell.borgctl(&["stop", "admin/server"]).ok();
    cell.borgctl(&["resize", "room", "--cpu", "0.3"]).ok();
    cell.borgctl(&["start", "admin/server"]).ok();
    cell.until_up("admin/server", 1);
    assert_eq!((rig.machine(), rig.directories(&first)), (first.clone(), left));
    crate::cell::within("it goes on", || lines(&log).len() > written.len() + 5);
    assert!(lines(&log).is_superset(&written));
    assert_eq!(cell.borgctl(&["rescue"]).ok().trim(), "nothing is kept of any alloc");

    // One that fails, until the archive opens.
    fs::write(rig.archive.join("shut"), "").unwrap();
    rig.drain(&first);
    let failed = |kept: &[Value]| {
        let run = kept.first().and_then(|one| one["run"].as_str());
        run.is_some_and(|run| cell.status(run)["task_list"][0]["failures"] != 0)
    };
    let kept = rig.until_kept(failed);
    cell.until_up("admin/server", 1);
    assert_ne!(rig.machine(), first);
    assert_eq!((&kept[0]["alloc"], &kept[0]["machine"]), (&json!("admin/room/0"), &json!(first)));
    assert!(kept[0]["bytes"].as_u64().unwrap() > 0, "{:#}", kept[0]);
    let run = cell.status("admin/logsaver-rescue-1");
    assert_eq!(run["rescues"], "admin/room/0");
    let why = cell.borgctl(&["why", "admin/logsaver-rescue-1/0"]).ok();
    assert!(why.contains(&first), "{why}");
    let drains = cell.borgctl(&["drains"]).ok();
    assert!(drains.contains("data of 1 allocs to rescue"), "{drains}");
    // Nobody else writes there any more: all of it has to be saved.
    let all = lines(&log);
    assert!(all.len() > written.len());
    assert!(rig.archived().is_empty(), "the log saver did not look yet");
    fs::remove_file(rig.archive.join("shut")).unwrap();
    cell.borgctl(&["rescue", "room/0", "--now"]).ok();
    rig.until_kept(<[Value]>::is_empty);
    let missing: Vec<_> = all.difference(&rig.archived()).cloned().collect();
    assert!(missing.is_empty(), "{} of {} are not saved", missing.len(), all.len());
    cell.until("admin/logsaver-rescue-1", |run| run["state"] == "finished");
    let logs = cell.borgctl(&["logs", "admin/logsaver-rescue-1/0"]).ok();
    assert!(logs.contains(&format!("saved {} lines of admin/room/0", all.len())), "{logs}");
    crate::cell::within("the room is free", || rig.directories(&first).is_empty());
    let began = now();
    while !cell.json(&["drains"])["machines"][0]["empty_since_ms"].is_u64() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:#}", cell.json(&["drains"]));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kept_data_survives_the_borglet_is_dropped_by_its_owner_and_nonsense_is_named() {
    let rig = Rig::up();
    let (cell, first) = (&rig.cell, rig.submit());
    let log = rig.directories(&first)[0].join("log");
    crate::cell::within("the server writes", || lines(&log).len() > 5);
    fs::write(rig.archive.join("shut"), "").unwrap();
    rig.drain(&first);
    rig.until_kept(|kept| kept.first().is_some_and(|one| one["run"].is_string()));
    let record = cell.record();
    let borglet = record.daemons().find(|daemon| daemon.name == first).unwrap();
    let killed = crate::cell::Killed::of(borglet);
    cell.kill(std::slice::from_ref(&killed));
    cell.start_again(&[killed]);
    assert!(log.exists(), "the next borglet keeps it");
    let credentials = cell.credentials_dir("user", "ann");
    let mut ann = borgctl();
    ann.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials);
    let said = run(ann.args(["rescue", "admin/room/0", "--drop"]), "").failed(6);
    assert!(said.contains("user ann is neither the owner of admin/room nor admin"), "{said}");
    for (args, code, says) in [
        (&["rescue", "room/7"][..], 4, "nothing is kept of alloc admin/room/7"),
        (&["rescue", "room/7", "--now"], 4, "nothing is kept of alloc admin/room/7"),
        (&["rescue", "room/0", "--now", "--number", "9"], 4, "nothing is kept"),
        (&["rescue", "room"], 2, "is not JOB/INDEX"),
        (&["rescue", "--now"], 2, "required"),
        (&["rerun", "logsaver-rescue-1", "--tasks", "0"], 3, "borgctl rescue says"),
    ] {
        let said = cell.borgctl(args).failed(code);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    cell.borgctl(&["rescue", "room/0", "--drop"]).ok();
    rig.until_kept(<[Value]>::is_empty);
    cell.until("admin/logsaver-rescue-1", |run| run["state"] == "killed");
    crate::cell::within("what is dropped goes", || rig.directories(&first).is_empty());
}
