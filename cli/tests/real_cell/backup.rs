//! All masters are lost, with their directories: the cell goes on from a backup.

use crate::cell::{BORGCTL, Cell, Killed, borgctl, job, now, pids, processes_with, run, within};
use borg_proto::rpc::borglet_client;
use borg_proto::wire::pb;
use borgctl::local::Process;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tonic::Code;

/// How long a restored cell may take until it places tasks: it hears its machines out first.
const UNTIL_PLACED: Duration = Duration::from_secs(90);

fn processes(status: &Value) -> Vec<Process> {
    let find = |pid: u64| Process::find(u32::try_from(pid).unwrap()).unwrap();
    pids(status).into_iter().map(find).collect()
}

/// Makes the directories of all masters of a cell anew.
fn restore(cell: &Cell, backup: &Path) -> Vec<Killed> {
    let record = cell.record();
    let victims: Vec<_> = record.masters.iter().map(Killed::of).collect();
    cell.kill(&victims);
    let masters: Vec<String> =
        (1..).zip(&record.masters).map(|(n, m): (u64, _)| format!("{n}={}", m.address)).collect();
    for (number, master) in (1..).zip(&record.masters) {
        let dir = cell.layout().data(&master.name);
        fs::remove_dir_all(&dir).unwrap();
        let number: u64 = number;
        let make = || {
            let mut command = borgctl();
            command.args(["backup", "restore"]).arg(backup).arg("--dir").arg(&dir);
            command.args(["--number", &number.to_string(), "--masters", &masters.join(",")]);
            run(&mut command, "")
        };
        let said = make().ok();
        assert!(said.contains("epoch 2"), "{said}");
        let again = make().failed(5);
        assert!(again.contains("there is a log already"), "{again}");
    }
    victims
}

/// A poll as a master of the first epoch would send it, had one survived somewhere.
async fn order_of_the_old_epoch(cell: &Cell) -> tonic::Status {
    let credentials = cell.credentials("master", "1");
    let fence = pb::Fence { epoch: 1, term: 1 << 40, session: 1, generation: 1 };
    let poll = pb::PollRequest {
        cell: cell.name.clone(),
        machine: cell.record().borglets[0].name.clone(),
        fence: Some(fence),
        target: Some(pb::Target::default()),
        ..pb::PollRequest::default()
    };
    borglet_client(cell.borglet_channel(0, &credentials)).poll(poll).await.unwrap_err()
}

/// A backup of which a bit flipped, or the end is missing, is none.
fn refuses_damage(backup: &Path) {
    let whole = fs::read(backup).unwrap();
    let damaged = backup.with_extension("damaged");
    let refused = |bytes: &[u8], what: String| {
        fs::write(&damaged, bytes).unwrap();
        let said = run(Command::new(BORGCTL).args(["backup", "inspect"]).arg(&damaged), "");
        assert!(said.failed(3).contains("damaged"), "{what}");
    };
    for at in (0..whole.len()).step_by(whole.len() / 20).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        refused(&bytes, format!("bit of byte {at} of {}", whole.len()));
    }
    for end in [0, 8, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..end], format!("cut to {end} bytes"));
    }
}

#[tokio::test]
async fn a_cell_whose_masters_are_all_lost_goes_on_from_a_backup_and_no_task_notices() {
    let cell = Cell::up(5, 2);
    let mut web = job("web", "service", "exec sleep 1000");
    web["tasks"] = json!(3);
    web["task"]["ports"] = json!(["http"]);
    let web = cell.submit(&web);
    let web_before = processes(&cell.until(&web, |s| s["up"] == 3));
    // Placed again and again, until its file is there: the backup does not know its last incarnation.
    let go = cell.layout().shared().join("go");
    let script = format!("test -e {} || exit 1; exec sleep 1000", go.display());
    let mut late = job("late", "batch", &script);
    late["retries"] = json!(100);
    late["task"]["volumes"] = json!([{ "path": cell.layout().shared() }]);
    let late = cell.submit(&late);
    cell.until(&late, |s| s["task_list"][0]["failures"].as_u64() >= Some(1));

    let backup = cell.dir().join("log").join("cell.backup");
    let file = backup.to_str().unwrap();
    cell.borgctl(&["backup", "save", file]).ok();
    refuses_damage(&backup);
    let told: Value = serde_json::from_str(
        &run(borgctl().args(["backup", "inspect", file, "-o", "json"]), "").ok(),
    )
    .unwrap();
    assert_eq!((&told["cell"], &told["epoch"]), (&json!(cell.name), &json!(1)));
    assert_eq!((&told["machines"], &told["jobs"]), (&json!(2), &json!(2)));
    assert!(told["tasks"]["up"].as_u64() >= Some(3), "{told}");

    let incarnation = |s: &Value| s["task_list"][0]["incarnation"].as_u64().unwrap();
    let known = incarnation(&cell.status(&late));
    fs::write(&go, "").unwrap();
    let late_before = cell.until(&late, |s| s["up"] == 1 && incarnation(s) > known);
    let after_backup = format!("sleep {}", 700_000 + std::process::id());
    let lost = cell.submit(&job("lost", "service", &format!("exec {after_backup}")));
    cell.until_up(&lost, 1);
    let stranger = || processes_with(&after_backup).len();
    assert!(stranger() >= 1);

    let victims = restore(&cell, &backup);
    cell.start_again(&victims);

    // It leads again, in another epoch, and takes jobs.
    cell.leader();
    within("every master is of epoch 2", || {
        let masters = cell.json(&["masters"]);
        masters.as_array().unwrap().iter().all(|master| master["epoch"] == 2)
    });
    let new = cell.submit(&job("new", "batch", "true"));
    let late_after = cell.until(&late, |s| s["up"] == 1);
    assert_eq!(processes(&late_after), processes(&late_before), "adopted, not started again");
    assert_eq!(incarnation(&late_after), incarnation(&late_before));
    let refused = order_of_the_old_epoch(&cell).await;
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let began = now();
    while cell.status(&new)["state"] != "finished" {
        assert!(began.elapsed() < UNTIL_PLACED, "{}", cell.status(&new));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(processes(&cell.until(&web, |s| s["up"] == 3)), web_before);
    assert!(web_before.iter().all(Process::is_running));

    // What was submitted after the backup runs on, is told of, and ends when the admin says so.
    assert!(stranger() >= 1);
    let notes = cell.json(&["masters"]).to_string();
    assert!(notes.contains("restored: 1 incarnations run that the cell does not know"), "{notes}");
    cell.borgctl(&["backup", "settle"]).ok();
    within("the unknown task has ended", || stranger() == 0);
    assert_eq!(processes(&cell.status(&web)), web_before);
    assert_eq!(processes(&cell.status(&late)), processes(&late_before));
}

#[test]
fn a_file_that_is_no_backup_is_told_from_one_that_is_damaged_or_newer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let inspect = || run(Command::new(BORGCTL).args(["backup", "inspect"]).arg(&file), "");
    assert!(inspect().failed(4).contains("No such file"));
    for (bytes, text) in [
        (&b"something else"[..], "this is no checkpoint, or it is damaged"),
        // A state without its checksums.
        (b"BORGCELL\0\0\0\x01", "this is no checkpoint, or it is damaged"),
    ] {
        fs::write(&file, bytes).unwrap();
        let said = inspect().failed(3);
        assert!(said.contains(text), "{said}");
    }
}
