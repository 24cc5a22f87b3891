//! Scenes: one thing each that a person can see a scheduler do.

use super::fixture::{Cell, EVERYTHING, GIB, allocs, info, job, with, within};
use crate::{Config, Reason, Scheduler};
use borg_cell::state::{CRASH_COOL_DOWN, NOTES_LEVEL};
use borg_proto::command::{Action, Observation, SERVICES_SINCE};
use borg_proto::machine::{IMAGES, NO_IMAGES};
use borg_proto::package::{Digest, ImageConfig, Layer, Package, PackageKind};
use borg_proto::policy::Policy;
use borg_proto::resources::Dimension;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::update::{Revision, UpdateOptions};
use borg_proto::{FailureCause, IndexSet, JobId, JobKey, JobSpec, MachineId, Millis, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A cell of equal machines, and a scheduler that knows it.
fn cell_of(machines: u32, cpu_milli: u64, ram_gib: u64) -> (Cell, Scheduler) {
    let mut cell = Cell::new();
    for m in 0..machines {
        cell.add_machine(info(cpu_milli, ram_gib, Some(m % 2), 0));
    }
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.tell(&mut scheduler);
    (cell, scheduler)
}

fn task(cell: &Cell, key: &JobKey, index: u32) -> TaskId {
    TaskId { job: cell.state.job_named(key).unwrap().id, index }
}

fn submit(cell: &mut Cell, scheduler: &mut Scheduler, user: &str, spec: JobSpec) -> JobKey {
    let key = cell.submit(user, spec);
    cell.tell(scheduler);
    key
}

fn place_all(cell: &mut Cell, scheduler: &mut Scheduler) -> usize {
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    cell.tell(scheduler);
    decisions.len()
}

fn why(cell: &Cell, scheduler: &Scheduler, key: &JobKey) -> String {
    scheduler.explain(task(cell, key, 0), cell.now).summary
}

#[test]
fn a_machine_gets_no_more_tasks_than_it_can_be_told_of() {
    let (mut cell, mut scheduler) = cell_of(2, 100_000, 4_000);
    let wordy = with(job(40, 100, 1, 1), |task| {
        let text = "x".repeat(60 << 10);
        task.env = (0..16).map(|n| (format!("TEXT_{n}"), text.clone())).collect();
    });
    let key = submit(&mut cell, &mut scheduler, "ann", wordy);
    assert_eq!(place_all(&mut cell, &mut scheduler), 32);
    let last = scheduler.explain(task(&cell, &key, 39), cell.now).summary;
    assert_eq!(
        last,
        "0 of 2 machines fit: 2 take no more specifications (asks 964 KiB, most free is 960 KiB of 16 MiB)"
    );
    cell.user("ann", Action::Kill { job: key, tasks: Vec::new() });
    let many = submit(&mut cell, &mut scheduler, "ann", job(2_001, 100, 1, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 2_000);
    let last = scheduler.explain(task(&cell, &many, 2_000), cell.now).summary;
    assert_eq!(last, "0 of 2 machines fit: 2 have as many tasks as a machine may (1000)");
}

#[test]
fn a_task_that_fits_nowhere_is_told_what_is_short_and_by_how_much() {
    let (mut cell, mut scheduler) = cell_of(3, 4000, 24);
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 1000, 1024));
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    let told = scheduler.explain(task(&cell, &key, 0), cell.now);
    assert_eq!(told.summary, "0 of 3 machines fit: 3 lack memory (asks 1 TiB, largest has 24 GiB)");
    assert_eq!((told.machines, told.feasible, told.rejections.len()), (3, 0, 1));
    let reason = &told.rejections[0].reason;
    assert_eq!(
        *reason,
        Reason::Short {
            dimension: Dimension::Ram,
            asks: 1024 * GIB,
            room: 24 * GIB,
            capacity: 24 * GIB
        }
    );
}

#[test]
fn every_reason_of_every_machine_is_counted_not_only_the_first() {
    let (mut cell, mut scheduler) = cell_of(2, 4000, 8);
    let machine = cell.add_machine(info(1000, 64, None, 0));
    cell.observe(Observation::MachineDown { machine });
    let spec = with(job(1, 100, 5500, 16), |task| {
        let values = vec!["b".into()];
        task.constraints.push(Constraint {
            attribute: "arch".into(),
            op: ConstraintOp::Equal,
            values,
            soft: false,
        });
    });
    let key = submit(&mut cell, &mut scheduler, "ann", spec);
    assert_eq!(
        why(&cell, &scheduler, &key),
        "0 of 3 machines fit: 3 lack cpu (asks 5.5, largest has 4), 2 do not meet arch = b, \
         2 lack memory (asks 16 GiB, largest has 8 GiB), 1 is not up"
    );
}

