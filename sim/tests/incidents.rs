//! Incidents, each told from its beginning to what must be so at its end.

use borg_cell::state::JobState;
use borg_proto::Millis;
use borg_sim::disk::Rot;
use borg_sim::marks::Mark;
use borg_sim::world::{ClockJump, Submitted, World};
use borg_sim::{Fault, Play, job};

const HALF_A_MINUTE: Millis = Millis(30_000);

/// A cell of five masters with a service of so many tasks, all up.
fn cell_with_web(machines: usize, tasks: u32) -> (World, Submitted) {
    let mut world = World::seeded(0x5eed).replicas(5).machines(machines).build();
    world.journal_mut().keep_lines();
    let web = world.submit(job("web").tasks(tasks).prod());
    world.run_until_acknowledged(&web).expect("the cell is empty");
    world.run_until("all tasks of web are up", HALF_A_MINUTE, |world| world.running(&web) == tasks);
    (world, web)
}

#[test]
fn acknowledged_job_survives_the_crash_of_its_leader() {
    let mut world = World::seeded(0x5eed).replicas(5).machines(20).build();
    let web = world.submit(job("web").tasks(10).prod());
    world.run_until_acknowledged(&web).unwrap();
    world.crash(world.leader().unwrap());
    world.run_for(HALF_A_MINUTE);
    world.check_all();
    assert_eq!(world.running(&web), 10);
}

#[test]
fn a_job_is_acknowledged_again_within_two_seconds_after_the_leader_died() {
    let (mut world, _) = cell_with_web(5, 3);
    world.crash(world.leader().unwrap());
    let after = world.submit(job("after"));
    let died = world.now();
    world.run_until_acknowledged(&after).unwrap();
    assert!(world.now().since(died) < Millis(4_000), "{}", world.now().since(died));
}

#[test]
fn two_masters_of_five_may_die_and_with_three_gone_nothing_changes() {
    let (mut world, web) = cell_with_web(6, 6);
    world.crash(0);
    world.crash(1);
    let more = world.submit(job("more").tasks(2));
    world.run_until_acknowledged(&more).unwrap();
    world.crash(2);
    world.run_for(Millis(1_000));
    let (before, processes) = (world.state().applied(), world.processes());
    let lost = world.submit(job("lost"));
    world.run_for(Millis(60_000));
    world.check_all();
    assert_eq!((world.state().applied(), world.processes()), (before, processes));
    world.restart(1);
    world.run_until_acknowledged(&lost).unwrap();
    assert_eq!(world.running(&web), 6);
}

#[test]
fn no_task_restarts_when_all_masters_restart() {
    let (mut world, _) = cell_with_web(8, 20);
    let before = world.processes();
    for master in 0..5 {
        world.crash(master);
    }
    world.run_for(Millis(600_000));
    assert_eq!(world.processes(), before, "ten minutes without a master");
    for master in 0..5 {
        world.restart(master);
    }
    world.run_until_settled();
    world.run_for(HALF_A_MINUTE);
    world.check_all();
    assert_eq!(world.processes(), before);
}

#[test]
fn no_task_restarts_when_borglets_restart() {
    let (mut world, _) = cell_with_web(4, 12);
    let before = world.processes();
    for machine in 0..4 {
        world.kill_borglet(machine);
        world.run_for(Millis(2_000));
        world.restart_borglet(machine);
    }
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.processes(), before);
    assert!(world.marks().count(Mark::BorgletAdopted) >= 4);
}

#[test]
fn a_leader_that_was_left_behind_orders_nothing_when_it_is_back() {
    let (mut world, web) = cell_with_web(6, 12);
    let stale = world.leader().unwrap();
    world.inflict(Fault::PauseMaster(stale));
    world.run_until("another master leads", HALF_A_MINUTE, |world| {
        world.leader().is_some_and(|leader| leader != stale)
    });
    let gone = world.kill(&web.key);
    world.run_until_acknowledged(&gone).unwrap();
    world.end_fault(Fault::PauseMaster(stale));
    world.run_until_settled();
    world.run_for(Millis(10_000));
    world.check_all();
    assert!(world.processes().is_empty(), "nothing of web is started again");
}

