//! A leader of a large cell whose machines fall silent and come back; the caller plays the shard.
//!
//! One master leads alone, so nothing but its own turn is measured.

use crate::Error;
use crate::cellgen::{Grown, Size};
use borg_cell::fixture::info;
use borg_cell::master::{Config, Effect, Input, Master};
use borg_cell::state::MachineState;
use borg_cell::store::{Checkpoint, CheckpointMeta, HardState, Recovered, ReplicaIdentity};
use borg_proto::peer::{MachineDelta, ShardReport, ShardSession};
use borg_proto::poll::{TaskReport, TaskStatus, Usage};
use borg_proto::{MachineId, Millis, ReplicaId};
use std::collections::BTreeMap;

/// Machines in one report of a shard: what some hundred milliseconds of polling bring at most.
const PER_REPORT: usize = 1_000;

/// The leader and what its shard said.
#[derive(Debug)]
pub struct Cell {
    me: ReplicaId,
    master: Master,
    now: Millis,
    session: ShardSession,
    /// Last sequence number of each machine, and the generation of its orders.
    machines: BTreeMap<MachineId, (u64, u64)>,
}

impl Cell {
    /// A cell of this size, led, all of its machines answering.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn led(size: Size) -> Result<Self, Error> {
        let masters = [(1, "m:1".to_owned())];
        let (state, place) = Grown::filled(size)?.state.refound(&masters, Millis(0));
        let me = state.master_numbered(1).ok_or("the cell has no master")?;
        let meta = CheckpointMeta {
            place,
            membership: state.founding_membership(),
            at: state.clock(),
            file_bytes: 0,
            file_sum: 0,
        };
        let identity =
            ReplicaIdentity { cell: "large".into(), replica: me.0, epoch: state.epoch() };
        let recovered = Recovered {
            hard_state: HardState { term: place.term, vote: 0, commit: place.index },
            checkpoint: Some(Checkpoint { meta, state: state.encode().into() }),
            compacted: place,
            ..Recovered::empty(identity)
        };
        let config = Config::new("large".parse()?, me, 1);
        let mut cell = Self {
            me,
            master: Master::new(config, recovered)?,
            now: Millis(1_000_000),
            session: ShardSession::default(),
            machines: BTreeMap::new(),
        };
        for _ in 0..100 {
            cell.turn(Vec::new());
        }
        if cell.machines.len() != size.machines as usize {
            return Err("the shard was not told of all machines".into());
        }
        cell.all_answer();
        Ok(cell)
    }

    /// One turn of the leader, 20 ms after the last.
    pub fn turn(&mut self, inputs: Vec<Input>) {
        self.now = self.now + Millis(20);
        let inputs = std::iter::once(Input::Tick).chain(inputs);
        for effect in self.master.handle(self.now, inputs) {
            let Effect::Orders { orders, .. } = effect else { continue };
            if orders.session > self.session {
                self.session = orders.session;
                self.machines.clear();
            }
            for machine in orders.machines {
                let found = self.master.state().machine_named(&machine.machine);
                let id = found.expect("orders are for machines of the cell").id;
                let known = self.machines.entry(id).or_insert((0, 0));
                known.1 = known.1.max(machine.generation);
            }
        }
    }

    /// Time passes; the shard says that it lives.
    pub fn pass(&mut self, time: Millis) {
        for round in 0..time.0 / 20 {
            let heartbeat =
                if round % 10 == 0 { vec![self.report(Vec::new())] } else { Vec::new() };
            self.turn(heartbeat);
        }
    }

    /// What the shard says of machines that do not answer.
    pub fn silence(&mut self, machines: impl IntoIterator<Item = u32>) -> Vec<Input> {
        let deltas = machines.into_iter().map(|number| self.delta(MachineId(number), false));
        let deltas: Vec<MachineDelta> = deltas.collect();
        deltas.chunks(PER_REPORT).map(|part| self.report(part.to_vec())).collect()
    }

    /// What it says of machines that answer again, or for the first time.
    pub fn answers(&mut self, machines: impl IntoIterator<Item = u32>) -> Vec<Input> {
        let deltas = machines.into_iter().map(|number| self.delta(MachineId(number), true));
        let deltas: Vec<MachineDelta> = deltas.collect();
        deltas.chunks(PER_REPORT).map(|part| self.report(part.to_vec())).collect()
    }

    /// All machines answer.
    pub fn all_answer(&mut self) {
        let all: Vec<u32> = self.machines.keys().map(|id| id.0).collect();
        let inputs = self.answers(all);
        self.turn(inputs);
        self.pass(Millis(1_000));
    }

    /// How many machines are down.
    #[must_use]
    pub fn down(&self) -> usize {
        let state = self.master.state();
        state.machines().filter(|machine| machine.state == MachineState::Down).count()
    }

    /// Whether nothing moves.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.master.state().safe_mode().is_some()
    }

    /// Entries of the log.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.master.state().applied()
    }

    fn report(&self, deltas: Vec<MachineDelta>) -> Input {
        let (session, usage, stamp) = (self.session, Vec::new(), None);
        let from = self.me;
        let wanting = Vec::new();
        Input::Report(ShardReport { session, from, deltas, usage, stamp, wanting })
    }

    fn delta(&mut self, id: MachineId, reachable: bool) -> MachineDelta {
        let state = self.master.state();
        let machine = state.machine(id).expect("a machine of the cell");
        let known = self.machines.get_mut(&id).expect("a machine of the shard");
        known.0 += 1;
        let report = |task: &borg_proto::TaskId| {
            let id = state.task(*task)?.running(*task)?;
            let status = TaskStatus::Up { pid: 100, since: Millis(1) };
            let usage = Usage::default();
            Some(TaskReport {
                id,
                status,
                restarts: 0,
                last_failure: None,
                usage,
                ports: Vec::new(),
                health: borg_proto::Health::Unchecked,
                status_line: String::new(),
                last_run: None,
                start: None,
                address: None,
            })
        };
        let said =
            if reachable { machine.tasks.iter().filter_map(report).collect() } else { Vec::new() };
        MachineDelta {
            machine: machine.name.clone(),
            seq: known.0,
            full: reachable,
            reachable,
            obeyed: if reachable { known.1 } else { 0 },
            info: reachable.then(|| info(64_000, 256 << 30, &[])),
            tasks: said,
            gone: Vec::new(),
            data: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median cell of the Borg paper; its tasks matter to none of this, so few are there.
    const CELL: Size = Size { machines: 10_000, jobs: 20 };

    /// I19, B14, B16: half of the cell falls silent in one moment and comes back in one.
    #[test]
    fn half_of_ten_thousand_machines_fall_silent_and_nothing_moves() {
        let mut cell = Cell::led(CELL).unwrap();
        let silence = cell.silence(0..5_000);
        cell.turn(silence);
        cell.pass(Millis(60_000));
        assert!(cell.is_safe());
        assert_eq!(cell.down(), 0);
        let quiet = cell.applied();
        let back = cell.answers(0..10_000);
        cell.turn(back);
        cell.pass(Millis(2_000));
        assert!(!cell.is_safe());
        assert_eq!((cell.down(), cell.applied()), (0, quiet + 1), "one entry: it is over");
    }

    #[test]
    fn fifty_lost_machines_of_ten_thousand_are_given_up_at_once_and_the_next_within_the_rate() {
        let mut cell = Cell::led(CELL).unwrap();
        let silence = cell.silence(0..50);
        cell.turn(silence);
        cell.pass(Millis(9_500));
        assert_eq!(cell.down(), 0);
        cell.pass(Millis(1_000));
        assert_eq!(cell.down(), 50);
        let silence = cell.silence(50..100);
        cell.turn(silence);
        cell.pass(Millis(20_000));
        assert_eq!(cell.down(), 58, "at 1 % lost, 58 in a minute");
        cell.pass(Millis(45_000));
        assert_eq!(cell.down(), 100);
    }
}
