use super::*;
use crate::fixture::{Cell, alloc_set, batch, info, service, user, with_task, within};
use borg_proto::IncarnationId;
use borg_proto::command::{Action, Observation};
use borg_proto::spec::Spread;

const MIB: u64 = 1 << 20;

/// A cell with two machines of 1,000 m and 64 MiB, and a set of two allocs of 600 m and 32 MiB, the
/// first of which is on the first machine.
fn cell() -> (Cell, JobId, [MachineId; 2], IncarnationId) {
    let mut cell = Cell::new();
    let machines = ["m-1", "m-2"].map(|name| cell.machine(name, 1000, 64 * MIB));
    let set = cell.submit("ann", alloc_set("room", 2, 600, 32 * MIB));
    let first = cell.place(set, 0, machines[0]).unwrap();
    (cell, set, machines, first)
}

fn resize(
    cell: &mut Cell,
    by: &str,
    allocs: Option<u32>,
    limit: Option<(u64, u64)>,
) -> Result<(), String> {
    let (cpu_milli, ram_bytes) = limit.unzip();
    let size = AllocSize { cpu_milli, ram_bytes, disk_bytes: None };
    let action = Action::ResizeAllocs { alloc_set: "ann/room".parse().unwrap(), allocs, size };
    cell.apply(user(by), action).map(|_| ()).map_err(|refused| refused.to_string())
}

fn is_placed(cell: &Cell, job: JobId, index: u32) -> bool {
    cell.state.task(TaskId { job, index }).unwrap().placement().is_some()
}

#[test]
fn tasks_of_several_jobs_share_an_alloc_and_never_exceed_it() {
    let (mut cell, set, [m1, m2], _) = cell();
    let server = cell.submit("ann", within(service("server", 2, 400, 16 * MIB), "ann/room"));
    let saver = cell.submit("ann", within(batch("saver", 2, 200, 8 * MIB), "ann/room"));
    let third = cell.submit("ann", within(batch("third", 1, 100, 4 * MIB), "ann/room"));
    let used = |cell: &Cell| cell.state.machine(m1).unwrap().used.cpu_milli;
    assert_eq!(used(&cell), 600, "an alloc counts by its own size, used or not");
    cell.place(server, 0, m1).unwrap();
    cell.place(saver, 0, m1).unwrap();
    assert_eq!(used(&cell), 600);
    let refused = |cell: &mut Cell, job, index, machine| {
        cell.place(job, index, machine).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&mut cell, third, 0, m1),
        "alloc ann/room/0 has 0 m CPU free, task asks 100 m"
    );
    assert_eq!(
        refused(&mut cell, third, 0, m2),
        "alloc ann/room/0 is on machine m-1, and so are its tasks"
    );
    assert_eq!(refused(&mut cell, server, 1, m1), "alloc ann/room/1 is not placed");
    let alloc = TaskId { job: set, index: 0 };
    assert_eq!(cell.state.used_in_alloc(alloc).cpu_milli, 600);
    assert_eq!(cell.state.alloc_of(TaskId { job: saver, index: 0 }), Some(alloc));
}

#[test]
fn a_task_that_ends_leaves_its_alloc_as_it_is() {
    let (mut cell, set, [m1, _], _) = cell();
    let server = cell.submit("ann", within(service("server", 1, 400, 16 * MIB), "ann/room"));
    let first = cell.place(server, 0, m1).unwrap();
    cell.ended(first, None);
    assert!(is_placed(&cell, set, 0) && !is_placed(&cell, server, 0));
    cell.wait(60_000);
    cell.place(server, 0, m1).unwrap();
}

#[test]
fn an_alloc_that_leaves_its_machine_takes_its_tasks_along() {
    let (mut cell, set, [m1, m2], alloc) = cell();
    let server = cell.submit("ann", within(service("server", 1, 400, 16 * MIB), "ann/room"));
    cell.place(server, 0, m1).unwrap();
    let monitor = with_task(service("monitor", 1, 1000, 8 * MIB), |_| ());
    let monitor = JobSpec { priority: borg_proto::Priority::new(400).unwrap(), ..monitor };
    let monitor = cell.submit("admin", monitor);
    cell.place_over(monitor, 0, m1, vec![alloc]).unwrap();
    assert!(!is_placed(&cell, set, 0) && !is_placed(&cell, server, 0));
    let evicted = cell.state.task(TaskId { job: server, index: 0 }).unwrap().last_evict.clone();
    assert_eq!(evicted.unwrap().to_string(), "preempted by admin/monitor/0");
    cell.place(set, 0, m2).unwrap();
    cell.place(server, 0, m2).unwrap();
    cell.observe(Observation::MachineDown { machine: m2 });
    assert!(!is_placed(&cell, set, 0) && !is_placed(&cell, server, 0));
}

