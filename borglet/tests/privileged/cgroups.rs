//! One suite for all cgroup layouts, run on each that can be driven on this machine.

use std::process::{Child, Command};

use borglet::cgroup::{CgroupDriver, CgroupLayout, Hierarchies, Limits, V1, V2, detect};

use super::machine::{Machine, PATIENCE, within};

const LIMITS: Limits =
    Limits { cpu_milli: 500, cpu_cap_milli: Some(250), ram_bytes: 64 << 20, pids_max: 20 };

/// The layout found, and what can be made of its parts: v1 without the tree beside it, and the
/// tree alone, without controllers.
fn drivers() -> Vec<Box<dyn CgroupDriver>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let name = |part: &str| format!("borg-suite-{}-{part}", std::process::id());
    let mut all = vec![detect(&mounts, &name("found")).unwrap()];
    if let Hierarchies::V1(V1 { unified: Some(mount), .. }) = all[0].clone() {
        let Some(Hierarchies::V1(v1)) = detect(&mounts, &name("v1")) else { unreachable!() };
        all.push(Hierarchies::V1(V1 { unified: None, ..v1 }));
        all.push(Hierarchies::V2(V2 { name: name("v2"), mount }));
    }
    all.into_iter().map(Hierarchies::driver).collect()
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn every_layout_limits_tracks_kills_and_removes() {
    let Some(machine) = Machine::full() else { return };
    machine.close();
    for driver in drivers() {
        eprintln!("{:?}, missing: {:?}", driver.layout(), driver.missing());
        driver.prepare().unwrap();
        driver.prepare().unwrap();
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
        driver.usage("one").unwrap();
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
        driver.retire().unwrap();
    }
}
