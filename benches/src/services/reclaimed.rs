//! How much of a cell's work runs on room that others hold and do not use, and what that costs in kills.
//!
//! A simulated cell as the published figures describe Borg's (`scheduling::borg_like`): its machines' shapes,
//! jobs' sizes, bands and amounts. A master, its scheduler, link shard and the machines' supervisors are the
//! production code on virtual time; what processes use is played by a model. More best-effort work waits than
//! fits, as in any cell of which the queue is never empty: what limits leave free is full, and what is placed
//! beyond it is placed on lent room.
//!
//! | of the work | share of its limit that a process uses | source |
//! |---|---|---|
//! | prod, processor | daily between a low of 10 to 40 % and twice that; a tenth bursts to 90 % instead | ours; people ask for twice what they use (Autopilot paper, section 4: half of the limit is slack) |
//! | prod, memory | daily between four fifths of 40 to 80 % and all of it | ours, likewise |
//! | others, processor | constant, 40 to 100 % | ours |
//! | others, memory | constant, 40 to 80 %; a tenth bursts from that to 95 % | ours |
//!
//! The day is as long as what is measured, six hours, so use rises four times as fast as in a day of 24.
//!
//! Half of the other tasks end after 20 to 120 minutes, so that new ones come and are held at their limits.
//!
//! Not modelled: how much slower a process is when processors are short; how often they are is told instead.

use crate::Error;
use borg_cell::state::CellState;
use borg_cell::state::runs::RunOver;
use borg_fauxmaster::sources::borg_like::{BorgLike, Mix, borg_like};
use borg_proto::command::Action;
use borg_proto::task::{EvictCause, FailureCause};
use borg_proto::{Band, JobKind, JobSpec, Millis};
use borg_sim::dice::Dice;
use borg_sim::jobs::uses;
use borg_sim::usage::Model;
use borg_sim::{Play, Setup, World};
use std::sync::Arc;

/// Until what is lent is as it stays: the hold, and the longest fall by a twentieth a minute. Ours.
const WARM_UP: Millis = Millis::from_secs(2 * 3_600);
/// How long is measured after that. Ours.
const MEASURED: Millis = Millis::from_secs(6 * 3_600);
/// Time between two looks.
const LOOK: Millis = Millis::from_secs(300);
/// A day of use, which is as long as what is measured, so that all of it is seen.
const DAY: Millis = MEASURED;

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Sums over all looks, of processor time and of memory: limits of all placed tasks.
    limits: [u128; 2],
    /// What of these goes beyond the machines.
    beyond: [u128; 2],
    /// What the machines have.
    capacity: [u128; 2],
    /// What is used.
    used: [u128; 2],
    /// Machines looked at, and those of them whose tasks wanted more processor time than there was.
    machines: u64,
    busy: u64,
    /// Tasks placed, over all looks.
    placed: u64,
    looks: u64,
    /// Runs that ended because others needed the room: for want of memory, and by the leader.
    short: u64,
    reclaimed: u64,
    /// The same of prod.
    of_prod: u64,
}

impl Reclaimed {
    /// The share of all work that is placed on room beyond what limits leave, in percent: the mean of
    /// processor time and memory.
    #[must_use]
    pub fn share_pct(&self) -> f64 {
        let [cpu, ram] = self.shares_pct();
        f64::midpoint(cpu, ram)
    }

    /// The same of processor time and of memory.
    #[must_use]
    pub fn shares_pct(&self) -> [f64; 2] {
        [0, 1].map(|of| percent(self.beyond[of], self.limits[of]))
    }

    /// Kills for others' use in a day of one task that is not prod, or is.
    #[must_use]
    pub fn kills_per_task_day(&self) -> f64 {
        let days = self.placed as f64 * LOOK.0 as f64 / 86_400_000.0;
        (self.short + self.reclaimed) as f64 / days.max(f64::MIN_POSITIVE)
    }

    /// Kills of prod for others' use.
    #[must_use]
    pub fn prod_kills(&self) -> u64 {
        self.of_prod
    }

    /// Lines to read beside it.
    #[must_use]
    pub fn parts(&self) -> String {
        let [cpu, ram] = self.shares_pct();
        let of = |what: [u128; 2]| [0, 1].map(|of| percent(what[of], self.capacity[of]));
        let ([limits_cpu, limits_ram], [used_cpu, used_ram]) = (of(self.limits), of(self.used));
        let busy = percent(self.busy.into(), self.machines.into());
        format!(
            "  reclaimed: cpu {cpu:.1} %, ram {ram:.1} % of all limits\n  limits: cpu {limits_cpu:.1} %, ram \
             {limits_ram:.1} % of the machines; used: cpu {used_cpu:.1} %, ram {used_ram:.1} %\n  machines whose \
             tasks want more cpu than there is: {busy:.2} %\n  tasks placed: {}; killed for memory: {}, by the \
             leader: {}, of prod: {}",
            self.placed / self.looks.max(1),
            self.short,
            self.reclaimed,
            self.of_prod
        )
    }

