//! Faults: what each does to the world, for how long, and how it ends.
//!
//! Leaves to `storm` which of them come.

use super::clock::ClockJump;
use super::{Asked, Happening, World, client};
use crate::disk::{Room, Rot, SyncFault};
use crate::marks::Mark;
use crate::network::Conditions;
use borg_proto::Millis;
use borg_proto::command::Action;
use std::fmt;

/// One fault. Masters and machines are given by their place in the world, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A master's process dies and is started again.
    CrashMaster(usize),
    /// The leader's process dies and is started again.
    CrashLeader,
    /// A master is stopped as an operator does it: it may let another one lead first.
    StopMaster(usize),
    /// A master dies between two effects soon.
    CrashInTurn(usize, u32),
    /// Masters, a bit each, die at one moment, in the middle of what they were writing.
    PowerCut(u32),
    /// All masters die.
    CrashAllMasters,
    /// A master's next sync fails.
    FailSync(usize),
    /// A master's disk is slow.
    StallDisk(usize),
    /// A master's disk gets slower and slower.
    SlowDownDisk(usize),
    /// A master's disk has no room for anything.
    FillDisk(usize),
    /// A bit flips on a master's disk; mostly its process dies too, so that it is noticed.
    RotDisk(usize, Rot),
    /// A master's disk is lost with all that was on it.
    LoseDisk(usize),
    /// The operator takes a master out of the cell, and later lets it in again, empty.
    TakeOutMaster(usize),
    /// A master stands still.
    PauseMaster(usize),
    /// Nobody reaches a master and it reaches nobody, machines included.
    IsolateMaster(usize),
    /// Two masters: the first does not reach the second.
    CutOneWay(usize, usize),
    /// Some ways between masters are cut, a bit each: from the first to all others, then from the
    /// second, and so on.
    CutEdges(u32),
    /// The masters below this number and the others do not reach each other.
    SplitMasters(usize),
    /// No master reaches the machine.
    CutMachine(usize),
    /// No master reaches the machines below this number.
    CutManyMachines(usize),
    /// The machine's answers are lost.
    MuteMachine(usize),
    /// One master does not reach a machine.
    CutPair(usize, usize),
    /// Messages are lost, doubled and late.
    BadNetwork,
    /// The same on one way only: from one node of the network to another, masters first.
    BadLink(usize, usize),
    /// A borglet dies and is started again.
    CrashBorglet(usize),
    /// A borglet dies between two effects soon.
    CrashBorgletInTurn(usize, u32),
    /// A borglet stands still; its tasks run on.
    PauseBorglet(usize),
    /// A machine reboots.
    Reboot(usize),
    /// A machine comes back from a reboot with half its room.
    Shrink(usize),
    /// A machine is taken out of the cell and added again.
    RemoveMachine(usize),
    /// Somebody sets the wall clock of a master's computer, and mostly restarts it.
    SetMasterClock(usize, ClockJump),
    /// Somebody sets the wall clock of a machine, and mostly restarts its borglet.
    SetMachineClock(usize, ClockJump),
}