#[test]
fn tasks_beyond_their_alloc_set_are_not_placed_until_it_grows() {
    let (mut cell, set, [_, m2], _) = cell();
    let server = cell.submit("ann", within(service("server", 4, 400, 16 * MIB), "ann/room"));
    assert_eq!(
        cell.place(server, 3, m2).unwrap_err().to_string(),
        "alloc set ann/room has 2 allocs, so there is none for task 3"
    );
    resize(&mut cell, "ann", Some(4), None).unwrap();
    cell.place(set, 3, m2).unwrap();
    cell.place(server, 3, m2).unwrap();
    assert_eq!(
        resize(&mut cell, "ann", Some(3), None).unwrap_err(),
        "alloc set ann/room has 4 allocs and cannot have 3: it only grows; kill single allocs that \
         no job uses"
    );
}

#[test]
fn ports_of_tasks_in_allocs_are_the_machines() {
    let (mut cell, _, [m1, _], _) = cell();
    let port = |spec| with_task(spec, |task| task.ports = vec!["http".parse().unwrap()]);
    let [a, b] = ["a", "b"]
        .map(|name| cell.submit("ann", within(port(service(name, 1, 100, 4 * MIB)), "ann/room")));
    cell.place(a, 0, m1).unwrap();
    cell.place(b, 0, m1).unwrap();
    let machine = cell.state.machine(m1).unwrap();
    assert_eq!((machine.ports.len(), machine.used.ports), (2, 2));
}

#[test]
fn quota_is_charged_for_the_alloc_and_not_again_for_what_is_in_it() {
    let (mut cell, _, _, _) = cell();
    cell.submit("ann", within(service("server", 2, 400, 16 * MIB), "ann/room"));
    let used = |cell: &Cell| {
        let ann = UserName::new("ann").unwrap();
        cell.state.used_quota(&ann, borg_proto::Band::Production).amount().cpu_milli
    };
    assert_eq!(used(&cell), 1200);
    resize(&mut cell, "ann", Some(3), Some((700, 32 * MIB))).unwrap();
    assert_eq!(used(&cell), 2100);
}

#[test]
fn a_resized_alloc_stays_where_it_fits_and_moves_with_its_tasks_where_it_does_not() {
    let (mut cell, set, [m1, m2], first) = cell();
    let server = cell.submit("ann", within(service("server", 2, 400, 16 * MIB), "ann/room"));
    cell.place(server, 0, m1).unwrap();
    cell.place(set, 1, m2).unwrap();
    cell.place(server, 1, m2).unwrap();
    let other = cell.submit("bob", batch("other", 1, 300, 4 * MIB));
    cell.place(other, 0, m2).unwrap();
    resize(&mut cell, "ann", None, Some((800, 32 * MIB))).unwrap();
    assert_eq!(cell.state.task(first.task).unwrap().running(first.task), Some(first));
    assert!(is_placed(&cell, server, 0));
    assert_eq!(cell.state.machine(m1).unwrap().used.cpu_milli, 800);
    assert!(!is_placed(&cell, set, 1) && !is_placed(&cell, server, 1));
    assert_eq!(
        resize(&mut cell, "ann", None, Some((300, 32 * MIB))).unwrap_err(),
        "limit: alloc ann/room/0 would have 300 m CPU, and its tasks may use 400 m"
    );
    assert_eq!(
        resize(&mut cell, "ann", None, Some((1_001, 32 * MIB))).unwrap_err(),
        "limit: no machine of the cell could hold an alloc of ann/room of that size: choose less"
    );
    let before = cell.events.len();
    resize(&mut cell, "ann", None, Some((800, 32 * MIB))).unwrap();
    assert_eq!(cell.events.len(), before, "nothing changes when nothing is to be changed");
}

#[test]
fn who_may_be_in_an_alloc_set_is_said_at_once() {
    let (mut cell, _, _, _) = cell();
    cell.submit("ann", service("web", 1, 100, 4 * MIB));
    let mut refused = |owner: &str, set: &str, priority: u64| {
        let spec = within(batch("in", 1, 100, 4 * MIB), set);
        let priority = borg_proto::Priority::new(priority).unwrap();
        cell.try_submit(owner, JobSpec { priority, ..spec }).unwrap_err().to_string()
    };
    assert_eq!(
        refused("ann", "ann/nothing", 100),
        "alloc_set: there is no alloc set ann/nothing: submit it first"
    );
    assert_eq!(refused("ann", "ann/web", 100), "ann/web is no alloc set");
    assert_eq!(
        refused("bob", "ann/room", 100),
        "alloc_set: ann/room is not bob's: only its owner and admin run jobs in it"
    );
    assert_eq!(
        refused("ann", "ann/room", 200),
        "priority: 200 is above that of alloc set ann/room, 120: a task goes when its alloc goes"
    );
    for number in 0..MAX_TENANTS {
        cell.submit("ann", within(batch(&format!("j{number}"), 1, 1, 4 * MIB), "ann/room"));
    }
    let spec = within(batch("in", 1, 100, 4 * MIB), "ann/room");
    assert_eq!(
        cell.try_submit("ann", spec).unwrap_err().to_string(),
        "alloc set ann/room has 64 jobs in it, the most that it may have"
    );
}

