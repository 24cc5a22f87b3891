//! Laws of the state: for any sequence of commands, sensible or hostile.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::event::{EventKind, TaskChange};
use borg_cell::fixture::{alloc_set, batch, cron, daemon, info, service, user, with_task, within};
use borg_cell::rejection::Rejection;
use borg_cell::state::{CellState, Job, Machine, Successor, Update};
use borg_proto::command::{
    Action, AllocSize, Assignment, Command, CronOrder, DataOrder, LEVEL, Observation, Principal,
    RUN_ENDS_SINCE,
};
use borg_proto::cron::{CatchUp, Overlap};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::machine::MachineAddress;
use borg_proto::policy::{Policy, Term};
use borg_proto::reclamation::{Amounts, Number, NumberSet};
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::task::{EvictCause, RunEnd};
use borg_proto::update::{OnFailure, Order, Replacement, Revision, Steer, UpdateOptions};
use borg_proto::{
    Band, CellName, FailureCause, IncarnationId, IndexSet, JobId, JobKey, JobKind, JobSpec,
    MachineId, Millis, Priority, Privilege, ReplicaId, Resources, TaskId, UserName,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;

/// A few numbers from which a command is made that suits the state it is applied to, or not.
type Step = [u8; 5];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(any::<Step>(), 1..120)
}

fn empty() -> CellState {
    CellState::new(CellName::new("lab").unwrap())
}

fn pick<T: Clone>(from: &[T], by: u8) -> Option<T> {
    from.get(usize::from(by) % from.len().max(1)).cloned()
}

/// The command of a step. Most fit the state; one in eight names things that are not there.
fn command(state: &CellState, step: Step, request: bool) -> Command {
    let [kind, a, b, c, d] = step;
    if let Some((by, action)) = begun(state, kind) {
        return Command { at: Millis(1_000), by, request: None, action };
    }
    let by_user = pick(&["ann", "bob", "admin"], d).unwrap();
    let (by, action) = match kind % 16 {
        0 => (user("admin"), add_machine(a)),
        1 if a.is_multiple_of(7) => {
            let machines: Vec<borg_proto::MachineName> =
                vec![format!("m-{}", a % 8).parse().unwrap()];
            let answering = (b == 9).then(|| machines[0].clone());
            (user("admin"), Action::GiveUp { machines, answering })
        }
        1 if a % 4 == 2 => (user(if a == 10 { "ann" } else { "admin" }), privilege(a, b)),
        1 if a % 4 == 1 => (user(if a == 9 { "ann" } else { "admin" }), choice(a, b, c)),
        1 => (
            user(by_user),
            Action::RemoveMachine { machine: format!("m-{}", a % 8).parse().unwrap() },
        ),
        2 if a.is_multiple_of(3) => {
            let action = quota(state, a, b, c);
            let raises = matches!(action, Action::RaiseLevel { .. });
            let who = if a == 9 { "ann" } else { "admin" };
            (if raises { Principal::Master(ReplicaId(1)) } else { user(who) }, action)
        }
        2..=4 if d.is_multiple_of(5) => (user(by_user), allocs(a, b, c)),
        2..=4 if d % 10 == 1 => (user(by_user), kinds(state, by_user, a, b, c)),
        2..=4 if c % 8 == 1 => {
            let spec = JobSpec { after: soon_over(state), ..job(a, b, c) };
            (user(by_user), Action::SubmitJob { spec: Arc::new(spec) })
        }
        2..=4 => (user(by_user), Action::SubmitJob { spec: Arc::new(job(a, b, c)) }),
        5 => {
            let tasks =
                if a.is_multiple_of(2) { vec![] } else { vec![(b % 6).into(), (c % 6).into()] };
            let name =
                if b.is_multiple_of(4) { format!("a{}", c % 2) } else { format!("j{}", c % 5) };
            let job: JobKey = format!("{by_user}/{name}").parse().unwrap();
            (user(by_user), Action::Kill { job, tasks })
        }
        6..=10 => (master(a), Action::Place { assignments: assignments(state, a, b, c) }),
        12 if a.is_multiple_of(16) => (master(a), Action::Advance),
        12 | 13 if a.is_multiple_of(2) => (user(by_user), update(state, a, b, c)),
        11 if b % 8 > 3 => drains(state, a, b, c),
        11 if b.is_multiple_of(2) => (master(a), Action::Advance),
        11 => (master(a), Action::Lead { leader: ReplicaId(u64::from(a % 4)), term: u64::from(b) }),
        _ => (
            master(a),
            Action::Observe {
                changes: vec![observation(state, a, b, c), observation(state, b, c, d)],
            },
        ),
    };
    let request =
        (request && matches!(by, Principal::User(_))).then(|| format!("r{}", a ^ b).into());
    let at = Millis(state.clock().0.saturating_sub(10) + u64::from(d) * 100);
    Command { at, by, request, action }
}

/// Every other log begins with a machine that is drained while a service serves on it, and another one that has
/// room for all: by chance alone that is rare.
fn begun(state: &CellState, kind: u8) -> Option<(Principal, Action)> {
    let name =
        |number: usize| -> borg_proto::MachineName { format!("d-{number}").parse().unwrap() };
    let first = state.applied() == 0 && kind.is_multiple_of(2);
    if !first && state.machine_named(&name(1)).is_none() {
        return None;
    }
    let machine = |number| MachineAddress { name: name(number), address: "d:1".into() };
    let up = |number| {
        let machine = MachineId(number);
        Observation::MachineUp { machine, info: info(4_000, 1 << 30, &[("rack", "r1")]) }
    };
    let job: Option<JobId> = state.jobs().next().map(|job| job.id);
    let tasks = || (0..3).filter_map(|index| Some(TaskId { job: job?, index }));
    let serves = |task: TaskId| {
        let id = IncarnationId { task, number: 1 };
        Observation::TaskUp { id, pid: 7, since: Millis(1), restarts: 0, run: None }
    };
    let leader = Principal::Master(ReplicaId(1));
    Some(match state.applied() {
        0 => (user("admin"), Action::AddMachine { machine: machine(1) }),
        1 => (leader, Action::RaiseLevel { level: LEVEL }),
        2 => (user("admin"), Action::AddMachine { machine: machine(2) }),
        3 => (leader, Action::Observe { changes: vec![up(0), up(1)] }),
        4 => {
            let spec = Arc::new(service("d", 3, 400, 4 << 20));
            (user("ann"), Action::SubmitJob { spec })
        }
        5 => {
            let assignments = tasks().map(|task| Assignment::new(task, MachineId(0))).collect();
            (leader, Action::Place { assignments })
        }
        6 => (leader, Action::Observe { changes: tasks().map(serves).collect() }),
        7 if kind.is_multiple_of(4) => {
            let replacement = Replacement::First;
            let options = Box::new(UpdateOptions { replacement, ..UpdateOptions::default() });
            let job = "ann/d".parse().unwrap();
            (user("ann"), Action::UpdateJob { job, to: Revision::Restart, options })
        }
        7 => {
            let (machines, reason) = (vec![name(1)], "disk".into());
            let within = Millis(600_000);
            let drain =
                Action::DrainMachines { machines, reason, within, at_once: None, leaves: None };
            (user("admin"), drain)
        }
        _ => return None,
    })
}

