//! Watching through the deaths of masters.

use crate::cell::{BORGCTL, Cell, Killed, job, within};
use serde_json::Value;
use std::fs::File;
use std::process::{Child, Command, Stdio};

/// A `borgctl watch` that runs beside the test and writes to a file.
struct Watch(Child, std::path::PathBuf);

impl Watch {
    fn begin(cell: &Cell, name: &str, args: &[&str]) -> Self {
        let path = cell.dir().join(name);
        let child = Command::new(BORGCTL)
            .env("BORG_CELL_DIR", cell.dir())
            .args(["-o", "json", "watch"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap())
            .spawn()
            .unwrap();
        Self(child, path)
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.1).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn has(&self, kind: &str, subject: &str) -> bool {
        self.events().iter().any(|event| event["kind"] == kind && event["subject"] == subject)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_watch_through_the_deaths_of_its_masters_sees_each_event_once_and_in_order() {
    let cell = Cell::up(3, 1);
    let all = Watch::begin(&cell, "all.jsonl", &["--after", "1"]);
    let own = Watch::begin(&cell, "own.jsonl", &["--after", "1", "w-2"]);
    let mut submitted = 0;
    for round in 0..3 {
        for _ in 0..4 {
            cell.submit(&job(&format!("w-{submitted}"), "batch", "true"));
            submitted += 1;
        }
        // Each master in turn, so that the watches lose theirs whichever it is; the first is gone
        // for good while the next dies, and each starts again without what it told before.
        let victim = [Killed::of(&cell.record().masters[round])];
        cell.kill(&victim);
        cell.submit(&job(&format!("w-{submitted}"), "batch", "true"));
        submitted += 1;
        cell.start_again(&victim);
        cell.leader();
        within("all masters are back", || {
            let masters = cell.json(&["masters"]);
            masters.as_array().unwrap().iter().all(|master| master["reachable"] == true)
        });
    }
    for n in 0..submitted {
        let name = format!("admin/w-{n}");
        cell.until(&name, |status| status["state"] == "finished");
        within("the watch sees it", || all.has("job.finished", &name));
    }
    let last = format!("admin/w-{}", submitted - 1);
    within("the watch sees the end", || all.has("job.finished", &last));
    let events = all.events();
    let indexes: Vec<u64> = events.iter().map(|event| event["index"].as_u64().unwrap()).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
    for n in 0..submitted {
        for kind in ["job.submitted", "job.finished"] {
            let name = format!("admin/w-{n}");
            let is_it = |event: &&Value| event["kind"] == kind && event["subject"] == name.as_str();
            assert_eq!(events.iter().filter(is_it).count(), 1, "{kind} of {name}");
        }
    }
    // Whoever looks afterwards, at whatever master, is told the same.
    let again = Watch::begin(&cell, "again.jsonl", &["--after", "1"]);
    within("the second look sees the end", || again.has("job.finished", &last));
    let known = again.events();
    let common = known.len().min(events.len());
    assert_eq!(events[..common], known[..common]);
    let of_one: Vec<_> = events
        .iter()
        .filter(|event| {
            let subject = event["subject"].as_str().unwrap();
            subject == "admin/w-2" || subject.starts_with("admin/w-2/")
        })
        .cloned()
        .collect();
    assert_eq!(own.events(), of_one);
}
