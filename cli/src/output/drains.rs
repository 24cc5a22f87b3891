//! Machines that are drained, maintenances and plans, as programs and people read them.

use super::age;
use borg_proto::wire::pb;
use serde::Serialize;

/// All that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.ListDrainsResponse")]
pub struct Drains {
    pub now_ms: u64,
    pub machines: Vec<DrainedMachine>,
    pub maintenances: Vec<Maintenance>,
}

/// A machine that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.DrainedMachine")]
pub struct DrainedMachine {
    pub name: String,
    #[serde(flatten)]
    pub drain: MachineDrain,
    pub tasks: u32,
    pub leaving: Vec<LeavingTask>,
    pub kept: u32,
}

/// That a machine is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Drain, documented there")]
pub struct MachineDrain {
    pub since_ms: u64,
    pub by: String,
    pub reason: String,
    pub deadline_ms: u64,
    pub empty_since_ms: Option<u64>,
    pub moved: u32,
    pub forced: u32,
    pub maintenance: Option<u64>,
}

/// A task that leaves a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.LeavingTask")]
pub struct LeavingTask {
    pub task: String,
    pub waits: String,
}

/// Machines that are drained one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Maintenance")]
pub struct Maintenance {
    pub number: u64,
    pub by: String,
    pub reason: String,
    pub since_ms: u64,
    pub at_once: u32,
    pub within_ms: u64,
    pub left: u32,
    pub done: u32,
    pub under_way: Vec<String>,
}

/// What would become of the tasks on machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.PlanDrainResponse")]
pub struct Plan {
    pub refusal: String,
    pub machines: Vec<String>,
    pub moves: Vec<Move>,
    pub more_moves: u32,
    pub stay: Vec<LeavingTask>,
    pub more_stay: u32,
    pub steps: u32,
    pub foreseen_ms: u64,
}

/// A task that would move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.PlannedMove")]
pub struct Move {
    pub task: String,
    pub from: String,
    pub to: String,
    pub step: u32,
    pub victims: Vec<String>,
}

impl From<pb::LeavingTask> for LeavingTask {
    fn from(from: pb::LeavingTask) -> Self {
        Self { task: from.task, waits: from.waits }
    }
}

impl From<pb::Drain> for MachineDrain {
    fn from(from: pb::Drain) -> Self {
        Self {
            since_ms: from.since_ms,
            by: from.by,
            reason: from.reason,
            deadline_ms: from.deadline_ms,
            empty_since_ms: from.empty_since_ms,
            moved: from.moved,
            forced: from.forced,
            maintenance: Some(from.maintenance).filter(|number| *number > 0),
        }
    }
}

impl From<pb::DrainedMachine> for DrainedMachine {
    fn from(from: pb::DrainedMachine) -> Self {
        Self {
            name: from.name,
            drain: from.drain.unwrap_or_default().into(),
            tasks: from.tasks,
            leaving: from.leaving.into_iter().map(Into::into).collect(),
            kept: from.kept,
        }
    }
}

impl From<pb::ListDrainsResponse> for Drains {
    fn from(from: pb::ListDrainsResponse) -> Self {
        let maintenance = |one: pb::Maintenance| Maintenance {
            number: one.number,
            by: one.by,
            reason: one.reason,
            since_ms: one.since_ms,
            at_once: one.at_once,
            within_ms: one.within_ms,
            left: one.left,
            done: one.done,
            under_way: one.under_way,
        };
        Self {
            now_ms: from.now_ms,
            machines: from.machines.into_iter().map(Into::into).collect(),
            maintenances: from.maintenances.into_iter().map(maintenance).collect(),
        }
    }
}

impl From<pb::PlanDrainResponse> for Plan {
    fn from(from: pb::PlanDrainResponse) -> Self {
        let one = |found: pb::PlannedMove| Move {
            task: found.task,
            from: found.from,
            to: found.to,
            step: found.step,
            victims: found.victims,
        };
        Self {
            refusal: from.refusal,
            machines: from.machines,
            moves: from.moves.into_iter().map(one).collect(),
            more_moves: from.more_moves,
            stay: from.stay.into_iter().map(Into::into).collect(),
            more_stay: from.more_stay,
            steps: from.steps,
            foreseen_ms: from.foreseen_ms,
        }
    }
}

impl DrainedMachine {
    /// What is still on it.
    #[must_use]
    pub fn left(&self) -> String {
        match self.kept {
            0 => format!("{} left", counted(self.tasks)),
            kept => format!("{} left, data of {kept} allocs to rescue", counted(self.tasks)),
        }
    }

    /// How far it is, in a line.
    #[must_use]
    pub fn progress(&self, now_ms: u64) -> String {
        match self.drain.empty_since_ms {
            Some(since) if since <= now_ms => match self.drain.forced {
                0 => "empty".to_owned(),
                forced => format!("empty, {} pushed out at the deadline", counted(forced)),
            },
            Some(_) => "empty, its last tasks are ending".to_owned(),
            None => {
                let first = self.leaving.first();
                let waits = first.map(|one| format!(": {} stays for now: {}", one.task, one.waits));
                self.left() + &waits.unwrap_or_default()
            }
        }
    }
}

/// So many tasks.
fn counted(tasks: u32) -> String {
    if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") }
}

impl Maintenance {
    /// How far it is, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "maintenance {} by {}: {} done, {} out of service ({}), {} to come: {}",
            self.number,
            self.by,
            self.done,
            self.under_way.len(),
            self.under_way.join(", "),
            self.left,
            self.reason
        )
    }
}

impl Plan {
    /// All of it in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let all =
            |told: usize, more: u32| u32::try_from(told).unwrap_or(u32::MAX).saturating_add(more);
        let moves = all(self.moves.len(), self.more_moves);
        let stay = all(self.stay.len(), self.more_stay);
        let steps =
            if self.steps == 1 { "1 step".to_owned() } else { format!("{} steps", self.steps) };
        let moves = match moves {
            0 => "nobody would move".to_owned(),
            count => {
                format!("{} would move in {steps}, about {}", counted(count), age(self.foreseen_ms))
            }
        };
        let stay = match stay {
            0 => String::new(),
            count => format!("; {} would be pushed out at the deadline", counted(count)),
        };
        format!("{}: {moves}{stay}; nothing was done", self.machines.join(", "))
    }
}
