use crate::fixture::{Cell, alloc_set, batch, info, master, service, user, with_task};
use crate::rejection::Rejection;
use borg_proto::command::{
    Action, Assignment, LEVEL, Observation, REMEMBERS_SINCE, SERVICES_SINCE,
};
use borg_proto::reclamation::{Amounts, Number, NumberSet};
use borg_proto::task::EvictCause;
use borg_proto::{Band, IncarnationId, JobId, JobSpec, MachineId, Privilege, TaskId};

const MIB: u64 = 1 << 20;

/// A cell in which rooms may be lent, and a machine of one core.
fn cell() -> (Cell, MachineId) {
    let mut cell = Cell::new();
    cell.apply(master(), Action::RaiseLevel { level: LEVEL }).unwrap();
    let machine = cell.machine("m-1", 1_000, 1_000 * MIB);
    (cell, machine)
}

fn prod(name: &str, tasks: u32, cpu_milli: u64) -> JobSpec {
    let priority = Band::Production.default_priority();
    JobSpec { priority, ..service(name, tasks, cpu_milli, 10 * MIB) }
}

/// Places one task, for which the leader believes that so much processor time is lent.
fn place(
    cell: &mut Cell,
    (job, index): (JobId, u32),
    machine: MachineId,
    lent: u64,
    victims: &[IncarnationId],
) -> Result<IncarnationId, Rejection> {
    let lent = Amounts::of([lent, 0, 0]);
    let task = TaskId { job, index };
    let one = Assignment { lent, victims: victims.to_vec(), ..Assignment::new(task, machine) };
    let applied = cell.apply(master(), Action::Place { assignments: vec![one] })?;
    assert_eq!(cell.state.audit(), []);
    let crate::state::Answer::Placed { mut results } = applied.answer else { panic!("placed") };
    results.remove(0)
}

