//! What earlier versions wrote stays readable: a state, and the log that led to it.
//!
//! Files in `tests/golden` are named after the format's version and never rewritten. Where the
//! files of this version are not there yet, `UPDATE_EXPECT=1` writes them.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::codec::VERSION;
use borg_cell::fixture::{
    Cell, alloc_set, batch, cron, daemon, master, service, user, with_task, within,
};
use borg_cell::state::CellState;
use borg_proto::Network;
use borg_proto::command::{
    Action, AllocSize, Assignment, Command, CronOrder, DataOrder, Observation, Principal,
};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::package::{Digest, ImageConfig, Layer, Package, PackageKind};
use borg_proto::policy::{Policy, Term};
use borg_proto::reclamation::{Amounts, Number, NumberSet};
use borg_proto::resources::TASK_ADDRESS;
use borg_proto::spec::{MemoryLimit, Spread, TaskLabels};
use borg_proto::task::RunEnd;
use borg_proto::update::{OnFailure, Order, Replacement, Revision, Steer, UpdateOptions};
use borg_proto::{
    Band, CellName, FailureCause, Health, IndexSet, JobSpec, MachineId, MachineInfo, Millis,
    Priority, Privilege, ReplicaId, Resources, TaskId,
};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A bit of everything that a state can hold.
fn everything() -> Cell {
    let mut cell = Cell::new();
    let (one, two) = (cell.machine("m-1", 4000, 8 << 30), cell.machine("m-2", 1000, 1 << 30));
    let web = with_task(service("web", 3, 500, 64 << 20), |task| {
        task.ports = vec!["http".parse().unwrap()];
        task.spread = vec![Spread { attribute: "machine".into(), max: 2 }];
    });
    let web = cell.submit("ann", web);
    let up = cell.place(web, 0, one).unwrap();
    cell.up(up);
    let failing = cell.place(web, 1, one).unwrap();
    cell.ended(
        failing,
        Some(FailureCause::OutOfMemory { limit_bytes: 64 << 20, peak_bytes: 65 << 20 }),
    );
    let count = cell.submit("bob", batch("count", 100, 1000, 4 << 20));
    let mut merge = batch("merge", 1, 100, 4 << 20);
    merge.after = vec!["bob/count".parse().unwrap()];
    cell.submit("bob", merge);
    let first = cell.place(count, 0, two).unwrap();
    cell.place_over(web, 2, two, vec![first]).unwrap();
    let back_off = cell.place(count, 1, one).unwrap();
    let (until, cause) = (cell.now, FailureCause::start("no such file"));
    cell.observe(Observation::TaskBackOff { id: back_off, until, restarts: 0, cause, run: None });
    let done = cell.place(count, 2, one).unwrap();
    cell.ended(done, None);
    cell.submit("cid", batch("gone", 2, 100, 4 << 20));
    cell.kill("admin", "cid/gone", &[]).unwrap();
    cell.kill("cid", "ann/web", &[]).unwrap_err();
    cell.observe(Observation::MachineDown { machine: two });
    since_level_2(&mut cell, one);
    since_level_3(&mut cell);
    since_level_4(&mut cell, one);
    since_level_5(&mut cell, one);
    since_level_6(&mut cell, one);
    since_level_7(&mut cell);
    cell
}

/// What came with level 7 of entries.
fn since_level_7(cell: &mut Cell) {
    cell.apply(master(), Action::RaiseLevel { level: 7 }).unwrap();
    let numbers = [(Number::Remember, 12), (Number::Hold, 60)].into();
    let set = Action::SetReclamation { named: Some(NumberSet::Daily), numbers };
    cell.apply(user("admin"), set).unwrap();
}

/// What came with level 6 of entries.
fn since_level_6(cell: &mut Cell, machine: MachineId) {
    cell.apply(master(), Action::RaiseLevel { level: 6 }).unwrap();
    cell.apply(master(), Action::Advance).unwrap();
    cell.observe(Observation::Silence { safe_mode: false, silent: 1, machines: 100 });
    let open = Action::EnforceQuota { bands: vec![Band::Production], on: false };
    cell.apply(user("admin"), open).unwrap();
    let mut low = batch("low", 2, 100, 4 << 20);
    let rate = Some(Rate { tasks: 2, per_ms: Millis(60_000) });
    low.disruption = Some(Disruption { most: Share::Percent(50), rate });
    let low = cell.submit("eve", low);
    let victim = cell.place(low, 0, machine).unwrap();
    cell.up(victim);
    lent(cell);
    drained(cell);
    kept_data(cell);
    replaced(cell);
    kinds_of_jobs(cell, machine);
}