/// As people count: masters from 1, machines by name.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let master = |index: &usize| format!("master {}", index + 1);
        match self {
            Self::CrashMaster(at) => write!(f, "{} crashes", master(at)),
            Self::StopMaster(at) => write!(f, "{} is stopped", master(at)),
            Self::CrashLeader => f.write_str("the leader crashes"),
            Self::CrashInTurn(at, effects) => {
                write!(f, "{} will crash after {effects} more effects", master(at))
            }
            Self::PowerCut(mask) => {
                let hit: Vec<_> =
                    (0..32).filter(|at| mask & 1 << at != 0).map(|at| at + 1).collect();
                write!(f, "power cut of masters {hit:?}")
            }
            Self::CrashAllMasters => f.write_str("all masters crash"),
            Self::FailSync(at) => write!(f, "the next sync of {} fails", master(at)),
            Self::StallDisk(at) => write!(f, "the disk of {} is slow", master(at)),
            Self::SlowDownDisk(at) => {
                write!(f, "the disk of {} gets slower and slower", master(at))
            }
            Self::FillDisk(at) => write!(f, "the disk of {} is full", master(at)),
            Self::RotDisk(at, rot) => {
                write!(f, "a bit flips on the disk of {}: {rot:?}", master(at))
            }
            Self::LoseDisk(at) => write!(f, "the disk of {} is lost", master(at)),
            Self::TakeOutMaster(at) => {
                write!(f, "the admin takes {} out of the cell and lets it join again", master(at))
            }
            Self::PauseMaster(at) => write!(f, "{} stands still", master(at)),
            Self::IsolateMaster(at) => write!(f, "{} is cut off from everybody", master(at)),
            Self::CutOneWay(from, to) => {
                write!(f, "nothing gets from {} to {}", master(from), master(to))
            }
            Self::CutEdges(mask) => write!(f, "ways between masters are cut: {mask:#b}"),
            Self::SplitMasters(at) => write!(f, "masters 1 to {at} are cut off from the others"),
            Self::CutMachine(machine) => write!(f, "m{machine} is cut off from all masters"),
            Self::CutManyMachines(below) => {
                write!(f, "the machines m0 to m{} are cut off from all masters", below - 1)
            }
            Self::MuteMachine(machine) => write!(f, "the answers of m{machine} are lost"),
            Self::CutPair(at, machine) => {
                write!(f, "{} and m{machine} do not reach each other", master(at))
            }
            Self::BadNetwork => f.write_str("the network loses, doubles and delays messages"),
            Self::BadLink(from, to) => {
                write!(
                    f,
                    "the way from node {from} to node {to} loses, doubles and delays messages"
                )
            }
            Self::CrashBorglet(machine) => write!(f, "the borglet of m{machine} crashes"),
            Self::CrashBorgletInTurn(machine, effects) => {
                write!(f, "the borglet of m{machine} will crash after {} more effects", effects % 4)
            }
            Self::PauseBorglet(machine) => write!(f, "the borglet of m{machine} stands still"),
            Self::Reboot(machine) => write!(f, "m{machine} reboots"),
            Self::Shrink(machine) => write!(f, "m{machine} reboots with half of its room"),
            Self::RemoveMachine(machine) => {
                write!(f, "the admin removes m{machine} from the cell and adds it again")
            }
            Self::SetMasterClock(at, jump) => {
                write!(f, "the wall clock of {} is set wrong: {jump:?}", master(at))
            }
            Self::SetMachineClock(machine, jump) => {
                write!(f, "the wall clock of m{machine} is set wrong: {jump:?}")
            }
        }
    }
}

impl World {
    /// Lets a fault begin now. It ends by itself in a storm; in calm weather a fault that goes on
    /// does so until [`Self::end_fault`].
    pub fn inflict(&mut self, fault: Fault) {
        self.say(|| format!("FAULT {fault}"));
        let Some(length) = self.begin(fault) else { return };
        for (from, to) in self.ways(fault) {
            self.network.cut(from, to);
        }
        self.faults.going_on.push(fault);
        if !self.faults.is_over() {
            self.agenda.after(Millis(length), Happening::Ends(fault));
        }
    }