#[test]
fn a_task_with_an_image_goes_only_where_images_run_and_why_tells() {
    let (mut cell, mut scheduler) = cell_of(0, 0, 0);
    let mut bare = info(4000, 8, None, 0);
    bare.attributes.insert(IMAGES.into(), NO_IMAGES.into());
    cell.add_machine(bare);
    let image = ImageConfig { cmd: vec!["serve".into()], ..ImageConfig::default() };
    let package = Package {
        key: "ann/web:1".parse().unwrap(),
        kind: PackageKind::Image,
        layers: vec![Layer { digest: Digest::of(b"layer"), bytes: 5, unpacked_bytes: 5 }],
        image: Some(image),
        arch: String::new(),
    };
    cell.user("ann", Action::PutPackage { package: package.into() });
    let spec = with(job(1, 100, 100, 1), |task| task.image = Some("web:1".parse().unwrap()));
    let key = submit(&mut cell, &mut scheduler, "ann", spec);
    let said = why(&cell, &scheduler, &key);
    assert_eq!(said, "0 of 1 machine fits: 1 runs no tasks that bring an image");
    assert_eq!(advice(&cell, &scheduler, &key, 0), [] as [&str; 0], "nobody can do without it");
    let plain = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 100, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    assert!(cell.state.task(task(&cell, &plain, 0)).unwrap().placement().is_some());
    cell.add_machine(info(4000, 8, None, 0));
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
}

#[test]
fn a_cell_without_machines_or_with_none_up_says_so() {
    let (mut cell, mut scheduler) = cell_of(0, 0, 0);
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 100, 1));
    assert_eq!(why(&cell, &scheduler, &key), "the cell has no machines");
    let machine = cell.add_machine(info(1000, 8, None, 0));
    cell.observe(Observation::MachineDown { machine });
    cell.tell(&mut scheduler);
    assert_eq!(why(&cell, &scheduler, &key), "none of the 1 machines is up");
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
}

#[test]
fn nothing_is_placed_on_a_machine_that_is_silent_and_it_is_said() {
    let (mut cell, mut scheduler) = cell_of(1, 1000, 8);
    let machine = cell.state.machines().next().unwrap().id;
    scheduler.avoid([machine].into());
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 100, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    assert_eq!(why(&cell, &scheduler, &key), "none of the 1 machines is up");
    scheduler.start_afresh(&cell.state);
    assert_eq!(
        place_all(&mut cell, &mut scheduler),
        0,
        "news of the state is no news of the machine"
    );
    scheduler.avoid(Default::default());
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
}

#[test]
fn a_failed_task_waits_out_its_back_off_and_says_how_long() {
    let (mut cell, mut scheduler) = cell_of(1, 1000, 8);
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 100, 1));
    place_all(&mut cell, &mut scheduler);
    let id = cell.running()[0];
    let failure = Some(FailureCause::Exit { code: 7 });
    cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run: None });
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    let wakeup = scheduler.next_wakeup(cell.now).unwrap();
    assert!(wakeup > cell.now);
    let said = why(&cell, &scheduler, &key);
    assert!(
        said.starts_with("in back-off for another 1 s after exit code 7; 1 of 1 machine fits"),
        "{said}"
    );
    cell.now = Millis(wakeup.0 - 1);
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    cell.now = wakeup;
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    assert_eq!(scheduler.next_wakeup(cell.now), None);
}

#[test]
fn a_job_that_starts_after_another_says_for_whom_it_waits() {
    let (mut cell, mut scheduler) = cell_of(1, 1000, 8);
    let first = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 100, 1));
    let spec = JobSpec { after: vec![first.clone()], ..job(1, 100, 100, 1) };
    let second = submit(&mut cell, &mut scheduler, "ann", spec);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    assert_eq!(why(&cell, &scheduler, &second), format!("waits for {first} to finish"));
    assert_eq!(scheduler.next_wakeup(cell.now), None, "no clock releases it");
    let id = cell.running()[0];
    cell.observe(Observation::TaskEnded { id, at: cell.now, failure: None, run: None });
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    assert_eq!(why(&cell, &scheduler, &second), "placed on m0 as incarnation 1");
    assert_eq!(why(&cell, &scheduler, &first), "over: finished");
    let nobody = TaskId { job: JobId(999), index: 0 };
    assert_eq!(scheduler.explain(nobody, cell.now).summary, "the cell has no task 999.0");
}

