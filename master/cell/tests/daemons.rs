//! Laws of daemons while machines come and go and updates change where they run.
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::fixture::{Cell, daemon, info, user, with_task};
use borg_cell::state::CellState;
use borg_proto::command::{Action, Observation};
use borg_proto::spec::{Constraint, ConstraintOp};
use borg_proto::update::{Revision, Steer, UpdateOptions};
use borg_proto::{Band, IndexSet, JobId, JobKey, JobSpec, MachineId, Millis, TaskId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;

/// What happens next: a kind, and two numbers that say of what.
type Step = (u8, u8, u8);

const KINDS: [&str; 2] = ["amd64", "arm64"];

/// On all machines, or on those of one kind, in one band or another.
fn exporter(on: u8) -> JobSpec {
    let arch = KINDS.get(usize::from(on % 3)).map(|arch| Constraint {
        attribute: "arch".into(),
        op: ConstraintOp::Equal,
        values: vec![(*arch).into()],
        soft: false,
    });
    let spec = with_task(daemon("exporter", 100, 4 << 20), |task| {
        task.constraints = arch.into_iter().collect();
        task.command.push((on / 3 % 2).to_string());
    });
    let priority = [spec.priority, Band::Monitoring.default_priority()][usize::from(on / 6 % 2)];
    JobSpec { priority, ..spec }
}

fn key() -> JobKey {
    "ann/exporter".parse().unwrap()
}

fn arrives(machine: MachineId, kind: u8) -> Observation {
    let info = info(1_000, 1 << 30, &[("arch", KINDS[usize::from(kind % 2)])]);
    Observation::MachineUp { machine, info }
}

/// All that waits is placed where it belongs, and runs.
fn start(cell: &mut Cell, job: JobId) {
    let slots: Vec<_> = cell.state.tasks_of(job).map(|(id, task)| (id, task.pinned)).collect();
    for (id, home) in slots {
        if let Some(Ok(placed)) = home.map(|home| cell.place(job, id.index, home)) {
            cell.up(placed);
        }
    }
}

fn update(cell: &mut Cell, a: u8, b: u8) {
    let tasks = IndexSet::new([u32::from(b % 3)]).ok();
    let options = UpdateOptions {
        min_healthy_ms: Millis(1_000),
        canary: tasks.clone().filter(|_| b.is_multiple_of(5)),
        tasks: tasks.filter(|_| b.is_multiple_of(7)),
        close: b.is_multiple_of(2),
        ..UpdateOptions::default()
    };
    let to = Revision::Spec(Arc::new(exporter(a)));
    let _refused =
        cell.apply(user("ann"), Action::UpdateJob { job: key(), to, options: Box::new(options) });
}

fn step(cell: &mut Cell, job: JobId, (kind, a, b): Step) {
    let machines: Vec<MachineId> = cell.state.machines().map(|machine| machine.id).collect();
    let machine = machines[usize::from(b) % machines.len()];
    let tasks = IndexSet::new([u32::from(b % 4)]).ok();
    let name = cell.state.machine(machine).unwrap().name.clone();
    let asked = match kind % 12 {
        0 => return drop(cell.observe(arrives(machine, a))),
        1 => return drop(cell.observe(Observation::MachineDown { machine })),
        2..=4 => return update(cell, a, b),
        5 | 6 => Action::SteerUpdate { job: key(), verb: Steer::ALL[usize::from(a % 4)] },
        7 | 8 => return start(cell, job),
        9 => {
            cell.wait(u64::from(a) * 50);
            return cell.advance();
        }
        10 if a.is_multiple_of(2) => Action::StopTasks { job: key(), tasks },
        10 => Action::StartTasks { job: key(), tasks },
        _ if machines.len() > 2 && a.is_multiple_of(4) => {
            let _refused = cell.apply(user("admin"), Action::RemoveMachine { machine: name });
            return;
        }
        _ if machines.len() < 6 => {
            let next = format!("m-{}", cell.log.len());
            let id = cell.machine(&next, 1_000, 1 << 30);
            return drop(cell.observe(arrives(id, a)));
        }
        _ => return,
    };
    let _refused = cell.apply(user("ann"), asked);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// [`Cell`] looks at every invariant after each entry: where a daemon is, above all.
    #[test]
    fn a_daemon_is_where_its_versions_say_and_a_checkpoint_of_it_can_be_read(
        steps in vec(any::<Step>(), 1..60),
    ) {
        let mut cell = Cell::at_level(6);
        for (name, kind) in [("a", 0), ("b", 1), ("c", 1)] {
            let id = cell.machine(name, 1_000, 1 << 30);
            cell.observe(arrives(id, kind));
        }
        let job = cell.submit("ann", exporter(2));
        for next in steps {
            step(&mut cell, job, next);
            let read = CellState::decode(&cell.state.encode());
            prop_assert_eq!(read.as_ref(), Ok(&cell.state), "after {:?}", next);
        }
    }

    /// What was stopped stays so until somebody starts it, or its machine leaves for good.
    #[test]
    fn a_stopped_task_of_a_daemon_is_not_placed(steps in vec(any::<Step>(), 1..60)) {
        let mut cell = Cell::at_level(6);
        for name in ["a", "b", "c"] {
            cell.machine(name, 1_000, 1 << 30);
        }
        let job = cell.submit("ann", exporter(2));
        let held = Action::StopTasks { job: key(), tasks: IndexSet::new([0]).ok() };
        cell.apply(user("ann"), held).unwrap();
        let starts_or_removes = |kind: u8| matches!(kind % 12, 10 | 11);
        for next in steps.into_iter().filter(|(kind, ..)| !starts_or_removes(*kind)) {
            step(&mut cell, job, next);
            let task = cell.state.task(TaskId { job, index: 0 }).unwrap();
            prop_assert!(task.is_stopped() && task.placement().is_none(), "after {:?}", next);
        }
    }
}
