//! Cells whose masters are all lost and that go on from a backup (I29).

use borg_proto::{IncarnationId, MachineName, Millis};
use borg_sim::job;
use borg_sim::world::World;
use std::collections::BTreeMap;

/// How long machines keep what the backup does not know.
const SPARE: Millis = Millis(60_000);
const HALF_A_MINUTE: Millis = Millis(30_000);
/// Longest time until everything is as the restored cell wants it: what is spared is ended then, and
/// placed again.
const SETTLES: Millis = Millis(180_000);

/// Those of some processes that are not among others.
fn missing(
    before: &BTreeMap<(IncarnationId, MachineName), u32>,
    after: &BTreeMap<(IncarnationId, MachineName), u32>,
) -> Vec<(IncarnationId, MachineName)> {
    let gone = before.iter().filter(|(place, pid)| after.get(*place) != Some(*pid));
    gone.map(|(place, _)| place.clone()).collect()
}

#[test]
fn a_restored_cell_has_a_new_epoch_and_ends_nothing_while_it_hears_its_machines_out() {
    let mut world = World::seeded(0x5eed).machines(8).build();
    world.journal_mut().keep_lines();
    let web = world.submit(job("web").tasks(10).prod());
    world.run_until_acknowledged(&web).unwrap();
    world.run_until("web is up", HALF_A_MINUTE, |world| world.running(&web) == 10);
    let backup = world.state().clone();

    let late = world.submit(job("late").tasks(5));
    world.run_until_acknowledged(&late).unwrap();
    world.run_until("late is up", HALF_A_MINUTE, |world| world.running(&late) == 5);
    let before = world.processes();
    let (epoch, applied) = (world.state().epoch(), world.state().applied());
    assert_eq!(before.len(), 15);

    world.restore(&backup, SPARE);
    assert_eq!(world.state().epoch(), epoch + 1);
    assert!(world.state().applied() < applied, "what came after the backup is not known any more");
    // Longer than it takes to elect a leader and to hear from all machines.
    world.run_for(Millis(SPARE.0 - 5_000));
    world.check_all();
    assert_eq!(missing(&before, &world.processes()), []);
    assert!(world.job(&late).is_none());

    world.run_until("all is settled", SETTLES, |world| world.unsettled().is_none());
    let web_processes: BTreeMap<_, _> = {
        let id = world.job(&web).unwrap().id;
        before.into_iter().filter(|((incarnation, _), _)| incarnation.task.job == id).collect()
    };
    assert_eq!(world.processes(), web_processes, "late is unknown, and its time is over");
    // Its name is free.
    let again = world.submit(job("late").tasks(5));
    world.run_until_acknowledged(&again).unwrap();
    world.run_until("late is up again", HALF_A_MINUTE, |world| world.running(&again) == 5);
    world.check_all();
}
