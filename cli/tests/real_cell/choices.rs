//! What an operator chooses for a cell: how its scheduler decides, and whose tasks its machines take.

use crate::cell::{Cell, borgctl, job, run};
use borg_proto::wire::pb;
use serde_json::{Value, json};
use tonic::Code;

fn weight(policy: &Value, name: &str) -> i64 {
    let weights = policy["weights"].as_array().unwrap();
    weights.iter().find(|weight| weight["name"] == name).unwrap()["weight"].as_i64().unwrap()
}

#[test]
fn the_scheduling_policy_is_shown_set_within_bounds_and_by_the_admin_alone() {
    let cell = Cell::up(1, 1);
    let policy = cell.json(&["policy"]);
    assert_eq!((&policy["policy"], &policy["is_set"]), (&json!("hybrid"), &json!(false)));
    assert_eq!((weight(&policy, "fit"), weight(&policy, "strand")), (100, 100));
    cell.borgctl(&["policy", "set", "best-fit", "fit=120", "rack-crowd=-80"]).ok();
    let policy = cell.json(&["policy"]);
    assert_eq!((&policy["policy"], &policy["is_set"]), (&json!("best-fit"), &json!(true)));
    assert_eq!((weight(&policy, "fit"), weight(&policy, "strand")), (120, 0));
    assert_eq!(weight(&policy, "rack-crowd"), -80);
    assert!(policy["read"]["index"].as_u64() > Some(0));
    let table = cell.borgctl(&["policy"]).ok();
    let fit = table.lines().find(|line| line.starts_with("fit ")).unwrap();
    assert!(
        fit.contains("120") && fit.contains("-1000 to 1000") && fit.contains("stays free"),
        "{table}"
    );

    let said = cell.borgctl(&["policy", "set", "bestfit"]).failed(2);
    assert!(said.contains("is no policy: hybrid, best-fit, worst-fit"), "{said}");
    let said = cell.borgctl(&["policy", "set", "strand=-1"]).failed(2);
    assert!(said.contains("strand: -1 is outside 0 to 1000"), "{said}");
    cell.borgctl(&["policy", "set", "fit=1", "fit=2"]).failed(2);
    cell.borgctl(&["policy", "set"]).failed(2);
    let credentials = cell.credentials_dir("user", "ann");
    let mut ann = borgctl();
    ann.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials);
    let said = run(ann.args(["policy", "set", "worst-fit"]), "").failed(6);
    assert!(
        said.contains("user ann may not set the scheduling policy: that needs admin"),
        "{said}"
    );

    // As it was before.
    let before = cell.json(&["policy", "--at", "1"]);
    assert_eq!(before["is_set"], false, "{before:#}");
}