#[test]
fn a_decision_on_its_way_is_not_made_again_and_why_says_where_it_goes() {
    let (mut cell, mut scheduler) = cell_of(1, 1000, 8);
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 600, 1));
    let other = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 600, 1));
    let decided = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decided.len(), 1);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), []);
    assert_eq!(why(&cell, &scheduler, &key), "goes to m0 as soon as the decision is committed");
    scheduler.refused(task(&cell, &key, 0));
    cell.user("ann", Action::Kill { job: key, tasks: Vec::new() });
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING)[0].task, task(&cell, &other, 0));
}

#[test]
fn users_of_one_priority_take_turns_and_higher_priority_goes_before_them() {
    let (mut cell, mut scheduler) = cell_of(4, 4000, 64);
    submit(&mut cell, &mut scheduler, "ann", job(5, 100, 100, 1));
    submit(&mut cell, &mut scheduler, "bob", job(2, 100, 100, 1));
    submit(&mut cell, &mut scheduler, "eve", job(1, 110, 100, 1));
    let mut order = String::new();
    // One decision a pass: whose turn it was is remembered from pass to pass.
    loop {
        let decided = scheduler.pass(cell.now, 1);
        let Some(one) = decided.first() else { break };
        order += &cell.state.job(one.task.job).unwrap().key.user.as_str()[..1];
    }
    assert_eq!(order, "eababaaa");
}

#[test]
fn the_lowest_priority_goes_first_and_nobody_goes_in_vain() {
    let (mut cell, mut scheduler) = cell_of(1, 4000, 64);
    let small = submit(&mut cell, &mut scheduler, "ann", job(1, 0, 500, 1));
    let large = submit(&mut cell, &mut scheduler, "ann", job(1, 50, 2000, 1));
    let batch = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 1500, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 3);
    let prod = submit(&mut cell, &mut scheduler, "eve", job(1, 200, 2000, 1));
    let decided = scheduler.pass(cell.now, EVERYTHING);
    let victims: Vec<TaskId> = decided[0].victims.iter().map(|v| v.task).collect();
    assert_eq!(
        victims,
        [task(&cell, &large, 0)],
        "{small} would not have helped, {batch} is more important"
    );
    cell.place(&decided);
    cell.tell(&mut scheduler);
    assert_eq!(why(&cell, &scheduler, &prod), "placed on m0 as incarnation 1");
    let more = submit(&mut cell, &mut scheduler, "eve", job(1, 300, 4000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 0, "production does not push out production");
    assert_eq!(
        why(&cell, &scheduler, &more),
        "0 of 1 machine fits: 1 lacks cpu (asks 4, most free is 2)",
        "what may be pushed out counts as room"
    );
}

#[test]
fn a_task_whose_placement_is_not_committed_cannot_be_pushed_out_until_it_is() {
    let (mut cell, mut scheduler) = cell_of(1, 1000, 8);
    let low = submit(&mut cell, &mut scheduler, "ann", job(1, 0, 1000, 1));
    let decided = scheduler.pass(cell.now, EVERYTHING);
    submit(&mut cell, &mut scheduler, "eve", job(1, 200, 1000, 1));
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), []);
    cell.place(&decided);
    cell.tell(&mut scheduler);
    let decided = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decided[0].victims[0].task, task(&cell, &low, 0));
    cell.place(&decided);
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), [], "the victim waits");
    assert!(why(&cell, &scheduler, &low).starts_with("0 of 1 machine fits"));
}

#[test]
fn a_service_of_few_tasks_stands_on_several_machines_and_racks() {
    let (mut cell, mut scheduler) = cell_of(4, 4000, 64);
    submit(&mut cell, &mut scheduler, "ann", job(2, 200, 500, 4));
    place_all(&mut cell, &mut scheduler);
    let racks: BTreeSet<_> = cell
        .running()
        .iter()
        .map(|id| cell.state.task(id.task).unwrap().placement().unwrap().machine)
        .map(|machine| {
            cell.state.machine(machine).unwrap().info.as_ref().unwrap().attributes["rack"].clone()
        })
        .collect();
    assert_eq!(racks.len(), 2);
}