/// What is asked of updates, and of stopping and starting tasks: mostly of jobs that are there.
fn update(state: &CellState, a: u8, b: u8, c: u8) -> Action {
    let keys: Vec<JobKey> = state.jobs().map(|job| job.key.clone()).collect();
    let stranger = || "ann/j0".parse().unwrap();
    let job: JobKey = pick(&keys, b).filter(|_| c != 9).unwrap_or_else(stranger);
    let tasks = IndexSet::new([u32::from(c % 6), u32::from(c % 4)]).ok();
    let tasks = tasks.filter(|_| c.is_multiple_of(3));
    match a / 2 % 8 {
        0 => return Action::StopTasks { job, tasks },
        1 => return Action::StartTasks { job, tasks },
        2 | 3 => {
            let verb = Steer::ALL[usize::from(c % 4)];
            return Action::SteerUpdate { job, verb };
        }
        _ => {}
    }
    let spec = state.job_named(&job).map(|job| job.spec.clone());
    let changed = spec.filter(|_| c != 7).map(|spec| {
        let mut spec = spec.as_ref().clone();
        match c % 8 {
            0 => spec.priority = Priority::new(u64::from(b) * 2).unwrap_or(spec.priority),
            1 => drop(spec.labels.insert("a".into(), c.to_string())),
            2 => spec.tasks = u32::from(b % 7),
            3 => spec.concurrent = (!b.is_multiple_of(3)).then(|| 1 + u32::from(b % 4)),
            4 => {
                let most = if b.is_multiple_of(2) {
                    Share::Tasks(u32::from(b % 4))
                } else {
                    Share::Percent(50)
                };
                let rate =
                    Rate { tasks: 1 + u32::from(b % 3), per_ms: Millis(1 + u64::from(c) * 20) };
                let rate = b.is_multiple_of(5).then_some(rate);
                spec.disruption = Some(Disruption { most, rate });
            }
            _ => {}
        }
        with_task(spec, |task| match b % 8 {
            0 | 1 => task.command.push(c.to_string()),
            2 => task.limit.cpu_milli = 100 + u64::from(c) * 2,
            3 => {
                task.ports =
                    ["http", "x"][..usize::from(c % 3)].iter().map(|p| p.parse().unwrap()).collect()
            }
            4 => task.grace_ms = Millis(c.into()),
            5 => task.spread = vec![Spread { attribute: "rack".into(), max: 1 + u32::from(c % 3) }],
            6 => {
                let (attribute, op) = ("rack".to_owned(), ConstraintOp::Equal);
                let values = vec![["r1", "r2"][usize::from(c % 2)].to_owned()];
                task.constraints = vec![Constraint { attribute, op, values, soft: false }];
                task.constraints.truncate(usize::from(c % 3));
            }
            _ => {}
        })
    });
    let to = match (a / 16 % 6, changed) {
        (0, _) => Revision::Restart,
        (1, _) => Revision::Version(u32::from(b % 5)),
        (2, _) => Revision::Tasks(u32::from(b % 8)),
        (_, Some(spec)) => Revision::Spec(Arc::new(spec)),
        (_, None) => Revision::Spec(Arc::new(self::job(a, b, c))),
    };
    let options = UpdateOptions {
        most: (b % 5 == 1).then(|| Share::Tasks(u32::from(c % 3))),
        min_healthy_ms: Millis(u64::from(b % 3) * 500),
        deadline_ms: Millis(1 + u64::from(c) * 50),
        canary: tasks.clone().filter(|_| b.is_multiple_of(2)),
        tasks: tasks.filter(|_| b.is_multiple_of(3)),
        order: match b % 4 {
            0 => Order::Ascending,
            1 => Order::Descending,
            2 => Order::Random(c.into()),
            _ => Order::Listed(vec![u32::from(c % 3)]),
        },
        on_failure: if c.is_multiple_of(4) { OnFailure::Pause } else { OnFailure::RollBack },
        failures: u32::from(b % 7 == 1),
        close: c.is_multiple_of(5),
        replacement: [Replacement::First, Replacement::ForMoves, Replacement::InPlace]
            [usize::from(a % 3)],
    };
    Action::UpdateJob { job, to, options: Box::new(options) }
}

/// Whose tasks may be placed where, and how the scheduler chooses.
fn choice(a: u8, b: u8, c: u8) -> Action {
    let machines = || vec![format!("m-{}", b % 8).parse().unwrap()];
    let users = ["ann", "bob", "admin"][..usize::from(c % 4).min(3)].iter();
    match a / 4 % 4 {
        0 => Action::OpenMachines { machines: machines() },
        1 if b.is_multiple_of(2) => Action::SetReclamation {
            named: NumberSet::ALL.get(usize::from(c % 5)).copied(),
            numbers: [(Number::Most, 100 + u32::from(a))].into(),
        },
        1 => Action::CloseMachines { machines: machines(), reason: format!("reason {c}") },
        2 => Action::SetPolicy {
            policy: Policy::ALL.get(usize::from(b % 4)).copied(),
            weights: [(Term::ALL[usize::from(c % 7)], i16::from(b))].into(),
        },
        _ => Action::KeepMachines {
            machines: machines(),
            users: users.map(|name| name.parse().unwrap()).collect(),
        },
    }
}

