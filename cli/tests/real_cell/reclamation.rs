//! What is lent of the room that tasks hold and do not use.

use crate::cell::{Cell, borgctl, job, run, within};
use borg_proto::wire::pb;
use serde_json::{Value, json};
use tonic::Code;

#[test]
fn how_much_is_lent_is_shown_set_within_bounds_and_by_the_admin_alone() {
    let cell = Cell::up(1, 1);
    let shown = cell.json(&["reclamation"]);
    assert_eq!((&shown["named"], &shown["is_set"]), (&json!("baseline"), &json!(false)));
    cell.borgctl(&["reclamation", "set", "medium", "hold-s=60"]).ok();
    let shown = cell.json(&["reclamation"]);
    assert_eq!((&shown["named"], &shown["is_set"]), (&json!("medium"), &json!(true)));
    let hold = &shown["numbers"][0];
    assert_eq!(
        (&hold["name"], &hold["value"], &hold["of_set"]),
        (&json!("hold-s"), &json!(60), &json!(300))
    );
    let table = cell.borgctl(&["reclamation"]).ok();
    let hold = table.lines().find(|line| line.starts_with("hold-s")).unwrap();
    assert!(hold.contains("60") && hold.contains("0 to 86400"), "{table}");

    let said = cell.borgctl(&["reclamation", "set", "on"]).failed(2);
    assert!(said.contains("is no set: off, baseline, medium, aggressive, daily"), "{said}");
    let said = cell.borgctl(&["reclamation", "set", "most-percent=99"]).failed(2);
    assert!(said.contains("most-percent: 99 is outside 100 to 400"), "{said}");
    let credentials = cell.credentials_dir("user", "ann");
    let mut ann = borgctl();
    ann.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials);
    let said = run(ann.args(["reclamation", "set", "off"]), "").failed(6);
    assert!(said.contains("user ann may not set how much is lent: that needs admin"), "{said}");
}

#[tokio::test]
async fn bad_numbers_are_refused_by_field() {
    let cell = Cell::shared();
    let mut client = cell.admin(0);
    let numbers = |name: &str, value| [(name.to_owned(), value)].into();
    let set = |named: &str, numbers| pb::SetReclamationRequest {
        named: named.into(),
        numbers,
        request_id: "bad-numbers".into(),
    };
    for (request, says) in [
        (set("", [].into()), "named: nothing is given"),
        (set("x", [].into()), "named: \"x\" is no set: off, baseline"),
        (
            set("", numbers("margin-percent", 401)),
            "numbers.margin-percent: 401 is outside 0 to 400",
        ),
        (set("", numbers("x", 1)), "numbers: \"x\" is no number"),
    ] {
        let status = client.set_reclamation(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{says}: {}", status.message());
    }
}

/// A backup holds what tasks lend, and questions are asked of it with that.
#[test]
fn what_tasks_lend_is_in_a_backup() {
    let cell = Cell::up(3, 1);
    cell.borgctl(&["reclamation", "set", "aggressive", "hold-s=0", "decay-permille=1000"]).ok();
    let mut sleeper = job("sleeper", "service", "exec sleep 1000");
    // Less than a part of the machine is news only a minute later.
    sleeper["task"]["limit"]["cpu_milli"] = json!(1_000);
    cell.submit(&sleeper);
    cell.until_up("sleeper", 1);
    let file = cell.dir().join("backup");
    let file = file.to_str().unwrap();
    within("the sleeper lends", || {
        cell.borgctl(&["backup", "save", file]).ok();
        let shown = cell.json(&["fauxmaster", "show", "--checkpoint", file]);
        shown["provenance"]["notes"][0]
            .as_str()
            .is_some_and(|note| note.starts_with("1 tasks lend"))
    });
    let contents = cell.json(&["backup", "inspect", file]);
    assert_eq!((&contents["jobs"], &contents["lend"]), (&json!(1), &json!(1)), "{contents:#}");
    // Of a master as it is: its scheduler is not asked.
    cell.borgctl(&["backup", "save", "--stale", file]).ok();
    let contents = cell.json(&["backup", "inspect", file]);
    assert_eq!((&contents["jobs"], &contents["lend"]), (&json!(1), &json!(null)), "{contents:#}");
}

/// Any master knows what the leader believes.
#[test]
fn what_tasks_need_is_listed_by_machine_at_any_master() {
    let cell = Cell::up(3, 2);
    let mut sleeper = job("sleeper", "service", "exec sleep 1000");
    sleeper["tasks"] = json!(2);
    cell.submit(&sleeper);
    cell.until_up("sleeper", 2);
    let listed = |cell: &Cell| cell.json(&["top", "--reclaimed"]);
    let limits = |of: &Value| of["cell"]["other_limits"]["ram_bytes"].as_u64().unwrap_or(0);
    let machines = |of: &Value| of["machines"].as_array().map_or(0, Vec::len);
    within("both are looked at", || {
        let all = listed(&cell);
        machines(&all) == 2 && limits(&all) > 0
    });
    for _ in 0..6 {
        // Each call goes to a master of chance.
        let all = listed(&cell);
        assert_eq!(machines(&all), 2, "{all:#}");
        assert!(limits(&all) > 0, "{all:#}");
    }
    let table = cell.borgctl(&["top", "--reclaimed"]).ok();
    assert!(table.starts_with("MACHINE") && table.contains("the cell"), "{table}");
}