#[test]
fn a_soft_constraint_is_followed_when_it_can_be_and_only_then() {
    let (mut cell, mut scheduler) = cell_of(4, 1000, 64);
    let prefer = |task: &mut borg_proto::TaskSpec| {
        let values = vec!["r1".into()];
        task.constraints.push(Constraint {
            attribute: "rack".into(),
            op: ConstraintOp::Equal,
            values,
            soft: true,
        });
    };
    for _ in 0..3 {
        submit(&mut cell, &mut scheduler, "ann", with(job(1, 100, 1000, 1), prefer));
    }
    let on: Vec<u32> = scheduler.pass(cell.now, EVERYTHING).iter().map(|d| d.machine.0).collect();
    assert_eq!(on, [1, 3, 0]);
}

#[test]
fn fit_says_how_many_and_what_stops_the_next_one() {
    let (cell, scheduler) = cell_of(3, 4000, 8);
    let fit = scheduler.fit(&job(100, 100, 1500, 1), 100);
    assert_eq!((fit.tasks, fit.machines), (6, 3));
    assert_eq!(
        fit.summary,
        "6 of 100 tasks fit; for the next one, 0 of 3 machines fit: 3 lack cpu (asks 1.5, most free is 1)"
    );
    let spread = with(job(10, 100, 100, 1), |task| {
        task.spread.push(Spread { attribute: "rack".into(), max: 2 });
    });
    let fit = scheduler.fit(&spread, 10);
    assert_eq!(fit.tasks, 4);
    assert!(
        fit.summary.ends_with("3 take no more of the job (at most 2 per rack)"),
        "{}",
        fit.summary
    );
    assert!(cell.running().is_empty());
}

/// I20. The rule is soft: it never keeps a task waiting for what cannot be.
#[test]
fn a_task_keeps_away_from_where_it_failed_until_all_others_were_tried() {
    let (mut cell, mut scheduler) = cell_of(3, 4_000, 16);
    cell.master(Action::RaiseLevel { level: NOTES_LEVEL });
    let spec = JobSpec { retries: 9, ..job(1, 100, 1_000, 1) };
    submit(&mut cell, &mut scheduler, "ann", spec);
    let mut been = Vec::new();
    for _ in 0..5 {
        assert_eq!(place_all(&mut cell, &mut scheduler), 1);
        let id = cell.running()[0];
        let state = cell.state.task(id.task).unwrap();
        been.push(state.placement().unwrap().machine.0);
        let failure = Some(FailureCause::Exit { code: 1 });
        cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run: None });
        cell.now = cell.now + Millis(20_000);
        cell.tell(&mut scheduler);
    }
    let tried: BTreeSet<u32> = been[..3].iter().copied().collect();
    assert_eq!(tried.len(), 3, "{been:?}");
    assert_eq!(been[3..], been[..2], "then the one that was tried the longest ago");
}