#[test]
fn an_isolated_leader_acknowledges_nothing_and_the_rest_goes_on() {
    let (mut world, web) = cell_with_web(6, 6);
    let before = world.processes();
    let isolated = world.leader().unwrap();
    world.inflict(Fault::IsolateMaster(isolated));
    let next = world.submit(job("next").tasks(2));
    world.run_until_acknowledged(&next).unwrap();
    assert_ne!(world.leader(), Some(isolated));
    world.end_fault(Fault::IsolateMaster(isolated));
    world.run_until_settled();
    assert_eq!(world.running(&web), 6);
    let after = world.processes();
    assert!(before.iter().all(|process| after.get(process.0) == Some(process.1)));
}

/// The machine is silent for long enough that its tasks are placed elsewhere. When it comes back,
/// the copies that it still runs end, and the new ones do not.
#[test]
fn after_a_partition_the_duplicate_alone_is_killed() {
    let (mut world, web) = cell_with_web(6, 6);
    let machine = world.place_of(&web, 0).unwrap();
    let job = world.job(&web).unwrap().id;
    world.inflict(Fault::CutMachine(machine));
    world.run_until("its tasks run elsewhere", HALF_A_MINUTE, |world| {
        world.place_of(&web, 0).is_some_and(|at| at != machine) && world.running(&web) == 6
    });
    let copies = world.processes_of(job);
    assert!(copies > 6, "the old copies run on: silence kills nothing");
    let elsewhere: Vec<_> = world
        .processes()
        .into_iter()
        .filter(|((id, _), _)| {
            let task = world.state().task(id.task).unwrap();
            task.running(id.task) == Some(*id)
        })
        .collect();
    world.end_fault(Fault::CutMachine(machine));
    let healed = world.now();
    world.run_until("one copy each", HALF_A_MINUTE, |world| world.processes_of(job) == 6);
    assert!(world.now().since(healed) < Millis(5_000), "{}", world.now().since(healed));
    world.run_until_settled();
    assert_eq!(world.processes().into_iter().collect::<Vec<_>>(), elsewhere);
}

#[test]
fn a_short_partition_moves_nothing() {
    let (mut world, web) = cell_with_web(6, 12);
    let before = world.processes();
    let machine = world.place_of(&web, 0).unwrap();
    world.inflict(Fault::CutMachine(machine));
    world.run_for(Millis(3_000));
    world.end_fault(Fault::CutMachine(machine));
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.processes(), before);
}

#[test]
fn when_many_machines_are_silent_at_once_nothing_is_placed_elsewhere() {
    let (mut world, _) = cell_with_web(12, 24);
    let before = world.processes();
    for machine in 0..8 {
        world.inflict(Fault::CutMachine(machine));
    }
    world.run_for(Millis(60_000));
    assert_eq!(world.marks().count(Mark::MachineDown), 0);
    for machine in 0..8 {
        world.end_fault(Fault::CutMachine(machine));
    }
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.processes(), before);
}

/// Found by seed 7: its borglet had obeyed a session of its old shard, newer than its new shard's.
#[test]
fn a_machine_that_was_removed_and_added_again_is_polled_again() {
    let (mut world, web) = cell_with_web(5, 10);
    for machine in 0..5 {
        world.inflict(Fault::RemoveMachine(machine));
        world.run_for(Millis(3_000));
    }
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.running(&web), 10);
}

#[test]
fn a_rebooted_machine_gets_its_tasks_again_once_each() {
    let (mut world, web) = cell_with_web(4, 8);
    let machine = world.place_of(&web, 0).unwrap();
    world.inflict(Fault::Reboot(machine));
    world.run_until("all are up again", Millis(60_000), |world| {
        world.running(&web) == 8 && world.processes().len() == 8
    });
    world.run_until_settled();
    world.check_all();
}

