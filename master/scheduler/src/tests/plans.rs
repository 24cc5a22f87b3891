//! Plans: what is told of a job is what then happens to it, and telling it changes nothing.

use super::fixture::{Cell, EVERYTHING, GIB, allocs, info, job, with, within};
use super::laws::{Op, a_job, a_machine, an_op, carry_out};
use crate::{Config, JobPlan, MOST_PLANNED, Novelty, Plan, Scheduler};
use borg_cell::event::{EventKind, TaskChange};
use borg_cell::state::Answer;
use borg_proto::command::Action;
use borg_proto::task::EvictCause;
use borg_proto::{Band, JobId, JobSpec, MachineId, Resources, TaskId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cell of equal machines, and a scheduler that knows it.
fn cell_of(machines: u32, cpu_milli: u64, ram_gib: u64) -> (Cell, Scheduler) {
    let mut cell = Cell::new();
    for _ in 0..machines {
        cell.add_machine(info(cpu_milli, ram_gib, None, 0));
    }
    let scheduler = Scheduler::new(&cell.state, Config::default());
    cell.news.clear();
    (cell, scheduler)
}

fn named(name: &str, spec: JobSpec) -> Arc<JobSpec> {
    Arc::new(JobSpec { name: name.parse().unwrap(), ..spec })
}

fn plan(cell: &Cell, scheduler: &Scheduler, user: &str, specs: &[Arc<JobSpec>]) -> Plan {
    scheduler.clone().plan(&user.parse().unwrap(), specs, cell.now)
}

fn plan_one(cell: &Cell, scheduler: &Scheduler, spec: JobSpec) -> JobPlan {
    plan(cell, scheduler, "ann", &[named("planned", spec)]).jobs.remove(0)
}

/// Submits, decides and commits.
fn run(cell: &mut Cell, scheduler: &mut Scheduler, user: &str, spec: Arc<JobSpec>) {
    let done = cell.user(user, Action::SubmitJob { spec });
    assert!(matches!(done, Some(Answer::Job { .. })), "accepted");
    cell.tell(scheduler);
    let decisions = scheduler.pass(cell.now, EVERYTHING);
    cell.place(&decisions);
    cell.tell(scheduler);
}

#[test]
fn a_new_job_is_told_where_its_tasks_go_and_why_the_others_wait() {
    let (cell, scheduler) = cell_of(2, 2000, 8);
    let told = plan_one(&cell, &scheduler, job(5, 100, 1000, 1));
    assert_eq!(told.novelty, Novelty::New);
    assert_eq!(told.refusal, None);
    assert_eq!(told.places, BTreeMap::from([(MachineId(0), 2), (MachineId(1), 2)]));
    assert_eq!((told.placed(), told.pending, told.not_looked_at), (4, 1, 0));
    assert_eq!(
        told.why, "0 of 2 machines fit: 2 lack cpu (asks 1, most free is 0)",
        "in the words of `why`"
    );
    assert_eq!(told.rejections[0].machines, 2);
    assert!(told.changes());
}

#[test]
fn who_would_be_pushed_out_is_told_by_name_and_stays_where_it_is() {
    let (mut cell, mut scheduler) = cell_of(1, 2000, 8);
    run(&mut cell, &mut scheduler, "bob", named("low", job(2, 50, 1000, 1)));
    let told = plan_one(&cell, &scheduler, job(1, 200, 1000, 1));
    let [victim] = told.victims.as_slice() else { panic!("{told:?}") };
    assert_eq!((victim.job.to_string().as_str(), victim.band), ("bob/low", Band::Free));
    assert_eq!(cell.running().len(), 2);
    assert_eq!(scheduler.pass(cell.now, EVERYTHING), [], "nothing is decided by a plan");
}

#[test]
fn a_job_that_goes_first_takes_its_room_first() {
    let (mut cell, mut scheduler) = cell_of(1, 2000, 8);
    cell.user("bob", Action::SubmitJob { spec: named("first", job(2, 200, 1000, 1)) });
    cell.tell(&mut scheduler);
    let told = plan_one(&cell, &scheduler, job(1, 100, 1000, 1));
    assert_eq!((told.placed(), told.pending), (0, 1), "{told:?}");
}

#[test]
fn a_live_job_is_told_as_it_is_or_with_what_differs() {
    let (mut cell, mut scheduler) = cell_of(1, 2000, 8);
    let live = named("planned", job(1, 100, 500, 1));
    run(&mut cell, &mut scheduler, "ann", live.clone());
    let same = plan_one(&cell, &scheduler, (*live).clone());
    assert_eq!(same.novelty, Novelty::None);
    assert!(!same.changes());
    let other = with(job(2, 100, 600, 1), |_| ());
    let other = plan_one(&cell, &scheduler, other);
    let Novelty::Differs(fields) = &other.novelty else { panic!("{other:?}") };
    let fields: Vec<_> = fields.iter().map(|field| field.field.as_str()).collect();
    assert_eq!(fields, ["tasks", "task.limit.cpu_milli"]);
    assert_eq!(
        other.refusal.unwrap().to_string(),
        "job ann/planned exists and is running: borgctl update FILE changes it"
    );
    assert_eq!(other.before, Some(cell.state.jobs().last().unwrap().id));
}

#[test]
fn quota_is_told_before_and_after_and_refused_as_submit_refuses() {
    let (mut cell, mut scheduler) = cell_of(2, 4000, 8);
    let level = borg_proto::command::LEVEL;
    cell.master(Action::RaiseLevel { level }).unwrap();
    let amount = Resources { cpu_milli: 1000, ram_bytes: 8 * GIB, ..Resources::default() };
    let (user, band) = ("ann".parse().unwrap(), Band::Production);
    let set = Action::SetQuota {
        user,
        band,
        amount: amount.clone(),
        from: None,
        until: None,
        oversell: false,
    };
    cell.user("admin", set).unwrap();
    cell.user("admin", Action::EnforceQuota { bands: vec![band], on: true }).unwrap();
    cell.tell(&mut scheduler);
    let fits = plan_one(&cell, &scheduler, job(2, 200, 500, 1));
    assert!(fits.quota.needed && fits.refusal.is_none(), "{fits:?}");
    assert!(fits.quota.used.is_nothing());
    assert_eq!(fits.quota.after.amount().cpu_milli, 1000);
    assert_eq!(fits.quota.granted, Some(amount));
    // The second of two jobs is planned on top of the first.
    let two = [named("a", job(2, 200, 500, 1)), named("b", job(1, 200, 500, 1))];
    let told = plan(&cell, &scheduler, "ann", &two);
    let refusal = told.jobs[1].refusal.as_ref().unwrap().to_string();
    assert!(refusal.contains("cpu: the job asks for 0.5, granted 1, used 1"), "{refusal}");
    assert_eq!(told.jobs[1].placed(), 0);
}

#[test]
fn a_job_that_starts_after_another_of_the_plan_waits_for_it() {
    let (cell, scheduler) = cell_of(1, 2000, 8);
    let mut second = job(1, 100, 500, 1);
    second.after = vec!["ann/a".parse().unwrap()];
    let told =
        plan(&cell, &scheduler, "ann", &[named("a", job(1, 100, 500, 1)), named("b", second)]);
    assert_eq!(told.jobs[1].why, "waits for ann/a to finish");
}

#[test]
fn a_plan_ends_where_it_has_looked_at_enough_and_says_so() {
    let mut cell = Cell::new();
    for _ in 0..12 {
        cell.add_machine(info(100_000, 4_000, None, 0));
    }
    let scheduler = Scheduler::new(&cell.state, Config::default());
    let most = u32::try_from(MOST_PLANNED).unwrap();
    let told = plan_one(&cell, &scheduler, job(most + 7, 100, 1, 1));
    assert_eq!((told.placed(), told.not_looked_at, told.pending), (most, 7, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever became of the cell: the jobs go where they were told to, push out whom they were told
    /// to, and as many wait.
    #[test]
    fn what_is_planned_is_what_happens(
        machines in prop::collection::vec(a_machine(), 1..6),
        ops in prop::collection::vec(an_op(), 1..20),
        specs in prop::collection::vec(a_job(), 1..4),
    ) {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        cell.news.clear();
        for op in &ops {
            carry_out(&mut cell, op);
            cell.tell(&mut scheduler);
            if let Op::Pass { max } = op {
                let decisions = scheduler.pass(cell.now, *max);
                cell.place(&decisions);
                cell.tell(&mut scheduler);
            }
        }
        let specs: Vec<_> =
            specs.into_iter().enumerate().map(|(n, spec)| named(&format!("p{n}"), spec)).collect();
        let told = plan(&cell, &scheduler, "ann", &specs);
        prop_assert_eq!(told.index, cell.state.applied());
        for spec in &specs {
            cell.user("ann", Action::SubmitJob { spec: spec.clone() }).unwrap();
        }
        cell.tell(&mut scheduler);
        let number = |job: &JobPlan| cell.state.job_named(&job.key).unwrap().id;
        let numbers: Vec<JobId> = told.jobs.iter().map(number).collect();
        let mut evicted: BTreeMap<String, Vec<TaskId>> = BTreeMap::new();
        while numbers.iter().any(|job| scheduler.has_ready(*job)) {
            let decisions = scheduler.pass(cell.now, 64);
            if decisions.is_empty() {
                break;
            }
            cell.place(&decisions);
            for event in &cell.news {
                if let EventKind::TaskChanged { task, change: TaskChange::Evicted(EvictCause::Preempted { by }), .. } = &event.kind {
                    let by = by.rsplit_once('/').unwrap().0.to_owned();
                    evicted.entry(by).or_default().push(*task);
                }
            }
            cell.tell(&mut scheduler);
        }
        for (job, id) in told.jobs.iter().zip(numbers) {
            let mut places: BTreeMap<MachineId, u32> = BTreeMap::new();
            let placed = cell.state.tasks_of(id).filter_map(|(_, task)| task.placement());
            placed.for_each(|placement| *places.entry(placement.machine).or_default() += 1);
            prop_assert_eq!(&job.places, &places);
            let victims = evicted.remove(&job.key.to_string()).unwrap_or_default();
            prop_assert_eq!(job.victims.iter().map(|v| v.task).collect::<Vec<_>>(), victims);
            prop_assert_eq!(job.pending, job.tasks - job.placed());
            prop_assert_eq!(job.pending > 0, !job.why.is_empty());
        }
    }
}

#[test]
fn an_alloc_set_is_planned_with_the_jobs_in_it_and_its_victims_with_what_is_in_them() {
    let (mut cell, mut scheduler) = cell_of(2, 2000, 8);
    let key = |name: &str| format!("ann/{name}").parse().unwrap();
    let inside = |tasks, set: &str| within(job(tasks, 100, 500, 1), &key(set));
    let files = [
        named("room", allocs(job(2, 100, 1500, 4))),
        named("server", inside(2, "room")),
        named("saver", inside(3, "room")),
    ];
    let told = plan(&cell, &scheduler, "ann", &files).jobs;
    let counts = told.iter().map(|job| (job.placed(), job.pending)).collect::<Vec<_>>();
    assert_eq!(counts, [(2, 0), (2, 0), (2, 1)]);
    assert_eq!(told[2].why, "alloc set ann/room has 2 allocs, so there is none for task 2");
    for file in files {
        run(&mut cell, &mut scheduler, "ann", file);
    }
    let told = plan_one(&cell, &scheduler, job(1, 200, 1000, 1));
    let victims: Vec<String> = told.victims.iter().map(|victim| victim.job.to_string()).collect();
    assert_eq!(victims, ["ann/server", "ann/saver", "ann/room"]);
}
