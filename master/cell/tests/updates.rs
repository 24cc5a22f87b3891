//! Updates under whatever happens to a job's tasks meanwhile: the budget holds, nothing is stuck, and what
//! is done can be undone.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::event::{EventKind, TaskChange};
use borg_cell::fixture::{Cell, master, service, user, with_task};
use borg_cell::state::{CellState, UpdateState};
use borg_proto::command::{Action, Assignment, Observation};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::task::{EvictCause, Phase};
use borg_proto::update::{OnFailure, Order, Replacement, Revision, Steer, UpdateOptions};
use borg_proto::{
    FailureCause, Health, IncarnationId, JobId, MachineId, Millis, TaskId, TaskState,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

type Step = [u8; 4];

const TASKS: u32 = 8;

struct Play {
    cell: Cell,
    job: JobId,
    machines: Vec<MachineId>,
    /// Whether the last update changed how many tasks there are: it leaves those of older versions as they are,
    /// also when it came in place of one that was paused on its way back.
    resized: bool,
}

impl Play {
    fn new(budget: Disruption) -> Self {
        let mut cell = Cell::new();
        cell.apply(master(), Action::RaiseLevel { level: 6 }).unwrap();
        let machines = (0..4).map(|n| cell.machine(&format!("m-{n}"), 700, 1 << 30)).collect();
        let mut spec = with_task(service("web", TASKS, 100, 4 << 20), |task| {
            task.ports = vec!["http".parse().unwrap()];
            task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
        });
        spec.disruption = Some(budget);
        let job = cell.submit("ann", spec);
        let mut play = Self { cell, job, machines, resized: false };
        play.settle();
        play
    }

    fn apply(&mut self, action: Action) {
        let by = match action {
            Action::Place { .. } | Action::Observe { .. } | Action::Advance => master(),
            _ => user("ann"),
        };
        let before = self.cell.state.clone();
        let seen = self.cell.events.len();
        let head = self.head();
        let done = self.cell.apply(by, action.clone()).is_ok();
        if self.head() > head {
            self.resized = matches!(action, Action::UpdateJob { to: Revision::Tasks(_), .. });
        }
        let state = &self.cell.state;
        let mut touched = BTreeSet::new();
        for event in self.cell.events[seen..].iter().filter(|_| done) {
            let EventKind::TaskChanged { task, change, .. } = &event.kind else { continue };
            // What happened to it before in the same entry took it down.
            let first = touched.insert(*task);
            if !first || !matches!(change, TaskChange::Evicted(EvictCause::Updated { .. })) {
                continue;
            }
            let served = before.task(*task).and_then(|task| task.placement()?.serves_since);
            let job = state.job(self.job).unwrap();
            let most = job.spec.effective_disruption().unwrap().most.of(job.spec.tasks);
            assert!(served.is_none() || job.down() <= most, "{} down: {action:?}", job.down());
        }
        let next = state.next_alarm();
        assert!(
            next.is_none_or(|at| at > state.clock()) || !matches!(action, Action::Advance),
            "an alarm rings for ever"
        );
    }

    fn head(&self) -> u32 {
        self.cell.state.job(self.job).unwrap().head().number
    }

    fn observe(&mut self, change: Observation) {
        self.apply(Action::Observe { changes: vec![change] });
    }

    fn placed(&self) -> Vec<(IncarnationId, Phase, Health)> {
        let tasks = self.cell.state.tasks_of(self.job);
        let placed = tasks.filter_map(|(id, task)| {
            Some((task.running(id)?, task.placement()?.phase, task.placement()?.health))
        });
        placed.collect()
    }

    /// Places one task that waits, if one may be placed.
    fn place(&mut self, seed: usize) {
        let now = self.cell.now;
        let may = |id: &TaskId| match self.cell.state.task(*id).map(|task| &task.state) {
            Some(TaskState::Pending { not_before, .. }) => *not_before <= now,
            _ => false,
        };
        let waiting: Vec<TaskId> = self.cell.state.pending().filter(may).collect();
        let Some(task) = waiting.first().copied() else { return };
        let machine = self.machines[seed % self.machines.len()];
        self.apply(Action::Place { assignments: vec![Assignment::new(task, machine)] });
    }

    fn heal(&mut self, index: usize, health: Health) {
        let placed = self.placed();
        let Some((id, phase, _)) = placed.get(index % placed.len().max(1)).copied() else { return };
        match phase {
            Phase::Up { .. } => self.observe(Observation::TaskHealth { id, health }),
            Phase::Starting | Phase::BackOff { .. } => {
                let restarts = self.cell.state.task(id.task).unwrap().placement().unwrap().restarts;
                let since = self.cell.now;
                self.observe(Observation::TaskUp {
                    id,
                    pid: 7,
                    since,
                    restarts: restarts + u32::from(phase != Phase::Starting),
                    run: None,
                });
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        self.cell.wait(ms);
        self.apply(Action::Advance);
    }

    /// Everything goes well for a while.
    fn settle(&mut self) {
        let info = borg_cell::fixture::info(700, 1 << 30, &[]);
        for machine in self.machines.clone() {
            self.observe(Observation::MachineUp { machine, info: info.clone() });
        }
        for round in 0..40 {
            for seed in 0..16 {
                self.place(seed);
            }
            for index in 0..self.placed().len() {
                self.heal(index, Health::Healthy);
                self.heal(index, Health::Healthy);
            }
            self.wait(if round % 10 == 9 { 400_000 } else { 2_000 });
        }
    }

    fn step(&mut self, [kind, a, b, c]: Step) {
        let job = || "ann/web".parse().unwrap();
        match kind % 20 {
            0 | 1 => {
                let spec = self.cell.state.job(self.job).unwrap().spec.as_ref().clone();
                let spec =
                    with_task(spec, |task| task.command = vec!["/bin/x".into(), a.to_string()]);
                let to = match a % 5 {
                    0 => Revision::Restart,
                    1 => Revision::Version(u32::from(b % 6)),
                    2 if b.is_multiple_of(3) => Revision::Tasks(4 + u32::from(c % 8)),
                    _ => Revision::Spec(Arc::new(spec)),
                };
                let options = UpdateOptions {
                    most: a.is_multiple_of(2).then(|| Share::Tasks(1 + u32::from(b % 4))),
                    min_healthy_ms: Millis(u64::from(c % 3) * 700),
                    deadline_ms: Millis(30_000),
                    canary: (b % 4 == 1).then(|| "1,3".parse().unwrap()),
                    tasks: None,
                    order: if c.is_multiple_of(2) {
                        Order::Random(a.into())
                    } else {
                        Order::Descending
                    },
                    on_failure: if b % 4 == 3 { OnFailure::Pause } else { OnFailure::RollBack },
                    failures: u32::from(c % 3),
                    close: a.is_multiple_of(3),
                    replacement: if a % 4 == 3 {
                        Replacement::First
                    } else {
                        Replacement::ForMoves
                    },
                };
                self.apply(Action::UpdateJob { job: job(), to, options: Box::new(options) });
            }
            2 | 3 => {
                let verb = Steer::ALL[usize::from(a % 4)];
                self.apply(Action::SteerUpdate { job: job(), verb });
            }
            4 => {
                let tasks = Some(format!("{}", a % 4).parse().unwrap());
                self.apply(Action::StopTasks { job: job(), tasks });
            }
            5 => self.apply(Action::StartTasks { job: job(), tasks: None }),
            6 => {
                let machine = self.machines[usize::from(a % 4)];
                self.observe(Observation::MachineDown { machine });
            }
            7 => {
                let machine = self.machines[usize::from(a % 4)];
                let info = borg_cell::fixture::info(700, 1 << 30, &[]);
                self.observe(Observation::MachineUp { machine, info });
            }
            8 => self.heal(a.into(), Health::Unhealthy),
            9 => {
                let placed = self.placed();
                if let Some((id, ..)) = placed.get(usize::from(a) % placed.len().max(1)).copied() {
                    let failure = Some(FailureCause::Exit { code: 1 });
                    let run = None;
                    self.observe(Observation::TaskEnded { id, at: Millis(0), failure, run });
                }
            }
            10..=13 => self.place(a.into()),
            14..=17 => {
                self.heal(a.into(), Health::Healthy);
                self.heal(a.into(), Health::Healthy);
            }
            _ => self.wait(u64::from(a) * 20),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each step is checked as it is made: the audit, and the budget.
    #[test]
    fn an_update_keeps_to_the_budget_and_arrives_once_things_go_well(
        steps in vec(any::<Step>(), 1..250),
        most in 1..4_u32,
        rate in proptest::option::of(1..4_u32),
    ) {
        let rate = rate.map(|tasks| Rate { tasks, per_ms: Millis(3_000) });
        let mut play = Play::new(Disruption { most: Share::Tasks(most), rate });
        for step in steps {
            play.step(step);
        }
        let decoded = CellState::decode(&play.cell.state.encode()).unwrap();
        prop_assert_eq!(&decoded, &play.cell.state);
        play.apply(Action::StartTasks { job: "ann/web".parse().unwrap(), tasks: None });
        for _ in 0..6 {
            play.settle();
            let state = play.cell.state.job(play.job).unwrap().update().map(|u| u.state.clone());
            match state {
                None | Some(UpdateState::Done) => break,
                Some(UpdateState::Paused { .. } | UpdateState::Canary) => {
                    let job = "ann/web".parse().unwrap();
                    play.apply(Action::SteerUpdate { job, verb: Steer::Resume });
                }
                Some(UpdateState::Rolling) => {}
            }
        }
        let job = play.cell.state.job(play.job).unwrap();
        let update = job.update();
        prop_assert!(
            update.is_none_or(|update| update.state == UpdateState::Done),
            "stuck: {:?}, {}", update, update.map(|u| job.waits_for_update(u, play.cell.now)).unwrap_or_default()
        );
        prop_assert_eq!(job.down(), 0);
        if let Some(update) = update {
            let all = play.cell.state.tasks_of(play.job).all(|(_, task)| task.version == update.to);
            prop_assert!(all || play.resized || update.options.tasks.is_some());
            prop_assert_eq!(job.progress(update).left, 0);
        }
    }
}