#[test]
fn a_job_that_starts_after_another_starts_when_that_has_finished() {
    let mut world = World::seeded(2).build();
    let count =
        world.submit(job("count").tasks(8).batch(0).plays(Play::Exit { after: 3_000, code: 0 }));
    let merge = world.submit(
        job("merge").batch(0).plays(Play::Exit { after: 500, code: 0 }).after(count.key.clone()),
    );
    world.run_until_acknowledged(&merge).unwrap();
    world.run_until("count runs", HALF_A_MINUTE, |world| world.running(&count) == 8);
    assert_eq!(world.job(&merge).unwrap().state(), JobState::Waiting);
    world.crash(world.leader().unwrap());
    world.run_until("merge has finished", HALF_A_MINUTE, |world| {
        world.job(&merge).is_some_and(|job| job.state() == JobState::Finished)
    });
    assert_eq!(world.job(&count).unwrap().state(), JobState::Finished);
}

#[test]
fn production_pushes_out_batch_and_batch_comes_back() {
    let mut world = World::seeded(3).machines(2).build();
    let batch = world.submit(job("batch").tasks(8).limit(1_000, 64));
    world.run_until_acknowledged(&batch).unwrap();
    world.run_until("batch fills the cell", HALF_A_MINUTE, |world| world.running(&batch) == 8);
    let prod = world.submit(job("prod").tasks(4).limit(1_000, 64).prod());
    world.run_until_acknowledged(&prod).unwrap();
    world.run_until("production runs", HALF_A_MINUTE, |world| world.running(&prod) == 4);
    world.run_until_settled();
    assert_eq!(world.running(&batch), 4);
    let gone = world.kill(&prod.key);
    world.run_until_acknowledged(&gone).unwrap();
    world.run_until("batch is back", HALF_A_MINUTE, |world| world.running(&batch) == 8);
    world.run_until_settled();
    world.check_all();
}

#[test]
fn a_master_that_dies_at_any_effect_of_a_turn_loses_nothing() {
    for effects in 0..12 {
        let (mut world, _) = cell_with_web(4, 2);
        let leader = world.leader().unwrap();
        world.inflict(Fault::CrashInTurn(leader, effects));
        let next = world.submit(job("next").tasks(3));
        world.run_until_acknowledged(&next).unwrap();
        world.run_until_settled();
        world.check_all();
        assert_eq!(world.running(&next), 3, "died after {effects} effects");
    }
}

#[test]
fn a_master_whose_disk_fails_stops_and_the_cell_goes_on() {
    let (mut world, web) = cell_with_web(4, 4);
    let leader = world.leader().unwrap();
    world.inflict(Fault::FailSync(leader));
    let next = world.submit(job("next"));
    world.run_until_acknowledged(&next).unwrap();
    assert!(world.marks().count(Mark::SyncFailed) > 0);
    world.run_until_settled();
    assert_eq!(world.running(&web), 4);
}

/// Reports and orders are lost at random; once the network is well, everybody knows everything.
#[test]
fn what_was_lost_on_its_way_is_told_again() {
    for seed in 0..30 {
        let mut world = World::seeded(seed).machines(6).build();
        world.run_until_settled();
        world.inflict(Fault::BadNetwork);
        for number in 0..3 {
            let play = Play::Exit { after: 700, code: 0 };
            let batch = job(&format!("batch{number}")).tasks(6).batch(3).plays(play);
            world.submit(batch);
            world.submit(job(&format!("service{number}")).tasks(2));
        }
        world.run_for(Millis(4_000));
        world.end_fault(Fault::BadNetwork);
        world.run_until_settled();
        world.run_for(Millis(6_000));
        world.check_all();
        assert_eq!(world.misread(), None, "seed {seed}");
    }
}

