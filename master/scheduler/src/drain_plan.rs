//! What would become of the tasks on machines were these drained now: planned, not done.
//!
//! Done in copies, as `plan` does it for jobs: the state drains the machines, the scheduler decides who moves
//! where, and whoever moved serves at once. So each step is what the cell would do when the one before is over.
//! How long that takes is guessed from how long each task took to serve where it is.
//!
//! Invariants: nothing outside of the copies changes; a plan ends, as each step moves somebody off a machine that
//! nobody comes to.

use crate::scheduler::Scheduler;
use borg_cell::rejection::Rejection;
use borg_cell::state::{CellState, Staying, Task};
use borg_proto::command::{Action, Assignment, Command, Observation, Principal};
use borg_proto::{Health, IncarnationId, MachineId, Millis, ReplicaId, TaskId, UserName};

/// How long a task is taken to need for its start when it never served. 10 s: our choice.
const START: Millis = Millis::from_secs(10);
/// Most steps that are looked at. 1,000: our choice, as many as a machine has tasks.
const MOST_STEPS: u32 = 1_000;

/// What would become of the tasks on machines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainPlan {
    /// The machines that would be drained: the first ones, when it is one after the other.
    pub machines: Vec<MachineId>,
    /// In the order in which they would leave.
    pub moves: Vec<PlannedMove>,
    /// Those that would stay until the deadline, and what for.
    pub stay: Vec<(TaskId, String)>,
    /// How many steps there are.
    pub steps: u32,
    /// How long they would take.
    pub foreseen: Millis,
}

/// A task that would move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMove {
    /// Which.
    pub task: TaskId,
    /// Off which machine.
    pub from: MachineId,
    /// To which.
    pub to: MachineId,
    /// In which step, from 1.
    pub step: u32,
    /// Who would be pushed out for it.
    pub victims: Vec<TaskId>,
}

impl Scheduler {
    /// What would become of the tasks on machines that `user` drains now. Uses this scheduler up: it is a copy
    /// of the one that runs the cell.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn plan_drain(
        mut self,
        user: &UserName,
        action: Action,
        now: Millis,
    ) -> Result<DrainPlan, Rejection> {
        let before: Vec<MachineId> = self.state().draining().map(|machine| machine.id).collect();
        self.try_action(Principal::User(user.clone()), action, now)?;
        let new = self.state().draining().map(|machine| machine.id);
        let mut plan = DrainPlan { machines: new.collect(), ..DrainPlan::default() };
        // Those named again are told too, when nothing else is new.
        if plan.machines.len() > before.len() {
            plan.machines.retain(|id| !before.contains(id));
        }
        let mut at = now;
        while plan.steps < MOST_STEPS {
            let decisions = self.all_decisions(at);
            let serve: Vec<Serving> = decisions.iter().filter_map(|d| self.serving(d)).collect();
            let from = |task| self.state().task(task).and_then(Task::placement);
            let moves = decisions.iter().filter(|d| self.state().leaves(d.task)).filter_map(|d| {
                let (task, to, step) = (d.task, d.machine, plan.steps + 1);
                let victims = d.victims.iter().map(|victim| victim.task).collect();
                let from = from(task)?.machine;
                Some(PlannedMove { task, from, to, step, victims })
            });
            let moves: Vec<PlannedMove> = moves.collect();
            let some = !decisions.is_empty();
            let _refused =
                self.try_action(leader(self.state()), Action::Place { assignments: decisions }, at);
            if !moves.is_empty() {
                plan.steps += 1;
                let took = serve.iter().filter(|s| moves.iter().any(|m| m.task == s.task));
                let took = took.map(|serving| serving.after).max().unwrap_or(START);
                plan.foreseen = plan.foreseen + took;
                at = at + took;
                plan.moves.extend(moves);
            }
            if !some {
                break;
            }
            self.let_serve(&serve, at);
            let after = self.let_take_over(at);
            plan.foreseen = plan.foreseen + after.since(at);
            at = after;
        }
        plan.stay = self.who_stays(&plan.machines, at);
        Ok(plan)
    }

    /// All that is decided of what is known now.
    fn all_decisions(&mut self, at: Millis) -> Vec<Assignment> {
        // Whoever leaves is looked at again after a rest.
        self.moves.rest_no_more();
        self.pass(at, usize::MAX)
    }

    /// How long it takes until a task that is placed serves.
    fn serving(&self, decision: &Assignment) -> Option<Serving> {
        let task = self.state().task(decision.task)?;
        let took = task
            .placement()
            .and_then(|placed| placed.serves_since.map(|since| since.since(placed.placed_at)));
        Some(Serving { task: decision.task, after: took.unwrap_or(START) })
    }

    /// Whoever was placed runs and is healthy.
    fn let_serve(&mut self, who: &[Serving], at: Millis) {
        let id = |serving: &Serving| {
            let task = self.state().task(serving.task)?;
            let next = task.successor().map(|next| next.placement.incarnation);
            let next = next.map(|number| IncarnationId { task: serving.task, number });
            next.or_else(|| task.running(serving.task))
        };
        let up = |id: IncarnationId| {
            let run = Observation::TaskUp { id, pid: 1, since: at, restarts: 0, run: None };
            [run, Observation::TaskHealth { id, health: Health::Healthy }]
        };
        let changes: Vec<Observation> = who.iter().filter_map(id).flat_map(up).collect();
        let _refused = self.try_action(leader(self.state()), Action::Observe { changes }, at);
    }

    /// Successors that serve take over, those without a health check after a while; gives when that is done.
    fn let_take_over(&mut self, from: Millis) -> Millis {
        let mut at = from;
        let under_way = |state: &CellState| state.machines().any(|m| !m.successors.is_empty());
        while under_way(self.state())
            && let Some(due) = self.state().next_alarm().filter(|due| *due > at)
        {
            at = due;
            let _refused = self.try_action(leader(self.state()), Action::Advance, at);
        }
        at
    }

    /// Who is left on machines in the end.
    fn who_stays(&self, machines: &[MachineId], at: Millis) -> Vec<(TaskId, String)> {
        let machines = machines.iter().filter_map(|id| self.state().machine(*id));
        let tasks = machines.flat_map(|machine| self.state().leaving(machine));
        tasks.map(|task| (task, self.why_it_stays(task, at))).collect()
    }

    /// What a task that leaves its machine waits for.
    pub(crate) fn why_it_stays(&self, task: TaskId, now: Millis) -> String {
        match self.state().stays_for(task, now) {
            why @ (Staying::Budget(_)
            | Staying::SafeMode
            | Staying::Successor(_)
            | Staying::Preparing { .. }) => why.to_string(),
            Staying::Place => {
                let places = self.places_for(task, now);
                format!("{}: {places}", Staying::Place)
            }
        }
    }

    /// Carries out an entry in the copy.
    fn try_action(&mut self, by: Principal, action: Action, at: Millis) -> Result<(), Rejection> {
        let mut state = self.state().clone();
        let command = Command { at, by, request: None, action };
        let applied = state.apply(state.applied() + 1, &command)?;
        self.follow(state, &applied.events);
        Ok(())
    }
}

/// A task that serves some time after it is placed.
struct Serving {
    task: TaskId,
    after: Millis,
}

fn leader(state: &CellState) -> Principal {
    Principal::Master(state.leader().map_or(ReplicaId(1), |(leader, _)| leader))
}