#[test]
fn who_keeps_away_from_a_machine_waits_for_the_others_and_says_so() {
    let (mut cell, mut scheduler) = cell_of(2, 4_000, 16);
    cell.master(Action::RaiseLevel { level: NOTES_LEVEL });
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 3_000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    let id = cell.running()[0];
    submit(&mut cell, &mut scheduler, "bob", job(1, 200, 3_000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1, "on the other machine");
    let failure = Some(FailureCause::Exit { code: 1 });
    cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run: None });
    let failed = cell.now;
    cell.now = cell.now + Millis(2_000);
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    assert_eq!(
        why(&cell, &scheduler, &key),
        "0 of 2 machines fit: 1 is avoided as the task failed there, 1 lacks cpu (asks 3, most free is 1)"
    );
    let cooled = failed + CRASH_COOL_DOWN;
    assert_eq!(scheduler.next_wakeup(cell.now), Some(cooled));
    // Another task of the same shape goes there at once.
    submit(&mut cell, &mut scheduler, "cid", job(1, 100, 3_000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    cell.user("cid", Action::Kill { job: "cid/j2".parse().unwrap(), tasks: Vec::new() });
    cell.tell(&mut scheduler);
    cell.now = cooled;
    assert_eq!(place_all(&mut cell, &mut scheduler), 1, "the cool-down is over");
}

/// I7.
#[test]
fn an_exclusive_task_waits_for_its_last_incarnation_and_says_so() {
    let (mut cell, mut scheduler) = cell_of(2, 4_000, 16);
    let spec = JobSpec { exclusive: true, ..job(1, 100, 1_000, 1) };
    let key = submit(&mut cell, &mut scheduler, "ann", spec);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    let id = cell.running()[0];
    let machine = cell.state.task(id.task).unwrap().placement().unwrap().machine;
    cell.observe(Observation::MachineDown { machine });
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    let name = &cell.state.machine(machine).unwrap().name;
    assert_eq!(
        why(&cell, &scheduler, &key),
        format!(
            "is exclusive, and its last incarnation may still run on {name}: waits until that has surely ended"
        )
    );
    cell.observe(Observation::TaskGone { id });
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
}

fn advice(cell: &Cell, scheduler: &Scheduler, key: &JobKey, index: u32) -> Vec<String> {
    let told = scheduler.explain(task(cell, key, index), cell.now);
    let all = told.advice.iter().map(|advice| {
        advice.changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    });
    all.collect()
}

#[test]
fn a_task_that_fits_nowhere_is_told_the_smallest_changes_that_would_help() {
    let (mut cell, mut scheduler) = cell_of(2, 4000, 8);
    cell.add_machine(info(6000, 4, None, 0));
    let large = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 5000, 8));
    assert_eq!(
        advice(&cell, &scheduler, &large, 0),
        ["ask for 4 of cpu instead of 5", "ask for 4 GiB of memory instead of 8 GiB"]
    );
    let picky = with(job(1, 100, 5000, 8), |task| {
        task.constraints.push(Constraint {
            attribute: "rack".into(),
            op: ConstraintOp::Equal,
            values: vec!["r7".into()],
            soft: false,
        });
    });
    let picky = submit(&mut cell, &mut scheduler, "ann", picky);
    assert_eq!(
        advice(&cell, &scheduler, &picky, 0),
        [
            "ask for 4 of cpu instead of 5 and do without rack = r7",
            "ask for 4 GiB of memory instead of 8 GiB and do without rack = r7"
        ]
    );
    let spread = with(job(4, 100, 100, 1), |task| {
        task.spread.push(Spread { attribute: "machine".into(), max: 1 });
    });
    let spread = submit(&mut cell, &mut scheduler, "ann", spread);
    assert_eq!(place_all(&mut cell, &mut scheduler), 3);
    assert_eq!(advice(&cell, &scheduler, &spread, 3), ["allow 2 tasks per machine"]);
}

