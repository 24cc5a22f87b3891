//! With less isolation everything still works, and what is missing is said.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use borg_proto::Privilege;
use borglet::cgroup::CgroupLayout;
use borglet::container::Outcome;
use borglet::isolation::IsolationWanted;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{Machine, PATIENCE, exited, id, processes_with, shell, skip, within};

const ORDINARY: &str = "BORG_TEST_ORDINARY";
const WITHOUT_CGROUPS: &str = "BORG_TEST_WITHOUT_CGROUPS";
const NOBODY: u32 = 65534;

#[test]
fn reduced_isolation_names_what_is_missing() {
    let machine = Machine::with(IsolationWanted::NONE);
    let missing = machine.executor.isolation().missing.join("\n");
    assert!(missing.contains("cpu and memory limits are not enforced"), "{missing}");
    assert!(missing.contains("tasks share the host's process table"), "{missing}");
    machine.close();
}

#[test]
fn without_any_isolation_no_process_escapes_its_end_or_a_kill() {
    let machine = Machine::with(IsolationWanted::NONE);
    let left = "(setsid sleep 70007.5 >/dev/null 2>&1 &); sleep 0.2; exit 3";
    assert_eq!(machine.run(shell("left", left)).0.outcome, exited(3));
    assert_eq!(processes_with("70007.5"), [] as [i32; 0]);
    let many = "(setsid sh -c 'sleep 70008.5 & sleep 70008.5' &); echo up; sleep 70008.5";
    machine.start(shell("killed", many));
    machine.until_said(&id("killed"), "up");
    assert!(within(PATIENCE, || processes_with("70008.5").len() == 3));
    assert!(machine.executor.usage(&id("killed")).unwrap().memory_bytes > 0);
    machine.executor.kill(&id("killed")).unwrap();
    assert_eq!(machine.wait(&id("killed")).outcome, Outcome::Signalled { signal: 9 });
    assert_eq!(processes_with("70008.5"), [] as [i32; 0]);
    machine.close();
}

#[test]
fn without_any_isolation_the_first_process_still_dies_with_its_shim() {
    let machine = Machine::with(IsolationWanted::NONE);
    let mut spec = shell("a", "");
    spec.argv = vec!["sleep".into(), "70009.5".into()];
    let started = machine.start(spec);
    kill(Pid::from_raw(started.shim_pid), Signal::SIGKILL).unwrap();
    let record = machine.wait(&id("a"));
    assert!(matches!(record.outcome, Outcome::Lost { .. }), "{record:?}");
    assert!(within(PATIENCE, || processes_with("70009.5").is_empty()));
    machine.close();
}

#[test]
fn each_half_of_the_isolation_works_without_the_other() {
    for isolation in [
        IsolationWanted { cgroups: true, namespaces: false },
        IsolationWanted { cgroups: false, namespaces: true },
    ] {
        let machine = Machine::with(isolation);
        let script = "(setsid sleep 70010.5 >/dev/null 2>&1 &); sleep 0.2; exit 3";
        assert_eq!(machine.run(shell("a", script)).0.outcome, exited(3));
        assert_eq!(processes_with("70010.5"), [] as [i32; 0]);
        machine.close();
    }
}

/// Not a test of its own: the test below as an ordinary user.
#[test]
#[ignore = "run by the test below as another user"]
fn the_life_of_an_ordinary_user() {
    let Some(dir) = std::env::var_os(ORDINARY).map(PathBuf::from) else { return };
    let home = tempfile::tempdir_in(&dir).unwrap();
    let machine = Machine::at(home, dir.join("borglet"), IsolationWanted::FULL);
    let missing = machine.executor.isolation().missing.join("\n");
    assert!(missing.contains("not root, so no cgroups"), "{missing}");
    if machine.executor.isolation().namespaces {
        let script =
            "echo $$; ls /tmp; touch /usr/x 2>/dev/null || echo no; grep -c . /proc/self/uid_map";
        assert_eq!(machine.run(shell("c", script)).0.outcome, exited(0));
        assert_eq!(machine.stdout(&id("c")), "2\nno\n1\n");
    } else {
        assert!(missing.contains("tasks share the host's process table"), "{missing}");
    }
    assert_eq!(machine.run(shell("a", "id -u; exit 2")).0.outcome, exited(2));
    assert_eq!(machine.stdout(&id("a")), "65534\n");
    // Nothing pretends to be loosened that is not.
    let mut ids = shell("ids", "id -u");
    ids.loosen = [Privilege::MachineIds].into();
    let refused = machine.executor.start(ids).unwrap_err().to_string();
    assert!(refused.contains("the borglet is not root"), "{refused}");
    let mut others = shell("others", "echo x > /dev/null && ls /dev | grep -x null");
    others.loosen = [Privilege::Listen, Privilege::SystemCalls, Privilege::Devices].into();
    assert_eq!(machine.run(others).0.outcome, exited(0));
    assert_eq!(machine.stdout(&id("others")), "null\n");
    machine.start(shell("b", "sleep 70011.5 & sleep 70011.5"));
    machine.executor.kill(&id("b")).unwrap();
    machine.wait(&id("b"));
    assert_eq!(processes_with("70011.5"), [] as [i32; 0]);
    machine.close();
}

#[test]
fn an_ordinary_user_can_run_tasks_too() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can become somebody else; run as yourself, the others cover it");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where the build directory is may be closed to others.
    let test = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_borglet"), dir.path().join("borglet")).unwrap();
    let output = Command::new(test)
        .args(["--exact", "reduced::the_life_of_an_ordinary_user", "--ignored", "--nocapture"])
        .env(ORDINARY, dir.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Not a test of its own: what a borglet of root does in the mount table of the test below.
#[test]
#[ignore = "run by the test below in a mount table of its own"]
fn the_life_without_cgroups() {
    let Ok(said) = std::env::var(WITHOUT_CGROUPS) else { return };
    let machine = Machine::with(IsolationWanted::FULL);
    let isolation = machine.executor.isolation();
    let missing = isolation.missing.join("\n");
    assert_eq!(isolation.cgroups, CgroupLayout::None, "{missing}");
    assert!(missing.contains(&said), "{said} is not in {missing}");
    assert!(missing.contains("cpu and memory limits are not enforced"), "{missing}");
    assert!(isolation.namespaces, "{missing}");
    assert_eq!(machine.run(shell("a", "exit 2")).0.outcome, exited(2));
    machine.close();
}

/// As for root in a container without privileges over its cgroups, or without any.
#[test]
fn cgroups_that_cannot_be_written_or_are_not_there_are_done_without_and_the_rest_stays() {
    let Some(machine) = Machine::full() else { return };
    machine.close();
    without_cgroups("mount -o remount,bind,ro \"$at\"", "Read-only file system");
    // A layer at a time, the last one mounted first.
    without_cgroups("umount \"$at\"", "no cgroups: cpu and memory limits");
}

/// Lives the life above where `harm` was done to each mount of cgroups, which must be said to be `missing`.
fn without_cgroups(harm: &str, missing: &str) {
    let script = format!(
        "grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/self/mounts | tac | while read -r _ at _; do \
         {harm} || exit; done && exec \"$@\""
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "reduced::the_life_without_cgroups", "--ignored", "--nocapture"])
        .env(WITHOUT_CGROUPS, missing)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