fn lent(cell: &mut Cell) {
    let numbers = [(Number::Hold, 60), (Number::Most, 150)].into();
    let set = Action::SetReclamation { named: Some(NumberSet::Medium), numbers };
    cell.apply(user("admin"), set).unwrap();
    let machine = cell.machine("m-6", 1000, 1 << 30);
    let mid = |spec| JobSpec { priority: Priority::new(116).unwrap(), ..spec };
    let holds = mid(with_task(batch("holds", 1, 800, 4 << 20), |task| task.reclaim = false));
    cell.try_submit("ina", holds.clone()).unwrap_err();
    let (ina, privilege) = ("ina".parse().unwrap(), Privilege::Reservation);
    cell.apply(user("admin"), Action::GrantPrivilege { user: ina, privilege }).unwrap();
    let holds = cell.submit("ina", holds);
    cell.place(holds, 0, machine).unwrap();
    let others = cell.submit("ina", mid(batch("others", 3, 400, 4 << 20)));
    let on_lent = |index, cpu_milli| Assignment {
        lent: Amounts::of([cpu_milli, 0, 0]),
        ..Assignment::new(TaskId { job: others, index }, machine)
    };
    let assignments = vec![on_lent(0, 100), on_lent(0, 200), on_lent(1, 9_000)];
    cell.apply(master(), Action::Place { assignments }).unwrap();
    let id = TaskId { job: others, index: 0 };
    let id = cell.state.task(id).unwrap().running(id).unwrap();
    assert!(!cell.state.machine(machine).unwrap().overdrawn().is_nothing());
    cell.observe(Observation::TaskReclaimed { id });
}

/// Machines that are emptied, all at once and one after the other.
fn drained(cell: &mut Cell) {
    let (out, other) = (cell.machine("m-7", 4000, 1 << 30), cell.machine("m-8", 4000, 1 << 30));
    let low = Priority::new(100).unwrap();
    let disruption = Some(Disruption { most: Share::Tasks(1), rate: None });
    let spec = JobSpec { priority: low, disruption, ..service("moves", 2, 100, 4 << 20) };
    let moves = cell.submit("ann", spec);
    let drain = |names: &[&str], at_once, leaves| Action::DrainMachines {
        machines: names.iter().map(|name| name.parse().unwrap()).collect(),
        reason: "new kernel".into(),
        within: Millis(60_000),
        at_once,
        leaves,
    };
    for index in 0..2 {
        let id = cell.place(moves, index, out).unwrap();
        cell.up(id);
    }
    cell.apply(user("admin"), drain(&["m-7"], None, None)).unwrap();
    cell.apply(user("ann"), drain(&["m-7"], None, None)).unwrap_err();
    cell.apply(user("admin"), drain(&["m-8"], None, Some(99))).unwrap_err();
    cell.place(moves, 0, other).unwrap();
    cell.place(moves, 1, other).unwrap_err();
    cell.apply(user("admin"), drain(&["m-8", "m-3"], Some(1), None)).unwrap();
    cell.apply(user("admin"), Action::EndMaintenance { number: 9 }).unwrap_err();
    cell.wait(60_000);
    cell.apply(master(), Action::Advance).unwrap();
    cell.apply(user("admin"), Action::UndrainMachines { machines: vec!["m-7".parse().unwrap()] })
        .unwrap();
}

