//! Directories that tasks of allocs share.

use super::{Bench, bench, found, starts, usage, work};
use crate::fixture::{fence, poll, target_task};
use crate::{AdoptedState, Config, Effect, Input, MachineUse, Supervisor};
use borg_proto::poll::{
    DataReport, DataStatus, PollRequest, SharedData, Target, TargetData, TargetTask,
};
use borg_proto::{FailureCause, IncarnationId, JobId, TaskId};
use std::num::NonZeroU64;
use std::sync::Arc;

const RESERVE: u64 = 1_000;

fn alloc(index: u32) -> IncarnationId {
    IncarnationId { task: TaskId { job: JobId(9), index }, number: 1 }
}

/// A task that shares the directory of an alloc, or saves what is there.
fn sharing(index: u32, of: u32, rescue: bool) -> TargetTask {
    let name = format!("ann/room/{of}").parse().unwrap();
    let shared = Some(SharedData { alloc: alloc(of), name, rescue, charged: !rescue });
    TargetTask { shared, ..target_task(1, index, !rescue) }
}

/// What is kept: the alloc's index, and when it left.
fn kept(of: &[(u32, u64)]) -> Vec<TargetData> {
    let one = |(index, left): &(u32, u64)| TargetData {
        alloc: alloc(*index),
        left: NonZeroU64::new(*left),
    };
    of.iter().map(one).collect()
}

fn order(generation: u64, tasks: &[&TargetTask], data: &[(u32, u64)], spare: bool) -> PollRequest {
    let tasks = tasks.iter().copied().cloned().collect();
    let target = Target { tasks, spare, data: kept(data), ..Target::default() };
    PollRequest { target: Some(Arc::new(target)), ..poll(fence(1, 1, generation), None) }
}

fn told(b: &Bench) -> Vec<(u32, DataStatus)> {
    let one = |report: DataReport| (report.alloc.task.index, report.status);
    b.supervisor.report().1.data.into_iter().map(one).collect()
}

fn measured(b: &mut Bench, of: u32, bytes: Option<u64>) -> Vec<Effect> {
    b.input(Input::DataMeasured { alloc: alloc(of), bytes })
}

fn gone(told: &DataStatus) -> bool {
    matches!(told, DataStatus::Gone { .. })
}

#[test]
fn what_an_alloc_left_is_told_once_no_task_uses_it_and_goes_when_the_masters_say_so() {
    let mut b = bench(vec![]);
    let (server, saver) = (sharing(0, 3, false), sharing(1, 3, false));
    b.poll(order(1, &[&server, &saver], &[(3, 0)], false));
    b.start(server.id, 0, 1);
    b.start(saver.id, 0, 2);
    assert_eq!(told(&b), [], "nothing is told of allocs that are there");
    b.poll(order(2, &[], &[(3, 7)], false));
    assert_eq!(told(&b), [(3, DataStatus::InUse)]);
    b.exit(server.id, 0, None);
    assert_eq!(told(&b), [(3, DataStatus::InUse)], "the other one still uses it");
    let effects = work(b.exit(saver.id, 0, None));
    assert!(effects.contains(&Effect::MeasureData { alloc: alloc(3) }), "{effects:?}");
    assert_eq!(told(&b), [(3, DataStatus::InUse)], "its size is not known yet");
    let version = b.supervisor.report().0;
    measured(&mut b, 3, Some(50));
    assert_eq!(told(&b), [(3, DataStatus::AtRest { bytes: 50 })]);
    assert!(b.supervisor.report().0 > version, "that is news");
    // A run that saves it, and its end.
    let rescue = sharing(0, 3, true);
    let rescue = TargetTask { id: IncarnationId { number: 5, ..rescue.id }, ..rescue };
    assert_eq!(starts(&b.poll(order(3, &[&rescue], &[(3, 7)], false))).len(), 1);
    b.start(rescue.id, 0, 3);
    assert_eq!(told(&b), [(3, DataStatus::InUse)]);
    b.exit(rescue.id, 0, None);
    let effects = work(b.poll(order(4, &[], &[], false)));
    assert!(effects.contains(&Effect::DropData { alloc: alloc(3) }), "{effects:?}");
    assert_eq!(told(&b), []);
}

