//! Tasks outlive the borglet, and the next one finds them.
//!
//! The borglet that dies is this test binary executed again: see `a_starter_to_be_killed`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use borglet::container::{ExitRecord, Outcome, Started};
use borglet::executor::{Adopted, Executor, ExecutorConfig, Found};
use borglet::isolation::IsolationWanted;

use super::machine::{Machine, PATIENCE, exited, id, processes_with, shell, within};

const STARTER: &str = "BORG_TEST_STARTER";

/// Not a test of its own: the process that the tests below start and kill. It starts three
/// containers, says so and waits for its death.
#[test]
#[ignore = "run by the other tests of this file"]
fn a_starter_to_be_killed() {
    let Some(config) = std::env::var_os(STARTER) else { return };
    let config: (PathBuf, String, IsolationWanted) =
        serde_json::from_str(config.to_str().unwrap()).unwrap();
    let executor = Executor::open(starter_config(config)).unwrap();
    for (name, script) in [
        ("runs", "sleep 70006.5"),
        ("ends", "while ! test -e $HOME/go; do sleep 0.05; done; exit 5"),
        ("ended", "exit 4"),
    ] {
        let started = executor.start(shell(name, script)).unwrap();
        eprintln!("started {}", serde_json::to_string(&started).unwrap());
    }
    within(PATIENCE * 10, || false);
}

fn starter_config((dir, name, isolation): (PathBuf, String, IsolationWanted)) -> ExecutorConfig {
    let mut config = ExecutorConfig::new(dir, name);
    config.shim = PathBuf::from(env!("CARGO_BIN_EXE_borglet"));
    config.isolation = isolation;
    config
}

fn starter(dir: &Path, name: &str, isolation: IsolationWanted) -> (Child, Vec<Started>) {
    let config = serde_json::to_string(&(dir, name, isolation)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adoption::a_starter_to_be_killed", "--ignored", "--nocapture"])
        .env(STARTER, config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(line.strip_prefix("started ")?).ok());
    let started: Vec<Started> = started.take(3).collect();
    assert_eq!(started.len(), 3, "the starter failed");
    (child, started)
}

fn survive(isolation: IsolationWanted) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("borg-test-{}-adopt-{}", std::process::id(), isolation.namespaces);
    let home = dir.path().join("machine");
    let (mut old, started) = starter(&home, &name, isolation);
    old.kill().unwrap();
    old.wait().unwrap();
    // This one ends while there is no borglet at all.
    std::fs::write(home.join("tasks/ends/work/go"), "").unwrap();
    for name in ["ends", "ended"] {
        assert!(within(PATIENCE, || has_ended(&home.join("tasks").join(name).join("record"))));
    }

    let config = starter_config((home, name, isolation));
    let executor = Executor::open(config.clone()).unwrap();
    let adopted = executor.adopt().unwrap();
    let found = |name: &str| {
        let mut all = adopted.iter().filter(|adopted| adopted.id == id(name));
        all.next().unwrap().found.clone()
    };
    let ended = |name: &str| match found(name) {
        Found::Ended(ExitRecord { outcome, .. }) => outcome,
        running @ Found::Running(_) => panic!("{running:?}"),
    };
    assert_eq!(adopted.len(), 3);
    assert_eq!((ended("ended"), ended("ends")), (exited(4), exited(5)));
    assert_eq!(found("runs"), Found::Running(started[0].clone()), "same pid, same start");
    assert_eq!(processes_with("70006.5").len(), 1);

    let machine = Machine::of(executor, config, dir);
    machine.executor.kill(&id("runs")).unwrap();
    machine.wait(&id("runs"));
    assert_eq!(machine.wait(&id("ends")).outcome, exited(5));
    machine.close();
}

/// Whether a record says how the container ended.
fn has_ended(record: &Path) -> bool {
    let record = std::fs::read_to_string(record).unwrap();
    record.lines().any(|line| line.starts_with("{\"ended\""))
}

/// What a record says until the container's start, or its end.
fn first_lines(record: &Path, lines: usize) -> String {
    let record = std::fs::read_to_string(record).unwrap();
    let lines = record.lines().filter(|line| !line.is_empty()).take(lines);
    lines.map(|line| format!("{line}\n")).collect()
}

/// One test, since both count the same processes.
#[test]
fn tasks_survive_kill_9_of_the_borglet_and_no_end_is_lost() {
    survive(IsolationWanted::NONE);
    if let Some(machine) = Machine::full() {
        machine.close();
        survive(IsolationWanted::FULL);
    }
}

#[test]
fn a_start_cut_short_by_the_borglets_death_is_known_and_leaves_nothing() {
    let machine = Machine::with(IsolationWanted::FULL);
    machine.run(shell("a", "true"));
    // As if the shim had never been executed.
    let record = machine.config.dir.join("tasks/a/record");
    std::fs::write(&record, first_lines(&record, 1)).unwrap();
    let adopted = machine.executor.adopt().unwrap();
    let [adopted] = &adopted[..] else { panic!("{adopted:?}") };
    let Found::Ended(record) = &adopted.found else { panic!("{adopted:?}") };
    assert!(record.outcome.to_string().contains("before the task began"), "{record:?}");
    machine.close();
}