/// What allocs left behind: in use, being saved, with a run that somebody ended, and gone.
fn kept_data(cell: &mut Cell) {
    let machine = cell.machine("m-9", 4000, 1 << 30);
    let mid = |spec| JobSpec { priority: Priority::new(116).unwrap(), ..spec };
    let keeps =
        JobSpec { keep_data_ms: Some(Millis(3_600_000)), ..alloc_set("keeps", 5, 100, 64 << 20) };
    let set = cell.submit("ina", mid(keeps));
    let saves = JobSpec { rescue: true, ..within(service("saves", 1, 10, 4 << 20), "ina/keeps") };
    cell.submit("ina", mid(saves.clone()));
    cell.try_submit("ina", JobSpec { name: "again".parse().unwrap(), ..mid(saves) }).unwrap_err();
    let allocs: Vec<_> = (0..4).map(|index| cell.place(set, index, machine).unwrap()).collect();
    cell.observe(Observation::MachineDown { machine });
    let info = cell.state.machine(machine).unwrap().info.as_deref().unwrap().clone();
    cell.observe(Observation::MachineUp { machine, info });
    for alloc in &allocs[1..] {
        cell.observe(Observation::DataAtRest { machine, alloc: *alloc, bytes: 1 << 20 });
    }
    cell.kill("ina", "ina/saves-rescue-2", &[]).unwrap();
    let run = cell.state.job_named(&"ina/saves-rescue-3".parse().unwrap()).unwrap().id;
    let run = cell.place(run, 0, machine).unwrap();
    cell.up(run);
    let why = "the machine was short of disk".to_owned();
    cell.observe(Observation::DataGone { machine, alloc: allocs[3], why });
    let rescue = |order| {
        let number = NonZeroU64::new(2);
        Action::RescueData { alloc: "ina/keeps/1".parse().unwrap(), number, order }
    };
    cell.apply(user("ina"), rescue(DataOrder::Rescue)).unwrap();
    cell.apply(user("ann"), rescue(DataOrder::Drop)).unwrap_err();
    cell.kill("ina", "ina/saves-rescue-2", &[]).unwrap();
    assert_eq!(cell.state.kept().count(), 3);
}

/// A successor that took over, one that came to nothing, and one that is on its way.
fn replaced(cell: &mut Cell) {
    let (out, other) = (cell.machine("m-11", 4000, 1 << 30), cell.machine("m-12", 4000, 1 << 30));
    let first = cell.submit("ann", service("first", 3, 100, 4 << 20));
    for index in 0..3 {
        let id = cell.place(first, index, out).unwrap();
        cell.up(id);
    }
    let machines = vec!["m-11".parse().unwrap()];
    let (reason, within) = ("new disk".into(), Millis(600_000));
    let drain = Action::DrainMachines { machines, reason, within, at_once: None, leaves: None };
    cell.apply(user("admin"), drain).unwrap();
    let next = cell.place(first, 0, other).unwrap();
    cell.place(first, 0, other).unwrap_err();
    cell.place(first, 1, other).unwrap_err();
    cell.up(next);
    cell.wait(10_000);
    cell.apply(master(), Action::Advance).unwrap();
    let next = cell.place(first, 1, other).unwrap();
    cell.ended(next, Some(FailureCause::Exit { code: 1 }));
    let next = cell.place(first, 2, other).unwrap();
    cell.up(next);
    // Before it leads to a successor, an update waits for one.
    let awaits = cell.submit("ann", service("awaits", 1, 100, 4 << 20));
    let id = cell.place(awaits, 0, other).unwrap();
    cell.up(id);
    let options = UpdateOptions { replacement: Replacement::First, ..UpdateOptions::default() };
    let (job, to) = ("ann/awaits".parse().unwrap(), Revision::Restart);
    cell.apply(user("ann"), Action::UpdateJob { job, to, options: Box::new(options) }).unwrap();
}