#[test]
fn a_pending_task_is_told_who_goes_before_it_and_whom_it_would_push_out() {
    let (mut cell, mut scheduler) = cell_of(1, 4000, 8);
    let batch = submit(&mut cell, &mut scheduler, "ann", job(4, 100, 1000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 4);
    let high = submit(&mut cell, &mut scheduler, "bob", job(2, 300, 100, 1));
    let mine = submit(&mut cell, &mut scheduler, "ann", job(1, 200, 1500, 1));
    let told = scheduler.explain(task(&cell, &mine, 0), cell.now);
    assert_eq!((told.ahead.higher, told.ahead.equal), (2, 1));
    assert_eq!(told.ahead.next, Some(task(&cell, &high, 0).job));
    let victims: Vec<TaskId> = told.victims.iter().map(|victim| victim.task).collect();
    assert_eq!(victims, [task(&cell, &batch, 3), task(&cell, &batch, 2)]);
    let decided = scheduler.pass(cell.now, EVERYTHING);
    let leaving = scheduler.explain(task(&cell, &batch, 3), cell.now);
    assert!(leaving.standings.is_empty(), "it is pushed out as soon as that is committed");
    decided.iter().for_each(|decision| scheduler.refused(decision.task));
    assert_eq!(place_all(&mut cell, &mut scheduler), 3);
    let told = scheduler.explain(task(&cell, &mine, 0), cell.now);
    // One of the two made room for the tasks of higher priority.
    assert_eq!(told.pushed_out, [task(&cell, &batch, 2)]);
}

#[test]
fn a_running_task_is_told_what_its_machine_and_the_next_best_cost_it() {
    let mut cell = Cell::new();
    let small = cell.add_machine(info(2000, 4, Some(0), 0));
    let large = cell.add_machine(info(8000, 16, Some(1), 0));
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.tell(&mut scheduler);
    let key = submit(&mut cell, &mut scheduler, "ann", job(2, 100, 1000, 2));
    assert_eq!(place_all(&mut cell, &mut scheduler), 2);
    let told = scheduler.explain(task(&cell, &key, 0), cell.now);
    let machines: Vec<_> = told.standings.iter().map(|s| (s.machine, s.cost)).collect();
    // Half of the small machine's cpu and memory stay free, and the whole disk; of the large one
    // three quarters, as the job's other task is there, which is half of the job.
    assert_eq!(machines, [(small, 2_000), (large, 6_500)]);
    assert_eq!(
        told.standings[1].terms,
        [
            ("fit", 2_500),
            ("strand", 0),
            ("machine-crowd", 3_000),
            ("rack-crowd", 1_000),
            ("power-crowd", 0),
            ("mix", 0),
            ("soft", 0)
        ]
    );
}

/// Machines that grew, shrank, came and went have other rows than in a scheduler that sees only the
/// result, and who leads next must decide the same.
#[test]
fn what_machines_were_before_decides_nothing() {
    let (mut cell, mut scheduler) = cell_of(70, 4000, 8);
    for m in [3_u32, 68, 11, 3] {
        let machine = MachineId(m);
        cell.observe(Observation::MachineUp { machine, info: info(8000, 16, Some(m % 2), 2) });
        cell.tell(&mut scheduler);
        cell.observe(Observation::MachineUp { machine, info: info(4000, 8, Some(m % 2), 0) });
    }
    let gone = cell.state.machine(MachineId(5)).unwrap().name.clone();
    cell.user("admin", Action::RemoveMachine { machine: gone });
    cell.add_machine(info(4000, 8, Some(0), 0));
    for tasks in [1, 30, 200] {
        submit(&mut cell, &mut scheduler, "ann", job(tasks, 100, 700, 1));
    }
    let anew = Scheduler::new(&cell.state, Config::default()).pass(cell.now, EVERYTHING);
    assert_eq!(anew.len(), 231);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), anew);
}

#[test]
fn equal_machines_are_taken_by_number_or_in_the_order_of_a_seed() {
    let (mut cell, _) = cell_of(100, 4000, 8);
    cell.submit("ann", job(1, 100, 1000, 1));
    let first = |seed| {
        let config = Config { seed, ..Config::default() };
        Scheduler::new(&cell.state, config).pass(cell.now, EVERYTHING)[0].machine
    };
    assert_eq!(first(0), MachineId(0));
    let chosen: BTreeSet<MachineId> = (1..20).map(first).collect();
    assert!(chosen.len() > 10, "{chosen:?}");
    assert_eq!(first(7), first(7));
}

#[test]
fn a_task_in_an_alloc_goes_where_its_alloc_is_and_says_what_it_waits_for() {
    let (mut cell, mut scheduler) = cell_of(2, 1000, 4);
    let set = submit(&mut cell, &mut scheduler, "ann", allocs(job(2, 200, 600, 2)));
    let small = |cpu_milli| within(job(3, 100, cpu_milli, 1), &set);
    let first = submit(&mut cell, &mut scheduler, "ann", small(400));
    assert_eq!(
        why(&cell, &scheduler, &first),
        "alloc ann/j0/0 is not placed: waits for its turn; 2 of 2 machines fit"
    );
    assert_eq!(place_all(&mut cell, &mut scheduler), 2, "the allocs");
    assert_eq!(place_all(&mut cell, &mut scheduler), 2, "and then what is in them");
    let home = |key: &JobKey, index| {
        cell.state.task(task(&cell, key, index)).unwrap().placement().map(|p| p.machine)
    };
    assert_eq!([0, 1].map(|i| home(&first, i)), [0, 1].map(|i| home(&set, i)));
    assert_eq!(
        scheduler.explain(task(&cell, &first, 2), cell.now).summary,
        "alloc set ann/j0 has 2 allocs, so there is none for task 2"
    );
    let second = submit(&mut cell, &mut scheduler, "ann", small(300));
    assert_eq!(place_all(&mut cell, &mut scheduler), 0);
    assert_eq!(
        why(&cell, &scheduler, &second),
        "alloc ann/j0/0 has 200 m CPU free, task asks 300 m"
    );
    cell.user("ann", Action::Kill { job: first, tasks: vec![0] });
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1, "its neighbour left it the room");
    assert!(why(&cell, &scheduler, &second).ends_with(", in alloc ann/j0/0"));
}