#[test]
fn an_end_that_a_power_cut_left_in_part_is_a_lost_task_and_no_failed_adoption() {
    let machine = Machine::with(IsolationWanted::FULL);
    machine.run(shell("a", "true"));
    let path = machine.config.dir.join("tasks/a/record");
    // Its last bytes were still in memory; the machine has booted since.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let cut = first_lines(&path, 2).replace(boot.trim(), "another boot");
    std::fs::write(&path, cut + "{\"ended\":{\"id\":\"a\",\"out").unwrap();
    // Whoever holds the file is no shim of this boot.
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    let adopted = machine.executor.adopt().unwrap();
    let [adopted] = &adopted[..] else { panic!("{adopted:?}") };
    let Found::Ended(record) = &adopted.found else { panic!("{adopted:?}") };
    assert_eq!(record.outcome.to_string(), "end not seen: the machine restarted");
    assert!(has_ended(&path));
    // From here on it is on record, and the same for every borglet.
    machine.executor.sync_record(&id("a")).unwrap();
    let again = machine.executor.adopt().unwrap();
    assert_eq!(again[0].found, Found::Ended(record.clone()));
    machine.executor.cleanup(&id("a")).unwrap();
    // Nothing to be done for what is gone.
    machine.executor.sync_record(&id("a")).unwrap();
    machine.executor.remove_logs(&id("a")).unwrap();
    machine.close();
}

#[test]
fn a_second_borglet_cannot_use_the_directory_of_a_living_one() {
    let machine = Machine::with(IsolationWanted::NONE);
    let second = Executor::open(machine.config.clone()).unwrap_err();
    assert!(second.to_string().starts_with("another borglet uses the directory"), "{second}");
    machine.close();
}

#[test]
fn what_an_interrupted_start_left_is_removed_and_logs_are_kept() {
    let Some(machine) = Machine::full() else { return };
    machine.run(shell("logs", "echo kept"));
    machine.executor.cleanup(&id("logs")).unwrap();
    let tasks = machine.config.dir.join("tasks");
    std::fs::create_dir_all(tasks.join("half/work")).unwrap();
    std::fs::create_dir(tasks.join("half/log")).unwrap();
    let group = PathBuf::from("/sys/fs/cgroup/pids").join(&machine.config.cgroup_name);
    if group.is_dir() {
        std::fs::create_dir(group.join("half")).unwrap();
        std::fs::create_dir(group.join("ownerless")).unwrap();
    }
    assert_eq!(machine.executor.adopt().unwrap(), []);
    assert!(!tasks.join("half").exists());
    assert_eq!(machine.stdout(&id("logs")), "kept\n");
    machine.executor.remove_logs(&id("logs")).unwrap();
    machine.close();
}

#[test]
fn damaged_files_cost_no_task_its_life_and_the_next_adoption_finds_the_same() {
    let machines = [Some(Machine::with(IsolationWanted::NONE)), Machine::full()];
    for (word, machine) in ["70021.5", "70022.5"].iter().zip(machines) {
        let Some(machine) = machine else { continue };
        let file = |name: &str, file: &str| machine.config.dir.join("tasks").join(name).join(file);
        let names = ["good", "junk", "more"];
        let started =
            names.map(|name| machine.start(shell(name, &format!("sleep {word} & sleep {word}"))));
        assert!(within(PATIENCE, || processes_with(word).len() == 6));
        for junk in ["", "{", "\u{0}\u{0}", "[1, 2, 3]"] {
            std::fs::write(file("junk", "record"), junk).unwrap();
            let record = std::fs::read_to_string(file("more", "record")).unwrap();
            std::fs::write(file("more", "record"), record + junk).unwrap();
            let adopted = machine.executor.adopt().unwrap();
            assert_eq!(adopted.len(), 3);
            for (one, was) in adopted.iter().zip(&started) {
                let Found::Running(is) = &one.found else { panic!("{junk:?}: {one:?}") };
                let process = |s: &Started| (s.pid, s.start_ticks, s.shim_pid, s.init_pid);
                assert_eq!(process(is), process(was), "{junk:?}: {}", one.id);
            }
        }
        // And the next finds it where its record was made anew.
        for again in [false, true] {
            if !again {
                std::fs::remove_file(file("junk", "record")).unwrap();
            }
            let adopted = machine.executor.adopt().unwrap();
            let alive = |one: &Adopted| matches!(&one.found, Found::Running(is) if is.pid == started[1].pid);
            assert!(adopted.iter().any(alive), "{again}: {adopted:?}");
        }
        assert_eq!(processes_with(word).len(), 6);
        for name in names {
            machine.executor.kill(&id(name)).unwrap();
            assert_eq!(machine.wait(&id(name)).outcome, Outcome::Signalled { signal: 9 });
        }
        machine.close();
    }
}

/// On a full disk the shim cannot leave its record, and neither can the borglet.
#[test]
fn an_end_is_told_even_when_its_record_cannot_be_written() {
    let machine = Machine::with(IsolationWanted::NONE);
    let script = "while ! test -e $HOME/go; do sleep 0.05; done; exit 3";
    machine.start(shell("a", script));
    let dir = machine.config.dir.join("tasks/a");
    // A directory in its place fails every writer, root too.
    std::fs::rename(dir.join("record"), dir.join("kept")).unwrap();
    std::fs::create_dir(dir.join("record")).unwrap();
    std::fs::write(dir.join("work/go"), "").unwrap();
    let record = machine.wait(&id("a"));
    assert!(record.outcome.to_string().contains("the exit record is lost"), "{record:?}");
    assert_eq!(machine.wait(&id("a")), record, "one end, told twice");
    std::fs::remove_dir(dir.join("record")).unwrap();
    std::fs::rename(dir.join("kept"), dir.join("record")).unwrap();
    machine.close();
}
