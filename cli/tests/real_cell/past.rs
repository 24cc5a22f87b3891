//! The cell as it was: `--at` and `history`.

use crate::cell::{Cell, Killed, job, within};
use serde_json::Value;
use std::path::Path;

/// Index and text of the note that says of which moment an answer is.
fn moment(said: &str) -> u64 {
    let (_, rest) = said.split_once("as of entry ").unwrap_or_else(|| panic!("no moment: {said}"));
    rest.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn a_moment_of_the_past_is_shown_as_it_was() {
    let cell = Cell::shared();
    let name = cell.submit(&job("was-here", "batch", "true"));
    let over = cell.until(&name, |status| status["state"] == "finished");
    assert_eq!(over["state"], "finished");
    // By index: right after the entry, and from any master.
    let now = cell.borgctl(&["status", "--at", "-0s", &name]);
    let (newest, said) = (now.err.clone(), now.ok());
    assert!(said.contains("finished"), "{said}");
    let newest = moment(&newest);
    let mut seen = Vec::new();
    for index in (1..=newest).rev() {
        let run = cell.borgctl(&["-o", "json", "status", "--at", &index.to_string(), &name]);
        if run.code == 4 {
            // Before it was submitted.
            break;
        }
        assert_eq!(moment(&run.err), index);
        let status: Value = serde_json::from_str(&run.ok()).unwrap();
        let state = status["state"].as_str().unwrap().to_owned();
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    assert_eq!(seen, ["finished", "running", "pending"], "backwards");

    let far = (newest + 1_000_000).to_string();
    let said = cell.borgctl(&["machines", "--at", &far]);
    assert!(said.err.contains("in the future"), "{said:?}");
    assert_ne!(said.code, 0);
    let said = cell.borgctl(&["--at", "2020-01-01T00:00:00Z", "status"]).failed(3);
    assert!(said.contains("the cell did not exist"), "{said}");
    let said = cell.borgctl(&["why", "--at", "5", &format!("{name}/0")]).failed(2);
    assert!(
        said.contains(
            "only status, machines, drains, quota, privilege list, policy, reclamation, resolve"
        ),
        "{said}"
    );
    cell.borgctl(&["history"]).ok();
}

/// A cell that is busy, loses its leader, and drains a machine: what its schedulers decided is decided again, byte for
/// byte, and nothing that is altered passes for the same.
#[test]
fn decisions_of_a_real_cell_are_taken_again_and_its_past_is_gone_through() {
    let cell = Cell::up(3, 2);
    let machines = cell.json(&["machines"]);
    let cores = machines[0]["capacity"]["cpu_milli"].as_u64().unwrap();
    let sized = |name: &str, kind: &str, tasks: u64, priority: u64| {
        let mut job = job(name, kind, "exec sleep 1000");
        job["tasks"] = tasks.into();
        job["priority"] = priority.into();
        job["task"]["limit"]["cpu_milli"] = (cores / 2).into();
        job
    };
    let fill = cell.submit(&sized("fill", "batch", 4, 100));
    cell.until_up(&fill, 4);
    let web = cell.submit(&sized("web", "service", 1, 200));
    cell.until_up(&web, 1);
    let first = cell.leader();
    let daemons = cell.record().masters;
    let victims = [Killed::of(&daemons[first])];
    cell.kill(&victims);
    cell.submit(&sized("more", "service", 1, 200));
    cell.until_up("more", 1);
    cell.start_again(&victims);
    let drained = machines[0]["name"].as_str().unwrap();
    cell.borgctl(&["drain", drained, "--reason", "a test", "--now", "--force-with", "1"]).ok();
    let second = cell.leader();
    assert_ne!(first, second);
    let state = |at: &str| cell.json(&["status", "--at", at]);
    let gone = || {
        cell.json(&["machines"])
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["name"] == drained && m["tasks"] == 0)
    };
    within("the machine is empty", gone);

    let folder = tempfile::tempdir().unwrap();
    let dirs = [first, second].map(|at| {
        let dir = folder.path().join(format!("from-{at}"));
        let address = daemons[at].address.clone();
        let save = ["backup", "history", dir.to_str().unwrap(), "--from", "-1h", "--master"];
        cell.borgctl(&[save.as_slice(), &[address.as_str()]].concat()).ok();
        dir
    });
    for dir in &dirs {
        let verify = ["-o", "json", "fauxmaster", "verify", dir.to_str().unwrap()];
        let told: Value = serde_json::from_str(&cell.borgctl(&verify).ok()).unwrap();
        let said = told["summary"][0].as_str().unwrap();
        assert!(said.starts_with("Identical as far as it was recorded: "), "{told}");
        let sum = |what: &str| -> u64 {
            let all = told["tables"]["recordings"].as_array().unwrap();
            all.iter().map(|one| one[what].as_u64().unwrap()).sum()
        };
        assert!(sum("passes") > 5 && sum("decisions") > 0, "{told}");
    }
    let dir = dirs[0].to_str().unwrap();
    let commands = "until evicted; events; diff; state; go 3; step; until job.submitted";
    let told = cell.borgctl(&["fauxmaster", "step", dir, "-c", commands]).ok();
    assert!(told.contains("task.evicted admin/fill/") && told.contains("pending"), "{told}");
    let why = |dir: &Path| {
        cell.borgctl(&["fauxmaster", "why", dir.to_str().unwrap(), "admin/fill/0"]).ok()
    };
    let [ended, leads] = [&dirs[0], &dirs[1]].map(|dir| why(dir));
    assert!(
        leads.starts_with("admin/fill/0: ") && !leads.contains("by the state alone"),
        "{leads}"
    );
    assert!(ended.contains("by the state alone"), "it led no more by then: {ended}");
    let shown = cell.borgctl(&["fauxmaster", "show", "--history", dir, "--when", "12"]).ok();
    assert!(shown.contains("machines;"), "{shown}");
    assert!(state("12").is_array());
    // Whatever byte is altered: refused, cut short or different, and never the same with as much compared. Where the
    // answer comes from is left out: it has the digest of what was read.
    let verify = ["-o", "json", "fauxmaster", "verify", dir];
    let compared = |told: &str| {
        let told: Value = serde_json::from_str(told).unwrap();
        (told["summary"].clone(), told["tables"].clone())
    };
    let whole = compared(&cell.borgctl(&verify).ok());
    let recording = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = recording.collect();
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 7 + 1) {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            std::fs::write(&file, altered).unwrap();
            let run = cell.borgctl(&verify);
            assert!(run.code != 0 || compared(&run.ok()) != whole, "{}: byte {at}", file.display());
        }
        for length in [0, 1, bytes.len() / 3, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..length]).unwrap();
            let run = cell.borgctl(&verify);
            let told = format!("{}: cut to {length}", file.display());
            assert!(run.code != 0 || compared(&run.ok()) != whole, "{told}");
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(compared(&cell.borgctl(&verify).ok()), whole);
}
