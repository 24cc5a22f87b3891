use super::*;
use crate::fixture::{Cell, alloc_set, info, master, service, user, within};
use crate::rejection::Rejection;
use crate::state::CellState;
use borg_proto::command::{Action, AllocSize, DataOrder, Observation};
use borg_proto::task::{EvictCause, TaskState};
use std::num::NonZeroU64;

const MIB: u64 = 1 << 20;
const HOUR: u64 = 3_600_000;

/// A set that keeps data for an hour.
pub(in crate::state) fn keeping(name: &str, allocs: u32) -> JobSpec {
    JobSpec { keep_data_ms: Some(Millis(HOUR)), ..alloc_set(name, allocs, 500, 16 * MIB) }
}

/// Two machines, and a set of two allocs that keeps data, the first of which is on the first machine with a server
/// in it.
fn cell() -> (Cell, JobId, [MachineId; 2], IncarnationId) {
    let mut cell = Cell::at_level(6);
    let machines = ["m-1", "m-2"].map(|name| cell.machine(name, 2000, 64 * MIB));
    let set = cell.submit("ann", keeping("room", 2));
    let first = cell.place(set, 0, machines[0]).unwrap();
    let server = cell.submit("ann", within(service("server", 2, 100, 4 * MIB), "ann/room"));
    let id = cell.place(server, 0, machines[0]).unwrap();
    cell.up(id);
    (cell, set, machines, first)
}

fn told(cell: &Cell) -> Vec<(u64, IncarnationId, MachineId, Option<u64>)> {
    let one = |kept: &Kept| (kept.number, kept.alloc, kept.machine, kept.bytes);
    cell.state.kept().map(one).collect()
}

fn down(cell: &mut Cell, machine: MachineId) {
    cell.observe(Observation::MachineDown { machine });
}

fn order(cell: &mut Cell, by: &str, alloc: &str, order: DataOrder) -> Result<(), Rejection> {
    let alloc = alloc.parse().unwrap();
    cell.apply(user(by), Action::RescueData { alloc, number: None, order }).map(|_| ())
}

#[test]
fn an_alloc_that_leaves_leaves_its_data_for_as_long_as_its_set_says() {
    let (mut cell, _, [m1, m2], first) = cell();
    assert_eq!(told(&cell), []);
    down(&mut cell, m1);
    assert_eq!(told(&cell), [(1, first, m1, None)]);
    cell.observe(Observation::MachineUp { machine: m1, info: info(2000, 64 * MIB, &[]) });
    cell.observe(Observation::DataAtRest { machine: m2, alloc: first, bytes: 7 });
    assert_eq!(told(&cell), [(1, first, m1, None)], "another machine knows nothing of it");
    cell.observe(Observation::DataAtRest { machine: m1, alloc: first, bytes: 7 });
    cell.observe(Observation::DataAtRest { machine: m1, alloc: first, bytes: 9 });
    assert_eq!(told(&cell), [(1, first, m1, Some(7))]);
    let until = cell.state.kept_data(1).unwrap().until;
    assert_eq!(cell.state.next_alarm(), Some(until));
    cell.wait(HOUR - 10);
    cell.apply(master(), Action::Advance).unwrap();
    assert_eq!(told(&cell).len(), 1);
    cell.wait(10);
    let events = cell.apply(master(), Action::Advance).unwrap().events;
    assert_eq!(told(&cell), []);
    let (kind, subject, detail) = events[0].describe(&cell.state);
    assert_eq!((&*kind, &*subject), ("data.gone", "ann/room/0"));
    assert_eq!(detail, "on m-1; its time is over");
}

#[test]
fn sets_that_keep_nothing_leave_nothing_and_nor_does_what_stays() {
    let mut cell = Cell::at_level(6);
    let machine = cell.machine("m-1", 2000, 64 * MIB);
    let plain = cell.submit("ann", alloc_set("plain", 1, 500, 16 * MIB));
    let set = cell.submit("ann", keeping("room", 1));
    for set in [plain, set] {
        cell.place(set, 0, machine).unwrap();
    }
    // Stopped and started, resized where it is: the alloc stays, and its directory with it.
    let server = cell.submit("ann", within(service("server", 1, 100, 4 * MIB), "ann/room"));
    cell.place(server, 0, machine).unwrap();
    let job = "ann/server".parse().unwrap();
    cell.apply(user("ann"), Action::StopTasks { job, tasks: None }).unwrap();
    let there = cell.state.sharing_on(machine).collect::<Vec<_>>();
    let job = "ann/server".parse().unwrap();
    cell.apply(user("ann"), Action::StartTasks { job, tasks: None }).unwrap();
    cell.place(server, 0, machine).unwrap();
    let size = AllocSize { cpu_milli: Some(700), ..AllocSize::default() };
    let resize =
        Action::ResizeAllocs { alloc_set: "ann/room".parse().unwrap(), allocs: None, size };
    cell.apply(user("ann"), resize).unwrap();
    assert_eq!(cell.state.sharing_on(machine).collect::<Vec<_>>(), there);
    assert_eq!(told(&cell), []);
    down(&mut cell, machine);
    assert_eq!(told(&cell).len(), 1, "only of the set that says so");
}