#[test]
fn an_alloc_set_runs_nothing_and_what_is_in_one_has_no_place_of_its_own() {
    let mut cell = Cell::new();
    cell.submit("ann", alloc_set("room", 1, 600, 32 * MIB));
    let mut refused = |spec| cell.try_submit("ann", spec).unwrap_err().to_string();
    let running = with_task(alloc_set("bad", 1, 1, 4 * MIB), |task| {
        task.command = vec!["/bin/true".to_owned()];
    });
    assert_eq!(
        refused(running),
        "task.command: given says nothing in an alloc set: it belongs to the jobs in it"
    );
    let spread = with_task(batch("bad", 2, 1, 4 * MIB), |task| {
        task.spread = vec![Spread { attribute: "rack".into(), max: 1 }];
    });
    assert_eq!(
        refused(within(spread, "ann/room")),
        "task.spread: given says nothing of a task in an alloc, which is where its alloc is: it \
         belongs to the alloc set"
    );
    let after = JobSpec { after: vec!["ann/room".parse().unwrap()], ..batch("bad", 1, 1, 4 * MIB) };
    assert_eq!(
        refused(after),
        "ann/room is an alloc set and never finishes: nothing can start after it"
    );
}

#[test]
fn an_alloc_set_goes_after_the_jobs_in_it() {
    let (mut cell, set, [m1, _], _) = cell();
    let server = cell.submit("ann", within(service("server", 1, 400, 16 * MIB), "ann/room"));
    cell.place(server, 0, m1).unwrap();
    let kill = |cell: &mut Cell, tasks: &[u32]| {
        cell.kill("ann", "ann/room", tasks).map_err(|refused| refused.to_string())
    };
    let in_use = "alloc set ann/room has tasks of job ann/server in it: kill those first";
    assert_eq!(kill(&mut cell, &[]).unwrap_err(), in_use);
    assert_eq!(kill(&mut cell, &[0]).unwrap_err(), in_use);
    assert_eq!(kill(&mut cell, &[1]), Ok(1), "no task belongs there");
    cell.kill("ann", "ann/server", &[]).unwrap();
    assert_eq!(kill(&mut cell, &[]), Ok(1));
    assert!(cell.state.job(set).unwrap().tenants.is_empty());
    // A set of the same name has nothing to do with jobs of the one before it.
    cell.submit("ann", alloc_set("room", 1, 600, 32 * MIB));
    assert_eq!(cell.state.alloc_set_of(cell.state.job(server).unwrap()), None);
}

#[test]
fn an_alloc_set_that_never_begins_takes_the_jobs_in_it_along() {
    let mut cell = Cell::new();
    cell.submit("ann", batch("first", 1, 100, 4 * MIB));
    let after = vec!["ann/first".parse().unwrap()];
    let set = JobSpec { after, ..alloc_set("room", 1, 600, 32 * MIB) };
    let set = cell.submit("ann", set);
    let server = cell.submit("ann", within(service("server", 1, 400, 16 * MIB), "ann/room"));
    cell.kill("ann", "ann/first", &[]).unwrap();
    let note = |job| cell.state.job(job).unwrap().note(&cell.state);
    assert_eq!(note(set), "job ann/first did not finish");
    assert_eq!(note(server), "job ann/room did not finish");
}

#[test]
fn the_last_alloc_of_a_set_does_not_go_while_a_job_is_in_it() {
    let mut cell = Cell::new();
    cell.submit("ann", alloc_set("room", 2, 600, 32 * MIB));
    cell.submit("ann", within(service("server", 3, 400, 16 * MIB), "ann/room"));
    cell.kill("ann", "ann/server", &[0, 1]).unwrap();
    assert_eq!(cell.kill("ann", "ann/room", &[0]), Ok(1), "no task belongs there any more");
    assert_eq!(
        cell.kill("ann", "ann/room", &[1, 0]).unwrap_err().to_string(),
        "alloc set ann/room has tasks of job ann/server in it: kill those first"
    );
}

/// Its alloc is paid for already.
#[test]
fn a_job_in_an_alloc_set_needs_no_quota_of_its_own() {
    let (mut cell, ..) = cell();
    let level = borg_proto::command::LEVEL;
    cell.apply(crate::fixture::master(), Action::RaiseLevel { level }).unwrap();
    let bands = vec![borg_proto::Band::Batch];
    cell.apply(user("admin"), Action::EnforceQuota { bands, on: true }).unwrap();
    cell.try_submit("ann", batch("alone", 1, 100, 4 * MIB)).unwrap_err();
    cell.submit("ann", within(batch("saver", 1, 100, 4 * MIB), "ann/room"));
}

#[test]
fn a_machine_that_shrinks_sheds_allocs_whole() {
    let (mut cell, set, [m1, _], _) = cell();
    let server = cell.submit("ann", within(service("server", 1, 400, 16 * MIB), "ann/room"));
    cell.place(server, 0, m1).unwrap();
    cell.observe(Observation::MachineUp { machine: m1, info: info(500, 64 * MIB, &[]) });
    assert!(!is_placed(&cell, set, 0) && !is_placed(&cell, server, 0));
}
