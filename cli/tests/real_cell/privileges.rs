//! Privileges, as an operator and a user meet them: refused, granted as the refusal says, used, taken back.

use crate::cell::{Cell, Run, borgctl, is_isolated, job, run, within};
use serde_json::{Value, json};

fn loosened(name: &str, script: &str, by: &[&str]) -> Value {
    let mut job = job(name, "service", script);
    job["task"]["loosen"] = json!(by);
    job
}

#[test]
fn a_user_is_refused_asks_an_admin_and_does_what_was_granted() {
    let cell = Cell::up(1, 1);
    let credentials = cell.credentials_dir("user", "ann");
    let ann = |args: &[&str], input: &str| -> Run {
        let mut command = borgctl();
        command.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials).args(args);
        run(&mut command, input)
    };
    let grep = "grep -E '^(Seccomp|NoNewPrivs|CapEff)' /proc/self/status; cat /proc/self/uid_map; \
                ls /dev | wc -l; sleep 1000";
    let all = ["listen", "system-calls", "machine-ids", "devices"];
    let loose = loosened("loose", grep, &all).to_string();

    let said = ann(&["submit", "-"], &loose).failed(6);
    let remedy = "task.loosen: listen needs the privilege listen, which user ann does not hold. Ask an \
                  admin for: borgctl privilege grant ann listen";
    assert!(said.contains(remedy), "{said}");
    let planned = ann(&["plan", "-"], &loose);
    assert!(planned.code == 1 && planned.out.contains(remedy), "{}{}", planned.out, planned.err);
    let said = ann(&["privilege", "grant", "ann", "listen"], "").failed(6);
    assert!(said.contains("user ann may not grant a privilege: that needs admin"), "{said}");
    cell.borgctl(&["privilege", "grant", "ann", "listening"]).failed(2);
    let said = cell.borgctl(&["privilege", "revoke", "ann", "listen"]).failed(4);
    assert!(said.contains("user ann was not granted the privilege listen"), "{said}");
    for privilege in all {
        cell.borgctl(&["privilege", "grant", "ann", privilege]).ok();
    }
    ann(&["submit", "-"], &loose).ok();
    let first = cell.until_up("ann/loose", 1);

    let status = cell.status("ann/loose");
    assert_eq!(status["loosened"], json!(all), "{status:#}");
    let table = ann(&["status", "loose"], "").ok();
    assert!(table.contains("listen, system-calls, machine-ids, devices"), "{table}");
    if is_isolated(&cell) {
        let of_the_machine =
            |said: &str| said.contains("NoNewPrivs:\t1") && said.contains("4294967295");
        let said = || ann(&["logs", "loose/0"], "").out;
        within("it has the machine's ids and no way to new rights", || of_the_machine(&said()));
    }

    for privilege in all {
        cell.borgctl(&["privilege", "revoke", "ann", privilege]).ok();
    }
    let mut more = loosened("more", grep, &["devices"]);
    ann(&["submit", "-"], &more.to_string()).failed(6);
    assert_eq!(cell.until_up("ann/loose", 1), first, "what was admitted goes on");
    let listed = cell.json(&["privilege", "list", "ann"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 4, "{listed:?}");
    for entry in listed {
        assert_eq!(entry["granted"], false, "{entry}");
        assert_eq!(entry["jobs"], json!(["ann/loose"]), "{entry}");
    }
    let table = ann(&["privilege", "list"], "").ok();
    assert_eq!(table.matches("not held").count(), 4, "{table}");
    ann(&["privilege", "list", "bob"], "").failed(6);
    ann(&["kill", "loose"], "").ok();
    assert_eq!(cell.json(&["privilege", "list"]), json!([]));

    more["task"]["loosen"] = json!(["admin"]);
    let said = ann(&["submit", "-"], &more.to_string()).failed(3);
    assert!(said.contains("task.loosen: admin is a privilege about the cell"), "{said}");
}

#[test]
fn whoever_was_made_an_administrator_does_as_admin_until_it_is_taken_back() {
    let cell = Cell::up(1, 1);
    let credentials = cell.credentials_dir("user", "ann");
    let ann = |args: &[&str]| -> Run {
        let mut command = borgctl();
        command.env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&credentials).args(args);
        run(&mut command, "")
    };
    let mut secret = job("secret", "service", "echo $TOKEN; sleep 1000");
    secret["task"]["env"] = json!({ "TOKEN": "hush" });
    let others = cell.submit(&secret);
    cell.until_up(&others, 1);
    let log = format!("{others}/0");
    ann(&["logs", &log]).failed(6);
    ann(&["kill", &others]).failed(6);
    ann(&["machine", "close", "m-1", "--reason", "x"]).failed(6);

    cell.borgctl(&["privilege", "grant", "ann", "admin"]).ok();
    within("ann reads the output", || ann(&["logs", &log]).out == "hush\n");
    ann(&["privilege", "grant", "bob", "monitoring"]).ok();
    let listed = cell.json(&["privilege", "list", "bob"]);
    assert_eq!((&listed[0]["by"], &listed[0]["granted"]), (&json!("ann"), &json!(true)));
    let said = ann(&["privilege", "revoke", "admin", "admin"]).failed(3);
    assert!(said.contains("admin holds every privilege"), "{said}");

    cell.borgctl(&["privilege", "revoke", "ann", "admin"]).ok();
    ann(&["logs", &log]).failed(6);
    ann(&["kill", &others]).failed(6);
    cell.borgctl(&["kill", &others]).ok();
}