/// Daemons with and without a machine, ticks of all fates, parents and children, ends of level 6.
fn kinds_of_jobs(cell: &mut Cell, machine: MachineId) {
    cell.machine("m-lonely", 1_000, 1 << 30);
    let exporter =
        JobSpec { priority: Priority::new(100).unwrap(), ..daemon("exporter", 10, 4 << 20) };
    let exporter = cell.submit("eve", exporter);
    let lonely = Action::RemoveMachine { machine: "m-lonely".parse().unwrap() };
    cell.apply(user("admin"), lonely).unwrap();
    cell.kill("eve", "eve/exporter", &[0]).unwrap();
    assert!(cell.state.job(exporter).unwrap().counts.withdrawn > 0);
    let child = |name: &str, parent: &str| JobSpec {
        parent: Some(parent.parse().unwrap()),
        timeout_ms: Some(Millis(1_000)),
        max_failures: 1,
        ..batch(name, 1, 10, 4 << 20)
    };
    cell.submit("eve", child("orphan", "eve/exporter"));
    cell.kill("eve", "eve/exporter", &[]).unwrap();
    let mut report = cron("report", "* * * * *");
    report.deadline_ms = Some(Millis(90_000));
    cell.submit("eve", report);
    let slow = cell.submit("eve", child("slow", "eve/report"));
    cell.place(slow, 0, machine).unwrap();
    // The first tick makes a run, which is not over at the second, and has run out at the third.
    for _ in 0..3 {
        cell.wait(60_000);
        cell.apply(master(), Action::Advance).unwrap();
    }
    let job = || "eve/slow".parse().unwrap();
    cell.apply(user("eve"), Action::Rerun { job: job(), tasks: vec![0] }).unwrap();
    let after = JobSpec { after: vec![job()], ..batch("late", 1, 10, 4 << 20) };
    cell.submit("eve", after);
    cell.kill("eve", "eve/slow", &[]).unwrap();
    let order = Action::OrderCron { job: "eve/report".parse().unwrap(), order: CronOrder::Pause };
    cell.apply(user("eve"), order).unwrap();
    updates(cell, machine);
}

/// A job in the middle of an update, with a failure and a stopped task, and one that went back.
fn updates(cell: &mut Cell, machine: MachineId) {
    let mut spec = service("rolling", 4, 50, 4 << 20);
    spec.disruption = Some(Disruption { most: Share::Tasks(2), rate: None });
    spec.task_labels = vec![TaskLabels {
        tasks: "0-1,3".parse().unwrap(),
        labels: [("a".into(), "b".into())].into(),
    }];
    let job = cell.submit("eve", spec.clone());
    for index in 0..4 {
        let id = cell.place(job, index, machine).unwrap();
        cell.up(id);
    }
    let update = |cell: &mut Cell, to: Revision, options: UpdateOptions| {
        let job = "eve/rolling".parse().unwrap();
        let action = Action::UpdateJob { job, to, options: Box::new(options) };
        cell.apply(user("eve"), action).unwrap();
    };
    let steer = |cell: &mut Cell, verb: Steer| {
        let job = "eve/rolling".parse().unwrap();
        cell.apply(user("eve"), Action::SteerUpdate { job, verb }).unwrap();
    };
    update(cell, Revision::Tasks(3), UpdateOptions::default());
    update(
        cell,
        Revision::Restart,
        UpdateOptions { min_healthy_ms: Millis(0), ..UpdateOptions::default() },
    );
    steer(cell, Steer::Undo);
    let tasks = || "1".parse::<IndexSet>().ok();
    let job_key = || "eve/rolling".parse().unwrap();
    cell.apply(user("eve"), Action::StopTasks { job: job_key(), tasks: tasks() }).unwrap();
    for index in [0, 2] {
        let task = TaskId { job, index };
        if let Some(id) = cell.state.task(task).and_then(|found| found.running(task)) {
            cell.up(id);
        }
    }
    cell.wait(60_000);
    cell.apply(master(), Action::Advance).unwrap();
    let next = with_task(JobSpec { tasks: 3, task_labels: Vec::new(), ..spec }, |task| {
        task.command.push("next".into());
    });
    let options = UpdateOptions {
        canary: "0,2".parse().ok(),
        order: Order::Listed(vec![2, 0]),
        most: Some(Share::Percent(50)),
        failures: 3,
        on_failure: OnFailure::Pause,
        ..UpdateOptions::default()
    };
    update(cell, Revision::Spec(Arc::new(next)), options);
    let task = TaskId { job, index: 0 };
    if let Some(id) = cell.state.task(task).and_then(|found| found.running(task)) {
        cell.ended(id, Some(FailureCause::Exit { code: 3 }));
    }
    steer(cell, Steer::Pause);
}

