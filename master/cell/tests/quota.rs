//! Laws of quota, for any sequence of jobs, kills, grants and times (adversary I14): what is
//! admitted is within the quota at its entry, what is refused is not, and all that was charged is
//! refunded. The model here is the specifications themselves, added up anew each time.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::fixture::{Cell, batch, master, service, user};
use borg_cell::rejection::Rejection;
use borg_cell::state::quota::QUOTA_LEVEL;
use borg_proto::command::Action;
use borg_proto::{Band, JobSpec, Millis, Priority, Resources, TaskId, UserName};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;

const USERS: [&str; 3] = ["ann", "bob", "admin"];
const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    Submit { who: usize, name: u8, priority: u16, tasks: u32, cpu: u64 },
    Kill { who: usize, name: u8, task: Option<u32> },
    Run { nth: usize, well: bool },
    Set { who: usize, band: usize, cpu: u64, from: u64, until: Option<u64> },
    Remove { who: usize, band: usize },
    Enforce { band: usize, on: bool },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![Just(50), Just(110), Just(117), Just(200), Just(400)];
    let (who, name, band) = (0..3_usize, 0..4_u8, 1..5_usize);
    prop_oneof![
        4 => (who.clone(), name.clone(), priority, 1..5_u32, 1..5_u64).prop_map(
            |(who, name, priority, tasks, cpu)| Step::Submit { who, name, priority, tasks, cpu }),
        2 => (who.clone(), name, proptest::option::of(0..5_u32))
            .prop_map(|(who, name, task)| Step::Kill { who, name, task }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(nth, well)| Step::Run { nth, well }),
        4 => (who.clone(), band.clone(), 0..25_u64, 0..50_u64, proptest::option::of(1..100_u64))
            .prop_map(|(who, band, cpu, from, until)| Step::Set { who, band, cpu, from, until }),
        1 => (who, band.clone()).prop_map(|(who, band)| Step::Remove { who, band }),
        3 => (band, any::<bool>()).prop_map(|(band, on)| Step::Enforce { band, on }),
        2 => (0..40_u64).prop_map(Step::Wait),
    ]
}

fn job(name: u8, priority: u16, tasks: u32, cpu: u64) -> JobSpec {
    let name = format!("j{name}");
    let mut spec = if priority < 120 {
        batch(&name, tasks, cpu * 100, 4 * MIB)
    } else {
        service(&name, tasks, cpu * 100, 4 * MIB)
    };
    spec.priority = Priority::new(priority.into()).unwrap();
    spec
}

/// What a user's live tasks in a band ask for, from the specifications: millicores and bytes.
fn asked(cell: &Cell, who: &UserName, band: Band) -> (u64, u64) {
    let mut sum = (0, 0);
    for job in cell.state.jobs().filter(|job| job.owner() == who && job.priority().band() == band) {
        for (_, task) in cell.state.tasks_of(job.id).filter(|(_, task)| !task.is_dead()) {
            assert!(job.is_alive(), "{task:?}");
            sum.0 += job.spec.task.limit.cpu_milli;
            sum.1 += job.spec.task.limit.ram_bytes;
        }
    }
    sum
}

/// Submits, and holds the answer against the model.
fn submit(cell: &mut Cell, who: &UserName, spec: JobSpec) {
    let band = spec.priority.band();
    let grants = cell.state.quota_of(who, band).to_vec();
    let now = cell.state.clock().max(cell.now);
    let grant = grants.iter().find(|grant| grant.in_force(now));
    let enforced = cell.state.enforces_quota(band);
    let before = asked(cell, who, band);
    let more = u64::from(spec.tasks);
    let limit = spec.task.limit.clone();
    let after = (before.0 + more * limit.cpu_milli, before.1 + more * limit.ram_bytes);
    let fits = grant.is_some_and(|grant| {
        after.0 <= grant.amount.cpu_milli && after.1 <= grant.amount.ram_bytes
    });
    let right = band != Band::Monitoring || who.as_str() == "admin" || grant.is_some();
    let may = band == Band::Free || if enforced { fits } else { right };
    match cell.apply(user(who.as_str()), Action::SubmitJob { spec: Arc::new(spec) }) {
        Ok(_) => {
            assert!(may, "{who} got {after:?} in {band} with {grant:?}");
            assert_eq!(asked(cell, who, band), after);
        }
        Err(Rejection::JobAlive { .. }) => {}
        Err(Rejection::NoQuota(_)) => assert!(!may && grant.is_none()),
        Err(Rejection::QuotaTooSmall(_)) => assert!(!may && grant.is_some()),
        Err(other) => panic!("{other}"),
    }
}

