//! What a simulated cell lends, and that prod never pays for it.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::state::CellState;
use borg_proto::command::Action;
use borg_proto::reclamation::Number;
use borg_proto::task::EvictCause;
use borg_proto::{FailureCause, Millis, TaskId};
use borg_sim::usage::Model;
use borg_sim::{World, job};

const MINUTE: Millis = Millis(60_000);

/// A cell that lends at once what is not used: a hold and a fall of the usual length are hours.
fn hasty_cell(machines: usize) -> World {
    let mut world = World::seeded(0x1e4d).machines(machines).build();
    world.journal_mut().keep_lines();
    let numbers = [(Number::Hold, 0), (Number::Decay, 1_000)].into();
    world.change(true, Action::SetReclamation { named: None, numbers }).unwrap();
    world
}

fn same(share: u64) -> Model {
    Model::Constant { share }
}

fn placed(state: &CellState, job: &borg_sim::world::Submitted) -> usize {
    let id = state.job_named(&job.key).unwrap().id;
    state.tasks_of(id).filter(|(_, task)| task.placement().is_some()).count()
}

/// Two machines of four cores: prod holds all of them and uses a quarter.
#[test]
fn work_runs_on_what_prod_holds_and_does_not_use_also_after_the_leader_died() {
    let mut world = hasty_cell(2);
    let web = job("web").tasks(2).prod().limit(4_000, 3_000).spread("machine", 1);
    let web = world.submit(web.uses(same(250), same(250)));
    world.run_until_acknowledged(&web).unwrap();
    world.run_until("web is up", MINUTE, |world| world.running(&web) == 2);
    let count = job("count").tasks(4).limit(1_000, 500).uses(same(500), same(500));
    let count = world.submit(count);
    world.run_until_acknowledged(&count).unwrap();
    assert_eq!(placed(world.state(), &count), 0);
    world.run_until("count runs on lent room", Millis(10 * MINUTE.0), |world| {
        world.running(&count) == 4
    });
    world.crash(world.leader().unwrap());
    world.run_for(Millis(10 * MINUTE.0));
    world.check_all();
    assert_eq!((world.running(&web), world.running(&count)), (2, 4), "nobody had to go for it");
}

/// What is lent is in no log: whoever takes the decisions again has it from what was recorded alone.
#[test]
fn decisions_on_lent_room_are_taken_again_from_what_was_recorded() {
    let mut world = hasty_cell(2);
    let web = job("web").tasks(2).prod().limit(4_000, 3_000).spread("machine", 1);
    let web = world.submit(web.uses(same(250), same(250)));
    world.run_until_acknowledged(&web).unwrap();
    let count = job("count").tasks(4).limit(1_000, 500).uses(same(500), same(500));
    let count = world.submit(count);
    world.run_until("count runs on lent room", Millis(10 * MINUTE.0), |world| {
        world.running(&count) == 4
    });
    assert_eq!(world.decided_otherwise(), None);
    let (passes, decisions) = world.decided_again().unwrap();
    assert!(passes > 20 && decisions >= 6, "{decisions} decisions in {passes} passes");
}

/// Prod wants its memory back: others are ended by their machine, prod is not.
#[test]
fn when_prod_uses_its_memory_after_all_others_go_and_prod_stays() {
    let mut world = hasty_cell(1);
    // After some minutes of little it uses all.
    let grows = Model::Diurnal { low: 100, high: 1_000, period: Millis(60 * MINUTE.0) };
    let web = world.submit(job("web").prod().limit(1_000, 4_000).uses(same(250), grows));
    world.run_until_acknowledged(&web).unwrap();
    world.run_until("web is up", MINUTE, |world| world.running(&web) == 1);
    let before = world.processes();
    let count = job("count").tasks(8).limit(100, 400).uses(same(500), same(1_000));
    let count = world.submit(count);
    world.run_until_acknowledged(&count).unwrap();
    let mut most = 0;
    let mut gone = false;
    for _ in 0..120 {
        world.run_for(MINUTE);
        world.check_all();
        most = most.max(placed(world.state(), &count));
        let id = world.state().job_named(&count.key).unwrap().id;
        gone |= (0..8).any(|index| {
            let task = world.state().task(TaskId { job: id, index }).unwrap();
            matches!(task.last_failure, Some(FailureCause::Short { .. }))
                || task.last_evict == Some(EvictCause::Reclaimed)
        });
    }
    assert!(most > 0, "some ran while prod used little");
    assert!(gone, "and had to go");
    let still = before.iter().all(|(id, pid)| world.processes().get(id) == Some(pid));
    assert!(still, "prod runs on");
}
