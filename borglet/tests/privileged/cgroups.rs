//! One suite for all cgroup layouts, run on each that can be driven on this machine.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use borglet::cgroup::{CgroupDriver, CgroupLayout, Hierarchies, Limits, V1, V2, detect};

use super::machine::{Machine, PATIENCE, within};
use super::user_mode_linux::EXPECTED;

const LIMITS: Limits = Limits {
    cpu_milli: 500,
    cpu_cap_milli: Some(250),
    ram_bytes: 64 << 20,
    soft: false,
    io_weight: 100,
    pids_max: 20,
};

/// The layout found, and what can be made of its parts: v1 without the tree beside it, and the
/// tree alone, without controllers.
fn drivers() -> Vec<Box<dyn CgroupDriver>> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let name = |part: &str| format!("borg-suite-{}-{part}", std::process::id());
    let mut all = vec![detect(&mounts, &name("found")).unwrap()];
    if let Hierarchies::V1(V1 { unified: Some(mount), .. }) = all[0].clone() {
        let Some(Hierarchies::V1(v1)) = detect(&mounts, &name("v1")) else { unreachable!() };
        all.push(Hierarchies::V1(V1 { unified: None, ..v1 }));
        all.push(Hierarchies::V2(V2 { name: name("v2"), mount }));
    }
    all.into_iter().map(Hierarchies::driver).collect()
}