/// A bit flips on the disk of a master that is down: it finds that out, and does not vote. The others
/// go on, and so does the cell when another one dies.
#[test]
fn a_master_whose_disk_has_rotten_does_not_vote_and_the_cell_goes_on() {
    for rot in [Rot::Entry(500), Rot::Head] {
        let (mut world, web) = cell_with_web(4, 4);
        let leader = world.leader().unwrap();
        world.inflict(Fault::RotDisk(leader, rot));
        let next = world.submit(job("next"));
        world.run_until_acknowledged(&next).unwrap();
        world.run_for(Millis(2_000));
        assert!(world.marks().count(Mark::RotFound) > 0);
        world.crash(world.leader().unwrap());
        let more = world.submit(job("more"));
        world.run_until_acknowledged(&more).unwrap();
        world.run_until_settled();
        world.check_all();
        assert_eq!(world.running(&web), 4);
    }
}

#[test]
fn a_master_whose_disk_is_full_stops_and_is_back_when_there_is_room() {
    let (mut world, web) = cell_with_web(4, 4);
    let leader = world.leader().unwrap();
    world.inflict(Fault::FillDisk(leader));
    let next = world.submit(job("next"));
    world.run_until_acknowledged(&next).unwrap();
    assert!(world.marks().count(Mark::DiskFull) > 0);
    assert_ne!(world.leader(), Some(leader));
    world.end_fault(Fault::FillDisk(leader));
    world.run_for(Millis(3_000));
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.running(&web), 4);
}

/// Four of five lose their power amid their writes; what was acknowledged before is there after.
#[test]
fn what_was_acknowledged_survives_power_cuts_of_most_masters_at_once() {
    let (mut world, web) = cell_with_web(4, 4);
    for number in 0..12 {
        let next = world.submit(job(&format!("job{number}")));
        world.run_for(Millis(3 + number));
        world.inflict(Fault::PowerCut(0b11110 >> (number % 2)));
        world.run_until_acknowledged(&next).unwrap();
    }
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.running(&web), 4);
    for number in 0..12 {
        let key = web.key.to_string().replace("web", &format!("job{number}"));
        assert!(world.state().job_named(&key.parse().unwrap()).is_some(), "job{number}");
    }
}

/// Any three masters that reach each other elect one of them, whatever ways to the other two are
/// cut, one way or both.
#[test]
fn a_connected_majority_elects_whatever_else_is_cut() {
    let mut dice = borg_sim::dice::Dice::new(7);
    let (mut world, _) = cell_with_web(3, 1);
    for round in 0..60 {
        // The ways among masters 1 to 3 stay open: bits 0, 1 (from 1), 4, 5 (from 2), 8, 9 (from 3).
        let mask = u32::try_from(dice.below(1 << 20)).unwrap() & !0b11_0011_0011;
        world.inflict(Fault::CutEdges(mask));
        if let Some(leader) = world.leader() {
            world.crash(leader);
            world.run_for(Millis(50));
            world.restart(leader);
        }
        // The checker of elections looks meanwhile.
        world.run_for(Millis(4_000));
        assert!(
            world.violations().is_empty(),
            "round {round}, {mask:#b}: {:?}",
            world.violations()
        );
        world.end_fault(Fault::CutEdges(mask));
    }
    assert!(world.marks().count(Mark::ElectedInTime) > 0);
    world.run_until_settled();
    world.check_all();
}

