//! How tasks share a machine: memory that may be exceeded, page cache, processors by weight.

use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::machine::{Machine, PATIENCE, exited, id, shell, within};

const MIB: u64 = 1 << 20;

#[test]
fn a_soft_memory_limit_may_be_exceeded_and_a_hard_one_not() {
    let Some(machine) = Machine::full() else { return };
    // Memory of its own: files in the container's /dev/shm.
    let script = "head -c 96M /dev/zero > /dev/shm/x && echo kept";
    let mut soft = shell("soft", script);
    (soft.ram_bytes, soft.soft_memory) = (32 * MIB, true);
    let (record, said) = machine.run(soft);
    // What the limit bounds as well is how much fits into /dev/shm.
    assert!(record.memory_peak_bytes >= 30 * MIB, "{record:?}");
    assert!(matches!(record.outcome, o if o == exited(0) || o == exited(1)), "{said}");
    let mut grows = shell("grows", "x=a; while [ ${#x} -lt 12000000 ]; do x=$x$x; done; echo kept");
    (grows.ram_bytes, grows.soft_memory) = (8 * MIB, true);
    let (record, said) = machine.run(grows);
    assert_eq!((&record.outcome, said.as_str()), (&exited(0), "kept\n"), "{record:?}");
    assert!(record.memory_peak_bytes > 12 * MIB, "{record:?}");
    machine.close();
}

/// Whoever reads and writes far more than its memory gets slower, and nothing else happens to it or to
/// its neighbour.
#[test]
fn page_cache_of_a_task_kills_neither_it_nor_its_neighbour() {
    let Some(machine) = Machine::full() else { return };
    let mut neighbour = shell("neighbour", "while ! test -e $HOME/go; do sleep 0.05; done");
    neighbour.ram_bytes = 8 * MIB;
    machine.start(neighbour);
    let binary = Path::new(env!("CARGO_BIN_EXE_borglet"));
    let mut reader = shell("reader", &format!("cat '{0}' '{0}' > /dev/null", binary.display()));
    reader.ram_bytes = 16 * MIB;
    let (record, _) = machine.run(reader);
    assert_eq!(record.outcome, exited(0), "{record:?}");
    // On tmpfs a file is memory for good.
    let on_disk = statfs(&machine.config.dir).unwrap().filesystem_type() != TMPFS_MAGIC;
    if on_disk {
        let mut writer = shell("writer", "head -c 200M /dev/zero > $HOME/big && rm $HOME/big");
        writer.ram_bytes = 16 * MIB;
        let (record, _) = machine.run(writer);
        assert_eq!(record.outcome, exited(0), "{record:?}");
        assert!(record.memory_peak_bytes <= 16 * MIB, "{record:?}");
    }
    let neighbour = machine.config.dir.join("tasks").join("neighbour");
    std::fs::write(neighbour.join("work").join("go"), "").unwrap();
    assert_eq!(machine.wait(&id("neighbour")).outcome, exited(0));
    machine.close();
}

/// Both want all; the ratio of what they get is that of their weights, within a wide margin.
#[test]
fn under_contention_processors_are_shared_by_weight() {
    let Some(machine) = Machine::full() else { return };
    let spin = "for i in 1 2 3 4; do while :; do :; done & done; wait";
    let (mut heavy, mut light) = (shell("heavy", spin), shell("light", spin));
    (heavy.cpu_milli, light.cpu_milli) = (1_000, 20);
    machine.start(heavy);
    machine.start(light);
    let used = |name: &str| machine.executor.cpu_us(&id(name)).unwrap();
    // Containers are set up with a whole share each.
    assert!(within(PATIENCE, || used("heavy").min(used("light")) > 100_000));
    let before = (used("heavy"), used("light"));
    // As long as it takes until the heavy one had a second more: then the light one had far less.
    assert!(within(PATIENCE, || used("heavy") > before.0 + 1_000_000));
    let (heavy, light) = (used("heavy") - before.0, used("light") - before.1);
    assert!(light < heavy / 3, "{light} us against {heavy} us");
    for name in ["heavy", "light"] {
        machine.executor.kill(&id(name)).unwrap();
        machine.wait(&id(name));
    }
    machine.close();
}

/// A cap can be put on what runs, and taken off.
#[test]
fn a_processor_cap_comes_and_goes_while_the_task_runs() {
    let Some(machine) = Machine::full() else { return };
    machine.start(shell("a", "while :; do :; done"));
    let used = || machine.executor.cpu_us(&id("a")).unwrap();
    machine.executor.cap_cpu(&id("a"), Some(10)).unwrap();
    let before = used();
    within(std::time::Duration::from_secs(1), || false);
    let capped = used() - before;
    assert!(capped < 400_000, "{capped} us in a second, 10,000 are allowed");
    machine.executor.cap_cpu(&id("a"), None).unwrap();
    let before = used();
    assert!(within(PATIENCE, || used() - before > 500_000), "it stays capped");
    machine.executor.kill(&id("a")).unwrap();
    machine.wait(&id("a"));
    machine.close();
}