/// What came with level 2 of entries.
fn since_level_2(cell: &mut Cell, machine: MachineId) {
    cell.apply(master(), Action::RaiseLevel { level: 2 }).unwrap();
    let address = || "h-6:1".to_owned();
    let invite = Action::InviteMaster { number: 6, address: address(), replaces: None };
    cell.apply(user("admin"), invite).unwrap();
    let join = Action::JoinMaster { number: 6, address: address(), token: 7 };
    cell.apply(Principal::Master(ReplicaId(6)), join).unwrap();
    let mut alone = service("alone", 1, 100, 4 << 20);
    alone.exclusive = true;
    let alone = cell.submit("ann", alone);
    let placed = cell.place(alone, 0, machine).unwrap();
    cell.up(placed);
    cell.ended(placed, Some(FailureCause::Fenced));
    cell.observe(Observation::Silence { safe_mode: true, silent: 40, machines: 100 });
}

/// What came with level 3 of entries.
fn since_level_3(cell: &mut Cell) {
    cell.apply(master(), Action::RaiseLevel { level: 3 }).unwrap();
    let quota = |who: &str, band, until: Option<u64>, oversell| Action::SetQuota {
        user: who.parse().unwrap(),
        band,
        amount: Resources {
            cpu_milli: 1_800,
            ram_bytes: 1 << 30,
            devices: [("gpu".into(), 1_000)].into(),
            ..Resources::default()
        },
        from: until.map(|until| Millis(until - 10)),
        until: until.map(Millis),
        oversell,
    };
    let later = cell.now.0 + 1_000;
    for (who, band, until, oversell) in [
        ("ann", Band::Production, None, true),
        ("ann", Band::Production, Some(later), true),
        ("bob", Band::Batch, None, false),
        ("cid", Band::Mid, None, false),
    ] {
        cell.apply(user("admin"), quota(who, band, until, oversell)).unwrap();
    }
    cell.apply(user("admin"), quota("eve", Band::Monitoring, None, false)).unwrap_err();
    let gone = Action::RemoveQuota { user: "cid".parse().unwrap(), band: Band::Mid };
    cell.apply(user("admin"), gone).unwrap();
    let bands = || vec![Band::Batch, Band::Production];
    cell.apply(user("admin"), Action::EnforceQuota { bands: bands(), on: true }).unwrap();
    cell.submit("ann", service("small", 1, 100, 4 << 20));
    cell.try_submit("ann", service("large", 9, 100, 4 << 20)).unwrap_err();
    cell.try_submit("dan", service("none", 1, 100, 4 << 20)).unwrap_err();
    cell.try_submit("dan", batch("none", 1, 100, 4 << 20)).unwrap_err();
    let open = Action::EnforceQuota { bands: vec![Band::Batch], on: false };
    cell.apply(user("admin"), open).unwrap();
}

/// What came with level 4 of entries.
fn since_level_4(cell: &mut Cell, machine: MachineId) {
    cell.apply(master(), Action::RaiseLevel { level: 4 }).unwrap();
    at_once(cell, machine);
    policy_and_access(cell);
    allocs(cell, machine);
}

/// What came with level 5 of entries.
fn since_level_5(cell: &mut Cell, machine: MachineId) {
    cell.apply(master(), Action::RaiseLevel { level: 5 }).unwrap();
    for (name, kind) in [("fay/app:1", PackageKind::Image), ("fay/data:2", PackageKind::Directory)]
    {
        let layer = Layer { digest: Digest::of(name.as_bytes()), bytes: 2048, unpacked_bytes: 9 };
        let image = (kind == PackageKind::Image).then(ImageConfig::default);
        let key = name.parse().unwrap();
        let package = Package { key, kind, layers: vec![layer], image, arch: String::new() };
        cell.apply(user("fay"), Action::PutPackage { package: package.into() }).unwrap();
    }
    let checked = with_task(service("checked", 2, 10, 4 << 20), |task| {
        task.image = Some("app:1".parse().unwrap());
        task.packages = vec!["data:2".parse().unwrap()];
        task.ports = vec!["http".parse().unwrap()];
        task.memory = MemoryLimit::Soft;
        task.cpu_cap_milli = Some(50);
        let port = "http".parse().unwrap();
        task.health = Some(HealthCheck::new(Probe::Http { port, path: "/".into() }));
    });
    let checked = cell.submit("fay", JobSpec { priority: Priority::new(116).unwrap(), ..checked });
    let remove = Action::RemovePackage { package: "fay/data:2".parse().unwrap() };
    cell.apply(user("fay"), remove).unwrap_err();
    privileges(cell);
    let healthy = cell.place(checked, 0, machine).unwrap();
    cell.up(healthy);
    cell.observe(Observation::TaskHealth { id: healthy, health: Health::Healthy });
    let failing = cell.place(checked, 1, machine).unwrap();
    cell.up(failing);
    let failure = Some(FailureCause::unhealthy("http: 500"));
    let run = Some(Arc::new(RunEnd {
        run: 0,
        started: Some(cell.now),
        ended: cell.now,
        failure: failure.clone(),
        cpu_ms: 12,
        ram_peak_bytes: 3 << 20,
        last_lines: "the end".into(),
    }));
    cell.observe(Observation::TaskUp {
        id: failing,
        pid: 9,
        since: cell.now,
        restarts: 1,
        run: run.clone(),
    });
    cell.observe(Observation::TaskEnded { id: failing, at: cell.now, failure, run });
    network_of_its_own(cell, machine);
}

