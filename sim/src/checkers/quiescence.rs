//! What must become so when nothing fails any more: every task that can run does, exactly once,
//! where the state says, and everybody agrees (I9, I10, I21).

use crate::world::World;
use borg_cell::replica::replay::replay;
use borg_cell::state::{CellState, Job, Machine, MachineState, Task};
use borg_proto::task::Phase;
use borg_proto::{IncarnationId, Millis, TaskId, TaskState};
use std::collections::BTreeMap;
use std::fmt;

/// What settles after the last fault, each within its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// All masters that are up agree on a leader.
    Leader,
    /// They have the same state.
    Replicas,
    /// Clients know what came of what they asked.
    Clients,
    /// No master is on its way in or out.
    Masters,
    /// Machines are up.
    Machines,
    /// Exactly what is placed runs.
    Running,
    /// What could be placed is.
    Placed,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Leader,
        Self::Replicas,
        Self::Clients,
        Self::Masters,
        Self::Machines,
        Self::Running,
        Self::Placed,
    ];

    /// How long it may take after the last fault. Ours, from what thousands of seeds took (see
    /// `docs/simulation.md`), with half as much again.
    #[must_use]
    pub const fn bound(self) -> Millis {
        Millis(match self {
            Self::Leader => 5_000,
            Self::Replicas => 10_000,
            Self::Clients => 20_000,
            Self::Masters => 20_000,
            Self::Machines => 30_000,
            Self::Running | Self::Placed => 90_000,
        })
    }
}

/// Something that has not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// What kind of thing.
    pub aspect: Aspect,
    /// What, in words.
    pub why: String,
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

fn still(aspect: Aspect, why: impl Into<String>) -> Option<Unsettled> {
    Some(Unsettled { aspect, why: why.into() })
}

impl World {
    /// Why the world has not settled yet; `None` when it has.
    #[must_use]
    pub fn unsettled(&self) -> Option<Unsettled> {
        let Some(leader) = self.agreed_leader() else {
            return still(Aspect::Leader, "no leader that all agree on");
        };
        let Some(leader) = self.replicas[leader].process.as_ref() else {
            return still(Aspect::Leader, "the leader is down");
        };
        let state = leader.master.state();
        for replica in self.replicas.iter().filter_map(|replica| replica.process.as_ref()) {
            if (replica.master.state().applied(), replica.master.state().digest())
                != (state.applied(), state.digest())
            {
                let (at, leads) = (replica.master.state().applied(), state.applied());
                let why = format!("a replica is at entry {at}, the leader at {leads}");
                return still(Aspect::Replicas, why);
            }
        }
        if !self.clients.are_idle() {
            return still(Aspect::Clients, "a client waits");
        }
        if let Some(id) = state.masters_changing() {
            return still(Aspect::Masters, format!("master {id} is on its way in or out"));
        }
        if let Some(machine) = state.machines().find(|machine| machine.state != MachineState::Up) {
            let why = format!("machine {} is {}", machine.name, machine.state);
            return still(Aspect::Machines, why);
        }
        let misplaced = self.misplaced(state).map(|why| Unsettled { aspect: Aspect::Running, why });
        let unplaced = || self.unplaced(state).map(|why| Unsettled { aspect: Aspect::Placed, why });
        misplaced.or_else(unplaced)
    }

    /// Whether checkpoint and log of a master, as its disk has them, do not give its state byte for
    /// byte (I5). Another master for each seed: all would take a fifth of the run.
    #[must_use]
    pub fn not_replayed(&self) -> Option<String> {
        let chosen = usize::try_from(self.setup.seed).unwrap_or(0) % self.setup.masters;
        for (index, replica) in self.replicas.iter().enumerate().skip(chosen).take(1) {
            let (Some(process), Some(kept)) = (&replica.process, replica.disk.kept()) else {
                continue;
            };
            let live = process.master.state();
            let begin = kept.checkpoint.as_ref().map(|made| CellState::decode(&made.state));
            let mut state = match begin.unwrap_or_else(|| Ok(CellState::new(live.cell().clone()))) {
                Ok(state) => state,
                Err(error) => return Some(format!("checkpoint of master {}: {error}", index + 1)),
            };
            let made = kept.checkpoint.as_ref().map(|made| made.meta.membership.clone());
            let mut members = made.unwrap_or_default();
            for entry in &kept.entries {
                if entry.index <= state.applied() || entry.index > live.applied() {
                    continue;
                }
                if let Err(why) = replay(&mut state, &mut members, entry) {
                    return Some(format!("log of master {}: {why}", index + 1));
                }
            }
            if state.encode() != live.encode() {
                return Some(format!(
                    "checkpoint and log of master {} give another state at entry {} than the live one at {}",
                    index + 1,
                    state.applied(),
                    live.applied()
                ));
            }
        }
        None
    }

    /// A difference between what is placed and what runs.
    fn misplaced(&self, state: &CellState) -> Option<String> {
        for host in &self.machines {
            let Some(machine) = state.machine_named(&host.name) else {
                return Some(format!("machine {} is not in the cell", host.name));
            };
            let mut wanted: BTreeMap<IncarnationId, Phase> = BTreeMap::new();
            let runs = |task: &&TaskId| state.job(task.job).is_some_and(|job| !job.is_alloc_set());
            for task in machine.tasks.iter().filter(runs) {
                let placement = state.task(*task).and_then(|task| task.placement());
                let placement =
                    placement.expect("the audit says that a machine's tasks are placed");
                wanted.insert(
                    IncarnationId { task: *task, number: placement.incarnation },
                    placement.phase,
                );
            }
            for (task, next) in state.successors_on(machine) {
                let number = next.placement.incarnation;
                wanted.insert(IncarnationId { task, number }, next.placement.phase);
            }
            for (id, pid) in host.running() {
                match wanted.remove(&id) {
                    Some(Phase::Up { pid: known, .. }) if known == pid => {}
                    found => {
                        return Some(format!(
                            "{id} runs on {} as process {pid}, the cell says {found:?}",
                            host.name
                        ));
                    }
                }
            }
            // What does not run may be waiting to be started again by its machine.
            for (id, phase) in wanted {
                if !matches!(phase, Phase::BackOff { .. }) {
                    return Some(format!(
                        "{id} does not run on {}, the cell says {phase:?}",
                        host.name
                    ));
                }
            }
        }
        None
    }

