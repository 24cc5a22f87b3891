//! Storms: which faults come by themselves, how often, and how they all end.
//!
//! Each seed draws its own climate: which kinds of fault it has and how often, so that some runs
//! are about one thing and some about everything. All faults end when the weather turns calm.

use super::clock::ClockJump;
use super::{Fault, Happening, World};
use crate::dice::Dice;
use crate::disk::Rot;
use borg_proto::Millis;

/// Which faults come by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// None.
    Calm,
    /// Those that the seed draws, until [`World::calm_down`].
    Stormy,
}

/// A kind of fault; the dice decide whom it hits and how hard.
type Draw = fn(&mut Dice, Cell) -> Fault;

/// How many there are of whom a fault may hit.
#[derive(Debug, Clone, Copy)]
struct Cell {
    masters: usize,
    machines: usize,
}

/// All kinds, one die each.
const KINDS: &[Draw] = &[
    |_, _| Fault::CrashLeader,
    |dice, cell| Fault::CrashMaster(dice.index(cell.masters)),
    |dice, cell| Fault::StopMaster(dice.index(cell.masters)),
    |dice, cell| Fault::CrashInTurn(dice.index(cell.masters), few(dice)),
    |dice, cell| Fault::FailSync(dice.index(cell.masters)),
    |dice, cell| Fault::StallDisk(dice.index(cell.masters)),
    |_, _| Fault::CrashAllMasters,
    |dice, cell| Fault::PauseMaster(dice.index(cell.masters)),
    |dice, cell| Fault::IsolateMaster(dice.index(cell.masters)),
    |dice, cell| Fault::CutOneWay(dice.index(cell.masters), dice.index(cell.masters)),
    |dice, cell| Fault::SplitMasters(1 + dice.index(cell.masters.max(2) - 1)),
    |dice, cell| Fault::CutMachine(dice.index(cell.machines)),
    |dice, cell| Fault::MuteMachine(dice.index(cell.machines)),
    |dice, cell| Fault::CutPair(dice.index(cell.masters), dice.index(cell.machines)),
    |_, _| Fault::BadNetwork,
    |dice, cell| Fault::CrashBorglet(dice.index(cell.machines)),
    |dice, cell| Fault::CrashBorgletInTurn(dice.index(cell.machines), few(dice)),
    |dice, cell| Fault::Reboot(dice.index(cell.machines)),
    |dice, cell| Fault::Shrink(dice.index(cell.machines)),
    |dice, cell| Fault::RemoveMachine(dice.index(cell.machines)),
    |dice, cell| Fault::PowerCut(some_of(dice, cell.masters)),
    |dice, cell| Fault::RotDisk(dice.index(cell.masters), rot(dice)),
    |dice, cell| Fault::LoseDisk(dice.index(cell.masters)),
    |dice, cell| Fault::TakeOutMaster(dice.index(cell.masters)),
    |dice, cell| Fault::FillDisk(dice.index(cell.masters)),
    |dice, cell| Fault::SlowDownDisk(dice.index(cell.masters)),
    |dice, cell| Fault::CutEdges(edges(dice, cell.masters)),
    bad_link,
    |dice, cell| Fault::PauseBorglet(dice.index(cell.machines)),
    |dice, cell| Fault::SetMasterClock(dice.index(cell.masters), jump(dice)),
    |dice, cell| Fault::CutManyMachines(1 + dice.index(cell.machines)),
    |dice, cell| Fault::SetMachineClock(dice.index(cell.machines), jump(dice)),
];

fn few(dice: &mut Dice) -> u32 {
    u32::try_from(dice.below(12)).expect("few")
}

fn bits(dice: &mut Dice, count: usize) -> u32 {
    u32::try_from(dice.roll() & ((1 << count.min(32)) - 1)).expect("at most 32 bits")
}

/// Some of so many, at least one.
fn some_of(dice: &mut Dice, count: usize) -> u32 {
    bits(dice, count) | 1 << dice.index(count)
}

