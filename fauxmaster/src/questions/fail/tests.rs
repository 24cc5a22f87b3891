use super::*;
use crate::Driven;
use crate::answer::{Table, Value};
use borg_cell::fixture::{info, service};
use borg_proto::command::Observation;
use borg_proto::{JobKind, UserName};
use borg_scheduler::{Config, Scheduler};
use std::sync::Arc;

/// So many machines of 4 cores, two to a rack, with so many tasks of a core each at this priority.
fn cell(machines: u32, tasks: u32, priority: u64) -> Loaded {
    let racks: Vec<String> = (0..machines).map(|n| format!("r{}", n / 2)).collect();
    let infos: Vec<_> =
        racks.iter().map(|rack| info(4_000, 8 << 30, &[("rack", rack.as_str())])).collect();
    let mut cell = Driven::with_machines(&infos).unwrap();
    let owner: UserName = "ann".parse().unwrap();
    let mut spec = service("web", tasks, 1_000, 1 << 30);
    spec.priority = borg_proto::Priority::new(priority).unwrap();
    if tasks > 0 {
        cell.submit(&owner, Arc::new(spec)).unwrap();
    }
    cell.settle(&mut Scheduler::new(&cell.state, Config::default())).unwrap();
    assert_eq!(cell.state.pending_len(), 0);
    Loaded::cell("test".to_owned(), cell.state, None)
}

fn options(loss: Loss) -> Options {
    Options { loss, startup: Millis(25_000), within: Millis::from_secs(3_600), threads: 2 }
}

fn asked(cell: &Loaded, loss: Loss) -> Answer {
    fail(cell, &options(loss), |_| {}).unwrap()
}

fn table<'a>(answer: &'a Answer, name: &str) -> &'a Table {
    answer.tables.iter().find(|table| table.name == name).unwrap()
}

fn machine(name: &str) -> Loss {
    Loss::Machines(vec![name.parse().unwrap()])
}

/// Down after ten seconds of silence and the look that sees it, then placed at once, and up after the start-up.
#[test]
fn what_was_on_a_lost_machine_is_placed_when_that_is_given_up_and_up_a_startup_later() {
    let answer = asked(&cell(10, 40 - 8, 200), machine("m-0"));
    let [row] = table(&answer, "bands").rows.as_slice() else { panic!("{answer:?}") };
    let on_it = row[1].clone();
    assert_eq!(row[0], Value::from("production"));
    assert_eq!((&row[2], &row[3]), (&Value::Count(0), &Value::Count(0)), "{answer:?}");
    assert_eq!(row[4..7], [10.0, 10.0, 10.0].map(|s| Value::Number(s, 1)));
    assert_eq!(row[7..10], [35.0, 35.0, 35.0].map(|s| Value::Number(s, 1)));
    assert_eq!(table(&answer, "jobs").rows[0][3], on_it);
    assert!(answer.summary.iter().any(|line| line == "The last machine is given up after 10.0 s."));
    assert!(table(&answer, "waiting").rows.is_empty());
}

#[test]
fn what_fits_nowhere_is_told_with_the_reason() {
    let answer = asked(&cell(10, 40, 200), machine("m-0"));
    let waiting = &table(&answer, "waiting").rows;
    assert_eq!(waiting.as_slice(), [vec![Value::from("too little cpu"), Value::Count(4)]]);
    assert_eq!(table(&answer, "jobs").rows[0][7], Value::Count(4));
    let rooms = &table(&answer, "machines").rows;
    assert_eq!((&rooms[0][1], &rooms[1][1]), (&Value::Count(10), &Value::Count(9)));
}

/// Batch makes room for production, and what is pushed out is told of beside what was lost.
#[test]
fn who_is_pushed_out_to_make_room_is_told_of() {
    let loaded = cell(10, 20, 200);
    let mut driven = Driven::of_state(loaded.state().unwrap());
    let mut spec = service("fill", 20, 1_000, 1 << 30);
    spec.priority = borg_proto::Priority::new(100).unwrap();
    driven.submit(&"bob".parse().unwrap(), Arc::new(spec)).unwrap();
    driven.settle(&mut Scheduler::new(&driven.state, Config::default())).unwrap();
    let full = Loaded::cell("test".to_owned(), driven.state, None);
    let answer = asked(&full, Loss::EachDomain { attribute: "rack".to_owned() });
    let losses = table(&answer, "losses");
    assert_eq!(losses.rows.len(), 5);
    for row in &losses.rows {
        assert_eq!((&row[1], &row[2]), (&Value::Count(2), &Value::Count(8)), "{losses:?}");
        // The cell was full: as many wait as were lost, and none of production.
        assert_eq!(row[5], Value::Count(8));
        assert_eq!(row[3], row[4], "each of production pushed out one: {losses:?}");
    }
    let worst = &table(&answer, "bands").rows;
    assert!(
        worst.iter().all(|row| row[0] != Value::from("production") || row[3] == Value::Count(0))
    );
}

