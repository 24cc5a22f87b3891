//! Questions to a cell without touching it: the production scheduler and state machine on a saved
//! or a made-up state (Borg paper, section 3.1, "Fauxmaster").
//!
//! Thin so far: how many more tasks of a job would fit, and what stops the next one. Reads the
//! same bytes that a running cell hands out as its checkpoint.

use crate::dice::Dice;
use crate::jobs::job;
use borg_cell::codec::DecodeError;
use borg_cell::state::CellState;
use borg_proto::command::{Action, Command, Observation, Principal};
use borg_proto::identity::ADMIN;
use borg_proto::machine::MachineAddress;
use borg_proto::{JobSpec, MachineId, MachineInfo, Millis, ReplicaId, Resources};
use borg_scheduler::{Config, Scheduler};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// When a made-up cell exists; any moment does.
const MOMENT: Millis = Millis(1_700_000_000_000);
/// Room of a made-up cell that is taken when questions begin, in thousandths. 700: the paper's
/// cells run near full; enough for a job of ordinary size to meet both free and full machines.
const TAKEN_PERMILLE: u64 = 700;

/// How many more tasks of a job fit into a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FitReport {
    /// The job's name.
    pub job: String,
    /// How many tasks were asked about.
    pub asked: u32,
    /// How many of them fit, pushing nobody out.
    pub fit: u32,
    /// How many machines the cell has.
    pub machines: u32,
    /// How many of them could take the first task.
    pub machines_for_first: u32,
    /// What stops one more task: reason and number of machines, most frequent first.
    pub stopped_by: Vec<Stop>,
    /// The same in one sentence.
    pub summary: String,
}

/// One reason why machines take no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// In words.
    pub reason: String,
    /// On how many machines.
    pub machines: u32,
}

/// How many more tasks of `spec`, at most `most`, fit into the cell as it is. Nothing changes.
#[must_use]
pub fn fit(state: &CellState, spec: &JobSpec, most: u32) -> FitReport {
    let found = Scheduler::new(state, Config::default()).fit(spec, most);
    let stop = |rejected: &borg_scheduler::Rejected| Stop {
        reason: rejected.to_string(),
        machines: rejected.machines,
    };
    FitReport {
        job: spec.name.to_string(),
        asked: most,
        fit: found.tasks,
        machines: u32::try_from(state.machines().count()).unwrap_or(u32::MAX),
        machines_for_first: found.machines,
        stopped_by: found.stopped_by.iter().map(stop).collect(),
        summary: found.summary,
    }
}

/// Reads what a cell handed out as its checkpoint.
///
/// # Errors
/// When it cannot be read, or breaks the rules of the state.
pub fn load_checkpoint(bytes: &[u8]) -> Result<CellState, DecodeError> {
    CellState::decode(bytes)
}

/// A made-up cell of so many machines of a few kinds, filled to about 70 % by the production
/// scheduler through the production state machine. The same numbers give the same cell.
#[must_use]
pub fn synthetic(machines: u32, seed: u64) -> CellState {
    let mut cell = Making { state: CellState::new("synthetic".parse().expect("a name")), index: 0 };
    let mut dice = Dice::new(seed);
    let admin = Principal::User(ADMIN.parse().expect("a name"));
    let master = Principal::Master(ReplicaId(1));
    let mut cores = 0;
    for number in 0..machines {
        let info = machine(&mut dice, number);
        cores += info.capacity.cpu_milli;
        let name = format!("m{number}").parse().expect("a name");
        let address = format!("{}:7000", info.task_host);
        cell.apply(&admin, Action::AddMachine { machine: MachineAddress { name, address } });
        let changes = vec![Observation::MachineUp { machine: MachineId(number), info }];
        cell.apply(&master, Action::Observe { changes });
    }
    let mut wanted = cores * TAKEN_PERMILLE / 1_000;
    let mut number = 0;
    while wanted > 0 {
        let cpu = *dice.pick(&[100, 250, 500, 1_000, 2_000, 4_000]);
        let ram_mib = cpu * dice.between(1, 6) / 2;
        let tasks = u32::try_from(dice.between(1, 200).min(wanted / cpu)).expect("at most 200");
        if tasks == 0 {
            break;
        }
        wanted -= cpu * u64::from(tasks);
        let spec = job(&format!("job{number}")).tasks(tasks).limit(cpu, ram_mib);
        let spec = Arc::new(spec.priority(*dice.pick(&[0, 100, 117, 200])).spec());
        number += 1;
        let by = Principal::User(dice.pick(&["ann", "bob", "cyd"]).parse().expect("a name"));
        let submit = Action::SubmitJob { spec };
        cell.apply(&by, submit);
    }
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let assignments = scheduler.pass(MOMENT, usize::MAX);
    let plain = assignments.into_iter().filter(|one| one.victims.is_empty()).collect();
    cell.apply(&master, Action::Place { assignments: plain });
    cell.state
}

