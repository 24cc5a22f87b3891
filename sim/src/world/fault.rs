//! Faults: what goes wrong by itself, how often, and how it ends.
//!
//! Each seed draws its own climate: which kinds of fault it has and how often, so that some runs
//! are about one thing and some about everything. All faults end when the weather turns calm.

use super::{Asked, Happening, World, client};
use crate::dice::Dice;
use crate::disk::SyncFault;
use crate::marks::Mark;
use crate::network::Conditions;
use borg_proto::Millis;
use borg_proto::command::Action;

/// Which faults come by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// None.
    Calm,
    /// Those that the seed draws, until [`World::calm_down`].
    Stormy,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A master's process dies and is started again.
    CrashMaster(usize),
    /// The leader's process dies and is started again.
    CrashLeader,
    /// A master dies between two effects soon.
    CrashInTurn(usize, u32),
    /// A master's next sync fails.
    FailSync(usize),
    /// A master's disk is slow.
    StallDisk(usize),
    /// All masters die.
    CrashAllMasters,
    /// A master stands still.
    PauseMaster(usize),
    /// Nobody reaches a master and it reaches nobody, machines included.
    IsolateMaster(usize),
    /// Two masters: the first does not reach the second.
    CutOneWay(usize, usize),
    /// The masters below this number and the others do not reach each other.
    SplitMasters(usize),
    /// No master reaches the machine.
    CutMachine(usize),
    /// The machine's answers are lost.
    MuteMachine(usize),
    /// One master does not reach a machine.
    CutPair(usize, usize),
    /// Messages are lost, doubled and late.
    BadNetwork,
    /// A borglet dies and is started again.
    CrashBorglet(usize),
    /// A borglet dies between two effects soon.
    CrashBorgletInTurn(usize, u32),
    /// A machine reboots.
    Reboot(usize),
    /// A machine comes back from a reboot with half its room.
    Shrink(usize),
    /// A machine is taken out of the cell and added again.
    RemoveMachine(usize),
}

const KINDS: u64 = 19;

/// The faults of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    /// How likely each kind is.
    weights: Vec<u64>,
    /// Least and most time between two faults.
    gap: (u64, u64),
    over: bool,
    /// Faults that have not ended yet.
    going_on: Vec<Fault>,
}

impl Faults {
    pub(crate) fn new(weather: &Weather, dice: &mut Dice) -> Self {
        let kinds = usize::try_from(KINDS).expect("few");
        let weights = (0..kinds).map(|_| if dice.chance(450) { dice.between(1, 4) } else { 0 });
        let mut weights: Vec<u64> = weights.collect();
        weights[1] += 1;
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
        let fault = self.random_fault();
        self.inflict(fault);
        let (least, most) = self.faults.gap;
        let gap = self.dice.between(least, most);
        self.agenda.after(Millis(gap), Happening::NextFault);
    }

    fn random_fault(&mut self) -> Fault {
        let total: u64 = self.faults.weights.iter().sum();
        let mut roll = self.dice.below(total);
        let mut kind = 0;
        for (number, weight) in self.faults.weights.iter().enumerate() {
            if roll < *weight {
                kind = number;
                break;
            }
            roll -= weight;
        }
        let (masters, machines) = (self.setup.masters, self.setup.machines);
        let dice = &mut self.dice;
        let (master, machine) = (dice.index(masters), dice.index(machines));
        let few = |dice: &mut Dice| u32::try_from(dice.below(12)).expect("few");
        match kind {
            0 => Fault::CrashMaster(master),
            1 => Fault::CrashLeader,
            2 => Fault::CrashInTurn(master, few(dice)),
            3 => Fault::FailSync(master),
            4 => Fault::StallDisk(master),
            5 => Fault::CrashAllMasters,
            6 => Fault::PauseMaster(master),
            7 => Fault::IsolateMaster(master),
            8 => Fault::CutOneWay(master, dice.index(masters)),
            9 => Fault::SplitMasters(1 + dice.index(masters.max(2) - 1)),
            10 => Fault::CutMachine(machine),
            11 => Fault::MuteMachine(machine),
            12 => Fault::CutPair(master, machine),
            13 => Fault::BadNetwork,
            14 => Fault::CrashBorglet(machine),
            15 => Fault::CrashBorgletInTurn(machine, few(dice)),
            16 => Fault::Reboot(machine),
            17 => Fault::Shrink(machine),
            _ => Fault::RemoveMachine(machine),
        }
    }