#[tokio::test]
async fn a_bad_policy_or_access_is_refused_by_field() {
    let cell = Cell::shared();
    let mut client = cell.admin(0);
    let weights = |name: &str, weight| [(name.to_owned(), weight)].into();
    let set = |policy: &str, weights| pb::SetPolicyRequest {
        policy: policy.into(),
        weights,
        request_id: "bad-policy".into(),
    };
    for (request, says) in [
        (set("", [].into()), "policy: nothing is given"),
        (set("x", [].into()), "policy: \"x\" is no policy: hybrid, best-fit, worst-fit"),
        (set("", weights("fit", 1001)), "weights.fit: 1001 is outside -1000 to 1000"),
        (set("", weights("x", 1)), "weights: \"x\" is no weight"),
    ] {
        let status = client.set_policy(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{says}: {}", status.message());
    }
    let keep = |machines: &[&str], users: &[&str], everybody| pb::KeepMachinesRequest {
        machines: machines.iter().map(ToString::to_string).collect(),
        users: users.iter().map(ToString::to_string).collect(),
        everybody,
        request_id: "bad-keep".into(),
    };
    let many: Vec<String> = (0..65).map(|n| format!("u{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (request, says) in [
        (keep(&[], &["ann"], false), "machines: nothing is given"),
        (keep(&["m-1"], &[], false), "users: nobody is named"),
        (keep(&["m-1"], &["ann"], true), "users: users and everybody are given"),
        (keep(&["m-1"], &["a b"], false), "users[0]"),
        (keep(&["m-1"], &many, false), "users: 65 entries are more than 64"),
    ] {
        let status = client.keep_machines(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{says}: {}", status.message());
    }
    let close = |reason: &str| pb::CloseMachinesRequest {
        machines: vec!["m-1".into()],
        reason: reason.into(),
        request_id: "bad-close".into(),
    };
    for (reason, says) in [
        (" ".to_owned(), "reason: nothing is given"),
        ("x".repeat(257), "reason"),
        ("two\nlines".to_owned(), "reason"),
    ] {
        let status = client.close_machines(close(&reason)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{says}: {}", status.message());
    }
}

#[test]
fn machines_are_kept_for_users_and_closed_and_what_runs_stays() {
    let cell = Cell::up(1, 2);
    let names: Vec<String> = cell
        .json(&["machines"])
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap().to_owned())
        .collect();
    let [one, two] = names.as_slice() else { panic!("{names:?}") };
    cell.until_up(&cell.submit(&job("stays", "service", "sleep 1000")), 1);
    cell.borgctl(&["machine", "keep", one, two, "--for", "ann,bob"]).ok();
    cell.borgctl(&["machine", "close", two, "--reason", "bad disk"]).ok();
    let shown = cell.json(&["machines"]);
    assert_eq!(shown[0]["kept_for"], json!(["ann", "bob"]));
    assert_eq!((&shown[0]["closed"], &shown[1]["closed"]["by"]), (&Value::Null, &json!("admin")));
    let table = cell.borgctl(&["machines"]).ok();
    let takes: Vec<&str> = table.lines().filter_map(|line| line.split("  ").last()).collect();
    assert_eq!(takes[1..], ["ann,bob", "none: bad disk"], "{table}");

    // Nobody's task of those who are not named is placed, and `why` and `submit` say so.
    let said =
        cell.borgctl_with(&["submit", "-"], &job("waits", "service", "sleep 1000").to_string());
    assert!(said.err.contains("no machine of the cell could run a task of it"), "{said:?}");
    let why = cell.json(&["why", "waits/0"]);
    let reasons = why["rejections"].as_array().unwrap();
    let counted = |reason: &str| {
        let found = reasons.iter().find(|r| r["reason"].as_str().unwrap().contains(reason));
        found.map(|r| r["machines"].clone())
    };
    assert_eq!(counted("kept for other users"), Some(json!(2)), "{why:#}");
    assert_eq!(counted("are closed"), Some(json!(1)), "{why:#}");
    assert!(why["summary"].as_str().unwrap().contains("1 is closed"), "{why:#}");
    assert_eq!(cell.status("admin/stays")["running"], 1, "what runs stays");

    // Plans know it too.
    let planned = cell.borgctl_with(
        &["-o", "json", "plan", "-"],
        &job("planned", "service", "sleep 9").to_string(),
    );
    let told: Value = serde_json::from_str(&planned.out).unwrap();
    assert!(
        told["jobs"][0]["why"].as_str().unwrap().contains("2 are kept for other users"),
        "{told:#}"
    );

    cell.borgctl(&["machine", "keep", two, "--for", "all"]).ok();
    cell.borgctl(&["machine", "open", two]).ok();
    cell.until_up("admin/waits", 1);
    assert_eq!(cell.status("admin/waits")["task_list"][0]["machine"], json!(two));

    let said = cell.borgctl(&["machine", "open", "m-99"]).failed(4);
    assert!(said.contains("there is no machine m-99"), "{said}");
    cell.borgctl(&["machine", "close", one]).failed(2);
    cell.borgctl(&["machine", "keep", one]).failed(2);
    let said = cell.borgctl(&["machine", "keep", one, "--for", "ann,all"]).failed(2);
    assert!(said.contains("all stands alone"), "{said}");
    let credentials = cell.credentials_dir("user", "ann");
    let mut ann = borgctl();
    ann.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials);
    let said = run(ann.args(["machine", "open", one]), "").failed(6);
    assert!(said.contains("user ann may not open machines: that needs admin"), "{said}");
}
