use crate::fixture::{Cell, batch, cron, user};
use crate::rejection::Rejection;
use crate::state::{Answer, Fate, Job, JobState};
use borg_proto::command::{Action, CronOrder};
use borg_proto::cron::{CatchUp, Overlap};
use borg_proto::time::Date;
use borg_proto::update::{Revision, UpdateOptions};
use borg_proto::{FailureCause, JobId, JobKey, JobSpec, MachineId, Millis};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const MINUTE: u64 = 60_000;

/// A cell at 1970-01-01T00:16:40Z.
fn cell() -> (Cell, MachineId) {
    let mut cell = Cell::at_level(6);
    let machine = cell.machine("m-1", 1_000, 64 * MIB);
    (cell, machine)
}

fn with(schedule: &str, overlap: Overlap, catch_up: CatchUp) -> JobSpec {
    let mut spec = cron("backup", schedule);
    let its = spec.cron.as_mut().unwrap();
    (its.overlap, its.catch_up) = (overlap, catch_up);
    spec
}

fn job<'a>(cell: &'a Cell, name: &str) -> &'a Job {
    cell.state.job_named(&format!("ann/{name}").parse().unwrap()).unwrap()
}

/// Waits until the next tick and lets it come.
fn next(cell: &mut Cell) {
    cell.now = cell.state.next_alarm().unwrap();
    cell.advance();
}

fn order(cell: &mut Cell, order: CronOrder) -> Result<Answer, Rejection> {
    let action = Action::OrderCron { job: "ann/backup".parse().unwrap(), order };
    cell.apply(user("ann"), action).map(|applied| applied.answer)
}

/// Tick and what became of it.
fn history(cell: &Cell) -> Vec<String> {
    let ticks = job(cell, "backup").ticks().unwrap().history.iter();
    let text = |tick: &super::Tick| {
        let fate = match &tick.fate {
            Fate::Run { job, ended: None, .. } => job.name.to_string(),
            Fate::Run { job, ended: Some((_, state, note)), .. } => {
                format!("{} {state} {note}", job.name).trim_end().to_owned()
            }
            Fate::Skipped { why } => why.clone(),
        };
        format!("{} {fate}", &Date(tick.tick).to_string()[11..16])
    };
    ticks.map(text).collect()
}

fn finish(cell: &mut Cell, run: &str, machine: MachineId, failure: Option<FailureCause>) {
    let id = cell.place(job(cell, run).id, 0, machine).unwrap();
    cell.ended(id, failure);
}

#[test]
fn a_batch_job_is_made_at_each_tick_once() {
    let (mut cell, machine) = cell();
    let id = cell.submit("ann", cron("backup", "*/10 * * * *"));
    assert_eq!(job(&cell, "backup").note(&cell.state), "next at 1970-01-01T00:20:00Z");
    cell.wait(1_000);
    cell.advance();
    assert_eq!(history(&cell), [""; 0], "not before its time");
    next(&mut cell);
    let run = job(&cell, "backup-1");
    assert_eq!(run.spec.parent.as_ref().unwrap().to_string(), "ann/backup");
    assert_eq!(run.spec.task.env["BORG_TICK"], "1970-01-01T00:20:00Z");
    assert_eq!(cell.state.job(id).unwrap().children.len(), 1);
    cell.advance();
    assert_eq!(
        history(&cell),
        ["00:20 backup-1"],
        "a second entry for the same time makes no other"
    );
    finish(&mut cell, "backup-1", machine, None);
    next(&mut cell);
    finish(&mut cell, "backup-2", machine, Some(FailureCause::Exit { code: 3 }));
    assert_eq!(
        history(&cell),
        ["00:20 backup-1 finished", "00:30 backup-2 failed task 0 failed: exit code 3"]
    );
}

#[test]
fn a_run_that_is_not_over_is_in_the_way_stays_or_goes() {
    for (overlap, told) in [
        (
            Overlap::Forbid,
            ["00:17 backup-1", "00:18 its run ann/backup-1 is not over, and overlap is forbid"],
        ),
        (Overlap::Allow, ["00:17 backup-1", "00:18 backup-2"]),
        (Overlap::Replace, ["00:17 backup-1 killed killed by the run after it", "00:18 backup-2"]),
    ] {
        let (mut cell, machine) = cell();
        cell.submit("ann", with("* * * * *", overlap, CatchUp::Last));
        next(&mut cell);
        cell.place(job(&cell, "backup-1").id, 0, machine).unwrap();
        next(&mut cell);
        assert_eq!(history(&cell), told, "{overlap}");
    }
}