    /// Does what a fault does at once. For one that goes on, the milliseconds after which it ends.
    fn begin(&mut self, fault: Fault) -> Option<u64> {
        match fault {
            Fault::CrashLeader => {
                if let Some(leader) = self.leader() {
                    self.crash_and_restart(leader);
                }
            }
            Fault::CrashMaster(master) => self.crash_and_restart(master),
            Fault::CrashAllMasters => {
                (0..self.setup.masters).for_each(|master| self.crash_and_restart(master));
            }
            Fault::PowerCut(mask) => {
                for master in (0..self.setup.masters).filter(|at| mask & 1 << at != 0) {
                    self.crash_and_restart(master);
                }
                self.hit(Mark::PowerCut);
            }
            Fault::CrashInTurn(master, effects) => {
                self.replicas[master].dies_after = Some(effects);
            }
            Fault::FailSync(master) => {
                let kept = if self.dice.chance(500) { SyncFault::Kept } else { SyncFault::Lost };
                self.replicas[master].disk.fail_next(kept);
            }
            Fault::RotDisk(master, rot) => self.rot_disk(master, rot),
            Fault::LoseDisk(master) => {
                if self.may_lose_log(master) {
                    self.crash_master(master);
                    self.hit(Mark::DiskLost);
                    self.join_anew(master);
                }
            }
            Fault::TakeOutMaster(master) => {
                if self.may_take_out() {
                    self.take_out(master);
                }
            }
            Fault::CrashBorglet(machine) => {
                self.crash_borglet(machine);
                self.restart_borglet_later(machine);
            }
            Fault::CrashBorgletInTurn(machine, effects) => {
                self.machines[machine].dies_after = Some(effects % 4);
            }
            Fault::Reboot(machine) => {
                self.reboot(machine, false);
                self.restart_borglet_later(machine);
            }
            Fault::Shrink(machine) => {
                self.reboot(machine, true);
                self.restart_borglet_later(machine);
            }
            Fault::RemoveMachine(machine) => {
                let name = self.machines[machine].name.clone();
                let remove = Action::RemoveMachine { machine: name };
                self.wish(client::ADMIN_CLIENT, Asked::Change(remove));
                let add = client::add_machine(self, machine);
                self.wish(client::ADMIN_CLIENT, Asked::Change(add));
                self.hit(Mark::MachineRemoved);
            }
            Fault::StopMaster(master) => self.stop_master(master),
            Fault::SetMasterClock(master, jump) => {
                self.replicas[master].clock.jump(jump);
                if self.dice.chance(700) {
                    self.crash_and_restart(master);
                }
            }
            Fault::SetMachineClock(machine, jump) => {
                self.machines[machine].clock.jump(jump);
                if self.dice.chance(700) {
                    self.crash_borglet(machine);
                    self.restart_borglet_later(machine);
                }
            }
            Fault::PauseMaster(master) => {
                let length = if self.faults.is_over() {
                    u64::MAX / 2
                } else {
                    self.dice.between(100, 4_000)
                };
                self.replicas[master].paused_until = self.now() + Millis(length);
                return Some(length);
            }
            Fault::PauseBorglet(machine) => {
                self.machines[machine].paused = true;
                return Some(self.dice.between(100, 15_000));
            }
            Fault::StallDisk(master) => {
                self.replicas[master].stalled = Millis(self.dice.between(5, 300));
                return Some(self.dice.between(1_000, 8_000));
            }
            Fault::SlowDownDisk(master) => {
                self.replicas[master].slower_since = Some(self.now());
                return Some(self.dice.between(2_000, 15_000));
            }
            Fault::FillDisk(master) => {
                // Checkpoints are large: mostly there is room for the log for a while yet.
                let little = !self.faults.is_over() && self.dice.chance(600);
                let (room, longest) =
                    if little { (Room::Little, 25_000) } else { (Room::None, 10_000) };
                self.replicas[master].disk.fill(room);
                return Some(self.dice.between(500, longest));
            }
            Fault::BadNetwork => {
                self.network.conditions = self.bad_conditions();
                self.hit(Mark::LossyNetwork);
                return Some(self.dice.between(1_000, 15_000));
            }
            Fault::BadLink(from, to) => {
                let conditions = self.bad_conditions();
                self.network.worsen(from, to, Some(conditions));
                self.hit(Mark::LossyLink);
                return Some(self.dice.between(1_000, 15_000));
            }
            Fault::IsolateMaster(_)
            | Fault::CutOneWay(..)
            | Fault::CutEdges(_)
            | Fault::SplitMasters(_) => return Some(self.dice.between(500, 12_000)),
            Fault::CutMachine(_) | Fault::MuteMachine(_) | Fault::CutPair(..) => {
                return Some(self.dice.between(500, 30_000));
            }
            Fault::CutManyMachines(_) => return Some(self.dice.between(3_000, 25_000)),
        }
        None
    }

    fn crash_and_restart(&mut self, master: usize) {
        self.crash_master(master);
        self.restart_later(master);
    }

    /// Rots no more disks than the cell is made to bear at once: a majority keeps what it said.
    fn rot_disk(&mut self, master: usize, rot: Rot) {
        if !self.may_lose_log(master) {
            return;
        }
        if self.replicas[master].disk.rot(rot) && (self.faults.is_over() || self.dice.chance(700)) {
            self.crash_and_restart(master);
        }
    }

    fn bad_conditions(&mut self) -> Conditions {
        let dice = &mut self.dice;
        Conditions {
            latency: (1, dice.between(2, 40)),
            lost: dice.between(5, 200),
            doubled: dice.below(100),
            held_up: dice.below(100),
            held_up_for: Millis(dice.between(20, 1_500)),
        }
    }