/// Drains one machine, or several one after the other; takes them back; lets deadlines come.
fn drains(state: &CellState, a: u8, b: u8, c: u8) -> (Principal, Action) {
    let name = |n: u8| -> borg_proto::MachineName { format!("m-{}", n % 8).parse().unwrap() };
    // Most names are of machines that are there.
    let there: Vec<_> = state.machines().map(|machine| machine.name.clone()).collect();
    let action = match a % 8 {
        0 | 4 => {
            let all = there.into_iter().chain((c == 5).then(|| name(c))).collect();
            Action::UndrainMachines { machines: all }
        }
        1 => Action::EndMaintenance { number: u64::from(c % 4) },
        2 | 3 => return (master(c), Action::Advance),
        _ => {
            let mut machines: Vec<_> =
                (0..=c % 3).filter_map(|n| pick(&there, c.wrapping_add(n))).collect();
            if machines.is_empty() || b == 3 {
                machines.push(name(c));
            }
            let open = |machine: &&Machine| machine.admits(&"ann".parse().unwrap()).is_ok();
            let left = state.machines().filter(open).filter(|m| !machines.contains(&m.name));
            let up = |m: &&Machine| m.state == borg_cell::state::MachineState::Up;
            let leaves = u32::try_from(left.filter(up).count()).ok();
            Action::DrainMachines {
                machines,
                reason: format!("reason {c}"),
                within: Millis(u64::from(b) * 200),
                at_once: a.is_multiple_of(5).then_some(1 + u32::from(c % 2)),
                leaves: leaves.filter(|_| !b.is_multiple_of(3)),
            }
        }
    };
    (user(if c == 77 { "ann" } else { "admin" }), action)
}

/// Grants and revokes, now and then of what makes an administrator, or of `admin` itself.
fn privilege(a: u8, b: u8) -> Action {
    let user: UserName = ["ann", "bob", "admin"][usize::from(a / 4 % 3)].parse().unwrap();
    let privilege = [Privilege::Listen, Privilege::Devices, Privilege::Admin][usize::from(b % 3)];
    if b % 8 > 4 {
        Action::RevokePrivilege { user, privilege }
    } else {
        Action::GrantPrivilege { user, privilege }
    }
}

fn quota(state: &CellState, a: u8, b: u8, c: u8) -> Action {
    let who: UserName = ["ann", "bob", "admin"][usize::from(c % 3)].parse().unwrap();
    let band = Band::ALL[usize::from(b % 5)];
    match a % 8 {
        0 | 3 => Action::RaiseLevel { level: LEVEL },
        1 => Action::RemoveQuota { user: who, band },
        2 => Action::EnforceQuota { bands: vec![band], on: !c.is_multiple_of(4) },
        _ => {
            let time =
                |of: u8| of.is_multiple_of(2).then(|| state.clock() + Millis(u64::from(of) * 20));
            Action::SetQuota {
                user: who,
                band,
                amount: Resources {
                    cpu_milli: u64::from(c) * 20,
                    ram_bytes: u64::from(b) << 20,
                    ports: 9,
                    ..Resources::default()
                },
                from: time(b),
                until: time(c),
                oversell: a.is_multiple_of(5),
            }
        }
    }
}

fn master(a: u8) -> Principal {
    if a == 77 { user("ann") } else { Principal::Master(ReplicaId(1)) }
}

fn add_machine(a: u8) -> Action {
    let address = if a == 99 { "nowhere".into() } else { format!("m:{}", 1 + u16::from(a)) };
    Action::AddMachine {
        machine: MachineAddress { name: format!("m-{}", a % 8).parse().unwrap(), address },
    }
}

fn job(a: u8, b: u8, c: u8) -> JobSpec {
    let name = format!("j{}", a % 5);
    let tasks = u32::from(b % 6) + u32::from(a > 10); // now and then 0
    let mut spec = if b.is_multiple_of(2) {
        batch(&name, tasks, 300, 4 << 20)
    } else {
        service(&name, tasks, 400, 4 << 20)
    };
    spec.priority = Priority::new(u64::from(c) * 2).unwrap_or(spec.priority);
    spec.retries = u32::from(c % 3);
    spec.exclusive = b.is_multiple_of(5);
    let budget = |most, rate| Some(Disruption { most, rate });
    spec.disruption = match c % 6 {
        1 => budget(Share::Tasks(u32::from(b % 3)), None),
        2 => budget(Share::Percent(50), Some(Rate { tasks: 1, per_ms: Millis(30_000) })),
        _ => None,
    };
    spec.concurrent = a.is_multiple_of(7).then_some(1 + u32::from(c % 4));
    spec.gang = c.is_multiple_of(7) && spec.concurrent.is_none_or(|most| most >= tasks);
    if c.is_multiple_of(4) {
        spec.after =
            vec![format!("{}/j{}", ["ann", "bob"][usize::from(c / 4 % 2)], b % 5).parse().unwrap()];
    }
    with_task(spec, |task| {
        task.ports =
            ["http", "rpc"][..usize::from(a % 3)].iter().map(|p| p.parse().unwrap()).collect();
        if a % 24 == 5 {
            task.loosen = [Privilege::Listen, Privilege::Devices][..1 + usize::from(b % 2)]
                .iter()
                .copied()
                .collect();
        }
        if c.is_multiple_of(5) {
            task.spread =
                vec![Spread { attribute: ["machine", "rack"][usize::from(b % 2)].into(), max: 1 }];
        }
    })
}

/// A job that may finish soon, to start after.
fn soon_over(state: &CellState) -> Vec<JobKey> {
    let found = state.jobs().filter(|job| job.is_alive() && job.spec.kind == JobKind::Batch);
    found.min_by_key(|job| job.counts.alive()).map(|job| job.key.clone()).into_iter().collect()
}