#[test]
fn ticks_of_a_time_without_a_leader_are_fired_as_asked() {
    let fired = |catch_up, late: u64| {
        let (mut cell, _) = cell();
        cell.submit("ann", with("*/10 * * * *", Overlap::Allow, catch_up));
        cell.now = Millis(20 * MINUTE + late);
        cell.advance();
        history(&cell)
    };
    assert_eq!(fired(CatchUp::None, 59_000), ["00:20 backup-1"]);
    assert_eq!(fired(CatchUp::None, 61_000), ["00:20 missed: 61 s late"]);
    assert_eq!(
        fired(CatchUp::Last, 35 * MINUTE),
        [
            "00:20 missed until 1970-01-01T00:40:00Z: no master led, catch_up is last",
            "00:50 backup-1"
        ]
    );
    assert_eq!(
        fired(CatchUp::All, 25 * MINUTE),
        ["00:20 backup-1", "00:30 backup-2", "00:40 backup-3"]
    );
    let all = fired(CatchUp::All, 365 * 24 * 60 * MINUTE);
    assert_eq!(all.len(), 11, "a year's ticks are bounded: {all:?}");
}

#[test]
fn a_run_does_not_begin_after_its_time() {
    let (mut cell, _) = cell();
    let mut spec = cron("backup", "0 * * * *");
    spec.cron.as_mut().unwrap().start_by_ms = Some(Millis(30_000));
    cell.submit("ann", spec);
    cell.now = Millis(60 * MINUTE + 31_000);
    cell.advance();
    assert_eq!(history(&cell), ["01:00 missed: 31 s late"]);
}

#[test]
fn a_paused_cron_job_makes_no_run_but_those_that_are_ordered() {
    let (mut cell, machine) = cell();
    cell.submit("ann", cron("backup", "* * * * *"));
    order(&mut cell, CronOrder::Pause).unwrap();
    assert_eq!(job(&cell, "backup").note(&cell.state), "paused");
    assert_eq!(cell.state.next_alarm(), None);
    cell.wait(10 * MINUTE);
    let made = order(&mut cell, CronOrder::Run).unwrap();
    assert!(matches!(made, Answer::Job { key, .. } if key.to_string() == "ann/backup-1"));
    let before = cell.state.clone();
    let refused = order(&mut cell, CronOrder::Run).unwrap_err();
    assert_eq!(refused.to_string(), "its run ann/backup-1 is not over, and overlap is forbid");
    assert!(before.jobs().eq(cell.state.jobs()));
    finish(&mut cell, "backup-1", machine, None);
    order(&mut cell, CronOrder::Resume).unwrap();
    assert_eq!(
        job(&cell, "backup").ticks().unwrap().next,
        Some(Millis(27 * MINUTE)),
        "not the ones before"
    );
}

#[test]
fn what_stands_against_a_run_is_noted_and_the_next_tick_tries_again() {
    let (mut cell, _) = cell();
    cell.submit("ann", batch("backup-1", 1, 100, 4 * MIB));
    let enforce = Action::EnforceQuota { bands: vec![borg_proto::Band::Batch], on: true };
    cell.submit("ann", cron("backup", "* * * * *"));
    cell.apply(user("admin"), enforce).unwrap();
    next(&mut cell);
    assert!(history(&cell)[0].contains("quota"), "{:?}", history(&cell));
    let enforce = Action::EnforceQuota { bands: vec![borg_proto::Band::Batch], on: false };
    cell.apply(user("admin"), enforce).unwrap();
    next(&mut cell);
    assert_eq!(history(&cell)[1], "00:18 backup-2", "names that are taken are left out");
}

#[test]
fn of_its_runs_so_many_are_remembered_as_it_says() {
    let (mut cell, machine) = cell();
    let mut spec = cron("backup", "* * * * *");
    let its = spec.cron.as_mut().unwrap();
    (its.keep_finished, its.keep_failed) = (1, 2);
    cell.submit("ann", spec);
    for number in 1..=8 {
        next(&mut cell);
        let failed = (number % 2 == 0).then_some(FailureCause::Exit { code: 1 });
        finish(&mut cell, &format!("backup-{number}"), machine, failed);
    }
    let names: Vec<String> =
        history(&cell).iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(names, ["backup-6", "backup-7", "backup-8"]);
    assert_eq!(cell.state.jobs().count(), 4, "their jobs are forgotten too");
}