/// Any set of the ways between masters: few, half or most of them.
fn edges(dice: &mut Dice, masters: usize) -> u32 {
    let count = masters * (masters - 1);
    match dice.below(3) {
        0 => bits(dice, count) & bits(dice, count),
        1 => bits(dice, count),
        _ => bits(dice, count) | bits(dice, count),
    }
}

fn bad_link(dice: &mut Dice, cell: Cell) -> Fault {
    let master = dice.index(cell.masters);
    let other = dice.index(cell.masters + cell.machines);
    if dice.chance(500) { Fault::BadLink(master, other) } else { Fault::BadLink(other, master) }
}

fn rot(dice: &mut Dice) -> Rot {
    match dice.below(4) {
        0 => Rot::Head,
        1 => Rot::Checkpoint,
        _ => Rot::Entry(u16::try_from(dice.below(1_000)).expect("small")),
    }
}

fn jump(dice: &mut Dice) -> ClockJump {
    match dice.below(4) {
        0 => ClockJump::TenYears,
        1 => ClockJump::DayBack,
        _ => ClockJump::By(i32::try_from(dice.below(10_000)).expect("small") - 5_000),
    }
}

/// The faults of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    /// How likely each kind is.
    weights: Vec<u64>,
    /// Least and most time between two faults.
    gap: (u64, u64),
    over: bool,
    /// Faults that have not ended yet.
    pub(super) going_on: Vec<Fault>,
}

impl Faults {
    pub(crate) fn new(weather: &Weather, dice: &mut Dice) -> Self {
        let weight = |_| if dice.chance(450) { dice.between(1, 4) } else { 0 };
        let mut weights: Vec<u64> = (0..KINDS.len()).map(weight).collect();
        // Every seed loses its leader now and then.
        weights[0] += 1;
        let least = *dice.pick(&[200, 500, 1_000, 2_000]);
        let gap = (least, least * 4);
        Self { weights, gap, over: *weather == Weather::Calm, going_on: Vec::new() }
    }

    /// Whether no fault comes any more.
    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }
}

impl World {
    pub(crate) fn next_fault(&mut self) {
        if self.faults.over {
            return;
        }
        let total: u64 = self.faults.weights.iter().sum();
        let mut roll = self.dice.below(total);
        let drawn = self.faults.weights.iter().position(|weight| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        let draw = KINDS[drawn.expect("the roll is below the sum of all weights")];
        let cell = Cell { masters: self.setup.masters, machines: self.setup.machines };
        let fault = draw(&mut self.dice, cell);
        self.inflict(fault);
        let (least, most) = self.faults.gap;
        let gap = self.dice.between(least, most);
        self.agenda.after(Millis(gap), Happening::NextFault);
    }

    pub(crate) fn restart_later(&mut self, master: usize) {
        let delay = if self.faults.over { 500 } else { self.dice.between(50, 6_000) };
        self.agenda.after(Millis(delay), Happening::Restart { master });
    }

    pub(crate) fn restart_borglet_later(&mut self, machine: usize) {
        let most = *self.dice.pick(&[5, 10, 500, 2_000, 15_000]);
        let delay = if self.faults.over { 500 } else { self.dice.between(1, most) };
        self.agenda.after(Millis(delay), Happening::RestartBorglet { machine });
    }

    /// No fault comes any more, those that are going on end, and whatever is down is started.
    pub fn calm_down(&mut self) {
        self.say(|| "calm: no fault from here on, and whatever is down is started".to_owned());
        self.faults.over = true;
        for fault in self.faults.going_on.clone() {
            self.end_fault(fault);
        }
        for master in 0..self.setup.masters {
            self.replicas[master].dies_after = None;
            self.replicas[master].paused_until = Millis(0);
            self.upgrade(master);
            self.start_if_down(master);
        }
        for machine in 0..self.setup.machines {
            self.machines[machine].dies_after = None;
            self.start_borglet_if_down(machine);
        }
    }

    pub(crate) fn start_if_down(&mut self, master: usize) {
        if self.replicas[master].process.is_none() {
            self.start_master(master);
        }
    }

    pub(crate) fn start_borglet_if_down(&mut self, machine: usize) {
        if !self.machines[machine].has_borglet() {
            self.start_borglet(machine);
        }
    }
}