fn run(cell: &mut Cell, step: Step) {
    let name = |who: usize| -> UserName { USERS[who].parse().unwrap() };
    let admin = |cell: &mut Cell, action| drop(cell.apply(user("admin"), action));
    match step {
        Step::Submit { who, name: job_name, priority, tasks, cpu } => {
            submit(cell, &name(who), job(job_name, priority, tasks, cpu));
        }
        Step::Kill { who, name: job_name, task } => {
            let tasks: Vec<u32> = task.into_iter().collect();
            drop(cell.kill(USERS[who], &format!("{}/j{job_name}", USERS[who]), &tasks));
        }
        Step::Run { nth, well } => {
            let pending: Vec<TaskId> = cell.state.pending().collect();
            let Some(task) = pending.get(nth % pending.len().max(1)) else { return };
            let machine = cell.state.machines().next().unwrap().id;
            let Ok(id) = cell.place(task.job, task.index, machine) else { return };
            cell.ended(id, (!well).then_some(borg_proto::FailureCause::Exit { code: 1 }));
        }
        Step::Set { who, band, cpu, from, until } => {
            let amount =
                Resources { cpu_milli: cpu * 100, ram_bytes: 40 * MIB, ..Resources::default() };
            let from = cell.now + Millis(from);
            let until = until.map(|after| from + Millis(after));
            let (user, band) = (name(who), Band::ALL[band]);
            let from = Some(from);
            let oversell = false;
            admin(cell, Action::SetQuota { user, band, amount, from, until, oversell });
        }
        Step::Remove { who, band } => {
            admin(cell, Action::RemoveQuota { user: name(who), band: Band::ALL[band] });
        }
        Step::Enforce { band, on } => {
            admin(cell, Action::EnforceQuota { bands: vec![Band::ALL[band]], on });
        }
        Step::Wait(ms) => cell.wait(ms),
    }
}

/// What is sold of prod quota at each moment at which any of it begins, against the machines. Holds
/// where nobody oversells and no machine leaves.
fn sold_within_the_cell(cell: &Cell) {
    let capacity: u64 =
        cell.state.machines().filter_map(|m| Some(m.info.as_ref()?.capacity.cpu_milli)).sum();
    let prod = || cell.state.quotas().filter(|(_, band, _)| band.is_prod());
    for at in prod().flat_map(|(_, _, grants)| grants.iter().map(|grant| grant.from)) {
        let in_force = prod().flat_map(|(_, _, grants)| grants).filter(|grant| grant.in_force(at));
        let sold: u64 = in_force.map(|grant| grant.amount.cpu_milli).sum();
        assert!(sold <= capacity, "{sold} of {capacity} from {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_admitted_is_within_the_quota_and_all_of_it_is_refunded(steps in vec(step(), 1..150)) {
        let mut cell = Cell::new();
        cell.apply(master(), Action::RaiseLevel { level: QUOTA_LEVEL }).unwrap();
        cell.machine("m-1", 4_000, 1 << 30);
        for step in steps {
            run(&mut cell, step);
            sold_within_the_cell(&cell);
        }
        let jobs: Vec<String> = cell.state.jobs().map(|job| job.key.to_string()).collect();
        for job in jobs {
            cell.kill("admin", &job, &[]).unwrap();
        }
        prop_assert_eq!(cell.state.used_quotas().count(), 0, "refunds are exact");
    }
}