#[test]
fn a_resize_that_moves_an_alloc_and_the_end_of_its_set_leave_data_too() {
    let (mut cell, set, [m1, m2], first) = cell();
    cell.submit("bob", service("other", 1, 1000, 4 * MIB));
    let other = cell.state.job_named(&"bob/other".parse().unwrap()).unwrap().id;
    cell.place(other, 0, m1).unwrap();
    let size = AllocSize { cpu_milli: Some(1500), ..AllocSize::default() };
    let resize =
        Action::ResizeAllocs { alloc_set: "ann/room".parse().unwrap(), allocs: None, size };
    cell.apply(user("ann"), resize).unwrap();
    let task = cell.state.task(first.task).unwrap();
    assert_eq!(task.last_evict, Some(EvictCause::Resized));
    assert_eq!(told(&cell), [(1, first, m1, None)]);
    // Server and alloc move together.
    let second = cell.place(set, 0, m2).unwrap();
    let server = cell.state.job_named(&"ann/server".parse().unwrap()).unwrap().id;
    assert!(matches!(
        cell.state.task(TaskId { job: server, index: 0 }).unwrap().state,
        TaskState::Pending { .. }
    ));
    cell.place(server, 0, m2).unwrap();
    cell.kill("ann", "ann/server", &[]).unwrap();
    cell.kill("ann", "ann/room", &[]).unwrap();
    assert_eq!(told(&cell), [(1, first, m1, None), (2, second, m2, None)]);
    assert_eq!(cell.state.audit(), []);
    let back = CellState::decode(&cell.state.encode()).unwrap();
    assert_eq!(back, cell.state);
}

#[test]
fn what_a_machine_no_longer_has_and_a_machine_that_leaves_are_told() {
    let (mut cell, set, [m1, m2], first) = cell();
    down(&mut cell, m1);
    let events = cell.observe(Observation::DataGone { machine: m1, alloc: first, why: "x".into() });
    assert_eq!(events[0].describe(&cell.state).2, "on m-1; x");
    assert_eq!(told(&cell), []);
    let second = cell.place(set, 0, m2).unwrap();
    let machine = "m-2".parse().unwrap();
    let events = cell.apply(user("admin"), Action::RemoveMachine { machine }).unwrap().events;
    assert_eq!(told(&cell), [], "{second} leaves nothing on a machine that is no more");
    let gone = events.iter().any(|event| {
        matches!(&event.kind, EventKind::DataChanged { change: DataChange::Gone { why }, .. }
            if why == "its machine was removed")
    });
    assert!(gone);
}

#[test]
fn only_its_owner_and_admin_drop_data_and_nothing_cannot_be_dropped() {
    let (mut cell, _, [m1, _], _) = cell();
    let refused = |done: Result<(), Rejection>| done.unwrap_err().to_string();
    let none = order(&mut cell, "ann", "ann/room/0", DataOrder::Drop);
    assert_eq!(
        refused(none),
        "nothing is kept of alloc ann/room/0: borgctl rescue shows what is kept"
    );
    down(&mut cell, m1);
    let others = order(&mut cell, "bob", "ann/room/0", DataOrder::Drop);
    assert_eq!(refused(others), "user bob is neither the owner of ann/room nor admin");
    let now = order(&mut cell, "ann", "ann/room/0", DataOrder::Rescue);
    assert_eq!(refused(now), "machine m-1 is down");
    let alloc = "ann/room/0".parse().unwrap();
    let (number, drop) = (NonZeroU64::new(9), DataOrder::Drop);
    let wrong = cell.apply(user("ann"), Action::RescueData { alloc, number, order: drop });
    assert!(wrong.unwrap_err().to_string().starts_with("nothing is kept"));
    order(&mut cell, "admin", "ann/room/0", DataOrder::Drop).unwrap();
    assert_eq!(told(&cell), []);
}

#[test]
fn a_machine_keeps_so_much_at_most_and_the_oldest_goes_first() {
    let mut cell = Cell::at_level(6);
    let machine = cell.machine("m-1", 2000, 64 * MIB);
    let set = cell.submit("ann", keeping("room", 1));
    for _ in 0..MAX_KEPT_ON_A_MACHINE + 2 {
        cell.place(set, 0, machine).unwrap();
        down(&mut cell, machine);
        cell.observe(Observation::MachineUp { machine, info: info(2000, 64 * MIB, &[]) });
    }
    let numbers: Vec<u64> = cell.state.kept().map(|kept| kept.number).collect();
    assert_eq!(numbers, (3..=102).collect::<Vec<u64>>());
    assert_eq!(cell.state.audit(), []);
}