/// A daemon, a cron job, a child, a job with caps; or what is done to them.
fn kinds(state: &CellState, owner: &str, a: u8, b: u8, c: u8) -> Action {
    // Beside the ordinary jobs, which now and then are parents.
    let key = |of: u8| -> JobKey {
        let name = if of % 16 == 5 { "j" } else { "k" };
        format!("{owner}/{name}{}", of % 5).parse().unwrap()
    };
    let job = || {
        let spec = JobSpec { name: key(a).name, ..batch("j", 1 + u32::from(b % 4), 300, 4 << 20) };
        let own = state.jobs().filter(|job| job.is_alive() && job.owner().as_str() == owner);
        let parent = own.last().map_or_else(|| key(b), |job| job.key.clone());
        JobSpec { parent: b.is_multiple_of(3).then_some(parent), retries: u32::from(c % 2), ..spec }
    };
    let spec = match a % 8 {
        0 => return Action::Rerun { job: key(b), tasks: vec![u32::from(c % 4), u32::from(c % 3)] },
        1 => {
            let orders = [CronOrder::Pause, CronOrder::Resume, CronOrder::Run];
            return Action::OrderCron { job: key(b), order: orders[usize::from(c % 3)] };
        }
        2 | 3 => {
            let daemon =
                JobSpec { parent: job().parent, ..daemon(key(b).name.as_str(), 100, 4 << 20) };
            with_task(daemon, |task| {
                let (attribute, op) = ("rack".to_owned(), ConstraintOp::Equal);
                let values = vec![["r1", "r2"][usize::from(c % 2)].to_owned()];
                task.constraints = vec![Constraint { attribute, op, values, soft: false }];
                task.constraints.truncate(usize::from(b % 2));
            })
        }
        4 | 5 => {
            let overlaps = [Overlap::Forbid, Overlap::Allow, Overlap::Replace];
            let mut spec =
                cron(key(b).name.as_str(), ["* * * * *", "*/3 * * * *"][usize::from(c % 2)]);
            let its = spec.cron.as_mut().unwrap();
            its.overlap = overlaps[usize::from(b % 3)];
            its.catch_up = if b.is_multiple_of(2) { CatchUp::Last } else { CatchUp::None };
            (its.keep_finished, its.keep_failed) = (u32::from(c % 3), u32::from(b % 2));
            JobSpec { timeout_ms: b.is_multiple_of(4).then_some(Millis(3_000)), ..spec }
        }
        _ => JobSpec {
            timeout_ms: b.is_multiple_of(2).then(|| Millis(1_000 + u64::from(c) * 30)),
            deadline_ms: c.is_multiple_of(2).then(|| Millis(1_000 + u64::from(b) * 300)),
            max_failures: u32::from(c % 3),
            ..job()
        },
    };
    Action::SubmitJob { spec: Arc::new(spec) }
}

/// An alloc set, another size for one, or a job in one.
fn allocs(a: u8, b: u8, c: u8) -> Action {
    let key = |of: u8| format!("{}/a", ["ann", "bob"][usize::from(of % 2)]);
    let size = 400 + u64::from(b) * 2;
    if a % 16 == 12 {
        let alloc = format!("{}/{}", key(c), b % 4).parse().unwrap();
        let order = if c.is_multiple_of(3) { DataOrder::Drop } else { DataOrder::Rescue };
        let number = std::num::NonZeroU64::new(u64::from(c / 64));
        return Action::RescueData { alloc, number, order };
    }
    if a.is_multiple_of(4) {
        let allocs = b.is_multiple_of(2).then_some(u32::from(b % 8));
        let cpu_milli = (!b.is_multiple_of(3)).then_some(size);
        let ram_bytes = b.is_multiple_of(5).then_some(u64::from(c) << 20);
        let size = AllocSize { cpu_milli, ram_bytes, disk_bytes: None };
        return Action::ResizeAllocs { alloc_set: key(c).parse().unwrap(), allocs, size };
    }
    let spec = if a.is_multiple_of(2) {
        let set = alloc_set("a", u32::from(b % 5), size, 8 << 20);
        let after = if c.is_multiple_of(8) { vec!["ann/j1".parse().unwrap()] } else { Vec::new() };
        let keep_data_ms = (!b.is_multiple_of(8)).then(|| Millis(60_000 + u64::from(b) * 500));
        JobSpec { after, keep_data_ms, ..set }
    } else {
        let spec = JobSpec { after: Vec::new(), ..job(a, b, c) };
        let at_once = a % 16 == 3;
        let (gang, concurrent) = (spec.gang && at_once, spec.concurrent.filter(|_| at_once));
        let spec = within(JobSpec { gang, concurrent, ..spec }, &key(c));
        let name = format!("t{}", a / 2 % 4).parse().unwrap();
        JobSpec { name, rescue: (a / 2).is_multiple_of(2), ..spec }
    };
    let spec = with_task(spec, |task| {
        if a % 16 != 1 {
            task.spread.clear();
        }
    });
    let priority = Priority::new(u64::from(c) * 2).unwrap_or(spec.priority);
    Action::SubmitJob { spec: Arc::new(JobSpec { priority, ..spec }) }
}

/// Some assignments; of gangs mostly all that wait.
fn assignments(state: &CellState, a: u8, b: u8, c: u8) -> Vec<Assignment> {
    let mut all: Vec<Assignment> =
        (0..3).map(|i| assignment(state, a, b.wrapping_add(i % 2), c.wrapping_add(i))).collect();
    let gangs = all.clone().into_iter().filter(|one| {
        !a.is_multiple_of(5) && state.job(one.task.job).is_some_and(|job| job.spec.gang)
    });
    for one in gangs {
        let waits = |id: &TaskId| id.job == one.task.job;
        for task in state.pending().filter(waits) {
            if all.iter().all(|other| other.task != task) {
                all.push(Assignment { task, ..one.clone() });
            }
        }
    }
    all
}

