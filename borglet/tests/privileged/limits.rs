//! What a task may use.

use std::time::Duration;

use borglet::container::Outcome;

use super::machine::{Machine, PATIENCE, id, processes_with, shell, within};

const MIB: u64 = 1 << 20;

#[test]
fn a_task_over_its_memory_limit_dies_whole_and_the_record_has_the_figures() {
    let Some(machine) = Machine::full() else { return };
    // The hog is a grandchild, the first process does nothing wrong.
    let mut spec = shell("a", "sleep 70001.5 & (tail /dev/zero) & wait");
    spec.ram_bytes = 32 * MIB;
    let (record, _) = machine.run(spec);
    let Outcome::OutOfMemory { limit_bytes, peak_bytes } = record.outcome else {
        panic!("{record:?}");
    };
    assert_eq!(limit_bytes, 32 * MIB);
    assert!((30 * MIB..=32 * MIB).contains(&peak_bytes), "peak {peak_bytes}");
    assert_eq!(processes_with("70001.5"), [] as [i32; 0]);
    machine.close();
}

/// The least that a job may ask for, and a program that needs more before its first line: no failure of the
/// machine, and no riddle.
#[test]
fn a_program_that_needs_more_memory_to_start_than_it_has_is_told_its_limit() {
    let Some(machine) = Machine::full() else { return };
    let mut spec = shell("a", "head -c 64000000 /dev/zero | tail -c 64000000 >/dev/null");
    spec.ram_bytes = borg_proto::spec::MIN_RAM_BYTES;
    let outcome = match machine.executor.start(spec) {
        Ok(_) => machine.wait(&id("a")).outcome,
        Err(error) => panic!("{error}"),
    };
    let limit_bytes = borg_proto::spec::MIN_RAM_BYTES;
    assert!(
        matches!(outcome, Outcome::OutOfMemory { limit_bytes: l, .. } if l == limit_bytes),
        "{outcome:?}"
    );
    let mut spec = shell("b", "true");
    spec.ram_bytes = borg_proto::spec::MIN_RAM_BYTES - 1;
    let refused = machine.executor.start(spec).unwrap_err().to_string();
    assert!(refused.starts_with("limit ram_bytes is 4194303, at least 4194304"), "{refused}");
    machine.close();
}

#[test]
fn what_a_task_leaves_in_tmp_counts_as_its_memory() {
    let Some(machine) = Machine::full() else { return };
    let mut spec = shell(
        "a",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; \
        dd if=/dev/zero of=/tmp/x bs=1M count=31 2>/dev/null; echo survived",
    );
    spec.ram_bytes = 32 * MIB;
    let (record, _) = machine.run(spec);
    assert!(matches!(record.outcome, Outcome::OutOfMemory { .. }), "{record:?}");
    machine.close();
}

#[test]
fn a_processor_cap_holds() {
    let Some(machine) = Machine::full() else { return };
    let mut spec = shell("a", "while :; do :; done");
    spec.cpu_cap_milli = Some(100);
    machine.start(spec);
    let before = machine.executor.usage(&id("a")).unwrap();
    // In one piece: many short sleeps are far longer than their sum on a slow machine.
    std::thread::sleep(Duration::from_secs(2));
    let after = machine.executor.usage(&id("a")).unwrap();
    let used = after.cpu_ms - before.cpu_ms;
    assert!((10..500).contains(&used), "used {used} ms in about 2 s, allowed 200");
    assert!(after.memory_bytes > 0 && after.working_set_bytes <= after.memory_bytes);
    machine.executor.kill(&id("a")).unwrap();
    assert!(machine.wait(&id("a")).cpu_ms >= used);
    machine.close();
}

#[test]
fn a_fork_bomb_stops_at_the_limit() {
    let Some(machine) = Machine::full() else { return };
    let mut spec =
        shell("a", "sh -c 'while :; do sleep 70002.5 & done' 2>/dev/null; exec sleep 70002.5");
    spec.pids_max = 12;
    machine.start(spec);
    assert!(within(PATIENCE, || processes_with("70002.5").len() >= 9));
    within(Duration::from_millis(300), || false);
    let alive = processes_with("70002.5").len();
    assert!((1..=12).contains(&alive), "{alive} processes");
    machine.executor.kill(&id("a")).unwrap();
    machine.wait(&id("a"));
    assert_eq!(processes_with("70002.5"), [] as [i32; 0]);
    machine.close();
}