#[test]
fn a_wall_clock_that_is_set_wrong_moves_no_task_and_no_timer() {
    let (mut world, _) = cell_with_web(5, 10);
    let before = world.processes();
    for jump in [ClockJump::TenYears, ClockJump::DayBack, ClockJump::By(-700)] {
        for master in 0..5 {
            world.inflict(Fault::SetMasterClock(master, jump));
            world.crash(master);
            world.run_for(Millis(1_500));
            world.restart(master);
        }
        for machine in 0..5 {
            world.inflict(Fault::SetMachineClock(machine, jump));
            world.kill_borglet(machine);
            world.run_for(Millis(500));
            world.restart_borglet(machine);
        }
        world.run_until_settled();
        assert_eq!(world.processes(), before, "{jump:?}");
    }
    let after = world.submit(job("after").tasks(2));
    world.run_until_acknowledged(&after).unwrap();
    world.run_until("it runs", HALF_A_MINUTE, |world| world.running(&after) == 2);
    world.check_all();
}

#[test]
fn a_borglet_that_stands_still_loses_no_task_but_to_silence() {
    let (mut world, web) = cell_with_web(6, 6);
    let before = world.processes();
    let machine = world.place_of(&web, 0).unwrap();
    world.inflict(Fault::PauseBorglet(machine));
    world.run_for(Millis(3_000));
    world.end_fault(Fault::PauseBorglet(machine));
    world.run_until_settled();
    assert_eq!(world.processes(), before, "a short pause moves nothing");
    world.inflict(Fault::PauseBorglet(machine));
    world.run_until("its tasks run elsewhere", HALF_A_MINUTE, |world| {
        world.place_of(&web, 0).is_some_and(|at| at != machine) && world.running(&web) == 6
    });
    world.end_fault(Fault::PauseBorglet(machine));
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.processes().len(), 6);
}

/// A link shard has no state: with its master it goes, and another one says all again (I12).
#[test]
fn losing_one_link_shard_after_the_other_kills_nothing_and_changes_nothing() {
    let (mut world, _) = cell_with_web(10, 20);
    let (before, entries) = (world.processes(), world.state().applied());
    let leader = world.leader().unwrap();
    for master in (0..5).filter(|master| *master != leader) {
        world.crash(master);
        world.run_for(Millis(6_000));
        world.restart(master);
        world.run_for(Millis(2_000));
    }
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.processes(), before);
    assert_eq!(world.state().applied(), entries, "the state of the cell did not change");
}

/// Found by seeds 18 and 19: the machines of a master that was taken out were polled by nobody while
/// the same leader led.
#[test]
fn machines_of_a_master_that_was_taken_out_get_another_shard() {
    let (mut world, web) = cell_with_web(10, 10);
    let leader = world.leader().unwrap();
    let before = world.processes();
    let out = (leader + 1) % 5;
    world.inflict(Fault::TakeOutMaster(out));
    world.run_until("it is out", HALF_A_MINUTE, |world| world.marks().count(Mark::MasterJoins) > 0);
    world.run_until_settled();
    world.run_for(Millis(10_000));
    world.check_all();
    assert_eq!(world.leader(), Some(leader));
    assert_eq!(world.misread(), None);
    assert_eq!(world.processes(), before);
    let next = world.submit(job("next").tasks(10));
    world.run_until_acknowledged(&next).unwrap();
    world.run_until("all run", HALF_A_MINUTE, |world| world.running(&next) == 10);
    assert_eq!(world.running(&web), 10);
}

/// A master that lost its disk comes back in another life and takes part again: then the cell bears
/// two more losses.
#[test]
fn masters_that_lose_their_disks_one_after_the_other_lose_nothing() {
    let (mut world, web) = cell_with_web(4, 4);
    for master in 0..5 {
        world.inflict(Fault::LoseDisk(master));
        let next = world.submit(job(&format!("job{master}")));
        world.run_until_acknowledged(&next).unwrap();
        world.run_until_settled();
    }
    assert!(world.marks().count(Mark::MasterJoins) >= 5);
    world.crash(0);
    world.crash(1);
    let after = world.submit(job("after"));
    world.run_until_acknowledged(&after).unwrap();
    world.run_until_settled();
    world.check_all();
    assert_eq!(world.running(&web), 4);
}
