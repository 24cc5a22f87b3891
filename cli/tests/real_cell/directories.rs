//! A data directory has one owner, for ever and at a time.

use crate::cell::{BORGCTL, Run, borgctl, issue, now, run};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Dropped(Child);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn borgmaster(dir: &Path, replica: u32, data: &str) -> Command {
    let mut command = Command::new(BORGCTL);
    command.args(["borgmaster", "--listen", "127.0.0.1:0"]);
    command.args(["--masters", "1=127.0.0.1:1,2=127.0.0.1:2"]);
    command.arg("--creds").arg(dir.join(format!("master-{replica}")));
    command.arg("--dir").arg(dir.join(data));
    command
}

/// Runs a master that is expected to refuse to start.
fn refused(mut command: Command) -> String {
    // Should it start after all, it is ended, and has no exit code.
    let mut limited = Command::new("timeout");
    limited.args(["-s", "KILL", "10"]).arg(command.get_program()).args(command.get_args());
    command = limited;
    let Run { code, out, err } = run(&mut command, "");
    assert_eq!(code, 1, "{out}{err}");
    format!("{out}{err}")
}

#[test]
fn a_data_directory_in_use_or_of_another_replica_is_refused_with_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(borgctl().args(["cert", "init", "lab", "--ca"]).arg(dir.join("ca")), "").ok();
    for replica in ["1", "2", "3"] {
        issue(&dir.join("ca"), "master", replica, &dir.join(format!("master-{replica}")));
    }
    // Without a log it neither votes nor serves: it waits for a cell that takes it in.
    let mut waits = Command::new("timeout");
    let waiting = borgmaster(dir, 1, "data-1");
    waits.args(["-s", "KILL", "2"]).arg(waiting.get_program()).args(waiting.get_args());
    let said = run(&mut waits, "");
    assert!(said.err.contains("no log here") && said.err.contains("--new"), "{said:?}");
    assert!(!dir.join("data-1/log").exists(), "{said:?}");
    let mut first = borgmaster(dir, 1, "data-1");
    let first = first.arg("--new").stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    let first = Dropped(first.unwrap());
    let began = now();
    while !dir.join("data-1/log").exists() || began.elapsed() < Duration::from_millis(500) {
        assert!(began.elapsed() < Duration::from_secs(10), "no directory was made");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = refused(borgmaster(dir, 1, "data-1"));
    assert!(said.contains("in use"), "{said}");
    drop(first);
    let said = refused(borgmaster(dir, 2, "data-1"));
    assert!(said.contains("data-1") && said.contains("replica 1"), "{said}");
    // The same place in another cell.
    run(borgctl().args(["cert", "init", "other", "--ca"]).arg(dir.join("other-ca")), "").ok();
    issue(&dir.join("other-ca"), "master", "1", &dir.join("other/master-1"));
    let mut foreign = Command::new(BORGCTL);
    foreign.args(["borgmaster", "--listen", "127.0.0.1:0", "--masters", "1=127.0.0.1:1"]);
    foreign.arg("--creds").arg(dir.join("other/master-1")).arg("--dir").arg(dir.join("data-1"));
    let said = refused(foreign);
    assert!(said.contains("other") && said.contains("lab"), "{said}");
    // A master that the others do not know.
    let said = refused(borgmaster(dir, 3, "data-3"));
    assert!(said.contains("master 3") && said.contains("not in --masters"), "{said}");
}
