//! Quota, as an operator and a user meet it: refused, given as the refusal says, used and refunded.

use crate::cell::{Cell, Run, borgctl, job, run};
use serde_json::{Value, json};

fn production(name: &str) -> Value {
    let mut job = job(name, "service", "sleep 1000");
    job["priority"] = json!(120);
    job
}

#[test]
fn a_user_is_refused_asks_an_operator_and_uses_what_it_is_given() {
    let cell = Cell::up(1, 1);
    let credentials = cell.credentials_dir("user", "ann");
    let ann = |args: &[&str], input: &str| -> Run {
        let mut command = borgctl();
        command.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials).args(args);
        run(&mut command, input)
    };
    let submit = |name: &str| ann(&["submit", "-"], &production(name).to_string());
    // The machine must have said what it has before prod quota can be sold.
    cell.until_up(&cell.submit(&job("first", "service", "sleep 1000")), 1);

    submit("open").ok();
    cell.borgctl(&["quota", "enforce", "production"]).ok();
    let said = submit("web").failed(6);
    assert!(said.contains("user ann has no quota in band production"), "{said}");
    let (_, remedy) = said.split_once("Ask an operator for: borgctl ").unwrap();
    let remedy: Vec<&str> = remedy.split_whitespace().take(5).collect();
    assert_eq!(remedy, ["quota", "set", "ann", "production", "cpu=0.1,ram=128MiB"]);
    assert!(ann(&remedy, "").failed(6).contains("user ann may not set quota: that needs admin"));
    cell.borgctl(&remedy).ok();
    submit("web").ok();
    let said = submit("more").failed(3);
    assert!(said.contains("cpu: the job asks for 0.05, granted 0.1, used 0.1"), "{said}");

    let table = ann(&["quota", "ann"], "").ok();
    let row = table.lines().find(|line| line.contains("ram")).unwrap();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row[..6], ["ann", "production", "ram", "128M", "128M", "0"], "{table}");

    let sell = ["quota", "set", "ann", "production", "cpu=1000000,ram=1GiB", "--until", "+90d"];
    let said = cell.borgctl(&sell).failed(3);
    assert!(said.contains("more production and monitoring quota would be sold"), "{said}");
    cell.borgctl(&[&sell[..], &["--oversell"]].concat()).ok();
    let shown = cell.json(&["quota"]);
    let ann_has = shown.as_array().unwrap().iter().find(|quota| quota["user"] == "ann").unwrap();
    assert_eq!(ann_has["enforced"], true);
    assert_eq!(ann_has["used"]["cpu_milli"], 100);
    assert_eq!(ann_has["grants"][0]["oversold"], true);
    assert_eq!(ann_has["grants"][0]["in_force"], true);
    assert!(ann_has["read"]["index"].as_u64() > Some(0));

    cell.borgctl(&["quota", "remove", "ann", "production"]).ok();
    cell.borgctl(&["quota", "remove", "ann", "production"]).failed(4);
    let web = cell.status("ann/web");
    assert_eq!(web["state"], "running", "what runs goes on: {web:#}");
    ann(&["kill", "web"], "").ok();
    ann(&["kill", "open"], "").ok();
    assert_eq!(cell.json(&["quota", "ann"]), json!([]), "all of it is refunded");
    cell.borgctl(&["quota", "open", "production"]).ok();
    submit("again").ok();

    let said = cell.borgctl(&["quota", "enforce", "free"]).failed(3);
    assert!(said.contains("band free needs no quota"), "{said}");
    cell.borgctl(&["quota", "set", "ann", "prod", "cpu=1"]).failed(2);
    cell.borgctl(&["quota", "set", "ann", "mid", "cpu"]).failed(2);
    let past = ["quota", "set", "ann", "mid", "cpu=1", "--until", "2020-01-01"];
    assert!(cell.borgctl(&past).failed(3).contains("is for no time"));
}