fn said<T: std::fmt::Debug>(result: Result<T, Rejection>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn what_is_not_prod_stands_on_lent_room_and_prod_never_does() {
    let (mut cell, machine) = cell();
    let web = cell.submit("ann", prod("web", 2, 800));
    let count = cell.submit("bob", batch("count", 3, 600, 10 * MIB));
    place(&mut cell, (web, 0), machine, 0, &[]).unwrap();
    let full = "machine m-1 has 200 m CPU free, task asks 600 m";
    assert_eq!(said(place(&mut cell, (count, 0), machine, 0, &[])), full);
    assert_eq!(
        said(place(&mut cell, (count, 0), machine, 399, &[])),
        "machine m-1 has 599 m CPU free, task asks 600 m"
    );
    place(&mut cell, (count, 0), machine, 400, &[]).unwrap();
    let used = &cell.state.machine(machine).unwrap().used;
    assert_eq!(used.cpu_milli, 1_400);
    let more = said(place(&mut cell, (web, 1), machine, 9_000, &[]));
    assert_eq!(more, "machine m-1 has 200 m CPU free, task asks 800 m", "by prod's limits alone");
}

#[test]
fn whatever_the_leader_believes_others_stay_within_the_bound_of_the_cell() {
    let (mut cell, machine) = cell();
    let count = cell.submit("bob", batch("count", 5, 500, 10 * MIB));
    let most = Action::SetReclamation {
        named: Some(NumberSet::Medium),
        numbers: [(Number::Most, 150)].into(),
    };
    cell.apply(user("admin"), most).unwrap();
    for index in 0..3 {
        place(&mut cell, (count, index), machine, u64::MAX, &[]).unwrap();
    }
    let refused = said(place(&mut cell, (count, 3), machine, u64::MAX, &[]));
    assert_eq!(refused, "machine m-1 has 0 m CPU free, task asks 500 m");
}

#[test]
fn prod_gets_its_own_room_back_from_whoever_stands_on_it_and_no_more() {
    let (mut cell, machine) = cell();
    let web = cell.submit("ann", prod("web", 2, 500));
    let count = cell.submit("bob", batch("count", 2, 450, 10 * MIB));
    place(&mut cell, (web, 0), machine, 0, &[]).unwrap();
    let first = place(&mut cell, (count, 0), machine, 0, &[]).unwrap();
    let second = place(&mut cell, (count, 1), machine, 400, &[]).unwrap();
    let short = said(place(&mut cell, (web, 1), machine, 400, &[]));
    assert_eq!(short, "machine m-1 has 0 m CPU free, task asks 500 m");
    place(&mut cell, (web, 1), machine, 400, &[second, first]).unwrap();
    let waits =
        |index| cell.state.task(TaskId { job: count, index }).unwrap().placement().is_none();
    assert_eq!([0, 1].map(waits), [true, true], "by limits 900 m are gone, of which 400 are lent");
    assert_eq!(cell.state.machine(machine).unwrap().used.cpu_milli, 1_000);
}

#[test]
fn nothing_is_lent_below_the_level_nor_when_the_cell_said_so() {
    let mut old = Cell::new();
    let machine = old.machine("m-1", 1_000, 1_000 * MIB);
    let count = old.submit("bob", batch("count", 2, 600, 10 * MIB));
    place(&mut old, (count, 0), machine, 600, &[]).unwrap();
    place(&mut old, (count, 1), machine, 600, &[]).unwrap_err();
    assert!(!old.state.lends());

    let (mut cell, machine) = cell();
    let count = cell.submit("bob", batch("count", 3, 600, 10 * MIB));
    place(&mut cell, (count, 0), machine, 600, &[]).unwrap();
    place(&mut cell, (count, 1), machine, 600, &[]).unwrap();
    let off = Action::SetReclamation { named: Some(NumberSet::Off), numbers: [].into() };
    assert_eq!(
        said(cell.apply(user("ann"), off.clone())),
        "user ann may not set how much is lent: that needs admin"
    );
    assert_eq!(cell.apply(user("admin"), off.clone()).unwrap().events.len(), 1);
    assert_eq!(cell.apply(user("admin"), off).unwrap().events, [], "as it is already");
    assert_eq!(cell.state.audit(), [], "what runs stays");
    place(&mut cell, (count, 2), machine, 600, &[]).unwrap_err();
}

#[test]
fn the_leader_takes_lent_room_back_from_others_than_prod_only() {
    let (mut cell, machine) = cell();
    let web = cell.submit("ann", prod("web", 1, 800));
    let count = cell.submit("bob", batch("count", 1, 600, 10 * MIB));
    let ids = [web, count].map(|job| place(&mut cell, (job, 0), machine, 600, &[]).unwrap());
    for id in ids {
        cell.observe(Observation::TaskReclaimed { id });
    }
    let cause = |id: IncarnationId| cell.state.task(id.task).unwrap().last_evict.clone();
    assert_eq!(ids.map(cause), [None, Some(EvictCause::Reclaimed)]);
    let stale = ids[1];
    place(&mut cell, (count, 0), machine, 600, &[]).unwrap();
    assert_eq!(cell.observe(Observation::TaskReclaimed { id: stale }), [], "an older incarnation");
}

/// As long as it was: a machine that shrinks is no reason to lend less.
#[test]
fn a_machine_that_shrinks_stays_as_overdrawn_as_it_was() {
    let (mut cell, machine) = cell();
    let web = cell.submit("ann", prod("web", 1, 500));
    let count = cell.submit("bob", batch("count", 4, 200, 10 * MIB));
    place(&mut cell, (web, 0), machine, 0, &[]).unwrap();
    for index in 0..4 {
        place(&mut cell, (count, index), machine, 300, &[]).unwrap();
    }
    cell.observe(Observation::MachineUp { machine, info: info(800, 1_000 * MIB, &[]) });
    assert_eq!(cell.state.audit(), []);
    assert_eq!(cell.state.machine(machine).unwrap().used.cpu_milli, 1_100);
    cell.observe(Observation::MachineUp { machine, info: info(400, 1_000 * MIB, &[]) });
    assert_eq!(cell.state.audit(), []);
    assert_eq!(cell.state.machine(machine).unwrap().used.cpu_milli, 0, "prod does not fit either");
}

#[test]
fn an_alloc_of_prod_grows_into_its_own_room_though_others_stand_on_it() {
    let (mut cell, machine) = cell();
    let set = JobSpec {
        priority: Band::Production.default_priority(),
        ..alloc_set("room", 1, 600, 10 * MIB)
    };
    let set = cell.submit("ann", set);
    let count = cell.submit("bob", batch("count", 1, 600, 10 * MIB));
    place(&mut cell, (set, 0), machine, 0, &[]).unwrap();
    place(&mut cell, (count, 0), machine, 500, &[]).unwrap();
    let grow = |cpu_milli| Action::ResizeAllocs {
        alloc_set: "ann/room".parse().unwrap(),
        allocs: None,
        size: borg_proto::command::AllocSize { cpu_milli: Some(cpu_milli), ..Default::default() },
    };
    cell.apply(user("ann"), grow(900)).unwrap();
    assert_eq!(cell.state.audit(), []);
    assert!(cell.state.task(TaskId { job: set, index: 0 }).unwrap().placement().is_some());
    assert_eq!(cell.state.machine(machine).unwrap().used.cpu_milli, 1_500);
}

#[test]
fn to_keep_the_whole_limit_reserved_is_a_privilege() {
    let (mut cell, _) = cell();
    let kept = |name: &str| with_task(prod(name, 1, 100), |task| task.reclaim = false);
    assert_eq!(
        said(cell.try_submit("ann", kept("web"))),
        "task.reclaim: reservation needs the privilege reservation, which user ann does not hold. Ask an \
         admin for: borgctl privilege grant ann reservation"
    );
    let privilege = Privilege::Reservation;
    let grant = Action::GrantPrivilege { user: "ann".parse().unwrap(), privilege };
    assert_eq!(grant.level(), SERVICES_SINCE, "older masters do not know it");
    cell.apply(user("admin"), grant).unwrap();
    cell.submit("ann", kept("web"));
    cell.submit("admin", kept("own"));
}

#[test]
fn what_was_decided_is_in_a_checkpoint() {
    let (mut cell, machine) = cell();
    let count = cell.submit("bob", batch("count", 2, 600, 10 * MIB));
    for index in 0..2 {
        place(&mut cell, (count, index), machine, 600, &[]).unwrap();
    }
    let numbers = [(Number::Margin, 15), (Number::Hold, 60)].into();
    let set = Action::SetReclamation { named: Some(NumberSet::Aggressive), numbers };
    cell.apply(user("admin"), set).unwrap();
    let back = crate::state::CellState::decode(&cell.state.encode()).unwrap();
    assert_eq!(back, cell.state);
    assert_eq!(back.reclaims().to_string(), "aggressive hold-s=60 margin-percent=15");
}

#[test]
fn what_masters_of_level_6_do_not_know_is_proposed_and_written_by_newer_ones_alone() {
    let (mut cell, _) = cell();
    let said = |cell: &Cell| {
        let bytes = cell.state.encode();
        bytes.windows(10).any(|part| part == b"remember-h")
    };
    let set = |named, numbers: &[(Number, u32)]| {
        let numbers = numbers.iter().copied().collect();
        Action::SetReclamation { named: Some(named), numbers }
    };
    for (named, remember, shown) in [
        (NumberSet::Daily, None, "daily"),
        (NumberSet::Daily, Some(0), "daily remember-h=0"),
        (NumberSet::Medium, Some(12), "medium remember-h=12"),
        (NumberSet::Medium, None, "medium"),
    ] {
        let numbers: Vec<_> = remember.map(|hours| (Number::Remember, hours)).into_iter().collect();
        let action = set(named, &numbers);
        let new = named == NumberSet::Daily || remember.is_some();
        assert_eq!(action.level(), if new { REMEMBERS_SINCE } else { SERVICES_SINCE });
        cell.apply(user("admin"), action).unwrap();
        assert_eq!(cell.state.reclaims().to_string(), shown);
        assert_eq!(said(&cell), remember.is_some(), "{shown}");
        let back = crate::state::CellState::decode(&cell.state.encode()).unwrap();
        assert_eq!(back, cell.state);
    }
}