/// A v2 tree on this machine, whatever else there is.
fn tree() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    match detect(&mounts, "any").unwrap() {
        Hierarchies::V2(V2 { mount, .. }) => Some(mount),
        Hierarchies::V1(V1 { unified, .. }) => unified,
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Where the suite is started for the sake of one layout, another one would prove nothing.
#[test]
fn the_layout_is_the_expected_one_and_complete() {
    let Some(expected) = std::env::var_os(EXPECTED) else { return };
    let machine = Machine::full().unwrap();
    let isolation = machine.executor.isolation();
    assert_eq!(format!("{:?}", isolation.cgroups), expected.to_str().unwrap());
    // The guest's kernel is built without Landlock, and has overlays in a module that nobody loads.
    let of_guest =
        |why: &str| ["no Landlock", "no root of an image"].iter().any(|w| why.starts_with(w));
    let missing = isolation.missing.iter().filter(|why| !of_guest(why));
    assert_eq!(missing.collect::<Vec<_>>(), [] as [&str; 0]);
    machine.close();
}

#[test]
fn every_layout_limits_tracks_kills_and_removes() {
    let Some(machine) = Machine::full() else { return };
    machine.close();
    for driver in drivers() {
        driver.prepare().unwrap();
        driver.prepare().unwrap();
        eprintln!("{:?}, missing: {:?}", driver.layout(), driver.missing());
        assert_eq!(driver.list().unwrap(), [] as [String; 0]);
        driver.create("one", &LIMITS).unwrap();
        driver.create("two", &LIMITS).unwrap();
        assert_eq!(driver.list().unwrap(), ["one", "two"]);
        driver.set_limits("one", &Limits { ram_bytes: 32 << 20, ..LIMITS }).unwrap();
        driver.set_limits("one", &Limits { ram_bytes: 96 << 20, ..LIMITS }).unwrap();

        let (mut first, mut second, mut other) = (sleeper(), sleeper(), sleeper());
        driver.join("one", pid(&first)).unwrap();
        driver.join("one", pid(&second)).unwrap();
        driver.join("two", pid(&other)).unwrap();
        let mut inside = driver.processes("one").unwrap();
        inside.sort_unstable();
        let mut expected = [pid(&first), pid(&second)];
        expected.sort_unstable();
        assert_eq!(inside, expected);
        assert_eq!(driver.oom_kills("one").unwrap(), 0);
        let usage = driver.usage("one").unwrap();
        if driver.missing().is_empty() {
            assert_eq!(usage.threads, 2, "{usage:?}");
        }
        assert!(usage.working_set_bytes <= usage.memory_bytes, "{usage:?}");
        // What is in use already does not stand in the way of a limit that may be exceeded.
        let soft = Limits { ram_bytes: 4 << 20, soft: true, ..LIMITS };
        driver.set_limits("one", &soft).unwrap();
        driver.set_limits("two", &soft).unwrap();
        kept_for_all(driver.layout(), 8 << 20);
        driver.set_limits("one", &LIMITS).unwrap();
        kept_for_all(driver.layout(), 4 << 20);
        for cap in [Some(10), Some(5_000), None, LIMITS.cpu_cap_milli] {
            driver.set_cpu_cap("one", cap).unwrap();
        }
        let before = driver.cpu_us("one").unwrap();
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        driver.join("one", pid(&busy)).unwrap();
        assert!(within(PATIENCE, || driver.cpu_us("one").unwrap() > before), "no time is counted");
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert_eq!(
            driver.birthplace("one").unwrap().is_some(),
            driver.layout() != CgroupLayout::V1
        );

        driver.kill_all("one").unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
        assert!(within(PATIENCE, || driver.processes("one").unwrap().is_empty()));
        assert_eq!(driver.processes("two").unwrap(), [pid(&other)], "the neighbour lives");
        driver.remove("one").unwrap();
        driver.remove("one").unwrap();
        driver.kill_all("one").unwrap();
        assert_eq!(driver.list().unwrap(), ["two"]);
        driver.kill_all("two").unwrap();
        other.wait().unwrap();
        driver.remove("two").unwrap();
        kept_for_all(driver.layout(), 0);
        driver.retire().unwrap();
    }
}

/// With one tree the kernel keeps for a task no more than it keeps for the group around all tasks.
fn kept_for_all(layout: CgroupLayout, bytes: u64) {
    let Some(tree) = tree().filter(|_| layout == CgroupLayout::V2) else { return };
    let group = tree.join(format!("borg-suite-{}-found", std::process::id()));
    // Not there without the controller.
    if let Ok(text) = fs::read_to_string(group.join("memory.low")) {
        assert_eq!(text.trim(), bytes.to_string());
    }
}

/// As in a privileged container: what looks like the root of the tree is a group like any other.
#[test]
fn a_root_that_is_somebodys_group_is_left_as_it_is_and_our_groups_below_it_work() {
    let Some(machine) = Machine::full() else { return };
    machine.close();
    let Some(tree) = tree() else { return };
    let mount = tree.join(format!("borg-suite-{}-container", std::process::id()));
    fs::create_dir(&mount).unwrap();
    let mut somebody = sleeper();
    fs::write(mount.join("cgroup.procs"), somebody.id().to_string()).unwrap();

    let driver = Hierarchies::V2(V2 { name: "borg".into(), mount: mount.clone() }).driver();
    driver.prepare().unwrap();
    assert_eq!(fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap().trim(), "");
    let missing = driver.missing().join("\n");
    assert!(missing.contains("processes in"), "{missing}");
    assert!(missing.contains("memory limits are not enforced"), "{missing}");
    driver.create("one", &LIMITS).unwrap();
    let mut ours = sleeper();
    driver.join("one", pid(&ours)).unwrap();
    driver.kill_all("one").unwrap();
    ours.wait().unwrap();
    driver.remove("one").unwrap();
    driver.retire().unwrap();

    // Others may have made it a root of threads, where no group can hold a process.
    let threaded = fs::write(mount.join("cgroup.subtree_control"), "+pids").is_ok();
    if threaded {
        let refused = driver.prepare().unwrap_err().in_full();
        assert!(refused.contains("threads"), "{refused}");
        assert!(!mount.join("borg").exists());
    }
    somebody.kill().unwrap();
    somebody.wait().unwrap();
    if threaded {
        driver.prepare().unwrap();
        assert_eq!(driver.missing(), [] as [&str; 0], "nobody is in the way any more");
        driver.retire().unwrap();
    }
    assert!(within(PATIENCE, || fs::remove_dir(&mount).is_ok()));
}