    /// Lets a fault begin now. It ends by itself in a storm; in calm weather a fault that goes on
    /// does so until [`Self::end_fault`].
    pub fn inflict(&mut self, fault: Fault) {
        self.say(|| format!("fault: {fault:?}"));
        let length = match fault {
            Fault::CrashLeader => {
                if let Some(leader) = self.leader() {
                    self.crash_master(leader);
                    self.restart_later(leader);
                }
                return;
            }
            Fault::CrashMaster(master) => {
                self.crash_master(master);
                return self.restart_later(master);
            }
            Fault::CrashAllMasters => {
                for master in 0..self.setup.masters {
                    self.crash_master(master);
                    self.restart_later(master);
                }
                return;
            }
            Fault::CrashInTurn(master, effects) => {
                self.replicas[master].dies_after = Some(effects);
                return;
            }
            Fault::FailSync(master) => {
                let kept = if self.dice.chance(500) { SyncFault::Kept } else { SyncFault::Lost };
                return self.replicas[master].disk.fail_next(kept);
            }
            Fault::CrashBorglet(machine) => {
                self.crash_borglet(machine);
                return self.restart_borglet_later(machine);
            }
            Fault::CrashBorgletInTurn(machine, effects) => {
                self.machines[machine].dies_after = Some(effects % 4);
                return;
            }
            Fault::Reboot(machine) => {
                self.reboot(machine, false);
                return self.restart_borglet_later(machine);
            }
            Fault::Shrink(machine) => {
                self.reboot(machine, true);
                return self.restart_borglet_later(machine);
            }
            Fault::RemoveMachine(machine) => {
                let name = self.machines[machine].name.clone();
                self.wish(
                    client::ADMIN_CLIENT,
                    Asked::Change(Action::RemoveMachine { machine: name }),
                );
                let add = client::add_machine(self, machine);
                self.wish(client::ADMIN_CLIENT, Asked::Change(add));
                return self.hit(Mark::MachineRemoved);
            }
            Fault::PauseMaster(master) => {
                let length =
                    if self.faults.over { u64::MAX / 2 } else { self.dice.between(100, 4_000) };
                self.replicas[master].paused_until = self.now() + Millis(length);
                length
            }
            Fault::StallDisk(master) => {
                self.replicas[master].stalled = Millis(self.dice.between(5, 300));
                self.dice.between(1_000, 8_000)
            }
            Fault::BadNetwork => {
                let dice = &mut self.dice;
                self.network.conditions = Conditions {
                    latency: (1, dice.between(2, 40)),
                    lost: dice.between(5, 200),
                    doubled: dice.below(100),
                    held_up: dice.below(100),
                    held_up_for: Millis(dice.between(20, 1_500)),
                };
                self.hit(Mark::LossyNetwork);
                self.dice.between(1_000, 15_000)
            }
            Fault::IsolateMaster(_) | Fault::CutOneWay(..) | Fault::SplitMasters(_) => {
                self.dice.between(500, 12_000)
            }
            Fault::CutMachine(_) | Fault::MuteMachine(_) | Fault::CutPair(..) => {
                self.dice.between(500, 30_000)
            }
        };
        for (from, to) in self.ways(fault) {
            self.network.cut(from, to);
        }
        self.faults.going_on.push(fault);
        if !self.faults.over {
            self.agenda.after(Millis(length), Happening::Ends(fault));
        }
    }

    /// Lets a fault end, if it has not ended already.
    pub fn end_fault(&mut self, fault: Fault) {
        let Some(at) = self.faults.going_on.iter().position(|going| *going == fault) else {
            return;
        };
        self.faults.going_on.remove(at);
        self.say(|| format!("fault over: {fault:?}"));
        for (from, to) in self.ways(fault) {
            self.network.mend(from, to);
        }
        match fault {
            Fault::PauseMaster(master) => {
                self.replicas[master].paused_until = Millis(0);
                self.hit(Mark::MasterPaused);
            }
            Fault::StallDisk(master) => self.replicas[master].stalled = Millis(0),
            Fault::BadNetwork => self.network.conditions = Conditions::GOOD,
            Fault::IsolateMaster(_) | Fault::SplitMasters(_) => self.hit(Mark::MastersParted),
            Fault::CutOneWay(..) | Fault::MuteMachine(_) => self.hit(Mark::OneWayCut),
            Fault::CutMachine(_)
            | Fault::CutPair(..)
            | Fault::CrashMaster(_)
            | Fault::CrashLeader
            | Fault::CrashInTurn(..)
            | Fault::FailSync(_)
            | Fault::CrashAllMasters
            | Fault::CrashBorglet(_)
            | Fault::CrashBorgletInTurn(..)
            | Fault::Reboot(_)
            | Fault::Shrink(_)
            | Fault::RemoveMachine(_) => {}
        }
    }

    /// The ways through the network that a fault cuts.
    fn ways(&self, fault: Fault) -> Vec<(usize, usize)> {
        let (masters, all) = (self.setup.masters, self.setup.masters + self.setup.machines);
        let both = |a: usize, b: usize| [(a, b), (b, a)];
        match fault {
            Fault::IsolateMaster(master) => (0..all)
                .filter(|node| *node != master)
                .flat_map(|node| both(master, node))
                .collect(),
            Fault::CutOneWay(from, to) => vec![(from, to)],
            Fault::SplitMasters(at) => {
                (0..at).flat_map(|a| (at..masters).flat_map(move |b| both(a, b))).collect()
            }
            Fault::CutMachine(machine) => {
                (0..masters).flat_map(|master| both(master, masters + machine)).collect()
            }
            Fault::MuteMachine(machine) => {
                (0..masters).map(|master| (masters + machine, master)).collect()
            }
            Fault::CutPair(master, machine) => both(master, masters + machine).to_vec(),
            Fault::CrashMaster(_)
            | Fault::CrashLeader
            | Fault::CrashInTurn(..)
            | Fault::FailSync(_)
            | Fault::StallDisk(_)
            | Fault::CrashAllMasters
            | Fault::PauseMaster(_)
            | Fault::BadNetwork
            | Fault::CrashBorglet(_)
            | Fault::CrashBorgletInTurn(..)
            | Fault::Reboot(_)
            | Fault::Shrink(_)
            | Fault::RemoveMachine(_) => Vec::new(),
        }
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
        self.say(|| "calm".to_owned());
        self.faults.over = true;
        for fault in self.faults.going_on.clone() {
            self.end_fault(fault);
        }
        for master in 0..self.setup.masters {
            self.replicas[master].dies_after = None;
            self.replicas[master].paused_until = Millis(0);
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
