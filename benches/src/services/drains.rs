//! Whether any job loses more tasks than its disruption budget says while a rack is emptied.
//!
//! In a simulated cell: five masters, their link shards, schedulers and borglets, no faults. Counted is by the
//! simulation's own checker, which follows events and shares no code with what decides.

use crate::Error;
use borg_proto::Millis;
use borg_proto::command::Action;
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_sim::checkers::Invariant;
use borg_sim::world::World;
use borg_sim::{JobBuilder, job};

/// Machines, a third of them in each rack. 300: our choice, some racks' worth, in a minute of one core.
const MACHINES: usize = 300;
/// Jobs of each budget.
const JOBS: u32 = 6;
/// Tasks of each job: more than one on a machine of the rack for some.
const TASKS: u32 = 25;
/// How long the rack may take.
const WITHIN: Millis = Millis::from_secs(3_600);

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Drained {
    /// Disruptions beyond a budget; the run ends at the first.
    pub violations: usize,
    /// Disruptions that were looked at: of tasks that served and had a budget.
    pub looked_at: u64,
    /// Tasks that left for another machine.
    pub moved: u32,
    /// Tasks that were pushed out at the deadline.
    pub forced: u32,
    /// How long it took in the simulated world, in seconds.
    pub seconds: u64,
}

/// Budgets, from strict to none.
fn budgets() -> [Option<Disruption>; 4] {
    let of = |most, rate| Some(Disruption { most, rate });
    let rate = Some(Rate { tasks: 2, per_ms: Millis::from_secs(20) });
    [of(Share::Tasks(1), None), of(Share::Percent(10), None), of(Share::Percent(40), rate), None]
}

fn service(name: &str, number: u32) -> JobBuilder {
    let built = job(name).tasks(TASKS).prod().limit(200 + u64::from(number) * 50, 64);
    if number.is_multiple_of(2) { built.checked() } else { built }
}

/// Drains a rack of the cell.
///
/// # Errors
/// When the cell refuses what is asked, or does not settle.
pub fn measure() -> Result<Drained, Error> {
    let mut world = World::seeded(0xd7a1).replicas(5).machines(MACHINES).build();
    for (kind, disruption) in budgets().into_iter().enumerate() {
        for number in 0..JOBS {
            let built = service(&format!("web-{kind}-{number}"), number).budget(disruption);
            let submitted = world.submit(built);
            world.run_until_acknowledged(&submitted).map_err(|refused| refused.to_string())?;
        }
    }
    world.run_until_settled();
    let state = world.state();
    let rack = state.machines().filter(|machine| machine.attribute("rack") == "r1");
    let machines: Vec<_> = rack.map(|machine| machine.name.clone()).collect();
    let began = world.now();
    let drain = Action::DrainMachines {
        machines,
        reason: "new switch".to_owned(),
        within: WITHIN,
        at_once: None,
        leaves: None,
    };
    world.change(true, drain).map_err(|refused| refused.to_string())?;
    let busy = |world: &World| world.state().draining().any(|machine| !machine.is_drained());
    while busy(&world) && world.violations().is_empty() {
        world.run_for(Millis(100));
    }
    let beyond = world.violations().iter().filter(|v| v.invariant == Invariant::Disruption);
    let drains = || world.state().draining().filter_map(|machine| machine.drain.as_ref());
    Ok(Drained {
        violations: beyond.count(),
        looked_at: world.disruptions_looked_at(),
        moved: drains().map(|drain| drain.moved).sum(),
        forced: drains().map(|drain| drain.forced).sum(),
        seconds: world.now().since(began).0 / 1_000,
    })
}
