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

/// How many containers come and go; 10,000 on a machine that has the minutes.
fn many() -> u32 {
    std::env::var("BORG_TEST_CONTAINERS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

/// Each tenth leaves all that it can: daemons out of its session, a listener, files in its /tmp and /dev/shm,
/// a mount if it may. It tells its namespaces.
const MESSY: &str = "(setsid sleep 70023.5 >/dev/null 2>&1 &); setsid sleep 70023.5 >/dev/null 2>&1 & \
    echo x > /tmp/x; echo x > /dev/shm/x; echo x > $HOME/x; mkdir -p /tmp/m; \
    mount -t tmpfs none /tmp/m 2>/dev/null; ln -s / $HOME/root; mkfifo $HOME/fifo; \
    perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\"); \
    print \"port \" . $s->sockport . \"\\n\"; close STDOUT; sleep 1000' & \
    for ns in pid mnt ipc uts cgroup user; do readlink /proc/self/ns/$ns; done; sleep 0.2; exit 0";

/// Set in the process that makes the containers: of one that runs other tests too, nothing could be counted.
const ALONE: &str = "BORG_TEST_ALONE";

#[test]
fn two_hundred_containers_leave_nothing() {
    if std::env::var_os(ALONE).is_some() {
        return containers_leave_nothing();
    }
    let name = "leftovers::two_hundred_containers_leave_nothing";
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
    assert!(alone.status().unwrap().success());
}

fn containers_leave_nothing() {
    let Some(machine) = Machine::full() else { return };
    let own: Vec<String> = namespaces_of("self");
    // What is opened once for all is open then.
    machine.run(shell("first", "exit 0"));
    machine.executor.cleanup(&id("first")).unwrap();
    machine.executor.remove_logs(&id("first")).unwrap();
    let (before, files) = (mounts(), open_files());
    let (mut namespaces, mut ports) = (Vec::new(), Vec::<u16>::new());
    for n in 0..many() {
        let name = format!("c{n}");
        let messy = n % 10 == 0;
        let (record, said) = machine.run(shell(&name, if messy { MESSY } else { "exit 0" }));
        assert_eq!(record.outcome, exited(0));
        ports.extend(
            said.lines().filter_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()),
        );
        namespaces.extend(said.lines().filter(|line| line.contains(":[")).map(str::to_owned));
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
    assert_eq!(processes_with("70023.5"), [] as [i32; 0], "daemons left");
    assert_eq!(mounts(), before);
    assert_eq!(machine.groups(), [] as [std::path::PathBuf; 0]);
    // Without ids of their own they share the machine's user namespace.
    namespaces.retain(|one| !(one.starts_with("user:") && own.contains(one)));
    assert!(namespaces.len() >= 5 && namespaces.iter().all(|one| !own.contains(one)));
    // The kernel may give a number again, to somebody else's container, for as long as that runs.
    let kept = || {
        let there = all_namespaces();
        namespaces.iter().filter(|one| there.contains(*one)).count()
    };
    assert!(within(PATIENCE, || kept() == 0), "{} of {}", kept(), namespaces.len());
    let messy = usize::try_from(many().div_ceil(10)).unwrap();
    assert_eq!(ports.len(), messy, "whoever listens says where; it needs perl");
    let listens = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_err();
    let taken = || ports.iter().filter(|port| listens(port)).count();
    assert!(within(PATIENCE, || taken() == 0), "{} of {} ports are taken", taken(), ports.len());
    assert!(
        within(PATIENCE, || open_files() <= files),
        "{} files open, {files} before",
        open_files()
    );
    machine.close();
}

fn namespaces_of(pid: &str) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    let names = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

fn all_namespaces() -> std::collections::BTreeSet<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .flat_map(|pid| namespaces_of(&pid))
        .collect()
}

/// Of this test process.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