#[test]
fn a_cron_job_that_is_killed_takes_its_runs_along() {
    let (mut cell, _) = cell();
    let id: JobId = cell.submit("ann", cron("backup", "* * * * *"));
    next(&mut cell);
    cell.kill("ann", "ann/backup", &[]).unwrap();
    assert_eq!(cell.state.job(id).unwrap().state(), JobState::Killed);
    assert_eq!(job(&cell, "backup-1").note(&cell.state), "parent ann/backup ended");
    assert_eq!(cell.state.next_alarm(), None);
    let refused = order(&mut cell, CronOrder::Resume).unwrap_err();
    assert_eq!(refused.to_string(), "cron job ann/backup is over: killed");
}

#[test]
fn another_schedule_counts_from_the_moment_it_is_in_force() {
    let (mut cell, _) = cell();
    cell.submit("ann", cron("backup", "0 0 * * *"));
    let spec = Arc::new(cron("backup", "*/10 * * * *"));
    let (to, options) = (Revision::Spec(spec), Box::new(UpdateOptions::default()));
    let job = "ann/backup".parse().unwrap();
    cell.apply(user("ann"), Action::UpdateJob { job, to, options }).unwrap();
    next(&mut cell);
    assert_eq!(history(&cell), ["00:20 backup-1"]);
}

#[test]
fn what_only_tasks_can_do_is_refused_and_what_a_cron_job_can_is_named() {
    let (mut cell, _) = cell();
    cell.submit("ann", with("0 * * * *", Overlap::Forbid, CatchUp::Last));
    let key: JobKey = "ann/backup".parse().unwrap();
    let restart = Action::UpdateJob {
        job: key.clone(),
        to: Revision::Restart,
        options: Box::new(UpdateOptions::default()),
    };
    let stop = Action::StopTasks { job: key.clone(), tasks: None };
    let start = Action::StartTasks { job: key, tasks: None };
    for action in [restart, stop, start] {
        let refused = cell.apply(user("ann"), action).unwrap_err().to_string();
        assert!(refused.contains("borgctl cron pause ann/backup"), "{refused}");
    }
}

fn update(cell: &mut Cell, spec: JobSpec) {
    let job = "ann/backup".parse().unwrap();
    let (to, options) = (Revision::Spec(Arc::new(spec)), Box::new(UpdateOptions::default()));
    cell.apply(user("ann"), Action::UpdateJob { job, to, options }).unwrap();
}

/// Before the leader has said that its time has come.
#[test]
fn a_tick_that_is_due_is_fired_before_anything_else_is_done_to_the_job() {
    let due = |spec: JobSpec, act: &dyn Fn(&mut Cell, JobSpec)| {
        let (mut cell, _) = cell();
        cell.submit("ann", spec.clone());
        cell.now = Millis(20 * MINUTE + 5_000);
        act(&mut cell, spec);
        cell.advance();
        (history(&cell), cell.state.next_alarm())
    };
    let tenth = || cron("backup", "*/10 * * * *");
    let made = || vec!["00:20 backup-1".to_owned()];
    let labels = |cell: &mut Cell, mut spec: JobSpec| {
        spec.labels.insert("ring".into(), "outer".into());
        update(cell, spec);
    };
    assert_eq!(due(tenth(), &labels), (made(), Some(Millis(30 * MINUTE))));
    let schedule = |cell: &mut Cell, _: JobSpec| update(cell, cron("backup", "25 * * * *"));
    assert_eq!(due(tenth(), &schedule), (made(), Some(Millis(25 * MINUTE))));
    let pause = |cell: &mut Cell, _: JobSpec| drop(order(cell, CronOrder::Pause).unwrap());
    assert_eq!(due(tenth(), &pause), (made(), None));
}

#[test]
fn a_run_is_replaced_only_when_the_next_one_may_be_made() {
    let (mut cell, machine) = cell();
    cell.submit("ann", with("* * * * *", Overlap::Replace, CatchUp::Last));
    next(&mut cell);
    let run = cell.place(job(&cell, "backup-1").id, 0, machine).unwrap();
    let band = job(&cell, "backup").priority().band();
    cell.apply(user("admin"), Action::EnforceQuota { bands: vec![band], on: true }).unwrap();
    next(&mut cell);
    assert!(cell.state.task(run.task).unwrap().placement().is_some(), "{:?}", history(&cell));
    let told = history(&cell);
    assert_eq!(told[0], "00:17 backup-1");
    assert!(told[1].contains("quota"), "{told:?}");
}