fn assignment(state: &CellState, a: u8, b: u8, c: u8) -> Assignment {
    let pending: Vec<TaskId> = state.pending().take(40).collect();
    let machines: Vec<&Machine> = state.machines().collect();
    let hostile = a.is_multiple_of(8);
    let stranger = TaskId { job: JobId(u64::from(b)), index: u32::from(c) };
    // Now and then one that leaves its machine.
    let leaving: Vec<TaskId> = state.draining().flat_map(|m| state.leaving(m)).take(40).collect();
    // Or one that is to be replaced by an update.
    let awaits = |job: &Job| -> Vec<TaskId> {
        let awaiting = job.update().into_iter().flat_map(Update::awaiting);
        awaiting.map(|index| TaskId { job: job.id, index }).collect()
    };
    let leaving: Vec<TaskId> = state.jobs().flat_map(awaits).chain(leaving).collect();
    let first: Vec<TaskId> = leaving
        .iter()
        .copied()
        .filter(|task| state.is_replaced_first(*task, state.clock()))
        .collect();
    let leaving = pick(&first, b).or_else(|| pick(&leaving, b)).filter(|_| a % 3 == 1);
    // Or one that has its place already: in an alloc, or where the data is that it saves.
    let has_place = |id: &&TaskId| {
        let alloc = state.alloc_of(**id).and_then(|alloc| state.task(alloc));
        let saves = state.job(id.job).is_some_and(|job| job.rescues().is_some());
        saves || alloc.is_some_and(|alloc| alloc.placement().is_some())
    };
    let placeable: Vec<TaskId> = pending.iter().filter(has_place).copied().collect();
    let placeable = pick(&placeable, b).filter(|_| a % 5 == 2);
    let task = leaving.or(placeable).or_else(|| pick(&pending, b));
    let task = task.filter(|_| !hostile).unwrap_or(stranger);
    let machine = pick(&machines, c).map_or(MachineId(u32::from(c)), |machine| machine.id);
    // Most tasks in allocs are decided for where their alloc is.
    let alloc = state.alloc_of(task).and_then(|alloc| state.task(alloc)?.placement());
    let machine = alloc.filter(|_| !c.is_multiple_of(8)).map_or(machine, |home| home.machine);
    let home = state.task(task).and_then(|task| task.pinned);
    let machine = home.filter(|_| !c.is_multiple_of(8)).unwrap_or(machine);
    let successor = |(task, found): (TaskId, &Successor)| IncarnationId {
        task,
        number: found.placement.incarnation,
    };
    let on = pick(&machines, c).map(|m| {
        let tasks = m.tasks.iter().filter_map(|id| state.task(*id)?.running(*id));
        state.successors_on(m).map(successor).chain(tasks).collect()
    });
    let mut victims: Vec<IncarnationId> = on.unwrap_or_default();
    victims.truncate(usize::from(a % 4));
    if hostile {
        victims.push(IncarnationId { task: stranger, number: 1 });
    }
    // Leaders believe what they like.
    let all = Amounts::from(&pick(&machines, c).map(|m| m.used.clone()).unwrap_or_default());
    let lent = if b.is_multiple_of(2) { all.percent(u32::from(a) * 2) } else { Amounts::default() };
    Assignment { task, machine, victims, lent }
}

/// What a machine tells of a run, in cells that may hear of it.
fn told(state: &CellState, cause: &FailureCause, b: u8, c: u8) -> Option<Arc<RunEnd>> {
    let end = || RunEnd {
        run: b.into(),
        started: b.is_multiple_of(2).then_some(Millis(7)),
        ended: Millis(c.into()),
        failure: c.is_multiple_of(3).then(|| cause.clone()),
        cpu_ms: u64::MAX,
        ram_peak_bytes: c.into(),
        last_lines: "\u{1b}ß\n".repeat(usize::from(c) * 4),
    };
    (state.level() >= RUN_ENDS_SINCE).then(|| Arc::new(end()))
}

fn observation(state: &CellState, a: u8, b: u8, c: u8) -> Observation {
    let machines: Vec<MachineId> = state.machines().map(|machine| machine.id).collect();
    let machine =
        pick(&machines, b).filter(|_| !a.is_multiple_of(16)).unwrap_or(MachineId(u32::from(b)));
    let mut running: Vec<IncarnationId> = state
        .jobs()
        .flat_map(|job| state.tasks_of(job.id))
        .filter_map(|(id, task)| task.running(id))
        .collect();
    // Of successors more is heard than of others: there are few.
    let successors = state.machines().flat_map(|machine| state.successors_on(machine));
    let successors: Vec<IncarnationId> = successors
        .map(|(task, found)| IncarnationId { task, number: found.placement.incarnation })
        .collect();
    if a >= 128 && !successors.is_empty() {
        running = successors;
    }
    let old =
        IncarnationId { task: TaskId { job: JobId(u64::from(b)), index: 0 }, number: u32::from(c) };
    let id = pick(&running, b).filter(|_| !a.is_multiple_of(16)).unwrap_or(old);
    let causes = [
        FailureCause::Exit { code: -1 },
        FailureCause::Lost,
        FailureCause::PortTaken { port: u16::from(c) },
        FailureCause::Start { why: "ß".repeat(usize::from(c) * 4) },
        FailureCause::OutOfMemory { limit_bytes: 1, peak_bytes: u64::MAX },
    ];
    let cause = pick(&causes, c).unwrap();
    match a % 8 {
        0..=2 => {
            let mut info =
                info(u64::from(c) * 10, 1 << 30, &[("rack", ["r1", "r2"][usize::from(c % 2)])]);
            info.capacity.ports = u32::from(b % 8);
            info.first_port = if c == 7 { 65_535 } else { 20_000 + u16::from(c / 64) };
            Observation::MachineUp { machine, info }
        }
        3 if c % 4 == 2 => Observation::TaskReclaimed { id },
        3 | 7 if c % 2 == 1 => {
            let kept: Vec<_> = state.kept().map(|kept| (kept.machine, kept.alloc)).collect();
            let (machine, alloc) = pick(&kept, b).unwrap_or((machine, old));
            if c % 16 == 1 {
                let why = "ß".repeat(usize::from(c));
                Observation::DataGone { machine, alloc, why }
            } else {
                Observation::DataAtRest { machine, alloc, bytes: c.into() }
            }
        }
        3 => Observation::MachineDown { machine },
        4 => Observation::TaskUp {
            id,
            pid: c.into(),
            since: Millis(u64::MAX),
            restarts: if a >= 128 { 0 } else { u32::from(c) << 24 },
            run: told(state, &cause, b, c),
        },
        5 => {
            let until = Millis(u64::from(c));
            let run = told(state, &cause, b, c);
            Observation::TaskBackOff { id, until, restarts: b.into(), cause, run }
        }
        6 if c.is_multiple_of(8) => Observation::Silence {
            safe_mode: b.is_multiple_of(2),
            silent: b.into(),
            machines: c.into(),
        },
        6 if c.is_multiple_of(4) => {
            let lingering: Vec<IncarnationId> = state.lingering().map(|(_, id)| id).collect();
            Observation::TaskGone { id: pick(&lingering, b).unwrap_or(id) }
        }
        _ => Observation::TaskEnded {
            id,
            at: Millis(0),
            run: told(state, &cause, b, c),
            failure: (!c.is_multiple_of(3)).then_some(cause),
        },
    }
}

