//! Prints how fast a whole cell is placed from scratch: `cargo run --release -p borg-scheduler
//! --example place_rate [MACHINES]`.
//!
//! The machines come in four shapes and fifty racks; each workload is a job mix for an empty cell.
//! One element is one decision of `Scheduler::pass`; applying and following are timed beside it.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an example that measures has to read the clock"
)]
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use borg_cell::event::Event;
use borg_cell::state::CellState;
use borg_proto::command::{Action, Command, Observation, Principal};
use borg_proto::machine::MachineAddress;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::{
    JobKind, JobSpec, MachineId, MachineInfo, Millis, Priority, ReplicaId, Resources, TaskSpec,
};
use borg_scheduler::{Config, Scheduler};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const NOW: Millis = Millis(1_000);

struct Cell {
    state: CellState,
    news: Vec<Event>,
}

impl Cell {
    fn apply(&mut self, by: Principal, action: Action) {
        let command = Command { at: NOW, by, request: None, action };
        let applied = self
            .state
            .apply(self.state.applied() + 1, &command)
            .expect("the cell accepts its own example");
        self.news.extend(applied.events);
    }

    fn master(&mut self, action: Action) {
        self.apply(Principal::Master(ReplicaId(1)), action);
    }

    fn of(machines: u32) -> Self {
        let mut cell =
            Self { state: CellState::new("rate".parse().expect("a name")), news: Vec::new() };
        cell.master(Action::Lead { leader: ReplicaId(1), term: 1 });
        let admin = Principal::User("admin".parse().expect("a name"));
        for m in 0..machines {
            let machine = MachineAddress {
                name: format!("m{m}").parse().expect("a name"),
                address: "h:1".into(),
            };
            cell.apply(admin.clone(), Action::AddMachine { machine });
            let (cpu, ram) = [(16, 64), (32, 128), (32, 64), (64, 512)][m as usize % 4];
            let info = MachineInfo {
                capacity: Resources {
                    cpu_milli: cpu * 1000,
                    ram_bytes: ram * GIB,
                    disk_bytes: 4096 * GIB,
                    ports: 1000,
                    devices: BTreeMap::new(),
                },
                first_port: 20_000,
                attributes: BTreeMap::from([("rack".into(), format!("r{}", m * 50 / machines))]),
                boot_id: String::new(),
                missing_isolation: Vec::new(),
                task_host: "h".into(),
            };
            cell.master(Action::Observe {
                changes: vec![Observation::MachineUp { machine: MachineId(m), info }],
            });
        }
        cell
    }

    fn submit(
        &mut self,
        n: u64,
        tasks: u32,
        priority: u64,
        limit: Resources,
        change: impl FnOnce(&mut TaskSpec),
    ) {
        let mut task = TaskSpec {
            command: vec!["/bin/true".into()],
            env: BTreeMap::new(),
            limit,
            ports: Vec::new(),
            constraints: Vec::new(),
            spread: Vec::new(),
            volumes: Vec::new(),
            grace_ms: Millis(0),
        };
        change(&mut task);
        let spec = JobSpec {
            name: format!("j{n}").parse().expect("a name"),
            kind: JobKind::Batch,
            tasks,
            priority: Priority::new(priority).expect("in range"),
            appclass: None,
            task: Arc::new(task),
            after: Vec::new(),
            retries: 0,
            exclusive: false,
            labels: BTreeMap::new(),
        };
        let user = Principal::User(format!("u{}", n % 7).parse().expect("a name"));
        self.apply(user, Action::SubmitJob { spec: Arc::new(spec) });
    }
}

/// A sequence that looks random and is the same every time.
fn step(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn limit(cpu_milli: u64, ram_bytes: u64) -> Resources {
    Resources { cpu_milli, ram_bytes, ..Resources::default() }
}

fn some_limit(seed: &mut u64) -> Resources {
    limit(100 << (step(seed) % 5), (1 + step(seed) % 16) * GIB / 8)
}

fn heavy_tailed(cell: &mut Cell, tasks: u64, change: impl Fn(&mut TaskSpec)) {
    let mut seed = 1;
    let (mut sum, mut n) = (0, 0);
    while sum < tasks {
        let size = (1u64 << (step(&mut seed) % 11)).min(tasks - sum);
        let priority = [0, 100, 110, 200][usize::try_from(n % 4).expect("under 4")];
        let size = u32::try_from(size).expect("at most 1,024");
        let limit = some_limit(&mut seed);
        cell.submit(n, size, priority, limit, &change);
        sum += u64::from(size);
        n += 1;
    }
}

fn rate(count: usize, time: Duration) -> String {
    format!(
        "{count:>7} in {:>8.1} ms, {:>9.0}/s",
        time.as_secs_f64() * 1e3,
        count as f64 / time.as_secs_f64().max(1e-9)
    )
}

fn run(name: &str, machines: u32, fill: impl FnOnce(&mut Cell)) {
    let mut cell = Cell::of(machines);
    fill(&mut cell);
    cell.news.clear();
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let start = Instant::now();
    let decisions = scheduler.pass(NOW, usize::MAX);
    let passed = start.elapsed();
    let count = decisions.len();
    println!("{name:<28} pass   {}", rate(count, passed));
    let start = Instant::now();
    for assignments in decisions.chunks(1000) {
        cell.master(Action::Place { assignments: assignments.to_vec() });
    }
    println!("{:<28} apply  {}", "", rate(count, start.elapsed()));
    let start = Instant::now();
    scheduler.follow(cell.state.clone(), &cell.news);
    println!("{:<28} follow {}", "", rate(count, start.elapsed()));
    let start = Instant::now();
    let more = scheduler.pass(NOW, usize::MAX).len();
    println!(
        "{:<28} again  {more} more in {:?}, {} wait",
        "",
        start.elapsed(),
        cell.state.pending_len()
    );
}

fn main() {
    let machines = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let tasks = u64::from(machines) * 15;
    run("equal tasks, one job", machines, |cell| {
        cell.submit(0, 100_000, 100, limit(500, 2 * GIB), |_| {});
    });
    run("heavy-tailed mix", machines, |cell| heavy_tailed(cell, tasks, |_| {}));
    run("mix, constraint and spread", machines, |cell| {
        heavy_tailed(cell, tasks, |task| {
            let values = vec!["r7".into()];
            task.constraints.push(Constraint {
                attribute: "rack".into(),
                op: ConstraintOp::NotEqual,
                values,
                soft: false,
            });
            task.spread.push(Spread { attribute: "machine".into(), max: 2 });
        });
    });
    run("jobs of one task", machines, |cell| {
        let mut seed = 1;
        for n in 0..10_000 {
            let limit = some_limit(&mut seed);
            cell.submit(n, 1, 100, limit, |_| {});
        }
    });
    run("hopeless jobs", machines, |cell| {
        for n in 0..2_000 {
            cell.submit(n, 5, 200, limit(100_000, (1 + n) << 20), |_| {});
        }
    });
    run("prod over a full cell", machines, |cell| {
        cell.submit(0, 100_000, 0, limit(3_500, 2 * GIB), |_| {});
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        for assignments in scheduler.pass(NOW, usize::MAX).chunks(1000) {
            cell.master(Action::Place { assignments: assignments.to_vec() });
        }
        cell.submit(1, 5_000, 200, limit(4_000, 2 * GIB), |_| {});
    });
}