    fn look(&mut self, world: &World) {
        let state = world.state();
        let reserved = world.reservations();
        self.looks += 1;
        for machine in state.machines() {
            let Some(info) = &machine.info else { continue };
            let pair = |cpu: u64, ram: u64| [u128::from(cpu), u128::from(ram)];
            let beyond = machine.overdrawn();
            add(&mut self.limits, pair(machine.used.cpu_milli, machine.used.ram_bytes));
            add(&mut self.beyond, pair(beyond.cpu_milli, beyond.ram_bytes));
            add(&mut self.capacity, pair(info.capacity.cpu_milli, info.capacity.ram_bytes));
            let used = reserved.get(&machine.id).map(|of| of.prod.plus(of.others).used);
            let used = used.unwrap_or_default();
            add(&mut self.used, pair(used.cpu_milli, used.ram_bytes));
            self.machines += 1;
            self.busy += u64::from(used.cpu_milli > info.capacity.cpu_milli);
            self.placed += machine.tasks.len() as u64;
        }
    }

    /// Counts the runs that ended since a moment.
    fn count_kills(&mut self, state: &CellState, since: Millis) {
        for job in state.jobs() {
            for (task, _) in state.tasks_of(job.id) {
                for run in state.runs_of(task).filter(|run| run.at > since) {
                    let of = match &run.over {
                        RunOver::Failed(FailureCause::Short { .. }) => &mut self.short,
                        RunOver::Evicted(EvictCause::Reclaimed) => &mut self.reclaimed,
                        _ => continue,
                    };
                    *of += 1;
                    self.of_prod += u64::from(job.priority().is_prod());
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share does not need 53 bits")]
fn percent(part: u128, whole: u128) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn add(sums: &mut [u128; 2], more: [u128; 2]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Runs such a cell of so many machines. `progress` hears how far it is.
///
/// # Errors
/// When the cell does not take its work, or something that must hold did not.
pub fn measure(machines: u32, seed: u64, progress: impl Fn(&str)) -> Result<Reclaimed, Error> {
    let mut dice = Dice::new(seed);
    let cell = borg_like(machines, Mix::BORG, seed)?;
    let shapes = cell.machines.iter().map(|m| (m.capacity.cpu_milli, m.capacity.ram_bytes));
    let mut world = World::new(Setup {
        masters: 1,
        machines: usize::try_from(machines)?,
        shapes: shapes.collect(),
        checkpoint_every: 10_000,
        ..Setup::new(seed)
    });
    let bands = Band::ALL.into_iter().filter(|band| *band != Band::Free).collect();
    change(&mut world, Action::EnforceQuota { bands, on: false })?;
    for spec in work(&cell, machines, seed, &mut dice)? {
        change(&mut world, Action::SubmitJob { spec: Arc::new(spec) })?;
    }
    progress("the cell has its work");
    world.run_for(WARM_UP);
    let (began, mut seen) = (world.state().clock(), Reclaimed::default());
    for look in 1..=MEASURED.0 / LOOK.0 {
        world.run_for(LOOK);
        seen.look(&world);
        if let Some(violation) = world.violations().first() {
            return Err(violation.to_string().into());
        }
        if look % 12 == 0 {
            progress(&format!("{} h\n{}", look / 12, seen.parts()));
        }
    }
    seen.count_kills(world.state(), began);
    Ok(seen)
}

fn change(world: &mut World, action: Action) -> Result<(), Error> {
    world.change(true, action).map(drop).map_err(|refused| refused.to_string().into())
}

/// The jobs of the cell, prod first, then others, and as much again of these twice over, which waits.
fn work(cell: &BorgLike, machines: u32, seed: u64, dice: &mut Dice) -> Result<Vec<JobSpec>, Error> {
    let mut all: Vec<JobSpec> = cell.jobs.iter().map(|(_, spec)| (**spec).clone()).collect();
    for more in 1..=4 {
        let jobs = borg_like(machines, Mix::BORG, seed + more)?.jobs.into_iter();
        let others = jobs.filter(|(_, spec)| !spec.priority.is_prod());
        all.extend(others.map(|(_, spec)| JobSpec {
            name: format!("more{more}-{}", spec.name).parse().unwrap_or_else(|_| spec.name.clone()),
            ..(*spec).clone()
        }));
    }
    all.sort_by_key(|spec| std::cmp::Reverse(spec.priority));
    Ok(all.into_iter().map(|spec| played(spec, dice)).collect())
}

/// The same job as simulated machines can run it.
fn played(mut spec: JobSpec, dice: &mut Dice) -> JobSpec {
    let prod = spec.priority.is_prod();
    let task = Arc::make_mut(&mut spec.task);
    // Simulated machines have no such attributes, few ports and little disk.
    task.constraints.clear();
    task.spread.retain(|spread| spread.attribute == "machine");
    task.ports.clear();
    task.limit.disk_bytes = 0;
    let share = dice.between(400, 800);
    let steady = Model::Constant { share };
    let breathing = Model::Diurnal { low: share * 4 / 5, high: share, period: DAY };
    let low = dice.between(100, 400);
    let daily = Model::Diurnal { low, high: low * 2, period: DAY };
    let bursty = |base, peak| Model::Bursty { base, peak, chance: 30 };
    let (cpu, ram) = match (prod, dice.chance(100)) {
        (true, false) => (daily, breathing),
        (true, true) => (bursty(low, 900), breathing),
        (false, false) => (Model::Constant { share: dice.between(400, 1_000) }, steady),
        (false, true) => {
            let base = dice.between(400, 800);
            (Model::Constant { share: dice.between(400, 1_000) }, bursty(base, 950))
        }
    };
    task.env.extend(uses(cpu, ram));
    let ends = !prod && spec.kind == JobKind::Batch && dice.chance(500);
    let play = if ends {
        Play::Exit { after: dice.between(20, 120) * 60_000, code: 0 }
    } else {
        Play::Serve
    };
    task.command = play.command();
    spec
}