#[test]
fn nothing_goes_before_the_masters_speak_nor_while_they_spare_nor_under_a_task() {
    let task = sharing(0, 1, false);
    let mut left = found(&task, 0, AdoptedState::Running { pid: 2 });
    left.task = Some(task.clone());
    let mut b = bench(vec![left]);
    b.supervisor.data.adopt([alloc(1), alloc(2)]);
    let drops = |effects: Vec<Effect>| -> Vec<IncarnationId> {
        let dropped = effects.into_iter().filter_map(|effect| match effect {
            Effect::DropData { alloc } => Some(alloc),
            _ => None,
        });
        dropped.collect()
    };
    assert_eq!(drops(b.later(10)), []);
    measured(&mut b, 2, Some(1));
    assert_eq!(drops(b.poll(order(1, &[], &[], true))), [], "spared");
    assert_eq!(drops(b.poll(order(2, &[], &[], false))), [alloc(2)], "the other one is in use");
    assert_eq!(drops(b.exit(task.id, 0, None)), [alloc(1)]);
    // Of one that was found nobody knows any more what it uses: it may be anything.
    let mut b = bench(vec![found(&task, 0, AdoptedState::Running { pid: 2 })]);
    b.supervisor.data.adopt([alloc(2)]);
    assert_eq!(drops(b.poll(order(1, &[], &[], false))), []);
    assert_eq!(drops(b.exit(task.id, 0, None)), [alloc(2)]);
}

#[test]
fn what_is_not_there_is_told_and_no_run_makes_it_anew() {
    let mut b = bench(vec![]);
    b.poll(order(1, &[], &[(1, 4)], false));
    assert!(gone(&told(&b)[0].1), "{:?}", told(&b));
    let rescue = sharing(0, 1, true);
    b.poll(order(2, &[&rescue], &[(1, 4)], false));
    assert!(gone(&told(&b)[0].1), "{:?}", told(&b));
    b.input(Input::StartFailed {
        run: super::run(rescue.id, 0),
        cause: FailureCause::start("what it would save is not there"),
    });
    assert!(gone(&told(&b)[0].1), "{:?}", told(&b));
    b.poll(order(3, &[], &[], false));
    assert_eq!(told(&b), []);
    // A directory that somebody removed.
    let task = sharing(1, 2, false);
    b.poll(order(4, &[&task], &[(2, 0)], false));
    b.start(task.id, 0, 1);
    b.poll(order(5, &[], &[(2, 5)], false));
    b.exit(task.id, 0, None);
    measured(&mut b, 2, None);
    assert!(gone(&told(&b)[0].1), "{:?}", told(&b));
}

#[test]
fn a_full_disk_costs_what_left_first_before_any_task() {
    let mut config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 77);
    config.disk_reserve = RESERVE;
    let mut b = Bench::of(Supervisor::new(config, fence(1, 1, 0), vec![], super::info()));
    let task = target_task(1, 0, true);
    b.supervisor.data.adopt([alloc(1), alloc(2), alloc(3), alloc(4)]);
    b.poll(order(1, &[&task], &[(1, 9), (2, 5), (3, 7), (4, 0)], false));
    b.start(task.id, 0, 1);
    for of in 1..=4 {
        measured(&mut b, of, Some(300));
    }
    b.input(usage(task.id, borg_proto::poll::Usage { disk_bytes: 5_000, ..Default::default() }));
    let mut left = |disk_available: u64| {
        let machine = MachineUse { disk_available: Some(disk_available), ..MachineUse::default() };
        work(b.input(Input::Usage { machine, tasks: Vec::new() }))
    };
    let dropped = |of: u32| Effect::DropData { alloc: alloc(of) };
    assert_eq!(left(RESERVE), []);
    assert_eq!(left(RESERVE - 400), [dropped(2), dropped(3)], "what left first goes first");
    assert_eq!(left(RESERVE - 400), [], "what was freed does not show at once");
    assert_eq!(left(RESERVE - 700), [dropped(1)]);
    // Nothing is left but what an alloc holds that is there: now a task goes.
    assert!(left(RESERVE - 950).iter().any(|effect| matches!(effect, Effect::Kill { .. })));
    assert!(told(&b).iter().all(|(_, status)| gone(status)), "{:?}", told(&b));
}

/// After a cell was restored from a backup its allocs may have other incarnations than what runs was told of.
#[test]
fn what_runs_keeps_the_directory_that_it_was_started_with() {
    let before = sharing(0, 3, false);
    let after = TargetTask { shared: sharing(0, 4, false).shared, ..before.clone() };
    let mut b = bench(vec![]);
    b.poll(order(1, &[&before], &[(3, 0)], false));
    b.start(before.id, 0, 1);
    let drop = Effect::DropData { alloc: alloc(3) };
    let effects = work(b.poll(order(2, &[&after], &[(4, 0)], false)));
    assert!(!effects.contains(&drop), "{effects:?}");
    b.exit(before.id, 0, None);
    // Started again it uses the new one.
    let effects = work(b.later(60_000));
    assert!(effects.contains(&drop), "{effects:?}");
}