/// The leader's own rule: more than 30 % at once is no loss of machines.
#[test]
fn too_much_at_once_is_safe_mode_and_nobody_is_given_up() {
    let loss = Loss::Random { machines: 4, first_seed: 1, seeds: 3 };
    let answer = asked(&cell(10, 30, 200), loss.clone());
    assert!(answer.summary.iter().any(|line| line.contains("safe mode")), "{answer:?}");
    assert_eq!(table(&answer, "losses").rows.len(), 3);
    assert!(table(&answer, "losses").rows.iter().all(|row| row[2] == row[5]), "{answer:?}");
    assert!(table(&answer, "waiting").rows.is_empty(), "nobody waits for a place");
    let on_one = Options { threads: 1, ..options(loss) };
    assert_eq!(answer, fail(&cell(10, 30, 200), &on_one, |_| {}).unwrap());
}

#[test]
fn what_is_not_there_cannot_be_lost() {
    let cell = cell(4, 1, 200);
    let refused = |loss| fail(&cell, &options(loss), |_| {}).unwrap_err().to_string();
    let told = refused(machine("m-9"));
    assert_eq!(told, "machine m-9: there is none of that name; there are m-0, m-1, m-2, m-3");
    let rack = |value: &str| Loss::Domain { attribute: "rack".to_owned(), value: value.to_owned() };
    assert_eq!(refused(rack("r7")), "rack r7: no machine that is up has it; there are r0, r1");
    let power = Loss::EachDomain { attribute: "power".to_owned() };
    assert_eq!(refused(power), "no machine that is up has attribute power; there are rack");
    let many = Loss::Random { machines: 5, first_seed: 1, seeds: 1 };
    assert_eq!(refused(many), "random 5: 1 to 4 machines are up");
}

/// Machines that were lost lately count towards safe mode, as for a leader.
#[test]
fn what_was_lost_before_counts_too() {
    let loaded = cell(20, 20, 200);
    let mut driven = Driven::of_state(loaded.state().unwrap());
    driven.wait(1_000);
    let down = (15..19).map(|id| Observation::MachineDown { machine: MachineId(id) }).collect();
    driven.observe(down).unwrap();
    driven.wait(600_000);
    driven.observe(vec![Observation::MachineDown { machine: MachineId(19) }]).unwrap();
    driven.settle(&mut Scheduler::new(&driven.state, Config::default())).unwrap();
    let late = Loaded::cell("test".to_owned(), driven.state, None);
    let loss = Loss::Machines(["m-0", "m-1"].map(|name| name.parse().unwrap()).into());
    let answer = asked(&late, loss.clone());
    assert!(answer.summary.iter().any(|line| line.contains("safe mode")), "7 of 20: {answer:?}");
    let alone = asked(&cell(20, 20, 200), loss);
    assert!(alone.summary.iter().all(|line| !line.contains("safe mode")), "2 of 20: {alone:?}");
}

#[test]
fn a_daemon_on_a_lost_machine_is_over_and_waits_for_nothing() {
    let loaded = cell(10, 0, 200);
    let mut driven = Driven::of_state(loaded.state().unwrap());
    let mut spec = service("exporter", 1, 100, 1 << 28);
    spec.kind = JobKind::Daemon;
    spec.priority = borg_proto::Priority::new(200).unwrap();
    driven.submit(&"ops".parse().unwrap(), Arc::new(spec)).unwrap();
    driven.settle(&mut Scheduler::new(&driven.state, Config::default())).unwrap();
    assert_eq!(driven.placed(), 10);
    let answer = asked(&Loaded::cell("test".to_owned(), driven.state, None), machine("m-0"));
    assert!(
        answer
            .summary
            .iter()
            .any(|line| line == "1 tasks of daemons are over with their machines."),
        "{answer:?}"
    );
    assert!(table(&answer, "waiting").rows.is_empty() && table(&answer, "bands").rows.is_empty());
}