#[test]
fn of_two_machines_the_one_is_cleared_whose_alloc_holds_less() {
    let (mut cell, mut scheduler) = cell_of(2, 1000, 4);
    let set = submit(&mut cell, &mut scheduler, "ann", allocs(job(2, 100, 900, 2)));
    place_all(&mut cell, &mut scheduler);
    for tasks in [2, 1] {
        submit(&mut cell, &mut scheduler, "ann", within(job(tasks, 100, 100, 1), &set));
    }
    assert_eq!(place_all(&mut cell, &mut scheduler), 3, "two in alloc 0, one in alloc 1");
    let prod = submit(&mut cell, &mut scheduler, "bob", job(1, 200, 500, 1));
    let alloc = cell.state.task(task(&cell, &set, 1)).unwrap().running(task(&cell, &set, 1));
    let told = scheduler.explain(task(&cell, &prod, 0), cell.now);
    assert_eq!(told.victims, Vec::from_iter(alloc));
    let decided = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decided[0].victims, Vec::from_iter(alloc));
    cell.place(&decided);
    cell.tell(&mut scheduler);
    assert_eq!(cell.state.pending().count(), 2, "the alloc, and the task that was in it");
}

#[test]
fn another_policy_holds_for_what_is_placed_from_then_on_and_for_the_next_leader() {
    let (mut cell, mut scheduler) = cell_of(4, 4000, 16);
    let places = |cell: &Cell, key: &JobKey| {
        let job = cell.state.job_named(key).unwrap().id;
        let placed = cell.state.tasks_of(job).filter_map(|(_, task)| task.placement());
        placed.map(|placement| placement.machine).collect::<Vec<_>>()
    };
    let first = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 500, 2));
    let second = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 500, 2));
    place_all(&mut cell, &mut scheduler);
    assert_eq!(places(&cell, &first), places(&cell, &second), "filled up");
    let policy = Some(Policy::WorstFit);
    cell.user("admin", Action::SetPolicy { policy, weights: BTreeMap::new() }).unwrap();
    cell.tell(&mut scheduler);
    let third = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 500, 2));
    let mut next = Scheduler::new(&cell.state, Config::default());
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(next.pass(cell.now, EVERYTHING), decisions, "as the next leader's would");
    cell.place(&decisions);
    assert_ne!(places(&cell, &third), places(&cell, &first), "spread");
    assert_eq!(places(&cell, &second), places(&cell, &first), "what runs does not move");
}

