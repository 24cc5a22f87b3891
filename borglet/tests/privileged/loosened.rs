//! What each privilege lets a task do, and that it lets it do nothing else: the ways out that are tried in
//! every container are tried again in ones that do without some isolation.

use std::collections::BTreeMap;

use borg_proto::Privilege;
use borglet::container::Bind;
use borglet::isolation::{IsolationWanted, UserIds};

use super::escapes::{expected, imprison, is_held};
use super::machine::{Machine, exited, shell, skip, visible_dir};
use super::user_mode_linux::EXPECTED;

/// What the probes find with these privileges where that is not what they find without.
fn changed(machine: &Machine, loosen: &[Privilege]) -> BTreeMap<String, String> {
    let found = imprison(machine, loosen).into_iter();
    let held = found.filter(|(name, _)| is_held(machine, name));
    held.filter(|(name, what)| !expected(name).contains(&what.as_str())).collect()
}

fn only(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, found)| ((*name).to_owned(), (*found).to_owned())).collect()
}

/// A machine on which everything that can be loosened is there.
fn tight() -> Option<Machine> {
    let machine = Machine::full()?;
    let isolation = machine.executor.isolation();
    if isolation.users != UserIds::Range || !isolation.landlock || !isolation.filter {
        let why = isolation.missing.join("; ");
        machine.close();
        // The guest's kernel has no Landlock, so there is nothing to loosen.
        if std::env::var_os(EXPECTED).is_none() {
            skip(&why);
        }
        return None;
    }
    Some(machine)
}

#[test]
fn whoever_may_listen_does_so_on_any_port_from_1024_on() {
    let Some(machine) = tight() else { return };
    let changed = changed(&machine, &[Privilege::Listen]);
    assert_eq!(changed, only(&[("port of another", "works")]));
    machine.close();
}

#[test]
fn with_any_system_call_the_kernel_still_refuses_what_needs_rights() {
    let Some(machine) = tight() else { return };
    let changed = changed(&machine, &[Privilege::SystemCalls]);
    // They reach the kernel, which finds fault with the arguments of most.
    let let_through = [
        "setns",
        "bpf",
        "perf_event_open",
        "add_key",
        "keyctl",
        "userfaultfd",
        "clone3",
        "vsock",
        "crypto socket",
        "sockets of others",
        "audit",
        "unshare user",
    ];
    let other: Vec<_> =
        changed.iter().filter(|(name, _)| !let_through.contains(&name.as_str())).collect();
    assert_eq!(other, [], "more than system calls");
    for (name, what) in [("setns", "EINVAL"), ("clone3", "EINVAL"), ("unshare user", "works")] {
        assert_eq!(changed.get(name).map(String::as_str), Some(what), "{name}: {changed:?}");
    }
    machine.close();
}

#[test]
fn with_the_machines_ids_root_is_root_of_the_machine_with_few_rights() {
    let Some(machine) = tight() else { return };
    let mut changed = changed(&machine, &[Privilege::MachineIds]);
    // An empty file lies over it, which root may open.
    changed.remove("/proc/kcore");
    // It has no effect on an init, but is no longer refused.
    changed.remove("kill of init");
    assert_eq!(changed, only(&[("/etc/shadow", "works")]));
    let mut low = self::changed(&machine, &[Privilege::MachineIds, Privilege::Listen]);
    low.retain(|name, _| name.contains("port"));
    let ports = [("port below 1024", "works"), ("port of another", "works")];
    assert_eq!(low, only(&ports));
    machine.close();
}

#[test]
fn a_task_with_the_machines_ids_writes_volumes_as_root() {
    let Some(machine) = tight() else { return };
    let Some(dir) = visible_dir() else { return };
    let file = dir.path().join("made");
    let script = "id -u; cat /proc/self/uid_map; touch $VOLUME/made";
    for (name, loosen, map) in
        [("own", vec![], "65536"), ("machines", vec![Privilege::MachineIds], "4294967295")]
    {
        let mut spec = shell(name, script);
        spec.env = vec![("VOLUME".into(), dir.path().to_str().unwrap().into())];
        spec.binds = vec![Bind { path: dir.path().to_owned(), writable: true, within: None }];
        spec.loosen = loosen.into_iter().collect();
        let (record, said) = machine.run(spec);
        assert_eq!(record.outcome, exited(0), "{said}");
        assert!(said.starts_with("0\n") && said.trim_end().ends_with(map), "{said}");
        let owner = std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap());
        assert_eq!(owner, 0);
        std::fs::remove_file(&file).unwrap();
    }
    machine.close();
}

#[test]
fn all_devices_are_seen_and_opened_by_whoever_their_mode_lets() {
    let Some(machine) = tight() else { return };
    let mut changed = changed(&machine, &[Privilege::Devices]);
    if std::path::Path::new("/dev/mem").exists() {
        assert_eq!(changed.remove("/dev/mem").as_deref(), Some("EACCES"));
    }
    assert_eq!(changed, only(&[]));
    let mut names: Vec<_> = std::fs::read_dir("/dev")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let script = "LC_ALL=C ls -A /dev; echo --; touch /dev/mine 2>/dev/null && echo made; \
        echo x > /dev/null && echo null; touch /dev/shm/mine && ls /dev/shm; ls /dev/pts; \
        for d in /dev/*; do [ -b $d ] && head -c 1 $d && echo read $d; done; true";
    let mut spec = shell("devices", script);
    spec.loosen = [Privilege::Devices].into();
    let (record, said) = machine.run(spec);
    assert_eq!(record.outcome, exited(0), "{said}");
    let (seen, rest) = said.split_once("--\n").unwrap();
    assert_eq!(seen.lines().collect::<Vec<_>>(), names);
    assert_eq!(rest, "null\nmine\nptmx\n", "only what is the task's own can be changed");
    machine.close();
}

/// Without isolation there is nothing to loosen, and nothing fails for that.
#[test]
fn a_machine_without_isolation_runs_what_asks_for_less_of_it() {
    let machine = Machine::with(IsolationWanted::NONE);
    if !machine.executor.isolation().root {
        return skip("not root");
    }
    let mut spec = shell("a", "id -u");
    spec.loosen = Privilege::ALL.into_iter().filter(|one| one.loosens()).collect();
    assert_eq!(machine.run(spec).1, "0\n");
    machine.close();
}