fn network_of_its_own(cell: &mut Cell, machine: MachineId) {
    let info = cell.state.machine(machine).and_then(|machine| machine.info.clone()).unwrap();
    let mut info = MachineInfo::clone(&info);
    info.capacity.devices.insert(TASK_ADDRESS.into(), 2_000);
    cell.observe(Observation::MachineUp { machine, info });
    let apart = with_task(batch("apart", 1, 10, 4 << 20), |task| {
        task.ports = vec!["http".parse().unwrap()];
        task.network = Network::Own;
    });
    let apart = cell.submit("fay", apart);
    let placed = cell.place(apart, 0, machine).unwrap();
    cell.up(placed);
    cell.observe(Observation::TaskAddress { id: placed, address: [10, 88, 3, 2].into() });
}

fn privileges(cell: &mut Cell) {
    let grant =
        |who: &str, privilege| Action::GrantPrivilege { user: who.parse().unwrap(), privilege };
    let revoke =
        |who: &str, privilege| Action::RevokePrivilege { user: who.parse().unwrap(), privilege };
    for privilege in Privilege::ALL {
        cell.apply(user("admin"), grant("gus", privilege)).unwrap();
    }
    let loosened = |privilege| {
        let spec = with_task(service("loose", 1, 10, 4 << 20), |task| {
            task.loosen = [privilege].into();
        });
        JobSpec { priority: Priority::new(116).unwrap(), ..spec }
    };
    cell.submit("gus", loosened(Privilege::SystemCalls));
    cell.try_submit("hal", loosened(Privilege::MachineIds)).unwrap_err();
    cell.apply(user("gus"), grant("hal", Privilege::Listen)).unwrap();
    cell.apply(user("hal"), grant("hal", Privilege::Devices)).unwrap_err();
    cell.apply(user("admin"), revoke("gus", Privilege::SystemCalls)).unwrap();
    cell.apply(user("admin"), revoke("gus", Privilege::SystemCalls)).unwrap_err();
    cell.apply(user("gus"), revoke("admin", Privilege::Admin)).unwrap_err();
}

fn at_once(cell: &mut Cell, machine: MachineId) {
    let capped = JobSpec { concurrent: Some(1), ..batch("capped", 2, 10, 4 << 20) };
    let capped = cell.submit("bob", capped);
    cell.place(capped, 0, machine).unwrap();
    cell.place(capped, 1, machine).unwrap_err();
    let gang = JobSpec { gang: true, ..batch("gang", 2, 10, 4 << 20) };
    let gang = cell.submit("bob", gang);
    cell.place(gang, 0, machine).unwrap_err();
    let to = |index, machine| Assignment::new(TaskId { job: gang, index }, machine);
    for last in [MachineId(99), machine] {
        let assignments = vec![to(0, machine), to(1, last)];
        cell.apply(master(), Action::Place { assignments }).unwrap();
    }
    assert_eq!(cell.state.job(gang).unwrap().counts.running, 2);
}