    /// A task that could be placed and is not. Looked for by the plainest means, not by asking
    /// the scheduler.
    fn unplaced(&self, state: &CellState) -> Option<String> {
        if let Some(why) = super::kinds::amiss(state) {
            return Some(why);
        }
        let now = state.clock().max(self.now());
        for id in state.pending() {
            let (Some(job), Some(task)) = (state.job(id.job), state.task(id)) else { continue };
            let TaskState::Pending { not_before, .. } = task.state else { continue };
            if not_before > now + Millis(1_000) {
                continue;
            }
            if job.spec.concurrent.is_some_and(|most| job.counts.running >= most) {
                continue;
            }
            if task.lingers {
                return Some(format!("task {id} of {} waits for its last incarnation", job.key));
            }
            if job.spec.alloc_set.is_some() {
                let home = state.place_in_alloc(job, id.index).ok();
                let home = home.and_then(|machine| state.machine(machine));
                if home.is_some_and(|machine| takes(machine, job, id.index)) {
                    return Some(format!("task {id} of {} would fit in its alloc", job.key));
                }
                continue;
            }
            if let Some(home) = task.pinned {
                let home = state.machine(home);
                if home.is_some_and(|machine| takes(machine, job, id.index)) {
                    return Some(format!("task {id} of {} would fit on its machine", job.key));
                }
                continue;
            }
            let avoids = |machine: &Machine| task.avoids(now).any(|c| c.machine == machine.id);
            let fits = |machine: &&Machine| takes(machine, job, id.index) && !avoids(machine);
            if job.spec.gang && job.spec.tasks > 1 {
                if gang_fits(state, job, now) {
                    return Some(format!("all waiting tasks of the gang {} would fit", job.key));
                }
                continue;
            }
            if let Some(machine) = state.machines().find(fits) {
                return Some(format!("task {id} of {} would fit on {}", job.key, machine.name));
            }
        }
        None
    }

    /// Whether some pending task finds no room now.
    #[must_use]
    pub fn somebody_waits_for_room(&self) -> bool {
        let state = self.state();
        let waits = |id: TaskId| matches!(state.task(id).map(|task| &task.state), Some(TaskState::Pending { not_before, .. }) if *not_before <= state.clock());
        state.pending().any(waits)
    }

    /// A machine of which the leader believes something else than the machine says.
    #[must_use]
    pub fn misread(&self) -> Option<String> {
        let leader = self.replicas[self.agreed_leader()?].process.as_ref()?;
        for host in &self.machines {
            let machine = leader.master.state().machine_named(&host.name)?;
            let seen = leader.master.report_of(machine.id);
            let (_, mut said) = host.supervisor()?.report();
            let Some(mut seen) = seen else {
                return Some(format!("the leader has no view of {}", host.name));
            };
            for task in said.tasks.iter_mut().chain(&mut seen.tasks) {
                task.usage = borg_proto::poll::Usage::default();
            }
            if seen != said {
                return Some(format!(
                    "the leader sees {seen:?} on {}, which says {said:?}",
                    host.name
                ));
            }
        }
        None
    }
}

/// Whether all waiting tasks of a gang may go and find room, pushing nobody out. With spread limits, or
/// where some keep away from machines, it is more than a sum: those are not looked at.
fn gang_fits(state: &CellState, job: &Job, now: Millis) -> bool {
    let waiting = |task: &Task| match task.state {
        TaskState::Pending { not_before, .. } => Some(not_before <= now && !task.lingers),
        TaskState::Running(_) | TaskState::Dead { .. } => None,
    };
    let tasks = || state.tasks_of(job.id).map(|(_, task)| task);
    let ready: Vec<bool> = tasks().filter_map(waiting).collect();
    let plain =
        job.spec.task.spread.is_empty() && tasks().all(|task| task.avoids(now).count() == 0);
    if !plain || ready.contains(&false) {
        return false;
    }
    let asked = job.spec.task.asked();
    let room = |machine: &Machine| {
        let mut free = machine.free();
        let mut fits = 0;
        while fits < ready.len() && asked.fits_in(&free) {
            free = free.minus(&asked);
            fits += 1;
        }
        fits
    };
    let machines = state.machines().filter(|machine| takes(machine, job, 0));
    machines.map(room).sum::<usize>() >= ready.len()
}

/// Whether a machine has room for one more task of a job, that one, pushing nobody out.
fn takes(machine: &Machine, job: &Job, index: u32) -> bool {
    let Some(info) = &machine.info else { return false };
    let spec = job.spec_of(index);
    let asked = spec.asked();
    let hard = spec.task.constraints.iter().filter(|constraint| !constraint.soft);
    let crowded = job.spec.task.spread.iter().enumerate().any(|(number, spread)| {
        job.crowd(number, machine.attribute(&spread.attribute)) >= spread.max
    });
    machine.state == MachineState::Up
        && machine.admits(job.owner()).is_ok()
        && asked.fits_in(&machine.free())
        && hard.clone().all(|constraint| constraint.holds(&info.attributes))
        && !crowded
}