fn machine(dice: &mut Dice, number: u32) -> MachineInfo {
    let cores = *dice.pick(&[8, 16, 32, 64]);
    let capacity = Resources {
        cpu_milli: cores * 1_000,
        ram_bytes: (cores * dice.between(2, 8)) << 30,
        disk_bytes: 1 << 40,
        ports: 10_000,
        devices: BTreeMap::new(),
    };
    let attributes = BTreeMap::from([
        ("arch".to_owned(), "x86_64".to_owned()),
        ("rack".to_owned(), format!("r{}", number / 40)),
    ]);
    MachineInfo {
        capacity,
        first_port: 20_000,
        attributes,
        boot_id: format!("boot-{number}"),
        missing_isolation: Vec::new(),
        task_host: format!("10.{}.{}.{}", number >> 16, (number >> 8) & 0xff, number & 0xff),
    }
}

struct Making {
    state: CellState,
    index: u64,
}

impl Making {
    fn apply(&mut self, by: &Principal, action: Action) {
        self.index += 1;
        let command = Command { at: MOMENT, by: by.clone(), request: None, action };
        if let Err(refused) = self.state.apply(self.index, &command) {
            unreachable!("a made-up change is within the rules: {refused}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_cell_repeats_is_sound_and_mostly_full() {
        let cell = synthetic(20, 7);
        assert_eq!(cell.encode(), synthetic(20, 7).encode());
        assert_eq!(cell.audit(), []);
        let sum = |of: fn(&borg_cell::state::Machine) -> u64| cell.machines().map(of).sum::<u64>();
        let (used, all) =
            (sum(|m| m.used.cpu_milli), sum(|m| m.used.cpu_milli + m.free().cpu_milli));
        assert!((500..=700).contains(&(used * 1_000 / all)), "{used} of {all}");
    }

    #[test]
    fn what_a_cell_saved_answers_as_the_cell_does_and_says_what_stops_the_next_task() {
        let cell = synthetic(10, 1);
        let spec = job("big").limit(8_000, 16_384).spec();
        let report = fit(&load_checkpoint(&cell.encode()).unwrap(), &spec, 1_000);
        assert_eq!(report, fit(&cell, &spec, 1_000));
        assert!(report.fit > 0 && report.fit < 1_000, "{report:?}");
        let (first, counted) = (report.stopped_by.first().unwrap(), &report.summary);
        assert!(first.machines > 0 && counted.contains("tasks fit"), "{report:?}");
    }

    #[test]
    fn a_job_that_fits_nowhere_is_told_why() {
        let spec = job("huge").limit(100, 10 << 20).spec();
        let report = fit(&synthetic(3, 1), &spec, 5);
        assert_eq!((report.fit, report.machines_for_first, report.machines), (0, 0, 3));
        assert!(report.summary.contains("memory"), "{report:?}");
    }

    #[test]
    fn bytes_that_are_no_checkpoint_are_refused() {
        assert!(matches!(load_checkpoint(b"hello"), Err(DecodeError::NotAState)));
    }
}
