//! A scheduler that panics over one job goes on with all others.

use super::fixture::{Cell, EVERYTHING, info, job};
use crate::{Config, Scheduler, SetAside, Trap};
use borg_proto::command::{Action, Assignment};
use borg_proto::{JobId, JobSpec, TaskId};
use std::collections::BTreeSet;

/// A cell of four machines with room for twelve tasks of a core.
fn cell() -> (Cell, Scheduler) {
    let mut cell = Cell::new();
    for m in 0..4 {
        cell.add_machine(info(3000, 16, Some(m % 2), 0));
    }
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    cell.tell(&mut scheduler);
    (cell, scheduler)
}

/// A job of each of three users.
fn three(cell: &mut Cell, spec: &JobSpec) -> [JobId; 3] {
    ["ann", "bob", "cid"].map(|user| {
        let key = cell.submit(user, spec.clone());
        cell.state.job_named(&key).unwrap().id
    })
}

fn blamed<T: std::fmt::Debug>(survived: Result<T, Vec<SetAside>>) -> Vec<JobId> {
    survived.unwrap_err().into_iter().map(|aside| aside.job).collect()
}

fn pass(cell: &Cell, scheduler: &mut Scheduler) -> Result<Vec<Assignment>, Vec<SetAside>> {
    scheduler.survive(|scheduler| scheduler.pass(cell.now, EVERYTHING))
}

fn waiting(cell: &Cell) -> BTreeSet<JobId> {
    cell.state.pending().map(|task| task.job).collect()
}

#[test]
fn a_panic_over_one_job_keeps_no_other_job_waiting() {
    for (tasks, trap) in
        [(1, Trap::Deciding), (3, Trap::Deciding), (1, Trap::News), (3, Trap::News)]
    {
        let (mut cell, mut scheduler) = cell();
        let [_, bad, _] = three(&mut cell, &job(tasks, 100, 1000, 1));
        scheduler.trap(bad, trap);
        let news = std::mem::take(&mut cell.news);
        let heard = scheduler.survive(|scheduler| scheduler.follow(cell.state.clone(), &news));
        if trap == Trap::News {
            assert_eq!(blamed(heard), [bad]);
        } else {
            assert_eq!(heard, Ok(()));
            assert_eq!(blamed(pass(&cell, &mut scheduler)), [bad]);
        }
        assert_eq!(scheduler.jobs_aside(), 1);
        let decisions = pass(&cell, &mut scheduler).unwrap();
        cell.place(&decisions);
        cell.tell(&mut scheduler);
        assert_eq!(waiting(&cell), BTreeSet::from([bad]), "{trap:?}");
        assert_eq!(pass(&cell, &mut scheduler), Ok(Vec::new()), "and it is not tried again");
        assert_eq!(
            scheduler.explain(TaskId { job: bad, index: 0 }, cell.now).summary,
            format!(
                "is set aside: the scheduler failed over its job (the trap for job {} closed), and \
                 leaves it out until the job is submitted anew or the master restarts",
                bad.0
            )
        );
    }
}

/// What the bad job runs already stays on its machines, and its room is given to nobody.
#[test]
fn a_job_that_is_set_aside_keeps_what_it_runs_and_a_new_one_of_its_name_is_tried() {
    let (mut cell, mut scheduler) = cell();
    let [_, bad, _] = three(&mut cell, &job(5, 100, 1000, 1));
    cell.tell(&mut scheduler);
    let some = scheduler.pass(cell.now, 6);
    cell.place(&some);
    cell.tell(&mut scheduler);
    let ran = cell.running().iter().filter(|id| id.task.job == bad).count();
    assert_eq!(ran, 2);
    scheduler.trap(bad, Trap::Deciding);
    assert_eq!(blamed(pass(&cell, &mut scheduler)), [bad]);
    let decisions = pass(&cell, &mut scheduler).unwrap();
    assert_eq!(decisions.len(), 6);
    cell.place(&decisions);
    cell.tell(&mut scheduler);
    let placed = scheduler.explain(cell.running()[0].task, cell.now);
    assert!(placed.summary.starts_with("placed on"), "{}", placed.summary);
    let key = cell.state.job(bad).unwrap().key.clone();
    cell.user("bob", Action::Kill { job: key.clone(), tasks: Vec::new() });
    let spec = JobSpec { name: key.name.clone(), ..job(1, 100, 1000, 1) };
    cell.user("bob", Action::SubmitJob { spec: spec.into() });
    cell.tell(&mut scheduler);
    assert_eq!(scheduler.jobs_aside(), 0, "the cell has forgotten it");
    let anew = pass(&cell, &mut scheduler).unwrap();
    assert_eq!(
        anew.iter().map(|one| one.task.job).collect::<Vec<_>>(),
        [cell.state.job_named(&key).unwrap().id]
    );
}

#[test]
fn a_scheduler_begins_although_a_job_makes_it_panic_at_once() {
    let (mut cell, _) = cell();
    let [_, bad, _] = three(&mut cell, &job(1, 100, 1000, 1));
    let mut scheduler = Scheduler::unread(&cell.state, Config::default());
    scheduler.trap(bad, Trap::News);
    let read = scheduler.survive(|scheduler| scheduler.start_afresh(&cell.state));
    assert_eq!(blamed(read), [bad]);
    assert_eq!(pass(&cell, &mut scheduler).unwrap().len(), 2);
}

#[test]
#[should_panic(expected = "leaving out a job does not help: the trap for job 2 closed")]
fn a_panic_that_does_not_go_away_with_the_job_is_passed_on() {
    let (mut cell, mut scheduler) = cell();
    let [_, bad, _] = three(&mut cell, &job(1, 100, 1000, 1));
    scheduler.trap(bad, Trap::Always);
    drop(scheduler.survive(|scheduler| scheduler.follow(cell.state.clone(), &cell.news)));
}

#[test]
#[should_panic(expected = "leaving out a job does not help: nobody's")]
fn a_panic_over_no_job_is_passed_on() {
    let (_, mut scheduler) = cell();
    drop(scheduler.survive::<()>(|_| panic!("nobody's")));
}