    /// Lets a fault end, if it has not ended already.
    pub fn end_fault(&mut self, fault: Fault) {
        let Some(at) = self.faults.going_on.iter().position(|going| *going == fault) else {
            return;
        };
        self.faults.going_on.remove(at);
        self.say(|| format!("OVER: {fault}"));
        for (from, to) in self.ways(fault) {
            self.network.mend(from, to);
        }
        match fault {
            Fault::PauseMaster(master) => {
                self.replicas[master].paused_until = Millis(0);
                self.hit(Mark::MasterPaused);
            }
            Fault::PauseBorglet(machine) => self.resume_borglet(machine),
            Fault::StallDisk(master) => self.replicas[master].stalled = Millis(0),
            Fault::SlowDownDisk(master) => self.replicas[master].slower_since = None,
            Fault::FillDisk(master) => self.replicas[master].disk.fill(Room::Plenty),
            Fault::BadNetwork => self.network.conditions = Conditions::GOOD,
            Fault::BadLink(from, to) => self.network.worsen(from, to, None),
            Fault::IsolateMaster(_) | Fault::SplitMasters(_) => self.hit(Mark::MastersParted),
            Fault::CutEdges(_) => self.hit(Mark::EdgesCut),
            Fault::CutOneWay(..) | Fault::MuteMachine(_) => self.hit(Mark::OneWayCut),
            // An operator who is a moment too late, or in time.
            Fault::CutMachine(machine) if !self.faults.is_over() && self.dice.chance(300) => {
                let machines = vec![self.machines[machine].name.clone()];
                let action = Action::GiveUp { machines, answering: None };
                self.wish(client::ADMIN_CLIENT, Asked::Change(action));
            }
            Fault::CutMachine(_)
            | Fault::CutManyMachines(_)
            | Fault::CutPair(..)
            | Fault::CrashMaster(_)
            | Fault::StopMaster(_)
            | Fault::CrashLeader
            | Fault::CrashInTurn(..)
            | Fault::PowerCut(_)
            | Fault::FailSync(_)
            | Fault::RotDisk(..)
            | Fault::LoseDisk(_)
            | Fault::TakeOutMaster(_)
            | Fault::CrashAllMasters
            | Fault::CrashBorglet(_)
            | Fault::CrashBorgletInTurn(..)
            | Fault::Reboot(_)
            | Fault::Shrink(_)
            | Fault::RemoveMachine(_)
            | Fault::SetMasterClock(..)
            | Fault::SetMachineClock(..) => {}
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
            Fault::CutEdges(mask) => {
                let from =
                    |from| (0..masters).filter(move |to| *to != from).map(move |to| (from, to));
                let edges = (0..masters).flat_map(from).enumerate();
                edges.filter(|(bit, _)| mask & 1 << bit != 0).map(|(_, way)| way).collect()
            }
            Fault::SplitMasters(at) => {
                (0..at).flat_map(|a| (at..masters).flat_map(move |b| both(a, b))).collect()
            }
            Fault::CutMachine(machine) => {
                (0..masters).flat_map(|master| both(master, masters + machine)).collect()
            }
            Fault::CutManyMachines(below) => (0..masters)
                .flat_map(|master| (masters..masters + below).flat_map(move |m| both(master, m)))
                .collect(),
            Fault::MuteMachine(machine) => {
                (0..masters).map(|master| (masters + machine, master)).collect()
            }
            Fault::CutPair(master, machine) => both(master, masters + machine).to_vec(),
            Fault::CrashMaster(_)
            | Fault::StopMaster(_)
            | Fault::CrashLeader
            | Fault::CrashInTurn(..)
            | Fault::PowerCut(_)
            | Fault::FailSync(_)
            | Fault::StallDisk(_)
            | Fault::SlowDownDisk(_)
            | Fault::FillDisk(_)
            | Fault::RotDisk(..)
            | Fault::LoseDisk(_)
            | Fault::TakeOutMaster(_)
            | Fault::CrashAllMasters
            | Fault::PauseMaster(_)
            | Fault::BadNetwork
            | Fault::BadLink(..)
            | Fault::CrashBorglet(_)
            | Fault::CrashBorgletInTurn(..)
            | Fault::PauseBorglet(_)
            | Fault::Reboot(_)
            | Fault::Shrink(_)
            | Fault::RemoveMachine(_)
            | Fault::SetMasterClock(..)
            | Fault::SetMachineClock(..) => Vec::new(),
        }
    }
}