/// The log that the steps make on an empty cell, and the state after it.
fn run(steps: &[Step], mut check: impl FnMut(&CellState, &Command)) -> (Vec<Command>, CellState) {
    let mut state = empty();
    let mut log = Vec::new();
    for step in steps {
        let command = command(&state, *step, true);
        drop(state.apply(state.applied() + 1, &command));
        check(&state, &command);
        log.push(command);
    }
    (log, state)
}

fn replay(state: &mut CellState, log: &[Command]) {
    for command in log {
        drop(state.apply(state.applied() + 1, command));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_invariant_holds_after_every_command(steps in steps()) {
        run(&steps, |state, command| assert_eq!(state.audit(), [], "after {command:?}"));
    }

    #[test]
    fn two_replicas_come_to_the_same_bytes_and_digest(steps in steps()) {
        let (log, _) = run(&steps, |_, _| ());
        let (mut first, mut second) = (empty(), empty());
        for command in &log {
            // What does not survive its bytes never gets into a log.
            let Ok(command) = Command::decode(&command.encode()) else { continue };
            let index = first.applied() + 1;
            let read = Command::decode(&command.encode()).unwrap();
            prop_assert_eq!(first.apply(index, &command), second.apply(index, &read));
        }
        prop_assert_eq!(first.digest(), second.digest());
        prop_assert_eq!(first.encode(), second.encode());
    }

    #[test]
    fn a_checkpoint_and_the_tail_of_the_log_give_the_live_state(steps in steps(), cut in 0..120usize) {
        let (log, live) = run(&steps, |_, _| ());
        let cut = cut.min(log.len());
        let mut before = empty();
        replay(&mut before, &log[..cut]);
        let mut restored = CellState::decode(&before.encode()).unwrap();
        prop_assert_eq!(&restored, &before);
        replay(&mut restored, &log[cut..]);
        prop_assert_eq!(restored.encode(), live.encode());
        prop_assert_eq!(restored, live);
    }

    #[test]
    fn a_repeated_request_has_one_effect_and_one_answer(steps in steps()) {
        let mut state = empty();
        for (i, step) in steps.iter().enumerate() {
            let mut command = command(&state, *step, false);
            if matches!(command.by, Principal::User(_)) {
                command.request = Some(format!("r{i}").into());
            }
            let first = state.apply(state.applied() + 1, &command).map(|applied| applied.answer);
            if command.request.is_none() {
                continue;
            }
            let before = state.clone();
            let again = state.apply(state.applied() + 1, &command);
            prop_assert!(again.as_ref().map_or(true, |applied| applied.events.is_empty()));
            prop_assert_eq!(again.map(|applied| applied.answer), first);
            prop_assert!(before.jobs().eq(state.jobs()) && before.machines().eq(state.machines()));
        }
    }

    #[test]
    fn events_tell_everything_that_a_follower_needs_about_places(steps in steps()) {
        let mut state = empty();
        let mut placed = std::collections::BTreeMap::new();
        for step in &steps {
            let command = command(&state, *step, true);
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            for event in applied.events {
                let EventKind::TaskChanged { task, change, .. } = event.kind else { continue };
                match change {
                    TaskChange::Placed { machine, incarnation } => {
                        prop_assert_eq!(placed.insert(task, (machine, incarnation)), None);
                    }
                    TaskChange::Replaced { from, machine, incarnation } => {
                        let before = placed.insert(task, (machine, incarnation));
                        // What was pushed out or failed was told before.
                        prop_assert!(before.is_none_or(|(was, _)| was == from));
                    }
                    TaskChange::Unprepared { .. } | TaskChange::Awaits => {}
                    TaskChange::Up { .. }
                    | TaskChange::Prepared { .. }
                    | TaskChange::Preparing { .. }
                    | TaskChange::BackOff { .. }
                    | TaskChange::Health(_)
                    | TaskChange::Address(_) => prop_assert!(placed.contains_key(&task)),
                    TaskChange::Failed { cause: FailureCause::Deadline { .. }, .. }
                    | TaskChange::ParentEnded { .. }
                    | TaskChange::Withdrawn
                    | TaskChange::Killed { .. } => drop(placed.remove(&task)),
                    TaskChange::Evicted(_) | TaskChange::Failed { .. } | TaskChange::Finished => {
                        prop_assert!(placed.remove(&task).is_some());
                    }
                    TaskChange::Stopped { .. } => drop(placed.remove(&task)),
                    TaskChange::Updated { .. } => {}
                    TaskChange::Released
                    | TaskChange::Renewed
                    | TaskChange::Gone { .. }
                    | TaskChange::DependencyFailed { .. } => prop_assert!(!placed.contains_key(&task)),
                }
            }
            let really = state.jobs().flat_map(|job| state.tasks_of(job.id));
            let really = really.filter_map(|(id, task)| Some((id, task.placement().map(|p| (p.machine, p.incarnation))?)));
            prop_assert!(placed.clone().into_iter().eq(really));
        }
    }

    /// Whatever else happens in the entry: when an update takes down a task that serves, no more are
    /// down after it than the budget of its job allows.
    #[test]
    fn updates_never_take_down_more_than_the_budget_allows(steps in steps()) {
        use borg_cell::event::{EventKind, TaskChange};
        use borg_proto::task::EvictCause;
        let mut state = empty();
        let raise = Action::RaiseLevel { level: LEVEL };
        let by = Principal::Master(ReplicaId(1));
        state.apply(1, &Command { at: Millis(0), by, request: None, action: raise }).unwrap();
        for step in &steps {
            let command = command(&state, *step, true);
            let before = state.clone();
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            let mut touched = std::collections::BTreeSet::new();
            for event in &applied.events {
                let EventKind::TaskChanged { task, change, .. } = &event.kind else { continue };
                // What happened to it before in the same entry took it down.
                let first = touched.insert(*task);
                if !first || !matches!(change, TaskChange::Evicted(EvictCause::Updated { .. })) {
                    continue;
                }
                let served = before.task(*task).and_then(|task| task.placement());
                let served = served.is_some_and(|placement| placement.serves_since.is_some());
                let Some(job) = state.job(task.job).filter(|job| served && job.is_alive()) else { continue };
                let Some(budget) = job.spec.effective_disruption() else { continue };
                let most = budget.most.of(job.spec.tasks);
                prop_assert!(job.down() <= most, "{} of {} are down, {:?}", job.down(), job.key, command);
            }
        }
    }

    /// However an update goes on, it has something that it waits for, and says what.
    #[test]
    fn an_update_always_waits_for_something(steps in steps()) {
        run(&steps, |state, command| {
            for (job, update) in state.jobs().filter_map(|job| Some((job, job.update()?))) {
                let waits = job.waits_for_update(update, state.clock());
                assert!(!waits.is_empty(), "{} after {command:?}: {update:?}", job.key);
            }
        });
    }

    #[test]
    fn no_entry_places_a_part_of_a_gang(steps in steps()) {
        let mut state = empty();
        for step in &steps {
            let command = command(&state, *step, true);
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            let mut evicted = std::collections::BTreeSet::new();
            let mut gangs = std::collections::BTreeSet::new();
            for event in &applied.events {
                match &event.kind {
                    // Who leaves a machine moves alone.
                    EventKind::TaskChanged { task, change: TaskChange::Placed { .. }, .. }
                        if !evicted.contains(task) && state.job(task.job).is_some_and(|job| job.spec.gang) =>
                    {
                        gangs.insert(task.job);
                    }
                    EventKind::TaskChanged { task, change: TaskChange::Evicted(_), .. } => {
                        evicted.insert(*task);
                    }
                    _ => {}
                }
            }
            let left_out = state.pending().find(|task| gangs.contains(&task.job) && !evicted.contains(task));
            prop_assert_eq!(left_out, None, "after {:?}", command);
        }
    }

    /// By the entry itself: what served before it, what it pushed out, and how many were down.
    #[test]
    fn no_entry_pushes_out_more_than_disruption_budgets_allow(steps in steps()) {
        let mut state = empty();
        let mut disrupted = std::collections::BTreeMap::<JobId, Vec<Millis>>::new();
        for step in &steps {
            let command = command(&state, *step, true);
            let before = state.clone();
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            let mut gone = std::collections::BTreeMap::<JobId, Vec<Millis>>::new();
            for event in &applied.events {
                let EventKind::TaskChanged { task, change: TaskChange::Evicted(cause), .. } = &event.kind else { continue };
                let chosen = matches!(cause, EvictCause::Drained | EvictCause::Preempted { .. });
                let placed = before.task(*task).and_then(|task| task.placement());
                if chosen && placed.is_some_and(|placed| placed.serves_since.is_some()) {
                    gone.entry(task.job).or_default().push(event.at);
                }
            }
            for (id, times) in gone {
                let job = before.job(id).unwrap();
                let Some(budget) = job.spec.effective_disruption() else { continue };
                let lately = disrupted.entry(id).or_default();
                lately.extend(&times);
                // What a deadline overrules is counted by the state.
                if state.forced() > before.forced() {
                    continue;
                }
                // Nobody waits for those that are held back: stopped, or beyond the job's cap.
                let wanted = job.counts.alive() - job.counts.held;
                let wanted = wanted.min(job.spec.concurrent.unwrap_or(wanted));
                let down = usize::try_from(wanted.saturating_sub(job.counts.serving)).unwrap() + times.len();
                prop_assert!(down <= usize::try_from(budget.most.of(job.spec.tasks)).unwrap(), "{} after {:?}", job.key, command);
                let Some(rate) = budget.rate else { continue };
                let recent = lately.iter().filter(|at| state.clock().since(**at) < rate.per_ms).count();
                prop_assert!(recent <= rate.tasks as usize, "{}: {} lately after {:?}", job.key, recent, command);
            }
        }
    }

    /// Whoever is replaced by a successor that serves is not down for a moment.
    #[test]
    fn no_successor_that_serves_takes_a_task_down(steps in steps()) {
        let mut state = empty();
        for step in &steps {
            let command = command(&state, *step, true);
            let before = state.clone();
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            let mut others = std::collections::BTreeSet::new();
            for event in &applied.events {
                let EventKind::TaskChanged { task, change, .. } = &event.kind else { continue };
                if !matches!(change, TaskChange::Replaced { .. }) {
                    if !matches!(change, TaskChange::Preparing { .. }) {
                        others.insert(*task);
                    }
                    continue;
                }
                if others.contains(task) {
                    continue;
                }
                let serves = |state: &CellState| {
                    state.task(*task).and_then(|task| task.placement()).is_some_and(|p| p.serves_since.is_some())
                };
                prop_assert!(!serves(&before) || serves(&state), "{} after {:?}", task, command);
            }
        }
    }

    /// A drain is over by its deadline, or the cell may not move anything. Daemons stay.
    #[test]
    fn once_time_has_passed_nothing_is_left_on_a_drained_machine(steps in steps()) {
        let mut state = empty();
        for step in &steps {
            let made = command(&state, *step, true);
            drop(state.apply(state.applied() + 1, &made));
        }
        let by = Principal::Master(ReplicaId(1));
        let last = state.draining().filter_map(|machine| Some(machine.drain.as_ref()?.deadline)).max();
        let Some(at) = last.map(|at| at.max(state.clock())) else { return Ok(()) };
        while state.next_alarm().is_some_and(|alarm| alarm <= at) {
            let before = state.next_alarm();
            let advance = Command { at, by: by.clone(), request: None, action: Action::Advance };
            state.apply(state.applied() + 1, &advance).unwrap();
            if state.next_alarm() == before {
                break;
            }
        }
        let left = state.draining().find(|machine| !state.is_vacated(machine));
        prop_assert!(left.is_none() || state.safe_mode().is_some(), "{:?}", left);
    }

    /// The cell goes on for a while after its backup; restored, it hears of everything that ran then,
    /// and goes on another way.
    #[test]
    fn a_restored_cell_adopts_soundly_and_gives_no_number_twice(before in steps(), lost in steps(), after in steps()) {
        let (_, backup) = run(&before, |_, _| ());
        let mut gone = backup.clone();
        for step in &lost {
            let command = command(&gone, *step, true);
            drop(gone.apply(gone.applied() + 1, &command));
        }
        let (mut state, place) = backup.clone().refound(&[(1, "a:1".into())], Millis(2_000));
        prop_assert_eq!((state.epoch(), place.index), (2, backup.applied() + 1));
        let at = state.clock();
        let apply = |state: &mut CellState, by, action| {
            let command = Command { at, by, request: None, action };
            let applied = state.apply(state.applied() + 1, &command);
            assert_eq!(state.audit(), [], "after {command:?}");
            applied
        };
        let leader = state.masters().next().unwrap().0;
        apply(&mut state, master(0), Action::Lead { leader, term: place.term }).unwrap();
        let ran = gone.jobs().flat_map(|job| gone.tasks_of(job.id));
        let ran: Vec<_> = ran
            .filter_map(|(id, task)| Some((task.running(id)?, task.placement()?.clone())))
            .collect();
        for (id, placement) in &ran {
            let (machine, ports) = (placement.machine, placement.ports.clone());
            let found = Observation::TaskAdopted {
                id: *id, machine, pid: 1, since: at, restarts: 0, ports,
            };
            let was = state.task(id.task).and_then(|task| task.running(id.task));
            apply(&mut state, master(0), Action::Observe { changes: vec![found] }).unwrap();
            let is = state.task(id.task).and_then(|task| task.running(id.task));
            prop_assert!(is == was || is == Some(*id));
            prop_assert!(was.is_none_or(|was| is.is_some_and(|is| is.number >= was.number)));
        }
        let known: std::collections::BTreeSet<IncarnationId> =
            ran.iter().map(|(id, _)| *id).collect();
        for step in &after {
            let command = command(&state, *step, true);
            let Ok(applied) = state.apply(state.applied() + 1, &command) else { continue };
            prop_assert_eq!(state.audit(), []);
            if let borg_cell::state::Answer::Placed { results } = applied.answer {
                for id in results.into_iter().flatten() {
                    prop_assert!(!known.contains(&id), "{id:?} was given out before the restore");
                }
            }
            prop_assert_eq!(&CellState::decode(&state.encode()).unwrap(), &state);
        }
    }

    #[test]
    fn no_bytes_make_decode_panic(mut bytes in vec(any::<u8>(), 0..400), framed in any::<bool>()) {
        if framed {
            bytes.splice(0..0, *b"BORGCELL\0\0\0\x01");
        }
        if let Ok(state) = CellState::decode(&bytes) {
            prop_assert_eq!(state.audit(), []);
        }
        drop(Rejection::decode(&bytes));
        drop(borg_cell::state::Answer::decode(&bytes));
    }
}

/// What came of an assignment, as far as gangs and caps go.
fn kind_of(state: &CellState, result: &Result<IncarnationId, Rejection>) -> &'static str {
    match result {
        Ok(id) if state.job(id.task.job).is_some_and(|job| job.spec.gang && job.spec.tasks > 1) => {
            "gang placed"
        }
        Ok(_) => "placed",
        Err(Rejection::Gang { .. }) => "gang refused",
        Err(Rejection::GangParted { .. }) => "gang parted",
        Err(Rejection::AtCap { .. }) => "at cap",
        Err(Rejection::Drain(_)) => "held off by a budget",
        Err(_) => "refused",
    }
}

