//! Machines that are drained, and plans to, as the API shows them.

use super::views::read_info;
use crate::changes;
use crate::feed::View;
use borg_cell::rejection::Rejection;
use borg_cell::state::{CellState, Drain, Machine, Maintenance};
use borg_proto::wire::pb;
use borg_proto::{MachineId, Millis, TaskId};
use borg_scheduler::DrainPlan;
use tonic::Status;

/// Most tasks that are told of each machine. 100: our choice, more than anybody reads.
const MAX_TASKS_TOLD: u32 = 100;
/// Most moves of a plan that are told, and most tasks that would stay. 1,000: our choice.
const MAX_MOVES_TOLD: usize = 1_000;

/// How many tasks of each machine are to be told.
///
/// # Errors
/// INVALID_ARGUMENT when it is more than [`MAX_TASKS_TOLD`].
pub(super) fn check_tasks(tasks: u32) -> Result<usize, Status> {
    if tasks > MAX_TASKS_TOLD {
        let why = format!("tasks: {tasks} is outside 0 to {MAX_TASKS_TOLD}");
        return Err(Status::invalid_argument(why));
    }
    Ok(usize::try_from(tasks).unwrap_or(usize::MAX))
}

pub(super) fn drain(drain: &Drain) -> pb::Drain {
    pb::Drain {
        since_ms: drain.since.0,
        by: drain.by.to_string(),
        reason: drain.reason.clone(),
        deadline_ms: drain.deadline.0,
        // Tasks that left may still be ending.
        empty_since_ms: drain.empty_since.map(|at| at.max(drain.ending_until).0),
        moved: drain.moved,
        forced: drain.forced,
        maintenance: drain.maintenance.unwrap_or(0),
    }
}

pub(super) fn list(view: &View, most: usize, now: u64) -> pb::ListDrainsResponse {
    let state = &view.state;
    pb::ListDrainsResponse {
        now_ms: now,
        machines: state.draining().map(|m| machine(state, m, most, Millis(now))).collect(),
        maintenances: state.maintenances().map(|one| maintenance(state, one)).collect(),
        read: Some(read_info(view)),
    }
}

fn machine(state: &CellState, machine: &Machine, most: usize, now: Millis) -> pb::DrainedMachine {
    let leaving = state.leaving(machine).take(most).map(|task| pb::LeavingTask {
        task: task_name(state, task),
        waits: state.stays_for(task, now.max(state.clock())).to_string(),
    });
    pb::DrainedMachine {
        name: machine.name.to_string(),
        drain: machine.drain.as_deref().map(drain),
        tasks: u32::try_from(machine.tasks.len()).unwrap_or(u32::MAX),
        leaving: leaving.collect(),
        kept: u32::try_from(
            state.kept_on(machine.id).filter(|kept| kept.awaits_rescue() && !kept.overdue).count(),
        )
        .unwrap_or(u32::MAX),
    }
}

fn maintenance(state: &CellState, of: &Maintenance) -> pb::Maintenance {
    pb::Maintenance {
        number: of.number,
        by: of.by.to_string(),
        reason: of.reason.clone(),
        since_ms: of.since.0,
        at_once: of.at_once,
        within_ms: of.within.0,
        left: u32::try_from(of.left.len()).unwrap_or(u32::MAX),
        done: of.done,
        under_way: state.out_for(of.number).map(|machine| machine.name.to_string()).collect(),
    }
}

pub(super) fn plan(
    state: &CellState,
    plan: Result<DrainPlan, Rejection>,
    read: pb::ReadInfo,
) -> pb::PlanDrainResponse {
    let plan = match plan {
        Ok(plan) => plan,
        Err(refused) => {
            let status = changes::refusal(&refused);
            let (refusal, refusal_code) = (status.message().to_owned(), status.code().into());
            let read = Some(read);
            return pb::PlanDrainResponse { refusal, refusal_code, read, ..Default::default() };
        }
    };
    let beyond = |all: usize| u32::try_from(all.saturating_sub(MAX_MOVES_TOLD)).unwrap_or(u32::MAX);
    let one = |found: &borg_scheduler::PlannedMove| pb::PlannedMove {
        task: task_name(state, found.task),
        from: machine_name(state, found.from),
        to: machine_name(state, found.to),
        step: found.step,
        victims: found.victims.iter().map(|task| task_name(state, *task)).collect(),
    };
    let stays = |(task, waits): &(TaskId, String)| pb::LeavingTask {
        task: task_name(state, *task),
        waits: waits.clone(),
    };
    pb::PlanDrainResponse {
        moves: plan.moves.iter().take(MAX_MOVES_TOLD).map(one).collect(),
        stay: plan.stay.iter().take(MAX_MOVES_TOLD).map(stays).collect(),
        more_moves: beyond(plan.moves.len()),
        more_stay: beyond(plan.stay.len()),
        steps: plan.steps,
        foreseen_ms: plan.foreseen.0,
        refusal: String::new(),
        refusal_code: 0,
        machines: plan.machines.iter().map(|id| machine_name(state, *id)).collect(),
        read: Some(read),
    }
}

fn task_name(state: &CellState, task: TaskId) -> String {
    let job = state.job(task.job).map(|job| job.key.to_string()).unwrap_or_default();
    format!("{job}/{}", task.index)
}

fn machine_name(state: &CellState, id: MachineId) -> String {
    state
        .machine(id)
        .map_or_else(|| format!("machine {}", id.0), |machine| machine.name.to_string())
}
