//! After a container nothing stays: no process, mount, cgroup or file.

use borglet::container::Outcome;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{Machine, PATIENCE, exited, id, processes_with, shell, within};

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").unwrap()
}

#[test]
fn a_kill_reaches_every_process() {
    let Some(machine) = Machine::full() else { return };
    let before = mounts();
    let script = "setsid sleep 70003.5 & (setsid sh -c 'sleep 70003.5 & sleep 70003.5' &) ; \
        trap '' TERM; echo up; sleep 70003.5";
    machine.start(shell("a", script));
    machine.until_said(&id("a"), "up");
    assert!(within(PATIENCE, || processes_with("70003.5").len() >= 4));
    machine.executor.kill(&id("a")).unwrap();
    assert_eq!(machine.wait(&id("a")).outcome, Outcome::Signalled { signal: 9 });
    assert_eq!(processes_with("70003.5"), [] as [i32; 0]);
    assert_eq!(mounts(), before);
    machine.executor.kill(&id("a")).unwrap();
    machine.close();
}

#[test]
fn what_a_task_left_in_the_background_dies_with_it() {
    let Some(machine) = Machine::full() else { return };
    let script =
        "setsid sleep 70004.5 >/dev/null 2>&1 & (setsid sleep 70004.5 &); sleep 0.2; exit 3";
    assert_eq!(machine.run(shell("a", script)).0.outcome, exited(3));
    assert_eq!(processes_with("70004.5"), [] as [i32; 0]);
    machine.close();
}

#[test]
fn a_task_dies_with_its_shim() {
    let Some(machine) = Machine::full() else { return };
    let started = machine.start(shell("a", "setsid sleep 70005.5 & sleep 70005.5"));
    kill(Pid::from_raw(started.shim_pid), Signal::SIGKILL).unwrap();
    let record = machine.wait(&id("a"));
    assert!(matches!(record.outcome, Outcome::Lost { .. }), "{record:?}");
    assert!(within(PATIENCE, || processes_with("70005.5").is_empty()));
    machine.close();
}

#[test]
fn two_hundred_containers_leave_nothing() {
    let Some(machine) = Machine::full() else { return };
    let (before, files) = (mounts(), open_files());
    for n in 0..200 {
        let name = format!("c{n}");
        assert_eq!(machine.run(shell(&name, "exit 0")).0.outcome, exited(0));
        machine.executor.cleanup(&id(&name)).unwrap();
        machine.executor.remove_logs(&id(&name)).unwrap();
    }
    let dir = machine.config.dir.to_str().unwrap().to_owned();
    let shims = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&dir)).count()
    };
    assert!(within(PATIENCE, || shims() == 0), "shims left");
    assert_eq!(mounts(), before);
    assert!(open_files() <= files + 3, "{} files open, {files} before", open_files());
    machine.close();
}

/// Of this test process; other tests run beside us, so only a leak of hundreds is seen.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count().saturating_sub(100)
}
