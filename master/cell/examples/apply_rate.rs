//! How fast entries are applied, and what a copy of the state costs.
//!
//! 10,000 machines (the median cell of the Borg paper, section 2.2) and 150,000 tasks in jobs of
//! 100. One line per figure; an element is a task placed, or one entry where it says so.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures and prints; not part of the library"
)]

use borg_cell::fixture::{batch, info, master, user};
use borg_cell::state::CellState;
use borg_proto::command::{Action, Assignment, Command, Observation, Principal};
use borg_proto::machine::MachineAddress;
use borg_proto::{CellName, IncarnationId, JobId, MachineId, Millis, TaskId};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MACHINES: u32 = 10_000;
const JOBS: u32 = 1_500;
const TASKS: u32 = 100;
/// Changes in one entry, as a busy leader bundles them.
const BUNDLE: usize = 64;

fn main() {
    let mut cell = CellState::new(CellName::new("lab").expect("a name"));
    let mut index = 0;
    let mut apply = |cell: &mut CellState, by: Principal, action: Action| {
        index += 1;
        let command =
            Command { at: Millis(index), by, request: Some(index.to_string().into()), action };
        cell.apply(index, &command).expect("fitting commands");
    };

    for number in 0..MACHINES {
        let machine = MachineAddress { name: name(number), address: "m:1".into() };
        apply(&mut cell, user("admin"), Action::AddMachine { machine });
    }
    let up = |number| Observation::MachineUp {
        machine: MachineId(number),
        info: info(64_000, 256 << 30, &[]),
    };
    apply(&mut cell, master(), Action::Observe { changes: (0..MACHINES).map(up).collect() });

    let start = Instant::now();
    for number in 0..JOBS {
        let spec = Arc::new(batch(&format!("j{number}"), TASKS, 1000, 1 << 30));
        apply(&mut cell, user("ann"), Action::SubmitJob { spec });
    }
    rate("submit_entries_per_s", JOBS.into(), start.elapsed());

    let tasks: Vec<TaskId> = cell.pending().collect();
    let assign = |(i, task): (usize, &TaskId)| {
        let machine = MachineId(u32::try_from(i).expect("few tasks") % MACHINES);
        Assignment::new(*task, machine)
    };
    let assignments: Vec<Assignment> = tasks.iter().enumerate().map(assign).collect();
    let mut copies = Vec::new();
    let start = Instant::now();
    for bundle in assignments.chunks(BUNDLE) {
        apply(&mut cell, master(), Action::Place { assignments: bundle.to_vec() });
        copies = vec![cell.clone()]; // as the scheduler holds one
    }
    rate("placed_tasks_per_s", tasks.len() as u64, start.elapsed());
    drop(copies);

    let id = |task: &TaskId| IncarnationId { task: *task, number: 1 };
    let start = Instant::now();
    for task in &tasks[..20_000] {
        let change =
            Observation::TaskUp { id: id(task), pid: 7, since: Millis(1), restarts: 0, run: None };
        apply(&mut cell, master(), Action::Observe { changes: vec![change] });
    }
    rate("single_change_entries_per_s", 20_000, start.elapsed());

    let start = Instant::now();
    for _ in 0..1_000_000 {
        std::hint::black_box(cell.clone());
    }
    println!("clone_ns {}", start.elapsed().as_nanos() / 1_000_000);

    let start = Instant::now();
    let bytes = cell.encode();
    println!("encode_ms {} for {} bytes", start.elapsed().as_millis(), bytes.len());
    let start = Instant::now();
    let back = CellState::decode(&bytes).expect("our own bytes");
    println!("decode_ms {}, equal {}", start.elapsed().as_millis(), back == cell);

    let start = Instant::now();
    let job = cell.job(JobId(1)).expect("the first job").key.clone();
    apply(&mut cell, user("ann"), Action::Kill { job, tasks: Vec::new() });
    println!("kill_100_tasks_us {}", start.elapsed().as_micros());
}

fn name(number: u32) -> borg_proto::MachineName {
    format!("m-{number}").parse().expect("a name")
}

fn rate(what: &str, elements: u64, took: Duration) {
    println!("{what} {}", u128::from(elements) * 1_000_000 / took.as_micros().max(1));
}