/// What kinds of jobs do to a task.
fn of_kinds(change: &TaskChange) -> &'static str {
    match change {
        TaskChange::ParentEnded { .. } => "parent ended",
        TaskChange::Failed { cause: FailureCause::Timeout { .. }, .. } => "timeout",
        TaskChange::Failed { cause: FailureCause::Deadline { .. }, .. } => "deadline",
        _ => "else",
    }
}

/// The laws say nothing if the commands that they try are all refused.
#[test]
fn the_steps_reach_the_interesting_places() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..400 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let mut state = empty();
        for step in steps {
            let command = command(&state, step, true);
            if state.machines().any(|machine| !machine.overdrawn().is_nothing()) {
                *seen.entry("overdrawn".to_owned()).or_default() += 1;
            }
            match state.apply(state.applied() + 1, &command) {
                Ok(applied) => {
                    if let borg_cell::state::Answer::Placed { results } = &applied.answer {
                        for result in results {
                            *seen.entry(kind_of(&state, result).to_owned()).or_default() += 1;
                        }
                    }
                    for event in applied.events {
                        let kind = event.describe(&state).0;
                        if let EventKind::TaskChanged { task, .. } = event.kind
                            && state.alloc_of(task).is_some()
                        {
                            *seen.entry(format!("{kind} in an alloc")).or_default() += 1;
                        }
                        if matches!(
                            &event.kind,
                            EventKind::TaskChanged {
                                change: TaskChange::Evicted(EvictCause::Drained),
                                ..
                            }
                        ) {
                            *seen.entry("drained".to_owned()).or_default() += 1;
                        }
                        if let EventKind::TaskChanged { change, .. } = event.kind {
                            *seen.entry(of_kinds(&change).to_owned()).or_default() += 1;
                        }
                        *seen.entry(kind).or_default() += 1;
                    }
                }
                Err(refused) => *seen.entry(format!("{:?}", refused.code())).or_default() += 1,
            }
        }
    }
    for rare in [
        "task.up",
        "task.backoff",
        "task.evicted",
        "task.failed",
        "task.finished",
        "task.killed",
        "task.released",
        "task.gone",
        "task.awaits",
        "task.prepared",
        "task.preparing",
        "task.unprepared",
        "task.replaced",
        "task.stopped",
        "job.update",
        "job.update-done",
        "job.update-rolls-back",
        "job.update-rolled-back",
        "job.update-canary-good",
        "job.update-closed",
        "task.placed in an alloc",
        "task.evicted in an alloc",
        "allocs.resized",
        "data.kept",
        "data.at-rest",
        "data.rescuing",
        "data.gone",
        "cron.changed",
        "task.renewed",
        "task.withdrawn",
        "parent ended",
        "timeout",
        "deadline",
        "privilege.granted",
        "privilege.revoked",
        "gang placed",
        "gang refused",
        "gang parted",
        "at cap",
        "held off by a budget",
        "machine.draining",
        "machine.drained",
        "machine.undrained",
        "maintenance.begun",
        "maintenance.over",
        "drained",
        "cell.safe-mode",
        "cell.safe-mode-over",
        "machine.removed",
        "reclamation.set",
        "overdrawn",
        "job.finished",
        "job.failed",
        "job.forgotten",
        "job.waiting",
        "InvalidArgument",
        "AlreadyExists",
        "NotFound",
        "PermissionDenied",
        "FailedPrecondition",
    ] {
        // A waiting job shows by its release; it has no event of its own.
        if rare != "job.waiting" {
            assert!(seen.contains_key(rare), "{rare} was never reached: {seen:?}");
        }
    }
}
