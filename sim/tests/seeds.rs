//! Whole runs under faults: they hold, they settle, and the same seed is the same run.

use borg_proto::Millis;
use borg_sim::run::{self, Plan};
use std::sync::Mutex;

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    for seed in [1, 3, 11] {
        let [first, second] = [0, 0].map(|_| run::one(seed, &Plan::default(), None));
        assert!(first.violation.is_none(), "{:?}", first.violation);
        assert_eq!((first.digest, first.events), (second.digest, second.events), "seed {seed}");
    }
}

#[test]
fn tracing_a_run_does_not_change_it() {
    let lines = std::sync::Arc::new(Mutex::new(0_u32));
    let count = lines.clone();
    let sink = Box::new(move |_: &str| *count.lock().unwrap() += 1);
    let plan = Plan { storm: Millis(10_000), ..Plan::default() };
    assert_eq!(run::one(5, &plan, Some(sink)).digest, run::one(5, &plan, None).digest);
    assert!(*lines.lock().unwrap() > 100);
}

#[test]
fn another_seed_is_another_run() {
    let plan = Plan { storm: Millis(5_000), ..Plan::default() };
    assert_ne!(run::one(1, &plan, None).digest, run::one(2, &plan, None).digest);
}

#[test]
fn a_dozen_seeds_hold_and_settle() {
    let reports = run::many(0..12, 2, &Plan::default(), |_| ());
    assert_eq!(reports.len(), 12);
    for report in reports {
        assert!(report.violation.is_none(), "seed {}: {:?}", report.seed, report.violation);
        assert!(report.settled_after().is_some() && report.entries > 50, "{report:?}");
    }
}

#[test]
fn a_cell_of_fifty_machines_holds_and_settles() {
    let plan = Plan { machines: Some(50), storm: Millis(15_000) };
    let report = run::one(49, &plan, None);
    assert!(report.violation.is_none(), "{:?}", report.violation);
}

/// A line of the file of kept seeds.
fn kept(line: &str) -> Option<(u64, Plan, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (what, why) = line.split_once(':').expect("a seed has a reason");
    let mut words = what.split_whitespace();
    let seed = words.next().and_then(|word| word.parse().ok()).expect("a seed is a number");
    let mut plan = Plan::default();
    while let Some(option) = words.next() {
        let value: u64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
        match option {
            "--borglets" => plan.machines = Some(usize::try_from(value).expect("a small number")),
            "--for" => plan.storm = Millis::from_secs(value),
            other => panic!("{other} is no option of a kept seed"),
        }
    }
    Some((seed, plan, why.trim()))
}

#[test]
fn kept_seeds_hold() {
    let lines = include_str!("kept-seeds.txt").lines().filter_map(kept);
    for (seed, plan, why) in lines {
        let report = run::one(seed, &plan, None);
        let again = plan.command(seed);
        assert!(report.violation.is_none(), "{again} ({why}): {:?}", report.violation);
    }
}