#[test]
fn kept_and_closed_machines_are_told_with_counts_and_those_they_are_kept_for_go_elsewhere_too() {
    let (mut cell, mut scheduler) = cell_of(6, 1000, 8);
    let names = |range: std::ops::Range<usize>| {
        range.map(|n| format!("m{n}").parse().unwrap()).collect::<Vec<_>>()
    };
    let users = ["bob".parse().unwrap()].into();
    cell.user("admin", Action::KeepMachines { machines: names(0..4), users }).unwrap();
    let close = Action::CloseMachines { machines: names(4..5), reason: "bad disk".into() };
    cell.user("admin", close).unwrap();
    cell.tell(&mut scheduler);
    let ann = submit(&mut cell, &mut scheduler, "ann", job(2, 100, 1000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    let last = scheduler.explain(task(&cell, &ann, 1), cell.now);
    assert_eq!(
        last.summary,
        "0 of 6 machines fit: 4 are kept for other users, 1 is closed, 1 lacks cpu (asks 1, most free is 0)"
    );
    assert!(
        last.advice.iter().all(|advice| advice.machine == MachineId(5)),
        "no change of the job opens a machine: {:?}",
        last.advice
    );
    // Nothing of what runs is pushed out for being on a machine that is kept for others.
    let bob = submit(&mut cell, &mut scheduler, "bob", job(5, 100, 1000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 4);
    let why = scheduler.explain(task(&cell, &bob, 4), cell.now).summary;
    assert!(why.starts_with("0 of 6 machines fit: 5 lack cpu"), "{why}");
    cell.user("admin", Action::OpenMachines { machines: names(4..5) }).unwrap();
    cell.tell(&mut scheduler);
    assert_eq!(place_all(&mut cell, &mut scheduler), 1, "who waits is placed once it is open");
}

/// What it could push out is on its way as the room comes free.
#[test]
fn who_waits_for_somebody_to_start_is_placed_over_them_once_they_have() {
    let (mut cell, mut scheduler) = cell_of(1, 3000, 8);
    let first = submit(&mut cell, &mut scheduler, "ann", job(1, 200, 2000, 1));
    place_all(&mut cell, &mut scheduler);
    let large = submit(&mut cell, &mut scheduler, "bob", job(1, 200, 3000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 0, "production fills the machine");
    submit(&mut cell, &mut scheduler, "eve", job(1, 100, 1000, 1));
    let low = scheduler.pass(cell.now, EVERYTHING);
    cell.user("ann", Action::Kill { job: first, tasks: Vec::new() });
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), []);
    cell.place(&low);
    cell.tell(&mut scheduler);
    let decided = scheduler.pass(cell.now, EVERYTHING);
    assert_eq!(decided.iter().map(|d| d.task).collect::<Vec<_>>(), [task(&cell, &large, 0)]);
    assert_eq!(decided[0].victims.len(), 1);
}

#[test]
fn what_is_left_of_a_job_that_waited_and_was_scaled_down_is_placed() {
    let mut cell = Cell::new();
    let machine = cell.add_machine(info(100, 4, None, 0));
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.master(Action::RaiseLevel { level: SERVICES_SINCE });
    let job = cell.submit("ann", job(4, 100, 500, 1));
    let spec = cell.state.job_named(&job).unwrap().spec.as_ref().clone();
    let update = |cell: &mut Cell, scheduler: &mut Scheduler, to, first: Option<IndexSet>| {
        let options = UpdateOptions { tasks: first, close: true, ..UpdateOptions::default() };
        let (job, options) = (job.clone(), Box::new(options));
        cell.user("admin", Action::UpdateJob { job, to, options });
        cell.tell(scheduler);
    };
    let other = Arc::new(with(spec, |task| task.limit.cpu_milli = 400));
    // The others keep their version, of which they wait.
    update(
        &mut cell,
        &mut scheduler,
        Revision::Spec(other),
        IndexSet::of_ranges(vec![(0, 0)]).ok(),
    );
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), [], "too large for the machine");
    update(&mut cell, &mut scheduler, Revision::Tasks(2), None);
    let info = info(1000, 4, None, 0);
    cell.observe(Observation::MachineUp { machine, info });
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING).len(), 2);
}

/// The state never refuses like this; were it wrong, or the scheduler, nobody would decide for ever.
#[test]
fn whoever_is_refused_time_and_again_waits_until_there_is_news_of_him() {
    let (mut cell, mut scheduler) = cell_of(2, 4000, 24);
    let key = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 1000, 1));
    let gang = JobSpec { gang: true, ..job(2, 100, 1000, 1) };
    let gang = submit(&mut cell, &mut scheduler, "bob", gang);
    let refuse = |cell: &Cell, scheduler: &mut Scheduler| {
        let decisions = scheduler.pass(cell.now, EVERYTHING);
        decisions.iter().for_each(|decision| scheduler.refused(decision.task));
        decisions.len()
    };
    for _ in 0..3 {
        assert_eq!(refuse(&cell, &mut scheduler), 3);
    }
    assert_eq!(refuse(&cell, &mut scheduler), 0);
    assert_eq!(scheduler.next_wakeup(cell.now), Some(cell.now + Millis(1_000)));
    let told = why(&cell, &scheduler, &key);
    let refused = "3 decisions in a row to place it came to nothing: tried again in 1 s; ";
    assert!(told.starts_with(refused), "{told}");
    cell.now = cell.now + Millis(1_000);
    assert_eq!(refuse(&cell, &mut scheduler), 3);
    assert_eq!(scheduler.next_wakeup(cell.now), Some(cell.now + Millis(2_000)));
    // Whoever is withdrawn and comes again starts anew; the gang still waits.
    cell.user("ann", Action::Kill { job: key, tasks: Vec::new() });
    let other = submit(&mut cell, &mut scheduler, "ann", job(1, 100, 1000, 1));
    assert_eq!(place_all(&mut cell, &mut scheduler), 1);
    assert!(why(&cell, &scheduler, &other).starts_with("placed on"));
    assert!(
        why(&cell, &scheduler, &gang)
            .starts_with("4 decisions in a row to place it came to nothing")
    );
    cell.now = cell.now + Millis(2_000);
    assert_eq!(place_all(&mut cell, &mut scheduler), 2);
}