fn policy_and_access(cell: &mut Cell) {
    let weights = [(Term::Fit, -7), (Term::Strand, 9)].into();
    let policy = Action::SetPolicy { policy: Some(Policy::WorstFit), weights };
    cell.apply(user("admin"), policy).unwrap();
    let weights = || [(Term::RackCrowd, 0)].into();
    cell.apply(user("admin"), Action::SetPolicy { policy: None, weights: weights() }).unwrap();
    cell.apply(user("ann"), Action::SetPolicy { policy: None, weights: weights() }).unwrap_err();
    let (kept, closed) = (cell.machine("m-3", 4000, 1 << 30), cell.machine("m-4", 4000, 1 << 30));
    let named = |name: &str| vec![name.parse().unwrap()];
    let users = ["bob", "cid"].map(|name| name.parse().unwrap()).into();
    let keep = Action::KeepMachines { machines: named("m-3"), users };
    cell.apply(user("admin"), keep).unwrap();
    let close = |name| Action::CloseMachines { machines: named(name), reason: "bad disk".into() };
    cell.apply(user("admin"), close("m-3")).unwrap();
    cell.apply(user("admin"), Action::OpenMachines { machines: named("m-3") }).unwrap();
    cell.apply(user("admin"), close("m-4")).unwrap();
    cell.apply(user("admin"), close("m-9")).unwrap_err();
    let job = cell.submit("dan", batch("stays-out", 2, 100, 4 << 20));
    cell.place(job, 0, kept).unwrap_err();
    cell.place(job, 0, closed).unwrap_err();
    let job = cell.submit("cid", batch("may-enter", 1, 100, 4 << 20));
    cell.place(job, 0, kept).unwrap();
}

fn allocs(cell: &mut Cell, machine: MachineId) {
    // In a band that needs no quota.
    let mid = |spec| JobSpec { priority: Priority::new(116).unwrap(), ..spec };
    let room = cell.submit("eli", mid(alloc_set("room", 3, 100, 64 << 20)));
    cell.place(room, 0, machine).unwrap();
    cell.place(room, 1, machine).unwrap();
    let server = mid(within(service("server", 4, 60, 8 << 20), "eli/room"));
    let server = cell.submit("eli", server);
    let saver = cell.submit("eli", within(batch("saver", 1, 20, 8 << 20), "eli/room"));
    cell.place(server, 0, machine).unwrap();
    cell.place(server, 1, machine).unwrap();
    cell.place(saver, 0, machine).unwrap();
    cell.place(server, 2, machine).unwrap_err();
    cell.place(server, 3, machine).unwrap_err();
    cell.kill("eli", "eli/room", &[]).unwrap_err();
    let mut resize = |allocs, cpu_milli| {
        let size = AllocSize { cpu_milli: Some(cpu_milli), ..AllocSize::default() };
        let alloc_set = "eli/room".parse().unwrap();
        cell.apply(user("eli"), Action::ResizeAllocs { alloc_set, allocs, size })
    };
    resize(Some(2), 100).unwrap_err();
    resize(None, 10).unwrap_err();
    resize(Some(4), 120).unwrap();
    // More than the machine has for two of them: one moves.
    resize(None, 2_000).unwrap();
    assert_eq!(cell.state.job(server).unwrap().counts.running, 1);
}

fn write_log(log: &[Command]) -> Vec<u8> {
    let entry = |command: &Command| {
        let bytes = command.encode();
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
    };
    log.iter().flat_map(entry).collect()
}

fn read_log(mut bytes: &[u8]) -> Vec<Command> {
    let mut log = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (entry, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        log.push(Command::decode(entry).unwrap());
        bytes = rest;
    }
    log
}

#[test]
fn states_and_logs_of_every_version_still_load() {
    for version in 1..=VERSION {
        let (state, log) =
            (file(&format!("state-v{version}.bin")), file(&format!("log-v{version}.bin")));
        if version == VERSION && !state.exists() && std::env::var_os("UPDATE_EXPECT").is_some() {
            let cell = everything();
            std::fs::write(&state, cell.state.encode()).unwrap();
            std::fs::write(&log, write_log(&cell.log)).unwrap();
        }
        let bytes = std::fs::read(&state).unwrap();
        let loaded = CellState::decode(&bytes).unwrap();
        assert_eq!(loaded.audit(), []);
        let mut replayed = CellState::new(CellName::new("lab").unwrap());
        for command in read_log(&std::fs::read(&log).unwrap()) {
            drop(replayed.apply(replayed.applied() + 1, &command));
        }
        assert_eq!(replayed, loaded, "the log of version {version} leads to its state");
        if version == VERSION {
            assert_eq!(loaded.encode(), bytes, "bytes of the present version are canonical");
        }
    }
}
